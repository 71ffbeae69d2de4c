//! Root and revocation lists: signed by the registrar, verified by everybody.

use huitong_ledger::Ledger;
use huitong_proof::{Digest, Draft, Envelope, Kind, SpaceId, Statement, VerifyingKey};
use huitong_store::Tx;

use super::statements::remember_credential;
use crate::documents::{RootList, SignedDocument, StatusList, check_list_detail, list_detail};
use crate::error::ServiceError;
use crate::tables;

/// Everybody: the audience of both lists.
const EVERYBODY: &str = "*";

pub(crate) fn publish_roots(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    roots: &RootList,
) -> Result<SignedDocument, ServiceError> {
    publish_list(tx, ledger, Kind::Roots, roots.version, roots.encode(), tables::ROOTS)
}

/// Keeps the credentials of the registrars on a list that [`verify_roots`] gave: they are witnesses too.
pub(crate) fn remember_roots(tx: &mut Tx<'_>, ledger: &Ledger, roots: &RootList) -> Result<(), ServiceError> {
    for entry in &roots.entries {
        let (credential, statement) = entry.verify_credential(ledger.space())?;
        remember_credential(tx, ledger, &credential, &statement)?;
    }
    Ok(())
}

pub(crate) fn publish_status(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    status: &StatusList,
) -> Result<SignedDocument, ServiceError> {
    let document = status.encode();
    // Nobody could read a longer one, not even this node at its next start.
    if document.len() > StatusList::MAX_BYTES {
        return Err(ServiceError::Conflict {
            reason: format!(
                "the revocation list is full with {} nodes",
                status.revoked.len().saturating_sub(1)
            ),
        });
    }
    publish_list(tx, ledger, Kind::Status, status.version, document, tables::STATUS)
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
    for entry in &roots.entries {
        entry.verify_credential(space)?;
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
