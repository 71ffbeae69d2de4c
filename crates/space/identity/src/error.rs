//! The outcomes that every service of the `space` crates shares.

use bytes::Bytes;
use huitong_ledger::LedgerError;
use huitong_proof::cbor::FieldError;
use huitong_proof::{Statement, StatementError};
use huitong_store::{StoreError, TxError};

/// A refusal is a value, not a failure: it is decided by a rule, recorded, and told to who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refusal {
    /// Stable, lower-case words joined by dots, such as `policy.permission[0].count` or `contract.party`.
    pub code: String,
    /// Why, in plain words.
    pub reason: String,
    /// What who asked can do about it.
    pub next_step: String,
}

impl Refusal {
    /// A refusal with its stable code, the reason, and the next step.
    pub fn new(code: impl Into<String>, reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into(), next_step: next_step.into() }
    }
}

/// Why another node did not do what we asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// Not reachable, busy or restarting: worth another try later.
    #[error("the other node cannot be reached now: {0}")]
    Unavailable(String),
    /// The other node said no, for good.
    #[error("the other node refused ({code}): {reason}")]
    Refused {
        /// The refusal's stable code.
        code: String,
        /// The reason in plain words.
        reason: String,
        /// The signed refusal, where the other node gave one.
        statement: Option<Bytes>,
    },
    /// The other node's answer breaks the protocol.
    #[error("the other node broke the protocol: {0}")]
    Broken(String),
}

/// What became of one try to deliver an outbox message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Try again later; the text says why.
    Retry(String),
    /// No further try: the consequence is already recorded by the owner of the message.
    Dead(String),
}

/// The error of every service function.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// A rule said no. The refusal is already on record where a statement is given.
    #[error("refused ({}): {}", refusal.code, refusal.reason)]
    Refused {
        /// The rule's answer.
        refusal: Refusal,
        /// Our signed refusal, durable before anybody hears of it.
        statement: Option<Statement>,
    },
    /// What was named does not exist here.
    #[error("{what} is not known to this node")]
    NotFound {
        /// What was looked for, with its identifier.
        what: String,
    },
    /// An input does not have the form it must have.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The caller may not do this at all.
    #[error("not allowed: {reason}")]
    Forbidden {
        /// Which right is missing.
        reason: String,
    },
    /// The request contradicts what is already there.
    #[error("conflict: {reason}")]
    Conflict {
        /// What it contradicts.
        reason: String,
    },
    /// A bound is reached; the same request may pass later.
    #[error("busy: {reason}")]
    Busy {
        /// Which bound.
        reason: String,
    },
    /// This node may have lost its newest statements and signs nothing, or nothing to one counterparty, until that is
    /// settled; the same request may pass later.
    #[error("this node does not sign it now: {reason}")]
    SafeMode {
        /// Why, and what ends it.
        reason: String,
    },
    /// The bytes of what was asked for were removed from this node's ledger, or are lost; only a hash is left.
    #[error("the bytes of {what} are no longer at this node{}: {why}", removed_by(who))]
    Redacted {
        /// What was removed.
        what: String,
        /// Who decided it; empty for what is lost.
        who: String,
        /// Why.
        why: String,
    },
    /// Another node that was needed did not answer as hoped.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// This node's own storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect or a damaged record on our side.
    #[error("internal: {0}")]
    Internal(String),
}

impl ServiceError {
    /// An input error that names the field.
    pub fn invalid(field: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Invalid { field: field.into(), reason: reason.to_string() }
    }
}

fn removed_by(who: &str) -> String {
    if who.is_empty() { String::new() } else { format!(", removed by {who}") }
}

impl From<LedgerError> for ServiceError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Store(error) => Self::Store(error),
            // Not a defect here: the issuer contradicts itself.
            fork @ (LedgerError::Fork { .. } | LedgerError::IsEvidence { .. }) => {
                Self::Conflict { reason: fork.to_string() }
            }
            LedgerError::SafeMode { reason } => Self::SafeMode { reason },
            unconfirmed @ LedgerError::Unconfirmed { .. } => {
                Self::SafeMode { reason: unconfirmed.to_string() }
            }
            LedgerError::Redacted { index, who, why } => {
                Self::Redacted { what: format!("entry {index}"), who, why }
            }
            // Whoever asks names a size that this ledger does not have.
            size @ (LedgerError::Behind { .. } | LedgerError::Beyond { .. }) => Self::invalid("size", size),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<FieldError> for ServiceError {
    fn from(error: FieldError) -> Self {
        Self::invalid("document", error)
    }
}

impl From<StatementError> for ServiceError {
    fn from(error: StatementError) -> Self {
        Self::invalid("statement", error)
    }
}

impl From<TxError<ServiceError>> for ServiceError {
    fn from(error: TxError<ServiceError>) -> Self {
        match error {
            TxError::Abort(error) => error,
            TxError::Store(error) => Self::Store(error),
        }
    }
}
