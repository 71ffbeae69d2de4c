//! What identity keeps, and how it is found. Every row begins with its record version under key 0.

use bytes::Bytes;
use huitong_ids::NodeId;
use huitong_ledger::Ledger;
use huitong_proof::cbor::{Fields, Limits, Map, Value};
use huitong_proof::{Digest, SpaceId, Timestamp};
use huitong_store::{Read, Table};

use crate::documents::{SignedDocument, StatusList, texts};
use crate::error::ServiceError;
use crate::model::{Credential, NodeRecord, NodeState, Role};

/// Registered entities by code.
pub(crate) const ENTITIES: Table = Table::with_history("identity.entity");
/// Invites by SHA-256 of the token.
pub(crate) const INVITES: Table = Table::with_history("identity.invite");
/// Nodes registered here, by node id.
pub(crate) const NODES: Table = Table::with_history("identity.node");
/// Digest of the credential statement of every node we have relied on, by node id.
pub(crate) const PEERS: Table = Table::new("identity.peer");
/// This node's own standing, under the keys below.
pub(crate) const STANDING: Table = Table::with_history("identity.standing");
pub(crate) const SELF: &[u8] = b"self";
pub(crate) const ROOTS: &[u8] = b"roots";
pub(crate) const STATUS: &[u8] = b"status";
pub(crate) const ADDRESS: &[u8] = b"address";

const VERSION: u64 = 1;
/// The largest row holds the revocation list and its statement.
const ROW: Limits = Limits { bytes: StatusList::MAX_BYTES + (64 << 10), ..Limits::DOCUMENT };

pub(crate) fn open(bytes: &[u8], what: &'static str) -> Result<Fields, ServiceError> {
    let mut fields = Fields::decode(bytes, ROW, what)
        .map_err(|error| ServiceError::Internal(format!("stored {what}: {error}")))?;
    match fields.uint(0, "version") {
        Ok(VERSION) => Ok(fields),
        _ => Err(ServiceError::Internal(format!(
            "stored {what} has a version this program does not know; upgrade it"
        ))),
    }
}

pub(crate) struct InviteRow {
    pub(crate) entity: String,
    pub(crate) name: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
    /// TLS key that used it, and the node id it became.
    pub(crate) used: Option<(Digest, String)>,
}

impl InviteRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let roles = self.roles.iter().map(|role| Value::Text(role.name().to_owned())).collect();
        Map::new()
            .uint(0, VERSION)
            .text(1, &self.entity)
            .text(2, &self.name)
            .array(3, roles)
            .uint(4, self.created.millis())
            .uint(5, self.expires.millis())
            .maybe_digest(6, self.used.as_ref().map(|(key, _)| key))
            .maybe_text(7, self.used.as_ref().map(|(_, node)| node.as_str()))
            .encode()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let mut fields = open(bytes, "invite")?;
        let row = Self {
            entity: fields.text(1, "entity")?,
            name: fields.text(2, "name")?,
            roles: texts(fields.array(3, "roles")?, "invite.roles")?
                .iter()
                .filter_map(|text| Role::parse(text))
                .collect(),
            created: Timestamp::from_millis(fields.uint(4, "created")?),
            expires: Timestamp::from_millis(fields.uint(5, "expires")?),
            used: fields.maybe_digest(6, "used_by")?.zip(fields.maybe_text(7, "node")?),
        };
        fields.finish()?;
        Ok(row)
    }
}

pub(crate) fn entity_row(name: &str, registered: Timestamp) -> Vec<u8> {
    Map::new().uint(0, VERSION).text(1, name).uint(2, registered.millis()).encode()
}

pub(crate) fn entity_name(read: &impl Read, code: &str) -> Result<Option<String>, ServiceError> {
    let Some(bytes) = read.get(&ENTITIES, code.as_bytes())? else { return Ok(None) };
    Ok(Some(open(&bytes, "entity")?.text(1, "name")?))
}

pub(crate) fn node_row(record: &NodeRecord) -> Vec<u8> {
    let (at, reason) = match &record.state {
        NodeState::Active => (None, None),
        NodeState::Revoked { at, reason } => (Some(at.millis()), Some(reason.as_str())),
    };
    Map::new()
        .uint(0, VERSION)
        .digest(1, &record.statement)
        .bytes(2, &record.certificate)
        .text(3, &record.address)
        .maybe_uint(4, at)
        .maybe_text(5, reason)
        .encode()
}

pub(crate) fn node(read: &impl Read, ledger: &Ledger, id: &str) -> Result<Option<NodeRecord>, ServiceError> {
    match read.get(&NODES, id.as_bytes())? {
        Some(bytes) => decode_node(read, ledger, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Digest of the CREDENTIAL statement that a stored node's row names.
pub(crate) fn node_statement(row: &[u8]) -> Result<Digest, ServiceError> {
    Ok(open(row, "node")?.digest(1, "statement")?)
}

pub(crate) fn decode_node(
    read: &impl Read,
    ledger: &Ledger,
    bytes: &[u8],
) -> Result<NodeRecord, ServiceError> {
    let mut fields = open(bytes, "node")?;
    let statement = fields.digest(1, "statement")?;
    let certificate = fields.bytes(2, "certificate")?;
    let address = fields.text(3, "address")?;
    let state = match (fields.maybe_uint(4, "revoked_at")?, fields.maybe_text(5, "reason")?) {
        (Some(at), reason) => {
            NodeState::Revoked { at: Timestamp::from_millis(at), reason: reason.unwrap_or_default() }
        }
        (None, _) => NodeState::Active,
    };
    fields.finish()?;
    let signed = ledger
        .statement(read, &statement)?
        .ok_or_else(|| ServiceError::Internal("a node's credential statement is missing".to_owned()))?;
    Ok(NodeRecord {
        credential: Credential::from_statement(&signed)?,
        statement,
        certificate,
        address,
        state,
    })
}

pub(crate) struct SelfRow {
    pub(crate) node: NodeId,
    pub(crate) space: SpaceId,
    /// The CREDENTIAL statement's bytes.
    pub(crate) credential: Bytes,
    pub(crate) certificate: Vec<u8>,
    pub(crate) registrar: NodeId,
}

impl SelfRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Map::new()
            .uint(0, VERSION)
            .text(1, self.node.as_str())
            .bytes(2, self.space.as_bytes())
            .bytes(3, &self.credential)
            .bytes(4, &self.certificate)
            .text(5, self.registrar.as_str())
            .encode()
    }

    pub(crate) fn load(read: &impl Read) -> Result<Option<Self>, ServiceError> {
        let Some(bytes) = read.get(&STANDING, SELF)? else { return Ok(None) };
        let mut fields = open(&bytes, "standing")?;
        let id = |field, text: String| {
            NodeId::parse(&text).map_err(|error| ServiceError::Internal(format!("stored {field}: {error}")))
        };
        let row = Self {
            node: id("node id", fields.text(1, "node")?)?,
            space: SpaceId::from_bytes(fields.fixed(2, "space")?),
            credential: fields.bytes(3, "credential")?.into(),
            certificate: fields.bytes(4, "certificate")?,
            registrar: id("registrar", fields.text(5, "registrar")?)?,
        };
        fields.finish()?;
        Ok(Some(row))
    }
}

pub(crate) fn signed_row(document: &SignedDocument) -> Vec<u8> {
    Map::new().uint(0, VERSION).bytes(1, &document.statement).bytes(2, &document.document).encode()
}

pub(crate) fn signed(read: &impl Read, key: &[u8]) -> Result<Option<SignedDocument>, ServiceError> {
    let Some(bytes) = read.get(&STANDING, key)? else { return Ok(None) };
    let mut fields = open(&bytes, "signed list")?;
    let document = SignedDocument {
        statement: fields.bytes(1, "statement")?.into(),
        document: fields.bytes(2, "document")?.into(),
    };
    fields.finish()?;
    Ok(Some(document))
}
