//! What every part of this crate works on: the node's ledger, its witness key, and what the operator has set.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use huitong_identity::{Caller, Credential, NodeState, ServiceError, Standing, credential_of, members};
use huitong_ids::NodeId;
use huitong_ledger::{
    Cosigner, Ledger, LedgerError, LogVerifier, QuorumPolicy, SignedCheckpoint, origin_of, witness_name_of,
};
use huitong_proof::{Digest, Statement, Timestamp};
use huitong_store::Tx;

use crate::compare::Comparing;
use crate::cosign::Asked;
use crate::model::{EvidenceSettings, FollowedLog, LedgerStanding, WitnessStanding};
use crate::rate::Rates;
use crate::tables;

/// Members read at once.
const PAGE: usize = 256;

/// Evidence between this node and others. Clones share it.
#[derive(Clone)]
pub struct Evidence {
    inner: Arc<Inner>,
    pub(crate) take_up: Option<Arc<TakeUp>>,
}

/// What is done about a statement that a recovery has put back, in one transaction for several of them.
pub(crate) type TakeUp = dyn Fn(&mut Tx<'_>, &Statement) -> Result<(), ServiceError> + Send + Sync;

struct Inner {
    standing: Standing,
    cosigner: Cosigner,
    settings: EvidenceSettings,
    rates: Mutex<Rates>,
    /// Policy witness name -> what became of the last request.
    asked: Mutex<HashMap<String, Asked>>,
    comparing: Mutex<Comparing>,
    /// Held by whoever closes or opens the signing gate, or puts entries back: one at a time.
    deciding: tokio::sync::Mutex<()>,
    /// Key of the last pair of evidence that was looked at, when there are more than one look takes in.
    adopting: Mutex<Option<Digest>>,
}

impl Evidence {
    /// `cosigner` signs with the node's witness key under the name that its credential gives the key.
    pub fn new(standing: Standing, cosigner: Cosigner, settings: EvidenceSettings) -> Self {
        let (rates, asked, comparing) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (deciding, adopting) = (tokio::sync::Mutex::default(), Mutex::default());
        let inner = Inner { standing, cosigner, settings, rates, asked, comparing, deciding, adopting };
        Self { inner: Arc::new(inner), take_up: None }
    }

    /// The same, which does this about each statement that [`Evidence::recover`] puts back, before this node signs again.
    #[must_use]
    pub fn taking_up(
        self,
        take_up: impl Fn(&mut Tx<'_>, &Statement) -> Result<(), ServiceError> + Send + Sync + 'static,
    ) -> Self {
        Self { take_up: Some(Arc::new(take_up)), ..self }
    }

    /// Who this node is and whom it believes.
    pub fn standing(&self) -> &Standing {
        &self.inner.standing
    }

    /// This node's ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.inner.standing.ledger
    }

    /// What the operator has set.
    pub fn settings(&self) -> &EvidenceSettings {
        &self.inner.settings
    }

    /// The key that this node witnesses with.
    pub fn cosigner(&self) -> &Cosigner {
        &self.inner.cosigner
    }

    /// The present moment by the ledger's clock.
    pub fn now(&self) -> Timestamp {
        self.ledger().clock().now()
    }

    /// Whose cosignatures make a checkpoint of this node final: the policy that is set, else the registrar alone; a
    /// function node without a policy asks nobody. `None` also as long as the registrar's credential is not here yet.
    pub fn policy(&self) -> Result<Option<QuorumPolicy>, ServiceError> {
        if let Some(policy) = self.settings().policy.clone() {
            // A file that lists the ledgers of others would accept no checkpoint of this node.
            let listed = policy.logs().is_empty() || policy.logs().iter().any(|(log, _)| self.is_own(log));
            return Ok(Some(if listed { policy } else { self.with_own_log(policy)? }));
        }
        let membership = &self.standing().membership;
        if membership.is_registrar() {
            return Ok(None);
        }
        let registrar = self.credential(membership.registrar())?;
        Ok(registrar.map(|registrar| QuorumPolicy::single(registrar.node.as_str(), registrar.witness)))
    }

    /// The policy in force as a C2SP tlog-policy file: what `huitong receipt verify --policy` reads. Unless the operator's
    /// file lists ledgers there are none in it: a receipt shows two ledgers and the credentials that name their keys.
    pub fn policy_text(&self) -> Result<String, ServiceError> {
        Ok(self.policy()?.unwrap_or_else(QuorumPolicy::none).to_string())
    }

    /// The credential of this node or of one that it has relied on or registered; not checked for validity now.
    pub fn credential(&self, node: &NodeId) -> Result<Option<Credential>, ServiceError> {
        let view = self.ledger().store().view();
        Ok(credential_of(&view, self.ledger(), node)?.map(|(credential, _)| credential))
    }

    /// The nodes that this node has exchanged statements with, in order of id, and for a function node all members.
    /// Revoked ones are left out.
    pub fn counterparties(&self) -> Result<Vec<NodeId>, ServiceError> {
        let mut nodes = self.members()?;
        nodes.extend(tables::counterparties(&self.ledger().store().view(), self.ledger())?);
        nodes.sort();
        nodes.dedup();
        nodes.retain(|node| !self.is_revoked(node));
        Ok(nodes)
    }

    /// The nodes that this function node has enrolled and not revoked, in order of id; none on any other node.
    pub fn members(&self) -> Result<Vec<NodeId>, ServiceError> {
        let view = self.ledger().store().view();
        let mut nodes: Vec<NodeId> = Vec::new();
        let mut after: Option<NodeId> = None;
        loop {
            let page = members(&view, self.ledger(), after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(nodes) };
            after = Some(last.credential.node.clone());
            let active = page.into_iter().filter(|record| record.state == NodeState::Active);
            nodes.extend(active.map(|record| record.credential.node));
        }
    }

    /// The ledgers of others that this node follows: those of its counterparties and those that it witnesses, as far
    /// as their credentials are here and not revoked.
    pub fn followed(&self) -> Result<Vec<FollowedLog>, ServiceError> {
        let mut nodes = self.counterparties()?;
        nodes.extend(self.settings().witness_for.iter().cloned());
        nodes.sort();
        nodes.dedup();
        let mut followed = Vec::with_capacity(nodes.len());
        for node in nodes {
            if node.as_str() == self.ledger().node() || self.is_revoked(&node) {
                continue;
            }
            if let Some(log) = self.follow(&node)? {
                followed.push(log);
            }
        }
        Ok(followed)
    }

    /// The same for one node, revoked or not; `None` when its credential is not here.
    pub fn follow(&self, node: &NodeId) -> Result<Option<FollowedLog>, ServiceError> {
        Ok(self.credential(node)?.map(|credential| FollowedLog {
            witnessed: self.witnesses(&credential),
            node: credential.node,
            log: credential.log,
            statement_key: credential.statement_key,
            witness: credential.witness,
        }))
    }

    /// Whether this node is a witness of that node's ledger.
    pub fn witnesses(&self, of: &Credential) -> bool {
        let membership = &self.standing().membership;
        let is_member = membership.is_registrar() && of.registrar == membership.node().as_str();
        let is_other = of.node != *membership.node();
        is_other && (is_member || self.settings().witness_for.contains(&of.node))
    }

    /// Whether a caller may read every entry: a registrar on the root list, or a node that the operator has named.
    pub fn is_regulator(&self, caller: &Caller) -> bool {
        self.settings().regulators.contains(caller.node())
            || self.standing().directory.roots().entry(caller.node().as_str()).is_some()
    }

    /// How far the ledger is signed, cosigned and final, and how its witnesses do.
    pub fn ledger_standing(&self) -> Result<LedgerStanding, ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        let policy = self.policy()?;
        let cosigned = ledger.cosigned(&view)?;
        let signed = ledger.latest_checkpoint(&view)?;
        let is_final = |signed: &&SignedCheckpoint| match &policy {
            Some(policy) => policy.evaluate(signed).is_ok_and(|quorum| quorum.satisfied),
            // Nothing is demanded; but a connector whose registrar is not known yet demands what it cannot check.
            None => self.standing().membership.is_registrar(),
        };
        let size_of = |signed: &SignedCheckpoint| signed.checkpoint().size;
        let final_size = cosigned.iter().chain(&signed).filter(is_final).map(size_of).max();
        let asked = self.asked();
        let witnesses = policy.as_ref().map(QuorumPolicy::witnesses).unwrap_or_default().iter();
        let witnesses = witnesses
            .map(|(name, verifier, _)| {
                let last = asked.get(name).cloned().unwrap_or_default();
                // After a restart only the checkpoint remembers who has cosigned.
                let kept = cosigned.as_ref().and_then(|kept| {
                    let line = kept.cosigned_by(verifier).ok().flatten()?;
                    Some((kept.checkpoint().size, line.time))
                });
                let (size, time) = match kept {
                    Some((size, time)) if size >= last.size => (size, Some(time)),
                    _ => (last.size, last.time),
                };
                let node = node_of_witness(verifier.name());
                WitnessStanding { name: name.clone(), node, size, time, last_error: last.last_error }
            })
            .collect();
        Ok(LedgerStanding {
            size: ledger.size(&view)?,
            signed_size: signed.as_ref().map_or(0, size_of),
            final_size: final_size.unwrap_or(0),
            cosigned: cosigned.map(|kept| kept.text().to_owned()),
            requirement: policy.map(|policy| policy.requirement()),
            witnesses,
            safe_mode: self.safe_mode(),
        })
    }

    /// Why nothing is signed, if so.
    pub fn safe_mode(&self) -> Option<String> {
        match self.ledger().signing() {
            Ok(()) => None,
            Err(LedgerError::SafeMode { reason }) => Some(reason),
            Err(other) => Some(other.to_string()),
        }
    }

    fn is_own(&self, log: &LogVerifier) -> bool {
        *log == self.ledger().log_verifier()
    }

    fn with_own_log(&self, policy: QuorumPolicy) -> Result<QuorumPolicy, ServiceError> {
        let own = self.ledger().log_verifier();
        policy.with_log(own, None).map_err(|error| ServiceError::invalid("policy", error))
    }

    // A panic while holding a lock leaves whole values behind: each change is one assignment.
    pub(crate) fn rates(&self) -> MutexGuard<'_, Rates> {
        self.inner.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn asked(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn comparing(&self) -> MutexGuard<'_, Comparing> {
        self.inner.comparing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn adopting(&self) -> MutexGuard<'_, Option<Digest>> {
        self.inner.adopting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn deciding(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.deciding.lock().await
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence").field("node", &self.ledger().node()).finish_non_exhaustive()
    }
}

/// The node behind a witness key, whose name follows from the node id (see `witness_name_of`).
pub(crate) fn node_of_witness(name: &str) -> Option<NodeId> {
    let node = NodeId::parse(&name.strip_suffix("/huitong-witness/1")?.to_ascii_uppercase()).ok()?;
    (witness_name_of(node.as_str()) == name).then_some(node)
}

/// The node behind a ledger, whose origin follows from the node id (see `origin_of`).
pub(crate) fn node_of_origin(origin: &str) -> Option<NodeId> {
    let node = NodeId::parse(&origin.strip_suffix("/huitong-log/1")?.to_ascii_uppercase()).ok()?;
    (origin_of(node.as_str()) == origin).then_some(node)
}
