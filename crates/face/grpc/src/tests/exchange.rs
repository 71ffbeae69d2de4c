//! A whole delivery over the wire.

use std::time::Duration;

use huitong_catalog::CatalogPeer;
use huitong_contract::ContractPeer;
use huitong_contract::{AcceptCounter, State, Terms};
use huitong_identity::{Delivery, PeerError};
use huitong_ids::{ContractId, DataId, DataType};
use huitong_proof::cbor::{Map, Value};
use huitong_proof::{Clock, Digest, Draft, Envelope, Kind, Statement};
use huitong_transfer::{
    Frames, FromConsumer, FromProvider, Priority, StartTransfer, Subscribe, SubscriptionPeer, TransferPeer,
    TransferState, Want as Wanted,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::Space;
use crate::peer::{BURST, LEFTOVERS};
use crate::peer_routes;
use crate::proto::transfer::transfer_service_client::TransferServiceClient;
use crate::proto::transfer::{ExchangeRequest, LaneRequest, Want, exchange_request};

impl Space {
    /// A contract in force about the product.
    pub(super) async fn contract(&self, product: &DataId) -> ContractId {
        let consumer = &self.consumer;
        let resolved = consumer.peers.resolve(self.registrar(), product).await.unwrap();
        let now = self.nodes.clock.now();
        let found = resolved.verify(product, &consumer.node.standing.directory, now).unwrap();
        let terms = consumer.peers.standing_terms(self.provider.id(), product).await.unwrap();
        let terms = Terms::decode(&terms).unwrap();
        let provider = (found.provider, found.credential);
        let id = [3; 16];
        consumer.contracts.request(id, provider, terms, AcceptCounter::No).await.unwrap();
        self.settle().await;
        let negotiation = consumer.contracts.negotiation(&id).unwrap().unwrap();
        assert_eq!(negotiation.state, State::Finalized);
        negotiation.contract.unwrap()
    }
}

#[tokio::test]
async fn bytes_arrive_and_both_sides_have_their_proofs() {
    let space = Space::new().await;
    let content: Vec<u8> = (0..(3 << 20) + 17_u32).map(|at| (at % 251) as u8).collect();
    let product = space.publish(&content).await;
    let contract = space.contract(&product).await;
    let consumer = &space.consumer;
    let id = [5; 16];
    let start = StartTransfer { id, contract, product: None, directory: None, priority: Priority::Normal };
    consumer.transfers.start(start).await.unwrap();
    consumer.transfers.run(&id, &consumer.peers).await.unwrap();
    let transfer = consumer.transfers.transfer(&id).unwrap().unwrap();
    assert_eq!(transfer.state, TransferState::Completed, "{}: {}", transfer.code, transfer.reason);
    assert_eq!(std::fs::read(transfer.path.unwrap()).unwrap(), content);
    for side in [consumer, &space.provider] {
        side.transfers.collect(&id, &side.peers).await.unwrap();
        assert!(side.transfers.transfer(&id).unwrap().unwrap().proven);
        assert!(!side.transfers.receipt(&id).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_many_groups_arrives_over_several_connections() {
    let space = Space::new().await;
    let content: Vec<u8> =
        (0..20_000_000_u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect();
    let product = space.publish(&content).await;
    let contract = space.contract(&product).await;
    let id = [4; 16];
    let start = StartTransfer { id, contract, product: None, directory: None, priority: Priority::Normal };
    space.consumer.transfers.start(start).await.unwrap();
    space.consumer.transfers.run(&id, &space.consumer.peers).await.unwrap();
    let transfer = space.consumer.transfers.transfer(&id).unwrap().unwrap();
    assert_eq!(transfer.state, TransferState::Completed);
    assert!(std::fs::read(transfer.path.unwrap()).unwrap() == content);
    let lane = space.consumer.peers.lane(space.provider.id(), id).await;
    assert!(matches!(lane.err(), Some(PeerError::Unavailable(_))), "its exchange is over");
}

#[tokio::test]
async fn an_exchange_without_a_contract_ends_without_bytes() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let contract = space.contract(&product).await;
    let (frames, outgoing) = mpsc::channel(1);
    let mut answers = space.consumer.peers.exchange(space.provider.id(), 0, outgoing).await.unwrap();
    // A statement where a want is expected.
    frames.send(FromConsumer::Statement(contract.to_string().into_bytes().into())).await.unwrap();
    let answer = answers.next().await.unwrap();
    assert!(matches!(answer, Err(PeerError::Refused { .. })), "{answer:?}");
    assert!(answers.next().await.is_none(), "the error is the end");
}

#[tokio::test]
async fn a_stranger_gets_no_exchange() {
    let space = Space::new().await;
    let mut client = TransferServiceClient::new(peer_routes(space.provider.services()).into_axum_router());
    let want = ExchangeRequest { frame: Some(exchange_request::Frame::Want(Want::default())) };
    let status = client.exchange(tokio_stream::iter([want])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let lane = LaneRequest { transfer: vec![1; 16].into() };
    assert_eq!(client.lane(lane).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_node_cannot_fill_a_ledger_with_refusals() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let contract = space.contract(&product).await;
    let ledger = &space.provider.node.ledger;
    let size = || ledger.size(&ledger.store().view()).unwrap();
    // The provider's own node is no party to the contract as a consumer; another transfer id each time.
    let other =
        DataId::mint(DataType::Product, &product.entity(), &product.segment(), [7; 16], None).unwrap();
    let mut heard = 0;
    let before = size();
    for attempt in 0..BURST + 20 {
        let mut transfer = [0; 16];
        transfer[..4].copy_from_slice(&attempt.to_be_bytes());
        let (frames, outgoing) = mpsc::channel(1);
        let answer = match space.consumer.peers.exchange(space.provider.id(), 0, outgoing).await {
            Err(error) => Err(error),
            Ok(mut answers) => {
                let (contract, product) = (contract.clone(), other.clone());
                frames.send(FromConsumer::Want(Wanted { transfer, contract, product })).await.unwrap();
                answers.next().await.unwrap()
            }
        };
        match answer {
            Ok(_) => heard += 1,
            Err(error) => assert!(matches!(error, PeerError::Unavailable(_)), "{error}"),
        }
    }
    assert!((BURST..BURST + 10).contains(&heard), "{heard} of {BURST} refusals");
    assert!(size() - before < u64::from(BURST) + 10, "{} more statements", size() - before);
}

#[tokio::test]
async fn a_consumer_cannot_negotiate_without_end() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let consumer = &space.consumer;
    let resolved = consumer.peers.resolve(space.registrar(), &product).await.unwrap();
    let directory = &consumer.node.standing.directory;
    let found = resolved.verify(&product, directory, space.nodes.clock.now()).unwrap();
    let terms = consumer.peers.standing_terms(space.provider.id(), &product).await.unwrap();
    let terms = Terms::decode(&terms).unwrap();
    let mut heard = 0;
    for attempt in 0..BURST + 20 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&attempt.to_be_bytes());
        let provider = (found.provider.clone(), found.credential.clone());
        consumer.contracts.request(id, provider, terms.clone(), AcceptCounter::No).await.unwrap();
        match consumer.contracts.deliver(&consumer.pending()[0], &consumer.peers).await {
            Ok(()) => heard += 1,
            Err(Delivery::Retry(_)) => consumer.forget(consumer.pending()[0].id).await,
            Err(dead) => panic!("{dead:?}"),
        }
    }
    assert!((BURST..BURST + 10).contains(&heard), "{heard} of {BURST}");
}

#[tokio::test]
async fn a_provider_cannot_push_without_end() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let contract = space.contract(&product).await;
    let (schedule, priority, push) = (None, Priority::Normal, true);
    let order = Subscribe { contract: contract.clone(), directory: None, priority, schedule, push };
    space.consumer.transfers.subscribe(order).await.unwrap();
    let mut heard = 0;
    for _ in 0..BURST + 20 {
        match space.provider.peers.push(space.consumer.id(), &contract, [1; 16]).await {
            Ok(()) => heard += 1,
            Err(error) => assert!(matches!(error, PeerError::Unavailable(_)), "{error}"),
        }
    }
    assert!((BURST..BURST + 10).contains(&heard), "{heard} of {BURST}");
}

/// A consumer at the provider, frame by frame.
struct Raw {
    say: mpsc::Sender<FromConsumer>,
    frames: Frames,
    offer: Statement,
}

impl Space {
    /// Opens an exchange on a connection of its own, up to the provider's offer.
    async fn open(
        &self,
        transfer: [u8; 16],
        contract: &ContractId,
        product: &DataId,
    ) -> Result<Raw, PeerError> {
        let (say, outgoing) = mpsc::channel(4);
        // Nobody shares its window.
        let peers = super::peers_of(&self.consumer.node, &self.net);
        let mut frames = peers.exchange(self.provider.id(), u64::MAX, outgoing).await?;
        let (contract, product) = (contract.clone(), product.clone());
        say.send(FromConsumer::Want(Wanted { transfer, contract, product })).await.unwrap();
        loop {
            if let FromProvider::Statement(bytes) = frames.next().await.unwrap()? {
                let space = self.consumer.node.ledger.space();
                let offer = Envelope::decode(bytes).unwrap().trusted(space).unwrap();
                if offer.kind() == Kind::Offer {
                    return Ok(Raw { say, frames, offer });
                }
            }
        }
    }

    /// Accepts all groups of an offer.
    async fn accept(&self, offer: &Statement, groups: u64) -> FromConsumer {
        let wanted = Value::Array(vec![Value::Uint(0), Value::Uint(groups)]);
        let draft = Draft {
            kind: Kind::Accept,
            audience: self.provider.id().to_string(),
            subject: offer.body().subject,
            agreement: offer.body().agreement,
            reference: offer.digest(),
            detail: Map::new().array(1, vec![wanted]).digest(2, &Digest::ZERO),
        };
        let ledger = self.consumer.node.ledger.clone();
        let store = ledger.store().clone();
        let issued = store.transact("test", move |tx| -> Result<Statement, huitong_identity::ServiceError> {
            Ok(ledger.issue(tx, draft)?)
        });
        FromConsumer::Statement(issued.await.unwrap().bytes().clone())
    }
}

/// A consumer that ends its exchanges and reads nothing of what it was sent.
async fn a_consumer_that_does_not_read_keeps_its_places_and_is_cut_off(groups: u64) {
    let space = Space::new().await;
    let product = space.publish(&vec![7; (groups << 20) as usize]).await;
    let contract = space.contract(&product).await;
    let mut stuck = Vec::new();
    for _ in 0..4 {
        // Each takes over from the one before, which ends.
        let raw = space.open([10; 16], &contract, &product).await.unwrap();
        raw.say.send(space.accept(&raw.offer, groups).await).await.unwrap();
        // Until all that the window takes has been sent.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stuck.push(raw);
    }
    let (ends, wanted) = (contract.clone(), product.clone());
    // A second want is an error, which ends the last one.
    let want = Wanted { transfer: [10; 16], contract: ends, product: wanted };
    stuck[3].say.send(FromConsumer::Want(want)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let asked = Duration::from_secs(1);
    let fifth = tokio::time::timeout(asked, space.open([1; 16], &contract, &product)).await;
    assert!(fifth.is_err(), "it waits for a place");
    tokio::time::pause();
    tokio::time::advance(LEFTOVERS).await;
    tokio::time::resume();
    // Nothing of them is read until there is room for another one.
    let id = [5; 16];
    let start = StartTransfer { id, contract, product: None, directory: None, priority: Priority::Normal };
    space.consumer.transfers.start(start).await.unwrap();
    let run = space.consumer.transfers.run(&id, &space.consumer.peers);
    tokio::time::timeout(Duration::from_secs(20), run).await.unwrap().unwrap();
    for raw in stuck {
        let last = raw.frames.collect::<Vec<_>>().await.pop();
        assert!(matches!(last, Some(Err(PeerError::Unavailable(_)))), "the connection was closed");
    }
}

#[tokio::test]
async fn what_waits_for_a_consumer_that_does_not_read_has_a_place() {
    a_consumer_that_does_not_read_keeps_its_places_and_is_cut_off(24).await;
}

/// Of the last group a little does not fit into the window, and nothing comes behind it: only HTTP/2 still has it.
#[tokio::test]
async fn what_only_http2_still_has_has_a_place() {
    a_consumer_that_does_not_read_keeps_its_places_and_is_cut_off(16).await;
}

#[tokio::test]
async fn exchanges_that_move_nothing_are_counted() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let contract = space.contract(&product).await;
    // In turn one that says nothing, and one that only asks.
    let mut heard = 0;
    for attempt in 0..BURST + 20 {
        let mut transfer = [9; 16];
        transfer[0] = (attempt % 3) as u8;
        let answer = if attempt % 2 == 0 {
            let (_, outgoing) = mpsc::channel(1);
            match space.consumer.peers.exchange(space.provider.id(), 0, outgoing).await {
                Ok(mut answers) => answers.next().await.unwrap().map(|_| ()),
                Err(error) => Err(error),
            }
        } else {
            space.open(transfer, &contract, &product).await.map(|_| ())
        };
        match answer {
            Ok(()) | Err(PeerError::Refused { .. }) => heard += 1,
            Err(error) => assert!(error.to_string().contains("too many"), "{error}"),
        }
    }
    assert!((BURST..BURST + 10).contains(&heard), "{heard} of {BURST}");
}
