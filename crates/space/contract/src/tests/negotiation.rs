use huitong_identity::ServiceError;
use huitong_proof::{Digest, Kind};

use super::{Fate, Space, Who};
use crate::{AcceptCounter, Agreement, Approval, Side, State, agreement_hash};

const ID: [u8; 16] = [7; 16];

#[tokio::test]
async fn standing_terms_become_a_contract_in_force() {
    let space = Space::new(Approval::Automatic).await;
    let terms = space.standing_terms();
    assert_eq!((terms.size, terms.policy.as_slice()), (11, super::POLICY));
    let asked = space.request(ID, terms.clone(), AcceptCounter::No).await;
    assert_eq!((asked.state, asked.side, asked.national()), (State::Requested, Side::Consumer, "01"));
    space.settle().await;

    let [provider, consumer] = [Who::Provider, Who::Consumer].map(|who| space.seen_by(who, ID));
    assert_eq!([provider.state, consumer.state], [State::Finalized; 2]);
    assert_eq!([provider.national(), consumer.national()], ["05"; 2]);
    assert_eq!(provider.agreement, consumer.agreement, "one byte string that both signed");
    assert_eq!(provider.statements, consumer.statements);
    assert_eq!((provider.side, provider.peer.clone()), (Side::Provider, terms.consumer.clone()));

    let document = consumer.agreement.clone().unwrap();
    let agreement = Agreement::decode(&document).unwrap();
    assert_eq!(agreement.terms(), terms);
    let ledger = &space.node(Who::Consumer).ledger;
    let view = ledger.store().view();
    let statement = |digest: Option<Digest>| ledger.statement(&view, &digest.unwrap()).unwrap().unwrap();
    let signed = statement(consumer.statements.agreement);
    let verified = statement(consumer.statements.verification);
    let finalised = statement(consumer.statements.finalisation);
    assert_eq!(verified.body().reference, signed.digest());
    assert_eq!(finalised.body().reference, verified.digest());
    let hash = agreement_hash(&document, &signed, &verified);
    assert_eq!([provider.agreement_hash, consumer.agreement_hash], [Some(hash); 2]);
    assert_eq!(finalised.body().agreement, hash);

    let contract = consumer.contract.clone().unwrap();
    for who in [Who::Provider, Who::Consumer] {
        let contracts = space.contracts(who);
        let view = space.node(who).ledger.store().view();
        let found = contracts.contract(&view, &contract).unwrap().unwrap();
        assert!(found.in_force());
        assert_eq!((found.hash, &found.agreement, found.negotiation), (hash, &agreement, ID));
        assert_eq!(contracts.by_contract(&contract).unwrap().unwrap().id, ID);
        let kinds: Vec<Kind> =
            space.node(who).ledger.about(&view, &ID, 100).unwrap().iter().map(|s| s.kind()).collect();
        let expected = [Kind::ContractRequest, Kind::Agreement, Kind::Verification, Kind::Finalisation];
        assert_eq!(kinds, expected, "{who:?}");
    }
}

#[tokio::test]
async fn an_unsigned_negotiation_is_no_contract() {
    let space = Space::new(Approval::Automatic).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    let request = space.pending(Who::Consumer).remove(0);
    space.deliver(Who::Consumer, &request, Fate::Arrives).await.unwrap();
    let agreed = space.seen_by(Who::Provider, ID);
    assert_eq!((agreed.state, agreed.national()), (State::Agreed, "0301"));
    let view = space.node(Who::Provider).ledger.store().view();
    let found = space.contracts(Who::Provider).contract(&view, &agreed.contract.clone().unwrap()).unwrap();
    assert_eq!(found, None, "the consumer has not signed");

    let agreement = space.pending(Who::Provider).remove(0);
    space.deliver(Who::Provider, &agreement, Fate::Arrives).await.unwrap();
    let view = space.node(Who::Consumer).ledger.store().view();
    let found = space.contracts(Who::Consumer).contract(&view, &agreed.contract.unwrap()).unwrap().unwrap();
    assert_eq!((found.state, found.in_force()), (State::Verified, false));
}

#[tokio::test]
async fn a_command_given_twice_is_one_request() {
    let space = Space::new(Approval::Automatic).await;
    let terms = space.standing_terms();
    let first = space.request(ID, terms.clone(), AcceptCounter::No).await;
    let second = space.request(ID, terms.clone(), AcceptCounter::No).await;
    assert_eq!(first, second);
    assert_eq!(space.pending(Who::Consumer).len(), 1);
    space.settle().await;
    let third = space.request(ID, terms.clone(), AcceptCounter::No).await;
    assert_eq!(third.state, State::Finalized);

    let mut other = terms;
    other.price = "nothing".to_owned();
    let consumer = space.contracts(Who::Consumer);
    let error =
        consumer.request(ID, space.provider_credential(), other, AcceptCounter::No).await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn other_terms_meet_a_counter_offer_that_waits_for_the_operator() {
    let space = Space::new(Approval::Automatic).await;
    let standing = space.standing_terms();
    let mut cheap = standing.clone();
    cheap.price = "0".to_owned();
    space.request(ID, cheap.clone(), AcceptCounter::No).await;
    space.settle().await;
    assert_eq!(space.states(ID), [State::Offered; 2]);
    let held = space.seen_by(Who::Consumer, ID);
    assert_eq!((&held.terms, held.national()), (&standing, "02"));

    let consumer = space.contracts(Who::Consumer);
    let mut cheaper = cheap;
    cheaper.price = "-1".to_owned();
    let countered = consumer.counter(ID, cheaper).await.unwrap();
    assert_eq!((countered.state, countered.national()), (State::Requested, "02"));
    space.settle().await;
    assert_eq!(space.states(ID), [State::Offered; 2]);
    assert_eq!(space.seen_by(Who::Consumer, ID).rounds, 2);

    consumer.accept(ID).await.unwrap();
    assert_eq!(consumer.accept(ID).await.unwrap().state, State::Accepted, "accepting twice changes nothing");
    space.settle().await;
    assert_eq!(space.states(ID), [State::Finalized; 2]);
    let agreement = Agreement::decode(&space.seen_by(Who::Consumer, ID).agreement.unwrap()).unwrap();
    assert_eq!(agreement.terms(), standing);
}

#[tokio::test]
async fn a_counter_request_for_the_standing_terms_is_signed_at_once() {
    let space = Space::new(Approval::Automatic).await;
    let standing = space.standing_terms();
    let mut cheap = standing.clone();
    cheap.price = "0".to_owned();
    space.request(ID, cheap, AcceptCounter::No).await;
    space.settle().await;
    space.contracts(Who::Consumer).counter(ID, standing).await.unwrap();
    space.settle().await;
    assert_eq!(space.states(ID), [State::Finalized; 2]);
}

#[tokio::test]
async fn a_consumer_that_takes_any_counter_offer_is_done_at_once() {
    let space = Space::new(Approval::Automatic).await;
    let mut cheap = space.standing_terms();
    cheap.price = "0".to_owned();
    space.request(ID, cheap, AcceptCounter::Yes).await;
    space.settle().await;
    assert_eq!(space.states(ID), [State::Finalized; 2]);
}

#[tokio::test]
async fn a_manual_provider_signs_only_what_was_approved() {
    let space = Space::new(Approval::Manual).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    assert_eq!(space.states(ID), [State::Requested; 2]);
    let provider = space.contracts(Who::Provider);
    let error = space.contracts(Who::Consumer).approve(ID).await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
    assert_eq!(provider.approve(ID).await.unwrap().state, State::Agreed);
    assert_eq!(provider.approve(ID).await.unwrap().state, State::Agreed, "approving twice changes nothing");
    space.settle().await;
    assert_eq!(space.states(ID), [State::Finalized; 2]);

    let id = [8; 16];
    let mut cheap = space.standing_terms();
    cheap.price = "0".to_owned();
    space.request(id, cheap, AcceptCounter::Yes).await;
    space.settle().await;
    assert_eq!(space.states(id), [State::Accepted; 2], "an acceptance waits for approval too");
    provider.approve(id).await.unwrap();
    space.settle().await;
    assert_eq!(space.states(id), [State::Finalized; 2]);
}

#[tokio::test]
async fn either_side_may_end_it_while_the_diagram_lets_it() {
    let space = Space::new(Approval::Manual).await;
    for (id, who) in [([1; 16], Who::Provider), ([2; 16], Who::Consumer)] {
        space.request(id, space.standing_terms(), AcceptCounter::No).await;
        space.settle().await;
        let ended = space.contracts(who).terminate(id, "changed our mind").await.unwrap();
        assert_eq!((ended.state, ended.national()), (State::Terminated, "0302"));
        assert_eq!(space.contracts(who).terminate(id, "again").await.unwrap(), ended);
        space.settle().await;
        assert_eq!(space.states(id), [State::Terminated; 2]);
        for who in [Who::Provider, Who::Consumer] {
            let reason = space.seen_by(who, id).reason.unwrap();
            assert_eq!(
                (reason.code.as_str(), reason.text.as_str()),
                ("contract.operator", "changed our mind")
            );
        }
    }
}

#[tokio::test]
async fn crossing_terminations_both_succeed() {
    let space = Space::new(Approval::Manual).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    space.contracts(Who::Provider).terminate(ID, "ours").await.unwrap();
    space.contracts(Who::Consumer).terminate(ID, "theirs").await.unwrap();
    for who in [Who::Provider, Who::Consumer] {
        let pending = space.pending(who).remove(0);
        assert_eq!(space.deliver(who, &pending, Fate::Arrives).await, Ok(()));
    }
    assert_eq!(space.seen_by(Who::Provider, ID).reason.unwrap().text, "ours");
    assert_eq!(space.seen_by(Who::Consumer, ID).reason.unwrap().text, "theirs");
}

#[tokio::test]
async fn unknown_negotiations_are_not_found() {
    let space = Space::new(Approval::Automatic).await;
    let contracts = space.contracts(Who::Consumer);
    assert_eq!(contracts.negotiation(&ID).unwrap(), None);
    for error in [
        contracts.accept(ID).await.unwrap_err(),
        contracts.approve(ID).await.unwrap_err(),
        contracts.terminate(ID, "").await.unwrap_err(),
        contracts.counter(ID, space.standing_terms()).await.unwrap_err(),
    ] {
        assert!(matches!(error, ServiceError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_newest_come_first() {
    let space = Space::new(Approval::Manual).await;
    for index in 1..=3 {
        space.request([index; 16], space.standing_terms(), AcceptCounter::No).await;
        space.network.clock.advance(std::time::Duration::from_secs(1));
    }
    let ids: Vec<u8> = space.contracts(Who::Consumer).list(2).unwrap().iter().map(|n| n.id[0]).collect();
    assert_eq!(ids, [3, 2]);
}
