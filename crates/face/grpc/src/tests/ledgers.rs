//! Ledgers of others and other nodes as witnesses, between real servers and clients.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use huitong_evidence::{ChannelSide, LogPeer, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer};
use huitong_identity::testing::TestNode;
use huitong_identity::{PeerError, ServiceError, remember};
use huitong_ledger::{
    AddCheckpoint, SignedCheckpoint, leaf_hash, verify_consistency, verify_entry, verify_inclusion,
};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, SigningKey, Statement};
use huitong_store::Tx;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{REGISTRAR, Space};
use crate::proto::ledger as wire;
use crate::proto::ledger::get_entry_response::Content;
use crate::proto::ledger::ledger_service_client::LedgerServiceClient;
use crate::{PeerConnection, error_detail};

impl Space {
    /// The bare client of one node at another's address: for what [`LogPeer`] does not ask.
    fn bare(&self, from: &TestNode, address: &str, to: &TestNode) -> LedgerServiceClient<Channel> {
        let (net, caller, expect) = (self.net.clone(), from.caller.clone(), to.membership.node().clone());
        let address = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (net, caller) = (net.clone(), caller.clone());
            let (address, expect) = (address.clone(), expect.clone());
            async move {
                let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
                let peer = Some(PeerConnection { caller, remote, close: CancellationToken::new() });
                Ok::<_, io::Error>(TokioIo::new(net.connect(&address, Some(&expect), peer).await?))
            }
        });
        LedgerServiceClient::new(Endpoint::from_static("http://node").connect_with_connector_lazy(connector))
    }

    /// The consumer's bare client at the provider.
    pub(super) fn at_provider(&self) -> LedgerServiceClient<Channel> {
        self.bare(&self.consumer.node, &self.provider.address(), &self.provider.node)
    }

    fn at_provider_as(&self, from: &TestNode) -> LedgerServiceClient<Channel> {
        self.bare(from, &self.provider.address(), &self.provider.node)
    }
}

/// A statement from one node to another, logged by its issuer only.
pub(super) async fn say(from: &TestNode, to: &TestNode) -> Statement {
    let ledger = from.ledger.clone();
    let draft = Draft {
        kind: Kind::Offer,
        audience: to.membership.node().to_string(),
        subject: [7; 16],
        agreement: Digest::sha256(b"agreement"),
        reference: Digest::ZERO,
        detail: Map::new(),
    };
    from.ledger.store().transact("test.say", move |tx| ledger.issue(tx, draft)).await.unwrap()
}

/// The same, logged by both.
pub(super) async fn tell(from: &TestNode, to: &TestNode) -> Statement {
    let statement = say(from, to).await;
    let (ledger, caller, told) = (to.ledger.clone(), from.caller.clone(), statement.clone());
    let admit = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
        remember(tx, &ledger, &caller)?;
        ledger.admit(tx, &told)?;
        Ok(())
    };
    to.ledger.store().transact("test.admit", admit).await.unwrap();
    statement
}

fn size(node: &TestNode) -> u64 {
    node.ledger.size(&node.ledger.store().view()).unwrap()
}

fn index_of(node: &TestNode, statement: &Statement) -> u64 {
    node.ledger.index_of(&node.ledger.store().view(), &statement.digest()).unwrap().unwrap()
}

#[track_caller]
fn refused_as<T: std::fmt::Debug>(answer: Result<T, PeerError>, expected: &str) -> String {
    match answer {
        Err(PeerError::Refused { code, reason, .. }) => {
            assert_eq!(code, expected);
            reason
        }
        other => panic!("expected {expected}, found {other:?}"),
    }
}

#[track_caller]
fn failed_as<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, name: &str) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    let detail = error_detail(&status).unwrap_or_default();
    assert_eq!(detail.code, name, "{status:?}");
    detail.reason
}

#[tokio::test]
async fn a_ledger_is_followed_over_the_wire() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let (to, ledger) = (provider.id(), &provider.node.ledger);
    let statement = tell(&provider.node, &consumer.node).await;
    let verifier = ledger.log_verifier();
    let text = consumer.peers.checkpoint(to).await.unwrap();
    let text = if SignedCheckpoint::parse(&text, &verifier).unwrap().checkpoint().size < size(&provider.node)
    {
        ledger.checkpoint().await.unwrap();
        consumer.peers.checkpoint(to).await.unwrap()
    } else {
        text
    };
    let old = SignedCheckpoint::parse(&text, &verifier).unwrap().checkpoint().clone();
    for _ in 0..5 {
        say(&provider.node, &consumer.node).await;
    }
    ledger.checkpoint().await.unwrap();
    let text = consumer.peers.checkpoint(to).await.unwrap();
    let new = SignedCheckpoint::parse(&text, &verifier).unwrap().checkpoint().clone();
    assert_eq!(new.size, size(&provider.node));

    let path = consumer.peers.consistency(to, old.size, new.size).await.unwrap();
    verify_consistency(old.size, &old.root, new.size, &new.root, &path).unwrap();
    let included = consumer.peers.inclusion(to, &statement.digest(), new.size).await.unwrap();
    assert_eq!(included.leaf, leaf_hash(statement.bytes()));
    verify_inclusion(&included.leaf, included.index, new.size, &included.path, &new.root).unwrap();
    verify_entry(statement.bytes(), included.index, &included.path, &new).unwrap();

    let leaves = consumer.peers.leaves(to, "", 0, MAX_LEAVES).await.unwrap();
    assert_eq!(leaves.len() as u64, new.size);
    assert_eq!(leaves[included.index as usize], included.leaf);
    assert_eq!(consumer.peers.leaves(to, ledger.origin(), 1, 2).await.unwrap(), leaves[1..3]);
    assert_eq!(consumer.peers.leaves(to, "", new.size, 2).await.unwrap(), []);
    assert_eq!(consumer.peers.leaves(to, "", 0, 0).await.unwrap(), [], "none are asked for");
    assert_eq!(consumer.peers.leaves(to, "", 0, usize::MAX).await.unwrap(), leaves);
    refused_as(consumer.peers.leaves(to, "elsewhere/huitong-log/1", 0, 1).await, "request.unknown");

    refused_as(consumer.peers.consistency(to, 0, new.size).await, "request.invalid");
    refused_as(consumer.peers.consistency(to, 1, new.size + 1).await, "request.invalid");
    refused_as(consumer.peers.inclusion(to, &Digest::ZERO, new.size).await, "request.unknown");
}

#[tokio::test]
async fn an_entry_is_read_by_its_parties_and_regulators() {
    let space = Space::new().await;
    let (provider, consumer, registrar) = (&space.provider, &space.consumer, &space.nodes.registrar);
    let theirs = tell(&provider.node, registrar).await;
    let ours = tell(&provider.node, &consumer.node).await;
    let (hidden, shown) = (index_of(&provider.node, &theirs), index_of(&provider.node, &ours));

    let read = |statement: &Statement| Some(Content::Statement(statement.bytes().clone()));
    let entry = async |from: &TestNode, index| {
        space.at_provider_as(from).get_entry(wire::GetEntryRequest { index }).await.map(|it| it.into_inner())
    };
    assert_eq!(entry(&consumer.node, shown).await.unwrap().content, read(&ours));
    assert_eq!(entry(&provider.node, shown).await.unwrap().content, read(&ours));
    assert_eq!(entry(registrar, shown).await.unwrap().content, read(&ours), "a registrar may read all");
    assert_eq!(entry(registrar, hidden).await.unwrap().content, read(&theirs));

    // What is hidden answers in the words of what is not there.
    let refused = failed_as(entry(&consumer.node, hidden).await, Code::NotFound, "request.unknown");
    let beyond = size(&provider.node) + 7;
    let absent = failed_as(entry(&consumer.node, beyond).await, Code::NotFound, "request.unknown");
    assert_eq!(refused.replace(&hidden.to_string(), "N"), absent.replace(&beyond.to_string(), "N"));
    let size = provider.node.ledger.checkpoint().await.unwrap().checkpoint().size;
    let hidden = consumer.peers.inclusion(provider.id(), &theirs.digest(), size).await;
    let absent = consumer.peers.inclusion(provider.id(), &Digest::ZERO, size).await;
    assert_eq!(
        refused_as(hidden, "request.unknown").replace(&theirs.digest().to_string(), "D"),
        refused_as(absent, "request.unknown").replace(&Digest::ZERO.to_string(), "D")
    );
}

#[tokio::test]
async fn witnesses_cosign_over_the_wire_and_remember() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    let ledger = &consumer.node.ledger;
    let origin = ledger.origin();
    assert_eq!(consumer.peers.witnessed(space.registrar(), origin).await.unwrap(), None);
    for _ in 0..2 {
        say(&consumer.node, &space.provider.node).await;
        ledger.checkpoint().await.unwrap();
        let cosigning = consumer.evidence.cosign_once(&consumer.peers).await.unwrap();
        assert!(cosigning.is_final, "{cosigning:?}");
        assert_eq!(cosigning.size, size(&consumer.node));
    }
    // Anybody may hear what a witness has cosigned, and anybody may ask the ledger itself.
    let registrar = &space.nodes.registrar.membership.credential().witness;
    let peers = &space.provider.peers;
    for text in [
        peers.witnessed(space.registrar(), origin).await.unwrap().unwrap(),
        peers.checkpoint(consumer.id()).await.unwrap(),
    ] {
        let signed = SignedCheckpoint::parse(&text, &ledger.log_verifier()).unwrap();
        assert_eq!(signed.checkpoint().size, size(&consumer.node));
        assert!(signed.cosigned_by(registrar).unwrap().is_some());
    }
}

#[tokio::test]
async fn every_refusal_of_a_witness_keeps_its_status() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    let ledger = &consumer.node.ledger;
    let (peers, to) = (&consumer.peers, space.registrar());
    let signed = ledger.checkpoint().await.unwrap();
    let size = signed.checkpoint().size;
    let request = |old, proof| AddCheckpoint { old, proof, note: signed.text().to_owned() }.to_text();

    let garbage = peers.add_checkpoint(to, "not a request").await.unwrap();
    assert!(matches!(&garbage, WitnessAnswer::Refused { status: 400, reason } if !reason.is_empty()));
    // A connector witnesses nobody that it is not told to.
    let nobody = peers.add_checkpoint(space.provider.id(), &request(0, Vec::new())).await.unwrap();
    assert_eq!(nobody.status(), 404, "{nobody:?}");
    let forged = SignedCheckpoint::sign(signed.checkpoint().clone(), &SigningKey::from_seed(&[9; 32]));
    let forged = AddCheckpoint { old: 0, proof: Vec::new(), note: forged.text().to_owned() };
    assert_eq!(peers.add_checkpoint(to, &forged.to_text()).await.unwrap().status(), 403);
    let conflict = peers.add_checkpoint(to, &request(1, Vec::new())).await.unwrap();
    assert_eq!(conflict, WitnessAnswer::Conflict { size: 0 });
    let answer = peers.add_checkpoint(to, &request(0, Vec::new())).await.unwrap();
    let WitnessAnswer::Cosigned(line) = answer else { panic!("{answer:?}") };
    assert!(line.starts_with('—') && line.ends_with('\n'), "{line}");
    let stale = peers.add_checkpoint(to, &request(1, Vec::new())).await.unwrap();
    assert_eq!(stale, WitnessAnswer::Conflict { size });

    say(&consumer.node, &space.provider.node).await;
    let next = ledger.checkpoint().await.unwrap();
    let unproven = AddCheckpoint { old: size, proof: vec![Digest::ZERO], note: next.text().to_owned() };
    assert_eq!(peers.add_checkpoint(to, &unproven.to_text()).await.unwrap().status(), 422);
    space.nodes.registrar.ledger.stop_signing("a test").unwrap();
    let busy = peers.add_checkpoint(to, &unproven.to_text()).await.unwrap();
    assert!(matches!(busy, WitnessAnswer::Busy { retry_after } if retry_after > Duration::ZERO), "{busy:?}");
}

#[tokio::test]
async fn statements_that_one_side_lost_come_back_from_the_other() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let nothing = consumer.peers.channel(provider.id()).await.unwrap();
    assert_eq!((nothing.from_caller, nothing.to_caller), (None, None));
    let first = tell(&consumer.node, &provider.node).await;
    let start = first.body().seq;
    let mut ours = vec![first.bytes().clone()];
    for _ in 0..MAX_STATEMENTS + 5 {
        ours.push(tell(&consumer.node, &provider.node).await.bytes().clone());
    }
    let theirs = tell(&provider.node, &consumer.node).await;
    tell(&provider.node, &space.nodes.registrar).await;

    let peers = &consumer.peers;
    let channel = peers.channel(provider.id()).await.unwrap();
    assert_eq!(channel.from_caller.as_ref(), ours.last());
    assert_eq!(channel.to_caller.as_ref(), Some(theirs.bytes()));
    let page = async |side, from, limit| peers.statements(provider.id(), side, from, limit).await.unwrap();
    let first = page(ChannelSide::FromCaller, 0, usize::MAX).await;
    assert_eq!(first, ours[..first.len()]);
    assert!(first.len() <= MAX_STATEMENTS);
    let mut all = first;
    loop {
        let next = page(ChannelSide::FromCaller, start + all.len() as u64, MAX_STATEMENTS).await;
        if next.is_empty() {
            break;
        }
        all.extend(next);
    }
    assert_eq!(all, ours);
    assert_eq!(page(ChannelSide::FromCaller, start + 3, 2).await, ours[3..5]);
    assert_eq!(
        page(ChannelSide::ToCaller, 0, 9).await,
        [theirs.bytes().clone()],
        "those to others are not ours"
    );
    assert_eq!(page(ChannelSide::ToCaller, 0, 0).await, Vec::<Bytes>::new(), "none are asked for");
}

#[tokio::test]
async fn a_node_that_signs_nothing_reads_and_says_so() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let statement = tell(&provider.node, &consumer.node).await;
    let size = provider.node.ledger.checkpoint().await.unwrap().checkpoint().size;
    say(&provider.node, &consumer.node).await;
    let secret = "witness example.com shows statement 7 of this node to somebody";
    provider.node.ledger.stop_signing(secret).unwrap();

    // A proof needs a checkpoint that is not there yet.
    let (digests, known_size) = (vec![Bytes::copy_from_slice(statement.digest().as_bytes())], size + 1);
    let status = space.at_provider().prove(wire::ProveRequest { digests, known_size }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let detail = error_detail(&status).unwrap();
    assert_eq!(detail.code, "ledger.safe_mode");
    assert!(!detail.next_step.is_empty());
    let told = format!("{} {detail:?}", status.message());
    assert!(!told.contains("example.com"), "why is between a node and its operator: {told}");
    let unavailable = crate::to_peer_error(&status);
    assert!(matches!(unavailable, PeerError::Unavailable(_)), "worth another try: {unavailable:?}");

    // What is signed is shown.
    let peers = &consumer.peers;
    peers.checkpoint(provider.id()).await.unwrap();
    peers.inclusion(provider.id(), &statement.digest(), size).await.unwrap();
    peers.consistency(provider.id(), 1, size).await.unwrap();
    peers.channel(provider.id()).await.unwrap();
}

#[tokio::test]
async fn the_credential_of_a_node_comes_from_its_registrar() {
    let space = Space::new().await;
    let (provider, consumer, registrar) = (&space.provider, &space.consumer, &space.nodes.registrar);
    let of = |node: &TestNode| node.membership.credential_statement().bytes().clone();
    let peers = &consumer.peers;
    assert_eq!(LogPeer::credential(peers, provider.id()).await.unwrap(), of(&provider.node));
    assert_eq!(
        huitong_transfer::EvidencePeer::credential(peers, provider.id()).await.unwrap(),
        of(&provider.node)
    );
    assert_eq!(LogPeer::credential(peers, space.registrar()).await.unwrap(), of(registrar));
    let of_registrar = space.registrar_peers();
    assert_eq!(LogPeer::credential(&of_registrar, provider.id()).await.unwrap(), of(&provider.node));
    let nobody = super::peers::some_node(provider.id());
    let unknown = LogPeer::credential(peers, &nobody).await;
    assert!(matches!(unknown, Err(PeerError::Unavailable(_))), "{unknown:?}");

    let size = provider.node.ledger.checkpoint().await.unwrap().checkpoint().size;
    let path = huitong_transfer::EvidencePeer::consistency(peers, provider.id(), 1, size).await.unwrap();
    assert_eq!(path, LogPeer::consistency(peers, provider.id(), 1, size).await.unwrap());
}

#[tokio::test]
async fn requests_are_refused_by_the_name_of_their_field() {
    let space = Space::new().await;
    let mut provider = space.at_provider();
    let named = |answer: Result<(), Status>, field: &str| {
        let reason = failed_as(answer, Code::InvalidArgument, "request.invalid");
        assert!(reason.starts_with(&format!("{field}: ")), "{reason}");
    };
    let short = Bytes::from(vec![0; 31]);
    let prove = wire::ProveRequest { digests: vec![Bytes::from(vec![0; 32]), short.clone()], known_size: 0 };
    named(provider.prove(prove).await.map(|_| ()), "digests[1]");
    let inclusion = wire::GetInclusionRequest { digest: short, size: 1 };
    named(provider.get_inclusion(inclusion).await.map(|_| ()), "digest");
    let leaves = wire::ListLeavesRequest { limit: 4097, ..Default::default() };
    named(provider.list_leaves(leaves).await.map(|_| ()), "limit");
    let from_caller = wire::ChannelSide::FromCaller.into();
    let statements =
        wire::ListChannelStatementsRequest { limit: 257, side: from_caller, ..Default::default() };
    named(provider.list_channel_statements(statements).await.map(|_| ()), "limit");
    for side in [0, 3, -1] {
        let statements = wire::ListChannelStatementsRequest { side, ..Default::default() };
        named(provider.list_channel_statements(statements).await.map(|_| ()), "side");
    }
    // A request that is longer than a node reads is not read.
    let body = "x".repeat(crate::MAX_REQUEST_BYTES + 1);
    let long = provider.add_checkpoint(wire::AddCheckpointRequest { body }).await.unwrap_err();
    assert_eq!(long.code(), Code::OutOfRange);
    let answer = provider.get_checkpoint(wire::GetCheckpointRequest {}).await;
    assert!(answer.is_ok(), "the connection is as good as before: {answer:?}");
}

#[tokio::test]
async fn a_revoked_node_hears_nothing_of_a_ledger() {
    let space = Space::new().await;
    let mut revoked = space.bare(&space.consumer.node, REGISTRAR, &space.nodes.registrar);
    revoked.get_checkpoint(wire::GetCheckpointRequest {}).await.unwrap();
    space.nodes.registry.revoke(space.consumer.id(), "left the space").await.unwrap();
    let no = |answer: Result<(), Status>| {
        failed_as(answer, Code::Unauthenticated, "identity.revoked");
    };
    no(revoked.get_checkpoint(wire::GetCheckpointRequest {}).await.map(|_| ()));
    no(revoked.list_leaves(wire::ListLeavesRequest::default()).await.map(|_| ()));
    no(revoked.get_channel(wire::GetChannelRequest {}).await.map(|_| ()));
    no(revoked.add_checkpoint(wire::AddCheckpointRequest::default()).await.map(|_| ()));
}

#[tokio::test]
async fn a_stranger_hears_nothing_of_a_ledger() {
    let space = Space::new().await;
    let routes = crate::peer_routes(space.provider.services());
    let mut stranger = LedgerServiceClient::new(routes.into_axum_router());
    let no = |answer: Result<(), Status>| {
        failed_as(answer, Code::Unauthenticated, "identity.missing");
    };
    no(stranger.prove(wire::ProveRequest::default()).await.map(|_| ()));
    no(stranger.get_checkpoint(wire::GetCheckpointRequest {}).await.map(|_| ()));
    no(stranger.get_consistency(wire::GetConsistencyRequest::default()).await.map(|_| ()));
    no(stranger.get_inclusion(wire::GetInclusionRequest::default()).await.map(|_| ()));
    no(stranger.get_entry(wire::GetEntryRequest::default()).await.map(|_| ()));
    no(stranger.list_leaves(wire::ListLeavesRequest::default()).await.map(|_| ()));
    no(stranger.add_checkpoint(wire::AddCheckpointRequest::default()).await.map(|_| ()));
    no(stranger.get_witnessed(wire::GetWitnessedRequest::default()).await.map(|_| ()));
    no(stranger.get_channel(wire::GetChannelRequest {}).await.map(|_| ()));
    no(stranger.list_channel_statements(wire::ListChannelStatementsRequest::default()).await.map(|_| ()));
}
