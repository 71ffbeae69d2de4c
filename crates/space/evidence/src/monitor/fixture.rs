//! Another node that does not answer as it should, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::{Caller, NodeKeys, PeerError, ServiceError, Sources, load};
use huitong_ids::NodeId;
use huitong_proof::{Clock as _, Digest, SeededEntropy};
use huitong_store::Store;

use crate::alerts::Alert;
use crate::tests::{Link, Space};
use crate::{ChannelSide, ChannelStanding, Evidence, EvidenceSettings, Included, LogPeer, WitnessAnswer};

/// Honest nodes, of which one may be bent.
pub(crate) struct Bent {
    honest: Link,
    node: NodeId,
    caller: Caller,
    ways: Mutex<Ways>,
    asked: Mutex<BTreeMap<&'static str, usize>>,
}

/// What is wrong with the node.
#[derive(Default, Clone)]
pub(crate) struct Ways {
    /// It is not there.
    pub(crate) down: bool,
    /// Another instance answers.
    pub(crate) view: Option<Evidence>,
    /// It always shows this checkpoint.
    pub(crate) checkpoint: Option<String>,
    /// What a witness shows as the checkpoint of the node.
    pub(crate) witnessed: Option<String>,
    /// It gives no consistency proofs.
    pub(crate) refuses_consistency: bool,
    /// It gives no proof of these statements.
    pub(crate) drops: Vec<Digest>,
    /// It does not answer to questions for these.
    pub(crate) stalls: Vec<Digest>,
    /// It claims another leaf for all statements.
    pub(crate) leaf: Option<Digest>,
    /// It shows the statements of another instance.
    pub(crate) shows_those_of: Option<Evidence>,
    /// It shows no statements.
    pub(crate) shows_nothing: bool,
    /// It gives no leaf hashes.
    pub(crate) withholds_leaves: bool,
    /// It gives this for every leaf hash from that index on.
    pub(crate) leaves_from: Option<(u64, Digest)>,
}

impl Bent {
    /// As the node at `from` reaches the others, of which `node` will be bent.
    pub(crate) fn new(space: &Space, from: usize, node: usize) -> Self {
        Self {
            honest: space.link(from),
            node: space.ids[node].clone(),
            caller: space.caller(from),
            ways: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    pub(crate) fn bend(&self, ways: Ways) {
        *self.ways.lock().unwrap() = ways;
    }

    /// How often a question was asked since this was asked last.
    pub(crate) fn asked(&self, question: &'static str) -> usize {
        self.asked.lock().unwrap().remove(question).unwrap_or_default()
    }

    fn ways(&self, to: &NodeId, question: &'static str) -> Result<Ways, PeerError> {
        *self.asked.lock().unwrap().entry(question).or_default() += 1;
        if *to != self.node {
            return Ok(Ways::default());
        }
        let ways = self.ways.lock().unwrap().clone();
        if ways.down {
            return Err(PeerError::Unavailable("connection refused".to_owned()));
        }
        Ok(ways)
    }
}

fn refused<T>(reason: &str) -> Result<T, PeerError> {
    Err(PeerError::Refused { code: "test".to_owned(), reason: reason.to_owned(), statement: None })
}

fn answered<T>(answer: Result<T, ServiceError>) -> Result<T, PeerError> {
    answer.or_else(|error| refused(&error.to_string()))
}

#[async_trait]
impl LogPeer for Bent {
    async fn add_checkpoint(&self, to: &NodeId, body: &str) -> Result<WitnessAnswer, PeerError> {
        self.honest.add_checkpoint(to, body).await
    }

    async fn witnessed(&self, to: &NodeId, origin: &str) -> Result<Option<String>, PeerError> {
        self.ways(to, "witnessed")?;
        let shown = self.ways.lock().unwrap().witnessed.clone();
        match shown {
            Some(text) if text.starts_with(origin) => Ok(Some(text)),
            _ => self.honest.witnessed(to, origin).await,
        }
    }

    async fn checkpoint(&self, to: &NodeId) -> Result<String, PeerError> {
        let ways = self.ways(to, "checkpoint")?;
        match (ways.checkpoint, ways.view) {
            (Some(text), _) => Ok(text),
            (None, Some(view)) => answered(view.checkpoint(&self.caller).await),
            (None, None) => self.honest.checkpoint(to).await,
        }
    }

    async fn consistency(&self, to: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        let ways = self.ways(to, "consistency")?;
        if ways.refuses_consistency {
            return refused("no proofs today");
        }
        match ways.view {
            Some(view) => answered(view.consistency(&self.caller, old, new)),
            None => self.honest.consistency(to, old, new).await,
        }
    }

    async fn inclusion(&self, to: &NodeId, digest: &Digest, size: u64) -> Result<Included, PeerError> {
        let ways = self.ways(to, "inclusion")?;
        if ways.stalls.contains(digest) {
            return Err(PeerError::Unavailable("busy".to_owned()));
        }
        if ways.drops.contains(digest) {
            return refused("no such statement");
        }
        let included = match ways.view {
            Some(view) => answered(view.inclusion(&self.caller, digest, size)),
            None => self.honest.inclusion(to, digest, size).await,
        };
        included.map(|included| Included { leaf: ways.leaf.unwrap_or(included.leaf), ..included })
    }

    async fn leaves(
        &self,
        to: &NodeId,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, PeerError> {
        let ways = self.ways(to, "leaves")?;
        if ways.withholds_leaves {
            return Ok(Vec::new());
        }
        let leaves = match ways.view {
            Some(view) => answered(view.leaves(&self.caller, origin, from, limit)),
            None => self.honest.leaves(to, origin, from, limit).await,
        };
        let Some((first, wrong)) = ways.leaves_from else { return leaves };
        Ok((from..).zip(leaves?).map(|(index, leaf)| if index >= first { wrong } else { leaf }).collect())
    }

    async fn channel(&self, to: &NodeId) -> Result<ChannelStanding, PeerError> {
        self.honest.channel(to).await
    }

    async fn statements(
        &self,
        to: &NodeId,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, PeerError> {
        let ways = self.ways(to, "statements")?;
        match ways.shows_those_of.or(ways.view) {
            _ if ways.shows_nothing => Ok(Vec::new()),
            Some(view) => answered(view.statements(&self.caller, side, from_seq, limit)),
            None => self.honest.statements(to, side, from_seq, limit).await,
        }
    }
}

/// Another instance of a node of the shared fixture, with its keys, over a copy of its directory: the way in which
/// ledgers fork by accident.
pub(crate) fn second(space: &Space, name: &str, copy: &std::path::Path, seed: u64) -> Evidence {
    let clock = space.clock.clone();
    let store = Store::open(copy, Arc::new(move || clock.now().millis())).unwrap();
    let sources =
        Sources { clock: Arc::new(space.clock.clone()), entropy: Arc::new(SeededEntropy::new(seed)) };
    let keys =
        NodeKeys::load_or_create(&space.dir.path().join(name).join("keys"), &*sources.entropy).unwrap();
    let standing = load(&store, &keys, &sources, None).unwrap().unwrap();
    let cosigner = keys.cosigner(standing.membership.node()).unwrap();
    Evidence::new(standing, cosigner, EvidenceSettings::default())
}

/// Codes of the alerts that nobody has dealt with, each with its node, in order.
pub(crate) fn open(node: &Evidence) -> Vec<(String, String)> {
    let alerts = node.alerts(false, usize::MAX).unwrap();
    let mut open: Vec<_> = alerts.into_iter().map(|Alert { code, node, .. }| (code, node)).collect();
    open.sort();
    open
}
