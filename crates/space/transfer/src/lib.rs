//! Delivery (交付) of a product's bytes under an agreement, and the receipt (交易凭证) that both sides sign.
//!
//! This crate owns one transfer from the first frame to the receipt: the provider's decision whether bytes may move,
//! window mode (offer, acceptance, verified groups against cumulative signed acknowledgements, final), resume after a
//! crash of either side, usage counters, and the offline verification of receipts. It knows nothing of sockets or
//! gRPC (a face behind [`TransferPeer`] and [`EvidencePeer`]), nothing of where a [`Depot`] keeps what is put into it, and
//! nothing of how an agreement came about.

mod details;
mod evidence;
mod lanes;
mod model;
mod pace;
mod peer;
mod pieces;
mod places;
mod ranges;
pub mod receipt;
mod rules;
mod schedule;
mod service;
mod share;
mod tables;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
mod witnesses;

pub use details::{AckDetail, AckStatus, DatasetShape, OfferDetail};
pub use lanes::MOST_LANES;
pub use model::{
    Deposit, DepositState, Finality, FromConsumer, FromProvider, Metering, Priority, StartTransfer,
    Subscribe, Subscription, Suspender, Transfer, TransferSettings, TransferState, Want,
};
pub use pace::{LOWEST_RATE, Limited, Rates};
pub use peer::{Depot, DepotError, EvidencePeer, Frames, SubscriptionPeer, TransferPeer};
pub use pieces::Pieces;
pub use places::Place;
pub use schedule::Schedule;
pub use service::{Served, ServedLane, TOPIC, Transfers};
