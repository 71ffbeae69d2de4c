//! What a node does by itself. Every worker wakes on commits, so that nothing waits for a timer that could go at once.

mod ledger;
mod outbox;
mod refusals;
mod transfers;

use std::time::Duration;

use huitong_catalog::Shelf;
use huitong_contract::Contracts;
use huitong_evidence::Evidence;
use huitong_grpc::Peers;
use huitong_identity::{Standing, report_address, workers::follow_once};
use huitong_ids::NodeId;
use huitong_transfer::Transfers;
use tokio::sync::{broadcast, mpsc};

use crate::listener::Connections;
use crate::supervisor::{Stopping, Supervisor};
use crate::tls::RefusedNode;

/// Longest pause of a worker whose failures are this node's own.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A node that has lost its registrar wants it back soon: every minute without it counts.
const LONGEST_TRUST_PAUSE: Duration = Duration::from_secs(5);

/// What the workers work with.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) evidence: Evidence,
    pub(crate) peers: Peers,
    pub(crate) shelf: Option<Shelf>,
    pub(crate) contracts: Option<Contracts>,
    pub(crate) transfers: Option<Transfers>,
    pub(crate) max_concurrent_transfers: usize,
    /// Those of them from one provider.
    pub(crate) max_concurrent_per_peer: usize,
    /// How often other ledgers are looked at.
    pub(crate) monitor_interval: Duration,
    pub(crate) connections: Connections,
    /// `host:port` that other nodes are told.
    pub(crate) address: String,
}

impl Work {
    pub(crate) fn standing(&self) -> &Standing {
        self.evidence.standing()
    }
}

/// Starts all workers of a node. `arrivals` names nodes that have just connected, `refused` those that were refused.
pub(crate) fn spawn(
    supervisor: &Supervisor,
    work: &Work,
    arrivals: &broadcast::Sender<NodeId>,
    refused: mpsc::Receiver<RefusedNode>,
) {
    spawn_each(supervisor, "connections", LONGEST_PAUSE, work, |work| async move {
        end_revoked_connections(&work).await
    });
    ledger::spawn(supervisor, work, arrivals);
    refusals::spawn(supervisor, work.standing().clone(), refused);
    if work.standing().membership.is_registrar() {
        return;
    }
    spawn_each(supervisor, "trust", LONGEST_TRUST_PAUSE, work, |work| async move {
        follow_once(work.standing(), &work.peers).await.map_err(|error| error.to_string())?;
        Err("the registrar ended the connection".to_owned())
    });
    spawn_each(supervisor, "address", LONGEST_PAUSE, work, |work| async move {
        ledger::until_signing(work.evidence.ledger()).await;
        report_address(work.standing(), &work.address).await.map_err(|error| error.to_string())?;
        Ok(())
    });
    outbox::spawn(supervisor, work.clone(), arrivals.clone());
    if let Some(transfers) = &work.transfers {
        transfers::spawn_runner(supervisor, work, transfers.clone(), arrivals.clone());
        transfers::spawn_follower(supervisor, transfers.clone());
        transfers::spawn_announcer(supervisor, transfers.clone());
        transfers::spawn_collector(supervisor, work, transfers.clone());
        transfers::spawn_deposits(supervisor, work, transfers.clone());
        transfers::spawn_subscriptions(supervisor, work, transfers.clone());
    }
}

fn spawn_each<R>(
    supervisor: &Supervisor,
    name: &'static str,
    longest_pause: Duration,
    work: &Work,
    round: impl Fn(Work) -> R + Send + 'static,
) where
    R: Future<Output = Result<(), String>> + Send,
{
    let work = work.clone();
    supervisor.spawn(name, Stopping::AtOnce, longest_pause, move || round(work.clone()));
}

/// A revoked node's open connections end as soon as we learn of it; an expired one's at the next look.
async fn end_revoked_connections(work: &Work) -> Result<(), String> {
    const LOOK: Duration = Duration::from_secs(10);
    let mut changes = work.standing().directory.changes();
    loop {
        changes.borrow_and_update();
        let ended = work.connections.end_revoked(work.standing());
        if ended > 0 {
            tracing::info!(connections = ended, "ended connections of nodes that no longer count");
        }
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| "the trust view is gone".to_owned())?,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The pause after a number of failed tries: `first` doubled each time, at most `longest`.
fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(31))).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(30));
        let pauses: Vec<_> = [1, 2, 3, 8, 9, u32::MAX].map(|n| backoff(first, longest, n).as_millis()).into();
        assert_eq!(pauses, [200, 400, 800, 25_600, 30_000, 30_000]);
    }
}
