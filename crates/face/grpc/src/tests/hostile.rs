//! A node that answers calls about ledgers with whatever it likes: nothing gets through, nothing is waited for.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use huitong_evidence::{ChannelSide, LogPeer, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer};
use huitong_identity::PeerError;
use huitong_ids::NodeId;
use huitong_ledger::{MAX_NOTE_BYTES, MAX_PATH};
use huitong_proof::Digest;
use huitong_proof::cbor::Limits;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::server::{Grpc, NamedService};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Space;
use crate::Peers;
use crate::proto::ledger as wire;
use crate::proto::ledger::ledger_service_server::{LedgerService, LedgerServiceServer};

/// Gives the same answers to everybody.
#[derive(Clone, Default)]
struct Hostile {
    get_checkpoint: wire::GetCheckpointResponse,
    get_consistency: wire::GetConsistencyResponse,
    get_inclusion: wire::GetInclusionResponse,
    list_leaves: wire::ListLeavesResponse,
    add_checkpoint: wire::AddCheckpointResponse,
    get_witnessed: wire::GetWitnessedResponse,
    get_channel: wire::GetChannelResponse,
    list_channel_statements: wire::ListChannelStatementsResponse,
}

macro_rules! answer_with {
    ($($call:ident: $request:ident => $response:ident;)*) => {
        #[tonic::async_trait]
        impl LedgerService for Hostile {
            $(
                async fn $call(&self, _: Request<wire::$request>) -> Result<Response<wire::$response>, Status> {
                    Ok(Response::new(self.$call.clone()))
                }
            )*

            async fn prove(&self, _: Request<wire::ProveRequest>) -> Result<Response<wire::ProveResponse>, Status> {
                Ok(Response::new(wire::ProveResponse::default()))
            }

            async fn get_entry(
                &self,
                _: Request<wire::GetEntryRequest>,
            ) -> Result<Response<wire::GetEntryResponse>, Status> {
                Ok(Response::new(wire::GetEntryResponse::default()))
            }
        }
    };
}

answer_with! {
    get_checkpoint: GetCheckpointRequest => GetCheckpointResponse;
    get_consistency: GetConsistencyRequest => GetConsistencyResponse;
    get_inclusion: GetInclusionRequest => GetInclusionResponse;
    list_leaves: ListLeavesRequest => ListLeavesResponse;
    add_checkpoint: AddCheckpointRequest => AddCheckpointResponse;
    get_witnessed: GetWitnessedRequest => GetWitnessedResponse;
    get_channel: GetChannelRequest => GetChannelResponse;
    list_channel_statements: ListChannelStatementsRequest => ListChannelStatementsResponse;
}

impl Space {
    /// From now on this answers in the provider's place.
    fn usurp(&self, routes: Routes) -> (Peers, NodeId) {
        let (id, address) = (self.provider.id().clone(), self.provider.address());
        self.net.close(&address);
        self.net.listen(&address, &id, routes);
        let peers = super::peers_of(&self.consumer.node, &self.net);
        peers.learn(&id, &address);
        (peers, id)
    }

    fn answered_by(&self, change: impl FnOnce(&mut Hostile)) -> (Peers, NodeId) {
        let mut hostile = Hostile::default();
        change(&mut hostile);
        let service = LedgerServiceServer::new(hostile).max_encoding_message_size(usize::MAX);
        self.usurp(Routes::new(service))
    }
}

#[track_caller]
fn broken<T: std::fmt::Debug>(answer: Result<T, PeerError>, words: &str) {
    match answer {
        Err(PeerError::Broken(reason)) => {
            assert!(reason.contains(words), "{reason:?} does not say {words:?}")
        }
        other => panic!("expected {words:?}, found {other:?}"),
    }
}

fn digests(count: usize) -> Vec<Bytes> {
    vec![Bytes::from(vec![1; 32]); count]
}

#[tokio::test]
async fn checkpoints_are_texts_of_bounded_length() {
    let space = Space::new().await;
    let (peers, to) = space.answered_by(|_| {});
    broken(peers.checkpoint(&to).await, "checkpoint: ");
    assert_eq!(peers.witnessed(&to, "origin").await.unwrap(), None);

    let long = |bytes| "x".repeat(bytes);
    let (peers, to) = space.answered_by(|it| it.get_checkpoint.checkpoint = long(MAX_NOTE_BYTES));
    assert_eq!(peers.checkpoint(&to).await.unwrap().len(), MAX_NOTE_BYTES);
    for bytes in [MAX_NOTE_BYTES + 64, 64 << 20] {
        let (peers, to) = space.answered_by(|it| {
            it.get_checkpoint.checkpoint = long(bytes);
            it.get_witnessed.checkpoint = long(bytes);
            it.add_checkpoint.body = long(bytes);
        });
        broken(peers.checkpoint(&to).await, "longer than");
        broken(peers.witnessed(&to, "origin").await, "longer than");
        broken(peers.add_checkpoint(&to, "").await, "longer than");
    }
}

#[tokio::test]
async fn paths_have_at_most_63_hashes_of_32_bytes() {
    let space = Space::new().await;
    let inclusion = |change: fn(&mut wire::Inclusion)| {
        let mut inclusion =
            wire::Inclusion { digest: digests(1).remove(0), index: 0, path: digests(MAX_PATH) };
        change(&mut inclusion);
        let inclusion = Some(inclusion);
        space.answered_by(|it| {
            it.get_inclusion = wire::GetInclusionResponse { inclusion, leaf: digests(1).remove(0) };
        })
    };
    let asked = Digest::from_bytes([1; 32]);
    let (peers, to) = inclusion(|_| {});
    assert_eq!(peers.inclusion(&to, &asked, 1).await.unwrap().path.len(), MAX_PATH);
    broken(peers.inclusion(&to, &Digest::ZERO, 1).await, "inclusion.digest");
    let (peers, to) = inclusion(|it| it.path.push(it.digest.clone()));
    broken(peers.inclusion(&to, &asked, 1).await, "inclusion.path: expected at most 63");
    let (peers, to) = inclusion(|it| it.path[7] = it.digest.slice(1..));
    broken(peers.inclusion(&to, &asked, 1).await, "inclusion.path[7]");
    let (peers, to) = inclusion(|it| it.index = 1);
    broken(peers.inclusion(&to, &asked, 1).await, "inclusion.index");
    let (peers, to) = inclusion(|it| it.path = digests(1 << 16));
    broken(peers.inclusion(&to, &asked, 1).await, "longer than");
    let (peers, to) = space.answered_by(|_| {});
    broken(peers.inclusion(&to, &asked, 1).await, "inclusion: is missing");

    let path = |path| space.answered_by(|it| it.get_consistency.path = path);
    let (peers, to) = path(digests(MAX_PATH));
    assert_eq!(peers.consistency(&to, 1, 2).await.unwrap().len(), MAX_PATH);
    let (peers, to) = path(digests(MAX_PATH + 1));
    broken(peers.consistency(&to, 1, 2).await, "path: expected at most 63");
    // Empty values cost the sender next to nothing.
    let (peers, to) = path(vec![Bytes::new(); 1000]);
    broken(peers.consistency(&to, 1, 2).await, "path: expected at most 63");
    let (peers, to) = path(vec![Bytes::new(); 1 << 20]);
    broken(peers.consistency(&to, 1, 2).await, "longer than");
}

#[tokio::test]
async fn leaves_are_as_many_as_asked_and_whole() {
    let space = Space::new().await;
    let leaves = |bytes| space.answered_by(|it| it.list_leaves.leaves = vec![1; bytes].into());
    let (peers, to) = leaves(32 * MAX_LEAVES);
    assert_eq!(peers.leaves(&to, "", 0, MAX_LEAVES).await.unwrap().len(), MAX_LEAVES);
    broken(peers.leaves(&to, "", 0, 10).await, "longer than");
    let (peers, to) = leaves(32 * 11);
    broken(peers.leaves(&to, "", 0, 10).await, "leaves: expected at most 10");
    let (peers, to) = leaves(33);
    broken(peers.leaves(&to, "", 0, 10).await, "leaves: expected a multiple of 32");
    let (peers, to) = leaves(64 << 20);
    broken(peers.leaves(&to, "", 0, usize::MAX).await, "longer than");
}

#[tokio::test]
async fn statements_are_as_many_as_asked_and_of_bounded_length() {
    let space = Space::new().await;
    let most = Limits::STATEMENT.bytes;
    let bytes = |length: usize| Bytes::from(vec![1; length]);
    let statements = |list| space.answered_by(|it| it.list_channel_statements.statements = list);
    let ask = async |(peers, to): (Peers, NodeId), limit| {
        peers.statements(&to, ChannelSide::ToCaller, 0, limit).await
    };
    assert_eq!(ask(statements(vec![bytes(most); 64]), MAX_STATEMENTS).await.unwrap().len(), 64);
    broken(ask(statements(vec![bytes(most + 1)]), 9).await, "statements[0]: expected at most");
    broken(ask(statements(vec![bytes(1), Bytes::new()]), 9).await, "statements[1]: expected a statement");
    broken(ask(statements(vec![bytes(1); 10]), 9).await, "statements: expected at most 9");
    broken(ask(statements(vec![bytes(1); MAX_STATEMENTS + 1]), usize::MAX).await, "expected at most 256");
    broken(ask(statements(vec![bytes(most); 256]), MAX_STATEMENTS).await, "longer than");
    broken(ask(statements(vec![Bytes::new(); 1 << 20]), MAX_STATEMENTS).await, "longer than");

    let channel = |from_caller, to_caller| {
        space.answered_by(|it| it.get_channel = wire::GetChannelResponse { from_caller, to_caller })
    };
    let (peers, to) = channel(bytes(most), bytes(most));
    assert_eq!(peers.channel(&to).await.unwrap().to_caller.unwrap().len(), most);
    let (peers, to) = channel(Bytes::new(), bytes(most + 1));
    broken(peers.channel(&to).await, "to_caller: expected at most");
    let (peers, to) = channel(bytes(32 << 20), Bytes::new());
    broken(peers.channel(&to).await, "longer than");
}

#[tokio::test]
async fn a_witness_answers_with_a_status_of_the_specification() {
    let space = Space::new().await;
    let answer = async |status, body: &str| {
        let (peers, to) = space.answered_by(|it| {
            it.add_checkpoint = wire::AddCheckpointResponse {
                status,
                body: body.to_owned(),
                size: 7,
                retry_after_milliseconds: u64::MAX,
            };
        });
        peers.add_checkpoint(&to, "").await
    };
    assert_eq!(answer(200, "— line\n").await.unwrap(), WitnessAnswer::Cosigned("— line\n".to_owned()));
    assert_eq!(answer(409, "8\n").await.unwrap(), WitnessAnswer::Conflict { size: 7 });
    let retry_after = Duration::from_secs(3600);
    assert_eq!(answer(429, "").await.unwrap(), WitnessAnswer::Busy { retry_after }, "not for ever");
    for status in [400, 403, 404, 422] {
        let said = answer(u32::from(status), &"é".repeat(10_000)).await.unwrap();
        assert_eq!(said, WitnessAnswer::Refused { status, reason: "é".repeat(512) });
    }
    for status in [0, 201, 418, 500, 65_536 + 200, u32::MAX] {
        broken(answer(status, "").await, "status");
    }
}

/// Answers every call with these messages, one after another, where the caller expects one.
#[derive(Clone)]
struct Trickle<F>(F);

impl<F> NamedService for Trickle<F> {
    const NAME: &'static str = "huitong.ledger.v1.LedgerService";
}

impl<F, S> tower::Service<HttpRequest<Body>> for Trickle<F>
where
    F: Fn() -> S + Clone + Send + 'static,
    S: Stream<Item = Result<wire::GetCheckpointResponse, Status>> + Send + 'static,
{
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let messages = self.0.clone();
        Box::pin(async move {
            let mut grpc =
                Grpc::new(ProstCodec::<wire::GetCheckpointResponse, wire::GetCheckpointRequest>::default());
            let answer = tower::service_fn(move |_: Request<wire::GetCheckpointRequest>| {
                let stream = messages();
                async move { Ok::<_, Status>(Response::new(stream)) }
            });
            Ok(grpc.server_streaming(answer, request).await)
        })
    }
}

/// Asks with the clock at a stand, and lets the time of one call pass.
async fn after_its_time<T: Send + 'static>(
    call: impl Future<Output = Result<T, PeerError>> + Send + 'static,
) -> Result<T, PeerError> {
    tokio::time::pause();
    let call = tokio::spawn(call);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished(), "it came to an end before its time");
    tokio::time::advance(crate::client::REQUEST_TIMEOUT + Duration::from_secs(1)).await;
    let answer = call.await.unwrap();
    tokio::time::resume();
    answer
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_waited_for() {
    let space = Space::new().await;
    let message = wire::GetCheckpointResponse { checkpoint: "x".repeat(16 << 10) };
    let endless = {
        let message = message.clone();
        move || {
            let message = message.clone();
            tokio_stream::iter(std::iter::repeat_with(move || Ok(message.clone())))
        }
    };
    let (peers, to) = space.usurp(Routes::new(Trickle(endless)));
    let answer = after_its_time(async move { peers.checkpoint(&to).await }).await;
    assert!(matches!(&answer, Err(PeerError::Unavailable(why)) if why.contains("20 s")), "{answer:?}");

    let unfinished = move || tokio_stream::once(Ok(message.clone())).chain(tokio_stream::pending());
    let (peers, to) = space.usurp(Routes::new(Trickle(unfinished)));
    let answer = after_its_time(async move { peers.checkpoint(&to).await }).await;
    assert!(matches!(&answer, Err(PeerError::Unavailable(why)) if why.contains("20 s")), "{answer:?}");

    let (peers, to) = space.usurp(Routes::new(Trickle(tokio_stream::pending)));
    let answer = after_its_time(async move { peers.checkpoint(&to).await }).await;
    assert!(matches!(&answer, Err(PeerError::Unavailable(why)) if why.contains("20 s")), "{answer:?}");
}
