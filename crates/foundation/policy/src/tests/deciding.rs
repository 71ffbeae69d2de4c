use std::cell::RefCell;

use serde_json::{Value, json};

use super::{
    DAY, ENTITY_A, ENTITY_B, HOUR, MIDNIGHT, MINUTE, NODE_A, NODE_B, PRODUCT_A, PRODUCT_B, constraint,
    policy, reading, request,
};
use crate::{Action, ClauseId, Decision, Policy, Request, Verdict, decide};

fn is_allowed(policy: &Policy, request: &Request<'_>) -> bool {
    decide(policy, request).verdict == Verdict::Allow
}

fn denying_clause(decision: &Decision) -> &str {
    match &decision.verdict {
        Verdict::Allow => "",
        Verdict::Deny { clause, .. } => clause,
    }
}

/// Reading under one constraint is allowed or not.
#[track_caller]
fn check(name: &str, operator: &str, value: impl Into<Value>, request: &Request<'_>, allowed: bool) {
    let value = value.into();
    let policy = reading(name, operator, value.clone());
    let decision = decide(&policy, request);
    assert_eq!(decision.verdict == Verdict::Allow, allowed, "{name} {operator} {value}: {decision:?}");
    if !allowed {
        assert_eq!(denying_clause(&decision), format!("permission[0].{name}"));
    }
}

#[test]
fn instants_are_compared_to_the_millisecond() {
    let noon = MIDNIGHT + 12 * HOUR;
    let written = ["2026-06-15T12:00:00Z", "2026-06-15T20:00:00+08:00", "20260615120000"];
    for value in written {
        for (operator, before, at, after) in [
            ("gt", false, false, true),
            ("gteq", false, true, true),
            ("lt", true, false, false),
            ("lteq", true, true, false),
        ] {
            for (now, allowed) in [(noon - 1, before), (noon, at), (noon + 1, after)] {
                check("time", operator, value, &Request { now, ..request() }, allowed);
            }
        }
    }
    for now in [0, u64::MAX] {
        check("time", "gteq", written[0], &Request { now, ..request() }, now > 0);
    }
}

#[test]
fn windows_include_their_start_and_exclude_their_end() {
    let at = |now: u64| Request { now, ..request() };
    let interval = "2026-06-15T08:00:00Z/2026-06-15T10:00:00Z";
    for (value, offset) in [(interval, 0), ("08:00-10:00", 0), ("08:00-10:00Z", 0), ("16:00-18:00+08:00", 0)]
    {
        for operator in ["eq", "isPartOf", "isAnyOf", "isNoneOf"] {
            let inside = operator != "isNoneOf";
            check("timeWindow", operator, value, &at(MIDNIGHT + 8 * HOUR - 1 + offset), !inside);
            check("timeWindow", operator, value, &at(MIDNIGHT + 8 * HOUR + offset), inside);
            check("timeWindow", operator, value, &at(MIDNIGHT + 10 * HOUR - 1 + offset), inside);
            check("timeWindow", operator, value, &at(MIDNIGHT + 10 * HOUR + offset), !inside);
        }
    }
    // Over midnight, and over the midnight of UTC only.
    for (value, minute, inside) in [
        ("22:00-06:00", 21 * 60 + 59, false),
        ("22:00-06:00", 22 * 60, true),
        ("22:00-06:00", 0, true),
        ("22:00-06:00", 6 * 60 - 1, true),
        ("22:00-06:00", 6 * 60, false),
        ("06:00-10:00+08:00", 22 * 60, true),
        ("06:00-10:00+08:00", 60, true),
        ("06:00-10:00+08:00", 2 * 60, false),
        ("20:00-22:00-05:30", 60 + 29, false),
        ("20:00-22:00-05:30", 60 + 30, true),
        ("20:00-24:00", 23 * 60 + 59, true),
        ("20:00-24:00", 0, false),
        ("22:00-00:00", 23 * 60 + 59, true),
        ("22:00-00:00", 0, false),
        ("00:00-24:00", 0, true),
    ] {
        check("timeWindow", "eq", value, &at(MIDNIGHT + minute * MINUTE), inside);
        check("timeWindow", "eq", value, &at(MIDNIGHT + 5_000 * DAY + minute * MINUTE), inside);
    }
    let two = json!(["08:00-09:00", "14:00-15:00"]);
    check("timeWindow", "isAnyOf", two.clone(), &at(MIDNIGHT + 14 * HOUR), true);
    check("timeWindow", "isAnyOf", two.clone(), &at(MIDNIGHT + 12 * HOUR), false);
    check("timeWindow", "isNoneOf", two.clone(), &at(MIDNIGHT + 14 * HOUR), false);
    check("timeWindow", "isNoneOf", two, &at(MIDNIGHT + 12 * HOUR), true);
}

#[test]
fn uses_are_counted_before_the_present_one() {
    for (operator, value, granted) in [("lteq", "3", 3), ("lt", "3", 2), ("eq", "3", 3), ("lteq", "1", 1)] {
        for used in 0..5 {
            let counter = move |_: &ClauseId| used;
            check("count", operator, value, &Request { used: &counter, ..request() }, used < granted);
        }
        check("count", operator, value, &Request { used: &|_| u64::MAX, ..request() }, false);
    }
}

#[test]
fn addresses_are_matched_in_their_own_family() {
    let table: &[(&str, &str, &str, bool)] = &[
        ("eq", "10.1.2.3", "10.1.2.3", true),
        ("eq", "10.1.2.3", "10.1.2.4", false),
        ("eq", "10.1.2.3", "::ffff:10.1.2.3", true),
        ("eq", "::ffff:10.1.2.3", "10.1.2.3", true),
        ("eq", "::10.1.2.3", "10.1.2.3", false),
        ("isA", "10.0.0.0/8", "10.255.255.255", true),
        ("isA", "10.0.0.0/8", "11.0.0.0", false),
        ("isA", "10.0.0.0/8", "9.255.255.255", false),
        ("isA", "10.0.0.0/8", "::ffff:10.9.9.9", true),
        ("isA", "::ffff:10.0.0.0/104", "10.9.9.9", true),
        ("isA", "10.1.2.0/31", "10.1.2.1", true),
        ("isA", "10.1.2.0/31", "10.1.2.2", false),
        ("isA", "0.0.0.0/0", "255.255.255.255", true),
        ("isA", "0.0.0.0/0", "::1", false),
        ("isA", "::/0", "2001:db8::1", true),
        ("isA", "::/0", "10.1.2.3", false),
        ("isA", "2001:db8::/32", "2001:db8:ffff::1", true),
        ("isA", "2001:db8::/32", "2001:db9::", false),
        ("isA", "2001:db8::1", "2001:db8::1", true),
        ("isNoneOf", "10.0.0.0/8", "10.1.2.3", false),
        ("isNoneOf", "10.0.0.0/8", "::ffff:10.1.2.3", false),
        ("isNoneOf", "10.0.0.0/8", "192.0.2.1", true),
        ("isNoneOf", "10.0.0.0/8", "2001:db8::1", true),
    ];
    for (operator, value, address, allowed) in table {
        let address = Some(address.parse().unwrap());
        check("networkAddress", operator, *value, &Request { address, ..request() }, *allowed);
    }
    let several = json!(["192.0.2.0/24", "10.1.2.3"]);
    check("networkAddress", "isAnyOf", several.clone(), &request(), true);
    check("networkAddress", "isNoneOf", several, &request(), false);
}

#[test]
fn regions_are_matched_by_prefix() {
    for (operator, value, region, allowed) in [
        ("eq", json!("43"), "4301", true),
        ("eq", json!("4301"), "4301", true),
        ("eq", json!("4301"), "4302", false),
        ("eq", json!("4300"), "4301", false),
        ("isPartOf", json!("43"), "4399", true),
        ("isPartOf", json!("43"), "3443", false),
        ("isAnyOf", json!(["44", "4301"]), "4301", true),
        ("isAnyOf", json!(["44", "4302"]), "4301", false),
        ("isNoneOf", json!(["44", "4302"]), "4301", true),
        ("isNoneOf", json!(["44", "43"]), "4301", false),
    ] {
        check("region", operator, value, &Request { region: Some(region), ..request() }, allowed);
    }
}

#[test]
fn parties_and_products_are_matched_whole() {
    for (operator, value, allowed) in [
        ("eq", json!(NODE_A), true),
        ("eq", json!(ENTITY_A), true),
        ("eq", json!(NODE_B), false),
        ("eq", json!(ENTITY_B), false),
        ("isAnyOf", json!([NODE_B, ENTITY_A]), true),
        ("isAnyOf", json!([NODE_B, ENTITY_B]), false),
        ("isNoneOf", json!([NODE_B, ENTITY_A]), false),
        ("isNoneOf", json!([NODE_B, ENTITY_B]), true),
    ] {
        check("party", operator, value, &request(), allowed);
    }
    check("product", "eq", PRODUCT_A, &request(), true);
    check("product", "eq", PRODUCT_B, &request(), false);
    check("product", "isAnyOf", json!([PRODUCT_B, PRODUCT_A]), &request(), true);
    // An identifier with an extension is another identifier.
    let extended = format!("{PRODUCT_A}•1");
    check("product", "eq", PRODUCT_A, &Request { product: &extended, ..request() }, false);
}

#[test]
fn an_unknown_fact_fails_a_permission_and_lets_a_prohibition_apply() {
    let known = request();
    let unknown: &[(&str, Value, Request<'_>)] = &[
        ("networkAddress", json!("192.0.2.1"), Request { address: None, ..known }),
        ("region", json!("44"), Request { region: None, ..known }),
        ("region", json!("44"), Request { region: Some("0065"), ..known }),
        ("region", json!("44"), Request { region: Some("43"), ..known }),
        ("region", json!("44"), Request { region: Some("CN43"), ..known }),
        ("party", json!(NODE_B), Request { party: "", ..known }),
        ("party", json!(ENTITY_B), Request { entity: "", ..known }),
        ("product", json!(PRODUCT_B), Request { product: "", ..known }),
    ];
    for (name, value, asked) in unknown {
        for operator in ["eq", "isAnyOf", "isNoneOf"] {
            if *name == "product" && operator == "isNoneOf" {
                continue;
            }
            check(name, operator, value.clone(), asked, false);
            let forbidding = policy(
                json!([{"actions": ["read"]}]),
                json!([{"actions": ["read"], "constraints": [constraint(name, operator, value.clone())]}]),
            );
            let decision = decide(&forbidding, asked);
            assert_eq!(denying_clause(&decision), "prohibition[0]", "{name} {operator}");
            assert!(format!("{:?}", decision.verdict).contains("could not be checked"), "{decision:?}");
            // With the fact known, `eq` does not match and the prohibition stays silent.
            assert_eq!(is_allowed(&forbidding, &known), operator != "isNoneOf", "{name} {operator}");
        }
    }
    // A prohibition that is known not to apply stays silent whatever else is unknown.
    let forbidding = policy(
        json!([{"actions": ["read"]}]),
        json!([{"actions": ["read"], "constraints": [
            constraint("networkAddress", "isA", "10.0.0.0/8"), constraint("region", "eq", "44")]}]),
    );
    assert!(is_allowed(&forbidding, &Request { address: None, ..known }));
}

#[test]
fn what_no_permission_covers_is_denied() {
    let policy = policy(json!([{"actions": ["read", "delivery"]}]), json!([]));
    for action in Action::ALL {
        let decision = decide(&policy, &Request { action, ..request() });
        let is_covered = matches!(action, Action::Read | Action::Delivery);
        assert_eq!(denying_clause(&decision), if is_covered { "" } else { "default" }, "{action}");
        assert!(decision.counts.is_empty());
    }
}

#[test]
fn a_prohibition_beats_every_permission() {
    let permissions = json!([{"actions": ["read", "sell"]}, {"actions": ["read"]}]);
    let policy = policy(
        permissions,
        json!([
            {"actions": ["sell"]},
            {"actions": ["read"], "constraints": [constraint("region", "eq", "44")]},
            {"actions": ["read"], "constraints": [constraint("networkAddress", "isA", "10.0.0.0/8")]},
        ]),
    );
    assert_eq!(denying_clause(&decide(&policy, &request())), "prohibition[2]");
    assert_eq!(
        denying_clause(&decide(&policy, &Request { action: Action::Sell, ..request() })),
        "prohibition[0]"
    );
    let elsewhere = Request { address: Some("192.0.2.1".parse().unwrap()), ..request() };
    assert!(is_allowed(&policy, &elsewhere));
    assert_eq!(
        denying_clause(&decide(&policy, &Request { region: Some("4403"), ..elsewhere })),
        "prohibition[1]"
    );
}

#[test]
fn every_constraint_of_a_rule_counts_not_only_the_first() {
    let constraints = [
        constraint("region", "eq", "43"),
        constraint("time", "gteq", "2026-06-15T00:00:00Z"),
        constraint("time", "lt", "2026-06-15T00:00:01Z"),
        constraint("networkAddress", "isA", "10.0.0.0/8"),
        constraint("party", "eq", ENTITY_A),
        constraint("product", "eq", PRODUCT_A),
    ];
    let policy = policy(json!([{"actions": ["read"], "constraints": constraints}]), json!([]));
    assert!(is_allowed(&policy, &request()));
    for (wrong, clause) in [
        (Request { region: Some("4403"), ..request() }, "permission[0].region"),
        (Request { now: MIDNIGHT - 1, ..request() }, "permission[0].time"),
        (Request { now: MIDNIGHT + 1_000, ..request() }, "permission[0].time[1]"),
        (Request { address: None, ..request() }, "permission[0].networkAddress"),
        (Request { entity: ENTITY_B, ..request() }, "permission[0].party"),
        (Request { product: PRODUCT_B, ..request() }, "permission[0].product"),
    ] {
        let decision = decide(&policy, &wrong);
        assert_eq!(denying_clause(&decision), clause);
        let failing: Vec<&str> = decision
            .clauses
            .iter()
            .filter(|verdict| !verdict.holds)
            .map(|verdict| verdict.clause.as_str())
            .collect();
        assert_eq!(failing, [clause]);
        assert_eq!(decision.clauses.len(), 7, "each clause is explained");
    }
}

#[test]
fn one_permission_that_holds_is_enough() {
    let policy = policy(
        json!([
            {"actions": ["read"], "constraints": [constraint("region", "eq", "44")]},
            {"actions": ["read"], "constraints": [constraint("networkAddress", "isA", "10.0.0.0/8")]},
        ]),
        json!([]),
    );
    assert!(is_allowed(&policy, &request()));
    let decision = decide(&policy, &Request { address: None, ..request() });
    assert_eq!(denying_clause(&decision), "permission[0].region");
}

#[test]
fn a_use_consumes_at_most_one_counter_and_none_where_a_free_permission_holds() {
    let counted = json!({"actions": ["read"], "constraints": [constraint("count", "lteq", "2")]});
    let free = json!({"actions": ["read"], "constraints": [constraint("region", "eq", "43")]});
    let policy = policy(json!([counted, counted, free]), json!([]));
    let away = Request { region: Some("4403"), ..request() };
    assert!(decide(&policy, &request()).counts.is_empty());
    assert_eq!(decide(&policy, &away).counts, [ClauseId::permission(0)]);
    let first_is_used_up = |clause: &ClauseId| if *clause == ClauseId::permission(0) { 2 } else { 1 };
    let decision = decide(&policy, &Request { used: &first_is_used_up, ..away });
    assert_eq!(decision.counts, [ClauseId::permission(1)]);
    let decision = decide(&policy, &Request { used: &|_| 2, ..away });
    assert_eq!(denying_clause(&decision), "permission[0].count");
    assert!(decision.counts.is_empty());
}

#[test]
fn counters_are_asked_for_by_the_rule_that_holds_them() {
    let policy = policy(
        json!([
            {"actions": ["sell"], "constraints": [constraint("count", "lteq", "1")]},
            {"actions": ["read"], "constraints": [constraint("count", "lteq", "1")]},
        ]),
        json!([]),
    );
    let asked = RefCell::new(Vec::new());
    let used = |clause: &ClauseId| {
        asked.borrow_mut().push(clause.to_string());
        0
    };
    assert!(is_allowed(&policy, &Request { used: &used, ..request() }));
    assert_eq!(*asked.borrow(), ["permission[1]"]);
}

#[test]
fn reasons_are_plain_words() {
    let policy = policy(
        json!([{"actions": ["read"], "constraints": [
            constraint("count", "lteq", "3"), constraint("time", "lteq", "2026-01-01T00:00:00Z")]}]),
        json!([{"actions": ["read"], "constraints": [constraint("region", "eq", "44")]}]),
    );
    let decision = decide(&policy, &Request { used: &|_| 3, ..request() });
    let lines: Vec<String> = decision
        .clauses
        .iter()
        .map(|verdict| format!("{} {}: {}", verdict.clause, verdict.holds, verdict.reason))
        .collect();
    assert_eq!(
        lines,
        [
            "prohibition[0].action true: covers read",
            "prohibition[0].region false: forbidden only for callers registered in region 44 (Guangdong), but the caller is \
             registered in 4301",
            "permission[0].action true: covers read",
            "permission[0].count false: allowed only up to 3 times in all, but it has already been used 3 times",
            "permission[0].time false: allowed only up to and including 2026-01-01 00:00:00 UTC, but it is 2026-06-15 00:00:00 \
             UTC",
        ]
    );
    assert_eq!(
        decision.verdict,
        Verdict::Deny {
            clause: "permission[0].count".to_owned(),
            reason: "allowed only up to 3 times in all, but it has already been used 3 times".to_owned(),
        }
    );
}
