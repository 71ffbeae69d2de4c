//! The documents of identity: invites, enrolment, root list, revocation list. All are strict CBOR maps.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use huitong_ids::{EntityCode, NodeId};
use huitong_ledger::LogVerifier;
use huitong_proof::cbor::{Fields, Limits, Map, Value};
use huitong_proof::{Digest, Envelope, SpaceId, Statement, Timestamp, VerifyingKey};

use crate::error::ServiceError;
use crate::model::Credential;

/// First word of an invite's text form.
const INVITE_PREFIX: &str = "huitong-invite-1:";

/// A single-use permission to enrol one node, handed over out of band by the registrar's operator.
///
/// Its text form is `huitong-invite-1:` and base64url of the CBOR map {1 enrolment address, 2 registrar node id,
/// 3 SHA-256 of the root certificate, 4 token, 5 space id, 6 expiry}.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// `host:port` of the registrar's enrolment listener.
    pub address: String,
    /// The registrar's node id: the audience of the enrolment statement.
    pub registrar: NodeId,
    /// SHA-256 of the root certificate (DER): the connector accepts no other registrar.
    pub root: Digest,
    /// The secret that admits one enrolment.
    pub token: [u8; 32],
    /// The data space.
    pub space: SpaceId,
    /// The invite is void afterwards.
    pub expires: Timestamp,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invite")
            .field("address", &self.address)
            .field("registrar", &self.registrar)
            .finish_non_exhaustive()
    }
}

impl Invite {
    /// The one-line text an operator copies.
    pub fn to_text(&self) -> String {
        let bytes = Map::new()
            .text(1, &self.address)
            .text(2, self.registrar.as_str())
            .digest(3, &self.root)
            .bytes(4, &self.token)
            .bytes(5, self.space.as_bytes())
            .uint(6, self.expires.millis())
            .encode();
        format!("{INVITE_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads the text form; surrounding white space is ignored.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let text = text.trim();
        if text.len() > 2048 {
            return Err(ServiceError::invalid("invite", "longer than an invite can be"));
        }
        let body = text.strip_prefix(INVITE_PREFIX).ok_or_else(|| {
            ServiceError::invalid("invite", format!("must begin with {INVITE_PREFIX}; copy the whole line"))
        })?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| {
            ServiceError::invalid("invite", "damaged while copying; copy the whole line again")
        })?;
        let mut fields = Fields::decode(&bytes, Limits::STATEMENT, "invite")?;
        let invite = Self {
            address: fields.text(1, "address")?,
            registrar: node_id("invite.registrar", &fields.text(2, "registrar")?)?,
            root: fields.digest(3, "root")?,
            token: fields.fixed(4, "token")?,
            space: SpaceId::from_bytes(fields.fixed(5, "space")?),
            expires: Timestamp::from_millis(fields.uint(6, "expires")?),
        };
        fields.finish()?;
        Ok(invite)
    }
}

/// What a node sends to be enrolled.
#[derive(Debug, Clone)]
pub struct EnrolmentRequest {
    /// The invite's token.
    pub token: [u8; 32],
    /// PKCS #10 request, DER; only its public key and proof of possession count.
    pub csr: Vec<u8>,
    /// The new statement key (Ed25519, 32 bytes), which the registrar cannot know yet.
    pub statement_key: [u8; 32],
    /// ENROLMENT statement (kind 16), signed with the new statement key.
    pub statement: Bytes,
}

/// What the registrar answers.
#[derive(Debug, Clone)]
pub struct EnrolmentGrant {
    /// CREDENTIAL statement (kind 17).
    pub credential: Bytes,
    /// X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// The root list: ROOTS statement and document.
    pub roots: SignedDocument,
    /// The revocation list: STATUS statement and document.
    pub status: SignedDocument,
}

/// A document and the statement that signs its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDocument {
    /// The COSE_Sign1 bytes.
    pub statement: Bytes,
    /// The document's exact bytes.
    pub document: Bytes,
}

/// One trusted registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootEntry {
    /// Node id of the function node.
    pub node: NodeId,
    /// Its operator.
    pub entity: EntityCode,
    /// The operator's name.
    pub name: String,
    /// Root certificate, DER.
    pub certificate: Vec<u8>,
    /// Verifies credentials and other statements of the registrar.
    pub statement_key: VerifyingKey,
    /// Verifies the registrar's checkpoints: origin line and key of its ledger.
    pub log: LogVerifier,
    /// The registrar's own CREDENTIAL statement, signed by itself: with it everybody knows its witness key.
    pub credential: Bytes,
}

impl RootEntry {
    /// The registrar's credential, verified with the entry's own key. Fails when entry and credential name different
    /// things.
    pub(crate) fn verify_credential(&self, space: &SpaceId) -> Result<(Credential, Statement), ServiceError> {
        let statement = Envelope::decode(self.credential.clone())?.verify(&self.statement_key, space)?;
        let credential = Credential::from_statement(&statement)?;
        let same = credential.node == self.node
            && statement.body().issuer == self.node.as_str()
            && credential.entity == self.entity
            && credential.name == self.name
            && credential.statement_key == self.statement_key
            && credential.log == self.log;
        if !same {
            return Err(ServiceError::invalid(
                "roots.entry.credential",
                "is not the entry's registrar's own",
            ));
        }
        Ok((credential, statement))
    }
}

/// The signed, versioned, expiring list of registrars that peers trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootList {
    /// The data space.
    pub space: SpaceId,
    /// Grows by one with each change.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// Nothing is accepted under it afterwards.
    pub expires: Timestamp,
    /// At most 32.
    pub entries: Vec<RootEntry>,
}

impl RootList {
    /// Most registrars in one list.
    pub const MAX_ENTRIES: usize = 32;

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self
            .entries
            .iter()
            .map(|entry| {
                Map::new()
                    .text(1, entry.node.as_str())
                    .text(2, entry.entity.as_str())
                    .text(3, &entry.name)
                    .bytes(4, &entry.certificate)
                    .bytes(5, entry.statement_key.as_bytes())
                    .bytes(6, entry.log.key().as_bytes())
                    .text(7, entry.log.name())
                    .bytes(8, &entry.credential)
                    .build()
            })
            .collect();
        Map::new()
            .bytes(1, self.space.as_bytes())
            .uint(2, self.version)
            .uint(3, self.issued.millis())
            .uint(4, self.expires.millis())
            .array(5, entries)
            .encode()
    }

    /// Reads the document back.
    pub fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = Fields::decode(bytes, Limits::DOCUMENT, "roots")?;
        let space = SpaceId::from_bytes(fields.fixed(1, "space")?);
        let version = fields.uint(2, "version")?;
        let issued = Timestamp::from_millis(fields.uint(3, "issued")?);
        let expires = Timestamp::from_millis(fields.uint(4, "expires")?);
        let values = fields.array(5, "entries")?;
        fields.finish()?;
        if values.len() > Self::MAX_ENTRIES {
            return Err(ServiceError::invalid("roots.entries", "more than 32 registrars"));
        }
        let mut entries = Vec::with_capacity(values.len());
        for value in values {
            let mut entry = Fields::from_value(value, "roots.entry")?;
            let log_key = key("roots.entry.log_key", &entry.bytes(6, "log_key")?)?;
            entries.push(RootEntry {
                node: node_id("roots.entry.node", &entry.text(1, "node")?)?,
                entity: EntityCode::parse(&entry.text(2, "entity")?)
                    .map_err(|e| ServiceError::invalid("roots.entry.entity", e))?,
                name: entry.text(3, "name")?,
                certificate: entry.bytes(4, "certificate")?,
                statement_key: key("roots.entry.statement_key", &entry.bytes(5, "statement_key")?)?,
                log: LogVerifier::new(entry.text(7, "log_origin")?, log_key)
                    .map_err(|error| ServiceError::invalid("roots.entry.log_origin", error))?,
                credential: entry.bytes(8, "credential")?.into(),
            });
            entry.finish()?;
        }
        Ok(Self { space, version, issued, expires, entries })
    }

    /// The registrar with this node id.
    pub fn entry(&self, node: &str) -> Option<&RootEntry> {
        self.entries.iter().find(|entry| entry.node.as_str() == node)
    }
}

/// One revoked node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The node whose credential no longer counts.
    pub node: NodeId,
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// The signed, monotone list of revoked nodes of one registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusList {
    /// Grows by one with each change and never falls.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// Every revocation so far; entries never leave.
    pub revoked: Vec<Revocation>,
}

impl StatusList {
    /// Longest document, which fits into one message: about 6,000 revocations with the longest reasons, 40,000 with
    /// short ones.
    pub const MAX_BYTES: usize = 3 << 20;

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let revoked = self
            .revoked
            .iter()
            .map(|entry| {
                Map::new()
                    .text(1, entry.node.as_str())
                    .uint(2, entry.at.millis())
                    .text(3, &entry.reason)
                    .build()
            })
            .collect();
        Map::new().uint(1, self.version).uint(2, self.issued.millis()).array(3, revoked).encode()
    }

    /// Reads the document back.
    pub fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let limits = Limits { bytes: Self::MAX_BYTES, ..Limits::DOCUMENT };
        let mut fields = Fields::decode(bytes, limits, "status")?;
        let version = fields.uint(1, "version")?;
        let issued = Timestamp::from_millis(fields.uint(2, "issued")?);
        let values = fields.array(3, "revoked")?;
        fields.finish()?;
        let mut revoked = Vec::with_capacity(values.len().min(1024));
        for value in values {
            let mut entry = Fields::from_value(value, "status.revoked")?;
            revoked.push(Revocation {
                node: node_id("status.revoked.node", &entry.text(1, "node")?)?,
                at: Timestamp::from_millis(entry.uint(2, "at")?),
                reason: entry.text(3, "reason")?,
            });
            entry.finish()?;
        }
        Ok(Self { version, issued, revoked })
    }
}

/// The detail of a statement that signs a versioned list: {1 version, 2 SHA-256 of the document}.
pub(crate) fn list_detail(version: u64, document: &[u8]) -> Map {
    Map::new().uint(1, version).digest(2, &Digest::sha256(document))
}

/// Checks that a statement's detail names exactly this version and document.
pub(crate) fn check_list_detail(detail: Fields, version: u64, document: &[u8]) -> Result<(), ServiceError> {
    let mut detail = detail;
    let named = detail.uint(1, "version")?;
    let digest = detail.digest(2, "document")?;
    detail.finish()?;
    if named != version || digest != Digest::sha256(document) {
        return Err(ServiceError::invalid("document", "is not the one that its statement signs"));
    }
    Ok(())
}

pub(crate) fn texts(values: Vec<Value>, field: &str) -> Result<Vec<String>, ServiceError> {
    values
        .into_iter()
        .map(|value| match value {
            Value::Text(text) => Ok(text),
            _ => Err(ServiceError::invalid(field, "expected text")),
        })
        .collect()
}

fn node_id(field: &str, text: &str) -> Result<NodeId, ServiceError> {
    NodeId::parse(text).map_err(|error| ServiceError::invalid(field, error))
}

fn key(field: &str, bytes: &[u8]) -> Result<VerifyingKey, ServiceError> {
    VerifyingKey::from_bytes(bytes).map_err(|error| ServiceError::invalid(field, error))
}
