//! History and outbox.

use super::*;
use crate::outbox::{self, bury, dead, destinations, find, pending, postpone, revive, settle};
use crate::{History, Outgoing, TxError, history};

fn entry(sequence: u64, time: u64, value: Option<&str>) -> History {
    History { sequence, time, value: value.map(|value| value.as_bytes().to_vec()) }
}

#[tokio::test]
async fn history_keeps_each_change_in_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let time = Time::at(10);
    let store = Store::open(dir.path(), time.clock()).unwrap();
    put(&store, KEPT, "k", "1").await;
    put(&store, KEPT, "kk", "another key with the same start").await;
    put(&store, PLAIN, "k", "no history").await;
    time.set(20);
    commit(&store, |tx| {
        tx.put(&KEPT, b"k", b"overwritten in the same transaction")?;
        tx.put(&KEPT, b"k", b"2")?;
        // Its own history is there already.
        assert_eq!(history(tx, &KEPT, b"k", 9)?, [entry(1, 10, Some("1")), entry(4, 20, Some("2"))]);
        Ok(())
    })
    .await;
    let aborted = store.transact("test", |tx| {
        tx.put(&KEPT, b"k", b"never")?;
        Err::<(), _>(StoreError::Closed)
    });
    assert_eq!(aborted.await, Err(TxError::Abort(StoreError::Closed)));
    time.set(30);
    commit(&store, |tx| tx.delete(&KEPT, b"k")).await;
    put(&store, KEPT, "k", "").await;

    let expected =
        [entry(1, 10, Some("1")), entry(4, 20, Some("2")), entry(5, 30, None), entry(6, 30, Some(""))];
    let check = |store: &Store| {
        let view = store.view();
        assert_eq!(history(&view, &KEPT, b"k", 9).unwrap(), expected);
        assert_eq!(history(&view, &KEPT, b"k", 2).unwrap(), expected[..2]);
        assert_eq!(history(&view, &KEPT, b"kk", 9).unwrap().len(), 1);
        assert_eq!(history(&view, &KEPT, b"never", 9).unwrap(), []);
        assert_eq!(history(&view, &PLAIN, b"k", 9).unwrap(), []);
        assert_eq!(all(&view, KEPT), pairs(&[("k", ""), ("kk", "another key with the same start")]));
    };
    check(&store);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    check(&open(dir.path()));
}

fn message(destination: &str, payload: &str) -> Outgoing {
    Outgoing { destination: destination.to_owned(), topic: "topic".to_owned(), payload: payload.into() }
}

fn ids(found: Result<Vec<crate::Pending>, StoreError>) -> Vec<u64> {
    found.unwrap().into_iter().map(|message| message.id).collect()
}

#[tokio::test]
async fn messages_leave_in_order_and_only_after_their_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Time::at(77).clock()).unwrap();
    let sent = commit(&store, |tx| {
        let first = tx.send(message("beta", "1"))?;
        let second = tx.send(message("alpha", "2"))?;
        Ok([first, second, tx.send(message("beta", "3"))?])
    })
    .await;
    assert_eq!(sent, [1, 2, 3]);
    let aborted = store.transact("test", |tx| {
        tx.send(message("gamma", "never"))?;
        Err::<(), _>(StoreError::Closed)
    });
    assert_eq!(aborted.await, Err(TxError::Abort(StoreError::Closed)));
    assert_eq!(commit(&store, |tx| tx.send(message("alphabet", "4"))).await, 4);

    let view = store.view();
    assert_eq!(destinations(&view).unwrap(), ["alpha", "alphabet", "beta"]);
    assert_eq!(ids(pending(&view, None, 9)), [1, 2, 3, 4]);
    assert_eq!(ids(pending(&view, None, 2)), [1, 2]);
    assert_eq!(ids(pending(&view, Some("beta"), 9)), [1, 3]);
    assert_eq!(ids(pending(&view, Some("beta"), 1)), [1]);
    assert_eq!(ids(pending(&view, Some("alpha"), 9)), [2]);
    assert!(ids(pending(&view, Some("gamma"), 9)).is_empty());
    let first = pending(&view, None, 1).unwrap().remove(0);
    assert_eq!(
        first,
        crate::Pending {
            id: 1,
            destination: "beta".to_owned(),
            topic: "topic".to_owned(),
            payload: b"1".to_vec(),
            created: 77,
            attempts: 0,
            next_attempt: 0,
            last_error: String::new(),
            dead: false,
        }
    );
}

#[tokio::test]
async fn a_message_is_settled_postponed_buried_and_revived() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for payload in ["1", "2", "3"] {
        commit(&store, move |tx| tx.send(message("beta", payload))).await;
    }
    commit(&store, |tx| settle(tx, 1)).await;
    commit(&store, |tx| postpone(tx, 2, 500, "connection refused")).await;
    commit(&store, |tx| postpone(tx, 2, 900, &"错".repeat(1_000))).await;
    commit(&store, |tx| bury(tx, 3, "unknown topic")).await;

    let view = store.view();
    assert_eq!(ids(pending(&view, None, 9)), [2]);
    assert_eq!(ids(pending(&view, Some("beta"), 9)), [2]);
    assert_eq!(ids(dead(&view, 0, 9)), [3]);
    assert!(ids(dead(&view, 3, 9)).is_empty());
    assert_eq!(find(&view, 1).unwrap(), None);
    let second = find(&view, 2).unwrap().unwrap();
    assert_eq!((second.attempts, second.next_attempt, second.dead), (2, 900, false));
    assert_eq!(second.last_error, "错".repeat(341));
    let third = find(&view, 3).unwrap().unwrap();
    assert_eq!((third.attempts, third.dead, third.last_error.as_str()), (1, true, "unknown topic"));
    assert_eq!(dead(&view, 0, 9).unwrap(), [third]);

    // What is no longer pending stays as it is.
    commit(&store, |tx| {
        settle(tx, 1)?;
        postpone(tx, 1, 1, "")?;
        bury(tx, 1, "")?;
        revive(tx, 2)?;
        postpone(tx, 3, 1, "")?;
        bury(tx, 3, "again")?;
        settle(tx, 99)
    })
    .await;
    assert_eq!(ids(pending(&view, None, 9)), [2]);
    assert_eq!(find(&view, 3).unwrap().unwrap().last_error, "unknown topic");

    commit(&store, |tx| revive(tx, 3)).await;
    assert_eq!(ids(pending(&view, Some("beta"), 9)), [2, 3]);
    assert!(ids(dead(&view, 0, 9)).is_empty());
    commit(&store, |tx| bury(tx, 3, "unknown topic")).await;
    commit(&store, |tx| {
        settle(tx, 2)?;
        settle(tx, 3)
    })
    .await;
    assert_eq!(destinations(&view).unwrap(), [""; 0]);
    assert!(ids(pending(&view, None, 9)).is_empty());
    assert!(ids(dead(&view, 0, 9)).is_empty());
    drop(view);
    drop(store);

    // An id is never used again, not even when the outbox ran empty.
    let store = open(dir.path());
    assert_eq!(commit(&store, |tx| tx.send(message("beta", "4"))).await, 4);
}

#[tokio::test]
async fn the_dead_do_not_hide_the_pending() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, |tx| {
        for _ in 0..600 {
            let id = tx.send(message("beta", ""))?;
            bury(tx, id, "no")?;
        }
        tx.send(message("beta", ""))
    })
    .await;
    let view = store.view();
    assert_eq!(ids(pending(&view, None, 3)), [601]);
    assert_eq!(ids(pending(&view, Some("beta"), 1)), [601]);
    assert_eq!(ids(dead(&view, 598, 9)), [599, 600]);
}

#[tokio::test]
async fn impossible_messages_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let check = async |destination: String, topic: String, field: &str| {
        let outgoing = Outgoing { destination, topic, payload: Vec::new() };
        // The refusal holds even where the closure ignores it.
        let refused = store
            .transact("test", move |tx| {
                let _ = tx.send(outgoing);
                Ok::<_, StoreError>(())
            })
            .await;
        let Err(TxError::Store(StoreError::Message { field: named, .. })) = refused else {
            panic!("accepted: {refused:?}")
        };
        assert_eq!(named, field);
    };
    check(String::new(), String::new(), "destination").await;
    check("a\0b".to_owned(), String::new(), "destination").await;
    check("d".repeat(1_025), String::new(), "destination").await;
    check("d".to_owned(), "t".repeat(65_536), "topic").await;
    let largest = Outgoing { destination: "d".repeat(1_024), topic: "t".repeat(65_535), payload: vec![1] };
    let expected = largest.clone();
    commit(&store, move |tx| tx.send(largest)).await;
    let found = outbox::find(&store.view(), 1).unwrap().unwrap();
    assert_eq!((found.destination, found.topic), (expected.destination, expected.topic));
}
