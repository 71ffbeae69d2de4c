//! From a configuration to a running node, and to its orderly end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use huitong_catalog::{Registry, Shelf};
use huitong_contract::Contracts;
use huitong_evidence::{Answer, Evidence};
use huitong_grpc::{
    AdminServices, PeerServices, Peers, Threads, admin_routes, enrolment_routes, peer_routes,
};
use huitong_identity::peer::RegistrarPeer as _;
use huitong_identity::{Registrar, Sources, Standing};
use huitong_ids::NodeId;
use huitong_transfer::{TransferSettings, Transfers};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::AdminSocket;
use crate::config::{Config, NodeRole};
use crate::error::StartError;
use crate::health::{Health, clock_doubt};
use crate::http::{self, Observed};
use crate::identity::{Home, evidence, peers, private_directory, tls, unusable_certificate};
use crate::listener::{AdmitPeers, AdmitStrangers, Bounds, Connections};
use crate::metrics::{CountCalls, Metrics};
use crate::objects::objects;
use crate::serving::{PEERS, STRANGERS, Serving};
use crate::supervisor::Supervisor;
use crate::tls::Tls;
use crate::workers::{self, Work};

const CLOCK_TIMEOUT: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Names of nodes that wait for a worker.
const NAMED_NODES: usize = 256;
/// After the drain everything is told to end; what does not is left behind.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// A node that serves. Ends in [`RunningNode::shutdown`] or [`RunningNode::wait`]; dropped, it stops without draining.
pub struct RunningNode {
    /// The node's id.
    pub node_id: NodeId,
    /// Where the peer listener is bound.
    pub peers_address: SocketAddr,
    /// Where the enrolment listener is bound, on a function node.
    pub enrolment_address: Option<SocketAddr>,
    /// Where health and metrics are bound.
    pub http_address: Option<SocketAddr>,
    /// The operators' socket.
    pub admin_socket: PathBuf,
    /// `host:port` that other nodes are told.
    pub advertised: String,
    evidence: Evidence,
    health: Health,
    supervisor: Supervisor,
    connections: Connections,
    calls: Vec<CountCalls>,
    servers: TaskTracker,
    stop: Stop,
    drain_timeout: Duration,
}

/// Dropping it stops the servers.
struct Stop {
    /// No further connections and calls.
    accepting: CancellationToken,
    /// The end of those that are open.
    connections: CancellationToken,
    workers: Supervisor,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.connections.cancel();
        self.workers.drain();
    }
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode")
            .field("node_id", &self.node_id)
            .field("peers_address", &self.peers_address)
            .finish_non_exhaustive()
    }
}

/// Starts a node: opens its data directory, finds its identity or enrols, binds the listeners, starts the workers.
///
/// A connector whose registrar cannot be reached at its first start waits for it; drop the future to give up.
///
/// # Errors
/// [`StartError`]. Nothing is left running.
pub async fn start(config: Config, sources: Sources) -> Result<RunningNode, StartError> {
    raise_descriptor_limit(&config);
    let home = Home::open(&config, &sources).await?;
    let (standing, function) = match &config.role {
        NodeRole::Function(function) => {
            let (standing, root) = home.found(&config, function, &sources).await?;
            let registrar = Registrar::new(standing.clone(), root, function.genesis.segment.clone());
            (standing, Some((registrar, function)))
        }
        NodeRole::Connector(connector) => (home.join(&config, connector, &sources).await?, None),
    };
    let registrar = function.as_ref().map(|(registrar, _)| registrar.clone());

    let metrics = Metrics::new();
    let tls = tls(&home.keys, &standing);
    let mut peers = peers(&config, tls.clone(), &standing, registrar, &metrics)?;
    if let NodeRole::Connector(_) = &config.role {
        let threads = Threads::start(config.max_concurrent_transfers);
        peers = peers.with_threads(threads.map_err(StartError::io("starting threads"))?);
    }
    let evidence = evidence(&config, &home.keys, &standing)?;
    // Nothing is signed before others were asked what they know of this ledger: a number that is used twice cannot be
    // taken back.
    let (clocks, compared) =
        tokio::join!(compare_clocks(&config, &standing, &peers), compare_ledger(&evidence, &peers));
    clocks.and(compared)?;

    let peer_listener = bind("listen.peers", config.listen.peers).await?;
    let enrolment_listener = match &function {
        Some((_, function)) => Some(bind("listen.enrolment", function.enrolment).await?),
        None => None,
    };
    let http_listener = match config.listen.http {
        Some(address) => Some(bind("listen.http", address).await?),
        None => None,
    };
    let mut admin_socket = AdminSocket::bind(&config.listen.admin)
        .map_err(StartError::binding("listen.admin", config.listen.admin.display()))?;

    let peers_address = local_address(&peer_listener)?;
    let enrolment_address = enrolment_listener.as_ref().map(local_address).transpose()?;
    let http_address = http_listener.as_ref().map(local_address).transpose()?;
    let advertised = config.advertised(peers_address.port());
    let advertised_enrolment = match (&function, enrolment_address) {
        (Some((_, function)), Some(address)) => function.advertised(&config.domain, address.port()),
        _ => String::new(),
    };

    let supervisor = Supervisor::new(metrics.clone());
    let health = Health::new(evidence.clone(), peers.clone(), supervisor.clone(), &config);
    let services = match function {
        Some((registrar, _)) => Services::function(&standing, registrar),
        None => Services::connector(&evidence, &config)?,
    };

    let (arrivals, _) = broadcast::channel(NAMED_NODES);
    let (refused, refusals) = mpsc::channel(NAMED_NODES);
    let connections = Connections::new(arrivals.clone());
    let stop = Stop {
        accepting: CancellationToken::new(),
        connections: CancellationToken::new(),
        workers: supervisor.clone(),
    };
    let mut serving = Serving {
        servers: TaskTracker::new(),
        bounds: Bounds {
            connections: config.limits.max_connections,
            per_address: config.limits.max_connections_per_address,
            handshake_timeout: config.limits.handshake_timeout,
        },
        metrics: metrics.clone(),
        accepting: stop.accepting.clone(),
        close: stop.connections.clone(),
        calls: Vec::new(),
    };
    let server_config = tls.peer_server(refused).map_err(unusable_certificate)?;
    let secured = serving.listen(
        peer_listener,
        server_config,
        AdmitPeers::new(tls.clone(), connections.clone(), config.limits.max_connections_per_address),
    );
    let routes = peer_routes(services.peer(&evidence)).into_axum_router();
    let routes = routes.merge(http::ledger::peer_routes(evidence.clone()));
    serving.grpc("peers", PEERS, routes.into(), secured, Some(connections.clone()));
    if let (Some(listener), Some(registrar)) = (enrolment_listener, services.registrar.clone()) {
        let server_config = Tls::enrolment_server(&tls).map_err(unusable_certificate)?;
        let secured = serving.listen(listener, server_config, AdmitStrangers);
        serving.grpc("enrolment", STRANGERS, enrolment_routes(registrar), secured, None);
    }
    let readiness = health.clone();
    let admin = admin_routes(AdminServices {
        standing: standing.clone(),
        registrar: services.registrar.clone(),
        shelf: services.shelf.clone(),
        contracts: services.contracts.clone(),
        transfers: services.transfers.clone(),
        evidence: evidence.clone(),
        peers: peers.clone(),
        address: advertised.clone(),
        enrolment_address: advertised_enrolment,
        readiness: Arc::new(move || readiness.ready()),
    });
    serving.admin(admin, admin_socket.connections(), admin_socket);
    if let Some(listener) = http_listener {
        serving.http(
            listener,
            Observed {
                health: health.clone(),
                evidence: evidence.clone(),
                serves_ledger: config.ledger.http_log,
                transfers: services.transfers.clone(),
                connections: connections.clone(),
                metrics: metrics.clone(),
            },
        );
    }
    let work = Work {
        evidence: evidence.clone(),
        peers,
        shelf: services.shelf,
        contracts: services.contracts,
        transfers: services.transfers,
        max_concurrent_transfers: config.max_concurrent_transfers,
        max_concurrent_per_peer: config.max_concurrent_per_peer,
        monitor_interval: config.ledger.monitor_interval,
        connections: connections.clone(),
        address: advertised.clone(),
    };
    workers::spawn(&supervisor, &work, &arrivals, refusals);

    let node_id = standing.membership.node().clone();
    tracing::info!(node = %node_id, peers = %peers_address, %advertised, "the node is running");
    let Serving { servers, calls, .. } = serving;
    Ok(RunningNode {
        node_id,
        peers_address,
        enrolment_address,
        http_address,
        admin_socket: config.listen.admin.clone(),
        advertised,
        evidence,
        health,
        supervisor,
        connections,
        calls,
        servers,
        stop,
        drain_timeout: config.limits.drain_timeout,
    })
}

impl RunningNode {
    /// What the node knows of itself and of others.
    pub fn standing(&self) -> &Standing {
        self.evidence.standing()
    }

    /// The node's ledger among those of others: witnessing, comparison, safe mode, alerts.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Whether the node takes work.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn ready(&self) -> Result<(), String> {
        self.health.ready()
    }

    /// Serves until the process gets SIGTERM or SIGINT, then shuts down. A second signal cuts the drain short.
    ///
    /// # Errors
    /// [`StartError::Io`] when the signals cannot be waited for; the node is then stopped.
    pub async fn wait(self) -> Result<(), StartError> {
        let watch = |kind| signal(kind).map_err(StartError::io("signal handlers"));
        let (mut terminate, mut interrupt) =
            (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        tokio::select! {
            () = self.shutdown() => {}
            _ = terminate.recv() => tracing::warn!("second signal: not waiting for running work"),
            _ = interrupt.recv() => tracing::warn!("second signal: not waiting for running work"),
        }
        Ok(())
    }

    /// Stops: takes no new connections, lets running calls and transfers finish for at most the drain timeout, and
    /// closes the store.
    pub async fn shutdown(self) {
        self.health.begin_stopping();
        self.stop.accepting.cancel();
        self.supervisor.drain();
        let drained = async {
            self.supervisor.ended().await;
            for calls in &self.calls {
                calls.idle().await;
            }
            self.connections.drained().await;
        };
        if tokio::time::timeout(self.drain_timeout, drained).await.is_err() {
            tracing::warn!("the drain timeout is over; what is still running is cut off and resumes later");
        }
        self.stop.connections.cancel();
        self.supervisor.stop().await;
        self.servers.close();
        if tokio::time::timeout(LAST_MOMENT, self.servers.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time and are left behind");
        }
        self.standing().ledger.store().clone().close().await;
        tracing::info!(node = %self.node_id, "stopped");
    }
}

/// What this kind of node has.
struct Services {
    registrar: Option<Registrar>,
    registry: Option<Registry>,
    shelf: Option<Shelf>,
    contracts: Option<Contracts>,
    transfers: Option<Transfers>,
}

impl Services {
    fn function(standing: &Standing, registrar: Registrar) -> Self {
        let Standing { ledger, membership, .. } = standing;
        Self {
            registrar: Some(registrar),
            registry: Some(Registry::new(ledger.clone(), membership.clone())),
            shelf: None,
            contracts: None,
            transfers: None,
        }
    }

    fn connector(evidence: &Evidence, config: &Config) -> Result<Self, StartError> {
        for directory in [&config.trees_dir(), &config.received_dir] {
            private_directory(Path::new(directory))?;
        }
        let standing = evidence.standing();
        let Standing { ledger, membership, directory } = standing;
        let objects = Arc::new(objects(&config.objects, Arc::clone(ledger.clock()))?);
        let shelf = Shelf::new(ledger.clone(), membership.clone(), directory.clone(), config.trees_dir())
            .reaching(objects.clone());
        let contracts = Contracts::new(ledger.clone(), membership.clone(), shelf.clone(), config.approval);
        let settings = TransferSettings {
            received: config.received_dir.clone(),
            max_outgoing: config.max_concurrent_transfers,
            max_outgoing_per_peer: config.max_concurrent_per_peer,
            connections: config.connections,
            rates: config.rates,
            policy: evidence.policy().map_err(StartError::records)?,
        };
        let transfers =
            Transfers::new(standing.clone(), contracts.clone(), shelf.clone(), settings).with_depot(objects);
        Ok(Self {
            registrar: None,
            registry: None,
            shelf: Some(shelf),
            contracts: Some(contracts),
            transfers: Some(transfers),
        })
    }

    fn peer(&self, evidence: &Evidence) -> PeerServices {
        PeerServices {
            standing: evidence.standing().clone(),
            evidence: evidence.clone(),
            registrar: self.registrar.clone(),
            registry: self.registry.clone(),
            contracts: self.contracts.clone(),
            transfers: self.transfers.clone(),
            heartbeat: HEARTBEAT,
        }
    }
}

/// Services start with 1,024 file descriptors by default, however many they may have. A node that runs out of them can
/// open no further segment of its journal, and then takes no changes any more.
fn raise_descriptor_limit(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let connections = u64::try_from(config.limits.max_connections).unwrap_or(u64::MAX);
    // Two listeners, and as much again as a small node has open besides.
    let wanted = connections.saturating_mul(2).saturating_add(512);
    if current.is_some_and(|current| current < wanted) {
        tracing::warn!(
            ?current,
            wanted,
            "too few file descriptors for limits.max_connections; raise the service's limit (LimitNOFILE)"
        );
    }
}

/// Asks the registrar for its time. A registrar that cannot be reached now is compared with when it can: until its word
/// comes, the node is not ready.
async fn compare_clocks(config: &Config, standing: &Standing, peers: &Peers) -> Result<(), StartError> {
    let Standing { ledger, membership, directory } = standing;
    if !membership.is_registrar() {
        let (roots, status) = (directory.roots().version, directory.status().version);
        let asked = peers.follow_trust(membership.registrar(), roots, status);
        if !matches!(tokio::time::timeout(CLOCK_TIMEOUT, asked).await, Ok(Ok(_))) {
            tracing::warn!("the registrar does not answer; its clock is compared with ours when it does");
        }
    }
    match clock_doubt(standing, peers, config.max_clock_skew) {
        Some(reason) => Err(StartError::Clock { now: ledger.clock().now(), reason }),
        None => Ok(()),
    }
}

/// Asks witnesses and counterparties whether they hold anything that this node signed and no longer has. Those who do
/// not answer in time are asked again later.
async fn compare_ledger(evidence: &Evidence, peers: &Peers) -> Result<(), StartError> {
    let policy = evidence.policy().map_err(StartError::records)?;
    if let Some(warning) = policy.and_then(|policy| policy.split_view_warning()) {
        tracing::warn!(%warning, "the quorum policy");
    }
    let comparison = evidence.compare_once(peers).await.map_err(StartError::records)?;
    for compared in comparison.compared {
        if let Answer::Unknown { reason } = compared.answer {
            tracing::info!(who = %compared.who, %reason, "not compared with yet: what it knows of this ledger");
        }
    }
    if let Err(error) = evidence.ledger().signing() {
        tracing::error!(%error, "the node starts in safe mode");
    }
    Ok(())
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(StartError::binding(key, address))
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::io("the address of a listener"))
}
