//! The registrar's side (功能节点): entities, invites, enrolment, revocation, addresses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huitong_ids::{EntityCode, NodeId, NodeType, Segment};
use huitong_ledger::{Admission, LedgerError};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, random};
use huitong_store::{Read, Tx};

use crate::certificate;
use crate::documents::{EnrolmentGrant, EnrolmentRequest, Invite, Revocation, SignedDocument, StatusList};
use crate::error::ServiceError;
use crate::keys::RootAuthority;
use crate::model::{Caller, Credential, NodeRecord, NodeState, Role};
use crate::peer::TrustUpdate;
use crate::rules::{self, Enrolment, check_name};
use crate::service::{
    self, CREDENTIAL_LIFETIME, Standing, check_enrolment, log_of, refuse, statement_from, validity_start,
    witness_of,
};
use crate::tables::{self, InviteRow};

/// Longest life of an invite.
const MAX_INVITE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// What an operator asks for when inviting a node.
#[derive(Debug, Clone)]
pub struct InviteRequest {
    /// The organisation's unified social credit code (统一社会信用代码), checked in full.
    pub entity: String,
    /// Its name.
    pub name: String,
    /// What its node may do: provider, consumer, or both.
    pub roles: Vec<Role>,
    /// How long the invite holds; at most 30 days.
    pub lifetime: Duration,
    /// `host:port` of the enrolment listener, as the invited node reaches it.
    pub address: String,
}

/// Where a node is reached and who it is.
#[derive(Debug, Clone)]
pub struct NodeLocation {
    /// `host:port` as last reported.
    pub address: String,
    /// CREDENTIAL statement.
    pub credential: Bytes,
}

/// The registrar. Cheap to clone.
#[derive(Clone)]
pub struct Registrar {
    standing: Standing,
    root: RootAuthority,
    segment: Segment,
    /// Serialises the change of the in-memory list with the commit it follows.
    status_change: Arc<tokio::sync::Mutex<()>>,
}

impl Registrar {
    /// `segment`: region or industry of the ids it assigns.
    pub fn new(standing: Standing, root: RootAuthority, segment: Segment) -> Self {
        Self { standing, root, segment, status_change: Arc::default() }
    }

    /// Region or industry of the ids it assigns.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Registers the entity if it is new (REGISTRATION statement) and makes an invite for one node of it.
    pub async fn invite(&self, request: InviteRequest) -> Result<Invite, ServiceError> {
        let entity = EntityCode::parse_organisation(&request.entity)
            .map_err(|error| ServiceError::invalid("entity", error))?;
        check_name("name", &request.name)?;
        if request.roles.is_empty() || request.roles.contains(&Role::Registrar) {
            return Err(ServiceError::invalid("roles", "must be provider, consumer or both"));
        }
        if request.lifetime.is_zero() || request.lifetime > MAX_INVITE_LIFETIME {
            return Err(ServiceError::invalid("lifetime", "must be more than zero and at most 30 days"));
        }
        if request.address.is_empty() || request.address.len() > 260 {
            return Err(ServiceError::invalid("address", "must be host:port"));
        }
        let ledger = self.standing.ledger.clone();
        let now = ledger.clock().now();
        let roots = self.standing.directory.roots();
        let own_root = roots
            .entry(ledger.node())
            .ok_or_else(|| ServiceError::Internal("the registrar is not on its own root list".to_owned()))?;
        let invite = Invite {
            address: request.address.clone(),
            registrar: self.standing.membership.node().clone(),
            root: Digest::sha256(&own_root.certificate),
            token: random(&**ledger.entropy()),
            space: *ledger.space(),
            expires: now.saturating_add(request.lifetime),
        };
        let row = InviteRow {
            entity: entity.to_string(),
            name: request.name.clone(),
            roles: request.roles,
            created: now,
            expires: invite.expires,
            used: None,
        };
        let key = Digest::sha256(&invite.token);
        ledger
            .clone()
            .store()
            .transact("identity.invite", move |tx| -> Result<(), ServiceError> {
                match tables::entity_name(tx, entity.as_str())? {
                    Some(known) if known != row.name => {
                        return Err(ServiceError::Conflict {
                            reason: format!("{entity} is already registered under the name {known:?}"),
                        });
                    }
                    Some(_) => {}
                    None => {
                        let record = tables::entity_row(&row.name, now);
                        ledger.issue(
                            tx,
                            Draft {
                                kind: Kind::Registration,
                                audience: entity.to_string(),
                                subject: random(&**ledger.entropy()),
                                agreement: Digest::ZERO,
                                reference: Digest::ZERO,
                                detail: Map::new().text(1, "entity").digest(2, &Digest::sha256(&record)),
                            },
                        )?;
                        tx.put(&tables::ENTITIES, entity.as_str().as_bytes(), &record)?;
                    }
                }
                tx.put(&tables::INVITES, key.as_bytes(), &row.encode())?;
                Ok(())
            })
            .await?;
        Ok(invite)
    }

    /// Enrols a node: checks the invite and the possession of all keys, assigns the node id, signs the credential and
    /// the certificate. The same request gives the same answer again.
    pub async fn enrol(&self, request: EnrolmentRequest) -> Result<EnrolmentGrant, ServiceError> {
        let ledger = self.standing.ledger.clone();
        // Anybody may knock here: who holds no invite costs no signature check, no place before the journal's writer,
        // and leaves no trace that could fill the ledger.
        let token = Digest::sha256(&request.token);
        if ledger.store().view().get(&tables::INVITES, token.as_bytes())?.is_none() {
            return Err(no_such_invite());
        }
        let checked = check_enrolment(&request, ledger.node(), ledger.space())?;
        let roots = self.standing.directory.roots();
        let root_certificate = roots
            .entry(ledger.node())
            .map(|entry| entry.certificate.clone())
            .ok_or_else(|| ServiceError::Internal("the registrar is not on its own root list".to_owned()))?;
        let (root, segment) = (self.root.clone(), self.segment.clone());
        let outcome = ledger
            .clone()
            .store()
            .transact("identity.enrol", move |tx| -> Result<Result<NodeRecord, ServiceError>, ServiceError> {
                let now = ledger.clock().now();
                let bytes = tx.get(&tables::INVITES, token.as_bytes())?.ok_or_else(no_such_invite)?;
                let mut invite = InviteRow::decode(&bytes)?;
                match rules::decide_enrolment(&invite, &checked.tls_digest, now) {
                    Ok(Enrolment::Repeat(node)) => {
                        Ok(Ok(tables::node(tx, &ledger, &node)?.ok_or_else(|| {
                            ServiceError::Internal("an enrolled node's record is missing".to_owned())
                        })?))
                    }
                    Ok(Enrolment::Mint) => {
                        let entity = EntityCode::parse(&invite.entity)
                            .map_err(|error| ServiceError::Internal(error.to_string()))?;
                        let node =
                            NodeId::mint(NodeType::Connector, &entity, &segment, random(&**ledger.entropy()));
                        let credential = Credential {
                            log: log_of(&node, &checked.log_key)?,
                            witness: witness_of(&node, &checked.witness_key)?,
                            node: node.clone(),
                            entity,
                            name: invite.name.clone(),
                            domain: checked.domain.clone(),
                            tls_key: checked.tls_digest,
                            statement_key: checked.statement_key.clone(),
                            roles: invite.roles.clone(),
                            not_before: validity_start(now),
                            not_after: now.saturating_add(CREDENTIAL_LIFETIME),
                            registrar: ledger.node().to_owned(),
                        };
                        ledger.admit(tx, &checked.statement)?;
                        // Both names are made here and now: nothing can have been said to them before.
                        ledger.confirm(tx, node.as_str())?;
                        ledger.confirm(tx, credential.log.name())?;
                        let statement = ledger.issue(
                            tx,
                            Draft {
                                kind: Kind::Credential,
                                audience: node.to_string(),
                                subject: checked.statement.body().subject,
                                agreement: Digest::ZERO,
                                reference: checked.statement.digest(),
                                detail: credential.to_detail(),
                            },
                        )?;
                        let certificate = certificate::issue(
                            &root_certificate,
                            root.key(),
                            &checked.tls_key,
                            &credential,
                            &statement,
                        )?;
                        let record = NodeRecord {
                            credential,
                            statement: statement.digest(),
                            certificate,
                            address: String::new(),
                            state: NodeState::Active,
                        };
                        invite.used = Some((checked.tls_digest, node.to_string()));
                        tx.put(&tables::INVITES, token.as_bytes(), &invite.encode())?;
                        tx.put(&tables::NODES, node.as_str().as_bytes(), &tables::node_row(&record))?;
                        Ok(Ok(record))
                    }
                    Err(refusal) => {
                        let statement = refuse(
                            tx,
                            &ledger,
                            &invite.entity,
                            checked.statement.body().subject,
                            Digest::ZERO,
                            checked.statement.digest(),
                            &refusal,
                            "enrolment",
                        )?;
                        Ok(Err(ServiceError::Refused { refusal, statement: Some(statement) }))
                    }
                }
            })
            .await?;
        let record = outcome?;
        let view = self.standing.ledger.store().view();
        let credential = self
            .standing
            .ledger
            .statement(&view, &record.statement)?
            .ok_or_else(|| ServiceError::Internal("the credential statement is missing".to_owned()))?;
        Ok(EnrolmentGrant {
            credential: credential.bytes().clone(),
            certificate: record.certificate,
            roots: self.list(&view, tables::ROOTS)?,
            status: self.list(&view, tables::STATUS)?,
        })
    }

    /// Revokes a node for good and signs the next revocation list. Revoking again changes nothing.
    pub async fn revoke(&self, node: &NodeId, reason: &str) -> Result<StatusList, ServiceError> {
        if node == self.standing.membership.node() {
            return Err(ServiceError::invalid("node", "a registrar cannot revoke itself"));
        }
        check_name("reason", reason)?;
        let _ordered = self.status_change.lock().await;
        let (ledger, node, reason) = (self.standing.ledger.clone(), node.clone(), reason.to_owned());
        let mut status = self.standing.directory.status();
        let status = ledger
            .clone()
            .store()
            .transact("identity.revoke", move |tx| -> Result<StatusList, ServiceError> {
                let mut record = tables::node(tx, &ledger, node.as_str())?
                    .ok_or_else(|| ServiceError::NotFound { what: format!("node {node}") })?;
                if record.state != NodeState::Active {
                    return Ok(status);
                }
                let now = ledger.clock().now();
                record.state = NodeState::Revoked { at: now, reason: reason.clone() };
                tx.put(&tables::NODES, node.as_str().as_bytes(), &tables::node_row(&record))?;
                status.version = status.version.saturating_add(1);
                status.issued = now;
                status.revoked.push(Revocation { node, at: now, reason });
                service::publish_status(tx, &ledger, &status)?;
                Ok(status)
            })
            .await?;
        self.standing.directory.replace_status(status.clone());
        Ok(status)
    }

    /// Takes a node's ADDRESS statement.
    pub async fn report_address(&self, caller: &Caller, statement: Bytes) -> Result<(), ServiceError> {
        let ledger = self.standing.ledger.clone();
        let statement = statement_from(caller, statement, &ledger)?;
        if statement.kind() != Kind::Address {
            return Err(ServiceError::invalid("statement.kind", "is not an address"));
        }
        let mut detail = statement.detail("address")?;
        let address = detail.text(1, "address")?;
        detail.finish()?;
        check_address(&address)?;
        let node = caller.node().clone();
        ledger
            .clone()
            .store()
            .transact(
                "identity.report_address",
                move |tx| -> Result<Result<(), ServiceError>, ServiceError> {
                    match ledger.admit(tx, &statement) {
                        Ok(Admission::Known) => Ok(Ok(())),
                        Ok(Admission::New) => put_address(tx, &ledger, &node, address).map(Ok),
                        // Committed all the same: the evidence of the contradiction is in this transaction.
                        Err(fork @ LedgerError::Fork { .. }) => Ok(Err(fork.into())),
                        Err(error) => Err(error.into()),
                    }
                },
            )
            .await?
    }

    /// Where a node is reached: its reported address and its credential. Revoked nodes are not found.
    pub fn locate(&self, node: &NodeId) -> Result<NodeLocation, ServiceError> {
        let view = self.standing.ledger.store().view();
        let record = tables::node(&view, &self.standing.ledger, node.as_str())?
            .filter(|record| record.state == NodeState::Active)
            .ok_or_else(|| ServiceError::NotFound { what: format!("node {node}") })?;
        if record.address.is_empty() {
            return Err(ServiceError::NotFound { what: format!("the address of node {node}") });
        }
        let statement = self
            .standing
            .ledger
            .statement(&view, &record.statement)?
            .ok_or_else(|| ServiceError::Internal("the credential statement is missing".to_owned()))?;
        Ok(NodeLocation { address: record.address, credential: statement.bytes().clone() })
    }

    /// The registered nodes in order of their ids, at most `limit`.
    pub fn nodes(&self, limit: usize) -> Result<Vec<NodeRecord>, ServiceError> {
        let view = self.standing.ledger.store().view();
        view.scan(&tables::NODES, &[], None, limit)?
            .iter()
            .map(|row| tables::decode_node(&view, &self.standing.ledger, &row.value))
            .collect()
    }

    /// The lists that are newer than what a follower has.
    pub fn trust_since(
        &self,
        roots_version: u64,
        status_version: u64,
    ) -> Result<(TrustUpdate, u64, u64), ServiceError> {
        let view = self.standing.ledger.store().view();
        let (roots, status) = (self.standing.directory.roots(), self.standing.directory.status());
        let mut update = TrustUpdate::default();
        if roots.version > roots_version {
            update.roots = Some(self.list(&view, tables::ROOTS)?);
        }
        if status.version > status_version {
            update.status = Some(self.list(&view, tables::STATUS)?);
        }
        Ok((update, roots.version, status.version))
    }

    fn list(&self, read: &impl Read, key: &[u8]) -> Result<SignedDocument, ServiceError> {
        tables::signed(read, key)?
            .ok_or_else(|| ServiceError::Internal("a signed list is missing".to_owned()))
    }
}

fn no_such_invite() -> ServiceError {
    ServiceError::Forbidden {
        reason: "this registrar gave no such invite; ask its operator for one".to_owned(),
    }
}

/// `host:port`, where host is a domain, an IPv4 address or an IPv6 address in brackets.
fn check_address(address: &str) -> Result<(), ServiceError> {
    let wrong = || ServiceError::invalid("address", format!("{address:?} is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    rules::check_domain(host).map_err(|_| wrong())?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(wrong()),
    }
}

fn put_address(
    tx: &mut Tx<'_>,
    ledger: &huitong_ledger::Ledger,
    node: &NodeId,
    address: String,
) -> Result<(), ServiceError> {
    let mut record = tables::node(tx, ledger, node.as_str())?
        .ok_or_else(|| ServiceError::NotFound { what: format!("node {node}") })?;
    record.address = address;
    tx.put(&tables::NODES, node.as_str().as_bytes(), &tables::node_row(&record))?;
    Ok(())
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").field("node", self.standing.membership.node()).finish_non_exhaustive()
    }
}
