use std::time::Duration;

use huitong_identity::testing::{TestNode, cosigner};
use huitong_identity::{Credential, InviteRequest, JoinRequest, NodeKeys, Role, Sources, enrolment_request};
use huitong_ledger::{Checkpoint, Cosigner, LogVerifier, QuorumPolicy, SignedCheckpoint};
use huitong_proof::cbor::Value;
use huitong_proof::{Digest, Draft, Envelope, Kind, SigningKey, Statement, Timestamp};

use super::receipts::{ID, Parts, assert_not_valid, counted_space, receipts, trust};
use super::{Space, Who};
use crate::Finality;
use crate::receipt::{Outcome, verify};

/// A node that can cosign, with what a receipt says of it.
#[derive(Clone)]
pub(super) struct Witness {
    pub(super) cosigner: Cosigner,
    pub(super) credential: Credential,
    pub(super) statement: Statement,
}

impl Witness {
    pub(super) fn registrar(space: &Space) -> Self {
        Self::of(space, "registrar", &space.network.registrar)
    }

    pub(super) fn party(space: &Space, who: Who) -> Self {
        let name = if who == Who::Provider { "provider" } else { "consumer" };
        Self::of(space, name, space.node(who))
    }

    fn of(space: &Space, name: &str, node: &TestNode) -> Self {
        Self {
            cosigner: cosigner(space.home.path(), name, node),
            credential: node.membership.credential().clone(),
            statement: node.membership.credential_statement().clone(),
        }
    }

    /// Another member of the space.
    pub(super) async fn enrolled(space: &Space, entity: &str) -> Self {
        let ledger = &space.network.registrar.ledger;
        let sources = Sources { clock: ledger.clock().clone(), entropy: ledger.entropy().clone() };
        let home = space.home.path().join(entity);
        let keys = NodeKeys::load_or_create(&home, &*sources.entropy).unwrap();
        let invite = InviteRequest {
            entity: entity.to_owned(),
            name: "Example Mill".to_owned(),
            roles: vec![Role::Consumer],
            lifetime: Duration::from_secs(60),
            address: "localhost:1".to_owned(),
        };
        let invite = space.network.registry.invite(invite).await.unwrap();
        let request = JoinRequest { invite, domain: "mill.example".to_owned() };
        let sent = enrolment_request(&keys, &request, &sources).unwrap();
        let grant = space.network.registry.enrol(sent).await.unwrap();
        let statement = Envelope::decode(grant.credential).unwrap().trusted(ledger.space()).unwrap();
        let credential = Credential::from_statement(&statement).unwrap();
        Self { cosigner: keys.cosigner(&credential.node).unwrap(), credential, statement }
    }

    pub(super) async fn mill(space: &Space) -> Self {
        Self::enrolled(space, "91350100M000100Y43").await
    }

    /// A line that says: so many seconds after the start I had seen no larger tree.
    pub(super) fn line(&self, checkpoint: &Checkpoint, seconds: u64) -> String {
        self.cosigner.cosign(checkpoint, at(seconds))
    }

    fn value(&self) -> Value {
        Value::Bytes(self.statement.bytes().to_vec())
    }

    fn named(&self, name: &str) -> (String, huitong_ledger::WitnessVerifier, Option<String>) {
        (name.to_owned(), self.credential.witness.clone(), None)
    }
}

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + seconds * 1000)
}

fn log_of(space: &Space, log: usize) -> LogVerifier {
    let who = if log == 0 { Who::Provider } else { Who::Consumer };
    space.node(who).ledger.log_verifier()
}

fn checkpoint(space: &Space, parts: &Parts, log: usize) -> SignedCheckpoint {
    SignedCheckpoint::parse(&parts.logs[log].0, &log_of(space, log)).unwrap()
}

/// Adds a cosignature and, unless it is a party, the witness's credential.
fn add(space: &Space, parts: &mut Parts, log: usize, witness: &Witness, seconds: u64) {
    let signed = checkpoint(space, parts, log);
    let line = witness.line(signed.checkpoint(), seconds);
    parts.logs[log].0 = signed.with_lines(&[line]).unwrap().text().to_owned();
    let parties = [Who::Provider, Who::Consumer].map(|who| space.node(who).membership.node().to_string());
    if !parties.contains(&witness.credential.node.to_string()) && !parts.witnesses.contains(&witness.value())
    {
        parts.witnesses.push(witness.value());
        sort(space, parts);
    }
}

fn sort(space: &Space, parts: &mut Parts) {
    parts.witnesses.sort_by_key(|value| {
        let Value::Bytes(bytes) = value else { panic!("no bytes") };
        space.read(&bytes.clone().into()).body().audience.clone()
    });
}

/// The same receipt with every kind of cosignature.
pub(super) async fn cosigned(space: &Space, receipt: &[u8]) -> Vec<u8> {
    let (registrar, mill) = (Witness::registrar(space), Witness::mill(space).await);
    let mut parts = Parts::of(receipt);
    add(space, &mut parts, 0, &registrar, 1);
    add(space, &mut parts, 0, &mill, 2);
    add(space, &mut parts, 1, &registrar, 3);
    add(space, &mut parts, 1, &Witness::party(space, Who::Provider), 4);
    let receipt = parts.encode();
    let report = verify(&receipt, &trust(space), None);
    assert_eq!((report.outcome(), report.finality()), (Outcome::Valid, Some(Finality::Final)), "{report:?}");
    receipt
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_no_party_makes_a_ledger_final() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let (registrar, mill) = (Witness::registrar(&space), Witness::mill(&space).await);
    let (provider, consumer) = (Witness::party(&space, Who::Provider), Witness::party(&space, Who::Consumer));
    use Finality::{Final, Provisional};
    for (cosignatures, finality, each, not_after) in [
        (&[][..], Provisional, [Provisional; 2], None),
        (&[(0, &registrar, 5)], Provisional, [Final, Provisional], Some(5)),
        (&[(1, &registrar, 5)], Provisional, [Provisional, Final], Some(5)),
        (&[(0, &registrar, 9), (1, &registrar, 7)], Final, [Final; 2], Some(7)),
        (&[(0, &registrar, 9), (0, &mill, 6), (1, &registrar, 7)], Final, [Final; 2], Some(6)),
        // Parties say when they saw it, but two of them together could have made it all up.
        (&[(0, &consumer, 2), (1, &provider, 3)], Provisional, [Provisional; 2], None),
        (&[(0, &consumer, 2), (0, &mill, 8), (1, &mill, 9)], Final, [Final; 2], Some(8)),
    ] {
        let mut parts = Parts::of(&receipt);
        for (log, witness, seconds) in cosignatures {
            add(&space, &mut parts, *log, witness, *seconds);
        }
        let report = verify(&parts.encode(), &trust(&space), None);
        let what = format!("{:?}", report.ledgers);
        assert_eq!(report.problems, [], "{what}");
        assert_eq!(report.outcome(), Outcome::Valid);
        assert_eq!(report.finality(), Some(finality), "{what}");
        assert_eq!(report.not_after(), not_after.map(at), "{what}");
        assert_eq!([report.ledgers[0].finality, report.ledgers[1].finality], each, "{what}");
        for (log, ledger) in report.ledgers.iter().enumerate() {
            let head = checkpoint(&space, &parts, log).checkpoint().clone();
            assert_eq!((&ledger.origin, ledger.size, ledger.root), (&head.origin, head.size, head.root));
            let mut expected: Vec<_> = cosignatures
                .iter()
                .filter(|(of, ..)| *of == log)
                .map(|(_, witness, seconds)| (witness.credential.node.to_string(), at(*seconds)))
                .collect();
            expected.sort();
            let found: Vec<_> = ledger.cosignatures.iter().map(|one| (one.node.clone(), one.time)).collect();
            assert_eq!(found, expected);
        }
        let told = report.claims.iter().filter(|claim| claim.name == "cosignature").count();
        assert_eq!(told, cosignatures.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_decides_what_is_enough() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let (registrar, mill) = (Witness::registrar(&space), Witness::mill(&space).await);
    let consumer = Witness::party(&space, Who::Consumer);
    let of = |k, names: &[(&str, &Witness)]| {
        let witnesses = names.iter().map(|(name, witness)| witness.named(name)).collect();
        QuorumPolicy::k_of(k, witnesses).unwrap()
    };
    let one = of(1, &[("office", &registrar)]);
    let two = of(2, &[("office", &registrar), ("mill", &mill)]);
    let any = of(1, &[("office", &registrar), ("mill", &mill)]);
    let buyer = of(1, &[("buyer", &consumer)]);
    let nobody: QuorumPolicy = "quorum none\n".parse().unwrap();
    let only_registrar = [(0, &registrar, 5), (1, &registrar, 6)];
    let both = [(0, &registrar, 5), (0, &mill, 9), (1, &mill, 6), (1, &registrar, 8)];
    for (policy, cosignatures, expected) in [
        (&one, &only_registrar[..], Ok(Some(5))),
        (&one, &only_registrar[..1], Err(&["the consumer's ledger"][..])),
        (&one, &[], Err(&["the provider's ledger", "the consumer's ledger"])),
        (&two, &only_registrar, Err(&["the provider's ledger", "the consumer's ledger"])),
        (&two, &both, Ok(Some(8))),
        (&two, &both[..3], Err(&["the consumer's ledger"])),
        (&any, &both, Ok(Some(5))),
        (&any, &both[1..3], Ok(Some(6))),
        (&buyer, &both, Err(&["the provider's ledger", "the consumer's ledger"])),
        (&nobody, &[], Ok(None)),
    ] {
        let mut parts = Parts::of(&receipt);
        for (log, witness, seconds) in cosignatures {
            add(&space, &mut parts, *log, witness, *seconds);
        }
        let report = verify(&parts.encode(), &trust(&space), Some(policy));
        let what = format!("{policy}: {report:?}");
        match expected {
            Ok(not_after) => {
                assert_eq!(report.outcome(), Outcome::Valid, "{what}");
                assert_eq!(report.finality(), Some(Finality::Final), "{what}");
                assert_eq!(report.not_after(), not_after.map(at), "{what}");
                assert!(report.facts.is_some());
            }
            Err(ledgers) => {
                assert_eq!(report.outcome(), Outcome::PolicyNotMet, "{what}");
                assert_eq!(report.finality(), Some(Finality::Provisional), "{what}");
                let named: Vec<&str> = report.problems.iter().map(|problem| problem.what.as_str()).collect();
                assert_eq!(named, ledgers, "{what}");
                assert_not_valid(&report, &what);
            }
        }
    }
    // A policy that lists logs speaks of these logs only.
    let own = space.node(Who::Provider).ledger.log_verifier();
    let listed: QuorumPolicy =
        format!("log {own}\nwitness office {}\nquorum office\n", registrar.credential.witness)
            .parse()
            .unwrap();
    let mut parts = Parts::of(&receipt);
    add(&space, &mut parts, 0, &registrar, 5);
    add(&space, &mut parts, 1, &registrar, 5);
    let report = verify(&parts.encode(), &trust(&space), Some(&listed));
    assert_eq!(report.outcome(), Outcome::PolicyNotMet, "{report:?}");
    assert_eq!(report.problems[0].what, "the consumer's ledger");
    // What is false stays false whatever the policy.
    parts.logs[0].1.swap(0, 1);
    assert_eq!(verify(&parts.encode(), &trust(&space), Some(&listed)).outcome(), Outcome::Invalid);
}

type Change<'a> = Box<dyn Fn(&mut Parts) + 'a>;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_witness_is_refused() {
    let space = counted_space().await;
    let [receipt, _] = receipts(&space, ID).await;
    let (registrar, mill) = (Witness::registrar(&space), Witness::mill(&space).await);
    let provider = Witness::party(&space, Who::Provider);
    let mut good = Parts::of(&receipt);
    add(&space, &mut good, 0, &registrar, 1);
    add(&space, &mut good, 0, &mill, 2);
    add(&space, &mut good, 1, &registrar, 3);
    assert_eq!(verify(&good.encode(), &trust(&space), None).outcome(), Outcome::Valid);

    let head = |log| checkpoint(&space, &good, log).checkpoint().clone();
    let put = |parts: &mut Parts, log: usize, line: String| {
        parts.logs[log].0.push_str(&line);
        parts.logs[log].0.push('\n');
    };
    let lines = |parts: &Parts, log: usize| checkpoint(&space, parts, log).signature_lines();
    let replace = |parts: &mut Parts, log: usize, old: &str, new: &str| {
        let replaced = parts.logs[log].0.replacen(old, new, 1);
        assert_ne!(replaced, parts.logs[log].0);
        parts.logs[log].0 = replaced;
    };
    let other_key = Cosigner::new(mill.cosigner.verifier().name(), SigningKey::from_seed(&[7; 32])).unwrap();
    let mut larger = head(0);
    larger.size += 1;
    let twin = twin_of(&space, &mill).await;
    let cases: Vec<(&str, &str, Change<'_>)> = vec![
        (
            "without the witness's credential",
            "whose credential is not in the receipt",
            Box::new(|parts| {
                parts.witnesses.remove(0);
            }),
        ),
        (
            "without any credential",
            "whose credential is not in the receipt",
            Box::new(|parts| parts.witnesses.clear()),
        ),
        (
            "a credential that is not used",
            "has cosigned neither ledger",
            Box::new(|parts| {
                let line = format!("{}\n", mill.line(&head(0), 2));
                replace(parts, 0, &line, "");
            }),
        ),
        (
            "credentials in another order",
            "not in the order of node ids",
            Box::new(|parts| parts.witnesses.reverse()),
        ),
        (
            "a credential twice",
            "not in the order of node ids",
            Box::new(|parts| parts.witnesses.insert(0, parts.witnesses[0].clone())),
        ),
        (
            "a party among the witnesses",
            "is a party",
            Box::new(|parts| {
                parts.witnesses.push(provider.value());
                sort(&space, parts);
            }),
        ),
        (
            "something else than a credential",
            "not a credential",
            Box::new(|parts| parts.witnesses[0] = parts.statements[2].clone()),
        ),
        (
            "a shared statement as a credential",
            "not a registrar of the trust file",
            Box::new(|parts| parts.witnesses[0] = parts.statements[3].clone()),
        ),
        ("junk for a credential", "", Box::new(|parts| parts.witnesses[0] = Value::Bytes(vec![1]))),
        (
            "a ledger that is its own witness",
            "no witness of itself",
            Box::new(|parts| {
                add(&space, parts, 0, &provider, 1);
            }),
        ),
        (
            "lines in another order",
            "out of order",
            Box::new(|parts| {
                let [log, first, second] = lines(parts, 0).try_into().unwrap();
                let head = head(0).body();
                parts.logs[0].0 = format!("{head}\n{log}\n{second}\n{first}\n");
            }),
        ),
        (
            "the log's line last",
            "out of order",
            Box::new(|parts| {
                let [log, first, second] = lines(parts, 0).try_into().unwrap();
                let head = head(0).body();
                parts.logs[0].0 = format!("{head}\n{first}\n{second}\n{log}\n");
            }),
        ),
        ("a line twice", "out of order", Box::new(|parts| put(parts, 1, registrar.line(&head(1), 3)))),
        (
            "two times of one witness",
            "out of order",
            Box::new(|parts| put(parts, 1, registrar.line(&head(1), 4))),
        ),
        (
            "the log's line twice",
            "out of order",
            Box::new(|parts| {
                let own = lines(parts, 1)[0].clone();
                put(parts, 1, own);
            }),
        ),
        (
            "another key under the name",
            "whose credential is not in the receipt",
            Box::new(|parts| {
                replace(parts, 0, &mill.line(&head(0), 2), &other_key.cosign(&head(0), at(2)));
            }),
        ),
        (
            "a cosignature of another size",
            "does not verify",
            Box::new(|parts| {
                replace(parts, 0, &mill.line(&head(0), 2), &mill.line(&larger, 2));
            }),
        ),
        (
            "a cosignature of the other ledger",
            "does not verify",
            Box::new(|parts| {
                replace(parts, 0, &mill.line(&head(0), 2), &mill.line(&head(1), 2));
            }),
        ),
        (
            "a cosignature before the credential",
            "outside its credential",
            Box::new(|parts| {
                let early = mill.cosigner.cosign(&head(0), Timestamp::from_millis(1000));
                replace(parts, 0, &mill.line(&head(0), 2), &early);
            }),
        ),
        (
            "a cosignature after the credential",
            "outside its credential",
            Box::new(|parts| {
                let late = mill.line(&head(0), 366 * 24 * 3600);
                replace(parts, 0, &mill.line(&head(0), 2), &late);
            }),
        ),
        (
            "a name in capitals",
            "whose credential is not in the receipt",
            Box::new(|parts| {
                let line = mill.line(&head(0), 2);
                let (name, loud) = (mill.cosigner.verifier().name(), mill.credential.node.as_str());
                replace(parts, 0, &line, &line.replace(name, &format!("{loud}/huitong-witness/1")));
            }),
        ),
        (
            "two nodes with one witness key",
            "one witness key",
            Box::new(|parts| {
                add(&space, parts, 1, &twin, 5);
            }),
        ),
    ];
    for (what, reason, change) in cases {
        let mut parts = good.clone();
        change(&mut parts);
        assert_ne!(parts.encode(), good.encode(), "{what}");
        let report = verify(&parts.encode(), &trust(&space), None);
        assert_eq!(report.outcome(), Outcome::Invalid, "{what}: {report:?}");
        assert_not_valid(&report, what);
        assert!(report.problems[0].reason.contains(reason), "{what}: {report:?}");
    }
    // Who leaves out a cosignature and its credential has a receipt that says less, and nothing false.
    let mut less = good.clone();
    replace(&mut less, 0, &format!("{}\n", mill.line(&head(0), 2)), "");
    less.witnesses.retain(|witness| *witness != mill.value());
    assert_eq!(verify(&less.encode(), &trust(&space), None).outcome(), Outcome::Valid);
}

/// A careless registrar certifies the witness key of one node for another one too.
async fn twin_of(space: &Space, witness: &Witness) -> Witness {
    let other = Witness::enrolled(space, "91310105575958172A").await;
    let credential = Credential {
        witness: huitong_ledger::WitnessVerifier::new(
            other.credential.witness.name(),
            witness.credential.witness.key().clone(),
        )
        .unwrap(),
        ..other.credential
    };
    let draft = Draft {
        kind: Kind::Credential,
        audience: credential.node.to_string(),
        subject: [1; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: credential.to_detail(),
    };
    let ledger = space.network.registrar.ledger.clone();
    let store = ledger.store().clone();
    let statement = store
        .transact("test", move |tx| -> Result<Statement, huitong_identity::ServiceError> {
            Ok(ledger.issue(tx, draft)?)
        })
        .await
        .unwrap();
    let keys = NodeKeys::load_or_create(
        &space.home.path().join("91350100M000100Y43"),
        &**space.network.registrar.ledger.entropy(),
    )
    .unwrap();
    Witness { cosigner: keys.cosigner(&credential.node).unwrap(), credential, statement }
}
