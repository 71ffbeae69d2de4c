//! Every operation on the disk fails once, in every way: nothing acknowledged may be missing afterwards.

use std::sync::Arc;

use huitong_proof::{Digest, Statement};
use huitong_store::Disk;
use huitong_store::disk::{Fault, FaultPlan};
use tempfile::TempDir;

use crate::checkpoint::SignedCheckpoint;
use crate::fixture::{Node, copy_directory, draft, id};
use crate::gaps::Redaction;
use crate::merkle::verify_consistency;
use crate::offline::fsck;
use crate::{EntryState, LedgerError};

const BLOCK: u64 = 256;
/// Three settled blocks, and a fourth that is complete after four more statements.
const BASE: u64 = 1_020;
/// One of the entries of [`BASE`], in a settled bundle.
const REMOVED: u64 = 300;

/// What a caller was told.
#[derive(Default)]
struct Told {
    statements: Vec<Statement>,
    checkpoints: Vec<SignedCheckpoint>,
    removed: bool,
}

async fn base() -> (Arc<TempDir>, Vec<Statement>) {
    let node = Node::with_block(1, BLOCK);
    let statements = node.issue_many(BASE, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    (node.stop().await, statements)
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
    let redaction =
        Redaction { digest: removed.digest(), who: "x".to_owned(), why: "y".to_owned(), statement: Digest::ZERO };
    told.removed = node.run(move |ledger, tx| ledger.redact(tx, REMOVED, &redaction)).await.is_ok();
    let _ = node.ledger.publish().await;
    let _ = node.ledger.stop_signing("test");
    if node.ledger.resume_signing().await.is_ok()
        && let Ok(statement) = node.run(|ledger, tx| ledger.issue(tx, draft(&id(2), 0))).await
    {
        told.statements.push(statement);
    }
}

/// What was told is there, and the log goes on.
async fn check(directory: Arc<TempDir>, before: &[Statement], told: &Told, what: &str) {
    let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let ledger = &node.ledger;
    let view = ledger.store().view();
    let size = ledger.size(&view).unwrap();
    let expected: Vec<&Statement> = before.iter().chain(&told.statements).collect();
    // A statement whose transaction failed may be there after all, behind the others.
    assert!((expected.len() as u64..=expected.len() as u64 + 1).contains(&size), "{what}: {size} entries");
    for (index, statement) in (0..).zip(expected) {
        match ledger.entry_state(&view, index).unwrap().unwrap() {
            EntryState::Present(bytes) => assert_eq!(bytes, statement.bytes().as_ref(), "{what}: entry {index}"),
            EntryState::Redacted(_) => assert_eq!(index, REMOVED, "{what}"),
        }
        if index % 50 == 0 {
            assert_eq!(ledger.index_of(&view, &statement.digest()).unwrap(), Some(index), "{what}");
        }
    }
    assert!(!told.removed || ledger.gap(&view, REMOVED).unwrap().is_some(), "{what}");
    if ledger.signing().is_err() {
        ledger.resume_signing().await.unwrap();
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

async fn walk(fault: Fault, step: u64) {
    let (base, statements) = base().await;
    // The long walk tries every operation with every fault.
    #[expect(clippy::disallowed_methods, reason = "only a test reads it")]
    let step = if std::env::var("HUITONG_ALL_FAULTS").is_ok() { 1 } else { step };
    let mut reached = 0;
    for at in (1..).step_by(usize::try_from(step).unwrap()) {
        let what = format!("{fault:?} at {at}");
        let directory = Arc::new(tempfile::tempdir().unwrap());
        copy_directory(base.path(), directory.path());
        let disk = Disk::failing(FaultPlan::nth(at, fault));
        let mut told = Told::default();
        match Node::open(&directory, 1, BLOCK, disk.clone()) {
            Ok(node) => {
                work(&node, &statements[REMOVED as usize], &mut told).await;
                node.stop().await;
            }
            Err(LedgerError::Open(_) | LedgerError::File { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        if !disk.has_failed() {
            assert_eq!((told.statements.len(), told.checkpoints.len(), told.removed), (7, 3, true));
            assert!(reached > 100 / step, "only {reached} operations were walked");
            return;
        }
        reached += 1;
        check(directory, &statements, &told, &what).await;
    }
}

#[tokio::test]
async fn the_disk_stops_at_any_moment() {
    walk(Fault::Everything, 1).await;
}

#[tokio::test]
async fn any_operation_fails_once() {
    walk(Fault::Io, 2).await;
}

#[tokio::test]
async fn the_disk_is_full_once() {
    walk(Fault::NoSpace, 7).await;
}

#[tokio::test]
async fn any_write_is_torn() {
    walk(Fault::Torn { bytes: 11 }, 5).await;
}
