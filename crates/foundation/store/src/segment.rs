//! Reading the journal: which segments there are, whether they check, and what they hold.
//!
//! Reading never writes. [`survey`] walks the journal behind a snapshot and decides; only after it has succeeded
//! does anything get truncated, deleted or applied.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::record::{self, Cursor, FRAME_BYTES, Group, MAX_PAYLOAD_BYTES, PREAMBLE_BYTES, Seed, Unreadable};

/// What a segment file starts with.
///
/// `magic 8 | format version u32 | journal identity 16 | segment number u64 | first sequence u64 | CRC-32C u32`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Random, the same in all segments of one journal.
    pub(crate) identity: [u8; 16],
    /// Counts from 1.
    pub(crate) number: u64,
    /// Of the first transaction the segment holds, or will hold.
    pub(crate) first_sequence: u64,
}

/// A checked journal.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Empty if there is no journal yet.
    pub(crate) segments: Vec<Segment>,
    /// Of the last transaction; 0 if there is none.
    pub(crate) last_sequence: u64,
    /// Of the last transaction, in milliseconds; 0 if there is none.
    pub(crate) last_time: u64,
    /// How many bytes behind the last segment's `length` belong to a group that was never completed.
    pub(crate) torn_bytes: u64,
    /// Where in the last segment its last group starts; nothing if it holds none.
    pub(crate) last_group: Option<u64>,
}

/// One segment file.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    /// Bytes that check, header included.
    pub(crate) length: u64,
}

/// The size of an encoded [`Header`].
pub(crate) const HEADER_BYTES: usize = 48;
/// The same, as a length of files.
pub(crate) const HEADER_LENGTH: u64 = 48;

const MAGIC: &[u8; 8] = b"HTJOURNL";
const FORMAT: u32 = 1;
const EXTENSION: &str = "seg";

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&self.identity);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.first_sequence.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Unreadable> {
        let cut = || "the segment header is cut short".to_owned();
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<8>().as_ref() != Some(MAGIC) {
            return Err(Unreadable::Damaged("this is not a journal segment".to_owned()));
        }
        let format = cursor.u32().ok_or_else(cut)?;
        let identity = cursor.array().ok_or_else(cut)?;
        let number = cursor.u64().ok_or_else(cut)?;
        let first_sequence = cursor.u64().ok_or_else(cut)?;
        let checksum = cursor.u32().ok_or_else(cut)?;
        let (covered, _) = bytes.split_last_chunk::<4>().ok_or_else(cut)?;
        if crc32c::crc32c(covered) != checksum {
            return Err(Unreadable::Damaged("the segment header does not match its checksum".to_owned()));
        }
        if format != FORMAT {
            return Err(Unreadable::Version { found: format, newest: FORMAT });
        }
        Ok(Self { identity, number, first_sequence })
    }
}

impl Segment {
    /// The file name of a segment, by number.
    pub(crate) fn path(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("{number:012}.{EXTENSION}"))
    }

    /// A segment that holds only its header.
    pub(crate) fn empty(directory: &Path, header: Header) -> Self {
        Self { path: Self::path(directory, header.number), header, length: HEADER_LENGTH }
    }

    /// Where a segment is prepared before it gets its name.
    pub(crate) fn draft_path(directory: &Path) -> PathBuf {
        directory.join("next.tmp")
    }
}

/// Checks the journal from the transaction behind sequence `after` to the last byte, and shows each group that
/// checks to `visit`; the first ones may hold transactions up to `after` too. Of segments that end before, only
/// the headers are checked.
pub(crate) fn survey(
    directory: &Path,
    after: u64,
    mut visit: impl FnMut(&Group<'_>),
) -> Result<Survey, OpenError> {
    let mut segments = inventory(directory, after)?;
    let mut progress = Progress { last_sequence: 0, last_time: 0 };
    let mut torn_bytes = 0;
    let mut last_group = None;
    let skipped = holding(&segments, after);
    let count = segments.len();
    for (place, segment) in segments.iter_mut().enumerate().skip(skipped) {
        let path = segment.path.clone();
        if place == skipped {
            progress.last_sequence = segment.header.first_sequence.saturating_sub(1);
        } else {
            progress.check_header(&segment.header).map_err(|why| damaged(&path, 0, why))?;
        }
        let mut reader = GroupReader::open(segment)?;
        last_group = None;
        loop {
            let offset = reader.offset;
            match reader.next_payload()? {
                Found::End => break,
                Found::Payload(payload) => {
                    let group = record::decode(payload).map_err(|why| unreadable(&path, offset, why))?;
                    progress.advance(&group).map_err(|why| damaged(&path, offset, why))?;
                    visit(&group);
                    last_group = Some(offset);
                }
                Found::Bad(why) if place.saturating_add(1) < count => {
                    let why = format!("{why}, and later segments exist");
                    return Err(damaged(&path, offset, why));
                }
                Found::Bad(why) => {
                    if let Some(later) = reader.find_group_behind(offset, progress.last_sequence)? {
                        let why = format!("{why}, and a complete group follows at byte {later}");
                        return Err(damaged(&path, offset, why));
                    }
                    torn_bytes = reader.length.saturating_sub(offset);
                    break;
                }
            }
        }
        segment.length = reader.offset;
    }
    let Progress { last_sequence, last_time } = progress;
    if last_sequence < after {
        let place = segments.last().map_or_else(|| Segment::path(directory, 1), |last| last.path.clone());
        let offset = segments.last().map_or(0, |last| last.length);
        let why = format!("the journal ends at sequence {last_sequence}, a snapshot holds up to {after}");
        return Err(damaged(&place, offset, why));
    }
    Ok(Survey { segments, last_sequence, last_time, torn_bytes, last_group })
}

/// Hands every group that holds a transaction after `after` to `apply`, in order.
pub(crate) fn replay<E: From<OpenError>>(
    segments: &[Segment],
    after: u64,
    mut apply: impl FnMut(&Group<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let skipped = holding(segments, after);
    let mut progress = Progress { last_sequence: 0, last_time: 0 };
    for (place, segment) in segments.iter().enumerate().skip(skipped) {
        if place == skipped {
            progress.last_sequence = segment.header.first_sequence.saturating_sub(1);
        } else {
            progress.check_header(&segment.header).map_err(|why| damaged(&segment.path, 0, why))?;
        }
        let mut reader = GroupReader::open(segment)?;
        loop {
            let offset = reader.offset;
            match reader.next_payload()? {
                Found::End => break,
                Found::Payload(payload) => {
                    let group =
                        record::decode(payload).map_err(|why| unreadable(&segment.path, offset, why))?;
                    progress.advance(&group).map_err(|why| damaged(&segment.path, offset, why))?;
                    if progress.last_sequence > after {
                        apply(&group)?;
                    }
                }
                Found::Bad(why) => return Err(damaged(&segment.path, offset, why).into()),
            }
        }
    }
    Ok(())
}

/// The bytes of a segment's last group, which starts at `offset` and still has to check.
pub(crate) fn last_group(segment: &Segment, offset: u64) -> Result<Vec<u8>, OpenError> {
    let path = &segment.path;
    let size = usize::try_from(segment.length.saturating_sub(offset)).unwrap_or_default();
    let mut bytes = vec![0; size];
    let file = File::open(path).map_err(OpenError::io("open", path))?;
    file.read_exact_at(&mut bytes, offset).map_err(OpenError::io("read", path))?;
    let checksum = bytes.get(4..FRAME_BYTES).and_then(|checksum| Cursor::new(checksum).u32());
    let payload = bytes.get(FRAME_BYTES..).unwrap_or_default();
    if checksum != Some(Seed::of(&segment.header.identity).checksum(payload)) {
        let why = "the last group checked a moment ago and no longer does".to_owned();
        return Err(damaged(path, offset, why));
    }
    Ok(bytes)
}

/// The segments from the one that holds, or will hold, the transaction behind `after`.
pub(crate) fn from(segments: &[Segment], after: u64) -> &[Segment] {
    segments.get(holding(segments, after)..).unwrap_or_default()
}

/// The place of the segment that holds, or will hold, the transaction behind `after`.
fn holding(segments: &[Segment], after: u64) -> usize {
    let next = after.saturating_add(1);
    segments.partition_point(|segment| segment.header.first_sequence <= next).saturating_sub(1)
}

/// The segments there are, their headers checked, their lengths as the files have them.
fn inventory(directory: &Path, after: u64) -> Result<Vec<Segment>, OpenError> {
    let mut segments: Vec<Segment> = Vec::new();
    for number in segment_numbers(directory)? {
        let path = Segment::path(directory, number);
        if let Some(expected) = segments.last().map(|last| last.header.number.saturating_add(1))
            && number != expected
        {
            return Err(missing(directory, expected, &format!("the next one there is {}", path.display())));
        }
        let (header, length) = read_header(&path)?;
        if header.number != number {
            let why = format!("the file is named segment {number} but says it is segment {}", header.number);
            return Err(damaged(&path, 0, why));
        }
        if let Some(last) = segments.last() {
            if last.header.identity != header.identity {
                let why = "the segment belongs to another journal than the one before it".to_owned();
                return Err(damaged(&path, 0, why));
            }
            if last.header.first_sequence > header.first_sequence {
                let why = "the segment starts before the one before it".to_owned();
                return Err(damaged(&path, 0, why));
            }
        }
        segments.push(Segment { path, header, length });
    }
    match segments.first() {
        None if after > 0 => Err(missing(directory, 1, &format!("a snapshot holds up to sequence {after}"))),
        Some(first) if first.header.first_sequence > after.saturating_add(1) => {
            let begins = first.header.first_sequence;
            let why =
                format!("the journal starts at sequence {begins}, and no snapshot holds what is before");
            Err(missing(directory, first.header.number.saturating_sub(1), &why))
        }
        _ => Ok(segments),
    }
}

fn read_header(path: &Path) -> Result<(Header, u64), OpenError> {
    let file = File::open(path).map_err(OpenError::io("open", path))?;
    let length = file.metadata().map_err(OpenError::io("inspect", path))?.len();
    if length < HEADER_LENGTH {
        return Err(damaged(path, 0, "the segment header is cut short".to_owned()));
    }
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(OpenError::io("read", path))?;
    let header = Header::decode(&bytes).map_err(|why| unreadable(path, 0, why))?;
    Ok((header, length))
}

enum Found<'a> {
    Payload(&'a [u8]),
    End,
    Bad(String),
}

/// Reads one segment group by group, never holding more than one.
struct GroupReader {
    path: PathBuf,
    file: BufReader<File>,
    seed: Seed,
    /// Of the group that is read next.
    offset: u64,
    /// Of the file, as far as it is to be read.
    length: u64,
    payload: Vec<u8>,
}

impl GroupReader {
    /// Reads a segment whose header was checked, up to its length.
    fn open(segment: &Segment) -> Result<Self, OpenError> {
        let path = segment.path.clone();
        let file = File::open(&path).map_err(OpenError::io("open", &path))?;
        let mut file = BufReader::with_capacity(256 * 1024, file);
        file.seek(SeekFrom::Start(HEADER_LENGTH)).map_err(OpenError::io("read", &path))?;
        let seed = Seed::of(&segment.header.identity);
        Ok(Self { path, file, seed, offset: HEADER_LENGTH, length: segment.length, payload: Vec::new() })
    }

    /// The next group's payload if it checks. After `Bad` the reader stays where the bad group starts.
    fn next_payload(&mut self) -> Result<Found<'_>, OpenError> {
        let left = self.length.saturating_sub(self.offset);
        if left == 0 {
            return Ok(Found::End);
        }
        if left < FRAME_BYTES as u64 {
            return Ok(Found::Bad("the group is incomplete".to_owned()));
        }
        let mut frame = [0; FRAME_BYTES];
        self.file.read_exact(&mut frame).map_err(OpenError::io("read", &self.path))?;
        let [l0, l1, l2, l3, checksum @ ..] = frame;
        let (length, checksum) = (u32::from_be_bytes([l0, l1, l2, l3]), u32::from_be_bytes(checksum));
        let Ok(size) = usize::try_from(length) else {
            return Ok(Found::Bad("the group's length is impossible".to_owned()));
        };
        if !(PREAMBLE_BYTES..=MAX_PAYLOAD_BYTES).contains(&size) {
            return Ok(Found::Bad(format!("the group's length of {size} bytes is impossible")));
        }
        let whole = u64::from(length).saturating_add(FRAME_BYTES as u64);
        if whole > left {
            return Ok(Found::Bad("the group is incomplete".to_owned()));
        }
        self.payload.resize(size, 0);
        self.file.read_exact(&mut self.payload).map_err(OpenError::io("read", &self.path))?;
        if self.seed.checksum(&self.payload) != checksum {
            return Ok(Found::Bad("the group does not match its checksum".to_owned()));
        }
        self.offset = self.offset.saturating_add(whole);
        Ok(Found::Payload(&self.payload))
    }

    /// Where behind `offset` a complete group of this journal starts that comes after `last_sequence`.
    ///
    /// Tells a torn tail from damage: only the last write can be torn, so nothing complete follows it. Every
    /// byte is a candidate, because a damaged length hides where the next group starts.
    fn find_group_behind(&mut self, offset: u64, last_sequence: u64) -> Result<Option<u64>, OpenError> {
        const WINDOW: usize = 256 * 1024;
        const START: usize = FRAME_BYTES + 13;
        let mut window_at = offset.saturating_add(1);
        let mut window = vec![0; WINDOW];
        while window_at < self.length {
            let filled = self.read_at(&mut window, window_at)?;
            let candidates = window.get(..filled).unwrap_or_default().windows(START);
            for (start, candidate_at) in candidates.zip(window_at..) {
                let Some((size, sequence)) = record::recognise(start, self.seed) else { continue };
                if sequence > last_sequence && self.is_group(candidate_at, size)? {
                    return Ok(Some(candidate_at));
                }
            }
            if filled < WINDOW {
                break;
            }
            window_at = window_at.saturating_add((WINDOW - START + 1) as u64);
        }
        Ok(None)
    }

    fn is_group(&mut self, offset: u64, size: usize) -> Result<bool, OpenError> {
        let payload_at = offset.saturating_add(FRAME_BYTES as u64);
        let end = payload_at.saturating_add(size as u64);
        if !(PREAMBLE_BYTES..=MAX_PAYLOAD_BYTES).contains(&size) || end > self.length {
            return Ok(false);
        }
        let mut checksum = [0; 4];
        let mut payload = vec![0; size];
        self.read_at(&mut checksum, offset.saturating_add(4))?;
        self.read_at(&mut payload, payload_at)?;
        Ok(self.seed.checksum(&payload) == u32::from_be_bytes(checksum))
    }

    /// Fills as much of `buffer` as the file has from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, OpenError> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let target = buffer.get_mut(..wanted).unwrap_or_default();
        self.file.get_ref().read_exact_at(target, offset).map_err(OpenError::io("read", &self.path))?;
        Ok(wanted)
    }
}

/// Where a walk along the journal stands.
struct Progress {
    last_sequence: u64,
    last_time: u64,
}

impl Progress {
    fn check_header(&self, header: &Header) -> Result<(), String> {
        let expected = self.last_sequence.saturating_add(1);
        if header.first_sequence != expected {
            let first = header.first_sequence;
            return Err(format!(
                "the segment starts at sequence {first}, the journal before it ends before {expected}"
            ));
        }
        Ok(())
    }

    fn advance(&mut self, group: &Group<'_>) -> Result<(), String> {
        let expected = self.last_sequence.checked_add(1).ok_or("the sequence is exhausted")?;
        if group.first_sequence != expected {
            return Err(format!(
                "the group starts at sequence {}, expected {expected}",
                group.first_sequence
            ));
        }
        let count = u64::try_from(group.entries.len()).unwrap_or(u64::MAX);
        self.last_sequence =
            self.last_sequence.checked_add(count).ok_or("the group's sequence is out of range")?;
        for entry in &group.entries {
            if entry.time < self.last_time {
                return Err("a transaction is older than the one before it".to_owned());
            }
            self.last_time = entry.time;
        }
        Ok(())
    }
}

/// The numbers of the segments there are, in order.
fn segment_numbers(directory: &Path) -> Result<Vec<u64>, OpenError> {
    let mut numbers = Vec::new();
    let entries = fs::read_dir(directory).map_err(OpenError::io("list", directory))?;
    for entry in entries {
        let path = entry.map_err(OpenError::io("list", directory))?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let number =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        match number {
            Some(number) if path == Segment::path(directory, number) => numbers.push(number),
            _ => return Err(damaged(&path, 0, "the file name is not a segment number".to_owned())),
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn missing(directory: &Path, number: u64, next: &str) -> OpenError {
    damaged(&Segment::path(directory, number), 0, format!("the segment is missing: {next}"))
}

fn unreadable(path: &Path, offset: u64, why: Unreadable) -> OpenError {
    match why {
        Unreadable::Damaged(why) => damaged(path, offset, why),
        Unreadable::Version { found, newest } => OpenError::Version { path: path.to_owned(), found, newest },
    }
}

fn damaged(segment: &Path, offset: u64, why: String) -> OpenError {
    OpenError::Damaged { segment: segment.to_owned(), offset, why }
}
