//! The COSE_Sign1 around a body (RFC 9052 section 4).

use std::sync::Arc;

use bytes::Bytes;

use super::{Body, Checked, SpaceId, Statement, StatementError};
use crate::cbor::{Fields, Limits, Map, Value, decode, write_array_head, write_bytes, write_text};
use crate::digest::Digest;
use crate::key::{SigningKey, Suite, VerifyingKey};

/// Tag 18, COSE_Sign1, in its one-byte form.
const TAG: u8 = 0xd2;
const SIGNATURE_BYTES: usize = 64;
const CONTENT_TYPE: &str = "application/huitong-statement+cbor";
/// Keeps statements apart from everything else that Ed25519 keys sign; the space id follows the zero byte.
const DOMAIN: &[u8] = b"huitong/statement/v1\0";

/// Bytes that look like a statement. Nothing in them is trusted before [`Envelope::verify`].
#[derive(Clone, Debug)]
pub struct Envelope {
    bytes: Bytes,
    header: Header,
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Envelope {
    /// Takes received bytes apart and reads the header, not yet the body.
    ///
    /// # Errors
    /// [`StatementError`] for anything but one strict COSE_Sign1 of at most 16 KiB with a statement's header.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, StatementError> {
        let bytes = bytes.into();
        let limit = Limits::STATEMENT.bytes;
        if bytes.len() > limit {
            return Err(StatementError::Size { size: bytes.len(), limit });
        }
        let Some((&TAG, untagged)) = bytes.split_first() else {
            return Err(StatementError::Shape { reason: "the COSE_Sign1 tag 18 is missing" });
        };
        let value =
            decode(untagged, Limits::STATEMENT).map_err(|source| StatementError::Envelope { source })?;
        let Value::Array(items) = value else {
            return Err(StatementError::Shape { reason: "expected an array" });
        };
        let Ok(
            [
                Value::Bytes(protected),
                Value::Map(unprotected),
                Value::Bytes(payload),
                Value::Bytes(signature),
            ],
        ) = <[Value; 4]>::try_from(items)
        else {
            return Err(StatementError::Shape { reason: "expected header, map, payload and signature" });
        };
        // Nothing signed would cover it.
        if !unprotected.is_empty() {
            return Err(StatementError::Shape { reason: "the unprotected header must be empty" });
        }
        if signature.len() != SIGNATURE_BYTES {
            return Err(StatementError::Shape { reason: "the signature must have 64 bytes" });
        }
        let header = Header::decode(&protected)?;
        Ok(Self { bytes, header, protected, payload, signature })
    }

    /// The thumbprint of the key that is said to have signed: where to look for the key, no more.
    pub fn key_id(&self) -> Digest {
        self.header.key_id
    }

    /// The node that is said to have signed: where to look for the key, no more.
    pub fn claimed_issuer(&self) -> &str {
        &self.header.issuer
    }

    /// Checks the signature over the exact received bytes, then reads the body.
    ///
    /// Whether `key` was the issuer's at that time is the caller's to know.
    ///
    /// # Errors
    /// [`StatementError::KeyId`], [`StatementError::Signature`], or what is wrong with the body.
    pub fn verify(self, key: &VerifyingKey, space: &SpaceId) -> Result<Statement, StatementError> {
        let (claimed, given) = (self.header.key_id, key.thumbprint());
        if claimed != given {
            return Err(StatementError::KeyId { claimed, given });
        }
        let signed = signed_structure(&self.protected, &self.payload, space);
        key.verify(&signed, &self.signature).map_err(|source| StatementError::Signature { source })?;
        self.open(&signed)
    }

    /// Reads the body without checking the signature. Only for bytes that this node itself verified and stored.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn trusted(self, space: &SpaceId) -> Result<Statement, StatementError> {
        let signed = signed_structure(&self.protected, &self.payload, space);
        self.open(&signed)
    }

    /// Encodes and signs a body.
    pub(super) fn seal(body: Body, key: &SigningKey, space: &SpaceId) -> Result<Self, StatementError> {
        let header = Header {
            suite: body.suite,
            key_id: key.verifying_key().thumbprint(),
            issuer: body.issuer.clone(),
            subject: hex::encode(body.subject),
        };
        let (protected, payload) = (header.encode(), body.encode());
        let signature = key.sign(&signed_structure(&protected, &payload, space));
        let mut bytes = vec![TAG];
        write_array_head(&mut bytes, 4);
        write_bytes(&mut bytes, &protected);
        bytes.extend_from_slice(&Map::new().encode());
        write_bytes(&mut bytes, &payload);
        write_bytes(&mut bytes, &signature);
        Self::decode(bytes)
    }

    fn open(self, signed: &[u8]) -> Result<Statement, StatementError> {
        let body = Body::decode(&self.payload)?;
        let Header { suite, key_id, issuer, subject } = self.header;
        if suite != body.suite {
            return Err(StatementError::Algorithm);
        }
        if issuer != body.issuer {
            return Err(StatementError::Issuer { header: issuer, body: body.issuer });
        }
        let body_subject = hex::encode(body.subject);
        if subject != body_subject {
            return Err(StatementError::Subject { header: subject, body: body_subject });
        }
        Ok(Statement(Arc::new(Checked { bytes: self.bytes, digest: Digest::sha256(signed), key_id, body })))
    }
}

/// The protected header: COSE parameters 1 and 4 (RFC 9052 section 3.1), 15 (RFC 9597), 16 (RFC 9596).
#[derive(Clone, Debug)]
struct Header {
    suite: Suite,
    key_id: Digest,
    issuer: String,
    subject: String,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let claims = Map::new().text(1, self.issuer.as_str()).text(2, self.subject.as_str());
        Map::new()
            .value(1, Value::Negative(self.suite.cose_algorithm()))
            .digest(4, &self.key_id)
            .map(15, claims)
            .text(16, CONTENT_TYPE)
            .encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        let mut fields = Fields::decode(bytes, Limits::STATEMENT, "header")?;
        let suite = match fields.value(1, "algorithm")? {
            Value::Negative(n) if n == Suite::Intl.cose_algorithm() => Suite::Intl,
            _ => return Err(StatementError::Algorithm),
        };
        let key_id = fields.digest(4, "key_id")?;
        let mut claims = fields.fields(15, "claims")?;
        let (issuer, subject) = (claims.text(1, "issuer")?, claims.text(2, "subject")?);
        claims.finish()?;
        let content_type = fields.text(16, "content_type")?;
        fields.finish()?;
        if content_type != CONTENT_TYPE {
            return Err(StatementError::ContentType { found: content_type });
        }
        Ok(Self { suite, key_id, issuer, subject })
    }
}

/// The Sig_structure of RFC 9052 section 4.4: what is signed, and what the digest of a statement is taken over.
pub(super) fn signed_structure(protected: &[u8], payload: &[u8], space: &SpaceId) -> Vec<u8> {
    const HEADS: usize = 32;
    let domain = [DOMAIN, space.as_bytes()].concat();
    let mut out = Vec::with_capacity(protected.len() + payload.len() + domain.len() + HEADS);
    write_array_head(&mut out, 4);
    write_text(&mut out, "Signature1");
    write_bytes(&mut out, protected);
    write_bytes(&mut out, &domain);
    write_bytes(&mut out, payload);
    out
}
