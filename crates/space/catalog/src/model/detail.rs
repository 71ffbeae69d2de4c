//! The details of the three catalog statements, typed.

use huitong_ids::{DataId, DataType, EntityCode};
use huitong_proof::cbor::{Fields, Map, Value};
use huitong_proof::{ContentRoot, Digest, Kind, Statement};

use super::record::{RecordError, data_ids, parsed, root};

/// What kind of asset is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssetKind {
    /// A data resource (数据资源).
    Resource,
    /// A data product (数据产品).
    Product,
}

impl AssetKind {
    /// The word in statements.
    pub fn word(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Product => "product",
        }
    }

    /// Reads the word back.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "resource" => Some(Self::Resource),
            "product" => Some(Self::Product),
            _ => None,
        }
    }

    /// The type of its identifier.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Resource => DataType::Resource,
            Self::Product => DataType::Product,
        }
    }
}

/// REGISTRATION (kind 20), connector to registrar: "register this record for me".
/// Detail: 1 `resource` or `product`, 2 SHA-256 of the record, 3 the identifier of which this is a new version (optional).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// What is to be registered.
    pub kind: AssetKind,
    /// SHA-256 of the record's bytes.
    pub record: Digest,
    /// The asset of which this is a new version (版本); `None` asks for an identifier of its own.
    pub renews: Option<DataId>,
}

impl Registration {
    /// The statement's detail.
    pub fn to_detail(&self) -> Map {
        let renews = self.renews.as_ref().map(DataId::as_str);
        Map::new().text(1, self.kind.word()).digest(2, &self.record).maybe_text(3, renews)
    }

    /// Reads the detail of a verified statement.
    pub fn from_statement(statement: &Statement) -> Result<Self, RecordError> {
        let mut fields = detail_of(statement, Kind::Registration, "registration")?;
        let kind = asset_kind(&fields.text(1, "kind")?)?;
        let record = fields.digest(2, "record")?;
        let renews = fields.maybe_text(3, "renews")?;
        fields.finish()?;
        let renews = renews.map(|id| parsed::<DataId>("registration.renews", &id)).transpose()?;
        if renews.as_ref().is_some_and(|id| id.data_type() != kind.data_type()) {
            let reason = format!("it is not the id of a {}", kind.word());
            return Err(RecordError::value("registration.renews", reason));
        }
        Ok(Self { kind, record, renews })
    }
}

/// ASSET CERTIFICATE (kind 21, 数据资产凭证), registrar to connector: "this record is registered under this id".
/// Detail: 1 data id, 2 SHA-256 of the record, 3 `resource` or `product`, 4 holder entity, 5 content root, 6 size,
/// 7 derived from, 8 version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetCertificate {
    /// The identifier that the registrar assigned.
    pub id: DataId,
    /// SHA-256 of the record's bytes.
    pub record: Digest,
    /// What is registered.
    pub kind: AssetKind,
    /// The entity that holds it.
    pub holder: EntityCode,
    /// BLAKE3 root of the content.
    pub root: ContentRoot,
    /// Bytes.
    pub size: u64,
    /// The resources a product is made of; empty for a resource.
    pub derived_from: Vec<DataId>,
    /// 1 for the first record registered under this identifier, then one more for each that renews it.
    pub version: u64,
}

impl AssetCertificate {
    /// The statement's detail.
    pub fn to_detail(&self) -> Map {
        let derived_from = self.derived_from.iter().map(|id| Value::Text(id.as_str().to_owned())).collect();
        Map::new()
            .text(1, self.id.as_str())
            .digest(2, &self.record)
            .text(3, self.kind.word())
            .text(4, self.holder.as_str())
            .bytes(5, self.root.as_bytes())
            .uint(6, self.size)
            .array(7, derived_from)
            .uint(8, self.version)
    }

    /// Reads the detail of a verified statement. The id's type must agree with the kind.
    pub fn from_statement(statement: &Statement) -> Result<Self, RecordError> {
        let mut fields = detail_of(statement, Kind::AssetCertificate, "certificate")?;
        let certificate = Self {
            id: parsed("certificate.id", &fields.text(1, "id")?)?,
            record: fields.digest(2, "record")?,
            kind: asset_kind(&fields.text(3, "kind")?)?,
            holder: parsed("certificate.holder", &fields.text(4, "holder")?)?,
            root: root(&mut fields, 5)?,
            size: fields.uint(6, "size")?,
            derived_from: data_ids("certificate.derived_from", fields.array(7, "derived_from")?)?,
            version: fields.uint(8, "version")?,
        };
        fields.finish()?;
        if certificate.version == 0 {
            return Err(RecordError::value("certificate.version", "expected 1 or more"));
        }
        if certificate.id.data_type() != certificate.kind.data_type() {
            let reason = format!("{} is not the id of a {}", certificate.id, certificate.kind.word());
            return Err(RecordError::value("certificate.id", reason));
        }
        Ok(certificate)
    }
}

/// LISTING (kind 22), connector to registrar: "this product is on offer like this".
/// Detail: 1 product id, 2 SHA-256 of the listing record, 3 version, 4 SHA-256 of the policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingNotice {
    /// The product on offer.
    pub product: DataId,
    /// SHA-256 of the listing record's bytes.
    pub record: Digest,
    /// The listing's version.
    pub version: u64,
    /// SHA-256 of the policy document.
    pub policy: Digest,
}

impl ListingNotice {
    /// The statement's detail.
    pub fn to_detail(&self) -> Map {
        Map::new()
            .text(1, self.product.as_str())
            .digest(2, &self.record)
            .uint(3, self.version)
            .digest(4, &self.policy)
    }

    /// Reads the detail of a verified statement.
    pub fn from_statement(statement: &Statement) -> Result<Self, RecordError> {
        let mut fields = detail_of(statement, Kind::Listing, "listing")?;
        let notice = Self {
            product: parsed("listing.product", &fields.text(1, "product")?)?,
            record: fields.digest(2, "record")?,
            version: fields.uint(3, "version")?,
            policy: fields.digest(4, "policy")?,
        };
        fields.finish()?;
        Ok(notice)
    }
}

fn detail_of(statement: &Statement, kind: Kind, what: &'static str) -> Result<Fields, RecordError> {
    if statement.kind() != kind {
        let reason =
            format!("expected a statement of kind {}, found {}", kind.name(), statement.kind().name());
        return Err(RecordError::value("statement.kind", reason));
    }
    Ok(statement.detail(what)?)
}

fn asset_kind(word: &str) -> Result<AssetKind, RecordError> {
    AssetKind::from_word(word).ok_or_else(|| {
        RecordError::value("statement.kind", format!("expected resource or product, found {word:?}"))
    })
}
