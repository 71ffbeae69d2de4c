use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_identity::{Caller, Delivery, PeerError, ServiceError, prove_for};
use huitong_ids::NodeId;
use huitong_ledger::{Checkpoint, Ledger, Proofs, QuorumPolicy, Redaction, SignedCheckpoint};
use huitong_proof::{Digest, Draft, Kind, Statement};

use super::receipts::{ID, counted_space, trust};
use super::witnesses::{Witness, at};
use super::{Space, Who, as_peer_error, transfers_under};
use crate::receipt::{Outcome, verify};
use crate::{EvidencePeer, Finality, Transfers};

/// The provider's node as the consumer reaches it, whose answers a test can change.
struct Keeper {
    ledger: Ledger,
    caller: Caller,
    /// What a registrar would say of a node.
    credentials: HashMap<String, Bytes>,
    change: Box<dyn Fn(&mut Proofs) + Send + Sync>,
    away: bool,
    calls: AtomicU64,
    asked_for: Mutex<Vec<String>>,
}

impl Keeper {
    fn of(space: &Space, witnesses: &[&Witness]) -> Self {
        Self {
            ledger: space.network.provider.ledger.clone(),
            caller: space.network.consumer.caller.clone(),
            credentials: witnesses
                .iter()
                .map(|one| (one.credential.node.to_string(), one.statement.bytes().clone()))
                .collect(),
            change: Box::new(|_| {}),
            away: false,
            calls: AtomicU64::new(0),
            asked_for: Mutex::default(),
        }
    }

    fn with(self, change: impl Fn(&mut Proofs) + Send + Sync + 'static) -> Self {
        Self { change: Box::new(change), ..self }
    }

    fn calls(&self) -> u64 {
        self.calls.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl EvidencePeer for Keeper {
    async fn prove(&self, _: &NodeId, digests: Vec<Digest>, known_size: u64) -> Result<Proofs, PeerError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.away {
            return Err(PeerError::Unavailable("away".to_owned()));
        }
        let proven = prove_for(&self.caller, &self.ledger, digests, known_size).await;
        let mut proofs = proven.map_err(|error| as_peer_error(&error))?;
        (self.change)(&mut proofs);
        Ok(proofs)
    }

    async fn consistency(&self, _: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.ledger.consistency(old, new).map_err(|error| PeerError::Broken(error.to_string()))
    }

    async fn credential(&self, node: &NodeId) -> Result<Bytes, PeerError> {
        self.asked_for.lock().unwrap().push(node.to_string());
        let known = self.credentials.get(node.as_str()).cloned();
        known.ok_or_else(|| PeerError::Unavailable("not registered".to_owned()))
    }
}

/// A finished transfer, and the consumer's side of it under this policy.
async fn finished(policy: impl Fn(&Space) -> QuorumPolicy) -> (Space, Transfers) {
    let space = counted_space().await;
    space.start(ID).await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    let policy = policy(&space);
    let consumer = transfers_under(space.home.path(), &space.network.consumer, Some(policy));
    (space, consumer)
}

fn registrar_alone(space: &Space) -> QuorumPolicy {
    QuorumPolicy::single("office", Witness::registrar(space).credential.witness)
}

/// What the witnesses of a node have come to: they cosign its newest checkpoint.
async fn cosign(space: &Space, who: Who, witnesses: &[&Witness], seconds: u64) -> u64 {
    let ledger = space.node(who).ledger.clone();
    let signed = ledger.checkpoint().await.unwrap();
    let lines: Vec<String> =
        witnesses.iter().map(|witness| witness.line(signed.checkpoint(), seconds)).collect();
    let cosigned = signed.with_lines(&lines).unwrap();
    let store = ledger.store().clone();
    store.transact("test", move |tx| ledger.put_cosigned(tx, &cosigned)).await.unwrap();
    signed.checkpoint().size
}

/// The ledger grows, and its checkpoints with it.
async fn grow(space: &Space, who: Who) {
    let audience = match who {
        Who::Provider => space.network.consumer.ledger.node(),
        Who::Consumer => space.network.provider.ledger.node(),
    };
    let draft = Draft {
        kind: Kind::Refusal,
        audience: audience.to_owned(),
        subject: [4; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: huitong_proof::cbor::Map::new(),
    };
    space.issue(who, draft).await;
    space.node(who).ledger.checkpoint().await.unwrap();
}

#[track_caller]
fn assert_waits(result: Result<(), Delivery>, for_what: &str) {
    match result {
        Err(Delivery::Retry(reason)) if reason.contains(for_what) => {}
        other => panic!("{for_what}: {other:?}"),
    }
}

fn finality(transfers: &Transfers) -> (bool, Finality) {
    let transfer = transfers.transfer(&ID).unwrap().unwrap();
    (transfer.proven, transfer.finality)
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_becomes_final_when_both_ledgers_are_witnessed() {
    let (space, consumer) = finished(registrar_alone).await;
    let registrar = Witness::registrar(&space);
    let keeper = Keeper::of(&space, &[]);
    assert_eq!(consumer.unproven().unwrap(), [ID]);
    assert_eq!(finality(&consumer), (false, Finality::Provisional));

    assert_waits(consumer.collect(&ID, &keeper).await, "office");
    assert_eq!(finality(&consumer), (true, Finality::Provisional));
    let receipt = consumer.receipt(&ID).await.unwrap();
    let report = verify(&receipt, &trust(&space), None);
    assert_eq!((report.outcome(), report.finality()), (Outcome::Valid, Some(Finality::Provisional)));
    let strict = verify(&receipt, &trust(&space), Some(&registrar_alone(&space)));
    assert_eq!(strict.outcome(), Outcome::PolicyNotMet);

    // One side is not enough, and the other one is not asked again for what is there.
    cosign(&space, Who::Provider, &[&registrar], 3).await;
    keeper.calls();
    assert_waits(consumer.collect(&ID, &keeper).await, "this node's checkpoint");
    assert!(keeper.calls() > 0);
    assert_waits(consumer.collect(&ID, &keeper).await, "this node's checkpoint");
    assert_eq!(keeper.calls(), 0);
    assert_eq!(consumer.unproven().unwrap(), [ID]);

    cosign(&space, Who::Consumer, &[&registrar], 5).await;
    assert_eq!(consumer.collect(&ID, &keeper).await, Ok(()));
    assert_eq!(finality(&consumer), (true, Finality::Final));
    assert!(consumer.unproven().unwrap().is_empty());
    assert_eq!(consumer.collect(&ID, &keeper).await, Ok(()));
    assert_eq!(keeper.calls(), 0);
    let receipt = consumer.receipt(&ID).await.unwrap();
    for policy in [None, Some(&registrar_alone(&space))] {
        let report = verify(&receipt, &trust(&space), policy);
        assert_eq!((report.outcome(), report.finality()), (Outcome::Valid, Some(Finality::Final)));
        assert_eq!(report.not_after(), Some(at(3)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_proofs_are_final_at_once() {
    let space = counted_space().await;
    space.start(ID).await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert_eq!(space.consumer.collect(&ID, &Keeper::of(&space, &[])).await, Ok(()));
    assert_eq!(finality(&space.consumer), (true, Finality::Final));
    assert!(space.consumer.unproven().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_witness_costs_less_and_less() {
    let (space, consumer) = finished(registrar_alone).await;
    let keeper = Keeper::of(&space, &[]);
    let pauses = pauses(&space, &consumer, &keeper, "office").await;
    assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60]);
    // It comes back, and so does finality.
    let registrar = Witness::registrar(&space);
    cosign(&space, Who::Provider, &[&registrar], 3).await;
    cosign(&space, Who::Consumer, &[&registrar], 3).await;
    assert!(consumer.unproven().unwrap().is_empty(), "not before it is due");
    space.network.clock.advance(Duration::from_secs(3600));
    assert_eq!(consumer.unproven().unwrap(), [ID]);
    assert_eq!(consumer.collect(&ID, &keeper).await, Ok(()));
    assert_eq!(finality(&consumer), (true, Finality::Final));
}

/// Minutes before each of 16 attempts, made as often as it is due and no earlier.
async fn pauses(space: &Space, transfers: &Transfers, peer: &dyn EvidencePeer, for_what: &str) -> Vec<usize> {
    let mut pauses = Vec::new();
    for _ in 0..16 {
        let mut waited = 0;
        while transfers.unproven().unwrap().is_empty() {
            space.network.clock.advance(Duration::from_secs(60));
            waited += 1;
        }
        pauses.push(waited);
        assert_waits(transfers.collect(&ID, peer).await, for_what);
    }
    pauses
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_away_is_asked_every_few_minutes() {
    let (space, consumer) = finished(registrar_alone).await;
    let nobody = Keeper { away: true, ..Keeper::of(&space, &[]) };
    let pauses = pauses(&space, &consumer, &nobody, "away").await;
    assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 5, 5, 5, 5]);
    assert_eq!(finality(&consumer), (false, Finality::Provisional));
}

/// However fast the other ledger grows and is looked at, what its witnesses have come to counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_cosigned_checkpoint_may_be_older_than_the_newest_one_seen() {
    let (space, consumer) = finished(registrar_alone).await;
    let registrar = Witness::registrar(&space);
    let keeper = Keeper::of(&space, &[]);
    assert_waits(consumer.collect(&ID, &keeper).await, "office");
    grow(&space, Who::Provider).await;
    let cosigned = cosign(&space, Who::Provider, &[&registrar], 3).await;
    for _ in 0..3 {
        grow(&space, Who::Provider).await;
    }
    observe_newest(&space).await;
    let view = space.network.consumer.ledger.store().view();
    let log = space.network.provider.ledger.origin();
    let seen = space.network.consumer.ledger.observed(&view, log).unwrap().unwrap();
    assert!(seen.size > cosigned);
    drop(view);
    cosign(&space, Who::Consumer, &[&registrar], 3).await;
    assert_eq!(consumer.collect(&ID, &keeper).await, Ok(()));
    assert_eq!(finality(&consumer), (true, Finality::Final));
    let report = verify(&consumer.receipt(&ID).await.unwrap(), &trust(&space), None);
    assert_eq!(report.ledgers[0].size, cosigned);
}

async fn observe_newest(space: &Space) {
    let (ledger, provider) = (space.network.consumer.ledger.clone(), space.network.provider.ledger.clone());
    let known = ledger.observed(&ledger.store().view(), provider.origin()).unwrap().unwrap().size;
    let newest = provider.checkpoint().await.unwrap();
    let path = provider.consistency(known, newest.checkpoint().size).unwrap();
    let store = ledger.store().clone();
    store
        .transact("test", move |tx| ledger.observe(tx, &provider.log_verifier(), newest.text(), &path))
        .await
        .unwrap();
}

/// A cosigned checkpoint of another history than the one that was seen makes nothing final.
#[tokio::test(flavor = "multi_thread")]
async fn a_cosigned_checkpoint_must_belong_to_the_history_that_was_seen() {
    let (space, consumer) = finished(registrar_alone).await;
    let registrar = Witness::registrar(&space);
    let keeper = Keeper::of(&space, &[]);
    assert_waits(consumer.collect(&ID, &keeper).await, "office");
    for older in [true, false] {
        if older {
            cosign(&space, Who::Provider, &[&registrar], 3).await;
            grow(&space, Who::Provider).await;
            observe_newest(&space).await;
        } else {
            grow(&space, Who::Provider).await;
            cosign(&space, Who::Provider, &[&registrar], 3).await;
        }
        let liar = Lying(Keeper::of(&space, &[]));
        let Err(Delivery::Retry(reason)) = consumer.collect(&ID, &liar).await else { panic!("{older}") };
        assert!(!reason.contains("waits for witnesses"), "{older}: {reason}");
        assert_eq!(finality(&consumer), (true, Finality::Provisional));
    }
}

/// Gives paths that lead nowhere.
struct Lying(Keeper);

#[async_trait]
impl EvidencePeer for Lying {
    async fn prove(&self, node: &NodeId, digests: Vec<Digest>, known: u64) -> Result<Proofs, PeerError> {
        self.0.prove(node, digests, known).await
    }

    async fn consistency(&self, node: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        let mut path = self.0.consistency(node, old, new).await?;
        path[0] = Digest::sha256(b"elsewhere");
        Ok(path)
    }

    async fn credential(&self, node: &NodeId) -> Result<Bytes, PeerError> {
        self.0.credential(node).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_witnesses_are_asked_for_and_strangers_left_out() {
    let space = counted_space().await;
    let (mill, stranger) =
        (Witness::mill(&space).await, Witness::enrolled(&space, "91310105575958172A").await);
    let registrar = Witness::registrar(&space);
    space.start(ID).await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    let names = [("office", &registrar), ("mill", &mill)];
    let witnesses = names.map(|(name, one)| (name.to_owned(), one.credential.witness.clone(), None));
    let policy = QuorumPolicy::k_of(2, witnesses.to_vec()).unwrap();
    let consumer = transfers_under(space.home.path(), &space.network.consumer, Some(policy.clone()));
    let all = [&registrar, &mill, &stranger, &Witness::party(&space, Who::Consumer)];
    let size = cosign(&space, Who::Provider, &all, 3).await;
    cosign(&space, Who::Consumer, &[&registrar, &mill], 4).await;
    // Foreign names and the ledger's own are not even asked for.
    let own = Witness::party(&space, Who::Provider);
    let log = space.network.provider.ledger.log_verifier();
    let keeper = Keeper::of(&space, &[&mill]).with(move |proofs| {
        let signed = SignedCheckpoint::parse(&proofs.checkpoint, &log).unwrap();
        let line = own.line(signed.checkpoint(), 2);
        let foreign = line.replace(own.cosigner.verifier().name(), "example.com/witness");
        proofs.checkpoint.push_str(&format!("{line}\n{foreign}\n"));
    });
    assert_eq!(consumer.collect(&ID, &keeper).await, Ok(()));
    assert_eq!(finality(&consumer), (true, Finality::Final));
    let asked = keeper.asked_for.lock().unwrap().clone();
    let known: Vec<&str> = [&mill, &stranger].iter().map(|one| one.credential.node.as_str()).collect();
    assert!(asked.iter().all(|node| known.contains(&node.as_str())), "{asked:?}");

    let receipt = consumer.receipt(&ID).await.unwrap();
    let report = verify(&receipt, &trust(&space), Some(&policy));
    assert_eq!((report.outcome(), report.finality()), (Outcome::Valid, Some(Finality::Final)), "{report:?}");
    assert_eq!(report.ledgers[0].size, size);
    let mut expected = [&registrar, &mill, &Witness::party(&space, Who::Consumer)]
        .map(|one| one.credential.node.to_string());
    expected.sort();
    let found: Vec<&str> = report.ledgers[0].cosignatures.iter().map(|one| one.node.as_str()).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_line_of_a_known_witness_refuses_the_whole_checkpoint() {
    let (space, consumer) = finished(registrar_alone).await;
    let registrar = Witness::registrar(&space);
    cosign(&space, Who::Provider, &[&registrar], 3).await;
    let keeper = Keeper::of(&space, &[]).with(move |proofs| {
        let line = proofs.checkpoint.lines().last().unwrap().to_owned();
        let other = Checkpoint { origin: "another".to_owned(), size: 1, root: Digest::ZERO };
        proofs.checkpoint = proofs.checkpoint.replace(&line, &registrar.line(&other, 3));
    });
    assert_waits(consumer.collect(&ID, &keeper).await, "does not verify");
    assert_eq!(finality(&consumer), (false, Finality::Provisional));
}

#[tokio::test(flavor = "multi_thread")]
async fn finality_survives_a_restart() {
    let (space, consumer) = finished(registrar_alone).await;
    let registrar = Witness::registrar(&space);
    cosign(&space, Who::Provider, &[&registrar], 3).await;
    assert_waits(consumer.collect(&ID, &Keeper::of(&space, &[])).await, "this node's checkpoint");
    drop(consumer);
    let space = space.restart().await;
    let policy = registrar_alone(&space);
    let consumer = transfers_under(space.home.path(), &space.network.consumer, Some(policy.clone()));
    assert_eq!(consumer.unproven().unwrap(), [ID]);
    cosign(&space, Who::Consumer, &[&registrar], 3).await;
    assert_eq!(consumer.collect(&ID, &Keeper::of(&space, &[])).await, Ok(()));
    let receipt = consumer.receipt(&ID).await.unwrap();
    assert_eq!(verify(&receipt, &trust(&space), Some(&policy)).outcome(), Outcome::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn recovered_usage_moves_a_counter_up_and_never_down() {
    let space = counted_space().await;
    for id in [[11; 16], [12; 16], [13; 16]] {
        space.start(id).await;
        assert_eq!(space.run(id).await.consumer, Ok(()));
    }
    assert_eq!(space.counter(), 3);
    let usage: Vec<Statement> = [[11; 16], [12; 16], [13; 16]]
        .iter()
        .flat_map(|id| space.statements(Who::Provider, *id))
        .filter(|statement| statement.kind() == Kind::Usage)
        .collect();
    let recount = async |statements: Vec<Statement>| {
        let (transfers, store) = (space.provider.clone(), space.network.provider.ledger.store().clone());
        store
            .transact("test", move |tx| -> Result<Vec<u64>, ServiceError> {
                statements.iter().map(|statement| transfers.recount(tx, statement)).collect()
            })
            .await
    };
    // Nothing was lost, so nothing changes.
    assert_eq!(recount(usage.clone()).await.unwrap(), [3, 3, 3]);
    assert_eq!(space.counter(), 3);
    // The counters of a backup that was made before the first use.
    let agreement = usage[0].body().agreement;
    let store = space.network.provider.ledger.store().clone();
    store
        .transact("test", move |tx| crate::tables::put_counter(tx, &agreement, "permission[0]", 0))
        .await
        .unwrap();
    assert_eq!(recount(vec![usage[1].clone()]).await.unwrap(), [2]);
    assert_eq!(recount(vec![usage[0].clone()]).await.unwrap(), [2]);
    assert_eq!(recount(vec![usage[2].clone(), usage[1].clone()]).await.unwrap(), [3, 3]);
    assert_eq!(space.counter(), 3);

    // Somebody else's statement, and one of another kind.
    let offer = space.statements(Who::Provider, [11; 16]);
    let offer = offer.iter().find(|statement| statement.kind() == Kind::Offer).unwrap();
    recount(vec![offer.clone()]).await.unwrap_err();
    let (consumer, store) = (space.consumer.clone(), space.network.consumer.ledger.store().clone());
    let foreign = usage[0].clone();
    store.transact("test", move |tx| consumer.recount(tx, &foreign)).await.unwrap_err();
    assert_eq!(space.counter(), 3);
}

async fn redact(space: &Space, who: Who, digest: Digest) {
    let ledger = space.node(who).ledger.clone();
    let store = ledger.store().clone();
    let index = ledger.index_of(&store.view(), &digest).unwrap().unwrap();
    let (who, why) = ("data protection officer".to_owned(), "case 7".to_owned());
    let redaction = Redaction { digest, who, why, statement: Digest::ZERO };
    store.transact("test", move |tx| ledger.redact(tx, index, &redaction)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_what_was_removed_is_refused_by_name() {
    let (space, consumer) = finished(registrar_alone).await;
    let keeper = Keeper::of(&space, &[]);
    assert_waits(consumer.collect(&ID, &keeper).await, "office");
    consumer.receipt(&ID).await.unwrap();
    let transfer = consumer.transfer(&ID).unwrap().unwrap();
    redact(&space, Who::Consumer, transfer.statements.offer.unwrap()).await;
    let error = consumer.receipt(&ID).await.unwrap_err();
    assert!(matches!(error, ServiceError::Redacted { .. }), "{error:?}");
    let text = error.to_string();
    for part in ["the offer", "data protection officer", "case 7"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // And its evidence is not sought any more.
    match consumer.collect(&ID, &keeper).await {
        Err(Delivery::Dead(reason)) if reason.contains("the offer") => {}
        other => panic!("{other:?}"),
    }
    assert!(consumer.unproven().unwrap().is_empty());
}

/// What one side removes from its own ledger does not take the other side's receipt away.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_side_removes_is_proven_all_the_same() {
    let (space, consumer) = finished(registrar_alone).await;
    let transfer = consumer.transfer(&ID).unwrap().unwrap();
    redact(&space, Who::Provider, transfer.statements.offer.unwrap()).await;
    let registrar = Witness::registrar(&space);
    cosign(&space, Who::Provider, &[&registrar], 3).await;
    cosign(&space, Who::Consumer, &[&registrar], 3).await;
    assert_eq!(consumer.collect(&ID, &Keeper::of(&space, &[])).await, Ok(()));
    let report = verify(&consumer.receipt(&ID).await.unwrap(), &trust(&space), None);
    assert_eq!((report.outcome(), report.finality()), (Outcome::Valid, Some(Finality::Final)));
    space.provider.receipt(&ID).await.unwrap_err();
}
