//! Whether the node takes work, and if not, why.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use huitong_evidence::Evidence;
use huitong_grpc::Peers;
use huitong_identity::Standing;
use huitong_store::Health as StoreHealth;

use crate::config::Config;
use crate::supervisor::Supervisor;

/// Less room on the data directory's disk, and the journal may fail at any moment: better no new work before that.
const LEAST_FREE_BYTES: u64 = 16 << 20;

/// The state of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct Health {
    evidence: Evidence,
    peers: Peers,
    supervisor: Supervisor,
    max_clock_skew: Duration,
    data_dir: PathBuf,
    stopping: Arc<AtomicBool>,
}

impl Health {
    pub(crate) fn new(evidence: Evidence, peers: Peers, supervisor: Supervisor, config: &Config) -> Self {
        let (max_clock_skew, data_dir) = (config.max_clock_skew, config.data_dir.clone());
        Self { evidence, peers, supervisor, max_clock_skew, data_dir, stopping: Arc::default() }
    }

    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the process does its work at all; a restart may help when it does not.
    pub(crate) fn alive(&self) -> Result<(), String> {
        match self.evidence.ledger().store().health() {
            StoreHealth::Ok => Ok(()),
            StoreHealth::Failed { reason } => Err(reason),
        }
    }

    /// Whether other nodes and operators should send work.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("the node is stopping".to_owned());
        }
        self.alive()?;
        check_room(&self.data_dir, LEAST_FREE_BYTES)?;
        let standing = self.evidence.standing();
        let Standing { ledger, membership, directory } = standing;
        ledger.signing().map_err(|error| error.to_string())?;
        let now = ledger.clock().now();
        let credential = membership.credential();
        if !credential.is_valid_at(now) {
            return Err(format!(
                "this node's credential is valid from {} to {}, and its clock says {now}; \
                 set the clock, or enrol anew",
                credential.not_before, credential.not_after
            ));
        }
        if let Some(reason) = clock_doubt(standing, &self.peers, self.max_clock_skew) {
            return Err(format!("this node's clock says {now}, but {reason}; set the clock"));
        }
        if directory.is_stale(now) {
            let why = self.last_error("trust").map_or_else(String::new, |why| format!(" ({why})"));
            return Err(format!(
                "the registrar was last heard at {}{why}; check identity.registrar_address and the network",
                directory.confirmed()
            ));
        }
        Ok(())
    }

    /// One line for each worker that is failing at present, and for what the store does by itself.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let workers = self.supervisor.workers().into_iter().filter(|worker| !worker.last_error.is_empty());
        let snapshots = self.evidence.ledger().store().maintenance().last_error;
        workers
            .map(|worker| format!("{} failed {} times: {}", worker.name, worker.failures, worker.last_error))
            .chain(snapshots.map(|error| format!("the store's snapshots failed: {error}")))
            .collect()
    }

    fn last_error(&self, name: &str) -> Option<String> {
        self.supervisor
            .workers()
            .into_iter()
            .find(|worker| worker.name == name)
            .map(|worker| worker.last_error)
            .filter(|error| !error.is_empty())
    }
}

fn check_room(directory: &Path, least: u64) -> Result<(), String> {
    // A file system that does not tell how full it is gets the benefit of the doubt.
    let Ok(stat) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= least {
        return Ok(());
    }
    Err(format!(
        "only {} KiB are free for node.data_dir {}; make room, or move it to a larger disk",
        free >> 10,
        directory.display()
    ))
}

/// What speaks against this node's clock: what the registrar's clock showed when it was last heard, or a list that it
/// signed later than it is now.
pub(crate) fn clock_doubt(standing: &Standing, peers: &Peers, tolerated: Duration) -> Option<String> {
    let now = standing.ledger.clock().now();
    let signed = standing.directory.status().issued;
    if signed > now.saturating_add(tolerated) {
        return Some(format!("the registrar signed its revocation list at {signed}"));
    }
    let clocks = peers.clocks()?;
    let apart =
        clocks.own.saturating_since(clocks.registrar).max(clocks.registrar.saturating_since(clocks.own));
    (apart > tolerated).then(|| {
        format!("the registrar's clock said {} when this node's said {}", clocks.registrar, clocks.own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_named() {
        let directory = tempfile::tempdir().unwrap();
        check_room(directory.path(), 1).unwrap();
        let why = check_room(directory.path(), u64::MAX).unwrap_err();
        assert!(why.contains(&directory.path().display().to_string()) && why.contains("; "), "{why}");
        check_room(&directory.path().join("missing"), u64::MAX).unwrap();
    }
}
