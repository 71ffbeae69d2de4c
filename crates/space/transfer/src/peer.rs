//! What a transfer needs from another node. A face implements it.

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
