use huitong_proof::Timestamp;

use super::*;
use crate::cosignature::Cosigner;
use crate::fixture::{Node, START, draft, id, key};
use crate::opening::BLOCK;

fn cosigned(signed: &SignedCheckpoint) -> SignedCheckpoint {
    let witness = Cosigner::new("witness", key(50)).unwrap();
    let line = witness.cosign(signed.checkpoint(), Timestamp::from_millis(START));
    signed.with_lines(&[line]).unwrap()
}

async fn put(node: &Node, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
    let signed = signed.clone();
    node.run(move |ledger, tx| ledger.put_cosigned(tx, &signed)).await
}

#[tokio::test]
async fn proofs_prefer_a_cosigned_checkpoint_that_covers_them() {
    let node = Node::new(1);
    let first = node.issue(draft(&id(2), 0)).await;
    let small = node.ledger.checkpoint().await.unwrap();
    let second = node.issue(draft(&id(2), 1)).await;
    let large = node.ledger.checkpoint().await.unwrap();
    let proven = |digests: Vec<Digest>, known: u64| {
        let ledger = node.ledger.clone();
        async move { ledger.prove(digests, known).await.unwrap().checkpoint }
    };
    assert_eq!(proven(vec![first.digest()], 0).await, large.text());
    put(&node, &cosigned(&small)).await.unwrap();
    assert_eq!(proven(vec![first.digest()], 0).await, cosigned(&small).text());
    assert_eq!(proven(vec![first.digest()], 1).await, cosigned(&small).text());
    assert_eq!(proven(vec![first.digest()], 2).await, large.text());
    assert_eq!(proven(vec![first.digest(), second.digest()], 0).await, large.text());
    put(&node, &cosigned(&large)).await.unwrap();
    // A smaller one that comes late changes nothing.
    put(&node, &cosigned(&small)).await.unwrap();
    assert_eq!(proven(vec![first.digest()], 0).await, cosigned(&large).text());

    let view = node.ledger.store().view();
    assert_eq!(node.ledger.cosigned(&view).unwrap(), Some(cosigned(&large)));
    assert_eq!(node.ledger.latest_checkpoint(&view).unwrap(), Some(large.clone()));
    // The published file carries the cosignatures there are.
    node.ledger.publish().await.unwrap();
    let published = |node: &Node| node.ledger.read_public("checkpoint").unwrap();
    assert_eq!(published(&node).unwrap(), cosigned(&large).text().as_bytes());
    put(&node, &large).await.unwrap();
    node.ledger.publish().await.unwrap();
    assert_eq!(published(&node).unwrap(), large.text().as_bytes());
}

#[tokio::test]
async fn only_this_logs_own_checkpoints_are_kept_as_cosigned() {
    let node = Node::new(1);
    node.issue(draft(&id(2), 0)).await;
    let signed = node.ledger.checkpoint().await.unwrap();
    let Checkpoint { origin, size, root } = signed.checkpoint().clone();
    let sign = |origin: &str, size: u64, root: Digest| {
        SignedCheckpoint::sign(
            Checkpoint { origin: origin.to_owned(), size, root },
            &crate::fixture::log_key(1),
        )
    };
    let refused = put(&node, &sign("other", size, root)).await;
    assert!(matches!(refused, Err(LedgerError::OtherLog { .. })), "{refused:?}");
    let refused = put(&node, &sign(&origin, size + 1, root)).await;
    assert!(matches!(refused, Err(LedgerError::Behind { known: 2, size: 1 })), "{refused:?}");
    let refused = put(&node, &sign(&origin, size, Digest::ZERO)).await;
    assert!(matches!(refused, Err(LedgerError::Damaged { .. })), "{refused:?}");
    assert_eq!(node.ledger.cosigned(&node.ledger.store().view()).unwrap(), None);
}

#[tokio::test]
async fn a_hash_that_is_not_that_of_its_entry_is_not_signed() {
    for signed_before in [false, true] {
        let node = Node::new(1);
        node.issue_many(3, &id(2)).await;
        if signed_before {
            node.ledger.checkpoint().await.unwrap();
        } else {
            node.ledger.integrate().unwrap();
        }
        // As if the memory had changed while the entry was taken in.
        node.ledger.tree().edge.push(Digest::sha256(b"another entry"));
        node.issue_many(2, &id(2)).await;
        let error = node.ledger.checkpoint().await.unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { what } if what.contains("in memory")), "{error}");
        let node = node.restart().await;
        assert_eq!(node.ledger.checkpoint().await.unwrap().checkpoint().size, 5);
    }
}

#[tokio::test]
async fn a_store_has_one_ledger_at_a_time() {
    let node = Node::new(1);
    let second = Ledger::open_with(
        node.ledger.store().clone(),
        crate::Identity {
            node: id(1),
            origin: node.ledger.origin().to_owned(),
            space: *node.ledger.space(),
            statement_key: key(1),
            log_key: crate::fixture::log_key(1),
        },
        node.ledger.clock().clone(),
        node.ledger.entropy().clone(),
        BLOCK,
    );
    assert!(matches!(second, Err(LedgerError::InUse { .. })));
}

#[tokio::test]
async fn files_of_another_version_are_refused_by_name() {
    let node = Node::new(1);
    let about = node.directory.path().join("ledger/about");
    let text = std::fs::read_to_string(&about).unwrap();
    let directory = node.stop().await;
    for (text, says) in [
        (text.replace("huitong-ledger 1", "huitong-ledger 2"), "another version"),
        ("x".to_owned(), "another version"),
        (text.replace("block 4096", "block 4095"), "whose log"),
    ] {
        std::fs::write(&about, text).unwrap();
        let refused = Node::open(&directory, 1, BLOCK, huitong_store::Disk::real()).map(|_| ());
        assert!(
            matches!(&refused, Err(LedgerError::DamagedFile { what, .. }) if what.contains(says)),
            "{refused:?}"
        );
    }
}
