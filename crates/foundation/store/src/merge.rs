//! The state after a stretch of the journal: a snapshot and the segments behind it, merged into one run of rows in
//! order, in bounded memory.
//!
//! The journal is read once. Its changes are sorted in memory; when they grow past a limit they become a sorted
//! file of their own, a chunk. In the end the snapshot and all chunks are read side by side, and of each row the
//! newest version counts. Chunks are merged among themselves when there are many, so that few files are open.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io;
use std::path::{Path, PathBuf};

use crate::blocks::{BlockReader, BlockWriter, Durability, HEADER_LENGTH, Header, StoredRow};
use crate::disk::Disk;
use crate::overlay::{Change, Origin, Overlay};
use crate::record::Group;
use crate::segment::{self, Segment};
use crate::snapshot::{DRAFT_EXTENSION, Snapshot};
use crate::{OpenError, StoreError, table};

/// What is to be merged, and with what means.
pub(crate) struct Merge<'a> {
    pub(crate) base: Option<&'a Snapshot>,
    /// From the one that holds the transaction behind the base, to the end.
    pub(crate) segments: &'a [Segment],
    /// An existing directory for chunks; they are removed when the merged rows are dropped.
    pub(crate) scratch: &'a Path,
    pub(crate) disk: &'a Disk,
    /// About how many bytes of changes are held in memory.
    pub(crate) chunk_bytes: usize,
    /// Asked from time to time.
    pub(crate) go_on: &'a dyn Fn() -> bool,
}

/// The merged rows, and what they are the state of.
pub(crate) struct Merged<'a> {
    header: Header,
    rows: SideBySide,
    unasked: u32,
    go_on: &'a dyn Fn() -> bool,
    /// Removed with this.
    _chunks: Chunks<'a>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    /// It was told not to go on.
    #[error("the store is being closed")]
    Stopped,
    #[error(transparent)]
    Failed(#[from] OpenError),
    #[error(transparent)]
    Refused(#[from] StoreError),
}

/// So many chunks of one level are merged into one of the next.
const FAN_IN: usize = 16;
/// What a change costs in memory beside its bytes, roughly.
const CHANGE_OVERHEAD: usize = 128;
/// How many rows are merged between two questions whether to go on.
const ROWS_PER_QUESTION: u32 = 1024;

impl<'a> Merge<'a> {
    /// Reads the journal; the rows are then read off the result.
    pub(crate) fn run(self) -> Result<Merged<'a>, Interrupted> {
        let Self { base, segments, scratch, disk, chunk_bytes, go_on } = self;
        let mut header = match (base, segments.first()) {
            (Some(base), _) => base.header,
            (None, first) => {
                let identity = first.map(|first| first.header.identity).unwrap_or_default();
                Header { identity, sequence: 0, time: 0 }
            }
        };
        let mut sorter = Sorter {
            pending: Overlay::default(),
            bytes: 0,
            limit: chunk_bytes,
            chunks: Chunks { disk, scratch, identity: header.identity, made: Vec::new(), count: 0 },
        };
        segment::replay(segments, header.sequence, |group| {
            if !go_on() {
                return Err(Interrupted::Stopped);
            }
            sorter.take(group, &mut header).map_err(Interrupted::Failed)
        })?;

        let Sorter { pending, chunks, .. } = sorter;
        let mut sources = Vec::new();
        if let Some(base) = base {
            sources.push(Source::File(base.all_rows()?));
        }
        for chunk in &chunks.made {
            sources.push(Source::File(chunk.rows()?));
        }
        sources.push(Source::Memory(Box::new(pending.into_changes())));
        Ok(Merged { header, rows: SideBySide::start(sources)?, unasked: 0, go_on, _chunks: chunks })
    }
}

impl Merged<'_> {
    /// The next row, or nothing behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<StoredRow>, Interrupted> {
        loop {
            self.unasked = self.unasked.saturating_add(1);
            if self.unasked >= ROWS_PER_QUESTION {
                self.unasked = 0;
                if !(self.go_on)() {
                    return Err(Interrupted::Stopped);
                }
            }
            match self.rows.next()? {
                Some(row) if row.value.is_none() => {}
                row => return Ok(row),
            }
        }
    }

    /// Of the last transaction that was merged.
    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// How many chunks were written, those that were merged among themselves included.
    #[cfg(test)]
    pub(crate) fn chunks_written(&self) -> u64 {
        self._chunks.count
    }
}

/// Collects the journal's changes, and the history rows that follow from them.
struct Sorter<'a> {
    pending: Overlay,
    /// In memory, about.
    bytes: usize,
    limit: usize,
    chunks: Chunks<'a>,
}

impl Sorter<'_> {
    /// Takes what the group holds behind `reached`, and moves that on.
    fn take(&mut self, group: &Group<'_>, reached: &mut Header) -> Result<(), OpenError> {
        for (entry, sequence) in group.entries.iter().zip(group.first_sequence..) {
            if sequence <= reached.sequence {
                continue;
            }
            for change in &entry.changes {
                let row_key = table::row_key(change.table, change.key);
                let value = change.value.map(<[u8]>::to_vec);
                let copies = if change.origin == Origin::WrittenWithHistory { 2 } else { 1 };
                let bytes = row_key.len().saturating_add(value.as_ref().map_or(0, Vec::len));
                let held = bytes.saturating_add(CHANGE_OVERHEAD).saturating_mul(copies);
                self.bytes = self.bytes.saturating_add(held);
                self.pending.write(row_key, Change { value, origin: change.origin }, sequence, entry.time);
                if self.bytes >= self.limit {
                    self.chunks.spill(std::mem::take(&mut self.pending))?;
                    self.bytes = 0;
                }
            }
            reached.sequence = sequence;
            reached.time = entry.time;
        }
        Ok(())
    }
}

/// Sorted files, oldest first.
struct Chunks<'a> {
    disk: &'a Disk,
    scratch: &'a Path,
    identity: [u8; 16],
    made: Vec<Chunk>,
    /// How many there ever were.
    count: u64,
}

struct Chunk {
    path: PathBuf,
    header: Header,
    length: u64,
    /// How often its rows were merged with those of other chunks.
    level: u32,
}

impl Chunks<'_> {
    fn spill(&mut self, changes: Overlay) -> Result<(), OpenError> {
        self.make(0, SideBySide::start(vec![Source::Memory(Box::new(changes.into_changes()))])?)?;
        while let Some(first) = self.made.len().checked_sub(FAN_IN)
            && let Some(level) = self.made.last().map(|last| last.level)
            && self.made.iter().skip(first).all(|chunk| chunk.level == level)
        {
            let sources = self.made.iter().skip(first).map(|chunk| chunk.rows().map(Source::File));
            let merged = SideBySide::start(sources.collect::<Result<_, _>>()?)?;
            let merged_away = self.made.split_off(first);
            let made = self.make(level.saturating_add(1), merged);
            self.remove(&merged_away);
            made?;
        }
        Ok(())
    }

    fn make(&mut self, level: u32, mut rows: SideBySide) -> Result<(), OpenError> {
        self.count = self.count.saturating_add(1);
        let path = self.scratch.join(format!("chunk-{}.{DRAFT_EXTENSION}", self.count));
        let header = Header { identity: self.identity, sequence: self.count, time: 0 };
        // Known before it is written, so that it is removed even if writing it fails.
        self.made.push(Chunk { path: path.clone(), header, length: HEADER_LENGTH, level });
        let written = |result: io::Result<u64>| result.map_err(OpenError::io("write", &path));
        let file = self.disk.create(&path).map_err(OpenError::io("create", &path))?;
        let mut blocks = BlockWriter::start(file, &header).map_err(OpenError::io("write", &path))?;
        while let Some(row) = rows.next()? {
            blocks.push(&row).map_err(OpenError::io("write", &path))?;
        }
        let length = written(blocks.finish(Durability::Scratch))?;
        if let Some(chunk) = self.made.last_mut() {
            chunk.length = length;
        }
        Ok(())
    }

    /// What cannot be removed now is removed at the next start.
    fn remove(&self, chunks: &[Chunk]) {
        for chunk in chunks {
            if let Err(error) = self.disk.remove(&chunk.path) {
                tracing::debug!(%error, path = %chunk.path.display(), "a scratch file is left behind");
            }
        }
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        self.remove(&made);
    }
}

impl Chunk {
    fn rows(&self) -> Result<BlockReader, OpenError> {
        BlockReader::open(&self.path, &self.header, HEADER_LENGTH, self.length)
    }
}

/// Rows in order.
enum Source {
    File(BlockReader),
    Memory(Box<dyn Iterator<Item = (Vec<u8>, Change)>>),
}

impl Source {
    fn next(&mut self) -> Result<Option<StoredRow>, OpenError> {
        match self {
            Self::File(rows) => rows.next(),
            Self::Memory(changes) => Ok(changes.next().map(|(row_key, change)| {
                let is_resident = change.origin == Origin::Resident;
                StoredRow { row_key, value: change.value, is_resident }
            })),
        }
    }
}

/// Several sources read as one: of each row only the version in the latest source, deleted rows included.
struct SideBySide {
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<Head>>,
}

/// The next row of a source.
struct Head {
    row: StoredRow,
    source: usize,
}

impl SideBySide {
    /// Later sources are newer.
    fn start(sources: Vec<Source>) -> Result<Self, OpenError> {
        let count = sources.len();
        let mut rows = Self { sources, heads: BinaryHeap::with_capacity(count) };
        for source in 0..count {
            rows.advance(source)?;
        }
        Ok(rows)
    }

    fn next(&mut self) -> Result<Option<StoredRow>, OpenError> {
        let Some(Reverse(newest)) = self.heads.pop() else { return Ok(None) };
        self.advance(newest.source)?;
        while self.heads.peek().is_some_and(|Reverse(head)| head.row.row_key == newest.row.row_key) {
            if let Some(Reverse(older)) = self.heads.pop() {
                self.advance(older.source)?;
            }
        }
        Ok(Some(newest.row))
    }

    fn advance(&mut self, source: usize) -> Result<(), OpenError> {
        let Some(rows) = self.sources.get_mut(source) else { return Ok(()) };
        if let Some(row) = rows.next()? {
            self.heads.push(Reverse(Head { row, source }));
        }
        Ok(())
    }
}

impl Ord for Head {
    /// By row, the newest version first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.row.row_key.cmp(&other.row.row_key).then_with(|| other.source.cmp(&self.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}
