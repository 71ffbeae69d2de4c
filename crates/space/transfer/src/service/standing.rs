//! What the standing of a contract means for its transfers: while it is suspended they wait, when it is ended they end.

use std::time::Duration;

use huitong_contract::Contract;
use huitong_identity::ServiceError;
use huitong_ids::ContractId;
use huitong_ledger::Ledger;
use huitong_proof::Kind;
use huitong_store::Tx;
use tokio::time::sleep;

use super::destination::remove_arrived;
use super::{Transfers, issue};
use crate::details::abort_detail;
use crate::model::{Suspender, Transfer, TransferState};
use crate::rules::{self, Demand};
use crate::tables;

/// Transfers that follow in one commit.
const BATCH: usize = 64;
/// When those that could not follow try again.
const AGAIN: Duration = Duration::from_millis(500);

impl Transfers {
    /// Has transfers follow the standing of their contracts: what has changed already, and each change from now on, until
    /// the store closes. Running ones hear of it at once.
    pub async fn follow_contracts(&self) -> Result<(), ServiceError> {
        let mut commits = self.contracts.changes();
        loop {
            commits.borrow_and_update();
            let (mut after, mut failed) = (None, false);
            while let Some((contract, change)) =
                self.contracts.restated(&self.ledger().store().view(), after.as_ref())?
            {
                // One whose ABORTs cannot be signed now, say in safe mode, does not hold up the others.
                if let Err(error) = self.follow_contract(&contract, change).await {
                    tracing::warn!(%contract, %error, "transfers cannot follow their contract yet");
                    failed = true;
                }
                after = Some(contract);
            }
            if failed {
                sleep(AGAIN).await;
            } else if commits.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn follow_contract(&self, contract: &ContractId, change: u64) -> Result<(), ServiceError> {
        let mut after = None;
        loop {
            let (this, contract) = (self.clone(), contract.clone());
            let follow = move |tx: &mut Tx<'_>| -> Result<_, ServiceError> {
                let ids = tables::live(tx, &contract, after.as_ref(), BATCH)?;
                let mut followed = Vec::new();
                for id in &ids {
                    followed.extend(this.follow_in(tx, id)?);
                }
                let next = ids.last().filter(|_| ids.len() == BATCH).copied();
                if next.is_none() {
                    this.contracts.followed(tx, &contract, change)?;
                }
                Ok((followed, next))
            };
            let (followed, next) = self.ledger().store().transact("transfer.follow", follow).await?;
            // All runs hear of it before anything that takes long.
            followed.iter().for_each(|transfer| self.look_again(&transfer.id));
            for transfer in followed {
                self.has_followed(&transfer).await;
            }
            match next {
                Some(id) => after = Some(id),
                None => return Ok(()),
            }
        }
    }

    /// The same for one transfer, by who cannot wait for that.
    pub(super) async fn follow_now(&self, id: [u8; 16]) -> Result<(), ServiceError> {
        let this = self.clone();
        let follow = move |tx: &mut Tx<'_>| this.follow_in(tx, &id);
        let followed = self.ledger().store().transact("transfer.follow", follow).await?;
        if let Some(transfer) = followed {
            self.look_again(&transfer.id);
            self.has_followed(&transfer).await;
        }
        Ok(())
    }

    /// The transfer, if something had to change.
    fn follow_in(&self, tx: &mut Tx<'_>, id: &[u8; 16]) -> Result<Option<Transfer>, ServiceError> {
        let Some(mut transfer) = tables::transfer(tx, id)? else { return Ok(None) };
        let contract = self.contract_of(tx, &transfer)?;
        if !follow(tx, self.ledger(), &mut transfer, &contract)? {
            return Ok(None);
        }
        tables::save(tx, &transfer)?;
        Ok(Some(transfer))
    }

    async fn has_followed(&self, transfer: &Transfer) {
        if transfer.state == TransferState::Terminated {
            remove_arrived(transfer).await;
        }
    }
}

/// Does what the contract's standing asks of a transfer; says whether that was anything.
pub(super) fn follow(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    transfer: &mut Transfer,
    contract: &Contract,
) -> Result<bool, ServiceError> {
    let reason = contract.standing.to_string();
    match rules::demanded(&contract.standing, transfer) {
        Demand::Nothing => return Ok(false),
        Demand::GoOn => transfer.release(),
        Demand::Wait => transfer.suspend(Suspender::Contract, rules::SUSPENDED, &reason),
        Demand::End => end(tx, ledger, transfer, contract, rules::ENDED, &reason)?,
    }
    Ok(true)
}

/// Ends a transfer for good with our ABORT; one that was never offered ends without a word.
pub(super) fn end(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    transfer: &mut Transfer,
    contract: &Contract,
    code: &str,
    reason: &str,
) -> Result<(), ServiceError> {
    if let Some(offer) = transfer.statements.offer {
        let detail = abort_detail(code, reason);
        let statement = issue(tx, ledger, Kind::Abort, transfer, contract, offer, detail)?;
        transfer.statements.abort = Some(statement.digest());
    }
    transfer.terminate(code, reason, ledger.clock().now());
    Ok(())
}
