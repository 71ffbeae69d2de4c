use serde_json::{Value, json};

use super::{DAY, ENTITY_A, HOUR, MIDNIGHT, NODE_A, NODE_B, constraint, policy, reading};
use crate::{Action, ClauseId, Policy};

fn rule(action: &str, constraints: Value) -> Value {
    json!({"actions": [action], "constraints": constraints})
}

/// Whether reading under the first constraint is within reading under the second, and the other way round.
#[track_caller]
fn check(narrow: (&str, &str, Value), wide: (&str, &str, Value), within: bool, contains: bool) {
    let first = reading(narrow.0, narrow.1, narrow.2);
    let second = reading(wide.0, wide.1, wide.2);
    assert_eq!((first.is_within(&second), second.is_within(&first)), (within, contains));
}

#[test]
fn single_constraints_are_compared() {
    let (noon, one) = (json!("2026-06-15T12:00:00Z"), json!("2026-06-15T13:00:00Z"));
    check(("time", "lt", noon.clone()), ("time", "lteq", noon.clone()), true, false);
    check(("time", "lteq", noon.clone()), ("time", "lt", one.clone()), true, false);
    check(("time", "gt", one.clone()), ("time", "gteq", noon.clone()), true, false);
    check(("time", "gt", noon.clone()), ("time", "lt", one.clone()), false, false);
    let hour = json!("2026-06-15T12:00:00Z/2026-06-15T13:00:00Z");
    check(("timeWindow", "eq", hour.clone()), ("time", "gteq", noon), true, false);
    check(("timeWindow", "eq", hour.clone()), ("timeWindow", "isNoneOf", hour), false, false);
    check(
        ("timeWindow", "eq", json!("09:00-10:00")),
        ("timeWindow", "eq", json!("16:00-20:00+08:00")),
        true,
        false,
    );
    check(
        ("timeWindow", "eq", json!("08:00-09:00")),
        ("timeWindow", "isNoneOf", json!("09:00-08:00")),
        true,
        true,
    );
    check(("count", "lteq", json!("2")), ("count", "lt", json!("4")), true, false);
    check(("count", "lteq", json!("3")), ("count", "eq", json!("3")), true, true);
    let net = |text: &str| ("networkAddress", "isA", json!(text));
    check(net("10.1.0.0/16"), net("10.0.0.0/8"), true, false);
    check(net("10.1.0.0/16"), net("::ffff:10.0.0.0/104"), true, false);
    check(net("10.1.0.0/16"), net("::/0"), false, false);
    check(net("10.1.0.0/16"), ("networkAddress", "isNoneOf", json!(["11.0.0.0/8", "::/0"])), true, false);
    check(
        ("networkAddress", "isNoneOf", json!("10.0.0.0/8")),
        ("networkAddress", "isNoneOf", json!("10.1.0.0/16")),
        true,
        false,
    );
    check(("region", "eq", json!("4301")), ("region", "isAnyOf", json!(["44", "43"])), true, false);
    check(("region", "eq", json!("4301")), ("region", "isNoneOf", json!("44")), true, false);
    check(("party", "eq", json!(NODE_A)), ("party", "isAnyOf", json!([NODE_A, NODE_B])), true, false);
    // That node A belongs to entity A is not this crate's to know.
    check(("party", "eq", json!(NODE_A)), ("party", "eq", json!(ENTITY_A)), false, false);
    check(("party", "eq", json!(NODE_A)), ("party", "isNoneOf", json!(ENTITY_A)), false, false);
    check(("party", "eq", json!(NODE_A)), ("party", "isNoneOf", json!(NODE_B)), true, false);
}

#[test]
fn rules_are_compared() {
    let check = |inner: &Policy, outer: &Policy, within: bool| assert_eq!(inner.is_within(outer), within);
    let free = policy(json!([rule("read", json!([]))]), json!([]));
    let limited = reading("count", "lteq", "3");
    check(&limited, &free, true);
    check(&free, &limited, false);

    let both = policy(json!([{"actions": ["read", "sell"]}]), json!([]));
    let split = policy(json!([rule("sell", json!([])), rule("read", json!([]))]), json!([]));
    check(&free, &both, true);
    check(&both, &free, false);
    check(&both, &split, true);
    check(&split, &both, true);

    // The counter of permission[0] says nothing about the counter of permission[1].
    let moved = policy(
        json!([rule("sell", json!([])), rule("read", json!([constraint("count", "lteq", "9")]))]),
        json!([]),
    );
    check(&limited, &moved, false);

    let region = |code: &str| json!([rule("read", json!([constraint("region", "eq", code)]))]);
    let guarded = policy(json!([rule("read", json!([]))]), region("44"));
    check(&guarded, &free, true);
    check(&free, &guarded, false);
    check(&policy(json!([rule("read", json!([]))]), region("4401")), &guarded, false);
    check(&guarded, &policy(json!([rule("read", json!([]))]), region("4401")), true);
    check(&policy(region("43"), json!([])), &guarded, true);
    check(&policy(region("4401"), json!([])), &guarded, false);
    check(&policy(json!([rule("read", json!([]))]), json!([rule("sell", json!([]))])), &free, true);
    // A prohibition of what is not permitted anyway asks for nothing.
    check(&free, &policy(json!([rule("read", json!([]))]), json!([rule("sell", json!([]))])), true);

    // Where the caller's region is unknown the outer prohibition applies, so the inner one must apply too.
    let by_address = policy(
        json!([rule("read", json!([]))]),
        json!([rule(
            "read",
            json!([constraint("networkAddress", "isA", "0.0.0.0/0"), constraint("region", "eq", "44")])
        )]),
    );
    check(&by_address, &guarded, false);
    check(&guarded, &by_address, true);
}

#[test]
fn a_policy_is_spent_when_every_permission_is_over() {
    let noon = MIDNIGHT + 12 * HOUR;
    let check = |policy: &Policy, now: u64, used_up: Option<usize>, expected: bool| {
        let used_up = |clause: &ClauseId| used_up.map(ClauseId::permission).as_ref() == Some(clause);
        assert_eq!(policy.is_spent(Action::Read, now, &used_up), expected, "at {now}");
    };
    let until = reading("time", "lt", "2026-06-15T12:00:00Z");
    check(&until, noon - 1, None, false);
    check(&until, noon, None, true);
    check(&reading("time", "gteq", "2026-06-15T12:00:00Z"), MIDNIGHT, None, false);
    check(&reading("timeWindow", "eq", "22:00-06:00"), noon, None, false);
    check(&reading("count", "lteq", "1"), noon, None, false);
    check(&reading("count", "lteq", "1"), noon, Some(0), true);
    let until = rule("read", json!([constraint("time", "lt", "2026-06-15T12:00:00Z")]));
    let either = policy(json!([until, rule("read", json!([constraint("count", "lteq", "1")]))]), json!([]));
    check(&either, noon, None, false);
    check(&either, noon, Some(0), false);
    check(&either, noon, Some(1), true);
    check(&either, noon - 1, Some(1), false);
}

#[test]
fn boundaries_are_the_instants_at_which_a_time_clause_turns() {
    let check = |policy: &Policy, now: u64, expected: Option<u64>| {
        assert_eq!(policy.next_boundary(now), expected, "after {now}");
    };
    let noon = MIDNIGHT + 12 * HOUR;
    let until = reading("time", "lt", "2026-06-15T12:00:00Z");
    check(&until, MIDNIGHT, Some(noon));
    check(&until, noon - 1, Some(noon));
    check(&until, noon, None);
    check(&reading("time", "lteq", "2026-06-15T12:00:00Z"), noon, Some(noon + 1));
    check(&reading("time", "gt", "2026-06-15T12:00:00Z"), MIDNIGHT, Some(noon + 1));
    check(&reading("time", "gteq", "2026-06-15T12:00:00Z"), noon, None);
    check(&reading("region", "eq", "43"), MIDNIGHT, None);

    let daily = reading("timeWindow", "eq", "22:00-06:00");
    check(&daily, MIDNIGHT, Some(MIDNIGHT + 6 * HOUR));
    check(&daily, noon, Some(MIDNIGHT + 22 * HOUR));
    check(&daily, MIDNIGHT + 23 * HOUR, Some(MIDNIGHT + DAY + 6 * HOUR));
    check(&daily, u64::MAX, None);
    check(&reading("timeWindow", "eq", "00:00-24:00"), noon, None);
    check(&reading("timeWindow", "eq", "20:00-24:00"), MIDNIGHT + 21 * HOUR, Some(MIDNIGHT + DAY));

    // A daily window inside an interval: no wake-up for days on which nothing can change.
    let both = policy(
        json!([rule(
            "read",
            json!([
                constraint("timeWindow", "eq", "2026-07-15T07:00:00Z/2026-07-15T09:00:00Z"),
                constraint("timeWindow", "eq", "08:00-18:00")
            ])
        )]),
        json!([]),
    );
    check(&both, MIDNIGHT, Some(MIDNIGHT + 30 * DAY + 8 * HOUR));
    check(&both, MIDNIGHT + 30 * DAY + 8 * HOUR, Some(MIDNIGHT + 30 * DAY + 9 * HOUR));
    check(&both, MIDNIGHT + 31 * DAY, None);

    let forbidding = policy(
        json!([rule("read", json!([constraint("time", "lt", "2026-06-15T12:00:00Z")]))]),
        json!([rule("read", json!([constraint("time", "gteq", "2026-06-15T11:00:00Z")]))]),
    );
    check(&forbidding, MIDNIGHT, Some(MIDNIGHT + 11 * HOUR));
}
