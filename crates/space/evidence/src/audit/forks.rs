//! Fork proofs: making them out of two signed texts that exclude each other, and keeping them.

use std::time::Duration;

use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::{ForkProof, Nodes, ProvenLeaf, SignedCheckpoint, inclusion_path, node_hash, root};
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_proof::{Digest, Envelope, Timestamp};
use huitong_store::{Read, Table, Tx};

use crate::alerts::{self, Condition, LEDGER_FORKED, STATEMENT_FORKED};
use crate::mirror::{self, Frontier};
use crate::model::FollowedLog;
use crate::monitor::Kept;
use crate::peer::{LogPeer, MAX_LEAVES};
use crate::service::{Evidence, node_of_origin};

/// Node, SHA-256 of the proof -> [`KeptFork`].
const FORKS: Table = Table::new("evidence.fork");
/// SHA-256 of a pair that the ledger keeps as evidence -> nothing, once it was looked at.
const ADOPTED: Table = Table::new("evidence.fork.adopted");

const VERSION: u64 = 1;
/// Proofs about the statements of one node that are kept: one is enough, a few show a pattern.
const MAX_OF_NODE: usize = 8;
/// Pairs that are looked at in one go.
const MAX_PAIRS: usize = 4_096;
/// Leaf hashes of each of two trees that are compared, 32 MiB. They are in memory only while a fork is being proven.
const MAX_COMPARED: u64 = 1 << 20;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// A proof that a node signed two things that exclude each other, as this node keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFork {
    /// The node.
    pub node: String,
    /// When the proof was made.
    pub time: Timestamp,
    /// Who signed what twice, in one sentence.
    pub sentence: String,
    /// The proof.
    pub proof: ForkProof,
}

impl Evidence {
    /// The fork proofs that this node keeps, in order of the nodes they are about; of one node if it is named.
    pub fn fork_proofs(&self, node: Option<&NodeId>) -> Result<Vec<KeptFork>, ServiceError> {
        let prefix = node.map(|node| prefix(node.as_str())).unwrap_or_default();
        let rows = self.ledger().store().view().scan(&FORKS, &prefix, None, usize::MAX)?;
        rows.iter().map(|row| KeptFork::decode(&row.key, &row.value)).collect()
    }

    /// Whether that very ledger is proven to have forked. A node that begins a new one begins anew.
    pub(crate) fn is_forked(&self, log: &FollowedLog) -> Result<bool, ServiceError> {
        let forks = self.fork_proofs(Some(&log.node))?;
        Ok(forks.iter().any(|fork| fork.proof.log() == Some(&log.log)))
    }

    /// Keeps a proof, with the signer's credential, and raises the alert. Of a ledger that is known to have forked no
    /// further proof is kept, for there is no end of them.
    pub(crate) async fn keep_fork(&self, node: &NodeId, proof: ForkProof) -> Result<ForkProof, ServiceError> {
        let proof = match huitong_identity::credential_of(&self.ledger().store().view(), self.ledger(), node)?
        {
            Some((_, statement)) => proof.with_credential(statement.bytes().to_vec()),
            None => proof,
        };
        let sentence = proof.verify().map_err(|error| ServiceError::Internal(error.to_string()))?;
        let known = self.fork_proofs(Some(node))?;
        let is_kept = match proof.log() {
            Some(log) => known.iter().any(|fork| fork.proof.log() == Some(log)),
            None => {
                let mut of_statements = known.iter().filter(|fork| fork.proof.log().is_none());
                of_statements.clone().count() >= MAX_OF_NODE || of_statements.any(|fork| fork.proof == proof)
            }
        };
        if is_kept {
            return Ok(proof);
        }
        tracing::error!(%node, %sentence, "a fork is proven");
        if let ForkProof::Statements { a, b, .. } = &proof {
            // The ledger must know, too: what proves a fork is not removed.
            let pair = huitong_ledger::Evidence::Statements { kept: a.clone(), refused: b.clone() };
            self.ledger().preserve(&pair).await?;
        }
        let text = proof.to_text();
        let digest = Digest::sha256(text.as_bytes());
        let row = Map::new()
            .uint(1, VERSION)
            .uint(2, self.now().millis())
            .text(3, &sentence)
            .text(4, &text)
            .encode();
        let key = [prefix(node.as_str()).as_slice(), digest.as_bytes()].concat();
        let code = if proof.log().is_some() { LEDGER_FORKED } else { STATEMENT_FORKED };
        let advice = format!(
            "{sentence}; stop relying on {node} and keep the proof: `huitong ledger audit {node} --fork-proof FILE` writes it"
        );
        let (about, now) = (node.to_string(), self.now());
        let keep = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
            tx.put(&FORKS, &key, &row)?;
            alerts::raise(tx, now, &about, Condition::new(code, digest.to_string(), advice))?;
            Ok(())
        };
        self.ledger().store().transact("evidence.fork", keep).await?;
        Ok(proof)
    }

    /// Turns what the ledger has kept as evidence into proofs, some pairs each time, all in turn.
    pub(crate) async fn adopt_evidence(&self) -> Result<(), ServiceError> {
        self.adopt_next(MAX_PAIRS).await
    }

    pub(crate) async fn adopt_next(&self, pairs: usize) -> Result<(), ServiceError> {
        let view = self.ledger().store().view();
        let after = *self.adopting();
        let page = self.ledger().evidence_after(&view, after.as_ref(), pairs)?;
        *self.adopting() = page.last().map(|(key, _)| *key).filter(|_| page.len() == pairs);
        for (_, evidence) in page {
            let (key, found) = match evidence {
                huitong_ledger::Evidence::Statements { kept, refused } => {
                    let key = Digest::sha256_parts(&[&kept, &refused]);
                    if view.get(&ADOPTED, key.as_bytes())?.is_some() {
                        continue;
                    }
                    (key, self.statements_fork(&kept, &refused)?)
                }
                huitong_ledger::Evidence::Checkpoints { kept, refused } => {
                    let key = Digest::sha256_parts(&[kept.as_bytes(), refused.as_bytes()]);
                    if view.get(&ADOPTED, key.as_bytes())?.is_some() {
                        continue;
                    }
                    (key, self.checkpoints_fork(&kept, &refused)?)
                }
            };
            if let Some((node, Some(proof))) = &found {
                self.keep_fork(node, proof.clone()).await?;
            }
            // Without the signer's key nothing can be said yet.
            if found.is_some() {
                let adopt = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                    Ok(tx.put(&ADOPTED, key.as_bytes(), &[])?)
                };
                self.ledger().store().transact("evidence.adopt", adopt).await?;
            }
        }
        Ok(())
    }

    /// The signer and the proof, if the pair is one; nothing while the signer is not known.
    fn statements_fork(
        &self,
        kept: &[u8],
        refused: &[u8],
    ) -> Result<Option<(NodeId, Option<ForkProof>)>, ServiceError> {
        let issuer =
            Envelope::decode(kept.to_vec()).ok().map(|envelope| envelope.claimed_issuer().to_owned());
        let Some(node) = issuer.and_then(|issuer| NodeId::parse(&issuer).ok()) else { return Ok(None) };
        let Some(log) = self.follow(&node)? else { return Ok(None) };
        let proof = ForkProof::of_statements(log.statement_key, *self.ledger().space(), kept, refused);
        Ok(Some((node, proof.ok())))
    }

    fn checkpoints_fork(
        &self,
        kept: &str,
        refused: &str,
    ) -> Result<Option<(NodeId, Option<ForkProof>)>, ServiceError> {
        let origin = kept.split('\n').next().unwrap_or_default();
        let Some(node) = node_of_origin(origin) else { return Ok(None) };
        let Some(log) = self.follow(&node)? else { return Ok(None) };
        Ok(Some((node, ForkProof::of_checkpoints(log.log, kept, refused).ok())))
    }

    /// Two checkpoints of one ledger that cannot both be extended: tries to show a stranger why. With one size the two
    /// texts say all. Otherwise an entry is looked for that differs: in leaf hashes, which this node's mirror, the
    /// ledger itself and `mirrors` are asked for, or in the statement that the ledger proved last.
    pub(crate) async fn prove_fork(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        kept: &SignedCheckpoint,
        offered: &SignedCheckpoint,
        mirrors: &[NodeId],
    ) -> Result<Option<ForkProof>, ServiceError> {
        if let Ok(proof) = ForkProof::of_checkpoints(log.log.clone(), kept.text(), offered.text()) {
            return Ok(Some(proof));
        }
        let mut starts = vec![Frontier::default()];
        if let Some((start, _)) = mirror::extent(self, log.log.name())?
            && start.size() > 0
        {
            starts.insert(0, start);
        }
        for start in starts {
            let other = self.tree(peer, log, offered, &start, mirrors).await?;
            let Some(other) = other else { continue };
            if let Some(tree) = self.tree(peer, log, kept, &start, mirrors).await?
                && let Some(proof) = entry_fork(log, (kept, &tree), (offered, &other))
            {
                return Ok(Some(proof));
            }
            if let Some(proven) = Kept::load(&self.ledger().store().view(), &log.node)?
                && let Some(leaf) = other.proven(proven.index, offered.checkpoint().size)
            {
                let (a, b) = ((proven.checkpoint.as_str(), proven.leaf), (offered.text(), leaf));
                if let Ok(proof) = ForkProof::of_entry(log.log.clone(), proven.index, a, b) {
                    return Ok(Some(proof));
                }
            }
        }
        Ok(None)
    }

    /// The leaf hashes under a checkpoint from `start` on, from whoever has them; what does not lead to its root is
    /// passed over.
    async fn tree(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        under: &SignedCheckpoint,
        start: &Frontier,
        mirrors: &[NodeId],
    ) -> Result<Option<Tree>, ServiceError> {
        let (size, origin) = (under.checkpoint().size, log.log.name());
        let Some(count) = size.checked_sub(start.size()).filter(|count| *count > 0 && *count <= MAX_COMPARED)
        else {
            return Ok(None);
        };
        if let Some((_, end)) = mirror::extent(self, origin)?
            && end >= size
        {
            let limit = usize::try_from(count).unwrap_or(usize::MAX);
            match mirror::leaves(self, origin, start.size(), limit) {
                Ok(hashes) => {
                    let tree = Tree { start: start.clone(), hashes };
                    if let Some(tree) = tree.if_it_leads_to(under).await? {
                        return Ok(Some(tree));
                    }
                }
                Err(ServiceError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for node in
            std::iter::once(&log.node).chain(mirrors).filter(|node| node.as_str() != self.ledger().node())
        {
            let mut hashes = Vec::new();
            while let Some(from) = start.size().checked_add(hashes.len() as u64).filter(|from| *from < size) {
                let limit = usize::try_from(size.saturating_sub(from)).unwrap_or(usize::MAX).min(MAX_LEAVES);
                let asking = peer.leaves(node, origin, from, limit);
                match tokio::time::timeout(REQUEST_TIMEOUT, asking).await {
                    // Short pages would make this endless.
                    Ok(Ok(page)) if page.len() == limit => hashes.extend(page),
                    _ => break,
                }
            }
            let tree = Tree { start: start.clone(), hashes };
            if let Some(tree) = tree.if_it_leads_to(under).await? {
                return Ok(Some(tree));
            }
        }
        Ok(None)
    }
}

/// The first entry that differs, with its path in both trees.
fn entry_fork(
    log: &FollowedLog,
    a: (&SignedCheckpoint, &Tree),
    b: (&SignedCheckpoint, &Tree),
) -> Option<ForkProof> {
    let mut pairs = (a.1.start.size()..).zip(a.1.hashes.iter().zip(&b.1.hashes));
    let (index, _) = pairs.find(|(_, (in_a, in_b))| in_a != in_b)?;
    let in_a = a.1.proven(index, a.0.checkpoint().size)?;
    let in_b = b.1.proven(index, b.0.checkpoint().size)?;
    ForkProof::of_entry(log.log.clone(), index, (a.0.text(), in_a), (b.0.text(), in_b)).ok()
}

/// The leaves of a tree from some index on, and the edge of the tree before them.
struct Tree {
    start: Frontier,
    hashes: Vec<Digest>,
}

impl Tree {
    /// Hashing a million leaves takes a moment.
    async fn if_it_leads_to(self, under: &SignedCheckpoint) -> Result<Option<Self>, ServiceError> {
        let under = under.clone();
        let checked = tokio::task::spawn_blocking(move || self.leads_to(&under).then_some(self));
        checked.await.map_err(|error| ServiceError::Internal(error.to_string()))
    }

    fn leads_to(&self, signed: &SignedCheckpoint) -> bool {
        let size = self.start.size().checked_add(self.hashes.len() as u64);
        size == Some(signed.checkpoint().size)
            && root(self, signed.checkpoint().size).is_ok_and(|root| root == signed.checkpoint().root)
    }

    fn proven(&self, index: u64, size: u64) -> Option<ProvenLeaf> {
        if index >= size {
            return None;
        }
        let leaf = self.node(0, index).ok()?;
        let path = inclusion_path(self, index, size).ok()?;
        Some(ProvenLeaf { leaf, path })
    }
}

/// A hash that lies before the first leaf that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotHere;

impl Nodes for Tree {
    type Error = NotHere;

    fn node(&self, level: u8, index: u64) -> Result<Digest, NotHere> {
        let first = index.checked_shl(u32::from(level)).ok_or(NotHere)?;
        if let Some(from) = first.checked_sub(self.start.size()) {
            let from = usize::try_from(from).map_err(|_| NotHere)?;
            let width = 1_usize.checked_shl(u32::from(level)).ok_or(NotHere)?;
            let leaves = from.checked_add(width).and_then(|to| self.hashes.get(from..to)).ok_or(NotHere)?;
            return complete(leaves).ok_or(NotHere);
        }
        if let Some(peak) = self.start.peak(level, index) {
            return Ok(*peak);
        }
        let (below, left) = (level.checked_sub(1).ok_or(NotHere)?, index.checked_mul(2).ok_or(NotHere)?);
        Ok(node_hash(&self.node(below, left)?, &self.node(below, left.saturating_add(1))?))
    }
}

/// The root over a power of two of leaves.
fn complete(leaves: &[Digest]) -> Option<Digest> {
    let mut edge = Frontier::default();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    match edge.peaks() {
        [only] => Some(*only),
        _ => None,
    }
}

impl KeptFork {
    fn decode(key: &[u8], row: &[u8]) -> Result<Self, ServiceError> {
        let damaged = || ServiceError::Internal("a row of evidence.fork is damaged".to_owned());
        let node = key.split(|byte| *byte == 0).next().and_then(|node| std::str::from_utf8(node).ok());
        let mut fields = Fields::decode(row, Limits::DOCUMENT, "evidence.fork")?;
        let version = fields.uint(1, "version")?;
        let fork = Self {
            node: node.ok_or_else(damaged)?.to_owned(),
            time: Timestamp::from_millis(fields.uint(2, "time")?),
            sentence: fields.text(3, "sentence")?,
            proof: ForkProof::parse(&fields.text(4, "proof")?).map_err(|_| damaged())?,
        };
        fields.finish()?;
        if version == VERSION { Ok(fork) } else { Err(damaged()) }
    }
}

fn prefix(node: &str) -> Vec<u8> {
    [node.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use huitong_ledger::{leaf_hash, verify_inclusion};

    use super::*;

    #[test]
    fn a_tree_that_begins_late_proves_what_it_holds() {
        let leaves: Vec<Digest> = (0..75_u8).map(|n| leaf_hash(&[n])).collect();
        let whole = Tree { start: Frontier::default(), hashes: leaves.clone() };
        for start in [0_u64, 1, 7, 32, 40, 64, 74] {
            let mut edge = Frontier::default();
            leaves.iter().take(start as usize).for_each(|leaf| edge.push(*leaf));
            let late = Tree { start: edge, hashes: leaves[start as usize..].to_vec() };
            assert_eq!(root(&late, 75), root(&whole, 75));
            for index in 0..75 {
                let proven = late.proven(index, 75);
                if index < start {
                    assert!(proven.is_none_or(|proven| proven.leaf == leaves[index as usize]));
                    continue;
                }
                let ProvenLeaf { leaf, path } = proven.unwrap();
                verify_inclusion(&leaf, index, 75, &path, &root(&whole, 75).unwrap()).unwrap();
            }
            assert_eq!(late.proven(75, 75), None);
        }
    }
}
