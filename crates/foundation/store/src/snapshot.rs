//! Snapshots: all rows after one transaction, so that the journal before it is no longer needed.
//!
//! ```text
//! snapshots/<sequence, 12 digits>.snap
//! file    = header | block ... | sections block | footer          header and blocks as in `blocks`
//! sections payload = version u8 = 1 | rows u64 | sections u32 | section ...
//! section = table length u8 | table | flags u8 | rows u64 | bytes u64 | offset u64 | length u64
//! footer  = offset of the sections block u64 | checksum u32 | magic 8
//! ```
//! There is one section per table, in order, and together they are all blocks of rows. So the rows of resident
//! tables (flag 1) are found without reading the others. Bytes are those of keys and values.
//!
//! A snapshot gets its name only after it was written, made durable and read back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::blocks::{
    BLOCK_FRAME_BYTES, BlockReader, BlockWriter, Durability, HEADER_LENGTH, Header, StoredRow, checksum,
    damaged, unreadable,
};
use crate::disk::{Directory, Disk};
use crate::history::split_row_key;
use crate::record::Cursor;

/// A snapshot whose header and sections check. Its rows are checked as they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    pub(crate) sections: Vec<Section>,
    pub(crate) rows: u64,
    /// Of the file.
    pub(crate) length: u64,
}

/// Where in a snapshot the rows of one table lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) table: Vec<u8>,
    pub(crate) is_resident: bool,
    pub(crate) rows: u64,
    /// Of keys and values.
    pub(crate) bytes: u64,
    /// Of the first block.
    pub(crate) offset: u64,
    /// Of all blocks.
    pub(crate) length: u64,
}

/// A file with the name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: PathBuf,
    pub(crate) sequence: u64,
}

/// Writes a snapshot, row by row in order.
pub(crate) struct SnapshotWriter<'a> {
    disk: &'a Disk,
    directory: &'a Directory,
    header: Header,
    blocks: BlockWriter,
    sections: Vec<Section>,
}

/// What files that are being written, and no snapshots yet, are named after.
pub(crate) const DRAFT_EXTENSION: &str = "tmp";
/// What a snapshot that did not check is named after when it is set aside.
pub(crate) const DAMAGED_EXTENSION: &str = "damaged";
const EXTENSION: &str = "snap";
const FOOTER_BYTES: usize = 20;
const FOOTER_MAGIC: &[u8; 8] = b"HTSNAPND";
const SECTIONS_VERSION: u8 = 1;
const RESIDENT: u8 = 1;
/// A section takes at least this many bytes in the sections block.
const MIN_SECTION_BYTES: usize = 35;

/// The snapshots in a directory, oldest first; none if there is no directory.
pub(crate) fn list(directory: &Path) -> Result<Vec<Listed>, OpenError> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(OpenError::io("list", directory))?,
    };
    for entry in entries {
        let path = entry.map_err(OpenError::io("list", directory))?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let sequence =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        match sequence {
            Some(sequence) if path == Snapshot::path(directory, sequence) => {
                found.push(Listed { path, sequence });
            }
            _ => return Err(damaged(&path, 0, "the file name is not a sequence number".to_owned())),
        }
    }
    found.sort_unstable_by_key(|listed| listed.sequence);
    Ok(found)
}

impl Snapshot {
    /// The file name of a snapshot, by the last sequence whose changes it holds.
    pub(crate) fn path(directory: &Path, sequence: u64) -> PathBuf {
        directory.join(file_name(sequence))
    }

    /// Reads what a snapshot says of itself.
    pub(crate) fn open(listed: &Listed) -> Result<Self, OpenError> {
        let snapshot = Self::read(&listed.path)?;
        let said = snapshot.header.sequence;
        if said != listed.sequence {
            let why = format!("the file is named after sequence {} but says it is {said}", listed.sequence);
            return Err(damaged(&listed.path, 0, why));
        }
        Ok(snapshot)
    }

    fn read(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(OpenError::io("open", path))?;
        let (header, length) = Header::read(&file, path)?;
        let refuse = |offset: u64, why: &str| damaged(path, offset, why.to_owned());
        let footer_at = length
            .checked_sub(FOOTER_BYTES as u64)
            .filter(|at| *at >= HEADER_LENGTH)
            .ok_or_else(|| refuse(length, "the file is cut short"))?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, footer_at).map_err(unreadable(path, footer_at))?;
        let sections_at = decode_footer(&footer, &header, footer_at)
            .ok_or_else(|| refuse(footer_at, "the file does not end as a snapshot does"))?;

        let payload_at = sections_at.saturating_add(BLOCK_FRAME_BYTES);
        let size = footer_at
            .checked_sub(payload_at)
            .filter(|_| sections_at >= HEADER_LENGTH)
            .and_then(|size| u32::try_from(size).ok())
            .ok_or_else(|| refuse(footer_at, "the sections cannot lie where the footer says"))?;
        let mut frame = [0; 8];
        let mut payload = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut frame, sections_at).map_err(unreadable(path, sections_at))?;
        file.read_exact_at(&mut payload, payload_at).map_err(unreadable(path, payload_at))?;
        let [l0, l1, l2, l3, expected @ ..] = frame;
        let is_whole = u32::from_be_bytes([l0, l1, l2, l3]) == size;
        if !is_whole || checksum(header.seed(), sections_at, &payload) != u32::from_be_bytes(expected) {
            return Err(refuse(sections_at, "the sections do not match their checksum"));
        }
        let (rows, sections) =
            decode_sections(&payload, sections_at).map_err(|why| refuse(sections_at, why))?;
        Ok(Self { path: path.to_owned(), header, sections, rows, length })
    }

    /// All rows, in order.
    pub(crate) fn all_rows(&self) -> Result<BlockReader, OpenError> {
        let end = self.sections.last().map_or(HEADER_LENGTH, Section::end);
        BlockReader::open(&self.path, &self.header, HEADER_LENGTH, end)
    }

    /// The rows of one table.
    pub(crate) fn rows_of(&self, section: &Section) -> Result<BlockReader, OpenError> {
        BlockReader::open(&self.path, &self.header, section.offset, section.end())
    }

    /// Hands the rows of resident tables to `take`.
    pub(crate) fn resident_rows(&self, mut take: impl FnMut(Vec<u8>, Vec<u8>)) -> Result<(), OpenError> {
        for section in self.sections.iter().filter(|section| section.is_resident) {
            let mut rows = self.rows_of(section)?;
            while let Some(row) = rows.next()? {
                if let Some(value) = row.value.filter(|_| row.is_resident) {
                    take(row.row_key, value);
                }
            }
        }
        Ok(())
    }

    /// Reads everything and compares it with what the sections say. `watch` is told from time to time how many
    /// bytes were read, and stops the check by returning false; then nothing is found out.
    pub(crate) fn check(&self, mut watch: impl FnMut(u64) -> bool) -> Result<Checked, OpenError> {
        let refuse = |section: &Section, why: &str| {
            let table = String::from_utf8_lossy(&section.table).into_owned();
            Err(damaged(&self.path, section.offset, format!("the section of table {table} {why}")))
        };
        for section in &self.sections {
            let mut rows = self.rows_of(section)?;
            let (mut count, mut bytes, mut is_resident, mut told) = (0_u64, 0_u64, false, 0_u64);
            while let Some(row) = rows.next()? {
                let (table, key) = split_row_key(&row.row_key);
                let Some(value) = &row.value else { return refuse(section, "holds a deleted row") };
                if table != section.table {
                    return refuse(section, "holds rows of another table");
                }
                count = count.saturating_add(1);
                bytes = bytes.saturating_add(row_bytes(key, value));
                is_resident |= row.is_resident;
                if rows.offset() != told {
                    told = rows.offset();
                    if !watch(told) {
                        return Ok(Checked::Stopped);
                    }
                }
            }
            if (count, bytes, is_resident) != (section.rows, section.bytes, section.is_resident) {
                return refuse(section, "does not hold what it says");
            }
        }
        Ok(Checked::Whole)
    }
}

/// How a check ended that found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Whole,
    Stopped,
}

impl Section {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

impl<'a> SnapshotWriter<'a> {
    /// Starts a snapshot beside the finished ones.
    pub(crate) fn start(disk: &'a Disk, directory: &'a Directory, header: Header) -> io::Result<Self> {
        let draft = Snapshot::path(directory.path(), header.sequence).with_extension(DRAFT_EXTENSION);
        let blocks = BlockWriter::start(disk.create(&draft)?, &header)?;
        Ok(Self { disk, directory, header, blocks, sections: Vec::new() })
    }

    pub(crate) fn push(&mut self, row: &StoredRow) -> io::Result<()> {
        let (table, key) = split_row_key(&row.row_key);
        if self.sections.last().is_none_or(|section| section.table != table) {
            let offset = self.end_section()?;
            let table = table.to_vec();
            self.sections.push(Section { table, is_resident: false, rows: 0, bytes: 0, offset, length: 0 });
        }
        if let Some(section) = self.sections.last_mut() {
            let value = row.value.as_deref().unwrap_or_default();
            section.is_resident |= row.is_resident;
            section.rows = section.rows.saturating_add(1);
            section.bytes = section.bytes.saturating_add(row_bytes(key, value));
        }
        self.blocks.push(row)
    }

    /// Ends the file, makes it durable and reads it back, without giving it its name. Nothing if `go_on` stopped
    /// it.
    pub(crate) fn finish(mut self, go_on: impl Fn() -> bool) -> Result<Option<Draft<'a>>, OpenError> {
        let path = self.blocks.path().to_owned();
        self.write_end().map_err(OpenError::io("write", &path))?;
        let Self { disk, directory, header, blocks, sections } = self;
        let length = blocks.finish(Durability::Synced).map_err(OpenError::io("write", &path))?;

        let read = Snapshot::read(&path)?;
        if read.header != header || read.sections != sections || read.length != length {
            let why = "the disk gave back something else than was written".to_owned();
            return Err(damaged(&path, 0, why));
        }
        match read.check(|_| go_on())? {
            Checked::Whole => Ok(Some(Draft { disk, directory, snapshot: read })),
            Checked::Stopped => Ok(None),
        }
    }

    fn write_end(&mut self) -> io::Result<()> {
        let sections_at = self.end_section()?;
        let mut payload = vec![SECTIONS_VERSION];
        let rows = self.sections.iter().fold(0_u64, |rows, section| rows.saturating_add(section.rows));
        payload.extend_from_slice(&rows.to_be_bytes());
        let count = u32::try_from(self.sections.len()).unwrap_or(u32::MAX);
        payload.extend_from_slice(&count.to_be_bytes());
        for section in &self.sections {
            payload.push(u8::try_from(section.table.len()).unwrap_or(u8::MAX));
            payload.extend_from_slice(&section.table);
            payload.push(if section.is_resident { RESIDENT } else { 0 });
            for number in [section.rows, section.bytes, section.offset, section.length] {
                payload.extend_from_slice(&number.to_be_bytes());
            }
        }
        self.blocks.write_block(&payload)?;
        self.blocks.write_raw(&encode_footer(&self.header, sections_at))
    }

    /// Closes the last section; says where the next one starts.
    fn end_section(&mut self) -> io::Result<u64> {
        let end = self.blocks.end_block()?;
        if let Some(section) = self.sections.last_mut() {
            section.length = end.saturating_sub(section.offset);
        }
        Ok(end)
    }
}

/// A snapshot that is whole and durable, but has no name yet.
pub(crate) struct Draft<'a> {
    disk: &'a Disk,
    directory: &'a Directory,
    snapshot: Snapshot,
}

impl Draft<'_> {
    /// Gives the snapshot its name, durably.
    pub(crate) fn publish(self) -> io::Result<Snapshot> {
        let Self { disk, directory, mut snapshot } = self;
        let path = Snapshot::path(directory.path(), snapshot.header.sequence);
        disk.rename(&snapshot.path, &path)?;
        directory.sync()?;
        snapshot.path = path;
        Ok(snapshot)
    }
}

fn file_name(sequence: u64) -> String {
    format!("{sequence:012}.{EXTENSION}")
}

fn row_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() as u64).saturating_add(value.len() as u64)
}

fn encode_footer(header: &Header, sections_at: u64) -> Vec<u8> {
    let mut bytes = sections_at.to_be_bytes().to_vec();
    bytes.extend_from_slice(&crc32c::crc32c_append(header.seed(), &bytes).to_be_bytes());
    bytes.extend_from_slice(FOOTER_MAGIC);
    bytes
}

fn decode_footer(bytes: &[u8], header: &Header, footer_at: u64) -> Option<u64> {
    let sections_at = Cursor::new(bytes).u64()?;
    (bytes == encode_footer(header, sections_at) && sections_at < footer_at).then_some(sections_at)
}

/// The number of rows, and sections that lie one behind the other from the header to `end`.
fn decode_sections(payload: &[u8], end: u64) -> Result<(u64, Vec<Section>), &'static str> {
    let cut = "the sections are shorter than they say";
    let mut cursor = Cursor::new(payload);
    if cursor.u8() != Some(SECTIONS_VERSION) {
        return Err("the sections have an unknown version");
    }
    let rows = cursor.u64().ok_or(cut)?;
    let count = cursor.u32().and_then(|count| usize::try_from(count).ok()).ok_or(cut)?;
    if count > payload.len().div_euclid(MIN_SECTION_BYTES) {
        return Err(cut);
    }
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    let mut at = HEADER_LENGTH;
    let mut sum = 0_u64;
    for _ in 0..count {
        let section = decode_section(&mut cursor).ok_or(cut)?;
        if section.offset != at || sections.last().is_some_and(|last| last.table >= section.table) {
            return Err("the sections are not in order");
        }
        at = section.end();
        sum = sum.saturating_add(section.rows);
        sections.push(section);
    }
    if !cursor.rest().is_empty() || at != end || sum != rows {
        return Err("the sections do not fit the file");
    }
    Ok((rows, sections))
}

fn decode_section(cursor: &mut Cursor<'_>) -> Option<Section> {
    let length = cursor.u8()?;
    Some(Section {
        table: cursor.take(usize::from(length))?.to_vec(),
        is_resident: cursor.u8()? & RESIDENT != 0,
        rows: cursor.u64()?,
        bytes: cursor.u64()?,
        offset: cursor.u64()?,
        length: cursor.u64()?,
    })
}
