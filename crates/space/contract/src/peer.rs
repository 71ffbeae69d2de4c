//! What this crate needs from another node.

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::PeerError;
use huitong_ids::{DataId, NodeId};

/// The contract interface of another node, as a face implements it.
#[async_trait]
pub trait ContractPeer: Send + Sync {
    /// Hands one statement, with the document it refers to (empty for kinds that carry none), to node `to`.
    ///
    /// `Ok` means that the other node has made the message durable. Sending the same statement again is harmless.
    async fn submit(&self, to: &NodeId, statement: Bytes, document: Bytes) -> Result<(), PeerError>;

    /// The terms under which `provider` offers `product` to this node now: encoded [`crate::Terms`].
    async fn standing_terms(&self, provider: &NodeId, product: &DataId) -> Result<Bytes, PeerError>;
}
