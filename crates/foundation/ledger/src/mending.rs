//! Making derived files again: tiles and lookup runs follow from the entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use huitong_proof::SpaceId;
use huitong_store::Read;

use crate::archive::{read_bundle, read_tile};
use crate::blocks::Derived;
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::place::{LOOKUP, Place, Unsynced};
use crate::publish::merge_runs;
use crate::run::{self, Run, RunName};
use crate::tiles::{BundleName, FilePath, HEIGHT, TileName, WIDTH, encode_tile, full_tiles, subtree_hash};

/// Files of one directory of tiles or bundles.
const SIBLINGS: u64 = 1_000;

/// Makes derived files of the settled entries again.
pub(crate) struct Mender<'a, R: Read> {
    pub(crate) place: &'a Place,
    pub(crate) view: &'a R,
    pub(crate) space: &'a SpaceId,
    pub(crate) block: u64,
    pub(crate) settled: u64,
}

impl<R: Read> Mender<'_, R> {
    /// Makes missing tiles again and finds out whether bundles are missing. Notes what it made, and the partial files
    /// there are.
    pub(crate) fn mend_tiles(
        &self,
        made: &mut Vec<String>,
        partials: &mut BTreeSet<String>,
    ) -> Result<(), LedgerError> {
        let root = self.place.root();
        let bundle = |number| FilePath::Entries(BundleName::full(number));
        for number in missing(root, self.settled / WIDTH, self.block, bundle, partials)? {
            if !self.place.of_redacted(number).exists() {
                return Err(LedgerError::damaged_file(
                    &self.place.of(&bundle(number)),
                    "is missing, and 256 entries with it; restore them from a backup",
                ));
            }
        }
        for level in 0..HEIGHT {
            let tile = |number| FilePath::Tile(TileName::full(level, number));
            for number in missing(root, full_tiles(level, self.settled), self.block, tile, partials)? {
                made.push(self.make_tile(level, number)?);
            }
        }
        Ok(())
    }

    /// Makes every tile again.
    pub(crate) fn make_tiles(&self, made: &mut Vec<String>) -> Result<(), LedgerError> {
        for level in 0..HEIGHT {
            for number in 0..full_tiles(level, self.settled) {
                made.push(self.make_tile(level, number)?);
            }
        }
        Ok(())
    }

    /// Makes a tile from its bundle, or from the tiles below it.
    pub(crate) fn make_tile(&self, level: u8, number: u64) -> Result<String, LedgerError> {
        let hashes = match level.checked_sub(1) {
            None => self.derived(number..number.saturating_add(1))?.leaves,
            Some(below) => {
                let first = number.saturating_mul(WIDTH);
                (first..first.saturating_add(WIDTH))
                    .map(|child| {
                        subtree_hash(&read_tile(self.place.root(), below, child)?)
                            .ok_or(LedgerError::Damaged { what: "a tile is not full" })
                    })
                    .collect::<Result<_, _>>()?
            }
        };
        let name = FilePath::Tile(TileName::full(level, number));
        let mut unsynced = Unsynced::default();
        self.place.put(&self.place.of(&name), &encode_tile(&hashes), &mut unsynced)?;
        unsynced.sync()?;
        Ok(name.to_string())
    }

    /// Opens the runs over the settled entries; makes those again that are missing, and removes every other file.
    pub(crate) fn mend_runs(&self, made: &mut Vec<String>) -> Result<Vec<Run>, LedgerError> {
        let directory = self.place.root().join(LOOKUP);
        let mut widest: BTreeMap<u64, RunName> = BTreeMap::new();
        let mut names = Vec::new();
        for file in file_names(&directory)? {
            match RunName::parse(&file).and_then(|name| Some((name, name.span(self.block)?))) {
                Some((name, span)) if span.end <= self.settled => {
                    names.push(name);
                    // Of two that begin with the same entry the wider one is the merged one.
                    let known = widest.entry(span.start).or_insert(name);
                    *known = (*known).max(name);
                }
                _ => self.place.remove(&directory.join(&file))?,
            }
        }
        let mut runs = Vec::new();
        let mut next = 0;
        while next < self.settled {
            let opened = widest.get(&next).and_then(|name| Run::open(&self.place.of_run(*name), *name).ok());
            let run = match opened {
                Some(run) => run,
                None => {
                    let name = RunName { level: 0, number: next / self.block };
                    made.push(format!("{LOOKUP}/{}", name.file()));
                    self.make_run(name)?
                }
            };
            next = run.name.span(self.block).map_or(self.settled, |span| span.end);
            runs.push(run);
            // As they come, so that few files are open at once.
            while let Some(merged) = self.merge_last(&runs)? {
                runs.truncate(runs.len().saturating_sub(4));
                runs.push(merged);
            }
        }
        let used: BTreeSet<RunName> = runs.iter().map(|run| run.name).collect();
        for name in names.into_iter().filter(|name| !used.contains(name)) {
            self.place.remove(&self.place.of_run(name))?;
        }
        Ok(runs)
    }

    /// Makes the run over one block.
    pub(crate) fn make_run(&self, name: RunName) -> Result<Run, LedgerError> {
        let span =
            name.span(self.block).ok_or(LedgerError::Damaged { what: "a lookup run is beyond counting" })?;
        let mut records = self.derived(span.start / WIDTH..span.end / WIDTH)?.records;
        records.sort_unstable();
        let path = self.place.of_run(name);
        let count = records.len() as u64;
        self.place.put_durably(&path, |out| run::write(out, name, count, records.into_iter().map(Ok)))?;
        Run::open(&path, name).map_err(LedgerError::file("open", &path))
    }

    /// Merges the last four runs, if they are neighbours, and removes them.
    fn merge_last(&self, runs: &[Run]) -> Result<Option<Run>, LedgerError> {
        let Some(last) = runs.last_chunk::<4>() else { return Ok(None) };
        let [first, ..] = last;
        let parent = first.name.parent();
        if parent.children() != Some(last.each_ref().map(|run| run.name)) {
            return Ok(None);
        }
        let merged = merge_runs(self.place, parent, &last.each_ref(), self.block)?;
        for child in last {
            self.place.remove(child.path())?;
        }
        Ok(Some(merged))
    }

    /// What follows from these bundles.
    fn derived(&self, bundles: Range<u64>) -> Result<Derived, LedgerError> {
        let mut derived = Derived::default();
        for number in bundles {
            let bundle = read_bundle(self.place.root(), number)?;
            derived.add(number, &bundle, self.space, &mut |index| Gap::get(self.view, index))?;
        }
        Ok(derived)
    }
}

/// The numbers below `count` whose files are missing. Notes the partial files it comes across.
fn missing(
    root: &Path,
    count: u64,
    block: u64,
    path: impl Fn(u64) -> FilePath,
    partials: &mut BTreeSet<String>,
) -> Result<Vec<u64>, LedgerError> {
    let mut missing = Vec::new();
    // Partial files lie beside, or a little behind, the last full ones.
    let last = count.saturating_add(block / WIDTH);
    for first in (0..=last).step_by(usize::try_from(SIBLINGS).unwrap_or(usize::MAX)) {
        let sample = path(first).to_string();
        let Some((directory, _)) = sample.rsplit_once('/') else { continue };
        let names: BTreeSet<String> = file_names(&root.join(directory))?.into_iter().collect();
        for name in names.iter().filter(|name| name.ends_with(".p")) {
            let widths = file_names(&root.join(directory).join(name))?;
            partials.extend(widths.iter().map(|width| format!("{directory}/{name}/{width}")));
        }
        for number in first..count.min(first.saturating_add(SIBLINGS)) {
            let text = path(number).to_string();
            let name = text.rsplit_once('/').map_or(text.as_str(), |(_, name)| name);
            if !names.contains(name) {
                missing.push(number);
            }
        }
    }
    Ok(missing)
}

/// Names of the files in a directory; none if there is no such directory.
pub(crate) fn file_names(directory: &Path) -> Result<Vec<String>, LedgerError> {
    let unreadable = |error| LedgerError::file("read directory", directory)(error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name: PathBuf = entry.map_err(unreadable)?.file_name().into();
        names.extend(name.to_str().map(str::to_owned));
    }
    Ok(names)
}
