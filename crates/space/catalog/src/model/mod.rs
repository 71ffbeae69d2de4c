//! What the catalog speaks about: code tables, records, signed details and publications.

mod codes;
mod detail;
mod publication;
mod record;

pub use codes::{
    DataFormat, DeliveryForm, Grade, Origin, Ownership, PersonalInformation, SecurityLevel, UpdateFrequency,
};
pub use detail::{AssetCertificate, AssetKind, ListingNotice, Registration};
pub use publication::{Classification, Publication, PublicationState, Publish, ShelfProduct, Source};
pub(crate) use publication::{file_name_of, modified_nanos, nfc, regular_file};
pub use record::{
    FileName, ListingRecord, MAX_POLICY_BYTES, MAX_WINDOW_BYTES, MIN_WINDOW_BYTES, ProductRecord,
    RecordError, ResourceRecord,
};
pub(crate) use record::{MAX_RECORD_BYTES, root};
