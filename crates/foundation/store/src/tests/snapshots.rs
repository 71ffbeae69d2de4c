//! Snapshots hold what the journal says, replace exactly the journal before them, and are never believed blindly.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::blocks::HEADER_BYTES;
use crate::{history, segment, snapshot};

pub(super) const LIMITS: Options = Options { segment_bytes: 400, snapshot_bytes: 400, chunk_bytes: 700 };

fn listing(dir: &Path, part: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.join(part))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Row `number` of the sample, in one transaction: a new row each time, one with a history, and a hot one.
pub(super) fn add(tx: &mut Tx<'_>, number: u64) -> Result<(), StoreError> {
    tx.put(&PLAIN, &number.to_be_bytes(), &[number.to_le_bytes()[0]; 40])?;
    tx.put(&KEPT, b"count", &number.to_be_bytes())?;
    tx.put(&RESIDENT, b"hot", &number.to_be_bytes())?;
    tx.delete(&PLAIN, &number.saturating_sub(3).to_be_bytes())
}

pub(super) fn check_sample(store: &Store, count: u64) {
    let view = store.view();
    let keys: Vec<u64> = view
        .scan(&PLAIN, b"", None, usize::MAX)
        .unwrap()
        .into_iter()
        .map(|row| u64::from_be_bytes(row.key.try_into().unwrap()))
        .collect();
    assert_eq!(keys, (count.saturating_sub(2)..=count).filter(|key| *key > 0).collect::<Vec<_>>());
    check_history(store, count);
    assert_eq!(view.get(&RESIDENT, b"hot").unwrap(), Some(count.to_be_bytes().to_vec()));
}

/// A store with so many transactions, all due snapshots made, closed.
pub(super) async fn sample(count: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    for number in 1..=count {
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
    }
    assert_eq!(store.maintenance().last_error, None);
    store.close().await;
    dir
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    snapshot::list(&dir.join("snapshots")).unwrap().into_iter().map(|listed| listed.path).collect()
}

fn exactly<const COUNT: usize>(dir: &Path) -> [PathBuf; COUNT] {
    snapshots(dir).try_into().unwrap()
}

pub(super) fn first_sequence(dir: &Path) -> u64 {
    let all = segment::survey(&dir.join("journal"), u64::MAX - 1, |_| ());
    let first = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    assert!(all.is_err(), "no journal ends there");
    u64::from_be_bytes(fs::read(first).unwrap()[36..44].try_into().unwrap())
}

fn alter(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn the_journal_is_kept_exactly_as_far_as_the_older_snapshot_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    let mut made = Vec::new();
    for number in 1..=40 {
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
        let maintenance = store.maintenance();
        if let Some(sequence) = maintenance.last_snapshot_sequence
            && made.last() != Some(&sequence)
        {
            made.push(sequence);
        }
        let kept: Vec<String> =
            made.iter().rev().take(2).rev().map(|sequence| format!("{sequence:012}.snap")).collect();
        assert_eq!(listing(dir.path(), "snapshots"), kept, "after {number}");
        let needed = if made.len() < 2 { 0 } else { made[made.len() - 2] };
        assert_eq!(first_sequence(dir.path()), needed + 1, "after {number}");
        assert_eq!(maintenance.segments as usize, listing(dir.path(), "journal").len());
        assert_eq!(maintenance.snapshots as usize, kept.len());
    }
    assert!(made.len() > 5, "{made:?}");
    check_sample(&store, 40);
}

#[tokio::test]
async fn a_snapshot_waits_until_half_as_much_again_is_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), small(300, 1)).unwrap();
    let large = vec![1; 20_000];
    commit(&store, move |tx| tx.put(&PLAIN, b"large", &large)).await;
    put(&store, OTHER, "a", "seals the first segment").await;
    store.rest().await;
    let first = store.maintenance();
    assert_eq!(first.last_snapshot_sequence, Some(1));
    let value = vec![2; 900];
    for _ in 0..10 {
        let value = value.clone();
        commit(&store, move |tx| tx.put(&OTHER, b"b", &value)).await;
        store.rest().await;
        assert_eq!(store.maintenance().last_snapshot_sequence, Some(1), "{:?}", store.maintenance());
    }
    // Ten segments of more than a thousand bytes are sealed.
    commit(&store, move |tx| tx.put(&OTHER, b"b", &value)).await;
    store.rest().await;
    assert_eq!(store.maintenance().last_snapshot_sequence, Some(12), "{:?}", store.maintenance());
}

#[tokio::test]
async fn a_store_starts_from_its_newest_snapshot() {
    let dir = sample(30).await;
    let [_, newest] = exactly(dir.path());
    let sequence: u64 = newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();

    let store = open_small(dir.path(), LIMITS).unwrap();
    let report = store.opening().clone();
    assert_eq!((report.records, report.replayed, report.rebuilt), (30, 0, None));
    assert_eq!((report.snapshot, report.refused_snapshots.len()), (Some(sequence), 0));
    check_sample(&store, 30);
    drop(store);

    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    let report = store.opening().clone();
    assert_eq!((report.records, report.replayed), (30, 30 - sequence));
    assert!(report.rebuilt.unwrap().contains("missing"));
    check_sample(&store, 30);
    commit(&store, move |tx| add(tx, 31)).await;
    check_sample(&store, 31);
}

#[tokio::test]
async fn time_does_not_go_back_behind_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let time = Time::at(700);
    let open = || Store::open_with_options(dir.path(), time.clock(), Disk::counting(), LIMITS).unwrap();
    let store = open();
    commit(&store, move |tx| add(tx, 1)).await;
    store.compact().await.unwrap();
    drop(store);
    time.set(5);
    let store = open();
    assert_eq!(store.opening().last_time, 700);
    assert_eq!(commit(&store, |tx| Ok(tx.time())).await, 700);
}

#[tokio::test]
async fn a_damaged_newest_snapshot_is_set_aside_and_the_older_one_used() {
    let length = {
        let dir = sample(30).await;
        fs::metadata(&snapshots(dir.path())[1]).unwrap().len() as usize
    };
    // In the header, in the rows that are only read when the index is missing, in the footer.
    for (place, index) in [(20, "kept"), (HEADER_BYTES + 60, "removed"), (length - 3, "kept")] {
        let dir = sample(30).await;
        let [older, newest] = exactly(dir.path());
        alter(&newest, place);
        if index == "removed" {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = open_small(dir.path(), LIMITS).unwrap();
        let report = store.opening().clone();
        let stem = older.file_stem().unwrap().to_str().unwrap();
        assert_eq!(report.snapshot, stem.parse().ok(), "byte {place}");
        assert_eq!(report.refused_snapshots.len(), 1, "byte {place}");
        assert!(report.refused_snapshots[0].contains(newest.to_str().unwrap()), "{report:?}");
        assert_eq!(report.rebuilt.is_some(), index == "removed", "{report:?}");
        check_sample(&store, 30);
        assert!(newest.with_extension("damaged").exists());

        // The next snapshots, perhaps one of the same name, are made from the older one: what they need is there.
        for number in 31..=45 {
            commit(&store, move |tx| add(tx, number)).await;
            store.rest().await;
            assert_eq!(store.maintenance().last_error, None);
        }
        assert_eq!(snapshots(dir.path()).len(), 2);
        drop(store);
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        check_sample(&open_small(dir.path(), LIMITS).unwrap(), 45);
    }
}

#[tokio::test]
async fn damage_found_while_the_next_snapshot_is_made_is_survived() {
    let dir = sample(30).await;
    let [_, newest] = exactly(dir.path());
    let store = open_small(dir.path(), LIMITS).unwrap();
    alter(&newest, HEADER_BYTES + 60);
    store.compact().await.unwrap();
    assert!(!newest.exists());
    check_sample(&store, 30);
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    check_sample(&open_small(dir.path(), LIMITS).unwrap(), 30);
}

#[tokio::test]
async fn without_any_usable_snapshot_the_journal_must_be_whole() {
    let dir = sample(30).await;
    for path in snapshots(dir.path()) {
        alter(&path, 20);
    }
    let before = listing(dir.path(), "snapshots");
    let error = open_small(dir.path(), LIMITS).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Snapshot { .. }), "{error:?}");
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
    assert_eq!(listing(dir.path(), "snapshots"), before);

    // One snapshot, and the whole journal is still there.
    let dir = sample(4).await;
    let [only] = exactly(dir.path());
    alter(&only, 20);
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert_eq!((store.opening().snapshot, store.opening().refused_snapshots.len()), (None, 1));
    check_sample(&store, 4);
}

#[tokio::test]
async fn missing_parts_are_damage_and_never_a_fresh_start() {
    let check = async |remove: &dyn Fn(&Path), expected: &str| {
        let dir = sample(30).await;
        remove(dir.path());
        let error = open_small(dir.path(), LIMITS).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say {expected}");
        assert!(error.contains("restore it from a backup"), "{error}");
    };
    check(&|dir| fs::remove_dir_all(dir.join("snapshots")).unwrap(), "no snapshot holds what is before")
        .await;
    check(&|dir| fs::remove_dir_all(dir.join("journal")).unwrap(), "the segment is missing").await;
    let last = |dir: &Path| dir.join("journal").join(listing(dir, "journal").last().unwrap());
    check(&|dir| fs::write(last(dir), b"").unwrap(), "header is cut short").await;
    let keep_the_first = |dir: &Path| {
        for name in &listing(dir, "journal")[1..] {
            fs::remove_file(dir.join("journal").join(name)).unwrap();
        }
    };
    check(&keep_the_first, "a snapshot holds up to").await;
    let rename = |dir: &Path| {
        fs::rename(&snapshots(dir)[1], dir.join("snapshots/000000000999.snap")).unwrap();
        fs::remove_file(&snapshots(dir)[0]).unwrap();
    };
    check(&rename, "named after sequence 999").await;
}

#[tokio::test]
async fn a_snapshot_of_another_journal_is_not_used() {
    let (dir, other) = (sample(4).await, sample(4).await);
    let [one] = exactly(dir.path());
    let [two] = exactly(other.path());
    fs::copy(two, one).unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert!(store.opening().refused_snapshots[0].contains("another journal"), "{:?}", store.opening());
    check_sample(&store, 4);
}

#[tokio::test]
async fn an_index_without_any_journal_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    commit(&store, |tx| add(tx, 1)).await;
    store.close().await;
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let error = open_small(dir.path(), LIMITS).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("there is an index, so there was a journal"), "{error}");
    assert!(dir.path().join("index").exists());
}

#[tokio::test]
async fn an_index_too_far_behind_is_rebuilt_from_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    commit(&store, move |tx| add(tx, 1)).await;
    store.close().await;
    let old = dir.path().join("old");
    fs::rename(dir.path().join("index"), &old).unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    for number in 2..=30 {
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
    }
    store.close().await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::rename(old, dir.path().join("index")).unwrap();

    let store = open_small(dir.path(), LIMITS).unwrap();
    let report = store.opening();
    let rebuilt = report.rebuilt.clone().unwrap();
    assert!(rebuilt.contains("had applied sequence 1, the journal now starts at"), "{rebuilt}");
    assert_eq!(report.replayed, 30 - report.snapshot.unwrap());
    check_sample(&store, 30);
}

#[tokio::test]
async fn an_index_behind_the_snapshot_catches_up_as_long_as_the_journal_is_there_and_whole() {
    for whole in ["whole", "damaged"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open_small(dir.path(), LIMITS).unwrap();
        commit(&store, move |tx| add(tx, 1)).await;
        store.close().await;
        let old = dir.path().join("old");
        let store = {
            fs::rename(dir.path().join("index"), &old).unwrap();
            open_small(dir.path(), LIMITS).unwrap()
        };
        for number in 2..=4 {
            commit(&store, move |tx| add(tx, number)).await;
            store.rest().await;
        }
        let snapshot = store.maintenance().last_snapshot_sequence.unwrap();
        store.close().await;
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        fs::rename(old, dir.path().join("index")).unwrap();
        if whole == "damaged" {
            alter(&dir.path().join("journal/000000000001.seg"), 300);
        }
        let store = open_small(dir.path(), LIMITS).unwrap();
        let report = store.opening().clone();
        assert_eq!(report.snapshot, Some(snapshot));
        if whole == "damaged" {
            assert!(report.rebuilt.unwrap().contains("behind the snapshot"));
            assert_eq!(report.replayed, 4 - snapshot);
        } else {
            assert_eq!((report.rebuilt, report.replayed), (None, 3));
        }
        check_sample(&store, 4);
    }
}

#[tokio::test]
async fn unfinished_files_are_removed_at_the_start() {
    let dir = sample(4).await;
    fs::write(dir.path().join("snapshots/000000000099.tmp"), "half a snapshot").unwrap();
    fs::write(dir.path().join("snapshots/chunk-3.tmp"), "half a chunk").unwrap();
    fs::create_dir_all(dir.path().join("index/000002")).unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert_eq!(store.opening().rebuilt, None);
    check_sample(&store, 4);
    assert_eq!(listing(dir.path(), "snapshots").len(), 1);
    assert_eq!(listing(dir.path(), "index"), ["000001"]);
}

#[tokio::test]
async fn a_snapshot_of_an_unknown_version_is_not_passed_over() {
    let dir = sample(30).await;
    let newest = snapshots(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[11] = 9;
    let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]).to_be_bytes();
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum);
    fs::write(&newest, bytes).unwrap();
    let error = open_small(dir.path(), LIMITS).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 9, newest: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("use the program that wrote it"), "{error}");
    assert!(newest.exists());
}

#[tokio::test]
async fn compacting_leaves_no_byte_of_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    let secrets: [&'static [u8]; 3] =
        [b"secret-plain-value", b"secret-resident-value", b"secret-overwritten"];
    commit(&store, move |tx| {
        tx.put(&PLAIN, b"gone", secrets[0])?;
        tx.put(&RESIDENT, b"gone", secrets[1])?;
        tx.put(&PLAIN, b"replaced", secrets[2])?;
        tx.put(&PLAIN, b"kept", b"kept-value")
    })
    .await;
    for number in 1..=30 {
        commit(&store, move |tx| add(tx, number)).await;
        store.rest().await;
    }
    commit(&store, |tx| {
        tx.delete(&PLAIN, b"gone")?;
        tx.delete(&RESIDENT, b"gone")?;
        tx.put(&PLAIN, b"replaced", b"new")
    })
    .await;
    let newest = snapshots(dir.path()).pop().unwrap();
    fs::copy(&newest, newest.with_extension("damaged")).unwrap();
    for secret in secrets {
        assert!(!holding(dir.path(), secret).is_empty());
    }

    let before = *store.commits().borrow();
    store.compact().await.unwrap();
    for secret in secrets {
        assert_eq!(holding(dir.path(), secret), Vec::<PathBuf>::new());
    }
    assert!(!holding(dir.path(), b"kept-value").is_empty());
    assert_eq!(store.maintenance().last_snapshot_sequence, Some(before + 1));
    assert_eq!(first_sequence(dir.path()), before + 1);
    let expected = pairs(&[("kept", "kept-value"), ("replaced", "new")]);
    let check = |store: &Store| {
        let rows = store.view().scan(&PLAIN, b"", Some(b"a"), 9).unwrap();
        assert_eq!(rows.into_iter().map(texts).collect::<Vec<_>>(), expected);
        assert_eq!(store.view().get(&RESIDENT, b"hot").unwrap(), Some(30_u64.to_be_bytes().to_vec()));
    };
    check(&store);
    // The new index is followed on, sealed, and used again.
    put(&store, OTHER, "later", "1").await;
    store.close().await;
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert_eq!((store.opening().rebuilt.clone(), store.opening().replayed), (None, 0));
    check(&store);
    assert_eq!(all(&store.view(), OTHER), pairs(&[("later", "1")]));
    store.compact().await.unwrap();
    store.compact().await.unwrap();
    check(&store);
}

fn holding(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, needle));
        } else if fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_used_while_it_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(());
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            let mut count = 0;
            while !stopped.has_changed().unwrap_or(true) || count < 50 {
                count += 1;
                commit(&store, move |tx| add(tx, count)).await;
                check_sample(&store, count);
            }
            count
        }
    });
    for _ in 0..5 {
        store.compact().await.unwrap();
    }
    stop.send_replace(());
    let count = writing.await.unwrap();
    check_history(&store, count);
    store.close().await;
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert_eq!(store.opening().rebuilt, None);
    check_history(&store, count);
}

pub(super) fn check_history(store: &Store, count: u64) {
    let changes = history(&store.view(), &KEPT, b"count", usize::MAX).unwrap();
    let values: Vec<Vec<u8>> = changes.into_iter().map(|change| change.value.unwrap()).collect();
    assert_eq!(values, (1..=count).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_does_not_wait_for_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), LIMITS).unwrap();
    commit(&store, move |tx| add(tx, 1)).await;
    let compacting = store.compact();
    let closing = store.clone().close();
    let (compacted, ()) = tokio::join!(biased; compacting, closing);
    assert!(matches!(compacted, Ok(()) | Err(StoreError::Closed)), "{compacted:?}");
    check_history(&open_small(dir.path(), LIMITS).unwrap(), 1);
}

/// A disk that does not give a snapshot back has damaged it, whatever it calls that.
#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_passed_over() {
    let dir = sample(33).await;
    let [_, newest] = exactly(dir.path());
    fs::remove_file(&newest).unwrap();
    fs::create_dir(&newest).unwrap();
    for name in 0..5 {
        fs::write(newest.join(name.to_string()), "").unwrap();
    }
    let report = crate::offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert_eq!(
        (finding.severity, &finding.place[..]),
        (crate::offline::Severity::Recoverable, newest.to_str().unwrap())
    );
    let store = open_small(dir.path(), LIMITS).unwrap();
    assert_eq!(store.opening().refused_snapshots.len(), 1);
    check_sample(&store, 33);
}

#[tokio::test]
async fn rows_of_a_snapshot_that_end_early_are_damage() {
    let dir = sample(33).await;
    let listed = snapshot::list(&dir.path().join("snapshots")).unwrap().pop().unwrap();
    let whole = snapshot::Snapshot::open(&listed).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&listed.path).unwrap();
    file.set_len(HEADER_BYTES as u64 + 4).unwrap();
    let error = whole.check(|_| true).unwrap_err();
    assert!(matches!(error, OpenError::Snapshot { .. }), "{error:?}");
    assert!(error.to_string().contains("it cannot be read"), "{error}");
}
