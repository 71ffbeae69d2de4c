//! Digital contracts (数字合约): how two connectors agree on terms, and what they have both signed.
//!
//! This crate owns the negotiation: the documents ([`Terms`], [`Agreement`]), the life cycle of the Dataspace
//! Protocol 2025-1 with the contract states of the national documents, and the statements each side signs on
//! the way (contract request, offer, acceptance, agreement, verification, finalisation, termination); and the standing
//! of a contract in force, which each party can suspend, resume and end with a signed statement. It refuses
//! to know how messages travel (that is a face behind [`ContractPeer`]), where the offered bytes lie (the
//! catalog's shelf) and how a transfer uses an agreement: it only says which agreement is in force.

mod model;
mod peer;
mod rules;
mod service;
mod tables;
mod workers;

pub use model::{
    AcceptCounter, Agreement, Approval, Contract, Coverage, DocumentError, Hold, MAXIMUM_DOCUMENT_BYTES,
    Mode, Negotiation, Party, Reason, Side, Standing, Standings, State, Stated, Statements, Terms,
    agreement_hash, explain,
};
pub use peer::ContractPeer;
pub use rules::{Event, MAXIMUM_CHANGES, MAXIMUM_OPEN, MAXIMUM_ROUNDS, may_send, next};
pub use service::{Contracts, Received};
pub use workers::TOPIC;

#[cfg(test)]
mod tests;
