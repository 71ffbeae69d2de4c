use huitong_proof::Anchor;

use super::*;
use crate::fixture::{Node, draft, id, key, log_key};
use crate::log::{Proofs, origin_of};
use crate::merkle::empty_root;
use crate::note::NoteError;

async fn observe(node: &Node, peer: &LogVerifier, proofs: &Proofs) -> Result<SignedCheckpoint, LedgerError> {
    let (peer, proofs) = (peer.clone(), proofs.clone());
    node.run(move |ledger, tx| ledger.observe(tx, &peer, &proofs.checkpoint, &proofs.consistency)).await
}

/// The peer's checkpoint `more` entries later, with the path from `known`.
async fn grown(peer: &Node, more: u64, known: u64) -> Proofs {
    peer.issue_many(more, &id(1)).await;
    peer.ledger.checkpoint().await.unwrap();
    peer.ledger.prove(Vec::new(), known).await.unwrap()
}

fn size(node: &Node, peer: &Node) -> Option<u64> {
    let view = node.ledger.store().view();
    node.ledger.observed(&view, peer.ledger.origin()).unwrap().map(|checkpoint| checkpoint.size)
}

fn forged(origin: &str, size: u64, root: Digest) -> Proofs {
    let checkpoint = Checkpoint { origin: origin.to_owned(), size, root };
    let checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(2)).text().to_owned();
    Proofs { checkpoint, inclusion: Vec::new(), consistency: Vec::new() }
}

#[tokio::test]
async fn the_newest_checkpoint_becomes_the_anchor() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let log = peer.ledger.log_verifier();
    assert_eq!(size(&node, &peer), None);
    let mut known = 0;
    for more in [1, 1, 2, 3, 9] {
        let proofs = grown(&peer, more, known).await;
        let signed = observe(&node, &log, &proofs).await.unwrap();
        assert_eq!(signed.text(), proofs.checkpoint);
        known += more;
        assert_eq!(size(&node, &peer), Some(known));
        // The same again changes nothing and needs no path.
        let again = Proofs { consistency: Vec::new(), ..proofs };
        observe(&node, &log, &again).await.unwrap();

        let statement = node.issue(draft(&id(2), 0)).await;
        let Checkpoint { origin, size, root } = signed.checkpoint().clone();
        assert_eq!(statement.body().anchor, Anchor { origin, size, root });
        // Another audience has another log.
        assert_eq!(node.issue(draft(&id(3), 0)).await.body().anchor, Anchor::none());
    }
    let node = node.restart().await;
    assert_eq!(size(&node, &peer), Some(known));
}

#[tokio::test]
async fn answers_in_flight_may_overtake_each_other() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let log = peer.ledger.log_verifier();
    let first = grown(&peer, 3, 0).await;
    let to_five = grown(&peer, 2, 3).await;
    let to_nine = grown(&peer, 4, 3).await;
    let to_twelve = grown(&peer, 3, 9).await;
    observe(&node, &log, &first).await.unwrap();
    // Newer first, then the older one: the older is checked and does not turn the anchor back.
    observe(&node, &log, &to_nine).await.unwrap();
    observe(&node, &log, &to_five).await.unwrap();
    assert_eq!(size(&node, &peer), Some(9));
    observe(&node, &log, &to_twelve).await.unwrap();
    assert_eq!(size(&node, &peer), Some(12));
    // A path from an older size than the newest shows the link, but not that the newest is a prefix.
    peer.issue_many(1, &id(1)).await;
    peer.ledger.checkpoint().await.unwrap();
    let from_five = peer.ledger.prove(Vec::new(), 5).await.unwrap();
    observe(&node, &log, &from_five).await.unwrap();
    assert_eq!(size(&node, &peer), Some(12));
    assert_eq!(node.ledger.evidence(&node.ledger.store().view(), 9).unwrap(), []);
}

#[tokio::test]
async fn a_checkpoint_without_path_must_be_asked_for_again() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let log = peer.ledger.log_verifier();
    let (small, large) = (grown(&peer, 2, 0).await, grown(&peer, 3, 0).await);
    for (first, second) in [(&small, &large), (&large, &small)] {
        let node = Node::new(3);
        let remembered = observe(&node, &log, first).await.unwrap().checkpoint().size;
        match observe(&node, &log, second).await {
            Err(LedgerError::Unlinked { origin, remembered: named, offered }) => {
                assert_eq!((origin.as_str(), named, offered), (log.name(), remembered, 7 - remembered));
            }
            other => panic!("expected unlinked, got {other:?}"),
        }
        let asked_again = peer.ledger.prove(Vec::new(), remembered).await.unwrap();
        observe(&node, &log, &asked_again).await.unwrap();
        assert_eq!(size(&node, &peer), Some(5));
    }
    assert_eq!(size(&node, &peer), None);
}

#[tokio::test]
async fn growth_from_the_empty_log_needs_no_path() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let log = peer.ledger.log_verifier();
    let empty = grown(&peer, 0, 0).await;
    assert_eq!(
        *observe(&node, &log, &empty).await.unwrap().checkpoint().root.as_bytes(),
        *empty_root().as_bytes()
    );
    assert_eq!(size(&node, &peer), Some(0));
    observe(&node, &log, &grown(&peer, 4, 0).await).await.unwrap();
    assert_eq!(size(&node, &peer), Some(4));
}

#[tokio::test]
async fn two_roots_at_one_size_are_evidence() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let log = peer.ledger.log_verifier();
    let (small, large) = (grown(&peer, 4, 0).await, grown(&peer, 3, 4).await);
    observe(&node, &log, &small).await.unwrap();
    observe(&node, &log, &large).await.unwrap();
    // Also at a size that is not the newest.
    for (at, kept) in [(4, &small), (7, &large)] {
        let lie = forged(log.name(), at, Digest::sha256(b"another history"));
        let expected =
            Evidence::Checkpoints { kept: kept.checkpoint.clone(), refused: lie.checkpoint.clone() };
        match observe(&node, &log, &lie).await {
            Err(LedgerError::Inconsistent { origin, evidence }) => {
                assert_eq!(origin, log.name());
                assert_eq!(*evidence, expected);
                node.ledger.preserve(&evidence).await.unwrap();
            }
            other => panic!("expected a contradiction, got {other:?}"),
        }
        assert!(node.ledger.evidence(&node.ledger.store().view(), 9).unwrap().contains(&expected));
    }
    assert_eq!(size(&node, &peer), Some(7));
}

#[tokio::test]
async fn a_path_that_leads_from_nowhere_is_a_contradiction() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let log = peer.ledger.log_verifier();
    let first = grown(&peer, 4, 0).await;
    observe(&node, &log, &first).await.unwrap();
    let mut rewritten = forged(log.name(), 6, Digest::sha256(b"another history"));
    rewritten.consistency = grown(&peer, 2, 4).await.consistency;
    let refused = rewritten.clone();
    // A caller that commits keeps the evidence without asking.
    let verdict = node
        .run(move |ledger, tx| {
            let log = LogVerifier::new(origin_of(&id(2)), log_key(2).verifying_key())?;
            Ok(ledger.observe(tx, &log, &refused.checkpoint, &refused.consistency))
        })
        .await
        .unwrap();
    assert!(matches!(verdict, Err(LedgerError::Inconsistent { .. })), "{verdict:?}");
    let expected = Evidence::Checkpoints { kept: first.checkpoint, refused: rewritten.checkpoint };
    assert_eq!(node.ledger.evidence(&node.ledger.store().view(), 9).unwrap(), [expected]);
    assert_eq!(size(&node, &peer), Some(4));
}

#[tokio::test]
async fn signatures_and_origins_are_checked_first() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let proofs = grown(&peer, 1, 0).await;
    let wrong_key = LogVerifier::new(peer.ledger.origin(), key(9).verifying_key()).unwrap();
    let refused = observe(&node, &wrong_key, &proofs).await;
    assert!(matches!(refused, Err(LedgerError::Note(NoteError::NotSigned { .. }))), "{refused:?}");
    let wrong_name = LogVerifier::new("other", log_key(2).verifying_key()).unwrap();
    assert!(observe(&node, &wrong_name, &proofs).await.is_err());
    assert_eq!(size(&node, &peer), None);
}

#[tokio::test]
async fn only_the_logs_own_signature_line_is_kept() {
    let (node, peer) = (Node::new(1), Node::new(2));
    let plain = grown(&peer, 1, 0).await;
    let line = crate::note::signature_line("witness", &key(9), "anything\n");
    let cosigned = Proofs { checkpoint: format!("{}{line}\n", plain.checkpoint), ..plain.clone() };
    let log = peer.ledger.log_verifier();
    assert_eq!(observe(&node, &log, &cosigned).await.unwrap().text(), cosigned.checkpoint);
    let view = node.ledger.store().view();
    assert_eq!(tables::observed(&view, log.name()).unwrap().unwrap().text(), plain.checkpoint);
}

#[tokio::test]
async fn checkpoints_of_others_are_kept_in_bounds() {
    let node = Node::new(1);
    let leaves: Vec<Digest> = (0..3_000_u32).map(|n| crate::merkle::leaf_hash(&n.to_be_bytes())).collect();
    let naive = crate::merkle::tests::Naive::new(&leaves);
    let peer = LogVerifier::new("peer", log_key(2).verifying_key()).unwrap();
    let offered: Vec<Proofs> = (1..=3_000)
        .map(|size| {
            let consistency = if size == 1 { Vec::new() } else { naive.consistency(size - 1, size) };
            Proofs { consistency, ..forged("peer", size as u64, naive.root(size)) }
        })
        .collect();
    node.run(move |ledger, tx| {
        offered.iter().try_for_each(|proofs| {
            ledger.observe(tx, &peer, &proofs.checkpoint, &proofs.consistency).map(|_| ())
        })
    })
    .await
    .unwrap();
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.observed(&view, "peer").unwrap().map(|newest| newest.size), Some(3_000));
    let kept: Vec<u64> = tables::seen_below(&view, "peer", u64::MAX, usize::MAX)
        .unwrap()
        .iter()
        .map(|kept| kept.checkpoint().size)
        .collect();
    assert!(kept.len() as u64 <= tables::SEEN_KEPT, "{}", kept.len());
    // The newest are all there, and older ones lie the further apart the older they are.
    assert_eq!(kept[..256], (2_745..=3_000).rev().collect::<Vec<u64>>());
    assert!(*kept.last().unwrap() < 500);
    let gap = |at: usize| kept[at] - kept[at + 1];
    assert!(gap(kept.len() - 2) > gap(300), "{kept:?}");
}
