//! Why a statement was refused.

use crate::cbor::{CborError, FieldError};
use crate::digest::Digest;
use crate::key::KeyError;

/// Why bytes are not a statement, or not one of this key and data space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// Longer than a statement may be.
    #[error(
        "statement: {size} bytes are more than the {limit} allowed; put large content beside it and sign its digest"
    )]
    Size {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No COSE_Sign1 with its tag, an empty unprotected header and a signature of 64 bytes.
    #[error("statement envelope: {reason}")]
    Shape {
        /// What is wrong.
        reason: &'static str,
    },
    /// The envelope is not strict CBOR.
    #[error("statement envelope: not strict deterministic CBOR")]
    Envelope {
        /// Where (after the tag byte) and why.
        source: CborError,
    },
    /// A field of header or body is missing, unknown, or of the wrong type.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The header names another signature algorithm.
    #[error("statement header: signature algorithm is not Ed25519 (-19)")]
    Algorithm,
    /// The header names another content type.
    #[error("statement header: content type {found:?} is not that of a statement")]
    ContentType {
        /// The type named.
        found: String,
    },
    /// The header names another key than the one it is checked with.
    #[error("statement header: signed with key {claimed}, checked with key {given}")]
    KeyId {
        /// The thumbprint in the header.
        claimed: Digest,
        /// The thumbprint of the key at hand.
        given: Digest,
    },
    /// The signature is not over these bytes, in this data space, by this key.
    #[error("statement: signature refused; wrong key, wrong data space or altered bytes")]
    Signature {
        /// What the key said.
        source: KeyError,
    },
    /// Header and body name different issuers.
    #[error("statement: header names issuer {header:?}, body names {body:?}")]
    Issuer {
        /// Issuer in the header.
        header: String,
        /// Issuer in the body.
        body: String,
    },
    /// Header and body name different subjects.
    #[error("statement: header names subject {header:?}, body names {body:?}")]
    Subject {
        /// Subject in the header.
        header: String,
        /// Subject in the body.
        body: String,
    },
    /// The issuer is empty.
    #[error("statement.issuer (4): empty")]
    NoIssuer,
    /// A version that this node does not know.
    #[error("statement.version (1): {number} is unknown here; a newer node may have written it")]
    Version {
        /// The version found.
        number: u64,
    },
    /// A kind that this node does not know.
    #[error("statement.kind (2): {number} is unknown here; a newer node may have written it")]
    Kind {
        /// The number found.
        number: u64,
    },
    /// A suite that this node does not know.
    #[error("statement.suite (3): {number} is unknown here")]
    Suite {
        /// The number found.
        number: u64,
    },
    /// Number 0 of a channel names a statement before it.
    #[error("statement.prev (9): must be zeros for the first statement of a channel")]
    FirstHasPrevious,
    /// A moment beyond the calendar.
    #[error("statement.time (11): {millis} ms is after the year 9999")]
    Time {
        /// Milliseconds found.
        millis: u64,
    },
    /// The anchor is not origin, size and root.
    #[error("statement.anchor (13): expected text, unsigned integer and 32 bytes")]
    Anchor,
}
