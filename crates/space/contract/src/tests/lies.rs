use huitong_identity::{NodeKeys, ServiceError};
use huitong_ids::{ContractId, NodeType};
use huitong_proof::cbor::Map;
use huitong_proof::{
    Anchor, ChannelHead, Content, Digest, Draft, Kind, SeededEntropy, Signing, SpaceId, Statement, Timestamp,
};

use super::{Fate, Space, Who};
use crate::{AcceptCounter, Agreement, Approval, Party, State};

/// What an honest provider would sign for the request that is waiting under `id`.
fn honest(space: &Space, id: [u8; 16]) -> Agreement {
    let terms = space.standing_terms();
    let party = |who| {
        let credential = space.node(who).membership.credential();
        Party {
            node: credential.node.clone(),
            entity: credential.entity.clone(),
            name: credential.name.clone(),
        }
    };
    let provider = party(Who::Provider);
    let signed = space.node(Who::Provider).ledger.clock().now();
    let contract = ContractId::mint(
        provider.node.node_type(),
        &provider.node.entity(),
        &provider.node.segment(),
        &signed.compact(),
        id,
    );
    Agreement {
        contract: contract.unwrap(),
        name: terms.name.clone(),
        product: terms.product,
        product_name: terms.name,
        provider,
        consumer: party(Who::Consumer),
        policy: terms.policy,
        root: terms.root,
        size: terms.size,
        window_bytes: terms.window_bytes,
        mode: terms.mode,
        price: terms.price,
        signed,
        negotiation: id,
        space: *space.node(Who::Provider).ledger.space(),
        coverage: terms.coverage,
        version: terms.version,
    }
}

type Lie = (&'static str, fn(&mut Agreement));

const LIES: [Lie; 17] = [
    ("product_name", |a| a.product_name.push('!')),
    ("name", |a| a.name.push('!')),
    ("policy", |a| a.policy.push(b' ')),
    ("root", |a| a.root = Content::of_bytes(b"other").root()),
    ("size", |a| a.size += 1),
    ("window", |a| a.window_bytes += 1),
    ("price", |a| a.price.push('!')),
    ("provider", |a| a.provider.node = a.consumer.node.clone()),
    ("provider", |a| a.provider.name.push('!')),
    ("provider", |a| a.provider.entity = a.consumer.entity.clone()),
    ("consumer", |a| a.consumer.node = a.provider.node.clone()),
    ("consumer", |a| a.consumer.name.push('!')),
    ("negotiation", |a| a.negotiation[0] ^= 1),
    ("space", |a| a.space = SpaceId::from_name("another space")),
    ("time", |a| a.signed = Timestamp::from_millis(a.signed.millis() - 60_001)),
    ("time", |a| a.signed = Timestamp::from_millis(a.signed.millis() + 60_000)),
    ("contract", |a| {
        let contract = &a.contract;
        let other = ContractId::mint(
            NodeType::Connector,
            &a.consumer.node.entity(),
            &contract.segment(),
            &contract.time14(),
            [1; 16],
        );
        a.contract = other.unwrap();
    }),
];

#[tokio::test]
async fn the_consumer_signs_nothing_but_what_it_accepted() {
    // A manual provider keeps silent, so that the test can speak with its key.
    let space = Space::new(Approval::Manual).await;
    for (index, (field, lie)) in LIES.into_iter().enumerate() {
        let id = [u8::try_from(index + 1).unwrap(); 16];
        let mut agreement = honest(&space, id);
        lie(&mut agreement);
        check(&space, id, &agreement, &agreement.contract.to_string(), Some(field)).await;
    }
    let id = [100; 16];
    let agreement = honest(&space, id);
    let other = honest(&space, [101; 16]).contract.to_string();
    check(&space, id, &agreement, &other, Some("contract")).await;

    let id = [102; 16];
    let agreement = honest(&space, id);
    check(&space, id, &agreement, &agreement.contract.to_string(), None).await;

    let taken = agreement.contract;
    let id = [103; 16];
    let agreement = Agreement { contract: taken, ..honest(&space, id) };
    check(&space, id, &agreement, &agreement.contract.to_string(), Some("contract")).await;
}

/// The provider answers a request under `id` with this agreement: the consumer names the lie, or signs.
async fn check(space: &Space, id: [u8; 16], agreement: &Agreement, stated_contract: &str, lie: Option<&str>) {
    let document = agreement.encode();
    let detail = Map::new().digest(1, &Digest::sha256(&document)).text(2, stated_contract);
    let asked = space.request(id, space.standing_terms(), AcceptCounter::No).await;
    let (statement, answer) =
        space.say(Who::Provider, id, Kind::Agreement, asked.last, detail, document).await;
    assert!(answer.is_ok(), "{lie:?}: {answer:?}");
    let found = space.seen_by(Who::Consumer, id);
    let Some(lie) = lie else {
        assert_eq!(found.state, State::Verified, "{:?}", found.reason);
        return;
    };
    assert_eq!(found.state, State::Terminated, "{lie}");
    assert_eq!(found.reason.unwrap().code, format!("contract.agreement.{lie}"));
    assert_eq!(found.agreement_hash, None, "{lie}");
    let ledger = &space.node(Who::Consumer).ledger;
    let about = ledger.about(&ledger.store().view(), &id, 9).unwrap();
    let last = about.last().unwrap();
    assert_eq!(last.kind(), Kind::Termination, "{lie}: the consumer's answer is signed");
    assert_eq!(last.body().reference, statement.digest());
}

#[tokio::test]
async fn an_agreement_must_answer_the_request() {
    let space = Space::new(Approval::Manual).await;
    let id = [1; 16];
    let agreement = honest(&space, id);
    let document = agreement.encode();
    let detail = Map::new().digest(1, &Digest::sha256(&document)).text(2, agreement.contract.as_str());
    space.request(id, space.standing_terms(), AcceptCounter::No).await;
    let (_, answer) = space.say(Who::Provider, id, Kind::Agreement, Digest::ZERO, detail, document).await;
    assert!(answer.is_ok());
    assert_eq!(space.seen_by(Who::Consumer, id).reason.unwrap().code, "contract.agreement.reference");
}

#[tokio::test]
async fn an_offer_for_something_else_ends_the_negotiation() {
    let space = Space::new(Approval::Manual).await;
    let mut lies = Vec::new();
    let standing = space.standing_terms();
    let mut terms = standing.clone();
    terms.consumer = space.network.registrar.membership.node().clone();
    lies.push(("contract.offer", terms));
    let mut terms = standing.clone();
    terms.provider = space.network.registrar.membership.node().clone();
    lies.push(("contract.offer", terms));
    let mut terms = standing.clone();
    terms.policy = b"{}".to_vec();
    lies.push(("contract.policy", terms));
    for (index, (code, terms)) in lies.into_iter().enumerate() {
        let id = [u8::try_from(index + 1).unwrap(); 16];
        let asked = space.request(id, standing.clone(), AcceptCounter::Yes).await;
        let document = terms.encode();
        let detail = Map::new().digest(1, &Digest::sha256(&document));
        let (_, answer) =
            space.say(Who::Provider, id, Kind::ContractOffer, asked.last, detail, document).await;
        assert!(answer.is_ok(), "{answer:?}");
        let found = space.seen_by(Who::Consumer, id);
        assert_eq!((found.state, found.reason.unwrap().code.as_str()), (State::Terminated, code));
    }
}

/// A false verification or finalisation is refused, and ends the negotiation where it was believed in.
#[tokio::test]
async fn a_false_signature_puts_nothing_in_force() {
    let space = Space::new(Approval::Automatic).await;
    let id = [1; 16];
    space.request(id, space.standing_terms(), AcceptCounter::No).await;
    let request = space.pending(Who::Consumer).remove(0);
    space.deliver(Who::Consumer, &request, Fate::Arrives).await.unwrap();
    let agreed = space.seen_by(Who::Provider, id);
    let detail = Map::new().digest(1, &Digest::ZERO).text(2, agreed.contract.clone().unwrap().as_str());
    let reference = agreed.statements.agreement.unwrap();
    let (_, answer) = space.say(Who::Consumer, id, Kind::Verification, reference, detail, Vec::new()).await;
    assert!(answer.is_err());
    let ended = space.seen_by(Who::Provider, id);
    assert_eq!(
        (ended.state, ended.reason.unwrap().code.as_str()),
        (State::Terminated, "contract.verification")
    );

    let id = [2; 16];
    space.request(id, space.standing_terms(), AcceptCounter::No).await;
    let request = space.pending(Who::Consumer).into_iter().find(|row| row.id != request.id).unwrap();
    space.deliver(Who::Consumer, &request, Fate::Arrives).await.unwrap();
    for agreement in space.pending(Who::Provider) {
        let _ = space.deliver(Who::Provider, &agreement, Fate::Arrives).await;
    }
    let verified = space.seen_by(Who::Consumer, id);
    assert_eq!(verified.state, State::Verified);
    let reference = verified.statements.verification.unwrap();
    let (_, answer) =
        space.say(Who::Provider, id, Kind::Finalisation, reference, Map::new(), Vec::new()).await;
    assert!(answer.is_err(), "body field 7 is not the agreement's hash");
    let ended = space.seen_by(Who::Consumer, id);
    assert_eq!((ended.state, ended.national()), (State::Terminated, "06"));
    assert_eq!(ended.reason.unwrap().code, "contract.finalisation");
}

/// A peer that signs two statements with one number is caught, and both are kept.
#[tokio::test]
async fn a_peer_that_says_two_things_at_once_is_caught() {
    let space = Space::new(Approval::Manual).await;
    let id = [1; 16];
    space.request(id, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    let ledger = &space.node(Who::Consumer).ledger;
    let said = ledger.about(&ledger.store().view(), &id, 1).unwrap().remove(0);
    let keys = space.home.path().join("consumer").join("keys");
    let keys = NodeKeys::load_or_create(&keys, &SeededEntropy::new(9)).unwrap();
    let draft = Draft {
        kind: Kind::Termination,
        audience: said.body().audience.clone(),
        subject: id,
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Map::new().text(1, "contract.operator").text(2, "never asked"),
    };
    let other = Statement::sign(
        draft,
        Signing {
            key: keys.statement(),
            space: ledger.space(),
            issuer: ledger.node(),
            channel: ChannelHead { seq: said.body().seq, prev: said.body().prev },
            anchor: Anchor::none(),
            time: said.body().time,
            salt: [0; 16],
        },
    )
    .unwrap();
    let provider = space.contracts(Who::Provider);
    let caller = &space.node(Who::Consumer).caller;
    let answer = provider.receive(caller, other.bytes().clone(), Vec::new().into()).await;
    assert!(matches!(answer, Err(ServiceError::Conflict { .. })), "{answer:?}");
    assert_eq!(space.states(id), [State::Requested; 2]);
    let ledger = &space.node(Who::Provider).ledger;
    assert_eq!(ledger.evidence(&ledger.store().view(), 9).unwrap().len(), 1, "both statements are kept");
}
