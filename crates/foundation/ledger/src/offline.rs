//! What is done to a ledger whose node is not running: checking, rebuilding, counting, exporting, backing up.
//!
//! All of these take the store's directory and hold its lock while they work.

mod check;
mod export;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use huitong_store::backup::{self, Addition, BackupReport, Change};
use huitong_store::disk::Disk;
use huitong_store::{Progress, Read, Row, Store, Table, View};

use crate::about::About;
use crate::checkpoint::SignedCheckpoint;
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::place::{ABOUT, DRAFT, LOOKUP, Place};
use crate::tables::{self, ERASE, Extent, GAP, HEAD};

pub use check::{FsckReport, fsck};
pub use export::export;
pub use rebuild::rebuild;

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
    let rows = stopped.rows()?;
    let mut stats = Stats {
        origin: stopped.about()?.origin,
        size: rows.extent.size,
        settled: rows.settled,
        signed: rows.latest.as_ref().map(|latest| latest.checkpoint().size),
        gaps: rows.gaps.len() as u64,
        channels: rows.heads.len() as u64,
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

/// Adds the ledger's files to a finished backup of a stopped store (`huitong_store::offline::backup`).
///
/// # Errors
/// [`LedgerError::Backup`]; the backup then lacks the ledger, and can be deleted.
pub fn backup(
    store: &Path,
    to: &Path,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, LedgerError> {
    let root = store.join("ledger");
    let _held = Place::open(&root, disk)?;
    let files = additions(store, &root)?;
    Ok(backup::add_from(store, to, &files, disk, progress)?)
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

/// A stopped node's store and the ledger's files beside it, both locked.
struct Stopped {
    store: Store,
    place: Place,
    root: PathBuf,
}

/// The rows of a ledger. Few: what is settled is in files.
struct Rows {
    extent: Extent,
    settled: u64,
    latest: Option<SignedCheckpoint>,
    gaps: BTreeMap<u64, Gap>,
    /// Issuer and audience -> highest number.
    heads: BTreeMap<(String, String), u64>,
    /// Removed entries whose bytes may still be in files.
    erase: BTreeSet<u64>,
}

const PAGE: usize = 4_096;

impl Stopped {
    fn open(store: &Path, disk: &Disk) -> Result<Self, LedgerError> {
        let root = store.join("ledger");
        // Otherwise a mistyped path would become a store.
        fs::metadata(&root).map_err(LedgerError::file("open", &root))?;
        let opened = Store::open_on(store, Arc::new(|| 0), disk.clone())?;
        let place = Place::open(&root, disk)?;
        Ok(Self { store: opened, place, root })
    }

    fn view(&self) -> View {
        self.store.view()
    }

    /// Whose log it is.
    fn about(&self) -> Result<About, LedgerError> {
        About::read(&self.root)?.ok_or_else(|| {
            LedgerError::damaged_file(&self.root.join(ABOUT), "is missing; start the node once, which writes it")
        })
    }

    fn rows(&self) -> Result<Rows, LedgerError> {
        let view = self.view();
        let mut rows = Rows {
            extent: tables::extent(&view)?,
            settled: tables::settled(&view)?,
            latest: tables::latest_checkpoint(&view)?,
            gaps: BTreeMap::new(),
            heads: BTreeMap::new(),
            erase: BTreeSet::new(),
        };
        for_each(&view, &GAP, &mut |row| {
            let index = tables::number(&row.key)?;
            rows.gaps.insert(index, Gap::decode(index, &row.value)?);
            Ok(())
        })?;
        for_each(&view, &HEAD, &mut |row| {
            let (issuer, audience, seq, _) = tables::read_channel(row)?;
            rows.heads.insert((issuer, audience), seq);
            Ok(())
        })?;
        for_each(&view, &ERASE, &mut |row| {
            rows.erase.insert(tables::number(&row.key)?);
            Ok(())
        })?;
        Ok(rows)
    }
}

fn for_each(
    r: &impl Read,
    table: &Table,
    each: &mut dyn FnMut(&Row) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = r.scan(table, &[], after.as_deref(), PAGE)?;
        for row in &page {
            each(row)?;
        }
        match page.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
