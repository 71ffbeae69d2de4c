//! Backups of stopped stores, of stores under load, and stores from backups: the whole or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::faults::copy_tree;
use super::offline::{digests, fsck};
use super::snapshots::{LIMITS, add, check_history, check_sample, sample};
use super::*;
use crate::backup::{BackupError, BackupReport, Manifest};
use crate::lock::Lock;
use crate::offline::{self, RESTORED, Severity};

/// Transactions in the sample.
const COUNT: u64 = 33;

fn back_up(dir: &Path, to: &Path) -> Result<BackupReport, BackupError> {
    offline::backup(dir, to, 7, &Disk::counting(), &mut |_| ())?.finish()
}

fn restore(from: &Path, to: &Path) -> Result<BackupReport, BackupError> {
    restore_on(from, to, &Disk::counting())
}

fn restore_on(from: &Path, to: &Path, disk: &Disk) -> Result<BackupReport, BackupError> {
    offline::restore(from, to, "from the tests\n", disk, &mut |_| ())
}

/// A backup of the sample, in `backup`; `store` is free.
async fn backed_up() -> tempfile::TempDir {
    let (dir, place) = (sample(COUNT).await, tempfile::tempdir().unwrap());
    back_up(dir.path(), &place.path().join("backup")).unwrap();
    place
}

/// What was restored is marked, has no index yet, and is whole.
fn check_restored(to: &Path, count: u64) {
    assert_eq!(fs::read_to_string(to.join(RESTORED)).unwrap(), "from the tests\n");
    let report = fsck(to);
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert_eq!((finding.severity, finding.what.as_str()), (Severity::Recoverable, "the index was missing"));
    let store = open_small(to, LIMITS).unwrap();
    assert_eq!((store.opening().records, store.opening().dropped_bytes), (count, 0));
    check_sample(&store, count);
    drop(store);
    assert_eq!(fsck(to).findings, []);
    assert!(to.join(RESTORED).exists(), "a start does not remove the mark");
}

/// Nothing is where the store was to be, nor beside it.
fn check_nothing(place: &Path) {
    let left: Vec<_> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["backup"]);
}

#[tokio::test]
async fn a_stopped_store_is_backed_up_and_restored() {
    let dir = sample(COUNT).await;
    let before = digests(dir.path());
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("backup"), place.path().join("store"));
    let report = back_up(dir.path(), &from).unwrap();
    assert_eq!(digests(dir.path()), before);
    let manifest = Manifest::read(&from).unwrap();
    assert_eq!((report.sequence, manifest.sequence, manifest.made), (COUNT, COUNT, 7));
    assert_eq!((report.files as usize, report.linked), (manifest.files.len(), report.files - 1));
    let taken = digests(&from);

    let restored = restore(&from, &to).unwrap();
    assert_eq!(restored, BackupReport { linked: 0, ..report });
    check_restored(&to, COUNT);
    // They share nothing: what is done to one does not show in the other.
    let store = open_small(&to, LIMITS).unwrap();
    commit(&store, |tx| add(tx, COUNT + 1)).await;
    store.compact().await.unwrap();
    drop(store);
    assert_eq!((digests(&from), digests(dir.path())), (taken, before));
    // What was restored is backed up like any other store, without its mark.
    let again = place.path().join("again");
    back_up(&to, &again).unwrap();
    assert!(!again.join(RESTORED).exists());
}

#[tokio::test]
async fn what_a_start_passes_over_is_not_in_the_backup() {
    let check = |dir: &Path, snapshot: Option<u64>| {
        let place = tempfile::tempdir().unwrap();
        back_up(dir, &place.path().join("backup")).unwrap();
        assert_eq!(Manifest::read(&place.path().join("backup")).unwrap().snapshot, snapshot);
        restore(&place.path().join("backup"), &place.path().join("store")).unwrap();
        check_restored(&place.path().join("store"), COUNT);
    };
    let file = |dir: &tempfile::TempDir, path: &str| dir.path().join(path);
    let append = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes.extend_from_slice(&[0, 0, 0, 90, 1, 2, 3]);
        fs::write(path, bytes).unwrap();
    };
    let dir = sample(COUNT).await;
    check(dir.path(), Some(28));
    let last = fs::read_dir(file(&dir, "journal")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    append(&last);
    check(dir.path(), Some(28));
    // Behind the newest snapshot nobody needs the journal; without it, one does.
    let behind = file(&dir, "journal/000000000012.seg");
    let whole = fs::read(&behind).unwrap();
    append(&behind);
    check(dir.path(), Some(28));
    fs::write(file(&dir, "snapshots/000000000028.snap"), "rubbish").unwrap();
    let place = tempfile::tempdir().unwrap();
    let error = back_up(dir.path(), place.path()).unwrap_err();
    assert!(matches!(error, BackupError::Files(OpenError::Damaged { .. })), "{error:?}");
    assert!(!place.path().join("backup.json").exists());
    fs::write(&behind, whole).unwrap();
    check(dir.path(), Some(22));
}

#[tokio::test]
async fn a_store_in_use_is_not_backed_up_behind_its_back() {
    let dir = tempfile::tempdir().unwrap();
    let _running = open(dir.path());
    let place = tempfile::tempdir().unwrap();
    let error = back_up(dir.path(), place.path()).unwrap_err();
    assert!(matches!(error, BackupError::Files(OpenError::Locked { .. })), "{error:?}");
    let error = back_up(&place.path().join("nowhere"), &place.path().join("backup")).unwrap_err();
    assert!(matches!(error, BackupError::Files(OpenError::Io { .. })), "{error:?}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_holds_everything_acknowledged_before_it_began() {
    const WRITERS: u64 = 16;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4_000, snapshot_bytes: 8_000, chunk_bytes: 10_000 };
    let store = open_small(dir.path(), options).unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let acknowledged: Vec<_> = (0..WRITERS).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let writing: Vec<_> = (0..WRITERS)
        .zip(acknowledged.clone())
        .map(|(writer, acknowledged)| {
            let (store, stopped) = (store.clone(), stopped.clone());
            tokio::spawn(async move {
                for number in 1_u64.. {
                    if stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    commit(&store, move |tx| {
                        let count = tx.get(&KEPT, b"count")?;
                        let count =
                            count.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap())) + 1;
                        tx.put(&KEPT, b"count", &count.to_be_bytes())?;
                        tx.put(&RESIDENT, &writer.to_be_bytes(), &number.to_be_bytes())?;
                        tx.put(
                            &PLAIN,
                            &[writer.to_be_bytes(), number.to_be_bytes()].concat(),
                            &count.to_be_bytes(),
                        )
                    })
                    .await;
                    acknowledged.store(number, Ordering::SeqCst);
                }
            })
        })
        .collect();

    let place = tempfile::tempdir().unwrap();
    let mut commits = store.commits();
    for round in 1..=4_u64 {
        commits.wait_for(|sequence| *sequence >= round * 150).await.unwrap();
        let (from, to) =
            (place.path().join(format!("backup{round}")), place.path().join(format!("store{round}")));
        let before: Vec<u64> = acknowledged.iter().map(|number| number.load(Ordering::SeqCst)).collect();
        let report = {
            let (store, from) = (store.clone(), from.clone());
            let backup = move || store.backup(&from, &mut |_| ())?.finish();
            tokio::task::spawn_blocking(backup).await.unwrap().unwrap()
        };
        assert_eq!(restore(&from, &to).unwrap().sequence, report.sequence);
        let restored = open_small(&to, options).unwrap();
        // One transaction after another, and nothing between them missing.
        check_history(&restored, report.sequence);
        let view = restored.view();
        let mut counts = BTreeMap::new();
        let mut last = BTreeMap::new();
        for row in view.scan(&PLAIN, b"", None, usize::MAX).unwrap() {
            let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
            let (writer, number, count) = (number(&row.key[..8]), number(&row.key[8..]), number(&row.value));
            assert_eq!(number, last.get(&writer).copied().unwrap_or(0) + 1, "writer {writer}");
            last.insert(writer, number);
            counts.insert(count, (writer, number));
        }
        assert!(counts.keys().copied().eq(1..=report.sequence));
        for (writer, before) in (0..WRITERS).zip(before) {
            let found = last.get(&writer).copied().unwrap_or(0);
            assert!(found >= before, "writer {writer}: {before} were acknowledged, {found} are there");
            let resident = view.get(&RESIDENT, &writer.to_be_bytes()).unwrap();
            assert_eq!(resident, (found > 0).then(|| found.to_be_bytes().to_vec()));
        }
        drop((view, restored));
        assert_eq!(fsck(&to).findings, []);
    }
    stopped.store(true, Ordering::SeqCst);
    for writing in writing {
        writing.await.unwrap();
    }
    store.rest().await;
    assert_eq!(store.maintenance().last_error, None);
    assert_eq!(store.maintenance().snapshots, 2);
}

#[tokio::test]
async fn any_operation_may_fail_while_a_store_is_restored() {
    let place = backed_up().await;
    let (from, to) = (place.path().join("backup"), place.path().join("store"));
    for fault in [Fault::Io, Fault::Everything, Fault::Torn { bytes: 20 }] {
        let (mut failed, mut named) = (0, 0);
        for at in 1.. {
            let disk = Disk::failing(FaultPlan::nth(at, fault));
            let restored = restore_on(&from, &to, &disk);
            let context = format!("{fault:?} at {at}: {restored:?}");
            assert_eq!(restored.is_err(), disk.has_failed(), "{context}");
            failed += u64::from(disk.has_failed());
            // The whole, if only its name is not durable; or nothing.
            if to.exists() {
                named += u64::from(restored.is_err());
                let held = fsck(&to);
                assert_eq!((held.last_sequence, held.worst()), (COUNT, Severity::Recoverable), "{context}");
                fs::remove_dir_all(&to).unwrap();
            }
            if !disk.has_failed() {
                break;
            }
            // What was left behind is in nobody's way.
            if at % 5 == 0 {
                restore(&from, &to).unwrap_or_else(|error| panic!("{context}: {error}"));
                fs::remove_dir_all(&to).unwrap();
                check_nothing(place.path());
            }
            let _ = fs::remove_dir_all(place.path().join("store.restoring"));
        }
        assert!(failed > 30, "only {failed} operations mattered");
        assert_eq!(named, 1, "the last operation of all is the sync of the name");
    }
    restore(&from, &to).unwrap();
    check_restored(&to, COUNT);
}

#[tokio::test]
async fn a_backup_that_is_not_what_its_manifest_says_is_refused() {
    let place = backed_up().await;
    let (from, to) = (place.path().join("backup"), place.path().join("store"));
    let manifest = Manifest::read(&from).unwrap();
    type Spoil = fn(&Path);
    let spoils: [Spoil; 5] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, &fs::read(path).unwrap()[1..]).unwrap(),
        |path| fs::write(path, [fs::read(path).unwrap(), vec![0]].concat()).unwrap(),
    ];
    for file in &manifest.files {
        let path = from.join(&file.path);
        for spoil in spoils {
            let whole = fs::read(&path).unwrap();
            spoil(&path);
            let error = restore(&from, &to).unwrap_err();
            assert!(matches!(&error, BackupError::Altered { file } if *file == path), "{error:?}");
            assert!(error.to_string().contains("choose another backup"), "{error}");
            check_nothing(place.path());
            fs::write(&path, whole).unwrap();
        }
    }
    restore(&from, &to).unwrap();
    check_restored(&to, COUNT);
}

#[tokio::test]
async fn a_manifest_that_was_altered_is_refused() {
    let place = backed_up().await;
    let (from, to) = (place.path().join("backup"), place.path().join("store"));
    fs::write(place.path().join("outside"), "elsewhere").unwrap();
    let path = from.join("backup.json");
    let whole = fs::read_to_string(&path).unwrap();
    let read: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let check = |change: &dyn Fn(&mut serde_json::Value), why: &str| {
        let mut altered = read.clone();
        change(&mut altered);
        fs::write(&path, altered.to_string()).unwrap();
        let error = restore(&from, &to).unwrap_err();
        assert!(matches!(error, BackupError::Manifest { .. }), "{why}: {error:?}");
        assert!(error.to_string().contains(why), "{error} does not say {why}");
        assert!(!to.exists() && !place.path().join("store.restoring").exists(), "{why}");
    };
    check(&|manifest| manifest["files"][0]["path"] = "../outside".into(), "leads out of the backup");
    check(
        &|manifest| manifest["files"][0]["path"] = "journal/../../outside".into(),
        "leads out of the backup",
    );
    check(&|manifest| manifest["files"][0]["path"] = "/etc/hostname".into(), "leads out of the backup");
    check(&|manifest| manifest["format"] = "huitong/backup/v2".into(), "its format is");
    check(&|manifest| manifest["sequence"] = 34.into(), "the journal ends at 33");
    let files = |manifest: &mut serde_json::Value| manifest["files"].as_array_mut().unwrap().len();
    assert_eq!(files(&mut read.clone()), 4, "three segments, one snapshot");
    check(&|manifest| drop(manifest["files"].as_array_mut().unwrap().remove(3)), "not a whole store");
    check(
        &|manifest| drop(manifest["files"].as_array_mut().unwrap().remove(2)),
        "it says that transaction 33 is the last",
    );
    check(&|manifest| drop(manifest["files"].as_array_mut().unwrap().remove(1)), "not a whole store");
    check(
        &|manifest| drop(manifest["files"].as_array_mut().unwrap().drain(..3)),
        "names no file of a journal",
    );
    fs::remove_file(&path).unwrap();
    let error = restore(&from, &to).unwrap_err();
    assert!(error.to_string().contains("the backup was not finished"), "{error}");
    fs::write(&path, whole).unwrap();
    restore(&from, &to).unwrap();
    check_restored(&to, COUNT);
}

#[tokio::test]
async fn only_an_empty_place_is_restored_to() {
    let place = backed_up().await;
    let (from, to) = (place.path().join("backup"), place.path().join("store"));
    let draft = place.path().join("store.restoring");

    fs::create_dir(&to).unwrap();
    fs::write(to.join("something"), "precious").unwrap();
    let error = restore(&from, &to).unwrap_err();
    assert!(matches!(&error, BackupError::NotEmpty { directory } if *directory == to), "{error:?}");
    assert_eq!(fs::read_to_string(to.join("something")).unwrap(), "precious");
    assert!(!draft.exists());

    // What comes there while the backup is read is not lost either.
    fs::remove_file(to.join("something")).unwrap();
    let late = to.join("late");
    let put = late.clone();
    let error = offline::restore(&from, &to, "", &Disk::counting(), &mut |_| fs::write(&put, "too").unwrap());
    assert!(matches!(error, Err(BackupError::Files(OpenError::Io { action: "rename", .. }))), "{error:?}");
    assert_eq!(fs::read_to_string(&late).unwrap(), "too");
    assert!(!draft.exists());
    fs::remove_file(late).unwrap();

    // Another that restores there is not disturbed; what one has left behind is.
    fs::create_dir_all(draft.join("journal/deep")).unwrap();
    fs::write(draft.join("journal/000000000099.seg"), "half of it").unwrap();
    fs::write(draft.join("restored"), "an earlier attempt").unwrap();
    let other = Lock::take(&draft, &Disk::counting()).unwrap();
    let error = restore(&from, &to).unwrap_err();
    assert!(matches!(error, BackupError::Files(OpenError::Locked { .. })), "{error:?}");
    assert!(draft.join("journal/deep").exists());
    drop(other);
    restore(&from, &to).unwrap();
    assert!(!draft.exists());
    check_restored(&to, COUNT);

    // A file, and a path without a name.
    let file = place.path().join("file");
    fs::write(&file, "precious").unwrap();
    for (to, action) in [(file.clone(), "list"), (place.path().join("missing/.."), "restore to")] {
        let error = restore(&from, &to).unwrap_err();
        assert!(
            matches!(&error, BackupError::Files(OpenError::Io { action: said, .. }) if *said == action),
            "{error:?}"
        );
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    // Directories above are made.
    let deep: PathBuf = place.path().join("a/b/c");
    restore(&from, &deep).unwrap();
    check_restored(&deep, COUNT);
    // A copy of a backup is as good.
    let (moved, to) = (place.path().join("moved"), place.path().join("moved-store"));
    copy_tree(&from, &moved);
    restore(&moved, &to).unwrap();
    check_restored(&to, COUNT);
}
