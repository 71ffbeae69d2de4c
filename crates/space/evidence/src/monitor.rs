//! Following the ledgers of others: that each only grows, goes on, and holds what was said with this node.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::{SignedCheckpoint, witnessed};
use huitong_proof::{Digest, Timestamp};
use huitong_store::Tx;

use crate::alerts::{
    CHANNEL_GAP, Condition, LEDGER_INCONSISTENT, LEDGER_SHRUNK, LEDGER_STOPPED, LEDGER_UNREACHABLE,
    MIRROR_INCOMPLETE, STATEMENT_NOT_LOGGED, WITNESS_FAILING,
};
use crate::mirror::{MIRRORED_LEAVES, Mirroring};
use crate::model::FollowedLog;
use crate::peer::{ChannelSide, LogPeer};
use crate::service::Evidence;

#[cfg(test)]
pub(crate) mod fixture;
mod gaps;
mod head;
mod rows;
mod walk;

pub(crate) use head::{Agreement, Effort, Head, within};
pub(crate) use rows::{Kept, history};
use rows::{Lag, LogRow};
pub(crate) use walk::{Under, Verdict, describe};

/// Ledgers that are looked at together.
const AT_ONCE: usize = 8;

/// How much one round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorBounds {
    /// Ledgers that are looked at; the next round goes on with the others.
    pub logs: usize,
    /// Statements that are asked for on each channel; the next round goes on with the others.
    pub statements: usize,
    /// Leaf hashes that are kept of each ledger that this node witnesses.
    pub mirrored_leaves: u64,
}

impl Default for MonitorBounds {
    fn default() -> Self {
        Self { logs: 64, statements: 2_048, mirrored_leaves: MIRRORED_LEAVES }
    }
}

/// What one round has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitorReport {
    /// The ledgers that were looked at.
    pub logs: Vec<LogReport>,
    /// Followed ledgers whose turn is in a later round.
    pub remaining: usize,
    /// New alerts.
    pub raised: usize,
    /// Open alerts that have ended.
    pub ended: usize,
}

/// What a round has found out about one ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// The node whose ledger it is.
    pub node: NodeId,
    /// How it stands.
    pub state: LogState,
    /// Statements that it has proven this time.
    pub proven: usize,
    /// Whether statements are left that were not asked for this time.
    pub more: bool,
    /// What became of this node's mirror of it, if this node witnesses it.
    pub mirroring: Option<Mirroring>,
}

/// How a followed ledger stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogState {
    /// Its newest checkpoint extends all that were seen before.
    Consistent {
        /// Entries.
        size: u64,
    },
    /// It gives no checkpoint, or none that its key has signed.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It shows fewer entries than before.
    Shrunk {
        /// Entries that it shows.
        size: u64,
        /// Entries that it has shown, to this node or to a witness.
        before: u64,
    },
    /// It does not show that it extends what it showed before.
    Inconsistent {
        /// Why.
        reason: String,
    },
    /// It is proven to have signed two histories.
    Forked,
}

/// All that was found out about one ledger, before anything is written.
struct Look {
    report: LogReport,
    conditions: Vec<Condition>,
    examined: Vec<&'static str>,
}

impl Evidence {
    /// One round of [`Evidence::monitor_within`] with the usual bounds.
    pub async fn monitor_once(&self, peer: &dyn LogPeer) -> Result<MonitorReport, ServiceError> {
        self.monitor_within(peer, &MonitorBounds::default()).await
    }

    /// Looks at the ledgers of [`Evidence::followed`] in turn: newest checkpoint, consistency with the one before and
    /// with what a witness holds, every statement between the two nodes that has been here for
    /// [`crate::EvidenceSettings::statement_delay`], the mirror if this node witnesses it. What a person has to know
    /// becomes an alert, and alerts whose cause is gone end.
    ///
    /// Nothing is asked of nodes but through `peer`, and nothing is believed that is not proven. An error is this
    /// node's own: what goes wrong elsewhere is in the report.
    pub async fn monitor_within(
        &self,
        peer: &dyn LogPeer,
        bounds: &MonitorBounds,
    ) -> Result<MonitorReport, ServiceError> {
        self.adopt_evidence().await?;
        let ripe = self.mark().await?;
        let view = self.ledger().store().view();
        let mut followed = self.followed()?;
        if let Some(cursor) = rows::cursor(&view)? {
            let first =
                followed.iter().position(|log| log.node.as_str() > cursor.as_str()).unwrap_or_default();
            followed.rotate_left(first);
        }
        let mut report = MonitorReport {
            remaining: followed.len().saturating_sub(bounds.logs),
            ..MonitorReport::default()
        };
        followed.truncate(bounds.logs);

        let last = followed.last().map(|log| log.node.clone());
        let mut looks = stream::iter(followed)
            .map(|log| async move { self.look_at(peer, &log, ripe, bounds).await })
            .buffer_unordered(AT_ONCE);
        while let Some(look) = looks.next().await {
            let Look { report: log, conditions, examined } = look?;
            let settled = self.settle_alerts(log.node.as_str(), &examined, conditions).await?;
            report.raised = report.raised.saturating_add(settled.raised);
            report.ended = report.ended.saturating_add(settled.ended);
            report.logs.push(log);
        }
        drop(looks);
        report.logs.sort_by(|a, b| a.node.cmp(&b.node));
        if report.remaining > 0
            && let Some(last) = last
        {
            let keep = move |tx: &mut Tx<'_>| rows::put_cursor(tx, &last);
            self.ledger().store().transact("evidence.cursor", keep).await?;
        }
        let settled = self.look_at_witnesses().await?;
        report.raised = report.raised.saturating_add(settled.raised);
        report.ended = report.ended.saturating_add(settled.ended);
        Ok(report)
    }

    async fn look_at(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        ripe: u64,
        bounds: &MonitorBounds,
    ) -> Result<Look, ServiceError> {
        let now = self.now();
        let before = self.row(&log.node)?;
        let mut row = before.clone();
        let mut look = Look {
            report: LogReport {
                node: log.node.clone(),
                state: LogState::Forked,
                proven: 0,
                more: false,
                mirroring: None,
            },
            conditions: Vec::new(),
            examined: Vec::new(),
        };
        let signed = match self.head_of(peer, log).await? {
            Head::Verified(signed) => {
                self.against_a_witness(peer, log, &signed).await?.map_or(Ok(signed), Err)
            }
            Head::Not(state) => Err(state),
        };
        match signed {
            Ok(signed) => {
                let size = signed.checkpoint().size;
                if size > row.size || row.grew_at == Timestamp::default() {
                    (row.size, row.grew_at) = (size, now);
                }
                (row.failing_since, row.shrunk_since, row.inconsistent) = (None, None, false);
                look.report.state = LogState::Consistent { size };
                look.examined.extend([LEDGER_UNREACHABLE, LEDGER_INCONSISTENT, LEDGER_SHRUNK]);
                let grows =
                    size >= row.size && now.saturating_since(row.grew_at) < self.settings().statement_delay;
                let under = Under { peer, log, signed: &signed, ripe, grows };
                self.look_at_channels(&under, bounds, &row, &mut look).await?;
                if log.witnessed {
                    self.look_at_cosigning(log, &signed, now, &mut look).await?;
                    self.look_at_mirror(peer, log, bounds, now, &mut row, &mut look).await?;
                }
            }
            Err(state) => {
                self.look_at_failure(&state, now, &mut row, &mut look);
                look.report.state = state;
            }
        }
        if row != before {
            let node = log.node.clone();
            let keep = move |tx: &mut Tx<'_>| row.put(tx, &node);
            self.ledger().store().transact("evidence.log", keep).await?;
        }
        Ok(look)
    }

    /// Compares with what this node has cosigned itself, and with one of the other witnesses, another one each time.
    async fn against_a_witness(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
    ) -> Result<Option<LogState>, ServiceError> {
        let mut witnesses = Vec::new();
        if log.witnessed {
            witnesses.push(None);
        }
        let others = self.mirrors_of(log, &[signed])?;
        let drawn = [log.node.as_str().as_bytes(), &self.now().millis().to_be_bytes()].concat();
        let drawn = Digest::sha256(&drawn)
            .as_bytes()
            .iter()
            .fold(0_usize, |sum, byte| sum.wrapping_add(usize::from(*byte)));
        if let Some(place) = drawn.checked_rem(others.len()) {
            witnesses.extend(others.get(place).map(Some));
        }
        for witness in witnesses {
            if let Agreement::Not(state) = self.agreement(peer, log, signed, witness, Effort::Once).await? {
                // A witness may have cosigned a checkpoint that was signed a moment after ours was fetched.
                if matches!(state, LogState::Shrunk { .. }) && self.has_grown(peer, log, signed).await {
                    continue;
                }
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    async fn has_grown(&self, peer: &dyn LogPeer, log: &FollowedLog, than: &SignedCheckpoint) -> bool {
        let Ok(text) = within(peer.checkpoint(&log.node)).await else { return true };
        let newer = SignedCheckpoint::parse(&text, &log.log);
        newer.is_ok_and(|newer| newer.checkpoint().size > than.checkpoint().size)
    }

    fn look_at_failure(&self, state: &LogState, now: Timestamp, row: &mut LogRow, look: &mut Look) {
        let node = look.report.node.clone();
        let mut raise = |code, text| look.conditions.push(Condition::new(code, "", text));
        match state {
            LogState::Unreachable { reason } => {
                let since = *row.failing_since.get_or_insert(now);
                look.examined.push(LEDGER_UNREACHABLE);
                if now.saturating_since(since) >= self.settings().stale_after {
                    let text = format!(
                        "the ledger of {node} has given no checkpoint since {since}: {reason}; ask its operator whether the node is to be off"
                    );
                    raise(LEDGER_UNREACHABLE, text);
                }
            }
            LogState::Shrunk { size, before } => {
                row.failing_since = None;
                row.shrunk_since.get_or_insert(now);
                look.examined.extend([LEDGER_UNREACHABLE, LEDGER_SHRUNK]);
                let text = format!(
                    "the ledger of {node} shows {size} entries, and it had {before}: it was rolled back, probably to a backup; until it has them again, nothing that it signs can be relied on"
                );
                raise(LEDGER_SHRUNK, text);
            }
            LogState::Inconsistent { reason } => {
                (row.failing_since, row.inconsistent) = (None, true);
                look.examined.extend([LEDGER_UNREACHABLE, LEDGER_INCONSISTENT]);
                let text = format!(
                    "the ledger of {node} is not shown to extend what it was: {reason}; `huitong ledger audit {node}` looks for the proof of a fork"
                );
                raise(LEDGER_INCONSISTENT, text);
            }
            // Its alert was raised with the proof; what else is wrong with it does not matter any more.
            LogState::Forked => look.examined.extend([
                LEDGER_UNREACHABLE,
                LEDGER_INCONSISTENT,
                LEDGER_SHRUNK,
                LEDGER_STOPPED,
                MIRROR_INCOMPLETE,
            ]),
            LogState::Consistent { .. } => {}
        }
    }

    async fn look_at_channels(
        &self,
        under: &Under<'_>,
        bounds: &MonitorBounds,
        row: &LogRow,
        look: &mut Look,
    ) -> Result<(), ServiceError> {
        let node = &under.log.node;
        look.examined.extend([LEDGER_STOPPED, STATEMENT_NOT_LOGGED, CHANNEL_GAP]);
        let mut waits = None;
        for side in [ChannelSide::ToCaller, ChannelSide::FromCaller] {
            let walked = self.walk(under, side, bounds.statements).await?;
            look.report.proven = look.report.proven.saturating_add(walked.proven);
            look.report.more |= walked.more;
            look.conditions.extend(walked.conditions);
            waits = waits.or(walked.waits);
            for fork in walked.forks {
                self.keep_fork(node, fork).await?;
            }
        }
        if let Some(waits) = waits {
            let text = format!(
                "the ledger of {node} has signed nothing beyond size {} since {}, and {waits} waits for it; ask its operator",
                under.signed.checkpoint().size,
                row.grew_at
            );
            look.conditions.push(Condition::new(LEDGER_STOPPED, "", text));
        }
        Ok(())
    }

    /// A ledger that goes on signing and has nothing cosigned keeps what it signs from being final, and from being seen.
    async fn look_at_cosigning(
        &self,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
        now: Timestamp,
        look: &mut Look,
    ) -> Result<(), ServiceError> {
        let (view, origin) = (self.ledger().store().view(), log.log.name());
        let cosigned = witnessed(&view, origin)?.map_or(0, |held| held.checkpoint().size);
        let known = rows::lag(&view, origin)?;
        let lag = match known {
            // Who never asks has other witnesses. That this node does not cosign now is not the ledger's fault.
            _ if cosigned == 0
                || cosigned >= signed.checkpoint().size
                || !self.remembers(&view, origin)? =>
            {
                None
            }
            Some(known) if known.size == cosigned => Some(known),
            _ => Some(Lag { size: cosigned, since: now }),
        };
        if lag != known {
            let name = origin.to_owned();
            let keep = move |tx: &mut Tx<'_>| rows::put_lag(tx, &name, lag);
            self.ledger().store().transact("evidence.lag", keep).await?;
        }
        let late = lag.filter(|lag| now.saturating_since(lag.since) >= self.settings().stale_after);
        let is_told = look.conditions.iter().any(|condition| condition.code == LEDGER_STOPPED);
        if let Some(Lag { size, since }) = late.filter(|_| !is_told) {
            let text = format!(
                "the ledger of {} has signed size {} and has had nothing beyond size {size} cosigned by this node since {since}; ask its operator",
                log.node,
                signed.checkpoint().size,
            );
            look.conditions.push(Condition::new(LEDGER_STOPPED, "", text));
        }
        Ok(())
    }

    async fn look_at_mirror(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        bounds: &MonitorBounds,
        now: Timestamp,
        row: &mut LogRow,
        look: &mut Look,
    ) -> Result<(), ServiceError> {
        // Somebody else may be at it.
        let Some(mirroring) = self.mirror_log(peer, log, bounds.mirrored_leaves).await? else {
            return Ok(());
        };
        look.examined.push(MIRROR_INCOMPLETE);
        let failing = match &mirroring {
            Mirroring::Complete { .. } | Mirroring::Partial { .. } => None,
            Mirroring::Unavailable { reason } => Some((reason, self.settings().stale_after)),
            Mirroring::Wrong { reason } => Some((reason, Duration::ZERO)),
        };
        match failing {
            None => row.mirror_since = None,
            Some((reason, patience)) => {
                let since = *row.mirror_since.get_or_insert(now);
                if now.saturating_since(since) >= patience {
                    let text = format!(
                        "the leaf hashes of the ledger of {}, which this node witnesses, are incomplete here since {since}: {reason}; if that node loses its ledger, not all of it can be put back",
                        log.node
                    );
                    look.conditions.push(Condition::new(MIRROR_INCOMPLETE, "", text));
                }
            }
        }
        look.report.mirroring = Some(mirroring);
        Ok(())
    }

    /// Since now the mirror of that node's ledger makes no progress.
    pub(crate) async fn note_mirror_failure(&self, node: &NodeId) -> Result<(), ServiceError> {
        let (node, now) = (node.clone(), self.now());
        let note = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
            let mut row = LogRow::load(tx, &node)?;
            row.mirror_since.get_or_insert(now);
            row.put(tx, &node)
        };
        Ok(self.ledger().store().transact("evidence.mirror_failed", note).await?)
    }

    /// Witnesses of the policy that have cosigned nothing for too long although there was something to cosign.
    async fn look_at_witnesses(&self) -> Result<crate::alerts::Settled, ServiceError> {
        let standing = self.ledger_standing()?;
        let mut settled = crate::alerts::Settled::default();
        if standing.safe_mode.is_some() {
            return Ok(settled);
        }
        let (view, now) = (self.ledger().store().view(), self.now());
        for witness in standing.witnesses {
            let known = rows::lag(&view, &witness.name)?;
            let lag = match known {
                _ if witness.size >= standing.signed_size => None,
                Some(known) if known.size == witness.size => Some(known),
                _ => Some(Lag { size: witness.size, since: now }),
            };
            if lag != known {
                let name = witness.name.clone();
                let keep = move |tx: &mut Tx<'_>| rows::put_lag(tx, &name, lag);
                self.ledger().store().transact("evidence.lag", keep).await?;
            }
            let late = lag.filter(|lag| now.saturating_since(lag.since) >= self.settings().stale_after);
            let found = late.map(|Lag { size, since }| {
                let reason = witness.last_error.unwrap_or_else(|| "no reason is known".to_owned());
                let text = format!(
                    "witness {} has cosigned this node's ledger up to size {size} and nothing since {since}: {reason}; as long as too few others cosign, nothing becomes final",
                    witness.name
                );
                Condition::new(WITNESS_FAILING, &witness.name, text)
            });
            let about = witness.node.map_or(witness.name, |node| node.to_string());
            let one = self.settle_alerts(&about, &[WITNESS_FAILING], found.into_iter().collect()).await?;
            settled.raised = settled.raised.saturating_add(one.raised);
            settled.ended = settled.ended.saturating_add(one.ended);
        }
        Ok(settled)
    }

    /// Notes how far this node's ledger reaches now; how much of it has been here for the delay.
    async fn mark(&self) -> Result<u64, ServiceError> {
        let (view, now, delay) = (self.ledger().store().view(), self.now(), self.settings().statement_delay);
        if rows::mark_due(&view, now, delay)? {
            let ledger = self.ledger().clone();
            let mark = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                let size = ledger.size(tx)?;
                rows::put_mark(tx, now, delay, size)
            };
            self.ledger().store().transact("evidence.mark", mark).await?;
        }
        rows::ripe_size(&view, now, delay)
    }

    /// How much of this node's ledger has been here for the delay, as far as is known.
    pub(crate) fn ripe(&self) -> Result<u64, ServiceError> {
        rows::ripe_size(&self.ledger().store().view(), self.now(), self.settings().statement_delay)
    }

    pub(crate) fn row(&self, node: &NodeId) -> Result<LogRow, ServiceError> {
        LogRow::load(&self.ledger().store().view(), node)
    }
}

#[cfg(test)]
#[path = "monitor/tests.rs"]
mod tests;
