//! Runs the consumer's transfers, has all transfers follow their contracts, collects the other ledger's proofs of those that are
//! complete, puts them into S3 where that was ordered, and tells consumers of new versions.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use huitong_grpc::{Peers, Threads};
use huitong_identity::{Delivery, Standing};
use huitong_ids::{ContractId, NodeId};
use huitong_transfer::Transfers;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{LONGEST_PAUSE, Work, backoff};
use crate::supervisor::{Stopping, Supervisor};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Between two tries of a transfer that take long and do not bring it forward.
const LONGEST_RUN_PAUSE: Duration = Duration::from_secs(120);
/// Between two short tries, or looks for what a subscription is to deliver.
const LONGEST_LOOK_PAUSE: Duration = Duration::from_secs(10);
/// After a failure of either kind, once the provider has shown up.
const ARRIVED_PAUSE: Duration = Duration::from_secs(10);
/// A try is short up to this: a provider that has no place says so after 5 s.
const SHORT: Duration = Duration::from_secs(7);
/// As long as one node has as many tries as it may, no commit is a reason to look again sooner than that.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// So many failures in a row, and others come first.
const FEW_FAILURES: u32 = 3;
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
pub(super) fn spawn_runner(
    supervisor: &Supervisor,
    work: &Work,
    transfers: Transfers,
    arrivals: broadcast::Sender<NodeId>,
) {
    let (standing, peers) = (work.standing().clone(), work.peers.clone());
    let (most, most_each) = (work.max_concurrent_transfers, work.max_concurrent_per_peer);
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
                    async move { run(&transfers, &id, &peers).await }
                }
            },
            most,
            longest_pause: LONGEST_RUN_PAUSE,
            longest_wait: LONGEST_PAUSE,
            nodes: Some(Nodes {
                of: {
                    let transfers = transfers.clone();
                    Box::new(move |id: &Id| Some(transfers.transfer(id).ok()??.peer))
                },
                most_each,
                arrivals: arrivals.subscribe(),
            }),
            threads: peers.threads().clone(),
        };
        attempts.run(standing.clone(), drain.clone())
    });
}

/// One try of a transfer.
async fn run(transfers: &Transfers, id: &Id, peers: &Peers) -> Result<(), Failed> {
    let acknowledged = || transfers.transfer(id).ok().flatten().map_or(0, |found| found.acknowledged_groups);
    let (before, began) = (acknowledged(), Instant::now());
    let Err(failure) = transfers.run(id, peers).await else { return Ok(()) };
    let mut failed = Failed { came_forward: acknowledged() > before, ..failure.into() };
    // A try that is over at once keeps nobody waiting, and its provider may be about to resume; but one that finds room and
    // cannot use it leaves statements each time.
    if began.elapsed() < SHORT && !transfers.is_denied_room(id).await {
        failed.longest_pause = LONGEST_LOOK_PAUSE;
    }
    Err(failed)
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
                    async move { Ok(transfers.collect(&id, &peers).await?) }
                }
            },
            most: MOST_COLLECTIONS,
            longest_pause: LONGEST_PAUSE,
            longest_wait: LONGEST_PAUSE,
            nodes: None,
            threads: Threads::default(),
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
                    async move { Ok(transfers.deposit(&id).await?) }
                }
            },
            most: MOST_DEPOSITS,
            longest_pause: LONGEST_PAUSE,
            longest_wait: LONGEST_PAUSE,
            nodes: None,
            threads: Threads::default(),
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
                    async move { Ok(transfers.serve_subscription(&contract, &peers).await?) }
                }
            },
            most: MOST_LOOKS,
            longest_pause: LONGEST_LOOK_PAUSE,
            longest_wait: LOOK,
            nodes: None,
            threads: Threads::default(),
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
struct Attempts<K, L, O> {
    /// What wants to be tried, the most urgent first.
    list: L,
    /// One try.
    one: O,
    most: usize,
    /// Between two tries of one thing.
    longest_pause: Duration,
    /// Between two looks at what wants to be tried.
    longest_wait: Duration,
    /// Where no node may take up all tries.
    nodes: Option<Nodes<K>>,
    /// Where tries have threads of their own.
    threads: Threads,
}

/// The node that a thing is tried with.
type NodeOf<K> = Box<dyn Fn(&K) -> Option<NodeId> + Send + Sync>;

/// The nodes that things are tried with.
struct Nodes<K> {
    of: NodeOf<K>,
    /// Tries with one node at the same time.
    most_each: usize,
    /// Names those that have shown up: they are tried at once.
    arrivals: broadcast::Receiver<NodeId>,
}

impl<K> Nodes<K> {
    /// The next node to show up, or none by name where many did; waits for ever where nobody says.
    async fn arrived(nodes: &mut Option<Self>) -> Option<Option<NodeId>> {
        let Some(nodes) = nodes else { return std::future::pending().await };
        match nodes.arrivals.recv().await {
            Ok(node) => Some(Some(node)),
            Err(RecvError::Lagged(_)) => Some(None),
            Err(RecvError::Closed) => None,
        }
    }
}

/// A try that came to nothing in the end.
struct Failed {
    reason: String,
    /// It brought its thing forward before: that makes up for all failures before it.
    came_forward: bool,
    /// Where its pause is to be no longer than that, whatever pauses others have.
    longest_pause: Duration,
}

impl From<Delivery> for Failed {
    fn from(failure: Delivery) -> Self {
        // The consequence of a dead one is recorded; what still wants to move after that is tried as after any failure.
        let (Delivery::Dead(reason) | Delivery::Retry(reason)) = failure;
        Self { reason, came_forward: false, longest_pause: Duration::MAX }
    }
}

impl<K, L, O> Attempts<K, L, O> {
    async fn run<F>(mut self, standing: Standing, drain: CancellationToken) -> Result<(), String>
    where
        K: Clone + Eq + Hash + Send + 'static,
        L: Fn() -> Result<Vec<K>, String>,
        O: Fn(K) -> F,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let mut commits = standing.ledger.store().commits();
        // Dropping the set ends its tasks: nothing outlives the round.
        let mut running: JoinSet<(K, Result<(), Failed>)> = JoinSet::new();
        let most_each = self.nodes.as_ref().map_or(self.most, |nodes| nodes.most_each);
        let mut queue = Queue::new(self.most, most_each, self.longest_pause);
        let mut look_at = Instant::now();
        while !(drain.is_cancelled() && running.is_empty()) {
            commits.borrow_and_update();
            let now = Instant::now();
            let mut wait = self.longest_wait;
            // Where nothing more can be tried, nobody looks: each commit would be a reason to.
            if look_at > now {
                wait = look_at.duration_since(now);
            } else if !drain.is_cancelled() && !queue.is_full() {
                let wanted = (self.list)()?;
                let node_of = |id: &K| self.nodes.as_ref().and_then(|nodes| (nodes.of)(id));
                for id in queue.due(&wanted, node_of, now) {
                    let attempt = (self.one)(id.clone());
                    running.spawn_on(async move { (id, attempt.await) }, &self.threads.quietest());
                }
                wait = queue.wait(now).map_or(wait, |first| wait.min(first));
                if queue.is_held_up {
                    look_at = now + LOOK_PAUSE;
                    wait = wait.min(LOOK_PAUSE);
                }
            }
            tokio::select! {
                changed = commits.changed() => changed.map_err(|_| "the store is closed".to_owned())?,
                () = drain.cancelled(), if !drain.is_cancelled() => {}
                Some(ended) = running.join_next() => {
                    let (id, result) = ended.map_err(|error| error.to_string())?;
                    look_at = Instant::now();
                    queue.ended(id, result, look_at);
                }
                Some(node) = Nodes::arrived(&mut self.nodes) => {
                    look_at = Instant::now();
                    queue.arrived(node.as_ref(), look_at);
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }
}

/// What is being tried, and what waits after a failure.
struct Queue<K> {
    most: usize,
    most_each: usize,
    longest_pause: Duration,
    /// Something was not tried at the last look only because its node has as many tries as it may.
    is_held_up: bool,
    running: HashSet<K>,
    waiting: HashMap<K, Pause>,
    /// Whom things are tried with, as far as somebody had to know.
    nodes: HashMap<K, Option<NodeId>>,
}

struct Pause {
    since: Instant,
    until: Instant,
    failures: u32,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    fn new(most: usize, most_each: usize, longest_pause: Duration) -> Self {
        let (running, waiting, nodes) = (HashSet::new(), HashMap::new(), HashMap::new());
        Self { most, most_each, longest_pause, is_held_up: false, running, waiting, nodes }
    }

    fn is_full(&self) -> bool {
        self.running.len() >= self.most
    }

    /// What is to be tried now of all that is wanted: in its order, but what has failed a few times behind everything that has
    /// not, and there who was tried longest ago first: none waits for others that fail for ever. It counts as running from now on.
    fn due(&mut self, wanted: &[K], node_of: impl Fn(&K) -> Option<NodeId>, now: Instant) -> Vec<K> {
        let all: HashSet<&K> = wanted.iter().collect();
        self.waiting.retain(|id, _| all.contains(id));
        self.nodes.retain(|id, _| all.contains(id) || self.running.contains(id));
        let mut with: HashMap<NodeId, usize> = HashMap::new();
        for node in self.running.iter().filter_map(|id| self.nodes.get(id)?.clone()) {
            *with.entry(node).or_default() += 1;
        }
        let mut order: Vec<&K> = wanted.iter().collect();
        // Stable, and what has not failed so often comes first.
        order.sort_by_key(|id| {
            let pause = self.waiting.get(*id).filter(|pause| pause.failures >= FEW_FAILURES);
            pause.map(|pause| pause.since)
        });
        self.is_held_up = false;
        let mut due = Vec::new();
        for id in order {
            if self.is_full() {
                break;
            }
            let is_paused = self.waiting.get(id).is_some_and(|pause| pause.until > now);
            if is_paused || self.running.contains(id) {
                continue;
            }
            let node = self.nodes.entry(id.clone()).or_insert_with(|| node_of(id));
            if let Some(node) = node {
                let count = with.entry(node.clone()).or_default();
                if *count >= self.most_each {
                    self.is_held_up = true;
                    continue;
                }
                *count += 1;
            }
            self.running.insert(id.clone());
            due.push(id.clone());
        }
        due
    }

    /// How long until the first of those that wait is due.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let pauses = self.waiting.iter().filter(|(id, _)| !self.running.contains(id));
        let left = pauses.map(|(_, pause)| pause.until.duration_since(now));
        left.filter(|left| !left.is_zero()).min()
    }

    fn ended(&mut self, id: K, result: Result<(), Failed>, now: Instant) {
        self.running.remove(&id);
        let Err(Failed { reason, came_forward, longest_pause }) = result else {
            self.waiting.remove(&id);
            return;
        };
        tracing::debug!(%reason, "tried again later unless it has ended");
        let before = self.waiting.get(&id).map_or(0, |pause| pause.failures);
        let failures = if came_forward { 1 } else { before.saturating_add(1) };
        let until = now + backoff(FIRST_PAUSE, self.longest_pause.min(longest_pause), failures);
        self.waiting.insert(id, Pause { since: now, until, failures });
    }

    /// What waits for this node, or for any of them, need not wait any longer, but for the pause that it cannot shorten by
    /// showing up.
    fn arrived(&mut self, node: Option<&NodeId>, now: Instant) {
        for (id, pause) in &mut self.waiting {
            if node.is_none() || self.nodes.get(id).is_some_and(|with| with.as_ref() == node) {
                pause.until = pause.until.min(now.max(pause.since + ARRIVED_PAUSE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 2] = ["591440300MA5DEMA08P4403ZPEXLOQIJ", "591440300MA5DEMB12U4403J1DIHAOLR"];

    /// Numbers below 100 are tried with the first node, all others with the second.
    fn node_of(id: &u32) -> Option<NodeId> {
        NodeId::parse(NODES[usize::from(*id >= 100)]).ok()
    }

    fn failed() -> Result<(), Failed> {
        Err(Delivery::Retry("it is away".to_owned()).into())
    }

    fn queue() -> Queue<u32> {
        Queue::new(4, 2, Duration::from_secs(120))
    }

    #[test]
    fn no_node_takes_all_attempts() {
        let (mut queue, now) = (queue(), Instant::now());
        let wanted = [1, 2, 3, 4, 5, 100, 101, 102];
        assert_eq!(queue.due(&wanted, node_of, now), [1, 2, 100, 101]);
        assert!(queue.is_held_up);
        assert!(queue.is_full());
        queue.ended(2, failed(), now);
        assert_eq!(queue.due(&wanted, node_of, now), [3], "the other one has as many as it may");
        // Where nobody is told apart, all go.
        let mut queue = Queue::new(4, 4, Duration::from_secs(120));
        assert_eq!(queue.due(&wanted, |_| None, now), [1, 2, 3, 4]);
    }

    #[test]
    fn what_fails_again_and_again_comes_behind_what_was_never_tried() {
        let (mut queue, mut now) = (queue(), Instant::now());
        let mut tries = 0;
        while queue.waiting.get(&1).is_none_or(|pause| pause.failures < FEW_FAILURES) {
            assert_eq!(queue.due(&[1, 2], node_of, now).first(), Some(&1), "it is still the first");
            for id in [1, 2] {
                queue.ended(id, failed(), now);
            }
            now += Duration::from_secs(600);
            tries += 1;
        }
        assert_eq!(tries, FEW_FAILURES);
        assert_eq!(queue.due(&[1, 2, 3], node_of, now), [3, 1]);
        // Once it has come forward it is an ordinary one.
        queue.ended(1, Err(Failed { came_forward: true, ..failed().unwrap_err() }), now);
        queue.ended(3, Ok(()), now);
        now += FIRST_PAUSE;
        assert_eq!(queue.due(&[1, 2, 4], node_of, now), [1, 4]);
    }

    #[test]
    fn of_those_that_fail_for_ever_each_has_its_turn() {
        let (mut queue, mut now) = (Queue::new(1, 1, Duration::from_secs(120)), Instant::now());
        let mut turns = Vec::new();
        for _ in 0..40 {
            now += Duration::from_secs(600);
            let due = queue.due(&[1, 2, 3], node_of, now);
            queue.ended(due[0], failed(), now);
            turns.extend(due);
        }
        for id in [1, 2, 3] {
            let last = turns.iter().rev().take(6).filter(|turn| **turn == id).count();
            assert_eq!(last, 2, "{turns:?}");
        }
    }

    #[test]
    fn pauses_grow_to_minutes_and_end_when_the_node_shows_up() {
        let (mut queue, mut now) = (queue(), Instant::now());
        for _ in 0..20 {
            assert_eq!(queue.due(&[1], node_of, now), [1]);
            queue.ended(1, failed(), now);
            let wait = queue.wait(now).unwrap();
            assert!(queue.due(&[1], node_of, now).is_empty());
            now += wait;
        }
        assert_eq!(queue.due(&[1], node_of, now), [1]);
        queue.ended(1, failed(), now);
        assert_eq!(queue.wait(now), Some(Duration::from_secs(120)));
        queue.arrived(node_of(&100).as_ref(), now);
        assert!(queue.due(&[1], node_of, now).is_empty(), "that is somebody else");
        queue.arrived(node_of(&1).as_ref(), now);
        assert_eq!(queue.wait(now), Some(ARRIVED_PAUSE));
        now += ARRIVED_PAUSE;
        assert_eq!((queue.wait(now), queue.due(&[1], node_of, now)), (None, vec![1]));
        let soon = Duration::from_secs(10);
        queue.ended(1, Err(Failed { longest_pause: soon, ..failed().unwrap_err() }), now);
        assert_eq!(queue.wait(now), Some(soon));
        // What is not wanted any more is forgotten.
        assert!(queue.due(&[], node_of, now).is_empty());
        assert!(queue.waiting.is_empty() && queue.nodes.is_empty());
    }
}
