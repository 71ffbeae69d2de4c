//! Unified identity registration (统一身份登记): who the organisations and nodes of a data space are.
//!
//! This crate owns entities, nodes, the credential that a registrar signs for a node, the root list and the
//! revocation list that everybody follows, and the one way to turn a TLS certificate into a [`Caller`]. The
//! registrar's side is [`Registrar`], every node's own side is [`Membership`] and [`Directory`]. It knows nothing
//! of catalogs, contracts or transfers, and it opens no socket: other nodes are reached through [`peer`].

mod certificate;
mod directory;
mod documents;
mod error;
mod keys;
mod model;
pub mod peer;
mod registrar;
mod rules;
mod service;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod trust;
pub mod workers;

pub use certificate::{CREDENTIAL_EXTENSION, public_key_digest};
pub use directory::{AuthenticationError, Directory};
pub use documents::{EnrolmentGrant, EnrolmentRequest, Invite, Revocation, RootEntry, RootList, StatusList};
pub use error::{Delivery, PeerError, Refusal, ServiceError};
pub use keys::{KeyError, NodeKeys, RootAuthority};
pub use model::{Caller, Credential, NodeRecord, NodeState, Role};
pub use registrar::{InviteRequest, NodeLocation, Registrar};
pub use rules::check_domain;
pub use service::{
    Genesis, JoinRequest, Membership, Sources, Standing, credential_of, enrolment_request, found, join, load,
    members, prove_for, read_refusal, refuse, remember, remember_credential, report_address, statement_from,
    statement_of,
};
pub use trust::{Attribution, Trust, TrustError, TrustedRegistrar};
