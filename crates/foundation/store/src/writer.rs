//! The one thread that writes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::committed::Committed;
use crate::failure::Failure;
use crate::index::{Index, IndexPlace, Standing};
use crate::journal::{Appended, Journal};
use crate::keeper::Desk;
use crate::lock::Lock;
use crate::overlay::Overlay;
use crate::record::GroupWriter;
use crate::transaction::Tx;
use crate::{StoreError, TxError};

/// Milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Runs transactions in the order they arrive, and groups them.
pub(crate) struct Writer {
    pub(crate) journal: Journal,
    pub(crate) committed: Committed,
    pub(crate) place: IndexPlace,
    pub(crate) clock: Clock,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) last_sequence: u64,
    pub(crate) last_time: u64,
    pub(crate) desk: Arc<Desk>,
    /// Ended before the directory is let go.
    pub(crate) keeper: JoinHandle<()>,
    /// Held until the writer has ended.
    pub(crate) lock: Lock,
    /// Dropped when the writer has ended.
    pub(crate) ended: watch::Sender<()>,
}

/// What the writer shares with the store's handles.
pub(crate) struct Shared {
    /// The committed state; gone once the store is closed. Locked for writing only while a durable group is
    /// applied, never across an fsync.
    pub(crate) committed: RwLock<Option<Committed>>,
    pub(crate) failure: Arc<Failure>,
    /// The last durable sequence.
    pub(crate) commits: watch::Sender<u64>,
}

/// What is sent to the writer.
pub(crate) enum Message {
    Run(Box<dyn Job>),
    /// Seal the open segment, so that all that is durable lies in sealed ones.
    Seal(oneshot::Sender<Result<(), StoreError>>),
    /// Use this index, which lacks only the newest transactions.
    Adopt(Index, oneshot::Sender<Result<(), StoreError>>),
    Close,
    #[cfg(test)]
    Panic,
}

/// A transaction whose types the writer need not know.
pub(crate) trait Job: Send {
    fn name(&self) -> &'static str;
    /// Runs the closure and keeps what it returned.
    fn run(&mut self, tx: &mut Tx<'_>) -> Intent;
    /// Answers the caller: with what the closure returned, or with why it does not count.
    fn answer(self: Box<Self>, verdict: Result<(), StoreError>);
}

/// What the closure wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    Commit,
    Abort,
}

/// A closure on its way to the writer.
pub(crate) struct Task<T, E, F> {
    pub(crate) name: &'static str,
    pub(crate) state: TaskState<T, E, F>,
    pub(crate) reply: oneshot::Sender<Result<T, TxError<E>>>,
}

pub(crate) enum TaskState<T, E, F> {
    Waiting(F),
    Running,
    Ran(Result<T, E>),
}

const GROUP_TRANSACTIONS: usize = 1024;
/// Together with the largest transaction, well below the largest group.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
const GROUP_TIME: Duration = Duration::from_millis(10);

impl Writer {
    /// Runs until the store is closed or nobody holds it any more. After a panic it only refuses: the views still need
    /// what it has.
    pub(crate) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.fail(StoreError::Failed { reason: "the writer thread panicked".to_owned() });
        }
        self.finish();
    }

    fn serve(&mut self) {
        let mut carried = None;
        while let Some(message) = carried.take().or_else(|| self.inbox.blocking_recv()) {
            match message {
                Message::Run(job) => carried = self.run_group(job),
                Message::Seal(reply) => {
                    let sealed = self.seal();
                    // Whoever asked and left does not want it undone.
                    let _ = reply.send(sealed);
                }
                Message::Adopt(index, reply) => {
                    let adopted = self.adopt(index);
                    let _ = reply.send(adopted);
                }
                Message::Close => return,
                #[cfg(test)]
                Message::Panic => panic!("as a test asked for"),
            }
        }
    }

    /// Runs `first` and what else waits, makes it durable, answers. Returns what came up that is no transaction.
    fn run_group(&mut self, first: Box<dyn Job>) -> Option<Message> {
        let began = Instant::now();
        let mut group = Group::new();
        let mut carried = None;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            self.run_job(&mut group, job);
            if group.is_full() || began.elapsed() >= GROUP_TIME {
                break;
            }
            match self.inbox.try_recv() {
                Ok(Message::Run(job)) => next = Some(job),
                Ok(other) => carried = Some(other),
                Err(_) => {}
            }
        }
        let Group { journaled, changes, sequence, time, answers } = group.reached(self);
        let committed = self.commit(journaled, changes, sequence, time);
        for (job, verdict) in answers {
            let verdict = committed.clone().and(verdict);
            // Dropping a value nobody waits for any more runs foreign code.
            let _ = catch_unwind(AssertUnwindSafe(|| job.answer(verdict)));
        }
        carried
    }

    fn run_job(&self, group: &mut Group, mut job: Box<dyn Job>) {
        let name = job.name();
        if let Some(failure) = self.shared.failure.first() {
            group.answers.push((job, Err(failure.clone())));
            return;
        }
        let verdict = catch_unwind(AssertUnwindSafe(|| {
            let (last_sequence, last_time) = group.position(self);
            let time = (self.clock)().max(last_time);
            let Some(sequence) = last_sequence.checked_add(1) else {
                return Err(StoreError::Failed { reason: "sequence numbers are exhausted".to_owned() });
            };
            let mut tx = Tx::new(&self.committed, &group.changes, sequence, time);
            match job.run(&mut tx) {
                Intent::Abort => Ok(None),
                Intent::Commit => {
                    // It may have read what the index no longer gives, and gone by what it did not find.
                    if let Some(failure) = self.shared.failure.first() {
                        return Err(failure.clone());
                    }
                    let changes = tx.into_changes()?;
                    Ok((!changes.is_empty()).then_some((changes, sequence, time)))
                }
            }
        }));
        let verdict = match verdict {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some((changes, sequence, time)))) => {
                group.add(changes, sequence, time);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tracing::error!(transaction = name, "a transaction panicked and was discarded");
                Err(StoreError::Panicked { name })
            }
        };
        group.answers.push((job, verdict));
    }

    /// Makes a group durable, then visible.
    fn commit(
        &mut self,
        journaled: GroupWriter,
        changes: Overlay,
        sequence: u64,
        time: u64,
    ) -> Result<(), StoreError> {
        if journaled.is_empty() {
            return Ok(());
        }
        let first_sequence = self.last_sequence.saturating_add(1);
        let bytes = journaled.finish(self.journal.seed(), first_sequence);
        match self.journal.append(&bytes, first_sequence, sequence) {
            Ok(Appended::Behind) => {}
            Ok(Appended::ToNewSegment) => self.desk.look(),
            Err(error) => return Err(self.fail(StoreError::Failed { reason: error.to_string() })),
        }
        self.last_sequence = sequence;
        self.last_time = time;

        let standing = Standing { identity: self.journal.identity(), applied: sequence };
        let applied = {
            let _readers_wait = self.shared.committed.write().unwrap_or_else(PoisonError::into_inner);
            self.committed.apply(changes, standing)
        };
        applied.map_err(|error| self.fail(error))?;
        self.shared.commits.send_replace(sequence);
        Ok(())
    }

    fn seal(&mut self) -> Result<(), StoreError> {
        if let Some(failure) = self.shared.failure.first() {
            return Err(failure.clone());
        }
        let next = self.last_sequence.saturating_add(1);
        self.journal.seal(next).map_err(|error| self.fail(StoreError::Failed { reason: error.to_string() }))
    }

    /// Brings the index to the end of the journal and exchanges it for the one in use.
    fn adopt(&mut self, index: Index) -> Result<(), StoreError> {
        if let Some(failure) = self.shared.failure.first() {
            return Err(failure.clone());
        }
        let broken = |reason: String| StoreError::Index { reason };
        let identity = self.journal.identity();
        let applied = index.standing()?.map_or(0, |standing| standing.applied);
        let segments = self.journal.extent().durable().segments;
        self.place
            .catch_up(&index, identity, &segments, applied)
            .map_err(|error| broken(error.to_string()))?;
        index.flush()?;
        let committed = self.committed.over(index);
        let mut readers = self.shared.committed.write().unwrap_or_else(PoisonError::into_inner);
        *readers = Some(committed.clone());
        self.committed = committed;
        Ok(())
    }

    fn fail(&self, failure: StoreError) -> StoreError {
        self.shared.failure.note(failure).clone()
    }

    /// Takes the index from the readers, leaves it durable, and lets the directory go.
    fn finish(self) {
        let Self { committed, place, shared, lock, inbox, ended, desk, keeper, .. } = self;
        drop(inbox);
        desk.stop();
        // A panic in the keeper was reported by itself.
        let _ = keeper.join();
        let readers = shared.committed.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(readers);
        if let Err(error) = committed.index().flush() {
            shared.failure.note(error);
        }
        drop(committed);
        if shared.failure.spares_the_index()
            && let Err(error) = place.seal()
        {
            tracing::warn!(%error, "the index could not be made durable; a reboot will rebuild it");
        }
        drop(lock);
        drop(ended);
    }
}

impl Shared {
    /// Reads the committed state.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Committed) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let committed = self.committed.read().unwrap_or_else(PoisonError::into_inner);
        read(committed.as_ref().ok_or(StoreError::Closed)?)
    }
}

impl<T, E, F> Job for Task<T, E, F>
where
    T: Send,
    E: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Intent {
        let TaskState::Waiting(closure) = std::mem::replace(&mut self.state, TaskState::Running) else {
            return Intent::Abort;
        };
        let returned = closure(tx);
        let intent = if returned.is_ok() { Intent::Commit } else { Intent::Abort };
        self.state = TaskState::Ran(returned);
        intent
    }

    fn answer(self: Box<Self>, verdict: Result<(), StoreError>) {
        let answer = match (verdict, self.state) {
            (Err(error), _) => Err(TxError::Store(error)),
            (Ok(()), TaskState::Ran(returned)) => returned.map_err(TxError::Abort),
            (Ok(()), _) => Err(TxError::Store(StoreError::Panicked { name: self.name })),
        };
        // A caller that stopped waiting does not undo the transaction.
        let _ = self.reply.send(answer);
    }
}

/// Transactions that become durable together.
struct Group {
    journaled: GroupWriter,
    changes: Overlay,
    /// Of the last transaction in the group; 0 while it holds none.
    sequence: u64,
    time: u64,
    answers: Vec<(Box<dyn Job>, Result<(), StoreError>)>,
}

impl Group {
    fn new() -> Self {
        let (journaled, changes) = (GroupWriter::new(), Overlay::default());
        Self { journaled, changes, sequence: 0, time: 0, answers: Vec::new() }
    }

    fn add(&mut self, changes: Overlay, sequence: u64, time: u64) {
        self.journaled.push(time, changes.written());
        self.changes.absorb(changes);
        self.sequence = sequence;
        self.time = time;
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= GROUP_TRANSACTIONS || self.journaled.len() >= GROUP_BYTES
    }

    /// Sequence and time of the last transaction, in this group or before it.
    fn position(&self, writer: &Writer) -> (u64, u64) {
        if self.journaled.is_empty() {
            (writer.last_sequence, writer.last_time)
        } else {
            (self.sequence, self.time)
        }
    }

    fn reached(self, writer: &Writer) -> Self {
        let (sequence, time) = self.position(writer);
        Self { sequence, time, ..self }
    }
}
