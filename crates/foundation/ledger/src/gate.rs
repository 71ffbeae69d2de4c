//! The signing gate: a node that may have lost its newest statements signs nothing (safe mode).

use std::io::Write;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use huitong_store::offline::RESTORED;
use huitong_store::{LOST, Store};

use crate::error::LedgerError;
use crate::place::{self, Place, UNCONFIRMED};

/// More of a reason than anyone reads.
const MAX_REASON_BYTES: usize = 4096;

/// Whether this node may sign, kept in files so that it outlasts a restart.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Why nothing is signed.
    closed: RwLock<Option<String>>,
    unconfirmed: PathBuf,
    restored: PathBuf,
    lost: PathBuf,
}

impl Gate {
    /// Closed if any of the files is there.
    pub(crate) fn open(store: &Store, place: &Place) -> Result<Self, LedgerError> {
        let unconfirmed = place.root().join(UNCONFIRMED);
        let (restored, lost) = (store.directory().join(RESTORED), store.directory().join(LOST));
        let mut closed = None;
        if let Some(reason) = place::read(&unconfirmed)? {
            closed = Some(String::from_utf8_lossy(&reason).trim().to_owned());
        } else if let Some(said) = place::read(&restored)? {
            let said = String::from_utf8_lossy(&said);
            closed =
                Some(format!("this store was restored from a backup ({})", said.trim().replace('\n', ", ")));
        } else if let Some(said) = place::read(&lost)? {
            closed = Some(String::from_utf8_lossy(&said).trim().to_owned());
        }
        Ok(Self { closed: RwLock::new(closed), unconfirmed, restored, lost })
    }

    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(LedgerError::SafeMode { reason }),
        }
    }

    fn reason(&self) -> Option<String> {
        self.closed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the gate at once, then durably. A reason given before stays.
    pub(crate) fn close(&self, place: &Place, reason: &str) -> Result<(), LedgerError> {
        let mut closed = self.closed.write().unwrap_or_else(PoisonError::into_inner);
        let reason = closed.get_or_insert_with(|| shortened(reason)).clone();
        // Under the lock, so that an opening at the same moment does not remove what this writes.
        if !self.unconfirmed.exists() {
            place.put_durably(&self.unconfirmed, |out| out.write_all(reason.as_bytes()))?;
        }
        Ok(())
    }

    /// Opens the gate, durably first.
    pub(crate) fn reopen(&self, place: &Place) -> Result<(), LedgerError> {
        let mut closed = self.closed.write().unwrap_or_else(PoisonError::into_inner);
        place.remove_durably(&self.restored)?;
        place.remove_durably(&self.lost)?;
        place.remove_durably(&self.unconfirmed)?;
        *closed = None;
        Ok(())
    }
}

fn shortened(reason: &str) -> String {
    let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    let reason = reason.get(..end.unwrap_or(0)).unwrap_or_default().trim();
    if reason.is_empty() { "the reason was not recorded".to_owned() } else { reason.to_owned() }
}
