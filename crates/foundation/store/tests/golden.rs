//! Stores written by earlier programs are read for ever, row by row.
//!
//! `tests/golden/v1` is a store as it lay on disk: two segments and the snapshot behind the first of them, without
//! an index, which is no format of ours. `tests/golden/v1-backup` is a backup of it. They are never written again: a
//! program that writes another format gets directories of its own beside them, made by
//!
//! ```text
//! HUITONG_WRITE_GOLDEN=v2 cargo test -p huitong-store --test golden
//! ```

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use huitong_store::offline;
use huitong_store::{
    Disk, History, Options, Outgoing, Pending, Read, Row, Store, StoreError, Table, Tx, View, history, outbox,
};

const PLAIN: Table = Table::new("golden.plain");
const KEPT: Table = Table::with_history("golden.kept");
const RESIDENT: Table = Table::resident("golden.resident");
const WRITE: &str = "HUITONG_WRITE_GOLDEN";
/// Transactions in the store, and how many of them the snapshot holds.
const COUNT: u64 = 12;
const IN_SNAPSHOT: u64 = 8;

/// What transaction `number` does; it runs at `number` seconds.
fn change(tx: &mut Tx<'_>, number: u64) -> Result<(), StoreError> {
    match number {
        1 => {
            tx.put(&PLAIN, b"a", b"1")?;
            tx.put(&PLAIN, b"empty", b"")
        }
        2 => tx.put(&KEPT, b"k", b"first"),
        3 => {
            tx.put(&KEPT, b"k", b"second")?;
            tx.put(&RESIDENT, b"hot", b"1")?;
            tx.put(&RESIDENT, b"gone", b"1")
        }
        4 => tx.delete(&KEPT, b"k"),
        5 => {
            tx.delete(&PLAIN, b"a")?;
            tx.put(&PLAIN, b"", b"the empty key")
        }
        6 => {
            for (destination, topic) in [("one", "t"), ("two", "t"), ("two", "u"), ("three", "v")] {
                let payload = format!("to {destination}").into_bytes();
                tx.send(Outgoing { destination: destination.into(), topic: topic.into(), payload })?;
            }
            Ok(())
        }
        7 => {
            outbox::settle(tx, 1)?;
            outbox::postpone(tx, 2, 60_000, "not reachable")
        }
        8 => {
            tx.put(&KEPT, b"k", b"third")?;
            tx.put(&PLAIN, &every_byte(), &every_byte())
        }
        9 => {
            outbox::bury(tx, 3, "refused")?;
            tx.put(&RESIDENT, b"hot", b"2")?;
            tx.delete(&RESIDENT, b"gone")
        }
        10 => tx.put(&PLAIN, b"large", &[7; 3_000]),
        11 => tx.put(&KEPT, b"other", b"once"),
        _ => {
            tx.put(&PLAIN, b"a", b"again")?;
            tx.delete(&PLAIN, b"empty")
        }
    }
}

fn every_byte() -> Vec<u8> {
    (0..=255).collect()
}

/// Everything that is there after the last transaction.
fn check_rows(view: &View) {
    let row = |key: &[u8], value: &[u8]| Row { key: key.to_vec(), value: value.to_vec() };
    let rows = |table: Table| view.scan(&table, b"", None, usize::MAX).unwrap();
    assert_eq!(
        rows(PLAIN),
        [
            row(b"", b"the empty key"),
            row(&every_byte(), &every_byte()),
            row(b"a", b"again"),
            row(b"large", &[7; 3_000]),
        ]
    );
    assert_eq!(rows(KEPT), [row(b"k", b"third"), row(b"other", b"once")]);
    assert_eq!(rows(RESIDENT), [row(b"hot", b"2")]);

    let past = |sequence: u64, value: Option<&[u8]>| History {
        sequence,
        time: sequence * 1_000,
        value: value.map(<[u8]>::to_vec),
    };
    assert_eq!(
        history(view, &KEPT, b"k", 9).unwrap(),
        [past(2, Some(b"first")), past(3, Some(b"second")), past(4, None), past(8, Some(b"third"))]
    );
    assert_eq!(history(view, &KEPT, b"other", 9).unwrap(), [past(11, Some(b"once"))]);

    let message = |id: u64, destination: &str, topic: &str, error: &str| Pending {
        id,
        destination: destination.to_owned(),
        topic: topic.to_owned(),
        payload: format!("to {destination}").into_bytes(),
        created: 6_000,
        attempts: u32::from(!error.is_empty()),
        next_attempt: if id == 2 { 60_000 } else { 0 },
        last_error: error.to_owned(),
        dead: id == 3,
    };
    let mut pending = outbox::pending(view, None, 9).unwrap();
    pending.sort_by_key(|message| message.id);
    assert_eq!(pending, [message(2, "two", "t", "not reachable"), message(4, "three", "v", "")]);
    assert_eq!(outbox::dead(view, 0, 9).unwrap(), [message(3, "two", "u", "refused")]);
    assert_eq!(outbox::find(view, 1).unwrap(), None);
}

/// Opens a store made from these files, and checks all of it. Then it goes on.
fn check_store(dir: &Path, snapshot: Option<u64>) {
    let report = offline::fsck(dir, &Disk::counting(), &mut |_| ()).unwrap();
    let found: Vec<&str> = report.findings.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(found, ["the index was missing"]);
    assert_eq!(report.last_sequence, COUNT);

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open(dir, &Arc::new(AtomicU64::new(20_000)), Options::default());
    let opening = store.opening();
    assert_eq!((opening.records, opening.last_time, opening.dropped_bytes), (COUNT, 12_000, 0));
    assert_eq!((opening.snapshot, opening.replayed), (snapshot, COUNT - snapshot.unwrap_or(0)));
    assert_eq!(opening.refused_snapshots, Vec::<String>::new());
    check_rows(&store.view());
    let sent = runtime.block_on(store.transact("send", |tx| {
        tx.send(Outgoing { destination: "one".into(), topic: "t".into(), payload: Vec::new() })
    }));
    assert_eq!(sent.unwrap(), 5, "ids count on");
    drop(store);
    let report = offline::fsck(dir, &Disk::counting(), &mut |_| ()).unwrap();
    assert_eq!((report.findings, report.last_sequence), (Vec::new(), COUNT + 1));
}

fn open(dir: &Path, time: &Arc<AtomicU64>, options: Options) -> Store {
    let time = time.clone();
    let clock = Arc::new(move || time.load(Ordering::SeqCst));
    Store::open_with_options(dir, clock, Disk::counting(), options).unwrap()
}

fn golden(name: &str) -> PathBuf {
    // Below the package, in which cargo runs its tests, and not where this was compiled: a build cache serves several
    // checkouts.
    Path::new("tests/golden").join(name)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Paths of files, in order.
fn files(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, below: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, below, found);
            } else {
                found.push(path.strip_prefix(below).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

/// Makes the store at `to`, and its backup at `backup`.
fn make(to: &Path, backup: &Path) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let time = Arc::new(AtomicU64::new(0));
    let run = |options: Options, numbers: std::ops::RangeInclusive<u64>| {
        let store = open(&dir, &time, options);
        for number in numbers {
            time.store(number * 1_000, Ordering::SeqCst);
            runtime.block_on(store.transact("golden", move |tx| change(tx, number))).unwrap();
            runtime.block_on(store.rest());
        }
    };
    run(Options::default(), 1..=IN_SNAPSHOT);
    // The first segment is full now, and a snapshot due.
    run(
        Options { segment_bytes: 1, snapshot_bytes: 1, ..Options::default() },
        IN_SNAPSHOT + 1..=IN_SNAPSHOT + 1,
    );
    run(Options::default(), IN_SNAPSHOT + 2..=COUNT);
    let made = offline::backup(&dir, &place.path().join("backup"), 13_000, &Disk::counting(), &mut |_| ());
    made.unwrap().finish().unwrap();
    for part in ["journal", "snapshots"] {
        copy_tree(&dir.join(part), &to.join(part));
    }
    copy_tree(&place.path().join("backup"), backup);
}

/// Checks what [`make`] made, in copies.
fn check(store: &Path, backup: &Path) {
    let parts = ["journal/000000000001.seg", "journal/000000000002.seg", "snapshots/000000000008.snap"];
    assert_eq!(files(store), parts);
    let copies = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = copies.path().join(name);
        copy_tree(store, &to);
        to
    };
    check_store(&copy("whole"), Some(IN_SNAPSHOT));
    let without = copy("without");
    fs::remove_file(without.join("snapshots/000000000008.snap")).unwrap();
    check_store(&without, None);

    assert_eq!(files(backup), ["backup.json", "journal/000000000002.seg", "snapshots/000000000008.snap"]);
    let restored = copies.path().join("restored");
    let report = offline::restore(backup, &restored, "golden", &Disk::counting(), &mut |_| ()).unwrap();
    assert_eq!((report.sequence, report.files), (COUNT, 2));
    check_store(&restored, Some(IN_SNAPSHOT));
}

#[test]
fn a_store_of_version_1_is_read_row_by_row() {
    check(&golden("v1"), &golden("v1-backup"));
}

#[test]
fn what_this_program_writes_is_read_row_by_row() {
    let place = tempfile::tempdir().unwrap();
    let (store, backup) = match std::env::var_os(WRITE) {
        None => (place.path().join("store"), place.path().join("backup")),
        Some(version) => {
            let version =
                version.into_string().unwrap_or_else(|_| panic!("{WRITE} is a version, such as v2"));
            (golden(&version), golden(&format!("{version}-backup")))
        }
    };
    assert!(!store.exists() && !backup.exists(), "golden stores are not written over");
    make(&store, &backup);
    check(&store, &backup);
}
