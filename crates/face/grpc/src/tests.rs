//! Real servers and real clients over connections in memory, between the nodes of one space.

mod admin;
mod evidence;
mod exchange;
mod hostile;
mod ledgers;
mod peers;
mod status;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use huitong_catalog::{Publication, PublicationState, Publish, Registry, Shelf};
use huitong_contract::{Approval, Contracts};
use huitong_evidence::{Evidence, EvidenceSettings};
use huitong_identity::testing::{TestNetwork, TestNode, cosigner, network};
use huitong_identity::{Caller, Standing};
use huitong_ids::{DataId, NodeId};
use huitong_proof::Digest;
use huitong_store::{Pending, outbox};
use huitong_transfer::{TransferSettings, Transfers};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::{Dial, Load, PeerConnection, PeerServices, Peers, Stream, enrolment_routes, peer_routes};

/// Where the registrar's listeners are said to be; the others are `<node id>:1`.
const REGISTRAR: &str = "registrar:1";
const ENROLMENT: &str = "registrar:2";
const HEARTBEAT: Duration = Duration::from_millis(20);
const POLICY: &[u8] = br#"{"contractPolicies":{"permissionPolicies":[{"actions":["read","delivery"],"constraints":[{"constraintName":"count","constraintOperator":"11","constraintValue":"3"}]}]}}"#;

/// The server's end of a connection, as a listener hands it to tonic.
struct Accepted {
    stream: DuplexStream,
    peer: Option<PeerConnection>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Accepted {
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closed.as_mut().poll(cx)
    }
}

/// What the listener knows of a connection: nothing where it made no handshake.
#[derive(Clone)]
struct Handshake;

impl Connected for Accepted {
    type ConnectInfo = Handshake;

    fn connect_info(&self) -> Handshake {
        Handshake
    }
}

/// The same with an authenticated peer.
struct Authenticated(Accepted);

impl Authenticated {
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_closed(cx)
    }
}

impl Connected for Authenticated {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.0.peer.clone().unwrap()
    }
}

macro_rules! forward_io {
    ($($name:ident . $($field:tt).+;)*) => {$(
        impl AsyncRead for $name {
            fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                if self.poll_closed(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Pin::new(&mut self.$($field).+).poll_read(cx, buf)
            }
        }
        impl AsyncWrite for $name {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$($field).+).poll_write(cx, buf)
            }
            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$($field).+).poll_flush(cx)
            }
            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$($field).+).poll_shutdown(cx)
            }
        }
    )*};
}

forward_io! {
    Accepted.stream;
    Authenticated.0.stream;
}

/// The listeners of a space by their addresses. `node` is who proves to be there.
#[derive(Clone, Default)]
struct Net {
    listeners: Arc<Mutex<HashMap<String, Listener>>>,
    dialled: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Listener {
    node: Option<NodeId>,
    accept: mpsc::Sender<Accepted>,
}

impl Net {
    /// Serves enrolled nodes.
    fn listen(&self, address: &str, node: &NodeId, routes: Routes) {
        let (accept, accepted) = mpsc::channel(8);
        let incoming = ReceiverStream::new(accepted).map(|it| Ok::<_, io::Error>(Authenticated(it)));
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
        self.add(address, Listener { node: Some(node.clone()), accept });
    }

    /// Serves whoever comes, without a handshake.
    fn listen_to_strangers(&self, address: &str, routes: Routes) {
        let (accept, accepted) = mpsc::channel(8);
        let incoming = ReceiverStream::new(accepted).map(Ok::<_, io::Error>);
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
        self.add(address, Listener { node: None, accept });
    }

    fn add(&self, address: &str, listener: Listener) {
        self.listeners.lock().unwrap().insert(address.to_owned(), listener);
    }

    fn close(&self, address: &str) {
        self.listeners.lock().unwrap().remove(address);
    }

    fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }

    async fn connect(
        &self,
        address: &str,
        expect: Option<&NodeId>,
        peer: Option<PeerConnection>,
    ) -> io::Result<Box<dyn Stream>> {
        self.dialled.fetch_add(1, Ordering::SeqCst);
        let listener = self.listeners.lock().unwrap().get(address).cloned();
        let listener = listener.ok_or_else(|| io::Error::other(format!("nobody listens on {address}")))?;
        if listener.node.as_ref() != expect {
            return Err(io::Error::other(format!("another node answers on {address}")));
        }
        let (near, far) = tokio::io::duplex(1 << 20);
        let close = peer.as_ref().map(|peer| peer.close.clone()).unwrap_or_default();
        let closed = Box::pin(close.cancelled_owned());
        let accepted = listener.accept.send(Accepted { stream: far, peer, closed }).await;
        accepted.map_err(|_| io::Error::other("the listener is gone"))?;
        Ok(Box::new(near))
    }
}

/// Connections of one node: what its certificate would make of it at the other end.
struct Wire {
    net: Net,
    caller: Caller,
}

#[async_trait]
impl Dial for Wire {
    async fn dial(&self, address: &str, expect: &NodeId, _load: Load) -> io::Result<Box<dyn Stream>> {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let close = CancellationToken::new();
        let peer = PeerConnection { caller: self.caller.clone(), remote, close };
        self.net.connect(address, Some(expect), Some(peer)).await
    }

    async fn dial_pinned(&self, address: &str, _root: &Digest) -> io::Result<Box<dyn Stream>> {
        self.net.connect(address, None, None).await
    }
}

/// A registrar and two connectors, all of them served.
struct Space {
    home: tempfile::TempDir,
    nodes: TestNetwork,
    net: Net,
    /// The registrar's.
    evidence: Evidence,
    /// What the registrar serves.
    registrar_routes: Routes,
    provider: Connector,
    consumer: Connector,
}

/// One connector with everything it has.
#[derive(Clone)]
struct Connector {
    node: TestNode,
    evidence: Evidence,
    shelf: Shelf,
    contracts: Contracts,
    transfers: Transfers,
    peers: Peers,
}

impl Connector {
    fn new(home: &Path, name: &str, node: &TestNode, net: &Net) -> Self {
        let evidence = evidence_of(home, name, node);
        let home = home.join(node.membership.node().as_str());
        let Standing { ledger, membership, directory } = node.standing.clone();
        let shelf = Shelf::new(ledger.clone(), membership.clone(), directory, home.join("trees"));
        let contracts = Contracts::new(ledger, membership, shelf.clone(), Approval::Automatic);
        let rates = huitong_transfer::Rates::default();
        let settings = TransferSettings {
            received: home.join("received"),
            max_outgoing: 4,
            max_outgoing_per_peer: 4,
            connections: Some(3),
            rates,
            policy: None,
        };
        let transfers = Transfers::new(node.standing.clone(), contracts.clone(), shelf.clone(), settings);
        Self { node: node.clone(), evidence, shelf, contracts, transfers, peers: peers_of(node, net) }
    }

    fn id(&self) -> &NodeId {
        self.node.membership.node()
    }

    fn address(&self) -> String {
        format!("{}:1", self.id().as_str().replace('*', "x"))
    }

    fn services(&self) -> PeerServices {
        PeerServices {
            standing: self.node.standing.clone(),
            evidence: self.evidence.clone(),
            registrar: None,
            registry: None,
            contracts: Some(self.contracts.clone()),
            transfers: Some(self.transfers.clone()),
            heartbeat: HEARTBEAT,
        }
    }

    /// Delivers everything in the outbox once, in order, over the wire.
    async fn deliver(&self) -> usize {
        let pending = self.pending();
        for message in &pending {
            let delivered = match message.topic.as_str() {
                huitong_catalog::TOPIC => self.shelf.deliver(message, &self.peers).await,
                huitong_contract::TOPIC => self.contracts.deliver(message, &self.peers).await,
                huitong_identity::workers::TOPIC => {
                    huitong_identity::workers::deliver(&self.node.standing, message, &self.peers).await
                }
                other => panic!("unexpected topic {other}"),
            };
            delivered.unwrap();
        }
        pending.len()
    }

    /// Sends a message never again.
    async fn forget(&self, id: u64) {
        let store = self.node.ledger.store();
        let settle = store.transact("test", move |tx| {
            outbox::settle(tx, id)?;
            Ok::<_, huitong_identity::ServiceError>(())
        });
        settle.await.unwrap();
    }

    fn pending(&self) -> Vec<Pending> {
        outbox::pending(&self.node.ledger.store().view(), None, 100).unwrap()
    }
}

/// `name` is the node's in the fixture of identity, where its keys are.
fn evidence_of(home: &Path, name: &str, node: &TestNode) -> Evidence {
    Evidence::new(node.standing.clone(), cosigner(home, name, node), EvidenceSettings::default())
}

fn peers_of(node: &TestNode, net: &Net) -> Peers {
    let dial = Wire { net: net.clone(), caller: node.caller.clone() };
    Peers::new(Arc::new(dial), node.standing.clone(), REGISTRAR.to_owned())
}

impl Space {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let nodes = network(home.path()).await;
        let net = Net::default();
        let registrar = &nodes.registrar;
        let registry = Registry::new(registrar.ledger.clone(), registrar.membership.clone());
        let evidence = evidence_of(home.path(), "registrar", registrar);
        let services = PeerServices {
            standing: registrar.standing.clone(),
            evidence: evidence.clone(),
            registrar: Some(nodes.registry.clone()),
            registry: Some(registry),
            contracts: None,
            transfers: None,
            heartbeat: HEARTBEAT,
        };
        let registrar_routes = peer_routes(services);
        net.listen(REGISTRAR, registrar.membership.node(), registrar_routes.clone());
        net.listen_to_strangers(ENROLMENT, enrolment_routes(nodes.registry.clone()));
        let provider = Connector::new(home.path(), "provider", &nodes.provider, &net);
        let consumer = Connector::new(home.path(), "consumer", &nodes.consumer, &net);
        for connector in [&provider, &consumer] {
            net.listen(&connector.address(), connector.id(), peer_routes(connector.services()));
            huitong_identity::report_address(&connector.node.standing, &connector.address()).await.unwrap();
            connector.deliver().await;
        }
        Self { home, nodes, net, evidence, registrar_routes, provider, consumer }
    }

    fn registrar(&self) -> &NodeId {
        self.nodes.registrar.membership.node()
    }

    /// How the registrar reaches its members.
    fn registrar_peers(&self) -> Peers {
        let TestNode { standing, caller, .. } = self.nodes.registrar.clone();
        let dial = Wire { net: self.net.clone(), caller };
        Peers::at_registrar(Arc::new(dial), standing, self.nodes.registry.clone())
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let file = self.home.path().join("weather.csv");
        std::fs::write(&file, bytes).unwrap();
        file
    }

    /// Publishes a file at the provider, up to the listing.
    async fn publish(&self, bytes: &[u8]) -> DataId {
        let id = [7; 16];
        let publish = Publish::new(id, self.file(bytes), "Weather", "Readings of 2026", POLICY);
        self.provider.shelf.publish(publish, |_| {}).await.unwrap();
        while self.provider.deliver().await > 0 {}
        let published: Publication = self.provider.shelf.publication(&id).unwrap().unwrap();
        assert_eq!(published.state, PublicationState::Listed, "{:?}", published.reason);
        published.product.unwrap()
    }

    /// Delivers on both sides until nothing is left to say.
    async fn settle(&self) {
        while self.provider.deliver().await + self.consumer.deliver().await > 0 {}
    }
}
