//! Asking the witnesses of the policy to cosign this node's newest checkpoint.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::{AddCheckpoint, QuorumPolicy, SignedCheckpoint, WitnessVerifier};
use huitong_proof::Timestamp;
use huitong_store::Tx;

use crate::model::Cosigning;
use crate::peer::{LogPeer, WitnessAnswer};
use crate::service::{Evidence, node_of_witness};

/// Sizes that are tried with one witness in one round: ours, the one in its 409, and one more if it moved meanwhile.
const ATTEMPTS: usize = 3;
/// A witness that fails is left alone for this long, then twice as long each time, up to the second value.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What this node remembers of a witness, while it runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// Size of the newest checkpoint that it has cosigned, or that it names in a 409.
    pub(crate) size: u64,
    pub(crate) time: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    failures: u32,
    again_at: Timestamp,
}

impl Asked {
    fn succeeded(&mut self, size: u64, time: Timestamp) {
        *self = Self { size, time: Some(time), ..Self::default() };
    }

    fn has_cosigned(&self, size: u64) -> bool {
        self.time.is_some() && self.size >= size
    }

    fn failed(&mut self, reason: &str, now: Timestamp) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.again_at = now.saturating_add(pause);
        self.last_error = Some(reason.to_owned());
    }

    /// A clock that was set back must not silence a witness for long.
    fn may_be_asked(&self, now: Timestamp) -> bool {
        now >= self.again_at || self.again_at.saturating_since(now) > LONGEST_PAUSE
    }
}

/// What one witness did with the request.
enum Outcome {
    Line(String, Timestamp),
    Failed(String),
    /// It has cosigned something that this node knows nothing of, or says so.
    Other(String),
}

impl Evidence {
    /// Asks every witness of the policy, all at once, to cosign the newest signed checkpoint, unless it has done so;
    /// each answer is kept as soon as it is there. A witness that is dead, slow or wrong is named in the outcome and
    /// left alone for a while: it delays finality and nothing else.
    ///
    /// Signs nothing itself; in safe mode nobody is asked.
    pub async fn cosign_once(&self, peer: &dyn LogPeer) -> Result<Cosigning, ServiceError> {
        let Some(policy) = self.policy()? else { return Ok(Cosigning::default()) };
        let view = self.ledger().store().view();
        let Some(signed) = self.ledger().latest_checkpoint(&view)? else { return Ok(Cosigning::default()) };
        if self.safe_mode().is_some() {
            return Ok(Cosigning::default());
        }
        let kept = self.ledger().cosigned(&view)?;
        let kept = kept.filter(|kept| kept.checkpoint() == signed.checkpoint());
        let mut best = kept.unwrap_or_else(|| signed.clone());
        let mut outcome = Cosigning { size: signed.checkpoint().size, ..Cosigning::default() };
        let is_final =
            |signed: &SignedCheckpoint| policy.evaluate(signed).is_ok_and(|quorum| quorum.satisfied);
        let was_final = is_final(&best);
        let mut lines = lines_by_witness(&policy, &best);

        let (now, patience) = (self.now(), self.settings().request_timeout);
        let mut requests = FuturesUnordered::new();
        for (name, verifier, _) in policy.witnesses() {
            let asked = self.asked().get(name).cloned().unwrap_or_default();
            // Its line is there, or there was neither room nor need for it.
            if lines.contains_key(name) || (was_final && asked.has_cosigned(outcome.size)) {
                outcome.cosigned.push(name.clone());
                continue;
            }
            let node = match node_of_witness(verifier.name()) {
                Some(node) if node.as_str() != self.ledger().node() => node,
                Some(_) => {
                    outcome.failed.push((name.clone(), "is this node itself".to_owned()));
                    continue;
                }
                None => {
                    let reason = "is no node of a data space: it cannot be asked over gRPC";
                    outcome.failed.push((name.clone(), reason.to_owned()));
                    continue;
                }
            };
            if !asked.may_be_asked(now) {
                let reason = asked.last_error.unwrap_or_default();
                outcome.failed.push((name.clone(), format!("waits after a failure: {reason}")));
                continue;
            }
            let signed = &signed;
            requests.push(async move {
                let asking = self.ask_witness(peer, &node, verifier, signed, asked.size);
                let answer = tokio::time::timeout(patience, asking).await;
                let answer = answer
                    .unwrap_or_else(|_| Ok(Outcome::Failed(format!("did not answer within {patience:?}"))));
                (name, node, answer)
            });
        }

        let mut doubtful = Vec::new();
        while let Some((name, node, answer)) = requests.next().await {
            let reason = match answer? {
                Outcome::Line(line, time) => {
                    self.asked().entry(name.clone()).or_default().succeeded(outcome.size, time);
                    lines.insert(name.clone(), line.clone());
                    best = best.with_lines(&[line]).unwrap_or_else(|_| fitting(&policy, best, &lines));
                    self.keep_cosigned(&policy, &best).await?;
                    outcome.cosigned.push(name.clone());
                    continue;
                }
                Outcome::Failed(reason) => reason,
                Outcome::Other(reason) => {
                    doubtful.push(node);
                    reason
                }
            };
            tracing::debug!(witness = %name, %reason, "a witness did not cosign");
            self.asked().entry(name.clone()).or_default().failed(&reason, now);
            outcome.failed.push((name.clone(), reason));
        }
        drop(requests);
        outcome.cosigned.sort();
        outcome.failed.sort();
        outcome.is_final = is_final(&best);
        for node in doubtful {
            // What it says proves nothing: only a checkpoint under our own signature does.
            self.compare_with(peer, &node).await?;
        }
        Ok(outcome)
    }

    /// One witness, from the size that it cosigned last as far as known.
    async fn ask_witness(
        &self,
        peer: &dyn LogPeer,
        node: &NodeId,
        verifier: &WitnessVerifier,
        signed: &SignedCheckpoint,
        known: u64,
    ) -> Result<Outcome, ServiceError> {
        let size = signed.checkpoint().size;
        let mut old = known.min(size);
        for _ in 0..ATTEMPTS {
            let proof =
                if old == 0 || old == size { Vec::new() } else { self.ledger().consistency(old, size)? };
            let request = AddCheckpoint { old, proof, note: signed.text().to_owned() };
            match peer.add_checkpoint(node, &request.to_text()).await {
                Ok(WitnessAnswer::Cosigned(lines)) => return Ok(line_of(signed, verifier, &lines)),
                Ok(WitnessAnswer::Conflict { size: theirs }) if theirs > size => {
                    let reason = format!("says that it has cosigned size {theirs}, more than {size}");
                    return Ok(Outcome::Other(reason));
                }
                Ok(WitnessAnswer::Conflict { size: theirs }) if theirs == old => {
                    let reason = format!("refuses size {old} and names the same size to start from");
                    return Ok(Outcome::Failed(reason));
                }
                Ok(WitnessAnswer::Conflict { size: theirs }) => old = theirs,
                Ok(other) => {
                    let reason = format!("answered {}: {}", other.status(), shortened(&other.body()));
                    let other_root = other.status() == 422;
                    return Ok(if other_root { Outcome::Other(reason) } else { Outcome::Failed(reason) });
                }
                Err(error) => return Ok(Outcome::Failed(error.to_string())),
            }
        }
        Ok(Outcome::Failed("its size changes faster than it can be followed".to_owned()))
    }

    /// Keeps a cosigned checkpoint unless a better one is there: one that satisfies the policy before one that does
    /// not, then the larger one, then the one with more lines.
    async fn keep_cosigned(
        &self,
        policy: &QuorumPolicy,
        signed: &SignedCheckpoint,
    ) -> Result<(), ServiceError> {
        let (ledger, policy, signed) = (self.ledger().clone(), policy.clone(), signed.clone());
        let keep = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
            let rank = |c: &SignedCheckpoint| {
                let satisfied = policy.evaluate(c).is_ok_and(|quorum| quorum.satisfied);
                (satisfied, c.checkpoint().size, c.cosigner_names().len())
            };
            let kept = ledger.cosigned(tx)?;
            if kept.is_none_or(|kept| rank(&kept) < rank(&signed)) {
                ledger.put_cosigned(tx, &signed)?;
            }
            Ok(())
        };
        self.ledger().store().transact("evidence.cosigned", keep).await?;
        Ok(())
    }
}

/// The lines of the policy's witnesses under a checkpoint.
fn lines_by_witness(policy: &QuorumPolicy, signed: &SignedCheckpoint) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (name, verifier, _) in policy.witnesses() {
        if let Some(line) = signed.signature_lines().into_iter().find(|line| {
            let alone = signed.with_log_signature_only().with_lines(std::slice::from_ref(line));
            alone.is_ok_and(|alone| alone.cosigned_by(verifier).is_ok_and(|line| line.is_some()))
        }) {
            lines.insert(name.clone(), line);
        }
    }
    lines
}

/// A checkpoint holds no more than 16 lines. One that satisfies the policy stays as it is; else the lines that are needed
/// take the place of the others, as soon as there are enough.
fn fitting(
    policy: &QuorumPolicy,
    best: SignedCheckpoint,
    lines: &BTreeMap<String, String>,
) -> SignedCheckpoint {
    if policy.evaluate(&best).is_ok_and(|quorum| quorum.satisfied) {
        return best;
    }
    let needed = policy.fewest(&lines.keys().cloned().collect()).unwrap_or_default();
    let needed: Vec<String> = needed.iter().filter_map(|name| lines.get(name)).cloned().collect();
    match best.with_log_signature_only().with_lines(&needed) {
        Ok(other) if !needed.is_empty() => other,
        _ => best,
    }
}

/// The one line that counts among those that a witness gave, if it is right.
fn line_of(signed: &SignedCheckpoint, verifier: &WitnessVerifier, lines: &str) -> Outcome {
    let mine = lines.lines().filter(|line| line.split(' ').nth(1) == Some(verifier.name()));
    for line in mine.take(ATTEMPTS) {
        let line = line.to_owned();
        let bare = signed.with_log_signature_only();
        let Ok(with) = bare.with_lines(std::slice::from_ref(&line)) else { continue };
        if let Ok(Some(cosignature)) = with.cosigned_by(verifier) {
            return Outcome::Line(line, cosignature.time);
        }
    }
    Outcome::Failed("answered without a valid cosignature of its own".to_owned())
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(200).collect()
}
