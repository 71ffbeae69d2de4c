//! What is done to the data directory of a node that is not running: checking, mending, counting, exporting, backing
//! up and restoring store and ledger together. A running node holds the directory, and all of this is refused.
//!
//! Long work reports [`Progress`]; it blocks for as long as the disk does, so call it off a runtime's threads.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use huitong_ledger::{LedgerError, offline as ledger};
use huitong_proof::Timestamp;
use huitong_store::OpenError;
use huitong_store::backup::BackupError;
use huitong_store::disk::Disk;
use huitong_store::offline as store;

pub use huitong_ledger::offline::{FileStats, FsckReport as LedgerCheck, Stats as LedgerStats};
pub use huitong_store::offline::{
    Finding, FsckReport as StoreCheck, Severity, Stats as StoreStats, TableStats,
};
pub use huitong_store::{BackupReport, Progress, Unit};

/// What a check of store and ledger found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Journal, snapshots and index.
    pub store: StoreCheck,
    /// Entries, tiles and lookups; nothing when they were not checked.
    pub ledger: Option<LedgerCheck>,
}

impl Checked {
    /// The store's findings, then the ledger's.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.store.findings.iter().chain(self.ledger.iter().flat_map(|ledger| &ledger.findings))
    }

    /// How bad the worst finding is.
    pub fn worst(&self) -> Severity {
        self.findings().map(|finding| finding.severity).max().unwrap_or(Severity::Note)
    }
}

/// What was built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// The last transaction in the index.
    pub sequence: u64,
    /// Entries whose tiles and lookups were made again.
    pub entries: u64,
}

/// What store and ledger hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Tables, journal, snapshots, index.
    pub store: StoreStats,
    /// Entries and their files; nothing before the node has an identity.
    pub ledger: Option<LedgerStats>,
}

/// Why maintenance did not do what it was asked. Each has a stable code and a process exit code, those of a start that
/// fails for the same reason where there is one.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The store cannot be used: held by another process, damaged, not there.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The backup cannot be made or used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A directory cannot be made.
    #[error("cannot create {directory}: {source}; check the path, its owner and the free space")]
    Directory {
        /// Which.
        directory: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl MaintenanceError {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self.class() {
            Class::Target => "store.target",
            Class::Backup => "store.backup",
            Class::Damaged => "store.damaged",
            Class::Locked => "store.locked",
            Class::System => "store.io",
        }
    }

    /// The exit code of the process: 2 a target that is not empty, 5 a backup that is not whole, 14 damaged data, 15
    /// data in use, 18 anything of the operating system.
    pub fn exit_code(&self) -> u8 {
        match self.class() {
            Class::Target => 2,
            Class::Backup => 5,
            Class::Damaged => 14,
            Class::Locked => 15,
            Class::System => 18,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Store(error) => Class::of_store(error),
            Self::Backup(error) | Self::Ledger(LedgerError::Backup(error)) => match error {
                BackupError::NotEmpty { .. } | BackupError::Addition { .. } => Class::Target,
                BackupError::Manifest { .. } | BackupError::Altered { .. } => Class::Backup,
                BackupError::Shortened { .. } => Class::Damaged,
                BackupError::Files(error) => Class::of_store(error),
            },
            Self::Ledger(LedgerError::Open(error)) => Class::of_store(error),
            Self::Ledger(LedgerError::InUse { .. }) => Class::Locked,
            Self::Ledger(LedgerError::File { .. } | LedgerError::Store(_)) | Self::Directory { .. } => {
                Class::System
            }
            Self::Ledger(_) => Class::Damaged,
        }
    }
}

/// What an error means to who asked.
enum Class {
    Target,
    Backup,
    Damaged,
    Locked,
    System,
}

impl Class {
    fn of_store(error: &OpenError) -> Self {
        match error {
            OpenError::Locked { .. } => Self::Locked,
            OpenError::Damaged { .. } | OpenError::Snapshot { .. } | OpenError::Version { .. } => {
                Self::Damaged
            }
            OpenError::Io { .. } | OpenError::Index { .. } => Self::System,
        }
    }
}

/// Reads everything of the store in `directory` and of the ledger in it, and changes nothing. Findings are no errors.
///
/// The ledger is read by opening the store, which would mend it: unless the store is clean, the ledger is left out, and
/// a note says so.
///
/// # Errors
/// [`MaintenanceError`] when there is no store, or it is in use.
pub fn fsck(directory: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Checked, MaintenanceError> {
    let disk = Disk::real();
    let mut checked = Checked { store: store::fsck(directory, &disk, progress)?, ledger: None };
    if !has_ledger(directory) {
        return Ok(checked);
    }
    if checked.store.is_clean() {
        checked.ledger = Some(ledger::fsck(directory, &disk, progress)?);
    } else {
        checked.store.findings.push(Finding {
            severity: Severity::Note,
            place: LEDGER.to_owned(),
            what: "was not checked, because the store is not clean".to_owned(),
            next_step: "mend the store first, then check again".to_owned(),
        });
    }
    Ok(checked)
}

/// Builds the store's index anew from the journal, and the ledger's tiles and lookups from its entries.
///
/// # Errors
/// [`MaintenanceError`]; journal and entries are not touched but for an incomplete group at the journal's end, which is
/// cut off as at a start.
pub fn rebuild(directory: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Rebuilt, MaintenanceError> {
    let disk = Disk::real();
    let sequence = store::rebuild(directory, &disk, progress)?;
    let entries = if has_ledger(directory) { ledger::rebuild(directory, &disk, progress)? } else { 0 };
    Ok(Rebuilt { sequence, entries })
}

/// Counts what store and ledger hold.
///
/// # Errors
/// [`MaintenanceError`].
pub fn stats(directory: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Stats, MaintenanceError> {
    let disk = Disk::real();
    let store = store::stats(directory, &disk, progress)?;
    let ledger = if has_ledger(directory) { Some(ledger::stats(directory, &disk)?) } else { None };
    Ok(Stats { store, ledger })
}

/// Writes every entry of the ledger as one line of JSON, in log order; returns how many.
///
/// # Errors
/// [`MaintenanceError`]; `out` may then have some of the lines.
pub fn export(
    directory: &Path,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, MaintenanceError> {
    Ok(ledger::export(directory, &Disk::real(), out, progress)?)
}

/// Backs store and ledger up into `to`, which must be empty or not exist. Files that never change are hard links where
/// the file system allows it. The keys are not in it, nor is what was received or published.
///
/// # Errors
/// [`MaintenanceError`]; `to` then holds no backup and can be deleted.
pub fn snapshot(
    directory: &Path,
    to: &Path,
    now: Timestamp,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, MaintenanceError> {
    let disk = Disk::real();
    let mut backup = store::backup(directory, to, now.millis(), &disk, progress)?;
    if has_ledger(directory) {
        ledger::backup(directory, &mut backup, &disk, progress)?;
    }
    Ok(backup.finish()?)
}

/// Puts a backup into `directory`, which must be empty or not exist; the directory above it is made, for the node's user
/// only. The node then starts in safe mode: it signs nothing before it is known that nothing was lost.
///
/// # Errors
/// [`MaintenanceError`]; nothing is left in `directory` then.
pub fn restore(
    from: &Path,
    directory: &Path,
    now: Timestamp,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, MaintenanceError> {
    if let Some(above) = directory.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(above);
        made.map_err(|source| MaintenanceError::Directory {
            directory: above.display().to_string(),
            source,
        })?;
    }
    let note = format!("at {now}\nfrom {}", from.display());
    Ok(store::restore(from, directory, &note, &Disk::real(), progress)?)
}

/// Where the ledger lies below the store's directory.
const LEDGER: &str = "ledger";

/// A node that was never enrolled has none.
fn has_ledger(directory: &Path) -> bool {
    directory.join(LEDGER).exists()
}
