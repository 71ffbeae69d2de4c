//! A process that is killed at any point loses nothing it has acknowledged.
//!
//! The test starts its own binary as the process to be killed.

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use huitong_store::{Outgoing, Read, Store, StoreError, Table, history, outbox};

const COUNT: Table = Table::with_history("crash.count");
const ENTRY: Table = Table::new("crash.entry");
const DIRECTORY: &str = "HUITONG_STORE_CRASH_DIRECTORY";
const ROUNDS: u64 = 20;
/// Concurrent writers in the process that is killed.
const WRITERS: u64 = 16;

/// Appends the next entry: its number, a value made from it, its history and a message, all in one transaction.
async fn append(store: &Store) -> u64 {
    let appended = store.transact("append", |tx| {
        let number = tx.last(&ENTRY, b"")?.map_or(0, |row| number(&row.key)) + 1;
        tx.put(&ENTRY, &number.to_be_bytes(), &value(number))?;
        tx.put(&COUNT, b"count", &number.to_be_bytes())?;
        tx.send(Outgoing {
            destination: "peer".into(),
            topic: "t".into(),
            payload: number.to_be_bytes().into(),
        })?;
        Ok::<_, StoreError>(number)
    });
    appended.await.unwrap()
}

async fn append_forever(store: Store) {
    loop {
        let number = append(&store).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, Arc::new(|| 1)).unwrap()
}

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key.try_into().unwrap())
}

/// Lengths vary, so that writes end anywhere within a page.
fn value(number: u64) -> Vec<u8> {
    vec![number.to_le_bytes()[0]; (number * 7919 % 3000) as usize]
}

/// Not a test by itself: the process that is killed.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = open(dir.as_ref());
    for _ in 1..WRITERS {
        runtime.spawn(append_forever(store.clone()));
    }
    runtime.block_on(append_forever(store));
}

#[test]
fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(dir.path().as_ref(), 1 + round * 37 % 211);
        let store = open(dir.path());
        let view = store.view();
        let report = store.opening();
        assert_eq!(report.rebuilt, None, "round {round}: a killed process does not cost the index");

        let rows = view.scan(&ENTRY, b"", None, usize::MAX).unwrap();
        let count = rows.len() as u64;
        for (row, expected) in rows.iter().zip(1..) {
            assert_eq!(number(&row.key), expected, "round {round}");
            assert_eq!(row.value, value(expected), "round {round}");
        }
        assert_eq!(report.records, count, "round {round}: one transaction per entry, and no other");
        let last = acknowledged.iter().max().copied().unwrap();
        assert!(last <= count, "round {round}: {last} was acknowledged, {count} are there");
        assert!(acknowledged.iter().all(|number| *number > before), "round {round}: a number came twice");
        // At most what was in flight was not acknowledged.
        assert!(count - before <= acknowledged.len() as u64 + WRITERS, "round {round}");
        assert_eq!(view.get(&COUNT, b"count").unwrap().map(|bytes| number(&bytes)), Some(count));
        before = count;
    }

    let store = open(dir.path());
    let view = store.view();
    let changes = history(&view, &COUNT, b"count", usize::MAX).unwrap();
    let messages = outbox::pending(&view, Some("peer"), usize::MAX).unwrap();
    assert_eq!((changes.len() as u64, messages.len() as u64), (before, before));
    for ((change, message), expected) in changes.iter().zip(&messages).zip(1..) {
        assert_eq!((change.sequence, change.value.as_deref().map(number)), (expected, Some(expected)));
        assert_eq!((message.id, number(&message.payload)), (expected, expected));
    }

    // The journal alone tells the same.
    let rows = view.scan(&ENTRY, b"", None, usize::MAX).unwrap();
    drop((view, store));
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.opening().replayed, before);
    assert!(store.view().scan(&ENTRY, b"", None, usize::MAX).unwrap() == rows);
}

/// Lets the child append, kills it after it has acknowledged `after` entries, and returns all it acknowledged.
fn run_and_kill(dir: &OsStr, after: u64) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The harness may have begun the line. A line is one write to a pipe, so the kill cannot cut it.
        let Some((_, number)) = line.split_once("acknowledged ") else { continue };
        acknowledged.push(number.parse::<u64>().unwrap());
        if acknowledged.len() as u64 == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acknowledged
}
