//! The node's durable memory.

use std::error::Error as _;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use huitong_identity::ServiceError;
use huitong_ledger::LedgerError;
use huitong_store::{BackupReport, Progress, Unit};
use tonic::Status;

use super::work::show_work;
use super::{AdminServices, Watch};
use crate::blocking::blocking;
use crate::proto::admin as wire;

impl AdminServices {
    /// Goes on when the client goes away: a directory without its manifest is no backup.
    pub(super) async fn back_up_store(
        &self,
        request: wire::BackUpStoreRequest,
    ) -> Result<Watch<wire::BackUpStoreResponse>, Status> {
        let wire::BackUpStoreRequest { directory } = request;
        let directory = new_directory(directory).map_err(self.failed())?;
        let ledger = self.standing.ledger.clone();
        Ok(show_work(self.standing.clone(), |steps| {
            blocking(move || {
                let mut show = |progress: Progress| {
                    steps.send_replace(Some(backup_step(progress)));
                };
                let size = ledger.size(&ledger.store().view())?;
                let report = ledger.backup(&directory, &mut show).map_err(backup_error)?;
                Ok(backup_report(report, size))
            })
        }))
    }
}

/// The node has another working directory than its operator, and never writes where something is.
fn new_directory(directory: String) -> Result<PathBuf, ServiceError> {
    let path = PathBuf::from(&directory);
    let refused = |reason: &str| Err(ServiceError::invalid("directory", format!("{directory:?} {reason}")));
    if !path.is_absolute() {
        return refused("is not an absolute path: the node has another working directory");
    }
    match fs::symlink_metadata(&path) {
        Ok(_) => refused("exists already; name a directory that does not exist yet"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path),
        Err(error) => refused(&format!("cannot be looked at: {error}")),
    }
}

fn backup_step(progress: Progress) -> wire::BackUpStoreResponse {
    let Progress { step, done, total, unit } = progress;
    let unit = match unit {
        Unit::Bytes => "bytes",
        Unit::Rows => "rows",
        Unit::Files => "files",
        Unit::Entries => "entries",
    };
    wire::BackUpStoreResponse {
        step: step.to_owned(),
        done,
        total,
        unit: unit.to_owned(),
        ..Default::default()
    }
}

fn backup_report(report: BackupReport, ledger_size: u64) -> wire::BackUpStoreResponse {
    let BackupReport { sequence, files: _, bytes, linked: _ } = report;
    wire::BackUpStoreResponse { sequence, ledger_size, bytes, ..Default::default() }
}

/// The operator chose the directory, and hears what is wrong with it with all causes.
fn backup_error(error: LedgerError) -> ServiceError {
    let LedgerError::Backup(error) = error else { return error.into() };
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !reason.contains(&words) {
            let _ = write!(reason, ": {words}");
        }
        cause = error.source();
    }
    ServiceError::invalid("directory", reason)
}
