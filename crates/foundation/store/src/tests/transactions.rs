//! What transactions and views promise.

use std::collections::BTreeMap;
use std::sync::mpsc;

use proptest::prelude::*;

use super::*;
use crate::{Health, MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, TxError};

#[tokio::test]
async fn a_commit_is_visible_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.opening().records, 0);
    assert_eq!(store.opening().rebuilt, None);
    put(&store, PLAIN, "a", "1").await;
    put(&store, PLAIN, "b", "2").await;
    commit(&store, |tx| tx.delete(&PLAIN, b"a")).await;
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("b", "2")]));
    assert_eq!(*store.commits().borrow(), 3);
    drop(store);

    let store = open(dir.path());
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("b", "2")]));
    let report = store.opening();
    assert_eq!((report.records, report.replayed, report.dropped_bytes), (3, 0, 0));
    assert_eq!((report.rebuilt.clone(), report.last_time), (None, 1_000));
}

#[tokio::test]
async fn an_abort_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let aborted = store
        .transact("test", |tx| {
            tx.put(&PLAIN, b"a", b"1").map_err(|error| error.to_string())?;
            Err::<(), _>("no".to_owned())
        })
        .await;
    assert_eq!(aborted, Err(TxError::Abort("no".to_owned())));
    assert_eq!(all(&store.view(), PLAIN), pairs(&[]));
    assert_eq!(*store.commits().borrow(), 0);
}

#[tokio::test]
async fn a_panic_leaves_nothing_and_the_writer_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let panicked = store
        .transact("careless", |tx| -> Result<(), StoreError> {
            tx.put(&PLAIN, b"a", b"1")?;
            panic!("on purpose")
        })
        .await;
    assert_eq!(panicked, Err(TxError::Store(StoreError::Panicked { name: "careless" })));
    put(&store, PLAIN, "b", "2").await;
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("b", "2")]));
    assert_eq!(store.health(), Health::Ok);
}

/// Holds the writer inside a transaction, so that what is sent meanwhile forms one group.
fn hold(store: &Store) -> (tokio::task::JoinHandle<()>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let store = store.clone();
    let held = tokio::spawn(async move {
        commit(&store, move |_| {
            entered.send(()).unwrap();
            released.recv().unwrap();
            Ok(())
        })
        .await;
    });
    (held, has_entered, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_sees_its_earlier_writes_and_shares_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::counting();
    let store = Store::open_on(dir.path(), Time::at(5).clock(), disk.clone()).unwrap();
    put(&store, PLAIN, "a", "0").await;
    let before = syncs(&disk);

    let (held, has_entered, release) = hold(&store);
    has_entered.recv().unwrap();
    let first = store.transact("first", |tx| {
        tx.put(&PLAIN, b"a", b"1")?;
        tx.put(&PLAIN, b"b", b"1")?;
        tx.delete(&PLAIN, b"b")?;
        assert_eq!(tx.get(&PLAIN, b"b")?, None);
        Ok::<_, StoreError>(all(tx, PLAIN))
    });
    let second = store.transact("second", |tx| {
        let seen = tx.get(&PLAIN, b"a")?;
        tx.put(&PLAIN, b"c", b"2")?;
        Ok::<_, StoreError>((seen, tx.last(&PLAIN, b"")?, all(tx, PLAIN)))
    });
    let aborted = store.transact("third", |tx| {
        tx.put(&PLAIN, b"d", b"3")?;
        Err::<(), _>(StoreError::Closed)
    });
    let reader = store.transact("fourth", |tx| Ok::<_, StoreError>(all(tx, PLAIN)));
    let releasing = async {
        // The four above were polled once, in order, and so are queued.
        release.send(()).unwrap();
    };
    let (first, second, aborted, reader, ()) =
        tokio::join!(biased; first, second, aborted, reader, releasing);
    held.await.unwrap();

    assert_eq!(first.unwrap(), pairs(&[("a", "1")]));
    let (seen, last, rows) = second.unwrap();
    assert_eq!(seen, Some(b"1".to_vec()));
    assert_eq!(last.map(texts), Some(("c".to_owned(), "2".to_owned())));
    assert_eq!(rows, pairs(&[("a", "1"), ("c", "2")]));
    assert_eq!(aborted, Err(TxError::Abort(StoreError::Closed)));
    assert_eq!(reader.unwrap(), pairs(&[("a", "1"), ("c", "2")]));
    assert_eq!(syncs(&disk), before + 1);
    assert_eq!(*store.commits().borrow(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_seen_in_a_group_that_failed_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::counting();
    let store = Store::open_on(dir.path(), Time::at(5).clock(), disk.clone()).unwrap();
    disk.plan(FaultPlan::nth_of(Operation::Sync, 2, Fault::Io));
    put(&store, PLAIN, "a", "0").await;
    let (held, has_entered, release) = hold_quietly(&store);
    has_entered.recv().unwrap();
    let writer = store.transact("writer", |tx| tx.put(&PLAIN, b"a", b"1"));
    let reader = store.transact("reader", |tx| tx.get(&PLAIN, b"a"));
    let refuser = store.transact("refuser", |tx| {
        tx.get(&PLAIN, b"a")?;
        Err::<(), _>(StoreError::Closed)
    });
    let releasing = async { release.send(()).unwrap() };
    let (writer, reader, refuser, ()) = tokio::join!(biased; writer, reader, refuser, releasing);
    held.await.unwrap();
    for error in [writer.unwrap_err(), reader.unwrap_err(), refuser.unwrap_err()] {
        assert!(matches!(error, TxError::Store(StoreError::Failed { .. })), "{error:?}");
    }
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("a", "0")]));
}

/// Like [`hold`], where the holder's own answer is not of interest.
fn hold_quietly(store: &Store) -> (tokio::task::JoinHandle<()>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let store = store.clone();
    let held = tokio::spawn(async move {
        let _ = store
            .transact("holder", move |_| {
                entered.send(()).unwrap();
                released.recv().unwrap();
                Ok::<_, StoreError>(())
            })
            .await;
    });
    (held, has_entered, release)
}

#[tokio::test]
async fn reading_costs_no_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::counting();
    let store = Store::open_on(dir.path(), Time::at(5).clock(), disk.clone()).unwrap();
    let opened = syncs(&disk);
    put(&store, PLAIN, "a", "1").await;
    assert_eq!(syncs(&disk), opened + 1);
    assert_eq!(commit(&store, |tx| tx.get(&PLAIN, b"a")).await, Some(b"1".to_vec()));
    assert_eq!(syncs(&disk), opened + 1);
    assert_eq!(*store.commits().borrow(), 1);
}

#[tokio::test]
async fn a_failed_disk_poisons_the_writer() {
    for (operation, fault, torn) in [
        (Operation::Sync, Fault::Io, 0),
        (Operation::Write, Fault::NoSpace, 0),
        (Operation::Write, Fault::Torn { bytes: 30 }, 30),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::counting();
        let store = Store::open_on(dir.path(), Time::at(5).clock(), disk.clone()).unwrap();
        disk.plan(FaultPlan::nth_of(operation, 2, fault));
        put(&store, PLAIN, "a", "1").await;
        assert_eq!(store.health(), Health::Ok);

        let failed = store.transact("test", |tx| tx.put(&PLAIN, b"b", b"2")).await.unwrap_err();
        let TxError::Store(failure) = failed else { panic!("not a store error: {failed:?}") };
        assert!(matches!(failure, StoreError::Failed { .. }), "{failure:?}");
        assert!(failure.to_string().contains("then restart"), "{failure}");
        let before = syncs(&disk);

        // The disk would work again, but nothing is tried: even a reader is told.
        let later = store.transact("test", |tx| tx.put(&PLAIN, b"c", b"3")).await;
        assert_eq!(later, Err(TxError::Store(failure.clone())));
        assert_eq!(syncs(&disk), before);
        assert_eq!(store.health(), Health::Failed { reason: failure.to_string() });
        assert_eq!(all(&store.view(), PLAIN), pairs(&[("a", "1")]));
        drop(store);

        let store = open(dir.path());
        let rows = all(&store.view(), PLAIN);
        let survived = operation == Operation::Sync;
        let expected: &[_] = if survived { &[("a", "1"), ("b", "2")] } else { &[("a", "1")] };
        assert_eq!(rows, pairs(expected));
        assert_eq!(store.opening().dropped_bytes, torn);
        put(&store, PLAIN, "d", "4").await;
    }
}

#[tokio::test]
async fn time_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let time = Time::at(500);
    let store = Store::open(dir.path(), time.clock()).unwrap();
    let mut times = Vec::new();
    for now in [500, 400, 600, 100] {
        time.set(now);
        times.push(
            commit(&store, |tx| {
                tx.put(&PLAIN, b"a", b"1")?;
                Ok(tx.time())
            })
            .await,
        );
    }
    // A transaction that writes nothing does not hold time.
    time.set(9_000);
    assert_eq!(commit(&store, |tx| Ok(tx.time())).await, 9_000);
    drop(store);
    time.set(50);
    let store = Store::open(dir.path(), time.clock()).unwrap();
    assert_eq!(store.opening().last_time, 600);
    times.push(commit(&store, |tx| Ok(tx.time())).await);
    assert_eq!(times, [500, 500, 600, 600, 600]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_even_if_the_refusal_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long_key = store
        .transact("test", |tx| {
            tx.put(&PLAIN, b"kept?", b"1")?;
            let _ = tx.put(&PLAIN, &[0; MAX_KEY_BYTES + 1], b"");
            Ok::<_, StoreError>(())
        })
        .await;
    let refused = StoreError::KeyTooLong { table: "test.plain", bytes: 4097, limit: 4096 };
    assert_eq!(long_key, Err(TxError::Store(refused)));

    let too_much = store
        .transact("test", |tx| {
            let _ = tx.put(&PLAIN, b"key", &vec![0; MAX_TRANSACTION_BYTES]);
            Ok::<_, StoreError>(())
        })
        .await;
    assert_eq!(
        too_much,
        Err(TxError::Store(StoreError::TransactionTooLarge { limit: MAX_TRANSACTION_BYTES }))
    );
    assert_eq!(all(&store.view(), PLAIN), pairs(&[]));

    // Replacing a row within the transaction gives its bytes back.
    commit(&store, |tx| {
        tx.put(&PLAIN, &[7; MAX_KEY_BYTES], b"longest key")?;
        tx.put(&PLAIN, b"big", &vec![1; MAX_TRANSACTION_BYTES / 2])?;
        tx.put(&PLAIN, b"big", &vec![2; MAX_TRANSACTION_BYTES / 2])?;
        tx.put(&PLAIN, b"big", &vec![3; MAX_TRANSACTION_BYTES - 10_000])
    })
    .await;
    let expected = Some(vec![3; MAX_TRANSACTION_BYTES - 10_000]);
    assert!(store.view().get(&PLAIN, b"big").unwrap() == expected);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert!(store.view().get(&PLAIN, b"big").unwrap() == expected);
    assert!(store.view().get(&PLAIN, &[7; MAX_KEY_BYTES]).unwrap().is_some());
}

#[tokio::test]
async fn scans_page_and_keep_to_their_table_and_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, |tx| {
        tx.put(&OTHER, b"a", b"other")?;
        for key in ["a", "aa", "ab", "ab\u{0}", "b", "\u{10FFFF}"] {
            tx.put(&PLAIN, key.as_bytes(), b"")?;
        }
        tx.put(&PLAIN, &[0xFF, 0xFF], b"")?;
        tx.put(&PLAIN, b"", b"")
    })
    .await;
    let view = store.view();
    let check = |prefix: &[u8], after: Option<&[u8]>, limit: usize, expected: &[&[u8]]| {
        let found = view.scan(&PLAIN, prefix, after, limit).unwrap();
        let keys: Vec<&[u8]> = found.iter().map(|row| row.key.as_slice()).collect();
        assert_eq!(keys, expected, "prefix {prefix:?} after {after:?} limit {limit}");
    };
    check(b"a", None, 9, &[b"a", b"aa", b"ab", b"ab\0"]);
    check(b"a", None, 2, &[b"a", b"aa"]);
    check(b"a", None, 0, &[]);
    check(b"a", Some(b"a"), 9, &[b"aa", b"ab", b"ab\0"]);
    check(b"a", Some(b""), 1, &[b"a"]);
    check(b"a", Some(b"aZ"), 1, &[b"aa"]);
    check(b"a", Some(b"ab\0"), 9, &[]);
    check(b"a", Some(b"zzz"), 9, &[]);
    check(b"ab", None, 9, &[b"ab", b"ab\0"]);
    check(&[0xFF], None, 9, &[&[0xFF, 0xFF]]);
    check(&[0xFF, 0xFF], Some(&[0xFF, 0xFF]), 9, &[]);
    check(b"", None, 2, &[b"", b"a"]);
    check(b"", Some(b""), 1, &[b"a"]);
    assert_eq!(view.last(&PLAIN, b"a").unwrap().unwrap().key, b"ab\0");
    assert_eq!(view.last(&PLAIN, b"").unwrap().unwrap().key, [0xFF, 0xFF]);
    assert_eq!(view.last(&PLAIN, b"c").unwrap(), None);
}

#[tokio::test]
async fn many_callers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let callers: Vec<_> = (0..500_u32)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                commit(&store, move |tx| {
                    let count = tx.get(&PLAIN, b"count")?.map_or(0, |bytes| bytes.len());
                    tx.put(&PLAIN, b"count", &vec![1; count + 1])?;
                    tx.put(&OTHER, &caller.to_be_bytes(), &count.to_be_bytes())
                })
                .await;
                store.view().get(&OTHER, &caller.to_be_bytes()).unwrap().unwrap()
            })
        })
        .collect();
    let mut counts = Vec::new();
    for caller in callers {
        counts.push(usize::from_be_bytes(caller.await.unwrap().try_into().unwrap()));
    }
    counts.sort_unstable();
    assert_eq!(counts, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn close_frees_the_directory_while_clones_live() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "a", "1").await;
    let (clone, view) = (store.clone(), store.view());
    tokio::join!(store.clone().close(), store.close());
    assert_eq!(view.get(&PLAIN, b"a"), Err(StoreError::Closed));
    let refused = clone.transact("test", |tx| tx.get(&PLAIN, b"a")).await;
    assert_eq!(refused, Err(TxError::Store(StoreError::Closed)));
    assert_eq!(all(&open(dir.path()).view(), PLAIN), pairs(&[("a", "1")]));
}

#[tokio::test]
async fn a_view_keeps_the_store_open_and_the_last_clone_may_fall_on_the_writer_thread() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "a", "1").await;
    let view = store.view();
    drop(store);
    assert_eq!(all(&view, PLAIN), pairs(&[("a", "1")]));
    drop(view);

    let store = open(dir.path());
    let (seen, was_seen) = tokio::sync::oneshot::channel();
    let inner = store.clone();
    let running = tokio::spawn(async move {
        let held = inner.clone();
        inner
            .transact("test", move |_| {
                let _ = seen.send(all(&held.view(), PLAIN));
                Ok::<_, StoreError>(())
            })
            .await
    });
    drop(store);
    assert_eq!(was_seen.await.unwrap(), pairs(&[("a", "1")]));
    let _ = running.await.unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, u8),
    Delete(Vec<u8>),
    Get(Vec<u8>),
    Scan(Vec<u8>, Option<Vec<u8>>, usize),
    Last(Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xFE), Just(0xFF)], 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key().prop_map(Step::Delete),
        2 => key().prop_map(Step::Get),
        2 => (key(), proptest::option::of(key()), 0..6_usize).prop_map(|(p, a, l)| Step::Scan(p, a, l)),
        1 => key().prop_map(Step::Last),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn scan_model(model: &Model, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Row> {
    model
        .iter()
        .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after))
        .take(limit)
        .map(|(key, value)| Row { key: key.clone(), value: value.clone() })
        .collect()
}

fn play(tx: &mut Tx<'_>, model: &mut Model, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Put(key, value) => {
                tx.put(&PLAIN, key, &[*value]).unwrap();
                model.insert(key.clone(), vec![*value]);
            }
            Step::Delete(key) => {
                tx.delete(&PLAIN, key).unwrap();
                model.remove(key);
            }
            Step::Get(key) => assert_eq!(tx.get(&PLAIN, key).unwrap(), model.get(key).cloned()),
            Step::Scan(prefix, after, limit) => assert_eq!(
                tx.scan(&PLAIN, prefix, after.as_deref(), *limit).unwrap(),
                scan_model(model, prefix, after.as_deref(), *limit)
            ),
            Step::Last(prefix) => assert_eq!(
                tx.last(&PLAIN, prefix).unwrap(),
                scan_model(model, prefix, None, usize::MAX).pop()
            ),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Transactions in groups of any size, some aborted, against a map; then the same from the journal alone.
    #[test]
    fn transactions_behave_like_a_map(
        transactions in proptest::collection::vec((proptest::collection::vec(step(), 0..12), any::<bool>()), 1..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let model = Arc::new(std::sync::Mutex::new(Model::new()));
        runtime.block_on(async {
            let mut running = Vec::new();
            for (steps, abort) in transactions {
                let (store, model) = (store.clone(), model.clone());
                running.push(tokio::spawn(async move {
                    store.transact("test", move |tx| {
                        let mut committed = model.lock().unwrap();
                        let mut mine = committed.clone();
                        play(tx, &mut mine, &steps);
                        if abort {
                            return Err(StoreError::Closed);
                        }
                        *committed = mine;
                        Ok(())
                    }).await
                }));
            }
            for transaction in running {
                if let Err(TxError::Store(error)) = transaction.await.unwrap() {
                    panic!("{error}");
                }
            }
        });
        let expected = scan_model(&model.lock().unwrap(), b"", None, usize::MAX);
        let rows = |store: &Store| store.view().scan(&PLAIN, b"", None, usize::MAX).unwrap();
        prop_assert_eq!(rows(&store), expected.clone());
        drop(store);
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        prop_assert_eq!(rows(&open(dir.path())), expected);
    }
}

#[tokio::test]
async fn after_a_panic_of_the_writer_views_still_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "a", "1").await;
    store.panic().await;
    let refused = store.transact("test", |tx| tx.put(&PLAIN, b"b", b"2")).await.unwrap_err();
    assert!(matches!(refused, TxError::Store(StoreError::Failed { .. })), "{refused:?}");
    let Health::Failed { reason } = store.health() else { panic!("it is well") };
    assert!(reason.contains("panicked"), "{reason}");
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("a", "1")]));
    store.close().await;
    assert_eq!(all(&open(dir.path()).view(), PLAIN), pairs(&[("a", "1")]));
}
