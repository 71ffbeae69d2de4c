//! The index: every row that is not resident, in sled, together with how far it has followed the journal.
//!
//! sled is never trusted for durability. All rows lie in one tree, in which the standing is written after the rows
//! it stands for: an index whose process was killed in between holds some rows of later transactions, and applying
//! these once more changes nothing. sled's batches are not used: what they replace is freed only slowly, and memory
//! grows without bound under many of them. Each index has a directory `index/<generation>` of its own: a new one can be built beside
//! the one in use. Where there are several, the lowest is the one that was in use.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::blocks::StoredRow;
use crate::disk::Disk;
use crate::merge::Interrupted;
use crate::overlay::{Change, Entry, Origin, Overlay, Span};
use crate::progress::{Progress, Unit};
use crate::record::{Cursor, Group};
use crate::segment::{self, Segment, Survey};
use crate::snapshot::Snapshot;
use crate::{OpenError, StoreError, table};

/// A handle; clones share the index.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    rows: sled::Db,
    generation: u64,
}

/// Where the indexes lie, beside the journal.
#[derive(Debug, Clone)]
pub(crate) struct IndexPlace {
    disk: Disk,
    store: PathBuf,
    directory: PathBuf,
    marker: PathBuf,
    /// What the marker is named after when the index is not to be trusted any more: to rename takes no space.
    condemned: PathBuf,
}

/// An index that is open only to be looked at.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) index: Index,
    /// The process that had it open last was killed.
    was_open: bool,
}

/// How the index came to match the journal.
#[derive(Debug, Default)]
pub(crate) struct CaughtUp {
    pub(crate) applied: u64,
    pub(crate) rebuilt: Option<String>,
    /// The last sequence the index had applied, if the journal ends before.
    pub(crate) ahead: Option<u64>,
}

/// What is to become of an index that can be used.
#[derive(Clone, Copy)]
pub(crate) enum Wish<'a> {
    Keep,
    /// Built anew all the same; hears how far that is.
    Rebuild(&'a dyn Fn(Progress)),
}

/// Why an index is not used.
#[derive(Debug)]
struct Unfit {
    why: String,
    /// As of [`CaughtUp`].
    ahead: Option<u64>,
}

/// Which journal an index follows, and the last sequence it has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) identity: [u8; 16],
    pub(crate) applied: u64,
}

/// No table name is empty, so no row has this key.
const STANDING_KEY: &[u8] = b"\0standing";
/// Raised when the layout of row keys or derived rows changes; an index of another layout is rebuilt.
const LAYOUT: u8 = 1;
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// A file with this name in a store's directory says that acknowledged changes are missing from the journal, and how that
/// was found out. Who signs for the node removes it once they are back.
pub const LOST: &str = "lost";
/// What an index that was ahead of the journal is named after, with how far it was.
const AHEAD: &str = "index.ahead-";
const MARKER: &str = "index.open";
const CONDEMNED: &str = "index.condemned";
/// Rows collected before they are applied while catching up, and their bytes.
const COLLECTED_ROWS: usize = 10_000;
const COLLECTED_BYTES: usize = 16 * 1024 * 1024;
/// How many rows are built between two questions whether to go on.
const ROWS_PER_QUESTION: u64 = 1024;

impl IndexPlace {
    pub(crate) fn new(store: &Path, disk: &Disk) -> Self {
        Self {
            disk: disk.clone(),
            store: store.to_owned(),
            directory: store.join("index"),
            marker: store.join(MARKER),
            condemned: store.join(CONDEMNED),
        }
    }

    /// Opens the index and brings it to the end of the surveyed journal, rebuilding it from `base` and the journal
    /// behind if it cannot be trusted.
    pub(crate) fn open(
        &self,
        identity: [u8; 16],
        survey: &Survey,
        base: Option<&Snapshot>,
        wish: Wish<'_>,
    ) -> Result<(Index, CaughtUp), OpenError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim();
        let doubt = self.distrust(boot);
        // Of a store that never held anything, an index that was not finished is nothing to speak of.
        let is_told = survey.last_sequence > 0 || doubt.is_none();
        let opened = match doubt {
            Some(doubt) => Err(Unfit::because(doubt)),
            None => {
                // sled writes as soon as it is opened, so the marker comes first.
                self.mark(boot).map_err(OpenError::io("write", &self.marker))?;
                self.open_trusted(identity, survey, base, wish)?
            }
        };
        let (index, caught_up) = match opened {
            Ok((index, applied)) => (index, CaughtUp { applied, ..CaughtUp::default() }),
            Err(unfit) => {
                let (index, applied) = self.rebuild(identity, survey, base, &unfit, wish)?;
                let Unfit { why, ahead } = unfit;
                (index, CaughtUp { applied, rebuilt: is_told.then_some(why), ahead })
            }
        };
        // A process killed soon after this must not cost the index once more.
        index.flush().map_err(|error| self.unusable(error))?;
        self.mark(boot).map_err(OpenError::io("write", &self.marker))?;
        self.acquit().map_err(OpenError::io("remove", &self.condemned))?;
        Ok((index, caught_up))
    }

    /// Builds an index beside `current` that holds the rows of a snapshot.
    pub(crate) fn build_beside(
        &self,
        current: &Index,
        base: &Snapshot,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Index, Interrupted> {
        let generation = current.generation.saturating_add(1);
        self.remove(generation)?;
        let index = self.open_generation(generation)?;
        self.load(&index, base, &|_| go_on())?;
        let standing = Standing { identity: base.header.identity, applied: base.header.sequence };
        index.apply(std::iter::empty(), standing).map_err(|error| self.unusable(error))?;
        Ok(index)
    }

    /// Applies what the segments hold after sequence `after`; says how many transactions that was.
    pub(crate) fn catch_up(
        &self,
        index: &Index,
        identity: [u8; 16],
        segments: &[Segment],
        after: u64,
    ) -> Result<u64, OpenError> {
        let mut pending = Overlay::default();
        let mut bytes = 0;
        let mut reached = after;
        let apply = |pending: &mut Overlay, applied: u64| {
            let changes = std::mem::take(pending);
            let rows = changes.into_changes().map(|(row_key, change)| (row_key, change.value));
            index.apply(rows, Standing { identity, applied }).map_err(|error| self.unusable(error))
        };
        segment::replay(segments, after, |group| {
            bytes = collect(&mut pending, group, &mut reached).saturating_add(bytes);
            if pending.len() < COLLECTED_ROWS && bytes < COLLECTED_BYTES {
                return Ok(());
            }
            bytes = 0;
            apply(&mut pending, reached)
        })?;
        apply(&mut pending, reached)?;
        Ok(reached.saturating_sub(after))
    }

    /// The keys of all rows that the segments change after sequence `after`; nothing if they have more than `limit`
    /// bytes.
    pub(crate) fn changed_rows(
        segments: &[Segment],
        after: u64,
        limit: usize,
    ) -> Result<Option<BTreeSet<Vec<u8>>>, OpenError> {
        let mut keys = BTreeSet::new();
        let (mut bytes, mut reached) = (0_usize, after);
        segment::replay(segments, after, |group| {
            let mut changes = Overlay::default();
            collect(&mut changes, group, &mut reached);
            if bytes <= limit {
                for (row_key, _) in changes.into_changes() {
                    bytes = bytes.saturating_add(row_key.len());
                    keys.insert(row_key);
                }
            }
            Ok::<(), OpenError>(())
        })?;
        Ok((bytes <= limit).then_some(keys))
    }

    /// Removes an index that is no longer open.
    pub(crate) fn remove(&self, generation: u64) -> Result<(), OpenError> {
        let path = self.path(generation);
        if path.exists() {
            self.remove_removed()?;
            // Were it there again after a power failure, or half of it after a kill, it would pass for the one in
            // use.
            self.disk
                .directory(&self.directory)
                .and_then(|held| {
                    self.disk.rename(&path, &self.removed())?;
                    held.sync()
                })
                .map_err(OpenError::io("remove", &path))?;
        }
        self.remove_removed()
    }

    /// What an index is named after while it is removed.
    fn removed(&self) -> PathBuf {
        self.directory.join("removed")
    }

    fn remove_removed(&self) -> Result<(), OpenError> {
        let removed = self.removed();
        if removed.exists() {
            self.disk.remove_directory(&removed).map_err(OpenError::io("remove", &removed))?;
        }
        Ok(())
    }

    /// Removes all indexes but the one given.
    pub(crate) fn remove_others(&self, kept: u64) -> Result<(), OpenError> {
        self.generations()
            .into_iter()
            .filter(|generation| *generation != kept)
            .try_for_each(|generation| self.remove(generation))
    }

    /// Whether there is anything of an index.
    pub(crate) fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Notes that the open index went wrong, so that the next start rebuilds it.
    pub(crate) fn condemn(&self) {
        let renamed = self
            .disk
            .directory(&self.store)
            .and_then(|held| self.disk.rename(&self.marker, &self.condemned).and_then(|()| held.sync()));
        if let Err(error) = renamed {
            tracing::error!(%error, "cannot note that the index is broken; delete its directory before the restart");
        }
    }

    /// Makes the closed index durable, so that the next start may trust it whatever happens in between.
    pub(crate) fn seal(&self) -> std::io::Result<()> {
        for generation in self.generations() {
            if wait_until_closed(&self.path(generation)) == Closing::UnderWay {
                return Err(std::io::Error::other("it is still being written"));
            }
        }
        self.disk.sync_tree(&self.directory)?;
        self.unmark()
    }

    /// Opens the index in use to look at it; says why not if it cannot be trusted or does not open.
    pub(crate) fn open_as_it_is(&self) -> std::io::Result<Result<Looked, String>> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim();
        if let Some(doubt) = self.distrust(boot) {
            return Ok(Err(doubt));
        }
        let Some(generation) = self.generations().first().copied() else {
            return Ok(Err("the index was missing".to_owned()));
        };
        let was_open = self.marker.exists();
        if !was_open {
            self.mark(boot)?;
        }
        match Index::open(&self.path(generation), generation) {
            Ok(index) => Ok(Ok(Looked { index, was_open })),
            Err(why) => {
                if !was_open {
                    self.unmark()?;
                }
                Ok(Err(format!("the index does not open: {why}")))
            }
        }
    }

    /// Closes an index that was looked at. It may be trusted as before.
    pub(crate) fn close_as_it_was(&self, looked: Looked) -> std::io::Result<()> {
        let Looked { index, was_open } = looked;
        index.flush().map_err(std::io::Error::other)?;
        drop(index);
        if was_open { Ok(()) } else { self.seal() }
    }

    /// The generations there are, lowest first.
    pub(crate) fn generations(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let mut generations: Vec<u64> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|generation| self.path(*generation).is_dir())
            .collect();
        generations.sort_unstable();
        generations
    }

    pub(crate) fn path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("{generation:06}"))
    }

    /// Why the index on disk must not even be opened.
    ///
    /// The marker stands while the index is open and names the machine's boot. If the process alone ended, the
    /// kernel still has all that sled wrote; if the machine went down, sled's files may be any mixture of old and
    /// new.
    fn distrust(&self, boot: &str) -> Option<String> {
        if self.generations().is_empty() {
            return Some("the index was missing".to_owned());
        }
        if self.condemned.exists() {
            return Some("the index had failed or was being rebuilt".to_owned());
        }
        match fs::read_to_string(&self.marker) {
            Ok(marked) if marked != boot || boot.is_empty() => {
                Some("the machine stopped while the index was open".to_owned())
            }
            _ => None,
        }
    }

    /// The index in use, brought to the end of the journal; says how many transactions it lacked, or why it
    /// must be rebuilt.
    fn open_trusted(
        &self,
        identity: [u8; 16],
        survey: &Survey,
        base: Option<&Snapshot>,
        wish: Wish<'_>,
    ) -> Result<Result<(Index, u64), Unfit>, OpenError> {
        let unfit = |why: String| Ok(Err(Unfit::because(why)));
        let mut generations = self.generations().into_iter();
        let Some(generation) = generations.next() else { return unfit("the index was missing".to_owned()) };
        for unfinished in generations {
            self.remove(unfinished)?;
        }
        self.remove_removed()?;
        let index = match Index::open(&self.path(generation), generation) {
            Ok(index) => index,
            Err(why) => return unfit(format!("the index does not open: {why}")),
        };
        let standing = match index.standing() {
            Ok(Some(standing)) => standing,
            Ok(None) => return unfit("the index does not say what it holds".to_owned()),
            Err(why) => return unfit(format!("the index does not read: {why}")),
        };
        if let Some(why) = Self::unfit(standing, identity, survey) {
            return Ok(Err(why));
        }
        if let Wish::Rebuild(_) = wish {
            return unfit("it was asked for".to_owned());
        }
        match self.catch_up(&index, identity, &survey.segments, standing.applied) {
            Ok(applied) => Ok(Ok((index, applied))),
            // The journal before the snapshot is not needed otherwise, and was not surveyed.
            Err(OpenError::Damaged { why, .. })
                if base.is_some_and(|base| standing.applied < base.header.sequence) =>
            {
                unfit(format!("the index was behind the snapshot, and the journal there is damaged: {why}"))
            }
            Err(error) => Err(error),
        }
    }

    /// Why an index that stands there cannot be brought to the end of the journal.
    fn unfit(standing: Standing, identity: [u8; 16], survey: &Survey) -> Option<Unfit> {
        let applied = standing.applied;
        if standing.identity != identity {
            return Some(Unfit::because("the index belongs to another journal".to_owned()));
        }
        if applied > survey.last_sequence {
            let why = format!(
                "the index was ahead of the journal: it had applied sequence {applied}, the journal ends at {}; \
                 acknowledged changes are missing from the journal",
                survey.last_sequence
            );
            return Some(Unfit { why, ahead: Some(applied) });
        }
        let first = survey.segments.first().map_or(1, |first| first.header.first_sequence);
        (applied.saturating_add(1) < first).then(|| {
            Unfit::because(format!(
                "the index was behind: it had applied sequence {applied}, the journal now starts at {first}"
            ))
        })
    }

    fn rebuild(
        &self,
        identity: [u8; 16],
        survey: &Survey,
        base: Option<&Snapshot>,
        unfit: &Unfit,
        wish: Wish<'_>,
    ) -> Result<(Index, u64), OpenError> {
        // Were it found out later, the rows in the index would be gone for nothing.
        if let Some(base) = base {
            base.check(|_| true)?;
        }
        if unfit.ahead.is_some() {
            // Before anything else, so that no start passes it over.
            let held = self.disk.directory(&self.store);
            held.and_then(|held| self.disk.write_atomically(&held, LOST, unfit.why.as_bytes()))
                .map_err(OpenError::io("write", &self.store.join(LOST)))?;
        }
        if let Some(applied) = unfit.ahead {
            self.set_aside(applied).map_err(OpenError::io("set aside", &self.directory))?;
        }
        self.note_rebuilding().map_err(OpenError::io("write", &self.condemned))?;
        if self.directory.exists() {
            self.disk.remove_directory(&self.directory).map_err(OpenError::io("remove", &self.directory))?;
        }
        let index = self.open_generation(1)?;
        let mut after = 0;
        if let Some(base) = base {
            let total = base.rows;
            let tell = |done| {
                if let Wish::Rebuild(progress) = wish {
                    progress(Progress { step: "rebuild the index", done, total, unit: Unit::Rows });
                }
                true
            };
            match self.load(&index, base, &tell) {
                Ok(()) => {}
                Err(Interrupted::Failed(error)) => return Err(error),
                Err(other) => return Err(self.unusable(other)),
            }
            after = base.header.sequence;
        }
        let applied = self.catch_up(&index, identity, &survey.segments, after)?;
        Ok((index, applied))
    }

    /// Keeps an index that knows more than the journal, for whoever wants to know what is missing. One is kept.
    fn set_aside(&self, applied: u64) -> std::io::Result<()> {
        for older in self.aside() {
            self.disk.remove_directory(&older)?;
        }
        for generation in self.generations() {
            let _ = wait_until_closed(&self.path(generation));
        }
        let held = self.disk.directory(&self.store)?;
        self.disk.rename(&self.directory, &self.store.join(format!("{AHEAD}{applied}")))?;
        held.sync()
    }

    /// Indexes that were set aside because they were ahead of the journal.
    pub(crate) fn aside(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.store) else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(AHEAD))
            .map(|entry| entry.path())
            .collect()
    }

    /// Takes over all rows of a snapshot but the resident ones. The index does not yet say what it holds. `go_on` hears
    /// now and then how many rows have been read.
    fn load(&self, index: &Index, base: &Snapshot, go_on: &dyn Fn(u64) -> bool) -> Result<(), Interrupted> {
        let mut rows = base.all_rows()?;
        let mut count = 0_u64;
        while let Some(row) = rows.next()? {
            count = count.wrapping_add(1);
            if count.is_multiple_of(ROWS_PER_QUESTION) && !go_on(count) {
                return Err(Interrupted::Stopped);
            }
            if !row.is_resident {
                guarded(|| index.write(&row.row_key, row.value)).map_err(|why| self.unusable(why))?;
            }
        }
        Ok(())
    }

    fn open_generation(&self, generation: u64) -> Result<Index, OpenError> {
        let path = self.path(generation);
        self.disk.create_directory(&path).map_err(OpenError::io("create directory", &path))?;
        Index::open(&path, generation).map_err(|why| self.unusable(why))
    }

    fn mark(&self, state: &str) -> std::io::Result<()> {
        let held = self.disk.directory(&self.store)?;
        self.disk.write_atomically(&held, MARKER, state.as_bytes())
    }

    /// Notes that no index there is to be trusted before it was rebuilt.
    fn note_rebuilding(&self) -> std::io::Result<()> {
        let held = self.disk.directory(&self.store)?;
        self.disk.write_atomically(&held, CONDEMNED, b"")
    }

    /// Takes back that the index is not to be trusted.
    fn acquit(&self) -> std::io::Result<()> {
        if !self.condemned.exists() {
            return Ok(());
        }
        let held = self.disk.directory(&self.store)?;
        self.disk.remove(&self.condemned)?;
        held.sync()
    }

    fn unmark(&self) -> std::io::Result<()> {
        let held = self.disk.directory(&self.store)?;
        self.disk.remove(&self.marker)?;
        held.sync()
    }

    fn unusable(&self, why: impl Display) -> OpenError {
        OpenError::Index { directory: self.directory.clone(), why: why.to_string() }
    }
}

impl Unfit {
    fn because(why: String) -> Self {
        Self { why, ahead: None }
    }
}

impl Index {
    /// sled panics on some damaged files, so a panic counts as a file that does not open.
    pub(crate) fn open(directory: &Path, generation: u64) -> Result<Self, String> {
        // If it is not closed even now, sled says so.
        let _ = wait_until_closed(directory);
        let config = sled::Config::new()
            .path(directory)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        guarded(|| config.open().map(|rows| Self { rows, generation }))
    }

    /// Nothing if the index was never finished, or has another layout.
    pub(crate) fn standing(&self) -> Result<Option<Standing>, StoreError> {
        let Some(bytes) = self.get(STANDING_KEY)? else { return Ok(None) };
        let mut cursor = Cursor::new(&bytes);
        let read = |cursor: &mut Cursor<'_>| {
            let layout = cursor.u8()?;
            let standing = Standing { identity: cursor.array()?, applied: cursor.u64()? };
            (layout == LAYOUT).then_some(standing)
        };
        Ok(read(&mut cursor))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn get(&self, row_key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = guarded(|| self.rows.get(row_key)).map_err(broken)?;
        Ok(value.map(|value| value.to_vec()))
    }

    pub(crate) fn range<'a>(&self, span: &Span) -> impl DoubleEndedIterator<Item = Entry<'a>> + use<'a> {
        Rows(self.rows.range::<&Vec<u8>, _>(span.bounds())).map(|row| {
            let (row_key, value) = row.map_err(broken)?;
            Ok((Cow::Owned(row_key.to_vec()), Some(Cow::Owned(value.to_vec()))))
        })
    }

    /// Every row, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Result<StoredRow, StoreError>> + use<> {
        Rows(self.rows.iter()).filter(|row| !matches!(row, Ok((key, _)) if key == STANDING_KEY)).map(|row| {
            let (row_key, value) = row.map_err(broken)?;
            Ok(StoredRow { row_key: row_key.to_vec(), value: Some(value.to_vec()), is_resident: false })
        })
    }

    /// Moves the index on. Whoever reads meanwhile sees some of it.
    pub(crate) fn apply(
        &self,
        changes: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let mut bytes = vec![LAYOUT];
        bytes.extend_from_slice(&standing.identity);
        bytes.extend_from_slice(&standing.applied.to_be_bytes());
        guarded(|| {
            for (row_key, value) in changes {
                self.write(&row_key, value)?;
            }
            self.write(STANDING_KEY, Some(bytes))
        })
        .map_err(broken)
    }

    fn write(&self, row_key: &[u8], value: Option<Vec<u8>>) -> sled::Result<()> {
        match value {
            Some(value) => self.rows.insert(row_key, value).map(drop),
            None => self.rows.remove(row_key).map(drop),
        }
    }

    /// Hands everything to the kernel.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        guarded(|| self.rows.flush()).map(drop).map_err(broken)
    }
}

/// sled checks a page only when it is read, and panics on some that are damaged.
struct Rows(sled::Iter);

impl Iterator for Rows {
    type Item = Result<(sled::IVec, sled::IVec), String>;

    fn next(&mut self) -> Option<Self::Item> {
        guarded(|| self.0.next().transpose()).transpose()
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        guarded(|| self.0.next_back().transpose()).transpose()
    }
}

/// Adds a group's changes after sequence `reached`, and moves `reached` on. Says how many bytes they have.
fn collect(pending: &mut Overlay, group: &Group<'_>, reached: &mut u64) -> usize {
    let mut bytes = 0_usize;
    for (entry, sequence) in group.entries.iter().zip(group.first_sequence..) {
        if sequence <= *reached {
            continue;
        }
        for change in entry.changes.iter().filter(|change| change.origin != Origin::Resident) {
            let row_key = table::row_key(change.table, change.key);
            let value = change.value.map(<[u8]>::to_vec);
            bytes = bytes.saturating_add(row_key.len()).saturating_add(value.as_ref().map_or(0, Vec::len));
            pending.write(row_key, Change { value, origin: change.origin }, sequence, entry.time);
        }
        *reached = sequence;
    }
    bytes
}

/// Whether an index whose last handle was dropped is written no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Done,
    UnderWay,
}

/// sled writes on threads of its own, which may hold an index for a moment after its last handle is gone. The store's
/// lock is held, so nobody else can have it.
fn wait_until_closed(directory: &Path) -> Closing {
    const TRIES: u32 = 1000;
    const PAUSE: Duration = Duration::from_millis(2);
    let Ok(file) = File::open(directory.join("db")) else { return Closing::Done };
    for _ in 0..TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(PAUSE),
            // Closing the file frees it again.
            _ => return Closing::Done,
        }
    }
    Closing::UnderWay
}

fn broken(reason: String) -> StoreError {
    StoreError::Index { reason }
}

/// Runs a call into sled; an error or a panic becomes its text.
pub(crate) fn guarded<T, E: Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".to_owned()),
    }
}
