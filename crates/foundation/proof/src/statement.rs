//! Signed statements: one fact, by one party, at one moment.
//!
//! A statement is a COSE_Sign1 (RFC 9052 section 4.2) over strict CBOR. Its signature also covers the data space, so a
//! statement of one space is nothing in another. The bytes that were signed are kept and handed on; nothing is encoded
//! again to be verified.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::cbor::{FieldError, Fields, Limits, Map, Value};
use crate::digest::{Digest, HexError, read_hex, write_hex};
use crate::key::{SigningKey, Suite};
use crate::time::Timestamp;

mod envelope;
mod error;
mod kind;

pub use envelope::Envelope;
pub use error::StatementError;
pub use kind::Kind;

const VERSION: u64 = 1;

/// The data space that statements belong to, 32 bytes. Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId([u8; 32]);

impl SpaceId {
    /// Takes 32 bytes as an id.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The id of the space of that name: SHA-256 over `huitong/space/v1`, a zero byte and the name.
    pub fn from_name(name: &str) -> Self {
        Self(*Digest::sha256_parts(&[b"huitong/space/v1\0", name.as_bytes()]).as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for SpaceId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        read_hex(text).map(Self)
    }
}

/// What someone wants to state, before it is put on a channel and signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The kind of fact.
    pub kind: Kind,
    /// The node that it is said to.
    pub audience: String,
    /// The transfer, negotiation or registration that it is about.
    pub subject: [u8; 16],
    /// The digest of the agreement that it stands under, zeros if none.
    pub agreement: Digest,
    /// The digest of the statement that it answers, zeros if none.
    pub reference: Digest,
    /// The fields of this kind.
    pub detail: Map,
}

/// Where on its channel a statement stands. A channel leads from one issuer to one audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelHead {
    /// The number that the next statement carries: from 0, by one, never used again.
    pub seq: u64,
    /// The digest of the issuer's previous statement on this channel, zeros for number 0.
    pub prev: Digest,
}

impl ChannelHead {
    /// Before the first statement of a channel.
    pub const START: Self = Self { seq: 0, prev: Digest::ZERO };
}

/// The newest checkpoint of the other side's log that the issuer had verified: proof of "not before".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The origin line of the log, empty if none was seen.
    pub origin: String,
    /// Entries in the log.
    pub size: u64,
    /// The root of the log.
    pub root: Digest,
}

impl Anchor {
    /// No checkpoint was seen: the empty origin and the empty tree (RFC 9162 section 2.1.1).
    pub fn none() -> Self {
        Self { origin: String::new(), size: 0, root: Digest::sha256(b"") }
    }
}

/// All that signing adds to a draft.
#[derive(Clone, Debug)]
pub struct Signing<'a> {
    /// The issuer's statement key.
    pub key: &'a SigningKey,
    /// The data space.
    pub space: &'a SpaceId,
    /// The issuer's node id.
    pub issuer: &'a str,
    /// The place on the channel to the draft's audience.
    pub channel: ChannelHead,
    /// What the issuer had seen of the audience's log.
    pub anchor: Anchor,
    /// The issuer's clock.
    pub time: Timestamp,
    /// Fresh random bytes, so that the digest of a guessable statement cannot be guessed.
    pub salt: [u8; 16],
}

/// The content of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The kind of fact (2).
    pub kind: Kind,
    /// The algorithms (3).
    pub suite: Suite,
    /// The node that says it (4).
    pub issuer: String,
    /// The node that it is said to (5).
    pub audience: String,
    /// The transfer, negotiation or registration that it is about (6).
    pub subject: [u8; 16],
    /// The digest of the agreement that it stands under, zeros if none (7).
    pub agreement: Digest,
    /// The number on the channel from issuer to audience (8).
    pub seq: u64,
    /// The digest of the previous statement on the channel, zeros for number 0 (9).
    pub prev: Digest,
    /// The digest of the statement that it answers, zeros if none (10).
    pub reference: Digest,
    /// The issuer's clock (11): a claim, not a proof.
    pub time: Timestamp,
    /// Random bytes (12).
    pub salt: [u8; 16],
    /// What the issuer had seen of another log (13).
    pub anchor: Anchor,
    /// The fields of this kind (14), always a [`Value::Map`].
    pub detail: Value,
}

impl Body {
    fn encode(self) -> Vec<u8> {
        let Anchor { origin, size, root } = self.anchor;
        Map::new()
            .uint(1, VERSION)
            .uint(2, self.kind.number())
            .uint(3, self.suite.number())
            .text(4, self.issuer)
            .text(5, self.audience)
            .bytes(6, &self.subject)
            .digest(7, &self.agreement)
            .uint(8, self.seq)
            .digest(9, &self.prev)
            .digest(10, &self.reference)
            .uint(11, self.time.millis())
            .bytes(12, &self.salt)
            .array(13, vec![Value::Text(origin), Value::Uint(size), Value::Bytes(root.as_bytes().to_vec())])
            .value(14, self.detail)
            .encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        let mut fields = Fields::decode(bytes, Limits::STATEMENT, "statement")?;
        let version = fields.uint(1, "version")?;
        if version != VERSION {
            return Err(StatementError::Version { number: version });
        }
        let kind = fields.uint(2, "kind")?;
        let suite = fields.uint(3, "suite")?;
        let body = Self {
            kind: Kind::from_number(kind).ok_or(StatementError::Kind { number: kind })?,
            suite: Suite::from_number(suite).ok_or(StatementError::Suite { number: suite })?,
            issuer: fields.text(4, "issuer")?,
            audience: fields.text(5, "audience")?,
            subject: fields.fixed(6, "subject")?,
            agreement: fields.digest(7, "agreement")?,
            seq: fields.uint(8, "seq")?,
            prev: fields.digest(9, "prev")?,
            reference: fields.digest(10, "reference")?,
            time: Timestamp::from_millis(fields.uint(11, "time")?),
            salt: fields.fixed(12, "salt")?,
            anchor: read_anchor(fields.array(13, "anchor")?)?,
            detail: fields.value(14, "detail")?,
        };
        fields.finish()?;
        body.check()?;
        Ok(body)
    }

    fn check(&self) -> Result<(), StatementError> {
        if !matches!(self.detail, Value::Map(_)) {
            let found = self.detail.type_name();
            let path = "statement.detail".to_owned();
            return Err(FieldError::Type { path, key: 14, expected: "map", found }.into());
        }
        if self.issuer.is_empty() {
            return Err(StatementError::NoIssuer);
        }
        if self.seq == 0 && self.prev != Digest::ZERO {
            return Err(StatementError::FirstHasPrevious);
        }
        if self.time > Timestamp::MAX {
            return Err(StatementError::Time { millis: self.time.millis() });
        }
        Ok(())
    }
}

fn read_anchor(items: Vec<Value>) -> Result<Anchor, StatementError> {
    match <[Value; 3]>::try_from(items) {
        Ok([Value::Text(origin), Value::Uint(size), Value::Bytes(root)]) => {
            let root = Digest::from_slice(&root).ok_or(StatementError::Anchor)?;
            Ok(Anchor { origin, size, root })
        }
        _ => Err(StatementError::Anchor),
    }
}

/// A statement whose signature and canonical form have been checked. Cheap to clone; equal when the bytes are.
#[derive(Clone)]
pub struct Statement(Arc<Checked>);

struct Checked {
    bytes: Bytes,
    digest: Digest,
    key_id: Digest,
    body: Body,
}

impl Statement {
    /// Signs a draft. Text that is not in NFC is signed in NFC.
    ///
    /// # Errors
    /// Whatever a reader would refuse, above all [`StatementError::Size`] beyond 16 KiB.
    pub fn sign(draft: Draft, with: Signing<'_>) -> Result<Self, StatementError> {
        let Draft { kind, audience, subject, agreement, reference, detail } = draft;
        let body = Body {
            kind,
            suite: Suite::Intl,
            issuer: with.issuer.to_owned(),
            audience,
            subject,
            agreement,
            seq: with.channel.seq,
            prev: with.channel.prev,
            reference,
            time: with.time,
            salt: with.salt,
            anchor: with.anchor,
            detail: detail.build(),
        };
        Envelope::seal(body, with.key, with.space)?.trusted(with.space)
    }

    /// The exact bytes, as signed or received.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// SHA-256 over the signed structure: the statement's name. It does not depend on the signature bytes.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The thumbprint of the key that signed.
    pub fn key_id(&self) -> Digest {
        self.0.key_id
    }

    /// The content.
    pub fn body(&self) -> &Body {
        &self.0.body
    }

    /// The fields of this kind, for reading; `what` names them in errors.
    ///
    /// # Errors
    /// None for a checked statement; the type allows `?` in one chain with the reading of the fields.
    pub fn detail(&self, what: &'static str) -> Result<Fields, FieldError> {
        Fields::from_value(self.0.body.detail.clone(), what)
    }

    /// The kind of fact.
    pub fn kind(&self) -> Kind {
        self.0.body.kind
    }
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Statement {}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statement").field("digest", &self.0.digest).field("body", &self.0.body).finish()
    }
}

#[cfg(test)]
mod tests;
