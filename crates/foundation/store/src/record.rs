//! The bytes of one journal group.
//!
//! ```text
//! length u32 | checksum u32 | payload (length bytes)
//! payload = version u8 = 2 | first sequence u64 | mark u32 | entries u32 | entry ...
//! entry   = time u64 | changes u32 | change ...         one per transaction; sequences count up from the first
//! change  = operation u8 | table length u8 | table | key length u16 | key | [value length u32 | value]
//! operation: 1 put, 2 delete, 3 put with history, 4 delete with history, 5 put resident, 6 delete resident;
//!            a value follows 1, 3 and 5
//! ```
//! Version 1, which is still read, knows only operations 1 to 4. Integers are big-endian. A group is what one `fdatasync` makes durable, so it is whole or it never was: were
//! every transaction checked by itself, a crash could leave the later half of a group without the earlier.
//!
//! Checksum (over length and payload) and mark (over length, version and first sequence) are CRC-32C continued
//! from the CRC-32C of the journal's random identity. So groups of another journal do not check here, and no row
//! value sent by a peer can pass for a group.

use crate::overlay::{Change, Origin};

/// The largest payload of a group.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// Length and checksum.
pub(crate) const FRAME_BYTES: usize = 8;
/// What a payload holds before its entries.
pub(crate) const PREAMBLE_BYTES: usize = 17;

const VERSION: u8 = 2;
/// The first version that knows resident rows.
const RESIDENT_VERSION: u8 = 2;
const OLDEST_VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const PUT_WITH_HISTORY: u8 = 3;
const DELETE_WITH_HISTORY: u8 = 4;
const PUT_RESIDENT: u8 = 5;
const DELETE_RESIDENT: u8 = 6;

/// What a group's checksums continue from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn of(identity: &[u8; 16]) -> Self {
        Self(crc32c::crc32c(identity))
    }

    pub(crate) fn checksum(self, payload: &[u8]) -> u32 {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &length.to_be_bytes()), payload)
    }

    fn mark(self, length: u32, version: u8, first_sequence: u64) -> u32 {
        let seeded = crc32c::crc32c_append(self.0, &length.to_be_bytes());
        let versioned = crc32c::crc32c_append(seeded, &[version]);
        crc32c::crc32c_append(versioned, &first_sequence.to_be_bytes())
    }
}

/// Collects the transactions of one group.
pub(crate) struct GroupWriter {
    entries: Vec<u8>,
    count: u32,
}

impl GroupWriter {
    pub(crate) fn new() -> Self {
        Self { entries: vec![0; FRAME_BYTES + PREAMBLE_BYTES], count: 0 }
    }

    /// Adds one transaction's changes; row keys and sizes were checked when they were made.
    pub(crate) fn push<'a>(&mut self, time: u64, changes: impl Iterator<Item = (&'a [u8], &'a Change)>) {
        self.entries.extend_from_slice(&time.to_be_bytes());
        let count_at = self.entries.len();
        self.entries.extend_from_slice(&[0; 4]);
        let mut changed = 0_u32;
        for (row_key, change) in changes {
            encode_change(&mut self.entries, row_key, change);
            changed = changed.saturating_add(1);
        }
        fill(&mut self.entries, count_at, &changed.to_be_bytes());
        self.count = self.count.saturating_add(1);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The whole group, ready to be written.
    pub(crate) fn finish(mut self, seed: Seed, first_sequence: u64) -> Vec<u8> {
        let length = u32::try_from(self.entries.len().saturating_sub(FRAME_BYTES)).unwrap_or(u32::MAX);
        let mut preamble = [0_u8; PREAMBLE_BYTES];
        fill(&mut preamble, 0, &[VERSION]);
        fill(&mut preamble, 1, &first_sequence.to_be_bytes());
        fill(&mut preamble, 9, &seed.mark(length, VERSION, first_sequence).to_be_bytes());
        fill(&mut preamble, 13, &self.count.to_be_bytes());
        fill(&mut self.entries, FRAME_BYTES, &preamble);

        let checksum = seed.checksum(self.entries.get(FRAME_BYTES..).unwrap_or_default());
        fill(&mut self.entries, 0, &length.to_be_bytes());
        fill(&mut self.entries, 4, &checksum.to_be_bytes());
        self.entries
    }
}

/// A decoded group: its transactions in order.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) first_sequence: u64,
    pub(crate) entries: Vec<GroupEntry<'a>>,
}

/// One transaction of a group.
#[derive(Debug)]
pub(crate) struct GroupEntry<'a> {
    pub(crate) time: u64,
    pub(crate) changes: Vec<GroupChange<'a>>,
}

/// One change of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GroupChange<'a> {
    pub(crate) table: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) origin: Origin,
}

/// Decodes a payload whose checksum was found right. What it says about itself is bounded by what is there.
pub(crate) fn decode(payload: &[u8]) -> Result<Group<'_>, Unreadable> {
    let mut cursor = Cursor::new(payload);
    let cut = || "the group is shorter than it says".to_owned();

    let version = cursor.u8().ok_or_else(cut)?;
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(Unreadable::Version { found: version.into(), newest: VERSION.into() });
    }
    let first_sequence = cursor.u64().ok_or_else(cut)?;
    let _mark = cursor.u32().ok_or_else(cut)?;
    let count = cursor.u32().ok_or_else(cut)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let time = cursor.u64().ok_or_else(cut)?;
        let changed = cursor.u32().ok_or_else(cut)?;
        let mut changes = Vec::new();
        for _ in 0..changed {
            changes.push(decode_change(&mut cursor, version)?);
        }
        entries.push(GroupEntry { time, changes });
    }
    if !cursor.rest().is_empty() {
        return Err(Unreadable::Damaged("the group is longer than it says".to_owned()));
    }
    if entries.is_empty() {
        return Err(Unreadable::Damaged("the group holds no transaction".to_owned()));
    }
    Ok(Group { first_sequence, entries })
}

/// Why bytes whose checksum is right cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("{0}")]
    Damaged(String),
    #[error("it has format version {found}, this program reads up to {newest}")]
    Version { found: u32, newest: u32 },
}

impl From<String> for Unreadable {
    fn from(why: String) -> Self {
        Self::Damaged(why)
    }
}

/// Whether these bytes can be the start of a group of this journal: its payload length and first sequence.
pub(crate) fn recognise(start: &[u8], seed: Seed) -> Option<(usize, u64)> {
    let mut cursor = Cursor::new(start);
    let length = cursor.u32()?;
    let _checksum = cursor.u32()?;
    let version = cursor.u8()?;
    let first_sequence = cursor.u64()?;
    let mark = cursor.u32()?;
    if mark != seed.mark(length, version, first_sequence) {
        return None;
    }
    Some((usize::try_from(length).ok()?, first_sequence))
}

/// What one change adds to a transaction's size.
pub(crate) fn change_bytes(row_key: usize, value: Option<usize>) -> usize {
    row_key.saturating_add(value.unwrap_or_default()).saturating_add(8)
}

/// Reads fixed-width fields off the front of a slice; nothing where the slice is too short.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    left: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count)?;
        self.left = left;
        Some(taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.left
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, left) = self.left.split_first_chunk::<N>()?;
        self.left = left;
        Some(*taken)
    }
}

fn encode_change(out: &mut Vec<u8>, row_key: &[u8], change: &Change) {
    let (table, key) = crate::history::split_row_key(row_key);
    let operation = match (change.origin, &change.value) {
        (Origin::WrittenWithHistory, Some(_)) => PUT_WITH_HISTORY,
        (Origin::WrittenWithHistory, None) => DELETE_WITH_HISTORY,
        (Origin::Resident, Some(_)) => PUT_RESIDENT,
        (Origin::Resident, None) => DELETE_RESIDENT,
        (_, Some(_)) => PUT,
        (_, None) => DELETE,
    };
    out.push(operation);
    out.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(table);
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(key);
    if let Some(value) = &change.value {
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(value);
    }
}

fn decode_change<'a>(cursor: &mut Cursor<'a>, version: u8) -> Result<GroupChange<'a>, String> {
    let cut = || "a change is shorter than it says".to_owned();
    let operation = cursor.u8().ok_or_else(cut)?;
    let origin = match operation {
        PUT | DELETE => Origin::Written,
        PUT_WITH_HISTORY | DELETE_WITH_HISTORY => Origin::WrittenWithHistory,
        PUT_RESIDENT | DELETE_RESIDENT if version >= RESIDENT_VERSION => Origin::Resident,
        other => return Err(format!("a change has the unknown operation {other}")),
    };
    let table_length = cursor.u8().ok_or_else(cut)?;
    let table = cursor.take(usize::from(table_length)).ok_or_else(cut)?;
    if table.is_empty() || table.contains(&0) {
        return Err("a change has an impossible table name".to_owned());
    }
    let key_length = cursor.u16().ok_or_else(cut)?;
    let key = cursor.take(usize::from(key_length)).ok_or_else(cut)?;
    let value = match operation {
        PUT | PUT_WITH_HISTORY | PUT_RESIDENT => {
            let value_length = cursor.u32().ok_or_else(cut)?;
            let value_length = usize::try_from(value_length).map_err(|_| cut())?;
            Some(cursor.take(value_length).ok_or_else(cut)?)
        }
        _ => None,
    };
    Ok(GroupChange { table, key, value, origin })
}

/// Writes `bytes` at `offset`, where room was left for them.
fn fill(out: &mut [u8], offset: usize, bytes: &[u8]) {
    for (target, byte) in out.iter_mut().skip(offset).zip(bytes) {
        *target = *byte;
    }
}
