//! The agreement: one byte string that both sides sign.

use huitong_ids::{ContractId, DataId, EntityCode, NodeId};
use huitong_policy::{Policy, PolicyError};
use huitong_proof::cbor::{self, Fields, Map, Value};
use huitong_proof::{ContentRoot, Digest, SpaceId, Statement, Timestamp};

use super::terms::{
    Coverage, DOCUMENT_LIMITS, DocumentError, Mode, Terms, bounded_policy, bounded_text, content_root,
    coverage, identifier, label, mode, version, window,
};

const LABEL: &str = "huitong/agreement/v1";
/// signMode 01: point to point, without a platform in between (S14 B.3, `/contractCreate`).
const POINT_TO_POINT: &str = "01";
/// signatoryEntityName is C..128 (S14 Annex C).
const MAXIMUM_NAME_CHARACTERS: usize = 128;

/// A digital contract (数字合约; the contract object of S14 section 6 and Annex C).
///
/// Encoded as a strict CBOR map: 1 `"huitong/agreement/v1"`, 2 contract id, 3 contract name, 4 product id,
/// 5 product name, 6 provider `{1 node, 2 entity, 3 name}`, 7 consumer (the same shape), 8 policy document,
/// 9 content root, 10 size, 11 window bytes, 12 mode, 13 price, 14 signing time (milliseconds since 1970 UTC),
/// 15 negotiation id, 16 space id, 17 signing mode (`"01"`, point to point), 18 coverage,
/// 19 version, of a series only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The contract's identifier, minted by the provider.
    pub contract: ContractId,
    /// contractName, at most 128 characters.
    pub name: String,
    /// The product that is delivered.
    pub product: DataId,
    /// The product's name, at most 128 characters.
    pub product_name: String,
    /// Who delivers (assigner, S14 C.3).
    pub provider: Party,
    /// Who receives (assignee, S14 C.3).
    pub consumer: Party,
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
    /// When the provider signed.
    pub signed: Timestamp,
    /// The negotiation this contract came out of.
    pub negotiation: [u8; 16],
    /// The data space in which it holds.
    pub space: SpaceId,
    /// Which versions of the product it covers; root and size are those of the one that was current when it was signed.
    pub coverage: Coverage,
    /// Of a series, that version, as the registrar counts them from 1: no older one is delivered.
    pub version: Option<u64>,
}

/// One side of a contract, as its registrar knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The node that acts.
    pub node: NodeId,
    /// The entity that answers for the node (signatoryEntityId, S14 C.2).
    pub entity: EntityCode,
    /// The entity's name, at most 128 characters (signatoryEntityName).
    pub name: String,
}

impl Agreement {
    /// The document's bytes: what both sides sign.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Map::new()
            .text(1, LABEL)
            .text(2, self.contract.as_str())
            .text(3, &self.name)
            .text(4, self.product.as_str())
            .text(5, &self.product_name)
            .map(6, self.provider.to_map())
            .map(7, self.consumer.to_map())
            .bytes(8, &self.policy)
            .bytes(9, self.root.as_bytes())
            .uint(10, self.size)
            .uint(11, self.window_bytes)
            .uint(12, self.mode.number())
            .text(13, &self.price)
            .uint(14, self.signed.millis())
            .bytes(15, &self.negotiation)
            .bytes(16, self.space.as_bytes())
            .text(17, POINT_TO_POINT)
            .uint(18, self.coverage.number())
            .maybe_uint(19, self.version)
            .encode()
    }

    /// Reads a document of at most 64 KiB: refuses whatever [`Agreement::encode`] would not have written.
    ///
    /// # Errors
    /// [`DocumentError`], naming the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        let mut fields = Fields::decode(bytes, DOCUMENT_LIMITS, "agreement")?;
        label(&fields.text(1, "label")?, LABEL, "agreement.label")?;
        let agreement = Self {
            contract: identifier(ContractId::parse(&fields.text(2, "contract")?), "agreement.contract")?,
            name: fields.text(3, "name")?,
            product: identifier(DataId::parse(&fields.text(4, "product")?), "agreement.product")?,
            product_name: fields.text(5, "product name")?,
            provider: Party::from_fields(fields.fields(6, "provider")?)?,
            consumer: Party::from_fields(fields.fields(7, "consumer")?)?,
            policy: fields.bytes(8, "policy")?,
            root: content_root(&fields.bytes(9, "root")?, "agreement.root")?,
            size: fields.uint(10, "size")?,
            window_bytes: fields.uint(11, "window bytes")?,
            mode: mode(fields.uint(12, "mode")?, "agreement.mode")?,
            price: fields.text(13, "price")?,
            signed: Timestamp::from_millis(fields.uint(14, "signing time")?),
            negotiation: fields.fixed::<16>(15, "negotiation")?,
            space: SpaceId::from_bytes(fields.fixed::<32>(16, "space")?),
            coverage: coverage(fields.uint(18, "coverage")?, "agreement.coverage")?,
            version: fields.maybe_uint(19, "version")?,
        };
        label(&fields.text(17, "signing mode")?, POINT_TO_POINT, "agreement.signing mode")?;
        fields.finish()?;
        agreement.check()?;
        Ok(agreement)
    }

    /// The policy, parsed.
    ///
    /// # Errors
    /// Every problem of the policy document.
    pub fn policy(&self) -> Result<Policy, PolicyError> {
        Policy::parse(&self.policy)
    }

    /// The content that is to be delivered; `None` where that depends on when.
    #[must_use]
    pub fn root(&self) -> Option<ContentRoot> {
        match self.coverage {
            Coverage::Version => Some(self.root),
            Coverage::Series => None,
        }
    }

    /// The terms this agreement fixes.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            product: self.product.clone(),
            name: self.product_name.clone(),
            provider: self.provider.node.clone(),
            consumer: self.consumer.node.clone(),
            policy: self.policy.clone(),
            root: self.root,
            size: self.size,
            window_bytes: self.window_bytes,
            mode: self.mode,
            price: self.price.clone(),
            coverage: self.coverage,
            version: self.version,
        }
    }

    fn check(&self) -> Result<(), DocumentError> {
        bounded_text("agreement.name", &self.name, 1, MAXIMUM_NAME_CHARACTERS)?;
        bounded_text("agreement.product name", &self.product_name, 1, MAXIMUM_NAME_CHARACTERS)?;
        bounded_text("agreement.price", &self.price, 0, MAXIMUM_NAME_CHARACTERS)?;
        bounded_policy("agreement.policy", &self.policy)?;
        version("agreement.version", self.coverage, self.version)?;
        window("agreement.window bytes", self.window_bytes)
    }
}

impl Party {
    fn to_map(&self) -> Map {
        Map::new().text(1, self.node.as_str()).text(2, self.entity.as_str()).text(3, &self.name)
    }

    fn from_fields(mut fields: Fields) -> Result<Self, DocumentError> {
        let party = Self {
            node: identifier(NodeId::parse(&fields.text(1, "node")?), "agreement.party.node")?,
            entity: identifier(EntityCode::parse(&fields.text(2, "entity")?), "agreement.party.entity")?,
            name: fields.text(3, "name")?,
        };
        fields.finish()?;
        bounded_text("agreement.party.name", &party.name, 1, MAXIMUM_NAME_CHARACTERS)?;
        Ok(party)
    }
}

/// The hash that names a contract signed by both sides: SHA-256 over the CBOR array of the agreement's bytes, the
/// provider's AGREEMENT statement and the consumer's VERIFICATION statement.
///
/// Every later statement about the contract carries it in body field 7.
#[must_use]
pub fn agreement_hash(document: &[u8], agreement: &Statement, verification: &Statement) -> Digest {
    let signed = Value::Array(vec![
        Value::Bytes(document.to_vec()),
        Value::Bytes(agreement.bytes().to_vec()),
        Value::Bytes(verification.bytes().to_vec()),
    ]);
    Digest::sha256(&cbor::encode(&signed))
}
