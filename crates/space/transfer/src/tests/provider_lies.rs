use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use huitong_identity::{Delivery, PeerError};
use huitong_ids::NodeId;
use huitong_proof::cbor::{Map, Value};
use huitong_proof::{Body, Content, Digest, Draft, Kind, Statement};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::Link;
use super::serving::Stopped;
use super::{MIB, Space, Who, Wire, joined};
use crate::FromProvider::{self, Chunk, Leaves};
use crate::details::{OfferDetail, final_detail};
use crate::{Frames, FromConsumer, Pieces, TransferPeer, TransferState};

const ID: [u8; 16] = [2; 16];

/// What is left after the consumer has given up: its signed ABORT on both sides, no file.
fn assert_aborted(space: &Space, code: &str) {
    assert_eq!(space.states(ID), [TransferState::Terminated; 2]);
    for who in [Who::Provider, Who::Consumer] {
        assert_eq!(space.counted(who, ID, Kind::Abort), 1, "{who:?}");
        assert_eq!(space.seen_by(who, ID).code, code);
    }
    assert!(space.files().is_empty(), "{:?}", space.files());
}

fn draft(body: &Body, detail: Map) -> Draft {
    Draft {
        kind: body.kind,
        audience: body.audience.clone(),
        subject: body.subject,
        agreement: body.agreement,
        reference: body.reference,
        detail,
    }
}

/// The wire puts `made` in the place of the first statement of this kind.
fn replacing(kind: Kind, made: Statement, space: &Space) -> Wire {
    let space_id = *space.network.provider.ledger.space();
    Wire::down(move |frame| match &frame {
        FromProvider::Statement(bytes) => {
            let found = huitong_proof::Envelope::decode(bytes.clone()).unwrap().trusted(&space_id).unwrap();
            if found.kind() == kind {
                return vec![FromProvider::Statement(made.bytes().clone())];
            }
            vec![frame]
        }
        _ => vec![frame],
    })
}

/// The provider's honest OFFER for a transfer that was cut off before its acceptance came back.
async fn offered(space: &Space) -> Statement {
    space.start(ID).await;
    let mut offer = None;
    let attempt = space.attempt(ID, Wire::cut(3)).await;
    attempt.assert_retry("closed the exchange");
    for statement in space.statements(Who::Provider, ID) {
        if statement.kind() == Kind::Offer {
            offer = Some(statement);
        }
    }
    assert!(space.seen_by(Who::Consumer, ID).statements.offer.is_none(), "the offer did not arrive");
    offer.unwrap()
}

type Lie = (&'static str, fn(&mut OfferDetail));

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_of_something_else_is_answered_with_an_abort() {
    let lies: [Lie; 4] = [
        ("offer.root", |offer| offer.root = Content::of_bytes(b"other").root()),
        ("offer.size", |offer| offer.size += 1),
        ("offer.window", |offer| offer.window += 1),
        ("offer.policy", |offer| offer.policy = Digest::sha256(b"other")),
    ];
    for (code, lie) in lies {
        let space = Space::small().await;
        let honest = offered(&space).await;
        let mut detail = OfferDetail::read(&honest).unwrap();
        lie(&mut detail);
        let made = space.forge(Who::Provider, 9000, draft(honest.body(), detail.to_detail()));
        let attempt = space.attempt(ID, replacing(Kind::Offer, made.clone(), &space)).await;
        attempt.assert_over(code);
        assert!(!attempt.frames.iter().any(|name| name.starts_with("chunk")), "{attempt:?}");
        assert_aborted(&space, code);
        let kept = space.statements(Who::Consumer, ID);
        assert!(kept.iter().any(|found| found.digest() == made.digest()), "the lie is kept as evidence");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_outside_its_form_is_not_taken() {
    let space = Space::small().await;
    let honest = offered(&space).await;
    let body = honest.body().clone();
    let Value::Map(fields) = OfferDetail::read(&honest).unwrap().to_detail().build() else { unreachable!() };
    let outside = fields.into_iter().fold(Map::new(), |detail, (key, value)| match key {
        17 => detail.text(key, "../../etc/passwd"),
        _ => detail.value(key, value),
    });
    let other = |change: fn(&mut Draft)| {
        let mut made = draft(&body, OfferDetail::read(&honest).unwrap().to_detail());
        change(&mut made);
        made
    };
    let made = [
        ("file_name", draft(&body, outside)),
        ("another transfer", other(|draft| draft.subject = [3; 16])),
        ("another agreement", other(|draft| draft.agreement = Digest::ZERO)),
        ("another node", other(|draft| draft.audience = "somebody".to_owned())),
        ("before the offer", other(|draft| draft.kind = Kind::Final)),
    ];
    for (seq, (text, draft)) in (9000..).zip(made) {
        let made = space.forge(Who::Provider, seq, draft);
        space.attempt(ID, replacing(Kind::Offer, made, &space)).await.assert_retry(text);
    }
    // Signed by somebody else.
    let made =
        space.forge(Who::Consumer, 9100, draft(&body, OfferDetail::read(&honest).unwrap().to_detail()));
    space.attempt(ID, replacing(Kind::Offer, made, &space)).await.assert_retry("");
    assert!(space.seen_by(Who::Consumer, ID).statements.offer.is_none());
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_changes_between_runs_is_answered_with_an_abort() {
    // A new number on the channel, or the same number once more: then both are kept as proof.
    for again in [false, true] {
        let space = Space::small().await;
        space.start(ID).await;
        space.attempt(ID, Wire::cut(9)).await.assert_retry("");
        assert!(space.seen_by(Who::Consumer, ID).acknowledged > 0);
        let offers = space.statements(Who::Consumer, ID);
        let honest = offers.iter().find(|found| found.kind() == Kind::Offer).unwrap();
        let seq = if again { honest.body().seq } else { 9000 };
        let detail = OfferDetail::read(honest).unwrap().to_detail();
        let made = space.forge(Who::Provider, seq, draft(honest.body(), detail));
        space.attempt(ID, replacing(Kind::Offer, made, &space)).await.assert_over("offer.changed");
        assert_aborted(&space, "offer.changed");
        let ledger = &space.network.consumer.ledger;
        assert_eq!(ledger.evidence(&ledger.store().view(), 10).unwrap().len(), usize::from(again));
    }
}

/// The transfer goes on under an honest provider after each of these.
#[tokio::test(flavor = "multi_thread")]
async fn a_breach_of_the_protocol_ends_the_attempt_only() {
    type Lie = (&'static str, fn(FromProvider) -> Vec<FromProvider>);
    let lies: [Lie; 13] = [
        ("leaf values among the content", |frame| match frame {
            Leaves(part) => vec![Leaves(part.clone()); 1000],
            other => vec![other],
        }),
        ("more leaf values", |frame| match frame {
            Leaves(part) => vec![Leaves([part, Bytes::from(vec![0; 32])].concat().into())],
            other => vec![other],
        }),
        ("more leaf values", |frame| match frame {
            Leaves(_) => vec![Leaves(Bytes::new()); 2],
            other => vec![other],
        }),
        ("do not merge to its root", |frame| match frame {
            Leaves(part) => {
                let mut part = part.to_vec();
                part[40] ^= 1;
                vec![Leaves(part.into())]
            }
            other => vec![other],
        }),
        ("content before its manifest and leaf values", |frame| match frame {
            Leaves(part) => vec![Leaves(part.slice(..32)), Chunk { group: 0, data: part.into() }],
            other => vec![other],
        }),
        ("where group 0 was due", |frame| match frame {
            Chunk { group, data } => vec![Chunk { group: group + 4, data }],
            other => vec![other],
        }),
        ("where group 1 was due", |frame| match frame {
            chunk @ Chunk { .. } => vec![chunk.clone(), chunk],
            other => vec![other],
        }),
        ("where group 0 was due", |frame| match frame {
            Chunk { group, data } => {
                vec![Chunk { group, data: Bytes::from([&joined(&data)[..], b"x"].concat()).into() }]
            }
            other => vec![other],
        }),
        ("where group 0 was due", |frame| match frame {
            Chunk { group, data } => vec![Chunk { group, data: joined(&data).slice(1..).into() }],
            other => vec![other],
        }),
        ("leaf values among the content", |frame| match frame {
            Chunk { .. } => vec![Leaves(Bytes::from(vec![0; 32]))],
            other => vec![other],
        }),
        ("where group 0 was due", |frame| match frame {
            Chunk { group, .. } => vec![Chunk { group, data: Pieces::default() }],
            other => vec![other],
        }),
        ("bytes before the offer", |frame| match frame {
            FromProvider::Statement(_) => vec![Chunk { group: 0, data: Pieces::default() }],
            other => vec![other],
        }),
        ("statement", |frame| match frame {
            FromProvider::Statement(bytes) => vec![FromProvider::Statement(bytes.slice(1..))],
            other => vec![other],
        }),
    ];
    for (text, lie) in lies {
        let space = Space::small().await;
        space.start(ID).await;
        let attempt = space.attempt(ID, Wire::down(lie)).await;
        attempt.assert_retry(text);
        space.assert_acknowledged_is_durable(ID);
        let resumed = space.run(ID).await;
        assert_eq!(resumed.consumer, Ok(()), "after {text:?}: {resumed:?}");
        space.assert_delivered(ID);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_end_the_transfer() {
    for wrong in [0, 2, 3] {
        let space = Space::small().await;
        space.start(ID).await;
        let attempt = space
            .attempt(
                ID,
                Wire::down(move |frame| match frame {
                    Chunk { group, data } if group == wrong => {
                        let mut data = joined(&data).to_vec();
                        let last = data.len() - 1;
                        data[last] ^= 1;
                        vec![Chunk { group, data: Bytes::from(data).into() }]
                    }
                    other => vec![other],
                }),
            )
            .await;
        attempt.assert_over("group.wrong");
        assert!(space.seen_by(Who::Consumer, ID).reason.contains(&format!("group {wrong} ")));
        assert!(space.seen_by(Who::Consumer, ID).acknowledged <= wrong * MIB as u64);
        assert_aborted(&space, "group.wrong");
        space.run(ID).await.consumer.unwrap();
        assert!(space.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_must_answer_our_acknowledgement() {
    let space = Space::small().await;
    space.start(ID).await;
    let frames = space.run(ID).await.frames;
    space.forget_delivered();
    let honest = space.statements(Who::Consumer, ID).into_iter().find(|found| found.kind() == Kind::Final);
    let root = space.seen_by(Who::Consumer, ID).root.unwrap();
    let mut body = honest.unwrap().body().clone();
    let id = [3; 16];
    body.subject = id;
    space.start(id).await;
    space.attempt(id, Wire::cut(frames.len() - 1)).await.assert_retry("");
    let ack = space.seen_by(Who::Consumer, id).statements.ack.unwrap();
    let other = Content::of_bytes(b"other").root();
    let undelivered = Map::new().bytes(1, root.as_bytes()).text(2, "lost");
    // `body` still answers the acknowledgement of the first transfer.
    let mut right = body.clone();
    right.reference = ack;
    let lies = [
        ("does not answer", draft(&body, final_detail(&root))),
        ("does not answer", draft(&right, final_detail(&other))),
        ("verdict", draft(&right, undelivered)),
    ];
    for (seq, (text, draft)) in (9000..).zip(lies) {
        let made = space.forge(Who::Provider, seq, draft);
        space.attempt(id, replacing(Kind::Final, made, &space)).await.assert_retry(text);
        assert_eq!(space.seen_by(Who::Consumer, id).state, TransferState::Started);
    }
    assert_eq!(space.run(id).await.consumer, Ok(()));
    space.assert_delivered(id);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_offer_counts_without_the_registrars_word() {
    let space = Space::small().await;
    space.start(ID).await;
    let mut first = true;
    let attempt = space
        .attempt(
            ID,
            Wire::down(move |frame| if std::mem::take(&mut first) { Vec::new() } else { vec![frame] }),
        )
        .await;
    attempt.assert_retry("no asset certificate");
    let honest =
        space.statements(Who::Provider, ID).into_iter().find(|found| found.kind() == Kind::Usage).unwrap();
    // The provider's own word in its place.
    let mut made = draft(honest.body(), Map::new().value(1, Value::Uint(1)));
    made.kind = Kind::AssetCertificate;
    let made = space.forge(Who::Provider, 9000, made);
    let attempt = space.attempt(ID, replacing(Kind::AssetCertificate, made, &space)).await;
    assert!(attempt.consumer.is_err(), "{attempt:?}");
    assert!(space.seen_by(Who::Consumer, ID).statements.offer.is_none());
}

/// Gives leaf values byte by byte, each one just before the consumer would lose its patience with it.
struct Trickling(Link);

#[async_trait]
impl TransferPeer for Trickling {
    async fn exchange(
        &self,
        provider: &NodeId,
        size: u64,
        outgoing: mpsc::Receiver<FromConsumer>,
    ) -> Result<Frames, PeerError> {
        let frames = self.0.exchange(provider, size, outgoing).await?;
        Ok(Box::pin(frames.flat_map(|frame| {
            match frame {
                Ok(Leaves(bytes)) => stream::iter(bytes)
                    .then(|byte| async move {
                        tokio::time::sleep(Duration::from_secs(50)).await;
                        Ok(Leaves(vec![byte].into()))
                    })
                    .boxed(),
                other => stream::iter([other]).boxed(),
            }
        })))
    }

    async fn lane(&self, provider: &NodeId, transfer: [u8; 16]) -> Result<Frames, PeerError> {
        self.0.lane(provider, transfer).await
    }
}

#[tokio::test]
async fn an_index_that_trickles_is_not_waited_for_to_its_end() {
    let space = Space::small().await;
    space.start(ID).await;
    let clock = Stopped::new();
    let began = Instant::now();
    let running = {
        let (consumer, peer) = (space.consumer.clone(), Trickling(Link::new(&space, Wire::default())));
        tokio::spawn(async move { consumer.run(&ID, &peer).await })
    };
    clock.until(|| space.consumer.transfer(&ID).unwrap().unwrap().root.is_some()).await;
    while !running.is_finished() && began.elapsed() < Duration::from_secs(1_200) {
        clock.pass(Duration::from_secs(10)).await;
    }
    assert!(running.is_finished(), "{:?}", began.elapsed());
    match running.await.unwrap() {
        Err(Delivery::Retry(reason)) => assert!(reason.contains("was not through"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
