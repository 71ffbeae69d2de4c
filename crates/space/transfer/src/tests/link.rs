//! The connection between consumer and provider, frame by frame.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use huitong_identity::{Caller, PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_proof::{Envelope, SpaceId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::{Space, as_peer_error};
use crate::{Frames, FromConsumer, FromProvider, TransferPeer, Transfers};

pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Rewrite<F> = Box<dyn FnMut(F) -> Vec<F> + Send>;

/// What happens to frames on their way.
pub(crate) struct Wire {
    /// So many frames pass, in both directions together, then the connection is gone.
    pub(crate) cut_after: usize,
    /// Whether the consumer hears that the connection is gone, as it does over TCP, or only nothing more.
    pub(crate) is_told_of_cuts: bool,
    /// What becomes of a frame of the consumer.
    pub(crate) up: Rewrite<FromConsumer>,
    /// What becomes of a frame of the provider.
    pub(crate) down: Rewrite<FromProvider>,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            cut_after: usize::MAX,
            is_told_of_cuts: false,
            up: Box::new(|frame| vec![frame]),
            down: Box::new(|frame| vec![frame]),
        }
    }
}

impl Wire {
    pub(crate) fn cut(cut_after: usize) -> Self {
        Self { cut_after, ..Self::default() }
    }

    pub(crate) fn down(down: impl FnMut(FromProvider) -> Vec<FromProvider> + Send + 'static) -> Self {
        Self { down: Box::new(down), ..Self::default() }
    }
}

/// One exchange. Frames are named in the order in which they came, before anything was done to them.
pub(crate) struct Link {
    to: Transfers,
    caller: Caller,
    space: SpaceId,
    wire: Mutex<Option<Wire>>,
    frames: Arc<Mutex<Vec<String>>>,
    serving: Mutex<Option<JoinHandle<Result<(), ServiceError>>>>,
}

impl Link {
    pub(crate) fn new(space: &Space, wire: Wire) -> Self {
        Self {
            to: space.provider.clone(),
            caller: space.network.consumer.caller.clone(),
            space: *space.network.provider.ledger.space(),
            wire: Mutex::new(Some(wire)),
            frames: Arc::default(),
            serving: Mutex::default(),
        }
    }

    pub(crate) fn frames(&self) -> Vec<String> {
        self.frames.lock().unwrap().clone()
    }

    /// How the provider's side ended; it is over when this returns.
    pub(crate) async fn ended(self) -> Result<(), ServiceError> {
        let serving = self.serving.lock().unwrap().take();
        match serving {
            Some(serving) => serving.await.unwrap(),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl TransferPeer for Link {
    async fn exchange(
        &self,
        _: &NodeId,
        _: u64,
        outgoing: mpsc::Receiver<FromConsumer>,
    ) -> Result<Frames, PeerError> {
        let wire = self.wire.lock().unwrap().take().expect("one exchange for each link");
        let (to_provider, incoming) = mpsc::channel(64);
        let (out, from_provider) = mpsc::channel(1);
        let (to_consumer, frames) = mpsc::channel(64);
        let (to, caller) = (self.to.clone(), self.caller.clone());
        let served = tokio::spawn(async move { to.exchange(caller, ADDRESS, incoming, out).await });
        let pump = Pump { wire, space: self.space, passed: 0, frames: Arc::clone(&self.frames) };
        let pump = tokio::spawn(pump.run(outgoing, to_provider, from_provider, to_consumer, served));
        *self.serving.lock().unwrap() = Some(pump);
        Ok(Box::pin(ReceiverStream::new(frames)))
    }

    async fn lane(&self, _: &NodeId, transfer: [u8; 16]) -> Result<Frames, PeerError> {
        let opened = self.to.lane(&self.caller, &transfer).map_err(|error| as_peer_error(&error))?;
        let frames = Arc::clone(&self.frames);
        Ok(Box::pin(opened.map(move |frame| {
            frames.lock().unwrap().push("over a lane".to_owned());
            Ok(frame)
        })))
    }
}

struct Pump {
    wire: Wire,
    space: SpaceId,
    passed: usize,
    frames: Arc<Mutex<Vec<String>>>,
}

impl Pump {
    async fn run(
        mut self,
        mut from_consumer: mpsc::Receiver<FromConsumer>,
        to_provider: mpsc::Sender<Result<FromConsumer, PeerError>>,
        mut from_provider: mpsc::Receiver<FromProvider>,
        to_consumer: mpsc::Sender<Result<FromProvider, PeerError>>,
        served: JoinHandle<Result<(), ServiceError>>,
    ) -> Result<(), ServiceError> {
        let mut to_provider = Some(to_provider);
        'carrying: loop {
            tokio::select! {
                biased;
                frame = from_consumer.recv(), if to_provider.is_some() => {
                    let Some(frame) = frame else {
                        to_provider = None;
                        continue;
                    };
                    if !self.pass(match &frame {
                        FromConsumer::Want(_) => "want".to_owned(),
                        FromConsumer::Statement(bytes) => kind_of(bytes, &self.space),
                    }) {
                        break;
                    }
                    for frame in (self.wire.up)(frame) {
                        if let Some(to_provider) = &to_provider {
                            let _ = to_provider.send(Ok(frame)).await;
                        }
                    }
                }
                frame = from_provider.recv() => {
                    let Some(frame) = frame else {
                        let outcome = served.await.unwrap();
                        if let Err(error) = &outcome {
                            let _ = to_consumer.send(Err(as_peer_error(error))).await;
                        }
                        return outcome;
                    };
                    if !self.pass(match &frame {
                        FromProvider::Statement(bytes) => kind_of(bytes, &self.space),
                        FromProvider::Manifest(_) => "manifest".to_owned(),
                        FromProvider::Leaves(_) => "leaves".to_owned(),
                        FromProvider::Chunk { group, .. } => format!("chunk {group}"),
                    }) {
                        break;
                    }
                    for frame in (self.wire.down)(frame) {
                        if to_consumer.send(Ok(frame)).await.is_err() {
                            break 'carrying;
                        }
                    }
                }
            }
        }
        if self.wire.is_told_of_cuts {
            let _ = to_consumer.send(Err(PeerError::Unavailable("cut".to_owned()))).await;
        }
        drop((from_consumer, to_provider, from_provider, to_consumer));
        served.await.unwrap()
    }

    fn pass(&mut self, name: String) -> bool {
        self.passed += 1;
        let passes = self.passed <= self.wire.cut_after;
        if passes {
            self.frames.lock().unwrap().push(name);
        }
        passes
    }
}

fn kind_of(bytes: &bytes::Bytes, space: &SpaceId) -> String {
    Envelope::decode(bytes.clone()).unwrap().trusted(space).unwrap().kind().name().to_owned()
}
