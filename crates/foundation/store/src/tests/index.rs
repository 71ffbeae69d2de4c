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

#[tokio::test]
async fn an_index_ahead_of_the_journal_is_replaced_and_the_loss_is_named() {
    let dir = sample().await;
    let segment = dir.path().join("journal/000000000001.seg");
    let shorter = fs::read(&segment).unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "c", "lost by the disk").await;
    drop(store);
    fs::write(&segment, shorter).unwrap();
    check(dir.path(), Some("it had applied sequence 4, the journal ends at 3"));
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
    fs::write(dir.path().join("index.open"), "broken").unwrap();
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
