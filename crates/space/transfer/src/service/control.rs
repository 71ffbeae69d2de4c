//! What an operator does to a transfer: pause, resume, cancel, on either side.

use huitong_contract::Side;
use huitong_identity::ServiceError;
use huitong_ledger::Ledger;
use huitong_proof::{Digest, Kind, id_text};
use huitong_store::Tx;

use super::standing::{end, follow};
use super::{Transfers, issue};
use crate::details::{AckDetail, AckStatus};
use crate::model::{DepositState, Suspender, Transfer, TransferState};
use crate::tables;

/// The code of a transfer that an operator holds up.
const PAUSED: &str = "transfer.paused";
/// The code of a transfer that an operator has ended.
const CANCELLED: &str = "transfer.cancelled";
/// A provider that is away is told of a cancellation for this many milliseconds: a day.
const TOLD_FOR: u64 = 24 * 60 * 60 * 1000;
/// The longest reason an operator may give, in characters: it goes into a statement.
const LONGEST_REASON: usize = 256;

impl Transfers {
    /// Holds up a transfer until [`Transfers::resume`]. A consumer says so with a signature, in an ACK that also says how
    /// much has arrived; what has arrived stays, and counts.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` once it has ended.
    pub async fn pause(&self, id: &[u8; 16], reason: &str) -> Result<Transfer, ServiceError> {
        let reason = checked(reason, "paused by its operator")?;
        self.control("transfer.pause", id, move |this, tx, ledger, transfer| {
            if transfer.is_paused() {
                return Ok(());
            }
            if transfer.side == Side::Consumer {
                this.acknowledge_stop(tx, ledger, transfer, &reason)?;
            }
            transfer.suspend(Suspender::Operator, PAUSED, &reason);
            Ok(())
        })
        .await
    }

    /// Lets a paused transfer go on, as soon as its contract is in force. One that is not paused goes on anyway. Of a completed one
    /// the deposit is tried again that has failed or was given up.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` once it has ended.
    pub async fn resume(&self, id: &[u8; 16]) -> Result<Transfer, ServiceError> {
        if self.has_undone_deposit(id)? {
            self.resume_deposit(id).await?;
            return self.known(id);
        }
        self.control("transfer.resume", id, |this, tx, ledger, transfer| {
            if transfer.is_paused() {
                transfer.release();
                let contract = this.contract_of(&*tx, transfer)?;
                follow(tx, ledger, transfer, &contract)?;
            }
            Ok(())
        })
        .await
    }

    /// Ends a transfer for good with a signed ABORT. What has arrived of it is removed; what was acknowledged stays on
    /// record. Of a completed transfer the deposit is given up that is not done: what was received stays where it lies.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` once it has ended otherwise, or all of it is acknowledged.
    pub async fn cancel(&self, id: &[u8; 16], reason: &str) -> Result<Transfer, ServiceError> {
        let reason = checked(reason, "cancelled by its operator")?;
        if let Some(transfer) = self.transfer(id)?
            && transfer.code == CANCELLED
        {
            return Ok(transfer);
        }
        if self.has_undone_deposit(id)? {
            self.cancel_deposit(id, reason).await?;
            return self.known(id);
        }
        let transfer = self
            .control("transfer.cancel", id, move |this, tx, ledger, transfer| {
                // The other side has signed, or will, that it is complete.
                if transfer.is_acknowledged() {
                    let reason =
                        "all of it is acknowledged; it is completed when the other side has answered";
                    return Err(ServiceError::Conflict { reason: reason.to_owned() });
                }
                let contract = this.contract_of(&*tx, transfer)?;
                end(tx, ledger, transfer, &contract, CANCELLED, &reason)
            })
            .await?;
        super::destination::remove_arrived(&transfer).await;
        Ok(transfer)
    }

    /// Whether it is completed, and what it has delivered is not where it was ordered to.
    fn has_undone_deposit(&self, id: &[u8; 16]) -> Result<bool, ServiceError> {
        let transfer = self.transfer(id)?.filter(|transfer| transfer.state == TransferState::Completed);
        let deposit = transfer.and_then(|transfer| transfer.deposit);
        Ok(deposit.is_some_and(|deposit| deposit.state != DepositState::Done))
    }

    fn known(&self, id: &[u8; 16]) -> Result<Transfer, ServiceError> {
        self.transfer(id)?.ok_or_else(|| unknown(id))
    }

    /// Issues the ACK that says how much has arrived and that no more is taken for now. Before the first ACCEPT there is
    /// nothing to answer, and nothing to say of a file without bytes.
    pub(super) fn acknowledge_stop(
        &self,
        tx: &mut Tx<'_>,
        ledger: &Ledger,
        transfer: &mut Transfer,
        reason: &str,
    ) -> Result<(), ServiceError> {
        let (Some(accept), Some(root)) = (transfer.statements.accept, transfer.root) else { return Ok(()) };
        let (groups, bytes) = (transfer.acknowledged_groups, transfer.acknowledged);
        if groups == transfer.groups {
            return Ok(());
        }
        let contract = self.contract_of(&*tx, transfer)?;
        let status = AckStatus::Stopped { reason: reason.to_owned() };
        let detail = AckDetail { root, groups, bytes, status }.to_detail();
        let statement = issue(tx, ledger, Kind::Ack, transfer, &contract, accept, detail)?;
        transfer.statements.ack = Some(statement.digest());
        Ok(())
    }

    /// Changes a transfer that has not ended, in one commit, and has its run look at what is stored now.
    async fn control(
        &self,
        name: &'static str,
        id: &[u8; 16],
        step: impl FnOnce(&Self, &mut Tx<'_>, &Ledger, &mut Transfer) -> Result<(), ServiceError> + Send + 'static,
    ) -> Result<Transfer, ServiceError> {
        let (this, key) = (self.clone(), *id);
        let transfer = self
            .ledger()
            .store()
            .transact(name, move |tx| -> Result<Transfer, ServiceError> {
                let mut transfer = tables::transfer(tx, &key)?.ok_or_else(|| unknown(&key))?;
                if transfer.state.is_terminal() {
                    let reason = format!("the transfer is {} already", transfer.state.name());
                    return Err(ServiceError::Conflict { reason });
                }
                step(&this, tx, this.ledger(), &mut transfer)?;
                tables::save(tx, &transfer)?;
                Ok(transfer)
            })
            .await?;
        self.look_again(id);
        Ok(transfer)
    }

    /// The provider has heard of a cancellation, or will not any more.
    pub(super) async fn told(&self, id: &[u8; 16]) -> Result<(), ServiceError> {
        let id = *id;
        let marked = self.ledger().store().transact("transfer.told", move |tx| tables::told(tx, &id)).await;
        marked.map_err(ServiceError::from)
    }

    /// Whether a provider that is away has been told of a cancellation in vain for long enough.
    pub(super) fn has_been_cancelled_for_long(&self, transfer: &Transfer) -> bool {
        let now = self.ledger().clock().now().millis();
        transfer.state == TransferState::Terminated
            && transfer.finished.is_some_and(|at| now.saturating_sub(at.millis()) > TOLD_FOR)
    }

    /// Our own statement of a transfer that the other side must hear before we leave: the ACK of a paused or suspended
    /// one, the ABORT of a cancelled one. `None` as long as the transfer runs.
    pub(super) fn last_word(&self, transfer: &Transfer) -> Option<Digest> {
        match (transfer.suspended_by, transfer.statements.abort) {
            (_, Some(abort)) => Some(abort),
            (Some(Suspender::Operator | Suspender::Space), None) => transfer.statements.ack,
            _ => None,
        }
    }
}

fn unknown(id: &[u8; 16]) -> ServiceError {
    ServiceError::NotFound { what: format!("transfer {}", id_text(id)) }
}

fn checked(reason: &str, otherwise: &str) -> Result<String, ServiceError> {
    if reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
        let expected = format!("must be one line of at most {LONGEST_REASON} characters");
        return Err(ServiceError::invalid("reason", expected));
    }
    Ok(if reason.is_empty() { otherwise.to_owned() } else { reason.to_owned() })
}
