//! Provider and consumer in one process, over real stores, with a wire between them that loses and repeats.

mod faults;
mod lies;
mod negotiation;
mod refusals;
mod standing;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_catalog::{CatalogPeer, Publish, Registry, Resolved, SearchPage, Shelf};
use huitong_identity::testing::{TestNetwork, TestNode, network};
use huitong_identity::{Caller, Credential, Delivery, NodeKeys, PeerError, ServiceError, Sources, load};
use huitong_ids::{DataId, NodeId};
use huitong_proof::{Clock, Entropy, SeededEntropy, Statement};
use huitong_store::{Pending, Store, outbox};

use crate::{AcceptCounter, Approval, ContractPeer, Contracts, Negotiation, State, TOPIC, Terms};

const POLICY: &[u8] = br#"{"contractPolicies":{"permissionPolicies":[{"actions":["read","delivery"],"constraints":[{"constraintName":"count","constraintOperator":"11","constraintValue":"3"}]}]}}"#;

/// What happens to one message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    /// It never reaches the other side.
    IsLost,
    /// It arrives, but the sender never hears so.
    AnswerIsLost,
    /// It arrives twice.
    IsRepeated,
}

/// One direction between two nodes.
struct Wire {
    to: Contracts,
    from: Caller,
    fate: Fate,
}

#[async_trait]
impl ContractPeer for Wire {
    async fn submit(&self, _: &NodeId, statement: Bytes, document: Bytes) -> Result<(), PeerError> {
        if self.fate == Fate::IsLost {
            return Err(PeerError::Unavailable("lost on the way".to_owned()));
        }
        let answer = self.to.receive(&self.from, statement.clone(), document.clone()).await;
        let answer = answer.map(drop).map_err(as_peer_error);
        match self.fate {
            Fate::AnswerIsLost => Err(PeerError::Unavailable("the answer was lost".to_owned())),
            Fate::IsRepeated => {
                let again = self.to.receive(&self.from, statement, document).await;
                let again = again.map(drop).map_err(as_peer_error);
                assert_eq!(
                    format!("{again:?}"),
                    format!("{answer:?}"),
                    "the same statement, the same answer"
                );
                again
            }
            Fate::Arrives | Fate::IsLost => answer,
        }
    }

    async fn standing_terms(&self, _: &NodeId, product: &DataId) -> Result<Bytes, PeerError> {
        let terms = self.to.standing_terms(&self.from, product).map_err(as_peer_error)?;
        Ok(terms.encode().into())
    }
}

/// As a face would map it.
fn as_peer_error(error: ServiceError) -> PeerError {
    match error {
        ServiceError::Refused { refusal, statement } => PeerError::Refused {
            code: refusal.code,
            reason: refusal.reason,
            statement: statement.map(|statement| statement.bytes().clone()),
        },
        ServiceError::Busy { reason } => PeerError::Unavailable(reason),
        ServiceError::Store(error) => PeerError::Unavailable(error.to_string()),
        other => PeerError::Refused { code: "other".to_owned(), reason: other.to_string(), statement: None },
    }
}

/// A data space in which the provider offers one product.
pub(crate) struct Space {
    home: tempfile::TempDir,
    network: TestNetwork,
    approval: Approval,
    pub(crate) product: DataId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Provider,
    Consumer,
}

impl Space {
    pub(crate) async fn new(approval: Approval) -> Self {
        let home = tempfile::tempdir().unwrap();
        let network = network(home.path()).await;
        let product = publish(home.path(), &network).await;
        Self { home, network, approval, product }
    }

    pub(crate) fn node(&self, who: Who) -> &TestNode {
        match who {
            Who::Provider => &self.network.provider,
            Who::Consumer => &self.network.consumer,
        }
    }

    pub(crate) fn contracts(&self, who: Who) -> Contracts {
        let node = self.node(who);
        let shelf = shelf(self.home.path(), node);
        Contracts::new(node.ledger.clone(), node.membership.clone(), shelf, self.approval)
    }

    pub(crate) fn provider_credential(&self) -> (Credential, Statement) {
        let membership = &self.network.provider.membership;
        (membership.credential().clone(), membership.credential_statement().clone())
    }

    pub(crate) fn standing_terms(&self) -> Terms {
        let caller = &self.network.consumer.caller;
        self.contracts(Who::Provider).standing_terms(caller, &self.product).unwrap()
    }

    pub(crate) async fn request(&self, id: [u8; 16], terms: Terms, accept: AcceptCounter) -> Negotiation {
        self.contracts(Who::Consumer).request(id, self.provider_credential(), terms, accept).await.unwrap()
    }

    pub(crate) fn seen_by(&self, who: Who, id: [u8; 16]) -> Negotiation {
        self.contracts(who).negotiation(&id).unwrap().unwrap()
    }

    pub(crate) fn states(&self, id: [u8; 16]) -> [State; 2] {
        [self.seen_by(Who::Provider, id).state, self.seen_by(Who::Consumer, id).state]
    }

    pub(crate) fn pending(&self, who: Who) -> Vec<Pending> {
        let view = self.node(who).ledger.store().view();
        let all = outbox::pending(&view, None, 100_000).unwrap();
        all.into_iter().filter(|row| row.topic == TOPIC).collect()
    }

    /// One try to deliver one message, and what the node's outbox worker does about the outcome.
    pub(crate) async fn deliver(&self, who: Who, pending: &Pending, fate: Fate) -> Result<(), Delivery> {
        let other = if who == Who::Provider { Who::Consumer } else { Who::Provider };
        let wire = Wire { to: self.contracts(other), from: self.node(who).caller.clone(), fate };
        let done = self.contracts(who).deliver(pending, &wire).await;
        if let Err(Delivery::Dead(why)) = done.clone() {
            let id = pending.id;
            let store = self.node(who).ledger.store();
            store
                .transact("bury", move |tx| -> Result<(), ServiceError> { Ok(outbox::bury(tx, id, &why)?) })
                .await
                .unwrap();
        }
        done
    }

    /// Delivers everything until both outboxes are empty.
    pub(crate) async fn settle(&self) {
        for _ in 0..100 {
            let mut quiet = true;
            for who in [Who::Consumer, Who::Provider] {
                for pending in self.pending(who) {
                    quiet = false;
                    let _ = self.deliver(who, &pending, Fate::Arrives).await;
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the nodes never stop talking");
    }

    /// Both nodes stop and start again from their directories.
    pub(crate) async fn restart(self, seed: u64) -> Self {
        let Self { home, network, approval, product } = self;
        let TestNetwork { registrar, registry, provider, consumer, clock } = network;
        let provider = reopen(&home.path().join("provider"), provider, &clock, seed).await;
        let consumer = reopen(&home.path().join("consumer"), consumer, &clock, seed + 1).await;
        let network = TestNetwork { registrar, registry, provider, consumer, clock };
        Self { home, network, approval, product }
    }
}

async fn reopen(home: &Path, node: TestNode, clock: &huitong_proof::ManualClock, seed: u64) -> TestNode {
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

/// The registrar's catalog, one call away.
struct Catalog {
    registry: Registry,
    from: Caller,
    trouble: Mutex<Option<String>>,
}

#[async_trait]
impl CatalogPeer for Catalog {
    async fn register(&self, _: &NodeId, statement: Bytes, record: Bytes) -> Result<Bytes, PeerError> {
        let certificate = self.registry.register(&self.from, statement, record).await;
        certificate.map(|certificate| certificate.bytes().clone()).map_err(|error| self.note(error))
    }

    async fn list(&self, _: &NodeId, statement: Bytes, record: Bytes) -> Result<(), PeerError> {
        self.registry.list(&self.from, statement, record).await.map_err(|error| self.note(error))
    }

    async fn search(&self, _: &NodeId, _: &str, _: u64, _: u64) -> Result<SearchPage, PeerError> {
        Err(PeerError::Broken("not part of these tests".to_owned()))
    }

    async fn resolve(&self, _: &NodeId, _: &DataId) -> Result<Resolved, PeerError> {
        Err(PeerError::Broken("not part of these tests".to_owned()))
    }
}

impl Catalog {
    fn note(&self, error: ServiceError) -> PeerError {
        *self.trouble.lock().unwrap() = Some(error.to_string());
        as_peer_error(error)
    }
}

async fn publish(home: &Path, network: &TestNetwork) -> DataId {
    let file = home.join("rain.csv");
    std::fs::write(&file, b"day,mm\n1,4\n").unwrap();
    std::fs::create_dir_all(home.join("trees").join(network.provider.membership.node().as_str())).unwrap();
    let registrar = &network.registrar;
    let catalog = Catalog {
        registry: Registry::new(registrar.ledger.clone(), registrar.membership.clone()),
        from: network.provider.caller.clone(),
        trouble: Mutex::new(None),
    };
    let shelf = shelf(home, &network.provider);
    let id = [1; 16];
    shelf.publish(Publish::new(id, file, "Rainfall", "Rain by day", POLICY), |_| {}).await.unwrap();
    for _ in 0..3 {
        let store = network.provider.ledger.store();
        for pending in outbox::pending(&store.view(), None, 100).unwrap() {
            if pending.topic == huitong_catalog::TOPIC {
                let done = shelf.deliver(&pending, &catalog).await;
                assert_eq!(done, Ok(()), "{:?}", catalog.trouble.lock().unwrap());
            }
        }
    }
    shelf.publication(&id).unwrap().unwrap().product.unwrap()
}
