//! Numbers of a channel that are not here although later ones are.

use huitong_identity::{PeerError, ServiceError};
use huitong_ledger::ForkProof;
use huitong_proof::Statement;

use super::rows::Walk;
use super::walk::{Proof, Under, Walked, not_logged};
use super::within;
use crate::alerts::{CHANNEL_GAP, Condition};
use crate::model::FollowedLog;
use crate::peer::{ChannelSide, MAX_STATEMENTS};
use crate::service::Evidence;

/// Ranges that are remembered; beyond that the oldest are forgotten.
const MAX_RANGES: usize = 64;
/// Pages of missing statements that the other is asked to show in one round.
const MAX_SHOWN: usize = 8;

impl Evidence {
    /// Asks the other to show what has not arrived. What it shows, and has logged, was lost on the way and no more.
    pub(super) async fn look_into_gaps(
        &self,
        under: &Under<'_>,
        side: ChannelSide,
        walk: &mut Walk,
        walked: &mut Walked,
    ) -> Result<(), ServiceError> {
        let node = &under.log.node;
        // Later than it should have been, but here; it stays in the ranges until it is proven.
        let mut missing = walk.gaps.clone();
        for (from, to) in &walk.gaps {
            let mut next = Some(*from);
            while let Some(from) = next {
                let held = self.held(node.as_str(), side, from, *to)?;
                held.iter().for_each(|statement| fill(&mut missing, statement.body().seq));
                next = held.last().and_then(|last| last.body().seq.checked_add(1));
            }
        }
        let mut unasked = None;
        if side == ChannelSide::ToCaller {
            let (shown, failed) = self.ask_to_show(under, &missing).await;
            unasked = failed;
            for statement in &shown {
                walked.forks.extend(self.contradicts_neighbour(under.log, side, statement)?);
            }
            for (statement, proof) in self.proofs(under, shown).await {
                let seq = statement.body().seq;
                match proof {
                    Proof::Proven(_) => fill(&mut walk.gaps, seq),
                    Proof::Absent(reason) => {
                        walked.conditions.push(not_logged(&statement, node.as_str(), under, &reason));
                    }
                    Proof::Unavailable(reason) => {
                        unasked.get_or_insert(reason);
                        continue;
                    }
                }
                fill(&mut missing, seq);
            }
        }
        // Who could not be asked may still show it; not for ever.
        let now = self.now();
        walk.unasked_since = unasked.map(|_| walk.unasked_since.unwrap_or(now));
        let patience = self.settings().statement_delay;
        let asked = walk.unasked_since.is_none_or(|since| now.saturating_since(since) >= patience);
        walk.gaps_told = !missing.is_empty() && (asked || walk.gaps_told);
        if walk.gaps_told {
            walked.conditions.push(self.gap(node.as_str(), side, &missing));
        }
        Ok(())
    }

    /// What the other shows of these numbers, and why it could not be asked for all of them, if so.
    async fn ask_to_show(
        &self,
        under: &Under<'_>,
        missing: &[(u64, u64)],
    ) -> (Vec<Statement>, Option<String>) {
        let (mut all, mut next) = (Vec::new(), 0);
        for _ in 0..MAX_SHOWN {
            // One page may reach over several ranges.
            let Some((from, _)) = missing.iter().find(|(_, to)| *to >= next) else { break };
            let from = next.max(*from);
            let asking = under.peer.statements(&under.log.node, ChannelSide::ToCaller, from, MAX_STATEMENTS);
            let shown = match within(asking).await {
                Ok(shown) => shown,
                Err(PeerError::Unavailable(reason)) => return (all, Some(reason)),
                Err(PeerError::Refused { .. } | PeerError::Broken(_)) => break,
            };
            let shown = shown.into_iter().take(MAX_STATEMENTS);
            let shown = shown.filter_map(|bytes| self.shown(under.log, ChannelSide::ToCaller, bytes));
            let shown: Vec<Statement> = shown.filter(|statement| statement.body().seq >= from).collect();
            let Some(last) = shown.iter().map(|statement| statement.body().seq).max() else { break };
            let is_missing = |seq: u64| missing.iter().any(|(from, to)| (*from..=*to).contains(&seq));
            all.extend(shown.into_iter().filter(|statement| is_missing(statement.body().seq)));
            let Some(after) = last.checked_add(1) else { break };
            next = after;
        }
        (all, None)
    }

    fn gap(&self, node: &str, side: ChannelSide, gaps: &[(u64, u64)]) -> Condition {
        let (issuer, audience) = self.ends(node, side);
        let ranges: Vec<String> = gaps
            .iter()
            .map(|(from, to)| if from == to { from.to_string() } else { format!("{from} to {to}") })
            .collect();
        let next_step = match side {
            ChannelSide::ToCaller => "it does not show them: ask its operator what they said",
            ChannelSide::FromCaller => {
                "this node has lost them: `huitong ledger recover` brings back what others still hold"
            }
        };
        let text = format!(
            "of the statements of {issuer} to {audience}, these numbers are not here although later ones are: {}; {next_step}",
            ranges.join(", ")
        );
        Condition::new(CHANNEL_GAP, format!("{issuer} {audience}"), text)
    }

    /// Whether a statement that was shown excludes the one before or after it that is here.
    fn contradicts_neighbour(
        &self,
        log: &FollowedLog,
        side: ChannelSide,
        shown: &Statement,
    ) -> Result<Option<ForkProof>, ServiceError> {
        let seq = shown.body().seq;
        for beside in [seq.checked_sub(1), seq.checked_add(1)].into_iter().flatten() {
            for held in self.held(log.node.as_str(), side, beside, beside)? {
                let key = log.statement_key.clone();
                let fork = ForkProof::of_statements(key, *self.ledger().space(), shown.bytes(), held.bytes());
                if let Ok(fork) = fork {
                    return Ok(Some(fork));
                }
            }
        }
        Ok(None)
    }
}

/// Moves the walk up to `seq`, and past it if it was looked at; numbers that were not here become gaps.
pub(super) fn advance(walk: &mut Walk, seq: u64, past: bool) {
    if let Some(last) = seq.checked_sub(1)
        && walk.next <= last
    {
        push(walk, walk.next, last);
    }
    walk.next = if past { seq.saturating_add(1) } else { seq };
}

/// Puts a number that was passed into the ranges, so that it is looked at again.
pub(super) fn open(walk: &mut Walk, seq: u64) {
    push(walk, seq, seq);
}

fn push(walk: &mut Walk, from: u64, to: u64) {
    match walk.gaps.last_mut() {
        Some((_, end)) if end.checked_add(1) == Some(from) => *end = to,
        _ => walk.gaps.push((from, to)),
    }
    if walk.gaps.len() > MAX_RANGES {
        walk.gaps.remove(0);
    }
}

/// Takes a number out of the ranges.
pub(super) fn fill(gaps: &mut Vec<(u64, u64)>, seq: u64) {
    let Some(place) = gaps.iter().position(|(from, to)| (*from..=*to).contains(&seq)) else { return };
    let (from, to) = gaps.remove(place);
    if seq < to {
        gaps.insert(place, (seq.saturating_add(1), to));
    }
    if from < seq {
        gaps.insert(place, (from, seq.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_here_become_ranges() {
        let mut walk = Walk::default();
        let check = |walk: &Walk, next, gaps: &[(u64, u64)]| {
            assert_eq!((walk.next, walk.gaps.as_slice()), (next, gaps));
        };
        advance(&mut walk, 0, true);
        check(&walk, 1, &[]);
        advance(&mut walk, 1, false);
        check(&walk, 1, &[]);
        advance(&mut walk, 4, true);
        check(&walk, 5, &[(1, 3)]);
        advance(&mut walk, 9, false);
        check(&walk, 9, &[(1, 3), (5, 8)]);
        advance(&mut walk, 12, true);
        check(&walk, 13, &[(1, 3), (5, 11)]);

        for (seq, gaps) in [
            (2, vec![(1, 1), (3, 3), (5, 11)]),
            (1, vec![(3, 3), (5, 11)]),
            (11, vec![(3, 3), (5, 10)]),
            (5, vec![(3, 3), (6, 10)]),
            (4, vec![(3, 3), (6, 10)]),
            (3, vec![(6, 10)]),
        ] {
            fill(&mut walk.gaps, seq);
            assert_eq!(walk.gaps, gaps, "{seq}");
        }
        let mut all = vec![(0, u64::MAX)];
        fill(&mut all, u64::MAX);
        fill(&mut all, 0);
        assert_eq!(all, [(1, u64::MAX - 1)]);
    }
}
