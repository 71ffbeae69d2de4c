//! The names of a trusted data space: who (entities), which machine (nodes), which data (products and resources),
//! which agreement (contracts), and the public code tables these names and the catalog records refer to.
//!
//! This crate owns the layouts, the check characters and the tables, and turns text into types that can only hold a
//! well-formed name. It refuses to know where a name is registered, who may use it, what time it is and where
//! randomness comes from: a caller passes moments and random bytes in. It does no input or output.
//!
//! Two doors lead in. `parse` is strict and is what a node uses for the names of its own network. `parse_foreign` is
//! for names that another registry handed out: a name that is well formed but whose check character does not match is
//! kept exactly as received and marked [`CheckState::Failed`]. Nothing here ever repairs a name.
//!
//! Layouts follow the identifier draft NDI-TR-2025-04 (section 4) and, for contracts, TC609-6-2025-14 (B.3).

mod ascii;
mod calendar;
pub mod checks;
mod contract;
mod core32;
mod data;
mod entity;
mod error;
mod foreign;
mod kinds;
mod node;
mod segment;
pub mod tables;
#[cfg(test)]
mod tests;

pub use contract::ContractId;
pub use data::DataId;
pub use entity::{EntityCode, EntityKind};
pub use error::{Field, IdError};
pub use foreign::{CheckState, Foreign};
pub use kinds::{DataType, NodeType};
pub use node::NodeId;
pub use segment::Segment;
