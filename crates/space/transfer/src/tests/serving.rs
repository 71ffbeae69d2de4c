//! Consumers that take what a provider has to give to all of them: places, memory, time and its ledger.

use std::time::Duration;

use huitong_identity::ServiceError;
use huitong_proof::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::consumer_lies::{Raw, accept, ack};
use super::link::{ADDRESS, Link};
use super::{ALWAYS, MIB, Space, Who, Wire, policy, transfers_with};
use crate::{FromConsumer, FromProvider, LOWEST_RATE, Limited, Want};

const ID: [u8; 16] = [2; 16];

/// A clock that stands still but for what the test adds: a runtime that is never idle does not move it.
pub(super) struct Stopped(JoinHandle<()>);

impl Stopped {
    pub(super) fn new() -> Self {
        tokio::time::pause();
        Self(tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        }))
    }

    /// Lets this much time pass, and the nodes' threads do what they do meanwhile.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    }

    /// Lets little time pass until something has happened that a busy machine needs real time for.
    pub(super) async fn until(&self, mut has_happened: impl FnMut() -> bool) {
        for _ in 0..3_000 {
            if has_happened() {
                return;
            }
            self.pass(Duration::from_millis(20)).await;
        }
        panic!("it does not happen");
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_nothing_take_no_places() {
    let space = Space::new(MIB, MIB, &policy(&[ALWAYS])).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        for stranger in [&space.network.registrar.caller, &space.network.provider.caller] {
            let (send, incoming) = mpsc::channel(4);
            let (out, frames) = mpsc::channel(64);
            let (provider, stranger) = (space.provider.clone(), stranger.clone());
            let served =
                tokio::spawn(async move { provider.exchange(stranger, ADDRESS, incoming, out).await });
            silent.push((send, frames, served));
        }
    }
    tokio::task::yield_now().await;
    space.start(ID).await;
    let began = Instant::now();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    space.assert_delivered(ID);
    assert!(silent.iter().all(|(.., served)| !served.is_finished()));
}

/// What is left of an exchange on its way over any of its connections keeps the exchange's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_the_place_of_its_exchange() {
    let mut space = Space::new(MIB, MIB, &policy(&[ALWAYS])).await;
    space.provider =
        transfers_with(space.home.path(), &space.network.provider, |settings| settings.max_outgoing = 1);
    let (raw, _) = Raw::open(&space, ID).await;
    let lane = space.provider.lane(&space.network.consumer.caller, &ID).unwrap();
    let Raw { out, frames, served } = raw;
    drop((out, frames));
    served.await.unwrap().unwrap();
    timeout(Duration::from_secs(10), lane.ended()).await.unwrap();
    assert!(timeout(Duration::from_millis(300), Raw::open(&space, ID)).await.is_err());
    drop(lane);
    timeout(Duration::from_secs(10), Raw::open(&space, ID)).await.unwrap();
}

/// Whoever has a contract says what it wants within one deadline, whatever it says before.
#[tokio::test]
async fn an_opening_has_one_deadline() {
    let space = Space::new(4 * MIB, MIB, &policy(&[ALWAYS])).await;
    // An acceptance that is known already may be said again.
    let (raw, offer) = Raw::open(&space, ID).await;
    let known = space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await;
    raw.say(&known).await;
    let Raw { out, mut frames, served } = raw;
    while !matches!(frames.recv().await.unwrap(), FromProvider::Chunk { .. }) {}
    drop((out, frames));
    served.await.unwrap().unwrap();
    let (raw, _) = Raw::open(&space, ID).await;
    let clock = Stopped::new();
    let began = Instant::now();
    for _ in 0..9 {
        clock.pass(Duration::from_secs(60)).await;
    }
    assert!(!raw.served.is_finished());
    // This does not buy it another ten minutes.
    raw.say(&known).await;
    clock.pass(Duration::from_secs(1)).await;
    assert!(!raw.served.is_finished());
    clock.pass(Duration::from_secs(60)).await;
    clock.until(|| raw.served.is_finished()).await;
    assert!(began.elapsed() < Duration::from_secs(700), "{:?}", began.elapsed());
    assert!(matches!(raw.served.await.unwrap(), Err(ServiceError::Busy { .. })));
}

#[tokio::test]
async fn a_limit_holds_however_often_an_exchange_begins_anew() {
    let space = Space::new(12 * MIB, 8 * MIB, &policy(&[ALWAYS])).await;
    space.provider.limit(Limited::Node, Some(LOWEST_RATE)).unwrap();
    let clock = Stopped::new();
    let began = Instant::now();
    for _ in 0..10 {
        let (mut raw, offer) = Raw::open(&space, ID).await;
        raw.say(&space.issue(Who::Consumer, accept(&offer, &space, 0, 12)).await).await;
        let mut has_come = false;
        let mut look = || {
            while let Ok(frame) = raw.frames.try_recv() {
                has_come |= matches!(frame, FromProvider::Chunk { .. });
            }
            has_come
        };
        for _ in 0..15 {
            if !look() {
                clock.pass(Duration::from_secs(1)).await;
            }
        }
        clock.until(look).await;
        let Raw { out, frames, served } = raw;
        drop((out, frames));
        served.await.unwrap().unwrap();
    }
    // A mebibyte every 16 seconds, the first one at once.
    assert!(began.elapsed() >= Duration::from_secs(144), "{:?}", began.elapsed());
}

/// A group takes 100 seconds, as where many transfers share the lowest limit.
#[tokio::test]
async fn a_slow_limit_is_no_silence() {
    let mut space = Space::new(3 * MIB, 8 * MIB, &policy(&[ALWAYS])).await;
    space.provider = transfers_with(space.home.path(), &space.network.provider, |settings| {
        settings.rates.node = Some(MIB as u64 / 100);
    });
    space.start(ID).await;
    let clock = Stopped::new();
    let began = Instant::now();
    let running = {
        let (consumer, link) = (space.consumer.clone(), Link::new(&space, Wire::default()));
        tokio::spawn(async move { consumer.run(&ID, &link).await })
    };
    for groups in 1..=2 {
        let acknowledged =
            || space.provider.transfer(&ID).unwrap().map_or(0, |found| found.acknowledged_groups);
        clock.until(|| running.is_finished() || acknowledged() == groups).await;
        for _ in 0..95 {
            clock.pass(Duration::from_secs(1)).await;
        }
    }
    clock.until(|| running.is_finished()).await;
    assert_eq!(running.await.unwrap(), Ok(()));
    assert!(began.elapsed() >= Duration::from_secs(200), "{:?}", began.elapsed());
    space.assert_delivered(ID);
}

/// Manifest and leaf values are content as well: here a byte takes a second.
#[tokio::test]
async fn a_limit_holds_for_what_comes_before_the_content() {
    let mut space = Space::new(3 * MIB, 8 * MIB, &policy(&[ALWAYS])).await;
    space.provider =
        transfers_with(space.home.path(), &space.network.provider, |settings| settings.rates.node = Some(1));
    let clock = Stopped::new();
    let mut came = Vec::new();
    for _ in 0..2 {
        let (mut raw, _) = Raw::open(&space, ID).await;
        let mut has_come = false;
        let mut look = || {
            while let Ok(frame) = raw.frames.try_recv() {
                has_come |= matches!(frame, FromProvider::Leaves(_));
            }
            has_come
        };
        for _ in 0..97 {
            if !look() {
                clock.pass(Duration::from_secs(1)).await;
            }
        }
        clock.until(look).await;
        came.push(Instant::now());
        let Raw { out, frames, served } = raw;
        drop((out, frames));
        served.await.unwrap().unwrap();
    }
    assert!(came[1] - came[0] >= Duration::from_secs(90), "{:?}", came[1] - came[0]);
}

/// Who waits for its turn has it when it is due, whatever others take meanwhile.
#[tokio::test]
async fn nobody_waits_for_ever_for_what_others_send_under_the_same_limit() {
    let mut space = Space::new(3 * MIB, 8 * MIB, &policy(&[ALWAYS])).await;
    space.provider =
        transfers_with(space.home.path(), &space.network.provider, |settings| settings.rates.node = Some(1));
    let clock = Stopped::new();
    let mut exchanges = Vec::new();
    for number in 1..=3 {
        exchanges.push(Raw::open(&space, [number; 16]).await.0);
    }
    let mut has_come = [false; 3];
    let mut look = || {
        for (raw, has_come) in exchanges.iter_mut().zip(&mut has_come) {
            while let Ok(frame) = raw.frames.try_recv() {
                *has_come |= matches!(frame, FromProvider::Leaves(_));
            }
        }
        has_come
    };
    clock.until(|| look()[0]).await;
    let began = Instant::now();
    // 96 bytes of leaf values for each of them.
    while look() != [true; 3] {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", look());
        clock.pass(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(90));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_taken_only_a_few_times() {
    let space = Space::new(4 * MIB, MIB, &policy(&[ALWAYS])).await;
    for acknowledged in [false, true] {
        let (mut raw, offer) = Raw::open(&space, ID).await;
        let mut known = space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await;
        raw.say(&known).await;
        raw.chunk(0).await;
        if acknowledged {
            known = space.issue(Who::Consumer, ack(&known, &space, 1, 4 * MIB as u64)).await;
            raw.say(&known).await;
            raw.chunk(1).await;
        }
        let Raw { out, frames: _frames, served } = raw;
        let frame = || FromConsumer::Statement(known.bytes().clone());
        let saying = async {
            while out.send(Ok(frame())).await.is_ok() {}
            served.await.unwrap()
        };
        match timeout(Duration::from_secs(20), saying).await.expect("it is heard for ever") {
            Err(ServiceError::Invalid { field, .. }) => assert_eq!(field, "statement"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_takes_only_few_acceptances() {
    let space = Space::new(4 * MIB, MIB, &policy(&[ALWAYS])).await;
    let (raw, offer) = Raw::open(&space, ID).await;
    let before = space.statements(Who::Provider, ID).len();
    let mut different = Vec::new();
    for _ in 0..100 {
        different.push(space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await);
    }
    let (out, said) = (raw.out.clone(), different);
    let saying = tokio::spawn(async move {
        for statement in said {
            let frame = FromConsumer::Statement(statement.bytes().clone());
            if out.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    });
    match raw.served.await.unwrap() {
        Err(ServiceError::Invalid { field, .. }) => assert_eq!(field, "statement.kind"),
        other => panic!("{other:?}"),
    }
    saying.await.unwrap();
    assert_eq!(space.counted(Who::Provider, ID, Kind::Accept), 2);
    assert_eq!(space.statements(Who::Provider, ID).len(), before + 2);
}

/// What an exchange has cost, by what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn only_an_exchange_that_moves_something_is_not_idle() {
    let space = Space::new(3 * MIB, MIB, &policy(&[ALWAYS])).await;
    let caller = &space.network.consumer.caller;
    let serve = async |frames: Vec<FromConsumer>| {
        let (send, incoming) = mpsc::channel(8);
        for frame in frames {
            send.send(Ok(frame)).await.unwrap();
        }
        drop(send);
        let (out, _frames) = mpsc::channel(64);
        space.provider.serve(caller.clone(), ADDRESS, incoming, out).await
    };
    let want = Want { transfer: ID, contract: space.contract.clone(), product: space.product.clone() };
    let want = || FromConsumer::Want(want.clone());
    let nothing = serve(Vec::new()).await;
    assert!(nothing.is_idle && nothing.place.is_none());
    let only_asked = serve(vec![want()]).await;
    assert!(only_asked.is_idle && only_asked.place.is_some() && only_asked.outcome.is_ok());
    space.provider.pause(&ID, "maintenance").await.unwrap();
    let put_off = serve(vec![want()]).await;
    assert!(!put_off.is_idle && put_off.outcome.is_err());
}
