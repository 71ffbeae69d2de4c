use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ENTITY_A, NODE_A, PRODUCT_A, PRODUCT_B, constraint, document, reading};
use crate::time::{parse_instant, show_instant};
use crate::{Action, ConstraintName, MAXIMUM_DOCUMENT_BYTES, Operator, Policy, PolicyError};

const GOOD: &str = r#"{"contractPolicies":{
  "permissionPolicies":[{"actions":["read","delivery"],"constraints":[
      {"constraintName":"count","constraintOperator":"11","constraintValue":"3"},
      {"constraintName":"time","constraintOperator":"lteq","constraintValue":"2027-01-01T00:00:00Z"}]}],
  "prohibitionPolicies":[{"actions":["sell"]}], "obligationPolicies":[]}}"#;

/// Every problem of the document as `path: message`.
fn problems(document: &[u8]) -> Vec<String> {
    let error = Policy::parse(document).unwrap_err();
    error.problems().iter().map(ToString::to_string).collect()
}

/// The document is refused for exactly one problem, at `path`, whose message contains `message`.
#[track_caller]
fn check_refused(document: &str, path: &str, message: &str) {
    let problems = problems(document.as_bytes());
    assert_eq!(problems.len(), 1, "{document}: {problems:?}");
    let (found_path, found_message) = problems[0].split_once(": ").unwrap();
    assert_eq!(found_path, path, "{problems:?}");
    assert!(found_message.contains(message), "{problems:?} lacks {message}");
}

#[test]
fn reads_the_dictionary_form_and_keeps_its_bytes() {
    let policy = Policy::parse(GOOD.as_bytes()).unwrap();
    assert_eq!(policy.document(), GOOD.as_bytes());
    assert!(policy.uses_count());
    let [permission] = policy.permissions() else { panic!("one permission") };
    assert_eq!(permission.id.as_str(), "permission[0]");
    assert_eq!(permission.actions, [Action::Read, Action::Delivery]);
    let clauses: Vec<&str> = permission.constraints.iter().map(crate::Constraint::clause).collect();
    assert_eq!(clauses, ["permission[0].count", "permission[0].time"]);
    assert_eq!(permission.constraints[1].operator(), Operator::LessOrEqual);
    assert_eq!(permission.constraints[1].name(), ConstraintName::Time);
    assert_eq!(permission.constraints[1].values(), ["2027-01-01T00:00:00Z"]);
    assert_eq!(policy.prohibitions()[0].id.as_str(), "prohibition[0]");
}

#[test]
fn vocabulary_round_trips() {
    for action in Action::ALL {
        assert_eq!(Action::parse(action.wire()), Some(action));
    }
    assert_eq!(Action::PolicyTransmit.wire(), "plicyTransmit");
    assert_eq!(Action::parse("policyTransmit"), Some(Action::PolicyTransmit));
    assert_eq!(Action::parse("Read"), None);
    assert_eq!(Action::parse("http://www.w3.org/ns/odrl/2/read"), None);
    for (index, operator) in Operator::ALL.into_iter().enumerate() {
        assert_eq!(operator.wire(), format!("{:02}", index + 1));
        assert_eq!(Operator::parse(operator.wire()), Some(operator));
        assert_eq!(Operator::parse(operator.name()), Some(operator));
    }
    for unknown in ["1", "13", "00", "LTEQ", "<=", "", " 01"] {
        assert_eq!(Operator::parse(unknown), None, "{unknown}");
    }
}

#[test]
fn documents_that_are_not_policies_are_refused() {
    check_refused("[]", "document", "is an array where an object is meant");
    check_refused("{}", "contractPolicies", "is missing");
    check_refused(r#"{"contractPolicies":null}"#, "contractPolicies", "is null");
    check_refused(r#"{"contractPolicies":{}}"#, "permissionPolicies", "holds no permission");
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[]}}"#,
        "permissionPolicies",
        "holds no permission",
    );
    check_refused(r#"{"contractPolicies":{"permissionPolicies":{}}}"#, "permissionPolicies", "is an object");
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":"read"}]}}"#,
        "permissionPolicies[0].actions",
        "is a string where an array",
    );
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"]}]},"version":1}"#,
        "version",
        "is not a key",
    );
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"priorDuty":[]}]}}"#,
        "permissionPolicies[0].priorDuty",
        "is not a key",
    );
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"]}],"obligationPolicies":[{"actions":["delete"]}]}}"#,
        "obligationPolicies[0]",
        "not enforced",
    );
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"]}],"prohibitionPolicies":null}}"#,
        "prohibitionPolicies",
        "is null where an array",
    );
}

#[test]
fn repeated_keys_are_refused_at_every_level_even_when_escaped() {
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"]}]},"contractPolicies":{}}"#,
        "contractPolicies",
        "written twice",
    );
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"\u0061ctions":["sell"]}]}}"#,
        "permissionPolicies[0].actions",
        "written twice",
    );
    check_refused(
        r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"constraints":[{"constraintName":"count","constraintOperator":"11","constraintValue":"1","constraintValue":"9"}]}]}}"#,
        "permissionPolicies[0].constraints[0].constraintValue",
        "written twice",
    );
}

#[test]
fn bytes_that_are_not_bounded_json_are_refused() {
    let long = format!("{GOOD}{}", " ".repeat(MAXIMUM_DOCUMENT_BYTES));
    assert_eq!(Policy::parse(long.as_bytes()), Err(PolicyError::TooLarge { length: long.len() }));
    let full = format!("{GOOD}{}", " ".repeat(MAXIMUM_DOCUMENT_BYTES - GOOD.len()));
    assert!(Policy::parse(full.as_bytes()).is_ok());

    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(matches!(Policy::parse(nested(8).as_bytes()), Err(PolicyError::Invalid { .. })));
    assert!(matches!(Policy::parse(nested(9).as_bytes()), Err(PolicyError::NotJson { .. })));
    assert!(matches!(Policy::parse(nested(4000).as_bytes()), Err(PolicyError::NotJson { .. })));

    let trailing = format!("{GOOD} {{}}");
    let marked = format!("\u{feff}{GOOD}");
    let mut latin = GOOD.as_bytes().to_vec();
    latin.insert(GOOD.find("read").unwrap(), 0xe9);
    let surrogate = GOOD.replace("read", "\\ud800");
    let comma = GOOD.replace("\"delivery\"", "\"delivery\",");
    for bytes in [trailing.as_bytes(), marked.as_bytes(), &latin, surrogate.as_bytes(), comma.as_bytes(), b""]
    {
        assert!(matches!(Policy::parse(bytes), Err(PolicyError::NotJson { .. })), "{bytes:?}");
    }
}

#[test]
fn every_problem_is_reported_and_the_list_is_bounded() {
    let document = document(
        &json!([{"actions": ["read", "export", "read"], "constraints": [
            constraint("purpose", "01", "research"),
            constraint("count", "05", "3"),
            constraint("count", "11", "10000 次/天"),
            {"constraintName": "time"},
        ]}]),
        &json!([{"actions": []}]),
    );
    let paths: Vec<String> =
        problems(&document).iter().map(|problem| problem.split_once(": ").unwrap().0.to_owned()).collect();
    assert_eq!(
        paths,
        [
            "permissionPolicies[0].actions[1]",
            "permissionPolicies[0].actions[2]",
            "permissionPolicies[0].constraints[0].constraintName",
            "permissionPolicies[0].constraints[1].constraintOperator",
            "permissionPolicies[0].constraints[2].constraintValue",
            "permissionPolicies[0].constraints[3].constraintOperator",
            "permissionPolicies[0].constraints[3].constraintValue",
            "prohibitionPolicies[0].actions",
        ]
    );
    assert!(problems(&document)[2].starts_with(
        "permissionPolicies[0].constraints[0].constraintName: \"purpose\" is not enforced by this node; remove it or"
    ));

    let actions = vec!["export"; 40];
    let error = Policy::parse(&super::document(&json!([{"actions": actions}]), &json!([]))).unwrap_err();
    assert_eq!(error.problems().len(), 16);
    assert!(error.to_string().ends_with("; and 24 more"), "{error}");
}

#[test]
fn dictionary_names_this_node_does_not_enforce_are_refused() {
    for name in [
        "physicalAddress",
        "frequency",
        "dataSize",
        "dateRecord",
        "dataField",
        "valueExpression",
        "application",
        "algorithm",
        "machineLearningModels",
        "executionEnv",
        "encryptMode",
        "deliveryMethod",
        "payAmount",
        "expansionItem",
        "logRecordSend",
        "Count",
        "odrl:count",
        "",
    ] {
        let document = document(
            &json!([{"actions": ["read"], "constraints": [constraint(name, "01", "1")]}]),
            &json!([]),
        );
        assert!(problems(&document)[0].contains("is not enforced by this node"), "{name}");
    }
    let document = document(&json!([{"actions": ["expansionItem"]}]), &json!([]));
    assert!(problems(&document)[0].contains("no meaning"));
}

#[test]
fn each_constraint_takes_its_own_operators_and_no_other() {
    let values = [
        ("time", "2027-01-01T00:00:00Z", vec!["02", "03", "10", "11"]),
        ("timeWindow", "08:00-18:00", vec!["01", "07", "08", "09"]),
        ("count", "3", vec!["01", "10", "11"]),
        ("networkAddress", "192.0.2.7", vec!["01", "05", "07", "08"]),
        ("region", "43", vec!["01", "07", "08", "09"]),
        ("party", NODE_A, vec!["01", "07", "08"]),
        ("product", PRODUCT_A, vec!["01", "07"]),
    ];
    assert_eq!(values.len(), ConstraintName::ALL.len());
    for (name, value, allowed) in values {
        for operator in Operator::ALL {
            let document = document(
                &json!([{"actions": ["read"], "constraints": [constraint(name, operator.name(), value)]}]),
                &json!([]),
            );
            let parsed = Policy::parse(&document);
            assert_eq!(parsed.is_ok(), allowed.contains(&operator.wire()), "{name} {operator}: {parsed:?}");
        }
    }
}

/// One constraint, as a policy that permits reading under it.
fn parse_one(name: &str, operator: &str, value: Value) -> Result<Policy, PolicyError> {
    Policy::parse(&document(
        &json!([{"actions": ["read"], "constraints": [constraint(name, operator, value)]}]),
        &json!([]),
    ))
}

#[test]
fn values_of_the_wrong_shape_are_refused() {
    let bad: &[(&str, &str, Value)] = &[
        ("count", "11", json!(3)),
        ("count", "11", json!("0")),
        ("count", "10", json!("1")),
        ("count", "10", json!("0")),
        ("count", "01", json!("0")),
        ("count", "11", json!("03")),
        ("count", "11", json!("+3")),
        ("count", "11", json!("-3")),
        ("count", "11", json!("３")),
        ("count", "11", json!("3.0")),
        ("count", "11", json!(" 3")),
        ("count", "11", json!("")),
        ("count", "11", json!("12345678901234567")),
        ("count", "11", json!(["3"])),
        ("time", "10", json!("1970-01-01T00:00:00Z")),
        ("time", "10", json!("tomorrow")),
        ("time", "10", json!("P7D")),
        ("time", "10", json!(["2027-01-01T00:00:00Z"])),
        ("timeWindow", "01", json!("08:00-08:00")),
        ("timeWindow", "01", json!("8:00-18:00")),
        ("timeWindow", "01", json!("08:00-24:01")),
        ("timeWindow", "01", json!("24:00-08:00")),
        ("timeWindow", "01", json!("08:60-18:00")),
        ("timeWindow", "01", json!("08:00-18:00+8:00")),
        ("timeWindow", "01", json!("08:00-18:00 +08:00")),
        ("timeWindow", "01", json!("08:00-18:00[Asia/Shanghai]")),
        ("timeWindow", "01", json!("08:00–18:00")),
        ("timeWindow", "01", json!("2027-01-01T00:00:00Z/2027-01-01T08:00:00+08:00")),
        ("timeWindow", "01", json!("2027-01-02T00:00:00Z/2027-01-01T00:00:00Z")),
        ("timeWindow", "01", json!("2027-01-01T00:00:00Z/P7D")),
        ("timeWindow", "01", json!("2027-01-01T00:00:00Z/2027-01-02T00:00:00Z/2027-01-03T00:00:00Z")),
        ("timeWindow", "08", json!("00:00-24:00")),
        ("timeWindow", "07", json!(["08:00-18:00", "2027-01-01T00:00:00Z/2027-01-02T00:00:00Z"])),
        ("networkAddress", "01", json!("10.0.0.0/8")),
        ("networkAddress", "05", json!("10.0.0.1/8")),
        ("networkAddress", "05", json!("10.0.0.0/33")),
        ("networkAddress", "05", json!("10.0.0.0/+8")),
        ("networkAddress", "05", json!("10.0.0.0/08")),
        ("networkAddress", "05", json!("10.0.0.0/")),
        ("networkAddress", "05", json!("010.0.0.0/8")),
        ("networkAddress", "05", json!("10.0.0.0/255.0.0.0")),
        ("networkAddress", "05", json!("2001:db8::/129")),
        ("networkAddress", "05", json!("::ffff:10.0.0.1/104")),
        ("networkAddress", "05", json!("fe80::1%eth0")),
        ("networkAddress", "05", json!("localhost")),
        ("networkAddress", "07", json!([])),
        ("networkAddress", "07", json!(["10.0.0.1", 7])),
        ("region", "01", json!("4")),
        ("region", "01", json!("430")),
        ("region", "01", json!("430100")),
        ("region", "01", json!("CN")),
        ("region", "01", json!("４３")),
        ("region", "01", json!("0065")),
        ("party", "01", json!("acme")),
        ("party", "01", json!(NODE_A.to_lowercase())),
        ("party", "01", json!(PRODUCT_A)),
        ("party", "07", json!([NODE_A, null])),
        ("product", "01", json!(NODE_A)),
        ("product", "01", json!(format!("{PRODUCT_A}•"))),
        ("product", "01", json!(format!("{PRODUCT_A}•{}", "x".repeat(33)))),
    ];
    for (name, operator, value) in bad {
        let parsed = parse_one(name, operator, value.clone());
        let path = "permissionPolicies[0].constraints";
        let error = parsed.expect_err(&format!("{name} {operator} {value}"));
        assert_eq!(error.problems().len(), 1, "{name} {operator} {value}: {error}");
        assert!(error.problems()[0].path.starts_with(path), "{error}");
    }
}

#[test]
fn values_of_the_right_shape_are_read() {
    for (name, operator, value) in [
        ("count", "10", json!("2")),
        ("count", "11", json!("9999999999999999")),
        ("time", "10", json!("1970-01-01T00:00:00.001Z")),
        ("time", "11", json!("9999-12-31T23:59:59Z")),
        ("timeWindow", "09", json!("22:00-06:00-05:00")),
        ("timeWindow", "01", json!("00:00-24:00")),
        ("timeWindow", "07", json!(["08:00-12:00", "14:00-18:00+08:00"])),
        ("timeWindow", "09", json!("20270101000000/2027-01-02T00:00:00+08:00")),
        ("networkAddress", "05", json!("::/0")),
        ("networkAddress", "05", json!("0.0.0.0/0")),
        ("networkAddress", "05", json!("::ffff:10.0.0.0/104")),
        ("networkAddress", "08", json!(["192.0.2.7", "2001:db8::/32"])),
        ("region", "07", json!("43")),
        ("party", "07", json!([NODE_A, ENTITY_A])),
        ("product", "07", json!([PRODUCT_A, PRODUCT_B])),
    ] {
        assert!(parse_one(name, operator, value.clone()).is_ok(), "{name} {operator} {value}");
    }
    assert!(reading("count", "11", "3").uses_count());
    assert!(!reading("region", "01", "43").uses_count());
}

#[test]
fn conditions_that_exclude_each_other_are_refused() {
    let check = |constraints: Value, contradicts: bool| {
        let permissions = json!([{"actions": ["read"], "constraints": constraints}]);
        let parsed = Policy::parse(&document(&permissions, &json!([])));
        match parsed {
            Ok(_) => assert!(!contradicts, "{permissions}"),
            Err(error) => {
                assert!(contradicts, "{permissions}: {error}");
                assert_eq!(error.problems()[0].path, "permissionPolicies[0].constraints");
                assert!(error.problems()[0].message.starts_with("can never hold"), "{error}");
            }
        }
    };
    let (noon, one) = ("2027-01-01T12:00:00Z", "2027-01-01T13:00:00Z");
    check(json!([constraint("time", "gt", one), constraint("time", "lt", noon)]), true);
    check(json!([constraint("time", "gt", noon), constraint("time", "lt", noon)]), true);
    check(json!([constraint("time", "gteq", noon), constraint("time", "lt", noon)]), true);
    check(json!([constraint("time", "gteq", noon), constraint("time", "lteq", noon)]), false);
    let hour = format!("{noon}/{one}");
    check(json!([constraint("timeWindow", "eq", &*hour), constraint("time", "gteq", one)]), true);
    check(
        json!([constraint("timeWindow", "eq", &*hour), constraint("timeWindow", "eq", "13:00-14:00")]),
        true,
    );
    check(
        json!([constraint("timeWindow", "eq", &*hour), constraint("timeWindow", "eq", "12:59-14:00")]),
        false,
    );
    check(
        json!([constraint("timeWindow", "eq", &*hour), constraint("timeWindow", "eq", "20:30-20:31+08:00")]),
        false,
    );
    check(
        json!([constraint("timeWindow", "eq", &*hour), constraint("timeWindow", "isNoneOf", &*hour)]),
        true,
    );
    check(json!([constraint("region", "eq", "43"), constraint("region", "eq", "44")]), true);
    check(json!([constraint("region", "eq", "43"), constraint("region", "eq", "4301")]), false);
    check(json!([constraint("region", "eq", "4301"), constraint("region", "isNoneOf", "43")]), true);
    check(json!([constraint("region", "eq", "43"), constraint("region", "isNoneOf", "4301")]), false);
    check(json!([constraint("party", "eq", NODE_A), constraint("party", "eq", ENTITY_A)]), false);
    check(
        json!([
            constraint("networkAddress", "isA", "10.0.0.0/8"),
            constraint("networkAddress", "isA", "::/0")
        ]),
        true,
    );
    check(json!([constraint("product", "eq", PRODUCT_A), constraint("product", "eq", PRODUCT_B)]), true);
}

#[test]
fn counting_has_no_place_in_a_prohibition() {
    let document = document(
        &json!([{"actions": ["read"]}]),
        &json!([{"actions": ["read"], "constraints": [constraint("count", "11", "3")]}]),
    );
    assert!(problems(&document)[0].contains("no meaning in a prohibition"));
}

#[test]
fn instants_follow_rfc_3339() {
    for (text, expected) in [
        // RFC 3339 section 5.8, where the fraction is no finer than a millisecond.
        ("1985-04-12T23:20:50.52Z", Some(482_196_050_520)),
        ("1996-12-19T16:39:57-08:00", Some(851_042_397_000)),
        ("1970-01-01T12:00:27+00:20", Some(42_027_000)),
        ("1990-12-31T23:59:60Z", None),
        ("1937-01-01T12:00:27.87+00:20", None),
        ("19700101000001", Some(1_000)),
        ("20270101000000", Some(1_798_761_600_000)),
        ("2027-01-01T00:00:00Z", Some(1_798_761_600_000)),
        ("2027-01-01T00:00:00-00:00", Some(1_798_761_600_000)),
        ("2027-01-01T08:00:00.000000+08:00", Some(1_798_761_600_000)),
        ("9999-12-31T23:59:59Z", Some(253_402_300_799_000)),
        ("1970-01-01T00:00:00+00:01", None),
        ("2027-01-01T00:00:00.0001Z", None),
        ("2027-01-01T00:00:00.Z", None),
        ("2027-01-01T00:00:00", None),
        ("2027-01-01 00:00:00Z", None),
        ("2027-01-01t00:00:00z", None),
        ("2027-02-29T00:00:00Z", None),
        ("2027-01-01T24:00:00Z", None),
        ("2027-01-01T00:00:00+24:00", None),
        ("2027-01-01T00:00:00+08", None),
        ("2027-01-01T00:00:00+08:00:00", None),
        ("2027-01-01T00:00:00Z[UTC]", None),
        ("+027-01-01T00:00:00Z", None),
        ("2027-01-01", None),
        ("20271301000000", None),
        ("2027010100000", None),
        ("٢٠٢٧٠٦٠", None),
    ] {
        assert_eq!(parse_instant(text).ok(), expected, "{text}");
    }
    assert_eq!(show_instant(1_798_761_600_000), "2027-01-01 00:00:00 UTC");
    assert_eq!(show_instant(482_196_050_520), "1985-04-12 23:20:50.52 UTC");
    assert_eq!(show_instant(u64::MAX), "18446744073709551615 milliseconds after 1970-01-01 00:00:00 UTC");
}

proptest! {
    #[test]
    fn reading_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Policy::parse(&bytes);
    }

    #[test]
    fn reading_a_damaged_document_never_panics_and_keeps_the_bytes_it_accepts(
        edits in prop::collection::vec((0..GOOD.len(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (position, byte, kind) in edits {
            let position = position.min(bytes.len() - 1);
            match kind {
                0 => bytes[position] = byte,
                1 => bytes.insert(position, byte),
                _ => { bytes.remove(position); }
            }
        }
        if let Ok(policy) = Policy::parse(&bytes) {
            prop_assert_eq!(policy.document(), &bytes[..]);
        }
    }

    #[test]
    fn any_text_as_a_value_is_read_or_refused_without_panic(
        name in prop::sample::select(ConstraintName::ALL.to_vec()),
        value in "[-0-9TZ:+/.a-f•é]{0,40}",
    ) {
        for operator in name.operators() {
            if let Ok(policy) = parse_one(name.wire(), operator.name(), json!(value)) {
                let decision = crate::decide(&policy, &super::request());
                prop_assert_eq!(decision.clauses.len(), 2);
                policy.next_boundary(super::MIDNIGHT);
            }
        }
    }

    #[test]
    fn an_instant_reads_back_as_shown(instant in 0..253_402_300_800_000_u64) {
        let shown = show_instant(instant).replacen(' ', "T", 1).replace(" UTC", "Z");
        prop_assert_eq!(parse_instant(&shown), Ok(instant));
    }
}
