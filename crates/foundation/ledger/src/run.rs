//! Sorted, immutable runs of lookup records on disk: their file format, search and merging.
//!
//! ```text
//! magic "HTLKRUN\0" | version u32 | level u32 | number u64 | count u64     32 bytes
//! count records: fingerprint (16 bytes) | index u64                        sorted by fingerprint, then index
//! CRC-32C of all bytes before it, u32
//! ```
//! Numbers are big-endian. With blocks of `b` entries, run `n` of level `l` covers the entries from `n * b * 4^l` up to
//! `(n + 1) * b * 4^l`. Four neighbours of one level are merged into one run of the next, so that there are at most
//! three of each level.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::lookup::{Fingerprint, Record};

/// How many runs of one level make one of the next.
pub(crate) const FAN: u64 = 4;

const MAGIC: &[u8; 8] = b"HTLKRUN\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 32;
const RECORD_BYTES: usize = 24;
const TRAILER_BYTES: u64 = 4;
/// Records read at once while searching: about one page of memory.
const PAGE: u64 = 170;
/// After so many guesses by value the search halves instead: many records of one key mislead it.
const GUESSES: u32 = 8;

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RunName {
    pub(crate) level: u32,
    pub(crate) number: u64,
}

impl RunName {
    /// The name of its file.
    pub(crate) fn file(&self) -> String {
        format!("{}-{}", self.level, self.number)
    }

    /// Reads what [`RunName::file`] writes.
    pub(crate) fn parse(file: &str) -> Option<Self> {
        let (level, number) = file.split_once('-')?;
        let name = Self { level: level.parse().ok()?, number: number.parse().ok()? };
        (name.file() == file).then_some(name)
    }

    /// The entries it covers; none if its numbers are beyond counting.
    pub(crate) fn span(&self, block: u64) -> Option<Range<u64>> {
        let width = FAN.checked_pow(self.level)?.checked_mul(block)?;
        let start = self.number.checked_mul(width)?;
        Some(start..start.checked_add(width)?)
    }

    /// The run of the next level that this one becomes part of.
    pub(crate) fn parent(&self) -> Self {
        Self { level: self.level.saturating_add(1), number: self.number / FAN }
    }

    /// The four runs that this one is merged from; none on the lowest level.
    pub(crate) fn children(&self) -> Option<[Self; 4]> {
        let level = self.level.checked_sub(1)?;
        let first = self.number.checked_mul(FAN)?;
        Some([0, 1, 2, 3].map(|more| Self { level, number: first.saturating_add(more) }))
    }
}

/// An open run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: RunName,
    path: PathBuf,
    file: File,
    count: u64,
}

impl Run {
    /// Opens a run and checks its header and length, not yet its records.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] says what does not fit.
    pub(crate) fn open(path: &Path, name: RunName) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut header = [0; 32];
        file.read_exact_at(&mut header, 0)?;
        let count = Header { name, count: 0 }.check(&header)?;
        let records = count.checked_mul(RECORD_BYTES as u64);
        let expected = records.and_then(|bytes| bytes.checked_add(HEADER_BYTES + TRAILER_BYTES));
        if expected != Some(file.metadata()?.len()) {
            return Err(damaged("the lookup run has another length than its header says"));
        }
        Ok(Self { name, path: path.to_owned(), file, count })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Records in it.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The entries that a fingerprint leads to, in log order. Reads as it is advanced.
    pub(crate) fn find(&self, fingerprint: Fingerprint) -> io::Result<Matches<'_>> {
        let position = self.lower_bound(fingerprint)?;
        Ok(Matches { run: self, fingerprint, position, page: Vec::new().into_iter() })
    }

    /// Position of the first record that is not below the fingerprint.
    fn lower_bound(&self, wanted: Fingerprint) -> io::Result<u64> {
        let target = leading(wanted);
        // Records below `low` are below the wanted one, those from `high` on are not.
        let (mut low, mut high) = (0, self.count);
        let (mut low_value, mut high_value) = (0, u64::MAX);
        for round in 0_u32.. {
            if low >= high {
                break;
            }
            let guess = if round < GUESSES {
                interpolate(low..high, low_value, high_value, target)
            } else {
                low + (high - low) / 2
            };
            let start = guess.saturating_sub(PAGE / 2).clamp(low, high.saturating_sub(PAGE).max(low));
            let page = self.read(start, (high - start).min(PAGE))?;
            let below = page.partition_point(|record| record.fingerprint < wanted);
            let (first, last) = (page.first(), page.last());
            match (below, first, last) {
                (0, Some(first), _) if start > low => {
                    (high, high_value) = (start, leading(first.fingerprint));
                }
                (below, _, Some(last)) if below == page.len() && start + (below as u64) < high => {
                    (low, low_value) = (start + below as u64, leading(last.fingerprint));
                }
                _ => return Ok(start + below as u64),
            }
        }
        Ok(low)
    }

    fn read(&self, position: u64, count: u64) -> io::Result<Vec<Record>> {
        let length = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(RECORD_BYTES);
        let mut bytes = vec![0; length];
        let offset = position.saturating_mul(RECORD_BYTES as u64).saturating_add(HEADER_BYTES);
        self.file.read_exact_at(&mut bytes, offset)?;
        let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
        Ok(records.iter().map(decode).collect())
    }

    /// All records in order, checked as they are read: order, span, and at the end the checksum.
    pub(crate) fn scan(&self, block: u64) -> io::Result<Scan> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(0))?;
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut header = [0; 32];
        reader.read_exact(&mut header)?;
        let span = self.name.span(block).ok_or_else(|| damaged("the lookup run's numbers are too large"))?;
        Ok(Scan {
            reader,
            left: self.count,
            span,
            last: None,
            checksum: crc32c::crc32c(&header),
            ended: false,
        })
    }
}

/// Where between two known values a value is likely to lie.
fn interpolate(positions: Range<u64>, low: u64, high: u64, target: u64) -> u64 {
    let width = positions.end - positions.start;
    if target <= low || high <= low {
        return positions.start;
    }
    let share = u128::from(target.min(high) - low) * u128::from(width) / u128::from(high - low);
    positions.start.saturating_add(u64::try_from(share).unwrap_or(width)).min(positions.end - 1)
}

fn leading(fingerprint: Fingerprint) -> u64 {
    let (first, _) = fingerprint.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

/// See [`Run::find`].
pub(crate) struct Matches<'a> {
    run: &'a Run,
    fingerprint: Fingerprint,
    position: u64,
    page: std::vec::IntoIter<Record>,
}

impl Iterator for Matches<'_> {
    type Item = io::Result<u64>;

    fn next(&mut self) -> Option<io::Result<u64>> {
        if self.page.len() == 0 {
            let count = (self.run.count - self.position.min(self.run.count)).min(PAGE);
            if count == 0 {
                return None;
            }
            match self.run.read(self.position, count) {
                Ok(page) => self.page = page.into_iter(),
                Err(error) => {
                    self.position = self.run.count;
                    return Some(Err(error));
                }
            }
            self.position += count;
        }
        let record = self.page.next()?;
        if record.fingerprint == self.fingerprint {
            return Some(Ok(record.index));
        }
        (self.position, self.page) = (self.run.count, Vec::new().into_iter());
        None
    }
}

/// See [`Run::scan`].
pub(crate) struct Scan {
    reader: BufReader<File>,
    left: u64,
    span: Range<u64>,
    last: Option<Record>,
    checksum: u32,
    ended: bool,
}

impl Scan {
    fn step(&mut self) -> io::Result<Option<Record>> {
        if self.left == 0 {
            let mut trailer = [0; 4];
            self.reader.read_exact(&mut trailer)?;
            if u32::from_be_bytes(trailer) != self.checksum {
                return Err(damaged("the lookup run's checksum does not fit its records"));
            }
            return Ok(None);
        }
        self.left -= 1;
        let mut bytes = [0; RECORD_BYTES];
        self.reader.read_exact(&mut bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        let record = decode(&bytes);
        if self.last.is_some_and(|last| last >= record) {
            return Err(damaged("the lookup run's records are out of order"));
        }
        if !self.span.contains(&record.index) {
            return Err(damaged("the lookup run names an entry outside its span"));
        }
        self.last = Some(record);
        Ok(Some(record))
    }
}

impl Iterator for Scan {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<io::Result<Record>> {
        if self.ended {
            return None;
        }
        let step = self.step().transpose();
        self.ended = !matches!(step, Some(Ok(_)));
        step
    }
}

/// Writes a run of `count` records, which come in order.
///
/// # Errors
/// Those of reading the records and of writing; another number of records than announced.
pub(crate) fn write(
    out: &mut impl Write,
    name: RunName,
    count: u64,
    records: impl Iterator<Item = io::Result<Record>>,
) -> io::Result<()> {
    let mut out = Checked { out, checksum: 0 };
    out.write_all(&Header { name, count }.encode())?;
    let mut written = 0_u64;
    for record in records {
        out.write_all(&encode(&record?))?;
        written += 1;
    }
    if written != count {
        return Err(damaged("the lookup run has another number of records than announced"));
    }
    let checksum = out.checksum;
    out.write_all(&checksum.to_be_bytes())
}

/// The records of several sorted sources as one, in order. The first error ends it.
pub(crate) fn merge(
    sources: Vec<impl Iterator<Item = io::Result<Record>>>,
) -> impl Iterator<Item = io::Result<Record>> {
    let mut sources: Vec<_> = sources.into_iter().map(Iterator::peekable).collect();
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut least: Option<(usize, Record)> = None;
        for (at, source) in sources.iter_mut().enumerate() {
            match source.peek() {
                Some(Ok(record)) if least.is_none_or(|(_, least)| *record < least) => {
                    least = Some((at, *record))
                }
                Some(Err(_)) => {
                    ended = true;
                    return source.next();
                }
                _ => {}
            }
        }
        sources.get_mut(least?.0)?.next()
    })
}

/// A sum over records that does not depend on their order: equal sets have equal sums, and a changed, missing or added
/// record shows. Guards against faults of disk and memory, not against design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    total: u128,
    pub(crate) count: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, record: Record) {
        const ODD: [u128; 2] =
            [0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835, 0xd6e8_feb8_6659_fd93_a076_1d64_78bd_642f];
        let [first, second] = ODD;
        let mixed = u128::from_be_bytes(record.fingerprint.0)
            .wrapping_add(u128::from(record.index).wrapping_add(1).wrapping_mul(first));
        let mixed = (mixed ^ (mixed >> 61)).wrapping_mul(second);
        self.total = self.total.wrapping_add(mixed ^ (mixed >> 59));
        self.count = self.count.saturating_add(1);
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.total = self.total.wrapping_add(other.total);
        self.count = self.count.saturating_add(other.count);
    }
}

struct Header {
    name: RunName,
    count: u64,
}

impl Header {
    fn encode(&self) -> [u8; 32] {
        let parts: [&[u8]; 5] = [
            MAGIC,
            &VERSION.to_be_bytes(),
            &self.name.level.to_be_bytes(),
            &self.name.number.to_be_bytes(),
            &self.count.to_be_bytes(),
        ];
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&parts.concat());
        bytes
    }

    /// The count in a header that is otherwise like this one.
    fn check(&self, bytes: &[u8; 32]) -> io::Result<u64> {
        let (front, count) = bytes.split_last_chunk::<8>().unwrap_or((&[], &[0; 8]));
        let expected = self.encode();
        let (expected, _) = expected.split_last_chunk::<8>().unwrap_or((&[], &[0; 8]));
        if front.get(..8) != expected.get(..8) {
            return Err(damaged("it is no lookup run"));
        }
        if front.get(8..12) != expected.get(8..12) {
            return Err(damaged("the lookup run was written by another version of this program"));
        }
        if front != expected {
            return Err(damaged("the lookup run's header names another run than its file"));
        }
        Ok(u64::from_be_bytes(*count))
    }
}

/// Keeps the checksum of what is written.
struct Checked<'a, W: Write> {
    out: &'a mut W,
    checksum: u32,
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn encode(record: &Record) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let (fingerprint, index) = bytes.split_at_mut(16);
    fingerprint.copy_from_slice(&record.fingerprint.0);
    index.copy_from_slice(&record.index.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> Record {
    let (fingerprint, _) = bytes.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let (_, index) = bytes.split_last_chunk::<8>().unwrap_or((&[], &[0; 8]));
    Record { fingerprint: Fingerprint(*fingerprint), index: u64::from_be_bytes(*index) }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
