//! Backing up a running node's store and ledger together.

use std::path::Path;

use huitong_store::Progress;
use huitong_store::backup::{Addition, BackupReport, Change};

use crate::error::LedgerError;
use crate::log::Ledger;
use crate::offline::additions;
use crate::place::LOOKUP;

impl Ledger {
    /// Copies store and ledger as they are at one moment into `to`, which must be empty or not exist; see
    /// `huitong_store::Store::backup` for what it holds. Settled files become hard links where the file system allows it.
    /// Nothing is published while the store's own part and the lookup runs are copied.
    ///
    /// Blocks: call it off the runtime's threads, on which it panics.
    ///
    /// # Errors
    /// [`LedgerError::Backup`]; `to` then holds no manifest, and can be deleted.
    pub fn backup(&self, to: &Path, progress: &mut dyn FnMut(Progress)) -> Result<BackupReport, LedgerError> {
        // Runs must not be merged between the two parts: the backup's rows would say less than its runs cover.
        let publishing = self.inner.publishing.blocking_lock();
        let mut backup = self.store().backup(to, progress)?;
        let (root, store) = (self.inner.place.root(), self.store().directory());
        let is_settled = |file: &Addition| {
            file.change == Change::Never && !file.path.starts_with(format!("ledger/{}", LOOKUP))
        };
        let (_, first): (Vec<_>, Vec<_>) = additions(store, root)?.into_iter().partition(is_settled);
        backup.add(&first, progress)?;
        drop(publishing);
        // Every settled entry of the copied rows is in one of these; some may be newer.
        let (settled, _): (Vec<_>, Vec<_>) = additions(store, root)?.into_iter().partition(is_settled);
        backup.add(&settled, progress)?;
        Ok(backup.finish()?)
    }
}
