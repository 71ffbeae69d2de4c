//! Standing orders: deliveries by schedule, and when the provider says that there is something (推送).

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use huitong_catalog::Announcement;
use huitong_contract::{Contract, Coverage, Side, Standing, State};
use huitong_identity::{
    Caller, Delivery, PeerError, Refusal, ServiceError, read_refusal, refuse, remember, statement_of,
};
use huitong_ids::{ContractId, NodeId};
use huitong_ledger::LedgerError;
use huitong_proof::cbor::{FieldError, Fields, Limits, Map};
use huitong_proof::{Digest, Kind, Statement, Timestamp, random};
use huitong_store::{Outgoing, Pending, Read, Tx};

use super::Transfers;
use super::destination::Destination;
use crate::details::OfferDetail;
use crate::model::{StartTransfer, Subscribe, Subscription, Transfer, TransferState};
use crate::peer::SubscriptionPeer;
use crate::tables::{self, subscriptions};
use crate::{Schedule, rules};

/// The outbox topic of this crate's messages.
pub const TOPIC: &str = "transfer";

/// The most subscriptions that one call lists, and that are looked at in one round.
const MAX_LISTED: usize = 1_000;
/// Subscriptions whose due times are computed anew, and negotiations that are looked through for who is to hear of a new
/// version, in one commit.
const BATCH: usize = 100;
/// How far a clock may be set back without making due again what was due just before.
const SET_BACK: Duration = Duration::from_secs(60);
/// Questions to one provider that are under way at the same time.
const MOST_ASKED: usize = 2;
/// Statements about one push that are looked through for our answer.
const MAX_ANSWERS: usize = 16;
/// A notice holds a contract id and an operation id.
const NOTICE_LIMITS: Limits = Limits { bytes: 256, depth: 1 };

/// The payload of an outbox row: 1 contract id, 2 what the push is known by.
struct Notice {
    contract: ContractId,
    id: [u8; 16],
}

impl Notice {
    fn encode(&self) -> Vec<u8> {
        Map::new().text(1, self.contract.as_str()).bytes(2, &self.id).encode()
    }

    fn decode(payload: &[u8]) -> Result<Self, ServiceError> {
        let read = || -> Result<(String, [u8; 16]), FieldError> {
            let mut fields = Fields::decode(payload, NOTICE_LIMITS, "notice")?;
            let read = (fields.text(1, "contract")?, fields.fixed(2, "id")?);
            fields.finish()?;
            Ok(read)
        };
        let (contract, id) = read()?;
        let contract =
            ContractId::parse(&contract).map_err(|error| ServiceError::invalid("notice.contract", error))?;
        Ok(Self { contract, id })
    }
}

/// What is known of a look at a standing order only while the node runs.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Why the last one came to nothing and is made again; empty while it is not known.
    waits: String,
    /// The provider has pushed since this one began: it may have seen less than what was announced.
    is_outdated: bool,
    /// The provider that is asked just now.
    asks: Option<NodeId>,
}

impl Transfers {
    /// Orders deliveries under a contract, by schedule, when the provider says so, or both. Takes the place of an earlier order
    /// under the same contract. What the provider has now is delivered at the first occasion, not at once.
    ///
    /// # Errors
    /// `NotFound` for a contract whose consumer is another node, `Conflict` for one that is not in force, `Invalid` for an
    /// order that nothing would ever set off.
    pub async fn subscribe(&self, request: Subscribe) -> Result<Subscription, ServiceError> {
        if request.schedule.is_none() && !request.push {
            return Err(ServiceError::invalid("schedule", "name a schedule, or let the provider push"));
        }
        let directory = match self.destination(request.directory.clone()).await? {
            Destination::Directory(directory) => directory,
            Destination::Depot(location) => location.into(),
        };
        let (ledger, contracts) = (self.ledger().clone(), self.contracts.clone());
        self.ledger()
            .store()
            .transact("transfer.subscribe", move |tx| -> Result<Subscription, ServiceError> {
                let contract = contracts.contract(tx, &request.contract)?;
                let contract =
                    contract.filter(|contract| contract.side == Side::Consumer).ok_or_else(|| {
                        ServiceError::NotFound {
                            what: format!("contract {} with this node as consumer", request.contract),
                        }
                    })?;
                if !contract.in_force() {
                    let reason = format!("contract {} is not in force", request.contract);
                    return Err(ServiceError::Conflict { reason });
                }
                let now = ledger.clock().now();
                let before = subscriptions::subscription(tx, &request.contract)?;
                let pushed = before.as_ref().and_then(|before| before.pushed).filter(|_| request.push);
                let subscription = Subscription {
                    scheduled: next(request.schedule.as_ref(), now),
                    pushed,
                    contract: request.contract,
                    directory,
                    priority: request.priority,
                    schedule: request.schedule,
                    push: request.push,
                    created: now,
                    last: before.and_then(|before| before.last),
                    note: String::new(),
                };
                subscriptions::save(tx, &subscription)?;
                Ok(subscription)
            })
            .await
            .map_err(Into::into)
    }

    /// Ends a standing order; transfers that it has started go on.
    ///
    /// # Errors
    /// `NotFound` when there is none under this contract.
    pub async fn unsubscribe(&self, contract: &ContractId) -> Result<Subscription, ServiceError> {
        let (this, contract) = (self.clone(), contract.clone());
        self.ledger()
            .store()
            .transact("transfer.unsubscribe", move |tx| -> Result<Subscription, ServiceError> {
                let found = subscriptions::subscription(tx, &contract)?;
                let found = found.ok_or_else(|| ServiceError::NotFound {
                    what: format!("a subscription under contract {contract}"),
                })?;
                subscriptions::remove(tx, &contract)?;
                this.looks().remove(&contract);
                Ok(found)
            })
            .await
            .map_err(Into::into)
    }

    /// The standing orders of this node, at most 1,000; each with what keeps it from delivering now, if anything does.
    pub fn subscriptions(&self) -> Result<Vec<Subscription>, ServiceError> {
        let view = self.ledger().store().view();
        let mut listed = subscriptions::page(&view, None, MAX_LISTED)?;
        for subscription in &mut listed {
            let waits = self.looks().get(&subscription.contract).map(|look| look.waits.clone());
            if let Some(waits) = waits.filter(|waits| !waits.is_empty()) {
                subscription.note = waits;
            } else if subscription.note.is_empty() {
                subscription.note = why_it_ended(&view, subscription)?;
            }
        }
        Ok(listed)
    }

    /// The contracts whose standing orders are due now; see [`Transfers::serve_subscription`].
    pub fn due_subscriptions(&self) -> Result<Vec<ContractId>, ServiceError> {
        subscriptions::due(&self.ledger().store().view(), self.ledger().clock().now(), MAX_LISTED)
    }

    /// Starts the delivery that is due under a contract, if there is anything to deliver, and says when the next one is.
    pub async fn serve_subscription(
        &self,
        contract: &ContractId,
        peer: &dyn SubscriptionPeer,
    ) -> Result<(), Delivery> {
        let waits = self.looks().remove(contract).map(|look| look.waits).unwrap_or_default();
        self.looks().insert(contract.clone(), Look { waits, ..Look::default() });
        let looked = self.look_at_subscription(contract, peer).await;
        let mut looks = self.looks();
        match &looked {
            Err(Delivery::Retry(reason) | Delivery::Dead(reason)) => {
                looks.insert(contract.clone(), Look { waits: reason.clone(), ..Look::default() });
            }
            Ok(()) => {
                looks.remove(contract);
            }
        }
        looked
    }

    async fn look_at_subscription(
        &self,
        contract: &ContractId,
        peer: &dyn SubscriptionPeer,
    ) -> Result<(), Delivery> {
        let retry = |error: ServiceError| Delivery::Retry(error.to_string());
        let Some(found) = self.due_subscription(contract).map_err(retry)? else { return Ok(()) };
        if found.schedule.as_ref().is_some_and(|schedule| !schedule.is_known()) {
            let reason = "this machine does not know the time zone of the schedule; subscribe again";
            return Err(Delivery::Retry(reason.to_owned()));
        }
        let now = self.ledger().clock().now();
        let view = self.ledger().store().view();
        let last = found.last.map(|id| tables::transfer(&view, &id)).transpose().map_err(retry)?.flatten();
        let here = brought_by(&view, &found).map_err(retry)?.or_else(|| last.clone());
        let known = self.contracts.contract(&view, contract).map_err(retry)?;
        drop(view);
        if last.as_ref().is_some_and(|last| !last.state.is_terminal() || last.awaits_deposit()) {
            return Err(Delivery::Retry("the delivery before is still under way".to_owned()));
        }
        let Some(known) = known else {
            return self.stop(found, "the contract is not known here").await.map_err(retry);
        };
        match &known.standing {
            Standing::InForce => {}
            // What is due is delivered when the contract is resumed.
            Standing::Suspended(_) => return Err(Delivery::Retry(known.standing.to_string())),
            Standing::Ended(_) => {
                return self.stop(found, &known.standing.to_string()).await.map_err(retry);
            }
        }
        if let Some(last) = last.filter(|last| last.state == TransferState::Terminated)
            && rules::is_spent(&known.agreement, &last.code, now)
        {
            return self.stop(found, &format!("{}: {}", last.code, last.reason)).await.map_err(retry);
        }
        if known.agreement.coverage == Coverage::Series && !self.may_ask(contract, &known.peer) {
            return Err(Delivery::Retry("its provider has other questions to answer first".to_owned()));
        }
        match something_new(&known, found.is_scheduled_by(now), here.as_ref(), peer).await {
            Ok(true) => self.start_due(found).await.map_err(retry),
            Ok(false) => self.put_off(found, "nothing new").await.map_err(retry),
            Err(PeerError::Refused { code, reason, .. }) => {
                self.put_off(found, &format!("{code}: {reason}")).await.map_err(retry)
            }
            Err(error) => Err(Delivery::Retry(error.to_string())),
        }
    }

    /// Whether the provider may be asked now: one that does not answer holds up its own orders only.
    fn may_ask(&self, contract: &ContractId, provider: &NodeId) -> bool {
        let mut looks = self.looks();
        let asked = looks.values().filter(|look| look.asks.as_ref() == Some(provider)).count();
        if let Some(look) = looks.get_mut(contract).filter(|_| asked < MOST_ASKED) {
            look.asks = Some(provider.clone());
            return true;
        }
        false
    }

    /// Computes anew when schedules are due next, where a clock that was ahead has put that too far off. To be called at the
    /// start of a node and from time to time.
    pub async fn recompute_schedules(&self) -> Result<(), ServiceError> {
        let mut after = None;
        loop {
            let this = self.clone();
            let recompute = move |tx: &mut Tx<'_>| -> Result<Option<ContractId>, ServiceError> {
                let from = this.ledger().clock().now().saturating_add(SET_BACK);
                let mut found = subscriptions::page(tx, after.as_ref(), BATCH)?;
                for subscription in &mut found {
                    let latest = next(subscription.schedule.as_ref(), from);
                    if latest.is_some() && subscription.scheduled > latest {
                        subscription.scheduled = latest;
                        subscriptions::save(tx, subscription)?;
                    }
                }
                let last = found.last().filter(|_| found.len() == BATCH);
                Ok(last.map(|last| last.contract.clone()))
            };
            after = self.ledger().store().transact("transfer.recompute_schedules", recompute).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Tells the consumer of a contract that there is something to fetch (provider, operator side). Whether it fetches is its own
    /// choice; a refusal shows among the messages that were given up.
    ///
    /// # Errors
    /// `NotFound` for a contract whose provider is another node, `Conflict` for one that has ended.
    pub async fn push(&self, contract: &ContractId, id: [u8; 16]) -> Result<(), ServiceError> {
        let (contracts, contract) = (self.contracts.clone(), contract.clone());
        self.ledger()
            .store()
            .transact("transfer.push", move |tx| -> Result<(), ServiceError> {
                let found = contracts.contract(tx, &contract)?;
                let found = found.filter(|found| found.side == Side::Provider).ok_or_else(|| {
                    ServiceError::NotFound { what: format!("contract {contract} with this node as provider") }
                })?;
                if let Standing::Ended(_) = found.standing {
                    return Err(ServiceError::Conflict { reason: found.standing.to_string() });
                }
                announce(tx, &found, id)
            })
            .await
            .map_err(Into::into)
    }

    /// Tells the consumers of a series of each new version whose publication says so (provider), until the store closes.
    pub async fn announce_versions(&self) -> Result<(), ServiceError> {
        let mut commits = self.contracts.changes();
        loop {
            commits.borrow_and_update();
            while self.shelf.unannounced(&self.ledger().store().view())?.is_some() {
                let this = self.clone();
                let announce = move |tx: &mut Tx<'_>| this.announce_version(tx);
                self.ledger().store().transact("transfer.announce", announce).await?;
            }
            if commits.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// The next of them.
    fn announce_version(&self, tx: &mut Tx<'_>) -> Result<(), ServiceError> {
        let Some(Announcement { product, after }) = self.shelf.unannounced(tx)? else { return Ok(()) };
        let (contracts, up_to) = self.contracts.about(tx, &product, after.as_ref(), BATCH)?;
        for contract in contracts {
            let has_ended =
                contract.state != State::Finalized || matches!(contract.standing, Standing::Ended(_));
            let is_ours = contract.side == Side::Provider && contract.agreement.coverage == Coverage::Series;
            if is_ours && !has_ended {
                announce(tx, &contract, random(self.ledger().entropy().as_ref()))?;
            }
        }
        self.shelf.announced(tx, &product, up_to.as_ref())
    }

    /// Hands one outbox row of topic `transfer` to its destination.
    pub async fn deliver(&self, pending: &Pending, peer: &dyn SubscriptionPeer) -> Result<(), Delivery> {
        let dead = |error: &dyn std::fmt::Display| Delivery::Dead(error.to_string());
        let notice = Notice::decode(&pending.payload).map_err(|error| dead(&error))?;
        let consumer = NodeId::parse(&pending.destination).map_err(|error| dead(&error))?;
        match peer.push(&consumer, &notice.contract, notice.id).await {
            Ok(()) => Ok(()),
            Err(error @ (PeerError::Unavailable(_) | PeerError::Broken(_))) => {
                Err(Delivery::Retry(error.to_string()))
            }
            Err(PeerError::Refused { code, reason, statement }) => {
                if let Some(statement) = statement {
                    let kept = self.keep_refusal(&consumer, notice.id, statement).await;
                    kept.map_err(|error| Delivery::Retry(error.to_string()))?;
                }
                Err(Delivery::Dead(format!("{code}: {reason}")))
            }
        }
    }

    /// The provider says that there is something to fetch under a contract (consumer, peer side). The same notice again changes
    /// nothing; many of them are one delivery.
    ///
    /// # Errors
    /// `Refused`, on record: `contract.unknown`, `contract.state`, `push.unwanted` where nobody here has agreed to it.
    pub async fn pushed(
        &self,
        caller: &Caller,
        contract: &ContractId,
        id: [u8; 16],
    ) -> Result<(), ServiceError> {
        let (this, caller, contract) = (self.clone(), caller.clone(), contract.clone());
        let refused = self
            .ledger()
            .store()
            .transact("transfer.pushed", move |tx| -> Result<Option<(Refusal, Statement)>, ServiceError> {
                let refusal = match this.take_push(tx, &caller, &contract)? {
                    Ok(()) => return Ok(None),
                    Err(refusal) => refusal,
                };
                if let Some(answered) = this.refused_before(tx, &caller, id, &refusal)? {
                    return Ok(Some((refusal, answered)));
                }
                remember(tx, this.ledger(), &caller)?;
                let known =
                    this.contracts.contract(tx, &contract)?.filter(|known| known.peer == *caller.node());
                let agreement = known.map_or(Digest::ZERO, |known| known.hash);
                let (audience, asked) = (caller.node().as_str(), format!("push under contract {contract}"));
                let statement =
                    refuse(tx, this.ledger(), audience, id, agreement, Digest::ZERO, &refusal, &asked)?;
                Ok(Some((refusal, statement)))
            })
            .await?;
        match refused {
            None => Ok(()),
            Some((refusal, statement)) => Err(ServiceError::Refused { refusal, statement: Some(statement) }),
        }
    }

    fn take_push(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        contract: &ContractId,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let known = self.contracts.contract(tx, contract)?;
        let known = known.filter(|known| known.side == Side::Consumer && known.peer == *caller.node());
        let Some(known) = known else {
            let reason = format!("this node has no contract {contract} with {}", caller.node());
            return Ok(Err(Refusal::new("contract.unknown", reason, "push under a contract with this node")));
        };
        if let Standing::Ended(_) = known.standing {
            let reason = known.standing.to_string();
            return Ok(Err(Refusal::new("contract.state", reason, "negotiate a new contract")));
        }
        let subscription = subscriptions::subscription(tx, contract)?.filter(|found| found.push);
        let Some(mut subscription) = subscription else {
            let reason = format!("nobody here has agreed to pushes under contract {contract}");
            let next_step = "ask the consumer to run `huitong transfer subscribe CONTRACT --push`";
            return Ok(Err(Refusal::new("push.unwanted", reason, next_step)));
        };
        if let Some(look) = self.looks().get_mut(contract) {
            look.is_outdated = true;
        }
        // One that waits to be looked at stands for all that come until then.
        if subscription.pushed.is_none() {
            subscription.pushed = Some(self.ledger().clock().now());
            subscriptions::save(tx, &subscription)?;
        }
        Ok(Ok(()))
    }

    /// Whether a standing order for a series would bring once more what it has brought: what its provider says about the newest
    /// version before the offer is only its word.
    pub(super) fn is_here_already(
        &self,
        transfer: &Transfer,
        contract: &Contract,
        offer: &OfferDetail,
    ) -> Result<bool, ServiceError> {
        if contract.agreement.coverage != Coverage::Series {
            return Ok(false);
        }
        let view = self.ledger().store().view();
        let subscription = subscriptions::subscription(&view, &transfer.contract)?;
        let Some(found) = subscription.filter(|found| found.last == Some(transfer.id)) else {
            return Ok(false);
        };
        Ok(brought_by(&view, &found)?.is_some_and(|here| here.has_brought(&offer.root)))
    }

    /// Our answer to this very push, if it has come before: the other node may not have heard it.
    fn refused_before(
        &self,
        read: &impl Read,
        caller: &Caller,
        id: [u8; 16],
        refusal: &Refusal,
    ) -> Result<Option<Statement>, ServiceError> {
        let answers = self.ledger().about(read, &id, MAX_ANSWERS)?;
        Ok(answers.into_iter().find(|answer| {
            let body = answer.body();
            answer.kind() == Kind::Refusal
                && body.issuer == self.ledger().node()
                && body.audience == caller.node().as_str()
                && read_refusal(answer).is_ok_and(|said| said.code == refusal.code)
        }))
    }

    fn due_subscription(&self, contract: &ContractId) -> Result<Option<Subscription>, ServiceError> {
        let now = self.ledger().clock().now();
        let found = subscriptions::subscription(&self.ledger().store().view(), contract)?;
        Ok(found.filter(|found| found.due().is_some_and(|due| due <= now)))
    }

    /// Starts the transfer that is due and says when the next one is, in one commit.
    async fn start_due(&self, due: Subscription) -> Result<(), ServiceError> {
        let destination = self.destination(Some(due.directory.clone())).await?;
        let this = self.clone();
        self.change_subscription("transfer.deliver", due, move |tx, found, now| {
            let id = random(this.ledger().entropy().as_ref());
            let request = StartTransfer {
                id,
                contract: found.contract.clone(),
                product: None,
                directory: Some(found.directory.clone()),
                priority: found.priority,
            };
            this.begin(tx, request, destination)?;
            found.last = Some(id);
            found.note.clear();
            // It brings whatever has been announced until now.
            found.pushed = None;
            go_on(found, now);
            Ok(())
        })
        .await
    }

    /// Nothing is delivered this time.
    async fn put_off(&self, due: Subscription, why: &str) -> Result<(), ServiceError> {
        let (this, why, looked_at) = (self.clone(), why.to_owned(), due.pushed);
        self.change_subscription("transfer.put_off", due, move |_, found, now| {
            found.note = why;
            let is_outdated = this.looks().get(&found.contract).is_some_and(|look| look.is_outdated);
            if found.pushed == looked_at && !is_outdated {
                found.pushed = None;
            }
            go_on(found, now);
            Ok(())
        })
        .await
    }

    /// Nothing will ever be delivered again by itself.
    async fn stop(&self, due: Subscription, why: &str) -> Result<(), ServiceError> {
        let why = why.to_owned();
        self.change_subscription("transfer.stop", due, move |_, found, _| {
            found.note = why;
            (found.scheduled, found.pushed) = (None, None);
            Ok(())
        })
        .await
    }

    /// Changes a standing order in one commit, unless another one has taken its place since it was looked at.
    async fn change_subscription(
        &self,
        name: &'static str,
        seen: Subscription,
        change: impl FnOnce(&mut Tx<'_>, &mut Subscription, Timestamp) -> Result<(), ServiceError>
        + Send
        + 'static,
    ) -> Result<(), ServiceError> {
        let ledger = self.ledger().clone();
        self.ledger()
            .store()
            .transact(name, move |tx| -> Result<(), ServiceError> {
                let Some(mut found) = subscriptions::subscription(tx, &seen.contract)? else { return Ok(()) };
                if found.created != seen.created {
                    return Ok(());
                }
                change(tx, &mut found, ledger.clock().now())?;
                subscriptions::save(tx, &found)
            })
            .await
            .map_err(Into::into)
    }

    // A panic while holding the lock leaves a whole map behind.
    fn looks(&self) -> MutexGuard<'_, HashMap<ContractId, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer's own signed word is evidence; what is not that changes nothing.
    async fn keep_refusal(
        &self,
        consumer: &NodeId,
        id: [u8; 16],
        statement: bytes::Bytes,
    ) -> Result<(), ServiceError> {
        let (this, consumer) = (self.clone(), consumer.clone());
        self.ledger()
            .store()
            .transact("transfer.push_refused", move |tx| -> Result<(), ServiceError> {
                let (credential, _) = this.credential(tx, &consumer)?;
                let Ok(refusal) = statement_of(&credential, statement, this.ledger()) else { return Ok(()) };
                if refusal.kind() != Kind::Refusal || refusal.body().subject != id {
                    return Ok(());
                }
                match this.ledger().admit(tx, &refusal) {
                    Ok(_) | Err(LedgerError::Fork { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .await
            .map_err(Into::into)
    }
}

/// Queues a notice to the consumer of a contract.
fn announce(tx: &mut Tx<'_>, contract: &Contract, id: [u8; 16]) -> Result<(), ServiceError> {
    tx.send(Outgoing {
        destination: contract.peer.to_string(),
        topic: TOPIC.to_owned(),
        payload: Notice { contract: contract.contract.clone(), id }.encode(),
    })?;
    Ok(())
}

/// When a schedule is due next; without one, when the provider says so.
fn next(schedule: Option<&Schedule>, now: Timestamp) -> Option<Timestamp> {
    schedule?.next(now)
}

/// A schedule whose time has come is due again at the next one, also where the clock was set back in between.
fn go_on(subscription: &mut Subscription, now: Timestamp) {
    if subscription.is_scheduled_by(now) {
        let from = subscription.scheduled.map_or(now, |due| due.max(now));
        subscription.scheduled = next(subscription.schedule.as_ref(), from);
    }
}

/// Why the last transfer of a standing order was not completed, if that is so.
fn why_it_ended(read: &impl Read, subscription: &Subscription) -> Result<String, ServiceError> {
    let Some(id) = subscription.last else { return Ok(String::new()) };
    let ended = tables::transfer(read, &id)?.filter(|last| last.state == TransferState::Terminated);
    Ok(ended.map(|last| format!("{}: {}", last.code, last.reason)).unwrap_or_default())
}

/// The last delivery under the contract of a standing order to where that delivers: what was fetched to anywhere else does not
/// count.
fn brought_by(read: &impl Read, order: &Subscription) -> Result<Option<Transfer>, ServiceError> {
    let last = tables::last_completed(read, &order.contract)?;
    Ok(last.filter(|last| last.goes_to(&order.directory)))
}

/// Whether a delivery that is due would bring anything. What an operator has scheduled about one content is delivered each time;
/// of a series, and of what a provider pushes, only what is not here yet.
async fn something_new(
    contract: &Contract,
    is_scheduled: bool,
    here: Option<&Transfer>,
    peer: &dyn SubscriptionPeer,
) -> Result<bool, PeerError> {
    let root = match contract.agreement.root() {
        Some(_) if is_scheduled => return Ok(true),
        Some(root) => root,
        None => peer.current_root(&contract.peer, &contract.agreement.product).await?,
    };
    Ok(!here.is_some_and(|here| here.has_brought(&root)))
}
