use serde_json::{Value, json};

use super::{ENTITY_A, NODE_A, PRODUCT_A, constraint, policy};
use crate::Language;

fn rules() -> (Value, Value) {
    let permissions = json!([
        {"actions": ["read", "delivery"], "constraints": [
            constraint("count", "lteq", "3"),
            constraint("time", "gteq", "20260101000000"),
            constraint("time", "lt", "2027-01-01T08:00:00+08:00"),
            constraint("timeWindow", "isPartOf", "08:00-18:00+08:00"),
            constraint("networkAddress", "isAnyOf", json!(["10.0.0.0/8", "2001:db8::1"])),
            constraint("region", "eq", "43"),
            constraint("party", "isAnyOf", json!([NODE_A, ENTITY_A])),
            constraint("product", "eq", PRODUCT_A),
        ]},
        {"actions": ["plicyTransmit"], "constraints": [constraint("count", "lt", "2")]},
        {"actions": ["alert"]},
    ]);
    let prohibitions = json!([
        {"actions": ["sell"]},
        {"actions": ["read"], "constraints": [
            constraint("timeWindow", "isNoneOf", "2026-02-01T00:00:00Z/2026-03-01T00:00:00.5Z"),
            constraint("region", "isNoneOf", json!(["43", "4401"])),
        ]},
    ]);
    (permissions, prohibitions)
}

#[test]
fn english() {
    let (permissions, prohibitions) = rules();
    assert_eq!(
        policy(permissions, prohibitions).explain(Language::English),
        [
            "permission[0]: allowed to read and take delivery, if all of this holds:",
            "permission[0].count: up to 3 times in all",
            "permission[0].time: from 2026-01-01 00:00:00 UTC",
            "permission[0].time[1]: before 2027-01-01 00:00:00 UTC",
            "permission[0].timeWindow: every day 08:00-18:00 UTC+08:00",
            "permission[0].networkAddress: from network address 10.0.0.0/8 or 2001:db8::1",
            "permission[0].region: for callers registered in region 43 (Hunan)",
            &format!("permission[0].party: for party {NODE_A} or {ENTITY_A}"),
            &format!("permission[0].product: for product {PRODUCT_A}"),
            "permission[1]: allowed to pass the policy on, if all of this holds:",
            "permission[1].count: once",
            "permission[2]: allowed to raise alerts",
            "prohibition[0]: forbidden to sell",
            "prohibition[1]: forbidden to read, where all of this holds or is not known:",
            "prohibition[1].timeWindow: outside the time from 2026-02-01 00:00:00 UTC until before 2026-03-01 00:00:00.5 UTC",
            "prohibition[1].region: for callers registered outside region 43 (Hunan) or 4401 (in Guangdong)",
            "default: whatever is not allowed above is forbidden; a prohibition beats a permission",
        ]
    );
}

#[test]
fn chinese() {
    let (permissions, prohibitions) = rules();
    assert_eq!(
        policy(permissions, prohibitions).explain(Language::Chinese),
        [
            "permission[0]：允许读取、交付，须同时满足：",
            "permission[0].count：累计不超过 3 次",
            "permission[0].time：不早于 2026-01-01 00:00:00 UTC",
            "permission[0].time[1]：早于 2027-01-01 00:00:00 UTC",
            "permission[0].timeWindow：每日 08:00-18:00 UTC+08:00",
            "permission[0].networkAddress：来源网络地址属于 10.0.0.0/8 或 2001:db8::1",
            "permission[0].region：登记地域属于 43（湖南省）",
            &format!("permission[0].party：使用主体为 {NODE_A} 或 {ENTITY_A}"),
            &format!("permission[0].product：产品为 {PRODUCT_A}"),
            "permission[1]：允许策略传递，须同时满足：",
            "permission[1].count：累计不超过 1 次",
            "permission[2]：允许异常提醒",
            "prohibition[0]：禁止交易",
            "prohibition[1]：禁止读取，以下条件全部成立或无法核实时适用：",
            "prohibition[1].timeWindow：不在以下时段：自 2026-02-01 00:00:00 UTC 起至 2026-03-01 00:00:00.5 UTC 前",
            "prohibition[1].region：登记地域不属于 43（湖南省）、4401（广东省内）",
            "default：以上未允许的一律禁止；禁止优先于允许",
        ]
    );
}
