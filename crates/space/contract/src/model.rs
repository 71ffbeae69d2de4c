//! The documents both sides read and the state one side keeps.

mod agreement;
mod explain;
mod negotiation;
mod terms;

pub use agreement::{Agreement, Party, agreement_hash};
pub use explain::explain;
pub use negotiation::{AcceptCounter, Approval, Contract, Negotiation, Reason, Side, State, Statements};
pub use terms::{DocumentError, MAXIMUM_DOCUMENT_BYTES, Mode, Terms};
pub(crate) use terms::short_text;

#[cfg(test)]
mod tests;
