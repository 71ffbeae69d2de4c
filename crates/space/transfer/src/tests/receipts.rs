use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::{Caller, PeerError, Trust, prove_for};
use huitong_ids::NodeId;
use huitong_ledger::{Ledger, Proofs};
use huitong_proof::cbor::{Fields, Limits, Map, Value};
use huitong_proof::{Digest, SpaceId};

use super::witnesses::cosigned;
use super::{MIB, Space, Who, as_peer_error, count, policy};
use crate::EvidencePeer;
use crate::receipt::{Outcome, Report, verify};

pub(super) const ID: [u8; 16] = [2; 16];

pub(super) struct Keeper {
    ledger: Ledger,
    caller: Caller,
}

#[async_trait]
impl EvidencePeer for Keeper {
    async fn prove(&self, _: &NodeId, digests: Vec<Digest>, known_size: u64) -> Result<Proofs, PeerError> {
        let proven = prove_for(&self.caller, &self.ledger, digests, known_size).await;
        proven.map_err(|error| as_peer_error(&error))
    }

    async fn consistency(&self, _: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        self.ledger.consistency(old, new).map_err(|error| PeerError::Broken(error.to_string()))
    }

    async fn credential(&self, _: &NodeId) -> Result<Bytes, PeerError> {
        Err(PeerError::Unavailable("not part of these tests".to_owned()))
    }
}

pub(super) fn keeper(space: &Space, who: Who) -> Keeper {
    let asks = if who == Who::Provider { Who::Consumer } else { Who::Provider };
    Keeper { ledger: space.node(who).ledger.clone(), caller: space.node(asks).caller.clone() }
}

pub(super) fn trust(space: &Space) -> Trust {
    Trust::from_roots(&space.network.provider.standing.directory.roots())
}

/// Both sides' receipts of one finished transfer.
pub(super) async fn receipts(space: &Space, id: [u8; 16]) -> [Vec<u8>; 2] {
    space.start(id).await;
    assert_eq!(space.run(id).await.consumer, Ok(()));
    assert!(space.provider.receipt(&id).await.is_err(), "not before the other side's proofs are here");
    for (who, other) in [(Who::Provider, Who::Consumer), (Who::Consumer, Who::Provider)] {
        assert!(space.transfers(who).unproven().unwrap().contains(&id));
        space.transfers(who).collect(&id, &keeper(space, other)).await.unwrap();
        space.transfers(who).collect(&id, &keeper(space, other)).await.unwrap();
        assert!(!space.transfers(who).unproven().unwrap().contains(&id));
        assert!(space.seen_by(who, id).proven);
    }
    [space.provider.receipt(&id).await.unwrap(), space.consumer.receipt(&id).await.unwrap()]
}

pub(super) async fn counted_space() -> Space {
    Space::new(MIB + 1, MIB, &policy(&[&count(9)])).await
}

/// A receipt taken apart, to be put together in another way.
#[derive(Clone)]
pub(super) struct Parts {
    document: Vec<u8>,
    pub(super) statements: Vec<Value>,
    pub(super) logs: Vec<(String, Vec<Value>)>,
    pub(super) witnesses: Vec<Value>,
}

impl Parts {
    pub(super) fn of(receipt: &[u8]) -> Self {
        let mut fields = Fields::decode(receipt, Limits::DOCUMENT, "receipt").unwrap();
        fields.text(1, "format").unwrap();
        let document = fields.bytes(2, "document").unwrap();
        let statements = fields.array(3, "statements").unwrap();
        let logs = fields.array(4, "logs").unwrap().into_iter().map(|log| {
            let mut log = Fields::from_value(log, "log").unwrap();
            (log.text(1, "checkpoint").unwrap(), log.array(2, "inclusion").unwrap())
        });
        let logs = logs.collect();
        Self { document, statements, logs, witnesses: fields.array(5, "witnesses").unwrap() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let logs = self.logs.iter();
        let logs = logs.map(|(text, proofs)| Map::new().text(1, text).array(2, proofs.clone()).build());
        Map::new()
            .text(1, "huitong-receipt/1")
            .bytes(2, &self.document)
            .array(3, self.statements.clone())
            .array(4, logs.collect())
            .array(5, self.witnesses.clone())
            .encode()
    }
}

pub(super) fn assert_not_valid(report: &Report, what: &str) {
    assert_ne!(report.outcome(), Outcome::Valid, "{what}");
    assert!(report.facts.is_none(), "{what}");
    let problem = report.problems.first().expect(what);
    assert!(!problem.what.is_empty() && !problem.reason.is_empty(), "{what}: {problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_receipts_hold_and_say_the_same() {
    let space = counted_space().await;
    let receipts = receipts(&space, ID).await;
    for receipt in &receipts {
        assert_eq!(&Parts::of(receipt).encode(), receipt, "the test's own reading is faithful");
        let report = verify(receipt, &trust(&space), None);
        assert_eq!(report.problems, []);
        assert_eq!(report.outcome(), Outcome::Valid);
        let facts = report.facts.clone().unwrap();
        assert_eq!(facts.bytes, MIB as u64 + 1);
        assert_eq!(facts.blake3.as_bytes(), blake3::hash(&space.content).as_bytes());
        assert_eq!(facts.contract, space.contract.as_str());
        assert_eq!(golden(&space, &report), CLAIMS, "\n{}", golden(&space, &report));
    }
    let sorted = |receipt: &[u8]| Parts::of(receipt).statements;
    assert_eq!(sorted(&receipts[0]), sorted(&receipts[1]));
}

/// The claims with everything that differs from run to run replaced by a word.
fn golden(space: &Space, report: &Report) -> String {
    let root = space.seen_by(Who::Provider, ID).root.unwrap().to_string();
    let mut text = String::new();
    for claim in &report.claims {
        text.push_str(&format!("{}: {}\n", claim.name, claim.text));
    }
    for (id, word) in [
        (space.contract.as_str(), "CONTRACT"),
        (space.product.as_str(), "PRODUCT"),
        (space.network.provider.ledger.node(), "PROVIDER"),
        (space.network.consumer.ledger.node(), "CONSUMER"),
        (space.network.registrar.ledger.node(), "REGISTRAR"),
        (root.as_str(), "ROOT"),
    ] {
        text = text.replace(id, word);
    }
    // What a ledger's root and size are depends on random salts and on how often checkpoints were signed.
    for (who, word) in [(Who::Provider, "PROVIDER"), (Who::Consumer, "CONSUMER")] {
        let origin = space.node(who).ledger.origin();
        let log = origin.rsplit_once("/huitong-log").expect("an origin ends in the log's name").0;
        text = text.replace(log, word);
    }
    let lines = text.lines().map(|line| match line.split_once(" at size ") {
        Some((before, _)) => format!("{before} at size SIZE\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

const CLAIMS: &str = "\
credential: registrar Example Regional Function Node (REGISTRAR) certified node PROVIDER of Example Weather Bureau (91110000802100433B), valid from 2026-09-21T14:08:20.000Z to 2027-09-21T14:13:20.000Z
credential: registrar Example Regional Function Node (REGISTRAR) certified node CONSUMER of Example Farm Insurance (91330100799655058B), valid from 2026-09-21T14:08:20.000Z to 2027-09-21T14:13:20.000Z
agreement: Example Weather Bureau (PROVIDER) and Example Farm Insurance (CONSUMER) both signed contract CONTRACT on product Rainfall (PRODUCT), the provider at 2026-09-21T14:13:20.000Z and the consumer at 2026-09-21T14:13:20.000Z by their own clocks
asset: registrar Example Regional Function Node (REGISTRAR) registered version 1 of product PRODUCT of 1048577 bytes with BLAKE3 root ROOT for 91110000802100433B
offer: provider Example Weather Bureau (PROVIDER) offered 1048577 bytes of product PRODUCT with BLAKE3 root ROOT at 2026-09-21T14:13:20.000Z by its clock, under contract CONTRACT
acknowledgement: consumer Example Farm Insurance (CONSUMER) acknowledged 1048577 bytes of product PRODUCT with BLAKE3 root ROOT, between 2026-09-21T14:13:20.000Z (provider's clock) and 2026-09-21T14:13:20.000Z (its own clock), under contract CONTRACT
final: provider Example Weather Bureau (PROVIDER) closed the transfer of 1048577 bytes of product PRODUCT with BLAKE3 root ROOT as delivered at 2026-09-21T14:13:20.000Z by its clock, under contract CONTRACT
ledger: all 8 statements are in the provider's ledger PROVIDER/huitong-log/1 at size SIZE
ledger: all 8 statements are in the consumer's ledger CONSUMER/huitong-log/1 at size SIZE
";

/// Every byte of the file counts.
#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_goes_unnoticed() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let receipt = cosigned(&space, &receipt).await;
    let trust = trust(&space);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut bytes = receipt.clone();
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    if position >= bytes.len() {
                        return;
                    }
                    let bit = position % 8;
                    bytes[position] ^= 1 << bit;
                    assert_not_valid(&verify(&bytes, &trust, None), &format!("bit {bit} of byte {position}"));
                    bytes[position] ^= 1 << bit;
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_receipt_is_one() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let receipt = cosigned(&space, &receipt).await;
    let trust = trust(&space);
    for length in 0..receipt.len() {
        let report = verify(&receipt[..length], &trust, None);
        assert_eq!(report.outcome(), Outcome::Unreadable, "{length}");
        assert_not_valid(&report, "truncated");
    }
    let longer = [receipt.as_slice(), &[0]].concat();
    assert_eq!(verify(&longer, &trust, None).outcome(), Outcome::Unreadable);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_one_order_and_all_are_needed() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let (whole, trust) = (Parts::of(&receipt), trust(&space));
    let total = whole.statements.len();
    assert_eq!(
        total, 11,
        "three of the registrar, three of the contract, a usage record, four of the transfer"
    );
    for index in 0..total {
        let mut parts = whole.clone();
        parts.statements.remove(index);
        assert_not_valid(&verify(&parts.encode(), &trust, None), &format!("without statement {index}"));
        let mut parts = whole.clone();
        parts.statements.insert(index, whole.statements[index].clone());
        assert_not_valid(&verify(&parts.encode(), &trust, None), &format!("statement {index} twice"));
        for other in index + 1..total {
            let mut parts = whole.clone();
            parts.statements.swap(index, other);
            assert_not_valid(&verify(&parts.encode(), &trust, None), &format!("{index} and {other} swapped"));
        }
        // The same with the proofs made to fit.
        if let Some(shared) = index.checked_sub(3) {
            let mut parts = whole.clone();
            parts.statements.insert(index, whole.statements[index].clone());
            for (_, proofs) in &mut parts.logs {
                proofs.insert(shared, proofs[shared].clone());
            }
            assert_not_valid(
                &verify(&parts.encode(), &trust, None),
                &format!("{index} and its proofs twice"),
            );
            let mut parts = whole.clone();
            parts.statements.remove(index);
            for (_, proofs) in &mut parts.logs {
                proofs.remove(shared);
            }
            let report = verify(&parts.encode(), &trust, None);
            assert_eq!(report.outcome(), Outcome::Incomplete, "without {index} and its proofs: {report:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_proof_is_incomplete() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let (whole, trust) = (Parts::of(&receipt), trust(&space));
    for (name, change) in [
        (
            "the consumer's ledger",
            (|parts| {
                parts.logs.pop();
            }) as fn(&mut Parts),
        ),
        ("the provider's ledger", |parts| parts.logs.clear()),
        ("the consumer's ledger: proof of the", |parts| {
            parts.logs[1].1.pop();
        }),
        ("the provider's ledger: proof of the", |parts| parts.logs[0].1.clear()),
    ] {
        let mut parts = whole.clone();
        change(&mut parts);
        let report = verify(&parts.encode(), &trust, None);
        assert_not_valid(&report, name);
        assert_eq!(report.outcome(), Outcome::Incomplete, "{report:?}");
        assert!(report.problems[0].what.starts_with(name), "{report:?}");
        let ledgers = report.claims.iter().filter(|claim| claim.name == "ledger").count();
        assert!(ledgers < 2, "no claim that all statements are in both ledgers: {:?}", report.claims);
    }
    for (what, change) in [
        ("swapped logs", (|parts| parts.logs.swap(0, 1)) as fn(&mut Parts)),
        ("a third log", |parts| parts.logs.push(parts.logs[0].clone())),
        ("one log twice", |parts| parts.logs[1] = parts.logs[0].clone()),
        ("a proof too many", |parts| {
            let more = parts.logs[0].1[0].clone();
            parts.logs[0].1.push(more);
        }),
        ("another checkpoint", |parts| parts.logs[0].0 = parts.logs[1].0.clone()),
        ("a proof in another's place", |parts| parts.logs[0].1.swap(0, 1)),
    ] {
        let mut parts = whole.clone();
        change(&mut parts);
        let report = verify(&parts.encode(), &trust, None);
        assert_not_valid(&report, what);
        assert_eq!(report.outcome(), Outcome::Invalid, "{what}: {report:?}");
    }
}

/// Two true receipts do not make a third one.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_two_transfers_do_not_fit_together() {
    let space = counted_space().await;
    let [one, _] = receipts(&space, ID).await;
    let [two, _] = receipts(&space, [3; 16]).await;
    let (one, two, trust) = (Parts::of(&one), Parts::of(&two), trust(&space));
    assert_eq!(verify(&two.encode(), &trust, None).outcome(), Outcome::Valid);
    let total = one.statements.len();
    // Those of the contract are the same in both; every mixture of the transfers' own with proofs to fit fails.
    for mixture in 1..(1_u32 << (total - 6)) - 1 {
        let mut parts = one.clone();
        // The second receipt's checkpoints cover both transfers, the first one's do not.
        let later = two.logs.clone();
        for index in 6..total {
            if mixture & (1 << (index - 6)) != 0 {
                parts.statements[index] = two.statements[index].clone();
                for (log, later) in parts.logs.iter_mut().zip(&later) {
                    log.1[index - 3] = later.1[index - 3].clone();
                }
            }
        }
        assert_not_valid(&verify(&parts.encode(), &trust, None), &format!("mixture {mixture:b}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_others_sees_nothing_proven() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let right = trust(&space);
    assert_eq!(
        verify(&receipt, &Trust::from_json(&right.to_json()).unwrap(), None).outcome(),
        Outcome::Valid
    );

    let mut other = right.clone();
    other.space = SpaceId::from_name("another space");
    let mut stranger = right.clone();
    stranger.registrars[0].node = space.network.provider.membership.node().clone();
    let mut key = right.clone();
    key.registrars[0].statement_key = space.network.provider.ledger.statement_key();
    let nobody = Trust { registrars: Vec::new(), ..right };
    for (what, trust) in
        [("another space", other), ("another registrar", stranger), ("another key", key), ("nobody", nobody)]
    {
        let report = verify(&receipt, &trust, None);
        assert_not_valid(&report, what);
        assert_eq!(report.outcome(), Outcome::Invalid, "{what}: {report:?}");
        assert_eq!(report.claims, [], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_survive_a_restart() {
    let space = counted_space().await;
    let before = receipts(&space, ID).await;
    let space = space.restart().await;
    let after = [space.provider.receipt(&ID).await.unwrap(), space.consumer.receipt(&ID).await.unwrap()];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(Parts::of(before).statements, Parts::of(after).statements);
        assert_eq!(verify(after, &trust(&space), None).outcome(), Outcome::Valid);
    }
}
