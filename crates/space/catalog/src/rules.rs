//! What may be registered and listed, and what a connector says next. Pure: everything decided on is handed in.

use huitong_identity::Refusal;
use huitong_ids::{DataId, EntityCode, NodeId};
use huitong_policy::Policy;
use huitong_proof::Digest;

use crate::model::{
    AssetCertificate, AssetKind, Grade, ListingRecord, ProductRecord, ResourceRecord, SecurityLevel,
};

/// Who asks the registrar, as its credential says.
pub(crate) struct Applicant<'a> {
    pub(crate) node: &'a NodeId,
    pub(crate) entity: &'a EntityCode,
}

/// A record handed in for registration.
pub(crate) enum Asset {
    Resource(ResourceRecord),
    Product(ProductRecord),
}

impl Asset {
    /// What the certificate will say, under a freshly assigned id.
    pub(crate) fn certificate(&self, id: DataId, record: Digest, version: u64) -> AssetCertificate {
        match self {
            Self::Resource(resource) => AssetCertificate {
                id,
                record,
                kind: AssetKind::Resource,
                holder: resource.holder.clone(),
                root: resource.root,
                size: resource.size,
                derived_from: Vec::new(),
                version,
            },
            Self::Product(product) => AssetCertificate {
                id,
                record,
                kind: AssetKind::Product,
                holder: product.provider_entity.clone(),
                root: product.root,
                size: product.size,
                derived_from: product.derived_from.clone(),
                version,
            },
        }
    }

    pub(crate) fn holder(&self) -> &EntityCode {
        match self {
            Self::Resource(resource) => &resource.holder,
            Self::Product(product) => &product.provider_entity,
        }
    }

    /// The code of an older system, which becomes the identifier's extension.
    pub(crate) fn extension(&self) -> Option<&str> {
        match self {
            Self::Resource(resource) => resource.legacy_code.as_deref(),
            Self::Product(_) => None,
        }
    }

    /// The resources that must be registered before this.
    pub(crate) fn derived_from(&self) -> &[DataId] {
        match self {
            Self::Resource(_) => &[],
            Self::Product(product) => &product.derived_from,
        }
    }
}

/// May the applicant register this? `owner_of` gives the node that registered a resource.
pub(crate) fn registration<E>(
    applicant: &Applicant<'_>,
    asset: &Asset,
    owner_of: impl Fn(&DataId) -> Result<Option<NodeId>, E>,
) -> Result<Result<(), Refusal>, E> {
    if let Err(refusal) = own_and_ordinary(applicant, asset) {
        return Ok(Err(refusal));
    }
    for resource in asset.derived_from() {
        let refusal = match owner_of(resource)? {
            Some(owner) if owner == *applicant.node => continue,
            Some(_) => format!("resource {resource} was registered by another node"),
            None => format!("resource {resource} is not registered here"),
        };
        let next_step = "name only resources that this connector registered at this registrar";
        return Ok(Err(Refusal::new("catalog.derived", refusal, next_step)));
    }
    Ok(Ok(()))
}

fn own_and_ordinary(applicant: &Applicant<'_>, asset: &Asset) -> Result<(), Refusal> {
    if asset.holder() != applicant.entity {
        return Err(Refusal::new(
            "catalog.holder",
            format!("the record names {} but the caller belongs to {}", asset.holder(), applicant.entity),
            "register data under the organisation that your credential names",
        ));
    }
    match asset {
        Asset::Resource(resource) => ordinary(resource.grade, resource.security_level),
        Asset::Product(product) => {
            if product.provider != *applicant.node {
                return Err(Refusal::new(
                    "catalog.provider",
                    format!(
                        "the record names node {} but the caller is {}",
                        product.provider, applicant.node
                    ),
                    "register a product from the connector that will deliver it",
                ));
            }
            ordinary(product.grade, product.security_level)
        }
    }
}

/// A civil node takes general data below the top security level only.
fn ordinary(grade: Grade, level: SecurityLevel) -> Result<(), Refusal> {
    let next_step = "keep such data out of this space, or have it graded again (GB/T 43697-2024)";
    match grade {
        Grade::General => {}
        Grade::Important | Grade::Core => {
            let reason =
                format!("{} ({}) may not be offered through this node", grade.english(), grade.chinese());
            return Err(Refusal::new("catalog.grade", reason, next_step));
        }
    }
    match level {
        SecurityLevel::Public
        | SecurityLevel::Internal
        | SecurityLevel::Sensitive
        | SecurityLevel::Confidential => Ok(()),
        SecurityLevel::TopSecret => {
            let reason = format!("security level {} ({}) may not be offered", level.code(), level.chinese());
            Err(Refusal::new("catalog.grade", reason, next_step))
        }
    }
}

/// Which version of its asset a registration makes: the first one of a new asset, or the next one of the applicant's own.
/// `registered` is what stands under the identifier that it names: owner and version.
pub(crate) fn version(
    applicant: &Applicant<'_>,
    renews: Option<&DataId>,
    registered: Option<(&NodeId, u64)>,
) -> Result<u64, Refusal> {
    let Some(id) = renews else { return Ok(1) };
    let refuse = |reason: String| {
        let next_step = "renew what this connector has registered here, or publish a new product";
        Err(Refusal::new("catalog.renews", reason, next_step))
    };
    match registered {
        None => refuse(format!("{id} is not registered here")),
        Some((owner, _)) if owner != applicant.node => refuse(format!("{id} belongs to another node")),
        Some((_, version)) => Ok(version.saturating_add(1)),
    }
}

/// What a new listing means for the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListingStep {
    /// It replaces whatever was listed before.
    Replace,
    /// It is what is listed already.
    Keep,
}

/// The listing in force, as far as the rules look at it.
pub(crate) struct Listed<'a> {
    pub(crate) record: &'a [u8],
    pub(crate) version: u64,
}

/// May the applicant list this product so? `owner` is the node that registered the product, if anybody did.
pub(crate) fn listing(
    applicant: &Applicant<'_>,
    listing: &ListingRecord,
    bytes: &[u8],
    owner: Option<&NodeId>,
    listed: Option<Listed<'_>>,
) -> Result<ListingStep, Refusal> {
    let Some(owner) = owner else {
        return Err(Refusal::new(
            "catalog.product",
            format!("product {} is not registered here", listing.product),
            "register the product first",
        ));
    };
    if owner != applicant.node || listing.provider != *applicant.node {
        return Err(Refusal::new(
            "catalog.provider",
            format!("product {} belongs to another node than the caller", listing.product),
            "list a product from the connector that registered it",
        ));
    }
    if let Err(error) = Policy::parse(&listing.policy) {
        let next_step = "correct the policy and list again with the same version";
        return Err(Refusal::new("catalog.policy", error.to_string(), next_step));
    }
    let expected = match listed {
        Some(listed) if listed.record == bytes => return Ok(ListingStep::Keep),
        Some(listed) => listed.version.saturating_add(1),
        None => 1,
    };
    if listing.version != expected {
        return Err(Refusal::new(
            "catalog.version",
            format!("the next version of this listing is {expected}, not {}", listing.version),
            format!("list again with version {expected}"),
        ));
    }
    Ok(ListingStep::Replace)
}

/// Does the registrar's certificate say what it was asked to? `expected` carries the certificate's own version, and where
/// nothing is renewed its own id, which is the registrar's to choose within the holder's entity.
pub(crate) fn certificate(given: &AssetCertificate, expected: &AssetCertificate) -> Result<(), Refusal> {
    let wrong = if given.kind != expected.kind || given.id.data_type() != expected.kind.data_type() {
        "kind of asset"
    } else if given.record != expected.record {
        "record"
    } else if given.holder != expected.holder || given.id.entity() != expected.holder {
        "holder"
    } else if given.root != expected.root || given.size != expected.size {
        "content"
    } else if given.derived_from != expected.derived_from {
        "set of resources"
    } else if given.id != expected.id {
        "identifier"
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        "catalog.certificate",
        format!("the registrar certified another {wrong} than was asked for"),
        "tell the registrar's operator; then publish again under a new id",
    ))
}

/// Keywords, split at white space and folded; a text matches when it contains all of them.
pub(crate) struct Keywords {
    terms: Vec<String>,
}

impl Keywords {
    pub(crate) fn new(text: &str) -> Self {
        Self { terms: fold(text).split_whitespace().map(str::to_owned).collect() }
    }

    /// `folded` must come from [`fold`].
    pub(crate) fn match_all(&self, folded: &str) -> bool {
        self.terms.iter().all(|term| folded.contains(term.as_str()))
    }
}

/// What a search compares: name and introduction on two lines, in lower case.
pub(crate) fn searchable(name: &str, intro: &str) -> String {
    fold(&format!("{name}\n{intro}"))
}

/// Lower case, per character, so that a word folds the same alone and inside a text.
fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
