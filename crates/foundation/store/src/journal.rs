//! Writing the journal: groups to the end of the last segment, and a new segment when that one is full.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::OpenError;
use crate::disk::{Directory, Disk, DiskFile};
use crate::record::Seed;
use crate::segment::{self, HEADER_LENGTH, Header, Segment, Survey};

/// The journal's open end. After an error it must not be used again.
pub(crate) struct Journal {
    disk: Disk,
    /// Held as long as the journal is: an error of writing names back must find an open handle.
    directory: Directory,
    identity: [u8; 16],
    number: u64,
    length: u64,
    segment_bytes: u64,
    file: DiskFile,
    extent: Arc<Extent>,
}

/// What of the journal is durable, for those who read it while it is written.
#[derive(Debug)]
pub(crate) struct Extent(Mutex<Durable>);

/// The segments, their durable lengths, and what the last transaction in them is.
#[derive(Debug, Clone)]
pub(crate) struct Durable {
    /// The last one is open, the others are sealed: they never change.
    pub(crate) segments: Vec<Segment>,
    pub(crate) last_sequence: u64,
}

/// Whether an append found the segment full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    Behind,
    ToNewSegment,
}

impl Journal {
    /// Continues a surveyed journal, cutting off its torn tail, or starts a new one.
    pub(crate) fn open(
        directory: &Path,
        survey: &Survey,
        segment_bytes: u64,
        disk: &Disk,
    ) -> Result<Self, OpenError> {
        let held = disk.directory(directory).map_err(OpenError::io("open", directory))?;
        let draft = Segment::draft_path(directory);
        if draft.exists() {
            disk.remove(&draft).map_err(OpenError::io("remove", &draft))?;
        }
        let Some(last) = survey.segments.last() else {
            let header = Header { identity: random_identity(), number: 1, first_sequence: 1 };
            let file = create_segment(&held, &header, disk).map_err(OpenError::io("create", directory))?;
            let segment = Segment::empty(directory, header);
            return Ok(Self::at_end_of(file, held, vec![segment], 0, segment_bytes, disk));
        };
        let mut file = disk.overwrite(&last.path).map_err(OpenError::io("open", &last.path))?;
        if survey.torn_bytes > 0 {
            file.truncate(last.length).map_err(OpenError::io("truncate", &last.path))?;
        }
        // The last process may have ended between a write and its fsync, or because that fsync failed: what was read
        // must be durable before anyone sees it. After a failed fsync the kernel takes the bytes it holds for written,
        // and syncing them again would do nothing. So they are written again, each where it is.
        if let Some(offset) = survey.last_group {
            let group = segment::last_group(last, offset)?;
            file.write_at(&group, offset).map_err(OpenError::io("write", &last.path))?;
        }
        file.sync().map_err(OpenError::io("sync", &last.path))?;
        let file = disk.append(&last.path).map_err(OpenError::io("open", &last.path))?;
        held.sync().map_err(OpenError::io("sync directory", directory))?;
        let segments = survey.segments.clone();
        Ok(Self::at_end_of(file, held, segments, survey.last_sequence, segment_bytes, disk))
    }

    fn at_end_of(
        file: DiskFile,
        directory: Directory,
        segments: Vec<Segment>,
        last_sequence: u64,
        segment_bytes: u64,
        disk: &Disk,
    ) -> Self {
        let (identity, number, length) = segments
            .last()
            .map(|last| (last.header.identity, last.header.number, last.length))
            .unwrap_or_default();
        let extent = Arc::new(Extent(Mutex::new(Durable { segments, last_sequence })));
        Self { disk: disk.clone(), directory, identity, number, length, segment_bytes, file, extent }
    }

    pub(crate) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::of(&self.identity)
    }

    pub(crate) fn extent(&self) -> Arc<Extent> {
        self.extent.clone()
    }

    /// Writes a group that holds the transactions from `first_sequence` to `last_sequence`, and returns when it is
    /// durable.
    pub(crate) fn append(
        &mut self,
        group: &[u8],
        first_sequence: u64,
        last_sequence: u64,
    ) -> io::Result<Appended> {
        let mut appended = Appended::Behind;
        if self.length >= self.segment_bytes {
            self.rotate(first_sequence)?;
            appended = Appended::ToNewSegment;
        }
        self.file.write_all(group)?;
        self.file.sync()?;
        self.length = self.length.saturating_add(group.len() as u64);
        let mut durable = self.extent.lock();
        durable.last_sequence = last_sequence;
        if let Some(open) = durable.segments.last_mut() {
            open.length = self.length;
        }
        Ok(appended)
    }

    /// Seals the open segment if it holds anything; `next` is the first sequence behind it.
    pub(crate) fn seal(&mut self, next: u64) -> io::Result<()> {
        if self.length > HEADER_LENGTH { self.rotate(next) } else { Ok(()) }
    }

    fn rotate(&mut self, first_sequence: u64) -> io::Result<()> {
        let number =
            self.number.checked_add(1).ok_or_else(|| io::Error::other("segment numbers are exhausted"))?;
        let header = Header { identity: self.identity, number, first_sequence };
        self.file = create_segment(&self.directory, &header, &self.disk)?;
        self.number = number;
        self.length = HEADER_LENGTH;
        self.extent.lock().segments.push(Segment::empty(self.directory.path(), header));
        Ok(())
    }
}

impl Extent {
    /// What is durable at this moment.
    pub(crate) fn durable(&self) -> Durable {
        self.lock().clone()
    }

    /// Forgets a segment that was deleted.
    pub(crate) fn forget(&self, number: u64) {
        self.lock().segments.retain(|segment| segment.header.number != number);
    }

    fn lock(&self) -> MutexGuard<'_, Durable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Durable {
    /// The segments that never change any more.
    pub(crate) fn sealed(&self) -> &[Segment] {
        self.segments.split_last().map_or(&[], |(_, sealed)| sealed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().fold(0, |bytes, segment| bytes.saturating_add(segment.length))
    }

    /// The last sequence in a sealed segment; 0 if there is none.
    pub(crate) fn sealed_until(&self) -> u64 {
        self.segments.last().map_or(0, |open| open.header.first_sequence.saturating_sub(1))
    }
}

/// Creates a segment that holds its header. It gets its name only when it is complete, so that a segment
/// without a whole header is always damage.
fn create_segment(directory: &Directory, header: &Header, disk: &Disk) -> io::Result<DiskFile> {
    let draft = Segment::draft_path(directory.path());
    let path = Segment::path(directory.path(), header.number);
    let mut file = disk.create(&draft)?;
    file.write_all(&header.encode())?;
    file.sync()?;
    disk.rename(&draft, &path)?;
    directory.sync()?;
    Ok(file)
}

/// The identity only has to differ between journals and to be unknown to peers. The keys of a `RandomState` come
/// from the operating system, and each state has its own.
fn random_identity() -> [u8; 16] {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    ((half() << 64) | half()).to_be_bytes()
}
