//! The trust file: the only thing besides a receipt that a third party needs. JSON, described in
//! `docs/receipt-format.md`.

use huitong_ids::{EntityCode, NodeId};
use huitong_ledger::LogVerifier;
use huitong_proof::{Digest, SpaceId, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::documents::RootList;

const FORMAT: &str = "huitong-trust/1";

/// Why a trust file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not JSON of the documented shape.
    #[error("the trust file cannot be read: {0}; export it again with `huitong identity trust`")]
    Unreadable(String),
    /// A value in it is wrong.
    #[error("the trust file's {field}: {reason}")]
    Invalid {
        /// JSON path.
        field: String,
        /// What is wrong.
        reason: String,
    },
}

/// A registrar that a verifier trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedRegistrar {
    /// Its node id: the issuer of credentials and asset certificates.
    pub node: NodeId,
    /// Its operator.
    pub entity: EntityCode,
    /// The operator's name.
    pub name: String,
    /// Verifies its statements.
    pub statement_key: VerifyingKey,
    /// Verifies its checkpoints.
    pub log: LogVerifier,
    /// SHA-256 of its root certificate.
    pub root_certificate: Digest,
}

/// Whom a verifier trusts, in which data space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The data space.
    pub space: SpaceId,
    /// At least one.
    pub registrars: Vec<TrustedRegistrar>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    space: String,
    registrars: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: String,
    entity: String,
    name: String,
    statement_key: String,
    log_origin: String,
    log_key: String,
    root_certificate_sha256: String,
}

impl Trust {
    /// What the root list says, for handing to a third party.
    pub fn from_roots(roots: &RootList) -> Self {
        let registrars = roots
            .entries
            .iter()
            .map(|entry| TrustedRegistrar {
                node: entry.node.clone(),
                entity: entry.entity.clone(),
                name: entry.name.clone(),
                statement_key: entry.statement_key.clone(),
                log: entry.log.clone(),
                root_certificate: Digest::sha256(&entry.certificate),
            })
            .collect();
        Self { space: roots.space, registrars }
    }

    /// The JSON text of the trust file.
    pub fn to_json(&self) -> String {
        let file = File {
            format: FORMAT.to_owned(),
            space: self.space.to_string(),
            registrars: self
                .registrars
                .iter()
                .map(|registrar| Entry {
                    node: registrar.node.to_string(),
                    entity: registrar.entity.to_string(),
                    name: registrar.name.clone(),
                    statement_key: hex::encode(registrar.statement_key.as_bytes()),
                    log_origin: registrar.log.name().to_owned(),
                    log_key: hex::encode(registrar.log.key().as_bytes()),
                    root_certificate_sha256: registrar.root_certificate.to_string(),
                })
                .collect(),
        };
        serde_json::to_string_pretty(&file).map(|text| text + "\n").unwrap_or_default()
    }

    /// Reads a trust file of at most 1 MiB.
    pub fn from_json(text: &str) -> Result<Self, TrustError> {
        if text.len() > 1 << 20 {
            return Err(TrustError::Unreadable("larger than 1 MiB".to_owned()));
        }
        let file: File =
            serde_json::from_str(text).map_err(|error| TrustError::Unreadable(error.to_string()))?;
        if file.format != FORMAT {
            return Err(invalid("format", format!("expected {FORMAT:?}, found {:?}", file.format)));
        }
        let space = file.space.parse().map_err(|error| invalid("space", format!("{error}")))?;
        if file.registrars.is_empty() {
            return Err(invalid("registrars", "at least one is needed".to_owned()));
        }
        let registrars = file
            .registrars
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                let at = |field: &str| format!("registrars[{index}].{field}");
                Ok(TrustedRegistrar {
                    node: NodeId::parse(&entry.node).map_err(|e| invalid(&at("node"), e.to_string()))?,
                    entity: EntityCode::parse(&entry.entity)
                        .map_err(|e| invalid(&at("entity"), e.to_string()))?,
                    name: entry.name,
                    statement_key: key(&at("statement_key"), &entry.statement_key)?,
                    log: LogVerifier::new(entry.log_origin, key(&at("log_key"), &entry.log_key)?)
                        .map_err(|error| invalid(&at("log_origin"), error.to_string()))?,
                    root_certificate: entry
                        .root_certificate_sha256
                        .parse()
                        .map_err(|error| invalid(&at("root_certificate_sha256"), format!("{error}")))?,
                })
            })
            .collect::<Result<_, TrustError>>()?;
        Ok(Self { space, registrars })
    }

    /// The registrar with this node id.
    pub fn registrar(&self, node: &str) -> Option<&TrustedRegistrar> {
        self.registrars.iter().find(|registrar| registrar.node.as_str() == node)
    }
}

fn key(field: &str, text: &str) -> Result<VerifyingKey, TrustError> {
    let bytes = hex::decode(text).map_err(|error| invalid(field, error.to_string()))?;
    VerifyingKey::from_bytes(&bytes).map_err(|error| invalid(field, error.to_string()))
}

fn invalid(field: &str, reason: String) -> TrustError {
    TrustError::Invalid { field: field.to_owned(), reason }
}
