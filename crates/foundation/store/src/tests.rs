//! Tests of the store as a whole; what they share.

mod damage;
mod index;
mod records;
mod side_tables;
mod transactions;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::journal::{JournalFile, Options};
use crate::{Read, Row, Store, StoreError, Table, Tx};

const PLAIN: Table = Table::new("test.plain");
const OTHER: Table = Table::new("test.plain2");
const KEPT: Table = Table::with_history("test.kept");

/// A clock that stands still until it is set.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn at(ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(ms)))
    }

    fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    fn clock(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let time = self.clone();
        Arc::new(move || time.0.load(Ordering::SeqCst))
    }
}

/// A disk that counts, and fails when told to. The n-th write or sync from the start fails, counted from 1, and
/// all later ones would succeed.
#[derive(Clone, Default)]
struct Disk {
    writes: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    fail_write: u64,
    /// How much of the failing write still reaches the file.
    written_in_part: usize,
    fail_sync: u64,
}

impl Disk {
    fn options(&self) -> Options {
        let disk = self.clone();
        Options {
            wrap: Arc::new(move |file| Box::new(Platter { file, disk: disk.clone() })),
            ..Options::default()
        }
    }
}

struct Platter {
    file: File,
    disk: Disk,
}

impl JournalFile for Platter {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.disk.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.disk.fail_write {
            self.file.append(&bytes[..self.disk.written_in_part.min(bytes.len())])?;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.disk.syncs.fetch_add(1, Ordering::SeqCst) + 1 == self.disk.fail_sync {
            return Err(io::Error::other("input/output error"));
        }
        self.file.sync()
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, Time::at(1_000).clock()).unwrap()
}

/// Runs a transaction that must succeed.
async fn commit<T: Send + 'static>(
    store: &Store,
    f: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
) -> T {
    store.transact("test", f).await.unwrap()
}

async fn put(store: &Store, table: Table, key: &'static str, value: &'static str) {
    commit(store, move |tx| tx.put(&table, key.as_bytes(), value.as_bytes())).await;
}

fn all(reader: &impl Read, table: Table) -> Vec<(String, String)> {
    reader.scan(&table, b"", None, usize::MAX).unwrap().into_iter().map(texts).collect()
}

fn texts(row: Row) -> (String, String) {
    (String::from_utf8(row.key).unwrap(), String::from_utf8(row.value).unwrap())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
