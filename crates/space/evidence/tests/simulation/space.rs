//! A space of five enrolled nodes on disk, made once and copied for every simulation.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use huitong_evidence::{Evidence, EvidenceSettings};
use huitong_identity::testing::{TestNetwork, TestNode, network};
use huitong_identity::{
    Caller, InviteRequest, JoinRequest, NodeKeys, Registrar, Role, Sources, enrolment_request, join, load,
};
use huitong_proof::{Clock as _, ManualClock, SeededEntropy, Timestamp};
use huitong_store::Store;
use tempfile::TempDir;

use crate::operation::NODES;

/// Beyond those of the shared fixture.
const FURTHER: [&str; NODES - 3] = ["91310000132260250X", "914403001922038216"];

/// Homes of enrolled nodes that nobody runs.
pub(crate) struct Space {
    /// Kept for its life only.
    _directory: TempDir,
    homes: Vec<Home>,
    /// When the last one was enrolled.
    pub(crate) now: Timestamp,
}

struct Home {
    keys: NodeKeys,
    data: PathBuf,
    caller: Caller,
}

impl Space {
    /// One for all simulations that run at the same time.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Space>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = shared.upgrade() {
            return space;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let space = Arc::new(runtime.block_on(Self::make()));
        *shared = Arc::downgrade(&space);
        space
    }

    async fn make() -> Self {
        let directory = TempDir::new().unwrap();
        let TestNetwork { registrar, registry, provider, consumer, clock } = network(directory.path()).await;
        let mut homes = Vec::new();
        let mut stores = Vec::new();
        for (name, node) in [("registrar", &registrar), ("provider", &provider), ("consumer", &consumer)] {
            let home = directory.path().join(name);
            let keys = NodeKeys::load_or_create(&home.join("keys"), &SeededEntropy::new(0)).unwrap();
            homes.push(Home { keys, data: home.join("data"), caller: node.caller.clone() });
            stores.push(node.ledger.store().clone());
        }
        for (number, entity) in (10..).zip(FURTHER) {
            let home = directory.path().join(entity);
            let (store, home) = enrol(&home, entity, number, &clock, &registry, &registrar).await;
            homes.push(home);
            stores.push(store);
        }
        let now = clock.now();
        drop((registrar, registry, provider, consumer));
        for store in stores {
            store.close().await;
        }
        Self { _directory: directory, homes, now }
    }

    pub(crate) fn callers(&self) -> Vec<Caller> {
        self.homes.iter().map(|home| home.caller.clone()).collect()
    }

    pub(crate) fn data(&self, node: usize) -> &Path {
        &self.homes[node].data
    }

    /// Starts a node over a directory. No two starts may have the same number: each draws other salts.
    pub(crate) fn start(
        &self,
        node: usize,
        data: &Path,
        number: u64,
        clock: &ManualClock,
        settings: EvidenceSettings,
    ) -> Result<Evidence, String> {
        let keys = &self.homes[node].keys;
        let sources =
            Sources { clock: Arc::new(clock.clone()), entropy: Arc::new(SeededEntropy::new(number)) };
        let store = open(data, clock).map_err(|error| error.to_string())?;
        let standing = load(&store, keys, &sources, None).map_err(|error| error.to_string())?;
        let standing = standing.ok_or("the node has no standing")?;
        let cosigner = keys.cosigner(standing.membership.node()).map_err(|error| error.to_string())?;
        Ok(Evidence::new(standing, cosigner, settings))
    }
}

async fn enrol(
    home: &Path,
    entity: &str,
    number: u64,
    clock: &ManualClock,
    registry: &Registrar,
    registrar: &TestNode,
) -> (Store, Home) {
    std::fs::create_dir_all(home).unwrap();
    let sources = Sources { clock: Arc::new(clock.clone()), entropy: Arc::new(SeededEntropy::new(number)) };
    let keys = NodeKeys::load_or_create(&home.join("keys"), &*sources.entropy).unwrap();
    let invite = InviteRequest {
        entity: entity.to_owned(),
        name: format!("Example Company {number}"),
        roles: vec![Role::Provider, Role::Consumer],
        lifetime: Duration::from_secs(3600),
        address: "localhost:1".to_owned(),
    };
    let request =
        JoinRequest { invite: registry.invite(invite).await.unwrap(), domain: "localhost".to_owned() };
    let sent = enrolment_request(&keys, &request, &sources).unwrap();
    let grant = registry.enrol(sent.clone()).await.unwrap();
    let store = open(&home.join("data"), clock).unwrap();
    join(&store, &keys, &request, &sent, grant, &sources).await.unwrap();
    let standing = load(&store, &keys, &sources, None).unwrap().unwrap();
    let caller =
        registrar.standing.directory.authenticate(standing.membership.certificate(), clock.now()).unwrap();
    (store, Home { keys, data: home.join("data"), caller })
}

fn open(data: &Path, clock: &ManualClock) -> Result<Store, huitong_store::OpenError> {
    let clock = clock.clone();
    Store::open(data, Arc::new(move || clock.now().millis()))
}

/// Copies what a node's machine would have on disk if it went down now. The index is left out: it can be made again, and
/// a copy of it while it is written to is not what a disk holds at one moment.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let (source, target) = (entry.path(), to.join(&name));
        if name == "index" || name == "index.open" || name == "lock" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&source, &target);
        } else {
            std::fs::copy(source, target).unwrap();
        }
    }
}
