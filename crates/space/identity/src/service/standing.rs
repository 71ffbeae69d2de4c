//! A node's own standing: founding a registrar, joining one, loading what stands.

use std::sync::Arc;
use std::time::Duration;

use huitong_ids::{EntityCode, NodeId, NodeType, Segment};
use huitong_ledger::{Identity, Ledger, LogVerifier, WitnessVerifier, origin_of, witness_name_of};
use huitong_proof::cbor::Map;
use huitong_proof::{
    Clock, Digest, Draft, Entropy, Envelope, Kind, SpaceId, Statement, Timestamp, VerifyingKey, random,
};
use huitong_store::{Read as _, Store};

use super::enrolment::JoinRequest;
use super::lists::{publish_roots, publish_status, remember_roots, verify_roots, verify_status};
use crate::certificate;
use crate::directory::Directory;
use crate::documents::{EnrolmentGrant, EnrolmentRequest, RootEntry, RootList, StatusList};
use crate::error::ServiceError;
use crate::keys::{NodeKeys, RootAuthority};
use crate::model::{Credential, NodeRecord, NodeState, Role};
use crate::rules::{check_domain, check_name};
use crate::tables::{self, SelfRow};

/// How long a credential and its certificate are valid.
pub(crate) const CREDENTIAL_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a root list is valid.
const ROOTS_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const ROOT_CERTIFICATE_YEARS: u64 = 10;

/// This node as its registrar knows it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    credential: Credential,
    statement: Statement,
    certificate: Vec<u8>,
    registrar: NodeId,
}

impl Membership {
    /// Our node id.
    pub fn node(&self) -> &NodeId {
        &self.inner.credential.node
    }

    /// What the registrar signed about us.
    pub fn credential(&self) -> &Credential {
        &self.inner.credential
    }

    /// The CREDENTIAL statement.
    pub fn credential_statement(&self) -> &Statement {
        &self.inner.statement
    }

    /// Our X.509 certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.inner.certificate
    }

    /// Node id of our registrar; our own for a registrar.
    pub fn registrar(&self) -> &NodeId {
        &self.inner.registrar
    }

    /// Whether we are the registrar.
    pub fn is_registrar(&self) -> bool {
        self.node() == self.registrar()
    }
}

/// Everything that stands once a node has an identity.
#[derive(Clone)]
pub struct Standing {
    /// The node's ledger.
    pub ledger: Ledger,
    /// The node's credential.
    pub membership: Membership,
    /// The node's trust view.
    pub directory: Directory,
}

/// What a new registrar is.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// Its operator's code.
    pub entity: EntityCode,
    /// Its operator's name.
    pub name: String,
    /// The certificate's CN.
    pub domain: String,
    /// Regional, industry or global function node.
    pub node_type: NodeType,
    /// Region or industry of the ids it assigns.
    pub segment: Segment,
    /// The data space it founds.
    pub space: SpaceId,
}

/// The ambient sources of a node.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Makes a registrar with its own root, or loads the one that was made here before.
pub async fn found(
    store: &Store,
    keys: &NodeKeys,
    root: &RootAuthority,
    genesis: Genesis,
    sources: &Sources,
) -> Result<Standing, ServiceError> {
    if let Some(standing) = load(store, keys, sources, None)? {
        return Ok(standing);
    }
    check_domain(&genesis.domain)?;
    check_name("name", &genesis.name)?;
    let node = NodeId::mint(genesis.node_type, &genesis.entity, &genesis.segment, random(&*sources.entropy));
    let ledger = open_ledger(store, keys, &node, &genesis.space, sources)?;
    let now = sources.clock.now();
    let root_certificate =
        certificate::self_signed_root(root.key(), &genesis.name, &node, now, ROOT_CERTIFICATE_YEARS)?;
    let credential = Credential {
        node: node.clone(),
        entity: genesis.entity.clone(),
        name: genesis.name.clone(),
        domain: genesis.domain.clone(),
        tls_key: keys.tls_digest(),
        statement_key: keys.statement().verifying_key(),
        log: log_of(&node, &keys.log().verifying_key())?,
        witness: witness_of(&node, &keys.witness().verifying_key())?,
        roles: vec![Role::Registrar],
        not_before: validity_start(now),
        not_after: now.saturating_add(CREDENTIAL_LIFETIME),
        registrar: node.to_string(),
    };
    let status = StatusList { version: 1, issued: now, revoked: Vec::new() };
    let (keys_of_tx, root) = (keys.clone(), root.clone());
    store
        .transact("identity.found", move |tx| -> Result<(), ServiceError> {
            let statement = ledger.issue(
                tx,
                Draft {
                    kind: Kind::Credential,
                    audience: credential.node.to_string(),
                    subject: random(&**ledger.entropy()),
                    agreement: Digest::ZERO,
                    reference: Digest::ZERO,
                    detail: credential.to_detail(),
                },
            )?;
            let certificate =
                certificate::issue(&root_certificate, root.key(), keys_of_tx.tls(), &credential, &statement)?;
            let roots = RootList {
                space: *ledger.space(),
                version: 1,
                issued: now,
                expires: now.saturating_add(ROOTS_LIFETIME),
                entries: vec![RootEntry {
                    node: credential.node.clone(),
                    entity: credential.entity.clone(),
                    name: credential.name.clone(),
                    certificate: root_certificate,
                    statement_key: credential.statement_key.clone(),
                    log: credential.log.clone(),
                    credential: statement.bytes().clone(),
                }],
            };
            let row = SelfRow {
                node: credential.node.clone(),
                space: *ledger.space(),
                credential: statement.bytes().clone(),
                certificate: certificate.clone(),
                registrar: credential.node.clone(),
            };
            let record = NodeRecord {
                credential: credential.clone(),
                statement: statement.digest(),
                certificate,
                address: String::new(),
                state: NodeState::Active,
            };
            tx.put(
                &tables::ENTITIES,
                credential.entity.as_str().as_bytes(),
                &tables::entity_row(&credential.name, now),
            )?;
            tx.put(&tables::NODES, credential.node.as_str().as_bytes(), &tables::node_row(&record))?;
            tx.put(&tables::STANDING, tables::SELF, &row.encode())?;
            publish_roots(tx, &ledger, &roots)?;
            publish_status(tx, &ledger, &status)?;
            Ok(())
        })
        .await?;
    load(store, keys, sources, None)?
        .ok_or_else(|| ServiceError::Internal("the new registrar was not stored".to_owned()))
}

/// Stores what the registrar granted. Nothing is stored unless all of it fits together.
pub async fn join(
    store: &Store,
    keys: &NodeKeys,
    request: &JoinRequest,
    sent: &EnrolmentRequest,
    grant: EnrolmentGrant,
    sources: &Sources,
) -> Result<(), ServiceError> {
    let now = sources.clock.now();
    let space = request.invite.space;
    let roots = RootList::decode(&grant.roots.document)?;
    let entry = roots
        .entry(request.invite.registrar.as_str())
        .ok_or_else(|| ServiceError::invalid("grant.roots", "the registrar is not on its own root list"))?;
    if Digest::sha256(&entry.certificate) != request.invite.root {
        return Err(ServiceError::invalid(
            "grant.roots",
            "the root certificate is not the one the invite pins",
        ));
    }
    let (roots_statement, roots) = verify_roots(&grant.roots, &entry.statement_key, &space)?;
    let registrar_key =
        roots.entry(request.invite.registrar.as_str()).map(|entry| entry.statement_key.clone());
    let registrar_key =
        registrar_key.ok_or_else(|| ServiceError::Internal("root list lost its entry".to_owned()))?;
    let (status_statement, status) = verify_status(&grant.status, &registrar_key, &space)?;
    let credential_statement = Envelope::decode(grant.credential.clone())?.verify(&registrar_key, &space)?;
    let credential = Credential::from_statement(&credential_statement)?;
    let directory = Directory::new(roots.clone(), status, now, None);
    let caller = directory
        .authenticate(&grant.certificate, now)
        .map_err(|error| ServiceError::invalid("grant.certificate", error))?;
    if caller.credential() != &credential || !names_our_keys(&credential, keys) {
        return Err(ServiceError::invalid("grant.credential", "names keys that are not ours"));
    }
    let statement_key = keys.statement().verifying_key();
    let enrolment = Envelope::decode(sent.statement.clone())?.verify(&statement_key, &space)?;
    let row = SelfRow {
        node: credential.node.clone(),
        space,
        credential: grant.credential.clone(),
        certificate: grant.certificate.clone(),
        registrar: request.invite.registrar.clone(),
    };
    let ledger = open_ledger(store, keys, &credential.node, &space, sources)?;
    store
        .transact("identity.join", move |tx| -> Result<(), ServiceError> {
            for statement in [&enrolment, &credential_statement, &roots_statement, &status_statement] {
                ledger.admit(tx, statement)?;
            }
            remember_roots(tx, &ledger, &roots)?;
            tx.put(&tables::STANDING, tables::SELF, &row.encode())?;
            tx.put(&tables::STANDING, tables::ROOTS, &tables::signed_row(&grant.roots))?;
            tx.put(&tables::STANDING, tables::STATUS, &tables::signed_row(&grant.status))?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// The standing that an earlier `found` or `join` stored, if any. `max_age` as in [`Directory`].
pub fn load(
    store: &Store,
    keys: &NodeKeys,
    sources: &Sources,
    max_age: Option<Duration>,
) -> Result<Option<Standing>, ServiceError> {
    let view = store.view();
    let Some(row) = SelfRow::load(&view)? else { return Ok(None) };
    let missing = |what: &str| {
        ServiceError::Internal(format!("this node's {what} is missing; restore the data directory"))
    };
    let roots_document = tables::signed(&view, tables::ROOTS)?.ok_or_else(|| missing("root list"))?;
    let status_document = tables::signed(&view, tables::STATUS)?.ok_or_else(|| missing("revocation list"))?;
    let roots = RootList::decode(&roots_document.document)?;
    let status = StatusList::decode(&status_document.document)?;
    let statement = Envelope::decode(row.credential.clone())?.trusted(&row.space)?;
    let credential = Credential::from_statement(&statement)?;
    if !names_our_keys(&credential, keys) {
        return Err(ServiceError::Conflict {
            reason: "the key files do not belong to this data directory's credential; restore keys and data from the same backup".to_owned(),
        });
    }
    let ledger = open_ledger(store, keys, &row.node, &row.space, sources)?;
    // Freshness starts at the list's own date: a node that was off for long first has to hear from its registrar.
    let confirmed = status.issued;
    let directory = Directory::new(roots, status, confirmed, max_age);
    let membership = Membership {
        inner: Arc::new(Inner {
            credential,
            statement,
            certificate: row.certificate,
            registrar: row.registrar,
        }),
    };
    Ok(Some(Standing { ledger, membership, directory }))
}

/// Queues an ADDRESS statement (kind 23, detail {1 `host:port`}) for the registrar unless it already knows.
pub async fn report_address(standing: &Standing, address: &str) -> Result<(), ServiceError> {
    let (ledger, membership, address) =
        (standing.ledger.clone(), standing.membership.clone(), address.to_owned());
    standing
        .ledger
        .store()
        .transact("identity.address", move |tx| -> Result<(), ServiceError> {
            if tx.get(&tables::STANDING, tables::ADDRESS)?.as_deref() == Some(address.as_bytes()) {
                return Ok(());
            }
            let statement = ledger.issue(
                tx,
                Draft {
                    kind: Kind::Address,
                    audience: membership.registrar().to_string(),
                    subject: random(&**ledger.entropy()),
                    agreement: Digest::ZERO,
                    reference: Digest::ZERO,
                    detail: Map::new().text(1, &address),
                },
            )?;
            tx.put(&tables::STANDING, tables::ADDRESS, address.as_bytes())?;
            if !membership.is_registrar() {
                tx.send(huitong_store::Outgoing {
                    destination: membership.registrar().to_string(),
                    topic: crate::workers::TOPIC.to_owned(),
                    payload: statement.bytes().to_vec(),
                })?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

pub(crate) fn validity_start(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.millis().saturating_sub(certificate::CLOCK_SLACK_MILLIS))
}

/// The verifier of a node's ledger, whose origin follows from the node id.
pub(crate) fn log_of(node: &NodeId, key: &VerifyingKey) -> Result<LogVerifier, ServiceError> {
    LogVerifier::new(origin_of(node.as_str()), key.clone())
        .map_err(|error| ServiceError::Internal(error.to_string()))
}

/// The verifier of a node's cosignatures, whose name follows from the node id.
pub(crate) fn witness_of(node: &NodeId, key: &VerifyingKey) -> Result<WitnessVerifier, ServiceError> {
    WitnessVerifier::new(witness_name_of(node.as_str()), key.clone())
        .map_err(|error| ServiceError::Internal(error.to_string()))
}

fn names_our_keys(credential: &Credential, keys: &NodeKeys) -> bool {
    credential.tls_key == keys.tls_digest()
        && credential.statement_key == keys.statement().verifying_key()
        && *credential.log.key() == keys.log().verifying_key()
        && *credential.witness.key() == keys.witness().verifying_key()
}

fn open_ledger(
    store: &Store,
    keys: &NodeKeys,
    node: &NodeId,
    space: &SpaceId,
    sources: &Sources,
) -> Result<Ledger, ServiceError> {
    let identity = Identity {
        node: node.to_string(),
        origin: origin_of(node.as_str()),
        space: *space,
        statement_key: keys.statement().clone(),
        log_key: keys.log().clone(),
    };
    Ok(Ledger::open(store.clone(), identity, sources.clock.clone(), sources.entropy.clone())?)
}
