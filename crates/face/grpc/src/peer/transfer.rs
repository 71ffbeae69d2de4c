//! Deliveries, on a connector.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use huitong_identity::{Caller, PeerError, ServiceError, Standing};
use huitong_transfer::{FromConsumer, FromProvider, Pieces, Served, ServedLane, Transfers, Want};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_stream::Stream as _;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::Codec as _;
use tonic::codegen::http::{HeaderMap, Request, Response, header};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::allowance::{Allowances, is_recorded};
use super::{PeerConnection, authenticated, connection, failed};
use crate::bulk;
use crate::client::exchange::{EXCHANGE, LANE};
use crate::convert::{broken, contract_id, data_id, fixed};
use crate::proto::transfer as wire;
use crate::proto::transfer::exchange_request::Frame as RequestFrame;
use crate::proto::transfer::push_service_server::PushService;
use crate::status::{not_authenticated, to_peer_error};
use crate::{MAX_REQUEST_BYTES, proto};

/// How long the request for one more connection may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a peer may take to read what is left of an exchange that has ended.
pub(crate) const LEFTOVERS: Duration = Duration::from_secs(60);
/// Frames of the consumer that wait to be read: acknowledgements are small.
const INCOMING: usize = 16;
/// Frames for the consumer that wait to be sent: up to 1 MiB each, so this bounds the memory of an exchange.
const OUTGOING: usize = 1;

/// Serves `huitong.transfer.v1.TransferService`. The answer's content is not copied on its way, which is why the generated
/// server is not used.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) standing: Standing,
    pub(super) transfers: Transfers,
    pub(super) allowances: Allowances,
}

impl NamedService for Service {
    const NAME: &'static str = proto::transfer::transfer_service_server::SERVICE_NAME;
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let response = match request.uri().path() {
                EXCHANGE => this.exchange(request),
                LANE => this.lane(request).await,
                _ => Err(Status::unimplemented("the service has no such method")),
            };
            Ok(response.unwrap_or_else(Status::into_http))
        })
    }
}

/// Pushes of providers.
pub(super) struct Pushes {
    pub(super) standing: Standing,
    pub(super) transfers: Transfers,
    pub(super) allowances: Allowances,
}

#[tonic::async_trait]
impl PushService for Pushes {
    async fn push(
        &self,
        request: tonic::Request<wire::PushRequest>,
    ) -> Result<tonic::Response<wire::PushResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::PushRequest { contract, id } = request.into_inner();
        let contract = contract_id("contract", &contract).map_err(failed(&self.standing))?;
        let id = fixed("id", &id).map_err(failed(&self.standing))?;
        // Each one counts, also one that is taken: it makes us ask and look.
        self.allowances.take(caller.node().as_str()).map_err(failed(&self.standing))?;
        self.transfers.pushed(&caller, &contract, id).await.map_err(failed(&self.standing))?;
        Ok(tonic::Response::new(wire::PushResponse {}))
    }
}

impl Service {
    fn exchange(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let PeerConnection { caller, remote, close } = connection(&parts.extensions, &self.standing)?;
        let cost = Cost::take(&self.allowances, &caller).map_err(failed(&self.standing))?;
        let decoder = ProstCodec::<(), wire::ExchangeRequest>::default().decoder();
        let requests = Streaming::new_request(decoder, body, None, Some(MAX_REQUEST_BYTES));
        let (incoming, frames) = mpsc::channel(INCOMING);
        let (out, answers) = mpsc::channel(OUTGOING);
        let (end, outcome) = oneshot::channel();
        let (held, there) = Held::new();
        let reader = tokio::spawn(read(requests, incoming, self.standing.clone(), caller.clone()));
        let transfers = self.transfers.clone();
        // Not aborted when the consumer goes away: it then finds both of its channels closed, and puts its affairs in
        // order before it ends.
        tokio::spawn(async move {
            let served = transfers.serve(caller, remote.ip(), frames, out).await;
            cost.settle(&served);
            let Served { outcome, place, .. } = served;
            let _ = end.send(outcome);
            cut_off(std::future::ready(()), there, close).await;
            drop(place);
        });
        let (standing, reader) = (self.standing.clone(), reader.abort_handle());
        let content = Pieces::default();
        Ok(response(Answers { answers, content, outcome: Some(outcome), reader, standing, held }))
    }

    /// One more connection of an exchange: costs nothing that the exchange has not cost already.
    async fn lane(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let PeerConnection { caller, close, .. } = connection(&parts.extensions, &self.standing)?;
        let decoder = ProstCodec::<(), wire::LaneRequest>::default().decoder();
        let mut requests = Streaming::new_request(decoder, body, None, Some(MAX_REQUEST_BYTES));
        let request = timeout(REQUEST, requests.message()).await;
        let request = request.map_err(|_| Status::deadline_exceeded("no request came"))??;
        let wire::LaneRequest { transfer } =
            request.ok_or_else(|| Status::invalid_argument("no request came"))?;
        let transfer = fixed("transfer", &transfer).map_err(failed(&self.standing))?;
        let chunks = self.transfers.lane(&caller, &transfer).map_err(failed(&self.standing))?;
        let (held, there) = Held::new();
        let (ended, place) = (chunks.ended(), chunks.place());
        tokio::spawn(async move {
            cut_off(ended, there, close).await;
            drop(place);
        });
        Ok(response(Lane { chunks, content: Pieces::default(), is_over: false, held }))
    }
}

/// Says how long a body, or anything that it gave away, is in memory: HTTP/2 takes a piece whole for a single byte that its
/// peer has room for, and goes on having it when the body is gone. Nothing is ever sent.
#[derive(Clone)]
struct Held(#[expect(dead_code, reason = "is held, not used")] Arc<oneshot::Receiver<Infallible>>);

impl Held {
    fn new() -> (Self, oneshot::Sender<Infallible>) {
        let (there, held) = oneshot::channel();
        (Self(Arc::new(held)), there)
    }

    /// The same bytes, which count as long as anything refers to them.
    fn data(&self, bytes: Bytes) -> Frame<Bytes> {
        Frame::data(Bytes::from_owner(Given { bytes, _held: self.clone() }))
    }
}

struct Given {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Comes back when nothing of a body is in memory. Closes the connection of one that its peer has not read some time after the
/// exchange ended: nothing else ends a stream whose window the peer keeps shut, and what it holds would be held for ever.
async fn cut_off(
    ended: impl Future<Output = ()> + Send,
    mut there: oneshot::Sender<Infallible>,
    close: CancellationToken,
) {
    tokio::select! {
        () = there.closed() => return,
        () = ended => {}
    }
    if timeout(LEFTOVERS, there.closed()).await.is_err() {
        tracing::info!("a connection is closed: its node does not read what it has asked for");
        close.cancel();
        there.closed().await;
    }
}

fn response<B>(body: B) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// Chunks of an exchange, until it ends.
struct Lane {
    chunks: ServedLane,
    /// What is left of the content of the message that is being sent.
    content: Pieces,
    is_over: bool,
    held: Held,
}

impl http_body::Body for Lane {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.content.pop() {
            return Poll::Ready(Some(Ok(self.held.data(piece))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match ready!(Pin::new(&mut self.chunks).poll_next(context)) {
            Some(chunk) => {
                let (head, content) = bulk::encode(chunk);
                self.content = content;
                Ok(self.held.data(head))
            }
            None => {
                self.is_over = true;
                trailers(&Status::ok(""))
            }
        }))
    }
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// What an exchange costs of its caller's allowance: one, unless it brings the transfer forward. A refusal, an acceptance and
/// an offer stay in our ledger, and even silence takes a stream.
struct Cost {
    allowances: Allowances,
    caller: String,
}

impl Cost {
    fn take(allowances: &Allowances, caller: &Caller) -> Result<Self, ServiceError> {
        let caller = caller.node().to_string();
        allowances.take(&caller)?;
        Ok(Self { allowances: allowances.clone(), caller })
    }

    fn settle(self, served: &Served) {
        if !served.is_idle && !served.outcome.as_ref().is_err_and(is_recorded) {
            self.allowances.give_back(&self.caller);
        }
    }
}

/// Hands the consumer's frames on until it ends, breaks the protocol, or does not count any more.
async fn read(
    mut frames: Streaming<wire::ExchangeRequest>,
    incoming: mpsc::Sender<Result<FromConsumer, PeerError>>,
    standing: Standing,
    caller: Caller,
) {
    let mut changes = standing.directory.changes();
    loop {
        let frame = tokio::select! {
            () = incoming.closed() => return,
            Ok(()) = changes.changed() => {
                let now = standing.ledger.clock().now();
                match standing.directory.recheck(&caller, now) {
                    Ok(()) => continue,
                    Err(error) => Err(to_peer_error(&not_authenticated(&error))),
                }
            }
            message = frames.message() => match message {
                Ok(Some(message)) => consumer_frame(message).map_err(broken),
                Ok(None) => return,
                Err(status) => Err(to_peer_error(&status)),
            },
        };
        let over = frame.is_err();
        if incoming.send(frame).await.is_err() || over {
            return;
        }
    }
}

/// The provider's frames, then how the exchange ended.
struct Answers {
    answers: mpsc::Receiver<FromProvider>,
    /// What is left of the content of the message that is being sent.
    content: Pieces,
    outcome: Option<oneshot::Receiver<Result<(), ServiceError>>>,
    reader: AbortHandle,
    standing: Standing,
    held: Held,
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.content.pop() {
            return Poll::Ready(Some(Ok(self.held.data(piece))));
        }
        if let Some(frame) = ready!(self.answers.poll_recv(context)) {
            let (head, content) = bulk::encode(frame);
            self.content = content;
            return Poll::Ready(Some(Ok(self.held.data(head))));
        }
        let Some(outcome) = self.outcome.as_mut() else { return Poll::Ready(None) };
        let served = ready!(Pin::new(outcome).poll(context));
        self.outcome = None;
        let status = match served {
            Ok(Ok(())) => Status::ok(""),
            Ok(Err(error)) => failed(&self.standing)(error),
            Err(_) => Status::unavailable("the exchange was cut off; resume it"),
        };
        Poll::Ready(Some(trailers(&status)))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn consumer_frame(message: wire::ExchangeRequest) -> Result<FromConsumer, ServiceError> {
    let wire::ExchangeRequest { frame } = message;
    match frame {
        Some(RequestFrame::Want(wire::Want { transfer, contract, product })) => {
            Ok(FromConsumer::Want(Want {
                transfer: fixed("want.transfer", &transfer)?,
                contract: contract_id("want.contract", &contract)?,
                product: data_id("want.product", &product)?,
            }))
        }
        Some(RequestFrame::Statement(statement)) => Ok(FromConsumer::Statement(statement)),
        None => Err(ServiceError::invalid("frame", "expected want or statement, found neither")),
    }
}
