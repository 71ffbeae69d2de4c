//! What the catalog needs from another node, and what it believes of the answers.

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::{Credential, Directory, PeerError, RootEntry, RootList, ServiceError};
use huitong_ids::{DataId, NodeId};
use huitong_policy::Policy;
use huitong_proof::{Digest, Envelope, Statement, Timestamp};

use crate::model::{
    AssetCertificate, ListingNotice, ListingRecord, ProductRecord, RecordError, SecurityLevel,
};

/// The function node, as a connector reaches it. A face implements it.
#[async_trait]
pub trait CatalogPeer: Send + Sync {
    /// Hands in a REGISTRATION with its record; gives the bytes of the ASSET CERTIFICATE.
    async fn register(&self, to: &NodeId, statement: Bytes, record: Bytes) -> Result<Bytes, PeerError>;

    /// Hands in a LISTING with its record.
    async fn list(&self, to: &NodeId, statement: Bytes, record: Bytes) -> Result<(), PeerError>;

    /// Searches the registrar's catalog.
    async fn search(
        &self,
        to: &NodeId,
        keywords: &str,
        offset: u64,
        limit: u64,
    ) -> Result<SearchPage, PeerError>;

    /// Resolves a product id: what it is, who offers it, where.
    async fn resolve(&self, to: &NodeId, product: &DataId) -> Result<Resolved, PeerError>;
}

/// Published files that do not lie on this machine. A face implements it.
#[async_trait]
pub trait Elsewhere: Send + Sync + std::fmt::Debug {
    /// The name of the file at a URL, or of all files below a prefix together.
    ///
    /// # Errors
    /// `Invalid` for a URL that names nothing.
    fn file_name(&self, url: &str) -> Result<String, ServiceError>;

    /// The file at a URL, or the files below a prefix, at most `most`.
    ///
    /// # Errors
    /// `Invalid` for a URL that leads nowhere or is not for this node, `Busy` where trying again later may help.
    async fn list(&self, url: &str, most: usize) -> Result<Vec<RemoteFile>, ServiceError>;

    /// Of the files at a URL that were listed before, those whose paths are wanted. Whatever else lies there does not matter.
    ///
    /// # Errors
    /// `Conflict` when a file is gone for good, `Busy` for everything else: also what an operator has to mend may be mended.
    async fn find(
        &self,
        url: &str,
        is_wanted: &(dyn for<'p> Fn(&'p str) -> bool + Send + Sync),
    ) -> Result<Vec<RemoteFile>, ServiceError>;

    /// Reads a file, only ever in the version in which it was listed.
    ///
    /// # Errors
    /// `Invalid` for one that this has not listed.
    fn reader(&self, file: &RemoteFile) -> Result<Box<dyn RemoteReader>, ServiceError>;
}

/// One file elsewhere, as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its URL.
    pub url: String,
    /// Where it lies below the prefix that was listed; its own name if it was listed itself.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// What tells two versions of it apart.
    pub version: String,
}

/// A file elsewhere that is being read.
#[async_trait]
pub trait RemoteReader: Send {
    /// Appends exactly `length` bytes from `offset` on.
    ///
    /// # Errors
    /// `Conflict` when it is another version by now, `Busy` where trying again later may help.
    async fn append(&mut self, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), ServiceError>;
}

/// One page of search results.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchPage {
    /// How many listings match, of those that were examined.
    pub total: u64,
    /// The matches of this page, the newest listing first.
    pub hits: Vec<Hit>,
}

/// One listing that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The product on offer.
    pub product: DataId,
    /// The listing's name.
    pub name: String,
    /// The listing's introduction.
    pub intro: String,
    /// The connector that offers it.
    pub provider: NodeId,
    /// The registered name of the organisation behind it.
    pub provider_name: String,
    /// Security level, T6.
    pub security_level: SecurityLevel,
    /// Bytes.
    pub size: u64,
}

/// What the registrar's catalog holds of one product.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The product record, byte for byte as registered.
    pub product_record: Bytes,
    /// The ASSET CERTIFICATE over it.
    pub certificate: Statement,
    /// The listing record, byte for byte as handed in.
    pub listing_record: Bytes,
    /// The provider's LISTING over it.
    pub listing: Statement,
    /// The connector that offers it.
    pub provider: NodeId,
}

/// A resolution as it arrives from another node: bytes, none of them believed before [`Resolved::verify`].
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The product record.
    pub product_record: Bytes,
    /// Bytes of the ASSET CERTIFICATE.
    pub certificate: Bytes,
    /// The listing record.
    pub listing_record: Bytes,
    /// Bytes of the LISTING.
    pub listing: Bytes,
    /// The connector that offers it.
    pub provider: NodeId,
    /// `host:port` of the provider. Not signed: whoever answers there must prove to be the provider.
    pub address: String,
    /// Bytes of the provider's CREDENTIAL.
    pub credential: Bytes,
}

/// A product whose certificate, listing and provider have been verified.
#[derive(Debug, Clone)]
pub struct VerifiedProduct {
    /// The product's identifier.
    pub product: DataId,
    /// What is registered.
    pub record: ProductRecord,
    /// The registrar's certificate over it.
    pub certificate: Statement,
    /// Which version of the product this is, as the certificate says.
    pub version: u64,
    /// The offer.
    pub listing: ListingRecord,
    /// The provider's LISTING over it.
    pub listing_statement: Statement,
    /// The offer's policy.
    pub policy: Policy,
    /// Who provides it.
    pub provider: Credential,
    /// The registrar's CREDENTIAL for the provider.
    pub credential: Statement,
    /// `host:port` of the provider, as the registrar reported it.
    pub address: String,
}

impl Resolved {
    /// Checks everything that is signed: the provider's credential and the certificate by a trusted registrar's
    /// statement key, the listing by the provider's, and both records by the digests in them. An error names the
    /// field. A provider on the revocation list is `Forbidden`.
    pub fn verify(
        &self,
        product: &DataId,
        directory: &Directory,
        now: Timestamp,
    ) -> Result<VerifiedProduct, ServiceError> {
        let roots = directory.roots();
        let space = &roots.space;
        let credential = Envelope::decode(self.credential.clone())?;
        let root = trusted_registrar(&roots, credential.claimed_issuer(), now)?;
        let (registrar, registrar_key) = (&root.node, &root.statement_key);
        let credential = credential.verify(registrar_key, space)?;
        let provider = Credential::from_statement(&credential)?;
        require(
            "credential.node",
            provider.node == self.provider,
            "it belongs to another node than the provider",
        )?;
        if directory.status().revoked.iter().any(|entry| entry.node == provider.node) {
            return Err(ServiceError::Forbidden { reason: format!("node {} was revoked", provider.node) });
        }
        require(
            "credential.not_after",
            provider.is_valid_at(now),
            "the provider's credential is not valid now",
        )?;

        let certificate = Envelope::decode(self.certificate.clone())?.verify(registrar_key, space)?;
        require(
            "certificate.issuer",
            certificate.body().issuer == registrar.as_str(),
            "it is not from the provider's registrar",
        )?;
        let addressed = certificate.body().audience == self.provider.as_str();
        require("certificate.audience", addressed, "it certifies a product of another node")?;
        let certified = AssetCertificate::from_statement(&certificate)?;
        require(
            "certificate.id",
            certified.id == *product,
            "it certifies another product than was asked for",
        )?;
        let record = ProductRecord::decode(&self.product_record)?;
        certifies(&certified, &self.product_record, &record)?;
        require("product.provider", record.provider == self.provider, "it names another provider")?;
        let same_entity = record.provider_entity == provider.entity;
        require("product.provider_entity", same_entity, "it names another organisation than the provider's")?;

        let listing_statement =
            Envelope::decode(self.listing.clone())?.verify(&provider.statement_key, space)?;
        let issued = listing_statement.body().issuer == self.provider.as_str();
        require("listing.issuer", issued, "it is not from the provider")?;
        let addressed = listing_statement.body().audience == registrar.as_str();
        require("listing.audience", addressed, "it is not addressed to the provider's registrar")?;
        let notice = ListingNotice::from_statement(&listing_statement)?;
        let listing = ListingRecord::decode(&self.listing_record)?;
        announces(&notice, &self.listing_record, &listing)?;
        require(
            "listing.product",
            listing.product == *product,
            "it lists another product than was asked for",
        )?;
        require("listing.provider", listing.provider == self.provider, "it names another provider")?;
        let policy = listing.parse_policy()?;
        let address = self.address.clone();
        let product = product.clone();
        Ok(VerifiedProduct {
            product,
            record,
            certificate,
            version: certified.version,
            listing,
            listing_statement,
            policy,
            provider,
            credential,
            address,
        })
    }
}

/// The certificate of a product says the same as its record.
fn certifies(certified: &AssetCertificate, bytes: &[u8], record: &ProductRecord) -> Result<(), RecordError> {
    require("certificate.record", certified.record == Digest::sha256(bytes), "it certifies another record")?;
    require("certificate.holder", certified.holder == record.provider_entity, "it names another holder")?;
    require("certificate.root", certified.root == record.root, "it names other content than the record")?;
    require("certificate.size", certified.size == record.size, "it names another size than the record")?;
    let derived = certified.derived_from == record.derived_from;
    require("certificate.derived_from", derived, "it names other resources than the record")
}

/// The LISTING says the same as its record.
pub(crate) fn announces(
    notice: &ListingNotice,
    bytes: &[u8],
    listing: &ListingRecord,
) -> Result<(), RecordError> {
    require("listing.record", notice.record == Digest::sha256(bytes), "the statement names another record")?;
    require(
        "listing.product",
        notice.product == listing.product,
        "statement and record name different products",
    )?;
    require(
        "listing.version",
        notice.version == listing.version,
        "statement and record name different versions",
    )?;
    let policy = notice.policy == listing.policy_digest();
    require("listing.policy", policy, "statement and record name different policies")
}

/// The root list's entry for this registrar, while the list counts.
pub(crate) fn trusted_registrar<'a>(
    roots: &'a RootList,
    node: &str,
    now: Timestamp,
) -> Result<&'a RootEntry, ServiceError> {
    if now > roots.expires {
        let reason =
            format!("the root list expired at {}; wait for a new one from the registrar", roots.expires);
        return Err(ServiceError::Forbidden { reason });
    }
    let unknown = || ServiceError::Forbidden { reason: format!("registrar {node} is not on the root list") };
    roots.entry(node).ok_or_else(unknown)
}

pub(crate) fn require(field: &'static str, holds: bool, otherwise: &str) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(RecordError::value(field, otherwise)) }
}
