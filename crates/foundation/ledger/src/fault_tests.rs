//! Every operation on the disk fails once, in every way: nothing acknowledged may be missing afterwards.

use std::sync::Arc;

use huitong_proof::{Digest, Statement};
use huitong_store::Disk;
use huitong_store::disk::{Fault, FaultPlan, Operation};
use tempfile::TempDir;

use crate::checkpoint::SignedCheckpoint;
use crate::doubt::Resumption;
use crate::fixture::{Node, copy_directory, draft, id};
use crate::gaps::{Redaction, Reinstated};
use crate::merkle::{leaf_hash, verify_consistency};
use crate::offline::fsck;
use crate::{EntryState, LedgerError};

const BLOCK: u64 = 256;
/// Lost entries, then statements, and so on: three settled blocks, and a fourth that is complete after four more
/// statements. Lost entries are quick to make and to check.
const BASE: [(u64, Made); 4] = [(256, Made::Lost), (64, Made::Said), (448, Made::Lost), (252, Made::Said)];
/// A statement in a settled bundle.
const REMOVED: u64 = 300;

#[derive(Clone, Copy, PartialEq)]
enum Made {
    Lost,
    Said,
}

/// What a caller was told.
#[derive(Default)]
struct Told {
    statements: Vec<Statement>,
    checkpoints: Vec<SignedCheckpoint>,
    removed: bool,
}

/// A stopped node's directory, and the statement at each index that has one.
async fn base() -> (Arc<TempDir>, Vec<Option<Statement>>) {
    let node = Node::with_block(1, BLOCK);
    let mut entries = Vec::new();
    for (count, made) in BASE {
        if made == Made::Said {
            entries.extend(node.issue_many(count, &id(2)).await.into_iter().map(Some));
            continue;
        }
        node.ledger.stop_signing("test").unwrap();
        let first = entries.len() as u64;
        node.run(move |ledger, tx| {
            (first..first + count).try_for_each(|index| {
                let leaf = leaf_hash(&index.to_be_bytes());
                ledger.reinstate(tx, index, &Reinstated::Lost { leaf, reason: "test".to_owned() })
            })
        })
        .await
        .unwrap();
        node.ledger.resume_signing(Resumption::Operator).await.unwrap();
        entries.resize(entries.len() + count as usize, None);
    }
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    (node.stop().await, entries)
}

/// Settles a block, merges four runs, replaces partial files, and removes an entry. Goes on after each error.
async fn work(node: &Node, removed: &Statement, told: &mut Told) {
    for count in [2, 3, 1] {
        for _ in 0..count {
            if let Ok(statement) = node.run(|ledger, tx| ledger.issue(tx, draft(&id(2), 0))).await {
                told.statements.push(statement);
            }
        }
        if let Ok(signed) = node.ledger.checkpoint().await {
            told.checkpoints.push(signed);
        }
        let _ = node.ledger.publish().await;
    }
    let redaction = Redaction {
        digest: removed.digest(),
        who: "x".to_owned(),
        why: "y".to_owned(),
        statement: Digest::ZERO,
    };
    told.removed = node.run(move |ledger, tx| ledger.redact(tx, REMOVED, &redaction)).await.is_ok();
    let _ = node.ledger.publish().await;
    let _ = node.ledger.stop_signing("test");
    if node.ledger.resume_signing(Resumption::Operator).await.is_ok()
        && let Ok(statement) = node.run(|ledger, tx| ledger.issue(tx, draft(&id(2), 0))).await
    {
        told.statements.push(statement);
    }
}

/// A checkpoint may be in place although its publication failed: whoever reads it finds its tiles.
#[tokio::test]
async fn a_checkpoint_that_can_be_read_has_its_tiles() {
    let mut met = 0;
    for nth in 1..=8 {
        let node = Node::with_block(1, BLOCK);
        node.issue_many(3, &id(2)).await;
        let directory = node.stop().await;
        let disk = Disk::counting();
        let node = Node::open(&directory, 1, BLOCK, disk.clone()).unwrap();
        node.ledger.checkpoint().await.unwrap();
        node.ledger.publish().await.unwrap();
        node.issue_many(5, &id(2)).await;
        let signed = node.ledger.checkpoint().await.unwrap();
        disk.plan(FaultPlan::nth_of(Operation::SyncDirectory, nth, Fault::Io));
        let published = node.ledger.publish().await;
        let text = node.ledger.read_public("checkpoint").unwrap().unwrap();
        if published.is_err() && text == signed.text().as_bytes() {
            assert!(node.ledger.read_public("tile/0/000.p/8").unwrap().is_some());
            met += 1;
        }
    }
    assert!(met > 0);
}

/// What was told is there, and the log goes on.
async fn check(directory: Arc<TempDir>, before: &[Option<Statement>], told: &Told, what: &str) {
    let node =
        Node::open(&directory, 1, BLOCK, Disk::real()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let ledger = &node.ledger;
    let view = ledger.store().view();
    let size = ledger.size(&view).unwrap();
    let said = told.statements.iter().map(Some);
    let expected: Vec<Option<&Statement>> = before.iter().map(Option::as_ref).chain(said).collect();
    // A statement whose transaction failed may be there after all, behind the others.
    assert!((expected.len() as u64..=expected.len() as u64 + 1).contains(&size), "{what}: {size} entries");
    for (index, statement) in (0..).zip(expected) {
        match (ledger.entry_state(&view, index).unwrap().unwrap(), statement) {
            (EntryState::Present(bytes), Some(statement)) => {
                assert_eq!(bytes, statement.bytes().as_ref(), "{what}: entry {index}");
                assert_eq!(ledger.index_of(&view, &statement.digest()).unwrap(), Some(index), "{what}");
            }
            (EntryState::Redacted(gap), None) => assert_eq!(gap.removed, None, "{what}: entry {index}"),
            (EntryState::Redacted(_), Some(_)) => assert_eq!(index, REMOVED, "{what}"),
            (EntryState::Present(_), None) => panic!("{what}: entry {index}"),
        }
    }
    assert!(!told.removed || ledger.gap(&view, REMOVED).unwrap().is_some(), "{what}");
    if ledger.signing().is_err() {
        ledger.resume_signing(Resumption::Operator).await.unwrap();
    }
    node.issue_many(4, &id(2)).await;
    let newest = ledger.checkpoint().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    for old in told.checkpoints.iter().map(SignedCheckpoint::checkpoint) {
        let new = newest.checkpoint();
        let path = ledger.consistency(old.size, new.size).unwrap();
        verify_consistency(old.size, &old.root, new.size, &new.root, &path).expect(what);
    }
    ledger.publish().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(ledger.read_public("checkpoint").unwrap().unwrap(), newest.text().as_bytes());
    let report = fsck(node.stop().await.path(), &Disk::real(), &mut |_| {}).unwrap();
    assert_eq!((report.findings.as_slice(), report.settled), ([].as_slice(), 1_024), "{what}");
}

/// A directory whose fsyncs cost nothing where the machine has one: what fails here is not the machine's disk.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Fails operation `first`, then every `step`-th behind it, each in a copy of the same directory.
async fn walk(fault: Fault, only: Option<Operation>, first: u64, step: usize) {
    let (base, entries) = base().await;
    let removed = entries[REMOVED as usize].as_ref().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the long walk tries every operation with every fault")]
    let (first, step) = if std::env::var("HUITONG_ALL_FAULTS").is_ok() { (1, 1) } else { (first, step) };
    for (reached, at) in (first..).step_by(step).enumerate() {
        let what = format!("{fault:?} at {at}");
        let directory = Arc::new(in_memory());
        copy_directory(base.path(), directory.path());
        let disk = Disk::failing(FaultPlan { at, only, fault });
        let mut told = Told::default();
        match Node::open(&directory, 1, BLOCK, disk.clone()) {
            Ok(node) => {
                work(&node, removed, &mut told).await;
                node.stop().await;
            }
            Err(LedgerError::Open(_) | LedgerError::File { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        if !disk.has_failed() {
            assert_eq!((told.statements.len(), told.checkpoints.len(), told.removed), (7, 3, true));
            assert!(reached > 20 / step, "only {reached} operations were walked");
            return;
        }
        check(directory, &entries, &told, &what).await;
    }
}

// Between them, the first three fail every operation once. `HUITONG_ALL_FAULTS=1 cargo test -p huitong-ledger fault_tests`
// fails every operation in every way.

#[tokio::test]
async fn the_disk_stops_at_any_moment() {
    walk(Fault::Everything, None, 1, 3).await;
}

#[tokio::test]
async fn any_operation_fails_once() {
    walk(Fault::Io, None, 2, 3).await;
}

#[tokio::test]
async fn the_disk_is_full_once() {
    walk(Fault::NoSpace, None, 3, 3).await;
}

#[tokio::test]
async fn any_write_is_torn() {
    walk(Fault::Torn { bytes: 11 }, Some(Operation::Write), 1, 3).await;
}
