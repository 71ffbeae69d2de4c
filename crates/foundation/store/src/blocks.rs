//! Sorted rows in a file, in blocks that each carry a checksum: what snapshots, and the sorted pieces they are
//! merged from, are made of.
//!
//! ```text
//! file    = header | block ...
//! header  = magic 8 | format version u32 | journal identity 16 | sequence u64 | time u64 | checksum u32
//! block   = length u32 | checksum u32 | payload (length bytes)
//! payload = table length u8 | table | row ...                 rows of one table only
//! row     = flags u8 | key length u32 | key | [value length u32 | value]
//! flags: 1 the table is resident, 2 the row was deleted and has no value (never in a snapshot)
//! ```
//! Integers are big-endian. Checksums are CRC-32C; a block's is continued from journal identity, sequence and its
//! own offset, so that no block of another file, or from another place, checks. Rows are in strict order of
//! `table 0x00 key`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::disk::DiskFile;
use crate::history::split_row_key;
use crate::record::{Cursor, MAX_PAYLOAD_BYTES, Unreadable};
use crate::table;

/// What a file of blocks starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Of the journal whose rows these are.
    pub(crate) identity: [u8; 16],
    /// The last transaction whose changes are in the rows.
    pub(crate) sequence: u64,
    /// Of that transaction, in milliseconds since 1970.
    pub(crate) time: u64,
}

/// A row as it lies in a file; no value if it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub(crate) row_key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) is_resident: bool,
}

/// Writes rows, which come in order.
pub(crate) struct BlockWriter {
    out: BufWriter<DiskFile>,
    path: PathBuf,
    seed: u32,
    /// Where the next block starts.
    offset: u64,
    table: Vec<u8>,
    payload: Vec<u8>,
    unsynced: u64,
}

/// Reads rows one by one, holding one block.
#[derive(Debug)]
pub(crate) struct BlockReader {
    file: BufReader<File>,
    path: PathBuf,
    seed: u32,
    /// Where the next block starts.
    offset: u64,
    end: u64,
    table: Vec<u8>,
    payload: Vec<u8>,
    /// Where in the payload the next row starts.
    at: usize,
    previous: Vec<u8>,
}

pub(crate) const HEADER_BYTES: usize = 48;
pub(crate) const HEADER_LENGTH: u64 = 48;
/// Length and checksum.
pub(crate) const BLOCK_FRAME_BYTES: u64 = 8;

const MAGIC: &[u8; 8] = b"HTSNAPSH";
const FORMAT: u32 = 1;
const RESIDENT: u8 = 1;
const DELETED: u8 = 2;
/// A block is closed once its payload has this many bytes; a longer row has a block of its own.
const BLOCK_BYTES: usize = 64 * 1024;
/// How much may wait in the kernel: a snapshot must not make the journal's next fsync wait for gigabytes.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&self.identity);
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.time.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Reads the header of a file; says how long the file is.
    pub(crate) fn read(file: &File, path: &Path) -> Result<(Self, u64), OpenError> {
        let length = file.metadata().map_err(OpenError::io("inspect", path))?.len();
        if length < HEADER_LENGTH {
            return Err(damaged(path, 0, "the header is cut short".to_owned()));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).map_err(unreadable(path, 0))?;
        let header = Self::decode(&bytes).map_err(|why| match why {
            Unreadable::Damaged(why) => damaged(path, 0, why),
            Unreadable::Version { found, newest } => {
                OpenError::Version { path: path.to_owned(), found, newest }
            }
        })?;
        Ok((header, length))
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Unreadable> {
        let cut = || "the header is cut short".to_owned();
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<8>().as_ref() != Some(MAGIC) {
            return Err(Unreadable::Damaged("this is not a snapshot".to_owned()));
        }
        let format = cursor.u32().ok_or_else(cut)?;
        let header = Self {
            identity: cursor.array().ok_or_else(cut)?,
            sequence: cursor.u64().ok_or_else(cut)?,
            time: cursor.u64().ok_or_else(cut)?,
        };
        let checksum = cursor.u32().ok_or_else(cut)?;
        let (covered, _) = bytes.split_last_chunk::<4>().ok_or_else(cut)?;
        if crc32c::crc32c(covered) != checksum {
            return Err(Unreadable::Damaged("the header does not match its checksum".to_owned()));
        }
        if format != FORMAT {
            return Err(Unreadable::Version { found: format, newest: FORMAT });
        }
        Ok(header)
    }

    /// What the checksums of this file's blocks continue from.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.identity), &self.sequence.to_be_bytes())
    }
}

impl BlockWriter {
    /// Starts a file that was just created.
    pub(crate) fn start(file: DiskFile, header: &Header) -> io::Result<Self> {
        let path = file.path().to_owned();
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        out.write_all(&header.encode())?;
        Ok(Self {
            out,
            path,
            seed: header.seed(),
            offset: HEADER_LENGTH,
            table: Vec::new(),
            payload: Vec::new(),
            unsynced: HEADER_LENGTH,
        })
    }

    pub(crate) fn push(&mut self, row: &StoredRow) -> io::Result<()> {
        let (table, key) = split_row_key(&row.row_key);
        if self.payload.len() >= BLOCK_BYTES || self.table != table {
            self.end_block()?;
        }
        if self.payload.is_empty() {
            self.table.clear();
            self.table.extend_from_slice(table);
            self.payload.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
            self.payload.extend_from_slice(table);
        }
        let resident = if row.is_resident { RESIDENT } else { 0 };
        let deleted = if row.value.is_none() { DELETED } else { 0 };
        self.payload.push(resident | deleted);
        push_bytes(&mut self.payload, key);
        if let Some(value) = &row.value {
            push_bytes(&mut self.payload, value);
        }
        Ok(())
    }

    /// Where the next block starts; all rows pushed so far lie before it.
    pub(crate) fn end_block(&mut self) -> io::Result<u64> {
        if !self.payload.is_empty() {
            let payload = std::mem::take(&mut self.payload);
            self.write_block(&payload)?;
            self.payload = payload;
            self.payload.clear();
        }
        Ok(self.offset)
    }

    /// Writes a block that holds something else than rows.
    pub(crate) fn write_block(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let checksum = checksum(self.seed, self.offset, payload);
        self.write_raw(&length.to_be_bytes())?;
        self.write_raw(&checksum.to_be_bytes())?;
        self.write_raw(payload)?;
        if self.unsynced >= SYNC_BYTES {
            self.out.flush()?;
            self.out.get_mut().sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    pub(crate) fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        self.unsynced = self.unsynced.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Ends the file and returns its length.
    pub(crate) fn finish(mut self, durability: Durability) -> io::Result<u64> {
        let length = self.end_block()?;
        self.out.flush()?;
        if durability == Durability::Synced {
            self.out.get_mut().sync()?;
        }
        Ok(length)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a finished file must outlast a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Synced,
    Scratch,
}

impl BlockReader {
    /// Reads the blocks from `offset` to `end`.
    pub(crate) fn open(path: &Path, header: &Header, offset: u64, end: u64) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(OpenError::io("open", path))?;
        let mut file = BufReader::with_capacity(64 * 1024, file);
        file.seek(SeekFrom::Start(offset)).map_err(OpenError::io("read", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            seed: header.seed(),
            offset,
            end,
            table: Vec::new(),
            payload: Vec::new(),
            at: 0,
            previous: Vec::new(),
        })
    }

    /// The next row, or nothing behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<StoredRow>, OpenError> {
        if self.at >= self.payload.len() && !self.next_block()? {
            return Ok(None);
        }
        let block = self.offset;
        let row = self.decode_row().map_err(|why| damaged(&self.path, block, why.to_owned()))?;
        if row.row_key <= self.previous {
            return Err(damaged(&self.path, block, "the rows are out of order before here".to_owned()));
        }
        self.previous.clone_from(&row.row_key);
        Ok(Some(row))
    }

    /// Where the next block starts.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    fn next_block(&mut self) -> Result<bool, OpenError> {
        if self.offset >= self.end {
            return Ok(false);
        }
        let at = self.offset;
        let refuse = |path: &Path, why: &str| Err(damaged(path, at, why.to_owned()));
        let left = self.end.saturating_sub(at);
        let mut frame = [0; 8];
        if left < BLOCK_FRAME_BYTES {
            return refuse(&self.path, "a block is cut short");
        }
        self.file.read_exact(&mut frame).map_err(unreadable(&self.path, at))?;
        let [l0, l1, l2, l3, expected @ ..] = frame;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        let whole = u64::from(length).saturating_add(BLOCK_FRAME_BYTES);
        if size == 0 || size > MAX_PAYLOAD_BYTES || whole > left {
            return refuse(&self.path, "a block has an impossible length");
        }
        self.payload.resize(size, 0);
        self.file.read_exact(&mut self.payload).map_err(unreadable(&self.path, at))?;
        if checksum(self.seed, at, &self.payload) != u32::from_be_bytes(expected) {
            return refuse(&self.path, "a block does not match its checksum");
        }
        let mut cursor = Cursor::new(&self.payload);
        let table = cursor.u8().and_then(|length| cursor.take(usize::from(length)));
        let Some(table) = table.filter(|table| !table.is_empty() && !table.contains(&0)) else {
            return refuse(&self.path, "a block has an impossible table name");
        };
        self.table.clear();
        self.table.extend_from_slice(table);
        self.at = self.payload.len().saturating_sub(cursor.rest().len());
        self.offset = at.saturating_add(whole);
        if cursor.rest().is_empty() {
            return refuse(&self.path, "a block holds no rows");
        }
        Ok(true)
    }

    fn decode_row(&mut self) -> Result<StoredRow, &'static str> {
        let cut = "a row is shorter than it says";
        let mut cursor = Cursor::new(self.payload.get(self.at..).unwrap_or_default());
        let flags = cursor.u8().ok_or(cut)?;
        if flags & !(RESIDENT | DELETED) != 0 {
            return Err("a row has unknown flags");
        }
        let key = take_bytes(&mut cursor).ok_or(cut)?;
        let value = match flags & DELETED {
            0 => Some(take_bytes(&mut cursor).ok_or(cut)?.to_vec()),
            _ => None,
        };
        let row_key = table::row_key(&self.table, key);
        self.at = self.payload.len().saturating_sub(cursor.rest().len());
        Ok(StoredRow { row_key, value, is_resident: flags & RESIDENT != 0 })
    }
}

pub(crate) fn checksum(seed: u32, offset: u64, payload: &[u8]) -> u32 {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let placed = crc32c::crc32c_append(seed, &offset.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(placed, &length.to_be_bytes()), payload)
}

pub(crate) fn damaged(path: &Path, offset: u64, why: String) -> OpenError {
    OpenError::Snapshot { snapshot: path.to_owned(), offset, why }
}

/// For `map_err`: what the disk does not give back is damage, for which another snapshot can stand in.
pub(crate) fn unreadable(path: &Path, offset: u64) -> impl FnOnce(io::Error) -> OpenError {
    move |error| damaged(path, offset, format!("it cannot be read: {error}"))
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let length = cursor.u32()?;
    cursor.take(usize::try_from(length).ok()?)
}
