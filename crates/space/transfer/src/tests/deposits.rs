//! Deliveries that go on into a depot, which fails, forgets, is full of other names, and sees this node die at each step.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use huitong_contract::Coverage;
use huitong_identity::{Delivery, PeerError, ServiceError};
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_proof::{ContentRoot, Kind, id_text};
use tokio::sync::Notify;

use super::receipts::{keeper, trust};
use super::{ALWAYS, MIB, Space, Who, Wire, content, policy, series};
use crate::model::{DepositState, Priority, StartTransfer, Subscribe, Transfer, TransferState};
use crate::receipt::{Outcome, verify};
use crate::tables::deposits::{self, Progress};
use crate::{Depot, DepotError, SubscriptionPeer};

const ID: [u8; 16] = [2; 16];

/// A bucket in memory that takes files in parts of 1 MiB.
#[derive(Clone, Default)]
struct Bucket {
    state: Arc<Mutex<State>>,
    died: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Bytes and mark, by URL.
    objects: BTreeMap<String, (Vec<u8>, String)>,
    /// Parts by number, of uploads by number.
    uploads: BTreeMap<usize, BTreeMap<usize, Vec<u8>>>,
    begun: usize,
    /// What it was asked for, and every part that was sent.
    asked: Vec<String>,
    /// What it answers instead, by what it is asked for.
    answers: VecDeque<(&'static str, DepotError)>,
    /// What others put there as soon as it is asked for this.
    rival: Option<(String, String)>,
    /// Whether the node dies at each step, before it and after it, once.
    is_deadly: bool,
    deaths: HashSet<String>,
}

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Another's object.
    fn other(&self, url: &str) {
        self.state().objects.insert(url.to_owned(), (b"another's".to_vec(), "another".to_owned()));
    }

    fn answer(&self, asked: &'static str, error: DepotError) {
        self.state().answers.push_back((asked, error));
    }

    fn asked(&self, what: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.starts_with(what)).count()
    }

    /// What lies there, without what others have put there.
    fn ours(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let ours = state.objects.iter().filter(|(_, (_, mark))| mark != "another");
        ours.map(|(url, (bytes, _))| (url.clone(), bytes.clone())).collect()
    }

    async fn dies(&self, at: &str) {
        if self.state().is_deadly && self.state().deaths.insert(at.to_owned()) {
            self.died.notify_one();
            pending::<()>().await;
        }
    }

    async fn step<T>(
        &self,
        step: String,
        act: impl FnOnce(&mut State) -> Result<T, DepotError> + Send,
    ) -> Result<T, DepotError> {
        self.dies(&format!("before {step}")).await;
        let done = {
            let mut state = self.state();
            state.asked.push(step.clone());
            if let Some((_, url)) = state.rival.take_if(|(at, _)| step.starts_with(at.as_str())) {
                state.objects.insert(url, (b"another's".to_vec(), "another".to_owned()));
            }
            match state.answers.front() {
                Some((at, _)) if step.starts_with(at) => Err(state.answers.pop_front().unwrap().1),
                _ => act(&mut state),
            }
        };
        self.dies(&format!("after {step}")).await;
        done
    }
}

impl State {
    fn is_ours(&self, url: &str, mark: &str) -> Result<bool, DepotError> {
        match self.objects.get(url) {
            None => Ok(false),
            Some((_, found)) if found == mark => Ok(true),
            Some(_) => Err(DepotError::Exists(format!("{url}: exists"))),
        }
    }
}

fn read(upload: &[u8]) -> (usize, String, String) {
    let text = String::from_utf8(upload.to_vec()).unwrap();
    let mut words = text.split(' ').map(str::to_owned);
    (words.next().unwrap().parse().unwrap(), words.next().unwrap(), words.next().unwrap())
}

#[async_trait]
impl Depot for Bucket {
    fn check(&self, url: &str) -> Result<(), DepotError> {
        match url.strip_prefix("mem://bucket/") {
            Some(path) if path.contains('#') => Err(DepotError::Never(format!("{url}: has a # in it"))),
            Some(_) => Ok(()),
            None => Err(DepotError::Again(format!("{url}: no such bucket"))),
        }
    }

    async fn is_free(&self, url: &str) -> Result<bool, DepotError> {
        let prefix = url.to_owned();
        self.step(format!("is_free {url}"), move |state| {
            let taken =
                |key: &String| if prefix.ends_with('/') { key.starts_with(&prefix) } else { *key == prefix };
            Ok(!state.objects.keys().any(taken))
        })
        .await
    }

    async fn begin(&self, url: &str, _: u64, mark: &str) -> Result<Bytes, DepotError> {
        self.step(format!("begin {url}"), |state| {
            state.is_ours(url, mark)?;
            state.begun += 1;
            state.uploads.insert(state.begun, BTreeMap::new());
            Ok(format!("{} {url} {mark}", state.begun).into())
        })
        .await
    }

    async fn put(&self, upload: &[u8], file: &Path, _: bool) -> Result<(), DepotError> {
        let (number, url, mark) = read(upload);
        if self.step(format!("look {url}"), |state| state.is_ours(&url, &mark)).await? {
            return Ok(());
        }
        let bytes = fs::read(file).unwrap();
        let lost = || DepotError::Lost("lost".to_owned());
        for (part, bytes) in bytes.chunks(MIB).enumerate() {
            if self.state().uploads.get(&number).ok_or_else(lost)?.contains_key(&part) {
                continue;
            }
            let sent = self.step(format!("send {url} {part}"), |state| {
                state.uploads.get_mut(&number).ok_or_else(lost)?.insert(part, bytes.to_vec());
                Ok(())
            });
            sent.await?;
        }
        self.step(format!("complete {url}"), |state| {
            state.is_ours(&url, &mark)?;
            let parts = state.uploads.remove(&number).ok_or_else(lost)?;
            state.objects.insert(url.clone(), (parts.into_values().flatten().collect(), mark.clone()));
            Ok(())
        })
        .await
    }

    async fn abort(&self, upload: &[u8]) -> Result<(), DepotError> {
        let (number, url, _) = read(upload);
        self.step(format!("abort {url}"), |state| {
            state.uploads.remove(&number);
            Ok(())
        })
        .await
    }
}

/// The space's consumer can deliver into the bucket.
fn with(space: Space, bucket: &Bucket) -> Space {
    Space { consumer: space.consumer.clone().with_depot(Arc::new(bucket.clone())), ..space }
}

fn to(space: &Space, location: &str) -> StartTransfer {
    StartTransfer {
        id: ID,
        contract: space.contract.clone(),
        product: None,
        directory: Some(PathBuf::from(location)),
        priority: Priority::Normal,
    }
}

/// What is to be put has been received.
async fn received(space: Space, bucket: &Bucket) -> Space {
    let space = with(space, bucket);
    space.consumer.start(to(&space, "mem://bucket/in")).await.unwrap();
    let attempt = space.run(ID).await;
    assert_eq!(attempt.consumer, Ok(()), "{attempt:?}");
    assert_eq!(space.states(ID), [TransferState::Completed; 2]);
    assert_eq!(space.consumer.open_deposits().unwrap(), [ID]);
    assert_eq!(bucket.asked(""), 0, "nothing is put before the delivery is complete");
    space
}

async fn file(bucket: &Bucket) -> Space {
    received(Space::new(3 * MIB + 5, MIB, &policy(&[ALWAYS])).await, bucket).await
}

fn files() -> BTreeMap<&'static str, Vec<u8>> {
    BTreeMap::from([
        ("a.csv", content(2 * MIB + 77)),
        ("b/empty", Vec::new()),
        ("b/数据.csv", content(5)),
        ("b.csv", content(70)),
    ])
}

async fn dataset(bucket: &Bucket) -> Space {
    received(Space::of_files(files(), MIB, &policy(&[ALWAYS])).await, bucket).await
}

fn below(place: &str) -> BTreeMap<String, Vec<u8>> {
    files().into_iter().map(|(path, bytes)| (format!("{place}{path}"), bytes)).collect()
}

fn seen(space: &Space) -> (Transfer, DepositState, String) {
    let transfer = space.seen_by(Who::Consumer, ID);
    let deposit = transfer.deposit.clone().unwrap();
    (transfer, deposit.state, deposit.reason)
}

fn assert_done(space: &Space, place: &str) {
    let (transfer, state, reason) = seen(space);
    assert_eq!((state, reason.as_str()), (DepositState::Done, ""));
    let deposit = transfer.deposit.unwrap();
    assert_eq!((deposit.location.as_str(), deposit.path.as_deref()), ("mem://bucket/in/", Some(place)));
    assert_eq!(transfer.path, None);
    assert_eq!(fs::read_dir(space.received().join(".deposits")).unwrap().count(), 0);
    assert!(space.consumer.open_deposits().unwrap().is_empty());
    assert_eq!(deposits::progress(&space.network.consumer.ledger.store().view(), &ID).unwrap(), None);
}

fn marked(name: &str) -> String {
    name.replace("{}", &id_text(&ID))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_received_and_receipted_as_always_and_then_put() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    space.assert_delivered(ID);
    let (transfer, state, _) = seen(&space);
    let staging = space.received().join(".deposits").join(id_text(&ID));
    assert_eq!((transfer.path.unwrap(), state), (staging.join("rain.csv"), DepositState::Open));
    let kinds = space.kinds(Who::Consumer, ID);

    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain.csv");
    assert_eq!(
        bucket.ours(),
        BTreeMap::from([("mem://bucket/in/rain.csv".to_owned(), space.content.clone())])
    );
    assert_eq!(space.kinds(Who::Consumer, ID), kinds, "the receipt speaks of the delivery alone");
    space.consumer.collect(&ID, &keeper(&space, Who::Provider)).await.unwrap();
    let receipt = space.consumer.receipt(&ID).await.unwrap();
    assert_eq!(verify(&receipt, &trust(&space), None).outcome(), Outcome::Valid);

    // Doing it again changes nothing, and neither does starting it again.
    let asked = bucket.asked("");
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    space.consumer.start(to(&space, "mem://bucket/in")).await.unwrap();
    assert_eq!(space.run(ID).await.frames, Vec::<String>::new());
    assert_eq!(bucket.asked(""), asked);
    let space = with(space.restart().await, &bucket);
    assert_done(&space, "mem://bucket/in/rain.csv");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_files_of_a_dataset_are_put_below_its_name() {
    let bucket = Bucket::default();
    let space = dataset(&bucket).await;
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain/");
    assert_eq!(bucket.ours(), below("mem://bucket/in/rain/"));
}

/// Runs tries until the deposit is done, with a restart after each death; gives how often the node has died.
async fn survive(mut space: Space, bucket: &Bucket) -> (Space, usize) {
    bucket.state().is_deadly = true;
    for deaths in 0..100 {
        tokio::select! {
            biased;
            done = space.consumer.deposit(&ID) => {
                assert_eq!(done, Ok(()));
                return (space, deaths);
            }
            () = bucket.died.notified() => {}
        }
        space = with(space.restart().await, bucket);
        let (transfer, state, _) = seen(&space);
        assert_eq!((state, transfer.path.unwrap().exists()), (DepositState::Open, true));
    }
    panic!("it never ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_at_each_step_puts_everything_once() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    let (space, deaths) = survive(space, &bucket).await;
    assert_done(&space, "mem://bucket/in/rain.csv");
    assert_eq!(
        bucket.ours(),
        BTreeMap::from([("mem://bucket/in/rain.csv".to_owned(), space.content.clone())])
    );
    assert_eq!(bucket.asked("send"), 4, "no part is sent twice: {:?}", bucket.state().asked);
    // Looking, beginning, looking again, four parts, completing: before and after each.
    assert_eq!(deaths, 16);
    assert!(bucket.state().uploads.values().all(BTreeMap::is_empty), "no upload holds bytes");

    let bucket = Bucket::default();
    let space = dataset(&bucket).await;
    let (space, deaths) = survive(space, &bucket).await;
    assert_done(&space, "mem://bucket/in/rain/");
    assert_eq!(bucket.ours(), below("mem://bucket/in/rain/"));
    assert_eq!((bucket.asked("send"), deaths), (5, 2 * (1 + 4 * 3 + 5)));
    assert!(bucket.state().uploads.values().all(BTreeMap::is_empty));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_between_taking_away_and_saying_so_has_deposited() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    let all_is_there = Progress { next: 1, upload: None };
    let store = space.network.consumer.ledger.store().clone();
    let stored = store.transact("test", move |tx| deposits::put(tx, &ID, &all_is_there));
    stored.await.unwrap();
    fs::remove_dir_all(space.received().join(".deposits").join(id_text(&ID))).unwrap();
    let space = with(space.restart().await, &bucket);
    // Nobody gives it up any more.
    let late = space.consumer.cancel(&ID, "").await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_eq!(seen(&space).1, DepositState::Done);
    assert_eq!(bucket.asked(""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_put_there_is_never_touched() {
    for (taken, is_dataset, place) in [
        ("mem://bucket/in/rain.csv", false, "mem://bucket/in/rain-{}.csv"),
        ("mem://bucket/in/rain.csv.old", false, "mem://bucket/in/rain.csv"),
        ("mem://bucket/in/rain/old/b.csv", true, "mem://bucket/in/rain-{}/"),
        ("mem://bucket/in/rainy/b.csv", true, "mem://bucket/in/rain/"),
    ] {
        let bucket = Bucket::default();
        bucket.other(taken);
        let space = if is_dataset { dataset(&bucket).await } else { file(&bucket).await };
        let place = marked(place);
        // The choice outlives a crash, whatever lies there afterwards.
        bucket.answer("begin", DepotError::Again("away".to_owned()));
        assert_eq!(space.consumer.deposit(&ID).await, Err(Delivery::Retry("away".to_owned())));
        bucket.state().objects.clear();
        bucket.other("mem://bucket/in/rain/new");
        let space = with(space.restart().await, &bucket);
        assert_eq!(space.consumer.deposit(&ID).await, Ok(()), "{taken}");
        assert_done(&space, &place);
        let expected = match is_dataset {
            true => below(&place),
            false => BTreeMap::from([(place, space.content.clone())]),
        };
        assert_eq!(bucket.ours(), expected, "{taken}");
        assert_eq!(bucket.state().objects["mem://bucket/in/rain/new"].0, b"another's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_in_the_meantime_is_left_to_who_has_it() {
    for (at, is_dataset, taken, place) in [
        ("begin", false, "mem://bucket/in/rain.csv", "mem://bucket/in/rain-{}.csv"),
        ("complete", false, "mem://bucket/in/rain.csv", "mem://bucket/in/rain-{}.csv"),
        ("complete", true, "mem://bucket/in/rain/a.csv", "mem://bucket/in/rain-{}/"),
    ] {
        let bucket = Bucket::default();
        let space = if is_dataset { dataset(&bucket).await } else { file(&bucket).await };
        bucket.state().rival = Some((at.to_owned(), taken.to_owned()));
        assert_eq!(space.consumer.deposit(&ID).await, Ok(()), "{taken}");
        assert_done(&space, &marked(place));
        assert_eq!(bucket.ours().len(), if is_dataset { 4 } else { 1 });
        assert_eq!(bucket.state().objects[taken].0, b"another's");
        assert!(bucket.state().uploads.is_empty(), "what was begun under the other name is ended");
    }
    // Once something of a dataset is there it does not move: that waits until somebody has made room.
    let bucket = Bucket::default();
    let space = dataset(&bucket).await;
    let rival = "mem://bucket/in/rain/b/empty";
    bucket.state().rival = Some(("complete mem://bucket/in/rain/a.csv".to_owned(), rival.to_owned()));
    for _ in 0..2 {
        let waits = space.consumer.deposit(&ID).await;
        assert_eq!(waits, Err(Delivery::Retry(format!("{rival}: exists"))));
        let (_, state, reason) = seen(&space);
        assert_eq!((state, reason), (DepositState::Open, format!("{rival}: exists")));
    }
    bucket.state().objects.remove(rival);
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain/");
    assert_eq!(bucket.ours(), below("mem://bucket/in/rain/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_depot_that_fails_or_forgets_is_tried_again_and_the_reason_is_shown() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    let reasons =
        |space: &Space| [seen(space).2, space.consumer.list(1).unwrap()[0].deposit.clone().unwrap().reason];
    let mut changes = space.consumer.changes();
    for (at, error) in [
        ("is_free", DepotError::Again("access denied".to_owned())),
        ("begin", DepotError::Again("unavailable".to_owned())),
        ("send mem://bucket/in/rain.csv 2", DepotError::Again("broke off".to_owned())),
        ("complete", DepotError::Lost("forgotten".to_owned())),
    ] {
        changes.borrow_and_update();
        bucket.answer(at, error.clone());
        assert_eq!(space.consumer.deposit(&ID).await, Err(Delivery::Retry(error.to_string())));
        assert_eq!(reasons(&space), [error.to_string(), error.to_string()]);
        assert!(changes.has_changed().unwrap(), "who watches sees it");
        assert_eq!(space.consumer.open_deposits().unwrap(), [ID]);
    }
    assert_eq!(bucket.asked("send"), 5, "only what did not arrive is sent again");
    // What the depot has forgotten is begun again.
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain.csv");
    assert_eq!(bucket.asked("begin"), 3);
    assert_eq!(reasons(&space), ["", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_depot_has_forgotten_is_ended_before_it_is_begun_again() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    bucket.answer("complete", DepotError::Lost("forgotten".to_owned()));
    bucket.answer("abort", DepotError::Again("away".to_owned()));
    // As long as it cannot be ended it is not forgotten here.
    assert_eq!(space.consumer.deposit(&ID).await, Err(Delivery::Retry("away".to_owned())));
    bucket.answer("complete", DepotError::Lost("forgotten".to_owned()));
    assert_eq!(space.consumer.deposit(&ID).await, Err(Delivery::Retry("forgotten".to_owned())));
    assert!(bucket.state().uploads.is_empty());
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain.csv");
    assert_eq!((bucket.asked("begin"), bucket.asked("abort")), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_that_fails_for_good_leaves_no_upload_behind_and_can_be_tried_again() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    bucket.answer("send mem://bucket/in/rain.csv 2", DepotError::Never("impossible".to_owned()));
    bucket.answer("abort", DepotError::Again("away".to_owned()));
    assert_eq!(space.consumer.deposit(&ID).await, Err(Delivery::Retry("away".to_owned())));
    assert_eq!(seen(&space).1, DepositState::Open);
    bucket.answer("send mem://bucket/in/rain.csv 2", DepotError::Never("impossible".to_owned()));
    assert_eq!(space.consumer.deposit(&ID).await, Err(Delivery::Dead("impossible".to_owned())));
    assert_eq!((seen(&space).1, seen(&space).2.as_str()), (DepositState::Failed, "impossible"));
    assert!(bucket.state().uploads.is_empty());

    let resumed = space.consumer.resume(&ID).await.unwrap().deposit.unwrap();
    assert_eq!((resumed.state, resumed.reason.as_str()), (DepositState::Open, ""));
    assert_eq!(space.consumer.open_deposits().unwrap(), [ID]);
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain.csv");
    // What is done is nobody's business any more.
    let late = space.consumer.cancel(&ID, "").await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    let late = space.consumer.resume(&ID).await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_gives_a_deposit_up_and_has_it_tried_again() {
    let bucket = Bucket::default();
    let space = dataset(&bucket).await;
    // One file is there, and one of the parts of the next.
    bucket.state().is_deadly = true;
    let step = "before send mem://bucket/in/rain/a.csv 1";
    while !bucket.state().deaths.contains(step) {
        tokio::select! {
            biased;
            done = space.consumer.deposit(&ID) => panic!("{done:?}"),
            () = bucket.died.notified() => {}
        }
    }
    bucket.state().deaths.remove(step);
    let trying = tokio::spawn({
        let consumer = space.consumer.clone();
        async move { consumer.deposit(&ID).await }
    });
    bucket.died.notified().await;
    let with_bytes = || bucket.state().uploads.values().filter(|parts| !parts.is_empty()).count();
    assert_eq!(with_bytes(), 1);
    bucket.state().is_deadly = false;
    let given_up = space.consumer.cancel(&ID, "the bucket is gone").await.unwrap();
    assert_eq!(trying.await.unwrap(), Ok(()));
    let deposit = given_up.deposit.clone().unwrap();
    assert_eq!((deposit.state, deposit.reason.as_str()), (DepositState::Failed, "the bucket is gone"));
    assert_eq!(given_up.state, TransferState::Completed, "it was delivered and receipted");
    assert!(given_up.path.unwrap().join("a.csv").exists(), "what was received stays");
    assert_eq!(with_bytes(), 0, "and nothing is left there half");
    assert!(space.consumer.open_deposits().unwrap().is_empty());
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_eq!(seen(&space).1, DepositState::Failed);

    let space = with(space.restart().await, &bucket);
    space.consumer.resume(&ID).await.unwrap();
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain/");
    assert_eq!(bucket.ours(), below("mem://bucket/in/rain/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_away_is_waited_for() {
    let bucket = Bucket::default();
    let space = file(&bucket).await;
    let staging = space.received().join(".deposits");
    let away = space.received().join("away");
    fs::rename(&staging, &away).unwrap();
    let waits = space.consumer.deposit(&ID).await;
    assert!(matches!(&waits, Err(Delivery::Retry(reason)) if reason.contains("is not there")), "{waits:?}");
    assert_eq!(seen(&space).1, DepositState::Open);
    fs::rename(&away, &staging).unwrap();
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain.csv");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_datasets_of_one_name_never_share_a_place() {
    for at_once in [false, true] {
        let bucket = Bucket::default();
        let space = dataset(&bucket).await;
        let other = [3; 16];
        space.consumer.start(StartTransfer { id: other, ..to(&space, "mem://bucket/in") }).await.unwrap();
        assert_eq!(space.run(other).await.consumer, Ok(()));
        let away = Err(Delivery::Retry("away".to_owned()));
        for _ in 0..2 {
            bucket.answer("begin", DepotError::Again("away".to_owned()));
        }
        // Both have their place, and nothing is there yet.
        let tried = match at_once {
            true => tokio::join!(space.consumer.deposit(&ID), space.consumer.deposit(&other)),
            false => (space.consumer.deposit(&ID).await, space.consumer.deposit(&other).await),
        };
        assert_eq!(tried, (away.clone(), away));
        let place = |id| space.seen_by(Who::Consumer, id).deposit.unwrap().path.unwrap();
        let marked = |id| format!("mem://bucket/in/rain-{}/", id_text(&id));
        let (places, plain) = ([place(ID), place(other)], "mem://bucket/in/rain/".to_owned());
        // Who comes first has the plain name.
        let expected = [[plain.clone(), marked(other)], [marked(ID), plain]];
        assert!(expected.contains(&places), "{places:?}");
        assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
        assert_eq!(space.consumer.deposit(&other).await, Ok(()));
        let expected: BTreeMap<_, _> = places.iter().flat_map(|place| below(place)).collect();
        assert_eq!(bucket.ours(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_open_deposits_come_up() {
    let space = Space::small().await;
    let ids: Vec<[u8; 16]> = (0..2100_u128).map(|number| number.to_be_bytes()).collect();
    let (stored, open) = (space.network.consumer.ledger.store().clone(), ids.clone());
    let put = stored.transact("test", move |tx| -> Result<(), ServiceError> {
        open.iter().try_for_each(|id| deposits::put(tx, id, &Progress::default()))
    });
    put.await.unwrap();
    assert_eq!(space.consumer.open_deposits().unwrap(), ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_bucket_was_taken_out_of_its_configuration_goes_on_when_it_is_back() {
    let bucket = Bucket::default();
    let space = file(&bucket).await.restart().await;
    let waits = space.consumer.deposit(&ID).await;
    assert!(matches!(&waits, Err(Delivery::Retry(reason)) if reason.contains("configuration")), "{waits:?}");
    assert_eq!(seen(&space).1, DepositState::Open);
    let space = with(space, &bucket);
    assert_eq!(space.consumer.deposit(&ID).await, Ok(()));
    assert_done(&space, "mem://bucket/in/rain.csv");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_put_stays_here() {
    // A name that the depot does not take is found before anything is put.
    let bucket = Bucket::default();
    let files = BTreeMap::from([("a.csv", content(5)), ("b#.csv", content(6))]);
    let space = received(Space::of_files(files, MIB, &policy(&[ALWAYS])).await, &bucket).await;
    let failed = space.consumer.deposit(&ID).await;
    assert!(matches!(failed, Err(Delivery::Dead(_))), "{failed:?}");
    let (transfer, state, reason) = seen(&space);
    assert_eq!(
        (state, reason.as_str()),
        (DepositState::Failed, "mem://bucket/in/rain/b#.csv: has a # in it")
    );
    assert!(transfer.path.unwrap().join("b#.csv").exists());
    assert!(space.consumer.open_deposits().unwrap().is_empty());
    assert_eq!(bucket.asked("begin"), 0);

    // What is not there any more as it was received is not put.
    for spoil in
        [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| fs::write(path, "shorter").unwrap()]
    {
        let bucket = Bucket::default();
        let space = file(&bucket).await;
        spoil(&seen(&space).0.path.unwrap());
        let failed = space.consumer.deposit(&ID).await;
        assert!(
            matches!(&failed, Err(Delivery::Dead(reason)) if reason.contains("fetch it again")),
            "{failed:?}"
        );
        assert_eq!((seen(&space).1, bucket.asked("")), (DepositState::Failed, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_looked_at_before_anything_is_started() {
    let bucket = Bucket::default();
    let space = Space::small().await;
    let refused = |error: ServiceError| match error {
        ServiceError::Invalid { field, reason } => format!("{field}: {reason}"),
        other => panic!("{other:?}"),
    };
    let without = space.consumer.start(to(&space, "mem://bucket/in/")).await.map_err(refused).unwrap_err();
    assert!(without.starts_with("directory: mem://bucket/in/: this node has no object storage"), "{without}");
    let space = with(space, &bucket);
    for (location, reason) in [
        ("mem://elsewhere/", "directory: mem://elsewhere/: no such bucket"),
        ("mem://bucket/#/", "directory: mem://bucket/#/: has a # in it"),
        ("in", "directory: expected an absolute path"),
    ] {
        let said = space.consumer.start(to(&space, location)).await.map_err(refused).unwrap_err();
        assert!(said.starts_with(reason), "{said}");
        let StartTransfer { contract, directory, priority, .. } = to(&space, location);
        let order = Subscribe { contract, directory, priority, schedule: None, push: true };
        let said = space.consumer.subscribe(order).await.map_err(refused).unwrap_err();
        assert!(said.starts_with(reason), "{said}");
    }
    assert!(space.consumer.list(10).unwrap().is_empty());
    assert_eq!(bucket.asked(""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_cancelled_leaves_nothing_behind() {
    let bucket = Bucket::default();
    let space = with(super::controlling::running().await, &bucket);
    space.consumer.cancel(&ID, "").await.unwrap();
    let id = [3; 16];
    let request = StartTransfer { id, ..to(&space, "mem://bucket/") };
    space.consumer.start(request).await.unwrap();
    assert!(space.attempt(id, Wire::cut(8)).await.consumer.is_err());
    let staging = space.received().join(".deposits");
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 1);
    space.consumer.cancel(&id, "").await.unwrap();
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    assert!(space.consumer.open_deposits().unwrap().is_empty());
    assert_eq!(bucket.asked(""), 0);
}

/// The provider, which has what it has.
struct Offering(ContentRoot);

#[async_trait]
impl SubscriptionPeer for Offering {
    async fn push(&self, _: &NodeId, _: &ContractId, _: [u8; 16]) -> Result<(), PeerError> {
        Ok(())
    }

    async fn current_root(&self, _: &NodeId, _: &DataId) -> Result<ContentRoot, PeerError> {
        Ok(self.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_delivers_into_the_depot_one_after_the_other() {
    let bucket = Bucket::default();
    let mut space = with(series::space(Coverage::Series).await, &bucket);
    let StartTransfer { contract, directory, priority, .. } = to(&space, "mem://bucket/daily");
    let order = Subscribe { contract: contract.clone(), directory, priority, schedule: None, push: true };
    let subscription = space.consumer.subscribe(order).await.unwrap();
    assert_eq!(subscription.directory, Path::new("mem://bucket/daily/"));
    let caller = space.network.provider.caller.clone();
    let root = |space: &Space| ContentRoot::from_slice(blake3::hash(&space.content).as_bytes()).unwrap();

    space.consumer.pushed(&caller, &contract, [50; 16]).await.unwrap();
    let offering = Offering(root(&space));
    assert_eq!(space.consumer.serve_subscription(&contract, &offering).await, Ok(()));
    let first = space.consumer.runnable().unwrap()[0];
    assert_eq!(space.run(first).await.consumer, Ok(()));

    // As long as it is not there, no other one is started.
    space.consumer.pushed(&caller, &contract, [51; 16]).await.unwrap();
    let waits = space.consumer.serve_subscription(&contract, &offering).await;
    assert_eq!(waits, Err(Delivery::Retry("the delivery before is still under way".to_owned())));
    assert_eq!(space.consumer.deposit(&first).await, Ok(()));
    assert_eq!(space.consumer.serve_subscription(&contract, &offering).await, Ok(()));
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    assert_eq!(space.consumer.subscriptions().unwrap()[0].note, "nothing new");

    series::renew(&mut space, 2, content(MIB + 9), Coverage::Series).await;
    space.consumer.pushed(&caller, &contract, [52; 16]).await.unwrap();
    assert_eq!(space.consumer.serve_subscription(&contract, &Offering(root(&space))).await, Ok(()));
    let second = space.consumer.runnable().unwrap()[0];
    assert_eq!(space.run(second).await.consumer, Ok(()));
    assert_eq!(space.counted(Who::Provider, second, Kind::Final), 1);
    assert_eq!(space.consumer.deposit(&second).await, Ok(()));
    let ours = bucket.ours();
    assert_eq!(ours.len(), 2);
    assert!(ours["mem://bucket/daily/rain.csv"] != space.content);
    assert!(ours[&format!("mem://bucket/daily/rain-{}.csv", id_text(&second))] == space.content);
}
