//! What becomes of a contract after it was finalised.

use huitong_identity::{Delivery, ServiceError};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, Statement};
use huitong_store::Tx;

use super::refusals::code_of;
use super::{Fate, Space, Who};
use crate::rules::may_change;
use crate::{AcceptCounter, Approval, Event, MAXIMUM_CHANGES, Negotiation, Side, Standing, State, Stated};

const ID: [u8; 16] = [7; 16];
const BOTH: [Who; 2] = [Who::Provider, Who::Consumer];

async fn agreed() -> Space {
    let space = Space::new(Approval::Automatic).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    assert_eq!(space.states(ID), [State::Finalized; 2]);
    space
}

fn other(who: Who) -> Who {
    if who == Who::Provider { Who::Consumer } else { Who::Provider }
}

fn side(who: Who) -> Side {
    if who == Who::Provider { Side::Provider } else { Side::Consumer }
}

impl Space {
    /// What the contract is to each side, which is the same.
    fn standing(&self) -> Standing {
        let [provider, consumer] = BOTH.map(|who| self.standing_at(who));
        assert_eq!(provider, consumer);
        provider
    }

    fn standing_at(&self, who: Who) -> Standing {
        let id = self.seen_by(who, ID).contract.unwrap();
        let view = self.node(who).ledger.store().view();
        let contract = self.contracts(who).contract(&view, &id).unwrap().unwrap();
        assert_eq!(contract.in_force(), contract.standing == Standing::InForce);
        assert_eq!(self.seen_by(who, ID).standings.together(), &contract.standing);
        contract.standing
    }

    /// A statement about the contract that a node signs, whether it should or not.
    async fn change(&self, who: Who, kind: Kind, step: u64, reference: Digest) -> Statement {
        let agreement = self.seen_by(who, ID).agreement_hash.unwrap();
        self.change_of(who, ID, agreement, kind, step, reference).await
    }

    async fn change_of(
        &self,
        who: Who,
        subject: [u8; 16],
        agreement: Digest,
        kind: Kind,
        step: u64,
        reference: Digest,
    ) -> Statement {
        let reason = Map::new().text(1, "contract.operator").text(2, "says a test");
        let detail = if kind == Kind::Resumption { Map::new() } else { reason }.uint(3, step);
        let audience = self.node(other(who)).membership.node().to_string();
        self.sign(who, Draft { kind, audience, subject, agreement, reference, detail }).await
    }

    async fn hear(&self, from: Who, statement: &Statement) -> Result<(), ServiceError> {
        let caller = &self.node(from).caller;
        self.contracts(other(from))
            .receive(caller, statement.bytes().clone(), Vec::new().into())
            .await
            .map(drop)
    }
}

fn held(standing: &Standing) -> (&'static str, Side, &str) {
    let hold = standing.hold().unwrap();
    (standing.name(), hold.by, &hold.reason.text)
}

#[tokio::test]
async fn either_side_suspends_and_resumes() {
    for who in BOTH {
        let space = agreed().await;
        let contracts = space.contracts(who);
        let suspended = contracts.suspend(ID, "audit").await.unwrap();
        assert_eq!((suspended.state, suspended.national()), (State::Finalized, "05"));
        assert_eq!(contracts.suspend(ID, "again").await.unwrap(), suspended, "twice is once");
        space.settle().await;
        assert_eq!(held(&space.standing()), ("suspended", side(who), "audit"));
        let mine = space.contracts(other(who)).resume(ID).await.unwrap_err();
        assert!(mine.to_string().contains("only the other side can resume it"), "{mine}");

        let resumed = contracts.resume(ID).await.unwrap();
        assert_eq!(contracts.resume(ID).await.unwrap(), resumed, "twice is once");
        space.settle().await;
        assert_eq!(space.standing(), Standing::InForce);

        // Both ledgers hold both statements, chained to the finalisation.
        let finalisation = space.seen_by(who, ID).statements.finalisation.unwrap();
        for node in BOTH {
            let ledger = &space.node(node).ledger;
            let said = ledger.about(&ledger.store().view(), &ID, 100).unwrap().split_off(4);
            let kinds: Vec<Kind> = said.iter().map(Statement::kind).collect();
            assert_eq!(kinds, [Kind::Suspension, Kind::Resumption]);
            assert_eq!(said[0].body().reference, finalisation);
            assert_eq!(said[1].body().reference, said[0].digest());
            for statement in said {
                assert_eq!(statement.body().issuer, space.node(who).ledger.node());
                assert_eq!(Some(statement.body().agreement), suspended.agreement_hash);
            }
        }
    }
}

#[tokio::test]
async fn it_is_in_force_only_when_neither_has_suspended_it() {
    let space = agreed().await;
    for who in BOTH {
        space.contracts(who).suspend(ID, if who == Who::Provider { "ours" } else { "theirs" }).await.unwrap();
        space.network.clock.advance(std::time::Duration::from_millis(1));
    }
    space.settle().await;
    assert_eq!(held(&space.standing()), ("suspended", Side::Provider, "ours"));
    space.contracts(Who::Provider).resume(ID).await.unwrap();
    space.settle().await;
    assert_eq!(held(&space.standing()), ("suspended", Side::Consumer, "theirs"));
    space.contracts(Who::Consumer).resume(ID).await.unwrap();
    space.settle().await;
    assert_eq!(space.standing(), Standing::InForce);
}

#[tokio::test]
async fn an_end_is_final() {
    for who in BOTH {
        let space = agreed().await;
        space.contracts(other(who)).suspend(ID, "audit").await.unwrap();
        space.settle().await;
        let ended = space.contracts(who).terminate(ID, "moved away").await.unwrap();
        assert_eq!((ended.state, ended.national()), (State::Finalized, "06"));
        space.settle().await;
        assert_eq!(held(&space.standing()), ("ended", side(who), "moved away"));
        for who in BOTH {
            let contracts = space.contracts(who);
            assert_eq!(contracts.negotiation(&ID).unwrap().unwrap().national(), "06");
            let before = space.standing();
            contracts.terminate(ID, "once more").await.unwrap();
            for late in [contracts.resume(ID).await, contracts.suspend(ID, "").await] {
                let late = late.unwrap_err();
                assert!(late.to_string().contains("has ended the contract: moved away"), "{late}");
            }
            assert_eq!(space.standing(), before);
            assert!(space.pending(who).is_empty(), "nothing more is said");
        }
        // Who has ended it has no more to say about it, whatever it signs.
        let last = space.seen_by(who, ID).standings.of(side(who)).clone();
        let late = space.change(who, Kind::Resumption, last.step + 1, last.statement.unwrap()).await;
        assert_eq!(code_of(&space.hear(who, &late).await), "contract.ended");
        assert_eq!(held(&space.standing()), ("ended", side(who), "moved away"));
    }
}

#[tokio::test]
async fn both_may_end_it_at_the_same_time() {
    let space = agreed().await;
    space.contracts(Who::Consumer).terminate(ID, "theirs").await.unwrap();
    space.network.clock.advance(std::time::Duration::from_millis(1));
    space.contracts(Who::Provider).terminate(ID, "ours").await.unwrap();
    space.settle().await;
    assert_eq!(
        held(&space.standing()),
        ("ended", Side::Consumer, "theirs"),
        "the earlier one, on both sides"
    );
    for who in BOTH {
        let ledger = &space.node(who).ledger;
        let said = ledger.about(&ledger.store().view(), &ID, 100).unwrap();
        assert_eq!(said.iter().filter(|one| one.kind() == Kind::Termination).count(), 2);
        assert!(said.iter().all(|one| one.kind() != Kind::Refusal));
    }
}

#[tokio::test]
async fn an_old_step_never_comes_after_a_newer_one() {
    let space = agreed().await;
    let consumer = space.contracts(Who::Consumer);
    consumer.suspend(ID, "one").await.unwrap();
    let first = space.pending(Who::Consumer).remove(0);
    consumer.resume(ID).await.unwrap();
    let second = space.pending(Who::Consumer).into_iter().find(|row| row.id != first.id).unwrap();
    // The wire turns them round: the first comes too late, and is refused on record.
    space.deliver(Who::Consumer, &second, Fate::Arrives).await.unwrap();
    assert_eq!(space.standing(), Standing::InForce);
    let late = space.deliver(Who::Consumer, &first, Fate::IsRepeated).await;
    assert!(matches!(&late, Err(Delivery::Dead(reason)) if reason.starts_with("contract.step")), "{late:?}");
    assert_eq!(space.standing(), Standing::InForce);
    // What follows is understood.
    consumer.suspend(ID, "three").await.unwrap();
    space.settle().await;
    assert_eq!(held(&space.standing()), ("suspended", Side::Consumer, "three"));
}

#[tokio::test]
async fn a_repeated_statement_changes_nothing() {
    let space = agreed().await;
    let consumer = space.contracts(Who::Consumer);
    for (event, reason) in [(Kind::Suspension, "one"), (Kind::Resumption, "")] {
        match event {
            Kind::Suspension => consumer.suspend(ID, reason).await.unwrap(),
            _ => consumer.resume(ID).await.unwrap(),
        };
        let message = space.pending(Who::Consumer).remove(0);
        let lost = space.deliver(Who::Consumer, &message, Fate::AnswerIsLost).await;
        assert!(matches!(lost, Err(Delivery::Retry(_))), "{lost:?}");
        let seen = space.seen_by(Who::Provider, ID);
        space.deliver(Who::Consumer, &message, Fate::IsRepeated).await.unwrap();
        assert_eq!(space.seen_by(Who::Provider, ID), seen);
    }
    // A replay of the suspension after the resumption is the same statement again.
    let ledger = &space.node(Who::Provider).ledger;
    let said = ledger.about(&ledger.store().view(), &ID, 100).unwrap();
    let suspension = said.iter().find(|one| one.kind() == Kind::Suspension).unwrap();
    assert!(space.hear(Who::Consumer, suspension).await.is_ok());
    assert_eq!(space.standing(), Standing::InForce);
}

#[tokio::test]
async fn what_does_not_belong_to_the_contract_is_refused() {
    let space = agreed().await;
    let seen = space.seen_by(Who::Provider, ID);
    let (hash, finalisation) = (seen.agreement_hash.unwrap(), seen.statements.finalisation.unwrap());
    let wrong = Digest::sha256(b"another");
    for kind in [Kind::Suspension, Kind::Resumption, Kind::Termination] {
        for (subject, agreement, step, reference, code) in [
            (ID, wrong, 1, finalisation, "contract.agreement"),
            (ID, Digest::ZERO, 1, finalisation, "contract.agreement"),
            (ID, hash, 1, wrong, "contract.reference"),
            (ID, hash, 0, finalisation, "contract.changes"),
            (ID, hash, MAXIMUM_CHANGES + 2, finalisation, "contract.changes"),
            ([9; 16], hash, 1, finalisation, "contract.unknown"),
        ] {
            let statement = space.change_of(Who::Consumer, subject, agreement, kind, step, reference).await;
            let answer = space.hear(Who::Consumer, &statement).await;
            assert_eq!(code_of(&answer), code, "{kind:?}");
        }
    }
    // A termination without a step is one of a negotiation, and that is over.
    let detail = Map::new().text(1, "contract.operator").text(2, "no more");
    let (_, answer) =
        space.say(Who::Consumer, ID, Kind::Termination, finalisation, detail.clone(), Vec::new()).await;
    assert_eq!(code_of(&answer), "contract.state");
    let (_, answer) = space.say(Who::Consumer, ID, Kind::Suspension, finalisation, detail, Vec::new()).await;
    assert_eq!(code_of(&answer), "contract.document", "a suspension needs its step");
    assert_eq!(space.seen_by(Who::Provider, ID), seen);
    assert_eq!(space.standing(), Standing::InForce);
}

#[tokio::test]
async fn a_stranger_and_a_forger_change_nothing() {
    let space = agreed().await;
    let seen = space.seen_by(Who::Provider, ID);
    let reference = seen.statements.finalisation.unwrap();
    let honest = space.change(Who::Consumer, Kind::Suspension, 1, reference).await;
    let provider = space.contracts(Who::Provider);
    // Signed by somebody who is no party.
    let stranger = &space.network.registrar;
    let draft = Draft {
        kind: Kind::Suspension,
        audience: space.node(Who::Provider).membership.node().to_string(),
        subject: ID,
        agreement: seen.agreement_hash.unwrap(),
        reference,
        detail: Map::new().text(1, "x").text(2, "y").uint(3, 1),
    };
    let ledger = stranger.ledger.clone();
    let theirs = stranger.ledger.store().transact("sign", move |tx| ledger.issue(tx, draft)).await.unwrap();
    let answer = provider.receive(&stranger.caller, theirs.bytes().clone(), Vec::new().into()).await;
    assert_eq!(code_of(&answer), "contract.party");
    // A party's statement in another's mouth, and one with other bytes than were signed.
    let answer = provider.receive(&stranger.caller, honest.bytes().clone(), Vec::new().into()).await;
    assert!(matches!(answer, Err(ServiceError::Invalid { .. })), "{answer:?}");
    let mut forged = honest.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let caller = &space.node(Who::Consumer).caller;
    let answer = provider.receive(caller, forged.into(), Vec::new().into()).await;
    assert!(matches!(answer, Err(ServiceError::Invalid { .. })), "{answer:?}");
    assert_eq!(space.seen_by(Who::Provider, ID), seen);
    // The same one, as it was signed, counts.
    space.hear(Who::Consumer, &honest).await.unwrap();
    assert_eq!(held(&space.standing_at(Who::Provider)), ("suspended", Side::Consumer, "says a test"));
}

#[tokio::test]
async fn only_a_contract_is_suspended() {
    let space = Space::new(Approval::Manual).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    for who in BOTH {
        let contracts = space.contracts(who);
        for refused in [contracts.suspend(ID, "").await, contracts.resume(ID).await] {
            let refused = refused.unwrap_err();
            assert!(refused.to_string().contains("not possible in state REQUESTED"), "{refused}");
        }
    }
    let detail = Map::new().text(1, "x").text(2, "y").uint(3, 1);
    let (_, answer) = space.say(Who::Consumer, ID, Kind::Suspension, Digest::ZERO, detail, Vec::new()).await;
    assert_eq!(code_of(&answer), "contract.state");
    assert_eq!(space.states(ID), [State::Requested; 2]);
}

#[tokio::test]
async fn a_party_changes_its_mind_only_so_often() {
    let space = agreed().await;
    let seen = space.seen_by(Who::Consumer, ID);
    let mut own = seen.clone();
    own.standings.set(Side::Consumer, Stated { step: MAXIMUM_CHANGES - 1, ..Stated::default() });
    assert_eq!(may_change(&own, Event::Suspension), Ok(true));
    own.standings.set(Side::Consumer, Stated { step: MAXIMUM_CHANGES, ..Stated::default() });
    assert_eq!(may_change(&own, Event::Suspension).unwrap_err().code, "contract.changes");
    assert_eq!(may_change(&own, Event::Termination), Ok(true), "it can always be ended");

    // The other side holds it to that. Steps in between may have been lost.
    let finalisation = seen.statements.finalisation.unwrap();
    let last = space.change(Who::Consumer, Kind::Suspension, MAXIMUM_CHANGES, finalisation).await;
    space.hear(Who::Consumer, &last).await.unwrap();
    let beyond = space.change(Who::Consumer, Kind::Resumption, MAXIMUM_CHANGES + 1, last.digest()).await;
    assert_eq!(code_of(&space.hear(Who::Consumer, &beyond).await), "contract.changes");
    assert_eq!(space.standing_at(Who::Provider).name(), "suspended");
    let end = space.change(Who::Consumer, Kind::Termination, MAXIMUM_CHANGES + 1, last.digest()).await;
    space.hear(Who::Consumer, &end).await.unwrap();
    assert_eq!(space.standing_at(Who::Provider).name(), "ended");
}

#[tokio::test]
async fn who_was_away_hears_later_and_restarts_lose_nothing() {
    let mut space = agreed().await;
    space.contracts(Who::Provider).suspend(ID, "audit").await.unwrap();
    let message = space.pending(Who::Provider).remove(0);
    let away = space.deliver(Who::Provider, &message, Fate::IsLost).await;
    assert!(matches!(away, Err(Delivery::Retry(_))), "{away:?}");
    assert_eq!(space.standing_at(Who::Consumer), Standing::InForce);
    space = space.restart(100).await;
    assert_eq!(held(&space.standing_at(Who::Provider)), ("suspended", Side::Provider, "audit"));
    let _ = space.deliver(Who::Provider, &message, Fate::AnswerIsLost).await;
    space = space.restart(102).await;
    space.settle().await;
    assert_eq!(held(&space.standing()), ("suspended", Side::Provider, "audit"));
    let seen: [Negotiation; 2] = BOTH.map(|who| space.seen_by(who, ID));
    space = space.restart(104).await;
    assert_eq!(BOTH.map(|who| space.seen_by(who, ID)), seen);
    space.contracts(Who::Provider).terminate(ID, "bankrupt").await.unwrap();
    space = space.restart(106).await;
    space.settle().await;
    assert_eq!(held(&space.standing()), ("ended", Side::Provider, "bankrupt"));
}

/// A node that was restored from a backup of before gets its statements back one by one.
#[tokio::test]
async fn what_comes_back_from_others_counts_again() {
    let space = agreed().await;
    let seen = space.seen_by(Who::Provider, ID);
    let finalisation = seen.statements.finalisation.unwrap();
    let own = space.change(Who::Provider, Kind::Suspension, 1, finalisation).await;
    let theirs = space.change(Who::Consumer, Kind::Suspension, 1, finalisation).await;
    let later = space.change(Who::Consumer, Kind::Resumption, 2, theirs.digest()).await;
    let about_another =
        space.change_of(Who::Provider, ID, Digest::sha256(b"another"), Kind::Termination, 2, own.digest());
    let about_another = about_another.await;
    let contracts = space.contracts(Who::Provider);
    for statement in [&later, &theirs, &about_another, &own, &own] {
        let (contracts, statement) = (contracts.clone(), statement.clone());
        let restate = move |tx: &mut Tx<'_>| contracts.restate(tx, &statement);
        space.node(Who::Provider).ledger.store().transact("test", restate).await.unwrap();
    }
    let standings = space.seen_by(Who::Provider, ID).standings;
    assert_eq!((standings.provider.step, standings.consumer.step), (1, 2));
    assert_eq!(held(standings.together()), ("suspended", Side::Provider, "says a test"));
    assert_eq!(standings.consumer.standing, Standing::InForce, "the older one comes too late");
}

/// The transfers hear of every change, and of the last one even when another comes while they follow.
#[tokio::test]
async fn a_change_is_noted_until_it_was_followed() {
    let space = agreed().await;
    let (contracts, store) = (space.contracts(Who::Consumer), space.node(Who::Consumer).ledger.store());
    assert_eq!(contracts.restated(&store.view(), None).unwrap(), None);
    space.contracts(Who::Provider).suspend(ID, "audit").await.unwrap();
    space.settle().await;
    let contract = space.seen_by(Who::Consumer, ID).contract.unwrap();
    assert_eq!(contracts.restated(&store.view(), None).unwrap(), Some((contract.clone(), 1)));
    assert_eq!(contracts.restated(&store.view(), Some(&contract)).unwrap(), None);
    contracts.suspend(ID, "ours too").await.unwrap();
    for (followed, left) in [(1, Some((contract.clone(), 2))), (2, None)] {
        let (contracts, contract) = (contracts.clone(), contract.clone());
        let follow = store.transact("test", {
            let contracts = contracts.clone();
            move |tx| contracts.followed(tx, &contract, followed)
        });
        follow.await.unwrap();
        assert_eq!(contracts.restated(&store.view(), None).unwrap(), left);
    }
}
