//! Every operation of the disk fails once, and nothing acknowledged is ever lost by it.

use std::fs;

use super::snapshots::{LIMITS, add, check_sample, sample};
use super::*;
use crate::history;
use crate::snapshot::{self, Checked, Snapshot};

/// Transactions in the store that everything starts from, and how many more are tried.
const BEFORE: u64 = 9;
const MORE: u64 = 4;

pub(super) fn copy_tree(from: &Path, to: &Path) {
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

/// Two snapshots, segments behind them, a torn tail, and what an interrupted snapshot leaves.
async fn prepared() -> tempfile::TempDir {
    let dir = sample(BEFORE).await;
    fs::write(dir.path().join("snapshots/000000000099.tmp"), "half a snapshot").unwrap();
    let journal = dir.path().join("journal");
    let last = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 90, 1, 2, 3]);
    fs::write(&last, bytes).unwrap();
    dir
}

/// Opens, works and closes; says up to which transaction it was told that it is durable.
async fn live(dir: &Path, disk: &Disk) -> u64 {
    let opened = Store::open_with_options(dir, Time::at(1).clock(), disk.clone(), LIMITS);
    let Ok(store) = opened else { return BEFORE };
    let mut acknowledged = BEFORE;
    for number in BEFORE + 1..=BEFORE + MORE {
        let added = store.transact("add", move |tx| add(tx, number)).await;
        if added.is_err() {
            break;
        }
        acknowledged = number;
        store.rest().await;
    }
    // What it says is of no interest here: it must only do no harm.
    let _ = store.compact().await;
    store.close().await;
    acknowledged
}

/// Every `stride`-th operation fails.
async fn walk(kind: Option<Operation>, fault: Fault, stride: usize, at_least: u64) {
    let base = prepared().await;
    for at in (1..).step_by(stride) {
        let dir = tempfile::tempdir().unwrap();
        copy_tree(base.path(), dir.path());
        let disk = Disk::failing(FaultPlan { at, only: kind, fault });
        let acknowledged = live(dir.path(), &disk).await;

        let context = format!("{kind:?} {at} fails with {fault:?}");
        let store = open_small(dir.path(), LIMITS).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(store.opening().refused_snapshots, Vec::<String>::new(), "{context}");
        store.rest().await;
        for listed in snapshot::list(&dir.path().join("snapshots")).unwrap() {
            let checked = Snapshot::open(&listed).and_then(|snapshot| snapshot.check(|_| true));
            assert!(matches!(checked, Ok(Checked::Whole)), "{context}: {checked:?}");
        }
        // At most the one transaction that failed was kept all the same.
        let count = history(&store.view(), &KEPT, b"count", usize::MAX).unwrap().len() as u64;
        assert!((acknowledged..=acknowledged + 1).contains(&count), "{context}: {acknowledged}, {count}");
        check_sample(&store, count);
        commit(&store, move |tx| add(tx, count + 1)).await;
        if at % 8 == 0 {
            store.compact().await.unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        check_sample(&store, count + 1);
        if !disk.has_failed() {
            assert!(at > at_least, "the walk has only {at} steps");
            return;
        }
    }
}

#[tokio::test]
async fn any_operation_may_fail() {
    walk(None, Fault::Io, 1, 80).await;
}

#[tokio::test]
async fn the_disk_may_fail_for_good() {
    walk(None, Fault::Everything, 3, 80).await;
}

#[tokio::test]
async fn writes_may_be_torn() {
    walk(Some(Operation::Write), Fault::Torn { bytes: 20 }, 1, 10).await;
}

#[tokio::test]
async fn the_disk_may_be_full() {
    walk(Some(Operation::Write), Fault::NoSpace, 2, 10).await;
}

#[tokio::test]
async fn a_snapshot_that_fails_is_said_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::counting();
    let store = Store::open_with_options(dir.path(), Time::at(1).clock(), disk.clone(), LIMITS).unwrap();
    // The first rename after the opening names the second segment, the next one the snapshot.
    disk.plan(FaultPlan::nth_of(Operation::Rename, 2, Fault::NoSpace));
    let mut number = 0;
    while !disk.has_failed() {
        number += 1;
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
    }
    let maintenance = store.maintenance();
    assert_eq!((maintenance.last_snapshot_sequence, maintenance.snapshots), (None, 0));
    let error = maintenance.last_error.unwrap();
    assert!(error.contains("cannot rename") && error.contains("No space left"), "{error}");
    assert_eq!(store.health(), crate::Health::Ok);
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);

    while store.maintenance().last_error.is_some() {
        number += 1;
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
    }
    assert_eq!(store.maintenance().snapshots, 1);
    check_sample(&store, number);
}
