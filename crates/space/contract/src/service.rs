//! Use cases: load, decide, commit.

mod message;
mod receive;
mod steps;

use std::sync::Arc;

use huitong_catalog::Shelf;
use huitong_identity::{
    Caller, Credential, Membership, Role, ServiceError, credential_of, remember_credential,
};
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_ledger::Ledger;
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Statement, id_text};
use huitong_store::{Read, Tx};
use tokio::sync::watch;

pub use self::receive::Received;
use crate::model::{
    AcceptCounter, Approval, Contract, Coverage, Mode, Negotiation, Party, Reason, Side, Standings, State,
    Statements, Terms,
};
use crate::rules::{self, Event, MAXIMUM_OPEN};
use crate::tables;

/// The code of what an operator has decided.
const OPERATOR: &str = "contract.operator";

/// The negotiations of one node, on both sides of the table, and the contracts that came out of them.
///
/// Cheap to clone; holds no state of its own, so a restarted node goes on where the store says it was.
#[derive(Clone)]
pub struct Contracts {
    ledger: Ledger,
    membership: Membership,
    shelf: Arc<Shelf>,
    approval: Approval,
}

impl Contracts {
    /// A node's negotiations. `shelf` holds what it offers; `approval` says whether it signs standing terms by itself.
    #[must_use]
    pub fn new(ledger: Ledger, membership: Membership, shelf: Shelf, approval: Approval) -> Self {
        Self { ledger, membership, shelf: Arc::new(shelf), approval }
    }

    /// Asks a provider for a contract under `terms` (consumer, operator side).
    ///
    /// `id` is chosen by the operator's client: repeating the same command changes nothing and gives the negotiation
    /// as it stands. `provider` is the verified credential of the node that `terms` name, with the registrar's
    /// statement of it.
    ///
    /// # Errors
    /// `Invalid` when the terms do not fit the two nodes or carry a policy this node cannot enforce, `Conflict` when
    /// `id` belongs to another request, `Busy` when 1,000 negotiations with that provider are open.
    pub async fn request(
        &self,
        id: [u8; 16],
        provider: (Credential, Statement),
        terms: Terms,
        accept_counter: AcceptCounter,
    ) -> Result<Negotiation, ServiceError> {
        let terms = self.checked_own_terms(&terms)?;
        let (credential, statement) = provider;
        if terms.provider != credential.node {
            let reason =
                format!("the terms name {}, the credential is that of {}", terms.provider, credential.node);
            return Err(ServiceError::invalid("terms.provider", reason));
        }
        if !credential.roles.contains(&Role::Provider) {
            let reason = format!("{} is not registered as a provider", credential.node);
            return Err(ServiceError::invalid("terms.provider", reason));
        }
        self.transact("contract.request", move |contracts, tx| {
            let opened_with = terms.digest();
            if let Some(found) = tables::negotiation(tx, &id)? {
                let same = found.side == Side::Consumer
                    && found.opened_with == opened_with
                    && found.accept_counter == accept_counter;
                if same {
                    return Ok(found);
                }
                let reason = "this negotiation id belongs to another request; choose a new one".to_owned();
                return Err(ServiceError::Conflict { reason });
            }
            if tables::open(tx, Side::Consumer, &terms.provider)? >= MAXIMUM_OPEN {
                return Err(too_many_open(&terms.provider));
            }
            // What the provider will sign is only worth something with the credential that names its key.
            remember_credential(tx, &contracts.ledger, &credential, &statement)?;
            let mut negotiation =
                contracts.begin(tx, id, Side::Consumer, &terms.provider, &terms, accept_counter);
            contracts.send_request(tx, &mut negotiation, None)?;
            tables::save(tx, None, &negotiation)?;
            Ok(negotiation)
        })
        .await
    }

    /// Answers an offer with other terms (consumer, operator side): a counter-request.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` as for [`Contracts::request`]; `Conflict` unless an offer is on the table.
    pub async fn counter(&self, id: [u8; 16], terms: Terms) -> Result<Negotiation, ServiceError> {
        let terms = self.checked_own_terms(&terms)?;
        self.change("contract.counter", id, Side::Consumer, move |contracts, tx, negotiation| {
            if negotiation.state == State::Requested && negotiation.terms == terms {
                return Ok(());
            }
            if terms.product != negotiation.product || terms.provider != negotiation.peer {
                let reason =
                    "a counter-request keeps product and provider; begin a new negotiation for others";
                return Err(ServiceError::invalid("terms.product", reason));
            }
            negotiation.terms = terms;
            let answered = negotiation.last;
            contracts.send_request(tx, negotiation, Some(answered))
        })
        .await
    }

    /// Accepts the offer on the table (consumer, operator side). Accepting twice changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when no offer is, or was, there to be accepted.
    pub async fn accept(&self, id: [u8; 16]) -> Result<Negotiation, ServiceError> {
        self.change("contract.accept", id, Side::Consumer, |contracts, tx, negotiation| {
            match negotiation.state {
                State::Accepted | State::Agreed | State::Verified | State::Finalized => Ok(()),
                State::Requested | State::Offered | State::Terminated => {
                    contracts.send_acceptance(tx, negotiation)
                }
            }
        })
        .await
    }

    /// Signs the agreement that was held back for an operator (provider, operator side, [`Approval::Manual`]).
    /// Approving twice changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when nothing waits for approval, or when the product is no longer what the terms say.
    pub async fn approve(&self, id: [u8; 16]) -> Result<Negotiation, ServiceError> {
        self.change("contract.approve", id, Side::Provider, |contracts, tx, negotiation| {
            if matches!(negotiation.state, State::Agreed | State::Verified | State::Finalized) {
                return Ok(());
            }
            let terms = &negotiation.terms;
            let standing = contracts.offered_to(tx, &negotiation.peer, &negotiation.product)?;
            // Price and policy are the operator's to give; root and size are facts about the bytes on the shelf, which in a
            // series may have become those of a later version.
            let is_offered = standing.is_some_and(|now| {
                now.coverage == terms.coverage
                    && (now.coverage == Coverage::Series
                        || (now.root == terms.root && now.size == terms.size))
            });
            if !is_offered {
                let reason =
                    format!("the product {} has changed since these terms; terminate", terms.product);
                return Err(ServiceError::Conflict { reason });
            }
            let Some((credential, _)) = credential_of(tx, &contracts.ledger, &negotiation.peer)? else {
                return Err(ServiceError::Internal(format!(
                    "the credential of {} is missing",
                    negotiation.peer
                )));
            };
            contracts.send_agreement(tx, negotiation, party(&credential))
        })
        .await
    }

    /// Ends a negotiation (either side, operator side), when the protocol lets this side do so now, or the contract that
    /// came out of it, for good. The reason, at most 256 characters, is signed and told to the other node. Ending twice
    /// changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` naming the state when it is the other side's turn.
    pub async fn terminate(&self, id: [u8; 16], reason: &str) -> Result<Negotiation, ServiceError> {
        let reason = Reason::new(OPERATOR, reason);
        self.change_either("contract.terminate", id, move |contracts, tx, negotiation| {
            match negotiation.state {
                State::Terminated => return Ok(()),
                State::Finalized => {
                    return contracts.send_change(tx, negotiation, Event::Termination, reason);
                }
                _ => {}
            }
            rules::may_send(Some(negotiation.state), negotiation.side, Event::Termination)
                .map_err(conflict)?;
            contracts.send_termination(tx, negotiation, negotiation.last, reason)
        })
        .await
    }

    /// Suspends a contract (either side, operator side): nothing moves under it before this side resumes it. The reason, at
    /// most 256 characters, is signed and told to the other node. Suspending twice changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when there is no contract yet, when it has ended, or when this side has signed
    /// [`crate::MAXIMUM_CHANGES`] suspensions and resumptions.
    pub async fn suspend(&self, id: [u8; 16], reason: &str) -> Result<Negotiation, ServiceError> {
        let reason = Reason::new(OPERATOR, reason);
        self.change_either("contract.suspend", id, move |contracts, tx, negotiation| {
            contracts.send_change(tx, negotiation, Event::Suspension, reason)
        })
        .await
    }

    /// Takes back this side's suspension (operator side). The contract is in force again unless the other side has
    /// suspended it too.
    ///
    /// # Errors
    /// As for [`Contracts::suspend`]; `Conflict` also when only the other side has suspended it.
    pub async fn resume(&self, id: [u8; 16]) -> Result<Negotiation, ServiceError> {
        self.change_either("contract.resume", id, |contracts, tx, negotiation| {
            contracts.send_change(tx, negotiation, Event::Resumption, Reason::new(OPERATOR, ""))
        })
        .await
    }

    /// The next contract behind `after` whose standing has changed and whose transfers have not followed yet, with the
    /// number of the change.
    ///
    /// # Errors
    /// Storage errors.
    pub fn restated(
        &self,
        r: &impl Read,
        after: Option<&ContractId>,
    ) -> Result<Option<(ContractId, u64)>, ServiceError> {
        tables::restated(r, after)
    }

    /// The transfers under a contract have followed that change of its standing.
    ///
    /// # Errors
    /// Storage errors.
    pub fn followed(&self, tx: &mut Tx<'_>, id: &ContractId, change: u64) -> Result<(), ServiceError> {
        tables::followed(tx, id, change)
    }

    /// The negotiation with that id, if there is one.
    ///
    /// # Errors
    /// Storage errors.
    pub fn negotiation(&self, id: &[u8; 16]) -> Result<Option<Negotiation>, ServiceError> {
        tables::negotiation(&self.ledger.store().view(), id)
    }

    /// The negotiation that led to a contract.
    ///
    /// # Errors
    /// Storage errors.
    pub fn by_contract(&self, contract: &ContractId) -> Result<Option<Negotiation>, ServiceError> {
        let view = self.ledger.store().view();
        match tables::negotiation_of(&view, contract)? {
            None => Ok(None),
            Some(id) => tables::negotiation(&view, &id),
        }
    }

    /// The newest negotiations first, at most `limit`.
    ///
    /// # Errors
    /// Storage errors.
    pub fn list(&self, limit: usize) -> Result<Vec<Negotiation>, ServiceError> {
        tables::newest(&self.ledger.store().view(), limit)
    }

    /// The contracts about a product among the next `limit` negotiations behind `after`, and up to which one that is; `None`
    /// when there are no more.
    ///
    /// # Errors
    /// Storage errors.
    pub fn about(
        &self,
        r: &impl Read,
        product: &DataId,
        after: Option<&[u8; 16]>,
        limit: usize,
    ) -> Result<(Vec<Contract>, Option<[u8; 16]>), ServiceError> {
        let page = tables::page(r, after, limit)?;
        let last = page.last().filter(|_| page.len() == limit).map(|last| last.id);
        let found = page.iter().filter(|found| found.product == *product).map(tables::contract_of);
        let found: Result<Vec<_>, _> = found.collect();
        Ok((found?.into_iter().flatten().collect(), last))
    }

    /// A contract that both sides have signed, in a view or inside a transaction; ask [`Contract::in_force`] before
    /// moving bytes. `None` when it is unknown here or one signature is missing.
    ///
    /// # Errors
    /// Storage errors.
    pub fn contract(&self, r: &impl Read, id: &ContractId) -> Result<Option<Contract>, ServiceError> {
        let Some(negotiation) = tables::negotiation_of(r, id)? else {
            return Ok(None);
        };
        match tables::negotiation(r, &negotiation)? {
            None => Ok(None),
            Some(negotiation) => tables::contract_of(&negotiation),
        }
    }

    /// Wakes on every durable change of the store: look the negotiation up again after each.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.ledger.store().commits()
    }

    /// The terms under which this node offers `product` to the caller now (provider, peer side).
    ///
    /// # Errors
    /// `Forbidden` for a caller that is not registered as a consumer, `NotFound` for a product that is not listed.
    pub fn standing_terms(&self, caller: &Caller, product: &DataId) -> Result<Terms, ServiceError> {
        if !caller.has(Role::Consumer) {
            let reason = format!("{} is not registered as a consumer", caller.node());
            return Err(ServiceError::Forbidden { reason });
        }
        self.offered_to(&self.ledger.store().view(), caller.node(), product)?
            .ok_or_else(|| ServiceError::NotFound { what: format!("product {product}") })
    }

    /// What this node offers to `consumer`, whoever that is.
    fn offered_to(
        &self,
        r: &impl Read,
        consumer: &NodeId,
        product: &DataId,
    ) -> Result<Option<Terms>, ServiceError> {
        let Some(found) = self.shelf.product_in(r, product)? else {
            return Ok(None);
        };
        Ok(Some(Terms {
            product: found.product,
            name: found.listing.name,
            provider: self.membership.node().clone(),
            consumer: consumer.clone(),
            policy: found.listing.policy,
            root: found.record.root,
            size: found.record.size,
            window_bytes: found.listing.window_bytes,
            mode: Mode::Window,
            price: found.listing.price,
            coverage: Coverage::of_listing(found.listing.series),
            version: found.listing.series.then_some(found.version),
        }))
    }

    /// Terms this node may send as a consumer, in the form in which they will be signed.
    fn checked_own_terms(&self, terms: &Terms) -> Result<Terms, ServiceError> {
        // Reading our own bytes back applies every bound, and composes text as the codec does.
        let terms = Terms::decode(&terms.encode())?;
        if terms.consumer != *self.membership.node() {
            let reason =
                format!("the terms name {}, this node is {}", terms.consumer, self.membership.node());
            return Err(ServiceError::invalid("terms.consumer", reason));
        }
        if terms.provider == terms.consumer {
            return Err(ServiceError::invalid("terms.provider", "a node makes no contract with itself"));
        }
        terms.policy().map_err(|error| ServiceError::invalid("terms.policy", error))?;
        Ok(terms)
    }

    /// A negotiation that is about to begin: whoever creates it takes the first step before saving.
    fn begin(
        &self,
        tx: &Tx<'_>,
        id: [u8; 16],
        side: Side,
        peer: &NodeId,
        terms: &Terms,
        accept_counter: AcceptCounter,
    ) -> Negotiation {
        let now = self.now(tx);
        Negotiation {
            id,
            side,
            peer: peer.clone(),
            product: terms.product.clone(),
            product_name: terms.name.clone(),
            state: State::Requested,
            terms: terms.clone(),
            contract: None,
            agreement: None,
            agreement_hash: None,
            statements: Statements::default(),
            reason: None,
            is_ended_by_peer: false,
            standings: Standings::default(),
            created: now,
            updated: now,
            last: Digest::ZERO,
            opened_with: terms.digest(),
            accept_counter,
            rounds: 0,
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Runs `f` on the writer with this node's services at hand.
    pub(crate) async fn transact<T, F>(&self, name: &'static str, f: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: FnOnce(&Self, &mut Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let contracts = self.clone();
        let done = self.ledger.store().transact(name, move |tx| f(&contracts, tx)).await;
        done.map_err(ServiceError::from)
    }

    /// Changes a stored negotiation in which this node is `side`.
    async fn change<F>(
        &self,
        name: &'static str,
        id: [u8; 16],
        side: Side,
        f: F,
    ) -> Result<Negotiation, ServiceError>
    where
        F: FnOnce(&Self, &mut Tx<'_>, &mut Negotiation) -> Result<(), ServiceError> + Send + 'static,
    {
        self.change_either(name, id, move |contracts, tx, negotiation| {
            if negotiation.side != side {
                let reason = format!("only the {side} can do this; this node is the {}", negotiation.side);
                return Err(ServiceError::Conflict { reason });
            }
            f(contracts, tx, negotiation)
        })
        .await
    }

    async fn change_either<F>(
        &self,
        name: &'static str,
        id: [u8; 16],
        f: F,
    ) -> Result<Negotiation, ServiceError>
    where
        F: FnOnce(&Self, &mut Tx<'_>, &mut Negotiation) -> Result<(), ServiceError> + Send + 'static,
    {
        self.transact(name, move |contracts, tx| {
            let before = tables::negotiation(tx, &id)?.ok_or_else(|| not_found(&id))?;
            let mut after = before.clone();
            f(contracts, tx, &mut after)?;
            if after != before {
                tables::save(tx, Some(&before), &after)?;
            }
            Ok(after)
        })
        .await
    }

    /// This node as a party to a contract.
    fn own_party(&self) -> Party {
        party(self.membership.credential())
    }
}

/// A node as a party to a contract, in the words of its registrar.
fn party(credential: &Credential) -> Party {
    Party { node: credential.node.clone(), entity: credential.entity.clone(), name: credential.name.clone() }
}

fn not_found(id: &[u8; 16]) -> ServiceError {
    ServiceError::NotFound { what: format!("negotiation {}", id_text(id)) }
}

fn too_many_open(peer: &NodeId) -> ServiceError {
    let reason = format!("{MAXIMUM_OPEN} negotiations with {peer} are open; finish or terminate some");
    ServiceError::Busy { reason }
}

/// A rule's "not now", said to our own operator: nothing is recorded, because nothing was asked by a peer.
fn conflict(refusal: huitong_identity::Refusal) -> ServiceError {
    ServiceError::Conflict { reason: refusal.reason }
}

/// The detail of request, offer and acceptance.
fn terms_detail(terms: &Digest) -> Map {
    Map::new().digest(1, terms)
}
