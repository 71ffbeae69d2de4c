//! What a disk keeps when the power is cut, for tests: only what it was made to keep.
//!
//! Bytes outlast the cut once their file was synced. A sync that fails gives up what it was to write, and a later one
//! does not try it again, as the kernel does: only bytes that are written anew are. A name outlasts it once its
//! directory was synced; which of the others do is up to the disk, see [`Names`]. Files that were not made through the
//! disk, like those of the index, are not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Disk, Event};

/// Which changes of names, of those that were not made durable, outlast a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// None of them.
    Synced,
    /// Of each directory the last one alone: disks keep no order among them.
    Latest,
    /// All of them.
    All,
}

impl Disk {
    /// A disk that counts, and knows what it keeps when the power is cut.
    pub fn losing_power() -> Self {
        let faults = super::faults::Faults::with_power(Power::default());
        Self { faults: Some(std::sync::Arc::new(faults)) }
    }

    /// How many moments there were at which the power could have been cut: one after each thing that was done.
    ///
    /// # Panics
    /// On a disk that does not know.
    pub fn moments(&self) -> usize {
        self.power().lock().len().saturating_sub(1)
    }

    /// Puts what is left below `root` after a power cut at a moment into the directory `into`.
    ///
    /// # Panics
    /// On a disk that does not know, if there was no such moment, or if `into` cannot be written.
    #[expect(clippy::expect_used, reason = "only tests get here, and they should fail loudly")]
    pub fn cut_power(&self, moment: usize, names: Names, root: &Path, into: &Path) {
        let left = self.power().lock().get(moment).expect("a moment that was").left(names);
        for (path, bytes) in left {
            let Ok(below) = path.strip_prefix(root) else { continue };
            let target = into.join(below);
            fs::create_dir_all(target.parent().unwrap_or(into)).expect("a directory for what is left");
            fs::write(target, bytes).expect("room for what is left");
        }
    }

    #[expect(clippy::expect_used, reason = "only tests get here, and they should fail loudly")]
    fn power(&self) -> &Power {
        self.faults.as_ref().and_then(|faults| faults.power()).expect("a disk that loses power")
    }
}

/// Follows everything that is done: what there was at the beginning, and after each thing.
#[derive(Debug)]
pub(super) struct Power(Mutex<Vec<Record>>);

#[derive(Debug, Clone, Default)]
struct Record {
    files: Vec<Content>,
    /// Which file a name stands for.
    names: BTreeMap<PathBuf, usize>,
    /// The same after a power cut.
    kept: BTreeMap<PathBuf, usize>,
    /// Directories that have no durable name yet.
    fresh: BTreeSet<PathBuf>,
    /// What was done in a directory since its last sync.
    pending: BTreeMap<PathBuf, Vec<Naming>>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    kept: Vec<u8>,
    unsynced: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
enum Naming {
    File(PathBuf, usize),
    Renamed(PathBuf, PathBuf, usize),
    Removed(PathBuf),
    Directory(PathBuf),
}

impl Power {
    /// Says which file it was, if it is a file that is opened.
    pub(super) fn note(&self, event: Event<'_>) -> usize {
        let mut records = self.lock();
        let mut next = records.last().cloned().unwrap_or_default();
        let number = next.note(event);
        records.push(next);
        number
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Power {
    fn default() -> Self {
        Self(Mutex::new(vec![Record::default()]))
    }
}

impl Record {
    fn note(&mut self, event: Event<'_>) -> usize {
        match event {
            Event::Opened(path) => return self.open(path),
            Event::Written { number, offset, bytes } => self.content(number).write(offset, bytes),
            Event::Truncated { number, length } => {
                self.content(number).now.resize(usize::try_from(length).unwrap_or_default(), 0);
            }
            Event::Synced { number } => self.content(number).sync(),
            Event::Unsynced { number } => self.content(number).unsynced.clear(),
            Event::SyncedPath(path) => {
                if let Some(number) = self.names.get(path).copied() {
                    self.content(number).sync();
                }
            }
            Event::Renamed { from, to } => {
                if let Some(number) = self.names.remove(from) {
                    self.names.insert(to.to_owned(), number);
                    self.pend(from, Naming::Renamed(from.to_owned(), to.to_owned(), number));
                }
            }
            Event::Linked { from, to } => {
                if let Some(number) = self.names.get(from).copied() {
                    self.names.insert(to.to_owned(), number);
                    self.pend(to, Naming::File(to.to_owned(), number));
                }
            }
            Event::Removed(path) => {
                if self.names.remove(path).is_some() {
                    self.pend(path, Naming::Removed(path.to_owned()));
                }
            }
            Event::CreatedDirectory(path) => {
                self.fresh.insert(path.to_owned());
                self.pend(path, Naming::Directory(path.to_owned()));
            }
            Event::SyncedDirectory(path) => {
                for naming in self.pending.remove(path).unwrap_or_default() {
                    naming.apply(&mut self.kept, &mut self.fresh);
                }
            }
        }
        0
    }

    fn open(&mut self, path: &Path) -> usize {
        if let Some(number) = self.names.get(path) {
            return *number;
        }
        let number = self.files.len();
        self.files.push(Content::default());
        self.names.insert(path.to_owned(), number);
        self.pend(path, Naming::File(path.to_owned(), number));
        number
    }

    fn pend(&mut self, path: &Path, naming: Naming) {
        let directory = path.parent().unwrap_or(path).to_owned();
        self.pending.entry(directory).or_default().push(naming);
    }

    #[expect(clippy::expect_used, reason = "only tests get here, and they should fail loudly")]
    fn content(&mut self, number: usize) -> &mut Content {
        self.files.get_mut(number).expect("a file that was opened")
    }

    fn left(&self, names: Names) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut kept, mut fresh) = (self.kept.clone(), self.fresh.clone());
        for pending in self.pending.values() {
            let lucky = match names {
                Names::Synced => 0,
                Names::Latest => 1,
                Names::All => pending.len(),
            };
            for naming in pending.iter().skip(pending.len().saturating_sub(lucky)) {
                naming.apply(&mut kept, &mut fresh);
            }
        }
        kept.into_iter()
            .filter(|(path, _)| !path.ancestors().any(|above| fresh.contains(above)))
            .filter_map(|(path, number)| Some((path, self.files.get(number)?.kept.clone())))
            .collect()
    }
}

impl Content {
    fn write(&mut self, offset: Option<u64>, bytes: &[u8]) {
        let start = offset.map_or(self.now.len(), |offset| usize::try_from(offset).unwrap_or_default());
        let end = start.saturating_add(bytes.len());
        self.now.resize(self.now.len().max(end), 0);
        if let Some(target) = self.now.get_mut(start..end) {
            target.copy_from_slice(bytes);
        }
        self.unsynced.push(start..end);
    }

    fn sync(&mut self) {
        self.kept.resize(self.now.len(), 0);
        for range in self.unsynced.drain(..) {
            // It may have been cut off since.
            let range = range.start.min(self.now.len())..range.end.min(self.now.len());
            if let (Some(kept), Some(now)) = (self.kept.get_mut(range.clone()), self.now.get(range)) {
                kept.copy_from_slice(now);
            }
        }
    }
}

impl Naming {
    fn apply(&self, kept: &mut BTreeMap<PathBuf, usize>, fresh: &mut BTreeSet<PathBuf>) {
        match self {
            Self::File(path, number) => {
                kept.insert(path.clone(), *number);
            }
            Self::Renamed(from, to, number) => {
                kept.remove(from);
                kept.insert(to.clone(), *number);
            }
            Self::Removed(path) => {
                kept.remove(path);
            }
            Self::Directory(path) => {
                fresh.remove(path);
            }
        }
    }
}
