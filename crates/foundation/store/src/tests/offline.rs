//! A stopped store is checked without being changed, and what is said of it is what a start then finds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::snapshots::{LIMITS, add, check_sample, sample};
use super::*;
use crate::blocks::{HEADER_BYTES, StoredRow};
use crate::index::{Index, Standing};
use crate::offline::{self, FsckReport, Severity, TableStats};
use crate::snapshot::{self, Snapshot, SnapshotWriter};

/// Transactions in the sample.
const COUNT: u64 = 33;
/// Rows after them: three, one with its history, a resident one.
const ROWS: u64 = 3 + (1 + COUNT) + 1;

/// All files by path, but for the lock's and sled's own.
pub(super) fn digests(dir: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(dir: &Path, below: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(below).unwrap().to_owned();
            let is_own =
                name == Path::new("lock") || name.components().count() > 2 && name.starts_with("index");
            if path.is_dir() {
                found.insert(name, "directory".to_owned());
                walk(&path, below, found);
            } else if !is_own {
                found.insert(name, format!("{:x?}", Sha256::digest(fs::read(&path).unwrap())));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    // sled's own directories.
    found.retain(|name, _| !(name.components().count() > 2 && name.starts_with("index")));
    found
}

/// Checks a store, and that this changes nothing.
pub(super) fn fsck(dir: &Path) -> FsckReport {
    let before = digests(dir);
    let report = offline::fsck(dir, &Disk::counting(), &mut |_| ()).unwrap();
    assert_eq!(digests(dir), before);
    report
}

/// The only finding of a check.
fn check(dir: &Path, severity: Severity, place: &str, what: &str) {
    let report = fsck(dir);
    let [finding] = &report.findings[..] else { panic!("{what}: {:#?}", report.findings) };
    assert_eq!(finding.severity, severity, "{finding:?}");
    assert!(finding.place.contains(place), "{finding:?} is not at {place}");
    assert!(finding.what.contains(what), "{finding:?} does not say {what}");
    assert_eq!((report.worst(), report.is_clean()), (severity, severity == Severity::Note));
}

fn copy(dir: &tempfile::TempDir) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    super::faults::copy_tree(dir.path(), copy.path());
    copy
}

/// A start mends everything, and nothing is left to be found.
fn mends(dir: &Path) {
    let store = open_small(dir, LIMITS).unwrap();
    check_sample(&store, COUNT);
    drop(store);
    let report = fsck(dir);
    assert!(report.is_clean(), "{:#?}", report.findings);
}

fn refused(dir: &Path) {
    let before = digests(dir);
    let error = open_small(dir, LIMITS).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. } | OpenError::Snapshot { .. }), "{error:?}");
    assert_eq!(digests(dir), before);
}

fn paths(dir: &Path, part: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(part)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().unwrap() == extension).collect();
    paths.sort();
    paths
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    paths(dir, "journal", "seg")
}

fn snapshots(dir: &Path) -> [PathBuf; 2] {
    paths(dir, "snapshots", "snap").try_into().unwrap()
}

/// The first sequence that a segment says it holds.
fn starts_at(segment: &Path) -> u64 {
    u64::from_be_bytes(fs::read(segment).unwrap()[36..44].try_into().unwrap())
}

fn number_of(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x40;
    overwrite(path, &bytes);
}

fn middle(path: &Path) -> usize {
    fs::metadata(path).unwrap().len() as usize / 2
}

#[tokio::test]
async fn a_store_that_was_closed_is_clean() {
    for count in [0, 1, 4, COUNT] {
        let dir = sample(count).await;
        let report = fsck(dir.path());
        assert_eq!(report.findings, []);
        assert_eq!((report.last_sequence, report.worst()), (count, Severity::Note));
        assert_eq!(report.segments as usize, segments(dir.path()).len());
        let bytes: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(report.journal_bytes, bytes);
        assert_eq!(report.snapshots as usize, fs::read_dir(dir.path().join("snapshots")).unwrap().count());
        // Up to three rows, one with its history, and a resident one.
        let expected = count.min(3) + count + 2 * count.min(1);
        assert_eq!((report.rows, report.index_rows), (expected, expected.saturating_sub(1)));
        // The index is as trusted as it was.
        let store = open_small(dir.path(), LIMITS).unwrap();
        assert_eq!((store.opening().rebuilt.clone(), store.opening().replayed), (None, 0));
        assert!(
            count == 0 || {
                check_sample(&store, count);
                true
            }
        );
    }
}

#[tokio::test]
async fn a_store_whose_process_was_killed_is_clean_and_its_index_trusted_until_the_machine_stops() {
    let dir = sample(COUNT).await;
    let marker = dir.path().join("index.open");
    let store = open_small(dir.path(), LIMITS).unwrap();
    let boot = fs::read(&marker).unwrap();
    drop(store);
    fs::write(&marker, &boot).unwrap();
    assert_eq!(fsck(dir.path()).findings, []);
    assert_eq!(fs::read(&marker).unwrap(), boot);
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert_eq!((store.opening().rebuilt.clone(), store.opening().replayed), (None, 0));
}

#[tokio::test]
async fn only_a_store_that_is_there_and_stopped_is_checked() {
    let nowhere = tempfile::tempdir().unwrap();
    let error = offline::fsck(nowhere.path(), &Disk::counting(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Io { action: "open", .. }), "{error:?}");
    assert_eq!(digests(nowhere.path()), BTreeMap::new());
    let dir = tempfile::tempdir().unwrap();
    let _running = open(dir.path());
    let error = offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
}

#[tokio::test]
async fn a_torn_tail_is_recoverable() {
    let dir = sample(COUNT).await;
    let last = segments(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 90, 1, 2, 3]);
    fs::write(&last, bytes).unwrap();
    check(dir.path(), Severity::Recoverable, last.to_str().unwrap(), "the last 7 bytes");
    mends(dir.path());
}

#[tokio::test]
async fn a_damaged_journal_is_damage_if_a_start_needs_it() {
    let dir = sample(COUNT).await;
    let [older, newest] = snapshots(dir.path()).map(|path| number_of(&path));
    let segments = segments(dir.path());
    let (open, sealed) = segments.split_last().unwrap();
    let needed = sealed.iter().rfind(|path| starts_at(path) > newest).unwrap();
    let behind = sealed.iter().find(|path| (older + 1..=newest).contains(&starts_at(path))).unwrap();
    for path in [needed, open] {
        let whole = fs::read(path).unwrap();
        flip(path, HEADER_BYTES + 3);
        if path == needed {
            check(dir.path(), Severity::Damage, path.to_str().unwrap(), "later segments exist");
            refused(dir.path());
        }
        flip(path, HEADER_BYTES + 3);
        flip(path, 20);
        check(dir.path(), Severity::Damage, path.to_str().unwrap(), "header does not match");
        refused(dir.path());
        fs::remove_file(path).unwrap();
        let what = if path == needed { "the segment is missing" } else { "" };
        if path == needed {
            check(dir.path(), Severity::Damage, path.to_str().unwrap(), what);
            refused(dir.path());
        }
        fs::write(path, whole).unwrap();
        assert!(fsck(dir.path()).is_clean());
    }

    // The newest snapshot holds what was there.
    flip(behind, middle(behind));
    check(dir.path(), Severity::Recoverable, behind.to_str().unwrap(), "later segments exist");
    let store = open_small(dir.path(), LIMITS).unwrap();
    check_sample(&store, COUNT);
    store.compact().await.unwrap();
    drop(store);
    assert_eq!(fsck(dir.path()).findings, []);
}

#[tokio::test]
async fn a_journal_that_starts_too_late_is_named() {
    let dir = sample(COUNT).await;
    let [older, newest] = snapshots(dir.path());
    let first = segments(dir.path()).remove(0);
    fs::remove_file(&first).unwrap();
    check(dir.path(), Severity::Recoverable, older.to_str().unwrap(), "the journal behind it is missing");
    fs::remove_file(&newest).unwrap();
    check(dir.path(), Severity::Damage, first.to_str().unwrap(), "the segment is missing");
    refused(dir.path());
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    check(dir.path(), Severity::Damage, "journal", "it is missing");
    open_small(dir.path(), LIMITS).map(|_| ()).unwrap_err();

    let dir = sample(1).await;
    fs::remove_file(dir.path().join("journal/000000000001.seg")).unwrap();
    check(dir.path(), Severity::Damage, "journal", "its segments are missing");
    refused(dir.path());
}

#[tokio::test]
async fn a_damaged_snapshot_is_recoverable_while_something_stands_in_for_it() {
    let base = sample(COUNT).await;
    let dir = copy(&base);
    let [older, newest] = snapshots(dir.path());
    flip(&older, HEADER_BYTES + 60);
    check(dir.path(), Severity::Recoverable, older.to_str().unwrap(), "at byte 48: a block");
    flip(&older, HEADER_BYTES + 60);
    flip(&newest, HEADER_BYTES + 60);
    check(dir.path(), Severity::Recoverable, newest.to_str().unwrap(), "at byte 48: a block");
    flip(&newest, HEADER_BYTES + 60);
    flip(&newest, 20);
    mends(dir.path());
    let set_aside = newest.with_extension("damaged");
    check(dir.path(), Severity::Note, set_aside.to_str().unwrap(), "set aside");

    let dir = copy(&base);
    for path in snapshots(dir.path()) {
        flip(&path, 20);
    }
    let report = fsck(dir.path());
    let severities: Vec<Severity> = report.findings.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Recoverable, Severity::Recoverable, Severity::Damage]);
    assert!(report.findings[2].what.contains("no snapshot holds what is before"), "{:#?}", report.findings);
    refused(dir.path());

    let dir = copy(&base);
    let misnamed = dir.path().join("snapshots/newest.snap");
    fs::write(&misnamed, "").unwrap();
    check(dir.path(), Severity::Damage, misnamed.to_str().unwrap(), "not a sequence number");
    refused(dir.path());
}

#[tokio::test]
async fn a_snapshot_of_another_journal_is_recoverable() {
    let (base, other) = (sample(COUNT).await, sample(COUNT).await);
    for replaced in 0..2 {
        let dir = copy(&base);
        let [path, source] = [&dir, &other].map(|dir| snapshots(dir.path())[replaced].clone());
        fs::copy(source, &path).unwrap();
        check(dir.path(), Severity::Recoverable, path.to_str().unwrap(), "another journal");
        mends(dir.path());
    }
}

/// Writes a snapshot anew, with other rows, and all checksums right.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<StoredRow>)) {
    let snapshot =
        Snapshot::open(&snapshot::Listed { path: path.to_owned(), sequence: number_of(path) }).unwrap();
    let mut rows = Vec::new();
    let mut reader = snapshot.all_rows().unwrap();
    while let Some(row) = reader.next().unwrap() {
        rows.push(row);
    }
    change(&mut rows);
    let disk = Disk::counting();
    let directory = disk.directory(path.parent().unwrap()).unwrap();
    let mut writer = SnapshotWriter::start(&disk, &directory, snapshot.header).unwrap();
    for row in &rows {
        writer.push(row).unwrap();
    }
    writer.finish(|| true).unwrap().unwrap().publish().unwrap();
}

#[tokio::test]
async fn a_snapshot_that_says_something_else_than_the_journal_is_damage() {
    type Alteration = fn(&mut Vec<StoredRow>);
    let alterations: [(Alteration, &str); 4] = [
        (
            |rows| rows[0].value = Some(b"forged".to_vec()),
            "1 row is not what the journal before it gives: store.history",
        ),
        (|rows| drop(rows.pop()), "(missing)"),
        (
            |rows| {
                let row_key = PLAIN.row_key(&[0xFF; 9]);
                rows.retain(|row| row.row_key < row_key);
                rows.push(StoredRow { row_key, value: Some(Vec::new()), is_resident: false });
            },
            "test.plain ffffffffffffffffff (not expected)",
        ),
        (|rows| rows.iter_mut().for_each(|row| row.is_resident = false), "test.resident 686f74 (altered)"),
    ];
    let base = sample(COUNT).await;
    for (alteration, what) in alterations {
        let dir = copy(&base);
        let [_, newest] = snapshots(dir.path());
        rewrite(&newest, alteration);
        let report = fsck(dir.path());
        let first = &report.findings[0];
        assert_eq!((first.severity, &first.place[..]), (Severity::Damage, newest.to_str().unwrap()));
        assert!(first.what.contains(what), "{first:?} does not say {what}");
    }
    // The older one has no forerunner left: it shows in the newer one, which does not follow from it.
    let dir = copy(&base);
    let [older, newest] = snapshots(dir.path());
    rewrite(&older, alterations[0].0);
    check(dir.path(), Severity::Damage, newest.to_str().unwrap(), alterations[0].1);
    // With the whole journal there, the first one is checked too.
    let dir = sample(4).await;
    let only = paths(dir.path(), "snapshots", "snap").remove(0);
    rewrite(&only, |rows| rows[0].value = Some(b"forged".to_vec()));
    let report = fsck(dir.path());
    assert_eq!((report.worst(), &report.findings[0].place[..]), (Severity::Damage, only.to_str().unwrap()));
}

#[tokio::test]
async fn an_index_that_cannot_be_used_is_recoverable() {
    type Spoil = fn(&Path);
    let cases: [(Spoil, &str); 5] = [
        (|dir| fs::remove_dir_all(dir.join("index")).unwrap(), "missing"),
        (|dir| fs::write(dir.join("index.open"), "an earlier boot").unwrap(), "machine stopped"),
        (|dir| fs::write(dir.join("index.condemned"), "").unwrap(), "had failed"),
        (
            |dir| {
                fs::remove_dir_all(dir.join("index")).unwrap();
                fs::create_dir_all(dir.join("index/000001")).unwrap();
            },
            "does not say what it holds",
        ),
        (
            |dir| {
                for entry in fs::read_dir(dir.join("index/000001")).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        fs::write(path, b"rubbish, and more rubbish").unwrap();
                    }
                }
            },
            "",
        ),
    ];
    let base = sample(COUNT).await;
    for (spoil, what) in cases {
        let dir = copy(&base);
        spoil(dir.path());
        check(dir.path(), Severity::Recoverable, dir.path().join("index").to_str().unwrap(), what);
        assert_eq!(fsck(dir.path()).rows, ROWS);
        mends(dir.path());
    }
    let (dir, other) = (copy(&base), sample(1).await);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    super::faults::copy_tree(&other.path().join("index"), &dir.path().join("index"));
    check(dir.path(), Severity::Recoverable, "index", "another journal");
    mends(dir.path());
}

#[tokio::test]
async fn an_index_behind_is_noted_and_one_too_far_behind_or_ahead_is_more() {
    // At the end of each stretch the index is put aside; it is put back when all is written.
    for (behind, severity, what) in [
        (1, Severity::Note, "1 transactions behind"),
        (2, Severity::Note, "2 transactions behind"),
        (25, Severity::Recoverable, "it has applied transaction 8, the journal now starts at"),
    ] {
        let dir = sample(COUNT - behind).await;
        let (index, aside) = (dir.path().join("index"), tempfile::tempdir().unwrap());
        fs::rename(&index, aside.path().join("index")).unwrap();
        let store = open_small(dir.path(), LIMITS).unwrap();
        for number in COUNT - behind + 1..=COUNT {
            commit(&store, move |tx| add(tx, number)).await;
            store.rest().await;
        }
        store.close().await;
        fs::remove_dir_all(&index).unwrap();
        fs::rename(aside.path().join("index"), &index).unwrap();
        check(dir.path(), severity, index.to_str().unwrap(), what);
        assert_eq!(fsck(dir.path()).rows, ROWS);
        mends(dir.path());
    }

    // What it says it has applied is compared all the same.
    let dir = sample(COUNT).await;
    alter_index(dir.path(), PLAIN.row_key(&(COUNT - 1).to_be_bytes()), Some(b"altered".to_vec()), COUNT - 1);
    // A row of the transaction that it lacks may be there or not.
    alter_index(dir.path(), PLAIN.row_key(&COUNT.to_be_bytes()), None, COUNT - 1);
    check(
        dir.path(),
        Severity::Recoverable,
        "index",
        "1 row is not what snapshot and journal give: test.plain",
    );
    alter_index(dir.path(), PLAIN.row_key(&(COUNT - 1).to_be_bytes()), Some(vec![32; 40]), COUNT - 1);
    check(dir.path(), Severity::Note, "index", "1 transactions behind");

    let dir = sample(COUNT).await;
    let segments = segments(dir.path());
    let last = segments.last().unwrap();
    let shorter = fs::read(last).unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    put(&store, OTHER, "lost", "by the disk").await;
    store.close().await;
    fs::write(last, shorter).unwrap();
    // It may have been written to one of its own.
    let _ = fs::remove_file(last.with_file_name(format!("{:012}.seg", number_of(last) + 1)));
    check(dir.path(), Severity::Damage, "index", "it has applied transaction 34, the journal ends at 33");
}

/// Writes a row to a closed index, and how far it has followed the journal.
fn alter_index(dir: &Path, row_key: Vec<u8>, value: Option<Vec<u8>>, applied: u64) {
    let index = Index::open(&dir.join("index/000001"), 1).unwrap();
    let standing: Standing = index.standing().unwrap().unwrap();
    index.apply([(row_key, value)].into_iter(), Standing { applied, ..standing }).unwrap();
    index.flush().unwrap();
}

#[tokio::test]
async fn a_rebuild_that_cannot_read_the_snapshots_leaves_the_index() {
    let dir = sample(COUNT).await;
    for path in snapshots(dir.path()) {
        flip(&path, HEADER_BYTES + 20);
    }
    let before = digests(dir.path());
    let error = offline::rebuild(dir.path(), &Disk::counting(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Snapshot { .. }), "{error:?}");
    let mut after = digests(dir.path());
    after.remove(Path::new("index.open"));
    assert_eq!(after, before);
    // A start needs no more of them than the resident rows.
    check_sample(&open_small(dir.path(), LIMITS).unwrap(), COUNT);
}

#[tokio::test]
async fn a_row_of_the_index_that_is_not_what_the_journal_gives_is_named() {
    let key = PLAIN.row_key(&COUNT.to_be_bytes());
    let name = "test.plain 0000000000000021";
    let alien = PLAIN.row_key(b"~");
    let base = sample(COUNT).await;
    let cases = [
        (
            key.clone(),
            Some(b"altered".to_vec()),
            format!("1 row is not what snapshot and journal give: {name} (altered)"),
        ),
        (key, None, format!("{name} (missing)")),
        (alien, Some(Vec::new()), "test.plain 7e (not expected)".to_owned()),
        // Resident rows have no place there.
        (
            RESIDENT.row_key(b"hot"),
            Some(COUNT.to_be_bytes().to_vec()),
            "test.resident 686f74 (not expected)".to_owned(),
        ),
    ];
    for (row_key, value, what) in cases {
        let dir = copy(&base);
        alter_index(dir.path(), row_key, value, COUNT);
        check(dir.path(), Severity::Recoverable, "index", &what);
        // A start would not notice.
        offline::rebuild(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
        mends(dir.path());
    }
}

#[tokio::test]
async fn any_byte_of_journal_and_snapshots_is_noticed_and_a_start_agrees() {
    let dir = sample(COUNT).await;
    // Looking at it would take most of the time.
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let mut files = segments(dir.path());
    files.extend(snapshots(dir.path()));
    let (mut recovered, mut refusals) = (0, 0);
    for path in files {
        let whole = fs::read(&path).unwrap();
        for (place, turn) in (0..whole.len()).step_by(17).zip(0..) {
            let context = format!("byte {place} of {}", path.display());
            flip(&path, place);
            let report = offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
            let found = report.findings.iter().find(|finding| finding.what != "the index was missing");
            let severity = found.unwrap_or_else(|| panic!("{context} was not noticed")).severity;
            if turn % 29 == 0 {
                let copy = copy(&dir);
                match open_small(copy.path(), LIMITS) {
                    Ok(store) => {
                        assert_eq!(severity, Severity::Recoverable, "{context}: {:#?}", report.findings);
                        assert_eq!(store.opening().records, report.last_sequence, "{context}");
                        check_sample(&store, report.last_sequence);
                        recovered += 1;
                    }
                    Err(error) => {
                        assert_eq!(report.worst(), Severity::Damage, "{context}: {error}");
                        refusals += 1;
                    }
                }
            }
            overwrite(&path, &whole);
        }
    }
    assert!(recovered > 5 && refusals > 2, "{recovered} recovered, {refusals} refused");
}

#[tokio::test]
async fn whatever_byte_of_the_index_is_altered_the_check_ends() {
    let dir = sample(COUNT).await;
    let (index, whole) = (dir.path().join("index"), copy(&dir));
    let file = paths_below(&index).into_iter().max_by_key(|(_, length)| *length).unwrap().0;
    let bytes = fs::read(&file).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|place| bytes[*place] != 0).collect();
    let mut noticed = 0;
    for place in used.iter().step_by(used.len().div_ceil(30)) {
        flip(&file, *place);
        let report = fsck(dir.path());
        assert!(report.worst() <= Severity::Recoverable, "byte {place}: {:#?}", report.findings);
        assert_eq!(report.rows, ROWS, "byte {place}");
        noticed += u64::from(!report.is_clean());
        // sled may have written to it.
        fs::remove_dir_all(&index).unwrap();
        super::faults::copy_tree(&whole.path().join("index"), &index);
    }
    assert!(noticed > 5, "only {noticed} were noticed");
}

fn paths_below(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(paths_below(&path));
        } else {
            let length = fs::metadata(&path).unwrap().len();
            found.push((path, length));
        }
    }
    found
}

#[tokio::test]
async fn a_format_of_a_later_program_is_no_finding() {
    let base = sample(COUNT).await;
    for part in ["journal", "snapshots"] {
        let dir = copy(&base);
        let path =
            fs::read_dir(dir.path().join(part)).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[11] = 9;
        let checksum = crc32c::crc32c(&bytes[..44]).to_be_bytes();
        bytes[44..48].copy_from_slice(&checksum);
        fs::write(&path, bytes).unwrap();
        let before = digests(dir.path());
        let error = offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap_err();
        assert!(matches!(error, OpenError::Version { found: 9, .. }), "{error:?}");
        for error in [
            offline::stats(dir.path(), &Disk::counting(), &mut |_| ()).unwrap_err(),
            offline::rebuild(dir.path(), &Disk::counting(), &mut |_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, OpenError::Version { found: 9, .. }), "{error:?}");
        }
        let mut after = digests(dir.path());
        after.remove(Path::new("index.open"));
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn a_disk_that_fails_during_a_check_does_the_store_no_harm() {
    let dir = sample(COUNT).await;
    let mut failed = 0;
    for at in 1.. {
        let disk = Disk::failing(FaultPlan::nth(at, Fault::Io));
        match offline::fsck(dir.path(), &disk, &mut |_| ()) {
            Ok(report) => assert!(report.is_clean(), "at {at}: {:#?}", report.findings),
            Err(error) => {
                assert!(matches!(error, OpenError::Io { .. }), "at {at}: {error:?}");
                failed += 1;
            }
        }
        assert!(offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap().is_clean(), "at {at}");
        let store = open_small(dir.path(), LIMITS).unwrap();
        assert_eq!((store.opening().rebuilt.clone(), store.opening().replayed), (None, 0), "at {at}");
        store.close().await;
        if !disk.has_failed() {
            break;
        }
    }
    assert!(failed > 8, "only {failed} operations mattered");
}

#[tokio::test]
async fn the_index_is_rebuilt_whatever_fails_on_the_way() {
    let base = sample(COUNT).await;
    let mut failed = 0;
    for at in 1.. {
        let dir = copy(&base);
        let disk = Disk::failing(FaultPlan::nth(at, Fault::Io));
        match offline::rebuild(dir.path(), &disk, &mut |_| ()) {
            Ok(sequence) => {
                assert_eq!(sequence, COUNT, "at {at}");
                assert_eq!(fsck(dir.path()).findings, [], "at {at}");
            }
            Err(error) => {
                assert!(disk.has_failed(), "{error}");
                failed += 1;
            }
        }
        mends(dir.path());
        if !disk.has_failed() {
            break;
        }
    }
    assert!(failed > 8, "only {failed} operations mattered");
    // One without transactions has nothing to rebuild.
    let dir = sample(0).await;
    assert_eq!(offline::rebuild(dir.path(), &Disk::counting(), &mut |_| ()).unwrap(), 0);
    assert_eq!(fsck(dir.path()).findings, []);
}

#[tokio::test]
async fn statistics_are_what_counting_gives() {
    let dir = sample(COUNT).await;
    let store = Store::open_with_options(dir.path(), Time::at(70).clock(), Disk::counting(), LIMITS).unwrap();
    put(&store, OTHER, "a", "value").await;
    let view = store.view();
    let mut expected = BTreeMap::new();
    for table in [PLAIN, OTHER, KEPT, RESIDENT, Table::own("store.history")] {
        let rows = view.scan(&table, b"", None, usize::MAX).unwrap();
        let bytes = rows.iter().map(|row| (row.key.len() + row.value.len()) as u64).sum();
        expected.insert(table.name().to_owned(), TableStats { rows: rows.len() as u64, bytes });
    }
    drop(view);
    store.close().await;

    let before = digests(dir.path());
    let stats = offline::stats(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
    assert_eq!(digests(dir.path()), before);
    assert_eq!(stats.tables, expected);
    assert_eq!((stats.last_sequence, stats.last_time), (COUNT + 1, 70));
    let bytes = |paths: &[PathBuf]| paths.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    let (segments, snapshots) = (segments(dir.path()), snapshots(dir.path()));
    assert_eq!((stats.segments as usize, stats.journal_bytes), (segments.len(), bytes(&segments)));
    assert_eq!((stats.snapshots, stats.snapshot_bytes), (2, bytes(&snapshots)));
    let index: u64 = paths_below(&dir.path().join("index")).iter().map(|(_, length)| length).sum();
    assert_eq!(stats.index_bytes, index);

    // Of a snapshot that a start passes over nothing is counted.
    flip(&snapshots[1], 20);
    let stats = offline::stats(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
    assert_eq!((stats.tables, stats.snapshots), (expected, 1));
}
