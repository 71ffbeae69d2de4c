//! Verifies and writes groups at the consumer: one thread hashes and writes, another makes durable, so that neither
//! the network nor the hash waits for the disk's cache.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as sync_mpsc};

use huitong_proof::Content;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::destination::file_path;
use crate::pieces::Pieces;
use crate::ranges::Ranges;
use crate::share::Slot;

/// Runs of groups that wait to be verified and written.
const QUEUE: usize = 8;

/// What the sink is given.
pub(super) enum Work {
    /// Missing groups, one behind the other, from this one on.
    Groups(Run),
    /// Make durable what is written so far.
    Sync,
}

/// Groups that have come.
pub(super) struct Run {
    /// Index of the first one.
    pub(super) first: u64,
    /// The bytes of all of them.
    pub(super) data: Pieces,
    /// What they occupy until they are written.
    pub(super) _slot: Slot,
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
    /// What was written since the last success was not made durable, and never will be.
    Unsynced(io::Error),
}

pub(super) struct Sink {
    pub(super) work: mpsc::Sender<Work>,
    pub(super) events: mpsc::Receiver<Event>,
    /// The event that says so was taken.
    pub(super) unsynced: Option<io::Error>,
}

impl Sink {
    /// Writes the missing groups of the content into the file or directory `part`; syncs by itself every `sync_bytes`.
    pub(super) fn open(
        part: PathBuf,
        content: Arc<Content>,
        missing: Ranges,
        sync_bytes: u64,
    ) -> io::Result<Self> {
        let root = prepare(&part, &content)?;
        // What is acknowledged must be found again after a power failure, and so must its name.
        File::open(part.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
        let (work, queue) = mpsc::channel(QUEUE);
        let (report, events) = mpsc::channel(QUEUE);
        let (to_sync, sync_queue) = sync_mpsc::sync_channel(1);
        let (sync_report, is_dataset) = (report.clone(), content.manifest().is_some());
        tokio::task::spawn_blocking(move || sync(&root, is_dataset, &sync_queue, &sync_report));
        let writer = Writer { part, content, missing, open: None };
        tokio::task::spawn_blocking(move || write(writer, sync_bytes, queue, &to_sync, &report));
        Ok(Self { work, events, unsynced: None })
    }

    /// Ends it: nothing is written any more when this returns. Gives the error by which something was not made durable, whoever
    /// has heard of it.
    pub(super) async fn close(self) -> Option<io::Error> {
        let Self { work, mut events, mut unsynced } = self;
        drop(work);
        while let Some(event) = events.recv().await {
            if let Event::Unsynced(error) = event {
                unsynced = Some(error);
            }
        }
        unsynced
    }
}

/// Makes the file, or the directory with those files that have nothing in them; gives it opened.
fn prepare(part: &Path, content: &Content) -> io::Result<File> {
    let Some(manifest) = content.manifest() else { return open(part) };
    DirBuilder::new().recursive(true).mode(0o700).create(part)?;
    for (file, entry) in manifest.entries().iter().enumerate() {
        if entry.size == 0 {
            make(&file_path(part, content, file))?;
        }
    }
    File::open(part)
}

/// Opens a file for writing, in a directory that may not be there yet.
pub(super) fn make(path: &Path) -> io::Result<File> {
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or_else(|| Path::new("/"));
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            open(path)
        }
        opened => opened,
    }
}

fn open(path: &Path) -> io::Result<File> {
    let no_links = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).custom_flags(no_links).open(path)
}

struct Writer {
    part: PathBuf,
    content: Arc<Content>,
    missing: Ranges,
    /// The file that was written last.
    open: Option<(usize, File)>,
}

impl Writer {
    /// Verifies and writes groups that follow each other.
    fn write(&mut self, first: u64, mut bytes: Pieces) -> Result<(), Event> {
        let mut group = first;
        while !bytes.is_empty() {
            let place = self.content.place(group);
            let wrong = |reason: String| Event::Wrong { group, reason };
            let place = place.ok_or_else(|| wrong("the content has no such group".to_owned()))?;
            let pieces = bytes.split_to(usize::try_from(place.length).unwrap_or(usize::MAX));
            let verified = self.content.verify_group(group, pieces.as_slice());
            verified.map_err(|error| wrong(error.to_string()))?;
            self.write_at(place.file, place.offset, &pieces).map_err(Event::Failed)?;
            group = group.saturating_add(1);
        }
        self.missing.remove(&(first..group));
        Ok(())
    }

    fn write_at(&mut self, file: usize, offset: u64, pieces: &Pieces) -> io::Result<()> {
        let open = match self.open.take() {
            Some((at, open)) if at == file => open,
            _ => make(&file_path(&self.part, &self.content, file))?,
        };
        let mut at = offset;
        for piece in pieces.as_slice() {
            open.write_all_at(piece, at)?;
            at = at.saturating_add(piece.len() as u64);
        }
        self.open = Some((file, open));
        Ok(())
    }

    /// How many groups from the first one are there.
    fn written(&self) -> u64 {
        self.missing.first().unwrap_or_else(|| self.content.groups())
    }
}

fn write(
    mut writer: Writer,
    sync_bytes: u64,
    mut queue: mpsc::Receiver<Work>,
    to_sync: &sync_mpsc::SyncSender<u64>,
    report: &mpsc::Sender<Event>,
) {
    let mut unsynced = 0u64;
    while let Some(work) = queue.blocking_recv() {
        if let Work::Groups(Run { first, data, _slot }) = work {
            let length = data.len() as u64;
            if let Err(event) = writer.write(first, data) {
                let _ = report.blocking_send(event);
                return;
            }
            unsynced = unsynced.saturating_add(length);
            if unsynced < sync_bytes && !writer.missing.is_empty() {
                continue;
            }
        }
        unsynced = 0;
        if to_sync.send(writer.written()).is_err() {
            return;
        }
    }
}

/// A file is synced by itself, a dataset with the whole file system that it is on: that costs once what single files cost
/// each, and takes in the names of all of them.
fn sync(root: &File, is_dataset: bool, queue: &sync_mpsc::Receiver<u64>, report: &mpsc::Sender<Event>) {
    let mut durable = None;
    while let Ok(groups) = queue.recv() {
        if durable == Some(groups) {
            continue;
        }
        let synced =
            if is_dataset { rustix::fs::syncfs(root).map_err(io::Error::from) } else { root.sync_data() };
        let event = synced.map_or_else(Event::Unsynced, |()| Event::Durable(groups));
        let failed = matches!(event, Event::Unsynced(_));
        durable = Some(groups);
        if report.blocking_send(event).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sink_ends_after_its_threads_and_loses_no_failure() {
        let ((work, _queue), (report, events)) = (mpsc::channel(1), mpsc::channel(QUEUE));
        report.send(Event::Unsynced(io::Error::other("the disk is gone"))).await.unwrap();
        report.send(Event::Durable(3)).await.unwrap();
        let closing = tokio::spawn(Sink { work, events, unsynced: None }.close());
        tokio::task::yield_now().await;
        assert!(!closing.is_finished(), "a thread may still write");
        drop(report);
        assert_eq!(closing.await.unwrap().unwrap().to_string(), "the disk is gone");
    }

    #[test]
    fn what_the_system_cannot_make_durable_is_told_apart() {
        // Nothing can be synced through a pipe.
        let (reader, _writer) = std::io::pipe().unwrap();
        let root = File::from(std::os::fd::OwnedFd::from(reader));
        let (queue, work) = sync_mpsc::sync_channel(2);
        let (report, mut events) = mpsc::channel(2);
        queue.send(3).unwrap();
        queue.send(4).unwrap();
        sync(&root, false, &work, &report);
        assert!(matches!(events.try_recv(), Ok(Event::Unsynced(_))));
        // A sync that failed is never tried again: the next one would say that all is well.
        assert!(events.try_recv().is_err());
    }
}
