//! The store: opening, transactions, views.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot, watch};

use crate::backup::{self, BackupError, UnfinishedBackup};
use crate::disk::Disk;
use crate::index::Wish;
use crate::journal::Extent;
use crate::keeper::{Compaction, Desk, Keeper, Maintenance};
use crate::lock::Lock;
use crate::opening::{self, Layout, Opened};
use crate::overlay::{self, Span};
use crate::progress::Progress;
use crate::table::{Read, Row, Table};
use crate::writer::{Clock, Message, Shared, Task, TaskState, Writer};
use crate::{OpenError, Options, StoreError, Tx, TxError};

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
    /// Transactions there ever were; also the last sequence number, which counts from 1.
    pub records: u64,
    /// Transactions of the journal that were applied to the index because it was behind or was rebuilt.
    pub replayed: u64,
    /// Bytes of an incomplete group cut off the journal's end. Not 0 after a crash during a write.
    pub dropped_bytes: u64,
    /// Why the index was rebuilt, if it was.
    pub rebuilt: Option<String>,
    /// The last transaction that the index had applied, if the journal ends before it: what was acknowledged behind the
    /// journal's end is lost. The store is marked as [`crate::LOST`] and keeps the index as `index.ahead-<this>`.
    pub index_ahead: Option<u64>,
    /// Time of the last transaction in the journal, in milliseconds since 1970; 0 if there is none.
    pub last_time: u64,
    /// The sequence of the snapshot that was used, if there is one.
    pub snapshot: Option<u64>,
    /// Why newer snapshots were not used, newest first. They are kept, with names that end in `.damaged`.
    pub refused_snapshots: Vec<String>,
}

/// Whether the store accepts transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// It does not, until it is opened again. Views still answer, but for what the index no longer reads.
    Failed {
        /// The cause and the next step.
        reason: String,
    },
}

struct Inner {
    /// Gone only while this is being dropped.
    sender: Option<mpsc::Sender<Message>>,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    extent: Arc<Extent>,
    clock: Clock,
    report: OpenReport,
    disk: Disk,
    directory: PathBuf,
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
        Self::open_on(dir, clock, Disk::real())
    }

    /// Like [`Store::open`], on the disk given. Reading needs no disk, and the index, which can be rebuilt, is not
    /// written through it.
    ///
    /// # Errors
    /// As of [`Store::open`].
    pub fn open_on(
        dir: &Path,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
        disk: Disk,
    ) -> Result<Self, OpenError> {
        Self::open_with_options(dir, clock, disk, Options::default())
    }

    /// Like [`Store::open_on`], with other limits.
    ///
    /// # Errors
    /// As of [`Store::open`].
    pub fn open_with_options(
        dir: &Path,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
        disk: Disk,
        options: Options,
    ) -> Result<Self, OpenError> {
        disk.create_directory(dir).map_err(OpenError::io("create directory", dir))?;
        let lock = Lock::take(dir, &disk)?;
        let Opened { journal, committed, place, snapshots, report } =
            opening::open(dir, &disk, &options, Wish::Keep)?;
        log_opening(dir, &report);

        let (sender, inbox) = mpsc::channel(QUEUE);
        let (ended_sender, ended) = watch::channel(());
        let shared = Arc::new(Shared {
            committed: RwLock::new(Some(committed.clone())),
            failure: committed.failure().clone(),
            commits: watch::Sender::new(report.records),
        });
        let layout = Layout::of(dir);
        let hold = |path: &Path| disk.directory(path).map_err(OpenError::io("open", path));
        let desk = Arc::new(Desk::default());
        let extent = journal.extent();
        let keeper = Keeper {
            desk: desk.clone(),
            shared: shared.clone(),
            extent: extent.clone(),
            place: place.clone(),
            disk: disk.clone(),
            options,
            snapshots_directory: hold(&layout.snapshots)?,
            journal_directory: hold(&layout.journal)?,
            layout,
            snapshots,
        };
        keeper.report(None);
        // There may be enough in the journal for a snapshot, or a snapshot that replaces some of it.
        desk.look();
        let keeper = thread::Builder::new()
            .name("store-keeper".to_owned())
            .spawn(move || keeper.run())
            .map_err(OpenError::io("start the keeper thread for", dir))?;
        let writer = Writer {
            journal,
            committed,
            place,
            clock: clock.clone(),
            inbox,
            shared: shared.clone(),
            last_sequence: report.records,
            last_time: report.last_time,
            desk: desk.clone(),
            keeper,
            lock,
            ended: ended_sender,
        };
        let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(|error| {
            desk.stop();
            OpenError::io("start the writer thread for", dir)(error)
        })?;
        let inner = Inner {
            sender: Some(sender),
            shared,
            desk,
            extent,
            clock,
            report,
            disk,
            directory: dir.to_owned(),
            writer: Mutex::new(Some(thread)),
            ended,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What was found when the store was opened.
    pub fn opening(&self) -> &OpenReport {
        &self.inner.report
    }

    /// What the store writes its files through. Those who keep files beside it write them through the same.
    pub fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// Where the store lies. The names `lock`, `lost`, `restored`, `journal`, `snapshots`, and those that begin with `index`, are
    /// its own.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
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
        match self.inner.shared.failure.first() {
            None => Health::Ok,
            Some(failure) => Health::Failed { reason: failure.to_string() },
        }
    }

    /// The last durable sequence number; changes after each commit, when views show it. Workers wake on it.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.shared.commits.subscribe()
    }

    /// What is done behind the store's back, and whether it goes well. If it does not, nothing is lost, but the
    /// journal grows.
    pub fn maintenance(&self) -> Maintenance {
        let durable = self.inner.extent.durable();
        Maintenance {
            segments: durable.segments.len() as u64,
            journal_bytes: durable.bytes(),
            ..self.inner.desk.maintenance()
        }
    }

    /// Removes the bytes of everything that was overwritten or deleted before this call from journal, snapshots and
    /// index, and returns when they are gone from all files. What a table with history has kept is not removed;
    /// snapshots that were set aside because they did not check are. Rows can be read and written meanwhile. Takes about as long as writing all rows three times, and waits for backups
    /// that are being made.
    ///
    /// # Errors
    /// [`StoreError::Compaction`] with the cause; some of what was to be removed may then still be there. What
    /// [`Store::transact`] answers if the store no longer works.
    pub async fn compact(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let writer = self.inner.sender.clone().ok_or(StoreError::Closed)?;
        self.inner.desk.compact(Compaction { writer, reply });
        answer.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Makes the writer thread panic.
    #[cfg(test)]
    pub(crate) async fn panic(&self) {
        if let Some(sender) = &self.inner.sender {
            let _ = sender.send(Message::Panic).await;
        }
    }

    /// Returns when every snapshot that is due was made, or failed.
    #[cfg(any(test, feature = "testing"))]
    pub async fn rest(&self) {
        let (reply, answer) = oneshot::channel();
        self.inner.desk.rest(reply);
        // An error says that the store was closed.
        let _ = answer.await;
    }

    /// Copies what is durable at this moment into the directory `to`, which must be empty or not exist: the newest
    /// snapshot and the journal behind it; [`UnfinishedBackup::finish`] adds a manifest `backup.json` with lengths and
    /// SHA-256 digests. Files that no longer change become hard links where the file system allows it. What was copied
    /// is read back and checked. The store goes on meanwhile, but deletes nothing.
    ///
    /// Blocks: call it off the runtime's threads.
    ///
    /// # Errors
    /// [`BackupError`]; `to` then holds no manifest, and can be deleted.
    pub fn backup(
        &self,
        to: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<UnfinishedBackup, BackupError> {
        let inner = &self.inner;
        let _pin = inner.desk.pin();
        let durable = || inner.extent.durable();
        backup::make(&inner.directory, durable, to, (inner.clock)(), &inner.disk, progress)
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
        self.inner.shared.failure.first().cloned().unwrap_or(StoreError::Closed)
    }
}

impl Read for View {
    fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.shared.read(|committed| committed.get(table, &table.row_key(key)))
    }

    fn scan(
        &self,
        table: &Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(span) = Span::new(table, prefix, after) else { return Ok(Vec::new()) };
        self.inner.shared.read(|committed| {
            let memory = committed.memory(table);
            overlay::rows(table, committed.range(&memory, &span), limit)
        })
    }

    fn last(&self, table: &Table, prefix: &[u8]) -> Result<Option<Row>, StoreError> {
        let Some(span) = Span::new(table, prefix, None) else { return Ok(None) };
        let rows = self.inner.shared.read(|committed| {
            let memory = committed.memory(table);
            overlay::rows(table, committed.range(&memory, &span).rev(), 1)
        })?;
        Ok(rows.into_iter().next())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without a sender the writer finishes what it has and ends. A compaction under way has one too.
        self.desk.stop();
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
    if let Some(applied) = report.index_ahead {
        tracing::error!(
            dir = %dir.display(),
            applied,
            records = report.records,
            "acknowledged changes are missing from the journal; the index that had them was set aside"
        );
    }
    if let Some(why) = &report.rebuilt {
        tracing::warn!(dir = %dir.display(), %why, "the index was rebuilt from the journal");
    }
    tracing::info!(dir = %dir.display(), records = report.records, replayed = report.replayed, "store opened");
}
