//! Verifies and writes groups at the consumer: one thread hashes and writes, another makes durable, so that neither
//! the network nor the hash waits for the disk's cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc as sync_mpsc;

use bytes::Bytes;
use huitong_proof::{ContentTree, GROUP_BYTES};
use tokio::sync::mpsc;

/// Groups that wait to be verified and written.
const QUEUE: usize = 8;

/// What the sink is given.
pub(super) enum Work {
    /// The next group, in order.
    Group(Bytes),
    /// Make durable what is written so far.
    Sync,
}

/// What the sink reports.
#[derive(Debug)]
pub(super) enum Event {
    /// Verified and durable up to this number of groups.
    Durable(u64),
    /// A group does not belong to the agreed content.
    Wrong { group: u64, reason: String },
    /// The disk failed or is full.
    Failed(io::Error),
}

pub(super) struct Sink {
    pub(super) work: mpsc::Sender<Work>,
    pub(super) events: mpsc::Receiver<Event>,
}

impl Sink {
    /// Writes into `path` from group `first` on; syncs by itself every `sync_bytes`.
    pub(super) fn open(path: &Path, tree: ContentTree, first: u64, sync_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        // Whatever lies beyond the acknowledged prefix came from a run that was cut off.
        file.set_len(first.saturating_mul(GROUP_BYTES).min(tree.size()))?;
        // What is acknowledged must be found again after a power failure, and so must the file's name.
        File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
        let syncing = file.try_clone()?;
        let (work, queue) = mpsc::channel(QUEUE);
        let (report, events) = mpsc::channel(QUEUE);
        let (to_sync, sync_queue) = sync_mpsc::sync_channel(1);
        let sync_report = report.clone();
        tokio::task::spawn_blocking(move || sync(&syncing, &sync_queue, &sync_report));
        tokio::task::spawn_blocking(move || write(&file, &tree, first, sync_bytes, queue, &to_sync, &report));
        Ok(Self { work, events })
    }
}

fn write(
    file: &File,
    tree: &ContentTree,
    first: u64,
    sync_bytes: u64,
    mut queue: mpsc::Receiver<Work>,
    to_sync: &sync_mpsc::SyncSender<u64>,
    report: &mpsc::Sender<Event>,
) {
    let mut next = first;
    let mut unsynced = 0u64;
    while let Some(work) = queue.blocking_recv() {
        if let Work::Group(bytes) = work {
            if let Err(error) = tree.verify_group(next, &bytes) {
                let _ = report.blocking_send(Event::Wrong { group: next, reason: error.to_string() });
                return;
            }
            if let Err(error) = file.write_all_at(&bytes, next.saturating_mul(GROUP_BYTES)) {
                let _ = report.blocking_send(Event::Failed(error));
                return;
            }
            next = next.saturating_add(1);
            unsynced = unsynced.saturating_add(bytes.len() as u64);
            if unsynced < sync_bytes && next < tree.groups() {
                continue;
            }
        }
        unsynced = 0;
        if to_sync.send(next).is_err() {
            return;
        }
    }
}

fn sync(file: &File, queue: &sync_mpsc::Receiver<u64>, report: &mpsc::Sender<Event>) {
    let mut durable = None;
    while let Ok(groups) = queue.recv() {
        if durable == Some(groups) {
            continue;
        }
        let event = match file.sync_data() {
            Ok(()) => Event::Durable(groups),
            Err(error) => Event::Failed(error),
        };
        let failed = matches!(event, Event::Failed(_));
        durable = Some(groups);
        if report.blocking_send(event).is_err() || failed {
            return;
        }
    }
}
