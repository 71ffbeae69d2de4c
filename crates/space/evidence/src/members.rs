//! The log of logs: the function node states, each day, how far the ledger of every member had come.
//!
//! A LOGS statement (kind 33) goes from the function node to itself, so its own ledger holds it and its witnesses
//! cosign it: one root a day stands for all ledgers. Detail: {1 array of [origin, size, root, time], in order of origin;
//! 2 array of the digests of other LOGS statements, which hold the rest}. `time` is when the function node cosigned the
//! checkpoint, in milliseconds since 1970, or 0 if it only verified it. When the members do not fit into one statement,
//! all of them are in others, and the last names these in order and holds none itself. The subject is derived from the
//! day, so a day's statements are found without an index.

use std::collections::BTreeSet;

use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::{EntryState, Ledger, origin_of, witnessed};
use huitong_proof::cbor::{Map, Value};
use huitong_proof::{Digest, Draft, Envelope, Kind, Statement, Timestamp};
use huitong_store::{Read, Table, Tx};

use crate::service::Evidence;

/// Origin, size, root -> the checkpoint that was stated, as the ledger signed it and with the cosignature of this node if
/// it has one: a statement of this node alone would not show that the member ever signed that root.
const STATED: Table = Table::new("evidence.logs.stated");

/// Milliseconds of a UTC day.
const DAY: u64 = 24 * 3_600 * 1_000;
/// Ledgers in one statement: at most 106 bytes each, of the 16 KiB that a statement may have.
const MAX_IN_ONE: usize = 140;
/// Statements that one can name: with 34 bytes each they stay below 16 KiB.
const MAX_PARTS: usize = 400;
/// Statements of one day that are read.
const MAX_OF_DAY: usize = 4_096;
/// Days that are looked through for statements.
const MAX_DAYS: u64 = 3_660;

/// One ledger in the log of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// Origin of the ledger.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// Root over these entries.
    pub root: Digest,
    /// When the function node cosigned the checkpoint; `None` if it only verified it.
    pub cosigned: Option<Timestamp>,
    /// The checkpoint as the ledger signed it; `None` if it is not kept.
    pub checkpoint: Option<String>,
}

/// The checkpoints of all members' ledgers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsStatement {
    /// TBS digest of the statement: one value that stands for all ledgers.
    pub digest: Digest,
    /// When it was made.
    pub time: Timestamp,
    /// Index in this node's ledger.
    pub index: u64,
    /// The ledgers, in order of origin; also those that the other statements hold.
    pub logs: Vec<LogHead>,
    /// The other statements, if one was not enough.
    pub parts: Vec<Digest>,
}

impl Evidence {
    /// States the newest verified checkpoints of all members' ledgers now.
    ///
    /// # Errors
    /// [`ServiceError::Forbidden`] on a node that is no function node; [`ServiceError::SafeMode`] while nothing is
    /// signed.
    pub async fn state_logs(&self) -> Result<LogsStatement, ServiceError> {
        if !self.standing().membership.is_registrar() {
            let reason = "only a function node has members whose ledgers it can state".to_owned();
            return Err(ServiceError::Forbidden { reason });
        }
        let logs = self.heads()?;
        let (ledger, stated, subject) =
            (self.ledger().clone(), logs.clone(), subject_of(self.now().millis() / DAY));
        let state = move |tx: &mut Tx<'_>| -> Result<(Statement, Vec<Digest>, u64), ServiceError> {
            let (last, parts) = issue(&ledger, tx, subject, &stated)?;
            for head in &stated {
                if let Some(text) = &head.checkpoint {
                    tx.put(&STATED, &stated_key(head), text.as_bytes())?;
                }
            }
            let index = ledger.index_of(tx, &last.digest())?;
            let index =
                index.ok_or_else(|| ServiceError::Internal("an issued statement has no index".to_owned()))?;
            Ok((last, parts, index))
        };
        let (last, parts, index) = self.ledger().store().transact("evidence.logs", state).await?;
        tracing::info!(digest = %last.digest(), logs = logs.len(), "the members' ledgers are stated");
        Ok(LogsStatement { digest: last.digest(), time: last.body().time, index, logs, parts })
    }

    /// The same, once on each UTC day; `None` when it is done for today, on a node that is no function node, and while
    /// nothing is signed. What is done is read from the ledger, so a restart repeats nothing.
    pub async fn log_members_once(&self) -> Result<Option<LogsStatement>, ServiceError> {
        if !self.standing().membership.is_registrar() || self.safe_mode().is_some() {
            return Ok(None);
        }
        let today = self.now().millis() / DAY;
        if !self.of_day(&self.ledger().store().view(), today)?.is_empty() {
            return Ok(None);
        }
        self.state_logs().await.map(Some)
    }

    /// The newest statements of [`Evidence::state_logs`], the newest first, at most `limit`, of the last ten years.
    pub fn list_logs(&self, limit: usize) -> Result<Vec<LogsStatement>, ServiceError> {
        let view = self.ledger().store().view();
        let today = self.now().millis() / DAY;
        let first = self.first_day(&view)?.unwrap_or(today).max(today.saturating_sub(MAX_DAYS));
        let mut listed = Vec::new();
        // A clock that was set back may have left some in the future: one day of it is looked at.
        for day in (first..=today.saturating_add(1)).rev() {
            for statement in self.of_day(&view, day)?.into_iter().rev() {
                if listed.len() >= limit {
                    return Ok(listed);
                }
                listed.push(self.read_whole(&view, &statement)?);
            }
        }
        Ok(listed)
    }

    /// The newest verified checkpoints of the members' ledgers, in order of origin.
    fn heads(&self) -> Result<Vec<LogHead>, ServiceError> {
        let view = self.ledger().store().view();
        let mut heads = Vec::new();
        for node in self.members()? {
            heads.extend(self.head_of_member(&view, &node)?);
        }
        heads.sort_by(|a, b| a.origin.cmp(&b.origin));
        if heads.len() > MAX_IN_ONE * MAX_PARTS {
            let bound = MAX_IN_ONE * MAX_PARTS;
            return Err(ServiceError::Busy {
                reason: format!("more than {bound} ledgers cannot be stated at once"),
            });
        }
        Ok(heads)
    }

    fn head_of_member(&self, r: &impl Read, node: &NodeId) -> Result<Option<LogHead>, ServiceError> {
        let origin = origin_of(node.as_str());
        let seen = self.ledger().observed(r, &origin)?;
        if let Some(held) = witnessed(r, &origin)? {
            let checkpoint = held.checkpoint();
            if seen.as_ref().is_none_or(|seen| seen.size <= checkpoint.size) {
                let line = held.cosigned_by(self.cosigner().verifier()).ok().flatten();
                return Ok(Some(LogHead {
                    size: checkpoint.size,
                    root: checkpoint.root,
                    cosigned: line.map(|line| line.time),
                    origin,
                    checkpoint: Some(held.text().to_owned()),
                }));
            }
        }
        let Some(seen) = seen else { return Ok(None) };
        let shown = match self.follow(node)? {
            Some(log) => self.last_shown(&log)?.filter(|shown| *shown.checkpoint() == seen),
            None => None,
        };
        let checkpoint = shown.map(|shown| shown.text().to_owned());
        Ok(Some(LogHead { origin, size: seen.size, root: seen.root, cosigned: None, checkpoint }))
    }

    /// The statements of one day that no other of that day names, in log order.
    fn of_day(&self, r: &impl Read, day: u64) -> Result<Vec<Statement>, ServiceError> {
        let mut statements = self.ledger().about(r, &subject_of(day), MAX_OF_DAY)?;
        let own = self.ledger().node();
        statements.retain(|s| s.kind() == Kind::Logs && s.body().issuer == own && s.body().audience == own);
        let mut named = BTreeSet::new();
        for statement in &statements {
            named.extend(read(statement)?.1);
        }
        statements.retain(|statement| !named.contains(&statement.digest()));
        Ok(statements)
    }

    fn read_whole(&self, r: &impl Read, last: &Statement) -> Result<LogsStatement, ServiceError> {
        let (mut logs, parts) = read(last)?;
        for digest in &parts {
            let part = self.ledger().statement(r, digest)?;
            let part = part.ok_or_else(|| ServiceError::NotFound { what: format!("statement {digest}") })?;
            logs.extend(read(&part)?.0);
        }
        for head in &mut logs {
            let text = r.get(&STATED, &stated_key(head))?.map(String::from_utf8).transpose();
            let damaged = |_| ServiceError::Internal("a row of evidence.logs.stated is damaged".to_owned());
            head.checkpoint = text.map_err(damaged)?;
        }
        let index = self.ledger().index_of(r, &last.digest())?.unwrap_or_default();
        Ok(LogsStatement { digest: last.digest(), time: last.body().time, index, logs, parts })
    }

    /// The day of the ledger's first entry.
    fn first_day(&self, r: &impl Read) -> Result<Option<u64>, ServiceError> {
        Ok(match self.ledger().entry_state(r, 0)? {
            Some(EntryState::Present(bytes)) => {
                let statement = Envelope::decode(bytes)?.trusted(self.ledger().space())?;
                Some(statement.body().time.millis() / DAY)
            }
            // Removed or lost: then everything is looked through.
            Some(EntryState::Redacted(_)) => Some(0),
            None => None,
        })
    }
}

/// Issues as many statements as are needed; the last one, and the digests of those before.
fn issue(
    ledger: &Ledger,
    tx: &mut Tx<'_>,
    subject: [u8; 16],
    logs: &[LogHead],
) -> Result<(Statement, Vec<Digest>), ServiceError> {
    let draft = |detail| Draft {
        kind: Kind::Logs,
        audience: ledger.node().to_owned(),
        subject,
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail,
    };
    if logs.len() <= MAX_IN_ONE {
        return Ok((ledger.issue(tx, draft(detail(logs, &[])))?, Vec::new()));
    }
    let mut parts = Vec::new();
    for logs in logs.chunks(MAX_IN_ONE) {
        parts.push(ledger.issue(tx, draft(detail(logs, &[])))?.digest());
    }
    let last = ledger.issue(tx, draft(detail(&[], &parts)))?;
    Ok((last, parts))
}

fn detail(logs: &[LogHead], parts: &[Digest]) -> Map {
    let head = |head: &LogHead| {
        Value::Array(vec![
            Value::Text(head.origin.clone()),
            Value::Uint(head.size),
            Value::Bytes(head.root.as_bytes().to_vec()),
            Value::Uint(head.cosigned.map_or(0, Timestamp::millis)),
        ])
    };
    let parts = parts.iter().map(|digest| Value::Bytes(digest.as_bytes().to_vec())).collect();
    Map::new().array(1, logs.iter().map(head).collect()).array(2, parts)
}

/// What a LOGS statement holds itself, and the others that it names.
fn read(statement: &Statement) -> Result<(Vec<LogHead>, Vec<Digest>), ServiceError> {
    let malformed = |what: &str| ServiceError::invalid("logs", what);
    let mut fields = statement.detail("logs")?;
    let mut logs = Vec::new();
    for value in fields.array(1, "logs")? {
        let Value::Array(items) = value else { return Err(malformed("expected an array for each ledger")) };
        let Ok([Value::Text(origin), Value::Uint(size), Value::Bytes(root), Value::Uint(time)]) =
            <[Value; 4]>::try_from(items)
        else {
            return Err(malformed("expected origin, size, root and time"));
        };
        let root = Digest::from_slice(&root).ok_or_else(|| malformed("a root has 32 bytes"))?;
        let cosigned = (time > 0).then(|| Timestamp::from_millis(time));
        logs.push(LogHead { origin, size, root, cosigned, checkpoint: None });
    }
    let mut parts = Vec::new();
    for value in fields.array(2, "parts")? {
        let Value::Bytes(digest) = value else { return Err(malformed("expected a digest")) };
        parts.push(Digest::from_slice(&digest).ok_or_else(|| malformed("a digest has 32 bytes"))?);
    }
    fields.finish()?;
    Ok((logs, parts))
}

fn stated_key(head: &LogHead) -> Vec<u8> {
    let key = Digest::sha256_parts(&[head.origin.as_bytes(), &head.size.to_be_bytes(), head.root.as_bytes()]);
    key.as_bytes().to_vec()
}

fn subject_of(day: u64) -> [u8; 16] {
    let digest = Digest::sha256_parts(&[b"huitong/logs/v1\0", &day.to_be_bytes()]);
    digest.as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
#[path = "members/tests.rs"]
mod tests;
