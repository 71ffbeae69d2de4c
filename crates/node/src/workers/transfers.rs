//! Runs the consumer's transfers, has all transfers follow their contracts, collects the other ledger's proofs of those that are
//! complete, puts them into S3 where that was ordered, and tells consumers of new versions.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use huitong_grpc::Peers;
use huitong_identity::{Delivery, Standing};
use huitong_ids::ContractId;
use huitong_transfer::Transfers;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{LONGEST_PAUSE, Work, backoff};
use crate::supervisor::{Stopping, Supervisor};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_RUN_PAUSE: Duration = Duration::from_secs(10);
/// Collections that run at the same time; each is one small call.
const MOST_COLLECTIONS: usize = 8;
/// Deposits that are made at the same time; each holds a few parts of a file in memory.
const MOST_DEPOSITS: usize = 4;

/// How long a subscription that has become due may not be noticed.
const LOOK: Duration = Duration::from_secs(1);
/// How long a schedule may stay put off too far by a clock that was ahead.
const RECOMPUTE: Duration = Duration::from_secs(60);
/// Subscriptions that are looked at at the same time.
const MOST_LOOKS: usize = 8;

type Id = [u8; 16];

/// Runs what wants to move, at most `max_concurrent` at a time. A stopping node lets running transfers go on.
pub(super) fn spawn_runner(supervisor: &Supervisor, work: &Work, transfers: Transfers) {
    let (standing, peers, most) =
        (work.standing().clone(), work.peers.clone(), work.max_concurrent_transfers);
    let drain = supervisor.draining().clone();
    supervisor.spawn("transfers", Stopping::Drains, LONGEST_PAUSE, move || {
        let attempts = Attempts {
            list: {
                let transfers = transfers.clone();
                move || transfers.runnable().map_err(|error| error.to_string())
            },
            one: {
                let (transfers, peers) = (transfers.clone(), peers.clone());
                move |id: Id| {
                    let (transfers, peers): (Transfers, Peers) = (transfers.clone(), peers.clone());
                    async move { transfers.run(&id, &peers).await }
                }
            },
            most,
            longest_pause: LONGEST_RUN_PAUSE,
            longest_wait: LONGEST_PAUSE,
            in_turn: false,
        };
        attempts.run(standing.clone(), drain.clone())
    });
}

/// Has transfers follow their contracts when those are suspended, resumed or ended.
pub(super) fn spawn_follower(supervisor: &Supervisor, transfers: Transfers) {
    supervisor.spawn("contracts", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let transfers = transfers.clone();
        async move { transfers.follow_contracts().await.map_err(|error| error.to_string()) }
    });
}

/// Tells consumers of new versions.
pub(super) fn spawn_announcer(supervisor: &Supervisor, transfers: Transfers) {
    supervisor.spawn("announcements", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let transfers = transfers.clone();
        async move { transfers.announce_versions().await.map_err(|error| error.to_string()) }
    });
}

/// Collects proofs until every completed transfer has them.
pub(super) fn spawn_collector(supervisor: &Supervisor, work: &Work, transfers: Transfers) {
    let (standing, peers) = (work.standing().clone(), work.peers.clone());
    let drain = supervisor.draining().clone();
    supervisor.spawn("evidence", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let attempts = Attempts {
            list: {
                let transfers = transfers.clone();
                move || transfers.unproven().map_err(|error| error.to_string())
            },
            one: {
                let (transfers, peers) = (transfers.clone(), peers.clone());
                move |id: Id| {
                    let (transfers, peers): (Transfers, Peers) = (transfers.clone(), peers.clone());
                    async move { transfers.collect(&id, &peers).await }
                }
            },
            most: MOST_COLLECTIONS,
            longest_pause: LONGEST_PAUSE,
            longest_wait: LONGEST_PAUSE,
            in_turn: false,
        };
        attempts.run(standing.clone(), drain.clone())
    });
}

/// Puts completed transfers into the depot until all of them are there. Whatever stops it, it goes on from where it was.
pub(super) fn spawn_deposits(supervisor: &Supervisor, work: &Work, transfers: Transfers) {
    let (standing, drain) = (work.standing().clone(), supervisor.draining().clone());
    supervisor.spawn("deposits", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let attempts = Attempts {
            list: {
                let transfers = transfers.clone();
                move || transfers.open_deposits().map_err(|error| error.to_string())
            },
            one: {
                let transfers = transfers.clone();
                move |id: Id| {
                    let transfers = transfers.clone();
                    async move { transfers.deposit(&id).await }
                }
            },
            most: MOST_DEPOSITS,
            longest_pause: LONGEST_PAUSE,
            longest_wait: LONGEST_PAUSE,
            in_turn: true,
        };
        attempts.run(standing.clone(), drain.clone())
    });
}

/// Computes anew when schedules are due, for a clock that was ahead, until that fails.
async fn recompute_schedules(transfers: &Transfers) -> String {
    loop {
        if let Err(error) = transfers.recompute_schedules().await {
            return error.to_string();
        }
        tokio::time::sleep(RECOMPUTE).await;
    }
}

/// Starts the deliveries of subscriptions when they are due.
pub(super) fn spawn_subscriptions(supervisor: &Supervisor, work: &Work, transfers: Transfers) {
    let (standing, peers) = (work.standing().clone(), work.peers.clone());
    let drain = supervisor.draining().clone();
    supervisor.spawn("subscriptions", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let attempts = Attempts {
            list: {
                let transfers = transfers.clone();
                move || transfers.due_subscriptions().map_err(|error| error.to_string())
            },
            one: {
                let (transfers, peers) = (transfers.clone(), peers.clone());
                move |contract: ContractId| {
                    let (transfers, peers): (Transfers, Peers) = (transfers.clone(), peers.clone());
                    async move { transfers.serve_subscription(&contract, &peers).await }
                }
            },
            most: MOST_LOOKS,
            longest_pause: LONGEST_RUN_PAUSE,
            longest_wait: LOOK,
            in_turn: false,
        };
        let (transfers, standing, drain) = (transfers.clone(), standing.clone(), drain.clone());
        async move {
            tokio::select! {
                ended = attempts.run(standing, drain) => ended,
                reason = recompute_schedules(&transfers) => Err(reason),
            }
        }
    });
}

/// Tries of many things side by side, each with its own pauses.
struct Attempts<L, O> {
    /// What wants to be tried.
    list: L,
    /// One try.
    one: O,
    most: usize,
    /// Between two tries of one thing.
    longest_pause: Duration,
    /// Between two looks at what wants to be tried.
    longest_wait: Duration,
    /// Whether who was tried longest ago comes first, so that none waits for others that fail for ever; else the order of the list
    /// counts.
    in_turn: bool,
}

impl<L, O> Attempts<L, O> {
    async fn run<K, F>(self, standing: Standing, drain: CancellationToken) -> Result<(), String>
    where
        K: Clone + Eq + Hash + Send + 'static,
        L: Fn() -> Result<Vec<K>, String>,
        O: Fn(K) -> F,
        F: Future<Output = Result<(), Delivery>> + Send + 'static,
    {
        let mut commits = standing.ledger.store().commits();
        // Dropping the set ends its tasks: nothing outlives the round.
        let mut running: JoinSet<(K, Result<(), Delivery>)> = JoinSet::new();
        let mut busy: HashSet<K> = HashSet::new();
        let mut waiting: HashMap<K, Pause> = HashMap::new();
        while !(drain.is_cancelled() && running.is_empty()) {
            commits.borrow_and_update();
            let mut wait = self.longest_wait;
            // Where nothing more can be tried, nobody looks: each commit would be a reason to.
            if !drain.is_cancelled() && busy.len() < self.most {
                let mut wanted = (self.list)()?;
                let listed: HashSet<&K> = wanted.iter().collect();
                waiting.retain(|id, _| listed.contains(id));
                if self.in_turn {
                    take_turns(&mut wanted, &waiting);
                }
                let now = Instant::now();
                for id in wanted {
                    if busy.contains(&id) {
                        continue;
                    }
                    if let Some(left) = waiting.get(&id).map(|pause| pause.until.duration_since(now))
                        && !left.is_zero()
                    {
                        wait = wait.min(left);
                        continue;
                    }
                    if busy.len() >= self.most {
                        break;
                    }
                    busy.insert(id.clone());
                    let attempt = (self.one)(id.clone());
                    running.spawn(async move { (id, attempt.await) });
                }
            }
            tokio::select! {
                changed = commits.changed() => changed.map_err(|_| "the store is closed".to_owned())?,
                () = drain.cancelled(), if !drain.is_cancelled() => {}
                Some(ended) = running.join_next() => {
                    let (id, result) = ended.map_err(|error| error.to_string())?;
                    busy.remove(&id);
                    self.note(&mut waiting, id, result);
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    fn note<K: Eq + Hash>(&self, waiting: &mut HashMap<K, Pause>, id: K, result: Result<(), Delivery>) {
        match result {
            Ok(()) => {
                waiting.remove(&id);
            }
            // Its consequence is recorded; what still wants to move after that is tried as after any failure.
            Err(Delivery::Dead(reason) | Delivery::Retry(reason)) => {
                tracing::debug!(%reason, "tried again later unless it has ended");
                let failures = waiting.get(&id).map_or(1, |pause| pause.failures.saturating_add(1));
                let since = Instant::now();
                let until = since + backoff(FIRST_PAUSE, self.longest_pause, failures);
                waiting.insert(id, Pause { since, until, failures });
            }
        }
    }
}

/// Brings to the front who was never tried, then who was tried longest ago.
fn take_turns<K: Eq + Hash>(wanted: &mut [K], waiting: &HashMap<K, Pause>) {
    wanted.sort_by_key(|id| waiting.get(id).map(|pause| pause.since));
}

struct Pause {
    since: Instant,
    until: Instant,
    failures: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_never_tried_and_who_was_tried_longest_ago_come_first() {
        let now = Instant::now();
        let pause = |since: u64| {
            let since = now + Duration::from_secs(since);
            Pause { since, until: since, failures: 1 }
        };
        let waiting = HashMap::from([(1, pause(9)), (2, pause(3)), (3, pause(5))]);
        let mut wanted = [1, 2, 3, 4, 5];
        take_turns(&mut wanted, &waiting);
        assert_eq!(wanted, [4, 5, 2, 3, 1]);
    }
}
