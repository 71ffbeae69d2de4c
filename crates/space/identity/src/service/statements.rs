//! The small verbs on statements that every crate above uses: take one from a caller, keep a credential, refuse, prove.

use bytes::Bytes;
use huitong_ids::NodeId;
use huitong_ledger::{Ledger, LedgerError, Proofs};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Envelope, Kind, Statement};
use huitong_store::{Read, Tx};

use crate::error::{Refusal, ServiceError};
use crate::model::{Caller, Credential, NodeRecord};
use crate::tables::{self, SelfRow};

/// Most statements in one request for proofs.
const MAX_PROVEN: usize = 256;

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

/// The credential of any node this one knows: itself, the registrars of its root list, the nodes it has relied on, and,
/// at a registrar, its members. It says nothing of a later revocation: that is in [`crate::Directory::status`].
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
        match credential_digest(read, node)? {
            Some(digest) => ledger.statement(read, &digest)?,
            None => None,
        }
    };
    statement.map(|statement| Ok((Credential::from_statement(&statement)?, statement))).transpose()
}

fn credential_digest(read: &impl Read, node: &NodeId) -> Result<Option<Digest>, ServiceError> {
    let key = node.as_str().as_bytes();
    match read.get(&tables::PEERS, key)? {
        Some(bytes) => Digest::from_slice(&bytes)
            .map(Some)
            .ok_or_else(|| ServiceError::Internal("a stored credential digest is damaged".to_owned())),
        None => read.get(&tables::NODES, key)?.map(|row| tables::node_statement(&row)).transpose(),
    }
}

/// The nodes that this registrar has enrolled, itself left out, in order of their ids: at most `limit` after the id
/// `after`. Revoked ones are among them, with their state. Empty on any other node.
pub fn members(
    read: &impl Read,
    ledger: &Ledger,
    after: Option<&NodeId>,
    limit: usize,
) -> Result<Vec<NodeRecord>, ServiceError> {
    let after = after.map(|node| node.as_str().as_bytes());
    // One more than asked for: this node's own row may be among them.
    let rows = read.scan(&tables::NODES, &[], after, limit.saturating_add(1))?;
    rows.iter()
        .filter(|row| row.key != ledger.node().as_bytes())
        .take(limit)
        .map(|row| tables::decode_node(read, ledger, &row.value))
        .collect()
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

/// Proves to a caller that statements are in our ledger, those whose bytes were removed among them. Only their issuer or
/// audience may ask, for at most 256.
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
        let is_caller = |node: &str| node == caller.node().as_str();
        let is_party = match ledger.statement(&view, digest) {
            Ok(found) => found.is_some_and(|statement| {
                is_caller(&statement.body().issuer) || is_caller(&statement.body().audience)
            }),
            // Its bytes are gone here, and the other party still needs the proof of its hash.
            Err(LedgerError::Redacted { index, .. }) => ledger
                .gap(&view, index)?
                .and_then(|gap| gap.removed)
                .is_some_and(|removed| is_caller(&removed.issuer) || is_caller(&removed.audience)),
            Err(error) => return Err(error.into()),
        };
        if !is_party {
            // The same answer for unknown and for foreign statements: who is no party learns nothing.
            return Err(ServiceError::NotFound { what: format!("statement {digest}") });
        }
    }
    Ok(ledger.prove(digests, known_size).await?)
}
