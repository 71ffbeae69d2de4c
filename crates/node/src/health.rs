//! Whether the node takes work, and if not, why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use huitong_grpc::Peers;
use huitong_identity::Standing;
use huitong_store::Health as StoreHealth;

use crate::supervisor::Supervisor;

/// The state of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct Health {
    standing: Standing,
    peers: Peers,
    supervisor: Supervisor,
    max_clock_skew: Duration,
    stopping: Arc<AtomicBool>,
}

impl Health {
    pub(crate) fn new(
        standing: Standing,
        peers: Peers,
        supervisor: Supervisor,
        max_clock_skew: Duration,
    ) -> Self {
        Self { standing, peers, supervisor, max_clock_skew, stopping: Arc::default() }
    }

    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the process does its work at all; a restart may help when it does not.
    pub(crate) fn alive(&self) -> Result<(), String> {
        match self.standing.ledger.store().health() {
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
        let Standing { ledger, membership, directory } = &self.standing;
        let now = ledger.clock().now();
        let credential = membership.credential();
        if !credential.is_valid_at(now) {
            return Err(format!(
                "this node's credential is valid from {} to {}, and its clock says {now}; \
                 set the clock, or enrol anew",
                credential.not_before, credential.not_after
            ));
        }
        if let Some(reason) = clock_doubt(&self.standing, &self.peers, self.max_clock_skew) {
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

    /// One line for each worker that is failing at present.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.supervisor
            .workers()
            .into_iter()
            .filter(|worker| !worker.last_error.is_empty())
            .map(|worker| format!("{} failed {} times: {}", worker.name, worker.failures, worker.last_error))
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
