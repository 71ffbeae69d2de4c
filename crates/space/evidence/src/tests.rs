//! Several nodes in one process, over real stores, and the network between them.

mod comparing;
mod cosigning;
mod hostile;
mod recalling;
mod recovering;
mod serving;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::testing::{TestNetwork, TestNode, network};
use huitong_identity::{
    Caller, InviteRequest, JoinRequest, NodeKeys, PeerError, Registrar, Role, ServiceError, Sources,
    Standing, enrolment_request, join, load, remember,
};
use huitong_ids::NodeId;
use huitong_ledger::{LedgerError, QuorumPolicy, SignedCheckpoint, leaf_hash};
use huitong_proof::cbor::Map;
use huitong_proof::{Clock as _, Digest, Draft, Kind, ManualClock, SeededEntropy, Statement, Timestamp};
use huitong_store::Store;
use tempfile::TempDir;

use crate::{ChannelSide, ChannelStanding, Evidence, EvidenceSettings, Included, LogPeer, WitnessAnswer};

/// The space of all tests: a registrar and as many connectors as are asked for.
pub(crate) struct Space {
    pub(crate) dir: TempDir,
    pub(crate) clock: ManualClock,
    /// Goes down with the registrar's node.
    pub(crate) registry: Option<Registrar>,
    pub(crate) net: Arc<Net>,
    /// The registrar first, then the connectors in the order in which they were enrolled.
    pub(crate) ids: Vec<NodeId>,
    homes: BTreeMap<NodeId, PathBuf>,
    /// No two openings of a node draw the same salts.
    seed: u64,
}

/// Who answers for each node, and what goes wrong on the way.
#[derive(Default)]
pub(crate) struct Net {
    nodes: Mutex<BTreeMap<NodeId, Evidence>>,
    callers: Mutex<BTreeMap<NodeId, Caller>>,
    faults: Mutex<BTreeMap<NodeId, Fault>>,
    instead: Mutex<BTreeMap<NodeId, Arc<dyn LogPeer>>>,
    mirrors: Mutex<HashMap<String, Vec<Digest>>>,
    /// What is given out as anybody's credential.
    credential: Mutex<Option<Option<Bytes>>>,
    pub(crate) calls: Mutex<Vec<String>>,
}

/// What happens to every call to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused at once.
    Dead,
    /// Never answered.
    Silent,
    /// Done, but the answer is lost.
    AnswerLost,
    /// Done twice; the second answer is what arrives.
    Twice,
}

/// The registrar, provider and consumer of the shared fixture have these places in [`Space::ids`].
pub(crate) const REGISTRAR: usize = 0;
pub(crate) const PROVIDER: usize = 1;
pub(crate) const CONSUMER: usize = 2;

const ENTITIES: [&str; 2] = ["91310000132260250X", "91440300279382421H"];

impl Space {
    /// Registrar, provider and consumer.
    pub(crate) async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let TestNetwork { registrar, registry, provider, consumer, clock } = network(dir.path()).await;
        let mut space = Self {
            dir,
            clock,
            registry: Some(registry),
            net: Arc::default(),
            ids: Vec::new(),
            homes: BTreeMap::new(),
            seed: 1_000,
        };
        for (name, node) in [("registrar", registrar), ("provider", provider), ("consumer", consumer)] {
            let TestNode { standing, caller, .. } = node;
            space.add(name, standing, caller);
        }
        space
    }

    /// The same with further connectors.
    pub(crate) async fn with_connectors(further: usize) -> Self {
        let mut space = Self::new().await;
        for entity in ENTITIES.iter().take(further) {
            space.enrol(entity).await;
        }
        space
    }

    fn add(&mut self, name: &str, standing: Standing, caller: Caller) {
        let id = caller.node().clone();
        let home = self.dir.path().join(name);
        self.net.callers.lock().unwrap().insert(id.clone(), caller);
        self.homes.insert(id.clone(), home.clone());
        let evidence = evidence_over(standing, &home, EvidenceSettings::default());
        self.net.nodes.lock().unwrap().insert(id.clone(), evidence);
        self.ids.push(id);
    }

    async fn enrol(&mut self, entity: &str) {
        let name = format!("connector-{}", self.ids.len());
        let home = self.dir.path().join(&name);
        std::fs::create_dir_all(&home).unwrap();
        let sources = self.sources();
        let keys = NodeKeys::load_or_create(&home.join("keys"), &*sources.entropy).unwrap();
        let invite = InviteRequest {
            entity: entity.to_owned(),
            name: format!("Example {name}"),
            roles: vec![Role::Provider, Role::Consumer],
            lifetime: Duration::from_secs(3600),
            address: "localhost:1".to_owned(),
        };
        let registry = self.registry.clone().unwrap();
        let invite = registry.invite(invite).await.unwrap();
        let request = JoinRequest { invite, domain: "localhost".to_owned() };
        let sent = enrolment_request(&keys, &request, &sources).unwrap();
        let grant = registry.enrol(sent.clone()).await.unwrap();
        let store = self.open(&home);
        join(&store, &keys, &request, &sent, grant, &sources).await.unwrap();
        let standing = load(&store, &keys, &sources, None).unwrap().unwrap();
        let registrar = self.node(REGISTRAR).standing().directory.clone();
        let caller = registrar.authenticate(standing.membership.certificate(), self.clock.now()).unwrap();
        self.add(&name, standing, caller);
    }

    fn sources(&mut self) -> Sources {
        self.seed += 1;
        Sources { clock: Arc::new(self.clock.clone()), entropy: Arc::new(SeededEntropy::new(self.seed)) }
    }

    fn open(&self, home: &Path) -> Store {
        let clock = self.clock.clone();
        Store::open(&home.join("data"), Arc::new(move || clock.now().millis())).unwrap()
    }

    /// A node as it is now.
    pub(crate) fn node(&self, place: usize) -> Evidence {
        self.net.node(&self.ids[place]).unwrap()
    }

    pub(crate) fn caller(&self, place: usize) -> Caller {
        self.net.callers.lock().unwrap()[&self.ids[place]].clone()
    }

    /// How that node reaches the others.
    pub(crate) fn link(&self, from: usize) -> Link {
        Link { net: Arc::clone(&self.net), from: self.ids[from].clone(), substitutes: true }
    }

    pub(crate) fn fault(&self, place: usize, fault: Option<Fault>) {
        let mut faults = self.net.faults.lock().unwrap();
        match fault {
            Some(fault) => faults.insert(self.ids[place].clone(), fault),
            None => faults.remove(&self.ids[place]),
        };
    }

    /// From now on somebody else answers in that node's place.
    pub(crate) fn instead_of(&self, place: usize, peer: impl LogPeer + 'static) {
        self.net.instead.lock().unwrap().insert(self.ids[place].clone(), Arc::new(peer));
    }

    pub(crate) fn as_itself(&self, place: usize) {
        self.net.instead.lock().unwrap().remove(&self.ids[place]);
    }

    /// The same node with other settings.
    pub(crate) fn set(&self, place: usize, change: impl FnOnce(&mut EvidenceSettings)) {
        let node = self.node(place);
        let mut settings = node.settings().clone();
        change(&mut settings);
        let changed = Evidence::new(node.standing().clone(), node.cosigner().clone(), settings);
        self.net.nodes.lock().unwrap().insert(self.ids[place].clone(), changed);
    }

    /// A policy of `k` of the nodes at these places.
    pub(crate) fn policy(&self, k: usize, witnesses: &[usize]) -> QuorumPolicy {
        let witness = |place: &usize| {
            let verifier = self.caller(*place).credential().witness.clone();
            (format!("witness-{place}"), verifier, None)
        };
        QuorumPolicy::k_of(k, witnesses.iter().map(witness).collect()).unwrap()
    }

    /// Those nodes witness the ledger of the first one, which needs `k` of them.
    pub(crate) fn witnessed_by(&self, subject: usize, k: usize, witnesses: &[usize]) {
        let policy = self.policy(k, witnesses);
        self.set(subject, |settings| settings.policy = Some(policy));
        for witness in witnesses {
            let subject = self.ids[subject].clone();
            self.set(*witness, |settings| settings.witness_for.push(subject));
        }
    }

    /// A statement from one node to another, logged by its issuer only.
    pub(crate) async fn say(&self, from: usize, to: usize) -> Statement {
        self.try_to_say(from, to).await.unwrap()
    }

    pub(crate) async fn try_to_say(&self, from: usize, to: usize) -> Result<Statement, LedgerError> {
        let ledger = self.node(from).ledger().clone();
        let draft = Draft {
            kind: Kind::Offer,
            audience: self.ids[to].to_string(),
            subject: [7; 16],
            agreement: Digest::sha256(self.ids[to].as_str().as_bytes()),
            reference: Digest::ZERO,
            detail: Map::new(),
        };
        let issue = move |tx: &mut huitong_store::Tx<'_>| ledger.issue(tx, draft);
        Ok(self.node(from).ledger().store().transact("test.say", issue).await?)
    }

    /// The same, logged by both.
    pub(crate) async fn tell(&self, from: usize, to: usize) -> Statement {
        let statement = self.say(from, to).await;
        self.deliver(from, to, &statement).await;
        statement
    }

    pub(crate) async fn deliver(&self, from: usize, to: usize, statement: &Statement) {
        let (ledger, caller) = (self.node(to).ledger().clone(), self.caller(from));
        let statement = statement.clone();
        let admit = move |tx: &mut huitong_store::Tx<'_>| -> Result<(), ServiceError> {
            remember(tx, &ledger, &caller)?;
            ledger.admit(tx, &statement)?;
            Ok(())
        };
        self.node(to).ledger().store().transact("test.deliver", admit).await.unwrap();
    }

    /// Signs a checkpoint and has it cosigned by whoever answers.
    pub(crate) async fn finish(&self, place: usize) -> SignedCheckpoint {
        let node = self.node(place);
        let signed = node.ledger().checkpoint().await.unwrap();
        node.cosign_once(&self.link(place)).await.unwrap();
        signed
    }

    /// What witnesses of that node's ledger would have copied by now.
    pub(crate) fn mirror(&self, place: usize) {
        let node = self.node(place);
        let leaves = all_leaves(&node);
        self.net.mirrors.lock().unwrap().insert(node.ledger().origin().to_owned(), leaves);
    }

    /// Stops a node; its directory is as after a clean stop.
    pub(crate) async fn stop(&mut self, place: usize) {
        let node = self.net.nodes.lock().unwrap().remove(&self.ids[place]).unwrap();
        let store = node.ledger().store().clone();
        drop(node);
        if place == REGISTRAR {
            self.registry = None;
        }
        store.close().await;
    }

    pub(crate) fn start(&mut self, place: usize, settings: EvidenceSettings) {
        let home = self.homes[&self.ids[place]].clone();
        let sources = self.sources();
        let keys = NodeKeys::load_or_create(&home.join("keys"), &*sources.entropy).unwrap();
        let standing = load(&self.open(&home), &keys, &sources, None).unwrap().unwrap();
        let evidence = evidence_over(standing, &home, settings);
        self.net.nodes.lock().unwrap().insert(self.ids[place].clone(), evidence);
    }

    /// Stops the node, copies its directory, starts it again.
    pub(crate) async fn back_up(&mut self, place: usize) -> PathBuf {
        let settings = self.node(place).settings().clone();
        self.stop(place).await;
        let backup = self.dir.path().join(format!("backup-{}", self.seed));
        copy(&self.homes[&self.ids[place]].join("data"), &backup);
        self.start(place, settings);
        backup
    }

    /// Puts an old copy in the place of the node's directory: with the marker that `huitong store restore` leaves, or
    /// behind its back.
    pub(crate) async fn put_back(&mut self, place: usize, backup: &Path, marked: Marked) {
        let settings = self.node(place).settings().clone();
        self.stop(place).await;
        let data = self.homes[&self.ids[place]].join("data");
        std::fs::remove_dir_all(&data).unwrap();
        copy(backup, &data);
        if marked == Marked::Yes {
            std::fs::write(data.join("restored"), "restored from a backup in a test\n").unwrap();
        }
        self.start(place, settings);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.net.calls.lock().unwrap())
    }
}

/// Whether the node can see that its directory was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    Yes,
    No,
}

impl Net {
    fn node(&self, id: &NodeId) -> Option<Evidence> {
        self.nodes.lock().unwrap().get(id).cloned()
    }
}

/// The other nodes, as one of them reaches them.
#[derive(Clone)]
pub(crate) struct Link {
    net: Arc<Net>,
    from: NodeId,
    substitutes: bool,
}

impl Link {
    /// The same, to the nodes themselves.
    pub(crate) fn without_substitutes(mut self) -> Self {
        self.substitutes = false;
        self
    }

    /// Who answers in place of that node.
    fn instead(&self, to: &NodeId) -> Option<Arc<dyn LogPeer>> {
        let instead = self.net.instead.lock().unwrap().get(to).cloned();
        instead.filter(|_| self.substitutes)
    }

    async fn call<T, F>(
        &self,
        to: &NodeId,
        name: &str,
        at_node: impl Fn(Evidence, Caller) -> F + Send,
    ) -> Result<T, PeerError>
    where
        T: Send,
        F: Future<Output = Result<T, ServiceError>> + Send,
    {
        self.net.calls.lock().unwrap().push(format!("{name} {to}"));
        let fault = self.net.faults.lock().unwrap().get(to).copied();
        let unavailable = |why: &str| PeerError::Unavailable(why.to_owned());
        match fault {
            Some(Fault::Dead) => return Err(unavailable("connection refused")),
            Some(Fault::Silent) => std::future::pending().await,
            _ => {}
        }
        let node = self.net.node(to).ok_or_else(|| unavailable("no such node"))?;
        let caller = self.net.callers.lock().unwrap()[&self.from].clone();
        if fault == Some(Fault::Twice) {
            let _ = at_node(node.clone(), caller.clone()).await;
        }
        let answer = at_node(node, caller).await;
        if fault == Some(Fault::AnswerLost) {
            return Err(unavailable("connection reset"));
        }
        answer.map_err(|error| PeerError::Refused {
            code: "test".to_owned(),
            reason: error.to_string(),
            statement: None,
        })
    }
}

#[async_trait]
impl LogPeer for Link {
    async fn add_checkpoint(&self, to: &NodeId, body: &str) -> Result<WitnessAnswer, PeerError> {
        if let Some(other) = self.instead(to) {
            self.net.calls.lock().unwrap().push(format!("add_checkpoint {to}"));
            return other.add_checkpoint(to, body).await;
        }
        let at_node =
            |node: Evidence, caller: Caller| async move { node.add_checkpoint(&caller, body).await };
        self.call(to, "add_checkpoint", at_node).await
    }

    async fn witnessed(&self, to: &NodeId, origin: &str) -> Result<Option<String>, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.witnessed(to, origin).await;
        }
        let at_node = |node: Evidence, caller: Caller| async move { node.witnessed(&caller, origin) };
        self.call(to, "witnessed", at_node).await
    }

    async fn checkpoint(&self, to: &NodeId) -> Result<String, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.checkpoint(to).await;
        }
        let at_node = |node: Evidence, caller: Caller| async move { node.checkpoint(&caller).await };
        self.call(to, "checkpoint", at_node).await
    }

    async fn consistency(&self, to: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.consistency(to, old, new).await;
        }
        let at_node = |node: Evidence, caller: Caller| async move { node.consistency(&caller, old, new) };
        self.call(to, "consistency", at_node).await
    }

    async fn inclusion(&self, to: &NodeId, digest: &Digest, size: u64) -> Result<Included, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.inclusion(to, digest, size).await;
        }
        let at_node = |node: Evidence, caller: Caller| async move { node.inclusion(&caller, digest, size) };
        self.call(to, "inclusion", at_node).await
    }

    async fn leaves(
        &self,
        to: &NodeId,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.leaves(to, origin, from, limit).await;
        }
        let mirror = self.net.mirrors.lock().unwrap().get(origin).cloned();
        let at_node = |node: Evidence, caller: Caller| {
            let mirror = mirror.clone();
            async move {
                match mirror {
                    Some(leaves) if node.ledger().origin() != origin => {
                        Ok(leaves.into_iter().skip(from as usize).take(limit).collect())
                    }
                    _ => node.leaves(&caller, origin, from, limit),
                }
            }
        };
        self.call(to, "leaves", at_node).await
    }

    async fn channel(&self, to: &NodeId) -> Result<ChannelStanding, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.channel(to).await;
        }
        let at_node = |node: Evidence, caller: Caller| async move { node.channel(&caller) };
        self.call(to, "channel", at_node).await
    }

    async fn statements(
        &self,
        to: &NodeId,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, PeerError> {
        if let Some(other) = self.instead(to) {
            return other.statements(to, side, from_seq, limit).await;
        }
        let at_node =
            |node: Evidence, caller: Caller| async move { node.statements(&caller, side, from_seq, limit) };
        self.call(to, "statements", at_node).await
    }

    async fn credential(&self, of: &NodeId) -> Result<Bytes, PeerError> {
        if let Some(given) = self.net.credential.lock().unwrap().clone() {
            return given.ok_or_else(|| PeerError::Unavailable("the registrar is gone".to_owned()));
        }
        let caller = self.net.callers.lock().unwrap()[of].clone();
        Ok(caller.credential_statement().bytes().clone())
    }
}

fn evidence_over(standing: Standing, home: &Path, settings: EvidenceSettings) -> Evidence {
    let keys = NodeKeys::load_or_create(&home.join("keys"), &SeededEntropy::new(0)).unwrap();
    let cosigner = keys.cosigner(standing.membership.node()).unwrap();
    Evidence::new(standing, cosigner, settings)
}

/// Leaf hashes computed from the entries, not from the tree.
pub(crate) fn all_leaves(node: &Evidence) -> Vec<Digest> {
    let view = node.ledger().store().view();
    let size = node.ledger().size(&view).unwrap();
    let leaf = |index| match node.ledger().entry_state(&view, index).unwrap().unwrap() {
        huitong_ledger::EntryState::Present(bytes) => leaf_hash(&bytes),
        huitong_ledger::EntryState::Redacted(gap) => gap.leaf,
    };
    (0..size).map(leaf).collect()
}

pub(crate) fn size(node: &Evidence) -> u64 {
    node.ledger().size(&node.ledger().store().view()).unwrap()
}

pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
