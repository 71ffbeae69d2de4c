//! Durable memory of one node: a [`Store`] of named tables, changed only by transactions that are on disk
//! before anyone hears of them.
//!
//! This crate owns the journal (append-only segments, the truth), the index (sled, a copy that can be rebuilt
//! from the journal at any time), the one writer thread, the history of rows and the outbox. It refuses to know
//! what the rows mean, who other nodes are, how messages reach them, and where time comes from. Neither sled nor
//! the journal's types appear in its interface.
//!
//! # How a change becomes durable
//! [`Store::transact`] hands a closure to the writer thread. The writer runs closures one after another; each
//! sees the committed state and everything written before it in the same group. When the queue is empty, or
//! after 1,024 closures, 8 MiB or about 10 ms, the group is written as one journal group with one `fdatasync`,
//! applied to the index, and only then are the callers answered. Closures that only read, or that refused, wait
//! for their group too: what they saw may have been written by a neighbour.
//!
//! # What can go wrong
//! - A failed write or fsync poisons the writer: every later transaction fails with [`StoreError::Failed`] and
//!   [`Store::health`] says why. An fsync is never tried twice, because after a failure the kernel may already
//!   have dropped the data. Whether the last group survived is known after a restart.
//! - A journal that ends in an incomplete group, left by a crash during a write, is cut back at
//!   [`Store::open`] and [`OpenReport::dropped_bytes`] says by how much. A group is written in one piece and
//!   never acknowledged before it is complete, so nothing acknowledged is lost. The one exception cannot be told
//!   apart from a crash by the journal alone: a disk that altered the very last group. If the index had applied
//!   that group, the report says that the index was ahead.
//! - Anything else that does not check is [`OpenError::Damaged`], and nothing is modified.
//! - An index that is missing, unreadable, of another journal, ahead of it, or open when the machine went down is
//!   deleted and rebuilt; [`OpenReport::rebuilt`] says why.

mod error;
mod files;
mod history;
mod index;
mod journal;
pub mod outbox;
mod overlay;
mod record;
mod segment;
mod store;
mod table;
mod transaction;
mod writer;

pub use error::{OpenError, StoreError, TxError};
pub use history::{History, history};
pub use outbox::{Outgoing, Pending};
pub use store::{Health, OpenReport, Store, View};
pub use table::{Read, Row, Table};
pub use transaction::{MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, Tx};

#[cfg(test)]
mod tests;
