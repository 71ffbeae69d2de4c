//! One ledger looked at from all sides, on demand: what the monitor does bit by bit, at once and deeper.

use std::collections::BTreeMap;

use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::{ForkProof, SignedCheckpoint, verify_consistency};
use huitong_proof::{Digest, Statement, Timestamp};

use crate::alerts::CHANNEL_GAP;
use crate::mirror;
use crate::model::FollowedLog;
use crate::monitor::{Agreement, Effort, Head, LogState, Under, Verdict, describe, history, within};
use crate::peer::{ChannelSide, LogPeer};
use crate::service::Evidence;

mod forks;

pub use forks::KeptFork;

/// Statements on each channel that one audit asks for, the newest.
const MAX_STATEMENTS: u64 = 10_000;
/// Statements that are read together.
const PAGE: usize = 256;
/// Old checkpoints and anchors that are checked, spread evenly over what there is.
const MAX_SIZES: usize = 128;
/// Places at which the mirror is compared with the ledger, and leaf hashes at each.
const SAMPLES: u64 = 16;
const SAMPLE: usize = 256;

/// What an audit has found out about one ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The node whose ledger it is.
    pub node: NodeId,
    /// When.
    pub time: Timestamp,
    /// The checkpoint that the ledger shows, as it came; `None` if it shows none that its key has signed.
    pub checkpoint: Option<String>,
    /// Each check, in the order in which they were made.
    pub checks: Vec<AuditCheck>,
    /// Proof that the node signed two things that exclude each other, if there is one, be it an older one.
    pub fork_proof: Option<ForkProof>,
}

impl AuditReport {
    /// The worst outcome of all checks; skipped ones do not count.
    pub fn outcome(&self) -> AuditOutcome {
        let outcomes = self.checks.iter().map(|check| check.outcome);
        outcomes.filter(|outcome| *outcome != AuditOutcome::Skipped).max().unwrap_or(AuditOutcome::Skipped)
    }
}

/// One check of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCheck {
    /// What was checked, in a few words.
    pub name: String,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// What was found, in plain words.
    pub detail: String,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditOutcome {
    /// It could not be made, or there is nothing to check.
    Skipped,
    /// All is as it must be.
    Ok,
    /// Something is not as it should be, and may have a harmless cause.
    Warning,
    /// Something is not as it must be.
    Failed,
}

impl AuditOutcome {
    /// In one lower-case word: `skipped`, `ok`, `warning` or `failed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

use AuditOutcome::{Failed, Ok as Fine, Skipped, Warning};

/// Checks as they are made.
#[derive(Default)]
struct Checks(Vec<AuditCheck>);

impl Checks {
    fn add(&mut self, name: impl Into<String>, outcome: AuditOutcome, detail: impl Into<String>) {
        self.0.push(AuditCheck { name: name.into(), outcome, detail: detail.into() });
    }
}

impl Evidence {
    /// Audits the ledger of a node: its credential, what is kept against it, its newest checkpoint against all that was
    /// seen before, every statement between the two nodes, gaps in their numbers, the anchors in the statements, what
    /// each witness holds, and this node's mirror by sampling. A fork proof that can be made is made and kept.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] when the node's credential is not here; what goes wrong elsewhere is in the report.
    pub async fn audit(&self, peer: &dyn LogPeer, node: &NodeId) -> Result<AuditReport, ServiceError> {
        if node.as_str() == self.ledger().node() {
            return Err(ServiceError::invalid("node", "is this node itself: others audit its ledger"));
        }
        let log = self.follow(node)?;
        let log =
            log.ok_or_else(|| ServiceError::NotFound { what: format!("the credential of node {node}") })?;
        let mut checks = Checks::default();
        self.check_credential(node, &mut checks)?;
        self.check_kept(node, &mut checks).await?;
        let (text, signed) = self.check_checkpoint(peer, &log, &mut checks).await?;
        match &signed {
            Some(signed) => {
                let row = self.row(node)?;
                let age = self.now().saturating_since(row.grew_at);
                let grows = signed.checkpoint().size > row.size || age < self.settings().statement_delay;
                let under = Under { peer, log: &log, signed, ripe: self.ripe()?, grows };
                self.check_history(&under, &mut checks).await?;
                for side in [ChannelSide::ToCaller, ChannelSide::FromCaller] {
                    self.check_channel(&under, side, &mut checks).await?;
                }
                self.check_witnesses(&under, &mut checks).await?;
                self.check_mirror(&under, &mut checks).await?;
            }
            None => {
                let reason = "there is no checkpoint to check against";
                for name in ["older checkpoints", "statements", "witnesses", "mirror"] {
                    checks.add(name, Skipped, reason);
                }
            }
        }
        let fork = self.fork_proofs(Some(node))?.into_iter().next();
        Ok(AuditReport {
            node: node.clone(),
            time: self.now(),
            checkpoint: text,
            checks: checks.0,
            fork_proof: fork.map(|fork| fork.proof),
        })
    }

    fn check_credential(&self, node: &NodeId, checks: &mut Checks) -> Result<(), ServiceError> {
        let Some(credential) = self.credential(node)? else { return Ok(()) };
        let (outcome, detail) = if self.is_revoked(node) {
            (Warning, "was revoked; what the node signed before stays signed".to_owned())
        } else if credential.is_valid_at(self.now()) {
            (Fine, format!("valid until {}", credential.not_after))
        } else {
            (Warning, format!("valid from {} to {}", credential.not_before, credential.not_after))
        };
        checks.add("credential", outcome, detail);
        Ok(())
    }

    async fn check_kept(&self, node: &NodeId, checks: &mut Checks) -> Result<(), ServiceError> {
        self.adopt_evidence().await?;
        let kept = self.fork_proofs(Some(node))?;
        match kept.first() {
            None => checks.add("kept fork proofs", Fine, "none"),
            Some(first) => {
                let detail = format!("{} since {}: {}", kept.len(), first.time, first.sentence);
                checks.add("kept fork proofs", Failed, detail);
            }
        }
        Ok(())
    }

    /// The text that the ledger shows, and the checkpoint to go by if it extends what was seen before.
    async fn check_checkpoint(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        checks: &mut Checks,
    ) -> Result<(Option<String>, Option<SignedCheckpoint>), ServiceError> {
        let text = match within(peer.checkpoint(&log.node)).await {
            Ok(text) => text,
            Err(error) => {
                checks.add("checkpoint", Warning, error.to_string());
                return Ok((None, None));
            }
        };
        let offered = match SignedCheckpoint::parse(&text, &log.log) {
            Ok(offered) => offered,
            Err(error) => {
                checks.add("checkpoint", Failed, error.to_string());
                return Ok((None, None));
            }
        };
        let size = offered.checkpoint().size;
        checks.add("checkpoint", Fine, format!("size {size}, signed by the ledger's key"));
        let (outcome, detail) = match self.compare_with_seen(peer, log, offered, Effort::Always).await? {
            Head::Verified(signed) => {
                checks.add("consistency", Fine, "it extends the newest checkpoint that was seen before");
                return Ok((Some(text), Some(signed)));
            }
            Head::Not(LogState::Shrunk { size, before }) => {
                (Failed, format!("it had {before} entries and shows {size}: it was rolled back"))
            }
            Head::Not(LogState::Inconsistent { reason }) => (Failed, reason),
            Head::Not(LogState::Forked) => (Failed, "it forked, and there is a proof".to_owned()),
            Head::Not(LogState::Unreachable { reason }) => (Warning, reason),
            Head::Not(LogState::Consistent { .. }) => (Fine, String::new()),
        };
        checks.add("consistency", outcome, detail);
        Ok((Some(text), None))
    }

    async fn check_history(&self, under: &Under<'_>, checks: &mut Checks) -> Result<(), ServiceError> {
        let mut old = Vec::new();
        for text in history(&self.ledger().store().view(), &under.log.node)? {
            // Signed by an earlier key of the node: then it is another ledger.
            old.extend(SignedCheckpoint::parse(&text, &under.log.log));
        }
        let sizes = old.iter().map(|signed| (signed.checkpoint().size, signed.checkpoint().root)).collect();
        let name = "older checkpoints";
        match linked(under, &sizes).await {
            Linked::Nothing => checks.add(name, Skipped, "none was seen before"),
            Linked::All(count) => checks.add(name, Fine, format!("all {count} are extended by the newest")),
            Linked::Unavailable(reason) => checks.add(name, Skipped, reason),
            Linked::Not(size, reason) => {
                checks.add(
                    name,
                    Failed,
                    format!("the one of size {size} is not extended by the newest: {reason}"),
                );
                if let Some(kept) = old.iter().find(|signed| signed.checkpoint().size == size) {
                    self.try_to_prove(under, kept).await?;
                }
            }
        }
        Ok(())
    }

    async fn check_channel(
        &self,
        under: &Under<'_>,
        side: ChannelSide,
        checks: &mut Checks,
    ) -> Result<(), ServiceError> {
        let node = &under.log.node;
        let (issuer, audience) = self.ends(node.as_str(), side);
        let view = self.ledger().store().view();
        let between = format!("of {issuer} to {audience}");
        let Some((head, _)) = self.ledger().channel_head(&view, issuer, audience)? else {
            checks.add(format!("statements {between}"), Skipped, "there are none");
            return Ok(());
        };
        let first = head.saturating_add(1).saturating_sub(MAX_STATEMENTS);
        let (mut next, mut tally) = (first, Tally::default());
        let mut anchors = BTreeMap::new();
        while next <= head {
            let page = self.ledger().statements_on_channel(&view, issuer, audience, next, PAGE)?;
            let Some(last) = page.last() else { break };
            next = last.body().seq.saturating_add(1);
            for statement in &page {
                let anchor = &statement.body().anchor;
                anchors
                    .entry((anchor.origin.clone(), anchor.size))
                    .or_insert_with(Vec::new)
                    .push(anchor.root);
            }
            for (statement, proof) in self.proofs(under, page).await {
                let young = !self.is_ripe(&statement, under.ripe)?;
                tally.count(&describe(&statement), young, self.judge(under, side, &statement, proof).await?);
            }
            if tally.unavailable.is_some() || next == u64::MAX {
                break;
            }
        }
        let (outcome, detail) = tally.summary(first);
        checks.add(format!("statements {between}"), outcome, detail);

        let walked = self.walk(under, side, usize::try_from(MAX_STATEMENTS).unwrap_or(usize::MAX)).await?;
        for fork in walked.forks {
            self.keep_fork(node, fork).await?;
        }
        let gap = walked.conditions.into_iter().find(|condition| condition.code == CHANNEL_GAP);
        match gap {
            Some(gap) => checks.add(format!("numbers {between}"), Failed, gap.text),
            None => checks.add(format!("numbers {between}"), Fine, "no number is missing"),
        }
        if side == ChannelSide::ToCaller {
            self.check_copies(under, first, head, &between, checks).await?;
        }
        self.check_anchors(under, side, &between, anchors, checks).await
    }

    /// The other's own copies of what it has said must be what this node holds.
    async fn check_copies(
        &self,
        under: &Under<'_>,
        first: u64,
        head: u64,
        between: &str,
        checks: &mut Checks,
    ) -> Result<(), ServiceError> {
        let (node, name) = (&under.log.node, format!("copies {between}"));
        let (mut next, mut same) = (first, 0_usize);
        while next <= head {
            let shown = match within(under.peer.statements(node, ChannelSide::ToCaller, next, PAGE)).await {
                Ok(shown) => shown,
                Err(error) => {
                    checks.add(name, Skipped, error.to_string());
                    return Ok(());
                }
            };
            let shown = shown.into_iter().map(|bytes| self.shown(under.log, ChannelSide::ToCaller, bytes));
            let shown: Vec<Statement> = shown.flatten().filter(|shown| shown.body().seq >= next).collect();
            let Some(last) = shown.iter().map(|shown| shown.body().seq).max() else { break };
            for shown in shown {
                let seq = shown.body().seq;
                for held in self.held(node.as_str(), ChannelSide::ToCaller, seq, seq)? {
                    if held.digest() == shown.digest() {
                        same = same.saturating_add(1);
                        continue;
                    }
                    let key = under.log.statement_key.clone();
                    let space = *self.ledger().space();
                    if let Ok(proof) = ForkProof::of_statements(key, space, held.bytes(), shown.bytes()) {
                        self.keep_fork(node, proof).await?;
                    }
                    checks.add(name, Failed, format!("it shows another statement with number {seq}"));
                    return Ok(());
                }
            }
            next = last.saturating_add(1);
        }
        checks.add(name, Fine, format!("{same} are the same there and here"));
        Ok(())
    }

    /// Each statement names the newest checkpoint of its audience's ledger that its issuer had verified.
    async fn check_anchors(
        &self,
        under: &Under<'_>,
        side: ChannelSide,
        between: &str,
        anchors: BTreeMap<(String, u64), Vec<Digest>>,
        checks: &mut Checks,
    ) -> Result<(), ServiceError> {
        let (audience, name) = match side {
            ChannelSide::FromCaller => (under.log.log.name(), format!("anchors in statements {between}")),
            ChannelSide::ToCaller => (self.ledger().origin(), format!("anchors in statements {between}")),
        };
        let mut sizes = BTreeMap::new();
        for ((origin, size), roots) in anchors {
            if origin != audience || size == 0 {
                continue;
            }
            if roots.windows(2).any(|pair| matches!(pair, [a, b] if a != b)) {
                checks.add(name, Failed, format!("they name different roots for size {size}"));
                return Ok(());
            }
            sizes.extend(roots.first().map(|root| (size, *root)));
        }
        if sizes.is_empty() {
            checks.add(name, Skipped, "none names a checkpoint");
            return Ok(());
        }
        if side == ChannelSide::FromCaller {
            match linked(under, &sizes).await {
                Linked::Nothing => {}
                Linked::All(count) => checks.add(name, Fine, format!("{count} agree with the ledger")),
                Linked::Unavailable(reason) => checks.add(name, Skipped, reason),
                Linked::Not(size, reason) => {
                    let detail = format!(
                        "its ledger does not extend what this node saw of it at size {size}: {reason}"
                    );
                    checks.add(name, Failed, detail);
                }
            }
            return Ok(());
        }
        let signed = self.ledger().latest_checkpoint(&self.ledger().store().view())?;
        let signed = signed.map_or(0, |signed| signed.checkpoint().size);
        for (size, root) in &sizes {
            if *size > signed {
                let detail = format!(
                    "{} saw size {size} of this node's ledger, which has signed {signed}: run `huitong ledger compare`",
                    under.log.node
                );
                checks.add(name, Failed, detail);
                return Ok(());
            }
            if self.ledger().root_at(*size)? != *root {
                let detail = format!(
                    "{} names another root of this node's ledger at size {size} than it has: one of the two has signed two histories",
                    under.log.node
                );
                checks.add(name, Failed, detail);
                return Ok(());
            }
        }
        checks.add(name, Fine, format!("{} agree with this node's ledger", sizes.len()));
        Ok(())
    }

    async fn check_witnesses(&self, under: &Under<'_>, checks: &mut Checks) -> Result<(), ServiceError> {
        let Under { peer, log, signed, .. } = under;
        let others = self.mirrors_of(log, &[signed])?;
        let own = log.witnessed.then_some(None);
        for witness in own.into_iter().chain(others.iter().map(Some)) {
            let name = match witness {
                Some(witness) => format!("witness {witness}"),
                None => "witness: this node".to_owned(),
            };
            let (outcome, detail) = match self.agreement(*peer, log, signed, witness, Effort::Always).await? {
                Agreement::Agrees(held) => (Fine, format!("holds size {}, which agrees", held.size)),
                Agreement::Unknown(reason) => (Skipped, reason),
                Agreement::Not(LogState::Shrunk { size, before }) => {
                    (Failed, format!("has cosigned size {before}, and the ledger shows {size}"))
                }
                Agreement::Not(LogState::Forked) => {
                    (Failed, "was shown another history than this node, and there is a proof".to_owned())
                }
                Agreement::Not(LogState::Inconsistent { reason } | LogState::Unreachable { reason }) => {
                    (Failed, reason)
                }
                Agreement::Not(LogState::Consistent { size }) => (Fine, format!("holds size {size}")),
            };
            checks.add(name, outcome, detail);
        }
        Ok(())
    }

    async fn check_mirror(&self, under: &Under<'_>, checks: &mut Checks) -> Result<(), ServiceError> {
        let origin = under.log.log.name();
        if !under.log.witnessed {
            checks.add("mirror", Skipped, "this node does not witness the ledger");
            return Ok(());
        }
        let Some((start, end)) = mirror::extent(self, origin)?.filter(|(start, end)| start.size() < *end)
        else {
            checks.add("mirror", Warning, "this node has no leaf hashes of it yet");
            return Ok(());
        };
        let span = end.saturating_sub(start.size());
        let step = (span / SAMPLES).max(1);
        let mut compared = 0_usize;
        for sample in 0..SAMPLES {
            let from = start.size().saturating_add(step.saturating_mul(sample));
            if from >= end {
                break;
            }
            let ours = match mirror::leaves(self, origin, from, SAMPLE) {
                Ok(ours) => ours,
                Err(error) => {
                    checks.add("mirror", Warning, error.to_string());
                    return Ok(());
                }
            };
            let theirs = match within(under.peer.leaves(&under.log.node, origin, from, ours.len())).await {
                Ok(theirs) => theirs,
                Err(error) => {
                    checks.add("mirror", Skipped, error.to_string());
                    return Ok(());
                }
            };
            if theirs != ours {
                let detail =
                    format!("from index {from} on, the ledger gives other leaf hashes than it has signed");
                checks.add("mirror", Failed, detail);
                return Ok(());
            }
            compared = compared.saturating_add(ours.len());
        }
        let detail = format!("holds leaf hashes {} to {end}; {compared} of them compared", start.size());
        checks.add("mirror", Fine, detail);
        Ok(())
    }

    async fn try_to_prove(&self, under: &Under<'_>, kept: &SignedCheckpoint) -> Result<(), ServiceError> {
        let mirrors = self.mirrors_of(under.log, &[kept, under.signed])?;
        if let Some(proof) = self.prove_fork(under.peer, under.log, kept, under.signed, &mirrors).await? {
            self.keep_fork(&under.log.node, proof).await?;
        }
        Ok(())
    }
}

/// What became of old sizes and roots under a newer checkpoint.
enum Linked {
    Nothing,
    All(usize),
    Not(u64, String),
    Unavailable(String),
}

/// Whether a checkpoint extends all these sizes with their roots; of many, some are drawn evenly.
async fn linked(under: &Under<'_>, sizes: &BTreeMap<u64, Digest>) -> Linked {
    let newest = under.signed.checkpoint();
    let step = sizes.len().div_ceil(MAX_SIZES).max(1);
    // The newest is always among them.
    let drawn = sizes.iter().rev().step_by(step).filter(|(size, _)| **size > 0);
    let mut count = 0_usize;
    for (size, root) in drawn {
        if *size > newest.size {
            return Linked::Not(*size, format!("the ledger shows {} entries only", newest.size));
        }
        let path = if *size == newest.size {
            Vec::new()
        } else {
            match within(under.peer.consistency(&under.log.node, *size, newest.size)).await {
                Ok(path) => path,
                Err(huitong_identity::PeerError::Unavailable(reason)) => return Linked::Unavailable(reason),
                Err(error) => return Linked::Not(*size, error.to_string()),
            }
        };
        if let Err(error) = verify_consistency(*size, root, newest.size, &newest.root, &path) {
            return Linked::Not(*size, error.to_string());
        }
        count = count.saturating_add(1);
    }
    if count == 0 { Linked::Nothing } else { Linked::All(count) }
}

/// What became of the statements of one channel.
#[derive(Default)]
struct Tally {
    proven: usize,
    missing: usize,
    first_missing: Option<String>,
    waiting: usize,
    /// Too new to be due, or not arrived.
    not_due: usize,
    unavailable: Option<String>,
}

impl Tally {
    fn count(&mut self, what: &str, young: bool, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Proven(_) => &mut self.proven,
            Verdict::NotDue | Verdict::UnderWay => &mut self.not_due,
            Verdict::Missing(_) | Verdict::Waits if young => &mut self.not_due,
            Verdict::Missing(reason) => {
                self.first_missing.get_or_insert_with(|| format!("{what}: {reason}"));
                &mut self.missing
            }
            Verdict::Waits => &mut self.waiting,
            Verdict::Unavailable(reason) => {
                self.unavailable.get_or_insert(reason);
                return;
            }
        };
        *counter = counter.saturating_add(1);
    }

    fn summary(&self, first: u64) -> (AuditOutcome, String) {
        let mut parts = vec![format!("{} are in the ledger", self.proven)];
        if first > 0 {
            parts.push(format!("those before number {first} were not asked for"));
        }
        if self.not_due > 0 {
            parts.push(format!("{} are too new, or not known to have arrived", self.not_due));
        }
        if self.waiting > 0 {
            parts.push(format!("{} wait for a newer checkpoint", self.waiting));
        }
        if let Some(first) = &self.first_missing {
            parts.push(format!("{} are missing, the first being {first}", self.missing));
        }
        if let Some(reason) = &self.unavailable {
            parts.push(format!("not all could be asked for: {reason}"));
        }
        let outcome = if self.missing > 0 {
            Failed
        } else if self.waiting > 0 || self.unavailable.is_some() {
            Warning
        } else {
            Fine
        };
        (outcome, parts.join("; "))
    }
}

#[cfg(test)]
#[path = "audit/tests.rs"]
mod tests;
