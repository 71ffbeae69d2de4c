//! What can go wrong in the ledger.

use huitong_proof::{Digest, FieldError, StatementError};
use huitong_store::{StoreError, TxError};

use crate::evidence::Evidence;
use crate::merkle::ProofError;
use crate::note::NoteError;

/// Why the ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A statement could not be signed or read.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// A checkpoint or log key is malformed or falsely signed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// One issuer signed two statements that exclude each other.
    #[error(
        "{issuer} signed two statements for sequence number {seq} to {audience} that exclude each other; \
         keep the evidence and stop trusting {issuer} until it is explained"
    )]
    Fork {
        /// Issuer of both statements.
        issuer: String,
        /// Audience of both statements.
        audience: String,
        /// Sequence number of the refused statement.
        seq: u64,
        /// Both statements.
        evidence: Box<Evidence>,
    },
    /// The channel to this audience has used its last sequence number.
    #[error("no sequence number is left for statements to {audience}; start a new node identity")]
    ChannelFull {
        /// Audience of the channel.
        audience: String,
    },
    /// A peer's log contradicts what it showed before.
    #[error(
        "the log {origin} contradicts a checkpoint it showed before; keep the evidence and stop trusting its node"
    )]
    Inconsistent {
        /// Origin of the log.
        origin: String,
        /// Both checkpoints.
        evidence: Box<Evidence>,
    },
    /// A peer's checkpoint came without a path from any checkpoint seen before.
    #[error(
        "the checkpoint of {origin} at size {offered} is not linked to size {remembered} seen before; \
         ask for the proofs again with the known size {remembered}"
    )]
    Unlinked {
        /// Origin of the log.
        origin: String,
        /// Size of the newest checkpoint that is remembered.
        remembered: u64,
        /// Size of the checkpoint that was offered.
        offered: u64,
    },
    /// A proof was asked for a statement that is not in the log.
    #[error(
        "statement {digest} is not in this log; check the digest, or wait until the statement has arrived"
    )]
    NotLogged {
        /// TBS digest of the statement.
        digest: Digest,
    },
    /// Somebody knows more entries of this log than it has.
    #[error(
        "the known size {known} exceeds this log's size {size}; if the peer is right, this node was restored from an \
         old backup and must not sign before its missing statements are recovered"
    )]
    Behind {
        /// Size that was claimed.
        known: u64,
        /// Size of this log's checkpoint.
        size: u64,
    },
    /// The store holds the checkpoints of another log.
    #[error(
        "the store holds checkpoints of {stored}, this node is configured as {configured}; restore the origin"
    )]
    OtherLog {
        /// Origin in the store.
        stored: String,
        /// Origin in the configuration.
        configured: String,
    },
    /// Rows of the ledger are missing or contradict each other.
    #[error("the ledger is damaged: {what}; stop the node and run `huitong store fsck`")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// A stored row cannot be read.
    #[error("the ledger is damaged: a row cannot be read; stop the node and run `huitong store fsck`")]
    Unreadable(#[from] FieldError),
}

impl From<TxError<LedgerError>> for LedgerError {
    fn from(error: TxError<LedgerError>) -> Self {
        match error {
            TxError::Abort(error) => error,
            TxError::Store(error) => Self::Store(error),
        }
    }
}
