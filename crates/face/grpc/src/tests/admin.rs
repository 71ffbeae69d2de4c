//! The operator's interface, on a connector and on a function node.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_transfer::{Depot, DepotError, testing};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::{Connector, ENROLMENT, POLICY, REGISTRAR, Space};
use crate::proto::admin as wire;
use crate::proto::admin::NegotiationDecision;
use crate::proto::admin::admin_service_client::AdminServiceClient;
use crate::{AdminServices, admin_routes, error_detail};

pub(super) type Admin = AdminServiceClient<Channel>;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

impl Space {
    fn admin(&self, socket: &'static str, services: AdminServices) -> Admin {
        self.net.listen_to_strangers(socket, admin_routes(services));
        let net = self.net.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let net = net.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(net.connect(socket, None, None).await?)) }
        });
        AdminServiceClient::new(Endpoint::from_static("http://admin").connect_with_connector_lazy(connector))
    }

    pub(super) fn connector_admin(&self, socket: &'static str, connector: &Connector) -> Admin {
        self.admin(
            socket,
            AdminServices {
                standing: connector.node.standing.clone(),
                evidence: connector.evidence.clone(),
                registrar: None,
                shelf: Some(connector.shelf.clone()),
                contracts: Some(connector.contracts.clone()),
                transfers: Some(connector.transfers.clone()),
                peers: connector.peers.clone(),
                address: connector.address(),
                enrolment_address: String::new(),
                readiness: Arc::new(|| Ok(())),
            },
        )
    }

    pub(super) fn registrar_admin(&self) -> Admin {
        self.admin(
            "registrar.sock",
            AdminServices {
                standing: self.nodes.registrar.standing.clone(),
                evidence: self.evidence.clone(),
                registrar: Some(self.nodes.registry.clone()),
                shelf: None,
                contracts: None,
                transfers: None,
                peers: self.registrar_peers(),
                address: REGISTRAR.to_owned(),
                enrolment_address: ENROLMENT.to_owned(),
                readiness: Arc::new(|| Err("the store has failed".to_owned())),
            },
        )
    }
}

/// Reads a stream up to the first message that satisfies the condition.
pub(super) async fn until<T: std::fmt::Debug>(stream: &mut Streaming<T>, wanted: impl Fn(&T) -> bool) -> T {
    loop {
        let next = timeout(PATIENCE, stream.message()).await.unwrap().unwrap();
        let next = next.unwrap_or_else(|| panic!("the stream ended before what was waited for"));
        if wanted(&next) {
            return next;
        }
    }
}

#[track_caller]
pub(super) fn failed_as<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, name: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(error_detail(&status).unwrap().code, name);
}

#[tokio::test]
async fn a_file_goes_from_publication_to_receipt() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let mut seller = space.connector_admin("provider.sock", provider);
    let mut buyer = space.connector_admin("consumer.sock", consumer);

    // Publish.
    let request = wire::PublishRequest {
        id: vec![1; 16].into(),
        path: space.file(b"rain").display().to_string(),
        introduction: "Readings".to_owned(),
        policy: POLICY.into(),
        ..wire::PublishRequest::default()
    };
    let mut published = seller.publish(request.clone()).await.unwrap().into_inner();
    let state = |it: &wire::PublishResponse| it.publication.clone().unwrap().state;
    until(&mut published, |it| state(it) == "registering_resource").await;
    while provider.deliver().await > 0 {}
    let listed = until(&mut published, |it| state(it) == "listed").await;
    assert!(timeout(PATIENCE, published.message()).await.unwrap().unwrap().is_none(), "listed is the end");
    let publication = listed.publication.unwrap();
    assert_eq!((publication.name.as_str(), publication.size, listed.bytes_hashed), ("weather.csv", 4, 4));
    let mut again = seller.publish(request).await.unwrap().into_inner();
    assert_eq!(until(&mut again, |it| state(it) == "listed").await.publication.unwrap(), publication);
    let publications = seller.list_publications(wire::ListPublicationsRequest {}).await.unwrap().into_inner();
    assert_eq!(publications.publications, std::slice::from_ref(&publication));

    // Find.
    let search = wire::SearchCatalogRequest { keywords: "weather".to_owned(), ..Default::default() };
    let found = buyer.search_catalog(search).await.unwrap().into_inner();
    assert_eq!((found.total, &found.hits[0].product), (1, &publication.product));
    assert_eq!(found.hits[0].security_level, "001");
    let product = wire::GetProductRequest { product: publication.product.clone() };
    let product = buyer.get_product(product).await.unwrap().into_inner();
    assert_eq!((product.blake3, product.policy.as_ref()), (publication.blake3, POLICY));
    assert_eq!(product.hit.as_ref(), found.hits.first());
    assert!(!product.english.is_empty() && !product.chinese.is_empty());

    // Agree.
    let id = bytes::Bytes::from(vec![2; 16]);
    let ask = wire::NegotiateRequest {
        id: id.clone(),
        product: publication.product.clone(),
        ..wire::NegotiateRequest::default()
    };
    let begun = buyer.negotiate(ask.clone()).await.unwrap().into_inner().negotiation.unwrap();
    assert_eq!((begun.side.as_str(), begun.state.as_str()), ("consumer", "REQUESTED"));
    let watched = wire::WatchNegotiationRequest { id: id.clone() };
    let mut negotiation = buyer.watch_negotiation(watched).await.unwrap().into_inner();
    space.settle().await;
    let agreed = until(&mut negotiation, |it| it.negotiation.as_ref().unwrap().state == "FINALIZED").await;
    let agreed = agreed.negotiation.unwrap();
    assert!(timeout(PATIENCE, negotiation.message()).await.unwrap().unwrap().is_none());
    assert_eq!((agreed.national_state.as_str(), agreed.contract.len()), ("05", 47));
    assert!(agreed.english[0].contains(&agreed.contract), "{:?}", agreed.english);
    // Repeating the command finds the negotiation although nobody can be reached.
    space.net.close(REGISTRAR);
    space.net.close(&provider.address());
    let repeated = buyer.negotiate(ask.clone()).await.unwrap().into_inner().negotiation.unwrap();
    assert_eq!(repeated, agreed);
    space.net.listen(&provider.address(), provider.id(), crate::peer_routes(provider.services()));
    let sold = seller.list_negotiations(wire::ListNegotiationsRequest {}).await.unwrap().into_inner();
    assert_eq!(sold.negotiations[0].side, "provider");
    let end = wire::DecideNegotiationRequest { id: id.clone(), ..Default::default() };
    failed_as(buyer.decide_negotiation(end).await, Code::InvalidArgument, "request.invalid");
    let decision = NegotiationDecision::Approve.into();
    let approve = wire::DecideNegotiationRequest { id, decision, reason: String::new() };
    failed_as(buyer.decide_negotiation(approve).await, Code::Aborted, "request.conflict");
    let mut decide = async |decision: NegotiationDecision, reason: &str| {
        let id = sold.negotiations[0].id.clone();
        let request =
            wire::DecideNegotiationRequest { id, decision: decision.into(), reason: reason.to_owned() };
        seller.decide_negotiation(request).await.unwrap().into_inner().negotiation.unwrap()
    };
    let suspended = decide(NegotiationDecision::Suspend, "audit").await;
    assert_eq!((suspended.state.as_str(), suspended.standing.as_str()), ("FINALIZED", "suspended"));
    let [hold] = suspended.holds.as_slice() else { panic!("one hold: {suspended:?}") };
    assert_eq!((hold.by.as_str(), hold.standing.as_str()), ("provider", "suspended"));
    assert_eq!((hold.code.as_str(), hold.reason.as_str()), ("contract.operator", "audit"));
    assert!(hold.since_milliseconds > 0);
    let resumed = decide(NegotiationDecision::Resume, "").await;
    assert_eq!((resumed.standing.as_str(), resumed.holds.len()), ("in force", 0));

    // Fetch.
    let id = bytes::Bytes::from(vec![3; 16]);
    let start = wire::StartTransferRequest {
        id: id.clone(),
        contract: agreed.contract,
        ..wire::StartTransferRequest::default()
    };
    let transfer = buyer.start_transfer(start).await.unwrap().into_inner().transfer.unwrap();
    assert_eq!(transfer.state, "REQUESTED");
    let watched = wire::WatchTransferRequest { id: id.clone() };
    let mut watch = buyer.watch_transfer(watched).await.unwrap().into_inner();
    consumer.transfers.run(&[3; 16], &consumer.peers).await.unwrap();
    let done = until(&mut watch, |it| it.transfer.as_ref().unwrap().state == "COMPLETED").await;
    assert_eq!(std::fs::read(done.transfer.unwrap().path).unwrap(), b"rain");
    consumer.transfers.collect(&[3; 16], &consumer.peers).await.unwrap();
    let proven = until(&mut watch, |it| it.transfer.as_ref().unwrap().proven).await.transfer.unwrap();
    // Without a policy nobody's cosignature is waited for.
    assert_eq!(proven.finality, "final");
    assert!(timeout(PATIENCE, watch.message()).await.unwrap().unwrap().is_none(), "proven is the end");
    let receipt = buyer.export_receipt(wire::ExportReceiptRequest { id }).await.unwrap().into_inner();
    assert!(!receipt.receipt.is_empty());
    let listed = buyer.list_transfers(wire::ListTransfersRequest {}).await.unwrap().into_inner();
    let [listed] = listed.transfers.as_slice() else { panic!("one transfer: {listed:?}") };
    let metering = listed.metering.unwrap();
    assert_eq!((metering.bytes, metering.groups, listed.groups), (4, 1, 1));

    // Read the ledger.
    let statements = wire::ListStatementsRequest { limit: 3 };
    let statements = buyer.list_statements(statements).await.unwrap().into_inner().statements;
    let size = consumer.node.ledger.size(&consumer.node.ledger.store().view()).unwrap();
    let indices: Vec<u64> = statements.iter().map(|it| it.index).collect();
    assert_eq!(indices, [size - 1, size - 2, size - 3]);
    let checkpoint = buyer.get_checkpoint(wire::GetCheckpointRequest {}).await.unwrap().into_inner();
    assert!(checkpoint.checkpoint.contains(&format!("\n{size}\n")), "{}", checkpoint.checkpoint);
}

#[tokio::test]
async fn what_waits_for_another_node_is_shown() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    huitong_identity::report_address(&consumer.node.standing, "elsewhere:1").await.unwrap();
    let mut admin = space.connector_admin("consumer.sock", consumer);
    let outbox = admin.list_outbox(wire::ListOutboxRequest {}).await.unwrap().into_inner().messages;
    assert_eq!(outbox.len(), 1);
    assert_eq!((outbox[0].topic.as_str(), outbox[0].dead), ("identity", false));
    assert_eq!(outbox[0].destination, space.registrar().as_str());
    let status = admin.get_status(wire::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.outbox, status.ready), (1, true));
    assert_eq!(status.roles, ["provider", "consumer"]);
    assert_eq!(status.address, consumer.address());
}

#[tokio::test]
async fn a_function_node_invites_lists_and_revokes() {
    let space = Space::new().await;
    let mut admin = space.registrar_admin();
    let status = admin.get_status(wire::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.ready, status.not_ready_reason.as_str()), (false, "the store has failed"));

    let mut invite = wire::CreateInviteRequest {
        entity: "91440300708461136T".to_owned(),
        name: "Example Regional Function Node".to_owned(),
        roles: vec!["provider".to_owned()],
        lifetime_seconds: 0,
    };
    let text = admin.create_invite(invite.clone()).await.unwrap().into_inner().invite;
    assert_eq!(huitong_identity::Invite::parse(&text).unwrap().address, ENROLMENT);
    invite.roles = vec!["king".to_owned()];
    failed_as(admin.create_invite(invite).await, Code::InvalidArgument, "request.invalid");

    let node = space.consumer.id().to_string();
    let revoke = wire::RevokeNodeRequest { node: node.clone(), reason: "left".to_owned() };
    assert_eq!(admin.revoke_node(revoke).await.unwrap().into_inner().status_version, 2);
    let nodes = admin.list_nodes(wire::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.len(), 3);
    let revoked: Vec<&str> = nodes.iter().filter(|it| it.revoked).map(|it| it.node.as_str()).collect();
    assert_eq!(revoked, [node]);
    let trust = admin.export_trust(wire::ExportTrustRequest {}).await.unwrap().into_inner();
    assert_eq!(huitong_identity::Trust::from_json(&trust.json).unwrap().registrars.len(), 1);
}

#[tokio::test]
async fn a_node_says_what_it_is_not_made_for() {
    let space = Space::new().await;
    let mut function_node = space.registrar_admin();
    let mut connector = space.connector_admin("consumer.sock", &space.consumer);
    let role = |answer: Result<(), Status>| failed_as(answer, Code::FailedPrecondition, "node.role");
    role(function_node.publish(wire::PublishRequest::default()).await.map(|_| ()));
    role(function_node.list_publications(wire::ListPublicationsRequest {}).await.map(|_| ()));
    role(function_node.search_catalog(wire::SearchCatalogRequest::default()).await.map(|_| ()));
    role(function_node.get_product(wire::GetProductRequest::default()).await.map(|_| ()));
    role(function_node.negotiate(wire::NegotiateRequest::default()).await.map(|_| ()));
    role(function_node.start_transfer(wire::StartTransferRequest::default()).await.map(|_| ()));
    role(connector.create_invite(wire::CreateInviteRequest::default()).await.map(|_| ()));
    role(connector.list_nodes(wire::ListNodesRequest {}).await.map(|_| ()));
}

#[tokio::test]
async fn inputs_are_refused_by_the_name_of_their_field() {
    let space = Space::new().await;
    let mut admin = space.connector_admin("consumer.sock", &space.consumer);
    let named = |answer: Result<(), Status>, field: &str| {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with(&format!("{field}: ")), "{status:?}");
    };
    let id = bytes::Bytes::from(vec![0; 16]);
    let relative = wire::PublishRequest { id: id.clone(), path: "a.csv".to_owned(), ..Default::default() };
    named(admin.publish(relative.clone()).await.map(|_| ()), "path");
    let absolute = wire::PublishRequest { path: "/a.csv".to_owned(), ..relative };
    let short = wire::PublishRequest { id: id.slice(1..), ..absolute.clone() };
    named(admin.publish(short).await.map(|_| ()), "id");
    let level = wire::PublishRequest { security_level: "006".to_owned(), ..absolute };
    named(admin.publish(level).await.map(|_| ()), "security_level");
    let product = wire::GetProductRequest { product: "x".to_owned() };
    named(admin.get_product(product).await.map(|_| ()), "product");
    let unknown = wire::WatchTransferRequest { id };
    failed_as(admin.watch_transfer(unknown).await, Code::NotFound, "request.unknown");
}

/// Takes everything.
struct Anywhere;

#[async_trait]
impl Depot for Anywhere {
    fn check(&self, _: &str) -> Result<(), DepotError> {
        Ok(())
    }

    async fn is_free(&self, _: &str) -> Result<bool, DepotError> {
        Ok(true)
    }

    async fn begin(&self, _: &str, _: u64, _: &str) -> Result<Bytes, DepotError> {
        Ok(Bytes::new())
    }

    async fn put(&self, _: &[u8], _: &Path, _: bool) -> Result<(), DepotError> {
        Ok(())
    }

    async fn abort(&self, _: &[u8]) -> Result<(), DepotError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_transfer_is_watched_until_it_is_deposited() {
    let space = Space::new().await;
    let transfers = &space.consumer.transfers;
    let mut admin = space.connector_admin("consumer.sock", &space.consumer);
    let id = [6; 16];
    let file: [(&str, &[u8]); 1] = [("", b"rain")];
    let received = testing::received(transfers, id, "s3://data/in/", "rain.csv", &file).await;
    let request = wire::WatchTransferRequest { id: id.to_vec().into() };
    let mut one = admin.watch_transfer(request).await.unwrap().into_inner();
    let mut all = admin.watch_transfers(wire::WatchTransfersRequest {}).await.unwrap().into_inner();
    let open = until(&mut one, |_| true).await.transfer.unwrap();
    assert_eq!((open.state.as_str(), open.proven), ("COMPLETED", true));
    assert_eq!(open.path, received.path.unwrap().display().to_string());
    let deposit = open.deposit.clone().unwrap();
    assert_eq!((deposit.location.as_str(), deposit.state.as_str()), ("s3://data/in/", "open"));
    assert_eq!(until(&mut all, |_| true).await.transfer.unwrap(), open);

    // Why it is not done yet is no change of what is stored.
    assert!(transfers.deposit(&id).await.is_err());
    let reason = |transfer: &Option<wire::Transfer>| transfer.clone().unwrap().deposit.unwrap().reason;
    until(&mut one, |answer| reason(&answer.transfer).contains("configuration")).await;
    until(&mut all, |answer| reason(&answer.transfer).contains("configuration")).await;

    transfers.clone().with_depot(Arc::new(Anywhere)).deposit(&id).await.unwrap();
    let state = |transfer: &Option<wire::Transfer>| transfer.clone().unwrap().deposit.unwrap().state;
    let done = until(&mut one, |answer| state(&answer.transfer) == "done").await.transfer.unwrap();
    assert_eq!((done.path.as_str(), reason(&Some(done.clone())).as_str()), ("s3://data/in/rain.csv", ""));
    assert!(timeout(PATIENCE, one.message()).await.unwrap().unwrap().is_none(), "deposited is the end");
    until(&mut all, |answer| state(&answer.transfer) == "done").await;
}
