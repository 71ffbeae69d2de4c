//! Publishing the log as files, and settling what no longer changes.
//!
//! # Order
//! 1. Full tiles and bundles of the entries that the newest checkpoint covers; then the partial ones at the right edge;
//!    then the checkpoint. Until here everything can be made again from rows.
//! 2. When a block is complete: fsync of its files and of their directories, which were opened before the files were
//!    written; reading everything back from disk and comparing it with the tree in memory; its lookup run.
//! 3. One transaction deletes the block's rows. A crash before it leaves files that are written again; after it the files
//!    are the only copy.
//! 4. Four runs are merged into one, and deleted when that one is durable.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use huitong_proof::Digest;
use huitong_store::{Read, Tx};

use crate::blocks::Derived;
use crate::checkpoint::SignedCheckpoint;
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::log::Ledger;
use crate::lookup::Record;
use crate::place::{self, CHECKPOINT, Place, Unsynced};
use crate::run::{self, FAN, Run, RunName};
use crate::tables::{self, ENTRY};
use crate::tiles::{
    Bundle, BundleName, FilePath, TileName, WIDTH, decode_tile, encode_bundle, encode_tile, full_tiles,
    subtree_hash,
};

const FULL: u16 = 256;
const ROWS: usize = 256;

/// What is on disk beyond the settled entries.
#[derive(Debug)]
pub(crate) struct Publishing {
    /// Entries whose full bundles, and the full tiles over them, are in files.
    pub(crate) written: u64,
    /// Those files, while they are not durable.
    unsynced: Unsynced,
    /// Partial tiles and bundles on disk.
    pub(crate) partials: BTreeSet<String>,
    /// The published checkpoint.
    pub(crate) text: Option<String>,
}

impl Publishing {
    /// After a start: what lies beyond the settled entries is written again.
    pub(crate) fn resume(settled: u64, partials: BTreeSet<String>) -> Self {
        Self { written: settled, unsynced: Unsynced::default(), partials, text: None }
    }
}

/// A run of entries whose files are durable and checked, and whose rows may go.
struct Block {
    entries: Range<u64>,
    /// Those that are empty in the files.
    empty: Vec<u64>,
}

impl Ledger {
    /// Brings the files up to the newest checkpoint: tiles, bundles, then the checkpoint itself with the cosignatures it
    /// has; and settles every complete block. Cheap when there is nothing new. To be called each second in which the log
    /// grew, and after cosignatures arrived.
    ///
    /// # Errors
    /// [`LedgerError::File`] and storage errors; what was not done is done by the next call.
    /// [`LedgerError::DamagedFile`] when what is read back is not what was written: then rows are kept.
    pub async fn publish(&self) -> Result<(), LedgerError> {
        self.erase().await?;
        let mut publishing = self.inner.publishing.clone().lock_owned().await;
        loop {
            let ledger = self.clone();
            let step = tokio::task::spawn_blocking(move || {
                let block = ledger.write_files(&mut publishing);
                (publishing, block)
            });
            let (returned, block) = step.await.map_err(|_| LedgerError::Worker)?;
            publishing = returned;
            let Some(block) = block? else { return Ok(()) };
            let start = block.entries.start;
            // A caller that stops waiting does not let another one in before this has been decided.
            let step = self.store().transact("ledger.settle", move |tx| -> Result<_, LedgerError> {
                let is_settled = settle(tx, &block)?;
                Ok((publishing, is_settled))
            });
            let (returned, is_settled) = step.await?;
            publishing = returned;
            if is_settled {
                self.forget_settled()?;
            } else {
                publishing.written = start;
            }
        }
    }

    /// The published file under one of the paths `checkpoint` and `tile/<L>/<N>[.p/<W>]` (C2SP tlog-tiles), nothing for
    /// every other text. Partial tiles of every width that a published checkpoint covered are there.
    ///
    /// # Errors
    /// Storage errors.
    pub fn read_public(&self, path: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        match path.parse() {
            Ok(FilePath::Checkpoint) => place::read(&self.inner.place.root().join(CHECKPOINT)),
            Ok(FilePath::Tile(name)) => {
                let hashes =
                    self.inner.published.load(Ordering::Acquire).checked_shr(crate::tiles::shift(name.level));
                if !covered(name.number, name.width, hashes.unwrap_or(0)) {
                    return Ok(None);
                }
                let tile = self.tile(name.level, name.number)?;
                let hashes = tile
                    .get(..usize::from(name.width))
                    .ok_or(LedgerError::Damaged { what: "a published tile is not whole" })?;
                Ok(Some(encode_tile(hashes)))
            }
            _ => Ok(None),
        }
    }

    /// The bundle under a path `tile/entries/<N>[.p/<W>]` (C2SP tlog-tiles), as far as a published checkpoint covers it;
    /// nothing for every other text, and for a bundle with removed entries. Statements are for their parties and the
    /// regulator only: who may ask is for the caller to decide.
    ///
    /// # Errors
    /// Storage errors.
    pub fn bundle(&self, path: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let Ok(FilePath::Entries(name)) = path.parse() else { return Ok(None) };
        if !covered(name.number, name.width, self.inner.published.load(Ordering::Acquire)) {
            return Ok(None);
        }
        let view = self.store().view();
        let first = name.number.saturating_mul(WIDTH);
        let mut entries = Vec::with_capacity(usize::from(name.width));
        for index in first..first.saturating_add(u64::from(name.width)) {
            match self.entry(&view, index) {
                Ok(Some(bytes)) => entries.push(bytes),
                Ok(None) | Err(LedgerError::Redacted { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(encode_bundle(entries.iter().map(Vec::as_slice)))
    }

    /// One step: writes what is missing on disk. Returns the block whose rows may go, if one is complete.
    fn write_files(&self, publishing: &mut Publishing) -> Result<Option<Block>, LedgerError> {
        self.forget_settled()?;
        let view = self.store().view();
        let Some(latest) = tables::latest_checkpoint(&view)? else { return Ok(None) };
        let latest = self.of_this_log(latest)?;
        let size = latest.checkpoint().size;
        let settled = tables::settled(&view)?;
        let end = settled.saturating_add(self.inner.block);
        let written = self.write_full(publishing, &view, settled, size.min(end)).and_then(|()| {
            if size < end {
                return Ok(None);
            }
            self.check_block(publishing, &view, settled..end).map(Some)
        });
        if written.is_err() {
            // What could not be made durable must be written anew, not synced again.
            publishing.written = settled;
            publishing.unsynced = Unsynced::default();
        }
        let block = written?;
        if block.is_none() {
            self.write_head(publishing, &view, &latest)?;
            self.merge_all()?;
        }
        Ok(block)
    }

    /// Full bundles and tiles up to `end`.
    fn write_full(
        &self,
        publishing: &mut Publishing,
        view: &impl Read,
        settled: u64,
        end: u64,
    ) -> Result<(), LedgerError> {
        let place = &self.inner.place;
        publishing.written = publishing.written.max(settled);
        let (first, last) = (publishing.written / WIDTH, end / WIDTH);
        for number in first..last {
            let rows = tables::entries(view, number.saturating_mul(WIDTH), ROWS)?;
            if rows.len() != ROWS {
                return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
            }
            let path = self.bundle_path(number, &rows);
            let bytes = encode_bundle(rows.iter().map(Vec::as_slice))
                .ok_or(LedgerError::Damaged { what: "an entry is too long for a bundle" })?;
            place.put(&path, &bytes, &mut publishing.unsynced)?;
            self.remove_other(number, &path)?;
        }
        let tiles: Vec<(u8, u64, Vec<Digest>)> = self
            .tree()
            .edge
            .unwritten(end)
            .filter(|(level, number, _)| *number >= full_tiles(*level, publishing.written))
            .map(|(level, number, hashes)| (level, number, hashes.to_vec()))
            .collect();
        for (level, number, hashes) in tiles {
            let path = place.of(&FilePath::Tile(TileName::full(level, number)));
            place.put(&path, &encode_tile(&hashes), &mut publishing.unsynced)?;
        }
        publishing.written = publishing.written.max(last.saturating_mul(WIDTH));
        Ok(())
    }

    /// Where a bundle with these entries belongs: one with removed entries is no bundle of the specification any more.
    fn bundle_path(&self, number: u64, rows: &[Vec<u8>]) -> PathBuf {
        if rows.iter().any(Vec::is_empty) {
            self.inner.place.of_redacted(number)
        } else {
            self.inner.place.of(&FilePath::Entries(BundleName::full(number)))
        }
    }

    /// A bundle is under one of its two paths; it changes when an entry is removed, or a lost one found again.
    fn remove_other(&self, number: u64, path: &Path) -> Result<(), LedgerError> {
        let place = &self.inner.place;
        let paths = [place.of_redacted(number), place.of(&FilePath::Entries(BundleName::full(number)))];
        let other = paths.iter().find(|other| other.as_path() != path && other.exists());
        other.map_or(Ok(()), |other| place.remove_durably(other))
    }

    /// Makes a block's files durable, reads them back and compares them with the tree, and writes its lookup run.
    fn check_block(
        &self,
        publishing: &mut Publishing,
        view: &impl Read,
        entries: Range<u64>,
    ) -> Result<Block, LedgerError> {
        std::mem::take(&mut publishing.unsynced).sync()?;
        let (mut records, mut empty) = (Vec::new(), Vec::new());
        for number in entries.start / WIDTH..entries.end / WIDTH {
            let rows = tables::entries(view, number.saturating_mul(WIDTH), ROWS)?;
            let path = self.bundle_path(number, &rows);
            let bundle = place::read(&path)?
                .and_then(|bytes| Bundle::decode(bytes, FULL))
                .ok_or_else(|| LedgerError::damaged_file(&path, "is not the bundle that was written"))?;
            let mut derived = Derived::default();
            derived.add(number, &bundle, self.space(), &mut |index| Gap::get(view, index))?;
            self.check_tile(0, number, Some(&derived.leaves))?;
            records.append(&mut derived.records);
            let indexed = (number.saturating_mul(WIDTH)..).zip(bundle.entries());
            empty.extend(indexed.filter(|(_, bytes)| bytes.is_empty()).map(|(index, _)| index));
        }
        // Tiles above the lowest level that became full with this block.
        let upper: Vec<(u8, u64)> =
            self.tree().edge.unwritten(entries.end).map(|(level, number, _)| (level, number)).collect();
        for (level, number) in upper.into_iter().filter(|(level, _)| *level > 0) {
            self.check_tile(level, number, None)?;
        }
        records.sort_unstable();
        let run = self.write_run(RunName { level: 0, number: entries.start / self.inner.block }, &records)?;
        self.inner.archive.add_run(run, self.inner.block);
        Ok(Block { entries, empty })
    }

    /// A tile on disk must hold the hashes of the entries on disk, or the ones in memory, and lead to its parent.
    fn check_tile(&self, level: u8, number: u64, leaves: Option<&[Digest]>) -> Result<(), LedgerError> {
        let path = self.inner.place.of(&FilePath::Tile(TileName::full(level, number)));
        let tile = place::read(&path)?
            .and_then(|bytes| decode_tile(&bytes, FULL))
            .ok_or_else(|| LedgerError::damaged_file(&path, "is not the tile that was written"))?;
        let parent = self.tile(level.saturating_add(1), number / WIDTH)?;
        let position = usize::try_from(number % WIDTH).unwrap_or_default();
        let in_memory = self.tile(level, number)?;
        if leaves.is_some_and(|leaves| leaves != tile)
            || in_memory != tile
            || parent.get(position).copied() != subtree_hash(&tile)
        {
            return Err(LedgerError::damaged_file(&path, "does not fit the entries and the tree in memory"));
        }
        Ok(())
    }

    pub(crate) fn write_run(&self, name: RunName, records: &[Record]) -> Result<Run, LedgerError> {
        let path = self.inner.place.of_run(name);
        let count = records.len() as u64;
        self.inner.place.put_durably(&path, |out| {
            run::write(out, name, count, records.iter().map(|record| Ok(*record)))
        })?;
        Run::open(&path, name).map_err(LedgerError::file("open", &path))
    }

    /// The partial tiles and the partial bundle at the right edge, then the checkpoint over them.
    fn write_head(
        &self,
        publishing: &mut Publishing,
        view: &impl Read,
        latest: &SignedCheckpoint,
    ) -> Result<(), LedgerError> {
        let size = latest.checkpoint().size;
        let cosigned = tables::cosigned(view)?.filter(|cosigned| cosigned.checkpoint().size == size);
        let text = cosigned.as_ref().unwrap_or(latest).text();
        if publishing.text.as_deref() == Some(text) {
            return Ok(());
        }
        let place = &self.inner.place;
        // A crash leaves nothing here that the next start would read.
        let mut unsynced = Unsynced::default();
        let mut partials = BTreeSet::new();
        // Those of an earlier process may be anything after a power failure.
        let written =
            |path: &FilePath| publishing.text.is_some() && publishing.partials.contains(&path.to_string());
        let levels = self.tree().edge.levels();
        for name in (0..levels).filter_map(|level| TileName::partial(level, size)) {
            let path = FilePath::Tile(name);
            if !written(&path) {
                let tile = self.tile(name.level, name.number)?;
                let hashes = tile
                    .get(..usize::from(name.width))
                    .ok_or(LedgerError::Damaged { what: "the hash of a complete subtree is missing" })?;
                place.put(&place.of(&path), &encode_tile(hashes), &mut unsynced)?;
            }
            partials.insert(path.to_string());
        }
        if let Some(name) = BundleName::partial(size) {
            let path = FilePath::Entries(name);
            let rows = tables::entries(view, name.number.saturating_mul(WIDTH), usize::from(name.width))?;
            if rows.len() != usize::from(name.width) {
                return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
            }
            if !rows.iter().any(Vec::is_empty) {
                let bytes = encode_bundle(rows.iter().map(Vec::as_slice))
                    .ok_or(LedgerError::Damaged { what: "an entry is too long for a bundle" })?;
                if !written(&path) {
                    place.put(&place.of(&path), &bytes, &mut unsynced)?;
                }
                partials.insert(path.to_string());
            }
        }
        drop(unsynced);

        place.put_durably(&place.root().join(CHECKPOINT), |out| out.write_all(text.as_bytes()))?;
        publishing.text = Some(text.to_owned());
        self.inner.published.store(size, Ordering::Release);
        let obsolete: Vec<String> = publishing.partials.difference(&partials).cloned().collect();
        publishing.partials.extend(partials);
        for path in obsolete {
            self.remove_partial(publishing, &path)?;
        }
        Ok(())
    }

    /// Removes a partial tile or bundle, and its directory when nothing else is in it.
    pub(crate) fn remove_partial(&self, publishing: &mut Publishing, path: &str) -> Result<(), LedgerError> {
        let place = &self.inner.place;
        publishing.partials.remove(path);
        let Some((directory, _)) = path.rsplit_once('/') else { return Ok(()) };
        let shared = publishing.partials.iter().any(|other| {
            other.rsplit_once('/').is_some_and(|(other_directory, _)| other_directory == directory)
        });
        if shared {
            return place.remove(&place.root().join(path));
        }
        let directory = place.root().join(directory);
        place.forget(&directory);
        match place.disk().remove_directory(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LedgerError::file("remove", &directory)(error))
            }
            _ => Ok(()),
        }
    }

    /// Merges four neighbouring runs into one wherever there are four.
    fn merge_all(&self) -> Result<(), LedgerError> {
        let place = &self.inner.place;
        loop {
            let runs = self.inner.archive.runs();
            let names: BTreeSet<RunName> = runs.iter().map(|run| run.name).collect();
            let complete = names.iter().find(|name| {
                name.number.is_multiple_of(FAN)
                    && name
                        .parent()
                        .children()
                        .is_some_and(|four| four.iter().all(|child| names.contains(child)))
            });
            let Some(parent) = complete.map(RunName::parent) else { return Ok(()) };
            let children: Vec<_> = runs.iter().filter(|run| run.name.parent() == parent).cloned().collect();
            let sources: Vec<&Run> = children.iter().map(AsRef::as_ref).collect();
            let merged = merge_runs(place, parent, &sources, self.inner.block)?;
            self.inner.archive.add_run(merged, self.inner.block);
            for child in children {
                place.remove(child.path())?;
            }
        }
    }

    /// Lets go of what is in memory of settled entries.
    pub(crate) fn forget_settled(&self) -> Result<(), LedgerError> {
        let settled = tables::settled(&self.store().view())?;
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner).settled(settled);
        self.tree().edge.written(settled);
        Ok(())
    }
}

/// Writes `parent`, durably, from its four children.
pub(crate) fn merge_runs(
    place: &Place,
    parent: RunName,
    children: &[&Run],
    block: u64,
) -> Result<Run, LedgerError> {
    let count = children.iter().map(|run| run.count()).fold(0, u64::saturating_add);
    let path = place.of_run(parent);
    place.put_durably(&path, |out| {
        let sources = children.iter().map(|run| run.scan(block)).collect::<io::Result<Vec<_>>>()?;
        run::write(out, parent, count, run::merge(sources))
    })?;
    Run::open(&path, parent).map_err(LedgerError::file("open", &path))
}

/// Whether a log of `hashes` (entries, or hashes on a level of tiles) has published a tile or bundle of that width.
fn covered(number: u64, width: u16, hashes: u64) -> bool {
    number
        .checked_mul(WIDTH)
        .and_then(|first| first.checked_add(u64::from(width)))
        .is_some_and(|end| end <= hashes)
}

/// Deletes the rows of a block whose files are durable. Not if a lost entry was found again since they were written; of
/// one that was removed since, the removal takes the bytes out of the files.
fn settle(tx: &mut Tx<'_>, block: &Block) -> Result<bool, LedgerError> {
    let Block { entries, empty } = block;
    if tables::settled(tx)? != entries.start {
        return Err(LedgerError::Damaged { what: "a block was to be settled out of order" });
    }
    for index in empty {
        if tx.get(&ENTRY, &index.to_be_bytes())?.is_none_or(|row| !row.is_empty()) {
            return Ok(false);
        }
    }
    for index in entries.clone() {
        tx.delete(&ENTRY, &index.to_be_bytes())?;
    }
    tables::put_settled(tx, entries.end)?;
    Ok(true)
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
