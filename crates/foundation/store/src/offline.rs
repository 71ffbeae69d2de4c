//! What is done to a store that is not running: checking, rebuilding the index, counting, backing up, restoring.
//!
//! Each of these holds the directory's lock while it works, so that no node starts in between.

mod check;
mod restore;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::backup::{self, BackupError, UnfinishedBackup};
use crate::disk::Disk;
use crate::history::split_row_key;
use crate::index::Wish;
use crate::journal::Durable;
use crate::lock::Lock;
use crate::merge::{Interrupted, Merge, Merged};
use crate::opening::{self, Layout};
use crate::options::Options;
use crate::progress::{Progress, Unit};
use crate::segment::{self, Survey};
use crate::snapshot::{self, Snapshot};

pub use check::fsck;
pub use restore::{RESTORED, restore};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// As it may be.
    Note,
    /// Nothing acknowledged is lost; the next start, or `rebuild`, mends it.
    Recoverable,
    /// Something is lost or altered, and only a backup brings it back.
    Damage,
}

impl Severity {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Recoverable => "recoverable",
            Self::Damage => "damage",
        }
    }
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or row.
    pub place: String,
    /// What is the matter.
    pub what: String,
    /// What to do.
    pub next_step: String,
}

/// The outcome of [`fsck`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// In the order they were found.
    pub findings: Vec<Finding>,
    /// Journal segments read.
    pub segments: u64,
    /// Of these segments.
    pub journal_bytes: u64,
    /// The last transaction.
    pub last_sequence: u64,
    /// Snapshots read.
    pub snapshots: u64,
    /// Rows after the last transaction.
    pub rows: u64,
    /// Rows of the index that were compared.
    pub index_rows: u64,
}

impl FsckReport {
    /// Whether nothing was found but notes.
    pub fn is_clean(&self) -> bool {
        self.worst() == Severity::Note
    }

    /// How bad the worst finding is.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Note)
    }
}

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By table name.
    pub tables: BTreeMap<String, TableStats>,
    /// The last transaction.
    pub last_sequence: u64,
    /// Of the last transaction, in milliseconds since 1970.
    pub last_time: u64,
    /// Journal segments.
    pub segments: u64,
    /// Of all segments.
    pub journal_bytes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Of all snapshots.
    pub snapshot_bytes: u64,
    /// Of the index's files.
    pub index_bytes: u64,
}

/// What a table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Rows.
    pub rows: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// Builds the index anew from the newest snapshot and the journal behind it. Says which transaction it now
/// holds last. As at a start, an incomplete group at the journal's end is cut off, and a snapshot that does not check
/// is set aside.
///
/// # Errors
/// [`OpenError`]. If snapshot and journal do not check, the index is as it was; if it cannot be written, the next start
/// builds it anew.
pub fn rebuild(dir: &Path, disk: &Disk, progress: &mut dyn FnMut(Progress)) -> Result<u64, OpenError> {
    let _lock = lock(dir, disk)?;
    let progress = RefCell::new(progress);
    let tell = |done: Progress| (progress.borrow_mut())(done);
    tell(Progress { step: "rebuild the index", done: 0, total: 0, unit: Unit::Rows });
    let opened = opening::open(dir, disk, &Options::default(), Wish::Rebuild(&tell))?;
    let sequence = opened.report.records;
    let place = opened.place.clone();
    let flushed = opened.committed.index().flush();
    drop(opened);
    flushed.map_err(|error| OpenError::Index { directory: dir.join("index"), why: error.to_string() })?;
    place.seal().map_err(OpenError::io("sync", &dir.join("index")))?;
    Ok(sequence)
}

/// Counts rows and bytes of every table, from snapshot and journal.
///
/// # Errors
/// [`OpenError`] if they do not check.
pub fn stats(dir: &Path, disk: &Disk, progress: &mut dyn FnMut(Progress)) -> Result<Stats, OpenError> {
    let _lock = lock(dir, disk)?;
    let journal = Journal::read(dir)?;
    let mut stats = Stats {
        last_sequence: journal.survey.last_sequence,
        last_time: journal.survey.last_time,
        segments: journal.survey.segments.len() as u64,
        journal_bytes: journal.survey.segments.iter().map(|segment| segment.length).sum(),
        snapshots: journal.snapshots.len() as u64,
        snapshot_bytes: journal.snapshots.iter().map(|snapshot| snapshot.length).sum(),
        index_bytes: bytes_below(&dir.join("index")),
        ..Stats::default()
    };
    let scratch = scratch(dir, disk)?;
    let mut rows =
        journal.rows(journal.snapshots.last(), &scratch, disk).map_err(|error| failed(dir, error))?;
    let mut read = 0_u64;
    while let Some(row) = rows.next().map_err(|error| failed(dir, error))? {
        let (table, key) = split_row_key(&row.row_key);
        let table = stats.tables.entry(String::from_utf8_lossy(table).into_owned()).or_default();
        let bytes = key.len().saturating_add(row.value.as_ref().map_or(0, Vec::len)) as u64;
        table.rows = table.rows.saturating_add(1);
        table.bytes = table.bytes.saturating_add(bytes);
        read = read.saturating_add(1);
        if read.is_multiple_of(ROWS_PER_REPORT) {
            progress(Progress { step: "count rows", done: read, total: 0, unit: Unit::Rows });
        }
    }
    Ok(stats)
}

/// Like [`crate::Store::backup`], for a store that is stopped; nobody can start it before the backup is finished.
///
/// # Errors
/// [`BackupError`]; `to` then holds no manifest, and can be deleted.
pub fn backup(
    dir: &Path,
    to: &Path,
    made: u64,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<UnfinishedBackup, BackupError> {
    let lock = lock(dir, disk)?;
    let Survey { segments, last_sequence, .. } = Journal::read(dir)?.survey;
    let made = backup::make(dir, || Durable { segments, last_sequence }, to, made, disk, progress)?;
    Ok(made.holding(lock))
}

const ROWS_PER_REPORT: u64 = 100_000;
/// How much of the journal is sorted in memory at once.
const CHUNK_BYTES: usize = 32 * 1024 * 1024;

/// Takes a store that is there.
fn lock(dir: &Path, disk: &Disk) -> Result<Lock, OpenError> {
    let layout = Layout::of(dir);
    // Otherwise a mistyped path would become a directory with a lock in it.
    if !layout.snapshots.is_dir() {
        fs::metadata(&layout.journal).map_err(OpenError::io("open", &layout.journal))?;
    }
    Lock::take(dir, disk)
}

/// What a start reads of the journal, and the snapshots that lie in it.
struct Journal {
    survey: Survey,
    /// Those that say what they should, oldest first; their rows were not read.
    snapshots: Vec<Snapshot>,
}

impl Journal {
    /// From the newest snapshot on, passing over those that a start passes over.
    fn read(dir: &Path) -> Result<Self, OpenError> {
        let layout = Layout::of(dir);
        let mut snapshots = Vec::new();
        for listed in snapshot::list(&layout.snapshots)? {
            match Snapshot::open(&listed) {
                Err(OpenError::Snapshot { .. }) => {}
                opened => snapshots.push(opened?),
            }
        }
        loop {
            let after = snapshots.last().map_or(0, |newest| newest.header.sequence);
            let survey = segment::survey(&layout.journal, after, |_| ())?;
            if snapshots.pop_if(|newest| is_foreign(newest, &survey)).is_none() {
                snapshots.retain(|older| !is_foreign(older, &survey));
                return Ok(Self { survey, snapshots });
            }
        }
    }

    /// All rows after the last transaction.
    fn rows<'a>(
        &'a self,
        base: Option<&'a Snapshot>,
        scratch: &'a Path,
        disk: &'a Disk,
    ) -> Result<Merged<'a>, Interrupted> {
        let after = base.map_or(0, |base| base.header.sequence);
        let segments = segment::from(&self.survey.segments, after);
        Merge { base, segments, scratch, disk, chunk_bytes: CHUNK_BYTES, go_on: &|| true }.run()
    }
}

/// Whether a snapshot is of another journal.
fn is_foreign(snapshot: &Snapshot, survey: &Survey) -> bool {
    survey.segments.first().is_none_or(|first| first.header.identity != snapshot.header.identity)
}

/// Where the journal is sorted if it is long. What a kill leaves there, the next start removes.
fn scratch(dir: &Path, disk: &Disk) -> Result<PathBuf, OpenError> {
    let path = Layout::of(dir).snapshots;
    if !path.is_dir() {
        disk.create_directory(&path).map_err(OpenError::io("create directory", &path))?;
    }
    Ok(path)
}

fn failed(dir: &Path, error: Interrupted) -> OpenError {
    match error {
        Interrupted::Failed(error) => error,
        other => OpenError::Index { directory: dir.join("index"), why: other.to_string() },
    }
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
