//! Memory that running exchanges share: however many they are, their content in memory has a bound.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

/// Runs of groups, 1 MiB each, that all exchanges of a node hold in memory in one direction, as long as each may have one
/// or two.
const ALL: usize = 64;
/// The most that one exchange holds: enough to keep reading, sending and writing apart.
const MOST: usize = 6;

/// The exchanges of a node in one direction. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Share(Arc<AtomicUsize>);

impl Share {
    /// One more exchange, until the member is dropped.
    pub(crate) fn join(&self) -> Member {
        self.0.fetch_add(1, Ordering::Relaxed);
        Member(Arc::clone(&self.0))
    }
}

/// One exchange's part.
pub(crate) struct Member(Arc<AtomicUsize>);

impl Member {
    /// How many runs the exchange may hold now, at least so many.
    fn quota(&self, least: usize) -> usize {
        (ALL / self.0.load(Ordering::Relaxed).max(1)).clamp(least, MOST)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Buffers that a provider reads into. Each comes back when what was read into it has been sent, so that reading touches
/// no fresh memory. Clones are the same reader's.
#[derive(Clone)]
pub(crate) struct Buffers {
    pool: Arc<Pool>,
    /// The reader is to end. Set while the pool is locked, so that one that is about to wait cannot miss it.
    closed: watch::Sender<bool>,
}

struct Pool {
    member: Member,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    held: usize,
    free: Vec<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new(member: Member) -> Self {
        let pool = Pool { member, state: Mutex::default(), returned: Condvar::new() };
        Self { pool: Arc::new(pool), closed: watch::Sender::new(false) }
    }

    /// The same buffers for another reader, which ends by itself.
    pub(crate) fn for_reader(&self) -> Self {
        Self { pool: Arc::clone(&self.pool), closed: watch::Sender::new(false) }
    }

    /// Lets the reader end: nothing is taken any more, and whoever waits for a buffer gets none at once.
    pub(crate) fn close(&self) {
        let state = self.pool.lock();
        self.closed.send_replace(true);
        drop(state);
        self.pool.returned.notify_all();
    }

    /// Returns once the reader is to end.
    pub(crate) async fn closed(&self) {
        // It is open as long as this is here.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// An empty buffer, as soon as the exchange may hold one more; to be given to [`Buffers::filled`]. Blocks. `None` once
    /// the reader is to end.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        // One is sent while the other is read.
        const LEAST: usize = 2;
        let pool = &*self.pool;
        let mut state = pool.lock();
        loop {
            if *self.closed.borrow() {
                return None;
            }
            if state.held < pool.member.quota(LEAST) {
                state.held = state.held.saturating_add(1);
                return Some(state.free.pop().unwrap_or_default());
            }
            state = pool.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What was read, which gives its buffer back when the last reference to it is gone.
    pub(crate) fn filled(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Filled { buffer, pool: Arc::clone(&self.pool) })
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Filled {
    buffer: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut state = self.pool.lock();
        state.held = state.held.saturating_sub(1);
        if state.held < self.pool.member.quota(1) {
            state.free.push(buffer);
        }
        drop(state);
        // Readers of one exchange may wait side by side, and one of them may be about to end.
        self.pool.returned.notify_all();
    }
}

/// What a consumer has received and not yet written.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Counted>);

struct Counted {
    member: Member,
    held: AtomicUsize,
    freed: Notify,
}

impl Slots {
    pub(crate) fn new(member: Member) -> Self {
        Self(Arc::new(Counted { member, held: AtomicUsize::new(0), freed: Notify::new() }))
    }

    /// Whether the exchange may receive another run now.
    pub(crate) fn is_free(&self) -> bool {
        self.0.held.load(Ordering::Acquire) < self.0.member.quota(1)
    }

    /// Returns when a slot has been freed since the last time.
    pub(crate) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    /// Occupies a slot until it is dropped.
    pub(crate) fn take(&self) -> Slot {
        self.0.held.fetch_add(1, Ordering::AcqRel);
        Slot(Arc::clone(&self.0))
    }
}

/// A run that is in memory.
pub(crate) struct Slot(Arc<Counted>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_more_exchanges_the_less_for_each() {
        let share = Share::default();
        let first = share.join();
        assert_eq!(first.quota(1), MOST);
        let others: Vec<_> = (1..32).map(|_| share.join()).collect();
        assert_eq!((first.quota(1), others[0].quota(2)), (2, 2));
        let more: Vec<_> = (32..200).map(|_| share.join()).collect();
        assert_eq!((first.quota(1), first.quota(2)), (1, 2));
        drop((others, more));
        assert_eq!(first.quota(1), MOST);
    }

    #[test]
    fn buffers_come_back_and_bound_what_is_read() {
        let buffers = Buffers::new(Share::default().join());
        let mut taken: Vec<Bytes> = (0..MOST)
            .map(|number| {
                let mut buffer = buffers.take().unwrap();
                buffer.extend_from_slice(&[number as u8; 100]);
                buffers.filled(buffer)
            })
            .collect();
        let waiting = buffers.clone();
        let reader = std::thread::spawn(move || waiting.take().unwrap());
        let slice = taken.pop().unwrap().slice(1..2);
        assert!(!reader.is_finished(), "part of it is still in use");
        let address = slice.as_ptr() as usize - 1;
        drop(slice);
        let again = reader.join().unwrap();
        assert_eq!((again.len(), again.as_ptr() as usize), (0, address), "the same memory, emptied");
    }

    #[test]
    fn one_reader_ends_and_the_next_goes_on() {
        let buffers = Buffers::new(Share::default().join());
        let (first, second) = (buffers.for_reader(), buffers.for_reader());
        let taken: Vec<Bytes> = (0..MOST).map(|_| first.filled(first.take().unwrap())).collect();
        let waiting = first.clone();
        let reader = std::thread::spawn(move || waiting.take().is_none());
        first.close();
        assert!(reader.join().unwrap());
        assert!(first.clone().closed().now_or_never().is_some() && second.closed().now_or_never().is_none());
        drop(taken);
        assert!(first.take().is_none() && second.take().is_some());
    }

    #[tokio::test]
    async fn slots_are_freed_by_dropping() {
        let slots = Slots::new(Share::default().join());
        let mut taken: Vec<_> = (0..MOST).map(|_| slots.take()).collect();
        assert!(!slots.is_free());
        taken.pop();
        slots.freed().await;
        assert!(slots.is_free());
    }
}
