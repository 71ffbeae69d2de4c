//! Tests of the store as a whole; what they share.

mod backups;
mod damage;
mod disk;
mod faults;
mod index;
mod merges;
mod offline;
mod power;
mod records;
mod resident;
mod restores;
mod side_tables;
mod snapshots;
mod torn;
mod transactions;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, Fault, FaultPlan, Operation};
use crate::{OpenError, Options, Read, Row, Store, StoreError, Table, Tx};

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

const RESIDENT: Table = Table::resident("test.resident");

/// Limits so small that a few rows fill a segment; the second number is the snapshots'.
fn small(segment_bytes: u64, snapshot_bytes: u64) -> Options {
    Options { segment_bytes, snapshot_bytes, ..Options::default() }
}

fn open_small(dir: &Path, options: Options) -> Result<Store, OpenError> {
    Store::open_with_options(dir, Time::at(1).clock(), Disk::counting(), options)
}

/// Writes over a file, which must be there. `fs::write` would empty it first, and some file systems then wait for the
/// device when it is closed.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

fn syncs(disk: &Disk) -> u64 {
    disk.operations_of(Operation::Sync)
}

fn open(dir: &Path) -> Store {
    Store::open_on(dir, Time::at(1_000).clock(), Disk::counting()).unwrap()
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
