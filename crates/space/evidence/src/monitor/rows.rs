//! What the monitor remembers between rounds.

use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::ProvenLeaf;
use huitong_proof::cbor::{Fields, Limits, Map, Value};
use huitong_proof::{Digest, Timestamp};
use huitong_store::{Read, Table, Tx};

use crate::peer::ChannelSide;

/// Node -> [`LogRow`].
const LOGS: Table = Table::new("evidence.log");
/// Node, side -> [`Walk`].
const WALKS: Table = Table::new("evidence.walk");
/// Node -> [`Kept`]: the newest statement that its ledger was seen to hold.
const PROVEN: Table = Table::new("evidence.proven");
/// Node, time -> text of a checkpoint that its ledger had shown at that time, with the ledger's signature.
const HISTORY: Table = Table::new("evidence.history");
/// Node -> text of the newest checkpoint that its ledger has shown.
const NEWEST: Table = Table::new("evidence.newest");
/// Time -> size of this node's ledger at that time: how long an entry has been here at least.
const MARKS: Table = Table::new("evidence.mark");
/// Witness of the policy -> [`Lag`].
const LAGS: Table = Table::new("evidence.lag");
/// `cursor` -> the node that was looked at last.
const CURSOR: Table = Table::new("evidence.cursor");

const VERSION: u64 = 1;
const NEXT: &[u8] = b"cursor";
/// Checkpoints of one ledger that are kept; beyond that every second of the older ones goes.
const HISTORY_KEPT: usize = 64;
const HISTORY_RECENT: usize = 16;
/// At most one checkpoint of a ledger is kept in this many milliseconds.
const HISTORY_EVERY: u64 = 3_600_000;
/// How many marks cover the delay of a statement.
const MARKS_IN_DELAY: u64 = 8;

/// What is remembered of one followed ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogRow {
    /// Size of the newest checkpoint that was verified.
    pub(crate) size: u64,
    /// When the ledger was first seen to have it.
    pub(crate) grew_at: Timestamp,
    /// Since when it has given no checkpoint, if so.
    pub(crate) failing_since: Option<Timestamp>,
    /// Since when its mirror makes no progress, if so.
    pub(crate) mirror_since: Option<Timestamp>,
    /// Whether it does not show that it extends what it showed before.
    pub(crate) inconsistent: bool,
    /// Since when it shows fewer entries than before, if so.
    pub(crate) shrunk_since: Option<Timestamp>,
}

/// What has been looked at on one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The lowest number that was not looked at.
    pub(crate) next: u64,
    /// Numbers below that are not here, as ranges with both ends, ascending.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// Numbers below whose statement the ledger must hold and does not prove, ascending.
    pub(crate) missing: Vec<u64>,
    /// Since when proofs are asked for in vain, if so.
    pub(crate) stalled_since: Option<Timestamp>,
    /// Since when the other is asked in vain to show what is missing, if so.
    pub(crate) unasked_since: Option<Timestamp>,
    /// Whether there is an alert about missing numbers.
    pub(crate) gaps_told: bool,
}

/// A statement that a ledger has proven under one of its checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Text of the checkpoint.
    pub(crate) checkpoint: String,
    pub(crate) index: u64,
    pub(crate) leaf: ProvenLeaf,
}

/// How far behind a witness is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) size: u64,
    pub(crate) since: Timestamp,
}

impl LogRow {
    pub(crate) fn load(r: &impl Read, node: &NodeId) -> Result<Self, ServiceError> {
        let Some(row) = r.get(&LOGS, node.as_str().as_bytes())? else { return Ok(Self::default()) };
        let mut fields = open(&row, "evidence.log")?;
        let row = Self {
            size: fields.uint(2, "size")?,
            grew_at: Timestamp::from_millis(fields.uint(3, "grew_at")?),
            failing_since: fields.maybe_uint(4, "failing_since")?.map(Timestamp::from_millis),
            mirror_since: fields.maybe_uint(5, "mirror_since")?.map(Timestamp::from_millis),
            inconsistent: fields.boolean(6, "inconsistent")?,
            shrunk_since: fields.maybe_uint(7, "shrunk_since")?.map(Timestamp::from_millis),
        };
        fields.finish()?;
        Ok(row)
    }

    pub(crate) fn put(&self, tx: &mut Tx<'_>, node: &NodeId) -> Result<(), ServiceError> {
        let row = Map::new()
            .uint(1, VERSION)
            .uint(2, self.size)
            .uint(3, self.grew_at.millis())
            .maybe_uint(4, self.failing_since.map(Timestamp::millis))
            .maybe_uint(5, self.mirror_since.map(Timestamp::millis))
            .boolean(6, self.inconsistent)
            .maybe_uint(7, self.shrunk_since.map(Timestamp::millis));
        Ok(tx.put(&LOGS, node.as_str().as_bytes(), &row.encode())?)
    }
}

impl Walk {
    pub(crate) fn load(r: &impl Read, node: &NodeId, side: ChannelSide) -> Result<Self, ServiceError> {
        let Some(row) = r.get(&WALKS, &side_key(node, side))? else { return Ok(Self::default()) };
        let mut fields = open(&row, "evidence.walk")?;
        let next = fields.uint(2, "next")?;
        let bounds = numbers(fields.array(3, "gaps")?)?;
        let (gaps, rest) = bounds.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(damaged("evidence.walk"));
        }
        let walk = Self {
            next,
            gaps: gaps.iter().map(|[from, to]| (*from, *to)).collect(),
            missing: numbers(fields.array(4, "missing")?)?,
            stalled_since: fields.maybe_uint(5, "stalled_since")?.map(Timestamp::from_millis),
            unasked_since: fields.maybe_uint(6, "unasked_since")?.map(Timestamp::from_millis),
            gaps_told: fields.boolean(7, "gaps_told")?,
        };
        fields.finish()?;
        Ok(walk)
    }

    pub(crate) fn put(&self, tx: &mut Tx<'_>, node: &NodeId, side: ChannelSide) -> Result<(), ServiceError> {
        let gaps = self.gaps.iter().flat_map(|(from, to)| [Value::Uint(*from), Value::Uint(*to)]).collect();
        let missing = self.missing.iter().map(|number| Value::Uint(*number)).collect();
        let row = Map::new()
            .uint(1, VERSION)
            .uint(2, self.next)
            .array(3, gaps)
            .array(4, missing)
            .maybe_uint(5, self.stalled_since.map(Timestamp::millis))
            .maybe_uint(6, self.unasked_since.map(Timestamp::millis))
            .boolean(7, self.gaps_told);
        Ok(tx.put(&WALKS, &side_key(node, side), &row.encode())?)
    }
}

impl Kept {
    pub(crate) fn load(r: &impl Read, node: &NodeId) -> Result<Option<Self>, ServiceError> {
        let Some(row) = r.get(&PROVEN, node.as_str().as_bytes())? else { return Ok(None) };
        let mut fields = open(&row, "evidence.proven")?;
        let (checkpoint, index) = (fields.text(2, "checkpoint")?, fields.uint(3, "index")?);
        let (leaf, path) = (fields.digest(4, "leaf")?, fields.bytes(5, "path")?);
        fields.finish()?;
        let (path, rest) = path.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(damaged("evidence.proven"));
        }
        let path = path.iter().map(|hash| Digest::from_bytes(*hash)).collect();
        Ok(Some(Self { checkpoint, index, leaf: ProvenLeaf { leaf, path } }))
    }

    pub(crate) fn put(&self, tx: &mut Tx<'_>, node: &NodeId) -> Result<(), ServiceError> {
        let path: Vec<u8> = self.leaf.path.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let row = Map::new()
            .uint(1, VERSION)
            .text(2, &self.checkpoint)
            .uint(3, self.index)
            .digest(4, &self.leaf.leaf)
            .bytes(5, &path);
        Ok(tx.put(&PROVEN, node.as_str().as_bytes(), &row.encode())?)
    }
}

/// Keeps the newest checkpoint of a ledger, verified at that time; as one of its history, too, unless one was kept
/// shortly before.
pub(crate) fn put_newest(
    tx: &mut Tx<'_>,
    node: &NodeId,
    now: Timestamp,
    text: &str,
) -> Result<(), ServiceError> {
    tx.put(&NEWEST, node.as_str().as_bytes(), text.as_bytes())?;
    let prefix = history_prefix(node);
    if let Some(last) = tx.last(&HISTORY, &prefix)? {
        let time = last.key.get(prefix.len()..).and_then(|time| time.try_into().ok()).map(u64::from_be_bytes);
        let time = time.ok_or_else(|| damaged("evidence.history"))?;
        if now.millis() < time.saturating_add(HISTORY_EVERY) {
            return Ok(());
        }
    }
    let key = [prefix.as_slice(), &now.millis().to_be_bytes()].concat();
    tx.put(&HISTORY, &key, text.as_bytes())?;
    let rows = tx.scan(&HISTORY, &prefix, None, usize::MAX)?;
    if rows.len() > HISTORY_KEPT {
        let older = rows.len().saturating_sub(HISTORY_RECENT);
        for row in rows.iter().take(older).skip(1).step_by(2) {
            tx.delete(&HISTORY, &row.key)?;
        }
    }
    Ok(())
}

/// The checkpoints of a ledger that are kept, the oldest first; the newest twice, if it is in the history.
pub(crate) fn history(r: &impl Read, node: &NodeId) -> Result<Vec<String>, ServiceError> {
    let rows = r.scan(&HISTORY, &history_prefix(node), None, usize::MAX)?;
    let newest = r.get(&NEWEST, node.as_str().as_bytes())?;
    let texts = rows.into_iter().map(|row| row.value).chain(newest);
    texts.map(|text| String::from_utf8(text).map_err(|_| damaged("evidence.history"))).collect()
}

/// How many entries of this node's ledger have been here for `delay`. Marks are made as this is asked; an issuer's own
/// date does not count, for it can be anything.
pub(crate) fn ripe_size(
    r: &impl Read,
    now: Timestamp,
    delay: std::time::Duration,
) -> Result<u64, ServiceError> {
    Ok(ripe_mark(&marks(r)?, now, delay).map_or(0, |(_, size)| size))
}

/// Whether a mark is due.
pub(crate) fn mark_due(
    r: &impl Read,
    now: Timestamp,
    delay: std::time::Duration,
) -> Result<bool, ServiceError> {
    let every = delay / u32::try_from(MARKS_IN_DELAY).unwrap_or(1);
    Ok(match marks(r)?.last() {
        // A clock that was set back.
        Some((time, _)) if *time > now => true,
        Some((time, _)) => now.saturating_since(*time) >= every.max(std::time::Duration::from_millis(1)),
        None => true,
    })
}

pub(crate) fn put_mark(
    tx: &mut Tx<'_>,
    now: Timestamp,
    delay: std::time::Duration,
    size: u64,
) -> Result<(), ServiceError> {
    let marks = marks(tx)?;
    let ripe = ripe_mark(&marks, now, delay).map(|(time, _)| time);
    for (time, _) in marks {
        if time > now || ripe.is_some_and(|ripe| time < ripe) {
            tx.delete(&MARKS, &time.millis().to_be_bytes())?;
        }
    }
    Ok(tx.put(&MARKS, &now.millis().to_be_bytes(), &size.to_be_bytes())?)
}

fn ripe_mark(
    marks: &[(Timestamp, u64)],
    now: Timestamp,
    delay: std::time::Duration,
) -> Option<(Timestamp, u64)> {
    let old = |time: Timestamp| time <= now && now.saturating_since(time) >= delay;
    marks.iter().rev().find(|(time, _)| old(*time)).copied()
}

fn marks(r: &impl Read) -> Result<Vec<(Timestamp, u64)>, ServiceError> {
    let number =
        |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged("evidence.mark"));
    let rows = r.scan(&MARKS, &[], None, usize::MAX)?;
    rows.iter().map(|row| Ok((Timestamp::from_millis(number(&row.key)?), number(&row.value)?))).collect()
}

pub(crate) fn lag(r: &impl Read, witness: &str) -> Result<Option<Lag>, ServiceError> {
    let Some(row) = r.get(&LAGS, witness.as_bytes())? else { return Ok(None) };
    let (chunks, rest) = row.as_chunks::<8>();
    match chunks {
        [size, since] if rest.is_empty() => Ok(Some(Lag {
            size: u64::from_be_bytes(*size),
            since: Timestamp::from_millis(u64::from_be_bytes(*since)),
        })),
        _ => Err(damaged("evidence.lag")),
    }
}

pub(crate) fn put_lag(tx: &mut Tx<'_>, witness: &str, lag: Option<Lag>) -> Result<(), ServiceError> {
    match lag {
        Some(Lag { size, since }) => {
            let row = [size.to_be_bytes(), since.millis().to_be_bytes()].concat();
            Ok(tx.put(&LAGS, witness.as_bytes(), &row)?)
        }
        None => Ok(tx.delete(&LAGS, witness.as_bytes())?),
    }
}

/// The node after which the next round begins.
pub(crate) fn cursor(r: &impl Read) -> Result<Option<String>, ServiceError> {
    let row = r.get(&CURSOR, NEXT)?;
    row.map(|row| String::from_utf8(row).map_err(|_| damaged("evidence.cursor"))).transpose()
}

pub(crate) fn put_cursor(tx: &mut Tx<'_>, node: &NodeId) -> Result<(), ServiceError> {
    Ok(tx.put(&CURSOR, NEXT, node.as_str().as_bytes())?)
}

fn side_key(node: &NodeId, side: ChannelSide) -> Vec<u8> {
    let side = match side {
        ChannelSide::FromCaller => b"ours",
        ChannelSide::ToCaller => b"them",
    };
    [node.as_str().as_bytes(), &[0], side].concat()
}

fn history_prefix(node: &NodeId) -> Vec<u8> {
    [node.as_str().as_bytes(), &[0]].concat()
}

fn open(row: &[u8], table: &'static str) -> Result<Fields, ServiceError> {
    let mut fields = Fields::decode(row, Limits::DOCUMENT, table)?;
    match fields.uint(1, "version")? {
        VERSION => Ok(fields),
        _ => Err(damaged(table)),
    }
}

fn numbers(values: Vec<Value>) -> Result<Vec<u64>, ServiceError> {
    let number = |value| match value {
        Value::Uint(number) => Ok(number),
        _ => Err(damaged("evidence.walk")),
    };
    values.into_iter().map(number).collect()
}

fn damaged(table: &str) -> ServiceError {
    ServiceError::Internal(format!("a row of {table} is damaged"))
}
