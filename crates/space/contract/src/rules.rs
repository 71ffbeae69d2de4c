//! What may follow what, and what each side answers: pure decisions, no store, no clock, no keys.

use huitong_identity::Refusal;
use huitong_ids::NodeId;
use huitong_proof::{Digest, Kind, SpaceId, Timestamp};

use crate::model::{AcceptCounter, Agreement, Approval, Negotiation, Party, Side, Standing, State, Terms};

/// How many negotiations one node may have open with us on one side, before it is told to come back later.
pub const MAXIMUM_OPEN: u64 = 1000;

/// How many offers a negotiation may see. Every round leaves statements in both ledgers for good.
pub const MAXIMUM_ROUNDS: u64 = 100;

/// How many suspensions and resumptions of a contract one party may sign; it can always end it. Each one stays in both ledgers
/// for good.
pub const MAXIMUM_CHANGES: u64 = 1000;

/// The provider signs the agreement and stamps its signing time in one transaction; more than this between the two
/// means that one of them was made up.
const SIGNING_TOLERANCE_MILLISECONDS: u64 = 60_000;

/// What moves a negotiation, or changes the standing of the contract that came out of it: one kind of statement each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// CONTRACT REQUEST (24): the first, or a counter-request.
    Request,
    /// CONTRACT OFFER (25).
    Offer,
    /// CONTRACT ACCEPTANCE (26): the protocol's event `ACCEPTED`.
    Acceptance,
    /// AGREEMENT (27).
    Agreement,
    /// VERIFICATION (28).
    Verification,
    /// FINALISATION (29): the protocol's event `FINALIZED`.
    Finalisation,
    /// TERMINATION (30): of a negotiation {1 code, 2 reason}, or of a finalised contract {1 code, 2 reason, 3 step}.
    Termination,
    /// SUSPENSION (34) of a finalised contract {1 code, 2 reason, 3 step}.
    Suspension,
    /// RESUMPTION (35): its sender's suspension is over {3 step}.
    Resumption,
}

impl Event {
    /// Every event, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Request,
        Self::Offer,
        Self::Acceptance,
        Self::Agreement,
        Self::Verification,
        Self::Finalisation,
        Self::Termination,
        Self::Suspension,
        Self::Resumption,
    ];

    /// The kind of statement that carries it.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Request => Kind::ContractRequest,
            Self::Offer => Kind::ContractOffer,
            Self::Acceptance => Kind::ContractAcceptance,
            Self::Agreement => Kind::Agreement,
            Self::Verification => Kind::Verification,
            Self::Finalisation => Kind::Finalisation,
            Self::Termination => Kind::Termination,
            Self::Suspension => Kind::Suspension,
            Self::Resumption => Kind::Resumption,
        }
    }

    /// The event a kind of statement carries, if it belongs to a negotiation.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.kind() == kind)
    }

    /// In plain words.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.kind().name()
    }
}

/// The state after `sender` has sent `event`; `None` is the state before the first message.
///
/// This is the table of the Dataspace Protocol 2025-1 (Contract Negotiation Protocol), read in its prose: a
/// termination is taken from either side in every state that is not terminal. What this node itself sends follows
/// the narrower diagram, see [`may_send`]. What becomes of a finalised contract is no part of it.
///
/// # Errors
/// Code `contract.state`, naming both the state and the event.
pub fn next(state: Option<State>, sender: Side, event: Event) -> Result<State, Refusal> {
    use Event as E;
    use Side::{Consumer, Provider};
    use State as S;
    match (state, sender, event) {
        (None | Some(S::Offered), Consumer, E::Request) => Ok(S::Requested),
        (None | Some(S::Requested), Provider, E::Offer) => Ok(S::Offered),
        (Some(S::Offered), Consumer, E::Acceptance) => Ok(S::Accepted),
        (Some(S::Requested | S::Accepted), Provider, E::Agreement) => Ok(S::Agreed),
        (Some(S::Agreed), Consumer, E::Verification) => Ok(S::Verified),
        (Some(S::Verified), Provider, E::Finalisation) => Ok(S::Finalized),
        (Some(open), _, E::Termination) if !open.is_terminal() => Ok(S::Terminated),
        (state, sender, event) => Err(out_of_turn(state, sender, event)),
    }
}

/// Whether this node, being `sender`, may send `event`: the protocol's table with the diagram's narrower view of who
/// may terminate when.
///
/// # Errors
/// Code `contract.state`, naming both the state and the event.
pub fn may_send(state: Option<State>, sender: Side, event: Event) -> Result<State, Refusal> {
    let after = next(state, sender, event)?;
    match (state, sender, event) {
        (Some(State::Accepted | State::Verified), Side::Consumer, Event::Termination)
        | (Some(State::Agreed), Side::Provider, Event::Termination) => Err(out_of_turn(state, sender, event)),
        _ => Ok(after),
    }
}

pub(crate) fn out_of_turn(state: Option<State>, sender: Side, event: Event) -> Refusal {
    let standing = match state {
        None => "before a negotiation has begun".to_owned(),
        Some(state) => format!("in state {state}"),
    };
    Refusal::new(
        "contract.state",
        format!("a {} from the {sender} is not possible {standing}", event.name()),
        "look at the negotiation's state; if the two sides differ, terminate it and start again",
    )
}

/// The facts a request is held against.
pub(crate) struct RequestContext<'a> {
    pub(crate) me: &'a NodeId,
    pub(crate) caller: &'a NodeId,
    /// What we offer this caller for the product it names; `None` when there is no such product.
    pub(crate) standing: Option<&'a Terms>,
}

/// Is this request one we can answer at all?
pub(crate) fn check_request(terms: &Terms, context: &RequestContext<'_>) -> Result<(), Refusal> {
    if terms.provider != *context.me {
        return Err(Refusal::new(
            "contract.provider",
            format!("the terms name the provider {}, which is not this node", terms.provider),
            "send the request to the provider it names",
        ));
    }
    if terms.consumer != *context.caller {
        return Err(Refusal::new(
            "contract.consumer",
            format!("the terms name the consumer {}, but {} asks", terms.consumer, context.caller),
            "a node can only ask for itself",
        ));
    }
    check_policy(terms)?;
    if context.standing.is_none() {
        return Err(Refusal::new(
            "contract.product",
            format!("this node does not offer the product {}", terms.product),
            "resolve the product in the catalog again",
        ));
    }
    Ok(())
}

fn check_policy(terms: &Terms) -> Result<(), Refusal> {
    match terms.policy() {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::new(
            "contract.policy",
            format!("this node cannot enforce the policy: {error}"),
            "send a policy that every clause of which this node enforces",
        )),
    }
}

/// What the provider does about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestAnswer {
    Agree,
    Hold,
    /// Offer the standing terms instead.
    Counter,
}

/// Only the standing terms are ever signed. An operator who approves by hand is asked about those and nothing else.
pub(crate) fn answer_request(requested: &Terms, standing: &Terms, approval: Approval) -> RequestAnswer {
    if requested != standing {
        return RequestAnswer::Counter;
    }
    match approval {
        Approval::Automatic => RequestAnswer::Agree,
        Approval::Manual => RequestAnswer::Hold,
    }
}

/// Is this offer about what we asked for?
pub(crate) fn check_offer(
    offered: &Terms,
    reference: Digest,
    negotiation: &Negotiation,
    me: &NodeId,
) -> Result<(), Refusal> {
    check_reference(reference, negotiation.last, "contract.offer", "the offer", "our last request")?;
    let differs = |what: &str| {
        Refusal::new(
            "contract.offer",
            format!("the offer names another {what} than the request"),
            "offer the product that was asked for, to the node that asked",
        )
    };
    if offered.product != negotiation.product {
        return Err(differs("product"));
    }
    if offered.provider != negotiation.peer {
        return Err(differs("provider"));
    }
    if offered.consumer != *me {
        return Err(differs("consumer"));
    }
    if negotiation.rounds >= MAXIMUM_ROUNDS {
        return Err(too_many_rounds());
    }
    check_policy(offered)
}

/// Is this counter-request about what we offered?
pub(crate) fn check_counter_request(
    terms: &Terms,
    reference: Digest,
    negotiation: &Negotiation,
) -> Result<(), Refusal> {
    check_reference(
        reference,
        negotiation.last,
        "contract.request",
        "the counter-request",
        "our last offer",
    )?;
    if terms.product != negotiation.product {
        return Err(Refusal::new(
            "contract.request",
            "the counter-request names another product than the negotiation",
            "begin a new negotiation for another product",
        ));
    }
    if negotiation.rounds >= MAXIMUM_ROUNDS {
        return Err(too_many_rounds());
    }
    Ok(())
}

fn too_many_rounds() -> Refusal {
    Refusal::new(
        "contract.rounds",
        format!("this negotiation has seen {MAXIMUM_ROUNDS} offers"),
        "begin a new negotiation",
    )
}

/// What the consumer does about an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfferAnswer {
    Accept,
    Hold,
}

pub(crate) fn answer_offer(offered: &Terms, requested: &Terms, accept_counter: AcceptCounter) -> OfferAnswer {
    match accept_counter {
        AcceptCounter::Yes => OfferAnswer::Accept,
        AcceptCounter::No if offered == requested => OfferAnswer::Accept,
        AcceptCounter::No => OfferAnswer::Hold,
    }
}

/// Does this acceptance accept the offer on the table?
pub(crate) fn check_acceptance(
    terms: Digest,
    reference: Digest,
    negotiation: &Negotiation,
) -> Result<(), Refusal> {
    check_reference(reference, negotiation.last, "contract.acceptance", "the acceptance", "our last offer")?;
    if terms == negotiation.terms.digest() {
        return Ok(());
    }
    Err(Refusal::new(
        "contract.acceptance",
        "the acceptance repeats other terms than the offer it refers to",
        "repeat the offer's terms exactly",
    ))
}

/// The agreement the consumer must find, and the circumstances in which it was signed.
pub(crate) struct AgreementContext<'a> {
    pub(crate) negotiation: &'a Negotiation,
    pub(crate) provider: &'a Party,
    pub(crate) consumer: &'a Party,
    pub(crate) space: &'a SpaceId,
    /// Contract id as the statement repeats it.
    pub(crate) stated_contract: &'a str,
    pub(crate) reference: Digest,
    /// When the AGREEMENT statement says it was signed.
    pub(crate) stated_time: Timestamp,
}

/// Does the agreement say exactly what was accepted, and nothing else?
pub(crate) fn check_agreement(agreement: &Agreement, context: &AgreementContext<'_>) -> Result<(), Refusal> {
    let differs = |field: &str, reason: String| {
        Err(Refusal::new(
            format!("contract.agreement.{field}"),
            reason,
            "sign exactly the terms that were accepted; begin a new negotiation",
        ))
    };
    check_reference(
        context.reference,
        context.negotiation.last,
        "contract.agreement.reference",
        "the agreement",
        "what we last sent",
    )?;
    let accepted = &context.negotiation.terms;
    let agreed = agreement.terms();
    if let Some(field) = first_difference(accepted, &agreed) {
        return differs(field, format!("the agreement's {field} is not the one that was accepted"));
    }
    if agreement.provider != *context.provider {
        return differs("provider", "the provider is not the one its registrar describes".to_owned());
    }
    if agreement.consumer != *context.consumer {
        return differs("consumer", "the consumer is not this node as its registrar describes it".to_owned());
    }
    if agreement.name != accepted.name {
        return differs("name", "the contract does not bear the product's name".to_owned());
    }
    if agreement.negotiation != context.negotiation.id {
        return differs("negotiation", "the agreement belongs to another negotiation".to_owned());
    }
    if agreement.space != *context.space {
        return differs("space", "the agreement belongs to another data space".to_owned());
    }
    let minted_here = agreement.contract.entity() == context.provider.node.entity()
        && agreement.contract.minting() == context.provider.node.node_type();
    if !minted_here {
        return differs("contract", "the contract id was not minted by the provider".to_owned());
    }
    if agreement.contract.as_str() != context.stated_contract {
        return differs("contract", "the statement names another contract than the document".to_owned());
    }
    let signed = agreement.signed.millis();
    let stated = context.stated_time.millis();
    if signed > stated || stated - signed > SIGNING_TOLERANCE_MILLISECONDS {
        return differs("time", "the signing time is not that of the signature".to_owned());
    }
    Ok(())
}

pub(crate) fn contract_id_taken() -> Refusal {
    Refusal::new(
        "contract.agreement.contract",
        "the contract id already belongs to another contract",
        "mint a fresh id; begin a new negotiation",
    )
}

/// The first field in which two terms differ, by its name in a code.
fn first_difference(a: &Terms, b: &Terms) -> Option<&'static str> {
    let comparisons = [
        ("product", a.product == b.product),
        ("product_name", a.name == b.name),
        ("provider", a.provider == b.provider),
        ("consumer", a.consumer == b.consumer),
        ("policy", a.policy == b.policy),
        ("root", a.root == b.root),
        ("size", a.size == b.size),
        ("window", a.window_bytes == b.window_bytes),
        ("mode", a.mode == b.mode),
        ("price", a.price == b.price),
        ("coverage", a.coverage == b.coverage),
        ("version", a.version == b.version),
    ];
    comparisons.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

/// Does this verification sign the agreement we signed?
pub(crate) fn check_verification(
    document: Digest,
    contract: &str,
    reference: Digest,
    negotiation: &Negotiation,
) -> Result<(), Refusal> {
    let ours = negotiation.agreement.as_deref().map(Digest::sha256);
    let same_contract = negotiation.contract.as_ref().is_some_and(|id| id.as_str() == contract);
    if negotiation.statements.agreement == Some(reference) && ours == Some(document) && same_contract {
        return Ok(());
    }
    Err(Refusal::new(
        "contract.verification",
        "the verification does not sign the agreement this node signed",
        "begin a new negotiation",
    ))
}

/// Does this finalisation put the contract in force that we verified?
pub(crate) fn check_finalisation(
    hash: Digest,
    reference: Digest,
    negotiation: &Negotiation,
) -> Result<(), Refusal> {
    if negotiation.statements.verification == Some(reference) && negotiation.agreement_hash == Some(hash) {
        return Ok(());
    }
    Err(Refusal::new(
        "contract.finalisation",
        "the finalisation is not about the agreement both sides signed",
        "begin a new negotiation",
    ))
}

/// Whether this node has anything to say for `event` to come true of a contract; not if it is so already.
pub(crate) fn may_change(negotiation: &Negotiation, event: Event) -> Result<bool, Refusal> {
    if negotiation.state != State::Finalized {
        return Err(out_of_turn(Some(negotiation.state), negotiation.side, event));
    }
    let own = negotiation.standings.of(negotiation.side);
    match (negotiation.standings.together(), &own.standing, event) {
        (Standing::Ended(_), _, Event::Termination) => return Ok(false),
        (standing @ Standing::Ended(_), ..) => return Err(ended(standing)),
        (standing @ Standing::Suspended(_), Standing::InForce, Event::Resumption) => {
            let reason = format!("only the other side can resume it: {standing}");
            return Err(Refusal::new("contract.suspended", reason, "ask the other side"));
        }
        (_, Standing::InForce, Event::Resumption) | (_, Standing::Suspended(_), Event::Suspension) => {
            return Ok(false);
        }
        _ => {}
    }
    within_bounds(own.step.saturating_add(1), event)?;
    Ok(true)
}

/// One party's statement about a contract, as it was found.
pub(crate) struct Change {
    pub(crate) sender: Side,
    pub(crate) event: Event,
    pub(crate) step: u64,
    pub(crate) reference: Digest,
    pub(crate) agreement: Digest,
}

/// Is this the newest word of its sender about this contract? A step in between may have been lost on its way; an old one
/// never comes after a newer one.
pub(crate) fn check_change(change: &Change, negotiation: &Negotiation) -> Result<(), Refusal> {
    if negotiation.agreement_hash != Some(change.agreement) {
        return Err(Refusal::new(
            "contract.agreement",
            format!("the {} is about another agreement", change.event.name()),
            "name the agreement that both sides signed in this negotiation",
        ));
    }
    let before = negotiation.standings.of(change.sender);
    if let Standing::Ended(_) = &before.standing {
        return Err(ended(&before.standing));
    }
    within_bounds(change.step, change.event)?;
    if change.step <= before.step {
        return Err(Refusal::new(
            "contract.step",
            format!("step {} of the {} comes after its step {}", change.step, change.sender, before.step),
            "number each statement about a contract higher than the one before",
        ));
    }
    let answered = before.statement.or(negotiation.statements.finalisation).unwrap_or(Digest::ZERO);
    if change.step == before.step.saturating_add(1) {
        let what = "its sender's last word about the contract, or to the finalisation";
        check_reference(change.reference, answered, "contract.reference", change.event.name(), what)?;
    }
    Ok(())
}

fn within_bounds(step: u64, event: Event) -> Result<(), Refusal> {
    let most = match event {
        // One more than there is room for: a contract can always be ended.
        Event::Termination => MAXIMUM_CHANGES.saturating_add(1),
        _ => MAXIMUM_CHANGES,
    };
    if (1..=most).contains(&step) {
        return Ok(());
    }
    Err(Refusal::new(
        "contract.changes",
        format!("a party suspends and resumes a contract {} times at most", MAXIMUM_CHANGES / 2),
        "leave it as it is, or end it with `huitong contract terminate`",
    ))
}

fn ended(standing: &Standing) -> Refusal {
    Refusal::new("contract.ended", standing.to_string(), "negotiate a new contract")
}

/// Does the message answer the one it must answer?
pub(crate) fn check_reference(
    reference: Digest,
    expected: Digest,
    code: &str,
    message: &str,
    answered: &str,
) -> Result<(), Refusal> {
    if reference == expected {
        return Ok(());
    }
    Err(Refusal::new(
        code,
        format!("{message} does not refer to {answered}"),
        "answer the last message of the negotiation",
    ))
}

#[cfg(test)]
mod tests;
