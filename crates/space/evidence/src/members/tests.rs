//! The log of logs of a real function node, and statements of many.

use std::time::Duration;

use huitong_ledger::{SignedCheckpoint, leaf_hash};
use huitong_proof::Clock as _;

use super::*;
use crate::tests::{CONSUMER, PROVIDER, REGISTRAR, Space};

async fn space() -> Space {
    let space = Space::new().await;
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    space
}

#[tokio::test]
async fn the_members_are_stated_once_a_day_across_restarts() {
    let mut space = space().await;
    let registrar = space.node(REGISTRAR);
    let stated = registrar.log_members_once().await.unwrap().unwrap();
    let head = &stated.logs[0];
    let signed = space.node(PROVIDER).ledger().checkpoint().await.unwrap();
    assert_eq!(
        (&head.origin, head.size, head.root),
        (&signed.checkpoint().origin, signed.checkpoint().size, signed.checkpoint().root,)
    );
    assert_eq!(head.cosigned.map(|time| time.millis() / 1_000), Some(space.clock.now().millis() / 1_000));
    assert_eq!(stated.logs.len(), 1, "nothing was seen of the consumer yet");
    // The member's own signature, and this node's, are kept with it, however far the ledger goes on.
    let note = head.checkpoint.clone().unwrap();
    let kept = SignedCheckpoint::parse(&note, &space.caller(PROVIDER).credential().log).unwrap();
    assert_eq!((kept.checkpoint().size, kept.checkpoint().root), (head.size, head.root));
    assert!(kept.cosigned_by(registrar.cosigner().verifier()).unwrap().is_some());
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    assert_eq!(registrar.list_logs(1).unwrap()[0].logs[0].checkpoint, Some(note));
    assert_eq!(registrar.log_members_once().await.unwrap(), None);

    let settings = registrar.settings().clone();
    drop(registrar);
    space.stop(REGISTRAR).await;
    space.start(REGISTRAR, settings);
    let registrar = space.node(REGISTRAR);
    assert_eq!(registrar.log_members_once().await.unwrap(), None);
    assert_eq!(registrar.list_logs(9).unwrap(), std::slice::from_ref(&stated));

    // The next day, and once more on demand.
    space.clock.advance(Duration::from_secs(24 * 3_600));
    space.finish(CONSUMER).await;
    let next = registrar.log_members_once().await.unwrap().unwrap();
    let origins: Vec<_> = next.logs.iter().map(|head| head.origin.clone()).collect();
    assert_eq!(origins.len(), 2);
    assert!(origins.is_sorted());
    let again = registrar.state_logs().await.unwrap();
    assert_eq!(registrar.list_logs(9).unwrap(), [again.clone(), next, stated]);
    assert_eq!(registrar.list_logs(1).unwrap(), std::slice::from_ref(&again));
    assert_eq!(registrar.log_members_once().await.unwrap(), None);

    // It stands in the ledger that witnesses cosign.
    let size = registrar.ledger().checkpoint().await.unwrap().checkpoint().size;
    let statement =
        registrar.ledger().statement(&registrar.ledger().store().view(), &again.digest).unwrap().unwrap();
    let leaf = registrar.ledger().leaves(again.index, 1).unwrap();
    assert!(again.index < size);
    assert_eq!(leaf, [leaf_hash(statement.bytes())]);
}

#[tokio::test]
async fn what_is_only_observed_has_no_time_and_counts_when_it_is_newer() {
    let space = space().await;
    let registrar = space.node(REGISTRAR);
    space.tell(PROVIDER, CONSUMER).await;
    space.node(PROVIDER).ledger().checkpoint().await.unwrap();
    registrar.monitor_once(&space.link(REGISTRAR)).await.unwrap();
    let stated = registrar.state_logs().await.unwrap();
    let origin = origin_of(space.ids[PROVIDER].as_str());
    let head = stated.logs.iter().find(|head| head.origin == origin).unwrap();
    assert_eq!(head.cosigned, None);
    assert!(head.checkpoint.as_ref().is_some_and(|text| text.starts_with(&origin)));
    assert_eq!(head.size, space.node(PROVIDER).ledger().checkpoint().await.unwrap().checkpoint().size);
}

#[tokio::test]
async fn nobody_else_states_anything() {
    let space = space().await;
    assert!(matches!(space.node(PROVIDER).state_logs().await, Err(ServiceError::Forbidden { .. })));
    assert_eq!(space.node(PROVIDER).log_members_once().await.unwrap(), None);
    assert_eq!(space.node(PROVIDER).list_logs(9).unwrap(), []);
    space.node(REGISTRAR).ledger().stop_signing("in a test").unwrap();
    assert_eq!(space.node(REGISTRAR).log_members_once().await.unwrap(), None);
    assert!(space.node(REGISTRAR).state_logs().await.is_err());
}

/// As many ledgers as that, in statements that the ledger takes.
async fn check(count: usize, statements: usize) {
    let space = Space::new().await;
    let registrar = space.node(REGISTRAR);
    let head = |n: usize| LogHead {
        // As long as an origin gets, with numbers as large as they get.
        origin: origin_of(&format!("{n:032}")),
        size: u64::MAX - n as u64,
        root: Digest::sha256(&n.to_be_bytes()),
        cosigned: n.is_multiple_of(2).then(|| Timestamp::from_millis(u64::MAX)),
        checkpoint: None,
    };
    let logs: Vec<LogHead> = (0..count).map(head).collect();
    let (ledger, stated) = (registrar.ledger().clone(), logs.clone());
    let subject = subject_of(registrar.now().millis() / DAY);
    let state = move |tx: &mut Tx<'_>| issue(&ledger, tx, subject, &stated);
    let (last, parts) = registrar.ledger().store().transact("test", state).await.unwrap();
    assert_eq!(parts.len() + 1, statements);
    let listed = registrar.list_logs(9).unwrap();
    assert_eq!(listed.len(), 1, "the others are parts of the last");
    assert_eq!((listed[0].digest, &listed[0].parts, &listed[0].logs), (last.digest(), &parts, &logs));
}

#[tokio::test]
async fn many_ledgers_take_several_statements() {
    check(0, 1).await;
    check(MAX_IN_ONE, 1).await;
    check(MAX_IN_ONE + 1, 3).await;
    check(MAX_IN_ONE * 5, 6).await;
}

#[tokio::test]
async fn one_statement_names_as_many_others_as_it_must() {
    let space = Space::new().await;
    let ledger = space.node(REGISTRAR).ledger().clone();
    let parts: Vec<Digest> = (0..MAX_PARTS).map(|n| Digest::sha256(&n.to_be_bytes())).collect();
    let draft = Draft {
        kind: Kind::Logs,
        audience: ledger.node().to_owned(),
        subject: [0; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: detail(&[], &parts),
    };
    let issue = move |tx: &mut Tx<'_>| ledger.issue(tx, draft);
    let statement = space.node(REGISTRAR).ledger().store().transact("test", issue).await.unwrap();
    assert_eq!(read(&statement).unwrap(), (Vec::new(), parts));
}
