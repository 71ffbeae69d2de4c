//! What is done to a ledger whose node is not running: checking, rebuilding, counting, exporting, backing up.
//!
//! All of these take the store's directory and hold its lock while they work.

mod check;
mod export;
mod rebuild;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use huitong_store::backup::{Addition, Change, UnfinishedBackup};
use huitong_store::disk::Disk;
use huitong_store::{Progress, Read};

use crate::about::About;
use crate::checkpoint::SignedCheckpoint;
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::place::{ABOUT, DRAFT, LOOKUP, Place};
use crate::tables::{self, ERASE, Extent, GAP, HEAD};

pub use check::{FsckReport, fsck};
pub use export::export;
pub use rebuild::rebuild;
use rows::Rows;

/// What a ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Name of the log.
    pub origin: String,
    /// Entries in the log.
    pub size: u64,
    /// Entries that are in settled files.
    pub settled: u64,
    /// Size of the newest signed checkpoint.
    pub signed: Option<u64>,
    /// Entries whose bytes were removed or lost.
    pub gaps: u64,
    /// Channels, from one issuer to one audience each.
    pub channels: u64,
    /// Bundles of entries, and their bytes.
    pub bundles: FileStats,
    /// Tiles, and their bytes.
    pub tiles: FileStats,
    /// Lookup runs, and their bytes.
    pub runs: FileStats,
}

/// Files of one sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStats {
    /// How many.
    pub files: u64,
    /// Of all of them.
    pub bytes: u64,
}

/// Counts what a ledger holds, from rows and names of files.
///
/// # Errors
/// Storage errors.
pub fn stats(store: &Path, disk: &Disk) -> Result<Stats, LedgerError> {
    let stopped = Stopped::open(store, disk)?;
    let facts = stopped.facts()?;
    let mut stats = Stats {
        origin: stopped.about()?.origin,
        size: facts.extent.size,
        settled: facts.settled,
        signed: facts.latest.as_ref().map(|latest| latest.checkpoint().size),
        gaps: facts.gaps.len() as u64,
        channels: facts.heads.len() as u64,
        ..Stats::default()
    };
    for file in files_below(&stopped.root, &stopped.root)? {
        let text = file.to_string_lossy();
        let kind = if text.starts_with("tile/entries/") || text.starts_with("redacted/") {
            &mut stats.bundles
        } else if text.starts_with("tile/") {
            &mut stats.tiles
        } else if text.starts_with(LOOKUP) {
            &mut stats.runs
        } else {
            continue;
        };
        kind.files = kind.files.saturating_add(1);
        let length = fs::metadata(stopped.root.join(&file)).map_or(0, |metadata| metadata.len());
        kind.bytes = kind.bytes.saturating_add(length);
    }
    Ok(stats)
}

/// Adds the ledger's files to a backup of its store, which is stopped (`huitong_store::offline::backup`).
///
/// # Errors
/// [`LedgerError::Backup`]; the backup then lacks the ledger, and must not be finished.
pub fn backup(
    store: &Path,
    backup: &mut UnfinishedBackup,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), LedgerError> {
    let root = store.join("ledger");
    let _held = Place::open(&root, disk)?;
    Ok(backup.add(&additions(store, &root)?, progress)?)
}

/// The files of a ledger that a backup holds.
pub(crate) fn additions(store: &Path, root: &Path) -> Result<Vec<Addition>, LedgerError> {
    let files = files_below(root, store)?;
    Ok(files
        .into_iter()
        .map(|path| {
            // Files below these are replaced under their names, never changed.
            let settled = path.components().count() > 2;
            let change = if settled { Change::Never } else { Change::Possible };
            Addition { path, change }
        })
        .collect())
}

/// All files below a directory but drafts and partial tiles, relative to `base`, in order.
fn files_below(directory: &Path, base: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).map_err(LedgerError::file("read directory", &directory))?;
        for entry in entries {
            let path = entry.map_err(LedgerError::file("read directory", &directory))?.path();
            let name = path.to_string_lossy();
            if name.ends_with(DRAFT) || name.ends_with(".p") {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path.strip_prefix(base).unwrap_or(&path).to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A stopped node's ledger: its rows in memory, its files locked.
struct Stopped {
    place: Place,
    root: PathBuf,
    view: Rows,
}

/// What the rows of a ledger say. Few: what is settled is in files.
struct Facts {
    extent: Extent,
    settled: u64,
    latest: Option<SignedCheckpoint>,
    gaps: BTreeMap<u64, Gap>,
    /// Issuer and audience -> highest number.
    heads: BTreeMap<(String, String), u64>,
    /// Removed entries whose bytes may still be in files.
    erase: BTreeSet<u64>,
}

impl Stopped {
    fn open(store: &Path, disk: &Disk) -> Result<Self, LedgerError> {
        let root = store.join("ledger");
        // Otherwise a mistyped path would become a store.
        fs::metadata(&root).map_err(LedgerError::file("open", &root))?;
        let view = Rows::read(store, disk)?;
        let place = Place::open(&root, disk)?;
        Ok(Self { place, root, view })
    }

    /// Whose log it is.
    fn about(&self) -> Result<About, LedgerError> {
        About::read(&self.root)?.ok_or_else(|| {
            LedgerError::damaged_file(
                &self.root.join(ABOUT),
                "is missing; start the node once, which writes it",
            )
        })
    }

    fn facts(&self) -> Result<Facts, LedgerError> {
        let view = &self.view;
        let mut gaps = BTreeMap::new();
        for row in view.scan(&GAP, &[], None, usize::MAX)? {
            let index = tables::number(&row.key)?;
            gaps.insert(index, Gap::decode(index, &row.value)?);
        }
        let mut heads = BTreeMap::new();
        for row in view.scan(&HEAD, &[], None, usize::MAX)? {
            let (issuer, audience, seq, _) = tables::read_channel(&row)?;
            heads.insert((issuer, audience), seq);
        }
        let erase = view.scan(&ERASE, &[], None, usize::MAX)?;
        Ok(Facts {
            extent: tables::extent(view)?,
            settled: tables::settled(view)?,
            latest: tables::latest_checkpoint(view)?,
            gaps,
            heads,
            erase: erase.iter().map(|row| tables::number(&row.key)).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
