//! How fast content may leave: limits for the whole node, for each peer, each contract and single transfers, changed
//! while bytes move (弹性带宽).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use huitong_identity::ServiceError;
use huitong_ids::{ContractId, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;

/// The lowest limit: a group of 1 MiB must be through well before the other side gives up waiting.
pub const LOWEST_RATE: u64 = 64 << 10;

/// Bytes per second that may leave; `None` sets no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// All transfers together.
    pub node: Option<u64>,
    /// All transfers to one peer together, the same for each.
    pub each_peer: Option<u64>,
    /// All transfers under one contract together, the same for each.
    pub each_contract: Option<u64>,
}

/// What a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// All transfers together.
    Node,
    /// The transfers to each peer.
    EachPeer,
    /// The transfers under each contract.
    EachContract,
    /// One transfer, for as long as the node runs.
    Transfer([u8; 16]),
}

/// Says when the next bytes may leave. Clones share it.
#[derive(Clone)]
pub(crate) struct Pace {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<()>,
}

struct State {
    rates: Rates,
    transfers: HashMap<[u8; 16], u64>,
    /// When what has left is paid for; who is not here owes nothing.
    paid_at: HashMap<Account, Instant>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Account {
    Node,
    Peer(NodeId),
    Contract(ContractId),
    Transfer([u8; 16]),
}

impl Pace {
    pub(crate) fn new(rates: Rates) -> Self {
        let state = State { rates, transfers: HashMap::new(), paid_at: HashMap::new() };
        Self { state: Arc::new(Mutex::new(state)), changes: watch::Sender::new(()) }
    }

    /// Bytes of a transfer to this peer under this contract leave now. Says when the next ones may.
    pub(crate) fn leave(
        &self,
        transfer: &[u8; 16],
        peer: &NodeId,
        contract: &ContractId,
        bytes: u64,
        now: Instant,
    ) -> Instant {
        let mut state = self.lock();
        let mut next = now;
        for (account, rate) in state.limited(transfer, peer, contract) {
            let paid_at = state.paid_at.get(&account).copied().unwrap_or(now).max(now) + cost(bytes, rate);
            state.paid_at.insert(account, paid_at);
            next = next.max(paid_at);
        }
        state.paid_at.retain(|_, paid_at| *paid_at > now);
        next
    }

    /// When bytes of a transfer to this peer under this contract may leave: not before what has left is paid for, whichever
    /// exchange it left by.
    pub(crate) fn due(
        &self,
        transfer: &[u8; 16],
        peer: &NodeId,
        contract: &ContractId,
        now: Instant,
    ) -> Instant {
        let state = self.lock();
        let accounts = state.limited(transfer, peer, contract);
        accounts.filter_map(|(account, _)| state.paid_at.get(&account).copied()).fold(now, Instant::max)
    }

    /// Sets or lifts a limit, for bytes that leave from now on; gives all general limits.
    pub(crate) fn limit(&self, limited: Limited, rate: Option<u64>) -> Result<Rates, ServiceError> {
        if rate.is_some_and(|rate| rate < LOWEST_RATE) {
            let expected = format!("must be at least {LOWEST_RATE} bytes per second, or none");
            return Err(ServiceError::invalid("rate", expected));
        }
        let mut state = self.lock();
        match (limited, rate) {
            (Limited::Node, rate) => state.rates.node = rate,
            (Limited::EachPeer, rate) => state.rates.each_peer = rate,
            (Limited::EachContract, rate) => state.rates.each_contract = rate,
            (Limited::Transfer(id), Some(rate)) => {
                state.transfers.insert(id, rate);
            }
            (Limited::Transfer(id), None) => {
                state.transfers.remove(&id);
            }
        }
        // What was owed under the old limits is forgiven: at most a group for each transfer.
        state.paid_at.clear();
        let rates = state.rates;
        drop(state);
        self.changes.send_replace(());
        Ok(rates)
    }

    pub(crate) fn rates(&self) -> Rates {
        self.lock().rates
    }

    /// A transfer has ended; its own limit goes with it.
    pub(crate) fn forget(&self, id: &[u8; 16]) {
        self.lock().transfers.remove(id);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The accounts that bytes of a transfer are charged to, and at which rate.
    fn limited(
        &self,
        transfer: &[u8; 16],
        peer: &NodeId,
        contract: &ContractId,
    ) -> impl Iterator<Item = (Account, u64)> + use<> {
        [
            (Account::Node, self.rates.node),
            (Account::Peer(peer.clone()), self.rates.each_peer),
            (Account::Contract(contract.clone()), self.rates.each_contract),
            (Account::Transfer(*transfer), self.transfers.get(transfer).copied()),
        ]
        .into_iter()
        .filter_map(|(account, rate)| Some((account, rate?)))
    }
}

/// How long these bytes take at this rate.
fn cost(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes).saturating_mul(1_000_000_000) / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    use huitong_ids::{EntityCode, NodeType, Segment};

    const ONE: [u8; 16] = [1; 16];
    const OTHER: [u8; 16] = [2; 16];

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// Bytes of a transfer leave to the node of the same number, all under one contract.
    fn leave(pace: &Pace, transfer: [u8; 16], bytes: u64, now: Instant) -> Instant {
        let entity = EntityCode::parse("91440300MA5DEMA08P").unwrap();
        let segment = Segment::parse("4403").unwrap();
        let peer = NodeId::mint(NodeType::Connector, &entity, &segment, transfer);
        let contract =
            ContractId::mint(NodeType::Connector, &entity, &segment, "20260921141320", [0; 16]).unwrap();
        pace.leave(&transfer, &peer, &contract, bytes, now)
    }

    #[test]
    fn the_tightest_limit_counts_and_nothing_is_saved_up() {
        let rates = Rates { node: Some(4 << 20), each_peer: Some(1 << 20), each_contract: None };
        let (pace, start) = (Pace::new(rates), Instant::now());
        assert_eq!(leave(&pace, ONE, 1 << 20, start), start + second(1));
        // Another peer has its own account; the node's serves both.
        assert_eq!(leave(&pace, OTHER, 2 << 20, start), start + second(2));
        assert_eq!(leave(&pace, ONE, 1 << 20, start + second(1)), start + second(2));
        // A pause gives no right to a burst afterwards.
        assert_eq!(leave(&pace, ONE, 1 << 20, start + second(60)), start + second(61));
        // Under one contract, whoever it is with.
        pace.limit(Limited::Node, None).unwrap();
        pace.limit(Limited::EachContract, Some(1 << 20)).unwrap();
        assert_eq!(leave(&pace, ONE, 1 << 20, start), start + second(1));
        assert_eq!(leave(&pace, OTHER, 1 << 20, start), start + second(2));
    }

    #[test]
    fn a_transfer_has_a_limit_of_its_own_until_it_ends() {
        let (pace, now) = (Pace::new(Rates::default()), Instant::now());
        assert_eq!(leave(&pace, ONE, u64::MAX, now), now);
        pace.limit(Limited::Transfer(ONE), Some(LOWEST_RATE)).unwrap();
        assert_eq!(leave(&pace, ONE, LOWEST_RATE, now), now + second(1));
        assert_eq!(leave(&pace, OTHER, LOWEST_RATE, now), now);
        pace.forget(&ONE);
        assert_eq!(leave(&pace, ONE, 1 << 20, now + second(1)), now + second(1));
    }

    #[test]
    fn a_limit_that_would_stall_is_refused() {
        let pace = Pace::new(Rates::default());
        let refused = pace.limit(Limited::Node, Some(LOWEST_RATE - 1));
        assert!(
            matches!(&refused, Err(ServiceError::Invalid { field, .. }) if field == "rate"),
            "{refused:?}"
        );
        assert_eq!(pace.rates(), Rates::default());
    }
}
