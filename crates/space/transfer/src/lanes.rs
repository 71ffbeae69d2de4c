//! Several connections for one exchange: at the provider chunks leave by whichever is free, at the consumer they come
//! together again. Statements go over the first connection only.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{SelectAll, unfold};
use huitong_identity::PeerError;
use huitong_ids::NodeId;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_stream::{Stream, StreamExt as _};

use crate::model::FromProvider;
use crate::peer::Frames;

/// The most connections of one exchange beside the first.
pub const MOST_LANES: usize = 15;

/// The provider's end: what waits to leave over other connections than the first.
pub(crate) struct Lanes {
    chunks: mpsc::Sender<FromProvider>,
    open: Arc<AtomicUsize>,
    broken: Arc<Notify>,
}

/// Where the other connections take their chunks from.
#[derive(Clone)]
pub(crate) struct LaneEnds {
    peer: NodeId,
    chunks: Arc<Mutex<mpsc::Receiver<FromProvider>>>,
    open: Arc<AtomicUsize>,
    broken: Arc<Notify>,
}

impl Lanes {
    pub(crate) fn new(peer: NodeId) -> (Self, LaneEnds) {
        let (sender, receiver) = mpsc::channel(1);
        let (open, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ends = LaneEnds {
            peer,
            chunks: Arc::new(Mutex::new(receiver)),
            open: Arc::clone(&open),
            broken: Arc::clone(&broken),
        };
        (Self { chunks: sender, open, broken }, ends)
    }

    /// A place for a chunk, as soon as another connection is free; never without any.
    pub(crate) async fn reserve(&self) -> Option<mpsc::Permit<'_, FromProvider>> {
        self.chunks.reserve().await.ok()
    }

    /// Comes back when a connection has gone with a chunk that it took: nobody knows whether that arrived.
    pub(crate) async fn broken(&self) {
        self.broken.notified().await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }
}

impl LaneEnds {
    /// One more connection to this peer; `None` if it is not the exchange's, or there are enough.
    pub(crate) fn open(&self, peer: &NodeId) -> Option<impl Stream<Item = FromProvider> + Send + use<>> {
        if *peer != self.peer {
            return None;
        }
        let open = OpenLane { open: Arc::clone(&self.open), broken: Arc::clone(&self.broken), holds: false };
        if open.open.fetch_add(1, Ordering::AcqRel) >= MOST_LANES {
            return None;
        }
        Some(unfold((Arc::clone(&self.chunks), open), |(chunks, mut open)| async move {
            let Some(chunk) = chunks.lock().await.recv().await else {
                open.note(false);
                return None;
            };
            open.note(true);
            Some((chunk, (chunks, open)))
        }))
    }
}

/// Counts one connection until it is gone.
struct OpenLane {
    open: Arc<AtomicUsize>,
    broken: Arc<Notify>,
    /// It has taken a chunk, and the exchange has not ended since.
    holds: bool,
}

impl OpenLane {
    fn note(&mut self, holds: bool) {
        self.holds = holds;
    }
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        if self.holds {
            self.broken.notify_one();
        }
    }
}

/// A frame of one connection; nothing when the first one ends.
type Marked = Pin<Box<dyn Stream<Item = Option<Result<FromProvider, PeerError>>> + Send>>;

/// The consumer's end.
pub(crate) struct Confluence(SelectAll<Marked>);

impl Confluence {
    pub(crate) fn new(first: Frames) -> Self {
        let mut all = SelectAll::new();
        let first: Marked = Box::pin(first.map(Some).chain(tokio_stream::once(None)));
        all.push(first);
        Self(all)
    }

    /// Takes chunks from one more connection. If it breaks, what was on its way is lost, and that is an error; if it ends, it
    /// is over.
    pub(crate) fn add(&mut self, lane: Frames) {
        self.0.push(Box::pin(lane.map(|frame| match frame {
            Ok(chunk @ FromProvider::Chunk { .. }) => Some(Ok(chunk)),
            Ok(_) => Some(Err(PeerError::Broken("not a chunk came over a connection for chunks".to_owned()))),
            Err(error) => Some(Err(PeerError::Unavailable(format!(
                "one of the transfer's connections failed: {error}"
            )))),
        })));
    }

    /// The next frame, of whichever connection it comes; `None` when the first one has ended.
    pub(crate) async fn next(&mut self) -> Option<Result<FromProvider, PeerError>> {
        self.0.next().await.flatten()
    }
}
