//! What identity does by itself: following the registrar's lists and delivering its own messages.

use bytes::Bytes;
use huitong_ids::NodeId;
use huitong_proof::Envelope;
use huitong_store::{Pending, outbox};

use crate::documents::StatusList;
use crate::error::{Delivery, PeerError, ServiceError};
use crate::peer::{RegistrarPeer, TrustUpdate};
use crate::service::{Standing, remember_roots, verify_roots, verify_status};
use crate::tables;

/// Topic of this crate's outbox messages.
pub const TOPIC: &str = "identity";

/// Follows the registrar until the connection ends; returns why it ended.
pub async fn follow_once(standing: &Standing, peer: &dyn RegistrarPeer) -> Result<(), ServiceError> {
    let directory = &standing.directory;
    let mut news = peer
        .follow_trust(standing.membership.registrar(), directory.roots().version, directory.status().version)
        .await?;
    while let Some(update) = news.recv().await {
        apply(standing, update?).await?;
    }
    Ok(())
}

/// Takes one piece of news: verified, durable, then in force.
pub async fn apply(standing: &Standing, update: TrustUpdate) -> Result<(), ServiceError> {
    let Standing { ledger, membership, directory } = standing;
    let roots = directory.roots();
    let key = roots
        .entry(membership.registrar().as_str())
        .map(|entry| entry.statement_key.clone())
        .ok_or_else(|| ServiceError::Internal("our registrar is not on the root list".to_owned()))?;
    if let Some(signed) = update.roots {
        let (statement, list) = verify_roots(&signed, &key, ledger.space())?;
        if list.version < roots.version {
            return Err(rolled_back("root list", list.version, roots.version));
        }
        if list.version > roots.version {
            let (ledger, known) = (ledger.clone(), list.clone());
            ledger
                .clone()
                .store()
                .transact("identity.roots", move |tx| -> Result<(), ServiceError> {
                    ledger.admit(tx, &statement)?;
                    remember_roots(tx, &ledger, &known)?;
                    tx.put(&tables::STANDING, tables::ROOTS, &tables::signed_row(&signed))?;
                    Ok(())
                })
                .await?;
            directory.replace_roots(list);
        }
    }
    if let Some(signed) = update.status {
        let (statement, list) = verify_status(&signed, &key, ledger.space())?;
        let known = directory.status();
        if list.version < known.version {
            return Err(rolled_back("revocation list", list.version, known.version));
        }
        if list.version > known.version {
            check_monotone(&known, &list)?;
            let ledger = ledger.clone();
            ledger
                .clone()
                .store()
                .transact("identity.status", move |tx| -> Result<(), ServiceError> {
                    ledger.admit(tx, &statement)?;
                    tx.put(&tables::STANDING, tables::STATUS, &tables::signed_row(&signed))?;
                    Ok(())
                })
                .await?;
            directory.replace_status(list);
        }
    }
    directory.confirm(ledger.clock().now());
    Ok(())
}

/// Delivers one ADDRESS statement.
pub async fn deliver(
    standing: &Standing,
    pending: &Pending,
    peer: &dyn RegistrarPeer,
) -> Result<(), Delivery> {
    let registrar = NodeId::parse(&pending.destination)
        .map_err(|error| Delivery::Dead(format!("destination: {error}")))?;
    let payload = Bytes::from(pending.payload.clone());
    // What is in our own outbox is ours; a damaged row must not block the rows behind it.
    Envelope::decode(payload.clone()).map_err(|error| Delivery::Dead(error.to_string()))?;
    match peer.report_address(&registrar, payload).await {
        Ok(()) => {}
        Err(PeerError::Unavailable(reason)) => return Err(Delivery::Retry(reason)),
        Err(error) => return Err(Delivery::Dead(error.to_string())),
    }
    let id = pending.id;
    standing
        .ledger
        .store()
        .transact("identity.address_delivered", move |tx| outbox::settle(tx, id))
        .await
        .map_err(|error| Delivery::Retry(format!("{error:?}")))
}

fn check_monotone(known: &StatusList, new: &StatusList) -> Result<(), ServiceError> {
    // The list grows at its end, so the usual comparison is short however long the list is.
    if new.revoked.starts_with(&known.revoked) {
        return Ok(());
    }
    match known.revoked.iter().find(|entry| !new.revoked.contains(entry)) {
        Some(entry) => {
            Err(PeerError::Broken(format!("the new revocation list forgets node {}", entry.node)).into())
        }
        None => Ok(()),
    }
}

fn rolled_back(what: &str, offered: u64, known: u64) -> ServiceError {
    PeerError::Broken(format!("the registrar offers {what} version {offered}, older than {known}")).into()
}
