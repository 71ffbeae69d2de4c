//! A whole delivery over the wire.

use huitong_catalog::CatalogPeer;
use huitong_contract::ContractPeer;
use huitong_contract::{AcceptCounter, State, Terms};
use huitong_identity::PeerError;
use huitong_ids::{ContractId, DataId, DataType};
use huitong_proof::Clock;
use huitong_transfer::{FromConsumer, Priority, StartTransfer, TransferPeer, TransferState, Want as Wanted};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::Space;
use crate::peer::BURST;
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
