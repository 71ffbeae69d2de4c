//! The policies of the demo, in the national dictionary's names.

use huitong_proof::Timestamp;
use serde_json::{Value, json};

/// The region of the demo's function node: Shenzhen, in Guangdong (44).
pub(crate) const REGION: &str = "4403";

/// Delivery and reading, this many times, until then, by nodes registered in Guangdong.
pub(crate) fn limited(count: u32, until: Timestamp) -> Vec<u8> {
    policy(&[
        constraint("count", "lteq", &count.to_string()),
        constraint("time", "lteq", &until.to_string()),
        constraint("region", "isPartOf", "44"),
    ])
}

/// Delivery and reading until then, any number of times.
pub(crate) fn until(until: Timestamp) -> Vec<u8> {
    policy(&[constraint("time", "lteq", &until.to_string())])
}

fn policy(constraints: &[Value]) -> Vec<u8> {
    let permission = json!({ "actions": ["delivery", "read"], "constraints": constraints });
    json!({ "contractPolicies": { "permissionPolicies": [permission] } }).to_string().into_bytes()
}

fn constraint(name: &str, operator: &str, value: &str) -> Value {
    json!({ "constraintName": name, "constraintOperator": operator, "constraintValue": value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use huitong_policy::Policy;

    #[test]
    fn the_policies_are_valid() {
        let then = Timestamp::from_millis(1_900_000_000_123);
        assert!(Policy::parse(&limited(1, then)).unwrap().uses_count());
        assert_eq!(Policy::parse(&until(then)).unwrap().next_boundary(0), Some(then.millis() + 1));
    }
}
