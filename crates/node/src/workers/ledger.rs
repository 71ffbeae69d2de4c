//! What the ledger needs done by itself: checkpoints, cosignatures, a look at the ledgers of others, the log of logs.

use std::time::Duration;

use huitong_evidence::{Evidence, MIRRORED_LEAVES, MonitorReport};
use huitong_grpc::Peers;
use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::Ledger;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{LONGEST_PAUSE, Work, backoff, spawn_each};
use crate::supervisor::{Stopping, Supervisor};

const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// At most one look at the ledgers of others in this time, however many there are.
const SHORTEST_ROUND: Duration = Duration::from_secs(1);
const MIRROR_INTERVAL: Duration = Duration::from_secs(1);
/// How often a worker looks whether the ledger may sign again; nobody waits for a shorter time after a recovery.
const SAFE_MODE_LOOK: Duration = Duration::from_secs(1);
/// Pauses before other nodes that failed are asked again. Each witness has its own pause besides.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PEER_PAUSE: Duration = Duration::from_secs(60);

pub(super) fn spawn(supervisor: &Supervisor, work: &Work, arrivals: &broadcast::Sender<NodeId>) {
    // Size of the newest checkpoint, for those who ask for cosignatures.
    let signed = watch::Sender::new(0);
    let tell = signed.clone();
    spawn_each(supervisor, "checkpoint", LONGEST_PAUSE, work, move |work| {
        let tell = tell.clone();
        async move { checkpoint(work.evidence.ledger(), &tell).await }
    });
    spawn_each(supervisor, "witness", LONGEST_PAUSE, work, move |work| {
        let signed = signed.subscribe();
        async move { ask_witnesses(&work, signed).await }
    });
    let (watching, arrivals) = (work.clone(), arrivals.clone());
    supervisor.spawn("monitor", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let (work, arrivals) = (watching.clone(), arrivals.subscribe());
        async move { monitor(&work, arrivals).await }
    });
    let is_registrar = work.standing().membership.is_registrar();
    if is_registrar || !work.evidence.settings().witness_for.is_empty() {
        spawn_each(supervisor, "mirror", LONGEST_PAUSE, work, |work| async move { mirror(&work).await });
    }
    if is_registrar {
        spawn_each(supervisor, "logs", LONGEST_PAUSE, work, |work| async move { log_members(&work).await });
    }
}

/// Waits for as long as the ledger signs nothing (safe mode).
pub(super) async fn until_signing(ledger: &Ledger) {
    while ledger.signing().is_err() {
        sleep(SAFE_MODE_LOOK).await;
    }
}

/// Signs and publishes a checkpoint each second in which the ledger has grown, so that receipts do not wait for one.
/// Publishes again when a cosignature has come.
async fn checkpoint(ledger: &Ledger, signed: &watch::Sender<u64>) -> Result<(), String> {
    let mut commits = ledger.store().commits();
    loop {
        commits.borrow_and_update();
        until_signing(ledger).await;
        let view = ledger.store().view();
        let size = ledger.size(&view).map_err(|error| error.to_string())?;
        let latest = ledger.latest_checkpoint(&view).map_err(|error| error.to_string())?;
        let latest = match latest {
            Some(latest) if latest.checkpoint().size >= size => latest,
            _ => ledger.checkpoint().await.map_err(|error| error.to_string())?,
        };
        signed.send_replace(latest.checkpoint().size);
        ledger.publish().await.map_err(|error| error.to_string())?;
        sleep(CHECKPOINT_INTERVAL).await;
        commits.changed().await.map_err(|_| "the store is closed".to_owned())?;
    }
}

/// Asks the witnesses for each new checkpoint, and those that did not answer again after a while.
async fn ask_witnesses(work: &Work, mut signed: watch::Receiver<u64>) -> Result<(), String> {
    let mut failures = 0_u32;
    loop {
        signed.borrow_and_update();
        let outcome = work.evidence.cosign_once(&work.peers).await.map_err(|error| error.to_string())?;
        failures = if outcome.failed.is_empty() { 0 } else { failures.saturating_add(1) };
        tokio::select! {
            changed = signed.changed() => changed.map_err(|_| "the checkpoint worker is gone".to_owned())?,
            () = again_after(failures) => {}
        }
    }
}

/// Looks at the ledgers of others, and compares with those that were not reachable when this node started.
async fn monitor(work: &Work, mut arrivals: broadcast::Receiver<NodeId>) -> Result<(), String> {
    let Work { evidence, peers, .. } = work;
    let failed = |error: ServiceError| error.to_string();
    loop {
        if evidence.safe_mode().is_some() || evidence.is_comparison_pending().map_err(failed)? {
            evidence.compare_late(peers).await.map_err(|error| error.to_string())?;
        }
        let report = look_around(evidence, peers).await?;
        // Where there are more ledgers than one round looks at, rounds follow one another faster.
        let rounds = report.remaining.div_ceil(report.logs.len().max(1)).saturating_add(1);
        let pause = work.monitor_interval / u32::try_from(rounds).unwrap_or(u32::MAX);
        let next = Instant::now() + pause.max(SHORTEST_ROUND);
        loop {
            tokio::select! {
                Ok(node) = arrivals.recv() => if evidence.has_to_hear(&node).map_err(failed)? {
                    evidence.compare_with(peers, &node).await.map_err(|error| error.to_string())?;
                },
                () = sleep_until(next) => break,
            }
        }
    }
}

/// One round of the monitor. Its future cannot be moved between threads, so it gets a thread of its own, which ends with
/// the round or when nobody waits for it any more.
async fn look_around(evidence: &Evidence, peers: &Peers) -> Result<MonitorReport, String> {
    let (evidence, peers, runtime) = (evidence.clone(), peers.clone(), Handle::current());
    let stop = CancellationToken::new();
    let _stopped_when_dropped = stop.clone().drop_guard();
    let round = move || {
        runtime.block_on(async {
            tokio::select! {
                () = stop.cancelled() => Ok(MonitorReport::default()),
                report = evidence.monitor_once(&peers) => report.map_err(|error| error.to_string()),
            }
        })
    };
    tokio::task::spawn_blocking(round).await.map_err(|error| error.to_string())?
}

/// Fetches the leaf hashes of the ledgers that this node witnesses soon after it has cosigned: what is not here when the
/// owner of a ledger loses its disk cannot be put back from here. Where that fails, the monitor tries again.
async fn mirror(work: &Work) -> Result<(), String> {
    let mut commits = work.evidence.ledger().store().commits();
    loop {
        commits.borrow_and_update();
        let mirrored = work.evidence.mirror_once(&work.peers, MIRRORED_LEAVES).await;
        mirrored.map_err(|error| error.to_string())?;
        sleep(MIRROR_INTERVAL).await;
        commits.changed().await.map_err(|_| "the store is closed".to_owned())?;
    }
}

/// When to try again after so many failures one after the other; never after none.
async fn again_after(failures: u32) {
    match failures {
        0 => std::future::pending().await,
        _ => sleep(backoff(FIRST_PAUSE, LONGEST_PEER_PAUSE, failures)).await,
    }
}

/// Once a day, and soon after a start on a new day.
async fn log_members(work: &Work) -> Result<(), String> {
    const LOOK: Duration = Duration::from_secs(600);
    loop {
        until_signing(work.evidence.ledger()).await;
        work.evidence.log_members_once().await.map_err(|error| error.to_string())?;
        sleep(LOOK).await;
    }
}
