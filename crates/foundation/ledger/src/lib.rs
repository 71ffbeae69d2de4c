//! The ledger: an append-only Merkle log (RFC 9162) over the signed statements this node made and received.
//!
//! This crate owns the log's hashes, its checkpoints as C2SP signed notes, inclusion and consistency proofs and their
//! offline verification, the numbering of this node's statements towards each peer, and the evidence when a peer says
//! two things that exclude each other. It refuses to know what a statement means: it never looks into a statement's
//! detail, decides nothing about transfers or contracts, and speaks to no other node.

mod checkpoint;
mod error;
mod evidence;
#[cfg(test)]
mod fixture;
mod log;
mod merkle;
mod note;
mod peers;
mod tables;

pub use checkpoint::{Checkpoint, SignedCheckpoint};
pub use error::LedgerError;
pub use evidence::Evidence;
pub use log::{Admission, Identity, Inclusion, Ledger, Proofs, origin_of, verify_entry};
pub use merkle::{
    MAX_PATH, Nodes, ProofError, completed_by, consistency_path, empty_root, inclusion_path, leaf_hash,
    node_hash, root, verify_consistency, verify_inclusion,
};
pub use note::{LogVerifier, MAX_NAME_BYTES, MAX_NOTE_BYTES, MAX_SIGNATURES, NoteError};
