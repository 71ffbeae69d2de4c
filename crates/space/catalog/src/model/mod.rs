//! What the catalog speaks about: code tables, records, signed details and publications.

mod codes;
mod detail;
mod publication;
mod record;
mod source;

pub use codes::{
    DataFormat, DeliveryForm, Grade, Origin, Ownership, PersonalInformation, SecurityLevel, UpdateFrequency,
};
pub use detail::{AssetCertificate, AssetKind, ListingNotice, Registration};
pub(crate) use publication::nfc;
pub use publication::{Announcement, Classification, Publication, PublicationState, Publish, ShelfProduct};
pub use record::{
    FileName, ListingRecord, MAX_POLICY_BYTES, MAX_WINDOW_BYTES, MIN_WINDOW_BYTES, ProductRecord,
    RecordError, ResourceRecord,
};
pub(crate) use record::{MAX_RECORD_BYTES, root};
pub use source::{OpenSource, Place, Source, SourceFile, SourceReader};
pub(crate) use source::{list, seal, stamp, walk};
