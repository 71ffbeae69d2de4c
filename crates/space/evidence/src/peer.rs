//! What evidence needs from another node. A face implements it; nothing that comes back is believed unchecked.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::PeerError;
use huitong_ids::NodeId;
use huitong_ledger::WitnessRefusal;
use huitong_proof::Digest;

/// The most leaf hashes in one answer.
pub const MAX_LEAVES: usize = 4096;
/// The most statements in one answer.
pub const MAX_STATEMENTS: usize = 256;

/// The ledgers of other nodes, and other nodes as witnesses of ours.
///
/// An implementation bounds what it reads to what the answer may hold (see [`MAX_LEAVES`], [`MAX_STATEMENTS`]), ends
/// each call after a time, and reaches exactly the node that is named, or nobody.
#[async_trait]
pub trait LogPeer: Send + Sync {
    /// Asks `to` as a witness to cosign a checkpoint. `body` is that of C2SP tlog-witness 1.0.0, add-checkpoint.
    async fn add_checkpoint(&self, to: &NodeId, body: &str) -> Result<WitnessAnswer, PeerError>;

    /// The newest checkpoint of the ledger `origin` that `to` has cosigned, with the ledger's and its own signature.
    async fn witnessed(&self, to: &NodeId, origin: &str) -> Result<Option<String>, PeerError>;

    /// The newest signed checkpoint of `to`, with the cosignatures it has.
    async fn checkpoint(&self, to: &NodeId) -> Result<String, PeerError>;

    /// The path from size `old` (at least 1) to size `new` of the ledger of `to`.
    async fn consistency(&self, to: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError>;

    /// Where a statement stands at one size of the ledger of `to`.
    async fn inclusion(&self, to: &NodeId, digest: &Digest, size: u64) -> Result<Included, PeerError>;

    /// Leaf hashes from index `from` on, at most `limit`, of the ledger of `to` (`origin` is its own) or of one that
    /// it mirrors. Fewer than asked when it has no more.
    async fn leaves(
        &self,
        to: &NodeId,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, PeerError>;

    /// The last statements on both channels between us and `to`.
    async fn channel(&self, to: &NodeId) -> Result<ChannelStanding, PeerError>;

    /// The statements on one of the channels between us and `to`, as `to` holds them, from that sequence number on, at
    /// most `limit`, in order of number. Empty only when it holds no more.
    async fn statements(
        &self,
        to: &NodeId,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, PeerError>;

    /// The CREDENTIAL statement of a node, as the registrar gives it out. Without it a node that has lost the credential
    /// of a counterparty cannot tell that counterparty's statements from forged ones.
    async fn credential(&self, of: &NodeId) -> Result<Bytes, PeerError> {
        Err(PeerError::Unavailable(format!("nobody can be asked for the credential of {of}")))
    }
}

/// One of the two channels between a caller and the node it calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChannelSide {
    /// Statements of the caller to the node.
    FromCaller,
    /// Statements of the node to the caller.
    ToCaller,
}

/// Where a statement stands in a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// Index of the entry, from 0.
    pub index: u64,
    /// Sibling hashes, the leaf's sibling first.
    pub path: Vec<Digest>,
    /// The hash that the ledger holds for the entry: SHA-256(0x00 || entry).
    pub leaf: Digest,
}

/// The statements with the highest number on the two channels between a caller and the node it calls: whole signed
/// statements, because a bare number proves nothing. One whose bytes were removed is left out for the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelStanding {
    /// The caller's newest statement to the node.
    pub from_caller: Option<Bytes>,
    /// The node's newest statement to the caller.
    pub to_caller: Option<Bytes>,
}

/// What a witness answers, with the status that C2SP tlog-witness 1.0.0 gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessAnswer {
    /// 200: one or more cosignature lines, each with its newline.
    Cosigned(String),
    /// 409: the witness has cosigned this size; begin there.
    Conflict {
        /// Size of the newest checkpoint that it has cosigned.
        size: u64,
    },
    /// 429: too often.
    Busy {
        /// When to come again.
        retry_after: Duration,
    },
    /// 400, 403, 404 or 422.
    Refused {
        /// The status.
        status: u16,
        /// Why, in plain words.
        reason: String,
    },
}

impl WitnessAnswer {
    /// The status of the specification.
    pub fn status(&self) -> u16 {
        match self {
            Self::Cosigned(_) => 200,
            Self::Conflict { .. } => 409,
            Self::Busy { .. } => 429,
            Self::Refused { status, .. } => *status,
        }
    }

    /// The body of the specification: cosignature lines, the size with a newline, or the reason with a newline.
    pub fn body(&self) -> String {
        match self {
            Self::Cosigned(lines) => lines.clone(),
            Self::Conflict { size } => format!("{size}\n"),
            Self::Busy { retry_after } => {
                format!("too many checkpoints of this origin; come again in {} ms\n", retry_after.as_millis())
            }
            Self::Refused { reason, .. } => format!("{reason}\n"),
        }
    }
}

impl From<WitnessRefusal> for WitnessAnswer {
    fn from(refusal: WitnessRefusal) -> Self {
        match refusal {
            WitnessRefusal::Conflict { size } => Self::Conflict { size },
            WitnessRefusal::Rate { retry_after } => Self::Busy { retry_after },
            other => Self::Refused { status: other.http_status(), reason: other.to_string() },
        }
    }
}
