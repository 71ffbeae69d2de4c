mod comparing;
mod deciding;
mod explaining;
mod model;
mod parsing;

use serde_json::json;

use crate::{Action, ClauseId, Policy, Request};

const NODE_A: &str = "591430100MA4L1ABC1243010000000A1";
const NODE_B: &str = "591430100MA4L1ABC124401ABCDEFGH*";
const ENTITY_A: &str = "91430100MA4L1ABC12";
const ENTITY_B: &str = "91440300MA5D2XYZ34";
const PRODUCT_A: &str = "691430100MA4L1ABC1243010000000B2";
const PRODUCT_B: &str = "791430100MA4L1ABC1243010000000C3•old-id 7";

/// 2026-06-15 00:00:00 UTC.
const MIDNIGHT: u64 = 1_781_481_600_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn document(permissions: &serde_json::Value, prohibitions: &serde_json::Value) -> Vec<u8> {
    let policies = json!({"permissionPolicies": permissions, "prohibitionPolicies": prohibitions});
    serde_json::to_vec(&json!({"contractPolicies": policies})).unwrap()
}

fn policy(permissions: serde_json::Value, prohibitions: serde_json::Value) -> Policy {
    Policy::parse(&document(&permissions, &prohibitions)).unwrap()
}

fn constraint(name: &str, operator: &str, value: impl Into<serde_json::Value>) -> serde_json::Value {
    json!({"constraintName": name, "constraintOperator": operator, "constraintValue": value.into()})
}

/// A policy that permits reading under one constraint.
fn reading(name: &str, operator: &str, value: impl Into<serde_json::Value>) -> Policy {
    policy(json!([{"actions": ["read"], "constraints": [constraint(name, operator, value)]}]), json!([]))
}

const NEVER_USED: &dyn Fn(&ClauseId) -> u64 = &|_| 0;

/// A request by node A for product A with every fact known.
fn request() -> Request<'static> {
    Request {
        now: MIDNIGHT,
        action: Action::Read,
        party: NODE_A,
        entity: ENTITY_A,
        product: PRODUCT_A,
        address: Some("10.1.2.3".parse().unwrap()),
        region: Some("4301"),
        used: NEVER_USED,
    }
}
