//! Deliveries, on a connector.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use huitong_identity::{Caller, PeerError, ServiceError, Standing};
use huitong_proof::{Envelope, Kind};
use huitong_transfer::{FromConsumer, FromProvider, Transfers, Want};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::allowance::{Allowances, is_recorded};
use super::{PeerConnection, connection, failed};
use crate::convert::{broken, contract_id, data_id, fixed};
use crate::proto::transfer as wire;
use crate::proto::transfer::exchange_request::Frame as RequestFrame;
use crate::proto::transfer::exchange_response::Frame as ResponseFrame;
use crate::proto::transfer::transfer_service_server::TransferService;
use crate::status::{not_authenticated, to_peer_error};

/// Frames of the consumer that wait to be read: acknowledgements are small.
const INCOMING: usize = 16;
/// Frames for the consumer that wait to be sent: up to 1 MiB each, so this bounds the memory of an exchange.
const OUTGOING: usize = 8;

pub(super) struct Service {
    pub(super) standing: Standing,
    pub(super) transfers: Transfers,
    pub(super) allowances: Allowances,
}

#[tonic::async_trait]
impl TransferService for Service {
    type ExchangeStream = Answers;

    async fn exchange(
        &self,
        request: Request<Streaming<wire::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let PeerConnection { caller, remote } = connection(&request, &self.standing)?;
        let cost = Cost::take(&self.allowances, &caller).map_err(failed(&self.standing))?;
        let (incoming, frames) = mpsc::channel(INCOMING);
        let (out, answers) = mpsc::channel(OUTGOING);
        let (end, outcome) = oneshot::channel();
        let reader =
            tokio::spawn(read(request.into_inner(), incoming, self.standing.clone(), caller.clone()));
        let transfers = self.transfers.clone();
        // Not aborted when the consumer goes away: it then finds both of its channels closed, and puts its affairs in
        // order before it ends.
        tokio::spawn(async move {
            let outcome = transfers.exchange(caller, remote.ip(), frames, out).await;
            let _ = end.send(outcome);
        });
        let (standing, reader) = (self.standing.clone(), reader.abort_handle());
        Ok(Response::new(Answers { answers, outcome: Some(outcome), reader, standing, cost }))
    }
}

/// What an exchange costs of its caller's allowance: one for each refusal, and one as long as none of that is known.
struct Cost {
    allowances: Allowances,
    caller: String,
    is_open: bool,
}

impl Cost {
    fn take(allowances: &Allowances, caller: &Caller) -> Result<Self, ServiceError> {
        let caller = caller.node().to_string();
        allowances.take(&caller)?;
        Ok(Self { allowances: allowances.clone(), caller, is_open: true })
    }

    fn refused(&mut self) {
        if !std::mem::take(&mut self.is_open) {
            // The exchange goes on whether or not there is room: its next one will not.
            let _ = self.allowances.take(&self.caller);
        }
    }

    fn accepted(&mut self) {
        if std::mem::take(&mut self.is_open) {
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

/// The provider's frames, then the exchange's error if it ended with one.
pub(super) struct Answers {
    answers: mpsc::Receiver<FromProvider>,
    outcome: Option<oneshot::Receiver<Result<(), ServiceError>>>,
    reader: AbortHandle,
    standing: Standing,
    cost: Cost,
}

impl Stream for Answers {
    type Item = Result<wire::ExchangeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(frame) = ready!(self.answers.poll_recv(context)) {
            if let FromProvider::Statement(statement) = &frame {
                if is_refusal(statement, &self.standing) { self.cost.refused() } else { self.cost.accepted() }
            }
            return Poll::Ready(Some(Ok(provider_message(frame))));
        }
        let Some(outcome) = self.outcome.as_mut() else { return Poll::Ready(None) };
        let outcome = ready!(Pin::new(outcome).poll(context));
        self.outcome = None;
        Poll::Ready(match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                if is_recorded(&error) {
                    self.cost.refused()
                } else {
                    self.cost.accepted()
                }
                Some(Err(failed(&self.standing)(error)))
            }
            Err(_) => Some(Err(Status::unavailable("the exchange was cut off; resume it"))),
        })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn is_refusal(statement: &Bytes, standing: &Standing) -> bool {
    Envelope::decode(statement.clone())
        .and_then(|envelope| envelope.trusted(standing.ledger.space()))
        .is_ok_and(|statement| statement.kind() == Kind::Refusal)
}

fn provider_message(frame: FromProvider) -> wire::ExchangeResponse {
    let frame = match frame {
        FromProvider::Statement(statement) => ResponseFrame::Statement(statement),
        FromProvider::Manifest(manifest) => ResponseFrame::Manifest(manifest),
        FromProvider::Leaves(leaves) => ResponseFrame::Leaves(leaves),
        FromProvider::Chunk { group, data } => ResponseFrame::Chunk(wire::Chunk { group, data }),
    };
    wire::ExchangeResponse { frame: Some(frame) }
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
