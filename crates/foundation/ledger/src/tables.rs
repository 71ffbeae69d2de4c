//! What the ledger stores in rows. Numbers in keys and values are big-endian.

use huitong_proof::{ChannelHead, Digest};
use huitong_store::{Read, Row, Table, Tx};

use crate::checkpoint::SignedCheckpoint;
use crate::error::LedgerError;

/// Index -> bytes of an entry that is not in a settled bundle yet; empty if they were removed.
pub(crate) const ENTRY: Table = Table::resident("ledger.entry");
/// `size` -> [`Extent`], `settled` -> number of entries that are in settled bundles only.
pub(crate) const STATE: Table = Table::resident("ledger.state");
/// Issuer, audience -> highest sequence number on that channel, digest of that statement.
pub(crate) const HEAD: Table = Table::new("ledger.head");
/// Index -> the [`crate::Gap`] where an entry's bytes were removed or never found again.
pub(crate) const GAP: Table = Table::new("ledger.gap");
/// Index -> nothing, while the bytes of a removed entry may still be in a file.
pub(crate) const ERASE: Table = Table::new("ledger.erase");
/// Number -> bytes of a statement that was logged after a gap in the log opened, and waits to be logged again.
pub(crate) const ASIDE: Table = Table::new("ledger.aside");
/// `latest` -> the newest signed checkpoint of this log. The row is the intent to sign: a size never gets a second root.
pub(crate) const CHECKPOINT: Table = Table::new("ledger.checkpoint");
/// `latest` -> the largest checkpoint of this log that carries cosignatures.
pub(crate) const COSIGNED: Table = Table::new("ledger.cosigned");
/// Origin -> newest checkpoint of that log which is known to extend all newest ones before it.
const OBSERVED: Table = Table::new("ledger.observed");
/// Origin, 2^64 - 1 - size -> checkpoint of that log, so that a scan meets the newest first.
const SEEN: Table = Table::new("ledger.seen");
/// Origin -> number of its rows in [`SEEN`].
const SEEN_COUNT: Table = Table::new("ledger.seencount");
/// `since` -> whether names must be confirmed, once this node was in safe mode (see [`crate::doubt`]); never deleted.
pub(crate) const DOUBT: Table = Table::resident("ledger.doubt");
/// Name -> nothing, once it is confirmed that nothing was forgotten under it.
pub(crate) const CONFIRMED: Table = Table::new("ledger.confirmed");
/// SHA-256 of the row -> two signed texts that exclude each other.
pub(crate) const FORK: Table = Table::new("ledger.fork");

const SIZE: &[u8] = b"size";
const SETTLED: &[u8] = b"settled";
const LATEST: &[u8] = b"latest";
const SINCE: &[u8] = b"since";

/// Checkpoints of one other log that are kept beside its newest.
pub(crate) const SEEN_KEPT: u64 = 1_024;
/// That many of the newest are never thinned out: requests in flight refer to them.
const SEEN_RECENT: usize = 256;

/// How far the log reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Number of entries.
    pub(crate) size: u64,
    /// Raised whenever entries that no checkpoint covers are taken back: then hashes in memory are void.
    pub(crate) arrangement: u64,
}

pub(crate) fn extent(r: &impl Read) -> Result<Extent, LedgerError> {
    let Some(row) = r.get(&STATE, SIZE)? else { return Ok(Extent::default()) };
    let (size, arrangement) = row.split_at_checked(8).unwrap_or_default();
    Ok(Extent { size: number(size)?, arrangement: number(arrangement)? })
}

pub(crate) fn put_extent(tx: &mut Tx<'_>, extent: Extent) -> Result<(), LedgerError> {
    let row = [extent.size.to_be_bytes(), extent.arrangement.to_be_bytes()].concat();
    Ok(tx.put(&STATE, SIZE, &row)?)
}

pub(crate) fn size(r: &impl Read) -> Result<u64, LedgerError> {
    Ok(extent(r)?.size)
}

/// How many entries are in settled bundles only; a multiple of the block.
pub(crate) fn settled(r: &impl Read) -> Result<u64, LedgerError> {
    r.get(&STATE, SETTLED)?.map_or(Ok(0), |row| number(&row))
}

pub(crate) fn put_settled(tx: &mut Tx<'_>, settled: u64) -> Result<(), LedgerError> {
    Ok(tx.put(&STATE, SETTLED, &settled.to_be_bytes())?)
}

/// Whether this node may have forgotten what it did under a name that is not confirmed.
pub(crate) fn is_in_doubt(r: &impl Read) -> Result<bool, LedgerError> {
    Ok(r.get(&DOUBT, SINCE)?.is_some_and(|row| row == [1]))
}

/// Whether this node was ever in safe mode and came back.
pub(crate) fn was_in_safe_mode(r: &impl Read) -> Result<bool, LedgerError> {
    Ok(r.get(&DOUBT, SINCE)?.is_some())
}

pub(crate) fn put_doubt(tx: &mut Tx<'_>, doubt: bool) -> Result<(), LedgerError> {
    Ok(tx.put(&DOUBT, SINCE, &[u8::from(doubt)])?)
}

/// The rows of at most `limit` entries from `index` on, which follow each other.
pub(crate) fn entries(r: &impl Read, index: u64, limit: usize) -> Result<Vec<Vec<u8>>, LedgerError> {
    let after = index.checked_sub(1).map(u64::to_be_bytes);
    let rows = r.scan(&ENTRY, &[], after.as_ref().map(<[u8; 8]>::as_slice), limit)?;
    let mut entries = Vec::with_capacity(rows.len());
    for (expected, row) in (index..).zip(rows) {
        if row.key != expected.to_be_bytes() {
            return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
        }
        entries.push(row.value);
    }
    Ok(entries)
}

/// The highest number on a channel, and the digest of that statement.
pub(crate) fn head(
    r: &impl Read,
    issuer: &str,
    audience: &str,
) -> Result<Option<(u64, Digest)>, LedgerError> {
    r.get(&HEAD, &channel_key(issuer, audience))?.map(|row| read_head(&row)).transpose()
}

pub(crate) fn put_head(
    tx: &mut Tx<'_>,
    issuer: &str,
    audience: &str,
    seq: u64,
    digest: &Digest,
) -> Result<(), LedgerError> {
    let row = [&seq.to_be_bytes()[..], digest.as_bytes()].concat();
    Ok(tx.put(&HEAD, &channel_key(issuer, audience), &row)?)
}

/// What the next statement on a channel with that head carries.
pub(crate) fn next_on_channel(
    head: Option<(u64, Digest)>,
    audience: &str,
) -> Result<ChannelHead, LedgerError> {
    let Some((seq, prev)) = head else { return Ok(ChannelHead::START) };
    let seq = seq.checked_add(1).ok_or_else(|| LedgerError::ChannelFull { audience: audience.to_owned() })?;
    Ok(ChannelHead { seq, prev })
}

/// One row of [`HEAD`]: issuer, audience, number, digest.
pub(crate) fn read_channel(row: &Row) -> Result<(String, String, u64, Digest), LedgerError> {
    let malformed = || LedgerError::Damaged { what: "the key of a channel is malformed" };
    let (issuer, rest) = split_name(&row.key).ok_or_else(malformed)?;
    let (audience, rest) = split_name(rest).ok_or_else(malformed)?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    let (seq, digest) = read_head(&row.value)?;
    Ok((issuer, audience, seq, digest))
}

fn read_head(row: &[u8]) -> Result<(u64, Digest), LedgerError> {
    let (seq, digest) = row.split_at_checked(8).unwrap_or_default();
    let digest = Digest::from_slice(digest)
        .ok_or(LedgerError::Damaged { what: "the head of a channel is malformed" })?;
    Ok((number(seq)?, digest))
}

pub(crate) fn latest_checkpoint(r: &impl Read) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.get(&CHECKPOINT, LATEST)?.map(|row| checkpoint(&row)).transpose()
}

pub(crate) fn put_checkpoint(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    Ok(tx.put(&CHECKPOINT, LATEST, signed.text().as_bytes())?)
}

pub(crate) fn cosigned(r: &impl Read) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.get(&COSIGNED, LATEST)?.map(|row| checkpoint(&row)).transpose()
}

pub(crate) fn put_cosigned(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    Ok(tx.put(&COSIGNED, LATEST, signed.text().as_bytes())?)
}

pub(crate) fn observed(r: &impl Read, origin: &str) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.get(&OBSERVED, origin.as_bytes())?.map(|row| checkpoint(&row)).transpose()
}

pub(crate) fn put_observed(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    tx.put(&OBSERVED, signed.checkpoint().origin.as_bytes(), signed.text().as_bytes())?;
    Ok(())
}

/// The checkpoint of another log at exactly that size, if one was seen and is still kept.
pub(crate) fn seen_at(
    r: &impl Read,
    origin: &str,
    size: u64,
) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.get(&SEEN, &seen_key(origin, size))?.map(|row| checkpoint(&row)).transpose()
}

/// Checkpoints of another log that were seen at sizes below `size`, the largest first.
pub(crate) fn seen_below(
    r: &impl Read,
    origin: &str,
    size: u64,
    limit: usize,
) -> Result<Vec<SignedCheckpoint>, LedgerError> {
    let rows = r.scan(&SEEN, &lengthed(origin), Some(&seen_key(origin, size)), limit)?;
    rows.iter().map(|row| checkpoint(&row.value)).collect()
}

/// Keeps a checkpoint that is not kept yet. When there are too many of one log, every second of the older ones goes:
/// what is left lies the further apart the older it is.
pub(crate) fn put_seen(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    let origin = signed.checkpoint().origin.as_str();
    tx.put(&SEEN, &seen_key(origin, signed.checkpoint().size), signed.text().as_bytes())?;
    let count = tx.get(&SEEN_COUNT, origin.as_bytes())?.map_or(Ok(0), |row| number(&row))?.saturating_add(1);
    let left = if count > SEEN_KEPT { thin_seen(tx, origin)? } else { count };
    Ok(tx.put(&SEEN_COUNT, origin.as_bytes(), &left.to_be_bytes())?)
}

fn thin_seen(tx: &mut Tx<'_>, origin: &str) -> Result<u64, LedgerError> {
    let rows = tx.scan(&SEEN, &lengthed(origin), None, usize::MAX)?;
    let older = rows.iter().skip(SEEN_RECENT).skip(1).step_by(2);
    let mut left = rows.len() as u64;
    for row in older {
        tx.delete(&SEEN, &row.key)?;
        left = left.saturating_sub(1);
    }
    Ok(left)
}

fn seen_key(origin: &str, size: u64) -> Vec<u8> {
    let mut key = lengthed(origin);
    key.extend_from_slice(&(u64::MAX - size).to_be_bytes());
    key
}

pub(crate) fn channel_key(issuer: &str, audience: &str) -> Vec<u8> {
    let mut key = lengthed(issuer);
    key.extend(lengthed(audience));
    key
}

/// Names come from peers and may hold any character, so only a length keeps one from reaching into the next part.
fn lengthed(name: &str) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

fn split_name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (name, rest) = rest.split_at_checked(length)?;
    Some((String::from_utf8(name.to_vec()).ok()?, rest))
}

pub(crate) fn number(row: &[u8]) -> Result<u64, LedgerError> {
    let bytes = row.try_into().map_err(|_| LedgerError::Damaged { what: "a number has not eight bytes" })?;
    Ok(u64::from_be_bytes(bytes))
}

fn checkpoint(row: &[u8]) -> Result<SignedCheckpoint, LedgerError> {
    let text =
        std::str::from_utf8(row).map_err(|_| LedgerError::Damaged { what: "a checkpoint is not text" })?;
    Ok(SignedCheckpoint::stored(text)?)
}
