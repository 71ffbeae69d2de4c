//! The index is never trusted further than it can be checked.

use std::fs;

use super::*;
use crate::history;
use crate::index::{Index, Standing};

/// Where the index lies until it is replaced by another.
const INDEX: &str = "index/000001";

/// A store with two rows and a history, closed.
async fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, KEPT, "a", "1").await;
    put(&store, KEPT, "a", "2").await;
    put(&store, PLAIN, "b", "3").await;
    store.close().await;
    dir
}

fn check(dir: &Path, why: Option<&str>) {
    let store = open(dir);
    let rebuilt = store.opening().rebuilt.as_deref();
    match why {
        Some(why) => {
            assert!(rebuilt.is_some_and(|said| said.contains(why)), "{rebuilt:?} does not say {why:?}")
        }
        None => assert_eq!(rebuilt, None),
    }
    let view = store.view();
    assert_eq!(all(&view, KEPT), pairs(&[("a", "2")]));
    assert_eq!(all(&view, PLAIN), pairs(&[("b", "3")]));
    let values: Vec<_> =
        history(&view, &KEPT, b"a", 9).unwrap().into_iter().map(|entry| entry.value).collect();
    assert_eq!(values, [Some(b"1".to_vec()), Some(b"2".to_vec())]);
    drop(view);
    drop(store);
    // Whatever happened, the next start has nothing to complain of.
    assert_eq!(open(dir).opening().rebuilt, None);
}

#[tokio::test]
async fn a_sealed_index_is_used_as_it_is() {
    let dir = sample().await;
    assert!(!dir.path().join("index.open").exists());
    check(dir.path(), None);
}

#[tokio::test]
async fn a_missing_index_is_rebuilt() {
    let dir = sample().await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    check(dir.path(), Some("missing"));
}

#[tokio::test]
async fn rubbish_instead_of_an_index_is_replaced() {
    let dir = sample().await;
    for entry in fs::read_dir(dir.path().join(INDEX)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, b"rubbish, and more rubbish").unwrap();
        }
    }
    check(dir.path(), Some("the index does not"));
}

#[tokio::test]
async fn an_empty_index_directory_is_replaced() {
    let dir = sample().await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::create_dir_all(dir.path().join(INDEX)).unwrap();
    check(dir.path(), Some("does not say what it holds"));
}

#[tokio::test]
async fn an_index_of_another_journal_is_replaced() {
    let (dir, other) = (sample().await, sample().await);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::rename(other.path().join("index"), dir.path().join("index")).unwrap();
    check(dir.path(), Some("another journal"));
}

/// Closes a store whose disk forgets the last transaction, which the index has.
async fn lose_a_transaction(dir: &Path) {
    let segment = dir.join("journal/000000000001.seg");
    let shorter = fs::read(&segment).unwrap();
    let store = open(dir);
    put(&store, PLAIN, "c", "lost by the disk").await;
    drop(store);
    fs::write(&segment, shorter).unwrap();
}

#[tokio::test]
async fn an_index_ahead_of_the_journal_is_kept_aside_and_the_loss_is_named() {
    let dir = sample().await;
    lose_a_transaction(dir.path()).await;
    let store = open(dir.path());
    assert_eq!((store.opening().index_ahead, store.opening().records), (Some(4), 3));
    drop(store);
    let said = fs::read_to_string(dir.path().join(crate::LOST)).unwrap();
    assert!(said.contains("it had applied sequence 4, the journal ends at 3"), "{said}");
    let aside = dir.path().join("index.ahead-4");
    let index = Index::open(&aside.join("000001"), 1).unwrap();
    assert_eq!(index.get(&PLAIN.row_key(b"c")).unwrap(), Some(b"lost by the disk".to_vec()));
    drop(index);
    check(dir.path(), None);
    assert!(dir.path().join(crate::LOST).exists(), "a start does not remove the mark");

    // One is kept.
    put(&open(dir.path()), PLAIN, "d", "4").await;
    lose_a_transaction(dir.path()).await;
    assert_eq!(open(dir.path()).opening().index_ahead, Some(5));
    assert!(!aside.exists() && dir.path().join("index.ahead-5").exists());
}

#[tokio::test]
async fn an_index_ahead_is_not_lost_to_a_rebuild_nor_to_a_disk_that_fails() {
    let base = sample().await;
    lose_a_transaction(base.path()).await;
    let mut failed = 0;
    for at in 1.. {
        let dir = tempfile::tempdir().unwrap();
        super::faults::copy_tree(base.path(), dir.path());
        let disk = Disk::failing(FaultPlan::nth(at, Fault::Everything));
        let rebuilt = crate::offline::rebuild(dir.path(), &disk, &mut |_| ());
        failed += u64::from(rebuilt.is_err());
        drop(open(dir.path()));
        assert!(dir.path().join(crate::LOST).exists(), "at {at}");
        assert!(dir.path().join("index.ahead-4").exists(), "at {at}");
        if !disk.has_failed() {
            break;
        }
    }
    assert!(failed > 10, "only {failed} operations mattered");
}

#[tokio::test]
async fn an_index_behind_the_journal_catches_up() {
    let dir = sample().await;
    let older = dir.path().join("older");
    fs::rename(dir.path().join("index"), &older).unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "b", "4").await;
    put(&store, PLAIN, "b", "3").await;
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::rename(older, dir.path().join("index")).unwrap();
    {
        let store = open(dir.path());
        let report = store.opening();
        assert_eq!((report.replayed, report.records, report.rebuilt.clone()), (2, 5, None));
    }
    check(dir.path(), None);
}

/// What a kill leaves between the rows of a group and the standing behind them.
#[tokio::test]
async fn an_index_that_holds_more_than_it_says_comes_to_the_same() {
    let dir = sample().await;
    let store = open(dir.path());
    commit(&store, |tx| tx.delete(&KEPT, b"a")).await;
    put(&store, PLAIN, "b", "4").await;
    commit(&store, |tx| tx.delete(&PLAIN, b"b")).await;
    put(&store, KEPT, "a", "2").await;
    put(&store, PLAIN, "b", "3").await;
    let before = history(&store.view(), &KEPT, b"a", 9).unwrap();
    store.close().await;
    let index = Index::open(&dir.path().join(INDEX), 1).unwrap();
    let standing = index.standing().unwrap().unwrap();
    assert_eq!(standing.applied, 8);
    index.apply(std::iter::empty(), Standing { applied: 3, ..standing }).unwrap();
    drop(index);

    let store = open(dir.path());
    assert_eq!((store.opening().replayed, store.opening().rebuilt.clone()), (5, None));
    assert_eq!(all(&store.view(), KEPT), pairs(&[("a", "2")]));
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("b", "3")]));
    assert_eq!(history(&store.view(), &KEPT, b"a", 9).unwrap(), before);
}

#[tokio::test]
async fn an_index_open_when_the_machine_went_down_is_replaced() {
    let dir = sample().await;
    fs::write(dir.path().join("index.open"), "an earlier boot").unwrap();
    check(dir.path(), Some("machine stopped"));
    fs::write(dir.path().join("index.condemned"), "").unwrap();
    check(dir.path(), Some("had failed"));
}

#[tokio::test]
async fn an_index_open_when_only_the_process_ended_is_used() {
    let dir = sample().await;
    let marker = dir.path().join("index.open");
    let store = open(dir.path());
    let marked = fs::read_to_string(&marker).unwrap();
    assert!(!marked.is_empty());
    drop(store);
    assert!(!marker.exists());
    fs::write(&marker, marked).unwrap();
    check(dir.path(), None);
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = Store::open(dir.path(), Time::at(1).clock()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused:?}");
    let expected = format!("in use by process {}; stop it", std::process::id());
    assert!(refused.to_string().contains(&expected), "{refused}");
    put(&store, PLAIN, "a", "1").await;
    drop(store);
    assert_eq!(all(&open(dir.path()).view(), PLAIN), pairs(&[("a", "1")]));
}

#[tokio::test]
async fn opening_again_and_again_never_rebuilds() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20_u64 {
        let store = open(dir.path());
        assert_eq!(store.opening().rebuilt, None, "round {round}");
        assert_eq!(store.opening().replayed, 0, "round {round}");
        assert_eq!(store.opening().records, round);
        put(&store, PLAIN, "a", "1").await;
        if round % 2 == 0 {
            store.close().await;
        }
    }
}

#[test]
fn only_the_owner_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let _store = open(&dir);
    let check = |path: &str, expected: u32| {
        let mode = fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{path}");
    };
    check("", 0o700);
    check("lock", 0o600);
    check("journal", 0o700);
    check("journal/000000000001.seg", 0o600);
}

#[tokio::test]
async fn half_of_an_index_that_was_being_removed_is_not_taken_for_the_one_in_use() {
    let dir = sample().await;
    // A compaction made the second and was killed while it removed the first.
    let index = dir.path().join("index");
    fs::rename(index.join("000001"), index.join("000002")).unwrap();
    fs::create_dir(index.join("removed")).unwrap();
    fs::write(index.join("removed/db"), "half of it").unwrap();
    check(dir.path(), None);
    assert!(!index.join("removed").exists());
}

/// Rows enough for many pages, of which an open index holds none before it is asked for them.
const MANY: u64 = 3_000;

fn wide(number: u64) -> (Vec<u8>, Vec<u8>) {
    (number.to_be_bytes().to_vec(), vec![number.to_le_bytes()[0]; 90])
}

/// A closed store whose index says where each page lies, so that opening it reads none of them.
async fn with_cold_pages() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    commit(&store, |tx| (0..MANY).map(wide).try_for_each(|(key, value)| tx.put(&PLAIN, &key, &value))).await;
    store.close().await;
    for _ in 0..2 {
        open(base.path()).close().await;
    }
    base
}

/// A closed store whose index has a byte altered that is noticed only when a row is read; nothing if it was noticed
/// before, or does not matter.
async fn with_a_cold_byte_altered(
    base: &Path,
    file: &Path,
    place: usize,
) -> Option<(tempfile::TempDir, Disk, Store)> {
    let dir = tempfile::tempdir().unwrap();
    super::faults::copy_tree(base, dir.path());
    let mut bytes = fs::read(base.join(file)).unwrap();
    bytes[place] ^= 0x40;
    overwrite(&dir.path().join(file), &bytes);
    let disk = Disk::counting();
    let store = Store::open_on(dir.path(), Time::at(1).clock(), disk.clone()).unwrap();
    if store.opening().rebuilt.is_some() {
        return None;
    }
    Some((dir, disk, store))
}

#[tokio::test]
async fn a_page_that_does_not_read_is_said_and_costs_the_index_even_on_a_full_disk() {
    let base = with_cold_pages().await;
    let file = Path::new(INDEX).join("db");
    let length = fs::metadata(base.path().join(&file)).unwrap().len() as usize;

    type Reading = fn(&crate::View) -> Option<StoreError>;
    let readings: [Reading; 3] = [
        |view| (0..MANY).find_map(|number| view.get(&PLAIN, &wide(number).0).err()),
        |view| view.scan(&PLAIN, b"", None, usize::MAX).err(),
        |view| {
            let prefixes = (0..MANY).map(|number| wide(number).0);
            prefixes.into_iter().find_map(|key| view.last(&PLAIN, &key).err())
        },
    ];
    let mut noticed = 0;
    for (place, turn) in (0..length).step_by(length / 40).zip(0..) {
        let Some((dir, disk, store)) = with_a_cold_byte_altered(base.path(), &file, place).await else {
            continue;
        };
        // Nothing new can be created.
        disk.plan(FaultPlan::nth_of(Operation::Open, 1, Fault::NoSpace));
        let (view, context) = (store.view(), format!("byte {place}"));
        let Some(error) = readings[turn % readings.len()](&view) else { continue };
        noticed += 1;
        assert!(matches!(error, StoreError::Index { .. }), "{context}: {error:?}");
        let reason = error.to_string();
        assert_eq!(store.health(), crate::Health::Failed { reason }, "{context}");
        let refused = store.transact("test", |tx| tx.put(&OTHER, b"a", b"1")).await.unwrap_err();
        assert!(matches!(refused, crate::TxError::Store(StoreError::Index { .. })), "{context}: {refused:?}");
        drop((view, store));

        let store = open(dir.path());
        let rebuilt = store.opening().rebuilt.as_deref();
        assert_eq!(rebuilt, Some("the index had failed or was being rebuilt"), "{context}");
        let view = store.view();
        for (key, value) in (0..MANY).map(wide) {
            assert_eq!(view.get(&PLAIN, &key).unwrap(), Some(value), "{context}");
        }
        drop((view, store));
        assert_eq!(open(dir.path()).opening().rebuilt, None, "{context}");
    }
    assert!(noticed >= 3, "only {noticed} bytes mattered");
}

#[tokio::test]
async fn a_transaction_that_cannot_read_the_index_fails_the_store() {
    let base = with_cold_pages().await;
    let file = Path::new(INDEX).join("db");
    let length = fs::metadata(base.path().join(&file)).unwrap().len() as usize;
    for place in (0..length).step_by(length / 40) {
        let Some((_dir, _, store)) = with_a_cold_byte_altered(base.path(), &file, place).await else {
            continue;
        };
        // The closure takes no notice, and goes by what it did not find.
        let wrote = store
            .transact("test", |tx| {
                let failed = (0..MANY).any(|number| tx.get(&PLAIN, &wide(number).0).is_err());
                tx.put(&OTHER, b"a", b"1")?;
                Ok::<_, StoreError>(failed)
            })
            .await;
        match wrote {
            Ok(failed) => assert!(!failed, "byte {place}: the transaction was kept"),
            Err(error) => {
                assert!(matches!(error, crate::TxError::Store(StoreError::Index { .. })), "{error:?}");
                assert_eq!(all(&store.view(), OTHER), []);
                return;
            }
        }
    }
    panic!("no byte mattered");
}
