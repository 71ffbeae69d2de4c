//! Getting back what a restored node has signed and lost.

use std::collections::BTreeSet;

use huitong_identity::ServiceError;
use huitong_ledger::{EntryState, verify_inclusion};
use huitong_proof::{Digest, Statement};

use super::{CONSUMER, Fault, Marked, PROVIDER, REGISTRAR, Space, all_leaves, size};
use crate::{ChannelSide, Evidence, Progress, RecoveryReport};

async fn recover(space: &Space, place: usize) -> Result<RecoveryReport, ServiceError> {
    let mut steps = Vec::new();
    let mut progress = |progress: Progress| steps.push(progress);
    let report = space.node(place).recover(&space.link(place), &mut progress).await;
    assert!(steps.iter().all(|step| step.done <= step.total), "{steps:?}");
    assert!(!steps.is_empty());
    report
}

/// The node signs on and everybody accepts it: the witness the next checkpoint, the counterparty the next statement.
async fn goes_on(space: &Space, place: usize, counterparty: usize) {
    let statement = space.tell(place, counterparty).await;
    let signed = space.finish(place).await;
    let standing = space.node(place).ledger_standing().unwrap();
    assert_eq!(standing.final_size, signed.checkpoint().size, "{standing:?}");
    let held = held_by(space, counterparty, place);
    assert!(held.contains(&statement.digest()));
    let numbers: Vec<u64> = channel(space, counterparty, place).iter().map(|s| s.body().seq).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "numbers without holes or doubles");
    assert_eq!(space.node(counterparty).ledger().evidence(&view(&space.node(counterparty)), 1).unwrap(), []);
}

fn view(node: &Evidence) -> huitong_store::View {
    node.ledger().store().view()
}

/// Statements of `issuer` as `holder` has them.
fn channel(space: &Space, holder: usize, issuer: usize) -> Vec<Statement> {
    let (node, mut from, mut all) = (space.node(holder), 0, Vec::new());
    loop {
        let page = node.statements(&space.caller(issuer), ChannelSide::FromCaller, from, 256).unwrap();
        if page.is_empty() {
            return all;
        }
        for bytes in page {
            let envelope = huitong_proof::Envelope::decode(bytes).unwrap();
            let key = space.caller(issuer).credential().statement_key.clone();
            let statement = envelope.verify(&key, node.ledger().space()).unwrap();
            from = statement.body().seq + 1;
            all.push(statement);
        }
    }
}

fn held_by(space: &Space, holder: usize, issuer: usize) -> BTreeSet<Digest> {
    channel(space, holder, issuer).iter().map(Statement::digest).collect()
}

/// A provider with some history, a backup of it, and more history; its leaves at the end.
struct Lost {
    space: Space,
    backup: std::path::PathBuf,
    leaves: Vec<Digest>,
}

async fn lost() -> Lost {
    let mut space = Space::with_connectors(1).await;
    for _ in 0..3 {
        space.tell(PROVIDER, CONSUMER).await;
        space.tell(PROVIDER, 3).await;
    }
    space.finish(PROVIDER).await;
    let backup = space.back_up(PROVIDER).await;
    for _ in 0..5 {
        space.tell(PROVIDER, CONSUMER).await;
        space.tell(CONSUMER, PROVIDER).await;
        space.tell(PROVIDER, 3).await;
    }
    space.finish(PROVIDER).await;
    space.mirror(PROVIDER);
    let leaves = all_leaves(&space.node(PROVIDER));
    Lost { space, backup, leaves }
}

#[tokio::test]
async fn everything_comes_back() {
    for marked in [Marked::Yes, Marked::No] {
        let Lost { mut space, backup, leaves } = lost().await;
        space.put_back(PROVIDER, &backup, marked).await;
        let from_size = size(&space.node(PROVIDER));
        let report = recover(&space, PROVIDER).await.unwrap();
        assert_eq!(all_leaves(&space.node(PROVIDER)), leaves);
        assert_eq!(report.safe_mode, None);
        assert_eq!((report.from_size, report.to_size), (from_size, leaves.len() as u64));
        assert_eq!(report.lost, Vec::<u64>::new());
        assert_eq!(report.recovered, leaves.len() as u64 - from_size);
        let affected = [CONSUMER, 3].map(|place| space.ids[place].to_string());
        assert_eq!(report.affected, BTreeSet::from(affected));
        assert_eq!(report.statements.len() as u64, report.recovered);
        assert_eq!(report.agreements.len(), 3, "one each way with the consumer, one with the other");
        goes_on(&space, PROVIDER, CONSUMER).await;
        goes_on(&space, PROVIDER, 3).await;

        // Nothing is left to do.
        let again = recover(&space, PROVIDER).await.unwrap();
        assert_eq!((again.recovered, again.from_size), (0, again.to_size));
    }
}

#[tokio::test]
async fn the_witnesss_own_copy_of_the_hashes_is_enough() {
    let Lost { mut space, backup, leaves } = lost().await;
    space.net.mirrors.lock().unwrap().clear();
    // As its worker does while the provider is whole.
    space.node(REGISTRAR).mirror_once(&space.link(REGISTRAR), crate::MIRRORED_LEAVES).await.unwrap();
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    let report = recover(&space, PROVIDER).await.unwrap();
    assert_eq!((report.lost.len(), report.safe_mode), (0, None));
    assert_eq!(all_leaves(&space.node(PROVIDER)), leaves);
    goes_on(&space, PROVIDER, CONSUMER).await;
}

#[tokio::test]
async fn what_nobody_gives_back_stays_a_gap_under_the_same_root() {
    let Lost { mut space, backup, leaves } = lost().await;
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    space.fault(3, Some(Fault::Dead));
    let report = recover(&space, PROVIDER).await.unwrap();
    assert_eq!(report.lost.len(), 5, "{report:?}");
    assert!(report.affected.contains(&space.ids[3].to_string()));
    assert_eq!(report.safe_mode, None, "the only witness of the policy has answered");

    let provider = space.node(PROVIDER);
    assert_eq!(all_leaves(&provider), leaves);
    provider.ledger().checkpoint().await.unwrap();
    let view = provider.ledger().store().view();
    let size = leaves.len() as u64;
    let root = provider.ledger().root_at(size).unwrap();
    for index in &report.lost {
        let state = provider.ledger().entry_state(&view, *index).unwrap().unwrap();
        assert!(matches!(state, EntryState::Redacted(_)));
        let path = provider.ledger().inclusion_at(*index, size).unwrap();
        verify_inclusion(&leaves[*index as usize], *index, size, &path, &root).unwrap();
    }
    goes_on(&space, PROVIDER, CONSUMER).await;
    // The one that could not be asked finds out when it is there again: its statements are proof.
    space.fault(3, None);
    let comparison = provider.compare_with(&space.link(PROVIDER), &space.ids[3]).await.unwrap();
    assert!(comparison.safe_mode.is_some());
    let report = recover(&space, PROVIDER).await.unwrap();
    assert_eq!((report.recovered, report.lost, report.safe_mode), (5, Vec::new(), None));
    assert_eq!(all_leaves(&provider)[..leaves.len()], leaves);
    goes_on(&space, PROVIDER, 3).await;
}

/// The registrar alone is the witness: it has the hash of what the provider has forgotten, and not the number.
#[tokio::test]
async fn no_number_is_used_twice_towards_a_counterparty_that_is_away() {
    for is_cosigned in [true, false] {
        let mut space = Space::new().await;
        space.tell(PROVIDER, CONSUMER).await;
        space.finish(PROVIDER).await;
        let backup = space.back_up(PROVIDER).await;
        let forgotten = space.tell(PROVIDER, CONSUMER).await;
        if is_cosigned {
            space.finish(PROVIDER).await;
            space.mirror(PROVIDER);
        }
        space.put_back(PROVIDER, &backup, Marked::Yes).await;
        space.fault(CONSUMER, Some(Fault::Dead));
        let report = recover(&space, PROVIDER).await.unwrap();
        assert_eq!((report.lost.len(), report.safe_mode), (usize::from(is_cosigned), None));
        let provider = space.node(PROVIDER);
        let error = space.try_to_say(PROVIDER, CONSUMER).await.unwrap_err();
        assert!(error.to_string().contains(space.ids[CONSUMER].as_str()), "{error}");
        space.say(PROVIDER, REGISTRAR).await;

        space.fault(CONSUMER, None);
        let comparison = provider.compare_late(&space.link(PROVIDER)).await.unwrap();
        assert!(comparison.safe_mode.is_some(), "{comparison:?}");
        let report = recover(&space, PROVIDER).await.unwrap();
        assert_eq!((report.statements, report.safe_mode), (vec![forgotten.digest()], None));
        goes_on(&space, PROVIDER, CONSUMER).await;
    }
}

#[tokio::test]
async fn statements_beyond_the_last_cosigned_checkpoint_come_back_too() {
    let Lost { mut space, backup, leaves } = lost().await;
    let mut beyond = Vec::new();
    for _ in 0..3 {
        beyond.push(space.tell(PROVIDER, CONSUMER).await.digest());
        space.clock.advance(std::time::Duration::from_millis(5));
        beyond.push(space.tell(PROVIDER, 3).await.digest());
        beyond.push(space.tell(CONSUMER, PROVIDER).await.digest());
    }
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    let report = recover(&space, PROVIDER).await.unwrap();
    let provider = space.node(PROVIDER);
    assert_eq!(all_leaves(&provider)[..leaves.len()], leaves);
    assert_eq!(report.to_size, leaves.len() as u64 + 9);
    let view = provider.ledger().store().view();
    for digest in beyond {
        assert!(provider.ledger().index_of(&view, &digest).unwrap().is_some());
        assert!(report.statements.contains(&digest));
    }
    assert_eq!(report.safe_mode, None);
    goes_on(&space, PROVIDER, CONSUMER).await;
    goes_on(&space, PROVIDER, 3).await;
}

#[tokio::test]
async fn without_any_checkpoint_the_counterparties_statements_come_back() {
    let mut space = Space::new().await;
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    let backup = space.back_up(PROVIDER).await;
    for _ in 0..4 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    space.put_back(PROVIDER, &backup, Marked::No).await;
    let report = recover(&space, PROVIDER).await.unwrap();
    assert_eq!((report.recovered, report.safe_mode), (4, None));
    goes_on(&space, PROVIDER, CONSUMER).await;
}

#[tokio::test]
async fn what_arrived_meanwhile_is_logged_behind_what_was_there() {
    let Lost { mut space, backup, leaves } = lost().await;
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    // Received while nothing is signed: at an index that belongs to another entry.
    let mut meanwhile = Vec::new();
    for _ in 0..3 {
        meanwhile.push(space.tell(CONSUMER, PROVIDER).await.digest());
    }
    let report = recover(&space, PROVIDER).await.unwrap();
    let provider = space.node(PROVIDER);
    let after = all_leaves(&provider);
    assert_eq!(after[..leaves.len()], leaves);
    assert_eq!(after.len(), leaves.len() + 3);
    assert_eq!(report.lost, Vec::<u64>::new());
    assert_eq!(report.safe_mode, None);
    for digest in meanwhile {
        let index = provider.ledger().index_of(&view(&provider), &digest).unwrap().unwrap();
        assert!(index >= leaves.len() as u64);
    }
    goes_on(&space, PROVIDER, CONSUMER).await;
}

#[tokio::test]
async fn a_recovery_without_hashes_waits_for_them() {
    let Lost { mut space, backup, leaves } = lost().await;
    space.net.mirrors.lock().unwrap().clear();
    space.put_back(PROVIDER, &backup, Marked::Yes).await;
    let error = recover(&space, PROVIDER).await.unwrap_err();
    assert!(matches!(error, ServiceError::Peer(_)), "{error}");
    let provider = space.node(PROVIDER);
    assert!(provider.safe_mode().is_some());
    assert!(size(&provider) < leaves.len() as u64);
    space.net.mirrors.lock().unwrap().insert(provider.ledger().origin().to_owned(), leaves.clone());
    assert_eq!(recover(&space, PROVIDER).await.unwrap().safe_mode, None);
    assert_eq!(all_leaves(&provider), leaves);
}

#[tokio::test]
async fn a_recovery_that_was_broken_off_goes_on() {
    let mut space = Space::new().await;
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    let backup = space.back_up(PROVIDER).await;
    for _ in 0..300 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    space.finish(PROVIDER).await;
    space.mirror(PROVIDER);
    let leaves = all_leaves(&space.node(PROVIDER));
    space.put_back(PROVIDER, &backup, Marked::No).await;

    let (provider, link) = (space.node(PROVIDER), space.link(PROVIDER));
    let (report, mut broken) = tokio::sync::mpsc::unbounded_channel();
    let mut progress = move |progress: Progress| {
        if progress.step == "putting entries back" && progress.done > leaves_before(&progress) {
            let _ = report.send(());
        }
    };
    tokio::select! {
        biased;
        _ = broken.recv() => {}
        done = provider.recover(&link, &mut progress) => panic!("was not broken off: {done:?}"),
    }
    drop(provider);
    // The machine goes down, and one more statement arrives before the operator tries again.
    let settings = space.node(PROVIDER).settings().clone();
    space.stop(PROVIDER).await;
    space.start(PROVIDER, settings);
    let between = size(&space.node(PROVIDER));
    assert!(between < leaves.len() as u64, "{between}");
    assert!(space.node(PROVIDER).safe_mode().is_some());
    space.tell(CONSUMER, PROVIDER).await;
    let report = recover(&space, PROVIDER).await.unwrap();
    assert_eq!(all_leaves(&space.node(PROVIDER))[..leaves.len()], leaves);
    assert_eq!((report.lost.len(), report.safe_mode), (0, None));
    goes_on(&space, PROVIDER, CONSUMER).await;
}

/// The first batch is reported before it is written, the second after.
fn leaves_before(progress: &Progress) -> u64 {
    progress.total.saturating_sub(250)
}

#[tokio::test]
async fn two_histories_cannot_be_mended() {
    let Lost { mut space, backup, .. } = lost().await;
    space.put_back(PROVIDER, &backup, Marked::No).await;
    // It was not asked, and signed other statements at the same sizes.
    space.clock.advance(std::time::Duration::from_secs(1));
    for _ in 0..40 {
        space.say(PROVIDER, CONSUMER).await;
    }
    let provider = space.node(PROVIDER);
    provider.ledger().checkpoint().await.unwrap();
    let comparison = provider.compare_once(&space.link(PROVIDER)).await.unwrap();
    assert!(comparison.safe_mode.unwrap().contains("another root"), "{:?}", comparison.compared);
    let error = recover(&space, PROVIDER).await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
    assert!(provider.safe_mode().is_some());
    assert!(provider.resume_unconfirmed().await.is_err());
}

#[tokio::test]
async fn statements_signed_since_cannot_be_mended_either() {
    let Lost { mut space, backup, .. } = lost().await;
    space.put_back(PROVIDER, &backup, Marked::No).await;
    space.clock.advance(std::time::Duration::from_secs(1));
    // Signed, but not under any checkpoint yet: the number is taken twice all the same.
    space.say(PROVIDER, CONSUMER).await;
    let before = all_leaves(&space.node(PROVIDER));
    let error = recover(&space, PROVIDER).await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
    assert_eq!(all_leaves(&space.node(PROVIDER)), before, "the evidence is not touched");
    assert!(space.node(PROVIDER).safe_mode().is_some());
}

#[tokio::test]
async fn a_registrar_recovers_from_its_members() {
    let mut space = Space::new().await;
    space.tell(REGISTRAR, PROVIDER).await;
    space.tell(REGISTRAR, CONSUMER).await;
    space.witnessed_by(REGISTRAR, 1, &[PROVIDER]);
    space.finish(REGISTRAR).await;
    // The registrar service holds the ledger too: it goes down with its node.
    let backup = space.back_up(REGISTRAR).await;
    space.tell(REGISTRAR, PROVIDER).await;
    space.tell(REGISTRAR, CONSUMER).await;
    space.finish(REGISTRAR).await;
    space.mirror(REGISTRAR);
    let leaves = all_leaves(&space.node(REGISTRAR));
    space.put_back(REGISTRAR, &backup, Marked::Yes).await;
    let report = recover(&space, REGISTRAR).await.unwrap();
    assert_eq!((report.lost.len(), report.safe_mode), (0, None));
    assert_eq!(all_leaves(&space.node(REGISTRAR)), leaves);
    goes_on(&space, REGISTRAR, PROVIDER).await;
}
