//! What the ledger needs done by itself: checkpoints, cosignatures, a look at the ledgers of others, the log of logs.

use std::time::Duration;

use huitong_evidence::{MIRRORED_LEAVES, Mirroring};
use huitong_ids::NodeId;
use huitong_ledger::Ledger;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

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
    let compares = || evidence.is_comparison_pending() || evidence.safe_mode().is_some();
    loop {
        if compares() {
            evidence.compare_late(peers).await.map_err(|error| error.to_string())?;
        }
        let report = {
            let (evidence, peers, handle) = (evidence.clone(), peers.clone(), tokio::runtime::Handle::current());
            tokio::task::spawn_blocking(move || handle.block_on(evidence.monitor_once(&peers)))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?
        };
        // Where there are more ledgers than one round looks at, rounds follow one another faster.
        let rounds = report.remaining.div_ceil(report.logs.len().max(1)).saturating_add(1);
        let pause = work.monitor_interval / u32::try_from(rounds).unwrap_or(u32::MAX);
        let next = Instant::now() + pause.max(SHORTEST_ROUND);
        loop {
            tokio::select! {
                Ok(node) = arrivals.recv() => if compares() {
                    evidence.compare_with(peers, &node).await.map_err(|error| error.to_string())?;
                },
                () = sleep_until(next) => break,
            }
        }
    }
}

/// Fetches the leaf hashes of the ledgers that this node witnesses soon after it has cosigned: what is not here when the
/// owner of a ledger loses its disk cannot be put back from here.
async fn mirror(work: &Work) -> Result<(), String> {
    let mut commits = work.evidence.ledger().store().commits();
    let mut failures = 0_u32;
    loop {
        commits.borrow_and_update();
        let mirrors = work.evidence.mirror_once(&work.peers, MIRRORED_LEAVES).await;
        let mirrors = mirrors.map_err(|error| error.to_string())?;
        eprintln!("MIRRORS {} {failures} {:?}", work.evidence.ledger().node(), mirrors.iter().map(|m| &m.1).collect::<Vec<_>>());
        let complete = |mirroring: &Mirroring| matches!(mirroring, Mirroring::Complete { .. });
        failures = match &mirrors[..] {
            // Nothing is known of a mirror that the monitor is at.
            [] => failures,
            mirrors if mirrors.iter().all(|(_, mirroring)| complete(mirroring)) => 0,
            _ => failures.saturating_add(1),
        };
        sleep(MIRROR_INTERVAL).await;
        tokio::select! {
            changed = commits.changed() => changed.map_err(|_| "the store is closed".to_owned())?,
            () = again_after(failures) => {}
        }
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
