//! Asking witnesses: quorum, dead and slow ones, lost and repeated answers.

use std::sync::Arc;
use std::time::Duration;

use huitong_ledger::SignedCheckpoint;
use huitong_proof::ManualClock;

use super::{CONSUMER, Fault, PROVIDER, REGISTRAR, Space};
use crate::Evidence;

fn kept(node: &Evidence) -> Option<SignedCheckpoint> {
    node.ledger().cosigned(&node.ledger().store().view()).unwrap()
}

#[tokio::test]
async fn without_a_policy_the_registrar_alone_makes_a_checkpoint_final() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    let registrar = space.caller(REGISTRAR).credential().witness.clone();
    let signed = provider.ledger().checkpoint().await.unwrap();
    let before = provider.ledger_standing().unwrap();
    assert_eq!((before.signed_size, before.final_size), (signed.checkpoint().size, 0));

    let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert_eq!(outcome.cosigned, [space.ids[REGISTRAR].to_string()]);
    assert!(outcome.is_final && outcome.failed.is_empty(), "{outcome:?}");
    let cosigned = kept(&provider).unwrap();
    assert_eq!(cosigned.checkpoint(), signed.checkpoint());
    assert!(cosigned.cosigned_by(&registrar).unwrap().is_some());

    let standing = provider.ledger_standing().unwrap();
    assert_eq!(standing.final_size, signed.checkpoint().size);
    assert_eq!(standing.witnesses.len(), 1);
    assert_eq!(standing.witnesses[0].node.as_ref(), Some(&space.ids[REGISTRAR]));
    assert_eq!(standing.witnesses[0].size, signed.checkpoint().size);
    assert_eq!(standing.safe_mode, None);

    // Nothing new: nobody is asked.
    space.calls();
    let again = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert!(again.is_final);
    assert_eq!(space.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registrar_without_policy_asks_nobody_and_demands_nothing() {
    let space = Space::new().await;
    let registrar = space.node(REGISTRAR);
    let signed = registrar.ledger().checkpoint().await.unwrap();
    assert_eq!(registrar.cosign_once(&space.link(REGISTRAR)).await.unwrap(), Default::default());
    assert_eq!(registrar.ledger_standing().unwrap().final_size, signed.checkpoint().size);
    assert!(registrar.policy_text().unwrap().contains("quorum none"));
}

#[tokio::test]
async fn the_policy_text_lists_ledgers_only_as_the_operator_does() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    let log = provider.ledger().log_verifier();
    let text = provider.policy_text().unwrap();
    let policy: huitong_ledger::QuorumPolicy = text.parse().unwrap();
    assert!(policy.logs().is_empty(), "a receipt of two ledgers must be able to satisfy it");
    assert_eq!(policy.witnesses().len(), 1);

    // Listed already, or only others listed: the own ledger is there once, and its checkpoints are accepted.
    for listed in [log.clone(), space.caller(CONSUMER).credential().log.clone()] {
        let policy = space.policy(1, &[CONSUMER]).with_log(listed, None).unwrap();
        space.set(PROVIDER, |settings| settings.policy = Some(policy));
        space.set(CONSUMER, |settings| settings.witness_for = vec![space.ids[PROVIDER].clone()]);
        let provider = space.node(PROVIDER);
        assert_eq!(provider.policy_text().unwrap().matches(&log.to_string()).count(), 1);
        space.tell(PROVIDER, CONSUMER).await;
        provider.ledger().checkpoint().await.unwrap();
        assert!(provider.cosign_once(&space.link(PROVIDER)).await.unwrap().is_final);
    }
}

#[tokio::test]
async fn a_dead_witness_delays_nothing_while_the_quorum_answers() {
    let space = Space::with_connectors(1).await;
    space.witnessed_by(PROVIDER, 2, &[REGISTRAR, CONSUMER, 3]);
    space.fault(3, Some(Fault::Dead));
    let provider = space.node(PROVIDER);
    space.tell(PROVIDER, CONSUMER).await;
    provider.ledger().checkpoint().await.unwrap();

    let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert!(outcome.is_final);
    assert_eq!(outcome.cosigned, ["witness-0", "witness-2"]);
    assert_eq!(outcome.failed.len(), 1);
    assert_eq!(outcome.failed[0].0, "witness-3");

    // It is left alone for a moment, then asked again, then left alone for longer.
    space.calls();
    provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert_eq!(space.calls().len(), 0);
    for (seconds, calls) in [(1, 1), (1, 0), (1, 1), (3, 0), (1, 1)] {
        space.clock.advance(Duration::from_secs(seconds));
        provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
        assert_eq!(space.calls().len(), calls, "after {seconds} more seconds");
    }

    // Back again: it cosigns the newest checkpoint, and its line joins the others.
    space.fault(3, None);
    space.clock.advance(Duration::from_secs(60));
    let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert_eq!(outcome.cosigned.len(), 3);
    assert_eq!(kept(&provider).unwrap().cosigner_names().len(), 3);
    let witnesses = provider.ledger_standing().unwrap().witnesses;
    assert!(witnesses.iter().all(|witness| witness.last_error.is_none()), "{witnesses:?}");
}

#[tokio::test]
async fn a_checkpoint_that_is_final_is_not_given_up_for_one_that_is_not() {
    let space = Space::new().await;
    space.witnessed_by(PROVIDER, 2, &[REGISTRAR, CONSUMER]);
    let provider = space.node(PROVIDER);
    space.tell(PROVIDER, CONSUMER).await;
    let first = space.finish(PROVIDER).await;
    assert_eq!(provider.ledger_standing().unwrap().final_size, first.checkpoint().size);

    space.fault(CONSUMER, Some(Fault::Dead));
    space.say(PROVIDER, CONSUMER).await;
    let second = provider.ledger().checkpoint().await.unwrap();
    let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert!(!outcome.is_final);
    assert_eq!(outcome.cosigned, ["witness-0"]);
    assert_eq!(kept(&provider).unwrap().checkpoint(), first.checkpoint());

    space.fault(CONSUMER, None);
    space.clock.advance(Duration::from_secs(2));
    assert!(provider.cosign_once(&space.link(PROVIDER)).await.unwrap().is_final);
    assert_eq!(kept(&provider).unwrap().checkpoint(), second.checkpoint());
}

#[tokio::test]
async fn a_silent_witness_does_not_hold_up_the_others() {
    let space = Space::with_connectors(1).await;
    space.witnessed_by(PROVIDER, 2, &[REGISTRAR, CONSUMER, 3]);
    space.set(PROVIDER, |settings| settings.request_timeout = Duration::from_secs(3600));
    space.fault(3, Some(Fault::Silent));
    let provider = space.node(PROVIDER);
    space.tell(PROVIDER, CONSUMER).await;
    let signed = provider.ledger().checkpoint().await.unwrap();
    let mut commits = provider.ledger().store().commits();
    let (asking, link) = (provider.clone(), space.link(PROVIDER));
    let round = tokio::spawn(async move { asking.cosign_once(&link).await });
    while provider.ledger_standing().unwrap().final_size != signed.checkpoint().size {
        commits.changed().await.unwrap();
    }
    assert!(!round.is_finished());
    round.abort();
}

#[tokio::test]
async fn a_silent_witness_is_given_up_in_time() {
    let space = Space::new().await;
    space.set(PROVIDER, |settings| settings.request_timeout = Duration::from_millis(20));
    space.fault(REGISTRAR, Some(Fault::Silent));
    let provider = space.node(PROVIDER);
    provider.ledger().checkpoint().await.unwrap();
    let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert!(outcome.failed[0].1.contains("did not answer"), "{outcome:?}");
}

#[tokio::test]
async fn lost_and_repeated_answers_and_a_forgetful_submitter_change_nothing() {
    let mut space = Space::new().await;
    for fault in [Some(Fault::AnswerLost), Some(Fault::Twice), None] {
        space.fault(REGISTRAR, fault);
        space.say(PROVIDER, CONSUMER).await;
        space.clock.advance(Duration::from_secs(60));
        let signed = space.finish(PROVIDER).await;
        let final_size = space.node(PROVIDER).ledger_standing().unwrap().final_size;
        let lost = fault == Some(Fault::AnswerLost);
        assert_eq!(final_size, if lost { 0 } else { signed.checkpoint().size });
    }
    // A new process knows no size of the witness's: it learns it from the 409.
    let settings = space.node(PROVIDER).settings().clone();
    space.stop(PROVIDER).await;
    space.start(PROVIDER, settings);
    space.say(PROVIDER, CONSUMER).await;
    let signed = space.finish(PROVIDER).await;
    assert_eq!(space.node(PROVIDER).ledger_standing().unwrap().final_size, signed.checkpoint().size);
}

#[tokio::test]
async fn a_clock_set_back_does_not_silence_a_witness() {
    let space = Space::new().await;
    let clock: Arc<ManualClock> = Arc::new(space.clock.clone());
    space.fault(REGISTRAR, Some(Fault::Dead));
    let provider = space.node(PROVIDER);
    provider.ledger().checkpoint().await.unwrap();
    provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    space.fault(REGISTRAR, None);
    clock.set(super::at(1_000_000_000_000));
    assert!(provider.cosign_once(&space.link(PROVIDER)).await.unwrap().is_final);
}
