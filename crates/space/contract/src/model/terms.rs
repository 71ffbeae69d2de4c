//! Terms: what one side proposes before anybody has agreed.

use huitong_identity::ServiceError;
use huitong_ids::{DataId, IdError, NodeId};
use huitong_policy::{Policy, PolicyError};
use huitong_proof::cbor::{FieldError, Fields, Limits, Map};
use huitong_proof::{ContentRoot, Digest};

/// The longest document (terms or agreement) a node reads, in bytes.
pub const MAXIMUM_DOCUMENT_BYTES: usize = 64 * 1024;

pub(super) const DOCUMENT_LIMITS: Limits = Limits { bytes: MAXIMUM_DOCUMENT_BYTES, depth: 4 };

/// The longest policy document inside terms, in bytes.
const MAXIMUM_POLICY_BYTES: usize = 8 * 1024;
/// contractName and dataProductName are C..128 (S14 Annex C).
const MAXIMUM_NAME_CHARACTERS: usize = 128;
/// payAmount is C..128 (S14 Annex C).
const MAXIMUM_PRICE_CHARACTERS: usize = 128;

const LABEL: &str = "huitong/terms/v1";

/// The terms of one product for one consumer: a document whose exact bytes a request, an offer and an acceptance
/// name by their SHA-256.
///
/// Encoded as a strict CBOR map: 1 `"huitong/terms/v1"`, 2 product id, 3 product name, 4 provider node,
/// 5 consumer node, 6 policy document, 7 content root, 8 size, 9 window bytes, 10 mode, 11 price, 12 coverage,
/// 13 version, of a series only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The product that is offered.
    pub product: DataId,
    /// The product's name, at most 128 characters; it becomes the contract's name.
    pub name: String,
    /// The node that delivers.
    pub provider: NodeId,
    /// The node that receives.
    pub consumer: NodeId,
    /// The usage policy, as the exact bytes of its JSON document, at most 8 KiB.
    pub policy: Vec<u8>,
    /// BLAKE3 root of the bytes that will be delivered.
    pub root: ContentRoot,
    /// Their number, in bytes.
    pub size: u64,
    /// How many bytes the provider sends beyond what the consumer has acknowledged with its signature.
    pub window_bytes: u64,
    /// How delivery and acknowledgement alternate.
    pub mode: Mode,
    /// The price in plain words, at most 128 characters; empty when none is asked.
    pub price: String,
    /// Which versions of the product are meant.
    pub coverage: Coverage,
    /// Of a series, the version with that root and size, as the registrar counts them from 1: no older one is delivered.
    pub version: Option<u64>,
}

/// Which versions of a product a contract covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Number 0: the one whose root and size the contract names.
    Version,
    /// Number 1: that one and every later one that a registrar certifies (数据集系列). Each delivery is of the version that is
    /// current when it begins.
    Series,
}

impl Coverage {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Version => 0,
            Self::Series => 1,
        }
    }

    /// As the provider's listing has it.
    #[must_use]
    pub const fn of_listing(is_series: bool) -> Self {
        if is_series { Self::Series } else { Self::Version }
    }
}

/// How delivery and acknowledgement alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Number 0: bytes flow in clear inside TLS, and cumulative signed acknowledgements open the next window.
    Window,
}

impl Mode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Window => 0,
        }
    }

    /// The mode with that number, if this version knows it.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Window),
            _ => None,
        }
    }
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not strict CBOR, or a field is missing, unknown or of the wrong type.
    #[error("{0}")]
    Field(String),
    /// A field holds a value outside its range.
    #[error("{field}: {reason}")]
    Value {
        /// The field, as `document.field`.
        field: &'static str,
        /// What is wrong and what is expected.
        reason: String,
    },
}

impl From<FieldError> for DocumentError {
    fn from(error: FieldError) -> Self {
        Self::Field(error.to_string())
    }
}

impl From<DocumentError> for ServiceError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::Field(reason) => Self::Invalid { field: "document".to_owned(), reason },
            DocumentError::Value { field, reason } => Self::Invalid { field: field.to_owned(), reason },
        }
    }
}

impl Terms {
    /// The document's bytes. Whoever signs terms signs these.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Map::new()
            .text(1, LABEL)
            .text(2, self.product.as_str())
            .text(3, &self.name)
            .text(4, self.provider.as_str())
            .text(5, self.consumer.as_str())
            .bytes(6, &self.policy)
            .bytes(7, self.root.as_bytes())
            .uint(8, self.size)
            .uint(9, self.window_bytes)
            .uint(10, self.mode.number())
            .text(11, &self.price)
            .uint(12, self.coverage.number())
            .maybe_uint(13, self.version)
            .encode()
    }

    /// Reads a document: refuses whatever [`Terms::encode`] would not have written.
    ///
    /// The policy is only bounded here, not parsed, so that terms with a policy this node cannot enforce can still
    /// be named in a refusal; see [`Terms::policy`].
    ///
    /// # Errors
    /// [`DocumentError`], naming the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        let mut fields = Fields::decode(bytes, DOCUMENT_LIMITS, "terms")?;
        label(&fields.text(1, "label")?, LABEL, "terms.label")?;
        let terms = Self {
            product: identifier(DataId::parse(&fields.text(2, "product")?), "terms.product")?,
            name: fields.text(3, "name")?,
            provider: identifier(NodeId::parse(&fields.text(4, "provider")?), "terms.provider")?,
            consumer: identifier(NodeId::parse(&fields.text(5, "consumer")?), "terms.consumer")?,
            policy: fields.bytes(6, "policy")?,
            root: content_root(&fields.bytes(7, "root")?, "terms.root")?,
            size: fields.uint(8, "size")?,
            window_bytes: fields.uint(9, "window bytes")?,
            mode: mode(fields.uint(10, "mode")?, "terms.mode")?,
            price: fields.text(11, "price")?,
            coverage: coverage(fields.uint(12, "coverage")?, "terms.coverage")?,
            version: fields.maybe_uint(13, "version")?,
        };
        fields.finish()?;
        terms.check()?;
        Ok(terms)
    }

    /// SHA-256 of the document: what the statements carry.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.encode())
    }

    /// The policy, parsed.
    ///
    /// # Errors
    /// Every problem of the policy document.
    pub fn policy(&self) -> Result<Policy, PolicyError> {
        Policy::parse(&self.policy)
    }

    /// The limits that the types alone do not keep.
    fn check(&self) -> Result<(), DocumentError> {
        bounded_text("terms.name", &self.name, 1, MAXIMUM_NAME_CHARACTERS)?;
        bounded_text("terms.price", &self.price, 0, MAXIMUM_PRICE_CHARACTERS)?;
        bounded_policy("terms.policy", &self.policy)?;
        version("terms.version", self.coverage, self.version)?;
        window("terms.window bytes", self.window_bytes)
    }
}

pub(super) fn label(found: &str, expected: &str, field: &'static str) -> Result<(), DocumentError> {
    if found == expected {
        return Ok(());
    }
    Err(DocumentError::Value {
        field,
        reason: format!("expected \"{expected}\", found another kind of document"),
    })
}

pub(super) fn identifier<T>(parsed: Result<T, IdError>, field: &'static str) -> Result<T, DocumentError> {
    parsed.map_err(|error| DocumentError::Value { field, reason: error.to_string() })
}

pub(super) fn mode(number: u64, field: &'static str) -> Result<Mode, DocumentError> {
    Mode::from_number(number).ok_or_else(|| DocumentError::Value {
        field,
        reason: format!("mode {number} is unknown; expected 0 (window)"),
    })
}

pub(super) fn coverage(number: u64, field: &'static str) -> Result<Coverage, DocumentError> {
    match number {
        0 => Ok(Coverage::Version),
        1 => Ok(Coverage::Series),
        _ => Err(DocumentError::Value {
            field,
            reason: format!("coverage {number} is unknown; expected 0 (version) or 1 (series)"),
        }),
    }
}

pub(super) fn version(
    field: &'static str,
    coverage: Coverage,
    version: Option<u64>,
) -> Result<(), DocumentError> {
    let reason = match (coverage, version) {
        (Coverage::Version, None) | (Coverage::Series, Some(1..)) => return Ok(()),
        (Coverage::Version, Some(_)) => "only a series names its oldest version",
        (Coverage::Series, _) => "a series names its oldest version, which is at least 1",
    };
    Err(DocumentError::Value { field, reason: reason.to_owned() })
}

pub(super) fn bounded_text(
    field: &'static str,
    text: &str,
    least: usize,
    most: usize,
) -> Result<(), DocumentError> {
    let characters = text.chars().count();
    if characters < least || characters > most {
        let reason = format!("expected {least} to {most} characters, found {characters}");
        return Err(DocumentError::Value { field, reason });
    }
    if text.chars().any(char::is_control) {
        let reason = "control characters are not allowed; remove line breaks and the like".to_owned();
        return Err(DocumentError::Value { field, reason });
    }
    Ok(())
}

pub(super) fn bounded_policy(field: &'static str, policy: &[u8]) -> Result<(), DocumentError> {
    if policy.len() > MAXIMUM_POLICY_BYTES {
        let reason = format!("expected at most {MAXIMUM_POLICY_BYTES} bytes, found {}", policy.len());
        return Err(DocumentError::Value { field, reason });
    }
    Ok(())
}

pub(super) fn window(field: &'static str, bytes: u64) -> Result<(), DocumentError> {
    if bytes == 0 {
        let reason = "a window of 0 bytes would never let a byte leave; give at least 1".to_owned();
        return Err(DocumentError::Value { field, reason });
    }
    Ok(())
}

pub(super) fn content_root(bytes: &[u8], field: &'static str) -> Result<ContentRoot, DocumentError> {
    let wrong =
        || DocumentError::Value { field, reason: format!("expected 32 bytes, found {}", bytes.len()) };
    ContentRoot::from_slice(bytes).ok_or_else(wrong)
}

/// Text from outside, made fit for a signed document: composed (NFC), one line, at most `characters` long.
pub(crate) fn short_text(text: &str, characters: usize) -> String {
    use unicode_normalization::UnicodeNormalization;
    text.nfc()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(characters)
        .collect::<String>()
        .nfc()
        .collect()
}
