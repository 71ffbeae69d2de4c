//! Noticing that a ledger was rolled back, and not noticing what is not so.

use std::path::PathBuf;
use std::time::Duration;

use huitong_ledger::LedgerError;

use super::{CONSUMER, Fault, Marked, PROVIDER, REGISTRAR, Space, size};
use crate::{Answer, Asked, Comparison, Evidence};

/// The provider has told the consumer things, some of them after its backup was taken.
async fn with_history(space: &mut Space) -> PathBuf {
    for _ in 0..3 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    space.finish(PROVIDER).await;
    space.back_up(PROVIDER).await
}

fn answer<'a>(comparison: &'a Comparison, space: &Space, place: usize, asked: Asked) -> &'a Answer {
    let who = space.ids[place].to_string();
    let found = comparison.compared.iter().find(|one| one.who == who && one.asked == asked);
    &found.unwrap_or_else(|| panic!("{who} was not asked: {comparison:?}")).answer
}

fn is_ahead(answer: &Answer) -> bool {
    matches!(answer, Answer::Ahead { .. })
}

async fn signs(node: &Evidence) -> bool {
    match node.ledger().signing() {
        Ok(()) => {
            assert_eq!(node.safe_mode(), None);
            true
        }
        Err(LedgerError::SafeMode { reason }) => {
            assert_eq!(node.safe_mode(), Some(reason));
            false
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_whole_ledger_signs_on() {
    let mut space = Space::new().await;
    with_history(&mut space).await;
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    let provider = space.node(PROVIDER);
    let comparison = provider.compare_once(&space.link(PROVIDER)).await.unwrap();
    assert_eq!(comparison.safe_mode, None);
    assert_eq!(comparison.compared.len(), 3, "{comparison:?}");
    assert!(comparison.compared.iter().all(|one| matches!(one.answer, Answer::NotAhead { .. })));
    assert!(signs(&provider).await && !provider.is_comparison_pending().unwrap());
    space.calls();
    assert_eq!(provider.compare_late(&space.link(PROVIDER)).await.unwrap().compared, []);
    assert_eq!(space.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn nobody_reachable_stops_nobody() {
    let mut space = Space::new().await;
    with_history(&mut space).await;
    space.set(PROVIDER, |settings| settings.start_timeout = Duration::from_millis(20));
    for place in [REGISTRAR, CONSUMER] {
        space.fault(place, Some(if place == CONSUMER { Fault::Silent } else { Fault::Dead }));
    }
    let provider = space.node(PROVIDER);
    let comparison = provider.compare_once(&space.link(PROVIDER)).await.unwrap();
    assert!(comparison.compared.iter().all(|one| matches!(one.answer, Answer::Unknown { .. })));
    assert!(signs(&provider).await && provider.is_comparison_pending().unwrap());
}

#[tokio::test]
async fn a_witness_that_has_cosigned_more_stops_the_signing() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    space.say(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    space.put_back(PROVIDER, &backup, Marked::No).await;
    let provider = space.node(PROVIDER);
    assert!(signs(&provider).await, "it cannot know yet");
    let comparison = provider.compare_once(&space.link(PROVIDER)).await.unwrap();
    assert!(is_ahead(answer(&comparison, &space, REGISTRAR, Asked::Witness)));
    assert!(!is_ahead(answer(&comparison, &space, CONSUMER, Asked::Counterparty)));
    assert!(!signs(&provider).await);
    let reason = comparison.safe_mode.unwrap();
    assert!(reason.contains(space.ids[REGISTRAR].as_str()) && reason.contains("recover"), "{reason}");

    // Nothing is signed, cosigned or agreed to from here on, also not in a new process.
    let settings = provider.settings().clone();
    drop(provider);
    space.stop(PROVIDER).await;
    space.start(PROVIDER, settings);
    let provider = space.node(PROVIDER);
    assert!(!signs(&provider).await);
    assert_eq!(provider.cosign_once(&space.link(PROVIDER)).await.unwrap(), Default::default());
    assert!(provider.resume_unconfirmed().await.is_err(), "no operator can talk a proof away");
    // A witness that has forgotten, or lies now, takes nothing back that it has shown.
    space.fault(REGISTRAR, Some(Fault::Dead));
    assert!(provider.compare_late(&space.link(PROVIDER)).await.unwrap().safe_mode.is_some());
}

#[tokio::test]
async fn a_counterparty_that_holds_a_later_statement_stops_the_signing() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    // Told, but in no checkpoint that anybody has seen.
    space.tell(PROVIDER, CONSUMER).await;
    space.put_back(PROVIDER, &backup, Marked::No).await;
    let provider = space.node(PROVIDER);
    let comparison = provider.compare_once(&space.link(PROVIDER)).await.unwrap();
    assert!(is_ahead(answer(&comparison, &space, CONSUMER, Asked::Counterparty)));
    assert!(!is_ahead(answer(&comparison, &space, REGISTRAR, Asked::Witness)));
    assert!(!signs(&provider).await);
}

#[tokio::test]
async fn who_was_not_reachable_at_start_is_heard_later() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    for late in ["compare_late", "compare_with"] {
        space.put_back(PROVIDER, &backup, Marked::No).await;
        space.fault(REGISTRAR, Some(Fault::Dead));
        space.fault(CONSUMER, Some(Fault::Dead));
        let (provider, link) = (space.node(PROVIDER), space.link(PROVIDER));
        provider.compare_once(&link).await.unwrap();
        assert!(signs(&provider).await);
        space.fault(CONSUMER, None);
        let comparison = match late {
            "compare_late" => provider.compare_late(&link).await.unwrap(),
            _ => provider.compare_with(&link, &space.ids[CONSUMER]).await.unwrap(),
        };
        assert!(comparison.safe_mode.is_some(), "{late}: {comparison:?}");
        assert!(!signs(&provider).await, "{late}");
    }
}

#[tokio::test]
async fn a_witness_that_says_so_in_a_409_is_asked_for_proof() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    for _ in 0..2 {
        space.say(PROVIDER, CONSUMER).await;
    }
    space.finish(PROVIDER).await;
    // It did not answer at start, but when the next checkpoint is to be cosigned: at a smaller size, and at the same.
    for (statements, says) in [(1, "has cosigned size"), (2, "answered 422")] {
        space.put_back(PROVIDER, &backup, Marked::No).await;
        space.clock.advance(Duration::from_secs(1));
        for _ in 0..statements {
            space.say(PROVIDER, CONSUMER).await;
        }
        let provider = space.node(PROVIDER);
        provider.ledger().checkpoint().await.unwrap();
        assert!(signs(&provider).await);
        let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
        assert!(outcome.failed[0].1.contains(says), "{outcome:?}");
        assert!(!signs(&provider).await);
    }
}

#[tokio::test]
async fn a_restored_directory_signs_when_enough_have_answered() {
    let mut space = Space::with_connectors(1).await;
    space.witnessed_by(PROVIDER, 1, &[REGISTRAR, 3]);
    let backup = with_history(&mut space).await;
    // Everybody answers, or every witness, or one witness and all counterparties; else it stays closed.
    for (dead, opens) in [
        (vec![], true),
        (vec![CONSUMER], true),
        (vec![3], true),
        (vec![3, CONSUMER], false),
        (vec![REGISTRAR, 3], false),
        (vec![REGISTRAR, CONSUMER, 3], false),
    ] {
        space.put_back(PROVIDER, &backup, Marked::Yes).await;
        for place in &dead {
            space.fault(*place, Some(Fault::Dead));
        }
        let (provider, link) = (space.node(PROVIDER), space.link(PROVIDER));
        assert!(!signs(&provider).await);
        let comparison = provider.compare_once(&link).await.unwrap();
        assert_eq!(comparison.safe_mode.is_none(), opens, "without {dead:?}: {comparison:?}");
        assert_eq!(signs(&provider).await, opens);
        // Towards each node its own answer is what counts.
        for (place, unheard) in [(REGISTRAR, !opens), (CONSUMER, !opens || dead.contains(&CONSUMER))] {
            let said = space.try_to_say(PROVIDER, place).await;
            assert_eq!(said.is_err(), unheard, "without {dead:?} to {place}: {said:?}");
        }
        // What was answered before counts on.
        for place in &dead {
            space.fault(*place, None);
        }
        assert_eq!(provider.compare_late(&link).await.unwrap().safe_mode, None);
        assert!(signs(&provider).await && !provider.is_comparison_pending().unwrap());
        space.say(PROVIDER, CONSUMER).await;
        assert!(provider.ledger().checkpoint().await.is_ok());
    }
}

#[tokio::test]
async fn an_operator_may_end_the_waiting() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    space.fault(REGISTRAR, Some(Fault::Dead));
    space.fault(CONSUMER, Some(Fault::Dead));
    let provider = space.node(PROVIDER);
    assert!(provider.compare_once(&space.link(PROVIDER)).await.unwrap().safe_mode.is_some());
    assert_eq!(provider.resume_unconfirmed().await.unwrap().safe_mode, None);
    assert!(signs(&provider).await);
    space.say(PROVIDER, CONSUMER).await;

    // Also when only the channel to one counterparty waits.
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    space.fault(REGISTRAR, None);
    let provider = space.node(PROVIDER);
    assert_eq!(provider.compare_once(&space.link(PROVIDER)).await.unwrap().safe_mode, None);
    let error = space.try_to_say(PROVIDER, CONSUMER).await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::Unconfirmed { audience } if *audience == space.ids[CONSUMER].to_string())
    );
    provider.resume_unconfirmed().await.unwrap();
    space.say(PROVIDER, CONSUMER).await;
    assert!(
        !provider.has_to_hear(&space.ids[CONSUMER]).unwrap() || provider.is_comparison_pending().unwrap()
    );
}

#[tokio::test]
async fn whoever_the_backup_does_not_know_is_asked_before_the_first_statement() {
    let mut space = Space::with_connectors(1).await;
    let backup = with_history(&mut space).await;
    // Met after the backup, and told something in no checkpoint.
    let told = space.tell(PROVIDER, 3).await;
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    let (provider, link) = (space.node(PROVIDER), space.link(PROVIDER));
    assert_eq!(provider.compare_once(&link).await.unwrap().safe_mode, None);
    assert!(provider.has_to_hear(&space.ids[3]).unwrap());
    assert!(matches!(space.try_to_say(PROVIDER, 3).await, Err(LedgerError::Unconfirmed { .. })));
    // It is asked because something is to be said to it.
    assert!(provider.compare_late(&link).await.unwrap().safe_mode.is_some());
    let report = provider.recover(&link, &mut |_| {}).await.unwrap();
    assert_eq!((report.statements, report.safe_mode), (vec![told.digest()], None));
    assert_eq!(space.say(PROVIDER, 3).await.body().seq, 1);
}

#[tokio::test]
async fn what_was_shown_is_not_forgotten_when_the_gate_opens_at_the_same_moment() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    space.tell(PROVIDER, CONSUMER).await;
    for _ in 0..8 {
        space.put_back(PROVIDER, &backup, Marked::Yes).await;
        let (provider, link) = (space.node(PROVIDER), space.link(PROVIDER));
        // The registrar's answer alone would open the gate; the consumer shows more.
        let (registrar, consumer) = (space.ids[REGISTRAR].clone(), space.ids[CONSUMER].clone());
        let (one, other) =
            tokio::join!(provider.compare_with(&link, &registrar), provider.compare_with(&link, &consumer));
        one.unwrap();
        other.unwrap();
        assert!(!signs(&provider).await);
    }
}

#[tokio::test]
async fn a_closed_ledger_reads_and_receives() {
    let mut space = Space::new().await;
    let backup = with_history(&mut space).await;
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    let provider = space.node(PROVIDER);
    let before = size(&provider);
    space.tell(CONSUMER, PROVIDER).await;
    assert!(size(&provider) > before);
    assert!(provider.checkpoint(&space.caller(CONSUMER)).await.is_ok());
    // And it witnesses nothing: it may have lost what it cosigned.
    space.set(PROVIDER, |settings| settings.witness_for = vec![space.ids[CONSUMER].clone()]);
    let checkpoint = space.node(CONSUMER).ledger().checkpoint().await.unwrap();
    let body = format!("old 0\n\n{}", checkpoint.text());
    let answer = space.node(PROVIDER).add_checkpoint(&space.caller(CONSUMER), &body).await.unwrap();
    assert_eq!(answer.status(), 429);
}
