//! Where other nodes are, and one connection to each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use huitong_identity::{Credential, PeerError, Standing};
use huitong_ids::NodeId;
use huitong_proof::{Envelope, Timestamp};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::{Dial, Target, channel, control_endpoint, exchange_endpoint};
use crate::MAX_MESSAGE_BYTES;
use crate::convert::broken;
use crate::peer::TIME_HEADER;
use crate::proto::identity as wire;
use crate::proto::identity::identity_service_client::IdentityServiceClient;
use crate::status::{is_transport_failure, to_peer_error};

/// Whom we call is up to us, but who negotiates with us is not: beyond this many nodes the cache begins anew.
const MAX_CACHED: usize = 4096;

/// The other nodes of the space. Clones share their connections.
///
/// Each node has one connection for control calls, opened when it is first needed and again after it was lost; every
/// exchange has a connection of its own. Addresses are the registrar's word; they are kept until a connection fails.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    dial: Arc<dyn Dial>,
    standing: Standing,
    registrar_address: String,
    known: Mutex<Known>,
    clocks: Mutex<Option<Clocks>>,
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
    channel: Channel,
    /// Tells a route from the one that replaced it while a call was under way.
    generation: u64,
}

impl Peers {
    /// `registrar_address` is the `host:port` where enrolled nodes reach the registrar; empty on the registrar itself,
    /// which calls nobody.
    pub fn new(dial: Arc<dyn Dial>, standing: Standing, registrar_address: String) -> Self {
        let (known, clocks) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { dial, standing, registrar_address, known, clocks }) }
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

    /// Makes one control call, and forgets the way to the node when the way failed.
    pub(super) async fn call<T, F>(
        &self,
        node: &NodeId,
        call: impl FnOnce(Channel) -> F + Send,
    ) -> Result<Response<T>, PeerError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let route = self.route(node).await?;
        self.call_over(node, route, call).await
    }

    /// A connection for one exchange.
    pub(super) async fn exchange_channel(&self, node: &NodeId) -> Result<Channel, PeerError> {
        let Route { address, .. } = self.route(node).await?;
        let dial = Arc::clone(&self.inner.dial);
        Ok(channel(&exchange_endpoint(), dial, address, Target::Node(node.clone())))
    }

    /// What a failed call on a connection of its own means for the way to the node.
    pub(super) fn failed(&self, node: &NodeId, status: &Status) -> PeerError {
        if is_transport_failure(status) {
            self.known().nodes.remove(node);
        }
        to_peer_error(status)
    }

    async fn call_over<T, F>(
        &self,
        node: &NodeId,
        route: Route,
        call: impl FnOnce(Channel) -> F + Send,
    ) -> Result<Response<T>, PeerError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let Route { channel, generation, .. } = route;
        call(channel).await.map_err(|status| {
            if is_transport_failure(&status) {
                let nodes = &mut self.known().nodes;
                if nodes.get(node).is_some_and(|route| route.generation == generation) {
                    nodes.remove(node);
                }
            }
            to_peer_error(&status)
        })
    }

    async fn route(&self, node: &NodeId) -> Result<Route, PeerError> {
        if let Some(route) = self.known().nodes.get(node) {
            return Ok(route.clone());
        }
        let Standing { membership, directory, .. } = &self.inner.standing;
        if let Some(revocation) = directory.status().revoked.iter().find(|entry| entry.node == *node) {
            return Err(PeerError::Refused {
                code: "identity.revoked".to_owned(),
                reason: format!("node {node} was revoked at {}: {}", revocation.at, revocation.reason),
                statement: None,
            });
        }
        if membership.is_registrar() {
            // Everything a registrar says, it says in its answers.
            return Err(PeerError::Broken("a registrar calls no other node".to_owned()));
        }
        let address = if node == membership.registrar() {
            self.inner.registrar_address.clone()
        } else {
            self.locate(node).await?
        };
        let mut known = self.known();
        // Somebody may have been faster; two connections would do no harm, but one is enough.
        if let Some(route) = known.nodes.get(node) {
            return Ok(route.clone());
        }
        Ok(self.add(&mut known, node, &address))
    }

    /// Asks the registrar where a node is, and checks that it speaks of a node it has registered.
    async fn locate(&self, node: &NodeId) -> Result<String, PeerError> {
        let registrar = self.inner.standing.membership.registrar().clone();
        let route = self.known().nodes.get(&registrar).cloned();
        let route = match route {
            Some(route) => route,
            None => {
                let mut known = self.known();
                self.add(&mut known, &registrar, &self.inner.registrar_address)
            }
        };
        let request = wire::LocateNodeRequest { node: node.to_string() };
        let response = self
            .call_over(&registrar, route, |channel| async move {
                IdentityServiceClient::new(channel)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .locate_node(request)
                    .await
            })
            .await
            .map_err(|error| match error {
                // A node that has just enrolled may speak to us before its address has reached the registrar.
                PeerError::Refused { reason, .. } => PeerError::Unavailable(reason),
                other => other,
            })?;
        let wire::LocateNodeResponse { address, credential } = response.into_inner();
        self.check_credential(node, credential)?;
        if address.is_empty() {
            return Err(PeerError::Broken(format!("the registrar located {node} without an address")));
        }
        Ok(address)
    }

    fn check_credential(&self, node: &NodeId, credential: bytes::Bytes) -> Result<(), PeerError> {
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
        let target = Target::Node(node.clone());
        let route = Route {
            address: address.to_owned(),
            channel: channel(&control_endpoint(), dial, address.to_owned(), target),
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
