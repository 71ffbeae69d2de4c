//! The unified catalog (统一目录标识): what may be offered in a data space, under which identifier, and by whom.
//!
//! This crate owns the records of data resources, data products and listings, the asset certificates that the
//! registrar signs for them, search and resolution. A function node runs the [`Registry`]; a connector runs the
//! [`Shelf`], which publishes files and remembers where their bytes lie. It knows nothing of contracts, transfers
//! or counters, it never reads a dataset except to compute its root, and it opens no socket: the registrar is
//! reached through [`CatalogPeer`].

mod model;
mod peer;
mod rules;
mod service;
mod tables;
#[cfg(test)]
mod tests;
mod workers;

pub use model::{
    Announcement, AssetCertificate, AssetKind, Classification, DataFormat, DeliveryForm, FileName, Grade,
    ListingNotice, ListingRecord, MAX_POLICY_BYTES, MAX_WINDOW_BYTES, MIN_WINDOW_BYTES, OpenSource, Origin,
    Ownership, PersonalInformation, Place, ProductRecord, Publication, PublicationState, Publish,
    RecordError, Registration, ResourceRecord, SecurityLevel, ShelfProduct, Source, SourceFile, SourceReader,
    UpdateFrequency,
};
pub use peer::{
    CatalogPeer, Elsewhere, Hit, RemoteFile, RemoteReader, Resolution, Resolved, SearchPage, VerifiedProduct,
};
pub use service::{MAX_EXAMINED, MAX_KEYWORD_CHARS, MAX_PAGE, Registry, Shelf};
pub use workers::TOPIC;
