//! Identity, catalog, contract and ledger calls between real servers and clients.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huitong_catalog::CatalogPeer;
use huitong_contract::{AcceptCounter, ContractPeer, State, Terms};
use huitong_evidence::LogPeer;
use huitong_identity::peer::{EnrolmentPeer, RegistrarPeer};
use huitong_identity::testing::TestNode;
use huitong_identity::{
    Delivery, InviteRequest, JoinRequest, NodeKeys, PeerError, Role, Sources, enrolment_request, workers,
};
use huitong_ids::{DataId, DataType, NodeId, NodeType};
use huitong_ledger::{SignedCheckpoint, verify_entry};
use huitong_proof::{Clock, Kind, SeededEntropy};
use huitong_transfer::EvidencePeer;
use tokio::time::timeout;
use tonic::{Code, Request};

use super::{Connector, ENROLMENT, REGISTRAR, Space, Wire, peers_of};
use crate::proto;
use crate::proto::identity::identity_service_client::IdentityServiceClient;
use crate::proto::identity::{FollowTrustRequest, LocateNodeRequest};
use crate::proto::ledger::ProveRequest;
use crate::proto::ledger::ledger_service_client::LedgerServiceClient;
use crate::{Clocks, EnrolmentClient, PeerServices, Peers, error_detail, peer_routes};

/// Nothing here waits for longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn refused_as<T: std::fmt::Debug>(answer: Result<T, PeerError>, expected: &str) {
    match answer {
        Err(PeerError::Refused { code, .. }) => assert_eq!(code, expected),
        other => panic!("expected {expected}, found {other:?}"),
    }
}

/// A product id that no registrar has assigned.
fn some_product(of: &NodeId) -> DataId {
    DataId::mint(DataType::Product, &of.entity(), &of.segment(), [0; 16], None).unwrap()
}

/// A node that no registrar has enrolled.
pub(super) fn some_node(of: &NodeId) -> NodeId {
    NodeId::mint(NodeType::Connector, &of.entity(), &of.segment(), [1; 16])
}

#[tokio::test]
async fn a_node_enrols_and_the_same_request_gives_the_same_answer() {
    let space = Space::new().await;
    let invite = space
        .nodes
        .registry
        .invite(InviteRequest {
            entity: "91440300708461136T".to_owned(),
            name: "Example Regional Function Node".to_owned(),
            roles: vec![Role::Consumer],
            lifetime: Duration::from_secs(60),
            address: ENROLMENT.to_owned(),
        })
        .await
        .unwrap();
    let sources =
        Sources { clock: Arc::new(space.nodes.clock.clone()), entropy: Arc::new(SeededEntropy::new(9)) };
    let keys = NodeKeys::load_or_create(&space.home.path().join("new"), &*sources.entropy).unwrap();
    let request = JoinRequest { invite: invite.clone(), domain: "localhost".to_owned() };
    let sent = enrolment_request(&keys, &request, &sources).unwrap();
    let wire = Wire { net: space.net.clone(), caller: space.nodes.consumer.caller.clone() };
    let client = EnrolmentClient::new(Arc::new(wire));

    let grant = client.enrol(&invite, sent.clone()).await.unwrap();
    let again = client.enrol(&invite, sent.clone()).await.unwrap();
    assert_eq!(grant.credential, again.credential);
    assert_eq!(grant.certificate, again.certificate);
    let now = space.nodes.clock.now();
    let caller = space.nodes.registrar.standing.directory.authenticate(&grant.certificate, now).unwrap();
    assert_eq!(caller.credential().domain, "localhost");

    let mut unknown = sent.clone();
    unknown.token = [0; 32];
    refused_as(client.enrol(&invite, unknown).await.map(|_| ()), "request.forbidden");
    let mut long = sent;
    long.csr = vec![0; 9000];
    refused_as(client.enrol(&invite, long).await.map(|_| ()), "request.invalid");
}

#[tokio::test]
async fn trust_is_followed_with_heartbeats_and_a_revocation_ends_the_revoked_nodes_stream() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    let mut news = consumer.peers.follow_trust(space.registrar(), 0, 0).await.unwrap();
    let mut victim = space.provider.peers.follow_trust(space.registrar(), 1, 1).await.unwrap();
    let now = space.nodes.clock.now();
    assert_eq!(consumer.peers.clocks(), Some(Clocks { registrar: now, own: now }));
    let first = timeout(PATIENCE, news.recv()).await.unwrap().unwrap().unwrap();
    assert!(first.roots.is_some() && first.status.is_some());
    let beat = timeout(PATIENCE, news.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(beat, huitong_identity::peer::TrustUpdate::default());

    space.nodes.registry.revoke(space.provider.id(), "left the space").await.unwrap();
    let update = loop {
        let update = timeout(PATIENCE, news.recv()).await.unwrap().unwrap().unwrap();
        if update.status.is_some() {
            break update;
        }
    };
    assert!(update.roots.is_none());
    workers::apply(&consumer.node.standing, update).await.unwrap();
    assert_eq!(consumer.node.standing.directory.status().version, 2);
    let end = loop {
        match timeout(PATIENCE, victim.recv()).await.unwrap().unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    refused_as::<()>(Err(end), "identity.revoked");
    assert!(timeout(PATIENCE, victim.recv()).await.unwrap().is_none());

    // The connection outlives the credential; the calls on it do not.
    refused_as(space.provider.peers.search(space.registrar(), "", 0, 20).await, "identity.revoked");
    let product = some_product(space.provider.id());
    space.provider.peers.learn(consumer.id(), &consumer.address());
    refused_as(space.provider.peers.standing_terms(consumer.id(), &product).await, "identity.revoked");
}

#[tokio::test]
async fn a_product_is_registered_found_resolved_and_contracted() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let (provider, consumer) = (&space.provider, &space.consumer);

    let page = consumer.peers.search(space.registrar(), "weather 2026", 0, 20).await.unwrap();
    assert_eq!((page.total, page.hits.len()), (1, 1));
    assert_eq!((&page.hits[0].product, page.hits[0].size), (&product, 4));
    assert_eq!(consumer.peers.search(space.registrar(), "snow", 0, 20).await.unwrap().total, 0);
    refused_as(consumer.peers.search(space.registrar(), "", 0, 101).await, "request.invalid");

    let resolved = consumer.peers.resolve(space.registrar(), &product).await.unwrap();
    assert_eq!(resolved.address, provider.address());
    let now = space.nodes.clock.now();
    let found = resolved.verify(&product, &consumer.node.standing.directory, now).unwrap();

    let terms = consumer.peers.standing_terms(provider.id(), &product).await.unwrap();
    let terms = Terms::decode(&terms).unwrap();
    let id = [3; 16];
    consumer
        .contracts
        .request(id, (found.provider, found.credential), terms, AcceptCounter::No)
        .await
        .unwrap();
    space.settle().await;
    for side in [provider, consumer] {
        let negotiation = side.contracts.negotiation(&id).unwrap().unwrap();
        assert_eq!(negotiation.state, State::Finalized, "{:?}", negotiation.reason);
        assert!(side.pending().is_empty());
    }
}

#[tokio::test]
async fn proofs_verify_and_only_parties_get_them() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    let registrar = &space.nodes.registrar.ledger;
    let view = registrar.store().view();
    let own = consumer.node.membership.credential_statement();
    let proofs = consumer.peers.prove(space.registrar(), vec![own.digest()], 0).await.unwrap();
    let checkpoint = SignedCheckpoint::parse(&proofs.checkpoint, &registrar.log_verifier()).unwrap();
    let inclusion = &proofs.inclusion[0];
    assert_eq!(registrar.index_of(&view, &own.digest()).unwrap(), Some(inclusion.index));
    verify_entry(own.bytes(), inclusion.index, &inclusion.path, checkpoint.checkpoint()).unwrap();

    let other = space.provider.node.membership.credential_statement().digest();
    refused_as(consumer.peers.prove(space.registrar(), vec![other], 0).await, "request.unknown");
    refused_as(consumer.peers.prove(space.registrar(), Vec::new(), 0).await, "request.invalid");
}

#[tokio::test]
async fn a_refusal_comes_with_its_code() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let garbage = consumer.peers.submit(provider.id(), Bytes::from_static(b"no"), Bytes::new()).await;
    refused_as(garbage, "request.invalid");
    let long = Bytes::from(vec![0; (64 << 10) + 1]);
    refused_as(consumer.peers.submit(provider.id(), Bytes::new(), long).await, "request.invalid");
    // A registrar has no contracts: that service is not there.
    let nowhere = consumer.peers.submit(space.registrar(), Bytes::new(), Bytes::new()).await;
    assert!(matches!(nowhere, Err(PeerError::Broken(_))), "{nowhere:?}");
}

#[tokio::test]
async fn a_signed_refusal_crosses_the_wire() {
    let space = Space::new().await;
    let product = space.publish(b"rain").await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let terms = consumer.peers.standing_terms(provider.id(), &product).await.unwrap();
    let mut terms = Terms::decode(&terms).unwrap();
    // No such product: the provider refuses and signs that it does.
    terms.product = some_product(provider.id());
    let membership = &provider.node.membership;
    let credential = (membership.credential().clone(), membership.credential_statement().clone());
    let id = [4; 16];
    consumer.contracts.request(id, credential, terms, AcceptCounter::No).await.unwrap();
    let message = consumer.pending().remove(0);
    let delivered = consumer.contracts.deliver(&message, &consumer.peers).await;
    assert!(matches!(delivered, Err(Delivery::Dead(_))), "{delivered:?}");
    let negotiation = consumer.contracts.negotiation(&id).unwrap().unwrap();
    assert_eq!(negotiation.state, State::Terminated);
    // The refusal is in both ledgers, byte for byte.
    let refusal = |side: &Connector| {
        let view = side.node.ledger.store().view();
        let about = side.node.ledger.about(&view, &id, 10).unwrap();
        about.into_iter().find(|it| it.kind() == Kind::Refusal).map(|it| it.bytes().clone())
    };
    assert_eq!(refusal(consumer).unwrap(), refusal(provider).unwrap());
}

#[tokio::test]
async fn a_node_without_an_address_is_tried_again_and_a_revoked_one_is_not() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let product = some_product(provider.id());
    let nowhere = some_node(provider.id());
    let answer = consumer.peers.standing_terms(&nowhere, &product).await;
    assert!(matches!(answer, Err(PeerError::Unavailable(_))), "{answer:?}");
    let mut news = consumer.peers.follow_trust(space.registrar(), 1, 1).await.unwrap();
    space.nodes.registry.revoke(provider.id(), "left the space").await.unwrap();
    while consumer.node.standing.directory.status().version < 2 {
        let update = timeout(PATIENCE, news.recv()).await.unwrap().unwrap().unwrap();
        workers::apply(&consumer.node.standing, update).await.unwrap();
    }
    refused_as(consumer.peers.standing_terms(provider.id(), &product).await, "identity.revoked");
}

#[tokio::test]
async fn health_and_reflection_are_served_and_do_not_speak_of_the_operator() {
    let space = Space::new().await;
    let routes = peer_routes(space.provider.services()).into_axum_router();
    let mut health = tonic_health::pb::health_client::HealthClient::new(routes.clone());
    let answer = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);

    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let mut reflection = ServerReflectionClient::new(routes);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = tonic_reflection::pb::v1::ServerReflectionRequest { message_request, ..Default::default() };
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    let mut names: Vec<String> = services.service.into_iter().map(|it| it.name).collect();
    names.sort();
    let served = ["contract.v1.Contract", "ledger.v1.Ledger", "transfer.v1.Push", "transfer.v1.Transfer"];
    assert_eq!(names, served.map(|name| format!("huitong.{name}Service")));
    let operator = b"AdminService";
    assert!(!proto::PEER_DESCRIPTORS.windows(operator.len()).any(|window| window == operator));
    assert!(proto::OPERATOR_DESCRIPTORS.windows(operator.len()).any(|window| window == operator));
}

#[tokio::test]
async fn without_a_connection_of_an_authenticated_node_nothing_is_served() {
    let space = Space::new().await;
    let services = PeerServices {
        standing: space.nodes.registrar.standing.clone(),
        evidence: space.evidence.clone(),
        registrar: Some(space.nodes.registry.clone()),
        registry: None,
        contracts: None,
        transfers: None,
        heartbeat: super::HEARTBEAT,
    };
    let routes = peer_routes(services);
    let mut identity = IdentityServiceClient::new(routes.clone().into_axum_router());
    let mut ledger = LedgerServiceClient::new(routes.into_axum_router());
    let node = space.provider.id().to_string();
    let answers = [
        identity.locate_node(LocateNodeRequest { node }).await.map(|_| ()),
        identity.follow_trust(FollowTrustRequest::default()).await.map(|_| ()),
        ledger.prove(Request::new(ProveRequest::default())).await.map(|_| ()),
    ];
    for answer in answers {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(error_detail(&status).unwrap().code, "identity.missing");
    }
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_a_node_that_moved_is_found_again() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let product = space.publish(b"rain").await;
    let peers = peers_of(&consumer.node, &space.net);
    let before = space.net.dialled();
    for _ in 0..5 {
        peers.standing_terms(provider.id(), &product).await.unwrap();
    }
    // One to the registrar for the address, one to the provider.
    assert_eq!(space.net.dialled() - before, 2);

    let moved = "moved:1";
    space.net.close(&provider.address());
    space.net.listen(moved, provider.id(), peer_routes(provider.services()));
    huitong_identity::report_address(&provider.node.standing, moved).await.unwrap();
    provider.deliver().await;
    // A fresh view of the world: the first call finds the old address empty, the second asks the registrar again.
    let peers = peers_of(&consumer.node, &space.net);
    peers.learn(provider.id(), &provider.address());
    let lost = peers.standing_terms(provider.id(), &product).await;
    assert!(matches!(&lost, Err(PeerError::Unavailable(why)) if why.contains("nobody listens")), "{lost:?}");
    peers.standing_terms(provider.id(), &product).await.unwrap();
}

#[tokio::test]
async fn another_node_at_the_address_is_not_spoken_to() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let product = space.publish(b"rain").await;
    let peers = peers_of(&consumer.node, &space.net);
    peers.learn(provider.id(), REGISTRAR);
    let answer = peers.standing_terms(provider.id(), &product).await;
    assert!(
        matches!(&answer, Err(PeerError::Unavailable(why)) if why.contains("another node")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_registrar_finds_its_members_itself() {
    let space = Space::new().await;
    let peers = space.registrar_peers();
    let before = space.net.dialled();
    let text = LogPeer::checkpoint(&peers, space.provider.id()).await.unwrap();
    assert!(text.starts_with(space.provider.node.ledger.origin()), "{text}");
    assert_eq!(space.net.dialled() - before, 1, "nobody was asked for the address");

    let stranger = some_node(space.provider.id());
    let unknown = LogPeer::checkpoint(&peers, &stranger).await;
    assert!(matches!(&unknown, Err(PeerError::Unavailable(why)) if why.contains("not known")), "{unknown:?}");
    space.nodes.registry.revoke(space.consumer.id(), "left the space").await.unwrap();
    refused_as(LogPeer::checkpoint(&peers, space.consumer.id()).await, "identity.revoked");
}

#[tokio::test]
async fn without_a_registrar_nobody_is_found() {
    let space = Space::new().await;
    let TestNode { standing, caller, .. } = space.nodes.consumer.clone();
    let dial = Wire { net: space.net.clone(), caller };
    let peers = Peers::new(Arc::new(dial), standing, String::new());
    let answer = peers.standing_terms(space.provider.id(), &some_product(space.provider.id())).await;
    assert!(matches!(answer, Err(PeerError::Broken(_))), "{answer:?}");
}
