//! What was acknowledged outlasts a power cut at any moment, whatever the disk makes of what was not synced.

use std::collections::BTreeMap;
use std::fs;

use super::offline::digests;
use super::snapshots::{add, check_sample};
use super::*;
use crate::disk::Names;
use crate::history;

/// A snapshot takes the place of several segments.
const LIMITS: Options = Options { segment_bytes: 300, snapshot_bytes: 700, chunk_bytes: 700 };
const COUNT: u64 = 26;

fn open_on(dir: &Path, disk: &Disk) -> Result<Store, OpenError> {
    Store::open_with_options(dir, Time::at(1).clock(), disk.clone(), LIMITS)
}

fn count(store: &Store) -> u64 {
    history(&store.view(), &KEPT, b"count", usize::MAX).unwrap().len() as u64
}

/// Opens what a power cut leaves.
fn after_power_cut(disk: &Disk, names: Names, dir: &Path) -> (tempfile::TempDir, Store) {
    let left = tempfile::tempdir().unwrap();
    disk.cut_power(disk.moments(), names, dir, left.path());
    let store = open_small(left.path(), LIMITS).unwrap();
    (left, store)
}

#[tokio::test]
async fn what_was_acknowledged_outlasts_a_power_cut_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::losing_power();
    // From which moment on so many transactions were acknowledged.
    let mut acknowledged = vec![(0, 0)];
    let mut store = open_on(dir.path(), &disk).unwrap();
    for number in 1..=COUNT {
        commit(&store, move |tx| add(tx, number)).await;
        acknowledged.push((disk.moments(), number));
        store.rest().await;
        if number == COUNT / 2 {
            store.close().await;
            store = open_on(dir.path(), &disk).unwrap();
        }
    }
    assert_eq!((store.maintenance().snapshots, store.maintenance().last_error), (2, None));
    store.close().await;

    // Most moments leave what the one before left.
    let mut known = BTreeMap::new();
    for moment in 0..=disk.moments() {
        let promised =
            acknowledged.iter().rfind(|(from, _)| *from <= moment).map_or(0, |(_, number)| *number);
        for names in [Names::Synced, Names::Latest, Names::All] {
            let context = format!("power cut at {moment}, {names:?}, {promised} acknowledged");
            let left = tempfile::tempdir().unwrap();
            disk.cut_power(moment, names, dir.path(), left.path());
            let found = *known.entry(digests(left.path())).or_insert_with(|| {
                let store =
                    open_small(left.path(), LIMITS).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(store.opening().refused_snapshots, Vec::<String>::new(), "{context}");
                let found = count(&store);
                if found > 0 {
                    check_sample(&store, found);
                }
                found
            });
            // What was under way may be there too.
            assert!((promised..=promised + 1).contains(&found), "{context}: {found} are there");
        }
    }
    assert!(known.len() > 60, "only {} states", known.len());
}

/// After a failed fsync the kernel takes what it holds for written: to sync that again is no help.
#[tokio::test]
async fn a_group_whose_sync_failed_is_written_again_before_a_restart_believes_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::losing_power();
    let store = open_on(dir.path(), &disk).unwrap();
    commit(&store, |tx| add(tx, 1)).await;
    disk.plan(FaultPlan::nth_of(Operation::Sync, 1, Fault::Io));
    store.transact("add", |tx| add(tx, 2)).await.unwrap_err();
    drop(store);
    assert!(disk.has_failed());
    let (_left, store) = after_power_cut(&disk, Names::All, dir.path());
    assert_eq!(count(&store), 1);

    let store = open_on(dir.path(), &disk).unwrap();
    assert_eq!(count(&store), 2);
    for names in [Names::Synced, Names::Latest, Names::All] {
        let (_left, store) = after_power_cut(&disk, names, dir.path());
        check_sample(&store, 2);
    }
}

#[test]
fn only_what_was_synced_is_left() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::losing_power());
    let held = disk.directory(dir.path()).unwrap();
    let check = |names: Names, expected: &[(&str, &str)]| {
        let left = tempfile::tempdir().unwrap();
        disk.cut_power(disk.moments(), names, dir.path(), left.path());
        let mut found: Vec<(String, String)> = fs::read_dir(left.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        found.sort();
        assert_eq!(found, pairs(expected), "{names:?}");
    };
    let path = |name: &str| dir.path().join(name);
    let mut one = disk.create(&path("one")).unwrap();
    one.write_all(b"1").unwrap();
    check(Names::Synced, &[]);
    check(Names::All, &[("one", "")]);
    one.sync().unwrap();
    check(Names::Synced, &[]);
    check(Names::All, &[("one", "1")]);
    held.sync().unwrap();
    one.write_all(b"23").unwrap();
    check(Names::Synced, &[("one", "1")]);

    // What a failed sync gave up comes back only by being written.
    disk.plan(FaultPlan::nth_of(Operation::Sync, 1, Fault::Io));
    one.sync().unwrap_err();
    one.sync().unwrap();
    check(Names::Synced, &[("one", "1\0\0")]);
    one.write_at(b"23", 1).unwrap();
    one.sync().unwrap();
    check(Names::Synced, &[("one", "123")]);

    disk.rename(&path("one"), &path("two")).unwrap();
    disk.create(&path("three")).unwrap();
    check(Names::Synced, &[("one", "123")]);
    check(Names::Latest, &[("one", "123"), ("three", "")]);
    check(Names::All, &[("three", ""), ("two", "123")]);
    held.sync().unwrap();
    disk.remove(&path("two")).unwrap();
    check(Names::Synced, &[("three", ""), ("two", "123")]);
    check(Names::All, &[("three", "")]);
}
