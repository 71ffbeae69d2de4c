//! Tiles and bundles as C2SP tlog-tiles 0.1.0 lays them out: names of their files and what is in them. Pure.

use std::fmt;
use std::str::FromStr;

use huitong_proof::Digest;

use crate::merkle::node_hash;

/// Hashes in a full tile, and entries in a full bundle.
pub(crate) const WIDTH: u64 = 256;
/// Levels of the tree that one level of tiles spans.
pub(crate) const HEIGHT: u8 = 8;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// The highest level of tiles that paths may name.
const MAX_TILE_LEVEL: u8 = 63;

/// A file that the log offers to readers, as the path `Display` writes and `FromStr` reads: `checkpoint`,
/// `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]` (C2SP tlog-tiles, "Merkle Tree" and "Log Entries").
///
/// Reading is strict: one file has one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilePath {
    Checkpoint,
    Tile(TileName),
    Entries(BundleName),
}

/// Which tile: its level, its number on that level, and how many of its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TileName {
    pub(crate) level: u8,
    pub(crate) number: u64,
    /// 1 to 256; 256 is the full tile.
    pub(crate) width: u16,
}

/// Which bundle of entries, and how many of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BundleName {
    pub(crate) number: u64,
    /// 1 to 256; 256 is the full bundle.
    pub(crate) width: u16,
}

/// The path is not one of a log's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAPath;

impl TileName {
    pub(crate) fn full(level: u8, number: u64) -> Self {
        Self { level, number, width: FULL }
    }

    /// The tile at the right edge of a log of `size` entries; none if the level ends with a full tile, or has none.
    pub(crate) fn partial(level: u8, size: u64) -> Option<Self> {
        let (number, width) = edge(size.checked_shr(shift(level)).unwrap_or(0))?;
        Some(Self { level, number, width })
    }
}

impl BundleName {
    pub(crate) fn full(number: u64) -> Self {
        Self { number, width: FULL }
    }

    /// The bundle at the right edge of a log of `size` entries.
    pub(crate) fn partial(size: u64) -> Option<Self> {
        let (number, width) = edge(size)?;
        Some(Self { number, width })
    }
}

const FULL: u16 = 256;

fn edge(hashes: u64) -> Option<(u64, u16)> {
    let width = u16::try_from(hashes % WIDTH).ok().filter(|width| *width > 0)?;
    Some((hashes / WIDTH, width))
}

/// How many bits an index of leaves is shifted to become an index of hashes in the tiles of `level`.
pub(crate) fn shift(level: u8) -> u32 {
    u32::from(level).saturating_mul(u32::from(HEIGHT))
}

/// Full tiles of a level in a log of `size` entries.
pub(crate) fn full_tiles(level: u8, size: u64) -> u64 {
    size.checked_shr(shift(level)).unwrap_or(0) / WIDTH
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Tile(name) => name.fmt(f),
            Self::Entries(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for TileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        write_number(f, self.number, self.width)
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tile/entries/")?;
        write_number(f, self.number, self.width)
    }
}

/// Groups of three digits, all but the last with an `x` before it: 1234067 is `x001/x234/067`.
fn write_number(f: &mut fmt::Formatter<'_>, number: u64, width: u16) -> fmt::Result {
    let mut divisor = 1_u64;
    while number / divisor >= 1000 {
        divisor *= 1000;
    }
    while divisor > 1 {
        write!(f, "x{:03}/", number / divisor % 1000)?;
        divisor /= 1000;
    }
    write!(f, "{:03}", number % 1000)?;
    if width == FULL { Ok(()) } else { write!(f, ".p/{width}") }
}

impl FromStr for FilePath {
    type Err = NotAPath;

    fn from_str(path: &str) -> Result<Self, NotAPath> {
        if path == "checkpoint" {
            return Ok(Self::Checkpoint);
        }
        let rest = path.strip_prefix("tile/").ok_or(NotAPath)?;
        let (level, rest) = rest.split_once('/').ok_or(NotAPath)?;
        let (number, width) = read_number(rest)?;
        if level == "entries" {
            return Ok(Self::Entries(BundleName { number, width }));
        }
        let level = plain_number(level, u64::from(MAX_TILE_LEVEL))?;
        let level = u8::try_from(level).map_err(|_| NotAPath)?;
        Ok(Self::Tile(TileName { level, number, width }))
    }
}

fn read_number(path: &str) -> Result<(u64, u16), NotAPath> {
    let (groups, width) = match path.split_once(".p/") {
        None => (path, FULL),
        Some((groups, width)) => {
            let width = plain_number(width, u64::from(FULL - 1))?;
            (groups, u16::try_from(width).ok().filter(|width| *width > 0).ok_or(NotAPath)?)
        }
    };
    let (upper, last) = match groups.rsplit_once('/') {
        Some((upper, last)) => (Some(upper), last),
        None => (None, groups),
    };
    let mut number = 0_u64;
    for (position, group) in upper.into_iter().flat_map(|upper| upper.split('/')).enumerate() {
        let group = three_digits(group.strip_prefix('x').ok_or(NotAPath)?)?;
        // A leading group of zeros would be a second path for the same file.
        if position == 0 && group == 0 {
            return Err(NotAPath);
        }
        number = number.checked_mul(1000).and_then(|number| number.checked_add(group)).ok_or(NotAPath)?;
    }
    let last = three_digits(last)?;
    number = number.checked_mul(1000).and_then(|number| number.checked_add(last)).ok_or(NotAPath)?;
    Ok((number, width))
}

fn three_digits(group: &str) -> Result<u64, NotAPath> {
    if group.len() != 3 || !group.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotAPath);
    }
    group.parse().map_err(|_| NotAPath)
}

/// A decimal number without sign and leading zeros, at most `limit`.
fn plain_number(text: &str, limit: u64) -> Result<u64, NotAPath> {
    let number: u64 = text.parse().map_err(|_| NotAPath)?;
    if number > limit || number.to_string() != text { Err(NotAPath) } else { Ok(number) }
}

/// The bytes of a tile's file: its hashes, end to end.
pub(crate) fn encode_tile(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.as_bytes()).copied().collect()
}

/// The hashes in a tile's file, if it has exactly `width` of them.
pub(crate) fn decode_tile(bytes: &[u8], width: u16) -> Option<Vec<Digest>> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() || hashes.len() != usize::from(width) {
        return None;
    }
    Some(hashes.iter().map(|hash| Digest::from_bytes(*hash)).collect())
}

/// The hash over a complete subtree whose leaves, or lower subtrees, have these hashes; their number is a power of two.
pub(crate) fn subtree_hash(hashes: &[Digest]) -> Option<Digest> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        let (pairs, _) = row.as_chunks::<2>();
        row = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.first().copied()
}

/// The bytes of a bundle's file: each entry after its length, two bytes big-endian. An entry that is too long to be in
/// a bundle gives `None`; statements are far shorter.
pub(crate) fn encode_bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&u16::try_from(entry.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Some(bytes)
}

/// A bundle's file in memory, and where its entries lie.
#[derive(Debug)]
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    /// Where each entry begins and ends.
    spans: Vec<(usize, usize)>,
}

impl Bundle {
    /// Takes a bundle apart; `None` unless it holds exactly `width` entries and nothing else.
    pub(crate) fn decode(bytes: Vec<u8>, width: u16) -> Option<Self> {
        let mut spans = Vec::with_capacity(usize::from(width));
        let mut position = 0_usize;
        while position < bytes.len() {
            let (length, _) = bytes.get(position..)?.split_first_chunk::<2>()?;
            let start = position.checked_add(2)?;
            let end = start.checked_add(usize::from(u16::from_be_bytes(*length)))?;
            if end > bytes.len() || spans.len() >= usize::from(width) {
                return None;
            }
            spans.push((start, end));
            position = end;
        }
        (spans.len() == usize::from(width)).then_some(Self { bytes, spans })
    }

    /// The entry at that position; empty where it was removed.
    pub(crate) fn entry(&self, position: usize) -> Option<&[u8]> {
        let (start, end) = self.spans.get(position)?;
        self.bytes.get(*start..*end)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|(start, end)| self.bytes.get(*start..*end).unwrap_or_default())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
