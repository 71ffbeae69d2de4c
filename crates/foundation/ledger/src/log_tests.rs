use std::collections::HashSet;
use std::time::Duration;

use huitong_proof::{ChannelHead, Kind};

use super::*;
use crate::checkpoint::SignedCheckpoint;
use crate::fixture::{Node, START, draft, id, key, log_key, space};
use crate::merkle::verify_consistency;
use crate::note::NoteError;

/// A statement of node `seed` to node 1, made without its ledger: what a dishonest or restored peer can send.
fn forged(seed: u8, seq: u64, prev: Digest, salt: u8) -> Statement {
    let (key, space, issuer) = (key(seed), space(), id(seed));
    let signing = Signing {
        key: &key,
        space: &space,
        issuer: &issuer,
        channel: ChannelHead { seq, prev },
        anchor: Anchor::none(),
        time: Timestamp::from_millis(START),
        salt: [salt; 16],
    };
    Statement::sign(draft(&id(1), seq), signing).unwrap()
}

/// `count` statements of node `seed`, correctly linked.
fn chain(seed: u8, count: u64) -> Vec<Statement> {
    let mut chain: Vec<Statement> = Vec::new();
    for seq in 0..count {
        let prev = chain.last().map_or(Digest::ZERO, Statement::digest);
        chain.push(forged(seed, seq, prev, 0));
    }
    chain
}

async fn admit(node: &Node, statement: &Statement) -> Result<Admission, LedgerError> {
    let statement = statement.clone();
    node.run(move |ledger, tx| ledger.admit(tx, &statement)).await
}

fn assert_fork(result: Result<Admission, LedgerError>, kept: &Statement, refused: &Statement) -> Evidence {
    let expected = Evidence::Statements { kept: kept.bytes().to_vec(), refused: refused.bytes().to_vec() };
    match result {
        Err(LedgerError::Fork { issuer, seq, evidence, .. }) => {
            assert_eq!((issuer, seq), (refused.body().issuer.clone(), refused.body().seq));
            assert_eq!(*evidence, expected);
        }
        other => panic!("expected a fork, got {other:?}"),
    }
    expected
}

#[tokio::test]
async fn a_channel_counts_on_and_links_across_restarts() {
    let mut node = Node::new(1);
    let mut last = Digest::ZERO;
    let mut salts = HashSet::new();
    for seq in 0..6 {
        if seq % 2 == 0 {
            node = node.restart().await;
        }
        let statement = node.issue(draft(&id(2), seq)).await;
        let body = statement.body();
        assert_eq!((body.seq, body.prev), (seq, last));
        assert_eq!((body.issuer.as_str(), body.audience.as_str()), (node.ledger.node(), id(2).as_str()));
        assert_eq!(body.anchor, Anchor::none());
        last = statement.digest();
        salts.insert(body.salt);
        // Whoever gets it can verify it.
        assert_eq!(node.received(&statement), statement);
    }
    // Another audience is another channel, also when one name begins with the other.
    for audience in [id(3), id(2)[..31].to_owned()] {
        let other = node.issue(draft(&audience, 0)).await;
        assert_eq!((other.body().seq, other.body().prev), (0, Digest::ZERO));
    }
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.size(&view).unwrap(), 8);
}

#[tokio::test]
async fn several_in_one_transaction_and_none_from_an_aborted_one() {
    let node = Node::new(1);
    let two = node.issue_many(2, &id(2)).await;
    assert_eq!(two[1].body().prev, two[0].digest());
    let aborted = node
        .run(|ledger, tx| {
            ledger.issue(tx, draft(&id(2), 9))?;
            Err::<(), _>(LedgerError::Damaged { what: "test" })
        })
        .await;
    assert!(matches!(aborted, Err(LedgerError::Damaged { what: "test" })));
    let next = node.issue(draft(&id(2), 2)).await;
    assert_eq!((next.body().seq, next.body().prev), (2, two[1].digest()));
    assert_eq!(node.ledger.size(&node.ledger.store().view()).unwrap(), 3);
}

#[tokio::test]
async fn a_refused_draft_leaves_nothing() {
    let node = Node::new(1);
    let mut large = draft(&id(2), 0);
    large.detail = large.detail.bytes(2, &[0; 20_000]);
    let refused = node.run(|ledger, tx| ledger.issue(tx, large)).await;
    assert!(matches!(refused, Err(LedgerError::Statement(_))));
    assert_eq!(node.issue(draft(&id(2), 0)).await.body().seq, 0);
}

#[tokio::test]
async fn statements_are_never_dated_before_what_is_stored() {
    let node = Node::new(1);
    node.clock.advance(Duration::from_secs(60));
    assert_eq!(node.issue(draft(&id(2), 0)).await.body().time.millis(), START + 60_000);
    node.clock.set(Timestamp::from_millis(START));
    assert_eq!(node.issue(draft(&id(2), 1)).await.body().time.millis(), START + 60_000);
}

#[tokio::test]
async fn a_full_channel_is_refused() {
    let node = Node::new(1);
    // Our own statement, come back from a peer after a restore, moves the channel on.
    let (key, space, issuer) = (key(1), space(), id(1));
    let channel = ChannelHead { seq: u64::MAX, prev: Digest::ZERO };
    let (anchor, time, salt) = (Anchor::none(), Timestamp::from_millis(START), [0; 16]);
    let signing = Signing { key: &key, space: &space, issuer: &issuer, channel, anchor, time, salt };
    admit(&node, &Statement::sign(draft(&id(2), 0), signing).unwrap()).await.unwrap();
    let refused = node.run(|ledger, tx| ledger.issue(tx, draft(&id(2), 0))).await;
    assert!(matches!(refused, Err(LedgerError::ChannelFull { .. })), "{refused:?}");
    node.issue(draft(&id(3), 0)).await;
}

#[tokio::test]
async fn admission_is_idempotent_and_takes_any_order() {
    let node = Node::new(1);
    let chain = chain(2, 5);
    for at in [3, 0, 4, 1, 2] {
        assert_eq!(admit(&node, &chain[at]).await.unwrap(), Admission::New);
        assert_eq!(admit(&node, &chain[at]).await.unwrap(), Admission::Known);
    }
    let node = node.restart().await;
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.size(&view).unwrap(), 5);
    for (index, at) in [3, 0, 4, 1, 2].into_iter().enumerate() {
        let digest = chain[at].digest();
        assert_eq!(admit(&node, &chain[at]).await.unwrap(), Admission::Known);
        assert_eq!(node.ledger.index_of(&view, &digest).unwrap(), Some(index as u64));
        assert_eq!(node.ledger.entry(&view, index as u64).unwrap(), Some(chain[at].bytes().to_vec()));
        assert_eq!(node.ledger.statement(&view, &digest).unwrap(), Some(chain[at].clone()));
    }
    assert_eq!(node.ledger.entry(&view, 5).unwrap(), None);
    assert_eq!(node.ledger.statement(&view, &Digest::ZERO).unwrap(), None);
    assert_eq!(node.ledger.evidence(&view, 9).unwrap(), []);
}

#[tokio::test]
async fn two_statements_with_one_number_are_a_fork() {
    let node = Node::new(1);
    let honest = chain(2, 3);
    for statement in &honest {
        admit(&node, statement).await.unwrap();
    }
    let second = forged(2, 1, honest[0].digest(), 9);
    let evidence = assert_fork(admit(&node, &second).await, &honest[1], &second);

    // The refused transaction left nothing behind; evidence from the error can be kept on its own, any number of times.
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.size(&view).unwrap(), 3);
    assert_eq!(node.ledger.index_of(&view, &second.digest()).unwrap(), None);
    assert_eq!(node.ledger.evidence(&view, 9).unwrap(), []);
    for _ in 0..2 {
        node.ledger.preserve(&evidence).await.unwrap();
    }
    let node = node.restart().await;
    assert_eq!(node.ledger.evidence(&node.ledger.store().view(), 9).unwrap(), [evidence]);
    // The same number from another issuer, or to another audience, is no fork.
    admit(&node, &forged(3, 1, Digest::ZERO, 9)).await.unwrap();
}

#[tokio::test]
async fn evidence_stays_with_a_caller_that_commits() {
    let node = Node::new(1);
    let (first, second) = (forged(2, 0, Digest::ZERO, 1), forged(2, 0, Digest::ZERO, 2));
    admit(&node, &first).await.unwrap();
    let refused = second.clone();
    let verdict = node.run(move |ledger, tx| Ok(ledger.admit(tx, &refused))).await.unwrap();
    let evidence = assert_fork(verdict, &first, &second);
    assert_eq!(node.ledger.evidence(&node.ledger.store().view(), 9).unwrap(), [evidence]);
}

#[tokio::test]
async fn broken_links_between_neighbours_are_forks() {
    let node = Node::new(1);
    let honest = chain(2, 6);
    admit(&node, &honest[2]).await.unwrap();
    let after = forged(2, 3, Digest::sha256(b"elsewhere"), 0);
    assert_fork(admit(&node, &after).await, &honest[2], &after);
    let before = forged(2, 1, honest[0].digest(), 7);
    assert_fork(admit(&node, &before).await, &honest[2], &before);
    // Neither neighbour is here: accepted for now, and found out when the gap closes.
    let apart = forged(2, 5, Digest::sha256(b"elsewhere"), 0);
    assert_eq!(admit(&node, &apart).await.unwrap(), Admission::New);
    admit(&node, &honest[3]).await.unwrap();
    assert_fork(admit(&node, &honest[4]).await, &apart, &honest[4]);
    // The edge of the numbers has no neighbour above.
    admit(&node, &forged(2, u64::MAX, Digest::ZERO, 0)).await.unwrap();
}

#[tokio::test]
async fn answers_and_subjects_are_found_in_log_order() {
    let node = Node::new(1);
    let offer = node.issue(draft(&id(2), 0)).await;
    let reference = offer.digest();
    let mut expected = Vec::new();
    for number in 0..3 {
        let mut answer = draft(&id(2), number);
        answer.kind = Kind::Ack;
        answer.reference = reference;
        answer.subject = [6; 16];
        expected.push(node.issue(answer).await);
        node.issue(draft(&id(3), number)).await;
    }
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.answers(&view, &reference).unwrap(), expected);
    assert_eq!(node.ledger.answers(&view, &expected[0].digest()).unwrap(), []);
    // Zeros mean "answers nothing": they are not collected.
    assert_eq!(node.ledger.answers(&view, &Digest::ZERO).unwrap(), []);
    assert_eq!(node.ledger.about(&view, &[6; 16], 9).unwrap(), expected);
    assert_eq!(node.ledger.about(&view, &[6; 16], 2).unwrap(), expected[..2]);
    assert_eq!(node.ledger.about(&view, &[6; 16], 0).unwrap(), []);
    assert_eq!(node.ledger.about(&view, &[5; 16], usize::MAX).unwrap().len(), 4);
    assert_eq!(node.ledger.about(&view, &[7; 16], 9).unwrap(), []);
}

#[tokio::test]
async fn lists_longer_than_a_page_are_whole() {
    let node = Node::new(1);
    let issued = node.issue_many(1030, &id(2)).await;
    let view = node.ledger.store().view();
    assert_eq!(node.ledger.about(&view, &[5; 16], usize::MAX).unwrap(), issued);
    assert_eq!(node.ledger.about(&view, &[5; 16], 1025).unwrap(), issued[..1025]);
}

#[tokio::test]
async fn one_size_has_one_checkpoint() {
    let node = Node::new(1);
    let empty = node.ledger.checkpoint().await.unwrap();
    assert_eq!((empty.checkpoint().size, empty.checkpoint().root), (0, crate::empty_root()));
    let mut texts = vec![empty.text().to_owned()];
    let mut node = node;
    for number in 0..20 {
        node.issue(draft(&id(2), number)).await;
        let (one, other) = tokio::join!(node.ledger.checkpoint(), node.ledger.checkpoint());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one, other);
        assert_eq!(one.checkpoint().size, number + 1);
        assert_eq!(SignedCheckpoint::parse_exact(one.text(), &node.ledger.log_verifier()).unwrap(), one);
        if number % 7 == 0 {
            node = node.restart().await;
        }
        assert_eq!(node.ledger.checkpoint().await.unwrap(), one);
        assert_eq!(node.ledger.latest_checkpoint(&node.ledger.store().view()).unwrap(), Some(one.clone()));
        texts.push(one.text().to_owned());
    }
    assert_eq!(texts.iter().collect::<HashSet<_>>().len(), 21);
}

#[tokio::test]
async fn checkpoints_taken_while_statements_pour_in_agree() {
    let node = Node::new(1);
    let mut work = Vec::new();
    for number in 0..200 {
        let ledger = node.ledger.clone();
        work.push(tokio::spawn(async move {
            let issuing = ledger.clone();
            let statement = ledger
                .store()
                .transact("issue", move |tx| issuing.issue(tx, draft(&id(2), number)))
                .await
                .unwrap();
            let proofs = ledger.prove(vec![statement.digest()], 0).await.unwrap();
            (statement, proofs)
        }));
    }
    let mut roots = std::collections::HashMap::new();
    for work in work {
        let (statement, proofs) = work.await.unwrap();
        let signed = SignedCheckpoint::parse_exact(&proofs.checkpoint, &node.ledger.log_verifier()).unwrap();
        let checkpoint = signed.checkpoint();
        let Inclusion { index, path, .. } = &proofs.inclusion[0];
        verify_entry(statement.bytes(), *index, path, checkpoint).unwrap();
        assert_eq!(*roots.entry(checkpoint.size).or_insert(checkpoint.root), checkpoint.root);
    }
}

#[tokio::test]
async fn proofs_verify_offline_and_only_for_what_they_prove() {
    let node = Node::new(1);
    let mut known = Vec::new();
    let mut statements = Vec::new();
    for round in 0..9 {
        statements.extend(node.issue_many(round + 1, &id(2)).await);
        let digests: Vec<Digest> = statements.iter().map(Statement::digest).collect();
        let proofs = node.ledger.prove(digests.clone(), 0).await.unwrap();
        assert_eq!(proofs.consistency, []);
        let signed = SignedCheckpoint::parse_exact(&proofs.checkpoint, &node.ledger.log_verifier()).unwrap();
        let checkpoint = signed.checkpoint().clone();
        assert_eq!(checkpoint.size, statements.len() as u64);
        assert_eq!(proofs.inclusion.iter().map(|entry| entry.digest).collect::<Vec<_>>(), digests);
        for (statement, Inclusion { index, path, .. }) in statements.iter().zip(&proofs.inclusion) {
            assert_eq!(verify_entry(statement.bytes(), *index, path, &checkpoint), Ok(()));
            assert!(verify_entry(&statement.bytes()[1..], *index, path, &checkpoint).is_err());
            assert!(verify_entry(statement.bytes(), index + 1, path, &checkpoint).is_err());
        }
        for Checkpoint { size, root, .. } in &known {
            let path = node.ledger.prove(Vec::new(), *size).await.unwrap().consistency;
            assert_eq!(verify_consistency(*size, root, checkpoint.size, &checkpoint.root, &path), Ok(()));
        }
        known.push(checkpoint);
    }
    let size = statements.len() as u64;
    assert_eq!(node.ledger.prove(Vec::new(), size).await.unwrap().consistency, []);
    let behind = node.ledger.prove(Vec::new(), size + 1).await;
    assert!(
        matches!(behind, Err(LedgerError::Behind { known, size: 45 }) if known == size + 1),
        "{behind:?}"
    );
    let unknown = node.ledger.prove(vec![Digest::ZERO], 0).await;
    assert!(matches!(unknown, Err(LedgerError::NotLogged { digest: Digest::ZERO })), "{unknown:?}");
}

#[tokio::test]
async fn proofs_reuse_a_checkpoint_that_covers_them() {
    let node = Node::new(1);
    let first = node.issue(draft(&id(2), 0)).await;
    let old = node.ledger.prove(vec![first.digest()], 0).await.unwrap();
    let second = node.issue(draft(&id(2), 1)).await;
    assert_eq!(node.ledger.prove(vec![first.digest()], 0).await.unwrap(), old);
    let new = node.ledger.prove(vec![second.digest(), first.digest()], 1).await.unwrap();
    assert!(new.checkpoint.contains("\n2\n"), "{}", new.checkpoint);
    assert_eq!(new.consistency.len(), 1);
    // A known size beyond the newest checkpoint is a reason to sign the current one.
    node.issue(draft(&id(2), 2)).await;
    assert!(node.ledger.prove(Vec::new(), 3).await.unwrap().checkpoint.contains("\n3\n"));
}

#[tokio::test]
async fn a_damaged_log_signs_nothing() {
    type Damage = fn(&mut Tx<'_>) -> Result<(), LedgerError>;
    let damage: [Damage; 2] = [
        // Another statement than the one whose root was signed.
        |tx| {
            let other = tables::entries(tx, 0, 1)?.remove(0);
            Ok(tx.put(&ENTRY, &4_u64.to_be_bytes(), &other)?)
        },
        |tx| Ok(tx.delete(&ENTRY, &4_u64.to_be_bytes())?),
    ];
    for damage in damage {
        let node = Node::new(1);
        node.issue_many(5, &id(2)).await;
        node.ledger.checkpoint().await.unwrap();
        node.issue_many(1, &id(2)).await;
        node.run(move |_, tx| damage(tx)).await.unwrap();
        let refused = node.try_restart().await.map(|_| ());
        assert!(matches!(refused, Err(LedgerError::Damaged { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn the_log_keeps_its_origin() {
    let node = Node::new(1);
    node.ledger.checkpoint().await.unwrap();
    let node = node.restart_as("other/huitong-log/1", log_key(1)).await;
    assert!(matches!(node.ledger.checkpoint().await, Err(LedgerError::OtherLog { .. })));
    node.issue_many(1, &id(2)).await;
    assert!(matches!(node.ledger.checkpoint().await, Err(LedgerError::OtherLog { .. })));

    let nameless = Node::new(2).restart_as("two words", log_key(2)).await;
    let refused = nameless.ledger.checkpoint().await;
    assert!(matches!(refused, Err(LedgerError::Note(NoteError::Name { .. }))), "{refused:?}");
}

#[tokio::test]
async fn another_key_does_not_continue_the_log() {
    let node = Node::new(1);
    node.ledger.checkpoint().await.unwrap();
    let origin = node.ledger.origin().to_owned();
    let node = node.restart_as(&origin, log_key(2)).await;
    node.issue(draft(&id(2), 0)).await;
    let refused = node.ledger.checkpoint().await;
    assert!(matches!(refused, Err(LedgerError::Note(NoteError::NotSigned { .. }))), "{refused:?}");
}

#[test]
fn origins_are_lower_case() {
    assert_eq!(origin_of("AB12"), "ab12/huitong-log/1");
}
