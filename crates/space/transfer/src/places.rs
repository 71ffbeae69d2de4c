//! Places for the exchanges that a node serves: so many in all, and for one peer only some of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use huitong_ids::NodeId;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long an exchange waits for a place: several small ones are through by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clones share the places.
#[derive(Clone)]
pub(crate) struct Places {
    all: usize,
    each_peer: usize,
    held: Arc<Mutex<HashMap<NodeId, usize>>>,
    freed: Arc<Notify>,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    places: Places,
    peer: NodeId,
}

impl Places {
    pub(crate) fn new(all: usize, each_peer: usize) -> Self {
        Self { all, each_peer, held: Arc::default(), freed: Arc::default() }
    }

    /// A place for a peer, as soon as there is one for it; none if that takes too long.
    pub(crate) async fn wait(&self, peer: &NodeId) -> Option<Place> {
        let place = async {
            loop {
                // Before looking: what is freed in between counts.
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                if let Some(place) = self.take(peer) {
                    return place;
                }
                freed.await;
            }
        };
        timeout(PATIENCE, place).await.ok()
    }

    /// A place for a peer, if there is one and it has not too many.
    fn take(&self, peer: &NodeId) -> Option<Place> {
        let mut held = self.held();
        let own = held.get(peer).copied().unwrap_or(0);
        if own >= self.each_peer || held.values().sum::<usize>() >= self.all {
            return None;
        }
        held.insert(peer.clone(), own.saturating_add(1));
        Some(Place { places: self.clone(), peer: peer.clone() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<NodeId, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        match held.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => {
                held.remove(&self.peer);
            }
        }
        drop(held);
        self.places.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_takes_all_places() {
        let node = |text: &str| NodeId::parse(text).unwrap();
        let one = node("591440300MA5DEMA08P4403ZPEXLOQIJ");
        let other = node("591440300MA5DEMB12U4403J1DIHAOLR");
        let places = Places::new(3, 2);
        let held = [places.take(&one).unwrap(), places.take(&one).unwrap()];
        assert!(places.take(&one).is_none(), "it has as many as it may");
        let third = places.take(&other).unwrap();
        assert!(places.take(&other).is_none(), "there are no more");
        drop(held);
        assert!(places.take(&other).is_some() && places.take(&one).is_some());
        drop(third);
        assert!(places.held().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_but_not_for_ever() {
        let node = NodeId::parse("591440300MA5DEMA08P4403ZPEXLOQIJ").unwrap();
        let places = Places::new(1, 1);
        let held = places.wait(&node).await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(places.wait(&node).await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
        let waiting = tokio::spawn({
            let (places, node) = (places.clone(), node.clone());
            async move { places.wait(&node).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert!(waiting.await.unwrap());
    }
}
