//! The messages, servers and clients generated from `/proto`; one module for each package.

/// Generates one module: the package's comments in `/proto` are its documentation.
macro_rules! packages {
    ($($(#[$doc:meta])* $name:ident = $package:literal;)*) => {$(
        $(#[$doc])*
        #[allow(missing_docs, reason = "generated code; its documentation is in /proto")]
        #[allow(clippy::allow_attributes_without_reason, reason = "generated code; its source is /proto")]
        pub mod $name {
            tonic::include_proto!($package);
        }
    )*};
}

packages! {
    /// Enrolment, trust lists, addresses.
    identity = "huitong.identity.v1";
    /// Registration, listing, search, resolution.
    catalog = "huitong.catalog.v1";
    /// Negotiation between two connectors.
    contract = "huitong.contract.v1";
    /// Delivery under an agreement.
    transfer = "huitong.transfer.v1";
    /// Inclusion proofs.
    ledger = "huitong.ledger.v1";
    /// The operator's interface.
    admin = "huitong.admin.v1";
    /// What a failed call says.
    error = "huitong.error.v1";
}

/// Descriptors of everything that peers are served, for reflection.
pub const PEER_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peer.bin"));
/// Descriptors of the operator's interface, for reflection.
pub const OPERATOR_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/operator.bin"));
