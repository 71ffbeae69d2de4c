use std::fs;

use huitong_proof::{Digest, Statement};
use huitong_store::Disk;
use huitong_store::offline::Severity;

use super::*;
use crate::checkpoint::SignedCheckpoint;
use crate::fixture::{Node, draft, id};
use crate::gaps::EntryState;
use crate::log::{Admission, verify_entry};
use crate::merkle::verify_inclusion;
use crate::offline::fsck;

const BLOCK: u64 = 256;

fn redaction(statement: &Statement) -> Redaction {
    Redaction {
        digest: statement.digest(),
        who: "data protection officer".to_owned(),
        why: "retention ended".to_owned(),
        statement: Digest::sha256(b"announced"),
    }
}

async fn redact(node: &Node, index: u64, statement: &Statement) -> Result<Gap, LedgerError> {
    let redaction = redaction(statement);
    node.run(move |ledger, tx| ledger.redact(tx, index, &redaction)).await
}

/// Whether any file of the ledger holds these bytes.
fn in_files(node: &Node, bytes: &[u8]) -> bool {
    let mut directories = vec![node.directory.path().join("ledger")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes) {
                return true;
            }
        }
    }
    false
}

#[tokio::test]
async fn what_proves_a_fork_is_not_removed() {
    let (node, peer, other) = (Node::new(1), Node::new(2), Node::new(2));
    let (first, second) = (peer.issue(draft(&id(1), 1)).await, other.issue(draft(&id(1), 2)).await);
    let admitted = first.clone();
    node.run(move |ledger, tx| ledger.admit(tx, &admitted)).await.unwrap();
    let contradicting = second.clone();
    let refused = node.run(move |ledger, tx| ledger.admit(tx, &contradicting)).await;
    let Err(LedgerError::Fork { evidence, .. }) = refused else { panic!("{refused:?}") };
    node.ledger.preserve(&evidence).await.unwrap();
    let error = redact(&node, 0, &first).await.unwrap_err();
    assert!(matches!(&error, LedgerError::IsEvidence { index: 0, issuer } if *issuer == id(2)), "{error}");
    assert_eq!(node.ledger.entry(&node.ledger.store().view(), 0).unwrap().unwrap(), first.bytes().as_ref());
    let others = peer.issue(draft(&id(1), 3)).await;
    let admitted = others.clone();
    node.run(move |ledger, tx| ledger.admit(tx, &admitted)).await.unwrap();
    redact(&node, 1, &others).await.unwrap();
}

/// The entry cannot be read, and everything else about it still works.
async fn check_removed(node: &Node, index: u64, statement: &Statement) {
    let ledger = &node.ledger;
    let view = ledger.store().view();
    let removed = |result: Result<(), LedgerError>| match result {
        Err(LedgerError::Redacted { index: named, who, why }) => {
            assert_eq!(
                (named, who.as_str(), why.as_str()),
                (index, "data protection officer", "retention ended")
            );
        }
        other => panic!("entry {index}: {other:?}"),
    };
    removed(ledger.entry(&view, index).map(|_| ()));
    removed(ledger.statement(&view, &statement.digest()).map(|_| ()));
    removed(redact(node, index, statement).await.map(|_| ()));
    let gap = ledger.gap(&view, index).unwrap().unwrap();
    assert_eq!(ledger.entry_state(&view, index).unwrap(), Some(EntryState::Redacted(Box::new(gap.clone()))));
    assert_eq!(gap.leaf, crate::merkle::leaf_hash(statement.bytes()));
    let known = gap.removed.unwrap();
    let body = statement.body();
    assert_eq!((known.digest, known.issuer, known.seq), (statement.digest(), body.issuer.clone(), body.seq));
    assert_eq!(known.statement, Digest::sha256(b"announced"));

    assert_eq!(ledger.index_of(&view, &statement.digest()).unwrap(), Some(index));
    let again = statement.clone();
    assert_eq!(node.run(move |ledger, tx| ledger.admit(tx, &again)).await.unwrap(), Admission::Known);
    assert!(!ledger.about(&view, &body.subject, usize::MAX).unwrap().contains(statement));
    let said = ledger.statements_on_channel(&view, &body.issuer, &body.audience, body.seq, 1).unwrap();
    assert_ne!(said.first(), Some(statement));

    let proofs = ledger.prove(vec![statement.digest()], 0).await.unwrap();
    let signed = SignedCheckpoint::parse(&proofs.checkpoint, &ledger.log_verifier()).unwrap();
    let path = &proofs.inclusion[0].path;
    assert_eq!(proofs.inclusion[0].index, index);
    // Whoever still has the bytes can prove them, whoever has not can prove the hash.
    verify_entry(statement.bytes(), index, path, signed.checkpoint()).unwrap();
    let checkpoint = signed.checkpoint();
    verify_inclusion(&gap.leaf, index, checkpoint.size, path, &checkpoint.root).unwrap();
}

#[tokio::test]
async fn removed_entries_leave_a_gap_and_a_whole_tree() {
    let mut node = Node::with_block(1, BLOCK);
    let mut statements = node.issue_many(700, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    // Settled in a bundle; next to it in the same bundle; new and published in a partial bundle; not even published.
    statements.extend(node.issue_many(20, &id(2)).await);
    let removed = [3_u64, 200, 600, 719];
    for index in removed {
        let statement = &statements[index as usize];
        assert_eq!(in_files(&node, statement.bytes()), index < 700);
        redact(&node, index, statement).await.unwrap();
        check_removed(&node, index, statement).await;
        if index != 3 {
            node.ledger.publish().await.unwrap();
            assert!(!in_files(&node, statement.bytes()), "{index}");
        }
        check_removed(&node, index, statement).await;
        node = node.restart().await;
        check_removed(&node, index, statement).await;
    }
    // The bundle that was whole is under another path, and what is left of it is there.
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.bundle("tile/entries/000").unwrap(), None);
    assert!(node.ledger.bundle("tile/entries/001").unwrap().is_some());
    assert!(!node.directory.path().join("ledger/tile/entries/000").exists());
    assert!(node.directory.path().join("ledger/redacted/entries/000").exists());
    let kept = |index: &u64| !removed.contains(index);
    for index in (0..720).filter(kept) {
        let statement = &statements[index as usize];
        assert_eq!(node.ledger.entry(&view, index).unwrap().as_deref(), Some(statement.bytes().as_ref()));
    }

    // A block with a removed entry is settled like any other.
    statements.extend(node.issue_many(300, &id(2)).await);
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    assert_eq!(tables::settled(&node.ledger.store().view()).unwrap(), 768);
    for index in removed {
        check_removed(&node, index, &statements[index as usize]).await;
        assert!(!in_files(&node, statements[index as usize].bytes()));
    }
    assert!(node.directory.path().join("ledger/redacted/entries/002").exists());
    let directory = node.stop().await;
    let report = fsck(directory.path(), &Disk::real(), &mut |_| {}).unwrap();
    assert_eq!((report.findings.as_slice(), report.gaps), ([].as_slice(), 4));
    // Tiles and runs follow from what is left.
    fs::remove_dir_all(directory.path().join("ledger/tile/0")).unwrap();
    fs::remove_dir_all(directory.path().join("ledger/lookup")).unwrap();
    let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap();
    assert_eq!(node.ledger.opening().rebuilt.len(), 6);
    for index in removed {
        check_removed(&node, index, &statements[index as usize]).await;
    }
}

#[tokio::test]
async fn the_bytes_leave_the_journal_as_well() {
    let node = Node::with_block(1, BLOCK);
    let statements = node.issue_many(300, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    for index in [7_u64, 290] {
        redact(&node, index, &statements[index as usize]).await.unwrap();
    }
    node.ledger.publish().await.unwrap();
    node.ledger.store().compact().await.unwrap();
    let mut directories = vec![node.directory.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            for index in [7, 290] {
                let removed = statements[index].bytes();
                assert!(!bytes.windows(removed.len()).any(|window| window == removed), "{}", path.display());
            }
        }
    }
}

#[tokio::test]
async fn only_the_named_statement_is_removed() {
    let node = Node::new(1);
    let statements = node.issue_many(2, &id(2)).await;
    for (index, statement) in [(0, &statements[1]), (2, &statements[1]), (u64::MAX, &statements[0])] {
        let refused = redact(&node, index, statement).await;
        assert!(matches!(refused, Err(LedgerError::NotLogged { .. })), "{refused:?}");
    }
    // A removal that is not committed did not happen.
    let redaction = redaction(&statements[0]);
    let aborted = node
        .run(move |ledger, tx| {
            ledger.redact(tx, 0, &redaction)?;
            Err::<(), _>(LedgerError::Damaged { what: "test" })
        })
        .await;
    assert!(aborted.is_err());
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.statement(&view, &statements[0].digest()).unwrap(), Some(statements[0].clone()));
    // The channel goes on after its last statement was removed, and what would break its links is still noticed.
    redact(&node, 1, &statements[1]).await.unwrap();
    let next = node.issue(draft(&id(2), 2)).await;
    assert_eq!((next.body().seq, next.body().prev), (2, statements[1].digest()));
}

#[tokio::test]
async fn a_backup_that_shares_a_file_keeps_its_bytes() {
    let node = Node::with_block(1, BLOCK);
    let statements = node.issue_many(256, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    let (bundle, copy) =
        (node.directory.path().join("ledger/tile/entries/000"), node.directory.path().join("copy"));
    fs::hard_link(&bundle, &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    redact(&node, 9, &statements[9]).await.unwrap();
    node.ledger.erase().await.unwrap();
    assert!(!bundle.exists());
    assert_eq!(fs::read(&copy).unwrap(), before);
}

#[tokio::test]
async fn a_removal_that_no_row_explains_is_damage() {
    let node = Node::with_block(1, BLOCK);
    let statements = node.issue_many(300, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    for index in [5_u64, 299] {
        redact(&node, index, &statements[index as usize]).await.unwrap();
    }
    node.ledger.publish().await.unwrap();
    node.run(|_, tx| {
        tx.delete(&crate::tables::GAP, &5_u64.to_be_bytes())?;
        Ok(())
    })
    .await
    .unwrap();
    let view = node.ledger.store().view();
    assert!(matches!(node.ledger.entry(&view, 5), Err(LedgerError::Damaged { .. })));
    let report = fsck(node.stop().await.path(), &Disk::real(), &mut |_| {}).unwrap();
    assert_eq!(report.worst(), Severity::Damage);
    assert!(report.findings.iter().any(|finding| finding.place == "entry 5"), "{:?}", report.findings);
}
