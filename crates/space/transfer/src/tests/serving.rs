//! Consumers that take what a provider has to give to all of them: places, memory, time and its ledger.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::consumer_lies::{Raw, accept};
use super::link::Link;
use super::{ALWAYS, MIB, Space, Who, Wire, policy, transfers_with};
use crate::{FromProvider, LOWEST_RATE, Limited};

const ID: [u8; 16] = [2; 16];

/// A clock that stands still but for what the test adds: a runtime that is never idle does not move it.
struct Stopped(JoinHandle<()>);

impl Stopped {
    fn new() -> Self {
        tokio::time::pause();
        Self(tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        }))
    }

    /// Lets this much time pass, and the nodes' threads do what they do meanwhile.
    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    }

    /// Lets little time pass until something has happened that a busy machine needs real time for.
    async fn until(&self, mut has_happened: impl FnMut() -> bool) {
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
