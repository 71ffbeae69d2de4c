//! The trust file: the only thing besides a receipt that a third party needs. JSON, described in
//! `docs/receipt-format.md`.

use huitong_ids::{EntityCode, NodeId};
use huitong_ledger::{ForkProof, LogVerifier};
use huitong_proof::{Digest, Envelope, SpaceId, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::documents::RootList;
use crate::model::Credential;

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

/// Whose keys signed what a fork proof shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribution {
    /// This node's: a trusted registrar has signed that they are.
    Node {
        /// The node.
        node: NodeId,
        /// Its operator.
        entity: EntityCode,
        /// The operator's name.
        name: String,
    },
    /// Nobody says whose: the proof carries no credential.
    Nobody,
    /// Not those of the node that the proof names, as far as anybody trusted says.
    Wrong {
        /// What does not fit.
        reason: String,
    },
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

    /// Whose keys are in a fork proof: those that its credential binds to a node, if a registrar of this file has signed
    /// it for exactly these keys. Anybody can make a key and call it another's; whether the signatures contradict each
    /// other says [`ForkProof::verify`].
    pub fn attribute(&self, proof: &ForkProof) -> Attribution {
        match proof.credential() {
            None => Attribution::Nobody,
            Some(bytes) => match self.credential_for(proof, bytes) {
                Ok(Credential { node, entity, name, .. }) => Attribution::Node { node, entity, name },
                Err(reason) => Attribution::Wrong { reason },
            },
        }
    }

    fn credential_for(&self, proof: &ForkProof, credential: &[u8]) -> Result<Credential, String> {
        let of_credential = |error: &dyn std::fmt::Display| format!("its credential is refused: {error}");
        let envelope = Envelope::decode(credential.to_vec()).map_err(|error| of_credential(&error))?;
        let issuer = envelope.claimed_issuer();
        let registrar = self.registrar(issuer).ok_or_else(|| {
            format!("its credential is signed by {issuer}, which is no registrar of the trust file")
        })?;
        let statement =
            envelope.verify(&registrar.statement_key, &self.space).map_err(|error| of_credential(&error))?;
        let credential = Credential::from_statement(&statement).map_err(|error| of_credential(&error))?;
        let node = &credential.node;
        match proof {
            ForkProof::Checkpoints { log, .. } | ForkProof::Entry { log, .. } if credential.log != *log => {
                Err(format!("the checkpoints are not signed by the log key of {node}"))
            }
            ForkProof::Checkpoints { .. } | ForkProof::Entry { .. } => Ok(credential),
            ForkProof::Statements { key, .. } if credential.statement_key != *key => {
                Err(format!("the statements are not signed by the statement key of {node}"))
            }
            ForkProof::Statements { space, .. } if *space != self.space => {
                Err("the statements are of another data space than the trust file".to_owned())
            }
            ForkProof::Statements { a, .. } => {
                let envelope = Envelope::decode(a.clone()).map_err(|error| error.to_string())?;
                let issuer = envelope.claimed_issuer();
                if issuer == node.as_str() {
                    return Ok(credential);
                }
                Err(format!("the statements are issued by {issuer}, and the credential is that of {node}"))
            }
        }
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
