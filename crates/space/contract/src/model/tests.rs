use huitong_ids::{ContractId, DataId, DataType, EntityCode, NodeId, NodeType, Segment};
use huitong_policy::Language;
use huitong_proof::cbor::{self, Limits, Value};
use huitong_proof::{Content, Digest, SpaceId, Timestamp};
use proptest::prelude::*;

use super::*;

const POLICY: &[u8] = br#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"constraints":[{"constraintName":"count","constraintOperator":"11","constraintValue":"3"}]}]}}"#;

fn entity(text: &str) -> EntityCode {
    EntityCode::parse(text).unwrap()
}

fn provider_entity() -> EntityCode {
    entity("91110000802100433B")
}

fn consumer_entity() -> EntityCode {
    entity("91330100799655058B")
}

fn segment() -> Segment {
    Segment::parse("4403").unwrap()
}

fn terms() -> Terms {
    Terms {
        product: DataId::mint(DataType::Product, &provider_entity(), &segment(), [3; 16], None).unwrap(),
        name: "Rainfall 2026".to_owned(),
        provider: NodeId::mint(NodeType::Connector, &provider_entity(), &segment(), [1; 16]),
        consumer: NodeId::mint(NodeType::Connector, &consumer_entity(), &segment(), [2; 16]),
        policy: POLICY.to_vec(),
        root: Content::of_bytes(b"rain").root(),
        size: 4,
        window_bytes: 1 << 20,
        mode: Mode::Window,
        price: "100 CNY".to_owned(),
        coverage: Coverage::Series,
        version: Some(3),
    }
}

fn agreement() -> Agreement {
    let terms = terms();
    let time = "20260921143320";
    Agreement {
        contract: ContractId::mint(NodeType::Connector, &provider_entity(), &segment(), time, [4; 16])
            .unwrap(),
        name: terms.name.clone(),
        product: terms.product,
        product_name: terms.name,
        provider: Party {
            node: terms.provider,
            entity: provider_entity(),
            name: "Weather Bureau".to_owned(),
        },
        consumer: Party {
            node: terms.consumer,
            entity: consumer_entity(),
            name: "Farm Insurance".to_owned(),
        },
        policy: terms.policy,
        root: terms.root,
        size: terms.size,
        window_bytes: terms.window_bytes,
        mode: terms.mode,
        price: terms.price,
        signed: Timestamp::from_millis(1_790_000_000_000),
        negotiation: [9; 16],
        space: SpaceId::from_name("example space"),
        coverage: terms.coverage,
        version: terms.version,
    }
}

#[test]
fn documents_come_back_as_they_went() {
    assert_eq!(Terms::decode(&terms().encode()), Ok(terms()));
    assert_eq!(Agreement::decode(&agreement().encode()), Ok(agreement()));
    assert_eq!(agreement().terms(), terms());
}

/// Both sides sign these bytes: a change of the encoding would break every contract that exists.
#[test]
fn the_encoding_is_frozen() {
    let found =
        [Digest::sha256(&terms().encode()), Digest::sha256(&agreement().encode())].map(|d| d.to_string());
    assert_eq!(
        found,
        [
            "9c1cfce7c6d1b786b8a310d83cd5efe2c42984af69d8b88c5bd77610af78dfdb",
            "c0d5238875fa94a430c9ba8a711c4e53ca8b45cb53380bf8af6dfee00bdf293e"
        ]
    );
}

/// Changes one field of a document's map; the reader must name it.
fn check(document: &[u8], key: u64, value: Option<Value>, expected: &str) {
    let Value::Map(mut map) = cbor::decode(document, Limits { bytes: 1 << 20, depth: 8 }).unwrap() else {
        panic!("a document is a map")
    };
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
    let changed = cbor::encode(&Value::Map(map));
    let is_agreement = expected.starts_with("agreement");
    let error = if is_agreement {
        Agreement::decode(&changed).map(drop).unwrap_err()
    } else {
        Terms::decode(&changed).map(drop).unwrap_err()
    };
    assert!(error.to_string().contains(expected), "field {key}: {error} does not contain {expected}");
}

#[test]
fn each_wrong_field_is_refused_by_name() {
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let long = "x".repeat(129);
    let document = terms().encode();
    for (key, value, expected) in [
        (1, text("huitong/agreement/v1"), "terms.label"),
        (2, text("no id"), "terms.product"),
        (3, text(""), "terms.name"),
        (3, text(&long), "terms.name"),
        (3, text("two\nlines"), "terms.name"),
        (4, text("no id"), "terms.provider"),
        (5, None, "consumer"),
        (6, Some(Value::Bytes(vec![b' '; 8 * 1024 + 1])), "terms.policy"),
        (6, text("{}"), "policy"),
        (7, Some(Value::Bytes(vec![0; 31])), "terms.root"),
        (8, Some(Value::Negative(0)), "size"),
        (9, Some(Value::Uint(0)), "terms.window bytes"),
        (10, Some(Value::Uint(1)), "terms.mode"),
        (11, text(&long), "terms.price"),
        (12, Some(Value::Uint(2)), "terms.coverage"),
        (12, None, "coverage"),
        (12, Some(Value::Uint(0)), "terms.version"),
        (13, Some(Value::Uint(0)), "terms.version"),
        (13, None, "terms.version"),
        (14, Some(Value::Uint(0)), "14"),
    ] {
        check(&document, key, value, expected);
    }
    let document = agreement().encode();
    for (key, value, expected) in [
        (1, text("huitong/terms/v1"), "agreement.label"),
        (2, text(&"8".repeat(47)), "agreement.contract"),
        (6, Some(Value::Map(std::collections::BTreeMap::new())), "agreement"),
        (9, Some(Value::Bytes(vec![0; 33])), "agreement.root"),
        (15, Some(Value::Bytes(vec![0; 15])), "agreement"),
        (17, text("02"), "agreement.signing mode"),
        (17, None, "agreement"),
        (18, text(""), "agreement"),
        (18, Some(Value::Uint(2)), "agreement.coverage"),
        (18, Some(Value::Uint(0)), "agreement.version"),
        (19, text(""), "agreement"),
        (19, Some(Value::Uint(0)), "agreement.version"),
        (19, None, "agreement.version"),
        (20, text(""), "agreement"),
    ] {
        check(&document, key, value, expected);
    }
    let padded = vec![0; MAXIMUM_DOCUMENT_BYTES + 1];
    assert!(Terms::decode(&padded).is_err() && Agreement::decode(&padded).is_err());
}

#[test]
fn a_changed_byte_is_refused_or_is_another_document() {
    for original in [terms().encode(), agreement().encode()] {
        for cut in 0..original.len() {
            assert!(Terms::decode(&original[..cut]).is_err() && Agreement::decode(&original[..cut]).is_err());
        }
        for index in 0..original.len() {
            let mut bytes = original.clone();
            bytes[index] ^= 1;
            if let Ok(found) = Terms::decode(&bytes) {
                assert_eq!(found.encode(), bytes, "byte {index}: one document, one encoding");
            }
            if let Ok(found) = Agreement::decode(&bytes) {
                assert_eq!(found.encode(), bytes, "byte {index}: one document, one encoding");
            }
        }
    }
}

#[test]
fn a_contract_is_explained_in_two_languages() {
    let english = explain(&agreement(), Language::English);
    assert!(
        english[0].starts_with(&format!(
            "Contract {} \"Rainfall 2026\", signed by the provider at 2026-09-",
            agreement().contract
        )),
        "{english:?}"
    );
    assert!(
        english[1].starts_with("Provider: Weather Bureau (entity 91110000802100433B, node "),
        "{english:?}"
    );
    assert!(english[3].contains("4 bytes") && english[3].contains(&agreement().root.to_string()));
    assert!(
        english[5].contains("version 3 of the product") && english[5].contains("every later one"),
        "{english:?}"
    );
    assert_eq!(english[6], "Price: 100 CNY.");
    let policy = agreement().policy().unwrap();
    assert_eq!(english[7..], policy.explain(Language::English), "each clause follows");
    assert!(english.len() > 7);
    let chinese = explain(&agreement(), Language::Chinese);
    assert_eq!(chinese[6], "价格：100 CNY。");
    for line in &chinese {
        let characters: Vec<char> = line.chars().collect();
        let half_width = |pair: &[char]| {
            let [left, right] = [pair[0], pair[1]];
            ",:;()".contains(left) && !right.is_ascii() || ",:;()".contains(right) && !left.is_ascii()
        };
        assert!(!characters.windows(2).any(half_width), "half-width punctuation beside Chinese: {line}");
    }
    assert_eq!(chinese[7..], policy.explain(Language::Chinese));
}

#[test]
fn a_policy_that_cannot_be_enforced_permits_nothing() {
    let mut agreement = agreement();
    agreement.policy = b"{}".to_vec();
    agreement.price = String::new();
    let lines = explain(&agreement, Language::English);
    assert_eq!(lines[6], "Price: free of charge.");
    assert!(lines[7].starts_with("Nothing is permitted"), "{lines:?}");
    assert_eq!(lines.len(), 8);
}

#[test]
fn the_national_state_follows_from_the_protocols() {
    let check = |state: State, rounds: u64, verified: bool, expected: &str| {
        let terms = terms();
        let negotiation = Negotiation {
            id: [0; 16],
            side: Side::Provider,
            peer: terms.consumer.clone(),
            product: terms.product.clone(),
            product_name: terms.name.clone(),
            state,
            contract: None,
            agreement: None,
            agreement_hash: None,
            statements: Statements {
                verification: verified.then_some(Digest::ZERO),
                ..Statements::default()
            },
            reason: None,
            is_ended_by_peer: false,
            standings: Standings::default(),
            created: Timestamp::from_millis(0),
            updated: Timestamp::from_millis(0),
            last: Digest::ZERO,
            opened_with: Digest::ZERO,
            accept_counter: AcceptCounter::No,
            rounds,
            terms,
        };
        assert_eq!(negotiation.national(), expected, "{state:?} after {rounds} offers");
    };
    check(State::Requested, 0, false, "01");
    check(State::Offered, 1, false, "02");
    check(State::Requested, 1, false, "02");
    check(State::Accepted, 1, false, "02");
    check(State::Agreed, 0, false, "0301");
    check(State::Verified, 0, true, "0301");
    check(State::Finalized, 0, true, "05");
    check(State::Terminated, 0, false, "0302");
    check(State::Terminated, 0, true, "06");
}

#[test]
fn a_reason_fits_its_statement() {
    let reason = Reason::new(&"c".repeat(100), &format!("line\nbreak e\u{301} {}", "长".repeat(300)));
    assert_eq!(reason.code.chars().count(), 64);
    assert!(reason.text.starts_with("line break \u{e9} 长"), "{}", reason.text);
    assert!(reason.text.chars().count() <= 256);
}

proptest! {
    #[test]
    fn any_terms_in_range_survive(
        name in "[a-zA-Z0-9 \u{4e00}-\u{4fff}]{1,128}",
        price in "[a-z0-9 ]{0,128}",
        policy in proptest::collection::vec(any::<u8>(), 0..8192),
        size in any::<u64>(),
        window_bytes in 1..u64::MAX,
    ) {
        let terms = Terms { name, price, policy, size, window_bytes, ..terms() };
        prop_assert_eq!(Terms::decode(&terms.encode()), Ok(terms));
    }

    #[test]
    fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Terms::decode(&bytes).is_err());
        prop_assert!(Agreement::decode(&bytes).is_err());
    }
}
