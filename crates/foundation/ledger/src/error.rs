//! What can go wrong in the ledger.

use std::io;
use std::path::{Path, PathBuf};

use huitong_proof::{Digest, FieldError, StatementError};
use huitong_store::backup::BackupError;
use huitong_store::{OpenError, StoreError, TxError};

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
    /// This node may have lost its newest statements, and signs nothing before it knows (safe mode).
    #[error(
        "the ledger signs nothing: {reason}; run `huitong ledger recover`, which compares this node's ledger with its \
         witnesses and counterparties"
    )]
    SafeMode {
        /// Why the gate is closed.
        reason: String,
    },
    /// This node may have forgotten what it said to one counterparty, and says nothing to it before it knows.
    #[error(
        "nothing is signed to {audience} yet: this node was restored or rolled back, and {audience} has not shown since \
         what it holds of this node's statements; it is asked by itself once it can be reached, and at once by \
         `huitong ledger compare`; `--resume-unconfirmed` ends the waiting, on your word that nothing was signed since \
         the backup"
    )]
    Unconfirmed {
        /// Who has to answer.
        audience: String,
    },
    /// The bytes of the entry were removed; its hash is kept.
    #[error(
        "entry {index} of this log was removed by {who}: {why}; its hash is kept and can still be proven"
    )]
    Redacted {
        /// Index of the entry.
        index: u64,
        /// Who decided it.
        who: String,
        /// Why.
        why: String,
    },
    /// The bytes of the entry cannot be removed, because a contradiction is proven by them.
    #[error(
        "entry {index} stays: together with another statement it proves that {issuer} signed two things that exclude \
         each other, which nobody could be shown without its bytes"
    )]
    IsEvidence {
        /// Index of the entry.
        index: u64,
        /// Who contradicted itself.
        issuer: String,
    },
    /// A proof was asked for entries or a size that no checkpoint covers.
    #[error("{asked} lies beyond the {size} entries this log has signed; ask for a checkpoint first")]
    Beyond {
        /// The size, or the index, that was asked for.
        asked: u64,
        /// Size of the newest signed checkpoint.
        size: u64,
    },
    /// An entry cannot be put back where it was asked to be.
    #[error("entry {index} cannot be put back: {why}")]
    Reinstate {
        /// Index that was asked for.
        index: u64,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// A file of the ledger cannot be used.
    #[error("cannot {action} {}; check the disk, its free space, and the owner of the file", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of the ledger does not hold what it must.
    #[error("the ledger is damaged: {} {what}; stop the node and run `huitong store fsck`", path.display())]
    DamagedFile {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Another ledger, or a tool, has this store's files open.
    #[error("the files in {} are in use by another ledger or tool; close it first", directory.display())]
    InUse {
        /// Directory of the ledger's files.
        directory: PathBuf,
    },
    /// A stopped node's store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A backup cannot be made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A worker thread ended without an answer.
    #[error("the ledger's worker thread ended without an answer; this is a defect, report it with the log")]
    Worker,
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

impl LedgerError {
    /// For `map_err`: which action on which path failed.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(crate) fn damaged_file(path: &Path, what: impl Into<String>) -> Self {
        Self::DamagedFile { path: path.to_owned(), what: what.into() }
    }
}

impl From<TxError<LedgerError>> for LedgerError {
    fn from(error: TxError<LedgerError>) -> Self {
        match error {
            TxError::Abort(error) => error,
            TxError::Store(error) => Self::Store(error),
        }
    }
}
