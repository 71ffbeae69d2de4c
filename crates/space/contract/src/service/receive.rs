//! What a peer says in a negotiation, and what this node does about it in the same transaction.

use bytes::Bytes;
use huitong_identity::{Caller, Refusal, Role, ServiceError, read_refusal, refuse, remember, statement_from};
use huitong_ledger::{Admission, LedgerError};
use huitong_proof::{Digest, Kind, Statement};
use huitong_store::Tx;

use crate::model::{AcceptCounter, Approval, Negotiation, Reason, Side, State, Stated, Terms, short_text};
use crate::rules::{self, AgreementContext, Change, Event, OfferAnswer, RequestAnswer, RequestContext};
use crate::tables;

use super::message::{Content, Message};
use super::{Contracts, party, too_many_open};

/// The longest reason in a signed refusal, in characters.
const REFUSAL_CHARACTERS: usize = 1024;

/// What a message was that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It has begun a negotiation, which may go on without end.
    Begun,
    /// It belongs to one that was known.
    Known,
}

/// What became of a message. Each of these is committed.
enum Outcome {
    Taken(Received),
    Refused(Refusal, Statement),
    /// The peer contradicts itself: the evidence is committed, the message is not taken.
    Contradiction(ServiceError),
}

/// Why a message is not taken, and whether the negotiation survives that.
struct Objection {
    refusal: Refusal,
    /// A message in its turn that says the wrong thing ends the negotiation on both sides; one that is out of turn,
    /// or from a stranger, must not.
    ends: bool,
}

impl Contracts {
    /// Takes any of the statements of a negotiation and of its contract from an authenticated peer, with its document
    /// (empty for kinds that carry none), and does the automatic next step in the same transaction.
    ///
    /// A statement that is already on record gives the same answer again and changes nothing.
    ///
    /// # Errors
    /// `Refused` with this node's signed refusal, which is durable by then; `Invalid` when statement or document are
    /// not what they claim to be (nothing is recorded); `Busy` when the peer has too many negotiations open.
    pub async fn receive(
        &self,
        caller: &Caller,
        statement: Bytes,
        document: Bytes,
    ) -> Result<Received, ServiceError> {
        let statement = statement_from(caller, statement, &self.ledger)?;
        let message = Message::read(&statement, document)?;
        let caller = caller.clone();
        let outcome = self
            .transact("contract.receive", move |contracts, tx| {
                contracts.take(tx, &caller, &statement, message)
            })
            .await?;
        match outcome {
            Outcome::Taken(received) => Ok(received),
            Outcome::Refused(refusal, statement) => {
                Err(ServiceError::Refused { refusal, statement: Some(statement) })
            }
            Outcome::Contradiction(error) => Err(error),
        }
    }

    fn take(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        statement: &Statement,
        message: Message,
    ) -> Result<Outcome, ServiceError> {
        remember(tx, &self.ledger, caller)?;
        match self.ledger.admit(tx, statement) {
            Ok(Admission::New) => {}
            Ok(Admission::Known) => return self.answer_again(tx, statement),
            Err(LedgerError::Store(error)) => return Err(error.into()),
            Err(fork @ LedgerError::Fork { .. }) => {
                return Ok(Outcome::Contradiction(ServiceError::Conflict { reason: fork.to_string() }));
            }
            Err(other) => return Err(other.into()),
        }
        let event = message.event;
        let standing = match message.requested() {
            Some(terms) => self.offered_to(tx, caller.node(), &terms.product)?,
            None => None,
        };
        let before = tables::negotiation(tx, &statement.body().subject)?;
        let objection = match self.apply(tx, caller, statement, message, before.as_ref(), standing)? {
            Ok(after) => {
                tables::save(tx, before.as_ref(), &after)?;
                let received = if before.is_none() { Received::Begun } else { Received::Known };
                return Ok(Outcome::Taken(received));
            }
            Err(objection) => objection,
        };
        let Objection { mut refusal, ends } = objection;
        // A peer's own words can come back in a reason, and a statement holds 16 KiB.
        refusal.reason = short_text(&refusal.reason, REFUSAL_CHARACTERS);
        if let Some(before) = before.filter(|_| ends) {
            let mut after = before.clone();
            after.end(Reason::new(&refusal.code, &refusal.reason), self.now(tx));
            tables::save(tx, Some(&before), &after)?;
        }
        let body = statement.body();
        let refused = refuse(
            tx,
            &self.ledger,
            &body.issuer,
            body.subject,
            body.agreement,
            statement.digest(),
            &refusal,
            event.name(),
        )?;
        Ok(Outcome::Refused(refusal, refused))
    }

    /// The answer this statement got when it first came.
    fn answer_again(&self, tx: &Tx<'_>, statement: &Statement) -> Result<Outcome, ServiceError> {
        let answers = self.ledger.answers(tx, &statement.digest())?;
        let refused = answers
            .into_iter()
            .find(|answer| answer.kind() == Kind::Refusal && answer.body().issuer == self.ledger.node());
        match refused {
            Some(answer) => Ok(Outcome::Refused(read_refusal(&answer)?, answer)),
            None => Ok(Outcome::Taken(Received::Known)),
        }
    }

    /// The negotiation after the message and our automatic answer to it.
    fn apply(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        statement: &Statement,
        message: Message,
        before: Option<&Negotiation>,
        standing: Option<Terms>,
    ) -> Result<Result<Negotiation, Objection>, ServiceError> {
        let Some(before) = before else {
            return self.apply_first(tx, caller, statement, message, standing);
        };
        let sender = before.side.other();
        if before.peer != *caller.node() {
            return Ok(Err(Objection::from(Refusal::new(
                "contract.party",
                "this negotiation is between other nodes",
                "choose an unused negotiation id",
            ))));
        }
        // Terminations may cross; whoever comes second hears what it wanted to hear. One is enough.
        if message.event == Event::Termination
            && before.state == State::Terminated
            && !before.is_ended_by_peer
        {
            return Ok(Ok(Negotiation { is_ended_by_peer: true, ..before.clone() }));
        }
        if before.state == State::Finalized {
            let after = self.after_change(tx, statement, message, before, sender);
            return Ok(after.map_err(Objection::from));
        }
        let state = match rules::next(Some(before.state), sender, message.event) {
            Ok(state) => state,
            Err(refusal) => return Ok(Err(Objection::from(refusal))),
        };
        let mut after = before.clone();
        after.state = state;
        after.updated = self.now(tx);
        let done = match message.content {
            Err(refusal) => match message.event {
                Event::Offer | Event::Agreement => {
                    self.end_over(tx, &mut after, statement, refusal)?;
                    Ok(())
                }
                _ => Err(refusal),
            },
            Ok(Content::Request(terms)) => {
                self.on_counter_request(tx, caller, statement, &mut after, terms, standing)?
            }
            Ok(Content::Offer(terms)) => self.on_offer(tx, statement, before, &mut after, terms)?,
            Ok(Content::Acceptance { terms }) => {
                self.on_acceptance(tx, caller, statement, &mut after, terms)?
            }
            Ok(Content::Agreement { document, agreement, stated_contract }) => {
                let context = AgreementContext {
                    negotiation: before,
                    provider: &party(caller.credential()),
                    consumer: &self.own_party(),
                    space: self.ledger.space(),
                    stated_contract: &stated_contract,
                    reference: statement.body().reference,
                    stated_time: statement.body().time,
                };
                let mut verdict = rules::check_agreement(&agreement, &context);
                if verdict.is_ok() && tables::negotiation_of(tx, &agreement.contract)?.is_some() {
                    verdict = Err(rules::contract_id_taken());
                }
                match verdict {
                    Ok(()) => {
                        let contract = agreement.contract.clone();
                        self.send_verification(tx, &mut after, statement, document.to_vec(), contract)?;
                    }
                    Err(refusal) => self.end_over(tx, &mut after, statement, refusal)?,
                }
                Ok(())
            }
            Ok(Content::Verification { document, contract }) => {
                match rules::check_verification(document, &contract, statement.body().reference, before) {
                    Ok(()) => {
                        self.send_finalisation(tx, &mut after, statement)?;
                        Ok(())
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            Ok(Content::Finalisation) => {
                let body = statement.body();
                rules::check_finalisation(body.agreement, body.reference, before)
                    .map(|()| after.statements.finalisation = Some(statement.digest()))
            }
            Ok(Content::Termination { reason, step: _ }) => {
                after.reason = Some(reason);
                after.is_ended_by_peer = true;
                Ok(())
            }
            // The table has refused them.
            Ok(Content::Suspension { .. } | Content::Resumption { .. }) => Ok(()),
        };
        Ok(done.map(|()| after).map_err(|refusal| Objection { refusal, ends: true }))
    }

    /// A message about a negotiation this node does not know.
    fn apply_first(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        statement: &Statement,
        message: Message,
        standing: Option<Terms>,
    ) -> Result<Result<Negotiation, Objection>, ServiceError> {
        if message.event != Event::Request {
            // This includes an offer nobody asked for: this node negotiates only what its operator began.
            return Ok(Err(Objection::from(Refusal::new(
                "contract.unknown",
                format!("a {} came for a negotiation this node does not know", message.event.name()),
                "begin with a contract request",
            ))));
        }
        let terms = match message.content {
            Ok(Content::Request(terms)) => terms,
            Ok(_) => return Err(ServiceError::Internal("a request was read as another message".to_owned())),
            Err(refusal) => return Ok(Err(Objection::from(refusal))),
        };
        if !caller.has(Role::Consumer) {
            return Ok(Err(Objection::from(Refusal::new(
                "contract.role",
                format!("{} is not registered as a consumer", caller.node()),
                "ask the registrar for the role of a consumer",
            ))));
        }
        let context =
            RequestContext { me: self.membership.node(), caller: caller.node(), standing: standing.as_ref() };
        if let Err(refusal) = rules::check_request(&terms, &context) {
            return Ok(Err(Objection::from(refusal)));
        }
        // Not a refusal: the same request may pass later, so it leaves no trace now.
        if tables::open(tx, Side::Provider, caller.node())? >= rules::MAXIMUM_OPEN {
            return Err(too_many_open(caller.node()));
        }
        let id = statement.body().subject;
        let mut negotiation = self.begin(tx, id, Side::Provider, caller.node(), &terms, AcceptCounter::No);
        negotiation.last = statement.digest();
        self.answer_request(tx, caller, &mut negotiation, standing)?;
        Ok(Ok(negotiation))
    }

    fn on_counter_request(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        statement: &Statement,
        after: &mut Negotiation,
        terms: Terms,
        standing: Option<Terms>,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let context =
            RequestContext { me: self.membership.node(), caller: caller.node(), standing: standing.as_ref() };
        let checked = rules::check_request(&terms, &context)
            .and_then(|()| rules::check_counter_request(&terms, statement.body().reference, after));
        if let Err(refusal) = checked {
            return Ok(Err(refusal));
        }
        after.set_terms(terms);
        after.last = statement.digest();
        self.answer_request(tx, caller, after, standing)?;
        Ok(Ok(()))
    }

    /// The provider's automatic answer to a request that passed its checks.
    fn answer_request(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        negotiation: &mut Negotiation,
        standing: Option<Terms>,
    ) -> Result<(), ServiceError> {
        let Some(standing) = standing else {
            return Err(ServiceError::Internal("a request passed without standing terms".to_owned()));
        };
        match rules::answer_request(&negotiation.terms, &standing, self.approval) {
            RequestAnswer::Agree => self.send_agreement(tx, negotiation, party(caller.credential())),
            RequestAnswer::Counter => self.send_offer(tx, negotiation, standing),
            RequestAnswer::Hold => Ok(()),
        }
    }

    fn on_offer(
        &self,
        tx: &mut Tx<'_>,
        statement: &Statement,
        before: &Negotiation,
        after: &mut Negotiation,
        terms: Terms,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let me = self.membership.node();
        if let Err(refusal) = rules::check_offer(&terms, statement.body().reference, before, me) {
            self.end_over(tx, after, statement, refusal)?;
            return Ok(Ok(()));
        }
        let answer = rules::answer_offer(&terms, &before.terms, before.accept_counter);
        after.set_terms(terms);
        after.last = statement.digest();
        after.rounds = after.rounds.saturating_add(1);
        match answer {
            OfferAnswer::Accept => self.send_acceptance(tx, after)?,
            OfferAnswer::Hold => {}
        }
        Ok(Ok(()))
    }

    fn on_acceptance(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        statement: &Statement,
        after: &mut Negotiation,
        terms: Digest,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        if let Err(refusal) = rules::check_acceptance(terms, statement.body().reference, after) {
            return Ok(Err(refusal));
        }
        after.last = statement.digest();
        match self.approval {
            Approval::Automatic => self.send_agreement(tx, after, party(caller.credential()))?,
            Approval::Manual => {}
        }
        Ok(Ok(()))
    }

    /// The negotiation is over; what comes now is about the contract.
    fn after_change(
        &self,
        tx: &Tx<'_>,
        statement: &Statement,
        message: Message,
        before: &Negotiation,
        sender: Side,
    ) -> Result<Negotiation, Refusal> {
        let body = statement.body();
        let Some((step, standing)) = message.content?.standing(sender, body.time) else {
            return Err(rules::out_of_turn(Some(before.state), sender, message.event));
        };
        let change = Change {
            sender,
            event: message.event,
            step,
            reference: body.reference,
            agreement: body.agreement,
        };
        rules::check_change(&change, before)?;
        let mut after = before.clone();
        after.standings.set(sender, Stated { standing, step, statement: Some(statement.digest()) });
        after.updated = self.now(tx);
        Ok(after)
    }

    /// Takes up what a recovered statement, of either side, says about a contract. An older word than the one that is known
    /// changes nothing, and neither does a statement about anything else.
    ///
    /// To be called for each statement that came back after the contracts were restored from a backup: without it, a
    /// contract that was suspended or ended since would be in force again.
    ///
    /// # Errors
    /// Storage errors.
    pub fn restate(&self, tx: &mut Tx<'_>, statement: &Statement) -> Result<(), ServiceError> {
        let body = statement.body();
        let before = tables::negotiation(tx, &body.subject)?;
        let Some(before) = before.filter(|before| before.state == State::Finalized) else { return Ok(()) };
        let issuer = [before.side, before.side.other()]
            .into_iter()
            .zip([self.ledger.node(), before.peer.as_str()])
            .find(|(_, node)| *node == body.issuer);
        let (Some((by, _)), Ok(message)) = (issuer, Message::read(statement, Bytes::new())) else {
            return Ok(());
        };
        match self.after_change(tx, statement, message, &before, by) {
            Ok(after) => tables::save(tx, Some(&before), &after),
            Err(_) => Ok(()),
        }
    }

    /// The consumer's answer to an offer or agreement it cannot accept: a signed termination that says why.
    fn end_over(
        &self,
        tx: &mut Tx<'_>,
        negotiation: &mut Negotiation,
        statement: &Statement,
        refusal: Refusal,
    ) -> Result<(), ServiceError> {
        let reason = Reason::new(&refusal.code, &refusal.reason);
        self.send_termination(tx, negotiation, statement.digest(), reason)
    }
}

impl From<Refusal> for Objection {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, ends: false }
    }
}
