//! Checking a ledger against itself: entries, tiles, the signed root, lookup runs, gaps and channels.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use huitong_proof::{Digest, Envelope};
use huitong_store::disk::Disk;
use huitong_store::offline::{Finding, Severity};
use huitong_store::{Progress, Unit};

use super::{Facts, Stopped};
use crate::about::About;
use crate::archive::{read_bundle, read_tile};
use crate::checkpoint::SignedCheckpoint;
use crate::edge::Edge;
use crate::error::LedgerError;
use crate::lookup::Keys;
use crate::mending::file_names;
use crate::merkle::{leaf_hash, root};
use crate::place::{self, CHECKPOINT, LOOKUP, UNCONFIRMED};
use crate::run::{Run, RunName, Sum};
use crate::tables;
use crate::tiles::{WIDTH, full_tiles, subtree_hash};
use crate::tree::TreeNodes;

const REBUILD: &str = "run `huitong store rebuild`, or start the node, which makes it again";
const RESTORE: &str = "keep this directory, and restore the ledger from a backup";
/// Bundles that one thread takes at a time: the entries below one tile of level 1.
const UNIT: u64 = WIDTH;
const PAGE: usize = 1_024;
/// Findings of one kind that are listed one by one.
const LISTED: usize = 100;

/// The outcome of [`fsck`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// What was found, in no meaningful order.
    pub findings: Vec<Finding>,
    /// Entries in the log; all were read.
    pub size: u64,
    /// Entries in settled files.
    pub settled: u64,
    /// Size of the newest signed checkpoint, whose root was computed again from the entries.
    pub signed: Option<u64>,
    /// Entries whose bytes were removed or lost.
    pub gaps: u64,
    /// Tiles that were compared with the entries.
    pub tiles: u64,
    /// Lookup records that were compared with the entries.
    pub records: u64,
}

impl FsckReport {
    /// How bad the worst finding is.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Note)
    }

    /// Whether nothing was found but notes.
    pub fn is_clean(&self) -> bool {
        self.worst() == Severity::Note
    }

    fn add(
        &mut self,
        severity: Severity,
        place: impl Into<String>,
        what: impl Into<String>,
        next_step: &str,
    ) {
        let (place, what, next_step) = (place.into(), what.into(), next_step.to_owned());
        self.findings.push(Finding { severity, place, what, next_step });
    }
}

/// Checks a stopped node's ledger, reading every entry, on all processors. Changes no file of the ledger.
///
/// Compared are: entries with tiles, tiles with those above them, and the root over the entries with the newest signed
/// checkpoint; lookup runs with the records that the entries give (order, checksum, and a sum that does not depend on
/// order); gaps with the rows that explain them; the numbers of this node's own channels, which have no holes; the
/// published checkpoint.
///
/// Memory: 40 bytes for each 256 entries, the rows of what is not settled, and a few bundles.
///
/// # Errors
/// When the rows cannot be read at all; everything else is a finding.
pub fn fsck(
    store: &Path,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<FsckReport, LedgerError> {
    let stopped = Stopped::open(store, disk)?;
    let (about, facts) = (stopped.about()?, stopped.facts()?);
    let mut report = FsckReport {
        size: facts.extent.size,
        settled: facts.settled,
        signed: facts.latest.as_ref().map(|latest| latest.checkpoint().size),
        gaps: facts.gaps.len() as u64,
        ..FsckReport::default()
    };
    let check = Check { root: &stopped.root, about: &about, facts: &facts };
    let mut read = check.read_settled(progress)?;
    let leaves = check.read_rows(&stopped, &mut read)?;
    report.findings.append(&mut read.findings);
    report.tiles = read.tiles;

    check.roots(&read, &leaves, &mut report)?;
    check.runs(&read, &mut report, progress)?;
    check.gaps(&mut report);
    let left_out = tables::was_in_safe_mode(&stopped.view)?;
    check.channels(&read, left_out, &mut report);
    check.published(&leaves, &read, &mut report)?;
    Ok(report)
}

struct Check<'a> {
    root: &'a Path,
    about: &'a About,
    facts: &'a Facts,
}

/// What was read of some entries.
#[derive(Debug, Default)]
struct Read {
    /// For each bundle the hash over its entries; none where it does not read.
    parents: Vec<Option<Digest>>,
    /// Bundles whose tile says something else: what the tile's hashes lead to, and which entries differ.
    differing: BTreeMap<u64, (Option<Digest>, Vec<u64>)>,
    /// For each block of settled entries the sum of their lookup records.
    sums: BTreeMap<u64, Sum>,
    /// What was said on each channel, by issuer and audience.
    channels: BTreeMap<(String, String), Said>,
    tiles: u64,
    findings: Vec<Finding>,
}

/// The numbers that were met on one channel.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    count: u64,
    highest: u64,
    total: u128,
}

impl Said {
    fn add(&mut self, seq: u64) {
        self.count = self.count.saturating_add(1);
        self.highest = self.highest.max(seq);
        self.total = self.total.saturating_add(u128::from(seq));
    }

    fn join(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.highest = self.highest.max(other.highest);
        self.total = self.total.saturating_add(other.total);
    }

    /// Every number from 0 to the highest, once.
    fn is_whole(&self) -> bool {
        let highest = u128::from(self.highest);
        u128::from(self.count) == highest.saturating_add(1)
            && self.total == highest.saturating_mul(highest.saturating_add(1)) / 2
    }
}

impl Check<'_> {
    /// Reads every bundle and compares it with its tile.
    fn read_settled(&self, progress: &mut dyn FnMut(Progress)) -> Result<Read, LedgerError> {
        let settled = self.facts.settled;
        let bundles = settled / WIDTH;
        let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let units: Mutex<BTreeMap<u64, Read>> = Mutex::default();
        let work = || {
            loop {
                let unit = next.fetch_add(1, Ordering::Relaxed);
                let first = unit.saturating_mul(UNIT);
                if first >= bundles {
                    return;
                }
                let mut read = Read::default();
                for number in first..bundles.min(first.saturating_add(UNIT)) {
                    self.read_bundle(number, &mut read);
                    done.fetch_add(WIDTH, Ordering::Relaxed);
                }
                units.lock().unwrap_or_else(PoisonError::into_inner).insert(unit, read);
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                while !worker.is_finished() {
                    let done = done.load(Ordering::Relaxed);
                    progress(Progress { step: "read entries", done, total: settled, unit: Unit::Entries });
                    thread::park_timeout(Duration::from_millis(50));
                }
                worker.join().map_err(|_| LedgerError::Worker)?;
            }
            Ok::<(), LedgerError>(())
        })?;
        let mut all = Read::default();
        for (_, unit) in units.into_inner().unwrap_or_else(PoisonError::into_inner) {
            all.join(unit);
        }
        Ok(all)
    }

    fn read_bundle(&self, number: u64, read: &mut Read) {
        let bundle = match read_bundle(self.root, number) {
            Ok(bundle) => bundle,
            Err(error) => {
                read.finding(Severity::Damage, place::bundle(self.root, number).display(), error, RESTORE);
                read.parents.push(None);
                return;
            }
        };
        let first = number.saturating_mul(WIDTH);
        let mut leaves = Vec::with_capacity(256);
        for (index, bytes) in (first..).zip(bundle.entries()) {
            leaves.push(self.read_entry(index, bytes, read));
        }
        let leaves: Option<Vec<Digest>> = leaves.into_iter().collect();
        let parent = leaves.as_deref().and_then(subtree_hash);
        read.parents.push(parent);
        read.tiles = read.tiles.saturating_add(1);
        let tile = match read_tile(self.root, 0, number) {
            Ok(tile) => tile,
            Err(error) => {
                read.finding(
                    Severity::Recoverable,
                    place::tile(self.root, 0, number).display(),
                    error,
                    REBUILD,
                );
                return;
            }
        };
        if let Some(leaves) = leaves
            && leaves != tile
        {
            let differ = leaves.iter().zip(&tile).zip(first..).filter(|((leaf, tile), _)| leaf != tile);
            let differing = differ.map(|(_, index)| index).collect();
            read.differing.insert(number, (subtree_hash(&tile), differing));
        }
    }

    /// The leaf hash of an entry; none if it cannot be known. Notes what it is found by.
    fn read_entry(&self, index: u64, bytes: &[u8], read: &mut Read) -> Option<Digest> {
        let gap = self.facts.gaps.get(&index);
        let place = || format!("entry {index}");
        let (leaf, keys) = match (bytes.is_empty(), gap) {
            (true, None) => {
                read.finding(Severity::Damage, place(), "is empty and nothing says who removed it", RESTORE);
                return None;
            }
            (true, Some(gap)) => (gap.leaf, gap.keys()),
            (false, gap) => {
                let leaf = leaf_hash(bytes);
                if let Some(gap) = gap
                    && !self.facts.erase.contains(&index)
                {
                    let what = format!("was removed by {} and still has its bytes", gap.who);
                    read.finding(
                        Severity::Damage,
                        place(),
                        what,
                        "restore the removal's files, or remove it again",
                    );
                }
                let statement =
                    Envelope::decode(bytes.to_vec()).and_then(|entry| entry.trusted(&self.about.space));
                match statement {
                    Ok(statement) => (leaf, Some(Keys::of(&statement))),
                    Err(error) => {
                        read.finding(Severity::Damage, place(), format!("does not read: {error}"), RESTORE);
                        (leaf, None)
                    }
                }
            }
        };
        if let Some(keys) = keys {
            if index < self.facts.settled {
                let sum = read.sums.entry(index / self.about.block).or_default();
                keys.records(index).for_each(|record| sum.add(record));
            }
            let Keys { issuer, audience, seq, .. } = keys;
            read.channels.entry((issuer, audience)).or_default().add(seq);
        } else {
            read.sums.entry(index / self.about.block).or_default();
        }
        Some(leaf)
    }

    /// Reads the entries that are not settled, and gives their leaf hashes.
    fn read_rows(&self, stopped: &Stopped, read: &mut Read) -> Result<Vec<Digest>, LedgerError> {
        let view = &stopped.view;
        let mut leaves = Vec::new();
        let mut next = self.facts.settled;
        while next < self.facts.extent.size {
            let page = match tables::entries(view, next, PAGE) {
                Ok(page) if !page.is_empty() => page,
                Ok(_) | Err(LedgerError::Damaged { .. }) => {
                    read.finding(Severity::Damage, format!("entry {next}"), "is missing", RESTORE);
                    return Ok(leaves);
                }
                Err(error) => return Err(error),
            };
            for bytes in page {
                leaves.push(self.read_entry(next, &bytes, read).unwrap_or(Digest::ZERO));
                next = next.saturating_add(1);
            }
        }
        Ok(leaves)
    }

    /// Compares upper tiles with lower ones, and the root with the newest signed checkpoint; tells apart whether an entry
    /// or its tile was altered.
    fn roots(&self, read: &Read, leaves: &[Digest], report: &mut FsckReport) -> Result<(), LedgerError> {
        let Some(rows) = read.rows() else { return Ok(()) };
        let signed = self.facts.latest.as_ref().map(SignedCheckpoint::checkpoint);
        let fits = match signed {
            Some(signed) if signed.size > self.facts.extent.size => {
                let what = format!("is of {} entries, the log has {}", signed.size, self.facts.extent.size);
                report.add(Severity::Damage, "newest checkpoint", what, RESTORE);
                return Ok(());
            }
            Some(signed) => self.root_over(&rows, leaves, signed.size)? == signed.root,
            None => true,
        };
        if fits {
            for number in read.differing.keys().take(LISTED) {
                let place = place::tile(self.root, 0, *number).display().to_string();
                report.add(Severity::Recoverable, place, "does not hold the hashes of the entries", REBUILD);
            }
            self.upper_tiles(&rows, report);
            return Ok(());
        }
        // If the tiles lead to the signed root, it is the entries that were altered.
        let tiles = read.rows_by_tiles();
        let by_tiles = match (&tiles, signed) {
            (Some(tiles), Some(signed)) => self.root_over(tiles, leaves, signed.size)? == signed.root,
            _ => false,
        };
        if by_tiles {
            for index in read.differing.values().flat_map(|(_, differing)| differing).take(LISTED) {
                let what = "was altered: its tile, which leads to the signed root, has another hash";
                report.add(Severity::Damage, format!("entry {index}"), what, RESTORE);
            }
        } else {
            let what = "the entries do not have the root that was signed for them";
            report.add(Severity::Damage, "newest checkpoint", what, RESTORE);
        }
        Ok(())
    }

    fn upper_tiles(&self, rows: &[Vec<Digest>], report: &mut FsckReport) {
        for (level, row) in (1_u8..).zip(rows) {
            for (number, hashes) in (0..full_tiles(level, self.facts.settled)).zip(row.chunks(256)) {
                report.tiles = report.tiles.saturating_add(1);
                let what = match read_tile(self.root, level, number) {
                    Ok(tile) if tile == hashes => continue,
                    Ok(_) => "does not hold the hashes of the tiles below it".to_owned(),
                    Err(error) => error.to_string(),
                };
                let place = place::tile(self.root, level, number).display().to_string();
                report.add(Severity::Recoverable, place, what, REBUILD);
            }
        }
    }

    /// The root of the first `size` entries, which are at least the settled ones.
    fn root_over(&self, rows: &[Vec<Digest>], leaves: &[Digest], size: u64) -> Result<Digest, LedgerError> {
        let settled = self.facts.settled;
        let open = (1_u8..)
            .zip(rows)
            .map(|(level, row)| {
                let first = full_tiles(level, settled).saturating_mul(WIDTH);
                row.get(usize::try_from(first).unwrap_or(usize::MAX)..).unwrap_or_default().to_vec()
            })
            .collect();
        let mut edge = Edge::resume(settled, open);
        let unsettled = usize::try_from(size.saturating_sub(settled)).unwrap_or(usize::MAX);
        for leaf in leaves.iter().take(unsettled) {
            edge.push(*leaf);
        }
        let nodes = TreeNodes::over(|level, number| {
            if let Some(tile) = edge.tile(level, number) {
                return Ok(tile.to_vec());
            }
            let first = usize::try_from(number.saturating_mul(WIDTH)).unwrap_or(usize::MAX);
            let row = usize::from(level).checked_sub(1).and_then(|at| rows.get(at));
            row.and_then(|row| row.get(first..first.saturating_add(256)))
                .map(<[Digest]>::to_vec)
                .ok_or(LedgerError::Damaged { what: "the hash of a complete subtree is missing" })
        });
        root(&nodes, size)
    }

    fn runs(
        &self,
        read: &Read,
        report: &mut FsckReport,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), LedgerError> {
        let (block, settled) = (self.about.block, self.facts.settled);
        let mut names: Vec<RunName> = Vec::new();
        for file in file_names(&self.root.join(LOOKUP))? {
            match RunName::parse(&file) {
                Some(name) if name.span(block).is_some_and(|span| span.end <= settled) => names.push(name),
                _ => {
                    let what = "is left over from an interrupted publication";
                    report.add(Severity::Note, format!("{LOOKUP}/{file}"), what, "the next start removes it");
                }
            }
        }
        // The wider first: what lies within it is left over from an interrupted merge.
        names.sort_by_key(|name| (name.span(block).map(|span| span.start), std::cmp::Reverse(name.level)));
        let mut next = 0;
        for (done, name) in (0_u64..).zip(&names) {
            progress(Progress {
                step: "check lookup runs",
                done,
                total: names.len() as u64,
                unit: Unit::Files,
            });
            let Some(span) = name.span(block) else { continue };
            let place = format!("{LOOKUP}/{}", name.file());
            if span.end <= next {
                report.add(Severity::Note, place, "is part of a merged run", "the next start removes it");
                continue;
            }
            if span.start != next {
                let what = format!("begins with entry {} where {next} was expected", span.start);
                report.add(Severity::Recoverable, place.clone(), what, REBUILD);
            }
            let mut expected = Sum::default();
            for (_, sum) in read.sums.range(span.start / block..span.end / block) {
                expected.join(*sum);
            }
            match self.sum_of(*name) {
                Ok(sum) if sum == expected => {
                    report.records = report.records.saturating_add(sum.count);
                }
                Ok(_) => {
                    let what = "does not hold the records of its entries";
                    report.add(Severity::Recoverable, place, what, REBUILD);
                }
                Err(error) => report.add(Severity::Recoverable, place, error.to_string(), REBUILD),
            }
            next = span.end;
        }
        if next < settled {
            let what = format!("no run covers the entries from {next} on");
            report.add(Severity::Recoverable, LOOKUP, what, REBUILD);
        }
        Ok(())
    }

    fn sum_of(&self, name: RunName) -> io::Result<Sum> {
        let run = Run::open(&self.root.join(LOOKUP).join(name.file()), name)?;
        let mut sum = Sum::default();
        for record in run.scan(self.about.block)? {
            sum.add(record?);
        }
        Ok(sum)
    }

    fn gaps(&self, report: &mut FsckReport) {
        for index in self.facts.gaps.range(self.facts.extent.size..).map(|(index, _)| index).take(LISTED) {
            report.add(Severity::Damage, format!("gap {index}"), "lies behind the end of the log", RESTORE);
        }
        if !self.facts.erase.is_empty() {
            let what =
                format!("{} removed entries are still to be taken out of files", self.facts.erase.len());
            report.add(Severity::Note, "removals", what, "the node does it soon after its next start");
        }
        if self.root.join(UNCONFIRMED).exists() {
            let what = "this node signs nothing (safe mode)";
            report.add(Severity::Note, UNCONFIRMED, what, "run `huitong ledger recover`");
        }
    }

    /// Numbers of this node's own channels have no holes, and no channel's head lies below what was said on it.
    fn channels(&self, read: &Read, left_out: bool, report: &mut FsckReport) {
        let lost = self.facts.gaps.values().any(|gap| gap.removed.is_none());
        // Towards those who cannot be asked, a node that comes back leaves numbers out (see `Ledger::issue`).
        let explained = lost || left_out;
        for ((issuer, audience), said) in &read.channels {
            let place = format!("channel {issuer} to {audience}");
            let head = self.facts.heads.get(&(issuer.clone(), audience.clone())).copied();
            if head.is_none_or(|head| head < said.highest) {
                let what = format!("number {} was used, its head says {head:?}", said.highest);
                report.add(Severity::Damage, place.clone(), what, RESTORE);
            }
            if *issuer == self.about.node && !said.is_whole() {
                let what =
                    format!("{} statements up to number {}: there are holes", said.count, said.highest);
                let (severity, next_step) = if explained {
                    (Severity::Note, "what this log lost before it was restored explains it")
                } else {
                    (Severity::Damage, RESTORE)
                };
                report.add(severity, place, what, next_step);
            }
        }
    }

    /// The published checkpoint must be of this log: it is what others have seen.
    fn published(&self, leaves: &[Digest], read: &Read, report: &mut FsckReport) -> Result<(), LedgerError> {
        let Some(bytes) = place::read(&self.root.join(CHECKPOINT))? else { return Ok(()) };
        let published = String::from_utf8(bytes).ok().and_then(|text| SignedCheckpoint::stored(&text).ok());
        let next_step = "start the node, which publishes its newest checkpoint";
        let Some(published) = published else {
            report.add(Severity::Recoverable, CHECKPOINT, "does not read as a checkpoint", next_step);
            return Ok(());
        };
        let published = published.checkpoint();
        let signed = report.signed.unwrap_or(0);
        if published.origin != self.about.origin || published.size > signed {
            let what = format!(
                "is of {} at size {}, newer than what was signed here",
                published.origin, published.size
            );
            report.add(
                Severity::Damage,
                CHECKPOINT,
                what,
                "the rows are older than the files: restore both together",
            );
            return Ok(());
        }
        if published.size >= self.facts.settled
            && let Some(rows) = read.rows()
            && self.root_over(&rows, leaves, published.size)? != published.root
        {
            report.add(Severity::Damage, CHECKPOINT, "has another root than the entries", RESTORE);
        }
        Ok(())
    }
}

impl Read {
    fn finding(
        &mut self,
        severity: Severity,
        place: impl ToString,
        what: impl ToString,
        next_step: &'static str,
    ) {
        let next_step = next_step.to_owned();
        self.findings.push(Finding { severity, place: place.to_string(), what: what.to_string(), next_step });
    }

    fn join(&mut self, mut later: Self) {
        self.parents.append(&mut later.parents);
        self.differing.append(&mut later.differing);
        self.findings.append(&mut later.findings);
        self.tiles = self.tiles.saturating_add(later.tiles);
        for (block, sum) in later.sums {
            self.sums.entry(block).or_default().join(sum);
        }
        for (channel, said) in later.channels {
            self.channels.entry(channel).or_default().join(said);
        }
    }

    /// The hashes of the tiles of level 1 and above, from the entries; none if some are unknown.
    fn rows(&self) -> Option<Vec<Vec<Digest>>> {
        self.parents.iter().copied().collect::<Option<Vec<_>>>().map(upper_rows)
    }

    /// The same, trusting tiles instead of entries where they differ.
    fn rows_by_tiles(&self) -> Option<Vec<Vec<Digest>>> {
        let parents = (0..).zip(&self.parents).map(|(number, parent)| match self.differing.get(&number) {
            Some((by_tile, _)) => *by_tile,
            None => *parent,
        });
        parents.collect::<Option<Vec<_>>>().map(upper_rows)
    }
}

/// The hashes on each level of tiles from 1 on.
fn upper_rows(parents: Vec<Digest>) -> Vec<Vec<Digest>> {
    let mut rows = vec![parents];
    while let Some(row) = rows.last().filter(|row| row.len() >= 256) {
        rows.push(row.chunks_exact(256).filter_map(subtree_hash).collect());
    }
    rows
}
