//! Places for the exchanges that a node serves: so many in all, and for one peer only some of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use huitong_ids::NodeId;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an exchange waits for a place: several small ones are through by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Exchanges of one peer that wait for a place at the same time.
const MOST_WAITING: usize = 16;

/// Clones share the places.
#[derive(Clone)]
pub(crate) struct Places {
    all: usize,
    each_peer: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    held: HashMap<NodeId, usize>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
}

struct Waiting {
    peer: NodeId,
    place: oneshot::Sender<Place>,
}

/// A place, until all its clones are dropped: an exchange has it until nothing of what it sent is left in memory.
#[derive(Clone)]
pub struct Place(#[expect(dead_code, reason = "is held, not used")] Arc<Seat>);

struct Seat {
    places: Places,
    peer: NodeId,
}

impl Places {
    pub(crate) fn new(all: usize, each_peer: usize) -> Self {
        Self { all, each_peer, state: Arc::default() }
    }

    /// A place for a peer, as soon as there is one for it; none if that takes too long, or too many of its exchanges wait
    /// already.
    pub(crate) async fn wait(&self, peer: &NodeId) -> Option<Place> {
        let given = self.line_up(peer)?;
        timeout(PATIENCE, given).await.ok()?.ok()
    }

    fn line_up(&self, peer: &NodeId) -> Option<oneshot::Receiver<Place>> {
        let (place, given) = oneshot::channel();
        let mut state = self.lock();
        state.waiting.retain(|waiting| !waiting.place.is_closed());
        if state.waiting.iter().filter(|waiting| waiting.peer == *peer).count() >= MOST_WAITING {
            return None;
        }
        state.waiting.push(Waiting { peer: peer.clone(), place });
        drop(state);
        self.hand_out();
        Some(given)
    }

    /// Gives free places to those who wait.
    fn hand_out(&self) {
        while let Some((waiting, place)) = self.next() {
            // Whoever has given up leaves the place to the next.
            drop(waiting.send(place));
        }
    }

    /// Who gets the next free place: of the peers that have the fewest, whoever has waited longest.
    fn next(&self) -> Option<(oneshot::Sender<Place>, Place)> {
        let mut state = self.lock();
        let State { held, waiting } = &mut *state;
        waiting.retain(|waiting| !waiting.place.is_closed());
        if held.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = |peer: &NodeId| held.get(peer).copied().unwrap_or(0);
        let candidates = waiting
            .iter()
            .enumerate()
            .map(|(at, waiting)| (own(&waiting.peer), at))
            .filter(|(own, _)| *own < self.each_peer);
        let (own, at) = candidates.min()?;
        let Waiting { peer, place } = waiting.remove(at);
        held.insert(peer.clone(), own.saturating_add(1));
        Some((place, Place(Arc::new(Seat { places: self.clone(), peer }))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        match state.held.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => {
                state.held.remove(&self.peer);
            }
        }
        drop(state);
        self.places.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> [NodeId; 2] {
        ["591440300MA5DEMA08P4403ZPEXLOQIJ", "591440300MA5DEMB12U4403J1DIHAOLR"]
            .map(|text| NodeId::parse(text).unwrap())
    }

    /// A place, if there is one at once.
    fn take(places: &Places, peer: &NodeId) -> Option<Place> {
        places.line_up(peer)?.try_recv().ok()
    }

    #[test]
    fn no_peer_takes_all_places() {
        let [one, other] = peers();
        let places = Places::new(3, 2);
        let held = [take(&places, &one).unwrap(), take(&places, &one).unwrap()];
        assert!(take(&places, &one).is_none(), "it has as many as it may");
        let third = take(&places, &other).unwrap();
        assert!(take(&places, &other).is_none(), "there are no more");
        let again = held.clone();
        drop(held);
        assert!(take(&places, &other).is_none(), "something of the exchange is left");
        drop(again);
        assert!(take(&places, &other).is_some() && take(&places, &one).is_some());
        drop(third);
        let state = places.lock();
        assert!(state.held.is_empty() && state.waiting.is_empty());
    }

    #[test]
    fn whoever_has_fewest_and_waits_longest_is_next() {
        let [one, other] = peers();
        let places = Places::new(2, 2);
        let held = [take(&places, &one).unwrap(), take(&places, &one).unwrap()];
        let mut greedy: Vec<_> = (0..MOST_WAITING).map(|_| places.line_up(&one).unwrap()).collect();
        assert!(places.line_up(&one).is_none(), "only so many of one peer wait");
        let mut modest = [places.line_up(&other).unwrap(), places.line_up(&other).unwrap()];
        let [first, second] = held;
        drop(first);
        let its_first = modest[0].try_recv().unwrap();
        assert!(modest[1].try_recv().is_err() && greedy[0].try_recv().is_err());
        drop(second);
        // Both have fewer than two now, the other one has one of them.
        let next = greedy[0].try_recv().unwrap();
        assert!(greedy[1].try_recv().is_err() && modest[1].try_recv().is_err());
        // One that has given up is passed over.
        greedy.remove(1);
        drop(next);
        assert!(greedy[1].try_recv().is_ok());
        drop((its_first, greedy, modest));
        let mut state = places.lock();
        state.waiting.retain(|waiting| !waiting.place.is_closed());
        assert!(state.held.is_empty() && state.waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_but_not_for_ever() {
        let [node, _] = peers();
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
