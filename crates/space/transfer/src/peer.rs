//! What a transfer needs from another node, and from a store of objects. A face implements it.

use std::fmt;
use std::path::Path;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::PeerError;
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_ledger::Proofs;
use huitong_proof::{ContentRoot, Digest};
use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::model::{FromConsumer, FromProvider};

/// What the provider sends. An error is the last thing in it; nothing is read from the network before it is asked for.
pub type Frames = Pin<Box<dyn Stream<Item = Result<FromProvider, PeerError>> + Send>>;

/// The provider's node.
#[async_trait]
pub trait TransferPeer: Send + Sync {
    /// Opens one exchange of about so many bytes of content. It is over when either side drops its end.
    async fn exchange(
        &self,
        provider: &NodeId,
        size: u64,
        outgoing: mpsc::Receiver<FromConsumer>,
    ) -> Result<Frames, PeerError>;

    /// Opens one more connection for the chunks of a transfer whose exchange is open.
    async fn lane(&self, provider: &NodeId, transfer: [u8; 16]) -> Result<Frames, PeerError>;
}

/// The other party's node, as far as standing orders for deliveries go.
#[async_trait]
pub trait SubscriptionPeer: Send + Sync {
    /// Tells a consumer that there is something to fetch under a contract; the id stands for this notice.
    async fn push(&self, consumer: &NodeId, contract: &ContractId, id: [u8; 16]) -> Result<(), PeerError>;

    /// Asks a provider for the content root of a product's newest version, as it offers it to this node now.
    async fn current_root(&self, provider: &NodeId, product: &DataId) -> Result<ContentRoot, PeerError>;
}

/// A store of objects into which deliveries go. Its places are URLs; one that ends in `/` stands for everything below it.
#[async_trait]
pub trait Depot: Send + Sync {
    /// Whether something can be put at this place, as far as is known without asking anybody.
    fn check(&self, url: &str) -> Result<(), DepotError>;

    /// Whether nothing lies at this place.
    async fn is_free(&self, url: &str) -> Result<bool, DepotError>;

    /// Begins to put a file of `size` bytes at a place. Gives what is to be stored before [`Depot::put`]. An object with
    /// this mark counts as put: it names this file of this delivery and nothing else.
    async fn begin(&self, url: &str, size: u64, mark: &str) -> Result<Bytes, DepotError>;

    /// Puts the file, never over another object. Called again with the same upload it goes on, or finds that it is done; `is_new`
    /// says that the upload was begun just now, so that there is nothing to find.
    async fn put(&self, upload: &[u8], file: &Path, is_new: bool) -> Result<(), DepotError>;

    /// Leaves nothing behind of an upload that was not completed. Doing it twice is harmless.
    async fn abort(&self, upload: &[u8]) -> Result<(), DepotError>;
}

/// Why a depot did not do what it was asked, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DepotError {
    /// It may do so later, by itself or when an operator has seen to it.
    Again(String),
    /// Another object lies there, and was left alone.
    Exists(String),
    /// It no longer knows the upload, which is to be begun again.
    Lost(String),
    /// It never will.
    Never(String),
}

impl fmt::Display for DepotError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Again(reason) | Self::Exists(reason) | Self::Lost(reason) | Self::Never(reason)) = self;
        formatter.write_str(reason)
    }
}

/// The other party's node, as keeper of its ledger, and what is needed to understand its answers.
#[async_trait]
pub trait EvidencePeer: Send + Sync {
    /// Asks for inclusion proofs of statements that this node is a party of.
    async fn prove(&self, node: &NodeId, digests: Vec<Digest>, known_size: u64) -> Result<Proofs, PeerError>;

    /// Asks for the path that shows that one size of that node's ledger extends a smaller one.
    async fn consistency(
        &self,
        node: &NodeId,
        old_size: u64,
        new_size: u64,
    ) -> Result<Vec<Digest>, PeerError>;

    /// Asks whoever registered it for the CREDENTIAL statement of a node, such as a witness; it is verified by who asks.
    async fn credential(&self, node: &NodeId) -> Result<Bytes, PeerError>;
}
