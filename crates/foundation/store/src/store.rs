//! The store: opening, transactions, views.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot, watch};

use crate::index::IndexPlace;
use crate::journal::{Journal, Options};
use crate::overlay::{self, Span};
use crate::table::{Read, Row, Table};
use crate::writer::{Clock, Message, Shared, Task, TaskState, Writer};
use crate::{OpenError, StoreError, Tx, TxError, files, segment};

/// An open store. Clones share it; the directory is free again when the last clone and the last [`View`] are
/// gone, or after [`Store::close`].
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// The committed state, and nothing that is not yet durable. Each call sees one commit whole; two calls may see
/// different ones. What must not change between reading and writing belongs into one transaction.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

/// What was found and done when a store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// Transactions in the journal; also the last sequence number, which counts from 1.
    pub records: u64,
    /// Transactions applied to the index because it was behind or was rebuilt.
    pub replayed: u64,
    /// Bytes of an incomplete group cut off the journal's end. Not 0 after a crash during a write.
    pub dropped_bytes: u64,
    /// Why the index was rebuilt, if it was.
    pub rebuilt: Option<String>,
    /// Time of the last transaction in the journal, in milliseconds since 1970; 0 if there is none.
    pub last_time: u64,
}

/// Whether the store accepts transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// It does not, until it is opened again. Views still answer.
    Failed {
        /// The cause and the next step.
        reason: String,
    },
}

struct Inner {
    /// Gone only while this is being dropped.
    sender: Option<mpsc::Sender<Message>>,
    shared: Arc<Shared>,
    report: OpenReport,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Never changes; its sender is gone when the writer has ended.
    ended: watch::Receiver<()>,
}

/// Transactions that may wait for the writer; further callers wait to be let in.
const QUEUE: usize = 4096;

impl Store {
    /// Opens the store in `dir`, creating it if missing, and brings its index to the end of its journal. `clock`
    /// gives milliseconds since 1970, for the times of transactions; it runs on the writer thread.
    ///
    /// Reads the whole journal and blocks meanwhile: call it off the runtime's threads or before they matter.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if the directory is in use, [`OpenError::Damaged`] if the journal does not check,
    /// [`OpenError::Io`] and [`OpenError::Index`] if the disk does not cooperate.
    pub fn open(dir: &Path, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Result<Self, OpenError> {
        Self::open_with(dir, clock, Options::default())
    }

    pub(crate) fn open_with(dir: &Path, clock: Clock, options: Options) -> Result<Self, OpenError> {
        files::create_directory(dir)?;
        let lock = files::lock(dir)?;
        let journal_directory = dir.join("journal");
        files::create_directory(&journal_directory)?;

        let survey = segment::survey(&journal_directory)?;
        let journal = Journal::open(&journal_directory, &survey, options)?;
        let place = IndexPlace::new(dir);
        let (index, caught_up) = place.open(journal.identity(), &survey)?;

        let report = OpenReport {
            records: survey.last_sequence,
            replayed: caught_up.applied,
            dropped_bytes: survey.torn_bytes,
            rebuilt: caught_up.rebuilt,
            last_time: survey.last_time,
        };
        log_opening(dir, &report);

        let (sender, inbox) = mpsc::channel(QUEUE);
        let (ended_sender, ended) = watch::channel(());
        let shared = Arc::new(Shared {
            index: RwLock::new(Some(index.clone())),
            failure: OnceLock::new(),
            commits: watch::Sender::new(survey.last_sequence),
        });
        let writer = Writer {
            journal,
            index,
            place,
            clock,
            inbox,
            shared: shared.clone(),
            last_sequence: survey.last_sequence,
            last_time: survey.last_time,
            lock,
            ended: ended_sender,
        };
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::io("start the writer thread for", dir))?;
        let inner = Inner { sender: Some(sender), shared, report, writer: Mutex::new(Some(thread)), ended };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What was found when the store was opened.
    pub fn opening(&self) -> &OpenReport {
        &self.inner.report
    }

    /// Runs `f` on the writer thread and returns after everything it wrote, and everything it saw, is durable and
    /// visible in views. If `f` returns an error nothing it wrote is kept. A transaction that wrote nothing costs
    /// no fsync. `name` says in logs and errors which transaction it was.
    ///
    /// `f` holds up all other writers: no waiting and no long computations in it, and never a `transact` that it
    /// waits for. If the returned future is dropped, the transaction may still happen.
    ///
    /// # Errors
    /// [`TxError::Abort`] with what `f` returned, or [`TxError::Store`]. After [`StoreError::Failed`] it is not
    /// known whether the changes are there until the store was opened again.
    pub async fn transact<T, E, F>(&self, name: &'static str, f: F) -> Result<T, TxError<E>>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task = Task { name, state: TaskState::Waiting(f), reply };
        let sender = self.inner.sender.as_ref().ok_or(StoreError::Closed)?;
        if sender.send(Message::Run(Box::new(task))).await.is_err() {
            return Err(TxError::Store(self.stopped()));
        }
        answer.await.unwrap_or_else(|_| Err(TxError::Store(self.stopped())))
    }

    /// The committed state.
    pub fn view(&self) -> View {
        View { inner: self.inner.clone() }
    }

    /// Whether transactions are accepted, and if not, why.
    pub fn health(&self) -> Health {
        match self.inner.shared.failure.get() {
            None => Health::Ok,
            Some(failure) => Health::Failed { reason: failure.to_string() },
        }
    }

    /// The last durable sequence number; changes after each commit, when views show it. Workers wake on it.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.shared.commits.subscribe()
    }

    /// Finishes the group under way, makes the index durable, stops the writer and lets the directory go. Every
    /// other clone and view answers [`StoreError::Closed`] from then on, as do transactions still waiting.
    pub async fn close(self) {
        let Some(sender) = self.inner.sender.as_ref() else { return };
        // An error says that the writer is ending already.
        let _ = sender.send(Message::Close).await;
        let mut ended = self.inner.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Why the writer does not answer.
    fn stopped(&self) -> StoreError {
        self.inner.shared.failure.get().cloned().unwrap_or(StoreError::Closed)
    }
}

impl Read for View {
    fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.shared.read(|index| index.get(&table.row_key(key)))
    }

    fn scan(
        &self,
        table: &Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(span) = Span::new(table, prefix, after) else { return Ok(Vec::new()) };
        self.inner.shared.read(|index| overlay::rows(table, index.range(&span), limit))
    }

    fn last(&self, table: &Table, prefix: &[u8]) -> Result<Option<Row>, StoreError> {
        let Some(span) = Span::new(table, prefix, None) else { return Ok(None) };
        let rows = self.inner.shared.read(|index| overlay::rows(table, index.range(&span).rev(), 1))?;
        Ok(rows.into_iter().next())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without a sender the writer finishes what it has and ends.
        self.sender = None;
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // A transaction that held the last clone drops it on the writer thread, which cannot wait for itself.
        if thread.thread().id() != thread::current().id() {
            // A panic in the writer was reported as the store's failure.
            let _ = thread.join();
        }
    }
}

fn log_opening(dir: &Path, report: &OpenReport) {
    if report.dropped_bytes > 0 {
        tracing::warn!(
            dir = %dir.display(),
            bytes = report.dropped_bytes,
            "an incomplete group was cut off the journal's end"
        );
    }
    if let Some(why) = &report.rebuilt {
        tracing::warn!(dir = %dir.display(), %why, "the index was rebuilt from the journal");
    }
    tracing::info!(dir = %dir.display(), records = report.records, replayed = report.replayed, "store opened");
}
