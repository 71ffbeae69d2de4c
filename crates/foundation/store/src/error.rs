//! What can go wrong, for those who open a store and for those who use it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a read or a transaction failed. Cheap to clone: one failure answers a whole group of callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A write or fsync of the journal failed. The changes of the affected transactions may or may not be there
    /// after the restart; no later transaction is accepted before it.
    #[error("the journal cannot be written: {reason}; free space or replace the disk, then restart")]
    Failed {
        /// What the operating system said.
        reason: String,
    },
    /// The index cannot be read or written. The journal is not affected.
    #[error(
        "the index cannot be used: {reason}; restart the node, which rebuilds the index from the journal"
    )]
    Index {
        /// What the index said.
        reason: String,
    },
    /// The store was closed, by [`crate::Store::close`] on this or another clone.
    #[error("the store is closed; open it again")]
    Closed,
    /// The transaction's closure panicked. Nothing it wrote was kept.
    #[error("transaction {name} panicked and was discarded; this is a defect, report it with the log")]
    Panicked {
        /// The name given to `transact`.
        name: &'static str,
    },
    /// A key is longer than [`crate::MAX_KEY_BYTES`].
    #[error("a key of table {table} has {bytes} bytes, more than {limit}; shorten or hash it")]
    KeyTooLong {
        /// The table.
        table: &'static str,
        /// The key's length.
        bytes: usize,
        /// The longest key allowed.
        limit: usize,
    },
    /// One transaction would write more than [`crate::MAX_TRANSACTION_BYTES`].
    #[error(
        "the transaction writes more than {limit} bytes; split it, or keep large content outside the store"
    )]
    TransactionTooLarge {
        /// The largest transaction allowed, in bytes.
        limit: usize,
    },
    /// [`crate::Store::compact`] did not finish. Nothing is lost; what was to be removed may still be there.
    #[error("the store was not compacted: {reason}; see to that, then compact it again")]
    Compaction {
        /// The cause.
        reason: String,
    },
    /// The field of a message cannot be stored.
    #[error("message field {field} {why}; correct it before sending")]
    Message {
        /// The field of [`crate::Outgoing`].
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A row of the store's own tables does not decode.
    #[error("a row of table {table} does not decode: {why}; run a store check, then restore from a backup")]
    Row {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Why [`crate::Store::transact`] did not commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxError<E> {
    /// The closure returned this. Nothing was written.
    #[error(transparent)]
    Abort(E),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a store did not open. In every case the journal was left as it was found.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another `Store` of this one, holds the directory.
    #[error("the store in {} is in use by {holder}; stop it, or choose another directory", directory.display())]
    Locked {
        /// The store's directory.
        directory: PathBuf,
        /// The process that holds it, as far as it can be told.
        holder: String,
    },
    /// The journal does not check, in a way that no interrupted write explains.
    #[error(
        "the journal is damaged in {} at byte {offset}: {why}; \
         nothing was changed: copy the directory aside, then restore it from a backup",
        segment.display()
    )]
    Damaged {
        /// The segment file.
        segment: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What does not check.
        why: String,
    },
    /// A snapshot does not check. The store opens all the same if an older one and the journal behind it do.
    #[error(
        "the snapshot {} is damaged at byte {offset}: {why}; \
         nothing was changed: copy the directory aside, then restore it from a backup",
        snapshot.display()
    )]
    Snapshot {
        /// The snapshot file.
        snapshot: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What does not check.
        why: String,
    },
    /// A file is whole, but in a format that this program does not know.
    #[error(
        "{} has format version {found}, this program reads up to {newest}; use the program that wrote it, or a \
         newer one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it says it has.
        found: u32,
        /// The newest version that is known.
        newest: u32,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}; check that it exists, its owner and mode, and the free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A fresh index could not be built from the journal.
    #[error("the index in {} cannot be built: {why}; check the free space and the disk", directory.display())]
    Index {
        /// The index's directory.
        directory: PathBuf,
        /// What the index said.
        why: String,
    },
}

impl OpenError {
    /// For `map_err`: which action on which path failed.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
