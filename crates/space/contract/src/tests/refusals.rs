use bytes::Bytes;
use huitong_identity::{Delivery, ServiceError};
use huitong_ids::{DataId, DataType};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, Statement};
use huitong_store::Table;

use super::{Fate, Space, Who};
use crate::{AcceptCounter, Approval, MAXIMUM_OPEN, MAXIMUM_ROUNDS, State, Terms};

const ID: [u8; 16] = [7; 16];

impl Space {
    /// Has a node's key sign whatever the test likes.
    pub(super) async fn sign(&self, who: Who, draft: Draft) -> Statement {
        let ledger = self.node(who).ledger.clone();
        let store = ledger.store().clone();
        store.transact("sign", move |tx| ledger.issue(tx, draft)).await.unwrap()
    }

    /// Has a node say whatever the test likes about a negotiation.
    pub(super) async fn say(
        &self,
        who: Who,
        id: [u8; 16],
        kind: Kind,
        reference: Digest,
        detail: Map,
        document: Vec<u8>,
    ) -> (Statement, Result<(), ServiceError>) {
        let other = if who == Who::Provider { Who::Consumer } else { Who::Provider };
        let audience = self.node(other).membership.node().to_string();
        let draft = Draft { kind, audience, subject: id, agreement: Digest::ZERO, reference, detail };
        let statement = self.sign(who, draft).await;
        let caller = &self.node(who).caller;
        let answer = self.contracts(other).receive(caller, statement.bytes().clone(), document.into()).await;
        (statement, answer.map(drop))
    }

    async fn say_request(&self, id: [u8; 16], terms: &Terms) -> (Statement, Result<(), ServiceError>) {
        let document = terms.encode();
        let detail = Map::new().digest(1, &Digest::sha256(&document));
        self.say(Who::Consumer, id, Kind::ContractRequest, Digest::ZERO, detail, document).await
    }
}

pub(super) fn code_of<T: std::fmt::Debug>(answer: &Result<T, ServiceError>) -> &str {
    match answer {
        Err(ServiceError::Refused { refusal, .. }) => &refusal.code,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_on_record() {
    let space = Space::new(Approval::Automatic).await;
    let good = space.standing_terms();
    let me = space.node(Who::Provider).membership.credential();
    let unknown =
        DataId::mint(DataType::Product, &me.entity, &good.product.segment(), [9; 16], None).unwrap();
    let registrar = space.network.registrar.membership.node().clone();
    let cases = [
        ("contract.product", Terms { product: unknown, ..good.clone() }),
        ("contract.consumer", Terms { consumer: registrar.clone(), ..good.clone() }),
        ("contract.provider", Terms { provider: registrar, ..good.clone() }),
        ("contract.policy", Terms { policy: b"{}".to_vec(), ..good.clone() }),
        ("contract.policy", Terms { policy: vec![b'['; 8 * 1024], ..good.clone() }),
    ];
    for (index, (code, terms)) in cases.into_iter().enumerate() {
        let id = [u8::try_from(index).unwrap(); 16];
        let (statement, answer) = space.say_request(id, &terms).await;
        assert_eq!(code_of(&answer), code);
        let Err(ServiceError::Refused { statement: Some(refusal), .. }) = answer else {
            panic!("a refusal is signed")
        };
        assert_eq!(refusal.body().reference, statement.digest());
        let provider = space.contracts(Who::Provider);
        assert_eq!(provider.negotiation(&id).unwrap(), None, "{code}: nothing has begun");

        let ledger = &space.node(Who::Provider).ledger;
        let size = ledger.size(&ledger.store().view()).unwrap();
        let caller = &space.node(Who::Consumer).caller;
        let document = Bytes::from(terms.encode());
        let again = provider.receive(caller, statement.bytes().clone(), document).await.unwrap_err();
        let ServiceError::Refused { statement: Some(repeated), .. } = again else { panic!("refused again") };
        assert_eq!(repeated.bytes(), refusal.bytes(), "{code}: the same answer again");
        assert_eq!(ledger.size(&ledger.store().view()).unwrap(), size, "{code}: and nothing else");
    }
}

#[tokio::test]
async fn a_refused_request_ends_the_consumers_negotiation_with_the_code() {
    let space = Space::new(Approval::Automatic).await;
    let good = space.standing_terms();
    let me = space.node(Who::Provider).membership.credential();
    let unknown =
        DataId::mint(DataType::Product, &me.entity, &good.product.segment(), [9; 16], None).unwrap();
    space.request(ID, Terms { product: unknown, ..good }, AcceptCounter::No).await;
    let pending = space.pending(Who::Consumer).remove(0);
    let done = space.deliver(Who::Consumer, &pending, Fate::IsRepeated).await;
    assert!(matches!(done, Err(Delivery::Dead(_))), "{done:?}");
    let ended = space.seen_by(Who::Consumer, ID);
    assert_eq!((ended.state, ended.national()), (State::Terminated, "0302"));
    assert_eq!(ended.reason.unwrap().code, "contract.product");
    assert!(space.pending(Who::Consumer).is_empty(), "the provider knows nothing of it: nothing more to say");
    let ledger = &space.node(Who::Consumer).ledger;
    let kinds: Vec<Kind> =
        ledger.about(&ledger.store().view(), &ID, 9).unwrap().iter().map(Statement::kind).collect();
    assert_eq!(kinds, [Kind::ContractRequest, Kind::Refusal], "the provider's refusal is evidence here");
}

#[tokio::test]
async fn a_peer_without_a_signed_refusal_is_told_that_it_is_over() {
    let space = Space::new(Approval::Automatic).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    let pending = space.pending(Who::Consumer).remove(0);
    let done = space.contracts(Who::Consumer).deliver(&pending, &Mute).await;
    assert!(matches!(done, Err(Delivery::Dead(_))), "{done:?}");
    let ended = space.seen_by(Who::Consumer, ID);
    assert_eq!((ended.state, ended.reason.unwrap().code.as_str()), (State::Terminated, "identity.revoked"));
    assert_eq!(
        space.pending(Who::Consumer).len(),
        2,
        "the request, which the worker buries, and a termination"
    );
    let again = space.contracts(Who::Consumer).deliver(&pending, &Mute).await;
    assert!(matches!(again, Err(Delivery::Dead(_))));
    assert_eq!(space.pending(Who::Consumer).len(), 2, "the consequence is recorded once");
}

/// A node that refuses without signing.
struct Mute;

#[async_trait::async_trait]
impl crate::ContractPeer for Mute {
    async fn submit(
        &self,
        _: &huitong_ids::NodeId,
        _: Bytes,
        _: Bytes,
    ) -> Result<(), huitong_identity::PeerError> {
        let (code, reason) = ("identity.revoked".to_owned(), "this node was revoked".to_owned());
        Err(huitong_identity::PeerError::Refused {
            code,
            reason,
            statement: Some(Bytes::from_static(b"scribble")),
        })
    }

    async fn standing_terms(
        &self,
        _: &huitong_ids::NodeId,
        _: &DataId,
    ) -> Result<Bytes, huitong_identity::PeerError> {
        Err(huitong_identity::PeerError::Unavailable("mute".to_owned()))
    }
}

#[tokio::test]
async fn messages_out_of_turn_are_refused_and_change_nothing() {
    let space = Space::new(Approval::Manual).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    let terms = space.standing_terms();
    let digest = Map::new().digest(1, &terms.digest());
    let signing = || Map::new().digest(1, &Digest::ZERO).text(2, "8");
    for (who, kind, detail, code) in [
        (Who::Consumer, Kind::ContractAcceptance, digest, "contract.state"),
        (Who::Consumer, Kind::Verification, signing(), "contract.state"),
        (Who::Provider, Kind::Finalisation, Map::new(), "contract.state"),
        (Who::Consumer, Kind::Finalisation, Map::new(), "contract.state"),
    ] {
        let (_, answer) = space.say(who, ID, kind, Digest::ZERO, detail, Vec::new()).await;
        assert_eq!(code_of(&answer), code, "{kind:?}");
        assert_eq!(space.states(ID), [State::Requested; 2]);
    }
    let id = [9; 16];
    let detail = Map::new().text(1, "x").text(2, "y");
    let (_, answer) = space.say(Who::Consumer, id, Kind::Termination, Digest::ZERO, detail, Vec::new()).await;
    assert_eq!(code_of(&answer), "contract.unknown");
    let document = terms.encode();
    let detail = Map::new().digest(1, &Digest::sha256(&document));
    let (_, answer) = space.say(Who::Provider, id, Kind::ContractOffer, Digest::ZERO, detail, document).await;
    assert_eq!(code_of(&answer), "contract.unknown", "an offer nobody asked for");
}

#[tokio::test]
async fn a_stranger_cannot_touch_a_negotiation() {
    let space = Space::new(Approval::Manual).await;
    space.request(ID, space.standing_terms(), AcceptCounter::No).await;
    space.settle().await;
    let stranger = &space.network.registrar;
    let draft = Draft {
        kind: Kind::Termination,
        audience: space.node(Who::Provider).membership.node().to_string(),
        subject: ID,
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Map::new().text(1, "x").text(2, "y"),
    };
    let ledger = stranger.ledger.clone();
    let statement =
        stranger.ledger.store().transact("sign", move |tx| ledger.issue(tx, draft)).await.unwrap();
    let provider = space.contracts(Who::Provider);
    let answer = provider.receive(&stranger.caller, statement.bytes().clone(), Bytes::new()).await;
    assert_eq!(code_of(&answer), "contract.party");
    let answer =
        provider.receive(&space.node(Who::Consumer).caller, statement.bytes().clone(), Bytes::new()).await;
    assert!(matches!(answer, Err(ServiceError::Invalid { .. })), "another node's statement: {answer:?}");
    assert_eq!(space.states(ID), [State::Requested; 2]);
    let error = provider.standing_terms(&stranger.caller, &space.product).unwrap_err();
    assert!(matches!(error, ServiceError::Forbidden { .. }), "{error}");
}

#[tokio::test]
async fn a_document_that_was_not_signed_is_not_recorded() {
    let space = Space::new(Approval::Automatic).await;
    let terms = space.standing_terms();
    let ledger = &space.node(Who::Provider).ledger;
    let size = ledger.size(&ledger.store().view()).unwrap();
    let detail = Map::new().digest(1, &terms.digest());
    let mut other = terms.clone();
    other.size += 1;
    let draft = Draft {
        kind: Kind::ContractRequest,
        audience: terms.provider.to_string(),
        subject: ID,
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail,
    };
    let statement = space.sign(Who::Consumer, draft).await;
    let provider = space.contracts(Who::Provider);
    let caller = &space.node(Who::Consumer).caller;
    for document in [other.encode(), Vec::new(), vec![0; crate::MAXIMUM_DOCUMENT_BYTES + 1]] {
        let answer = provider.receive(caller, statement.bytes().clone(), document.into()).await;
        assert!(matches!(answer, Err(ServiceError::Invalid { .. })), "{answer:?}");
    }
    assert_eq!(ledger.size(&ledger.store().view()).unwrap(), size);
    provider.receive(caller, statement.bytes().clone(), terms.encode().into()).await.unwrap();
    assert_eq!(space.seen_by(Who::Provider, ID).state, State::Agreed, "the right document still counts");
}

#[tokio::test]
async fn a_signed_document_nobody_can_read_is_refused_on_record() {
    let space = Space::new(Approval::Automatic).await;
    let document = b"not terms".to_vec();
    let detail = Map::new().digest(1, &Digest::sha256(&document));
    let (_, answer) =
        space.say(Who::Consumer, ID, Kind::ContractRequest, Digest::ZERO, detail, document).await;
    assert_eq!(code_of(&answer), "contract.document");
    let terms = space.standing_terms();
    let detail = Map::new().digest(1, &terms.digest()).text(2, "what is this");
    let (_, answer) =
        space.say(Who::Consumer, ID, Kind::ContractRequest, Digest::ZERO, detail, terms.encode()).await;
    assert_eq!(code_of(&answer), "contract.document");
}

#[tokio::test]
async fn too_many_open_negotiations_are_put_off_without_a_trace() {
    let space = Space::new(Approval::Manual).await;
    let terms = space.standing_terms();
    let key = format!("p{}", terms.consumer);
    set_open(&space, key, MAXIMUM_OPEN).await;
    space.request(ID, terms.clone(), AcceptCounter::No).await;
    let pending = space.pending(Who::Consumer).remove(0);
    let done = space.deliver(Who::Consumer, &pending, Fate::Arrives).await;
    assert!(matches!(done, Err(Delivery::Retry(_))), "{done:?}");
    assert_eq!(space.contracts(Who::Provider).negotiation(&ID).unwrap(), None);
    let key = format!("p{}", terms.consumer);
    set_open(&space, key, MAXIMUM_OPEN - 1).await;
    assert_eq!(space.deliver(Who::Consumer, &pending, Fate::Arrives).await, Ok(()));
    assert_eq!(space.states(ID), [State::Requested; 2]);

    let (_, answer) = space.say_request([8; 16], &terms).await;
    assert!(matches!(answer, Err(ServiceError::Busy { .. })), "{answer:?}");
    space.contracts(Who::Provider).terminate(ID, "room for others").await.unwrap();
    let (_, answer) = space.say_request([9; 16], &terms).await;
    assert!(answer.is_ok(), "an ended negotiation makes room: {answer:?}");
}

async fn set_open(space: &Space, key: String, count: u64) {
    const OPEN: Table = Table::new("contract.open");
    let store = space.node(Who::Provider).ledger.store();
    let row = Map::new().uint(0, 1).uint(1, count).encode();
    let put = store
        .transact("open", move |tx| -> Result<(), ServiceError> { Ok(tx.put(&OPEN, key.as_bytes(), &row)?) });
    put.await.unwrap();
}

#[tokio::test]
async fn haggling_has_an_end() {
    let space = Space::new(Approval::Automatic).await;
    let mut terms = space.standing_terms();
    terms.price = "0".to_owned();
    space.request(ID, terms.clone(), AcceptCounter::No).await;
    space.settle().await;
    for round in 1..=MAXIMUM_ROUNDS {
        terms.price = format!("{round}");
        space.contracts(Who::Consumer).counter(ID, terms.clone()).await.unwrap();
        space.settle().await;
    }
    assert_eq!(space.states(ID), [State::Terminated; 2]);
    assert_eq!(space.seen_by(Who::Consumer, ID).reason.unwrap().code, "contract.rounds");
}

#[tokio::test]
async fn commands_that_make_no_sense_never_leave_the_node() {
    let space = Space::new(Approval::Automatic).await;
    let good = space.standing_terms();
    let consumer = space.contracts(Who::Consumer);
    let registrar = space.network.registrar.membership.node().clone();
    for (field, terms) in [
        ("terms.consumer", Terms { consumer: registrar.clone(), ..good.clone() }),
        ("terms.provider", Terms { provider: registrar, ..good.clone() }),
        ("terms.provider", Terms { provider: good.consumer.clone(), ..good.clone() }),
        ("terms.policy", Terms { policy: b"{}".to_vec(), ..good.clone() }),
        ("terms.name", Terms { name: String::new(), ..good.clone() }),
        ("terms.window bytes", Terms { window_bytes: 0, ..good }),
    ] {
        let error =
            consumer.request(ID, space.provider_credential(), terms, AcceptCounter::No).await.unwrap_err();
        assert!(
            matches!(&error, ServiceError::Invalid { field: found, .. } if found == field),
            "{field}: {error}"
        );
    }
    assert!(space.pending(Who::Consumer).is_empty());
}

#[tokio::test]
async fn a_negotiation_that_is_over_takes_one_termination() {
    let space = Space::new(Approval::Manual).await;
    for (id, first) in [([1; 16], Who::Provider), ([2; 16], Who::Consumer)] {
        space.request(id, space.standing_terms(), AcceptCounter::No).await;
        space.settle().await;
        space.contracts(first).terminate(id, "ours").await.unwrap();
        space.settle().await;
        let detail = || Map::new().text(1, "x").text(2, "once more");
        let say = async || {
            let (_, answer) =
                space.say(Who::Consumer, id, Kind::Termination, Digest::ZERO, detail(), Vec::new()).await;
            answer
        };
        if first == Who::Provider {
            // It may have crossed ours.
            say().await.unwrap();
        }
        for _ in 0..2 {
            let refused = say().await;
            assert!(
                matches!(&refused, Err(ServiceError::Refused { refusal, statement: Some(_) })
                    if refusal.code == "contract.state"),
                "{refused:?}"
            );
        }
        assert_eq!(space.seen_by(Who::Provider, id).reason.unwrap().text, "ours");
    }
}
