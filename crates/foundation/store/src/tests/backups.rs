//! A backup of a running store is one moment of it, whole, and disturbs nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::snapshots::{LIMITS, add, check_history, check_sample, first_sequence, sample};
use super::*;
use crate::backup::{Addition, BackupError, BackupReport, Change, Manifest};
use crate::{Progress, history};

/// Runs a backup off the runtime's threads.
async fn back_up(store: &Store, to: &Path) -> Result<BackupReport, BackupError> {
    back_up_watched(store, to, |_| ()).await
}

async fn back_up_watched(
    store: &Store,
    to: &Path,
    mut watch: impl FnMut(Progress) + Send + 'static,
) -> Result<BackupReport, BackupError> {
    let (store, to) = (store.clone(), to.to_owned());
    tokio::task::spawn_blocking(move || store.backup(&to, &mut watch)?.finish()).await.unwrap()
}

fn files(dir: &Path) -> BTreeSet<String> {
    fn walk(dir: &Path, below: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, below, found);
            } else {
                found.insert(path.strip_prefix(below).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(dir, dir, &mut found);
    found
}

/// Compares the manifest with the files, file by file.
fn check_manifest(to: &Path, report: &BackupReport) {
    let manifest = Manifest::read(to).unwrap();
    let mut expected = files(to);
    assert!(expected.remove("backup.json"));
    let named: BTreeSet<String> = manifest.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(named, expected);
    let mut bytes = 0;
    for file in &manifest.files {
        let content = fs::read(to.join(&file.path)).unwrap();
        assert_eq!(file.length as usize, content.len());
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(file.sha256, digest, "{}", file.path);
        bytes += file.length;
    }
    assert_eq!((report.files as usize, report.bytes), (manifest.files.len(), bytes));
    assert_eq!(report.sequence, manifest.sequence);
}

/// Opens a copy of the backup, and says how many transactions of the sample are there.
fn open_copy(to: &Path) -> (tempfile::TempDir, Store) {
    let copy = tempfile::tempdir().unwrap();
    for name in files(to) {
        let target = copy.path().join(&name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(to.join(&name), target).unwrap();
    }
    let store = open_small(copy.path(), LIMITS).unwrap();
    (copy, store)
}

#[tokio::test]
async fn a_backup_holds_the_newest_snapshot_and_the_journal_behind_it() {
    let dir = sample(30).await;
    let store = open_small(dir.path(), LIMITS).unwrap();
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new/backup");
    let report = back_up(&store, &to).await.unwrap();
    assert_eq!(report.sequence, 30);
    check_manifest(&to, &report);
    let manifest = Manifest::read(&to).unwrap();
    let snapshot = store.maintenance().last_snapshot_sequence.unwrap();
    assert_eq!((manifest.snapshot, manifest.made), (Some(snapshot), 1));
    assert!(report.files < files(dir.path()).len() as u64);

    // What never changes any more is not copied; the open segment is.
    let link = |path: &str| fs::metadata(to.join(path)).unwrap().nlink();
    let open = manifest.files.iter().rfind(|file| file.path.starts_with("journal")).unwrap();
    for file in &manifest.files {
        let expected = if file.path == open.path { 1 } else { 2 };
        assert_eq!(link(&file.path), expected, "{}", file.path);
    }
    assert_eq!(report.linked, report.files - 1);

    // The store goes its way, the backup stays as it is.
    for number in 31..=50 {
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
    }
    check_manifest(&to, &report);
    let (_copy, copied) = open_copy(&to);
    assert_eq!((copied.opening().records, copied.opening().dropped_bytes), (30, 0));
    check_sample(&copied, 30);
    check_sample(&store, 50);
}

#[tokio::test]
async fn a_store_without_snapshots_and_an_empty_one_are_backed_up_too() {
    for count in [0, 3] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for number in 1..=count {
            commit(&store, move |tx| add(tx, number)).await;
        }
        let target = tempfile::tempdir().unwrap();
        let report = back_up(&store, target.path()).await.unwrap();
        assert_eq!((report.sequence, report.files, report.linked), (count, 1, 0));
        check_manifest(target.path(), &report);
        let (_copy, copied) = open_copy(target.path());
        assert_eq!(copied.opening().records, count);
        check_history(&copied, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_a_backup_is_made() {
    let dir = sample(30).await;
    let store = open_small(dir.path(), LIMITS).unwrap();
    let target = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let (worker, mut count) = (store.clone(), 30);
    let watch = move |_| {
        // At each step enough is written for snapshots that would replace what is being copied.
        for _ in 0..6 {
            count += 1;
            let number = count;
            runtime.block_on(commit(&worker, move |tx| add(tx, number)));
            runtime.block_on(worker.rest());
        }
    };
    let report = back_up_watched(&store, target.path(), watch).await.unwrap();
    check_manifest(target.path(), &report);
    assert!(report.sequence >= 30);
    let (_copy, copied) = open_copy(target.path());
    check_sample(&copied, report.sequence);

    // What had to wait is deleted now.
    store.rest().await;
    let maintenance = store.maintenance();
    assert_eq!((maintenance.snapshots, maintenance.last_error), (2, None));
    let older: u64 = files(&dir.path().join("snapshots")).first().unwrap()[..12].parse().unwrap();
    assert_eq!(first_sequence(dir.path()), older + 1);
    let count = history(&store.view(), &KEPT, b"count", usize::MAX).unwrap().len() as u64;
    assert!(count > 50);
    check_sample(&store, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_waits_for_the_backup() {
    let dir = sample(30).await;
    let store = open_small(dir.path(), LIMITS).unwrap();
    let target = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let compacting = Arc::new(std::sync::Mutex::new(None));
    let (worker, started) = (store.clone(), compacting.clone());
    let watch = move |_| {
        let mut started = started.lock().unwrap();
        let worker = worker.clone();
        let running = started.get_or_insert_with(|| runtime.spawn(async move { worker.compact().await }));
        assert!(!running.is_finished(), "compacted in the middle of a backup");
    };
    let report = back_up_watched(&store, target.path(), watch).await.unwrap();
    check_manifest(target.path(), &report);
    let running = compacting.lock().unwrap().take().unwrap();
    running.await.unwrap().unwrap();
    check_sample(&store, 30);
}

#[tokio::test]
async fn only_an_empty_directory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("something"), "precious").unwrap();
    let refused = back_up(&store, target.path()).await.unwrap_err();
    assert!(matches!(refused, BackupError::NotEmpty { .. }), "{refused:?}");
    assert!(refused.to_string().contains("choose one that does not exist yet"), "{refused}");
    assert_eq!(files(target.path()), BTreeSet::from(["something".to_owned()]));
    assert!(matches!(Manifest::read(target.path()), Err(BackupError::Manifest { .. })));
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_backed_up() {
    let dir = sample(30).await;
    let store = open_small(dir.path(), LIMITS).unwrap();
    let newest = store.maintenance().last_snapshot_sequence.unwrap();
    let path = dir.path().join(format!("snapshots/{newest:012}.snap"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let target = tempfile::tempdir().unwrap();
    let report = back_up(&store, target.path()).await.unwrap();
    check_manifest(target.path(), &report);
    assert!(Manifest::read(target.path()).unwrap().snapshot.unwrap() < newest);
    let (_copy, copied) = open_copy(target.path());
    check_sample(&copied, 30);
}

#[tokio::test]
async fn a_backup_that_fails_has_no_manifest_and_leaves_the_store_alone() {
    let dir = sample(30).await;
    let disk = Disk::counting();
    let store = Store::open_with_options(dir.path(), Time::at(1).clock(), disk.clone(), LIMITS).unwrap();
    store.rest().await;
    let mut failed = 0;
    for at in 1.. {
        let target = tempfile::tempdir().unwrap();
        disk.plan(FaultPlan::nth(at, Fault::Io));
        let result = back_up(&store, target.path()).await;
        let was_reached = disk.has_failed();
        disk.plan(FaultPlan::nth(0, Fault::Io));
        match result {
            Ok(report) => check_manifest(target.path(), &report),
            Err(error) => {
                assert!(was_reached, "{error}");
                failed += 1;
                // The sync after the manifest's rename may be what failed.
                if target.path().join("backup.json").exists() {
                    Manifest::read(target.path()).unwrap();
                }
            }
        }
        if !was_reached {
            break;
        }
    }
    assert!(failed > 10, "only {failed} operations mattered");
    commit(&store, |tx| add(tx, 31)).await;
    check_sample(&store, 31);
}

#[tokio::test]
async fn files_beside_the_store_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "a", "1").await;
    fs::create_dir_all(dir.path().join("ledger/tile/0")).unwrap();
    fs::write(dir.path().join("ledger/tile/0/000"), "for ever").unwrap();
    fs::write(dir.path().join("ledger/checkpoint"), "for now").unwrap();
    let target = tempfile::tempdir().unwrap();
    let to = target.path();
    let mut backup = store.backup(to, &mut |_| ()).unwrap();
    let addition = |path: &str, change| Addition { path: path.into(), change };

    for (path, why) in [
        ("../elsewhere", "leads elsewhere"),
        ("/etc/hostname", "leads elsewhere"),
        ("", "leads elsewhere"),
        ("journal/000000000001.seg", "in the backup already"),
    ] {
        let refused = backup.add(&[addition(path, Change::Possible)], &mut |_| ()).unwrap_err().to_string();
        assert!(refused.contains(why), "{path}: {refused}");
    }
    // A link made by an attempt that failed later must not become the way to write over the original.
    backup
        .add(
            &[addition("ledger/tile/0/000", Change::Never), addition("ledger/missing", Change::Never)],
            &mut |_| (),
        )
        .unwrap_err();
    backup
        .add(
            &[addition("ledger/tile/0/000", Change::Possible), addition("ledger/checkpoint", Change::Never)],
            &mut |_| (),
        )
        .unwrap();
    let again = backup.add(&[addition("ledger/checkpoint", Change::Never)], &mut |_| ()).unwrap_err();
    assert!(again.to_string().contains("in the backup already"), "{again}");
    // Whatever was added: without its end it is no backup.
    let unfinished = Manifest::read(to).unwrap_err().to_string();
    assert!(unfinished.contains("the backup was not finished"), "{unfinished}");

    let report = backup.finish().unwrap();
    assert_eq!(fs::read(dir.path().join("ledger/tile/0/000")).unwrap(), b"for ever");
    assert_eq!(fs::metadata(to.join("ledger/tile/0/000")).unwrap().nlink(), 1);
    assert_eq!(fs::metadata(to.join("ledger/checkpoint")).unwrap().nlink(), 2);
    assert_eq!((report.files, report.linked), (3, 1));
    check_manifest(to, &report);
}

#[tokio::test]
async fn each_file_is_durable_before_the_manifest_whether_it_is_copied_or_linked() {
    for change in [Change::Never, Change::Possible] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::counting();
        let store = Store::open_on(dir.path(), Time::at(1).clock(), disk.clone()).unwrap();
        fs::write(dir.path().join("beside"), "written by somebody").unwrap();
        let target = tempfile::tempdir().unwrap();
        let mut backup = store.backup(target.path(), &mut |_| ()).unwrap();
        let before = syncs(&disk);
        backup.add(&[Addition { path: "beside".into(), change }], &mut |_| ()).unwrap();
        assert_eq!(syncs(&disk), before + 1, "{change:?}");
        backup.finish().unwrap();
    }
}

#[tokio::test]
async fn a_journal_that_lost_its_end_on_the_disk_is_not_backed_up() {
    type Spoil = fn(&mut Vec<u8>);
    let spoils: [Spoil; 2] = [|bytes| *bytes.last_mut().unwrap() ^= 1, |bytes| bytes.fill(0)];
    for spoil in spoils {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, PLAIN, "a", "1").await;
        let segment = dir.path().join("journal/000000000001.seg");
        let before = fs::metadata(&segment).unwrap().len() as usize;
        put(&store, PLAIN, "b", "acknowledged").await;
        let mut bytes = fs::read(&segment).unwrap();
        let mut end = bytes.split_off(before);
        spoil(&mut end);
        bytes.extend(end);
        overwrite(&segment, &bytes);

        let target = tempfile::tempdir().unwrap();
        let refused = back_up(&store, target.path()).await.unwrap_err();
        assert!(matches!(refused, BackupError::Shortened { copied: 1, durable: 2, .. }), "{refused:?}");
        assert!(refused.to_string().contains("check the disk"), "{refused}");
        assert!(!target.path().join("backup.json").exists());
    }
}

#[test]
fn a_manifest_is_not_believed_blindly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.json");
    let good = r#"{"format":"huitong/backup/v1","journal":"00","sequence":1,"snapshot":null,"made":2,
        "files":[{"path":"journal/000000000001.seg","length":1,"sha256":"00"}]}"#;
    let check = |text: String, expected: &str| {
        fs::write(&path, text).unwrap();
        let error = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say {expected}");
    };
    fs::write(&path, good).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap().files.len(), 1);
    check(good.replace("backup/v1", "backup/v2"), "its format is huitong/backup/v2");
    check(good.replace("journal/0", "../0"), "leads out of the backup");
    check(good.replace("journal/0", "/journal/0"), "leads out of the backup");
    check(good.replace("\"made\"", "\"mode\""), "unknown field");
    check(good.replace("]}", "]"), "EOF");
    let missing: PathBuf = dir.path().join("nowhere");
    assert!(Manifest::read(&missing).unwrap_err().to_string().contains("it is missing"));
}
