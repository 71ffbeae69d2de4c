//! Use cases of both sides: load, decide, commit.

mod consumer;
mod control;
mod deposit;
mod destination;
mod fetch;
mod metering;
mod opening;
mod provider;
mod recount;
mod sink;
mod source;
mod standing;
mod stock;
mod subscribe;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use huitong_catalog::Shelf;
use huitong_contract::{Contract, Contracts};
use huitong_identity::{Credential, Directory, Refusal, ServiceError, Standing, credential_of};
use huitong_ids::{ContractId, NodeId};
use huitong_ledger::{Evidence, Ledger, LedgerError, QuorumPolicy};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, Statement, Timestamp};
use huitong_store::{Read, StoreError, Tx, TxError};
use tokio::sync::watch;

use self::opening::Contents;
pub use self::provider::{Served, ServedLane};
pub use self::subscribe::TOPIC;
use crate::lanes::LaneEnds;
use crate::model::{Suspender, Transfer, TransferSettings};
use crate::pace::{Limited, Pace, Rates};
use crate::peer::Depot;
use crate::places::{Place, Places};
use crate::share::Share;
use crate::{receipt, tables};

/// The transfers of one node, on both sides. Cheap to clone; what must survive lies in the store.
#[derive(Clone)]
pub struct Transfers {
    standing: Standing,
    contracts: Contracts,
    shelf: Shelf,
    settings: Arc<TransferSettings>,
    running: Arc<Mutex<HashMap<[u8; 16], Running>>>,
    depot: Option<Arc<dyn Depot>>,
    /// Why the last try of an open deposit came to nothing.
    obstacles: Arc<Mutex<HashMap<[u8; 16], String>>>,
    /// Tries of deposits, to each of which it may be said that the deposit is given up.
    depositing: Arc<Mutex<HashMap<[u8; 16], watch::Sender<()>>>>,
    /// Places in the depot that are being decided on.
    deciding: Arc<Mutex<HashSet<String>>>,
    /// Looks at standing orders that are under way, or came to nothing.
    looks: Arc<Mutex<HashMap<ContractId, subscribe::Look>>>,
    places: Places,
    pace: Pace,
    contents: Contents,
    /// Exchanges that we serve, and that we receive from: each direction shares its memory.
    serving: Share,
    fetching: Share,
    ticks: watch::Sender<u64>,
}

/// What is known of a transfer only while it runs.
struct Running {
    /// Bytes moved in this run.
    moved: u64,
    /// Why it waits, if it does.
    waits: String,
    /// The other connections of an exchange that we serve, and its place, which they share.
    lanes: Option<(LaneEnds, Place)>,
    /// Tells the run that the stored transfer says something else now; dropped when a newer exchange takes over.
    orders: watch::Sender<()>,
}

/// What a run is told from outside.
enum Order {
    /// The operator has paused or cancelled the transfer: look at what is stored.
    LookAgain,
    /// A newer run of the same transfer has taken over.
    TakenOver,
}

/// Waits for the next order.
async fn order(orders: &mut watch::Receiver<()>) -> Order {
    match orders.changed().await {
        Ok(()) => Order::LookAgain,
        Err(_) => Order::TakenOver,
    }
}

impl Transfers {
    /// A node's transfers.
    pub fn new(standing: Standing, contracts: Contracts, shelf: Shelf, settings: TransferSettings) -> Self {
        let places = Places::new(settings.max_outgoing, settings.max_outgoing_per_peer);
        let pace = Pace::new(settings.rates);
        Self {
            standing,
            contracts,
            shelf,
            settings: Arc::new(settings),
            running: Arc::default(),
            depot: None,
            obstacles: Arc::default(),
            depositing: Arc::default(),
            deciding: Arc::default(),
            looks: Arc::default(),
            places,
            pace,
            contents: Contents::default(),
            serving: Share::default(),
            fetching: Share::default(),
            ticks: watch::Sender::new(0),
        }
    }

    /// One transfer, if it is known here.
    pub fn transfer(&self, id: &[u8; 16]) -> Result<Option<Transfer>, ServiceError> {
        let found = tables::transfer(&self.ledger().store().view(), id)?;
        Ok(found.map(|mut transfer| {
            if transfer.reason.is_empty() {
                transfer.reason = self.with_running(id, |running| running.waits.clone()).unwrap_or_default();
            }
            self.with_obstacle(transfer)
        }))
    }

    /// The newest transfers first.
    pub fn list(&self, limit: usize) -> Result<Vec<Transfer>, ServiceError> {
        let newest = tables::newest(&self.ledger().store().view(), limit)?;
        Ok(newest.into_iter().map(|transfer| self.with_obstacle(transfer)).collect())
    }

    /// Transfers that have not ended.
    pub fn live(&self) -> Result<Vec<[u8; 16]>, ServiceError> {
        tables::all_live(&self.ledger().store().view())
    }

    /// Transfers that began after this moment and this id, the oldest first, at most `limit`; they may have ended.
    pub fn begun_after(
        &self,
        after: (Timestamp, [u8; 16]),
        limit: usize,
    ) -> Result<Vec<(Timestamp, [u8; 16])>, ServiceError> {
        tables::begun_after(&self.ledger().store().view(), after, limit)
    }

    /// Consumer transfers that want to move, in the order in which they are to run.
    pub fn runnable(&self) -> Result<Vec<[u8; 16]>, ServiceError> {
        tables::runnable(&self.ledger().store().view())
    }

    /// Completed transfers whose evidence is to be collected or made final now; see [`Transfers::collect`]. One that
    /// has failed often comes back after a while.
    pub fn unproven(&self) -> Result<Vec<[u8; 16]>, ServiceError> {
        tables::due(&self.ledger().store().view(), self.ledger().clock().now(), 1024)
    }

    /// Sets or lifts a limit on how fast content leaves, in bytes per second; running transfers follow at once. A limit
    /// of one transfer ends with it, all others end with the node: what is configured holds again from then on.
    ///
    /// # Errors
    /// `Invalid` below [`crate::LOWEST_RATE`].
    pub fn limit(&self, limited: Limited, rate: Option<u64>) -> Result<Rates, ServiceError> {
        self.pace.limit(limited, rate)
    }

    /// The limits in force for all transfers.
    pub fn rates(&self) -> Rates {
        self.pace.rates()
    }

    /// Bytes moved in this run, durable or not.
    pub fn moved(&self, id: &[u8; 16]) -> u64 {
        self.with_running(id, |running| running.moved).unwrap_or(0)
    }

    /// Changes while bytes move; state changes show in the store's commits.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// The receipt of a completed transfer, as `docs/receipt-format.md` describes it.
    pub async fn receipt(&self, id: &[u8; 16]) -> Result<Vec<u8>, ServiceError> {
        receipt::assemble(self, id).await
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.standing.ledger
    }

    pub(crate) fn node(&self) -> &NodeId {
        self.standing.membership.node()
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.standing.directory
    }

    pub(crate) fn policy(&self) -> Option<&QuorumPolicy> {
        self.settings.policy.as_ref()
    }

    pub(crate) fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    pub(crate) fn credential(
        &self,
        read: &impl Read,
        node: &NodeId,
    ) -> Result<(Credential, Statement), ServiceError> {
        credential_of(read, self.ledger(), node)?
            .ok_or_else(|| ServiceError::NotFound { what: format!("the credential of node {node}") })
    }

    /// Changes a stored transfer whose run has something to do, in one commit; gives it as it is now.
    async fn change<T: Send + 'static>(
        &self,
        name: &'static str,
        id: [u8; 16],
        contract: &Contract,
        step: impl FnOnce(&mut Tx<'_>, &Ledger, &mut Transfer, &Contract) -> Result<T, Abort> + Send + 'static,
    ) -> Result<(Transfer, T), ServiceError> {
        self.change_unless(stopped, name, id, contract, step).await
    }

    /// The same for one that nothing stands against.
    async fn change_unless<T: Send + 'static>(
        &self,
        hindrance: fn(&Transfer) -> Option<&'static str>,
        name: &'static str,
        id: [u8; 16],
        contract: &Contract,
        step: impl FnOnce(&mut Tx<'_>, &Ledger, &mut Transfer, &Contract) -> Result<T, Abort> + Send + 'static,
    ) -> Result<(Transfer, T), ServiceError> {
        let (ledger, contract) = (self.ledger().clone(), contract.clone());
        let changed = self
            .ledger()
            .store()
            .transact(name, move |tx| -> Result<(Transfer, T), Abort> {
                let mut transfer = tables::transfer(tx, &id)?
                    .ok_or_else(|| ServiceError::Internal("a running transfer is missing".to_owned()))?;
                if let Some(reason) = hindrance(&transfer) {
                    return Err(ServiceError::Conflict { reason: reason.to_owned() }.into());
                }
                let value = step(tx, &ledger, &mut transfer, &contract)?;
                tables::save(tx, &transfer)?;
                Ok((transfer, value))
            })
            .await;
        match changed {
            Ok(changed) => Ok(changed),
            Err(error) => Err(aborted(self.ledger(), error).await),
        }
    }

    /// Registers this run of a transfer; an older one of the same id is told to stop.
    fn take_over(&self, id: [u8; 16], lanes: Option<(LaneEnds, Place)>) -> watch::Receiver<()> {
        let (orders, receiver) = watch::channel(());
        self.lock().insert(id, Running { moved: 0, waits: String::new(), lanes, orders });
        receiver
    }

    /// Makes the run of a transfer, if there is one, look at what is stored. What one that is over has left does not count any
    /// more.
    fn look_again(&self, id: &[u8; 16]) {
        let mut running = self.lock();
        match running.get(id) {
            Some(run) if run.orders.is_closed() => {
                running.remove(id);
            }
            Some(run) => {
                run.orders.send_replace(());
            }
            None => {}
        }
    }

    fn add_moved(&self, id: &[u8; 16], bytes: u64) {
        if let Some(running) = self.lock().get_mut(id) {
            running.moved = running.moved.saturating_add(bytes);
        }
        self.ticks.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }

    fn note_wait(&self, id: &[u8; 16], why: &str) {
        if let Some(running) = self.lock().get_mut(id) {
            why.clone_into(&mut running.waits);
        }
        self.ticks.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }

    /// Forgets a run that is over, but never the newer one that has taken its place.
    fn forget_run(&self, id: &[u8; 16], run: &watch::Receiver<()>) {
        let mut running = self.lock();
        if running.get(id).is_some_and(|current| current.orders.subscribe().same_channel(run)) {
            running.remove(id);
        }
    }

    fn with_running<T>(&self, id: &[u8; 16], read: impl FnOnce(&Running) -> T) -> Option<T> {
        self.lock().get(id).map(read)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 16], Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the run of a transfer has nothing more to do, if that is so.
fn stopped(transfer: &Transfer) -> Option<&'static str> {
    match transfer.suspended_by {
        Some(Suspender::Operator) => Some("the transfer is paused"),
        Some(Suspender::Contract) => Some("the contract is suspended"),
        _ => ended(transfer),
    }
}

/// The same where a transfer that is held up may still change.
fn ended(transfer: &Transfer) -> Option<&'static str> {
    transfer.state.is_terminal().then_some("the transfer has ended")
}

/// How a transaction ends when it writes nothing.
enum Abort {
    Service(ServiceError),
    /// The peer signed two statements that exclude each other. The evidence is kept by a transaction of its own.
    Fork {
        evidence: Box<Evidence>,
        reason: String,
    },
}

impl From<ServiceError> for Abort {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

impl From<LedgerError> for Abort {
    fn from(error: LedgerError) -> Self {
        let reason = error.to_string();
        match error {
            LedgerError::Fork { evidence, .. } => Self::Fork { evidence, reason },
            other => Self::Service(other.into()),
        }
    }
}

/// Turns a failed transaction into the service's error, after keeping the evidence of a fork.
async fn aborted(ledger: &Ledger, error: TxError<Abort>) -> ServiceError {
    match error {
        TxError::Store(error) => error.into(),
        TxError::Abort(Abort::Service(error)) => error,
        TxError::Abort(Abort::Fork { evidence, reason }) => {
            tracing::error!(%reason, "a peer contradicts itself");
            match ledger.preserve(&evidence).await {
                Ok(()) => {
                    let next_step =
                        "keep the evidence and stop trusting the other node until it is explained";
                    let refusal = Refusal::new("statement.fork", reason, next_step);
                    ServiceError::Refused { refusal, statement: None }
                }
                Err(error) => error.into(),
            }
        }
    }
}

/// Issues one statement of a transfer.
fn issue(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    kind: Kind,
    transfer: &Transfer,
    contract: &Contract,
    reference: Digest,
    detail: Map,
) -> Result<Statement, ServiceError> {
    let draft = Draft {
        kind,
        audience: transfer.peer.to_string(),
        subject: transfer.id,
        agreement: contract.hash,
        reference,
        detail,
    };
    Ok(ledger.issue(tx, draft)?)
}

/// Whether a statement of the peer belongs to this transfer under this contract.
fn check_belongs(
    statement: &Statement,
    transfer: &Transfer,
    contract: &Contract,
) -> Result<(), ServiceError> {
    let body = statement.body();
    if body.subject != transfer.id {
        return Err(ServiceError::invalid("statement.subject", "is another transfer"));
    }
    if body.agreement != contract.hash {
        return Err(ServiceError::invalid("statement.agreement", "is another agreement"));
    }
    Ok(())
}
