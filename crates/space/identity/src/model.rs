//! Nodes, what a registrar signs about them, and who is calling.

use std::sync::Arc;

use huitong_ids::{EntityCode, NodeId};
use huitong_ledger::{LogVerifier, WitnessVerifier, witness_name_of};
use huitong_proof::cbor::{Map, Value};
use huitong_proof::{Digest, Kind, Statement, Timestamp, VerifyingKey};

use crate::error::ServiceError;

/// What a node may do in the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Function node (功能节点): registers entities, nodes and data, and signs credentials.
    Registrar,
    /// Offers data products (数据提供方).
    Provider,
    /// Asks for and receives data products (数据使用方).
    Consumer,
}

impl Role {
    /// The word on the wire and in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registrar => "registrar",
            Self::Provider => "provider",
            Self::Consumer => "consumer",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Registrar, Self::Provider, Self::Consumer].into_iter().find(|role| role.name() == text)
    }
}

/// Trusted identity credential (可信身份凭证): what the registrar signed about a node.
///
/// It is the detail of a CREDENTIAL statement (kind 17) and travels inside the node's X.509 certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The 32-character node id.
    pub node: NodeId,
    /// The organisation that runs the node.
    pub entity: EntityCode,
    /// The organisation's name as registered.
    pub name: String,
    /// Domain or IP address; the certificate's CN.
    pub domain: String,
    /// SHA-256 of the TLS key's SubjectPublicKeyInfo (DER).
    pub tls_key: Digest,
    /// Verifies the node's statements.
    pub statement_key: VerifyingKey,
    /// Verifies the node's checkpoints: origin line and key of its ledger.
    pub log: LogVerifier,
    /// Verifies the node's cosignatures under other nodes' checkpoints; its name follows from the node id.
    pub witness: WitnessVerifier,
    /// What the node may do.
    pub roles: Vec<Role>,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
    /// Node id of the registrar that signed.
    pub registrar: String,
}

impl Credential {
    /// The statement detail: {1 node id, 2 entity code, 3 entity name, 4 domain, 5 SHA-256 of the TLS key, 6 statement
    /// key, 7 log key, 8 log origin, 9 roles, 10 valid from, 11 valid to, 12 witness key}.
    pub fn to_detail(&self) -> Map {
        let roles = self.roles.iter().map(|role| Value::Text(role.name().to_owned())).collect();
        Map::new()
            .text(1, self.node.as_str())
            .text(2, self.entity.as_str())
            .text(3, &self.name)
            .text(4, &self.domain)
            .digest(5, &self.tls_key)
            .bytes(6, self.statement_key.as_bytes())
            .bytes(7, self.log.key().as_bytes())
            .text(8, self.log.name())
            .array(9, roles)
            .uint(10, self.not_before.millis())
            .uint(11, self.not_after.millis())
            .bytes(12, self.witness.key().as_bytes())
    }

    /// Reads the credential out of a verified CREDENTIAL statement.
    pub fn from_statement(statement: &Statement) -> Result<Self, ServiceError> {
        if statement.kind() != Kind::Credential {
            return Err(ServiceError::invalid("credential.kind", "the statement is not a credential"));
        }
        let mut fields = statement.detail("credential")?;
        let invalid = |field: &str, reason: &dyn std::fmt::Display| {
            ServiceError::invalid(format!("credential.{field}"), reason)
        };
        let node = NodeId::parse(&fields.text(1, "node")?).map_err(|e| invalid("node", &e))?;
        let entity = EntityCode::parse(&fields.text(2, "entity")?).map_err(|e| invalid("entity", &e))?;
        let name = fields.text(3, "name")?;
        let domain = fields.text(4, "domain")?;
        let tls_key = fields.digest(5, "tls_key")?;
        let statement_key = VerifyingKey::from_bytes(&fields.bytes(6, "statement_key")?)
            .map_err(|e| invalid("statement_key", &e))?;
        let log_key =
            VerifyingKey::from_bytes(&fields.bytes(7, "log_key")?).map_err(|e| invalid("log_key", &e))?;
        let log = LogVerifier::new(fields.text(8, "log_origin")?, log_key)
            .map_err(|e| invalid("log_origin", &e))?;
        let mut roles = Vec::new();
        for value in fields.array(9, "roles")? {
            match value {
                Value::Text(text) => {
                    roles.push(Role::parse(&text).ok_or_else(|| invalid("roles", &"unknown role"))?);
                }
                _ => return Err(invalid("roles", &"expected text")),
            }
        }
        let not_before = Timestamp::from_millis(fields.uint(10, "not_before")?);
        let not_after = Timestamp::from_millis(fields.uint(11, "not_after")?);
        let witness_key = VerifyingKey::from_bytes(&fields.bytes(12, "witness_key")?)
            .map_err(|e| invalid("witness_key", &e))?;
        let witness = WitnessVerifier::new(witness_name_of(node.as_str()), witness_key)
            .map_err(|e| invalid("witness_key", &e))?;
        fields.finish()?;
        if statement.body().audience != node.as_str() {
            return Err(invalid("node", &"the statement is addressed to another node"));
        }
        Ok(Self {
            node,
            entity,
            name,
            domain,
            tls_key,
            statement_key,
            log,
            witness,
            roles,
            not_before,
            not_after,
            registrar: statement.body().issuer.clone(),
        })
    }

    /// Whether the credential holds at this moment.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// An authenticated peer. Made only by [`crate::Directory::authenticate`] from a verified TLS certificate, so code
/// that asks for a `Caller` cannot be reached without one.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: Arc<(Credential, Statement)>,
}

impl Caller {
    pub(crate) fn new(credential: Credential, statement: Statement) -> Self {
        Self { inner: Arc::new((credential, statement)) }
    }

    /// The caller's node id.
    pub fn node(&self) -> &NodeId {
        &self.inner.0.node
    }

    /// The organisation that runs the caller's node.
    pub fn entity(&self) -> &EntityCode {
        &self.inner.0.entity
    }

    /// The organisation's registered name.
    pub fn name(&self) -> &str {
        &self.inner.0.name
    }

    /// Everything the registrar signed about the caller.
    pub fn credential(&self) -> &Credential {
        &self.inner.0
    }

    /// The signed statement behind [`Caller::credential`].
    pub fn credential_statement(&self) -> &Statement {
        &self.inner.1
    }

    /// Whether the caller's credential names this role.
    pub fn has(&self, role: Role) -> bool {
        self.inner.0.roles.contains(&role)
    }
}

/// Whether a registered node may still act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// In force.
    Active,
    /// Revoked for good, with moment and reason.
    Revoked {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

/// What the registrar keeps of a node.
#[derive(Debug, Clone)]
pub struct NodeRecord {
    /// The signed credential.
    pub credential: Credential,
    /// Digest of the CREDENTIAL statement.
    pub statement: Digest,
    /// The X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// `host:port` as last reported by the node; empty before the first report.
    pub address: String,
    /// In force or revoked.
    pub state: NodeState,
}
