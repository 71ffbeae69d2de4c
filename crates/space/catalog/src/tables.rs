//! What the catalog keeps, and how it is found. Every row is a CBOR map that begins with its version under key 0.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use huitong_identity::{Refusal, ServiceError};
use huitong_ids::{DataId, NodeId};
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_proof::{ContentRoot, Digest, Timestamp};
use huitong_store::{Read, Row, Table, Tx};

use crate::model::{
    Announcement, DeliveryForm, FileName, Place, Publication, PublicationState, ResourceRecord,
    SecurityLevel, Source,
};
use crate::peer::Hit;

/// Registered resources and products, by data id.
pub(crate) const ASSETS: Table = Table::with_history("catalog.asset");
/// Data id of what a node registered, by node id, kind character (`6` or `7`) and publication id.
pub(crate) const REGISTERED: Table = Table::new("catalog.registered");
/// Listings in force, by product id.
pub(crate) const LISTINGS: Table = Table::with_history("catalog.listing");
/// What a search looks at, by the place of the LISTING in the ledger, counted down: the newest comes first.
pub(crate) const RECENT: Table = Table::new("catalog.recent");
/// Publications of this connector, by publication id.
pub(crate) const PUBLICATIONS: Table = Table::with_history("catalog.publication");
/// Publication id of a product's newest version, by product id.
pub(crate) const PRODUCTS: Table = Table::new("catalog.product");
/// Publication id, by product id and content root: every version that was listed.
pub(crate) const VERSIONS: Table = Table::new("catalog.version");

/// Products of whose newest version consumers are yet to hear, by product id: what was announced last, or nothing.
const ANNOUNCEMENTS: Table = Table::new("catalog.announcement");

const VERSION: u64 = 1;
const LIMITS: Limits = Limits { bytes: 256 * 1024, depth: 4 };

/// A registered resource or product.
pub(crate) struct AssetRow {
    pub(crate) record: Vec<u8>,
    pub(crate) certificate: Digest,
    pub(crate) owner: NodeId,
    pub(crate) owner_name: String,
    pub(crate) registered: Timestamp,
    /// As the certificate has it.
    pub(crate) version: u64,
}

impl AssetRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Map::new()
            .uint(0, VERSION)
            .bytes(1, &self.record)
            .digest(2, &self.certificate)
            .text(3, self.owner.as_str())
            .text(4, &self.owner_name)
            .uint(5, self.registered.millis())
            .uint(6, self.version)
            .encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = open(bytes, "asset")?;
        let row = Self {
            record: fields.bytes(1, "record")?,
            certificate: fields.digest(2, "certificate")?,
            owner: read(&fields.text(3, "owner")?)?,
            owner_name: fields.text(4, "owner_name")?,
            registered: Timestamp::from_millis(fields.uint(5, "registered")?),
            version: fields.uint(6, "version")?,
        };
        fields.finish()?;
        Ok(row)
    }
}

/// The listing of a product that is in force.
pub(crate) struct ListingRow {
    pub(crate) record: Vec<u8>,
    pub(crate) statement: Digest,
    pub(crate) version: u64,
    /// Place of the LISTING in the ledger; leads to its row in [`RECENT`].
    pub(crate) position: u64,
    pub(crate) listed: Timestamp,
    /// The product as it was registered when it was listed: a version that is not listed yet is not shown.
    pub(crate) product_record: Vec<u8>,
    /// The certificate over that.
    pub(crate) certificate: Digest,
}

impl ListingRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Map::new()
            .uint(0, VERSION)
            .bytes(1, &self.record)
            .digest(2, &self.statement)
            .uint(3, self.version)
            .uint(4, self.position)
            .uint(5, self.listed.millis())
            .bytes(6, &self.product_record)
            .digest(7, &self.certificate)
            .encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = open(bytes, "listing")?;
        let row = Self {
            record: fields.bytes(1, "record")?,
            statement: fields.digest(2, "statement")?,
            version: fields.uint(3, "version")?,
            position: fields.uint(4, "position")?,
            listed: Timestamp::from_millis(fields.uint(5, "listed")?),
            product_record: fields.bytes(6, "product_record")?,
            certificate: fields.digest(7, "certificate")?,
        };
        fields.finish()?;
        Ok(row)
    }
}

/// One listing as a search sees it.
pub(crate) struct RecentRow {
    pub(crate) hit: Hit,
    /// From [`crate::rules::searchable`].
    pub(crate) searchable: String,
}

impl RecentRow {
    /// The newest listing has the smallest key.
    pub(crate) fn key(position: u64) -> [u8; 8] {
        u64::MAX.saturating_sub(position).to_be_bytes()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        Map::new()
            .uint(0, VERSION)
            .text(1, self.hit.product.as_str())
            .text(2, &self.hit.name)
            .text(3, &self.hit.intro)
            .text(4, self.hit.provider.as_str())
            .text(5, &self.hit.provider_name)
            .text(6, self.hit.security_level.code())
            .uint(7, self.hit.size)
            .text(8, &self.searchable)
            .encode()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = open(bytes, "search entry")?;
        let hit = Hit {
            product: read(&fields.text(1, "product")?)?,
            name: fields.text(2, "name")?,
            intro: fields.text(3, "intro")?,
            provider: read(&fields.text(4, "provider")?)?,
            provider_name: fields.text(5, "provider_name")?,
            security_level: SecurityLevel::from_code(&fields.text(6, "security_level")?)
                .ok_or_else(|| damaged("search entry has an unknown security level"))?,
            size: fields.uint(7, "size")?,
        };
        let searchable = fields.text(8, "searchable")?;
        fields.finish()?;
        Ok(Self { hit, searchable })
    }
}

/// A publication with everything that its next step needs.
#[derive(Clone)]
pub(crate) struct PublicationRow {
    pub(crate) state: PublicationState,
    /// [`crate::model::Publish::fingerprint`]: tells two requests with the same id apart.
    pub(crate) request: Digest,
    pub(crate) source: Source,
    pub(crate) file_name: FileName,
    pub(crate) delivery_form: DeliveryForm,
    pub(crate) policy: Vec<u8>,
    pub(crate) price: String,
    pub(crate) window_bytes: u64,
    /// Whether contracts about the product cover its later versions too.
    pub(crate) series: bool,
    /// Whether consumers hear of it once it is listed.
    pub(crate) push: bool,
    /// The publication of which this is a new version.
    pub(crate) renews: Option<[u8; 16]>,
    /// The publication that is, or is to become, the next version of this one.
    pub(crate) renewed_by: Option<[u8; 16]>,
    pub(crate) resource_record: Vec<u8>,
    pub(crate) resource: Option<Certified>,
    pub(crate) product_record: Option<Vec<u8>>,
    pub(crate) product: Option<Certified>,
    pub(crate) listing_record: Option<Vec<u8>>,
    pub(crate) reason: Option<Refusal>,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
}

/// An identifier the registrar assigned, and the digest of its certificate.
#[derive(Clone)]
pub(crate) struct Certified {
    pub(crate) id: DataId,
    pub(crate) certificate: Digest,
}

impl PublicationRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let source = Map::new()
            .maybe_bytes(
                1,
                match &self.source.place {
                    Place::Here(path) => Some(path.as_os_str().as_bytes()),
                    Place::Elsewhere(_) => None,
                },
            )
            .uint(2, self.source.size)
            .bytes(4, self.source.root.as_bytes())
            .maybe_uint(5, self.source.files)
            .digest(6, &self.source.stamp)
            .digest(8, &self.source.seal)
            .maybe_text(
                7,
                match &self.source.place {
                    Place::Here(_) => None,
                    Place::Elsewhere(url) => Some(url),
                },
            );
        let mut row = Map::new()
            .uint(0, VERSION)
            .uint(1, state_number(self.state))
            .digest(2, &self.request)
            .map(3, source)
            .text(4, self.file_name.as_str())
            .text(5, self.delivery_form.code())
            .bytes(6, &self.policy)
            .text(7, &self.price)
            .uint(8, self.window_bytes)
            .bytes(9, &self.resource_record)
            .maybe_text(10, self.resource.as_ref().map(|resource| resource.id.as_str()))
            .maybe_digest(11, self.resource.as_ref().map(|resource| &resource.certificate))
            .maybe_bytes(12, self.product_record.as_deref())
            .maybe_text(13, self.product.as_ref().map(|product| product.id.as_str()))
            .maybe_digest(14, self.product.as_ref().map(|product| &product.certificate))
            .maybe_bytes(15, self.listing_record.as_deref())
            .uint(17, self.created.millis())
            .uint(18, self.updated.millis())
            .boolean(19, self.series)
            .maybe_bytes(20, self.renews.as_ref().map(<[u8; 16]>::as_slice))
            .maybe_bytes(21, self.renewed_by.as_ref().map(<[u8; 16]>::as_slice))
            .boolean(22, self.push);
        if let Some(reason) = &self.reason {
            row = row
                .map(16, Map::new().text(1, &reason.code).text(2, &reason.reason).text(3, &reason.next_step));
        }
        row.encode()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = open(bytes, "publication")?;
        let mut source = fields.fields(3, "source")?;
        let source_row = Source {
            place: match (source.maybe_bytes(1, "path")?, source.maybe_text(7, "url")?) {
                (Some(path), None) => Place::Here(PathBuf::from(OsString::from_vec(path))),
                (None, Some(url)) => Place::Elsewhere(url),
                _ => return Err(damaged("a publication lies neither here nor elsewhere")),
            },
            size: source.uint(2, "size")?,
            root: crate::model::root(&mut source, 4)?,
            files: source.maybe_uint(5, "files")?,
            stamp: source.digest(6, "stamp")?,
            seal: source.digest(8, "seal")?,
        };
        source.finish()?;
        let reason = match fields.maybe_value(16, "reason")? {
            None => None,
            Some(value) => {
                let mut reason = Fields::from_value(value, "reason")?;
                Some(Refusal::new(
                    reason.text(1, "code")?,
                    reason.text(2, "reason")?,
                    reason.text(3, "next_step")?,
                ))
            }
        };
        let row = Self {
            state: state_of(fields.uint(1, "state")?)?,
            request: fields.digest(2, "request")?,
            source: source_row,
            file_name: FileName::parse(&fields.text(4, "file_name")?)?,
            delivery_form: DeliveryForm::from_code(&fields.text(5, "delivery_form")?)
                .ok_or_else(|| damaged("publication has an unknown delivery form"))?,
            policy: fields.bytes(6, "policy")?,
            price: fields.text(7, "price")?,
            window_bytes: fields.uint(8, "window_bytes")?,
            series: fields.boolean(19, "series")?,
            push: fields.boolean(22, "push")?,
            renews: publication_id(fields.maybe_bytes(20, "renews")?)?,
            renewed_by: publication_id(fields.maybe_bytes(21, "renewed_by")?)?,
            resource_record: fields.bytes(9, "resource_record")?,
            resource: certified(fields.maybe_text(10, "resource")?, fields.maybe_digest(11, "certificate")?)?,
            product_record: fields.maybe_bytes(12, "product_record")?,
            product: certified(fields.maybe_text(13, "product")?, fields.maybe_digest(14, "certificate")?)?,
            listing_record: fields.maybe_bytes(15, "listing_record")?,
            reason,
            created: Timestamp::from_millis(fields.uint(17, "created")?),
            updated: Timestamp::from_millis(fields.uint(18, "updated")?),
        };
        fields.finish()?;
        Ok(row)
    }

    /// What the operator sees.
    pub(crate) fn publication(self, id: [u8; 16]) -> Result<Publication, ServiceError> {
        let resource = ResourceRecord::decode(&self.resource_record)?;
        Ok(Publication {
            id,
            state: self.state,
            name: resource.name,
            file_name: self.file_name,
            place: self.source.place,
            size: self.source.size,
            files: self.source.files,
            root: self.source.root,
            series: self.series,
            digests: resource.digests,
            resource: self.resource.map(|resource| resource.id),
            product: self.product.map(|product| product.id),
            reason: self.reason,
            created: self.created,
            updated: self.updated,
        })
    }
}

/// A registered asset.
pub(crate) fn asset(r: &impl Read, id: &DataId) -> Result<Option<AssetRow>, ServiceError> {
    r.get(&ASSETS, id.as_str().as_bytes())?.map(|bytes| AssetRow::decode(&bytes)).transpose()
}

/// The listing of a product that is in force.
pub(crate) fn listing(r: &impl Read, product: &DataId) -> Result<Option<ListingRow>, ServiceError> {
    r.get(&LISTINGS, product.as_str().as_bytes())?.map(|bytes| ListingRow::decode(&bytes)).transpose()
}

/// One page of what a search looks at, the newest first.
pub(crate) fn recent(r: &impl Read, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, ServiceError> {
    Ok(r.scan(&RECENT, &[], after, limit)?)
}

/// A publication of this connector.
pub(crate) fn publication(r: &impl Read, id: &[u8; 16]) -> Result<Option<PublicationRow>, ServiceError> {
    r.get(&PUBLICATIONS, id)?.map(|bytes| PublicationRow::decode(&bytes)).transpose()
}

/// The publication of a product's newest version.
pub(crate) fn publication_of(r: &impl Read, product: &DataId) -> Result<Option<[u8; 16]>, ServiceError> {
    publication_id(r.get(&PRODUCTS, product.as_str().as_bytes())?)
}

/// The publication of the version of a product that has this content.
pub(crate) fn publication_of_version(
    r: &impl Read,
    product: &DataId,
    root: &ContentRoot,
) -> Result<Option<[u8; 16]>, ServiceError> {
    publication_id(r.get(&VERSIONS, &version_key(product, root))?)
}

/// Has the consumers of a product hear of its newest version, those behind this negotiation.
pub(crate) fn announce(
    tx: &mut Tx<'_>,
    product: &DataId,
    after: Option<&[u8; 16]>,
) -> Result<(), ServiceError> {
    let after = after.map(<[u8; 16]>::as_slice).unwrap_or_default();
    Ok(tx.put(&ANNOUNCEMENTS, product.as_str().as_bytes(), after)?)
}

/// All of them have heard.
pub(crate) fn announced(tx: &mut Tx<'_>, product: &DataId) -> Result<(), ServiceError> {
    Ok(tx.delete(&ANNOUNCEMENTS, product.as_str().as_bytes())?)
}

/// The next product of whose newest version consumers are yet to hear.
pub(crate) fn announcement(r: &impl Read) -> Result<Option<Announcement>, ServiceError> {
    let Some(row) = r.scan(&ANNOUNCEMENTS, &[], None, 1)?.pop() else { return Ok(None) };
    let product = std::str::from_utf8(&row.key).map_err(damaged)?;
    let after = if row.value.is_empty() { None } else { publication_id(Some(row.value))? };
    Ok(Some(Announcement { product: read(product)?, after }))
}

/// Key of [`VERSIONS`].
pub(crate) fn version_key(product: &DataId, root: &ContentRoot) -> Vec<u8> {
    [product.as_str().as_bytes(), root.as_bytes()].concat()
}

fn publication_id(bytes: Option<Vec<u8>>) -> Result<Option<[u8; 16]>, ServiceError> {
    let id = bytes.map(|bytes| <[u8; 16]>::try_from(bytes.as_slice())).transpose();
    id.map_err(|_| damaged("a publication id is not 16 bytes"))
}

pub(crate) fn damaged(what: impl std::fmt::Display) -> ServiceError {
    ServiceError::Internal(format!("the catalog's stored rows are damaged: {what}; run `huitong store fsck`"))
}

fn open(bytes: &[u8], what: &'static str) -> Result<Fields, ServiceError> {
    let mut fields = Fields::decode(bytes, LIMITS, what).map_err(damaged)?;
    match fields.uint(0, "version").map_err(damaged)? {
        VERSION => Ok(fields),
        newer => Err(ServiceError::Internal(format!(
            "stored {what} has version {newer}, which this program does not know; run the newer program again"
        ))),
    }
}

fn read<T: std::str::FromStr>(text: &str) -> Result<T, ServiceError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(damaged)
}

fn certified(id: Option<String>, certificate: Option<Digest>) -> Result<Option<Certified>, ServiceError> {
    match (id, certificate) {
        (None, None) => Ok(None),
        (Some(id), Some(certificate)) => Ok(Some(Certified { id: read(&id)?, certificate })),
        _ => Err(damaged("an identifier stands without its certificate")),
    }
}

fn state_number(state: PublicationState) -> u64 {
    match state {
        PublicationState::RegisteringResource => 1,
        PublicationState::RegisteringProduct => 2,
        PublicationState::Listing => 3,
        PublicationState::Listed => 4,
        PublicationState::Failed => 5,
    }
}

fn state_of(number: u64) -> Result<PublicationState, ServiceError> {
    match number {
        1 => Ok(PublicationState::RegisteringResource),
        2 => Ok(PublicationState::RegisteringProduct),
        3 => Ok(PublicationState::Listing),
        4 => Ok(PublicationState::Listed),
        5 => Ok(PublicationState::Failed),
        _ => Err(damaged("a publication has an unknown state")),
    }
}

/// Key of [`REGISTERED`].
pub(crate) fn registered_key(
    node: &NodeId,
    kind: crate::model::AssetKind,
    publication: &[u8; 16],
) -> Vec<u8> {
    let mut key = Vec::with_capacity(49);
    key.extend_from_slice(node.as_str().as_bytes());
    key.extend_from_slice(kind.data_type().character().to_string().as_bytes());
    key.extend_from_slice(publication);
    key
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
