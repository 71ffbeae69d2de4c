//! Usage policy as a language: read a policy document, compare two of them, decide a request, explain every clause.
//!
//! This crate owns the names of the usage control dictionary (actions, operators, constraints), the typed form of a
//! policy and the rules by which a request is allowed or denied. It is pure: the caller hands in the moment, the
//! address, the attested region and the counters. It knows nothing of clocks, sockets, storage, contracts,
//! signatures or who the caller claims to be.
//!
//! The rules, all of them fail closed:
//! - Anything not understood (name, operator, value, JSON key) makes the whole document invalid; nothing is skipped.
//! - All constraints of a rule must hold (AND); one permission that holds is enough (OR).
//! - A prohibition beats every permission. What no permission covers is denied.
//! - A fact the caller could not supply fails a permission and lets a prohibition apply.
//! - Actions match exactly: no action implies another.
//!
//! ```
//! use huitong_policy::{Action, Policy, Request, Verdict, decide};
//! let policy = Policy::parse(
//!     br#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"constraints":[
//!         {"constraintName":"count","constraintOperator":"11","constraintValue":"3"}]}]}}"#,
//! )?;
//! let request = Request {
//!     now: 1_700_000_000_000,
//!     action: Action::Read,
//!     party: "",
//!     entity: "",
//!     product: "",
//!     address: None,
//!     region: None,
//!     used: &|_| 2,
//! };
//! assert_eq!(decide(&policy, &request).verdict, Verdict::Allow);
//! # Ok::<(), huitong_policy::PolicyError>(())
//! ```

mod compare;
mod constraint;
mod decide;
mod element;
mod error;
mod explain;
mod json;
mod parse;
mod policy;
mod spans;
#[cfg(test)]
mod tests;
mod time;
mod vocabulary;

pub use constraint::Constraint;
pub use decide::{ClauseVerdict, Decision, Request, Verdict, decide};
pub use error::{PolicyError, Problem};
pub use policy::{ClauseId, MAXIMUM_DEPTH, MAXIMUM_DOCUMENT_BYTES, Policy, Rule};
pub use vocabulary::{Action, ConstraintName, Language, Operator};
