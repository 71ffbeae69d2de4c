//! Durable memory of one node: a [`Store`] of named tables, changed only by transactions that are on disk
//! before anyone hears of them.
//!
//! This crate owns the journal (append-only segments, the truth), the snapshots that bound it, the index (sled, a
//! copy that can be rebuilt from both at any time), the one writer thread, the one thread that makes snapshots, the
//! history of rows, the outbox, backups, and the [`disk`] through which all files are written. It refuses to know
//! what the rows mean, who other nodes are, how messages reach them, and where time comes from. Neither sled nor
//! the journal's types appear in its interface.
//!
//! ```text
//! <store>/lock
//! <store>/journal/<number>.seg         the truth behind the older snapshot; the last segment is open
//! <store>/snapshots/<sequence>.snap    all rows after a transaction; two are kept
//! <store>/index/<generation>/          sled
//! <store>/index.open                   stands while the index is open, and says in which boot of the machine
//! <store>/index.condemned              says that the index must be rebuilt
//! <store>/index.ahead-<sequence>/      an index that had applied more than the journal holds
//! <store>/lost                         says so, until somebody who signs has taken note
//! ```
//!
//! # How a change becomes durable
//! [`Store::transact`] hands a closure to the writer thread. The writer runs closures one after another; each
//! sees the committed state and everything written before it in the same group. When the queue is empty, or
//! after 1,024 closures, 8 MiB or about 10 ms, the group is written as one journal group with one `fdatasync`,
//! applied to the index, and only then are the callers answered. Closures that only read, or that refused, wait
//! for their group too: what they saw may have been written by a neighbour. Rows of [`Table::resident`] tables are
//! journaled alike and applied to memory instead.
//!
//! # How the journal stays short
//! When a segment is full and enough of them lie behind the last snapshot, the next snapshot is merged from that
//! one and these, never from the index, in bounded memory. It gets its name only after it was made durable and read
//! back. The two newest snapshots are kept, and the journal from the older one on, so that either can be lost.
//! [`Store::compact`] does the same on demand, until nothing deleted is left in any file. A snapshot that fails
//! harms nothing; [`Store::maintenance`] says so.
//!
//! # What can go wrong
//! - A failed write or fsync poisons the writer: every later transaction fails with [`StoreError::Failed`] and
//!   [`Store::health`] says why. An fsync is never tried twice, because after a failure the kernel may already
//!   have dropped the data. Whether the last group survived is known after a restart, which writes what it finds of it
//!   once more before it syncs.
//! - A journal that ends in an incomplete group, left by a crash during a write, is cut back at
//!   [`Store::open`] and [`OpenReport::dropped_bytes`] says by how much. A group is written in one piece and
//!   never acknowledged before it is complete, so nothing acknowledged is lost. The one exception cannot be told
//!   apart from a crash by the journal alone: a disk that altered the very last group. If the index had applied
//!   that group, the report says that the index was ahead.
//! - A snapshot that does not check is set aside, the older one and the journal behind it are used, and
//!   [`OpenReport::refused_snapshots`] says so. At the start only what is needed is read of a snapshot; it is read
//!   whole when the next one is made from it, when the index is rebuilt, and for a backup.
//! - Anything else that does not check is [`OpenError::Damaged`], and nothing is modified. A format of a later
//!   program is [`OpenError::Version`].
//! - An index that turns out not to read, or not to take what was journaled, is condemned: [`Store::health`] says so
//!   at once, no later transaction is accepted, and the next start rebuilds it.
//! - An index that is missing, unreadable, of another journal, behind its first segment, or open when the machine went
//!   down is deleted and rebuilt from the snapshot and the journal; [`OpenReport::rebuilt`] says why.
//! - An index that is ahead of the journal proves that acknowledged changes were lost. It is kept aside, another is built,
//!   the store is marked as [`LOST`], and [`OpenReport::index_ahead`] says how far it was.

pub mod backup;
mod blocks;
mod committed;
pub mod disk;
mod error;
mod failure;
mod history;
mod index;
mod journal;
mod keeper;
mod lock;
mod merge;
pub mod offline;
mod opening;
mod options;
pub mod outbox;
mod overlay;
mod progress;
mod record;
mod segment;
mod snapshot;
mod store;
mod table;
mod transaction;
mod writer;

pub use backup::{BackupError, BackupReport};
pub use disk::Disk;
pub use error::{OpenError, StoreError, TxError};
pub use history::{History, history};
pub use index::LOST;
pub use keeper::Maintenance;
pub use options::Options;
pub use outbox::{Outgoing, Pending};
pub use progress::{Progress, Unit};
pub use store::{Health, OpenReport, Store, View};
pub use table::{Read, Row, Table};
pub use transaction::{MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, Tx};

#[cfg(test)]
mod tests;
