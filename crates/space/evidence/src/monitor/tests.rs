//! What the monitor finds, over real ledgers.

use std::time::Duration;

use huitong_identity::{ServiceError, remember};
use huitong_ledger::{ForkProof, LedgerError};
use huitong_proof::{Digest, Draft, Kind, Statement};
use huitong_store::Tx;

use super::fixture::{Bent, Ways, open, second};
use super::*;
use crate::alerts::{LEDGER_FORKED, STATEMENT_FORKED};
use crate::tests::{CONSUMER, Marked, PROVIDER, REGISTRAR, Space};

const DELAY: Duration = Duration::from_secs(601);
const STALE: Duration = Duration::from_secs(3_601);

/// Registrar, provider and consumer, with some statements between the last two, all signed.
async fn space() -> Space {
    let space = Space::new().await;
    for _ in 0..3 {
        space.tell(PROVIDER, CONSUMER).await;
        space.tell(CONSUMER, PROVIDER).await;
    }
    sign(&space).await;
    space
}

async fn sign(space: &Space) {
    for place in [REGISTRAR, PROVIDER, CONSUMER] {
        space.finish(place).await;
    }
}

/// Two rounds with the delay between them: after that, what there was at the first is due.
async fn settle(space: &Space, place: usize, peer: &dyn LogPeer) -> MonitorReport {
    // Marks are made in an eighth of the delay.
    space.clock.advance(DELAY / 8);
    space.node(place).monitor_once(peer).await.unwrap();
    space.clock.advance(DELAY);
    sign(space).await;
    space.node(place).monitor_once(peer).await.unwrap()
}

fn state(space: &Space, report: &MonitorReport, place: usize) -> LogState {
    let of = |log: &&LogReport| log.node == space.ids[place];
    report.logs.iter().find(of).unwrap().state.clone()
}

fn alert(space: &Space, code: &str, place: usize) -> Vec<(String, String)> {
    vec![(code.to_owned(), space.ids[place].to_string())]
}

/// The one fork proof about that node, checked as a stranger does who has only the file.
fn stranger_sees(space: &Space, seen_by: usize, about: usize) -> ForkProof {
    let forks = space.node(seen_by).fork_proofs(Some(&space.ids[about])).unwrap();
    assert_eq!(forks.len(), 1);
    let proof = ForkProof::parse(&forks[0].proof.to_text()).unwrap();
    assert_eq!(proof.verify().unwrap(), forks[0].sentence);
    let directory = space.node(REGISTRAR).standing().directory.clone();
    let (credential, _) = directory.verify_credential(proof.credential().unwrap().to_vec().into()).unwrap();
    assert_eq!(credential.node, space.ids[about]);
    proof
}

#[tokio::test]
async fn honest_ledgers_raise_nothing_and_each_statement_is_asked_for_once() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(report.logs.len(), 2, "registrar and provider");
    assert_eq!(peer.asked("inclusion"), 0, "nothing has been here for long enough");

    space.clock.advance(DELAY);
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    let proven: Vec<usize> = report.logs.iter().map(|log| log.proven).collect();
    assert_eq!(proven.iter().sum::<usize>(), 6 + 1, "six with the provider, and the credential");
    assert_eq!(peer.asked("inclusion"), 7);
    assert!(report.logs.iter().all(|log| matches!(log.state, LogState::Consistent { .. }) && !log.more));

    // Again nothing new; then one more.
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(peer.asked("inclusion"), 0);
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(peer.asked("inclusion"), 1);
    assert_eq!(open(&space.node(CONSUMER)), []);
    assert_eq!(space.node(CONSUMER).alerts(true, 10).unwrap(), []);
}

#[tokio::test]
async fn a_ledger_with_two_roots_for_one_size_is_proven_to_fork() {
    let mut space = space().await;
    let copy = space.back_up(PROVIDER).await;
    let other = second(&space, "provider", &copy, 77);
    // Each instance logs one more entry, and signs.
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    let ledger = other.ledger().clone();
    let draft = |audience: &NodeId| Draft {
        kind: Kind::Offer,
        audience: audience.to_string(),
        subject: [9; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: huitong_proof::cbor::Map::new(),
    };
    let said = draft(&space.ids[REGISTRAR]);
    let issue = move |tx: &mut Tx<'_>| ledger.issue(tx, said);
    other.ledger().store().transact("test", issue).await.unwrap();
    other.ledger().checkpoint().await.unwrap();

    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), []);
    peer.bend(Ways { view: Some(other), ..Ways::default() });
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(state(&space, &report, PROVIDER), LogState::Forked);
    assert!(matches!(state(&space, &report, REGISTRAR), LogState::Consistent { .. }));
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_FORKED, PROVIDER));
    assert!(matches!(stranger_sees(&space, CONSUMER, PROVIDER), ForkProof::Checkpoints { .. }));
    assert_eq!(
        space
            .node(CONSUMER)
            .ledger()
            .evidence(&space.node(CONSUMER).ledger().store().view(), 9)
            .unwrap()
            .len(),
        1
    );

    // It stays so, whatever the ledger shows now; once a person has dealt with it, it is silent.
    peer.bend(Ways::default());
    space.clock.advance(DELAY);
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!((report.raised, report.ended), (0, 0));
    let id = space.node(CONSUMER).alerts(false, 9).unwrap()[0].id;
    space.node(CONSUMER).resolve_alert(id).await.unwrap();
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(state(&space, &report, PROVIDER), LogState::Forked);
    assert_eq!((open(&space.node(CONSUMER)), report.raised), (vec![], 0));
}

/// A provider whose ledger was rolled back and then went on differently.
async fn rolled_back(space: &mut Space, monitor: usize, peer: &dyn LogPeer) {
    let backup = space.back_up(PROVIDER).await;
    for _ in 0..4 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    sign(space).await;
    settle(space, monitor, peer).await;
    assert_eq!(open(&space.node(monitor)), []);

    space.put_back(PROVIDER, &backup, Marked::No).await;
    let report = space.node(monitor).monitor_once(peer).await.unwrap();
    assert!(matches!(state(space, &report, PROVIDER), LogState::Shrunk { .. }));
    assert_eq!(open(&space.node(monitor)), alert(space, LEDGER_SHRUNK, PROVIDER));

    for _ in 0..9 {
        space.say(PROVIDER, REGISTRAR).await;
    }
    space.node(PROVIDER).ledger().checkpoint().await.unwrap();
}

#[tokio::test]
async fn a_rolled_back_ledger_that_goes_on_differently_is_proven_to_fork_by_what_it_proved_before() {
    let mut space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    rolled_back(&mut space, CONSUMER, &peer).await;
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(state(&space, &report, PROVIDER), LogState::Forked);
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_FORKED, PROVIDER));
    assert!(matches!(stranger_sees(&space, CONSUMER, PROVIDER), ForkProof::Entry { .. }));
}

#[tokio::test]
async fn a_witness_proves_a_fork_by_its_mirror() {
    let mut space = space().await;
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    rolled_back(&mut space, REGISTRAR, &peer).await;
    let report = space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    assert_eq!(state(&space, &report, PROVIDER), LogState::Forked);
    assert_eq!(open(&space.node(REGISTRAR)), alert(&space, LEDGER_FORKED, PROVIDER));
    assert!(matches!(stranger_sees(&space, REGISTRAR, PROVIDER), ForkProof::Entry { .. }));
}

#[tokio::test]
async fn a_ledger_that_gets_its_entries_back_is_forgiven() {
    let mut space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let old = space.node(PROVIDER).checkpoint(&space.caller(CONSUMER)).await.unwrap();
    let backup = space.back_up(PROVIDER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    settle(&space, CONSUMER, &peer).await;
    let whole = space.back_up(PROVIDER).await;

    // An old answer alone is none: the ledger can show that it goes on.
    peer.bend(Ways { checkpoint: Some(old), ..Ways::default() });
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert!(matches!(state(&space, &report, PROVIDER), LogState::Consistent { .. }));
    peer.bend(Ways::default());

    space.put_back(PROVIDER, &backup, Marked::No).await;
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_SHRUNK, PROVIDER));
    space.put_back(PROVIDER, &whole, Marked::No).await;
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!((open(&space.node(CONSUMER)), report.ended), (vec![], 1));
}

#[tokio::test]
async fn a_ledger_that_shows_another_history_to_its_witness_is_found_out() {
    let mut space = space().await;
    let copy = space.back_up(PROVIDER).await;
    let other = second(&space, "provider", &copy, 77);
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    let ledger = other.ledger().clone();
    let own = space.ids[PROVIDER].to_string();
    let issue = move |tx: &mut Tx<'_>| {
        let detail = huitong_proof::cbor::Map::new();
        let (agreement, reference) = (Digest::ZERO, Digest::ZERO);
        ledger.issue(
            tx,
            Draft { kind: Kind::Usage, audience: own, subject: [1; 16], agreement, reference, detail },
        )
    };
    other.ledger().store().transact("test", issue).await.unwrap();
    let shown = other.ledger().checkpoint().await.unwrap();

    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), []);
    peer.bend(Ways { witnessed: Some(shown.text().to_owned()), ..Ways::default() });
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(state(&space, &report, PROVIDER), LogState::Forked);
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_FORKED, PROVIDER));
    stranger_sees(&space, CONSUMER, PROVIDER);
}

#[tokio::test]
async fn a_ledger_that_gives_no_consistency_proof_is_inconsistent_until_it_does() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { refuses_consistency: true, ..Ways::default() });
    for round in 0..2 {
        let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
        assert!(matches!(state(&space, &report, PROVIDER), LogState::Inconsistent { .. }));
        assert_eq!(
            open(&space.node(CONSUMER)),
            alert(&space, LEDGER_INCONSISTENT, PROVIDER),
            "round {round}"
        );
    }
    peer.bend(Ways::default());
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), []);
}

#[tokio::test]
async fn a_smaller_checkpoint_of_another_history_is_no_old_answer() {
    let mut space = space().await;
    let copy = space.back_up(PROVIDER).await;
    let other = second(&space, "provider", &copy, 77);
    let (ledger, own) = (other.ledger().clone(), space.ids[PROVIDER].to_string());
    let issue = move |tx: &mut Tx<'_>| {
        let detail = huitong_proof::cbor::Map::new();
        let (agreement, reference) = (Digest::ZERO, Digest::ZERO);
        let audience = own;
        ledger
            .issue(tx, Draft { kind: Kind::Usage, audience, subject: [1; 16], agreement, reference, detail })
    };
    other.ledger().store().transact("test", issue).await.unwrap();
    let smaller = other.ledger().checkpoint().await.unwrap();

    // The first instance goes on, further, and is what answers.
    for _ in 0..3 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    sign(&space).await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    peer.bend(Ways { checkpoint: Some(smaller.text().to_owned()), ..Ways::default() });
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert!(matches!(state(&space, &report, PROVIDER), LogState::Shrunk { .. }), "nobody gives its leaves");
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_SHRUNK, PROVIDER));

    // With the leaves of both the two are compared: by an audit, for the monitor tries once.
    space.node(REGISTRAR).monitor_once(&space.link(REGISTRAR)).await.unwrap();
    peer.bend(Ways { view: Some(other), ..Ways::default() });
    let report = space.node(CONSUMER).audit(&peer, &space.ids[PROVIDER]).await.unwrap();
    assert!(matches!(report.fork_proof, Some(ForkProof::Entry { .. })));
    let mut open = open(&space.node(CONSUMER));
    open.retain(|(code, _)| code != LEDGER_SHRUNK);
    assert_eq!(open, alert(&space, LEDGER_FORKED, PROVIDER));
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(super::fixture::open(&space.node(CONSUMER)), alert(&space, LEDGER_FORKED, PROVIDER));
    stranger_sees(&space, CONSUMER, PROVIDER);
}

#[tokio::test]
async fn a_statement_that_its_issuer_does_not_log_is_missed_until_it_does() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let dropped = space.tell(PROVIDER, CONSUMER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { drops: vec![dropped.digest()], ..Ways::default() });
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), [], "it may still come");
    space.clock.advance(DELAY);
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    for round in 1..3 {
        space.node(CONSUMER).monitor_once(&peer).await.unwrap();
        assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
        let alert = space.node(CONSUMER).alerts(false, 9).unwrap().remove(0);
        assert_eq!((alert.subject, alert.count), (dropped.digest().to_string(), round));
        assert!(alert.text.contains(&dropped.digest().to_string()));
    }
    // Logged late; and a false leaf is none.
    peer.bend(Ways { leaf: Some(Digest::sha256(b"other")), ..Ways::default() });
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
    peer.bend(Ways::default());
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!((open(&space.node(CONSUMER)), report.ended), (vec![], 1));
}

#[tokio::test]
async fn a_statement_that_was_sent_is_missed_once_the_other_is_known_to_hold_it() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    let sent = space.tell(CONSUMER, PROVIDER).await;
    let reply = Draft {
        kind: Kind::Accept,
        audience: space.ids[CONSUMER].to_string(),
        subject: [7; 16],
        agreement: Digest::ZERO,
        reference: sent.digest(),
        detail: huitong_proof::cbor::Map::new(),
    };
    sign(&space).await;

    // It denies to have it: that cannot be told from a message that was lost.
    let denies = Ways { drops: vec![sent.digest()], shows_nothing: true, ..Ways::default() };
    peer.bend(denies.clone());
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), []);

    // It shows it, or has answered it.
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { drops: vec![sent.digest()], ..Ways::default() });
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
    peer.bend(Ways::default());
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), []);

    let ledger = space.node(PROVIDER).ledger().clone();
    let again = space.tell(CONSUMER, PROVIDER).await;
    let reply = Draft { reference: again.digest(), ..reply };
    let issue = move |tx: &mut Tx<'_>| ledger.issue(tx, reply);
    let answer: Statement = space.node(PROVIDER).ledger().store().transact("test", issue).await.unwrap();
    space.deliver(PROVIDER, CONSUMER, &answer).await;
    peer.bend(Ways { drops: vec![again.digest()], shows_nothing: true, ..Ways::default() });
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
}

#[tokio::test]
async fn a_statement_that_is_denied_hides_none_behind_it() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    let denied = space.tell(CONSUMER, PROVIDER).await;
    let answered = space.tell(CONSUMER, PROVIDER).await;
    let reply = Draft {
        kind: Kind::Accept,
        audience: space.ids[CONSUMER].to_string(),
        subject: [7; 16],
        agreement: Digest::ZERO,
        reference: answered.digest(),
        detail: huitong_proof::cbor::Map::new(),
    };
    let ledger = space.node(PROVIDER).ledger().clone();
    let issue = move |tx: &mut Tx<'_>| ledger.issue(tx, reply);
    let reply: Statement = space.node(PROVIDER).ledger().store().transact("test", issue).await.unwrap();
    space.deliver(PROVIDER, CONSUMER, &reply).await;
    let drops = vec![denied.digest(), answered.digest()];
    peer.bend(Ways { drops: drops.clone(), shows_nothing: true, ..Ways::default() });
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
    // Once it shows the first, that is missed, too.
    peer.bend(Ways { drops, ..Ways::default() });
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)).len(), 2);
    peer.bend(Ways::default());
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), []);
}

#[tokio::test]
async fn a_statement_without_answer_hides_none_behind_it() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let hidden = space.tell(PROVIDER, CONSUMER).await;
    let dropped = space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { stalls: vec![hidden.digest()], drops: vec![dropped.digest()], ..Ways::default() });
    settle(&space, CONSUMER, &peer).await;
    space.clock.advance(DELAY);
    space.tell(CONSUMER, PROVIDER).await;
    sign(&space).await;
    for _ in 0..2 {
        space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    }
    let one = alert(&space, STATEMENT_NOT_LOGGED, PROVIDER);
    assert_eq!(open(&space.node(CONSUMER)), [one.clone(), one].concat());
    peer.bend(Ways::default());
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), []);
}

#[tokio::test]
async fn messages_that_never_arrived_hold_up_nothing() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    // Lost on the way; then one that arrives, then one that is still on its way.
    space.say(CONSUMER, PROVIDER).await;
    space.tell(CONSUMER, PROVIDER).await;
    let late = space.say(CONSUMER, PROVIDER).await;
    sign(&space).await;
    let report = settle(&space, CONSUMER, &peer).await;
    assert_eq!(report.logs.iter().map(|log| log.proven).sum::<usize>(), 1);
    assert_eq!(open(&space.node(CONSUMER)), []);
    peer.asked("inclusion");
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(peer.asked("inclusion"), 1, "the one that was lost for good is not asked for again");
    space.deliver(CONSUMER, PROVIDER, &late).await;
    sign(&space).await;
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(report.logs.iter().map(|log| log.proven).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_ledger_that_signs_nothing_new_although_statements_wait_has_stopped() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    let old = space.node(PROVIDER).checkpoint(&space.caller(CONSUMER)).await.unwrap();
    peer.bend(Ways { checkpoint: Some(old), ..Ways::default() });
    space.clock.advance(DELAY);
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), [], "an idle ledger has nothing to sign");

    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_STOPPED, PROVIDER));
    peer.bend(Ways::default());
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!((open(&space.node(CONSUMER)), report.ended), (vec![], 1));
}

#[tokio::test]
async fn a_ledger_that_has_nothing_cosigned_has_stopped() {
    let space = space().await;
    let (registrar, peer) = (space.node(REGISTRAR), Bent::new(&space, REGISTRAR, PROVIDER));
    registrar.monitor_once(&peer).await.unwrap();
    // Idle for long: there is nothing to cosign.
    space.clock.advance(STALE);
    registrar.monitor_once(&peer).await.unwrap();
    assert_eq!(open(&registrar), []);
    for (past, alerts) in [(STALE / 2, vec![]), (STALE, alert(&space, LEDGER_STOPPED, PROVIDER))] {
        space.tell(PROVIDER, CONSUMER).await;
        space.node(PROVIDER).ledger().checkpoint().await.unwrap();
        registrar.monitor_once(&peer).await.unwrap();
        space.clock.advance(past);
        registrar.monitor_once(&peer).await.unwrap();
        assert_eq!(open(&registrar), alerts);
    }
    space.finish(PROVIDER).await;
    registrar.monitor_once(&peer).await.unwrap();
    assert_eq!(open(&registrar), []);
}

#[tokio::test]
async fn a_ledger_that_does_not_answer_for_one_statement_cannot_hide_it() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let hidden = space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { stalls: vec![hidden.digest()], ..Ways::default() });
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), []);
    space.clock.advance(DELAY);
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
    peer.bend(Ways::default());
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), []);
}

#[tokio::test]
async fn a_number_that_is_missing_is_a_gap_unless_the_other_shows_it() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    let lost = space.say(PROVIDER, CONSUMER).await;
    space.say(PROVIDER, CONSUMER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { shows_nothing: true, ..Ways::default() });
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, CHANNEL_GAP, PROVIDER));
    let text = space.node(CONSUMER).alerts(false, 1).unwrap().remove(0).text;
    assert!(text.contains("3 to 4"), "{text}");

    // One arrives late, and counts at once; the other one is shown and logged.
    space.deliver(PROVIDER, CONSUMER, &lost).await;
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    let text = space.node(CONSUMER).alerts(false, 1).unwrap().remove(0).text;
    assert!(text.contains(": 4;"), "{text}");
    peer.bend(Ways::default());
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!((open(&space.node(CONSUMER)), report.ended), (vec![], 1));
    peer.asked("statements");
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(peer.asked("statements"), 0, "what was shown once is not asked for again");
}

#[tokio::test]
async fn what_is_shown_and_not_logged_is_missed() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let lost = space.say(PROVIDER, CONSUMER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    peer.bend(Ways { drops: vec![lost.digest()], ..Ways::default() });
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_NOT_LOGGED, PROVIDER));
}

#[tokio::test]
async fn a_node_that_is_off_for_long_is_unreachable_until_it_is_back() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    settle(&space, CONSUMER, &peer).await;
    peer.bend(Ways { down: true, ..Ways::default() });
    space.tell(PROVIDER, CONSUMER).await;
    settle(&space, CONSUMER, &peer).await;
    assert_eq!(open(&space.node(CONSUMER)), []);
    space.clock.advance(STALE);
    let report = space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert!(matches!(state(&space, &report, PROVIDER), LogState::Unreachable { .. }));
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_UNREACHABLE, PROVIDER));
    // What its key has not signed is no answer either.
    let foreign = space.node(REGISTRAR).checkpoint(&space.caller(CONSUMER)).await.unwrap();
    peer.bend(Ways { checkpoint: Some(foreign), ..Ways::default() });
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), alert(&space, LEDGER_UNREACHABLE, PROVIDER));
    sign(&space).await;
    peer.bend(Ways::default());
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(CONSUMER)), []);
}

#[tokio::test]
async fn two_statements_with_one_number_are_a_proven_fork() {
    let mut space = space().await;
    let backup = space.back_up(PROVIDER).await;
    space.tell(PROVIDER, CONSUMER).await;
    space.put_back(PROVIDER, &backup, Marked::No).await;
    let second = space.say(PROVIDER, CONSUMER).await;
    let (ledger, caller) = (space.node(CONSUMER).ledger().clone(), space.caller(PROVIDER));
    let admit = move |tx: &mut Tx<'_>| -> Result<Result<(), LedgerError>, ServiceError> {
        remember(tx, &ledger, &caller)?;
        Ok(ledger.admit(tx, &second).map(|_| ()))
    };
    let refused = space.node(CONSUMER).ledger().store().transact("test", admit).await.unwrap();
    assert!(matches!(refused, Err(LedgerError::Fork { .. })));

    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    peer.bend(Ways { down: true, ..Ways::default() });
    for _ in 0..2 {
        space.node(CONSUMER).monitor_once(&peer).await.unwrap();
        assert_eq!(open(&space.node(CONSUMER)), alert(&space, STATEMENT_FORKED, PROVIDER));
    }
    assert!(matches!(stranger_sees(&space, CONSUMER, PROVIDER), ForkProof::Statements { .. }));
}

#[tokio::test]
async fn every_pair_of_evidence_has_its_turn() {
    let mut space = space().await;
    let backup = space.back_up(PROVIDER).await;
    space.tell(PROVIDER, CONSUMER).await;
    space.put_back(PROVIDER, &backup, Marked::No).await;
    let second = space.say(PROVIDER, CONSUMER).await;
    let (node, caller) = (space.node(CONSUMER), space.caller(PROVIDER));
    let ledger = node.ledger().clone();
    let admit = move |tx: &mut Tx<'_>| -> Result<Result<(), LedgerError>, ServiceError> {
        remember(tx, &ledger, &caller)?;
        Ok(ledger.admit(tx, &second).map(|_| ()))
    };
    node.ledger().store().transact("test", admit).await.unwrap().unwrap_err();
    // Pairs of somebody whose key is not known come up again and again; one stands before the pair that counts.
    let junk =
        |number: u8| huitong_ledger::Evidence::Statements { kept: vec![number], refused: vec![number] };
    let first = || node.ledger().evidence(&node.ledger().store().view(), 1).unwrap();
    let mut pairs = 1;
    while pairs < 4 || !(0..pairs).any(|number| first() == [junk(number)]) {
        node.ledger().preserve(&junk(pairs)).await.unwrap();
        pairs += 1;
    }
    for _ in 0..pairs {
        node.adopt_next(1).await.unwrap();
    }
    assert_eq!(open(&node), alert(&space, STATEMENT_FORKED, PROVIDER));
}

#[tokio::test]
async fn every_ledger_has_its_turn_and_every_statement_too() {
    let space = Space::with_connectors(1).await;
    for place in 1..4 {
        space.finish(place).await;
    }
    let peer = space.link(REGISTRAR);
    let bounds = MonitorBounds { logs: 2, statements: 2, ..MonitorBounds::default() };
    let mut seen = Vec::new();
    for _ in 0..3 {
        let report = space.node(REGISTRAR).monitor_within(&peer, &bounds).await.unwrap();
        assert_eq!((report.logs.len(), report.remaining), (2, 1));
        seen.extend(report.logs.into_iter().map(|log| log.node));
    }
    for place in 1..4 {
        assert_eq!(seen.iter().filter(|node| **node == space.ids[place]).count(), 2, "{place}");
    }

    for _ in 0..5 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    space.finish(PROVIDER).await;
    let peer = space.link(CONSUMER);
    space.node(CONSUMER).monitor_within(&peer, &bounds).await.unwrap();
    space.clock.advance(DELAY);
    let mut proven = Vec::new();
    for _ in 0..4 {
        let report = space.node(CONSUMER).monitor_within(&peer, &bounds).await.unwrap();
        let log = report.logs.into_iter().find(|log| log.node == space.ids[PROVIDER]).unwrap();
        proven.push((log.proven, log.more));
    }
    assert_eq!(proven, [(2, true), (2, true), (1, false), (0, false)]);
}

#[tokio::test]
async fn a_witness_that_does_not_cosign_for_long_is_failing() {
    let space = space().await;
    let peer = space.link(PROVIDER);
    let failing = |space: &Space| open(&space.node(PROVIDER));
    space.fault(REGISTRAR, Some(crate::tests::Fault::Dead));
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    space.node(PROVIDER).monitor_once(&peer).await.unwrap();
    space.clock.advance(DELAY);
    space.node(PROVIDER).monitor_once(&peer).await.unwrap();
    assert_eq!(failing(&space), []);
    space.clock.advance(STALE);
    space.node(PROVIDER).monitor_once(&peer).await.unwrap();
    let registrar = space.ids[REGISTRAR].to_string();
    assert_eq!(
        failing(&space),
        [(LEDGER_UNREACHABLE.to_owned(), registrar.clone()), (WITNESS_FAILING.to_owned(), registrar)]
    );
    space.fault(REGISTRAR, None);
    space.finish(PROVIDER).await;
    space.node(PROVIDER).monitor_once(&peer).await.unwrap();
    assert_eq!(failing(&space), []);
}

#[test]
fn an_issuers_date_does_not_matter_but_how_long_an_entry_has_been_here() {
    // The walk looks at indexes only; see `rows::ripe_size`. A clock that jumps ahead and back costs one delay.
    let dir = tempfile::tempdir().unwrap();
    let store = huitong_store::Store::open(dir.path(), std::sync::Arc::new(|| 0)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
    let delay = Duration::from_secs(600);
    let check = |now: u64, size: u64, ripe: u64| {
        let view = store.view();
        if rows::mark_due(&view, at(now), delay).unwrap() {
            let mark = move |tx: &mut Tx<'_>| rows::put_mark(tx, at(now), delay, size);
            runtime.block_on(store.transact("test", mark)).unwrap();
        }
        assert_eq!(rows::ripe_size(&view, at(now), delay).unwrap(), ripe, "at {now}");
    };
    check(10_000, 5, 0);
    check(10_030, 6, 0);
    check(10_300, 7, 0);
    check(10_600, 8, 5);
    check(10_900, 9, 7);
    check(90_000, 9, 9);
    check(10_901, 9, 0);
    assert!(!rows::mark_due(&store.view(), at(10_902), delay).unwrap(), "marks of the future are gone");
    check(11_501, 9, 9);
}

/// What may happen between provider and consumer.
#[derive(Debug, Clone)]
enum Happening {
    Tell,
    /// Said and lost; the index draws one that is delivered later, if at all.
    Say,
    Deliver(proptest::sample::Index),
    /// Told, and not logged. (What was proven once stays in a ledger that only grows.)
    Drop,
    Log(proptest::sample::Index),
    Pass(u64),
    Round,
}

fn happening() -> impl proptest::strategy::Strategy<Value = Happening> {
    use proptest::prelude::*;
    prop_oneof![
        3 => Just(Happening::Tell),
        2 => Just(Happening::Say),
        2 => any::<prop::sample::Index>().prop_map(Happening::Deliver),
        2 => Just(Happening::Drop),
        1 => any::<prop::sample::Index>().prop_map(Happening::Log),
        2 => (1_u64..900).prop_map(Happening::Pass),
        3 => Just(Happening::Round),
    ]
}

/// Whatever happens in whatever order: once time has passed, the alerts are those of what is wrong then.
async fn ends_with_what_is_wrong(happenings: Vec<Happening>) {
    let space = Space::new().await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    let consumer = space.node(CONSUMER);
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let (mut here, mut lost, mut dropped) = (Vec::new(), Vec::new(), Vec::<Statement>::new());
    let bend = |dropped: &[Statement]| {
        let drops = dropped.iter().map(Statement::digest).collect();
        peer.bend(Ways { drops, shows_nothing: true, ..Ways::default() });
    };
    bend(&dropped);
    for happening in happenings {
        match happening {
            Happening::Tell => here.push(space.tell(PROVIDER, CONSUMER).await),
            Happening::Say => lost.push(space.say(PROVIDER, CONSUMER).await),
            Happening::Deliver(which) if !lost.is_empty() => {
                let late = lost.remove(which.index(lost.len()));
                space.deliver(PROVIDER, CONSUMER, &late).await;
                here.push(late);
            }
            Happening::Drop => {
                let statement = space.tell(PROVIDER, CONSUMER).await;
                here.push(statement.clone());
                dropped.push(statement);
            }
            Happening::Log(which) if !dropped.is_empty() => {
                dropped.remove(which.index(dropped.len()));
            }
            Happening::Pass(seconds) => space.clock.advance(Duration::from_secs(seconds)),
            Happening::Round => {
                sign(&space).await;
                consumer.monitor_once(&peer).await.unwrap();
            }
            _ => {}
        }
        bend(&dropped);
    }
    let check = async |dropped: &[Statement], lost: &[Statement]| {
        for _ in 0..3 {
            space.clock.advance(DELAY / 8);
            space.say(PROVIDER, REGISTRAR).await;
            sign(&space).await;
            consumer.monitor_once(&peer).await.unwrap();
            space.clock.advance(DELAY);
        }
        let highest = here.iter().map(|statement| statement.body().seq).max().unwrap_or_default();
        let mut expected: Vec<(String, String)> = Vec::new();
        expected.extend(
            lost.iter().any(|statement| statement.body().seq < highest).then(|| {
                (CHANNEL_GAP.to_owned(), format!("{} {}", space.ids[PROVIDER], space.ids[CONSUMER]))
            }),
        );
        let missing =
            dropped.iter().map(|statement| (STATEMENT_NOT_LOGGED.to_owned(), statement.digest().to_string()));
        expected.extend(missing);
        expected.sort();
        expected.dedup();
        let mut found: Vec<_> = consumer
            .alerts(false, 99)
            .unwrap()
            .into_iter()
            .map(|alert| (alert.code, alert.subject))
            .collect();
        found.sort();
        assert_eq!(found, expected);
    };
    check(&dropped, &lost).await;
    for late in &lost {
        space.deliver(PROVIDER, CONSUMER, late).await;
    }
    bend(&[]);
    check(&[], &[]).await;
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 5, failure_persistence: None, ..Default::default() })]

    #[test]
    fn alerts_are_those_of_what_is_wrong(happenings in proptest::collection::vec(happening(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ends_with_what_is_wrong(happenings));
    }
}

/// Workers and interfaces run these on a runtime of several threads.
#[tokio::test]
async fn rounds_and_audits_may_move_between_threads() {
    fn check<F: Future + Send>(future: F) -> F {
        future
    }
    let space = space().await;
    let (node, link, other) = (space.node(CONSUMER), space.link(CONSUMER), space.ids[PROVIDER].clone());
    check(async { node.monitor_once(&link).await }).await.unwrap();
    check(async { node.mirror_once(&link, MIRRORED_LEAVES).await }).await.unwrap();
    check(async { node.audit(&link, &other).await }).await.unwrap();
}
