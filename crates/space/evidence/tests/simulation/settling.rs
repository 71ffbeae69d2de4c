//! The end of a simulation: faults stop, and within a bounded number of rounds all is as it should be. Then everything is
//! judged once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use huitong_evidence::{Alert, AuditOutcome, CHANNEL_GAP, Evidence, STATEMENT_NOT_LOGGED};
use huitong_ledger::{EntryState, ForkProof, leaf_hash, split_view_excluded};
use huitong_proof::{Digest, Statement};

use crate::memory::roots;
use crate::network::{Version, Weather};
use crate::operation::{NODES, Witnesses};
use crate::world::{Violation, World, all_leaves, size_of};

/// Rounds after which nothing may be left to do.
const ROUNDS: usize = 8;
/// Longer than any pause after a failure, and than the delay that statements have.
const ROUND: Duration = Duration::from_secs(61);

/// What the end of a run was like.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ending {
    /// Rounds until nothing was left to do.
    pub(crate) rounds: usize,
    /// A node was put back to an old copy.
    pub(crate) restored: bool,
    /// It can never sign again, because nobody has copied the hashes that it lost.
    pub(crate) stuck: bool,
    /// Entries of which only the hash is left.
    pub(crate) lost: usize,
    /// A node kept two ledgers, and is proven to.
    pub(crate) caught: bool,
}

impl World {
    /// Faults stop; everything comes to rest, or it is said what does not.
    pub(crate) async fn settle(&mut self) -> Result<Ending, Violation> {
        {
            let mut state = self.net.state();
            (state.weather, state.down, state.side) = (Weather::default(), [false; NODES], 0);
        }
        self.liar_speaks().await?;
        let mut unfinished = String::new();
        for round in 1..=ROUNDS {
            self.round().await?;
            match self.judge().await {
                Ok(ending) => return Ok(Ending { rounds: round, ..ending }),
                Err(reason) => {
                    self.trace.push(format!("at the end, after round {round}: {reason}"));
                    unfinished = reason;
                }
            }
        }
        Err(format!("after {ROUNDS} rounds without faults: {unfinished}"))
    }

    async fn round(&mut self) -> Result<(), Violation> {
        self.clock.advance(ROUND);
        for message in std::mem::take(&mut self.messages) {
            if self.net.reaches((message.from, message.version), message.to) {
                self.deliver(message.from, message.to, &message.statement).await?;
            }
        }
        for node in 0..NODES {
            self.compare(node).await?;
            if self.node(node).safe_mode().is_some() {
                let outcome = self.recover(node).await?;
                self.trace.push(format!("at the end: recovery of node {node}: {outcome}"));
            }
        }
        self.send_again().await?;
        for node in 0..NODES {
            let outcome = self.sign(node).await?;
            self.trace.push(format!("at the end: sign {node}: {outcome}"));
        }
        for node in 0..NODES {
            let outcome = self.cosign(node).await?;
            self.trace.push(format!("at the end: cosign {node}: {outcome}"));
        }
        for node in 0..NODES {
            let outcome = self.mirror(node).await?;
            self.trace.push(format!("at the end: mirror {node}: {outcome}"));
        }
        for node in 0..NODES {
            let outcome = self.monitor(node).await?;
            self.trace.push(format!("at the end: monitor {node}: {outcome}"));
        }
        self.look().await
    }

    /// What an outbox does: every statement goes out until it has arrived.
    async fn send_again(&mut self) -> Result<(), Violation> {
        for from in (0..NODES).filter(|from| self.is_honest(*from)).collect::<Vec<_>>() {
            for to in (0..NODES).filter(|to| *to != from) {
                let Some(receiver) = self.net.shown_to(from, to) else { continue };
                let sender = self.node(from);
                let there = self.said(&receiver, from, to)?;
                for (seq, statement) in self.said(&sender, from, to)? {
                    if !there.contains_key(&seq) {
                        self.deliver(from, to, &statement).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Each half hears something else from a liar, so that there is something to find out.
    async fn liar_speaks(&mut self) -> Result<(), Violation> {
        let Some(liar) = self.liar() else { return Ok(()) };
        for to in (0..NODES).filter(|to| *to != liar) {
            self.act(crate::operation::Operation::Say { from: liar, to, count: 1 }).await?;
        }
        Ok(())
    }

    /// Whether nothing is left to do; else what is.
    async fn judge(&mut self) -> Result<Ending, Violation> {
        let mut ending = Ending { restored: self.victim.is_some(), ..Ending::default() };
        let stuck = self.stuck().await?;
        ending.stuck = stuck.is_some();
        let counts = |node: usize| self.is_honest(node) && stuck != Some(node);
        let honest: Vec<usize> = (0..NODES).filter(|node| counts(*node)).collect();
        let mut lossy = BTreeSet::new();
        for node in &honest {
            self.judge_roots(*node)?;
            let lost = lost_leaves(&self.node(*node))?;
            if !lost.is_empty() {
                lossy.insert(*node);
                ending.lost += lost.len();
            }
            for other in honest.iter().filter(|other| *other != node) {
                self.judge_channel(*node, *other)?;
            }
        }
        self.judge_finality(&honest, stuck)?;
        for node in &honest {
            self.judge_alerts(*node, stuck, &lossy)?;
        }
        ending.caught = self.judge_liar(&honest).await?;
        Ok(ending)
    }

    /// The node that was put back and can never sign again, if its reason is a good one: what it has lost, a witness has
    /// cosigned, and nobody has copied the hashes of.
    async fn stuck(&self) -> Result<Option<usize>, Violation> {
        let Some(victim) = self.victim else { return Ok(None) };
        let Some(reason) = self.node(victim).safe_mode() else { return Ok(None) };
        let roots = roots(&all_leaves(&self.node(victim))?);
        let unmet =
            self.memory.roots_of(victim).filter(|(size, root, _)| roots.get(*size as usize) != Some(*root));
        let Some(largest) = unmet.map(|(size, _, _)| size).max() else {
            return Err(format!("node {victim} lacks nothing that others keep and signs nothing: {reason}"));
        };
        let origin = self.net.caller(victim).credential().log.name().to_owned();
        for other in (0..NODES).filter(|other| *other != victim) {
            let Some(other_node) = self.net.shown_to(victim, other) else { continue };
            let last = other_node.leaves(self.net.caller(victim), &origin, largest - 1, 1);
            if last.is_ok_and(|last| !last.is_empty()) {
                return Err(format!(
                    "node {victim} signs nothing although node {other} has its hashes: {reason}"
                ));
            }
        }
        Ok(Some(victim))
    }

    /// Every checkpoint that anybody keeps is one of the ledger as it is now.
    fn judge_roots(&self, node: usize) -> Result<(), Violation> {
        let roots = roots(&all_leaves(&self.node(node))?);
        for (size, root, who) in self.memory.roots_of(node) {
            if roots.get(size as usize) != Some(root) {
                return Err(format!("node {node} has not the root at size {size} that {who} keeps"));
            }
        }
        Ok(())
    }

    /// Statements of one node to another as a node holds them, by number.
    fn said(&self, holder: &Evidence, from: usize, to: usize) -> Result<BTreeMap<u64, Statement>, Violation> {
        let view = holder.ledger().store().view();
        let (issuer, audience) = (self.homes[from].id.as_str(), self.homes[to].id.as_str());
        let said = holder.ledger().statements_on_channel(&view, issuer, audience, 0, usize::MAX);
        let said = said.map_err(|error| error.to_string())?;
        Ok(said.into_iter().map(|statement| (statement.body().seq, statement)).collect())
    }

    /// Both sides have logged the same, but for what one of them has lost and says so.
    fn judge_channel(&self, from: usize, to: usize) -> Result<(), Violation> {
        let sides = [(from, self.node(from)), (to, self.node(to))];
        let said = [self.said(&sides[0].1, from, to)?, self.said(&sides[1].1, from, to)?];
        let lost = [lost_leaves(&sides[0].1)?, lost_leaves(&sides[1].1)?];
        let numbers: BTreeSet<u64> = said.iter().flat_map(|side| side.keys().copied()).collect();
        for seq in numbers {
            let held = [said[0].get(&seq), said[1].get(&seq)];
            match held {
                [Some(here), Some(there)] if here.digest() == there.digest() => {}
                [Some(_), Some(_)] => {
                    return Err(format!("two statements have number {seq} from {from} to {to}"));
                }
                [Some(one), None] if lost[1].contains(&leaf_hash(one.bytes())) => {}
                [None, Some(one)] if lost[0].contains(&leaf_hash(one.bytes())) => {}
                _ => {
                    let missing = sides[usize::from(held[0].is_some())].0;
                    return Err(format!(
                        "statement {seq} from {from} to {to} is not in the ledger of node {missing}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a number on that channel is on neither side: what had it was lost with a machine before anybody saw it,
    /// and what came after it was seen.
    fn has_hole(&self, from: usize, to: usize) -> bool {
        let sides = [from, to].map(|holder| self.said(&self.node(holder), from, to).unwrap_or_default());
        let numbers: BTreeSet<u64> = sides.iter().flat_map(|side| side.keys().copied()).collect();
        numbers.last().is_some_and(|last| numbers.len() as u64 != last + 1)
    }

    fn judge_finality(&self, honest: &[usize], stuck: Option<usize>) -> Result<(), Violation> {
        for node in honest {
            let willing = (0..NODES).filter(|other| other != node && Some(*other) != stuck);
            let enough = match self.witnesses {
                Witnesses::Others { quorum } => willing.count() >= quorum,
                Witnesses::Registrar => stuck != Some(0),
            };
            let standing = self.node(*node).ledger_standing().map_err(|error| error.to_string())?;
            if enough && standing.final_size != standing.size {
                return Err(format!(
                    "node {node} has {} entries, of which {} are final",
                    standing.size, standing.final_size
                ));
            }
        }
        Ok(())
    }

    /// No alert is open but about those who deserve it.
    fn judge_alerts(
        &self,
        node: usize,
        stuck: Option<usize>,
        lossy: &BTreeSet<usize>,
    ) -> Result<(), Violation> {
        let alerts = self.node(node).alerts(false, usize::MAX).map_err(|error| error.to_string())?;
        let holed = |one: usize, other: usize| {
            self.victim.is_some_and(|victim| {
                (victim == one || victim == other)
                    && [(one, other), (other, one)].into_iter().any(|(from, to)| self.has_hole(from, to))
            })
        };
        for Alert { code, node: about, text, .. } in alerts {
            let place = (0..NODES).find(|place| self.homes[*place].id.as_str() == about);
            let deserves = |place: usize| {
                let by_loss = code == CHANNEL_GAP || code == STATEMENT_NOT_LOGGED;
                let lost = lossy.contains(&place)
                    || (code == CHANNEL_GAP && (lossy.contains(&node) || holed(node, place)));
                !self.is_honest(place) || stuck == Some(place) || (by_loss && lost)
            };
            if !place.is_some_and(deserves) {
                return Err(format!("node {node} has an open alert about {place:?}: {code}: {text}"));
            }
        }
        Ok(())
    }

    /// A liar is caught, with a proof that a stranger verifies; and its two ledgers are not both final.
    async fn judge_liar(&self, honest: &[usize]) -> Result<bool, Violation> {
        let Some(liar) = self.liar() else { return Ok(false) };
        self.judge_quorums(liar)?;
        let lie = self.net.state().lie.clone().unwrap();
        let mut caught = false;
        for node in honest {
            let report =
                self.node(*node).audit(&self.link(*node, Version::First), &self.homes[liar].id).await;
            let report = report.map_err(|error| format!("node {node} cannot audit node {liar}: {error}"))?;
            let Some(proof) = report.fork_proof else {
                // Where the registrar is the only witness, those who are shown the same as it see nothing else.
                if self.witnesses == Witnesses::Registrar && lie.version_for(*node) == lie.version_for(0) {
                    continue;
                }
                let wrong = report.checks.iter().filter(|check| check.outcome > AuditOutcome::Ok);
                let wrong: Vec<String> =
                    wrong.map(|check| format!("{}: {}", check.name, check.detail)).collect();
                return Err(format!("node {node} finds no proof against the liar {liar}: {wrong:?}"));
            };
            let read = ForkProof::parse(&proof.to_text()).map_err(|error| error.to_string())?;
            read.verify().map_err(|error| format!("the proof of node {node} does not verify: {error}"))?;
            caught = true;
        }
        Ok(caught)
    }

    fn judge_quorums(&self, liar: usize) -> Result<(), Violation> {
        let Witnesses::Others { quorum } = self.witnesses else { return Ok(()) };
        // A witness that does not know that it was put back cosigns as if it had forgotten nothing.
        let dishonest = usize::from(self.net.state().colluder.is_some()) + usize::from(self.rolled_back);
        let mut finals = Vec::new();
        for (_, evidence) in self.versions(liar) {
            let standing = evidence.ledger_standing().map_err(|error| error.to_string())?;
            finals.push(standing.final_size);
        }
        let both = finals.len() == 2 && finals.iter().all(|size| *size > self.parted_at);
        if both && split_view_excluded(quorum, quorum, NODES - 1, dishonest) {
            return Err(format!("both ledgers of node {liar} are final, at sizes {finals:?}"));
        }
        Ok(())
    }
}

fn lost_leaves(evidence: &Evidence) -> Result<BTreeSet<Digest>, Violation> {
    let view = evidence.ledger().store().view();
    let mut lost = BTreeSet::new();
    for index in 0..size_of(evidence)? {
        if let Ok(Some(EntryState::Redacted(gap))) = evidence.ledger().entry_state(&view, index) {
            lost.insert(gap.leaf);
        }
    }
    Ok(lost)
}
