//! Transfers over several connections.

use async_trait::async_trait;
use huitong_identity::PeerError;
use huitong_ids::NodeId;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use super::link::Link;
use super::{ALWAYS, MIB, Space, Who, Wire, policy, transfers_with};
use crate::{Frames, FromConsumer, FromProvider, TransferPeer};

const ID: [u8; 16] = [2; 16];

/// A consumer that opens four connections.
async fn space(size: usize) -> Space {
    let mut space = Space::new(size, 8 * MIB, &policy(&[ALWAYS])).await;
    space.consumer =
        transfers_with(space.home.path(), &space.network.consumer, |settings| settings.connections = Some(4));
    space.start(ID).await;
    space
}

/// The same link whose lanes end or lie after some frames.
struct Faulty {
    link: Link,
    after: usize,
    then: fn() -> Option<Result<FromProvider, PeerError>>,
}

#[async_trait]
impl TransferPeer for Faulty {
    async fn exchange(
        &self,
        provider: &NodeId,
        size: u64,
        outgoing: mpsc::Receiver<FromConsumer>,
    ) -> Result<Frames, PeerError> {
        self.link.exchange(provider, size, outgoing).await
    }

    async fn lane(&self, provider: &NodeId, transfer: [u8; 16]) -> Result<Frames, PeerError> {
        let lane = self.link.lane(provider, transfer).await?;
        Ok(Box::pin(lane.take(self.after).chain(tokio_stream::iter((self.then)()))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_over_several_connections_in_any_order() {
    let space = space(40 * MIB + 3).await;
    let attempt = space.run(ID).await;
    assert_eq!(attempt.consumer, Ok(()), "{attempt:?}");
    space.assert_delivered(ID);
    let over_lanes = attempt.frames.iter().filter(|frame| *frame == "over a lane").count();
    let over_the_first = attempt.frames.iter().filter(|frame| frame.starts_with("chunk ")).count();
    assert!(over_lanes > 0 && over_the_first > 0, "{over_lanes} and {over_the_first}");
    assert_eq!(over_lanes + over_the_first, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_or_lies_ends_the_attempt_only() {
    type Then = fn() -> Option<Result<FromProvider, PeerError>>;
    let broken: Then = || Some(Err(PeerError::Unavailable("broken".to_owned())));
    let lying: Then = || Some(Ok(FromProvider::Leaves(bytes::Bytes::from_static(b"x"))));
    for (text, then) in [("connections failed", broken), ("not a chunk came", lying)] {
        let space = space(40 * MIB).await;
        let faulty = Faulty { link: Link::new(&space, Wire::default()), after: 2, then };
        let ended = space.consumer.run(&ID, &faulty).await.unwrap_err();
        assert!(format!("{ended:?}").contains(text), "{ended:?}");
        let _ = faulty.link.ended().await;
        space.assert_acknowledged_is_durable(ID);
        assert_eq!(space.run(ID).await.consumer, Ok(()));
        space.assert_delivered(ID);
    }
    // One that takes nothing and ends takes nothing with it.
    let space = space(20 * MIB).await;
    let faulty = Faulty { link: Link::new(&space, Wire::default()), after: 0, then: || None };
    assert_eq!(space.consumer.run(&ID, &faulty).await, Ok(()));
    space.assert_delivered(ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_consumer_may_open_connections_of_an_exchange_and_not_too_many() {
    let space = space(20 * MIB).await;
    let caller = &space.network.consumer.caller;
    assert!(space.provider.lane(caller, &ID).is_err(), "before the exchange");
    // The first chunk waits for ever: the exchange stands still.
    let (hold, mut held) = mpsc::channel(1);
    let down = move |frame: FromProvider| {
        if matches!(frame, FromProvider::Chunk { .. }) {
            let _ = hold.try_send(());
            return Vec::new();
        }
        vec![frame]
    };
    let running = {
        let (consumer, link) = (space.consumer.clone(), Link::new(&space, Wire::down(down)));
        tokio::spawn(async move { consumer.run(&ID, &link).await.map(|()| drop(link)) })
    };
    held.recv().await.unwrap();
    assert!(space.provider.lane(&space.network.provider.caller, &ID).is_err(), "somebody else");
    assert!(space.provider.lane(caller, &[9; 16]).is_err(), "another transfer");
    let open: Vec<_> = std::iter::from_fn(|| space.provider.lane(caller, &ID).ok()).take(100).collect();
    assert!(open.len() <= crate::MOST_LANES, "{}", open.len());
    assert_eq!(space.seen_by(Who::Provider, ID).acknowledged, 0);
    running.abort();
}

/// Takes a chunk off each further connection, and then does as if there had never been one.
struct Losing(Link);

#[async_trait]
impl TransferPeer for Losing {
    async fn exchange(
        &self,
        provider: &NodeId,
        size: u64,
        outgoing: mpsc::Receiver<FromConsumer>,
    ) -> Result<Frames, PeerError> {
        self.0.exchange(provider, size, outgoing).await
    }

    async fn lane(&self, provider: &NodeId, transfer: [u8; 16]) -> Result<Frames, PeerError> {
        let mut frames = self.0.lane(provider, transfer).await?;
        let _ = frames.next().await;
        Err(PeerError::Unavailable("lost".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_with_a_chunk_ends_the_attempt_at_once() {
    let space = space(40 * MIB).await;
    let losing = Losing(Link::new(&space, Wire::default()));
    let began = std::time::Instant::now();
    let ended = space.consumer.run(&ID, &losing).await.unwrap_err();
    assert!(matches!(ended, huitong_identity::Delivery::Retry(_)), "{ended:?}");
    // Far below the minute after which nobody waits any more.
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{ended:?}");
    let _ = losing.0.ended().await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}
