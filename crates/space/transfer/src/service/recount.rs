//! Usage counters of a node that was restored from a backup.

use huitong_identity::ServiceError;
use huitong_proof::{Kind, Statement};
use huitong_store::Tx;

use super::Transfers;
use crate::details::UsageDetail;
use crate::tables;

impl Transfers {
    /// Whether a statement is this node's own.
    pub fn has_issued(&self, statement: &Statement) -> bool {
        statement.body().issuer == self.ledger().node()
    }

    /// Brings a usage counter up to what one of our own USAGE statements says it stood at. A counter never goes down:
    /// an old statement, or the same one again, changes nothing. Gives the counter as it is now.
    ///
    /// To be called for each USAGE statement that came back from a counterparty after the counters were restored from a
    /// backup: without it, what was used since the backup could be used once more.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] when the statement is no USAGE of this node.
    pub fn recount(&self, tx: &mut Tx<'_>, statement: &Statement) -> Result<u64, ServiceError> {
        let body = statement.body();
        if !self.has_issued(statement) {
            return Err(ServiceError::invalid("statement.issuer", "is not this node"));
        }
        if statement.kind() != Kind::Usage {
            return Err(ServiceError::invalid("statement.kind", "is not a usage record"));
        }
        let usage = UsageDetail::read(statement)?;
        let stands = tables::counter(tx, &body.agreement, &usage.counter)?;
        if stands < usage.after {
            tables::put_counter(tx, &body.agreement, &usage.counter, usage.after)?;
        }
        Ok(stands.max(usage.after))
    }
}
