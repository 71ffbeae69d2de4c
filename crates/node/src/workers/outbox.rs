//! Delivers queued messages: in order for each destination, destinations side by side.

use std::collections::HashSet;
use std::time::Duration;

use huitong_catalog as catalog;
use huitong_contract as contract;
use huitong_identity::{Delivery, workers as identity};
use huitong_ids::NodeId;
use huitong_store::{Pending, Store, StoreError, TxError, outbox};
use huitong_transfer as transfer;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::{LONGEST_PAUSE, Work, backoff};
use crate::supervisor::{Stopping, Supervisor};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Destinations that are served at the same time.
const MOST_DESTINATIONS: usize = 64;

pub(super) fn spawn(supervisor: &Supervisor, work: Work, arrivals: broadcast::Sender<NodeId>) {
    supervisor.spawn("outbox", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let (work, arrivals) = (work.clone(), arrivals.subscribe());
        async move { run(&work, arrivals).await }
    });
}

async fn run(work: &Work, mut arrivals: broadcast::Receiver<NodeId>) -> Result<(), String> {
    let store = work.evidence.ledger().store().clone();
    let mut commits = store.commits();
    // Dropping the set ends its tasks: no delivery outlives the round.
    let mut deliveries: JoinSet<(String, Result<(), StoreError>)> = JoinSet::new();
    let mut busy: HashSet<String> = HashSet::new();
    let mut reachable: HashSet<String> = HashSet::new();
    loop {
        commits.borrow_and_update();
        let wait = begin(work, &store, &mut deliveries, &mut busy, &mut reachable)
            .map_err(|error| error.to_string())?;
        tokio::select! {
            changed = commits.changed() => changed.map_err(|_| "the store is closed".to_owned())?,
            Ok(node) = arrivals.recv() => { reachable.insert(node.to_string()); }
            Some(ended) = deliveries.join_next() => {
                let (destination, result) = ended.map_err(|error| error.to_string())?;
                busy.remove(&destination);
                result.map_err(|error| error.to_string())?;
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Starts a delivery to every destination whose first message is due; returns how long until the next one is.
fn begin(
    work: &Work,
    store: &Store,
    deliveries: &mut JoinSet<(String, Result<(), StoreError>)>,
    busy: &mut HashSet<String>,
    reachable: &mut HashSet<String>,
) -> Result<Duration, StoreError> {
    let view = store.view();
    let now = work.evidence.ledger().clock().now().millis();
    let mut wait = LONGEST_PAUSE;
    for destination in outbox::destinations(&view)? {
        if busy.contains(&destination) {
            continue;
        }
        if busy.len() >= MOST_DESTINATIONS {
            break;
        }
        let Some(first) = outbox::pending(&view, Some(&destination), 1)?.into_iter().next() else { continue };
        // Never longer than the longest pause: a clock that was set back must not hold messages for hours.
        let due_in = Duration::from_millis(first.next_attempt.saturating_sub(now)).min(LONGEST_PAUSE);
        let due_in = if first.next_attempt > now.saturating_add(2 * millis(LONGEST_PAUSE)) {
            Duration::ZERO
        } else {
            due_in
        };
        if !due_in.is_zero() && !reachable.contains(&destination) {
            wait = wait.min(due_in);
            continue;
        }
        busy.insert(destination.clone());
        let (work, store) = (work.clone(), store.clone());
        deliveries.spawn(async move {
            let result = deliver_all(&work, &store, &destination).await;
            (destination, result)
        });
    }
    reachable.clear();
    Ok(wait)
}

/// Delivers to one destination until nothing is left or a delivery has to wait.
async fn deliver_all(work: &Work, store: &Store, destination: &str) -> Result<(), StoreError> {
    while let Some(message) = outbox::pending(&store.view(), Some(destination), 1)?.into_iter().next() {
        let id = message.id;
        match deliver(work, &message).await {
            Ok(()) => {
                // Settled in the same commit as its consequence; if not, the same message would come again for ever.
                let settled = outbox::find(&store.view(), id)?.is_none_or(|found| found.dead);
                if !settled {
                    transact(store, "node.settle", move |tx| outbox::settle(tx, id)).await?;
                }
            }
            Err(Delivery::Dead(reason)) => {
                tracing::warn!(destination, topic = %message.topic, %reason, "message given up");
                transact(store, "node.bury", move |tx| outbox::bury(tx, id, &reason)).await?;
            }
            Err(Delivery::Retry(reason)) => {
                tracing::debug!(destination, topic = %message.topic, %reason, "message waits");
                let pause = backoff(FIRST_PAUSE, LONGEST_PAUSE, message.attempts.saturating_add(1));
                let next = work.evidence.ledger().clock().now().saturating_add(pause).millis();
                transact(store, "node.postpone", move |tx| outbox::postpone(tx, id, next, &reason)).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn deliver(work: &Work, message: &Pending) -> Result<(), Delivery> {
    let Work { shelf, contracts, transfers, peers, .. } = work;
    match (message.topic.as_str(), shelf, contracts, transfers) {
        (identity::TOPIC, ..) => identity::deliver(work.standing(), message, peers).await,
        (catalog::TOPIC, Some(shelf), ..) => shelf.deliver(message, peers).await,
        (contract::TOPIC, _, Some(contracts), _) => contracts.deliver(message, peers).await,
        (transfer::TOPIC, .., Some(transfers)) => transfers.deliver(message, peers).await,
        (topic, ..) => Err(Delivery::Dead(format!("this node has nothing that delivers {topic:?}"))),
    }
}

async fn transact(
    store: &Store,
    name: &'static str,
    change: impl FnOnce(&mut huitong_store::Tx<'_>) -> Result<(), StoreError> + Send + 'static,
) -> Result<(), StoreError> {
    store.transact(name, change).await.map_err(|error| match error {
        TxError::Abort(error) | TxError::Store(error) => error,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
