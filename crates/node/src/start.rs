//! From a configuration to a running node, and to its orderly end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use huitong_catalog::{Registry, Shelf};
use huitong_contract::Contracts;
use huitong_grpc::{AdminServices, PeerServices, Peers, admin_routes, enrolment_routes, peer_routes};
use huitong_identity::peer::RegistrarPeer as _;
use huitong_identity::{Registrar, Sources, Standing};
use huitong_ids::NodeId;
use huitong_transfer::{TransferSettings, Transfers};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::admin::AdminSocket;
use crate::config::{Config, NodeRole};
use crate::error::StartError;
use crate::health::{Health, clock_doubt};
use crate::http::{BoundedListener, Observed};
use crate::identity::{Home, peers, private_directory, tls, unusable_certificate};
use crate::listener::{AdmitPeers, AdmitStrangers, Bounds, Connections, Secured, listen};
use crate::metrics::{CountCalls, Metrics};
use crate::supervisor::Supervisor;
use crate::tls::Tls;
use crate::workers::{self, Work};

const CLOCK_TIMEOUT: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Until a response begins, the request's last byte included. Our own callers wait for 20 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests are small: what other nodes may send before it is read, which bounds the memory of a connection. What a
/// provider sends goes through its client's windows.
const PEERS: Flow =
    Flow { streams: 64, stream_window: 256 << 10, connection_window: 1 << 20, headers: 64 << 10 };
/// An enrolment is one request of a few KiB from somebody unknown.
const STRANGERS: Flow =
    Flow { streams: 2, stream_window: 64 << 10, connection_window: 64 << 10, headers: 16 << 10 };
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
    standing: Standing,
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
    let (standing, root) = match &config.role {
        NodeRole::Function(function) => {
            let (standing, root) = home.found(&config, function, &sources).await?;
            (standing, Some((root, function)))
        }
        NodeRole::Connector(connector) => (home.join(&config, connector, &sources).await?, None),
    };

    let metrics = Metrics::new();
    let tls = tls(&home.keys, &standing);
    let peers = peers(&config, tls.clone(), &standing, &metrics)?;
    compare_clocks(&config, &standing, &peers).await?;

    let peer_listener = bind("listen.peers", config.listen.peers).await?;
    let enrolment_listener = match &root {
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
    let advertised_enrolment = match (&root, enrolment_address) {
        (Some((_, function)), Some(address)) => function.advertised(&config.domain, address.port()),
        _ => String::new(),
    };

    let supervisor = Supervisor::new(metrics.clone());
    let health = Health::new(standing.clone(), peers.clone(), supervisor.clone(), &config);
    let services = match &root {
        Some((root, function)) => {
            Services::function(&standing, root.clone(), function.genesis.segment.clone())
        }
        None => Services::connector(&standing, &config)?,
    };

    let (arrivals, arrived) = mpsc::channel(NAMED_NODES);
    let (refused, refusals) = mpsc::channel(NAMED_NODES);
    let connections = Connections::new(arrivals);
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
    serving.grpc("peers", PEERS, peer_routes(services.peer(&standing)), secured, Some(connections.clone()));
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
                standing: standing.clone(),
                transfers: services.transfers.clone(),
                connections: connections.clone(),
                metrics: metrics.clone(),
            },
        );
    }
    let work = Work {
        standing: standing.clone(),
        peers,
        shelf: services.shelf,
        contracts: services.contracts,
        transfers: services.transfers,
        max_concurrent_transfers: config.max_concurrent_transfers,
        connections: connections.clone(),
        address: advertised.clone(),
    };
    workers::spawn(&supervisor, &work, arrived, refusals);

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
        standing,
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
        &self.standing
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
        self.standing.ledger.store().clone().close().await;
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
    fn function(
        standing: &Standing,
        root: huitong_identity::RootAuthority,
        segment: huitong_ids::Segment,
    ) -> Self {
        let Standing { ledger, membership, .. } = standing;
        Self {
            registrar: Some(Registrar::new(standing.clone(), root, segment)),
            registry: Some(Registry::new(ledger.clone(), membership.clone())),
            shelf: None,
            contracts: None,
            transfers: None,
        }
    }

    fn connector(standing: &Standing, config: &Config) -> Result<Self, StartError> {
        for directory in [&config.trees_dir(), &config.received_dir] {
            private_directory(Path::new(directory))?;
        }
        let Standing { ledger, membership, directory } = standing;
        let shelf = Shelf::new(ledger.clone(), membership.clone(), directory.clone(), config.trees_dir());
        let contracts = Contracts::new(ledger.clone(), membership.clone(), shelf.clone(), config.approval);
        let settings = TransferSettings {
            received: config.received_dir.clone(),
            max_outgoing: config.max_concurrent_transfers,
        };
        let transfers = Transfers::new(standing.clone(), contracts.clone(), shelf.clone(), settings);
        Ok(Self {
            registrar: None,
            registry: None,
            shelf: Some(shelf),
            contracts: Some(contracts),
            transfers: Some(transfers),
        })
    }

    fn peer(&self, standing: &Standing) -> PeerServices {
        PeerServices {
            standing: standing.clone(),
            registrar: self.registrar.clone(),
            registry: self.registry.clone(),
            contracts: self.contracts.clone(),
            transfers: self.transfers.clone(),
            heartbeat: HEARTBEAT,
        }
    }
}

/// What one connection may have under way.
struct Flow {
    streams: u32,
    /// Bytes that are not read yet, of one stream.
    stream_window: u32,
    /// The same of all streams.
    connection_window: u32,
    /// Bytes of one request's header fields.
    headers: u32,
}

/// Starts the servers of one node.
struct Serving {
    servers: TaskTracker,
    bounds: Bounds,
    metrics: Metrics,
    accepting: CancellationToken,
    close: CancellationToken,
    calls: Vec<CountCalls>,
}

impl Serving {
    fn listen<A: crate::listener::Admit>(
        &self,
        listener: TcpListener,
        config: Arc<rustls::ServerConfig>,
        admit: A,
    ) -> mpsc::Receiver<std::io::Result<Secured<A::Info>>> {
        let (accepting, close) = (self.accepting.clone(), self.close.clone());
        listen(listener, config, admit, self.bounds, self.metrics.clone(), accepting, close)
    }

    fn grpc<I: Clone + Send + Sync + Unpin + 'static>(
        &mut self,
        name: &'static str,
        flow: Flow,
        routes: tonic::service::Routes,
        connections: mpsc::Receiver<std::io::Result<Secured<I>>>,
        registry: Option<Connections>,
    ) {
        let calls = CountCalls::new(name, self.metrics.clone(), registry);
        self.calls.push(calls.clone());
        let accepting = self.accepting.clone();
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .initial_stream_window_size(flow.stream_window)
            .initial_connection_window_size(flow.connection_window)
            .max_concurrent_streams(flow.streams)
            .http2_max_header_list_size(flow.headers)
            .timeout(REQUEST_TIMEOUT)
            .layer(calls)
            .serve_with_incoming_shutdown(
                routes.prepare(),
                ReceiverStream::new(connections),
                accepting.cancelled_owned(),
            );
        self.servers.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(listener = name, %error, "the server ended");
            }
        });
    }

    /// Operators' connections are not waited for: their streams go on until the operator has seen enough.
    fn admin(
        &self,
        routes: tonic::service::Routes,
        connections: impl futures_util::Stream<Item = std::io::Result<tokio::net::UnixStream>> + Send + 'static,
        socket: AdminSocket,
    ) {
        let close = self.close.clone();
        let server = Server::builder()
            .layer(CountCalls::new("admin", self.metrics.clone(), None))
            .serve_with_incoming(routes.prepare(), Box::pin(connections));
        self.servers.spawn(async move {
            let _socket = socket;
            tokio::select! {
                () = close.cancelled() => {}
                ended = server => if let Err(error) = ended {
                    tracing::error!(listener = "admin", %error, "the server ended");
                }
            }
        });
    }

    /// Answers until the very end, so that the drain can be watched.
    fn http(&self, listener: TcpListener, observed: Observed) {
        let close = self.close.clone();
        self.servers.spawn(async move {
            tokio::select! {
                () = close.cancelled() => {}
                ended = axum::serve(BoundedListener::new(listener), crate::http::router(observed)).into_future() => {
                    if let Err(error) = ended {
                        tracing::error!(listener = "http", %error, "the server ended");
                    }
                }
            }
        });
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

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(StartError::binding(key, address))
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::io("the address of a listener"))
}
