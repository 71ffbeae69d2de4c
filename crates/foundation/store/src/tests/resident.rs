//! Rows of resident tables behave like all others, and never reach the index.

use std::fs;
use std::path::PathBuf;

use super::*;

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn holds(path: &Path, needle: &[u8]) -> bool {
    fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn rows_are_read_scanned_and_found_last_with_and_without_their_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, RESIDENT, "b", "1").await;
    put(&store, PLAIN, "b", "plain").await;
    put(&store, RESIDENT, "d", "gone soon").await;
    let within = commit(&store, |tx| {
        tx.put(&RESIDENT, b"a", b"2")?;
        tx.put(&RESIDENT, b"c", b"3")?;
        tx.put(&RESIDENT, b"b", b"4")?;
        tx.delete(&RESIDENT, b"d")?;
        assert_eq!(tx.get(&RESIDENT, b"b")?, Some(b"4".to_vec()));
        assert_eq!(tx.get(&RESIDENT, b"d")?, None);
        let page = tx.scan(&RESIDENT, b"", Some(b"a"), 1)?;
        assert_eq!(page.into_iter().map(texts).collect::<Vec<_>>(), pairs(&[("b", "4")]));
        assert_eq!(tx.last(&RESIDENT, b"")?.map(texts), Some(("c".to_owned(), "3".to_owned())));
        Ok(all(tx, RESIDENT))
    })
    .await;
    let expected = pairs(&[("a", "2"), ("b", "4"), ("c", "3")]);
    assert_eq!(within, expected);

    let check = |store: &Store| {
        let view = store.view();
        assert_eq!(all(&view, RESIDENT), expected);
        assert_eq!(all(&view, PLAIN), pairs(&[("b", "plain")]));
        assert_eq!(view.get(&RESIDENT, b"a").unwrap(), Some(b"2".to_vec()));
        assert_eq!(view.get(&RESIDENT, b"d").unwrap(), None);
        assert_eq!(view.last(&RESIDENT, b"b").unwrap().map(texts), Some(("b".to_owned(), "4".to_owned())));
        assert_eq!(view.last(&RESIDENT, b"d").unwrap(), None);
        assert_eq!(view.scan(&RESIDENT, b"", Some(b"b"), 9).unwrap().len(), 1);
    };
    check(&store);
    let aborted = store.transact("test", |tx| {
        tx.put(&RESIDENT, b"a", b"never")?;
        Err::<(), _>(StoreError::Closed)
    });
    aborted.await.unwrap_err();
    check(&store);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.opening().replayed, 0, "the index was up to date");
    check(&store);
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    check(&open(dir.path()));
}

#[tokio::test]
async fn rows_survive_snapshots_that_replace_their_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), small(300, 300)).unwrap();
    for round in 0..20_u32 {
        let key = round.to_be_bytes();
        commit(&store, move |tx| {
            tx.put(&RESIDENT, &key, &[7; 50])?;
            tx.put(&PLAIN, &key, &[8; 50])?;
            // Of four rows, one stays.
            if round % 4 != 3 { tx.delete(&RESIDENT, &round.saturating_sub(1).to_be_bytes()) } else { Ok(()) }
        })
        .await;
        store.rest().await;
    }
    let maintenance = store.maintenance();
    assert_eq!((maintenance.snapshots, maintenance.last_error.clone()), (2, None));
    assert!(maintenance.segments < 5, "{maintenance:?}");
    let keys = |store: &Store| -> Vec<Vec<u8>> {
        store.view().scan(&RESIDENT, b"", None, 99).unwrap().into_iter().map(|row| row.key).collect()
    };
    let kept = keys(&store);
    assert_eq!(kept, [2_u32, 6, 10, 14, 18, 19].map(|round| round.to_be_bytes().to_vec()));
    drop(store);

    let store = open_small(dir.path(), small(300, 300)).unwrap();
    assert!(store.opening().snapshot.is_some_and(|sequence| sequence > 10), "{:?}", store.opening());
    assert_eq!((store.opening().replayed, store.opening().rebuilt.clone()), (0, None));
    assert_eq!(keys(&store), kept);
    assert_eq!(store.view().scan(&PLAIN, b"", None, 99).unwrap().len(), 20);
}

#[tokio::test]
async fn the_index_never_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path(), small(300, 300)).unwrap();
    put(&store, RESIDENT, "key", "resident-value").await;
    put(&store, PLAIN, "key", "indexed-value").await;
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        put(&store, OTHER, key, "only here to fill a segment").await;
        store.rest().await;
    }
    store.close().await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open_small(dir.path(), small(300, 300)).unwrap();
    assert_eq!(store.view().get(&RESIDENT, b"key").unwrap(), Some(b"resident-value".to_vec()));
    store.close().await;

    let holding = |needle: &[u8]| -> Vec<String> {
        let held = files_below(dir.path()).into_iter().filter(|path| holds(path, needle));
        let parts = held.map(|path| path.strip_prefix(dir.path()).unwrap().iter().next().unwrap().to_owned());
        let mut parts: Vec<String> = parts.map(|part| part.into_string().unwrap()).collect();
        parts.dedup();
        parts.sort();
        parts.dedup();
        parts
    };
    // The journal that held them was replaced.
    assert_eq!(holding(b"resident-value"), ["snapshots"]);
    assert_eq!(holding(b"indexed-value"), ["index", "snapshots"]);
}
