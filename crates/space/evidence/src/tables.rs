//! What this crate stores and how it is found.

use std::collections::BTreeMap;

use bytes::Bytes;
use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::Ledger;
use huitong_proof::Digest;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_store::{Read, Table, Tx};

/// SHA-256 of the proof -> something that this node signed and no longer had when it was shown. A row stays until the
/// ledger holds it again: signing does not resume before.
const AHEAD: Table = Table::new("evidence.ahead");
/// Leaf hash -> bytes of a statement that a counterparty gave back; only while a recovery is under way.
const RECOVERED: Table = Table::new("evidence.recovered");
/// Digests of statements that a recovery has put back, and of which what else this node keeps has yet to take notice: signing
/// does not resume before.
const RETURNED: Table = Table::new("evidence.returned");
/// Leaf hash -> index of an entry whose bytes nobody gave back.
const LOST: Table = Table::new("evidence.lost");

const VERSION: u64 = 1;
const CHECKPOINT: u64 = 1;
const STATEMENT: u64 = 2;
/// Proofs that are kept: each is under this node's own signature, so there is no endless supply.
const MAX_AHEAD: usize = 1024;
const PAGE: usize = 1024;

/// Something under this node's own signature that its ledger does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Text of a checkpoint of this node's ledger.
    Checkpoint(String),
    /// Bytes of a statement of this node.
    Statement(Bytes),
}

/// [`Ahead`] with who showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) by: String,
    pub(crate) ahead: Ahead,
}

impl Shown {
    fn encode(&self) -> Vec<u8> {
        let (form, bytes) = match &self.ahead {
            Ahead::Checkpoint(text) => (CHECKPOINT, text.as_bytes()),
            Ahead::Statement(bytes) => (STATEMENT, bytes.as_ref()),
        };
        Map::new().uint(1, VERSION).uint(2, form).text(3, &self.by).bytes(4, bytes).encode()
    }

    fn decode(row: &[u8]) -> Result<Self, ServiceError> {
        let damaged = || ServiceError::Internal("a row of evidence.ahead is damaged".to_owned());
        let mut fields = Fields::decode(row, Limits::DOCUMENT, "evidence.ahead")?;
        let (version, form) = (fields.uint(1, "version")?, fields.uint(2, "form")?);
        let (by, bytes) = (fields.text(3, "by")?, fields.bytes(4, "bytes")?);
        fields.finish()?;
        let ahead = match (version, form) {
            (VERSION, CHECKPOINT) => Ahead::Checkpoint(String::from_utf8(bytes).map_err(|_| damaged())?),
            (VERSION, STATEMENT) => Ahead::Statement(bytes.into()),
            _ => return Err(damaged()),
        };
        Ok(Self { by, ahead })
    }

    fn key(&self) -> Digest {
        match &self.ahead {
            Ahead::Checkpoint(text) => Digest::sha256(text.as_bytes()),
            Ahead::Statement(bytes) => Digest::sha256(bytes),
        }
    }
}

/// Keeps what was shown. Writing it again changes nothing; beyond 1,024 nothing more is kept, for one is enough.
pub(crate) fn put_ahead(tx: &mut Tx<'_>, shown: &Shown) -> Result<(), ServiceError> {
    let key = shown.key();
    let known = tx.get(&AHEAD, key.as_bytes())?.is_some();
    if !known && tx.scan(&AHEAD, &[], None, MAX_AHEAD)?.len() < MAX_AHEAD {
        tx.put(&AHEAD, key.as_bytes(), &shown.encode())?;
    }
    Ok(())
}

pub(crate) fn all_ahead(r: &impl Read) -> Result<Vec<Shown>, ServiceError> {
    r.scan(&AHEAD, &[], None, MAX_AHEAD)?.iter().map(|row| Shown::decode(&row.value)).collect()
}

pub(crate) fn drop_ahead(tx: &mut Tx<'_>, shown: &Shown) -> Result<(), ServiceError> {
    Ok(tx.delete(&AHEAD, shown.key().as_bytes())?)
}

pub(crate) fn put_recovered(tx: &mut Tx<'_>, leaf: &Digest, bytes: &[u8]) -> Result<(), ServiceError> {
    Ok(tx.put(&RECOVERED, leaf.as_bytes(), bytes)?)
}

pub(crate) fn recovered(r: &impl Read, leaf: &Digest) -> Result<Option<Bytes>, ServiceError> {
    Ok(r.get(&RECOVERED, leaf.as_bytes())?.map(Bytes::from))
}

/// Deletes at most one page; whether there may be more.
pub(crate) fn drop_recovered(tx: &mut Tx<'_>) -> Result<bool, ServiceError> {
    let rows = tx.scan(&RECOVERED, &[], None, PAGE)?;
    for row in &rows {
        tx.delete(&RECOVERED, &row.key)?;
    }
    Ok(rows.len() == PAGE)
}

pub(crate) fn put_returned(tx: &mut Tx<'_>, digest: &Digest) -> Result<(), ServiceError> {
    Ok(tx.put(&RETURNED, digest.as_bytes(), &[])?)
}

/// At most so many of them.
pub(crate) fn returned(r: &impl Read, limit: usize) -> Result<Vec<Digest>, ServiceError> {
    let damaged = || ServiceError::Internal("a row of evidence.returned is damaged".to_owned());
    let rows = r.scan(&RETURNED, &[], None, limit)?;
    rows.iter().map(|row| Digest::from_slice(&row.key).ok_or_else(damaged)).collect()
}

pub(crate) fn drop_returned(tx: &mut Tx<'_>, digest: &Digest) -> Result<(), ServiceError> {
    Ok(tx.delete(&RETURNED, digest.as_bytes())?)
}

pub(crate) fn put_lost(tx: &mut Tx<'_>, leaf: &Digest, index: u64) -> Result<(), ServiceError> {
    Ok(tx.put(&LOST, leaf.as_bytes(), &index.to_be_bytes())?)
}

pub(crate) fn lost(r: &impl Read, leaf: &Digest) -> Result<Option<u64>, ServiceError> {
    r.get(&LOST, leaf.as_bytes())?.map(|row| read_index(&row)).transpose()
}

pub(crate) fn drop_lost(tx: &mut Tx<'_>, leaf: &Digest) -> Result<(), ServiceError> {
    Ok(tx.delete(&LOST, leaf.as_bytes())?)
}

/// Leaf hash and index of every lost entry, by index.
pub(crate) fn all_lost(r: &impl Read) -> Result<BTreeMap<u64, Digest>, ServiceError> {
    let mut all = BTreeMap::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = r.scan(&LOST, &[], after.as_deref(), PAGE)?;
        for row in &rows {
            let leaf = Digest::from_slice(&row.key).ok_or_else(damaged_lost)?;
            all.insert(read_index(&row.value)?, leaf);
        }
        match rows.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(all),
        }
    }
}

fn read_index(row: &[u8]) -> Result<u64, ServiceError> {
    Ok(u64::from_be_bytes(row.try_into().map_err(|_| damaged_lost())?))
}

fn damaged_lost() -> ServiceError {
    ServiceError::Internal("a row of evidence.lost is damaged".to_owned())
}

/// The nodes on the other side of this node's channels, in order of id.
pub(crate) fn counterparties(r: &impl Read, ledger: &Ledger) -> Result<Vec<NodeId>, ServiceError> {
    let mut nodes = Vec::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let names = after.as_ref().map(|(issuer, audience)| (issuer.as_str(), audience.as_str()));
        let page = ledger.channels(r, names, PAGE)?;
        for channel in &page {
            let other = if channel.issuer == ledger.node() {
                &channel.audience
            } else if channel.audience == ledger.node() {
                &channel.issuer
            } else {
                // Two others: credentials that were shown here, for example.
                continue;
            };
            nodes.extend(NodeId::parse(other).ok().filter(|node| node.as_str() != ledger.node()));
        }
        match page.into_iter().last() {
            Some(last) => after = Some((last.issuer, last.audience)),
            None => break,
        }
    }
    nodes.sort();
    nodes.dedup();
    Ok(nodes)
}
