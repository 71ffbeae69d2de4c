//! The documents both sides read and the state one side keeps.

mod agreement;
mod explain;
mod negotiation;
mod standing;
mod terms;

pub use agreement::{Agreement, Party, agreement_hash};
pub use explain::explain;
pub use negotiation::{AcceptCounter, Approval, Contract, Negotiation, Reason, Side, State, Statements};
pub use standing::{Hold, Standing, Standings, Stated};
pub(crate) use terms::short_text;
pub use terms::{Coverage, DocumentError, MAXIMUM_DOCUMENT_BYTES, Mode, Terms};

#[cfg(test)]
mod tests;
