//! Whether what was said between this node and another stands in the other's ledger, number by number.
//!
//! What the other has signed must stand there. What this node has signed to it must stand there once the other is
//! known to hold it: because it has answered, or because it shows the statement. That it hides what it was sent cannot
//! be told from a message that was lost, and is not an alert. Refusals need not arrive at all.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use huitong_identity::{PeerError, ServiceError};
use huitong_ledger::{ForkProof, ProvenLeaf, SignedCheckpoint, leaf_hash, verify_inclusion};
use huitong_proof::{Envelope, Kind, Statement};
use huitong_store::Tx;

use super::gaps::{advance, fill, open};
use super::rows::{Kept, Walk};
use super::within;
use crate::alerts::{Condition, STATEMENT_NOT_LOGGED};
use crate::model::FollowedLog;
use crate::peer::{ChannelSide, Included, LogPeer};
use crate::service::Evidence;

/// Statements that are read and asked for together.
const CHUNK: usize = 256;
/// Proofs that are asked for at once.
const AT_ONCE: usize = 16;
/// Statements that are remembered as missing; beyond that a walk waits.
const MAX_OPEN: usize = 64;
/// How many numbers without statement the ledger looks past.
const HOLE: u64 = 1_024;

/// What a ledger is asked against.
pub(crate) struct Under<'a> {
    pub(crate) peer: &'a dyn LogPeer,
    pub(crate) log: &'a FollowedLog,
    /// A checkpoint of that ledger that was verified.
    pub(crate) signed: &'a SignedCheckpoint,
    /// Entries of this node's ledger that have been here for long enough.
    pub(crate) ripe: u64,
    /// Whether the ledger has signed a newer checkpoint lately.
    pub(crate) grows: bool,
}

/// What was found on one channel.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Statements that were proven.
    pub(crate) proven: usize,
    pub(crate) conditions: Vec<Condition>,
    /// A statement that waits for a newer checkpoint, in words.
    pub(crate) waits: Option<String>,
    /// Pairs of statements that exclude each other.
    pub(crate) forks: Vec<ForkProof>,
    /// Whether there is more to look at.
    pub(crate) more: bool,
}

/// What a ledger says of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Proven(Included),
    /// It has an answer, and that proves nothing.
    Absent(String),
    Unavailable(String),
}

/// What follows from it.
pub(crate) enum Verdict {
    Proven(Included),
    Missing(String),
    /// Nobody has to log it.
    NotDue,
    /// It may still be under way to the other node.
    UnderWay,
    /// The ledger signs nothing newer.
    Waits,
    Unavailable(String),
}

impl Evidence {
    /// Goes on along one channel, for at most `budget` statements.
    pub(crate) async fn walk(
        &self,
        under: &Under<'_>,
        side: ChannelSide,
        budget: usize,
    ) -> Result<Walked, ServiceError> {
        let node = &under.log.node;
        let (issuer, audience) = self.ends(node.as_str(), side);
        let view = self.ledger().store().view();
        let Some((head, _)) = self.ledger().channel_head(&view, issuer, audience)? else {
            return Ok(Walked::default());
        };
        let before = Walk::load(&view, node, side)?;
        let mut walk = before.clone();
        let mut walked = Walked::default();
        let mut newest: Option<(Included, Statement)> = None;

        self.look_again(under, side, &mut walk, &mut walked).await?;
        let mut left = budget;
        while left > 0 && walk.next <= head && walk.missing.len() < MAX_OPEN {
            let limit = left.min(CHUNK);
            let held = self.ledger().statements_on_channel(&view, issuer, audience, walk.next, limit)?;
            let full = held.len() == limit;
            let mut ripe = Vec::new();
            let mut young = false;
            for statement in held {
                if !self.is_ripe(&statement, under.ripe)? {
                    young = true;
                    break;
                }
                ripe.push(statement);
            }
            left = left.saturating_sub(limit);
            let looked_past = ripe.last().map_or(walk.next, |last| last.body().seq.saturating_add(1));
            let mut stopped = false;
            for (statement, proof) in self.proofs(under, ripe).await {
                let seq = statement.body().seq;
                match self.judge(under, side, &statement, proof).await? {
                    Verdict::Proven(included) => {
                        walked.proven = walked.proven.saturating_add(1);
                        if newest.as_ref().is_none_or(|(known, _)| known.index < included.index) {
                            newest = Some((included, statement));
                        }
                    }
                    Verdict::Missing(reason) => {
                        walked.conditions.push(not_logged(&statement, node.as_str(), under, &reason));
                        walk.missing.push(seq);
                    }
                    Verdict::NotDue => {}
                    // It is looked at again; whoever hides one statement hides no other behind it.
                    Verdict::UnderWay => {
                        walk.stalled_since = None;
                        advance(&mut walk, seq, true);
                        open(&mut walk, seq);
                        continue;
                    }
                    Verdict::Waits => {
                        walked.waits.get_or_insert_with(|| describe(&statement));
                        walk.stalled_since = None;
                        stopped = true;
                    }
                    Verdict::Unavailable(reason) => {
                        if self.stall(under, &statement, &reason, &mut walk, &mut walked) {
                            walk.missing.push(seq);
                            advance(&mut walk, seq, true);
                        }
                        stopped = true;
                    }
                }
                if stopped || walk.missing.len() >= MAX_OPEN {
                    // What is before it was looked at; it is the next, unless it was passed over.
                    if walk.next <= seq {
                        advance(&mut walk, seq, !stopped);
                    }
                    stopped = true;
                    break;
                }
                walk.stalled_since = None;
                advance(&mut walk, seq, true);
            }
            if stopped || young || left == 0 {
                break;
            }
            if !full {
                // Numbers up to the head that are not here. The head is, and unless it came a moment ago they are late.
                let to = head.min(looked_past.saturating_add(HOLE));
                if walk.next < to && self.is_head_ripe(issuer, audience, under.ripe)? {
                    advance(&mut walk, to, false);
                }
                break;
            }
        }
        walked.more = walk.next <= head;
        self.look_into_gaps(under, side, &mut walk, &mut walked).await?;

        let kept = match newest {
            Some((included, statement)) => Some(Kept {
                checkpoint: under.signed.with_log_signature_only().text().to_owned(),
                index: included.index,
                leaf: ProvenLeaf { leaf: leaf_hash(statement.bytes()), path: included.path },
            }),
            None => None,
        };
        if walk != before || kept.is_some() {
            let node = node.clone();
            let keep = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                walk.put(tx, &node, side)?;
                // The one that stands last says most about what stands before it.
                let known = Kept::load(tx, &node)?.map(|known| known.index);
                match kept.filter(|kept| known.is_none_or(|known| known < kept.index)) {
                    Some(kept) => kept.put(tx, &node),
                    None => Ok(()),
                }
            };
            self.ledger().store().transact("evidence.walk", keep).await?;
        }
        Ok(walked)
    }

    /// Issuer and audience of one of the channels between this node and another.
    pub(crate) fn ends<'a>(&'a self, node: &'a str, side: ChannelSide) -> (&'a str, &'a str) {
        match side {
            ChannelSide::FromCaller => (self.ledger().node(), node),
            ChannelSide::ToCaller => (node, self.ledger().node()),
        }
    }

    /// Asks for proofs of statements, several at once, in their order. Ends early when the ledger cannot be asked.
    pub(crate) async fn proofs(
        &self,
        under: &Under<'_>,
        statements: Vec<Statement>,
    ) -> Vec<(Statement, Proof)> {
        let mut answers = stream::iter(statements)
            .map(|statement| async move {
                let proof = prove(under, &statement).await;
                (statement, proof)
            })
            .buffered(AT_ONCE);
        let mut proofs = Vec::new();
        while let Some(answer) = answers.next().await {
            let ends = matches!(answer.1, Proof::Unavailable(_));
            proofs.push(answer);
            if ends {
                break;
            }
        }
        proofs
    }

    /// What was missing before may have been logged late; what has not arrived may have arrived.
    async fn look_again(
        &self,
        under: &Under<'_>,
        side: ChannelSide,
        walk: &mut Walk,
        walked: &mut Walked,
    ) -> Result<(), ServiceError> {
        let node = under.log.node.as_str();
        let mut arrived = Vec::new();
        for (from, to) in &walk.gaps {
            for statement in self.held(node, side, *from, *to)? {
                if self.is_ripe(&statement, under.ripe)? {
                    arrived.push(statement);
                }
            }
        }
        for (statement, proof) in self.proofs(under, arrived).await {
            let seq = statement.body().seq;
            match self.judge(under, side, &statement, proof).await? {
                Verdict::Proven(_) => walked.proven = walked.proven.saturating_add(1),
                Verdict::Missing(reason) if walk.missing.len() < MAX_OPEN => {
                    walked.conditions.push(not_logged(&statement, node, under, &reason));
                    if let Err(place) = walk.missing.binary_search(&seq) {
                        walk.missing.insert(place, seq);
                    }
                }
                Verdict::NotDue => {}
                Verdict::Waits => {
                    walked.waits.get_or_insert_with(|| describe(&statement));
                    continue;
                }
                Verdict::Missing(_) | Verdict::UnderWay | Verdict::Unavailable(_) => continue,
            }
            fill(&mut walk.gaps, seq);
        }

        let mut missing = Vec::new();
        for seq in walk.missing.clone() {
            // One whose bytes were removed here meanwhile is not asked for any more.
            missing.extend(self.held(node, side, seq, seq)?);
        }
        let mut still = Vec::new();
        let mut unanswered = missing.clone();
        for (statement, proof) in self.proofs(under, missing).await {
            unanswered.retain(|other| other != &statement);
            match proof {
                Proof::Proven(_) => walked.proven = walked.proven.saturating_add(1),
                Proof::Absent(reason) | Proof::Unavailable(reason) => still.push((statement, reason)),
            }
        }
        still.extend(
            unanswered.into_iter().map(|statement| (statement, "was not asked again yet".to_owned())),
        );
        walk.missing = still.iter().map(|(statement, _)| statement.body().seq).collect();
        walk.missing.sort_unstable();
        let told = |walked: &Walked, statement: &Statement| {
            let subject = statement.digest().to_string();
            walked.conditions.iter().any(|condition| condition.subject == subject)
        };
        for (statement, reason) in still {
            if !told(walked, &statement) {
                walked.conditions.push(not_logged(&statement, node, under, &reason));
            }
        }
        Ok(())
    }

    /// What it means that a ledger proves a statement or does not.
    pub(crate) async fn judge(
        &self,
        under: &Under<'_>,
        side: ChannelSide,
        statement: &Statement,
        proof: Proof,
    ) -> Result<Verdict, ServiceError> {
        let reason = match proof {
            Proof::Proven(included) => return Ok(Verdict::Proven(included)),
            Proof::Unavailable(reason) => return Ok(Verdict::Unavailable(reason)),
            Proof::Absent(reason) => reason,
        };
        if side == ChannelSide::FromCaller {
            if statement.kind() == Kind::Refusal {
                return Ok(Verdict::NotDue);
            }
            if !self.was_answered(under.log, statement)? {
                let seq = statement.body().seq;
                let shown = match within(under.peer.statements(&under.log.node, side, seq, 1)).await {
                    Ok(shown) => shown,
                    Err(PeerError::Unavailable(reason)) => return Ok(Verdict::Unavailable(reason)),
                    // It shows nothing that it holds.
                    Err(PeerError::Refused { .. } | PeerError::Broken(_)) => Vec::new(),
                };
                let shown = shown.into_iter().next().and_then(|bytes| self.shown(under.log, side, bytes));
                match shown {
                    Some(shown) if shown.digest() == statement.digest() => {}
                    Some(later) if later.body().seq > seq => return Ok(Verdict::NotDue),
                    _ => return Ok(Verdict::UnderWay),
                }
            }
        }
        Ok(if under.grows { Verdict::Missing(reason) } else { Verdict::Waits })
    }

    /// Whether the other has said anything to a statement but that it refuses it.
    fn was_answered(&self, log: &FollowedLog, statement: &Statement) -> Result<bool, ServiceError> {
        let answers = self.ledger().answers(&self.ledger().store().view(), &statement.digest())?;
        let counts =
            |answer: &Statement| answer.body().issuer == log.node.as_str() && answer.kind() != Kind::Refusal;
        Ok(answers.iter().any(counts))
    }

    /// Bytes that a node shows, if they are a statement on that channel.
    pub(crate) fn shown(&self, log: &FollowedLog, side: ChannelSide, bytes: Bytes) -> Option<Statement> {
        let (issuer, audience) = self.ends(log.node.as_str(), side);
        let own = self.ledger().statement_key();
        let key = match side {
            ChannelSide::FromCaller => &own,
            ChannelSide::ToCaller => &log.statement_key,
        };
        let statement = Envelope::decode(bytes).ok()?.verify(key, self.ledger().space()).ok()?;
        let body = statement.body();
        (body.issuer == issuer && body.audience == audience).then_some(statement)
    }

    /// Statements of a channel that are here, by their numbers.
    pub(crate) fn held(
        &self,
        node: &str,
        side: ChannelSide,
        from: u64,
        to: u64,
    ) -> Result<Vec<Statement>, ServiceError> {
        let (issuer, audience) = self.ends(node, side);
        let numbers = to.saturating_sub(from).saturating_add(1);
        let limit = usize::try_from(numbers).unwrap_or(usize::MAX).min(CHUNK);
        let view = self.ledger().store().view();
        let mut held = self.ledger().statements_on_channel(&view, issuer, audience, from, limit)?;
        held.retain(|statement| statement.body().seq <= to);
        Ok(held)
    }

    pub(crate) fn is_ripe(&self, statement: &Statement, ripe: u64) -> Result<bool, ServiceError> {
        let index = self.ledger().index_of(&self.ledger().store().view(), &statement.digest())?;
        Ok(index.is_some_and(|index| index < ripe))
    }

    fn is_head_ripe(&self, issuer: &str, audience: &str, ripe: u64) -> Result<bool, ServiceError> {
        let view = self.ledger().store().view();
        let Some((_, digest)) = self.ledger().channel_head(&view, issuer, audience)? else {
            return Ok(false);
        };
        Ok(self.ledger().index_of(&view, &digest)?.is_some_and(|index| index < ripe))
    }

    /// Whether no answer has come for so long that the statement counts as missing, and those behind it have their turn.
    fn stall(
        &self,
        under: &Under<'_>,
        statement: &Statement,
        reason: &str,
        walk: &mut Walk,
        walked: &mut Walked,
    ) -> bool {
        let now = self.now();
        let since = *walk.stalled_since.get_or_insert(now);
        if now.saturating_since(since) < self.settings().statement_delay {
            return false;
        }
        let reason = format!("no answer since {since}: {reason}");
        walked.conditions.push(not_logged(statement, under.log.node.as_str(), under, &reason));
        true
    }
}

/// Asks a ledger for the proof of one statement, and checks it.
async fn prove(under: &Under<'_>, statement: &Statement) -> Proof {
    let checkpoint = under.signed.checkpoint();
    let digest = statement.digest();
    let included = match within(under.peer.inclusion(&under.log.node, &digest, checkpoint.size)).await {
        Ok(included) => included,
        Err(PeerError::Unavailable(reason)) => return Proof::Unavailable(reason),
        Err(error @ (PeerError::Refused { .. } | PeerError::Broken(_))) => {
            return Proof::Absent(error.to_string());
        }
    };
    let leaf = leaf_hash(statement.bytes());
    if included.leaf != leaf {
        return Proof::Absent(format!(
            "it has other bytes under this digest, with the leaf hash {}",
            included.leaf
        ));
    }
    match verify_inclusion(&leaf, included.index, checkpoint.size, &included.path, &checkpoint.root) {
        Ok(()) => Proof::Proven(included),
        Err(error) => Proof::Absent(format!("its proof is false: {error}")),
    }
}

/// Which statement it is.
pub(crate) fn describe(statement: &Statement) -> String {
    let body = statement.body();
    format!(
        "statement {} of {} to {} ({}, {})",
        body.seq,
        body.issuer,
        body.audience,
        body.kind.name(),
        statement.digest()
    )
}

pub(super) fn not_logged(statement: &Statement, node: &str, under: &Under<'_>, reason: &str) -> Condition {
    let size = under.signed.checkpoint().size;
    let text = format!(
        "the ledger of {node}, at size {size}, does not hold {}: {reason}; keep the statement and ask the operator of {node}",
        describe(statement)
    );
    Condition::new(STATEMENT_NOT_LOGGED, statement.digest().to_string(), text)
}
