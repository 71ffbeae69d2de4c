//! What this node itself says in a negotiation: each step moves the state by the rules, signs, and queues the message,
//! all in the caller's transaction. The caller saves the negotiation.

use huitong_identity::ServiceError;
use huitong_ids::ContractId;
use huitong_ledger::LedgerError;
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Statement, Timestamp, random};
use huitong_store::{Outgoing, Tx};

use crate::model::{
    Agreement, Hold, Negotiation, Party, Reason, Standing, State, Stated, Terms, agreement_hash,
};
use crate::rules::{self, Event};
use crate::tables;
use crate::workers::{Parcel, TOPIC};

use super::{Contracts, conflict, terms_detail};

/// Eight random characters make a clash within one second of one provider all but impossible; a second try makes sure.
const MINTING_ATTEMPTS: usize = 4;

impl Contracts {
    /// The time of everything written in this transaction.
    pub(crate) fn now(&self, tx: &Tx<'_>) -> Timestamp {
        self.ledger.clock().now().max(Timestamp::from_millis(tx.time()))
    }

    /// REQUEST: the first one, or a counter-request that answers an offer.
    pub(super) fn send_request(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        answered: Option<Digest>,
    ) -> Result<(), ServiceError> {
        let before = answered.map(|_| negotiation.state);
        negotiation.state = rules::may_send(before, negotiation.side, Event::Request).map_err(conflict)?;
        let document = negotiation.terms.encode();
        let detail = terms_detail(&Digest::sha256(&document));
        let reference = answered.unwrap_or(Digest::ZERO);
        let statement =
            self.send(tx, negotiation, Event::Request, reference, Digest::ZERO, detail, document)?;
        negotiation.last = statement.digest();
        Ok(())
    }

    /// OFFER: puts other terms on the table.
    pub(super) fn send_offer(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        terms: Terms,
    ) -> Result<(), ServiceError> {
        self.advance(negotiation, Event::Offer)?;
        let document = terms.encode();
        let detail = terms_detail(&Digest::sha256(&document));
        negotiation.set_terms(terms);
        negotiation.rounds = negotiation.rounds.saturating_add(1);
        let reference = negotiation.last;
        let statement =
            self.send(tx, negotiation, Event::Offer, reference, Digest::ZERO, detail, document)?;
        negotiation.last = statement.digest();
        Ok(())
    }

    /// ACCEPTANCE of the offer on the table.
    pub(super) fn send_acceptance(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
    ) -> Result<(), ServiceError> {
        self.advance(negotiation, Event::Acceptance)?;
        let detail = terms_detail(&negotiation.terms.digest());
        let reference = negotiation.last;
        let statement =
            self.send(tx, negotiation, Event::Acceptance, reference, Digest::ZERO, detail, Vec::new())?;
        negotiation.last = statement.digest();
        Ok(())
    }

    /// AGREEMENT: mints the contract and signs it first.
    pub(super) fn send_agreement(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        consumer: Party,
    ) -> Result<(), ServiceError> {
        self.advance(negotiation, Event::Agreement)?;
        let signed = self.now(tx);
        let contract = self.mint(tx, signed)?;
        let terms = &negotiation.terms;
        let agreement = Agreement {
            contract: contract.clone(),
            name: terms.name.clone(),
            product: terms.product.clone(),
            product_name: terms.name.clone(),
            provider: self.own_party(),
            consumer,
            policy: terms.policy.clone(),
            root: terms.root,
            size: terms.size,
            window_bytes: terms.window_bytes,
            mode: terms.mode,
            price: terms.price.clone(),
            signed,
            negotiation: negotiation.id,
            space: *self.ledger.space(),
            coverage: terms.coverage,
            version: terms.version,
        };
        let document = agreement.encode();
        let detail = signing_detail(&document, &contract);
        let reference = negotiation.last;
        let statement =
            self.send(tx, negotiation, Event::Agreement, reference, Digest::ZERO, detail, document.clone())?;
        negotiation.contract = Some(contract);
        negotiation.agreement = Some(document);
        negotiation.statements.agreement = Some(statement.digest());
        Ok(())
    }

    /// VERIFICATION: signs the provider's agreement, which the caller has checked.
    pub(super) fn send_verification(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        agreement: &Statement,
        document: Vec<u8>,
        contract: ContractId,
    ) -> Result<(), ServiceError> {
        self.advance(negotiation, Event::Verification)?;
        let detail = signing_detail(&document, &contract);
        let reference = agreement.digest();
        let statement =
            self.send(tx, negotiation, Event::Verification, reference, Digest::ZERO, detail, Vec::new())?;
        negotiation.agreement_hash = Some(agreement_hash(&document, agreement, &statement));
        negotiation.contract = Some(contract);
        negotiation.agreement = Some(document);
        negotiation.statements.agreement = Some(reference);
        negotiation.statements.verification = Some(statement.digest());
        Ok(())
    }

    /// FINALISATION: puts the contract in force.
    pub(super) fn send_finalisation(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        verification: &Statement,
    ) -> Result<(), ServiceError> {
        self.advance(negotiation, Event::Finalisation)?;
        let missing = || ServiceError::Internal("a verified negotiation lacks its agreement".to_owned());
        let signed = negotiation.statements.agreement.ok_or_else(missing)?;
        let agreement = self.ledger.statement(tx, &signed)?.ok_or_else(missing)?;
        let document = negotiation.agreement.as_deref().ok_or_else(missing)?;
        let hash = agreement_hash(document, &agreement, verification);
        let reference = verification.digest();
        let statement =
            self.send(tx, negotiation, Event::Finalisation, reference, hash, Map::new(), Vec::new())?;
        negotiation.agreement_hash = Some(hash);
        negotiation.statements.verification = Some(reference);
        negotiation.statements.finalisation = Some(statement.digest());
        Ok(())
    }

    /// TERMINATION. Whether this side may say it now is for the caller to decide; a peer takes it in any open state.
    pub(crate) fn send_termination(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        reference: Digest,
        reason: Reason,
    ) -> Result<(), ServiceError> {
        negotiation.state =
            rules::next(Some(negotiation.state), negotiation.side, Event::Termination).map_err(conflict)?;
        let detail = Map::new().text(1, &reason.code).text(2, &reason.text);
        negotiation.reason = Some(reason);
        let agreement = negotiation.agreement_hash.unwrap_or(Digest::ZERO);
        self.send(tx, negotiation, Event::Termination, reference, agreement, detail, Vec::new())?;
        Ok(())
    }

    /// SUSPENSION, RESUMPTION, or the TERMINATION that ends a finalised contract; says nothing when it is so already.
    pub(super) fn send_change(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        event: Event,
        reason: Reason,
    ) -> Result<(), ServiceError> {
        if !rules::may_change(negotiation, event).map_err(conflict)? {
            return Ok(());
        }
        let missing = || ServiceError::Internal("a finalised negotiation lacks its statements".to_owned());
        let own = negotiation.standings.of(negotiation.side);
        let step = own.step.saturating_add(1);
        let reference = own.statement.or(negotiation.statements.finalisation).ok_or_else(missing)?;
        let agreement = negotiation.agreement_hash.ok_or_else(missing)?;
        let detail = match event {
            Event::Resumption => Map::new(),
            _ => Map::new().text(1, &reason.code).text(2, &reason.text),
        };
        let detail = detail.uint(3, step);
        let statement = self.send(tx, negotiation, event, reference, agreement, detail, Vec::new())?;
        let hold = Hold { by: negotiation.side, reason, since: statement.body().time };
        let standing = match event {
            Event::Resumption => Standing::InForce,
            Event::Suspension => Standing::Suspended(hold),
            _ => Standing::Ended(hold),
        };
        let stated = Stated { standing, step, statement: Some(statement.digest()) };
        negotiation.standings.set(negotiation.side, stated);
        Ok(())
    }

    /// Moves the state by a message of our own.
    fn advance(&self, negotiation: &mut Negotiation, event: Event) -> Result<(), ServiceError> {
        negotiation.state =
            rules::may_send(Some(negotiation.state), negotiation.side, event).map_err(conflict)?;
        Ok(())
    }

    /// Signs one statement of the negotiation and queues it with its document.
    #[expect(clippy::too_many_arguments, reason = "one line per field of the statement")]
    fn send(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        event: Event,
        reference: Digest,
        agreement: Digest,
        detail: Map,
        document: Vec<u8>,
    ) -> Result<Statement, ServiceError> {
        let draft = Draft {
            kind: event.kind(),
            audience: negotiation.peer.to_string(),
            subject: negotiation.id,
            agreement,
            reference,
            detail,
        };
        let statement = self.ledger.issue(tx, draft).map_err(unsignable)?;
        let parcel = Parcel {
            statement: statement.bytes().clone(),
            document: document.into(),
            negotiation: negotiation.id,
        };
        tx.send(Outgoing {
            destination: negotiation.peer.to_string(),
            topic: TOPIC.to_owned(),
            payload: parcel.encode(),
        })?;
        negotiation.updated = self.now(tx);
        Ok(statement)
    }

    fn mint(&self, tx: &Tx<'_>, now: Timestamp) -> Result<ContractId, ServiceError> {
        let node = self.membership.node();
        for _ in 0..MINTING_ATTEMPTS {
            let fresh = random::<16>(self.ledger.entropy().as_ref());
            let id =
                ContractId::mint(node.node_type(), &node.entity(), &node.segment(), &now.compact(), fresh)
                    .map_err(|error| {
                        ServiceError::Internal(format!("no contract id can be minted: {error}"))
                    })?;
            if tables::negotiation_of(tx, &id)?.is_none() {
                return Ok(id);
            }
        }
        Err(ServiceError::Busy { reason: "no free contract id was found; try again".to_owned() })
    }
}

impl Negotiation {
    /// Puts other terms on the table.
    pub(super) fn set_terms(&mut self, terms: Terms) {
        self.product_name.clone_from(&terms.name);
        self.terms = terms;
    }

    /// Ends without a word of our own: the other side already knows.
    pub(crate) fn end(&mut self, reason: Reason, now: Timestamp) {
        self.state = State::Terminated;
        self.reason = Some(reason);
        self.updated = now;
    }
}

/// The detail of agreement and verification: both name the same bytes and the same contract.
fn signing_detail(document: &[u8], contract: &ContractId) -> Map {
    Map::new().digest(1, &Digest::sha256(document)).text(2, contract.as_str())
}

fn unsignable(error: LedgerError) -> ServiceError {
    match error {
        LedgerError::Store(error) => ServiceError::Store(error),
        other => ServiceError::Internal(format!("a statement cannot be signed: {other}")),
    }
}
