//! One exchange, as the consumer sends and receives it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;
use huitong_identity::PeerError;
use huitong_transfer::{FromConsumer, FromProvider, Want};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::codec::{Codec as _, EncodeBody};
use tonic::codegen::http::{Method, Request, StatusCode, Uri, Version, header};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::windows::Window;
use crate::bulk::{self, Incoming};
use crate::convert::broken;
use crate::proto::transfer as wire;
use crate::proto::transfer::exchange_request::Frame;
use crate::status::to_peer_error;

/// Where the methods are served.
pub(crate) const EXCHANGE: &str = "/huitong.transfer.v1.TransferService/Exchange";
/// As above.
pub(crate) const LANE: &str = "/huitong.transfer.v1.TransferService/Lane";

/// Begins an exchange.
pub(super) async fn exchange(
    channel: Channel,
    window: Option<Window>,
    outgoing: mpsc::Receiver<FromConsumer>,
) -> Result<Answer, Status> {
    let messages = ReceiverStream::new(outgoing).map(|frame| Ok(message(frame)));
    let encoder = ProstCodec::<wire::ExchangeRequest, ()>::default().encoder();
    let body = Body::new(EncodeBody::new_client(encoder, messages, None, None));
    call(channel, window, EXCHANGE, body).await
}

/// Opens one more connection of an exchange.
pub(super) async fn lane(
    channel: Channel,
    window: Option<Window>,
    transfer: [u8; 16],
) -> Result<Answer, Status> {
    let request = wire::LaneRequest { transfer: Bytes::copy_from_slice(&transfer) };
    let encoder = ProstCodec::<wire::LaneRequest, ()>::default().encoder();
    let messages = tokio_stream::once(Ok(request));
    let body = Body::new(EncodeBody::new_client(encoder, messages, None, None));
    call(channel, window, LANE, body).await
}

/// Calls a method whose answer's content is not copied on its way, which is why the generated client is not used.
async fn call(
    mut channel: Channel,
    window: Option<Window>,
    path: &'static str,
    body: Body,
) -> Result<Answer, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
    let response = channel.call(request).await.map_err(failed)?;
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    if response.status() != StatusCode::OK {
        return Err(Status::unavailable(format!("HTTP status {} instead of an answer", response.status())));
    }
    let body = response.into_body();
    Ok(Answer { body, incoming: Incoming::default(), is_over: false, _window: window })
}

fn failed(error: tonic::transport::Error) -> Status {
    Status::from_error(error.into())
}

/// What the provider sends, read from the connection as it is asked for.
pub(super) struct Answer {
    body: Body,
    incoming: Incoming,
    is_over: bool,
    _window: Option<Window>,
}

impl Answer {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<FromProvider, PeerError>>> {
        loop {
            match self.incoming.message() {
                Ok(Some(message)) => return Poll::Ready(Some(bulk::decode(message).map_err(broken))),
                Ok(None) => {}
                // No answer of the provider, which would end the transfer for good.
                Err(status) => return Poll::Ready(Some(Err(PeerError::Broken(status.message().to_owned())))),
            }
            let status = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.incoming.push(data);
                        continue;
                    }
                    Err(frame) => {
                        frame.into_trailers().ok().and_then(|trailers| Status::from_header_map(&trailers))
                    }
                },
                Some(Err(status)) => Some(status),
                None => None,
            };
            return Poll::Ready(match status {
                Some(status) if status.code() != Code::Ok => Some(Err(to_peer_error(&status))),
                _ if self.incoming.is_unfinished() => {
                    Some(Err(PeerError::Broken("the answer ends inside a message".to_owned())))
                }
                _ => None,
            });
        }
    }
}

impl Stream for Answer {
    type Item = Result<FromProvider, PeerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll(context));
        self.is_over = !matches!(polled, Some(Ok(_)));
        Poll::Ready(polled)
    }
}

fn message(frame: FromConsumer) -> wire::ExchangeRequest {
    let frame = match frame {
        FromConsumer::Want(Want { transfer, contract, product }) => Frame::Want(wire::Want {
            transfer: Bytes::copy_from_slice(&transfer),
            contract: contract.to_string(),
            product: product.to_string(),
        }),
        FromConsumer::Statement(statement) => Frame::Statement(statement),
    };
    wire::ExchangeRequest { frame: Some(frame) }
}
