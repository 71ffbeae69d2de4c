//! What a person has to look at.
//!
//! An alert stands for one condition: a code, a node, and what about it. Finding the condition again counts it and
//! changes nothing else. When it ends, the alert is resolved by itself; a person can resolve it before, and then the
//! same condition is silent until it has ended and begun anew. What is proven for ever, a fork, ends for no one.

use huitong_identity::ServiceError;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_proof::{Digest, Timestamp};
use huitong_store::{Read, Table, Tx};

use crate::service::Evidence;

/// A ledger signed two things that exclude each other, and there is a fork proof.
pub const LEDGER_FORKED: &str = "ledger.forked";
/// A ledger does not show that its newest checkpoint extends the one that it showed before.
pub const LEDGER_INCONSISTENT: &str = "ledger.inconsistent";
/// A ledger shows fewer entries than it did before.
pub const LEDGER_SHRUNK: &str = "ledger.shrunk";
/// A ledger signs no newer checkpoint although statements wait for one.
pub const LEDGER_STOPPED: &str = "ledger.stopped";
/// A ledger cannot be asked, or gives nothing that its key has signed.
pub const LEDGER_UNREACHABLE: &str = "ledger.unreachable";
/// A node signed two statements that exclude each other, and there is a fork proof.
pub const STATEMENT_FORKED: &str = "statement.forked";
/// A statement is missing in a ledger that must hold it.
pub const STATEMENT_NOT_LOGGED: &str = "statement.not_logged";
/// Statements between this node and another are missing here, and the other does not show them.
pub const CHANNEL_GAP: &str = "channel.gap";
/// A witness of the policy has not cosigned for a long time.
pub const WITNESS_FAILING: &str = "witness.failing";
/// The leaf hashes of a ledger that this node witnesses cannot be had, or are wrong.
pub const MIRROR_INCOMPLETE: &str = "mirror.incomplete";

/// Number -> alert.
const ALERTS: Table = Table::new("evidence.alert");
/// Node, code, hash of the subject -> number of the alert, as long as the condition lasts.
const ACTIVE: Table = Table::new("evidence.alert.active");
/// `count` -> number of alerts that are kept.
const COUNT: Table = Table::new("evidence.alert.count");

const VERSION: u64 = 1;
/// Alerts that are kept; the oldest resolved ones make room.
const MAX_KEPT: u64 = 4_096;
/// Alerts of one code about one node that last at the same time; the last one stands for all the others.
const MAX_OF_CODE: usize = 16;
/// Characters of a text.
const MAX_TEXT: usize = 1_000;
/// The subject of the alert that stands for many.
const MANY: &str = "more";

/// Something that a person has to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Number on this node, from 1.
    pub id: u64,
    /// Stable code, such as [`LEDGER_FORKED`].
    pub code: String,
    /// The node that it is about, or the name of a witness that is no node.
    pub node: String,
    /// What about it, so that the same is not reported twice: a digest, a range, or nothing.
    pub subject: String,
    /// What was found, and what to do, in plain words.
    pub text: String,
    /// When it was found first.
    pub first_seen: Timestamp,
    /// When it was found last.
    pub last_seen: Timestamp,
    /// How often it was found.
    pub count: u64,
    /// When it ended or a person dealt with it.
    pub resolved: Option<Timestamp>,
}

/// What an alert stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) code: &'static str,
    pub(crate) subject: String,
    pub(crate) text: String,
}

impl Condition {
    pub(crate) fn new(code: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self { code, subject: subject.into(), text: text.chars().take(MAX_TEXT).collect() }
    }
}

/// How the alerts about one node have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) raised: usize,
    pub(crate) ended: usize,
}

impl Evidence {
    /// Alerts, the newest first, at most `limit`; `all`: also those that were resolved.
    pub fn alerts(&self, all: bool, limit: usize) -> Result<Vec<Alert>, ServiceError> {
        let mut alerts = every(&self.ledger().store().view())?;
        alerts.retain(|alert| all || alert.resolved.is_none());
        alerts.reverse();
        alerts.truncate(limit);
        Ok(alerts)
    }

    /// How many alerts nobody has dealt with.
    pub fn open_alerts(&self) -> Result<u64, ServiceError> {
        let open = every(&self.ledger().store().view())?.into_iter().filter(|alert| alert.resolved.is_none());
        Ok(open.count() as u64)
    }

    /// Says of an alert that a person has dealt with it. Saying so again changes nothing.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] for a number that is no alert's.
    pub async fn resolve_alert(&self, id: u64) -> Result<(), ServiceError> {
        let now = self.now();
        let resolve = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
            let unknown = || ServiceError::NotFound { what: format!("alert {id}") };
            let mut alert = load(tx, id)?.ok_or_else(unknown)?;
            if alert.resolved.is_none() {
                alert.resolved = Some(now);
                alert.put(tx)?;
            }
            Ok(())
        };
        Ok(self.ledger().store().transact("evidence.alert_resolved", resolve).await?)
    }

    /// Brings the alerts about a node in line with what was found. `examined`: the codes that were looked into in
    /// full, so that what is not in `found` has ended. Other alerts stay as they are.
    pub(crate) async fn settle_alerts(
        &self,
        node: &str,
        examined: &[&'static str],
        found: Vec<Condition>,
    ) -> Result<Settled, ServiceError> {
        let view = self.ledger().store().view();
        let mut quiet = found.is_empty();
        for code in examined {
            quiet = quiet && view.scan(&ACTIVE, &active_prefix(node, code), None, 1)?.is_empty();
        }
        // Most rounds find nothing about most nodes, and then nothing is written.
        if quiet {
            return Ok(Settled::default());
        }
        let (node, examined, now) = (node.to_owned(), examined.to_vec(), self.now());
        let settle = move |tx: &mut Tx<'_>| settle(tx, now, &node, &examined, found);
        Ok(self.ledger().store().transact("evidence.alerts", settle).await?)
    }
}

fn settle(
    tx: &mut Tx<'_>,
    now: Timestamp,
    node: &str,
    examined: &[&'static str],
    found: Vec<Condition>,
) -> Result<Settled, ServiceError> {
    let mut settled = Settled::default();
    let found = bounded(found);
    for code in examined {
        let lasting: Vec<Vec<u8>> = found
            .iter()
            .filter(|condition| condition.code == *code)
            .map(|condition| active_key(node, code, &condition.subject))
            .collect();
        for row in tx.scan(&ACTIVE, &active_prefix(node, code), None, usize::MAX)? {
            if !lasting.contains(&row.key) {
                tx.delete(&ACTIVE, &row.key)?;
                settled.ended = settled.ended.saturating_add(usize::from(end(tx, &row.value, now)?));
            }
        }
    }
    for condition in found {
        settled.raised = settled.raised.saturating_add(usize::from(raise(tx, now, node, condition)?));
    }
    Ok(settled)
}

/// Of many conditions with one code only the first are told one by one.
fn bounded(found: Vec<Condition>) -> Vec<Condition> {
    let mut kept: Vec<Condition> = Vec::new();
    let mut many: Vec<(&'static str, usize)> = Vec::new();
    for condition in found {
        let same = kept.iter().filter(|other| other.code == condition.code).count();
        if same < MAX_OF_CODE.saturating_sub(1) {
            kept.push(condition);
            continue;
        }
        match many.iter_mut().find(|(code, _)| *code == condition.code) {
            Some((_, more)) => *more = more.saturating_add(1),
            None => many.push((condition.code, 1)),
        }
    }
    kept.extend(
        many.into_iter().map(|(code, more)| Condition::new(code, MANY, format!("the same of {more} more"))),
    );
    kept
}

/// Finds a condition once more; whether a new alert was made.
pub(crate) fn raise(
    tx: &mut Tx<'_>,
    now: Timestamp,
    node: &str,
    condition: Condition,
) -> Result<bool, ServiceError> {
    let key = active_key(node, condition.code, &condition.subject);
    if let Some(id) = tx.get(&ACTIVE, &key)?
        && let Some(mut alert) = load(tx, number(&id)?)?
    {
        alert.text = condition.text;
        alert.last_seen = now.max(alert.last_seen);
        alert.count = alert.count.saturating_add(1);
        alert.put(tx)?;
        return Ok(false);
    }
    let kept = tx.get(&COUNT, b"count")?.map_or(Ok(0), |row| number(&row))?;
    let kept = if kept < MAX_KEPT { kept } else { make_room(tx, kept)? };
    // Thousands of conditions at once: what is known already says enough. A proven fork is always told.
    let is_fork = matches!(condition.code, LEDGER_FORKED | STATEMENT_FORKED);
    if kept >= MAX_KEPT && !is_fork {
        tracing::error!(%node, code = condition.code, text = %condition.text, "too many alerts: this one is not kept");
        return Ok(false);
    }
    let id = match tx.last(&ALERTS, &[])? {
        Some(row) => number(&row.key)?.saturating_add(1),
        None => 1,
    };
    tracing::warn!(alert = id, %node, code = condition.code, text = %condition.text, "alert");
    let alert = Alert {
        id,
        code: condition.code.to_owned(),
        node: node.to_owned(),
        subject: condition.subject,
        text: condition.text,
        first_seen: now,
        last_seen: now,
        count: 1,
        resolved: None,
    };
    alert.put(tx)?;
    tx.put(&ACTIVE, &key, &id.to_be_bytes())?;
    tx.put(&COUNT, b"count", &kept.saturating_add(1).to_be_bytes())?;
    Ok(true)
}

/// Whether the alert was open until now.
fn end(tx: &mut Tx<'_>, id: &[u8], now: Timestamp) -> Result<bool, ServiceError> {
    let Some(mut alert) = load(tx, number(id)?)? else { return Ok(false) };
    if alert.resolved.is_some() {
        return Ok(false);
    }
    tracing::info!(alert = alert.id, node = %alert.node, code = %alert.code, "an alert has ended");
    alert.resolved = Some(now);
    alert.put(tx)?;
    Ok(true)
}

/// Removes the older half of the resolved alerts whose condition has ended; how many are left. The newest alert stays,
/// for its number gives the next one.
fn make_room(tx: &mut Tx<'_>, kept: u64) -> Result<u64, ServiceError> {
    let alerts = every(tx)?;
    let newest = alerts.last().map_or(0, |alert| alert.id);
    let mut over = Vec::new();
    for alert in alerts.iter().filter(|alert| alert.resolved.is_some() && alert.id != newest) {
        let active = tx.get(&ACTIVE, &active_key(&alert.node, &alert.code, &alert.subject))?;
        if active.is_none_or(|id| id != alert.id.to_be_bytes()) {
            over.push(alert.id);
        }
    }
    over.truncate(over.len().div_ceil(2));
    for id in &over {
        tx.delete(&ALERTS, &id.to_be_bytes())?;
    }
    Ok(kept.saturating_sub(over.len() as u64))
}

fn every(r: &impl Read) -> Result<Vec<Alert>, ServiceError> {
    let rows = r.scan(&ALERTS, &[], None, usize::MAX)?;
    rows.iter().map(|row| Alert::decode(number(&row.key)?, &row.value)).collect()
}

fn load(r: &impl Read, id: u64) -> Result<Option<Alert>, ServiceError> {
    r.get(&ALERTS, &id.to_be_bytes())?.map(|row| Alert::decode(id, &row)).transpose()
}

fn active_prefix(node: &str, code: &str) -> Vec<u8> {
    [node.as_bytes(), &[0], code.as_bytes(), &[0]].concat()
}

fn active_key(node: &str, code: &str, subject: &str) -> Vec<u8> {
    let mut key = active_prefix(node, code);
    key.extend_from_slice(Digest::sha256(subject.as_bytes()).as_bytes());
    key
}

fn number(bytes: &[u8]) -> Result<u64, ServiceError> {
    let damaged = |_| ServiceError::Internal("the number of an alert is damaged".to_owned());
    Ok(u64::from_be_bytes(bytes.try_into().map_err(damaged)?))
}

impl Alert {
    fn put(&self, tx: &mut Tx<'_>) -> Result<(), ServiceError> {
        let row = Map::new()
            .uint(1, VERSION)
            .text(2, &self.code)
            .text(3, &self.node)
            .text(4, &self.subject)
            .text(5, &self.text)
            .uint(6, self.first_seen.millis())
            .uint(7, self.last_seen.millis())
            .uint(8, self.count)
            .maybe_uint(9, self.resolved.map(Timestamp::millis));
        Ok(tx.put(&ALERTS, &self.id.to_be_bytes(), &row.encode())?)
    }

    fn decode(id: u64, row: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = Fields::decode(row, Limits::DOCUMENT, "evidence.alert")?;
        let version = fields.uint(1, "version")?;
        if version != VERSION {
            return Err(ServiceError::Internal(format!("an alert has the unknown version {version}")));
        }
        let alert = Self {
            id,
            code: fields.text(2, "code")?,
            node: fields.text(3, "node")?,
            subject: fields.text(4, "subject")?,
            text: fields.text(5, "text")?,
            first_seen: Timestamp::from_millis(fields.uint(6, "first_seen")?),
            last_seen: Timestamp::from_millis(fields.uint(7, "last_seen")?),
            count: fields.uint(8, "count")?,
            resolved: fields.maybe_uint(9, "resolved")?.map(Timestamp::from_millis),
        };
        fields.finish()?;
        Ok(alert)
    }
}

#[cfg(test)]
#[path = "alerts/tests.rs"]
mod tests;
