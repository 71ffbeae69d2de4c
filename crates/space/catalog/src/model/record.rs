//! The three catalog documents. Each is one strict CBOR map whose first entry names its form; the exact bytes are
//! what statements name by SHA-256, so a record is never encoded again once it has been signed.

use std::fmt::Display;
use std::str::FromStr;

use huitong_ids::{DataId, DataType, EntityCode, NodeId};
use huitong_policy::Policy;
use huitong_proof::cbor::{FieldError, Fields, Limits, Map, Value};
use huitong_proof::{ContentRoot, Digest, FileDigests, MAX_FILES, check_name};

use super::codes::{
    DataFormat, DeliveryForm, Grade, Origin, Ownership, PersonalInformation, SecurityLevel, UpdateFrequency,
};

/// The longest policy document, in bytes.
pub const MAX_POLICY_BYTES: usize = 8 * 1024;
/// The smallest transfer window: one content group, in bytes.
pub const MIN_WINDOW_BYTES: u64 = 1 << 20;
/// The largest transfer window, in bytes.
pub const MAX_WINDOW_BYTES: u64 = 1 << 30;
/// The longest encoded record, in bytes.
pub(crate) const MAX_RECORD_BYTES: usize = 32 * 1024;
/// The most resources a product may derive from.
const MAX_DERIVED_FROM: usize = 64;

const MAX_NAME_CHARS: usize = 128;
const MAX_INTRO_CHARS: usize = 1024;
const MAX_PRICE_CHARS: usize = 128;
const LIMITS: Limits = Limits { bytes: MAX_RECORD_BYTES, depth: 3 };

const RESOURCE_FORM: &str = "huitong/resource/v1";
const PRODUCT_FORM: &str = "huitong/product/v1";
const LISTING_FORM: &str = "huitong/listing/v1";
/// Delivery method 01, file (文件), of the contract dictionary (TC609-6-2025-14 annex C).
const DELIVERY_METHOD_FILE: &str = "01";

/// Why a record is not one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not a strict CBOR map with the expected entries.
    #[error(transparent)]
    Shape(#[from] FieldError),
    /// An entry has a value that it may not have.
    #[error("{field}: {reason}")]
    Value {
        /// Path of the entry, such as `product.name`.
        field: &'static str,
        /// What is wrong and what is expected.
        reason: String,
    },
}

impl RecordError {
    pub(crate) fn value(field: &'static str, reason: impl Display) -> Self {
        Self::Value { field, reason: reason.to_string() }
    }
}

impl From<RecordError> for huitong_identity::ServiceError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Shape(error) => Self::from(error),
            RecordError::Value { field, reason } => Self::Invalid { field: field.to_owned(), reason },
        }
    }
}

/// Data resource (数据资源): what a holder has. The node's reconstruction of the national resource dictionary
/// (NDI-TR-2025-06 table A.1).
///
/// CBOR entries: 1 `huitong/resource/v1`, 2 name, 3 abstract, 4 holder entity, 5 holder name, 6 ownership class,
/// 7 origin (T2), 8 format, 9 update frequency (T4), 10 security level (T6), 11 grade, 12 personal information,
/// 13 size, 14 content root, 15 SHA-256 (optional), 16 legacy code (optional), 17 SM3 (optional).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRecord {
    /// 1 to 128 characters on one line.
    pub name: String,
    /// Abstract (摘要), at most 1024 characters.
    pub summary: String,
    /// The entity that holds the data.
    pub holder: EntityCode,
    /// The holder's registered name, at most 128 characters.
    pub holder_name: String,
    /// Whose kind of data it is.
    pub ownership: Ownership,
    /// How the holder came by it.
    pub origin: Origin,
    /// The form it has at the holder.
    pub format: DataFormat,
    /// How often it changes.
    pub update_frequency: UpdateFrequency,
    /// Security level, T6.
    pub security_level: SecurityLevel,
    /// Grade of GB/T 43697-2024.
    pub grade: Grade,
    /// Whether personal information is in it.
    pub personal_information: PersonalInformation,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 root of the content: what `b3sum` prints.
    pub root: ContentRoot,
    /// Hashes of the file beside its root, where the holder asked for them.
    pub digests: FileDigests,
    /// The code of an older system (扩展码), 1 to 32 printable ASCII characters; becomes the identifier's extension.
    pub legacy_code: Option<String>,
}

impl ResourceRecord {
    /// Encodes the record; fails when a text breaks its bound.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        Ok(Map::new()
            .text(1, RESOURCE_FORM)
            .text(2, &self.name)
            .text(3, &self.summary)
            .text(4, self.holder.as_str())
            .text(5, &self.holder_name)
            .text(6, self.ownership.code())
            .text(7, self.origin.code())
            .text(8, self.format.code())
            .text(9, self.update_frequency.code())
            .text(10, self.security_level.code())
            .text(11, self.grade.code())
            .boolean(12, self.personal_information.is_present())
            .uint(13, self.size)
            .bytes(14, self.root.as_bytes())
            .maybe_digest(15, self.digests.sha256.as_ref())
            .maybe_text(16, self.legacy_code.as_deref())
            .maybe_digest(17, self.digests.sm3.as_ref())
            .encode())
    }

    /// Reads a record strictly: unknown, missing and out-of-bound entries are errors.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::decode(bytes, LIMITS, "resource")?;
        form(&mut fields, "resource.form", RESOURCE_FORM)?;
        let record = Self {
            name: fields.text(2, "name")?,
            summary: fields.text(3, "abstract")?,
            holder: parsed("resource.holder", &fields.text(4, "holder")?)?,
            holder_name: fields.text(5, "holder_name")?,
            ownership: code(
                "resource.ownership",
                &fields.text(6, "ownership")?,
                Ownership::from_code,
                Ownership::codes,
            )?,
            origin: code("resource.origin", &fields.text(7, "origin")?, Origin::from_code, Origin::codes)?,
            format: code(
                "resource.format",
                &fields.text(8, "format")?,
                DataFormat::from_code,
                DataFormat::codes,
            )?,
            update_frequency: code(
                "resource.update_frequency",
                &fields.text(9, "update_frequency")?,
                UpdateFrequency::from_code,
                UpdateFrequency::codes,
            )?,
            security_level: code(
                "resource.security_level",
                &fields.text(10, "security_level")?,
                SecurityLevel::from_code,
                SecurityLevel::codes,
            )?,
            grade: code("resource.grade", &fields.text(11, "grade")?, Grade::from_code, Grade::codes)?,
            personal_information: PersonalInformation::from_flag(fields.boolean(12, "personal_information")?),
            size: fields.uint(13, "size")?,
            root: root(&mut fields, 14)?,
            digests: FileDigests {
                sha256: fields.maybe_digest(15, "sha256")?,
                sm3: fields.maybe_digest(17, "sm3")?,
            },
            legacy_code: fields.maybe_text(16, "legacy_code")?,
        };
        fields.finish()?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), RecordError> {
        check_line("resource.name", &self.name, MAX_NAME_CHARS)?;
        check_text("resource.abstract", &self.summary, MAX_INTRO_CHARS)?;
        check_line("resource.holder_name", &self.holder_name, MAX_NAME_CHARS)?;
        let plain =
            |code: &str| (1..=32).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.legacy_code.as_deref().is_none_or(plain) {
            let expected = "expected 1 to 32 printable ASCII characters without space";
            return Err(RecordError::value("resource.legacy_code", expected));
        }
        Ok(())
    }
}

/// Data product (数据产品): what a provider makes of its resources and offers (NDI-TR-2025-06 table A.2).
///
/// CBOR entries: 1 `huitong/product/v1`, 2 name, 3 intro, 4 delivery form (T3), 5 provider entity, 6 provider node,
/// 7 derived from, 8 size, 9 content root, 10 update frequency (T4), 11 security level (T6), 12 grade,
/// 13 personal information, 14 file name, 15 number of files (only for a dataset of files: then 14 names its directory, and 9
/// is the BLAKE3 hash of its manifest), 16 SHA-256 (optional), 17 SM3 (optional).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductRecord {
    /// 1 to 128 characters on one line.
    pub name: String,
    /// At most 1024 characters.
    pub intro: String,
    /// In which form it is delivered.
    pub delivery_form: DeliveryForm,
    /// The entity that provides it.
    pub provider_entity: EntityCode,
    /// The connector that delivers it.
    pub provider: NodeId,
    /// The resources it is made of: 1 to 64 distinct resource ids.
    pub derived_from: Vec<DataId>,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 root of the content.
    pub root: ContentRoot,
    /// How often it changes.
    pub update_frequency: UpdateFrequency,
    /// Security level, T6.
    pub security_level: SecurityLevel,
    /// Grade of GB/T 43697-2024.
    pub grade: Grade,
    /// Whether personal information is in it.
    pub personal_information: PersonalInformation,
    /// The name under which a consumer saves it: of the file, or of the dataset's directory.
    pub file_name: FileName,
    /// How many files the dataset has, 1 to 100,000; `None` for a product that is one file.
    pub files: Option<u64>,
    /// Hashes of the file beside its root, where the provider asked for them.
    pub digests: FileDigests,
}

impl ProductRecord {
    /// Encodes the record; fails when a text or list breaks its bound.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        let derived_from = self.derived_from.iter().map(|id| Value::Text(id.as_str().to_owned())).collect();
        Ok(Map::new()
            .text(1, PRODUCT_FORM)
            .text(2, &self.name)
            .text(3, &self.intro)
            .text(4, self.delivery_form.code())
            .text(5, self.provider_entity.as_str())
            .text(6, self.provider.as_str())
            .array(7, derived_from)
            .uint(8, self.size)
            .bytes(9, self.root.as_bytes())
            .text(10, self.update_frequency.code())
            .text(11, self.security_level.code())
            .text(12, self.grade.code())
            .boolean(13, self.personal_information.is_present())
            .text(14, self.file_name.as_str())
            .maybe_uint(15, self.files)
            .maybe_digest(16, self.digests.sha256.as_ref())
            .maybe_digest(17, self.digests.sm3.as_ref())
            .encode())
    }

    /// Reads a record strictly: unknown, missing and out-of-bound entries are errors.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::decode(bytes, LIMITS, "product")?;
        form(&mut fields, "product.form", PRODUCT_FORM)?;
        let record = Self {
            name: fields.text(2, "name")?,
            intro: fields.text(3, "intro")?,
            delivery_form: code(
                "product.delivery_form",
                &fields.text(4, "delivery_form")?,
                DeliveryForm::from_code,
                DeliveryForm::codes,
            )?,
            provider_entity: parsed("product.provider_entity", &fields.text(5, "provider_entity")?)?,
            provider: parsed("product.provider", &fields.text(6, "provider")?)?,
            derived_from: data_ids("product.derived_from", fields.array(7, "derived_from")?)?,
            size: fields.uint(8, "size")?,
            root: root(&mut fields, 9)?,
            update_frequency: code(
                "product.update_frequency",
                &fields.text(10, "update_frequency")?,
                UpdateFrequency::from_code,
                UpdateFrequency::codes,
            )?,
            security_level: code(
                "product.security_level",
                &fields.text(11, "security_level")?,
                SecurityLevel::from_code,
                SecurityLevel::codes,
            )?,
            grade: code("product.grade", &fields.text(12, "grade")?, Grade::from_code, Grade::codes)?,
            personal_information: PersonalInformation::from_flag(fields.boolean(13, "personal_information")?),
            file_name: FileName::parse(&fields.text(14, "file_name")?)?,
            files: fields.maybe_uint(15, "files")?,
            digests: FileDigests {
                sha256: fields.maybe_digest(16, "sha256")?,
                sm3: fields.maybe_digest(17, "sm3")?,
            },
        };
        fields.finish()?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), RecordError> {
        check_line("product.name", &self.name, MAX_NAME_CHARS)?;
        check_text("product.intro", &self.intro, MAX_INTRO_CHARS)?;
        if !self.files.is_none_or(|files| (1..=MAX_FILES as u64).contains(&files)) {
            return Err(RecordError::value("product.files", format!("expected 1 to {MAX_FILES} files")));
        }
        let field = "product.derived_from";
        if self.derived_from.is_empty() || self.derived_from.len() > MAX_DERIVED_FROM {
            return Err(RecordError::value(field, format!("expected 1 to {MAX_DERIVED_FROM} resource ids")));
        }
        for (position, id) in self.derived_from.iter().enumerate() {
            if id.data_type() != DataType::Resource {
                return Err(RecordError::value(field, format!("{id} is not the id of a resource")));
            }
            if self.derived_from.iter().take(position).any(|earlier| earlier == id) {
                return Err(RecordError::value(field, format!("{id} is named twice")));
            }
        }
        Ok(())
    }
}

/// Listing (上架): a product offered with its policy, price and delivery (NDI-TR-2025-06 table A.3).
///
/// CBOR entries: 1 `huitong/listing/v1`, 2 product id, 3 provider node, 4 name, 5 intro, 6 policy document,
/// 7 price, 8 delivery method (`01`, file), 9 version, 10 window bytes, 11 series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingRecord {
    /// The product on offer.
    pub product: DataId,
    /// The connector that offers it.
    pub provider: NodeId,
    /// 1 to 128 characters on one line.
    pub name: String,
    /// At most 1024 characters.
    pub intro: String,
    /// The policy document, byte for byte as its author wrote it; at most 8 KiB.
    pub policy: Vec<u8>,
    /// The price in words, at most 128 characters; empty means none is named.
    pub price: String,
    /// 1 for the first listing of a product, then one more for each change.
    pub version: u64,
    /// How many bytes a consumer may hold without having acknowledged them; 1 MiB to 1 GiB.
    pub window_bytes: u64,
    /// Whether a contract covers later versions of the product too (数据集系列), or only the one that is agreed on.
    pub series: bool,
}

impl ListingRecord {
    /// Encodes the record; fails when an entry breaks its bound. Does not parse the policy.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        self.check()?;
        Ok(Map::new()
            .text(1, LISTING_FORM)
            .text(2, self.product.as_str())
            .text(3, self.provider.as_str())
            .text(4, &self.name)
            .text(5, &self.intro)
            .bytes(6, &self.policy)
            .text(7, &self.price)
            .text(8, DELIVERY_METHOD_FILE)
            .uint(9, self.version)
            .uint(10, self.window_bytes)
            .boolean(11, self.series)
            .encode())
    }

    /// Reads a record strictly: unknown, missing and out-of-bound entries are errors. Does not parse the policy.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::decode(bytes, LIMITS, "listing")?;
        form(&mut fields, "listing.form", LISTING_FORM)?;
        let product = parsed("listing.product", &fields.text(2, "product")?)?;
        let provider = parsed("listing.provider", &fields.text(3, "provider")?)?;
        let name = fields.text(4, "name")?;
        let intro = fields.text(5, "intro")?;
        let policy = fields.bytes(6, "policy")?;
        let price = fields.text(7, "price")?;
        let method = fields.text(8, "delivery_method")?;
        if method != DELIVERY_METHOD_FILE {
            let expected = format!("expected {DELIVERY_METHOD_FILE} (file), found {method:?}");
            return Err(RecordError::value("listing.delivery_method", expected));
        }
        let version = fields.uint(9, "version")?;
        let window_bytes = fields.uint(10, "window_bytes")?;
        let series = fields.boolean(11, "series")?;
        fields.finish()?;
        let record = Self { product, provider, name, intro, policy, price, version, window_bytes, series };
        record.check()?;
        Ok(record)
    }

    /// SHA-256 of the policy document.
    pub fn policy_digest(&self) -> Digest {
        Digest::sha256(&self.policy)
    }

    /// The policy, parsed; the error lists every problem in it.
    pub fn parse_policy(&self) -> Result<Policy, RecordError> {
        Policy::parse(&self.policy).map_err(|error| RecordError::value("listing.policy", error))
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.product.data_type() != DataType::Product {
            return Err(RecordError::value(
                "listing.product",
                format!("{} is not the id of a product", self.product),
            ));
        }
        check_line("listing.name", &self.name, MAX_NAME_CHARS)?;
        check_text("listing.intro", &self.intro, MAX_INTRO_CHARS)?;
        if self.policy.is_empty() || self.policy.len() > MAX_POLICY_BYTES {
            let expected = format!("expected 1 to {MAX_POLICY_BYTES} bytes, found {}", self.policy.len());
            return Err(RecordError::value("listing.policy", expected));
        }
        check_text("listing.price", &self.price, MAX_PRICE_CHARS)?;
        if self.version == 0 {
            return Err(RecordError::value("listing.version", "expected 1 or more"));
        }
        if self.window_bytes < MIN_WINDOW_BYTES || self.window_bytes > MAX_WINDOW_BYTES {
            let expected = format!(
                "expected {MIN_WINDOW_BYTES} to {MAX_WINDOW_BYTES} bytes, found {}",
                self.window_bytes
            );
            return Err(RecordError::value("listing.window_bytes", expected));
        }
        Ok(())
    }
}

/// A plain file name, safe to join to a directory: 1 to 255 bytes, no `/` or `\`, no control character, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileName(String);

impl FileName {
    /// Checks and keeps the name.
    pub fn parse(name: &str) -> Result<Self, RecordError> {
        check_name(name).map_err(|reason| RecordError::value("product.file_name", reason))?;
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads an identifier out of a text entry.
pub(crate) fn parsed<T: FromStr>(field: &'static str, text: &str) -> Result<T, RecordError>
where
    T::Err: Display,
{
    text.parse().map_err(|error| RecordError::value(field, error))
}

/// Reads a bounded list of data ids.
pub(crate) fn data_ids(field: &'static str, values: Vec<Value>) -> Result<Vec<DataId>, RecordError> {
    if values.len() > MAX_DERIVED_FROM {
        return Err(RecordError::value(field, format!("expected at most {MAX_DERIVED_FROM} ids")));
    }
    values
        .into_iter()
        .map(|value| match value {
            Value::Text(text) => parsed(field, &text),
            _ => Err(RecordError::value(field, "expected an array of text")),
        })
        .collect()
}

/// Reads a 32-byte content root.
pub(crate) fn root(fields: &mut Fields, key: u64) -> Result<ContentRoot, RecordError> {
    let bytes = fields.fixed::<32>(key, "root")?;
    ContentRoot::from_slice(&bytes).ok_or_else(|| RecordError::value("root", "expected 32 bytes"))
}

fn form(fields: &mut Fields, field: &'static str, expected: &str) -> Result<(), RecordError> {
    let found = fields.text(1, "form")?;
    if found == expected {
        return Ok(());
    }
    Err(RecordError::value(field, format!("expected {expected}, found {found:?}")))
}

fn code<T>(
    field: &'static str,
    text: &str,
    read: impl Fn(&str) -> Option<T>,
    codes: impl Fn() -> String,
) -> Result<T, RecordError> {
    read(text)
        .ok_or_else(|| RecordError::value(field, format!("expected one of {}, found {text:?}", codes())))
}

fn check_line(field: &'static str, text: &str, maximum: usize) -> Result<(), RecordError> {
    if text.trim().is_empty() {
        return Err(RecordError::value(field, "may not be empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(RecordError::value(field, "control characters and line breaks may not appear in it"));
    }
    check_length(field, text, maximum)
}

fn check_text(field: &'static str, text: &str, maximum: usize) -> Result<(), RecordError> {
    if text.chars().any(|character| character.is_control() && character != '\n' && character != '\t') {
        return Err(RecordError::value(field, "control characters may not appear in it"));
    }
    check_length(field, text, maximum)
}

fn check_length(field: &'static str, text: &str, maximum: usize) -> Result<(), RecordError> {
    let length = text.chars().count();
    if length > maximum {
        return Err(RecordError::value(
            field,
            format!("expected at most {maximum} characters, found {length}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
