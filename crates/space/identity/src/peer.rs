//! What identity needs from another node. A face implements it.

use async_trait::async_trait;
use bytes::Bytes;
use huitong_ids::NodeId;
use tokio::sync::mpsc;

pub use crate::documents::SignedDocument;
use crate::documents::{EnrolmentGrant, EnrolmentRequest, Invite};
use crate::error::PeerError;

/// News from the registrar. With neither list it is a heartbeat: nothing has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustUpdate {
    /// The root list, when newer than the one the follower named.
    pub roots: Option<SignedDocument>,
    /// The revocation list, when newer than the one the follower named.
    pub status: Option<SignedDocument>,
}

/// The registrar before a node has a certificate.
#[async_trait]
pub trait EnrolmentPeer: Send + Sync {
    /// Enrols over a connection that is pinned to the invite's root certificate.
    async fn enrol(&self, invite: &Invite, request: EnrolmentRequest) -> Result<EnrolmentGrant, PeerError>;
}

/// The registrar, for an enrolled node.
#[async_trait]
pub trait RegistrarPeer: Send + Sync {
    /// Follows the root and revocation lists from the given versions on, until the connection ends.
    async fn follow_trust(
        &self,
        registrar: &NodeId,
        roots_version: u64,
        status_version: u64,
    ) -> Result<mpsc::Receiver<Result<TrustUpdate, PeerError>>, PeerError>;

    /// Hands in an ADDRESS statement.
    async fn report_address(&self, registrar: &NodeId, statement: Bytes) -> Result<(), PeerError>;
}
