//! Provider and consumer in one process over real stores, with a wire between them that a test can cut and rewrite.

pub(crate) mod consumer_lies;
mod controlling;
mod datasets;
mod delivery;
mod deposits;
mod faults;
mod finality;
mod lanes;
mod link;
mod provider_lies;
mod receipts;
mod refusals;
mod series;
mod serving;
mod standing;
mod subscriptions;
mod versions;
mod watching;
mod witnesses;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_catalog::{CatalogPeer, Publish, Registry, Resolved, SearchPage, Shelf};
use huitong_contract::{AcceptCounter, Approval, ContractPeer, Contracts, Negotiation, Terms};
use huitong_identity::testing::{TestNetwork, TestNode, network};
use huitong_identity::{Caller, Delivery, NodeKeys, PeerError, ServiceError, Sources, load};
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_ledger::QuorumPolicy;
use huitong_proof::{
    Anchor, ChannelHead, Clock, Draft, Entropy, Envelope, Kind, ManualClock, SeededEntropy, Signing,
    Statement,
};
use huitong_store::{Pending, Store, outbox};

use self::link::{Link, Wire};
use crate::{Pieces, Priority, Rates, StartTransfer, Transfer, TransferSettings, TransferState, Transfers};

pub(crate) const MIB: usize = 1 << 20;
/// The clock of all nodes starts at 2026-09-21T14:13:20Z; this policy holds for ever after.
pub(crate) const ALWAYS: &str =
    r#"{"constraintName":"time","constraintOperator":"gteq","constraintValue":"2020-01-01T00:00:00Z"}"#;
/// This one holds for another minute.
pub(crate) const ONE_MINUTE: &str =
    r#"{"constraintName":"time","constraintOperator":"lteq","constraintValue":"2026-09-21T14:14:20Z"}"#;

pub(crate) fn count(limit: u64) -> String {
    format!(r#"{{"constraintName":"count","constraintOperator":"lteq","constraintValue":"{limit}"}}"#)
}

/// One permission for each list of constraints.
pub(crate) fn policy(permissions: &[&str]) -> String {
    let permissions = permissions
        .iter()
        .map(|constraints| format!(r#"{{"actions":["delivery"],"constraints":[{constraints}]}}"#))
        .collect::<Vec<_>>();
    format!(r#"{{"contractPolicies":{{"permissionPolicies":[{}]}}}}"#, permissions.join(","))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Provider,
    Consumer,
}

/// A data space in which the provider offers one file, and the consumer has a contract for it.
pub(crate) struct Space {
    pub(crate) home: tempfile::TempDir,
    pub(crate) network: TestNetwork,
    pub(crate) product: DataId,
    pub(crate) contract: ContractId,
    pub(crate) content: Vec<u8>,
    pub(crate) provider: Transfers,
    pub(crate) consumer: Transfers,
    seed: u64,
}

impl Space {
    pub(crate) async fn new(size: usize, window: usize, policy: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (file, content) = (home.path().join("rain.csv"), content(size));
        std::fs::write(&file, &content).unwrap();
        Self { content, ..Self::publishing(home, file, window, policy).await }
    }

    /// The provider offers a directory of files.
    pub(crate) async fn of_files(
        files: BTreeMap<&'static str, Vec<u8>>,
        window: usize,
        policy: &str,
    ) -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("rain");
        for (path, bytes) in files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        Self::publishing(home, directory, window, policy).await
    }

    async fn publishing(home: tempfile::TempDir, source: PathBuf, window: usize, policy: &str) -> Self {
        let network = network(home.path()).await;
        let request = offer([1; 16], source, window, policy);
        Self::offering(home, network, request).await
    }

    /// The provider publishes what is asked for, and the consumer agrees to it.
    pub(crate) async fn offering(home: tempfile::TempDir, network: TestNetwork, request: Publish) -> Self {
        let content = Vec::new();
        let product = publish(home.path(), &network, request).await;
        let provider = transfers(home.path(), &network.provider);
        let consumer = transfers(home.path(), &network.consumer);
        let contract = ContractId::mint(
            network.provider.membership.node().node_type(),
            &network.provider.membership.node().entity(),
            &network.provider.membership.node().segment(),
            "20260921141320",
            [0; 16],
        )
        .unwrap();
        let mut space = Self { home, network, product, contract, content, provider, consumer, seed: 100 };
        space.request([7; 16]).await;
        space.settle().await;
        space.contract = space.negotiation(Who::Provider, [7; 16]).contract.unwrap();
        space
    }

    /// The provider publishes its file or directory as it is now, as another product; the consumer agrees to that.
    pub(crate) async fn publish_again(&mut self, window: usize) {
        let file = self.source();
        let source = if file.exists() { file } else { self.home.path().join("rain") };
        let request = offer([9; 16], source, window, &policy(&[ALWAYS]));
        self.product = publish(self.home.path(), &self.network, request).await;
        self.request([8; 16]).await;
        self.settle().await;
        self.contract = self.negotiation(Who::Provider, [8; 16]).contract.unwrap();
    }

    /// 3 MiB and a bit, a window of 1 MiB, a counted permission.
    pub(crate) async fn small() -> Self {
        Self::new(3 * MIB + 5, MIB, &policy(&[&count(1000)])).await
    }

    pub(crate) fn node(&self, who: Who) -> &TestNode {
        match who {
            Who::Provider => &self.network.provider,
            Who::Consumer => &self.network.consumer,
        }
    }

    pub(crate) fn transfers(&self, who: Who) -> &Transfers {
        match who {
            Who::Provider => &self.provider,
            Who::Consumer => &self.consumer,
        }
    }

    pub(crate) fn contracts(&self, who: Who) -> Contracts {
        contracts(self.home.path(), self.node(who))
    }

    pub(crate) fn negotiation(&self, who: Who, id: [u8; 16]) -> Negotiation {
        self.contracts(who).negotiation(&id).unwrap().unwrap()
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.home.path().join("rain.csv")
    }

    pub(crate) fn received(&self) -> PathBuf {
        self.home.path().join("received")
    }

    /// Takes away what was delivered, so that the next delivery cannot be made from it.
    pub(crate) fn forget_delivered(&self) {
        std::fs::remove_file(self.received().join("rain.csv")).unwrap();
    }

    /// The names in the directory of received files.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.received())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) async fn request(&self, id: [u8; 16]) {
        let membership = &self.network.provider.membership;
        let provider = (membership.credential().clone(), membership.credential_statement().clone());
        let terms =
            self.contracts(Who::Provider).standing_terms(&self.network.consumer.caller, &self.product);
        let contracts = self.contracts(Who::Consumer);
        contracts.request(id, provider, terms.unwrap(), AcceptCounter::Yes).await.unwrap();
    }

    /// Passes the messages of both outboxes until nobody has anything to say.
    pub(crate) async fn settle(&self) {
        while self.deliver(Who::Consumer).await + self.deliver(Who::Provider).await > 0 {}
    }

    /// Passes what waits in one outbox.
    pub(crate) async fn deliver(&self, who: Who) -> usize {
        let other = if who == Who::Provider { Who::Consumer } else { Who::Provider };
        let wire = Negotiating { to: self.contracts(other), from: self.node(who).caller.clone() };
        let pending = outbox::pending(&self.node(who).ledger.store().view(), None, 100).unwrap();
        let pending: Vec<Pending> =
            pending.into_iter().filter(|row| row.topic == huitong_contract::TOPIC).collect();
        for message in &pending {
            self.contracts(who).deliver(message, &wire).await.unwrap();
        }
        pending.len()
    }

    pub(crate) async fn start(&self, id: [u8; 16]) -> Transfer {
        self.start_with(id, Priority::Normal).await
    }

    pub(crate) async fn start_with(&self, id: [u8; 16], priority: Priority) -> Transfer {
        let contract = self.contract.clone();
        let request = StartTransfer { id, contract, product: None, directory: None, priority };
        self.consumer.start(request).await.unwrap()
    }

    /// One attempt over a wire, and how the provider's side of it ended.
    pub(crate) async fn attempt(&self, id: [u8; 16], wire: Wire) -> Attempt {
        let link = Link::new(self, wire);
        let limit = Duration::from_secs(30);
        let consumer = tokio::time::timeout(limit, self.consumer.run(&id, &link)).await;
        let consumer = consumer.expect("the consumer hangs");
        let frames = link.frames();
        let provider = tokio::time::timeout(limit, link.ended()).await.expect("the provider hangs");
        Attempt { consumer, provider, frames }
    }

    /// One attempt over a wire that does nothing but carry.
    pub(crate) async fn run(&self, id: [u8; 16]) -> Attempt {
        self.attempt(id, Wire::default()).await
    }

    pub(crate) fn seen_by(&self, who: Who, id: [u8; 16]) -> Transfer {
        self.transfers(who).transfer(&id).unwrap().unwrap()
    }

    pub(crate) fn states(&self, id: [u8; 16]) -> [TransferState; 2] {
        [self.seen_by(Who::Provider, id).state, self.seen_by(Who::Consumer, id).state]
    }

    /// The statements about one transfer in one ledger.
    pub(crate) fn statements(&self, who: Who, id: [u8; 16]) -> Vec<Statement> {
        let ledger = &self.node(who).ledger;
        ledger.about(&ledger.store().view(), &id, 10_000).unwrap()
    }

    pub(crate) fn kinds(&self, who: Who, id: [u8; 16]) -> Vec<Kind> {
        self.statements(who, id).iter().map(Statement::kind).collect()
    }

    pub(crate) fn counted(&self, who: Who, id: [u8; 16], kind: Kind) -> usize {
        self.kinds(who, id).iter().filter(|found| **found == kind).count()
    }

    /// What the provider's counter of the first permission stands at.
    pub(crate) fn counter(&self) -> u64 {
        let view = self.network.provider.ledger.store().view();
        let contract = self.contracts(Who::Provider).contract(&view, &self.contract).unwrap().unwrap();
        crate::tables::counter(&view, &contract.hash, "permission[0]").unwrap()
    }

    /// The delivered file is the published one, both sides know it, and both hold the same statements.
    pub(crate) fn assert_delivered(&self, id: [u8; 16]) {
        let (provider, consumer) = (self.seen_by(Who::Provider, id), self.seen_by(Who::Consumer, id));
        assert_eq!([provider.state, consumer.state], [TransferState::Completed; 2]);
        assert_eq!(provider.statements, consumer.statements);
        assert_eq!([provider.size, provider.acknowledged], [self.content.len() as u64; 2]);
        assert_eq!([consumer.size, consumer.acknowledged], [self.content.len() as u64; 2]);
        assert!(!part_of(&consumer).exists(), "{:?}", self.files());
        let bytes = std::fs::read(consumer.path.unwrap()).unwrap();
        assert!(bytes == self.content, "the delivered file differs");
        assert_eq!(consumer.root.unwrap().as_bytes(), blake3::hash(&bytes).as_bytes());
    }

    /// What is acknowledged is on the disk and right, and the provider believes no more than the consumer signed.
    pub(crate) fn assert_acknowledged_is_durable(&self, id: [u8; 16]) {
        let consumer = self.seen_by(Who::Consumer, id);
        let acknowledged = consumer.acknowledged as usize;
        if acknowledged > 0 && consumer.state == TransferState::Started {
            let part = std::fs::read(part_of(&consumer)).or_else(|_| std::fs::read(consumer.path.unwrap()));
            assert!(part.unwrap()[..acknowledged] == self.content[..acknowledged]);
        }
        if let Some(provider) = self.provider.transfer(&id).unwrap() {
            assert!(provider.acknowledged <= consumer.acknowledged);
        }
    }

    /// A statement as a node could have signed it behind its own ledger's back.
    pub(crate) fn forge(&self, who: Who, seq: u64, draft: Draft) -> Statement {
        let home = self.home.path().join(match who {
            Who::Provider => "provider",
            Who::Consumer => "consumer",
        });
        let entropy = SeededEntropy::new(seq);
        let keys = NodeKeys::load_or_create(&home.join("keys"), &entropy).unwrap();
        let ledger = &self.node(who).ledger;
        let with = Signing {
            key: keys.statement(),
            space: ledger.space(),
            issuer: ledger.node(),
            channel: ChannelHead { seq, ..ChannelHead::START },
            anchor: Anchor::none(),
            time: ledger.clock().now(),
            salt: [9; 16],
        };
        Statement::sign(draft, with).unwrap()
    }

    /// A statement that a node signs in the proper way.
    pub(crate) async fn issue(&self, who: Who, draft: Draft) -> Statement {
        let ledger = self.node(who).ledger.clone();
        let store = ledger.store().clone();
        let issued = store
            .transact("test", move |tx| -> Result<Statement, ServiceError> { Ok(ledger.issue(tx, draft)?) });
        issued.await.unwrap()
    }

    pub(crate) fn read(&self, bytes: &Bytes) -> Statement {
        Envelope::decode(bytes.clone()).unwrap().trusted(self.network.provider.ledger.space()).unwrap()
    }

    /// Both nodes stop and start again from their directories.
    pub(crate) async fn restart(self) -> Self {
        let Self { home, network, product, contract, content, provider, consumer, seed } = self;
        drop((provider, consumer));
        let TestNetwork { registrar, registry, provider, consumer, clock } = network;
        let provider = reopen(&home.path().join("provider"), provider, &clock, seed).await;
        let consumer = reopen(&home.path().join("consumer"), consumer, &clock, seed + 1).await;
        let network = TestNetwork { registrar, registry, provider, consumer, clock };
        let provider = transfers(home.path(), &network.provider);
        let consumer = transfers(home.path(), &network.consumer);
        Self { home, network, product, contract, content, provider, consumer, seed: seed + 2 }
    }
}

/// How one attempt ended on both sides, and what passed.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) consumer: Result<(), Delivery>,
    pub(crate) provider: Result<(), ServiceError>,
    pub(crate) frames: Vec<String>,
}

impl Attempt {
    /// The consumer will try again, for a reason that contains this.
    pub(crate) fn assert_retry(&self, text: &str) {
        match &self.consumer {
            Err(Delivery::Retry(reason)) if reason.contains(text) => {}
            _ => panic!("{text}: {self:?}"),
        }
    }

    /// The consumer has given up, with this code.
    pub(crate) fn assert_over(&self, code: &str) {
        match &self.consumer {
            Err(Delivery::Dead(reason)) if reason.starts_with(&format!("{code}: ")) => {}
            _ => panic!("{code}: {self:?}"),
        }
    }
}

pub(crate) fn part_of(transfer: &Transfer) -> PathBuf {
    let id = huitong_proof::id_text(&transfer.id);
    transfer.path.as_ref().unwrap().with_file_name(format!(".huitong-{id}.part"))
}

/// The bytes of a chunk.
pub(crate) fn joined(data: &Pieces) -> Bytes {
    data.as_slice().concat().into()
}

pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size as u64).map(|index| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect()
}

async fn reopen(home: &Path, node: TestNode, clock: &ManualClock, seed: u64) -> TestNode {
    let TestNode { caller, ledger, membership, standing } = node;
    let store = ledger.store().clone();
    drop((ledger, membership, standing));
    store.close().await;
    let time = clock.clone();
    let store = Store::open(&home.join("data"), Arc::new(move || time.now().millis())).unwrap();
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let keys = NodeKeys::load_or_create(&home.join("keys"), &*entropy).unwrap();
    let sources = Sources { clock: Arc::new(clock.clone()), entropy };
    let standing = load(&store, &keys, &sources, Some(Duration::from_secs(300))).unwrap().unwrap();
    TestNode { ledger: standing.ledger.clone(), membership: standing.membership.clone(), caller, standing }
}

fn shelf(home: &Path, node: &TestNode) -> Shelf {
    let trees: PathBuf = home.join("trees").join(node.membership.node().as_str());
    Shelf::new(node.ledger.clone(), node.membership.clone(), node.standing.directory.clone(), trees)
}

fn contracts(home: &Path, node: &TestNode) -> Contracts {
    Contracts::new(node.ledger.clone(), node.membership.clone(), shelf(home, node), Approval::Automatic)
}

fn transfers(home: &Path, node: &TestNode) -> Transfers {
    transfers_under(home, node, None)
}

/// The same node's transfers with other demands on their evidence.
pub(crate) fn transfers_under(home: &Path, node: &TestNode, policy: Option<QuorumPolicy>) -> Transfers {
    transfers_with(home, node, |settings| settings.policy = policy)
}

/// The same node's transfers with other settings.
pub(crate) fn transfers_with(
    home: &Path,
    node: &TestNode,
    change: impl FnOnce(&mut TransferSettings),
) -> Transfers {
    let mut settings = TransferSettings {
        received: home.join("received"),
        max_outgoing: 4,
        max_outgoing_per_peer: 4,
        connections: Some(1),
        rates: Rates::default(),
        policy: None,
    };
    change(&mut settings);
    Transfers::new(node.standing.clone(), contracts(home, node), shelf(home, node), settings)
}

/// As a face would map it.
pub(crate) fn as_peer_error(error: &ServiceError) -> PeerError {
    match error.clone() {
        ServiceError::Refused { refusal, statement } => PeerError::Refused {
            code: refusal.code,
            reason: refusal.reason,
            statement: statement.map(|statement| statement.bytes().clone()),
        },
        ServiceError::Busy { reason }
        | ServiceError::SafeMode { reason }
        | ServiceError::Internal(reason) => PeerError::Unavailable(reason),
        ServiceError::Store(error) => PeerError::Unavailable(error.to_string()),
        other => PeerError::Refused { code: "other".to_owned(), reason: other.to_string(), statement: None },
    }
}

/// One direction of a negotiation.
struct Negotiating {
    to: Contracts,
    from: Caller,
}

#[async_trait]
impl ContractPeer for Negotiating {
    async fn submit(&self, _: &NodeId, statement: Bytes, document: Bytes) -> Result<(), PeerError> {
        let received = self.to.receive(&self.from, statement, document).await;
        received.map(drop).map_err(|error| as_peer_error(&error))
    }

    async fn standing_terms(&self, _: &NodeId, product: &DataId) -> Result<Bytes, PeerError> {
        let terms: Terms =
            self.to.standing_terms(&self.from, product).map_err(|error| as_peer_error(&error))?;
        Ok(terms.encode().into())
    }
}

/// The registrar's catalog, one call away.
struct Catalog {
    registry: Registry,
    from: Caller,
}

#[async_trait]
impl CatalogPeer for Catalog {
    async fn register(&self, _: &NodeId, statement: Bytes, record: Bytes) -> Result<Bytes, PeerError> {
        let certificate = self.registry.register(&self.from, statement, record).await;
        certificate.map(|found| found.bytes().clone()).map_err(|error| as_peer_error(&error))
    }

    async fn list(&self, _: &NodeId, statement: Bytes, record: Bytes) -> Result<(), PeerError> {
        self.registry.list(&self.from, statement, record).await.map_err(|error| as_peer_error(&error))
    }

    async fn search(&self, _: &NodeId, _: &str, _: u64, _: u64) -> Result<SearchPage, PeerError> {
        Err(PeerError::Broken("not part of these tests".to_owned()))
    }

    async fn resolve(&self, _: &NodeId, _: &DataId) -> Result<Resolved, PeerError> {
        Err(PeerError::Broken("not part of these tests".to_owned()))
    }
}

pub(crate) fn offer(id: [u8; 16], source: PathBuf, window: usize, policy: &str) -> Publish {
    let mut request = Publish::new(id, source, "Rainfall", "Rain by day", policy.as_bytes());
    request.window_bytes = window as u64;
    request
}

pub(crate) async fn publish(home: &Path, network: &TestNetwork, request: Publish) -> DataId {
    let registrar = &network.registrar;
    let catalog = Catalog {
        registry: Registry::new(registrar.ledger.clone(), registrar.membership.clone()),
        from: network.provider.caller.clone(),
    };
    let shelf = shelf(home, &network.provider);
    let id = request.id;
    shelf.publish(request, |_| {}).await.unwrap();
    for _ in 0..3 {
        let store = network.provider.ledger.store();
        for pending in outbox::pending(&store.view(), None, 100).unwrap() {
            if pending.topic == huitong_catalog::TOPIC {
                assert_eq!(shelf.deliver(&pending, &catalog).await, Ok(()));
            }
        }
    }
    shelf.publication(&id).unwrap().unwrap().product.unwrap()
}
