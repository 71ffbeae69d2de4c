//! What a transfer has moved (计量), by what both sides have signed.

use huitong_identity::ServiceError;
use huitong_ledger::LedgerError;
use huitong_proof::{Digest, Statement};
use huitong_store::Read;

use super::Transfers;
use crate::details::AckDetail;
use crate::model::{Metering, Transfer};

impl Transfers {
    /// What has been moved, and in how long, by the transfer's own statements: bytes and groups are those of the last ACK,
    /// the time is that from the OFFER to the FINAL or, short of that, to the last ACK. Pauses are part of it. What has
    /// been removed from the ledger counts as nothing.
    ///
    /// # Errors
    /// Storage errors.
    pub fn metering(&self, transfer: &Transfer) -> Result<Metering, ServiceError> {
        let view = self.ledger().store().view();
        let signed = &transfer.statements;
        let Some(ack) = self.kept(&view, signed.ack)? else { return Ok(Metering::default()) };
        let AckDetail { groups, bytes, .. } = AckDetail::read(&ack)?;
        let from = self.kept(&view, signed.offer)?.map(|offer| offer.body().time.millis());
        let to = self.kept(&view, signed.last)?.unwrap_or(ack).body().time.millis();
        Ok(Metering { bytes, groups, milliseconds: to.saturating_sub(from.unwrap_or(to)) })
    }

    fn kept(&self, read: &impl Read, digest: Option<Digest>) -> Result<Option<Statement>, ServiceError> {
        let Some(digest) = digest else { return Ok(None) };
        match self.ledger().statement(read, &digest) {
            Err(LedgerError::Redacted { .. }) => Ok(None),
            found => Ok(found?),
        }
    }
}
