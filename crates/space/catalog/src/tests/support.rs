//! A registrar and two connectors in one process; the connectors reach the registrar by a direct call.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::{CatalogPeer, Publication, PublicationState, Publish, Registry, Resolved, SearchPage, Shelf};
use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::testing::{TestNetwork, TestNode, network};
use huitong_identity::{Caller, Delivery, PeerError, ServiceError};
use huitong_ids::{DataId, NodeId};
use huitong_store::{Pending, outbox};

pub(super) const POLICY: &[u8] = br#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"constraints":[{"constraintName":"count","constraintOperator":"11","constraintValue":"3"}]}]}}"#;

/// What goes wrong on the way to the registrar, one entry per call; nothing once the list is used up.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    Nothing,
    /// The registrar is not reached.
    Before(PeerError),
    /// The registrar does the work, its answer is lost.
    After(PeerError),
    /// The answer arrives altered.
    Answer(Bytes),
}

/// The registrar as one connector reaches it.
pub(super) struct Direct {
    pub(super) registry: Registry,
    pub(super) caller: Caller,
    pub(super) credential: Bytes,
    pub(super) troubles: Mutex<VecDeque<Trouble>>,
}

impl Direct {
    fn trouble(&self) -> Trouble {
        self.troubles.lock().unwrap().pop_front().unwrap_or(Trouble::Nothing)
    }
}

#[async_trait]
impl CatalogPeer for Direct {
    async fn register(&self, _: &NodeId, statement: Bytes, record: Bytes) -> Result<Bytes, PeerError> {
        let trouble = self.trouble();
        if let Trouble::Before(error) = trouble {
            return Err(error);
        }
        let answer = self.registry.register(&self.caller, statement, record).await;
        match trouble {
            Trouble::After(error) => Err(error),
            Trouble::Answer(bytes) => Ok(bytes),
            Trouble::Nothing | Trouble::Before(_) => {
                answer.map(|certificate| certificate.bytes().clone()).map_err(as_peer_error)
            }
        }
    }

    async fn list(&self, _: &NodeId, statement: Bytes, record: Bytes) -> Result<(), PeerError> {
        let trouble = self.trouble();
        if let Trouble::Before(error) = trouble {
            return Err(error);
        }
        let answer = self.registry.list(&self.caller, statement, record).await;
        match trouble {
            Trouble::After(error) => Err(error),
            Trouble::Nothing | Trouble::Before(_) | Trouble::Answer(_) => answer.map_err(as_peer_error),
        }
    }

    async fn search(
        &self,
        _: &NodeId,
        keywords: &str,
        offset: u64,
        limit: u64,
    ) -> Result<SearchPage, PeerError> {
        self.registry.search(keywords, offset, limit).map_err(as_peer_error)
    }

    async fn resolve(&self, _: &NodeId, product: &DataId) -> Result<Resolved, PeerError> {
        let found = self.registry.resolve(product).map_err(as_peer_error)?;
        Ok(Resolved {
            product_record: found.product_record,
            certificate: found.certificate.bytes().clone(),
            listing_record: found.listing_record,
            listing: found.listing.bytes().clone(),
            provider: found.provider,
            address: "localhost:1".to_owned(),
            credential: self.credential.clone(),
        })
    }
}

fn as_peer_error(error: ServiceError) -> PeerError {
    match error {
        ServiceError::Refused { refusal, statement } => PeerError::Refused {
            code: refusal.code,
            reason: refusal.reason,
            statement: statement.map(|statement| statement.bytes().clone()),
        },
        ServiceError::Busy { .. } | ServiceError::Store(_) => PeerError::Unavailable(error.to_string()),
        other => {
            PeerError::Refused { code: "invalid".to_owned(), reason: other.to_string(), statement: None }
        }
    }
}

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) net: TestNetwork,
    pub(super) registry: Registry,
    pub(super) shelf: Shelf,
    pub(super) peer: Direct,
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = network(dir.path()).await;
        let registry = Registry::new(net.registrar.ledger.clone(), net.registrar.membership.clone());
        let shelf = shelf_of(&net.provider, dir.path());
        let peer = direct(&registry, &net.provider);
        Self { dir, net, registry, shelf, peer }
    }

    /// A file of this content in the provider's directory.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn request(&self, n: u8, name: &str, intro: &str) -> Publish {
        let file = self.file(&format!("file-{n}.csv"), format!("content of {n}").as_bytes());
        Publish::new([n; 16], file, name, intro, POLICY)
    }

    /// Publishes and delivers until the publication rests.
    pub(super) async fn listed(&self, request: Publish) -> Publication {
        let id = request.id;
        self.shelf.publish(request, |_| {}).await.unwrap();
        for step in
            [PublicationState::RegisteringProduct, PublicationState::Listing, PublicationState::Listed]
        {
            assert_eq!(self.deliver().await, Ok(()));
            assert_eq!(self.publication(&id).state, step);
        }
        assert!(self.waiting().is_empty());
        self.publication(&id)
    }

    pub(super) fn publication(&self, id: &[u8; 16]) -> Publication {
        self.shelf.publication(id).unwrap().unwrap()
    }

    pub(super) fn waiting(&self) -> Vec<Pending> {
        let pending = outbox::pending(&self.net.provider.ledger.store().view(), None, 100).unwrap();
        pending.into_iter().filter(|pending| !pending.dead && pending.topic == crate::TOPIC).collect()
    }

    /// Delivers the oldest message.
    pub(super) async fn deliver(&self) -> Result<(), Delivery> {
        let pending = self.waiting();
        self.shelf.deliver(&pending[0], &self.peer).await
    }

    pub(super) fn in_trouble(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.peer.troubles.lock().unwrap().extend(troubles);
    }
}

pub(super) fn shelf_of(node: &TestNode, dir: &Path) -> Shelf {
    let directory = node.standing.directory.clone();
    Shelf::new(node.ledger.clone(), node.membership.clone(), directory, dir.join("trees"))
}

pub(super) fn direct(registry: &Registry, node: &TestNode) -> Direct {
    Direct {
        registry: registry.clone(),
        caller: node.caller.clone(),
        credential: node.membership.credential_statement().bytes().clone(),
        troubles: Mutex::new(VecDeque::new()),
    }
}
