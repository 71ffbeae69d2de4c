//! Putting back what a restored or rolled-back log has lost, and signing again.

use std::sync::PoisonError;

use bytes::Bytes;
use huitong_proof::{Digest, Envelope, Timestamp};
use huitong_store::{Read, Tx};

use crate::doubt::{self, Resumption};
use crate::error::LedgerError;
use crate::gaps::{Gap, Reinstated};
use crate::log::{Admission, Ledger, raise_head};
use crate::lookup::Keys;
use crate::merkle::leaf_hash;
use crate::tables::{self, ASIDE, ENTRY, Extent, GAP};
use crate::tiles::WIDTH;
use crate::tree::leaf_of;

impl Ledger {
    /// Puts an entry back at `index`, where it stood before this node lost it. Only in safe mode; from the size of the
    /// newest checkpoint on, one after the other. Channel heads move on, so that this node never uses a number twice.
    ///
    /// Entries that no checkpoint covers and that are in the way (of peers, admitted in safe mode) are set aside and
    /// logged again by [`Ledger::resume_signing`]. An entry that stands there already is left as it is; a lost one whose
    /// bytes are given now is filled, as long as it is not settled.
    ///
    /// That the entry belongs there, the caller knows from a cosigned root; nothing is verified here.
    ///
    /// # Errors
    /// [`LedgerError::Reinstate`] when the gate is open, the index is beyond the end, or a checkpoint covers another
    /// entry there; storage errors.
    pub fn reinstate(&self, tx: &mut Tx<'_>, index: u64, what: &Reinstated) -> Result<(), LedgerError> {
        let refused = |why| Err(LedgerError::Reinstate { index, why });
        if self.signing().is_ok() {
            return refused("this node is not in safe mode; stop signing first");
        }
        let leaf = match what {
            Reinstated::Statement(bytes) => leaf_hash(bytes),
            Reinstated::Lost { leaf, .. } => *leaf,
        };
        let Extent { size, .. } = tables::extent(tx)?;
        if index > size {
            return refused("the entries before it are not here; put them back first");
        }
        if index < size {
            if self.leaf_at(tx, index)? == leaf {
                return self.fill(tx, index, what);
            }
            let signed = tables::latest_checkpoint(tx)?.map_or(0, |latest| latest.checkpoint().size);
            if index < signed {
                return refused("a signed checkpoint covers another entry there; the two logs have forked");
            }
            self.set_aside(tx, index)?;
        }
        match what {
            Reinstated::Statement(bytes) => {
                let statement = Envelope::decode(bytes.clone())?.trusted(self.space())?;
                let body = statement.body();
                let head = tables::head(tx, &body.issuer, &body.audience)?;
                self.append(tx, &statement, head)?;
            }
            Reinstated::Lost { leaf, reason } => {
                let index = self.append_row(tx, &[])?;
                self.recent_from(index);
                let time = Timestamp::from_millis(tx.time());
                let (leaf, who, why) = (*leaf, String::new(), reason.clone());
                Gap { index, leaf, who, why, time, removed: None }.put(tx)?;
            }
        }
        Ok(())
    }

    /// Signs again: logs what was set aside, and opens the gate for good. To a counterparty of which `resumption` knows
    /// nothing, statements are refused until [`Ledger::confirm`]. On a ledger that signs already it says anew who has
    /// answered.
    ///
    /// # Errors
    /// [`LedgerError::File`] when the files that keep the gate closed cannot be removed; storage errors. The gate is
    /// closed then.
    pub async fn resume_signing(&self, resumption: Resumption) -> Result<(), LedgerError> {
        let ledger = self.clone();
        let resume = move |tx: &mut Tx<'_>| {
            doubt::resume(tx, &resumption)?;
            ledger.log_aside(tx)
        };
        self.store().transact("ledger.resume", resume).await?;
        let ledger = self.clone();
        let opened = tokio::task::spawn_blocking(move || ledger.inner.gate.reopen(&ledger.inner.place));
        opened.await.map_err(|_| LedgerError::Worker)??;
        tracing::warn!(origin = self.origin(), "the ledger signs again");
        Ok(())
    }

    /// Puts the bytes of a lost entry back where its hash is. Nothing else about the log changes.
    fn fill(&self, tx: &mut Tx<'_>, index: u64, what: &Reinstated) -> Result<(), LedgerError> {
        let (key, gap) = (index.to_be_bytes(), Gap::get(tx, index)?);
        let (Reinstated::Statement(bytes), Some(Gap { removed: None, .. })) = (what, gap) else {
            return Ok(());
        };
        if tx.get(&ENTRY, &key)?.is_none() {
            return Ok(());
        }
        let statement = Envelope::decode(bytes.clone())?.trusted(self.space())?;
        tx.put(&ENTRY, &key, bytes)?;
        tx.delete(&GAP, &key)?;
        let body = statement.body();
        let head = tables::head(tx, &body.issuer, &body.audience)?;
        raise_head(tx, &statement, head)?;
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner).add(&Keys::of(&statement), index);
        Ok(())
    }

    /// Takes the entries from `index` on out of the log. The numbers that their issuers used stay used.
    fn set_aside(&self, tx: &mut Tx<'_>, index: u64) -> Result<(), LedgerError> {
        let Extent { size, arrangement } = tables::extent(tx)?;
        let mut number =
            tx.last(&ASIDE, &[])?.map_or(Ok(0), |row| tables::number(&row.key))?.saturating_add(1);
        for taken in index..size {
            let key = taken.to_be_bytes();
            let row = tx
                .get(&ENTRY, &key)?
                .ok_or(LedgerError::Damaged { what: "the row of an entry is missing" })?;
            if row.is_empty() {
                tx.delete(&GAP, &key)?;
            } else {
                tx.put(&ASIDE, &number.to_be_bytes(), &row)?;
                number = number.saturating_add(1);
            }
            tx.delete(&ENTRY, &key)?;
        }
        self.recent_from(index);
        tables::put_extent(tx, Extent { size: index, arrangement: arrangement.saturating_add(1) })
    }

    fn log_aside(&self, tx: &mut Tx<'_>) -> Result<(), LedgerError> {
        for row in tx.scan(&ASIDE, &[], None, usize::MAX)? {
            let statement = Envelope::decode(Bytes::from(row.value))?.trusted(self.space())?;
            match self.admit(tx, &statement) {
                // With a fork the evidence is in `tx`: the statement cannot stand beside what was put back.
                Ok(Admission::New | Admission::Known) | Err(LedgerError::Fork { .. }) => {}
                Err(error) => return Err(error),
            }
            tx.delete(&ASIDE, &row.key)?;
        }
        Ok(())
    }

    fn leaf_at(&self, r: &impl Read, index: u64) -> Result<Digest, LedgerError> {
        match r.get(&ENTRY, &index.to_be_bytes())? {
            Some(row) => leaf_of(r, index, &row),
            None => {
                let tile = self.tile(0, index / WIDTH)?;
                let position = usize::try_from(index % WIDTH).unwrap_or_default();
                tile.get(position)
                    .copied()
                    .ok_or(LedgerError::Damaged { what: "the hash of an entry is missing" })
            }
        }
    }

    fn recent_from(&self, index: u64) {
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner).forget_from(index);
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
