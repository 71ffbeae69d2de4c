//! Standing orders: deliveries by schedule, and when the provider says that there is something (推送).

use huitong_contract::{Contract, Side};
use huitong_identity::{Caller, Delivery, PeerError, Refusal, ServiceError, refuse, remember, statement_of};
use huitong_ids::{ContractId, NodeId};
use huitong_ledger::LedgerError;
use huitong_proof::cbor::{FieldError, Fields, Limits, Map};
use huitong_proof::{Digest, Kind, Statement, Timestamp, random};
use huitong_store::{Outgoing, Pending, Tx};

use super::Transfers;
use super::destination::Destination;
use crate::model::{Cause, Due, StartTransfer, Subscribe, Subscription, Transfer, TransferState};
use crate::peer::SubscriptionPeer;
use crate::tables::{self, subscriptions};

/// The outbox topic of this crate's messages.
pub const TOPIC: &str = "transfer";

/// The most subscriptions that one call lists, and that are looked at in one round.
const MAX_LISTED: usize = 1_000;
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
                let subscription = Subscription {
                    due: next(request.schedule.as_ref(), now),
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
        let contract = contract.clone();
        self.ledger()
            .store()
            .transact("transfer.unsubscribe", move |tx| -> Result<Subscription, ServiceError> {
                let found = subscriptions::subscription(tx, &contract)?;
                let found = found.ok_or_else(|| ServiceError::NotFound {
                    what: format!("a subscription under contract {contract}"),
                })?;
                subscriptions::remove(tx, &contract)?;
                Ok(found)
            })
            .await
            .map_err(Into::into)
    }

    /// The standing orders of this node, at most 1,000.
    pub fn subscriptions(&self) -> Result<Vec<Subscription>, ServiceError> {
        subscriptions::all(&self.ledger().store().view(), MAX_LISTED)
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
        let retry = |error: ServiceError| Delivery::Retry(error.to_string());
        let Some((subscription, due)) = self.due_subscription(contract).map_err(retry)? else {
            return Ok(());
        };
        let view = self.ledger().store().view();
        let last =
            subscription.last.map(|id| tables::transfer(&view, &id)).transpose().map_err(retry)?.flatten();
        let known = self.contracts.contract(&view, contract).map_err(retry)?;
        drop(view);
        if last.as_ref().is_some_and(|last| !last.state.is_terminal() || last.awaits_deposit()) {
            return Err(Delivery::Retry("the delivery before is still under way".to_owned()));
        }
        let Some(known) = known.filter(Contract::in_force) else {
            return self.put_off(contract, due, "the contract is not in force").await.map_err(retry);
        };
        match something_new(&known, due, last.as_ref(), peer).await {
            Ok(true) => self.start_due(contract, due).await.map_err(retry),
            Ok(false) => self.put_off(contract, due, "nothing new").await.map_err(retry),
            Err(PeerError::Refused { code, reason, .. }) => {
                self.put_off(contract, due, &format!("{code}: {reason}")).await.map_err(retry)
            }
            Err(error) => Err(Delivery::Retry(error.to_string())),
        }
    }

    /// Tells the consumer of a contract that there is something to fetch (provider, operator side). Whether it fetches is its own
    /// choice; a refusal shows among the messages that were given up.
    ///
    /// # Errors
    /// `NotFound` for a contract whose provider is another node, `Conflict` for one that is not in force.
    pub async fn push(&self, contract: &ContractId, id: [u8; 16]) -> Result<(), ServiceError> {
        let (contracts, contract) = (self.contracts.clone(), contract.clone());
        self.ledger()
            .store()
            .transact("transfer.push", move |tx| -> Result<(), ServiceError> {
                let found = contracts.contract(tx, &contract)?;
                let found = found.filter(|found| found.side == Side::Provider).ok_or_else(|| {
                    ServiceError::NotFound { what: format!("contract {contract} with this node as provider") }
                })?;
                if !found.in_force() {
                    return Err(ServiceError::Conflict {
                        reason: format!("contract {contract} is not in force"),
                    });
                }
                tx.send(Outgoing {
                    destination: found.peer.to_string(),
                    topic: TOPIC.to_owned(),
                    payload: Notice { contract, id }.encode(),
                })?;
                Ok(())
            })
            .await
            .map_err(Into::into)
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
        if !known.in_force() {
            let reason = format!("contract {contract} is not in force");
            return Ok(Err(Refusal::new("contract.state", reason, "negotiate a new contract")));
        }
        let subscription = subscriptions::subscription(tx, contract)?.filter(|found| found.push);
        let Some(mut subscription) = subscription else {
            let reason = format!("nobody here has agreed to pushes under contract {contract}");
            let next_step = "ask the consumer to run `huitong transfer subscribe CONTRACT --push`";
            return Ok(Err(Refusal::new("push.unwanted", reason, next_step)));
        };
        let now = self.ledger().clock().now();
        // A look that is under way may have seen less than what is announced now: this one is another.
        let cause = match subscription.due {
            Some(due) if due.at <= now => due.cause,
            _ => Cause::Push,
        };
        subscription.due = Some(Due { at: now, cause });
        subscriptions::save(tx, &subscription)?;
        Ok(Ok(()))
    }

    fn due_subscription(&self, contract: &ContractId) -> Result<Option<(Subscription, Due)>, ServiceError> {
        let now = self.ledger().clock().now();
        let found = subscriptions::subscription(&self.ledger().store().view(), contract)?;
        Ok(found.and_then(|found| Some((found.clone(), found.due.filter(|due| due.at <= now)?))))
    }

    /// Starts the transfer that is due and says when the next one is, in one commit.
    async fn start_due(&self, contract: &ContractId, due: Due) -> Result<(), ServiceError> {
        let (this, contract) = (self.clone(), contract.clone());
        let directory = subscriptions::subscription(&self.ledger().store().view(), &contract)?;
        let destination = self.destination(directory.map(|found| found.directory)).await?;
        self.ledger()
            .store()
            .transact("transfer.deliver", move |tx| -> Result<(), ServiceError> {
                let Some(mut found) = subscriptions::subscription(tx, &contract)? else { return Ok(()) };
                if found.due != Some(due) {
                    return Ok(());
                }
                let id = random(this.ledger().entropy().as_ref());
                let request = StartTransfer {
                    id,
                    contract,
                    product: None,
                    directory: Some(found.directory.clone()),
                    priority: found.priority,
                };
                this.begin(tx, request, destination)?;
                found.last = Some(id);
                found.note.clear();
                found.due = next(found.schedule.as_ref(), this.ledger().clock().now());
                subscriptions::save(tx, &found)
            })
            .await
            .map_err(Into::into)
    }

    /// Nothing is delivered this time.
    async fn put_off(&self, contract: &ContractId, due: Due, why: &str) -> Result<(), ServiceError> {
        let (ledger, contract, why) = (self.ledger().clone(), contract.clone(), why.to_owned());
        self.ledger()
            .store()
            .transact("transfer.put_off", move |tx| -> Result<(), ServiceError> {
                let Some(mut found) = subscriptions::subscription(tx, &contract)? else { return Ok(()) };
                if found.due != Some(due) {
                    return Ok(());
                }
                found.note = why;
                found.due = next(found.schedule.as_ref(), ledger.clock().now());
                subscriptions::save(tx, &found)
            })
            .await
            .map_err(Into::into)
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

/// When a schedule is due next; without one, when the provider says so.
fn next(schedule: Option<&crate::Schedule>, now: Timestamp) -> Option<Due> {
    let at = schedule?.next(now)?;
    Some(Due { at, cause: Cause::Schedule })
}

/// Whether a delivery that is due would bring anything. What an operator has scheduled about one content is delivered each time;
/// of a series, and of what a provider pushes, only what is not here yet.
async fn something_new(
    contract: &Contract,
    due: Due,
    last: Option<&Transfer>,
    peer: &dyn SubscriptionPeer,
) -> Result<bool, PeerError> {
    let root = match (contract.agreement.root(), due.cause) {
        (Some(_), Cause::Schedule) => return Ok(true),
        (Some(root), Cause::Push) => root,
        (None, _) => peer.current_root(&contract.peer, &contract.agreement.product).await?,
    };
    let is_here = last.is_some_and(|last| {
        last.state == TransferState::Completed && last.root == Some(root) && last.is_there()
    });
    Ok(!is_here)
}
