//! Witnesses and counterparties that lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::{NodeId, NodeType, Segment};
use huitong_ledger::{AddCheckpoint, Checkpoint, Cosigner, LogVerifier, SignedCheckpoint, witness_name_of};
use huitong_proof::{Digest, SigningKey, Statement, Timestamp};

use super::{CONSUMER, Link, Marked, PROVIDER, REGISTRAR, Space, all_leaves, size};
use crate::{
    Answer, ChannelSide, ChannelStanding, Evidence, Included, LogPeer, MAX_LEAVES, MAX_STATEMENTS,
    WitnessAnswer,
};

type Reply<Q, A> = Box<dyn Fn(&Liar, Q) -> Result<A, PeerError> + Send + Sync>;

type ReplyOfStatements = Reply<(ChannelSide, u64, usize), Vec<Bytes>>;

/// A peer that answers as the test says, and honestly where it says nothing.
struct Liar {
    honest: Link,
    asked: AtomicU64,
    cosign: Option<Reply<AddCheckpoint, WitnessAnswer>>,
    witnessed: Option<Reply<(), Option<String>>>,
    channel: Option<Reply<(), ChannelStanding>>,
    leaves: Option<Reply<(u64, usize), Vec<Digest>>>,
    statements: Option<ReplyOfStatements>,
}

impl Liar {
    fn of(space: &Space) -> Self {
        // Honest answers are those of a second network without liars.
        let honest = space.link(PROVIDER).without_substitutes();
        Self {
            honest,
            asked: AtomicU64::new(0),
            cosign: None,
            witnessed: None,
            channel: None,
            leaves: None,
            statements: None,
        }
    }

    fn count(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst)
    }
}

#[async_trait]
impl LogPeer for Liar {
    async fn add_checkpoint(&self, to: &NodeId, body: &str) -> Result<WitnessAnswer, PeerError> {
        match &self.cosign {
            Some(reply) => reply(self, AddCheckpoint::parse(body).unwrap()),
            None => self.honest.add_checkpoint(to, body).await,
        }
    }

    async fn witnessed(&self, to: &NodeId, origin: &str) -> Result<Option<String>, PeerError> {
        match &self.witnessed {
            Some(reply) => reply(self, ()),
            None => self.honest.witnessed(to, origin).await,
        }
    }

    async fn checkpoint(&self, to: &NodeId) -> Result<String, PeerError> {
        self.honest.checkpoint(to).await
    }

    async fn consistency(&self, to: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        self.honest.consistency(to, old, new).await
    }

    async fn inclusion(&self, to: &NodeId, digest: &Digest, size: u64) -> Result<Included, PeerError> {
        self.honest.inclusion(to, digest, size).await
    }

    async fn leaves(
        &self,
        to: &NodeId,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, PeerError> {
        match &self.leaves {
            Some(reply) => reply(self, (from, limit)),
            None => self.honest.leaves(to, origin, from, limit).await,
        }
    }

    async fn channel(&self, to: &NodeId) -> Result<ChannelStanding, PeerError> {
        match &self.channel {
            Some(reply) => reply(self, ()),
            None => self.honest.channel(to).await,
        }
    }

    async fn statements(
        &self,
        to: &NodeId,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, PeerError> {
        match &self.statements {
            Some(reply) => reply(self, (side, from_seq, limit)),
            None => self.honest.statements(to, side, from_seq, limit).await,
        }
    }
}

fn cosigning(
    space: &Space,
    reply: impl Fn(&Liar, AddCheckpoint) -> WitnessAnswer + Send + Sync + 'static,
) -> Liar {
    Liar { cosign: Some(Box::new(move |liar, request| Ok(reply(liar, request)))), ..Liar::of(space) }
}

fn checkpoint_of(node: &Evidence, size: u64, key: &SigningKey) -> SignedCheckpoint {
    let origin = node.ledger().origin().to_owned();
    SignedCheckpoint::sign(Checkpoint { origin, size, root: Digest::sha256(b"forged") }, key)
}

#[tokio::test]
async fn more_witnesses_than_a_checkpoint_has_room_for_make_it_final() {
    let space = Space::new().await;
    let cosigner = |number: u8| {
        let entity = space.ids[PROVIDER].entity();
        let segment = Segment::parse("4403").unwrap();
        let node = NodeId::mint(NodeType::Connector, &entity, &segment, [number; 16]);
        Cosigner::new(witness_name_of(node.as_str()), SigningKey::from_seed(&[number + 50; 32])).unwrap()
    };
    let cosigners: Vec<Cosigner> = (0..20).map(cosigner).collect();
    // Eighteen that nobody needs answer between the first and the last.
    let witnesses = (0..).zip(&cosigners).map(|(n, one)| format!("witness w{n} {}\n", one.verifier()));
    let text = witnesses.chain(["group both all w0 w19\nquorum both\n".to_owned()]).collect::<String>();
    space.set(PROVIDER, |settings| settings.policy = Some(text.parse().unwrap()));
    let log: LogVerifier = space.caller(PROVIDER).credential().log.clone();
    let liar = cosigning(&space, move |liar, request| {
        liar.count();
        let checkpoint = SignedCheckpoint::parse(&request.note, &log).unwrap();
        let lines = cosigners
            .iter()
            .map(|one| one.cosign(checkpoint.checkpoint(), Timestamp::from_millis(1_800_000_000_000)));
        WitnessAnswer::Cosigned(lines.map(|line| line + "\n").collect())
    });
    let provider = space.node(PROVIDER);
    for _ in 0..2 {
        space.say(PROVIDER, CONSUMER).await;
        let signed = provider.ledger().checkpoint().await.unwrap();
        let before = liar.count();
        let outcome = provider.cosign_once(&liar).await.unwrap();
        assert!(outcome.is_final, "{outcome:?}");
        assert_eq!((outcome.cosigned.len(), outcome.failed.len()), (20, 0), "{outcome:?}");
        assert_eq!(provider.ledger_standing().unwrap().final_size, signed.checkpoint().size);
        assert_eq!(liar.count() - before, 21);
        // Who has cosigned is not asked again, whether there was room for its line or not.
        assert_eq!(provider.cosign_once(&liar).await.unwrap().cosigned.len(), 20);
        assert_eq!(liar.count() - before, 22);
    }
}

#[tokio::test]
async fn false_cosignatures_count_for_nothing() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    let signed = provider.ledger().checkpoint().await.unwrap();
    let consumers_line =
        space.node(CONSUMER).cosigner().cosign(signed.checkpoint(), Timestamp::from_millis(5_000));
    let mut other = signed.checkpoint().clone();
    other.root = Digest::sha256(b"other");
    let registrar = space.node(REGISTRAR);
    let other_line = registrar.cosigner().cosign(&other, Timestamp::from_millis(5_000));
    let log_line = signed.signature_lines()[0].clone();
    let answers = [
        WitnessAnswer::Cosigned(String::new()),
        WitnessAnswer::Cosigned("\n\n\n".to_owned()),
        WitnessAnswer::Cosigned(format!("{consumers_line}\n")),
        WitnessAnswer::Cosigned(format!("{other_line}\n")),
        WitnessAnswer::Cosigned(format!("{log_line}\n")),
        WitnessAnswer::Cosigned(format!("{other_line}\n").repeat(10_000)),
        WitnessAnswer::Cosigned("\u{2014} x AAAA".repeat(1_000)),
        WitnessAnswer::Conflict { size: u64::MAX },
        WitnessAnswer::Conflict { size: signed.checkpoint().size + 1 },
        WitnessAnswer::Conflict { size: 0 },
        WitnessAnswer::Busy { retry_after: std::time::Duration::MAX },
        WitnessAnswer::Refused { status: 599, reason: "x".repeat(1 << 20) },
    ];
    for answer in answers {
        space.clock.advance(std::time::Duration::from_secs(120));
        let told = answer.clone();
        space.instead_of(REGISTRAR, cosigning(&space, move |_, _| told.clone()));
        let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
        assert_eq!(outcome.failed.len(), 1, "{answer:?}");
        assert!(outcome.failed[0].1.len() < 400, "no peer fills our memory with its words");
        assert!(!outcome.is_final);
        assert_eq!(provider.safe_mode(), None, "{answer:?} is no proof");
        let view = provider.ledger().store().view();
        assert_eq!(provider.ledger().cosigned(&view).unwrap(), None);
    }
    space.as_itself(REGISTRAR);
    space.clock.advance(std::time::Duration::from_secs(120));
    assert!(provider.cosign_once(&space.link(PROVIDER)).await.unwrap().is_final);
}

#[tokio::test]
async fn a_size_that_changes_with_every_question_ends_the_asking() {
    let space = Space::new().await;
    for _ in 0..20 {
        space.say(PROVIDER, CONSUMER).await;
    }
    let provider = space.node(PROVIDER);
    provider.ledger().checkpoint().await.unwrap();
    space.instead_of(
        REGISTRAR,
        cosigning(&space, |liar, _| WitnessAnswer::Conflict { size: 1 + liar.count() % 9 }),
    );
    let outcome = provider.cosign_once(&space.link(PROVIDER)).await.unwrap();
    assert!(outcome.failed[0].1.contains("faster"), "{outcome:?}");
    let asked = space.calls().iter().filter(|call| call.starts_with("add_checkpoint")).count();
    assert!(asked <= 3, "{asked}");
}

#[tokio::test]
async fn claims_without_a_signature_of_ours_stop_nothing_and_confirm_nothing() {
    let mut space = Space::new().await;
    let told = space.tell(PROVIDER, CONSUMER).await;
    let foreign = space.tell(CONSUMER, PROVIDER).await;
    let signed = space.finish(PROVIDER).await;
    let backup = space.back_up(PROVIDER).await;
    let thief = SigningKey::from_seed(&[9; 32]);
    let real = signed.checkpoint().size;
    let forged = checkpoint_of(&space.node(PROVIDER), real + 10, &thief).text().to_owned();
    let enlarged = signed.text().replace(&format!("\n{real}\n"), &format!("\n{}\n", u64::MAX));
    let cosigned = {
        // Cosigned by the witness itself, but never signed by the ledger.
        let checkpoint = checkpoint_of(&space.node(PROVIDER), real + 10, &thief);
        let line =
            space.node(REGISTRAR).cosigner().cosign(checkpoint.checkpoint(), Timestamp::from_millis(5_000));
        checkpoint.with_lines(&[line]).unwrap().text().to_owned()
    };
    let mut damaged = told.bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let texts = [String::new(), "x".repeat(1 << 16), forged, enlarged, cosigned];
    let statements = [Vec::new(), vec![0xff; 1 << 16], damaged, foreign.bytes().to_vec()];

    for marked in [Marked::No, Marked::Yes] {
        for (text, statement) in texts.iter().zip(statements.iter().cycle()) {
            space.put_back(PROVIDER, &backup, marked).await;
            for place in [REGISTRAR, CONSUMER] {
                let (text, statement) = (text.clone(), Bytes::from(statement.clone()));
                space.instead_of(
                    place,
                    Liar {
                        witnessed: Some(Box::new(move |_, ()| Ok(Some(text.clone())))),
                        channel: Some(Box::new(move |_, ()| {
                            Ok(ChannelStanding {
                                from_caller: Some(statement.clone()),
                                to_caller: Some(statement.clone()),
                            })
                        })),
                        ..Liar::of(&space)
                    },
                );
            }
            let provider = space.node(PROVIDER);
            let comparison = provider.compare_once(&space.link(PROVIDER)).await.unwrap();
            let unknown = |answer: &Answer| matches!(answer, Answer::Unknown { .. });
            assert!(comparison.compared.iter().all(|one| unknown(&one.answer)), "{comparison:?}");
            // Neither does such an answer open what is closed: it confirms nothing.
            assert_eq!(comparison.safe_mode.is_some(), marked == Marked::Yes);
            if marked == Marked::Yes {
                let still = provider.recover(&space.link(PROVIDER), &mut |_| {}).await.unwrap();
                assert!(still.safe_mode.is_some());
                provider.resume_unconfirmed().await.unwrap();
            }
            assert_eq!(provider.safe_mode(), None);
            space.as_itself(REGISTRAR);
            space.as_itself(CONSUMER);
        }
    }
}

/// A provider that lost five statements each way and the consumer's credential, which its consumer and its mirrored hashes can give back.
async fn robbed() -> (Space, Vec<Digest>) {
    let mut space = Space::new().await;
    for _ in 0..3 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    space.finish(PROVIDER).await;
    let backup = space.back_up(PROVIDER).await;
    for _ in 0..5 {
        space.tell(PROVIDER, CONSUMER).await;
        space.tell(CONSUMER, PROVIDER).await;
    }
    space.finish(PROVIDER).await;
    space.mirror(PROVIDER);
    let leaves = all_leaves(&space.node(PROVIDER));
    space.put_back(PROVIDER, &backup, Marked::No).await;
    (space, leaves)
}

async fn recover(space: &Space) -> Result<crate::RecoveryReport, ServiceError> {
    space.node(PROVIDER).recover(&space.link(PROVIDER), &mut |_| {}).await
}

#[tokio::test]
async fn false_hashes_are_passed_over_for_those_of_another_witness() {
    let (space, leaves) = robbed().await;
    let before = all_leaves(&space.node(PROVIDER));
    let after_from = move |from: u64| leaves.iter().skip(from as usize).copied().collect::<Vec<_>>();
    let lies: Vec<Reply<(u64, usize), Vec<Digest>>> = vec![
        Box::new(|_, (_, limit)| Ok(vec![Digest::ZERO; limit])),
        Box::new(|_, (_, limit)| Ok(vec![Digest::ZERO; limit + 1])),
        Box::new(|_, (_, _)| Ok(vec![Digest::ZERO; MAX_LEAVES * 4])),
        Box::new(|_, _| Ok(Vec::new())),
        Box::new(|liar, _| Ok(vec![Digest::sha256(&liar.count().to_be_bytes())])),
        Box::new({
            let after_from = after_from.clone();
            move |_, (from, limit)| {
                let mut true_ones = after_from(from);
                true_ones.reverse();
                true_ones.truncate(limit);
                Ok(true_ones)
            }
        }),
        Box::new({
            let after_from = after_from.clone();
            move |_, (from, _)| Ok(after_from(from + 1))
        }),
    ];
    // First only liars: nothing is changed.
    let origin = space.node(PROVIDER).ledger().origin().to_owned();
    for lie in lies {
        space.instead_of(REGISTRAR, Liar { leaves: Some(lie), ..Liar::of(&space) });
        space.instead_of(
            CONSUMER,
            Liar {
                leaves: Some(Box::new(|_, _| Err(PeerError::Unavailable("no mirror".to_owned())))),
                ..Liar::of(&space)
            },
        );
        let error = recover(&space).await.unwrap_err();
        assert!(matches!(error, ServiceError::Peer(PeerError::Unavailable(_))), "{error}");
        assert_eq!(all_leaves(&space.node(PROVIDER)), before);
        assert!(space.node(PROVIDER).safe_mode().is_some());
    }
    // Then one that tells the truth.
    space.as_itself(CONSUMER);
    assert!(space.net.mirrors.lock().unwrap().contains_key(&origin));
    let report = recover(&space).await.unwrap();
    assert_eq!((report.lost.len(), report.recovered, report.safe_mode), (0, 11, None));
}

#[tokio::test]
async fn a_counterparty_can_keep_bytes_back_but_not_forge_them() {
    let thief = SigningKey::from_seed(&[9; 32]);
    assert_ne!(thief.verifying_key().as_bytes(), &[0; 32]);
    let kinds: Vec<fn(&Space) -> ReplyOfStatements> = vec![
        // Nothing at all, noise, too much at once.
        |_| Box::new(|_, _| Ok(Vec::new())),
        |_| Box::new(|_, _| Ok(vec![Bytes::from_static(b"noise")])),
        |space| {
            let own = own_statements(space);
            Box::new(move |_, _| Ok(vec![own[0].clone(); MAX_STATEMENTS + 1]))
        },
        // The same page for ever.
        |space| {
            let own = own_statements(space);
            Box::new(move |_, _| Ok(own.clone()))
        },
        // Another channel's statements.
        |space| {
            let foreign = foreign_statement(space);
            Box::new(move |_, _| Ok(vec![foreign.clone()]))
        },
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let (space, leaves) = robbed().await;
        let reply = kind(&space);
        space.instead_of(CONSUMER, Liar { statements: Some(reply), ..Liar::of(&space) });
        let report = recover(&space).await.unwrap();
        let node = space.node(PROVIDER);
        assert_eq!(all_leaves(&node)[..leaves.len()], leaves, "liar {number}");
        assert_eq!(size(&node), leaves.len() as u64, "liar {number} smuggled something in");
        assert_eq!(report.recovered + report.lost.len() as u64, 11, "liar {number}: {report:?}");
        assert!(!report.lost.is_empty(), "liar {number}");
    }
}

#[tokio::test]
async fn a_false_credential_makes_nobodys_statements_count() {
    let credentials: Vec<fn(&Space) -> Option<Bytes>> = vec![
        |_| None,
        |_| Some(Bytes::from_static(b"noise")),
        |space| Some(space.caller(PROVIDER).credential_statement().bytes().clone()),
        |space| own_statements(space).first().cloned(),
    ];
    for (number, credential) in credentials.into_iter().enumerate() {
        let (space, leaves) = robbed().await;
        *space.net.credential.lock().unwrap() = Some(credential(&space));
        let report = recover(&space).await.unwrap();
        assert_eq!(all_leaves(&space.node(PROVIDER)), leaves);
        // What this node signed itself it can check all the same.
        assert_eq!((report.recovered, report.lost.len()), (5, 6), "credential {number}");
        assert!(report.affected.contains(space.ids[CONSUMER].as_str()));
    }
}

/// What the consumer holds of the provider, from the beginning.
fn own_statements(space: &Space) -> Vec<Bytes> {
    let consumer = space.node(CONSUMER);
    consumer.statements(&space.caller(PROVIDER), ChannelSide::FromCaller, 0, 256).unwrap()
}

fn foreign_statement(space: &Space) -> Bytes {
    let caller = space.caller(CONSUMER);
    let statement: &Statement = caller.credential_statement();
    statement.bytes().clone()
}

#[tokio::test]
async fn endless_pages_of_valid_statements_end() {
    let (space, leaves) = robbed().await;
    // A liar can sign as many statements of its own as it likes.
    let mut endless = Vec::new();
    for _ in 0..60 {
        endless.push(space.say(CONSUMER, PROVIDER).await.bytes().clone());
    }
    let endless = Arc::new(endless);
    space.instead_of(
        CONSUMER,
        Liar {
            statements: Some(Box::new(move |_, (side, from, _)| {
                let at = usize::try_from(from).unwrap_or(usize::MAX);
                // One by one, and the last one for ever.
                Ok(match side {
                    ChannelSide::ToCaller => {
                        let offset = at.saturating_sub(5).min(endless.len() - 1);
                        vec![endless[offset].clone()]
                    }
                    ChannelSide::FromCaller => Vec::new(),
                })
            })),
            ..Liar::of(&space)
        },
    );
    let report = recover(&space).await.unwrap();
    assert_eq!(all_leaves(&space.node(PROVIDER))[..leaves.len()], leaves);
    assert!(report.affected.contains(&space.ids[CONSUMER].to_string()));
}
