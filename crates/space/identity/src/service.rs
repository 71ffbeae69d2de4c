//! A node's own standing: founding a registrar, joining one, and the small verbs every other crate uses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huitong_ids::{EntityCode, NodeId, NodeType, Segment};
use huitong_ledger::{Identity, Ledger, LogVerifier, Proofs, origin_of};
use huitong_proof::cbor::Map;
use huitong_proof::{
    Anchor, ChannelHead, Clock, Digest, Draft, Entropy, Envelope, Kind, Signing, SpaceId, Statement,
    Timestamp, VerifyingKey, random,
};
use huitong_store::{Read, Store, Tx};

use crate::certificate;
use crate::directory::Directory;
use crate::documents::{
    EnrolmentGrant, EnrolmentRequest, Invite, RootEntry, RootList, SignedDocument, StatusList,
    check_list_detail, list_detail,
};
use crate::error::{Refusal, ServiceError};
use crate::keys::{NodeKeys, RootAuthority};
use crate::model::{Caller, Credential, NodeRecord, NodeState, Role};
use crate::rules::{check_domain, check_name};
use crate::tables::{self, SelfRow};

/// How long a credential and its certificate are valid.
pub(crate) const CREDENTIAL_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a root list is valid.
const ROOTS_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const ROOT_CERTIFICATE_YEARS: u64 = 10;
/// Everybody: the audience of root and revocation lists.
pub(crate) const EVERYBODY: &str = "*";
/// Most statements in one request for proofs.
const MAX_PROVEN: usize = 256;
const LOG_KEY_PROOF: &[u8] = b"huitong/log-key/v1\0";

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
    let ledger = new_ledger(store, keys, &node, &genesis.space, sources);
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
        roles: vec![Role::Registrar],
        not_before: validity_start(now),
        not_after: now.saturating_add(CREDENTIAL_LIFETIME),
        registrar: node.to_string(),
    };
    let roots = RootList {
        space: genesis.space,
        version: 1,
        issued: now,
        expires: now.saturating_add(ROOTS_LIFETIME),
        entries: vec![RootEntry {
            node: node.clone(),
            entity: genesis.entity.clone(),
            name: genesis.name.clone(),
            certificate: root_certificate.clone(),
            statement_key: keys.statement().verifying_key(),
            log: log_of(&node, &keys.log().verifying_key())?,
        }],
    };
    let status = StatusList { version: 1, issued: now, revoked: Vec::new() };
    let (keys_of_tx, ledger_of_tx, root) = (keys.clone(), ledger.clone(), root.clone());
    store
        .transact("identity.found", move |tx| -> Result<(), ServiceError> {
            let ledger = &ledger_of_tx;
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
            publish_roots(tx, ledger, &roots)?;
            publish_status(tx, ledger, &status)?;
            Ok(())
        })
        .await?;
    load(store, keys, sources, None)?
        .ok_or_else(|| ServiceError::Internal("the new registrar was not stored".to_owned()))
}

/// What a node that wants to join says about itself.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The invite from the registrar's operator.
    pub invite: Invite,
    /// The certificate's CN: where this node will be reached.
    pub domain: String,
}

/// The request that [`crate::peer::EnrolmentPeer::enrol`] carries. The same keys and invite give the same outcome, so
/// it may be sent again after any failure.
pub fn enrolment_request(
    keys: &NodeKeys,
    request: &JoinRequest,
    sources: &Sources,
) -> Result<EnrolmentRequest, ServiceError> {
    check_domain(&request.domain)?;
    let csr = certificate::signing_request(keys.tls(), &request.domain)?;
    let csr_digest = Digest::sha256(&csr);
    let statement_key = keys.statement().verifying_key();
    let proof = keys.log().sign(&log_key_claim(&csr_digest, &statement_key));
    let token_digest = Digest::sha256(&request.invite.token);
    let detail = Map::new()
        .digest(1, &csr_digest)
        .bytes(2, statement_key.as_bytes())
        .bytes(3, keys.log().verifying_key().as_bytes())
        .bytes(4, &proof)
        .text(5, &request.domain)
        .digest(6, &token_digest);
    let statement = Statement::sign(
        Draft {
            kind: Kind::Enrolment,
            audience: request.invite.registrar.to_string(),
            subject: random(&*sources.entropy),
            agreement: Digest::ZERO,
            reference: Digest::ZERO,
            detail,
        },
        Signing {
            key: keys.statement(),
            space: &request.invite.space,
            // No node id exists yet: the key's own thumbprint names who speaks.
            issuer: &statement_key.thumbprint().to_string(),
            channel: ChannelHead::START,
            anchor: Anchor::none(),
            time: sources.clock.now(),
            salt: random(&*sources.entropy),
        },
    )?;
    Ok(EnrolmentRequest {
        token: request.invite.token,
        csr,
        statement_key: *statement_key.as_bytes(),
        statement: statement.bytes().clone(),
    })
}

/// What an enrolment statement says, after its signature and its proofs of possession were checked.
pub(crate) struct CheckedEnrolment {
    pub(crate) statement: Statement,
    pub(crate) tls_key: rcgen::PublicKey,
    pub(crate) tls_digest: Digest,
    pub(crate) statement_key: VerifyingKey,
    pub(crate) log_key: VerifyingKey,
    pub(crate) domain: String,
}

/// Checks possession of all three keys.
pub(crate) fn check_enrolment(
    request: &EnrolmentRequest,
    registrar: &str,
    space: &SpaceId,
) -> Result<CheckedEnrolment, ServiceError> {
    let tls_key = certificate::parse_request(&request.csr)?;
    let statement_key = VerifyingKey::from_bytes(&request.statement_key)
        .map_err(|error| ServiceError::invalid("statement_key", error))?;
    let statement = Envelope::decode(request.statement.clone())?.verify(&statement_key, space)?;
    if statement.kind() != Kind::Enrolment || statement.body().audience != registrar {
        return Err(ServiceError::invalid("statement", "is not an enrolment addressed to this registrar"));
    }
    let mut detail = statement.detail("enrolment")?;
    let csr_digest = detail.digest(1, "csr")?;
    let named_key = detail.bytes(2, "statement_key")?;
    let log_key = VerifyingKey::from_bytes(&detail.bytes(3, "log_key")?)
        .map_err(|error| ServiceError::invalid("enrolment.log_key", error))?;
    let proof = detail.bytes(4, "log_key_proof")?;
    let domain = detail.text(5, "domain")?;
    let token_digest = detail.digest(6, "token")?;
    detail.finish()?;
    check_domain(&domain)?;
    if csr_digest != Digest::sha256(&request.csr) {
        return Err(ServiceError::invalid("csr", "is not the one that the enrolment statement names"));
    }
    if named_key != statement_key.as_bytes() {
        return Err(ServiceError::invalid(
            "statement_key",
            "is not the one that the enrolment statement names",
        ));
    }
    if token_digest != Digest::sha256(&request.token) {
        return Err(ServiceError::invalid("token", "is not the one that the enrolment statement names"));
    }
    log_key
        .verify(&log_key_claim(&csr_digest, &statement_key), &proof)
        .map_err(|_| ServiceError::invalid("log_key", "its proof of possession does not verify"))?;
    let tls_digest = certificate::request_key_digest(&tls_key);
    Ok(CheckedEnrolment { statement, tls_key, tls_digest, statement_key, log_key, domain })
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
    let directory = Directory::new(roots, status, now, None);
    let caller = directory
        .authenticate(&grant.certificate, now)
        .map_err(|error| ServiceError::invalid("grant.certificate", error))?;
    if caller.credential() != &credential
        || credential.tls_key != keys.tls_digest()
        || credential.statement_key != keys.statement().verifying_key()
        || *credential.log.key() != keys.log().verifying_key()
    {
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
    let ledger = new_ledger(store, keys, &credential.node, &space, sources);
    store
        .transact("identity.join", move |tx| -> Result<(), ServiceError> {
            for statement in [&enrolment, &credential_statement, &roots_statement, &status_statement] {
                ledger.admit(tx, statement)?;
            }
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
    let ledger = new_ledger(store, keys, &row.node, &row.space, sources);
    let roots_document = tables::signed(&view, tables::ROOTS)?.ok_or_else(|| missing("root list"))?;
    let status_document = tables::signed(&view, tables::STATUS)?.ok_or_else(|| missing("revocation list"))?;
    let roots = RootList::decode(&roots_document.document)?;
    let status = StatusList::decode(&status_document.document)?;
    let statement = Envelope::decode(row.credential.clone())?.trusted(&row.space)?;
    let credential = Credential::from_statement(&statement)?;
    if credential.tls_key != keys.tls_digest()
        || credential.statement_key != keys.statement().verifying_key()
        || *credential.log.key() != keys.log().verifying_key()
    {
        return Err(ServiceError::Conflict {
            reason: "the key files do not belong to this data directory's credential; restore keys and data from the same backup".to_owned(),
        });
    }
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

/// Verifies a statement that a caller handed in as its own: issued by the caller, to us, in our space.
pub fn statement_from(caller: &Caller, bytes: Bytes, ledger: &Ledger) -> Result<Statement, ServiceError> {
    statement_of(caller.credential(), bytes, ledger)
}

/// The same for a node whose credential we hold.
pub fn statement_of(
    credential: &Credential,
    bytes: Bytes,
    ledger: &Ledger,
) -> Result<Statement, ServiceError> {
    let statement = Envelope::decode(bytes)?.verify(&credential.statement_key, ledger.space())?;
    if statement.body().issuer != credential.node.as_str() {
        return Err(ServiceError::invalid("statement.issuer", "is not the node that handed it in"));
    }
    if statement.body().audience != ledger.node() {
        return Err(ServiceError::invalid("statement.audience", "is another node"));
    }
    Ok(statement)
}

/// Keeps a peer's credential; call it in the transaction that first relies on the peer. Idempotent.
pub fn remember(tx: &mut Tx<'_>, ledger: &Ledger, caller: &Caller) -> Result<(), ServiceError> {
    remember_credential(tx, ledger, caller.credential(), caller.credential_statement())
}

/// [`remember`] for a credential that came with a resolution instead of a connection.
pub fn remember_credential(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    credential: &Credential,
    statement: &Statement,
) -> Result<(), ServiceError> {
    let key = credential.node.as_str().as_bytes();
    let digest = statement.digest();
    if tx.get(&tables::PEERS, key)?.as_deref() == Some(digest.as_bytes().as_slice()) {
        return Ok(());
    }
    ledger.admit(tx, statement)?;
    tx.put(&tables::PEERS, key, digest.as_bytes())?;
    Ok(())
}

/// The credential of a node we have relied on, or of ourselves.
pub fn credential_of(
    read: &impl Read,
    ledger: &Ledger,
    node: &NodeId,
) -> Result<Option<(Credential, Statement)>, ServiceError> {
    let statement = if node.as_str() == ledger.node() {
        match SelfRow::load(read)? {
            Some(row) => Some(Envelope::decode(row.credential)?.trusted(&row.space)?),
            None => None,
        }
    } else {
        match read.get(&tables::PEERS, node.as_str().as_bytes())? {
            Some(bytes) => {
                let digest = Digest::from_slice(&bytes).ok_or_else(|| {
                    ServiceError::Internal("a stored credential digest is damaged".to_owned())
                })?;
                ledger.statement(read, &digest)?
            }
            None => None,
        }
    };
    statement.map(|statement| Ok((Credential::from_statement(&statement)?, statement))).transpose()
}

/// Records a refusal: a REFUSAL statement (kind 31) to who asked, with detail {1 code, 2 reason, 3 next step, 4 what
/// was asked}, issued and logged in `tx`.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one field of the statement; a struct would only rename them"
)]
pub fn refuse(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    audience: &str,
    subject: [u8; 16],
    agreement: Digest,
    reference: Digest,
    refusal: &Refusal,
    asked: &str,
) -> Result<Statement, ServiceError> {
    let detail =
        Map::new().text(1, &refusal.code).text(2, &refusal.reason).text(3, &refusal.next_step).text(4, asked);
    let draft =
        Draft { kind: Kind::Refusal, audience: audience.to_owned(), subject, agreement, reference, detail };
    Ok(ledger.issue(tx, draft)?)
}

/// Proves to a caller that statements are in our ledger. Only their issuer or audience may ask, for at most 256.
pub async fn prove_for(
    caller: &Caller,
    ledger: &Ledger,
    digests: Vec<Digest>,
    known_size: u64,
) -> Result<Proofs, ServiceError> {
    if digests.is_empty() || digests.len() > MAX_PROVEN {
        return Err(ServiceError::invalid("digests", "must name 1 to 256 statements"));
    }
    let view = ledger.store().view();
    for digest in &digests {
        let party = ledger.statement(&view, digest)?.is_some_and(|statement| {
            let body = statement.body();
            body.issuer == caller.node().as_str() || body.audience == caller.node().as_str()
        });
        if !party {
            // The same answer for unknown and for foreign statements: who is no party learns nothing.
            return Err(ServiceError::NotFound { what: format!("statement {digest}") });
        }
    }
    Ok(ledger.prove(digests, known_size).await?)
}

/// Reads a REFUSAL statement back.
pub fn read_refusal(statement: &Statement) -> Result<Refusal, ServiceError> {
    if statement.kind() != Kind::Refusal {
        return Err(ServiceError::invalid("statement.kind", "is not a refusal"));
    }
    let mut detail = statement.detail("refusal")?;
    let refusal = Refusal {
        code: detail.text(1, "code")?,
        reason: detail.text(2, "reason")?,
        next_step: detail.text(3, "next_step")?,
    };
    detail.text(4, "asked")?;
    detail.finish()?;
    Ok(refusal)
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

pub(crate) fn publish_roots(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    roots: &RootList,
) -> Result<SignedDocument, ServiceError> {
    publish_list(tx, ledger, Kind::Roots, roots.version, roots.encode(), tables::ROOTS)
}

pub(crate) fn publish_status(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    status: &StatusList,
) -> Result<SignedDocument, ServiceError> {
    publish_list(tx, ledger, Kind::Status, status.version, status.encode(), tables::STATUS)
}

fn publish_list(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    kind: Kind,
    version: u64,
    document: Vec<u8>,
    key: &[u8],
) -> Result<SignedDocument, ServiceError> {
    let statement = ledger.issue(
        tx,
        Draft {
            kind,
            audience: EVERYBODY.to_owned(),
            subject: [0; 16],
            agreement: Digest::ZERO,
            reference: Digest::ZERO,
            detail: list_detail(version, &document),
        },
    )?;
    let signed = SignedDocument { statement: statement.bytes().clone(), document: document.into() };
    tx.put(&tables::STANDING, key, &tables::signed_row(&signed))?;
    Ok(signed)
}

pub(crate) fn verify_roots(
    signed: &SignedDocument,
    key: &VerifyingKey,
    space: &SpaceId,
) -> Result<(Statement, RootList), ServiceError> {
    let statement = verify_list(signed, Kind::Roots, key, space)?;
    let roots = RootList::decode(&signed.document)?;
    check_list_detail(statement.detail("roots")?, roots.version, &signed.document)?;
    if roots.space != *space {
        return Err(ServiceError::invalid("roots.space", "is another data space"));
    }
    Ok((statement, roots))
}

pub(crate) fn verify_status(
    signed: &SignedDocument,
    key: &VerifyingKey,
    space: &SpaceId,
) -> Result<(Statement, StatusList), ServiceError> {
    let statement = verify_list(signed, Kind::Status, key, space)?;
    let status = StatusList::decode(&signed.document)?;
    check_list_detail(statement.detail("status")?, status.version, &signed.document)?;
    Ok((statement, status))
}

fn verify_list(
    signed: &SignedDocument,
    kind: Kind,
    key: &VerifyingKey,
    space: &SpaceId,
) -> Result<Statement, ServiceError> {
    let statement = Envelope::decode(signed.statement.clone())?.verify(key, space)?;
    if statement.kind() != kind || statement.body().audience != EVERYBODY {
        return Err(ServiceError::invalid(
            "statement",
            format!("is not a {} list for everybody", kind.name()),
        ));
    }
    Ok(statement)
}

pub(crate) fn validity_start(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.millis().saturating_sub(certificate::CLOCK_SLACK_MILLIS))
}

/// The verifier of a node's ledger, whose origin follows from the node id.
pub(crate) fn log_of(node: &NodeId, key: &VerifyingKey) -> Result<LogVerifier, ServiceError> {
    LogVerifier::new(origin_of(node.as_str()), key.clone())
        .map_err(|error| ServiceError::Internal(error.to_string()))
}

fn log_key_claim(csr: &Digest, statement_key: &VerifyingKey) -> Vec<u8> {
    [LOG_KEY_PROOF, csr.as_bytes(), statement_key.as_bytes()].concat()
}

fn new_ledger(store: &Store, keys: &NodeKeys, node: &NodeId, space: &SpaceId, sources: &Sources) -> Ledger {
    let identity = Identity {
        node: node.to_string(),
        origin: origin_of(node.as_str()),
        space: *space,
        statement_key: keys.statement().clone(),
        log_key: keys.log().clone(),
    };
    Ledger::new(store.clone(), identity, sources.clock.clone(), sources.entropy.clone())
}
