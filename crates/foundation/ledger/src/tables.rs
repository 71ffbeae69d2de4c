//! What the ledger stores and how it is found. Numbers in keys and values are big-endian.

use huitong_proof::{ChannelHead, Digest, Statement};
use huitong_store::{Read, Row, Table, Tx};

use crate::checkpoint::SignedCheckpoint;
use crate::error::LedgerError;
use crate::merkle::{Nodes, completed_by, leaf_hash, node_hash};

/// Index -> statement bytes.
const ENTRY: Table = Table::new("ledger.entry");
/// Level (1 byte), index -> hash of the complete subtree; level 0 holds leaf hashes.
const NODE: Table = Table::new("ledger.node");
/// Empty key -> number of entries.
const SIZE: Table = Table::new("ledger.size");
/// TBS digest -> index.
const INDEX: Table = Table::new("ledger.index");
/// Issuer, audience, seq -> TBS digest.
const CHANNEL: Table = Table::new("ledger.channel");
/// TBS digest of the answered statement, index -> TBS digest of the answer.
const ANSWER: Table = Table::new("ledger.answer");
/// Subject (16 bytes), index -> TBS digest.
const ABOUT: Table = Table::new("ledger.about");
/// Size -> signed checkpoint of this log. The row is the intent to sign: a size never gets a second one.
const CHECKPOINT: Table = Table::new("ledger.checkpoint");
/// Origin -> newest checkpoint of that log which is known to extend all newest ones before it.
const OBSERVED: Table = Table::new("ledger.observed");
/// Origin, 2^64 - 1 - size -> checkpoint of that log, so that a scan meets the newest first.
const SEEN: Table = Table::new("ledger.seen");
/// SHA-256 of the row -> two signed texts that exclude each other.
pub(crate) const FORK: Table = Table::new("ledger.fork");

const PAGE: usize = 1024;

/// Appends a statement to the log and to every list it is found by. Returns its index.
pub(crate) fn append(tx: &mut Tx<'_>, statement: &Statement) -> Result<u64, LedgerError> {
    let body = statement.body();
    let digest = statement.digest();
    let index = size(tx)?;
    let Some(new_size) = index.checked_add(1) else {
        return Err(LedgerError::Damaged { what: "the size is beyond counting" });
    };

    tx.put(&ENTRY, &index.to_be_bytes(), statement.bytes())?;
    append_hashes(tx, index, leaf_hash(statement.bytes()))?;
    tx.put(&SIZE, &[], &new_size.to_be_bytes())?;
    tx.put(&INDEX, digest.as_bytes(), &index.to_be_bytes())?;
    tx.put(&CHANNEL, &channel_key(&body.issuer, &body.audience, body.seq), digest.as_bytes())?;
    tx.put(&ABOUT, &with_number(&body.subject, index), digest.as_bytes())?;
    if body.reference != Digest::ZERO {
        tx.put(&ANSWER, &with_number(body.reference.as_bytes(), index), digest.as_bytes())?;
    }
    Ok(index)
}

fn append_hashes(tx: &mut Tx<'_>, index: u64, leaf: Digest) -> Result<(), LedgerError> {
    tx.put(&NODE, &node_key(0, index), leaf.as_bytes())?;
    let mut right = leaf;
    for (level, parent) in completed_by(index) {
        let left = StoredNodes(tx).node(level - 1, parent << 1)?;
        let hash = node_hash(&left, &right);
        tx.put(&NODE, &node_key(level, parent), hash.as_bytes())?;
        right = hash;
    }
    Ok(())
}

/// The hashes of complete subtrees as `append` wrote them.
pub(crate) struct StoredNodes<'a, R: Read>(pub(crate) &'a R);

impl<R: Read> Nodes for StoredNodes<'_, R> {
    type Error = LedgerError;

    fn node(&self, level: u8, index: u64) -> Result<Digest, LedgerError> {
        let row = self.0.get(&NODE, &node_key(level, index))?;
        row.and_then(|hash| Digest::from_slice(&hash))
            .ok_or(LedgerError::Damaged { what: "the hash of a complete subtree is missing" })
    }
}

pub(crate) fn size(r: &impl Read) -> Result<u64, LedgerError> {
    r.get(&SIZE, &[])?.map_or(Ok(0), |row| number(&row))
}

pub(crate) fn entry(r: &impl Read, index: u64) -> Result<Option<Vec<u8>>, LedgerError> {
    Ok(r.get(&ENTRY, &index.to_be_bytes())?)
}

pub(crate) fn index_of(r: &impl Read, digest: &Digest) -> Result<Option<u64>, LedgerError> {
    r.get(&INDEX, digest.as_bytes())?.map(|row| number(&row)).transpose()
}

/// Digest of the statement with that number on that channel, if it has arrived.
pub(crate) fn on_channel(
    r: &impl Read,
    issuer: &str,
    audience: &str,
    seq: u64,
) -> Result<Option<Digest>, LedgerError> {
    r.get(&CHANNEL, &channel_key(issuer, audience, seq))?.map(|row| digest(&row)).transpose()
}

/// What the next statement on that channel carries.
pub(crate) fn channel_head(r: &impl Read, issuer: &str, audience: &str) -> Result<ChannelHead, LedgerError> {
    let Some(row) = r.last(&CHANNEL, &channel_prefix(issuer, audience))? else {
        return Ok(ChannelHead::START);
    };
    let seq = trailing_number(&row)?;
    let Some(next) = seq.checked_add(1) else {
        return Err(LedgerError::ChannelFull { audience: audience.to_owned() });
    };
    Ok(ChannelHead { seq: next, prev: digest(&row.value)? })
}

/// Digests of all answers to a statement, in log order.
pub(crate) fn answers(r: &impl Read, reference: &Digest) -> Result<Vec<Digest>, LedgerError> {
    digests_under(r, &ANSWER, reference.as_bytes(), usize::MAX)
}

/// Digests of the statements with a subject, in log order.
pub(crate) fn about(r: &impl Read, subject: &[u8; 16], limit: usize) -> Result<Vec<Digest>, LedgerError> {
    digests_under(r, &ABOUT, subject, limit)
}

/// Reads in pages, so that a large limit costs no more than there are rows.
fn digests_under(
    r: &impl Read,
    table: &Table,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<Digest>, LedgerError> {
    let mut digests = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let wanted = (limit - digests.len()).min(PAGE);
        let rows = r.scan(table, prefix, after.as_deref(), wanted)?;
        for row in &rows {
            digests.push(digest(&row.value)?);
        }
        match rows.into_iter().last() {
            Some(last) if digests.len() < limit => after = Some(last.key),
            _ => return Ok(digests),
        }
    }
}

pub(crate) fn checkpoint_at(r: &impl Read, size: u64) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.get(&CHECKPOINT, &size.to_be_bytes())?.map(|row| checkpoint(&row)).transpose()
}

pub(crate) fn latest_checkpoint(r: &impl Read) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.last(&CHECKPOINT, &[])?.map(|row| checkpoint(&row.value)).transpose()
}

pub(crate) fn put_checkpoint(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    tx.put(&CHECKPOINT, &signed.checkpoint().size.to_be_bytes(), signed.text().as_bytes())?;
    Ok(())
}

pub(crate) fn observed(r: &impl Read, origin: &str) -> Result<Option<SignedCheckpoint>, LedgerError> {
    r.get(&OBSERVED, origin.as_bytes())?.map(|row| checkpoint(&row)).transpose()
}

pub(crate) fn put_observed(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    tx.put(&OBSERVED, signed.checkpoint().origin.as_bytes(), signed.text().as_bytes())?;
    Ok(())
}

/// The checkpoint of another log at exactly that size, if one was seen.
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

pub(crate) fn put_seen(tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    let checkpoint = signed.checkpoint();
    tx.put(&SEEN, &seen_key(&checkpoint.origin, checkpoint.size), signed.text().as_bytes())?;
    Ok(())
}

fn node_key(level: u8, index: u64) -> Vec<u8> {
    with_number(&[level], index)
}

fn seen_key(origin: &str, size: u64) -> Vec<u8> {
    with_number(&lengthed(origin), u64::MAX - size)
}

fn channel_key(issuer: &str, audience: &str, seq: u64) -> Vec<u8> {
    with_number(&channel_prefix(issuer, audience), seq)
}

fn channel_prefix(issuer: &str, audience: &str) -> Vec<u8> {
    let mut prefix = lengthed(issuer);
    prefix.extend(lengthed(audience));
    prefix
}

/// Names come from peers and may hold any character, so only a length keeps one from reaching into the next part.
fn lengthed(name: &str) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

fn with_number(prefix: &[u8], number: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn number(row: &[u8]) -> Result<u64, LedgerError> {
    let bytes = row.try_into().map_err(|_| LedgerError::Damaged { what: "a number has not eight bytes" })?;
    Ok(u64::from_be_bytes(bytes))
}

fn trailing_number(row: &Row) -> Result<u64, LedgerError> {
    let tail = row.key.last_chunk::<8>().ok_or(LedgerError::Damaged { what: "a key is too short" })?;
    Ok(u64::from_be_bytes(*tail))
}

fn digest(row: &[u8]) -> Result<Digest, LedgerError> {
    Digest::from_slice(row).ok_or(LedgerError::Damaged { what: "a digest has not 32 bytes" })
}

fn checkpoint(row: &[u8]) -> Result<SignedCheckpoint, LedgerError> {
    let text =
        std::str::from_utf8(row).map_err(|_| LedgerError::Damaged { what: "a checkpoint is not text" })?;
    Ok(SignedCheckpoint::stored(text)?)
}
