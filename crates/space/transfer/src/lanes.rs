//! Several connections for one exchange: at the provider chunks leave by whichever is free, at the consumer they come
//! together again. Statements go over the first connection only.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    state: Arc<State>,
}

/// What all connections of an exchange know of each other.
#[derive(Default)]
struct State {
    open: AtomicUsize,
    /// One has gone with a chunk that it took.
    has_lost: AtomicBool,
    gone: Notify,
}

/// Where the other connections take their chunks from.
#[derive(Clone)]
pub(crate) struct LaneEnds {
    peer: NodeId,
    chunks: Arc<Mutex<mpsc::Receiver<FromProvider>>>,
    state: Arc<State>,
}

impl Lanes {
    pub(crate) fn new(peer: NodeId) -> (Self, LaneEnds) {
        let (sender, receiver) = mpsc::channel(1);
        let state = Arc::<State>::default();
        let ends = LaneEnds { peer, chunks: Arc::new(Mutex::new(receiver)), state: Arc::clone(&state) };
        (Self { chunks: sender, state }, ends)
    }

    /// A place for a chunk, as soon as another connection is free; never without any.
    pub(crate) async fn reserve(&self) -> Option<mpsc::Permit<'_, FromProvider>> {
        self.chunks.reserve().await.ok()
    }

    /// Comes back when a connection has gone with a chunk that it took, and nobody knows whether that arrived; or when a chunk
    /// waits for connections that have all gone.
    pub(crate) async fn broken(&self) {
        let is_stranded = || self.is_empty() && self.chunks.capacity() == 0;
        while !(self.state.has_lost.load(Ordering::Acquire) || is_stranded()) {
            self.state.gone.notified().await;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.open.load(Ordering::Acquire) == 0
    }
}

impl LaneEnds {
    /// One more connection to this peer; `None` if it is not the exchange's, or there are enough.
    pub(crate) fn open(&self, peer: &NodeId) -> Option<impl Stream<Item = FromProvider> + Send + use<>> {
        if *peer != self.peer {
            return None;
        }
        let open = OpenLane { state: Arc::clone(&self.state), holds: false };
        if open.state.open.fetch_add(1, Ordering::AcqRel) >= MOST_LANES {
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
    state: Arc<State>,
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
        if self.holds {
            self.state.has_lost.store(true, Ordering::Release);
        }
        self.state.open.fetch_sub(1, Ordering::AcqRel);
        self.state.gone.notify_one();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_chunk_that_nobody_will_take_is_noticed() {
        let node = NodeId::parse("591440300MA5DEMA08P4403ZPEXLOQIJ").unwrap();
        let (lanes, ends) = Lanes::new(node.clone());
        let [first, second] = [ends.open(&node).unwrap(), ends.open(&node).unwrap()];
        drop(first);
        lanes.reserve().await.unwrap().send(FromProvider::Leaves(bytes::Bytes::new()));
        let broken = tokio::spawn(async move { lanes.broken().await });
        tokio::task::yield_now().await;
        assert!(!broken.is_finished(), "one of them will take it");
        drop(second);
        timeout(Duration::from_secs(10), broken).await.expect("it is waited for").unwrap();
    }
}
