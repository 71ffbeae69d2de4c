//! The ledger: an append-only Merkle log (RFC 9162) over the signed statements this node made and received.
//!
//! This crate owns the log's hashes, the files that entries, tiles and lookups settle in (C2SP tlog-tiles) and their
//! check, its checkpoints as C2SP signed notes, inclusion and consistency proofs and their offline verification, the
//! numbering of this node's statements towards each peer, the evidence when a peer says two things that exclude each
//! other, and the witness role (见证): cosignatures, quorum policies, proof files and fork proofs. It refuses to know
//! what a statement means: it never looks into a statement's detail, decides nothing about transfers or contracts, and
//! speaks to no other node.

mod about;
mod archive;
mod backup;
mod blocks;
mod channels;
mod checkpoint;
mod cosignature;
mod doubt;
mod edge;
mod entries;
mod error;
mod evidence;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod fixture;
mod fork_proof;
mod gaps;
mod gate;
mod log;
mod lookup;
mod mending;
mod merkle;
mod note;
pub mod offline;
mod opening;
mod peers;
mod place;
mod policy;
mod proofs;
mod publish;
mod recovery;
mod redaction;
mod run;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tiles;
mod tlog_proof;
mod tree;
mod witness;
#[cfg(test)]
mod witness_fixture;

pub use channels::Channel;
pub use checkpoint::{Checkpoint, SignedCheckpoint};
pub use cosignature::{Cosignature, Cosigner, WitnessVerifier, witness_name_of};
pub use doubt::Resumption;
pub use error::LedgerError;
pub use evidence::Evidence;
pub use fork_proof::{ForkProof, ForkProofError, MAX_FORK_PROOF_BYTES, ProvenLeaf};
pub use gaps::{EntryState, Gap, Redaction, Reinstated, Removed};
pub use log::{Admission, Identity, Inclusion, Ledger, Proofs, origin_of, verify_entry};
pub use merkle::{
    MAX_PATH, Nodes, ProofError, completed_by, consistency_path, empty_root, inclusion_path, leaf_hash,
    node_hash, root, verify_consistency, verify_inclusion,
};
pub use note::{LogVerifier, MAX_NAME_BYTES, MAX_NOTE_BYTES, MAX_SIGNATURES, NoteError};
pub use opening::Opening;
pub use policy::{
    MAX_POLICY_BYTES, MAX_POLICY_ITEMS, PolicyError, PolicyFault, Quorum, QuorumPolicy, safe_quorum,
    split_view_excluded,
};
pub use tlog_proof::{MAX_EXTRA_BYTES, MAX_TLOG_PROOF_BYTES, TlogProof, TlogProofError};
pub use witness::{
    AddCheckpoint, MAX_ADD_CHECKPOINT_BYTES, SIZE_CONTENT_TYPE, WitnessRefusal, add_checkpoint, witnessed,
};
