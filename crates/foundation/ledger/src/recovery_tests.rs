use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use huitong_proof::Statement;
use huitong_store::Disk;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::SignedCheckpoint;
use crate::fixture::{Node, copy_directory, draft, id};
use crate::offline::fsck;

const BLOCK: u64 = 256;

async fn issue(node: &Node) -> Result<Statement, LedgerError> {
    node.run(|ledger, tx| ledger.issue(tx, draft(&id(2), 0))).await
}

fn is_closed<T: std::fmt::Debug>(result: Result<T, LedgerError>, reason: &str) {
    match result {
        Err(LedgerError::SafeMode { reason: given }) => assert!(given.contains(reason), "{given}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_gate_stays_closed_until_it_is_opened() {
    let mut node = Node::new(1);
    let peer = Node::new(2);
    let said = peer.issue_many(3, &id(1)).await;
    let first = issue(&node).await.unwrap();
    let signed = node.ledger.checkpoint().await.unwrap();
    node.ledger.signing().unwrap();
    node.ledger.stop_signing("a witness knows more: entry 9").unwrap();
    node.ledger.stop_signing("another reason").unwrap();
    for restarted in [false, true] {
        if restarted {
            node = node.restart().await;
        }
        is_closed(node.ledger.signing(), "entry 9");
        is_closed(issue(&node).await, "entry 9");
        // What is signed already can be shown and proven from; nothing new is signed.
        if !restarted {
            assert_eq!(node.ledger.checkpoint().await.unwrap(), signed);
        }
        let statement = said[usize::from(restarted)].clone();
        node.run(move |ledger, tx| ledger.admit(tx, &statement)).await.unwrap();
        is_closed(node.ledger.checkpoint().await, "entry 9");
        assert_eq!(node.ledger.prove(vec![first.digest()], 0).await.unwrap().checkpoint, signed.text());
        is_closed(node.ledger.prove(vec![said[0].digest()], 0).await, "entry 9");
        node.ledger.publish().await.unwrap();
    }
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    assert_eq!(issue(&node).await.unwrap().body().seq, 1);
    let node = node.restart().await;
    node.ledger.signing().unwrap();
    assert_eq!(node.ledger.checkpoint().await.unwrap().checkpoint().size, 4);
}

#[tokio::test]
async fn a_restored_store_starts_in_safe_mode() {
    let node = Node::new(1);
    issue(&node).await.unwrap();
    let directory = node.stop().await;
    fs::write(directory.path().join("restored"), "from /backup\non 2026-01-01\n").unwrap();
    let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap();
    is_closed(node.ledger.signing(), "from /backup, on 2026-01-01");
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    assert!(!directory.path().join("restored").exists());
    issue(&node).await.unwrap();
}

#[tokio::test]
async fn a_store_that_lost_what_it_acknowledged_starts_in_safe_mode() {
    let node = Node::new(1);
    issue(&node).await.unwrap();
    let directory = node.stop().await;
    let journal = directory.path().join("journal/000000000001.seg");
    let shorter = fs::read(&journal).unwrap();
    let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap();
    issue(&node).await.unwrap();
    node.stop().await;
    fs::write(&journal, shorter).unwrap();

    // However often it is started.
    for _ in 0..2 {
        let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap();
        is_closed(node.ledger.signing(), "acknowledged changes are missing from the journal");
        is_closed(issue(&node).await, "acknowledged changes are missing from the journal");
        node.stop().await;
    }
    let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap();
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    assert!(!directory.path().join(huitong_store::LOST).exists());
    issue(&node).await.unwrap();
}

#[tokio::test]
async fn a_gate_that_cannot_be_written_closes_all_the_same() {
    let node = Node::new(1);
    let path = node.directory.path().join("ledger/unconfirmed.tmp");
    fs::create_dir(&path).unwrap();
    assert!(matches!(node.ledger.stop_signing("why"), Err(LedgerError::File { .. })));
    is_closed(issue(&node).await, "why");
    // Said again once the cause is gone, it is written.
    fs::remove_dir(&path).unwrap();
    node.ledger.stop_signing("why").unwrap();
    is_closed(issue(&node.restart().await).await, "why");
}

/// A node, its directory as it was some statements ago, and everything that it has said and heard since.
struct Lost {
    backup: Arc<TempDir>,
    /// The checkpoint over everything.
    newest: SignedCheckpoint,
    leaves: Vec<Digest>,
    statements: Vec<Statement>,
    peer: Node,
}

/// `signed` entries under the backup's checkpoint, `more` behind it in the backup, and 40 afterwards.
async fn lose(signed: u64, more: u64) -> Lost {
    let node = Node::with_block(1, BLOCK);
    let peer = Node::new(2);
    node.issue_many(signed, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    node.issue_many(more, &id(2)).await;
    let directory = node.stop().await;
    let backup = Arc::new(tempfile::tempdir().unwrap());
    copy_directory(directory.path(), backup.path());
    fs::write(backup.path().join("restored"), "test").unwrap();

    let node = Node::open(&directory, 1, BLOCK, Disk::real()).unwrap();
    for _ in 0..20 {
        issue(&node).await.unwrap();
        let heard = peer.issue(draft(&id(1), 0)).await;
        node.run(move |ledger, tx| ledger.admit(tx, &heard)).await.unwrap();
    }
    let newest = node.ledger.checkpoint().await.unwrap();
    let size = signed + more + 40;
    let view = node.ledger.store().view();
    let statements = (0..size).map(|index| match node.ledger.at(&view, index).unwrap().unwrap() {
        crate::entries::Found::Statement(statement) => statement,
        crate::entries::Found::Gap(_) => unreachable!(),
    });
    let statements: Vec<Statement> = statements.collect();
    let leaves = node.ledger.leaves(0, usize::MAX).unwrap();
    assert_eq!(leaves.len() as u64, size);
    Lost { backup, newest, leaves, statements, peer }
}

/// What the node's own rows say is certain, and where recovery begins.
fn signed_size(node: &Node) -> u64 {
    let latest = node.ledger.latest_checkpoint(&node.ledger.store().view()).unwrap();
    latest.map_or(0, |latest| latest.checkpoint().size)
}

async fn recover(node: &Node, lost: &Lost, missing: &[u64]) {
    let from = signed_size(node);
    let leaves = lost.leaves[from as usize..].to_vec();
    assert_eq!(node.ledger.root_with(from, &leaves).unwrap(), lost.newest.checkpoint().root);
    let by_leaf: HashMap<Digest, Statement> = (from..)
        .zip(&lost.statements[from as usize..])
        .filter(|(index, _)| !missing.contains(index))
        .map(|(_, statement)| (leaf_hash(statement.bytes()), statement.clone()))
        .collect();
    node.run(move |ledger, tx| {
        for (index, leaf) in (from..).zip(leaves) {
            let what = match by_leaf.get(&leaf) {
                Some(statement) => Reinstated::Statement(statement.bytes().clone()),
                None => Reinstated::Lost { leaf, reason: "nobody has it".to_owned() },
            };
            ledger.reinstate(tx, index, &what)?;
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_restored_log_is_put_back_as_it_was() {
    for (signed, more, missing) in
        [(10, 0, vec![]), (256, 3, vec![]), (300, 5, vec![310, 344]), (0, 0, vec![2])]
    {
        let lost = lose(signed, more).await;
        let node = Node::open(&lost.backup, 1, BLOCK, Disk::real()).unwrap();
        assert_eq!(node.ledger.size(&node.ledger.store().view()).unwrap(), signed + more);
        // Meanwhile the peer says something new, and repeats something that was lost: both are kept.
        let new = lost.peer.issue(draft(&id(1), 99)).await;
        let repeated = lost.statements[(signed + more) as usize + 1].clone();
        for heard in [new.clone(), repeated.clone()] {
            node.run(move |ledger, tx| ledger.admit(tx, &heard)).await.unwrap();
        }
        let node = node.restart().await;
        recover(&node, &lost, &missing).await;
        recover(&node, &lost, &missing).await;
        let node = node.restart().await;
        is_closed(node.ledger.signing(), "test");
        node.ledger.resume_signing(Resumption::Operator).await.unwrap();

        // The log extends what was signed before it was lost, and the new statement comes behind it.
        let size = lost.leaves.len() as u64;
        let view = node.ledger.store().view();
        assert_eq!(node.ledger.size(&view).unwrap(), size + 1);
        let signed_now = node.ledger.checkpoint().await.unwrap();
        assert_eq!(signed_now.checkpoint().size, size + 1);
        assert_eq!(node.ledger.root_at(size).unwrap(), lost.newest.checkpoint().root);
        for (index, statement) in (0..).zip(lost.statements.iter().chain([&new])) {
            if missing.contains(&index) {
                let gap = node.ledger.gap(&view, index).unwrap().unwrap();
                assert_eq!(
                    (gap.why.as_str(), gap.removed, gap.leaf),
                    ("nobody has it", None, leaf_hash(statement.bytes()))
                );
                assert!(matches!(node.ledger.entry(&view, index), Err(LedgerError::Redacted { .. })));
                assert_eq!(node.ledger.index_of(&view, &statement.digest()).unwrap(), None);
                continue;
            }
            assert_eq!(node.ledger.index_of(&view, &statement.digest()).unwrap(), Some(index));
            assert_eq!(node.ledger.entry(&view, index).unwrap().as_deref(), Some(statement.bytes().as_ref()));
        }
        // The channel goes on where the counterparty last heard of it.
        let head = lost.statements.iter().rfind(|statement| statement.body().issuer == id(1)).unwrap();
        if !missing.is_empty() && missing.contains(&(size - 2)) {
            continue;
        }
        let next = issue(&node).await.unwrap();
        assert_eq!((next.body().seq, next.body().prev), (head.body().seq + 1, head.digest()));
        node.ledger.checkpoint().await.unwrap();
        node.ledger.publish().await.unwrap();
        let report = fsck(node.stop().await.path(), &Disk::real(), &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

#[tokio::test]
async fn a_statement_that_cannot_stand_beside_the_recovered_ones_becomes_evidence() {
    let lost = lose(10, 0).await;
    let node = Node::open(&lost.backup, 1, BLOCK, Disk::real()).unwrap();
    // The peer answers the restored node as if it had never said what was lost.
    let forged = crate::fixture::Node::new(2).issue(draft(&id(1), 77)).await;
    assert_ne!(forged.digest(), lost.statements[11].digest());
    assert_eq!(forged.body().seq, lost.statements[11].body().seq);
    let heard = forged.clone();
    node.run(move |ledger, tx| ledger.admit(tx, &heard)).await.unwrap();
    recover(&node, &lost, &[]).await;
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.size(&view).unwrap(), 50);
    assert_eq!(node.ledger.evidence(&view, 9).unwrap().len(), 1);
}

#[tokio::test]
async fn entries_are_put_back_only_where_they_may_be() {
    let node = Node::new(1);
    let statements = node.issue_many(5, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.issue_many(2, &id(2)).await;
    let what = Reinstated::Lost { leaf: Digest::sha256(b"x"), reason: "test".to_owned() };
    let put = |index: u64, what: Reinstated| node.run(move |ledger, tx| ledger.reinstate(tx, index, &what));
    let refused = put(7, what.clone()).await;
    assert!(matches!(refused, Err(LedgerError::Reinstate { index: 7, why }) if why.contains("safe mode")));
    node.ledger.stop_signing("test").unwrap();
    for index in [0, 4] {
        let refused = put(index, what.clone()).await;
        assert!(matches!(refused, Err(LedgerError::Reinstate { why, .. }) if why.contains("forked")));
    }
    let refused = put(8, what.clone()).await;
    assert!(matches!(refused, Err(LedgerError::Reinstate { why, .. }) if why.contains("before it")));
    // What stands there already is left as it is.
    put(3, Reinstated::Statement(statements[3].bytes().clone())).await.unwrap();
    assert_eq!(node.ledger.size(&node.ledger.store().view()).unwrap(), 7);
    put(5, what.clone()).await.unwrap();
    assert_eq!(node.ledger.size(&node.ledger.store().view()).unwrap(), 6);
    // Both entries that had to make way come back.
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.size(&view).unwrap(), 8);
    let said = node.ledger.statements_on_channel(&view, &id(1), &id(2), 0, 9).unwrap();
    assert_eq!(
        said.iter().map(|statement| statement.body().seq).collect::<Vec<_>>(),
        (0..7).collect::<Vec<_>>()
    );
    assert_eq!(node.ledger.checkpoint().await.unwrap().checkpoint().size, 8);
}

#[tokio::test]
async fn a_lost_entry_is_filled_when_its_bytes_turn_up() {
    // In the partial bundle, in a full bundle of a block that is not settled, and in a settled one.
    for (signed, more_entries) in [(10, 0), (230, 60), (200, 700)] {
        let lost = lose(signed, 0).await;
        let size = lost.leaves.len() as u64;
        let missing = [signed + 2, size - 1];
        let node = Node::open(&lost.backup, 1, 512, Disk::real()).unwrap();
        recover(&node, &lost, &missing).await;
        node.ledger.resume_signing(Resumption::Operator).await.unwrap();
        node.issue_many(more_entries, &id(3)).await;
        let before = node.ledger.checkpoint().await.unwrap();
        node.ledger.publish().await.unwrap();
        let view = node.ledger.store().view();
        let settled = tables::settled(&view).unwrap();

        node.ledger.stop_signing("filling").unwrap();
        let found = lost.statements.clone();
        node.run(move |ledger, tx| {
            for index in missing {
                let what = Reinstated::Statement(found[index as usize].bytes().clone());
                ledger.reinstate(tx, index, &what)?;
            }
            Ok(())
        })
        .await
        .unwrap();
        node.ledger.resume_signing(Resumption::Operator).await.unwrap();
        for index in missing {
            let statement = &lost.statements[index as usize];
            let entry = node.ledger.entry(&view, index);
            if index < settled {
                assert!(matches!(entry, Err(LedgerError::Redacted { .. })), "{entry:?}");
                continue;
            }
            assert_eq!(entry.unwrap().as_deref(), Some(statement.bytes().as_ref()));
            assert_eq!(node.ledger.index_of(&view, &statement.digest()).unwrap(), Some(index));
            assert_eq!(node.ledger.gap(&view, index).unwrap(), None);
        }
        assert_eq!(node.ledger.checkpoint().await.unwrap(), before);
        node.issue_many(600, &id(4)).await;
        node.ledger.checkpoint().await.unwrap();
        node.ledger.publish().await.unwrap();
        let report = fsck(node.stop().await.path(), &Disk::real(), &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(report.gaps, missing.iter().filter(|index| **index < settled).count() as u64);
    }
}

async fn confirm(node: &Node, name: &str) {
    let name = name.to_owned();
    node.run(move |ledger, tx| ledger.confirm(tx, &name)).await.unwrap();
}

/// Signs one statement to each audience; what is signed again after safe mode is told by `resumption`.
async fn come_back(node: &Node, resumption: Resumption) {
    node.ledger.stop_signing("a test").unwrap();
    node.ledger.resume_signing(resumption).await.unwrap();
}

#[tokio::test]
async fn after_safe_mode_nothing_is_signed_to_who_has_not_answered() {
    let mut node = Node::new(1);
    let issue_to = async |node: &Node, audience: String| {
        node.run(move |ledger, tx| ledger.issue(tx, draft(&audience, 0))).await
    };
    for audience in [2, 3, 4] {
        issue_to(&node, id(audience)).await.unwrap();
    }
    come_back(&node, Resumption::Answers([id(2)].into())).await;
    assert_eq!(issue_to(&node, id(2)).await.unwrap().body().seq, 1);
    for unheard in [id(3), id(9)] {
        let error = issue_to(&node, unheard.clone()).await.unwrap_err();
        assert!(matches!(&error, LedgerError::Unconfirmed { audience } if *audience == unheard));
        assert!(error.to_string().contains("huitong ledger compare"), "{error}");
    }
    let awaited = |node: &Node| node.ledger.awaited(&node.ledger.store().view()).unwrap();
    assert_eq!(awaited(&node), [id(3), id(9)].into());
    confirm(&node, &id(3)).await;
    assert_eq!(awaited(&node), [id(9)].into());
    assert_eq!(issue_to(&node, id(3)).await.unwrap().body().seq, 1);
    node = node.restart().await;
    assert!(issue_to(&node, id(9)).await.is_err(), "a restart changes nothing");
    assert_eq!(issue_to(&node, id(3)).await.unwrap().body().seq, 2);

    // What was confirmed after one loss says nothing after the next.
    come_back(&node, Resumption::Answers([id(9)].into())).await;
    assert!(issue_to(&node, id(3)).await.is_err());
    assert_eq!(issue_to(&node, id(9)).await.unwrap().body().seq, 0);
    come_back(&node, Resumption::Operator).await;
    assert_eq!(issue_to(&node, id(3)).await.unwrap().body().seq, 3);
}

#[tokio::test]
async fn where_nobody_can_answer_numbers_are_left_out() {
    let node = Node::new(1);
    let audiences = ["*".to_owned(), id(1), "91310000132260250X".to_owned()];
    for audience in &audiences[..2] {
        node.issue(draft(audience, 0)).await;
    }
    come_back(&node, Resumption::Answers([].into())).await;
    for audience in &audiences {
        let (one, two) = (node.issue(draft(audience, 1)).await, node.issue(draft(audience, 2)).await);
        assert!(one.body().seq > 1 << 32, "{audience}: {}", one.body().seq);
        assert_eq!((two.body().seq, two.body().prev), (one.body().seq + 1, one.digest()));
    }
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    let report = fsck(node.stop().await.path(), &Disk::real(), &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
