//! Where other nodes are, and one connection to each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use huitong_identity::{Credential, NodeLocation, PeerError, Registrar, Standing};
use huitong_ids::NodeId;
use huitong_proof::{Envelope, Timestamp};
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::windows::{SMALLEST, Window, Windows};
use super::{Dial, Load, REQUEST_TIMEOUT, Target, Threads, channel, control_endpoint, exchange_endpoint};
use crate::MAX_MESSAGE_BYTES;
use crate::convert::broken;
use crate::peer::TIME_HEADER;
use crate::proto::identity as wire;
use crate::proto::identity::identity_service_client::IdentityServiceClient;
use crate::status::{is_transport_failure, to_peer_error};

/// Whom we call is up to us, but who negotiates with us is not: beyond this many nodes the cache begins anew.
const MAX_CACHED: usize = 4096;
/// Bytes of content up to which exchanges with a node share a connection.
const SMALL_EXCHANGE: u64 = 1 << 20;

/// The other nodes of the space. Clones share their connections.
///
/// Each node has one connection for control calls and one for exchanges of little content, opened when they are first
/// needed and again after they were lost; every other exchange has a connection of its own. Addresses are the registrar's word; they are kept until a connection fails.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
    threads: Threads,
}

struct Inner {
    dial: Arc<dyn Dial>,
    standing: Standing,
    addresses: Addresses,
    known: Mutex<Known>,
    windows: Windows,
    clocks: Mutex<Option<Clocks>>,
}

/// Who knows where the other nodes are.
enum Addresses {
    /// The registrar at this `host:port`.
    Asked(String),
    /// This node itself: it is the registrar.
    Kept(Registrar),
}

/// The registrar's clock and our own at the same moment, give or take the time of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// What the registrar said.
    pub registrar: Timestamp,
    /// What our clock showed when we heard it.
    pub own: Timestamp,
}

#[derive(Default)]
struct Known {
    nodes: HashMap<NodeId, Route>,
    generation: u64,
}

/// How a node is reached.
#[derive(Clone)]
struct Route {
    address: String,
    /// For control calls.
    channel: Channel,
    /// For exchanges of little content; connects when there is the first.
    exchanges: Channel,
    /// Tells a route from the one that replaced it while a call was under way.
    generation: u64,
}

impl Peers {
    /// The nodes around an ordinary node. `registrar_address` is the `host:port` where enrolled nodes reach the
    /// registrar; without one (empty), nobody is found.
    pub fn new(dial: Arc<dyn Dial>, standing: Standing, registrar_address: String) -> Self {
        Self::with_addresses(dial, standing, Addresses::Asked(registrar_address))
    }

    /// The nodes around a registrar: those it has registered, where they have said that they are.
    pub fn at_registrar(dial: Arc<dyn Dial>, standing: Standing, registrar: Registrar) -> Self {
        Self::with_addresses(dial, standing, Addresses::Kept(registrar))
    }

    fn with_addresses(dial: Arc<dyn Dial>, standing: Standing, addresses: Addresses) -> Self {
        let (known, windows, clocks) = (Mutex::default(), Windows::default(), Mutex::default());
        let inner = Inner { dial, standing, addresses, known, windows, clocks };
        Self { inner: Arc::new(inner), threads: Threads::default() }
    }

    /// The same nodes, and threads for the content that comes from them. An exchange with a connection of its own comes on the
    /// thread on which it was begun; each further connection is opened on the quietest.
    pub fn with_threads(self, threads: Threads) -> Self {
        Self { threads, ..self }
    }

    /// Where an exchange is to be begun.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// What the registrar's clock showed when it was last followed; `None` before that.
    pub fn clocks(&self) -> Option<Clocks> {
        *self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the registrar's clock from the header of a trust stream, if it is there.
    pub(super) fn hear_clock(&self, header: &MetadataMap) {
        let millis = header.get(TIME_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(millis) = millis {
            let own = self.inner.standing.ledger.clock().now();
            let heard = Clocks { registrar: Timestamp::from_millis(millis), own };
            *self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
        }
    }

    /// Remembers where a node is, from an answer of the registrar, unless a connection to it is open already.
    pub(crate) fn learn(&self, node: &NodeId, address: &str) {
        let mut known = self.known();
        if !known.nodes.contains_key(node) {
            self.add(&mut known, node, address);
        }
    }

    /// Makes one control call whose answer is one message, and forgets the way to the node when the way failed. The
    /// whole answer is there in time, or the call has failed; `meaning` says what a failure means.
    pub(super) async fn unary<T, F>(
        &self,
        node: &NodeId,
        call: impl FnOnce(Channel) -> F + Send,
        meaning: impl Fn(&Status) -> PeerError + Send,
    ) -> Result<T, PeerError>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let route = self.route(node).await?;
        let answer = self.call_over(node, route, |channel| in_time(call(channel)), meaning).await?;
        Ok(answer.into_inner())
    }

    /// Begins one call whose answer is a stream, and forgets the way to the node when the way failed.
    pub(super) async fn call<T, F>(
        &self,
        node: &NodeId,
        call: impl FnOnce(Channel) -> F + Send,
    ) -> Result<Response<T>, PeerError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let route = self.route(node).await?;
        self.call_over(node, route, call, to_peer_error).await
    }

    /// A connection for one exchange of so much content: one of its own, or for little content, where the handshake
    /// would cost more than the bytes, the one that all such exchanges with this node share. The window is to be kept as
    /// long as the connection; the generation is that of the way to the node, for [`Peers::failed`].
    pub(super) async fn exchange_channel(
        &self,
        node: &NodeId,
        size: u64,
    ) -> Result<(Channel, Option<Window>, u64), PeerError> {
        let Route { address, exchanges, generation, .. } = self.route(node).await?;
        if size <= SMALL_EXCHANGE {
            return Ok((exchanges, None, generation));
        }
        let (dial, window) = (Arc::clone(&self.inner.dial), self.inner.windows.open());
        let target = Target::Node(node.clone(), Load::Content);
        let channel = channel(&exchange_endpoint(window.bytes()), dial, address, target);
        Ok((channel, Some(window), generation))
    }

    /// What a failed call on a connection of its own means for the way to the node.
    pub(super) fn failed(&self, node: &NodeId, generation: u64, status: &Status) -> PeerError {
        self.forget(node, generation, status);
        to_peer_error(status)
    }

    /// Forgets the way to a node if it has failed, but not the one that has taken its place meanwhile.
    fn forget(&self, node: &NodeId, generation: u64, status: &Status) {
        if is_transport_failure(status) {
            let nodes = &mut self.known().nodes;
            if nodes.get(node).is_some_and(|route| route.generation == generation) {
                nodes.remove(node);
            }
        }
    }

    async fn call_over<T, F>(
        &self,
        node: &NodeId,
        route: Route,
        call: impl FnOnce(Channel) -> F + Send,
        meaning: impl Fn(&Status) -> PeerError + Send,
    ) -> Result<Response<T>, PeerError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let Route { channel, generation, .. } = route;
        call(channel).await.map_err(|status| {
            self.forget(node, generation, &status);
            meaning(&status)
        })
    }

    async fn route(&self, node: &NodeId) -> Result<Route, PeerError> {
        if let Some(route) = self.known().nodes.get(node) {
            return Ok(route.clone());
        }
        let directory = &self.inner.standing.directory;
        if let Some(revocation) = directory.status().revoked.iter().find(|entry| entry.node == *node) {
            return Err(PeerError::Refused {
                code: "identity.revoked".to_owned(),
                reason: format!("node {node} was revoked at {}: {}", revocation.at, revocation.reason),
                statement: None,
            });
        }
        let address = match &self.inner.addresses {
            Addresses::Asked(address) if node == self.inner.standing.membership.registrar() => {
                known_address(address, node)?
            }
            _ => {
                let NodeLocation { address, credential: _ } = self.locate(node).await?;
                known_address(&address, node)?
            }
        };
        let mut known = self.known();
        // Somebody may have been faster; two connections would do no harm, but one is enough.
        if let Some(route) = known.nodes.get(node) {
            return Ok(route.clone());
        }
        Ok(self.add(&mut known, node, &address))
    }

    /// Where a node is, and the credential of that very node, both as its registrar has them.
    pub(super) async fn locate(&self, node: &NodeId) -> Result<NodeLocation, PeerError> {
        let address = match &self.inner.addresses {
            Addresses::Asked(address) => address,
            Addresses::Kept(registrar) => {
                // A node that has just enrolled may speak to us before its address is here.
                return registrar.locate(node).map_err(|error| PeerError::Unavailable(error.to_string()));
            }
        };
        let registrar = self.inner.standing.membership.registrar().clone();
        let route = self.known().nodes.get(&registrar).cloned();
        let route = match route {
            Some(route) => route,
            None => {
                let address = known_address(address, &registrar)?;
                let mut known = self.known();
                self.add(&mut known, &registrar, &address)
            }
        };
        let request = wire::LocateNodeRequest { node: node.to_string() };
        let locate = |channel| {
            in_time(async move {
                let client = IdentityServiceClient::new(channel);
                client.max_decoding_message_size(MAX_MESSAGE_BYTES).locate_node(request).await
            })
        };
        let response =
            self.call_over(&registrar, route, locate, to_peer_error).await.map_err(|error| match error {
                // As above.
                PeerError::Refused { reason, .. } => PeerError::Unavailable(reason),
                other => other,
            })?;
        let wire::LocateNodeResponse { address, credential } = response.into_inner();
        self.check_credential(node, credential.clone())?;
        Ok(NodeLocation { address, credential })
    }

    /// The CREDENTIAL statement of a node: of a registrar as the root list has it, of any other as its registrar does.
    pub(super) async fn credential_of(&self, node: &NodeId) -> Result<Bytes, PeerError> {
        if let Some(root) = self.inner.standing.directory.roots().entry(node.as_str()) {
            return Ok(root.credential.clone());
        }
        Ok(self.locate(node).await?.credential)
    }

    fn check_credential(&self, node: &NodeId, credential: Bytes) -> Result<(), PeerError> {
        let Standing { ledger, directory, .. } = &self.inner.standing;
        let wrong = |reason: &str| PeerError::Broken(format!("the located node's credential {reason}"));
        let envelope = Envelope::decode(credential).map_err(|error| wrong(&error.to_string()))?;
        let roots = directory.roots();
        let root = roots
            .entry(envelope.claimed_issuer())
            .ok_or_else(|| wrong("is not from a registrar on the root list"))?;
        let statement = envelope
            .verify(&root.statement_key, ledger.space())
            .map_err(|error| wrong(&error.to_string()))?;
        let credential = Credential::from_statement(&statement).map_err(broken)?;
        if credential.node != *node {
            return Err(wrong("names another node"));
        }
        Ok(())
    }

    fn add(&self, known: &mut Known, node: &NodeId, address: &str) -> Route {
        if known.nodes.len() >= MAX_CACHED {
            known.nodes.clear();
        }
        known.generation = known.generation.wrapping_add(1);
        let dial = Arc::clone(&self.inner.dial);
        let target = Target::Node(node.clone(), Load::Answers);
        let route = Route {
            address: address.to_owned(),
            channel: channel(&control_endpoint(), Arc::clone(&dial), address.to_owned(), target.clone()),
            exchanges: channel(&exchange_endpoint(SMALLEST), dial, address.to_owned(), target),
            generation: known.generation,
        };
        known.nodes.insert(node.clone(), route.clone());
        route
    }

    // A panic while holding the lock leaves a whole map behind: each change is one call.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn known_address(address: &str, node: &NodeId) -> Result<String, PeerError> {
    if address.is_empty() {
        return Err(PeerError::Broken(format!("there is no address of {node}")));
    }
    Ok(address.to_owned())
}

/// The endpoint's own limit is over when an answer begins, and an answer may trickle on for ever.
async fn in_time<T>(
    answer: impl Future<Output = Result<Response<T>, Status>> + Send,
) -> Result<Response<T>, Status> {
    timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| {
        let seconds = REQUEST_TIMEOUT.as_secs();
        Err(Status::deadline_exceeded(format!("the answer was not complete within {seconds} s")))
    })
}
