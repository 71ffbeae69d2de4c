//! Evidence between nodes (存证): what nodes do with each other's ledgers so that nobody can lose, rewrite or fork one.
//!
//! This crate owns witnessing (见证): asking others to cosign this node's checkpoints and cosigning theirs; the
//! comparison of this node's ledger with what others know of it, safe mode and recovery after a restored backup;
//! following other ledgers, alerts and audits; and the function node's log of logs. It knows nothing of what
//! statements mean to contracts and transfers, it decides for no other crate what counts as final, and it opens no
//! socket: other nodes are reached through [`LogPeer`].

mod alerts;
mod audit;
mod compare;
mod cosign;
mod edge;
mod members;
mod mirror;
mod model;
mod monitor;
mod peer;
mod rate;
mod recall;
mod recover;
mod service;
mod serving;
mod tables;
#[cfg(test)]
mod tests;

pub use alerts::{
    Alert, CHANNEL_GAP, LEDGER_FORKED, LEDGER_INCONSISTENT, LEDGER_SHRUNK, LEDGER_STOPPED,
    LEDGER_UNREACHABLE, MIRROR_INCOMPLETE, STATEMENT_FORKED, STATEMENT_NOT_LOGGED, WITNESS_FAILING,
};
pub use audit::{AuditCheck, AuditOutcome, AuditReport, KeptFork};
pub use members::{LogHead, LogsStatement};
pub use mirror::{MIRRORED_LEAVES, Mirroring};
pub use model::{
    Answer, Asked, Compared, Comparison, Cosigning, EvidenceSettings, FollowedLog, LedgerStanding, Progress,
    RecoveryReport, WitnessStanding,
};
pub use monitor::{LogReport, LogState, MonitorBounds, MonitorReport};
pub use peer::{ChannelSide, ChannelStanding, Included, LogPeer, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer};
pub use service::Evidence;
