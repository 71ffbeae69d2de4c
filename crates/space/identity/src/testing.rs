//! A registrar and two enrolled connectors in one process, over real stores, for the tests of the crates above.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use huitong_ids::{EntityCode, NodeType, Segment};
use huitong_ledger::{Cosigner, Ledger};
use huitong_proof::{Clock, ManualClock, SeededEntropy, SpaceId, Timestamp};
use huitong_store::Store;

use crate::{
    Caller, Genesis, InviteRequest, JoinRequest, Membership, NodeKeys, Registrar, Role, RootAuthority,
    Sources, Standing, enrolment_request, found, join, load,
};

/// One node of a [`TestNetwork`].
#[derive(Clone)]
pub struct TestNode {
    /// Everything the node knows of itself and others.
    pub standing: Standing,
    /// The node's ledger.
    pub ledger: Ledger,
    /// The node's credential.
    pub membership: Membership,
    /// The node as the others see it when it calls.
    pub caller: Caller,
}

impl TestNode {
    /// As if the registrar had just said that nothing has changed.
    pub fn hear_registrar(&self) {
        self.standing.directory.confirm(self.ledger.clock().now());
    }
}

/// Three nodes of one space. `clock` drives all of them.
pub struct TestNetwork {
    /// The function node.
    pub registrar: TestNode,
    /// Its registrar service.
    pub registry: Registrar,
    /// A connector with the roles provider and consumer.
    pub provider: TestNode,
    /// Another one.
    pub consumer: TestNode,
    /// The time of all three.
    pub clock: ManualClock,
}

/// Builds the network under `dir`.
///
/// # Panics
/// When anything fails: it serves tests.
#[expect(clippy::unwrap_used, reason = "serves tests only")]
pub async fn network(dir: &Path) -> TestNetwork {
    let clock = ManualClock::new(Timestamp::from_millis(1_790_000_000_000));
    let sources =
        |seed| Sources { clock: Arc::new(clock.clone()), entropy: Arc::new(SeededEntropy::new(seed)) };
    let home = dir.join("registrar");
    let store = open(&home, &clock);
    let registrar_sources = sources(1);
    let keys = NodeKeys::load_or_create(&home.join("keys"), &*registrar_sources.entropy).unwrap();
    let root = RootAuthority::load_or_create(&home.join("keys")).unwrap();
    let segment = Segment::parse("4403").unwrap();
    let genesis = Genesis {
        entity: EntityCode::parse_organisation("91440300708461136T").unwrap(),
        name: "Example Regional Function Node".to_owned(),
        domain: "localhost".to_owned(),
        node_type: NodeType::Regional,
        segment: segment.clone(),
        space: SpaceId::from_name("example space"),
    };
    let standing = found(&store, &keys, &root, genesis, &registrar_sources).await.unwrap();
    let registry = Registrar::new(standing.clone(), root, segment);
    let provider = connector(
        dir,
        "provider",
        "91110000802100433B",
        "Example Weather Bureau",
        &registry,
        &standing,
        &clock,
        sources(2),
    )
    .await;
    let consumer = connector(
        dir,
        "consumer",
        "91330100799655058B",
        "Example Farm Insurance",
        &registry,
        &standing,
        &clock,
        sources(3),
    )
    .await;
    let registrar = node(standing.clone(), &standing);
    TestNetwork { registrar, registry, provider, consumer, clock }
}

/// The witness key of the node that [`network`] made in `dir` under this name: `registrar`, `provider` or `consumer`.
///
/// # Panics
/// When anything fails: it serves tests.
#[expect(clippy::unwrap_used, reason = "serves tests only")]
pub fn cosigner(dir: &Path, name: &str, node: &TestNode) -> Cosigner {
    let keys = NodeKeys::load_or_create(&dir.join(name).join("keys"), &SeededEntropy::new(0)).unwrap();
    let cosigner = keys.cosigner(node.membership.node()).unwrap();
    assert_eq!(cosigner.verifier(), &node.membership.credential().witness);
    cosigner
}

#[expect(clippy::unwrap_used, reason = "serves tests only")]
#[expect(clippy::too_many_arguments, reason = "serves tests only")]
async fn connector(
    dir: &Path,
    name: &str,
    entity: &str,
    organisation: &str,
    registry: &Registrar,
    registrar: &Standing,
    clock: &ManualClock,
    sources: Sources,
) -> TestNode {
    let home = dir.join(name);
    let store = open(&home, clock);
    let keys = NodeKeys::load_or_create(&home.join("keys"), &*sources.entropy).unwrap();
    let invite = registry
        .invite(InviteRequest {
            entity: entity.to_owned(),
            name: organisation.to_owned(),
            roles: vec![Role::Provider, Role::Consumer],
            lifetime: Duration::from_secs(3600),
            address: "localhost:1".to_owned(),
        })
        .await
        .unwrap();
    let request = JoinRequest { invite, domain: "localhost".to_owned() };
    let sent = enrolment_request(&keys, &request, &sources).unwrap();
    let grant = registry.enrol(sent.clone()).await.unwrap();
    join(&store, &keys, &request, &sent, grant, &sources).await.unwrap();
    let standing = load(&store, &keys, &sources, Some(Duration::from_secs(300))).unwrap().unwrap();
    node(standing, registrar)
}

#[expect(clippy::unwrap_used, reason = "serves tests only")]
fn node(standing: Standing, registrar: &Standing) -> TestNode {
    let now = standing.ledger.clock().now();
    let caller = registrar.directory.authenticate(standing.membership.certificate(), now).unwrap();
    TestNode { ledger: standing.ledger.clone(), membership: standing.membership.clone(), caller, standing }
}

#[expect(clippy::unwrap_used, reason = "serves tests only")]
fn open(home: &Path, clock: &ManualClock) -> Store {
    std::fs::create_dir_all(home).unwrap();
    let clock = clock.clone();
    Store::open(&home.join("data"), Arc::new(move || clock.now().millis())).unwrap()
}
