//! Publications: how a file on a connector becomes a listed product.

use std::path::PathBuf;

use huitong_identity::Refusal;
use huitong_ids::DataId;
use huitong_proof::cbor::{Map, Value};
use huitong_proof::{ContentRoot, Digest, FileDigests, Statement, Timestamp, WantedDigests};
use unicode_normalization::UnicodeNormalization;

use super::codes::{
    DataFormat, DeliveryForm, Grade, Origin, Ownership, PersonalInformation, SecurityLevel, UpdateFrequency,
};
use super::record::{FileName, ListingRecord, ProductRecord};
use super::source::{Place, Source};

/// 64 MiB: what a consumer may hold unacknowledged when the provider names nothing else.
const DEFAULT_WINDOW_BYTES: u64 = 64 << 20;

/// A command: publish this file or directory as a product.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Chosen by who asks, so that asking again is the same request.
    pub id: [u8; 16],
    /// A regular file, or a directory, which makes a dataset of all files in it; or the URL of an object or a prefix. Nothing is
    /// copied: they must stay where they are, unchanged, for as long as the product is on offer.
    pub file: PathBuf,
    /// Name of resource, product and listing: 1 to 128 characters on one line.
    pub name: String,
    /// Introduction, at most 1024 characters.
    pub intro: String,
    /// The policy document, at most 8 KiB; must parse.
    pub policy: Vec<u8>,
    /// The price in words, at most 128 characters; may be empty.
    pub price: String,
    /// Transfer window, 1 MiB to 1 GiB.
    pub window_bytes: u64,
    /// The product of which this is a new version; `None` makes a product of its own. A new version keeps the series, the
    /// classification, and whatever of name, introduction, policy, price and window is left empty here.
    pub renews: Option<DataId>,
    /// Whether contracts about the product cover its later versions too.
    pub series: bool,
    /// Whether the consumers of contracts about the series hear of it once it is listed (推送).
    pub push: bool,
    /// Which hashes beside the BLAKE3 root to compute; of a file only, and at the price of reading it once more.
    pub digests: WantedDigests,
    /// Where the product stands in the national code tables.
    pub classification: Classification,
}

impl Publish {
    /// A publication without price, with a window of 64 MiB and the default classification.
    pub fn new(
        id: [u8; 16],
        file: impl Into<PathBuf>,
        name: impl Into<String>,
        intro: impl Into<String>,
        policy: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            id,
            file: file.into(),
            name: name.into(),
            intro: intro.into(),
            policy: policy.into(),
            price: String::new(),
            window_bytes: DEFAULT_WINDOW_BYTES,
            renews: None,
            series: false,
            push: false,
            digests: WantedDigests::default(),
            classification: Classification::default(),
        }
    }

    /// Brings the texts into Unicode NFC, the only form that statements carry.
    pub(crate) fn normalised(mut self) -> Self {
        self.name = nfc(&self.name);
        self.intro = nfc(&self.intro);
        self.price = nfc(&self.price);
        self
    }

    /// Tells two requests with the same id apart. Call on the normalised request.
    pub(crate) fn fingerprint(&self) -> Digest {
        use std::os::unix::ffi::OsStrExt;
        let class = &self.classification;
        let codes = [
            class.ownership.code(),
            class.origin.code(),
            class.format.code(),
            class.delivery_form.code(),
            class.update_frequency.code(),
            class.security_level.code(),
            class.grade.code(),
            class.personal_information.code(),
        ];
        let request = Map::new()
            .bytes(1, self.file.as_os_str().as_bytes())
            .text(2, &self.name)
            .text(3, &self.intro)
            .bytes(4, &self.policy)
            .text(5, &self.price)
            .uint(6, self.window_bytes)
            .array(7, codes.iter().map(|code| Value::Text((*code).to_owned())).collect())
            .maybe_text(8, class.legacy_code.as_deref())
            .maybe_text(9, self.renews.as_ref().map(DataId::as_str))
            .boolean(10, self.series)
            .boolean(11, self.digests.sha256)
            .boolean(12, self.digests.sm3)
            .boolean(13, self.push);
        Digest::sha256(&request.encode())
    }
}

/// Where resource and product stand in the code tables. The default is an enterprise's own file of security level 002
/// (internal), of general grade, without personal information, delivered as a dataset, changing irregularly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classification {
    /// Whose kind of data it is.
    pub ownership: Ownership,
    /// How the holder came by it, T2.
    pub origin: Origin,
    /// The form it has at the holder.
    pub format: DataFormat,
    /// In which form it is delivered, T3.
    pub delivery_form: DeliveryForm,
    /// How often it changes, T4.
    pub update_frequency: UpdateFrequency,
    /// Security level, T6.
    pub security_level: SecurityLevel,
    /// Grade of GB/T 43697-2024.
    pub grade: Grade,
    /// Whether personal information is in it.
    pub personal_information: PersonalInformation,
    /// The resource's code in an older system.
    pub legacy_code: Option<String>,
}

impl Default for Classification {
    fn default() -> Self {
        Self {
            ownership: Ownership::Enterprise,
            origin: Origin::Original,
            format: DataFormat::File,
            delivery_form: DeliveryForm::Dataset,
            update_frequency: UpdateFrequency::Irregular,
            security_level: SecurityLevel::Internal,
            grade: Grade::General,
            personal_information: PersonalInformation::Absent,
            legacy_code: None,
        }
    }
}

/// How far a publication has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationState {
    /// The registrar has yet to certify the resource.
    RegisteringResource,
    /// The registrar has yet to certify the product.
    RegisteringProduct,
    /// The registrar has yet to take the listing into its catalog.
    Listing,
    /// On offer.
    Listed,
    /// Ended; [`Publication::reason`] says why.
    Failed,
}

impl PublicationState {
    /// One lower-case word for output.
    pub fn name(self) -> &'static str {
        match self {
            Self::RegisteringResource => "registering-resource",
            Self::RegisteringProduct => "registering-product",
            Self::Listing => "listing",
            Self::Listed => "listed",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::RegisteringResource | Self::RegisteringProduct | Self::Listing => false,
            Self::Listed | Self::Failed => true,
        }
    }
}

/// A publication as its operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Chosen by who asked for it; the subject of its statements.
    pub id: [u8; 16],
    /// How far it has come.
    pub state: PublicationState,
    /// Name of resource, product and listing.
    pub name: String,
    /// The name under which consumers save it.
    pub file_name: FileName,
    /// Where its bytes lie.
    pub place: Place,
    /// Bytes.
    pub size: u64,
    /// How many files the dataset has; `None` for a product that is one file.
    pub files: Option<u64>,
    /// BLAKE3 root of the content.
    pub root: ContentRoot,
    /// The resource's identifier, once registered.
    pub resource: Option<DataId>,
    /// The product's identifier, once registered.
    pub product: Option<DataId>,
    /// Whether contracts about the product cover its later versions too.
    pub series: bool,
    /// Hashes beside the root, as asked for.
    pub digests: FileDigests,
    /// Why it failed; only in state `Failed`.
    pub reason: Option<Refusal>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it last moved on.
    pub updated: Timestamp,
}

/// A new version that the consumers of its series are yet to hear of; see [`Publish::push`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The product.
    pub product: DataId,
    /// The negotiation up to which consumers have been told; `None` at the beginning.
    pub after: Option<[u8; 16]>,
}

/// A product on offer here: what contracts and transfers need to know of it.
#[derive(Debug, Clone)]
pub struct ShelfProduct {
    /// The product's identifier.
    pub product: DataId,
    /// What is registered.
    pub record: ProductRecord,
    /// The registrar's ASSET CERTIFICATE over it.
    pub certificate: Statement,
    /// Which version of the product this is, as the certificate says.
    pub version: u64,
    /// The offer: policy, price, window.
    pub listing: ListingRecord,
    /// Where its bytes lie.
    pub source: Source,
}

pub(crate) fn nfc(text: &str) -> String {
    text.nfc().collect()
}
