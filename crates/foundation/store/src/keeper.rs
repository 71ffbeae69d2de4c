//! The one thread that makes snapshots, and deletes what they replace.
//!
//! It reads only what never changes: the last snapshot and the sealed segments. So it holds up nobody, and what
//! goes wrong here is said, tried again when the next segment is sealed, and harms nothing.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::disk::{Directory, Disk};
use crate::index::IndexPlace;
use crate::journal::{Durable, Extent};
use crate::merge::{Interrupted, Merge};
use crate::opening::{self, Layout};
use crate::outbox::COUNTER;
use crate::record::Cursor;
use crate::snapshot::{DAMAGED_EXTENSION, DRAFT_EXTENSION, Snapshot, SnapshotWriter};
use crate::table::Read;
use crate::writer::{Message, Shared, Task, TaskState};
use crate::{OpenError, Options, StoreError, Tx, TxError};

/// What the store does behind its back: snapshots, and what they cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// The last transaction in the newest snapshot; nothing if there is no snapshot.
    pub last_snapshot_sequence: Option<u64>,
    /// Of that transaction, in milliseconds since 1970.
    pub last_snapshot_time: Option<u64>,
    /// Of the newest snapshot.
    pub last_snapshot_bytes: u64,
    /// How many snapshots there are. Two are kept.
    pub snapshots: u64,
    /// How many journal segments there are, the open one included.
    pub segments: u64,
    /// Of all journal segments.
    pub journal_bytes: u64,
    /// Why the last attempt to make a snapshot, or to delete what one replaces, failed; nothing if it did not. It is
    /// tried again when the next segment is full.
    pub last_error: Option<String>,
}

/// Where orders are left for the keeper, and where it says what it did.
#[derive(Default)]
pub(crate) struct Desk {
    stopped: AtomicBool,
    orders: Mutex<Orders>,
    ordered: Condvar,
    /// How many hold back deletions.
    pins: Mutex<u64>,
    unpinned: Condvar,
    maintenance: Mutex<Maintenance>,
}

/// While this is held, no segment and no snapshot is deleted.
pub(crate) struct Pin<'a> {
    desk: &'a Desk,
}

/// Asks for everything before now to be gone from journal and snapshots.
pub(crate) struct Compaction {
    /// To the writer, whose help is needed.
    pub(crate) writer: mpsc::Sender<Message>,
    pub(crate) reply: oneshot::Sender<Result<(), StoreError>>,
}

#[derive(Default)]
struct Orders {
    look: bool,
    compactions: VecDeque<Compaction>,
    #[cfg(any(test, feature = "testing"))]
    rests: Vec<oneshot::Sender<()>>,
}

enum Order {
    Look,
    Compact(Compaction),
}

/// Owned by its thread.
pub(crate) struct Keeper {
    pub(crate) desk: Arc<Desk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) extent: Arc<Extent>,
    pub(crate) place: IndexPlace,
    pub(crate) layout: Layout,
    pub(crate) disk: Disk,
    pub(crate) options: Options,
    /// Held as long as snapshots are renamed and segments deleted in them.
    pub(crate) snapshots_directory: Directory,
    pub(crate) journal_directory: Directory,
    /// Those that can be used, oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
}

/// Snapshots that are kept, so that one can be damaged.
const GENERATIONS: usize = 2;
const COMPACTIONS_KEY: &[u8] = b"compactions";

impl Desk {
    /// A segment was sealed, or something else changed that may be a reason to act.
    pub(crate) fn look(&self) {
        lock(&self.orders).look = true;
        self.ordered.notify_one();
    }

    pub(crate) fn compact(&self, compaction: Compaction) {
        lock(&self.orders).compactions.push_back(compaction);
        self.ordered.notify_one();
    }

    /// Answers when there is nothing else to do.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn rest(&self, reply: oneshot::Sender<()>) {
        lock(&self.orders).rests.push(reply);
        self.ordered.notify_one();
    }

    /// Ends the keeper soon. Orders that wait are dropped.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Whoever waits has the lock, or has not yet looked.
        drop(lock(&self.orders));
        drop(lock(&self.pins));
        self.ordered.notify_all();
        self.unpinned.notify_all();
    }

    pub(crate) fn pin(&self) -> Pin<'_> {
        let mut pins = lock(&self.pins);
        *pins = pins.saturating_add(1);
        Pin { desk: self }
    }

    pub(crate) fn maintenance(&self) -> Maintenance {
        lock(&self.maintenance).clone()
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst)
    }

    /// The next order; nothing if the keeper is to end.
    fn next(&self) -> Option<Order> {
        let mut orders = lock(&self.orders);
        loop {
            if !self.goes_on() {
                *orders = Orders::default();
                return None;
            }
            if let Some(compaction) = orders.compactions.pop_front() {
                return Some(Order::Compact(compaction));
            }
            if std::mem::take(&mut orders.look) {
                return Some(Order::Look);
            }
            #[cfg(any(test, feature = "testing"))]
            for rest in orders.rests.drain(..) {
                let _ = rest.send(());
            }
            orders = self.ordered.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = lock(&self.desk.pins);
        *pins = pins.saturating_sub(1);
        let is_last = *pins == 0;
        drop(pins);
        if is_last {
            self.desk.unpinned.notify_all();
            self.desk.look();
        }
    }
}

impl Keeper {
    /// Runs until the desk says stop.
    pub(crate) fn run(mut self) {
        while let Some(order) = self.desk.clone().next() {
            let (writer, reply) = match order {
                Order::Look => (None, None),
                Order::Compact(Compaction { writer, reply }) => (Some(writer), Some(reply)),
            };
            let done = catch_unwind(AssertUnwindSafe(|| match &writer {
                None => self.look(),
                Some(writer) => self.compact(writer),
            }));
            let failure = match done {
                Ok(Ok(())) => None,
                Ok(Err(Interrupted::Stopped)) => continue,
                Ok(Err(error)) => Some(explain(&error)),
                Err(_) => Some("making a snapshot panicked; report it with the log".to_owned()),
            };
            if let Some(reason) = &failure {
                tracing::warn!(%reason, "no snapshot was made, or nothing was deleted; it is tried again later");
            }
            self.report(failure.clone());
            if let Some(reply) = reply {
                let answer = failure.map_or(Ok(()), |reason| Err(StoreError::Compaction { reason }));
                // A caller that stopped waiting changes nothing.
                let _ = reply.send(answer);
            }
        }
    }

    /// Makes a snapshot if it is time, and deletes what is no longer needed.
    fn look(&mut self) -> Result<(), Interrupted> {
        if self.is_due() {
            self.make_snapshot()?;
        }
        let desk = self.desk.clone();
        let pins = lock(&desk.pins);
        if *pins == 0 {
            self.retain()?;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let durable = self.extent.durable();
        let last = self.snapshots.last();
        let after = last.map_or(0, |last| last.header.sequence);
        let sealed = durable.sealed().iter().filter(|segment| segment.header.first_sequence > after);
        let sealed_bytes = sealed.fold(0_u64, |bytes, segment| bytes.saturating_add(segment.length));
        let enough = self.options.snapshot_bytes.max(last.map_or(0, |last| last.length / 2));
        sealed_bytes >= enough
    }

    /// Makes a snapshot of everything that is sealed, unless there is one.
    fn make_snapshot(&mut self) -> Result<(), Interrupted> {
        let durable = self.extent.durable();
        let until = durable.sealed_until();
        if self.snapshots.last().map_or(0, |last| last.header.sequence) >= until {
            return Ok(());
        }
        // The journal before a snapshot is soon gone: an index that had to go back there after the process was
        // killed would have to be rebuilt.
        if let Ok(index) = self.shared.read(|committed| Ok(committed.index().clone())) {
            index.flush()?;
        }
        loop {
            match self.merge(&durable) {
                Ok(snapshot) => {
                    tracing::info!(
                        sequence = snapshot.header.sequence,
                        rows = snapshot.rows,
                        bytes = snapshot.length,
                        "snapshot made"
                    );
                    self.snapshots.push(snapshot);
                    return Ok(());
                }
                Err(Interrupted::Failed(error @ OpenError::Snapshot { .. })) => {
                    let OpenError::Snapshot { snapshot: path, .. } = &error else { return Err(error.into()) };
                    let Some(base) = self.snapshots.pop_if(|last| last.path == *path) else {
                        return Err(error.into());
                    };
                    tracing::error!(%error, "the last snapshot cannot be used; an older one and the journal are tried");
                    opening::set_aside(&base.path, &self.snapshots_directory, &self.disk)?;
                    if self.snapshots.is_empty() && !starts_at_the_first(&durable) {
                        return Err(error.into());
                    }
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Merges the last snapshot with the sealed segments behind it.
    fn merge(&self, durable: &Durable) -> Result<Snapshot, Interrupted> {
        let goes_on = || self.desk.goes_on();
        let mut merged = Merge {
            base: self.snapshots.last(),
            segments: durable.sealed(),
            scratch: &self.layout.snapshots,
            disk: &self.disk,
            chunk_bytes: self.options.chunk_bytes,
            go_on: &goes_on,
        }
        .run()?;
        let header = merged.header();
        let draft = Snapshot::path(&self.layout.snapshots, header.sequence).with_extension(DRAFT_EXTENSION);
        let mut write = || {
            let mut snapshot = SnapshotWriter::start(&self.disk, &self.snapshots_directory, header)
                .map_err(OpenError::io("create", &draft))?;
            while let Some(row) = merged.next()? {
                snapshot.push(&row).map_err(OpenError::io("write", &draft))?;
            }
            let whole = snapshot.finish(goes_on)?.ok_or(Interrupted::Stopped)?;
            Ok(whole.publish().map_err(OpenError::io("rename", &draft))?)
        };
        let made = write();
        if made.is_err() && draft.exists() {
            // What cannot be removed now is removed at the next start.
            let _ = self.disk.remove(&draft);
        }
        made
    }

    /// Everything deleted before this began leaves journal, snapshots and index.
    fn compact(&mut self, writer: &mpsc::Sender<Message>) -> Result<(), Interrupted> {
        self.seal(writer)?;
        self.make_snapshot()?;
        // Two snapshots are kept, and neither may be older than this. The second one needs a transaction of its
        // own to be told from the first.
        self.mark(writer)?;
        self.seal(writer)?;
        self.make_snapshot()?;
        self.wait_for_pins()?;
        self.replace_index(writer)
    }

    /// Waits until the writer has sealed what is in the journal.
    fn seal(&self, writer: &mpsc::Sender<Message>) -> Result<(), Interrupted> {
        let (reply, answer) = oneshot::channel();
        writer.blocking_send(Message::Seal(reply)).map_err(|_| Interrupted::Stopped)?;
        Ok(answer.blocking_recv().map_err(|_| Interrupted::Stopped)??)
    }

    fn mark(&self, writer: &mpsc::Sender<Message>) -> Result<(), Interrupted> {
        let (reply, answer) = oneshot::channel();
        let task = Task { name: "store.compact", state: TaskState::Waiting(count_compaction), reply };
        writer.blocking_send(Message::Run(Box::new(task))).map_err(|_| Interrupted::Stopped)?;
        match answer.blocking_recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(TxError::Abort(error) | TxError::Store(error))) => Err(error.into()),
            Err(_) => Err(Interrupted::Stopped),
        }
    }

    /// Deletes what is no longer needed, even if that means to wait for a backup.
    fn wait_for_pins(&mut self) -> Result<(), Interrupted> {
        let desk = self.desk.clone();
        let mut pins = lock(&desk.pins);
        while *pins > 0 {
            if !desk.goes_on() {
                return Err(Interrupted::Stopped);
            }
            pins = desk.unpinned.wait(pins).unwrap_or_else(PoisonError::into_inner);
        }
        self.retain()?;
        Ok(self.remove_damaged()?)
    }

    /// Snapshots that were set aside hold what is to go.
    fn remove_damaged(&self) -> Result<(), OpenError> {
        let directory = &self.layout.snapshots;
        let entries = fs::read_dir(directory).map_err(OpenError::io("list", directory))?;
        for entry in entries {
            let path = entry.map_err(OpenError::io("list", directory))?.path();
            if path.extension().is_some_and(|extension| extension == DAMAGED_EXTENSION) {
                self.remove(&path, &self.snapshots_directory)?;
            }
        }
        Ok(())
    }

    /// Deletes all snapshots but the newest two, and the segments that the older of these two replaces.
    fn retain(&mut self) -> Result<(), OpenError> {
        while self.snapshots.len() > GENERATIONS {
            let Some(oldest) = self.snapshots.first() else { break };
            self.remove(&oldest.path, &self.snapshots_directory)?;
            self.snapshots.remove(0);
        }
        let kept = self.snapshots.len().checked_sub(GENERATIONS);
        let Some(older) = kept.and_then(|place| self.snapshots.get(place)) else { return Ok(()) };
        let next = older.header.sequence.saturating_add(1);
        let durable = self.extent.durable();
        let replaced = durable
            .segments
            .partition_point(|segment| segment.header.first_sequence <= next)
            .saturating_sub(1);
        for segment in durable.segments.iter().take(replaced) {
            // One by one, oldest first: whatever a power failure leaves, no gap is in it.
            self.remove(&segment.path, &self.journal_directory)?;
            self.extent.forget(segment.header.number);
        }
        Ok(())
    }

    fn remove(&self, path: &Path, held: &Directory) -> Result<(), OpenError> {
        match self.disk.remove(path) {
            // An earlier attempt removed it and could not say so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(OpenError::io("remove", path))?,
        }
        held.sync().map_err(OpenError::io("sync directory", held.path()))
    }

    /// sled keeps the bytes of deleted rows until it happens to write over them, so the index is built anew.
    fn replace_index(&self, writer: &mpsc::Sender<Message>) -> Result<(), Interrupted> {
        let Some(base) = self.snapshots.last() else { return Ok(()) };
        let current =
            self.shared.read(|committed| Ok(committed.index().clone())).map_err(|_| Interrupted::Stopped)?;
        let goes_on = || self.desk.goes_on();
        let index = self.place.build_beside(&current, base, &goes_on)?;
        drop(current);
        let adopted = index.generation();
        // What was committed meanwhile. The writer, which holds up everybody, then has little left to do.
        let durable = self.extent.durable();
        let identity = base.header.identity;
        self.place.catch_up(&index, identity, &durable.segments, base.header.sequence)?;

        let (reply, answer) = oneshot::channel();
        writer.blocking_send(Message::Adopt(index, reply)).map_err(|_| Interrupted::Stopped)?;
        answer.blocking_recv().map_err(|_| Interrupted::Stopped)??;
        Ok(self.place.remove_others(adopted)?)
    }

    /// Says on the desk how things are.
    pub(crate) fn report(&self, last_error: Option<String>) {
        let durable = self.extent.durable();
        let last = self.snapshots.last();
        *lock(&self.desk.maintenance) = Maintenance {
            last_snapshot_sequence: last.map(|last| last.header.sequence),
            last_snapshot_time: last.map(|last| last.header.time),
            last_snapshot_bytes: last.map_or(0, |last| last.length),
            snapshots: self.snapshots.len() as u64,
            segments: durable.segments.len() as u64,
            journal_bytes: durable.bytes(),
            last_error,
        };
    }
}

/// Whether the journal is there from its beginning.
fn starts_at_the_first(durable: &Durable) -> bool {
    durable.segments.first().is_some_and(|first| first.header.first_sequence <= 1)
}

fn count_compaction(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let count =
        tx.get(&COUNTER, COMPACTIONS_KEY)?.and_then(|bytes| Cursor::new(&bytes).u64()).unwrap_or_default();
    tx.put(&COUNTER, COMPACTIONS_KEY, &count.saturating_add(1).to_be_bytes())
}

/// The error and what is behind it, in one line.
fn explain(error: &Interrupted) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
