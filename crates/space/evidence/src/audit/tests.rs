//! What an audit says of honest and of dishonest ledgers.

use std::time::Duration;

use huitong_ledger::ForkProof;
use huitong_proof::cbor::Map;
use huitong_proof::{Draft, Kind};
use huitong_store::Tx;

use super::*;
use crate::monitor::fixture::{Bent, Ways, second};
use crate::tests::{CONSUMER, Marked, PROVIDER, REGISTRAR, Space};

const DELAY: Duration = Duration::from_secs(701);

async fn space() -> Space {
    let space = Space::new().await;
    for _ in 0..3 {
        space.tell(PROVIDER, CONSUMER).await;
        space.tell(CONSUMER, PROVIDER).await;
        sign(&space).await;
        space.node(CONSUMER).monitor_once(&space.link(CONSUMER)).await.unwrap();
        space.node(PROVIDER).monitor_once(&space.link(PROVIDER)).await.unwrap();
        space.node(REGISTRAR).monitor_once(&space.link(REGISTRAR)).await.unwrap();
        space.clock.advance(DELAY * 6);
    }
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    space.node(CONSUMER).monitor_once(&space.link(CONSUMER)).await.unwrap();
    space
}

async fn sign(space: &Space) {
    for place in [REGISTRAR, PROVIDER, CONSUMER] {
        space.finish(place).await;
    }
}

async fn audit(space: &Space, from: usize, peer: &Bent) -> AuditReport {
    space.node(from).audit(peer, &space.ids[PROVIDER]).await.unwrap()
}

/// The checks whose outcome that is, by the first words of their names.
fn having(report: &AuditReport, outcome: AuditOutcome) -> Vec<String> {
    let checks = report.checks.iter().filter(|check| check.outcome == outcome);
    checks.map(|check| check.name.split(" of 5").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_honest_ledger_passes() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let report = audit(&space, CONSUMER, &peer).await;
    assert_eq!(report.outcome(), AuditOutcome::Ok, "{report:#?}");
    assert_eq!(report.fork_proof, None);
    let signed = SignedCheckpoint::parse(
        &report.checkpoint.clone().unwrap(),
        &space.caller(PROVIDER).credential().log,
    );
    assert_eq!(
        signed.unwrap().checkpoint(),
        space.node(PROVIDER).ledger().checkpoint().await.unwrap().checkpoint()
    );
    assert_eq!(having(&report, Skipped), ["mirror"], "{report:#?}");
    let fine = having(&report, Fine);
    for check in [
        "credential",
        "consistency",
        "older checkpoints",
        "statements",
        "numbers",
        "copies",
        "anchors in statements",
    ] {
        assert!(fine.iter().any(|name| name.starts_with(check)), "{check}: {report:#?}");
    }
    assert!(fine.contains(&format!("witness {}", space.ids[REGISTRAR])));
    let all = &report
        .checks
        .iter()
        .find(|check| check.name.starts_with("statements of 5911100008"))
        .unwrap()
        .detail;
    assert_eq!(all, "4 are in the ledger");

    // The witness looks at its mirror, too.
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    let report = audit(&space, REGISTRAR, &peer).await;
    assert_eq!(report.outcome(), AuditOutcome::Ok, "{report:#?}");
    assert!(having(&report, Fine).contains(&"mirror".to_owned()));
    assert!(having(&report, Fine).contains(&"witness: this node".to_owned()));

    let own = space.node(PROVIDER).audit(&space.link(PROVIDER), &space.ids[PROVIDER]).await;
    assert!(matches!(own, Err(ServiceError::Invalid { .. })));
}

#[tokio::test]
async fn each_fault_fails_its_check() {
    let space = space().await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    space.clock.advance(DELAY);
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    space.clock.advance(DELAY);
    let dropped = space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    space.clock.advance(DELAY);
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();

    let check = async |ways: Ways, outcome: AuditOutcome, expected: &[&str]| {
        peer.bend(ways);
        let report = audit(&space, CONSUMER, &peer).await;
        assert_eq!(having(&report, outcome), expected, "{report:#?}");
        assert_eq!((report.outcome(), report.fork_proof), (outcome, None));
    };
    check(Ways { down: true, ..Ways::default() }, Warning, &["checkpoint"]).await;
    let drops = vec![dropped.digest()];
    check(Ways { drops, ..Ways::default() }, Failed, &["statements"]).await;
    let stalls = vec![dropped.digest()];
    check(Ways { stalls, ..Ways::default() }, Warning, &["statements"]).await;
    let foreign = space.node(REGISTRAR).checkpoint(&space.caller(CONSUMER)).await.unwrap();
    check(Ways { checkpoint: Some(foreign), ..Ways::default() }, Failed, &["checkpoint"]).await;

    let lost = space.say(PROVIDER, CONSUMER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    space.clock.advance(DELAY);
    space.node(CONSUMER).monitor_once(&peer).await.unwrap();
    space.clock.advance(DELAY);
    let shows_nothing = Ways { shows_nothing: true, ..Ways::default() };
    check(shows_nothing, Failed, &["numbers"]).await;
    space.deliver(PROVIDER, CONSUMER, &lost).await;
    peer.bend(Ways::default());
    let report = audit(&space, CONSUMER, &peer).await;
    assert_eq!(report.outcome(), AuditOutcome::Ok, "{report:#?}");

    let mirrored = Bent::new(&space, REGISTRAR, PROVIDER);
    space.node(REGISTRAR).monitor_once(&mirrored).await.unwrap();
    mirrored.bend(Ways { leaves_from: Some((3, Digest::sha256(b"other"))), ..Ways::default() });
    let report = audit(&space, REGISTRAR, &mirrored).await;
    assert_eq!(having(&report, Failed), ["mirror"], "{report:#?}");
}

#[tokio::test]
async fn a_rolled_back_ledger_is_seen_by_its_counterparty_and_its_witness() {
    let mut space = space().await;
    let backup = space.back_up(PROVIDER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    let early = audit(&space, CONSUMER, &peer).await;
    assert_eq!(early.outcome(), AuditOutcome::Ok, "{early:#?}");
    space.put_back(PROVIDER, &backup, Marked::No).await;
    let report = audit(&space, CONSUMER, &peer).await;
    assert_eq!(having(&report, Failed), ["consistency"], "{report:#?}");
    assert_eq!(report.fork_proof, None, "it has not signed anything twice yet");
}

/// Statements of that instance of the provider to itself, signed.
async fn go_on(other: &Evidence, count: usize) -> SignedCheckpoint {
    let ledger = other.ledger().clone();
    let issue = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
        for _ in 0..count {
            ledger.issue(
                tx,
                Draft {
                    kind: Kind::Usage,
                    audience: ledger.node().to_owned(),
                    subject: [1; 16],
                    agreement: Digest::ZERO,
                    reference: Digest::ZERO,
                    detail: Map::new(),
                },
            )?;
        }
        Ok(())
    };
    other.ledger().store().transact("test", issue).await.unwrap();
    other.ledger().checkpoint().await.unwrap()
}

#[tokio::test]
async fn a_fork_is_proven_on_demand() {
    let mut space = space().await;
    let copy = space.back_up(PROVIDER).await;
    let other = second(&space, "provider", &copy, 99);
    for place in [CONSUMER, REGISTRAR] {
        space.tell(PROVIDER, place).await;
    }
    sign(&space).await;
    space.node(REGISTRAR).monitor_once(&space.link(REGISTRAR)).await.unwrap();

    // Its witness holds the larger history. The other instance shows a smaller one here, and answers for it: the two are
    // compared leaf by leaf, for the witness has a copy of what it cosigned.
    let shown = go_on(&other, 1).await;
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    peer.bend(Ways { view: Some(other), ..Ways::default() });
    let report = audit(&space, CONSUMER, &peer).await;
    assert_eq!(report.checkpoint.as_deref(), Some(shown.text()));
    assert_eq!(having(&report, Failed), [format!("witness {}", space.ids[REGISTRAR])], "{report:#?}");
    let proof = ForkProof::parse(&report.fork_proof.unwrap().to_text()).unwrap();
    assert!(matches!(proof, ForkProof::Entry { .. }));
    assert!(proof.verify().unwrap().contains("signed two histories"));
    // It is kept, and the next audit begins with it.
    let report = audit(&space, CONSUMER, &peer).await;
    assert_eq!(having(&report, Failed)[0], "kept fork proofs");
    assert!(report.fork_proof.is_some());
}

#[tokio::test]
async fn another_statement_with_the_same_number_is_proof() {
    let mut space = space().await;
    let copy = space.back_up(PROVIDER).await;
    space.tell(PROVIDER, CONSUMER).await;
    sign(&space).await;
    let other = second(&space, "provider", &copy, 99);
    let ledger = other.ledger().clone();
    let audience = space.ids[CONSUMER].to_string();
    let detail = Map::new();
    let (agreement, reference) = (Digest::ZERO, Digest::ZERO);
    let draft = Draft { kind: Kind::Usage, audience, subject: [1; 16], agreement, reference, detail };
    let issue = move |tx: &mut Tx<'_>| ledger.issue(tx, draft);
    other.ledger().store().transact("test", issue).await.unwrap();
    let peer = Bent::new(&space, CONSUMER, PROVIDER);
    peer.bend(Ways { shows_those_of: Some(other), ..Ways::default() });
    let report = audit(&space, CONSUMER, &peer).await;
    assert_eq!(having(&report, Failed), ["copies"], "{report:#?}");
    assert!(report.fork_proof.unwrap().verify().unwrap().contains("two statements with number"));
}
