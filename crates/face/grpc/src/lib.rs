//! The gRPC face: the wire interface in `/proto`, served and called.
//!
//! This crate owns the generated code, the conversions between messages and the types of the house, the map between
//! errors and statuses, the services for peers ([`peer_routes`], [`enrolment_routes`]) and for the operator
//! ([`admin_routes`]), and the typed clients of other nodes
//! ([`Peers`], [`EnrolmentClient`]) and of a node's own operator ([`admin_client`]). It decides nothing: every
//! rule is a service's. It knows no TLS and no configuration: who is calling comes with the connection as
//! [`PeerConnection`], and connections to other nodes come from a [`Dial`].

mod admin;
mod blocking;
mod bulk;
mod client;
mod convert;
mod peer;
pub mod proto;
mod status;
#[cfg(test)]
mod tests;

pub use admin::{AdminServices, admin_routes};
pub use client::{AdminClient, Clocks, Dial, EnrolmentClient, Load, Peers, Stream, Threads, admin_client};
pub use peer::{PeerConnection, PeerServices, enrolment_routes, peer_routes};
pub use status::{error_detail, to_peer_error, to_status};

/// The largest answer that a caller reads, and the largest message of an operator.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The largest request that is read from another node: a document of 64 KiB and a statement of 16 KiB, with room. Every
/// stream of every connection may hold one.
pub const MAX_REQUEST_BYTES: usize = 128 << 10;
