use huitong_identity::{PeerError, ServiceError};
use huitong_proof::cbor::{Map, Value};
use huitong_proof::{Content, Digest, Draft, Kind, Statement};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::link::ADDRESS;
use super::{MIB, Space, Who};
use crate::details::{AcceptDetail, AckDetail, AckStatus};
use crate::ranges::Ranges;
use crate::{FromConsumer, FromProvider, TransferState, Want};

const ID: [u8; 16] = [2; 16];

/// A consumer whose every frame the test writes.
pub(crate) struct Raw {
    pub(crate) out: mpsc::Sender<Result<FromConsumer, PeerError>>,
    pub(crate) frames: mpsc::Receiver<FromProvider>,
    pub(crate) served: JoinHandle<Result<(), ServiceError>>,
}

impl Raw {
    /// Opens an exchange, and gives the provider's OFFER.
    pub(crate) async fn open(space: &Space, id: [u8; 16]) -> (Self, Statement) {
        let (out, incoming) = mpsc::channel(64);
        let (answer, frames) = mpsc::channel(64);
        let (provider, caller) = (space.provider.clone(), space.network.consumer.caller.clone());
        let served = tokio::spawn(async move { provider.exchange(caller, ADDRESS, incoming, answer).await });
        let mut raw = Self { out, frames, served };
        let want = Want { transfer: id, contract: space.contract.clone(), product: space.product.clone() };
        raw.out.send(Ok(FromConsumer::Want(want))).await.unwrap();
        let offer = raw.statement(space, Kind::Offer).await;
        (raw, offer)
    }

    /// The provider's next statement of this kind.
    pub(crate) async fn statement(&mut self, space: &Space, kind: Kind) -> Statement {
        loop {
            if let FromProvider::Statement(bytes) = self.frames.recv().await.unwrap() {
                let statement = space.read(&bytes);
                if statement.kind() == kind {
                    return statement;
                }
            }
        }
    }

    /// Takes frames until this group has come.
    pub(crate) async fn chunk(&mut self, wanted: u64) {
        loop {
            if let FromProvider::Chunk { group, .. } = self.frames.recv().await.unwrap()
                && group == wanted
            {
                return;
            }
        }
    }

    pub(crate) async fn say(&self, statement: &Statement) {
        self.out.send(Ok(FromConsumer::Statement(statement.bytes().clone()))).await.unwrap();
    }
}

pub(crate) fn accept(offer: &Statement, space: &Space, start: u64, end: u64) -> Draft {
    Draft {
        kind: Kind::Accept,
        audience: space.network.provider.ledger.node().to_owned(),
        subject: offer.body().subject,
        agreement: offer.body().agreement,
        reference: offer.digest(),
        detail: AcceptDetail { wanted: Ranges::of(start..end), resume: Digest::ZERO }.to_detail(),
    }
}

pub(crate) fn ack(accept: &Statement, space: &Space, groups: u64, size: u64) -> Draft {
    let bytes = (groups * MIB as u64).min(size);
    let status = if bytes == size { AckStatus::Complete } else { AckStatus::Partial };
    let root = Content::of_bytes(&space.content).root();
    Draft {
        kind: Kind::Ack,
        audience: space.network.provider.ledger.node().to_owned(),
        subject: accept.body().subject,
        agreement: accept.body().agreement,
        reference: accept.digest(),
        detail: AckDetail { root, groups, bytes, status }.to_detail(),
    }
}

const SIZE: u64 = 3 * MIB as u64 + 5;
const MEBIBYTE: u64 = MIB as u64;

/// An acknowledgement whose detail says what it likes.
fn detail(space: &Space, groups: u64, bytes: u64, status: AckStatus) -> huitong_proof::cbor::Map {
    AckDetail { root: Content::of_bytes(&space.content).root(), groups, bytes, status }.to_detail()
}

/// Group 0 has been sent and acknowledged, group 1 has been sent, when the lie comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_false_acknowledgement_is_not_taken() {
    type Lie = (&'static str, fn(&Space, &mut Draft));
    let lies: [Lie; 14] = [
        ("ack.beyond", |space, ack| ack.detail = detail(space, 3, 3 * MEBIBYTE, AckStatus::Partial)),
        ("ack.beyond", |space, ack| ack.detail = detail(space, 4, SIZE, AckStatus::Complete)),
        ("ack.beyond", |space, ack| ack.detail = detail(space, 5, SIZE, AckStatus::Complete)),
        ("ack.beyond", |space, ack| ack.detail = detail(space, u64::MAX, u64::MAX, AckStatus::Complete)),
        ("ack.backwards", |space, ack| ack.detail = detail(space, 0, 0, AckStatus::Partial)),
        ("ack.backwards", |space, ack| ack.detail = detail(space, 1, MEBIBYTE, AckStatus::Partial)),
        ("ack.bytes", |space, ack| ack.detail = detail(space, 2, 2 * MEBIBYTE - 1, AckStatus::Partial)),
        ("ack.status", |space, ack| ack.detail = detail(space, 2, 2 * MEBIBYTE, AckStatus::Complete)),
        ("ack.root", |_, ack| {
            let root = Content::of_bytes(b"other").root();
            let detail = AckDetail { root, groups: 2, bytes: 2 * MEBIBYTE, status: AckStatus::Partial };
            ack.detail = detail.to_detail();
        }),
        ("ack.reference", |_, ack| ack.reference = Digest::ZERO),
        ("statement.subject", |_, ack| ack.subject = [3; 16]),
        ("statement.agreement", |_, ack| ack.agreement = Digest::ZERO),
        ("statement.audience", |space, ack| ack.audience = space.network.registrar.ledger.node().to_owned()),
        ("statement.kind", |_, ack| ack.kind = Kind::Final),
    ];
    for (field, lie) in lies {
        let space = Space::small().await;
        let (mut raw, offer) = Raw::open(&space, ID).await;
        let accept = space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await;
        raw.say(&accept).await;
        raw.chunk(0).await;
        raw.say(&space.issue(Who::Consumer, ack(&accept, &space, 1, SIZE)).await).await;
        raw.chunk(1).await;
        let mut draft = ack(&accept, &space, 2, SIZE);
        lie(&space, &mut draft);
        let lie = space.issue(Who::Consumer, draft).await;
        raw.say(&lie).await;
        match raw.served.await.unwrap() {
            Err(ServiceError::Invalid { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
        let transfer = space.seen_by(Who::Provider, ID);
        assert_eq!((transfer.state, transfer.acknowledged), (TransferState::Started, MEBIBYTE), "{field}");
        let ledger = &space.network.provider.ledger;
        let kept = ledger.statement(&ledger.store().view(), &lie.digest()).unwrap();
        assert!(kept.is_none(), "{field}: the lie is not in our ledger");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_signature_is_not_taken() {
    let space = Space::small().await;
    let (raw, offer) = Raw::open(&space, ID).await;
    let honest = space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await;
    let mut bytes = honest.bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    raw.out.send(Ok(FromConsumer::Statement(bytes.into()))).await.unwrap();
    assert!(matches!(raw.served.await.unwrap(), Err(ServiceError::Invalid { .. })));
    // Signed by the provider's own key.
    let (raw, offer) = Raw::open(&space, ID).await;
    raw.say(&space.forge(Who::Provider, 9000, accept(&offer, &space, 0, 4))).await;
    assert!(matches!(raw.served.await.unwrap(), Err(ServiceError::Invalid { .. })));
    assert!(space.seen_by(Who::Provider, ID).statements.accept.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_of_other_ranges_is_not_taken() {
    let many: Vec<_> = (0..1025).map(|n| (2 * n, 2 * n + 1)).collect();
    for (ranges, field) in [
        (&[(0, 5)][..], "accept.ranges"),
        (&[(4, 5)], "accept.ranges"),
        (&[(0, 1), (3, 5)], "accept.ranges"),
        (&[(u64::MAX - 1, u64::MAX)], "accept.ranges"),
        (&[(2, 1)], "ranges"),
        (&[(2, 3), (0, 1)], "ranges"),
        (&[(0, 2), (1, 3)], "ranges"),
        (&many, "ranges"),
    ] {
        let space = Space::small().await;
        let (raw, offer) = Raw::open(&space, ID).await;
        let mut draft = accept(&offer, &space, 0, 4);
        let values =
            ranges.iter().map(|(start, end)| Value::Array(vec![Value::Uint(*start), Value::Uint(*end)]));
        draft.detail = Map::new().array(1, values.collect()).digest(2, &Digest::ZERO);
        raw.say(&space.issue(Who::Consumer, draft).await).await;
        match raw.served.await.unwrap() {
            Err(ServiceError::Invalid { field: found, .. }) => assert_eq!(found, field, "{ranges:?}"),
            other => panic!("{ranges:?}: {other:?}"),
        }
    }
    let space = Space::small().await;
    let (raw, offer) = Raw::open(&space, ID).await;
    let mut draft = accept(&offer, &space, 0, 4);
    draft.reference = Digest::ZERO;
    raw.say(&space.issue(Who::Consumer, draft).await).await;
    assert!(
        matches!(raw.served.await.unwrap(), Err(ServiceError::Invalid { field, .. }) if field == "accept.reference")
    );
}

/// Two acknowledgements under one number: the second is refused, and both are kept as proof.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_contradicts_itself_is_caught() {
    let space = Space::small().await;
    let (mut raw, offer) = Raw::open(&space, ID).await;
    let accept = space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await;
    raw.say(&accept).await;
    raw.chunk(0).await;
    let first = space.issue(Who::Consumer, ack(&accept, &space, 1, SIZE)).await;
    raw.say(&first).await;
    raw.chunk(1).await;
    raw.say(&space.forge(Who::Consumer, first.body().seq, ack(&accept, &space, 2, SIZE))).await;
    match raw.served.await.unwrap() {
        Err(ServiceError::Refused { refusal, .. }) => assert_eq!(refusal.code, "statement.fork"),
        other => panic!("{other:?}"),
    }
    let ledger = &space.network.provider.ledger;
    assert_eq!(ledger.evidence(&ledger.store().view(), 10).unwrap().len(), 1);
    assert_eq!(space.seen_by(Who::Provider, ID).acknowledged, MEBIBYTE);
}

/// The same bytes again change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_acknowledgement_changes_nothing() {
    let space = Space::small().await;
    let (mut raw, offer) = Raw::open(&space, ID).await;
    let accept = space.issue(Who::Consumer, accept(&offer, &space, 0, 4)).await;
    raw.say(&accept).await;
    for groups in 1..=4 {
        raw.chunk(groups - 1).await;
        let statement = space.issue(Who::Consumer, ack(&accept, &space, groups, SIZE)).await;
        for _ in 0..if groups < 4 { 5 } else { 1 } {
            raw.say(&statement).await;
        }
    }
    raw.statement(&space, Kind::Final).await;
    raw.served.await.unwrap().unwrap();
    assert_eq!(space.counted(Who::Provider, ID, Kind::Ack), 4);
    assert_eq!(space.seen_by(Who::Provider, ID).state, TransferState::Completed);
}
