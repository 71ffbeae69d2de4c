//! A contract in plain words (可解释).

use huitong_policy::Language;

use super::agreement::{Agreement, Party};
use super::terms::Coverage;

/// The contract in plain words: who, what, how many bytes, which content, and each clause of the policy.
///
/// One line per fact, in the order in which a reader asks.
#[must_use]
pub fn explain(agreement: &Agreement, language: Language) -> Vec<String> {
    let mut lines = match language {
        Language::English => english(agreement),
        Language::Chinese => chinese(agreement),
    };
    match agreement.policy() {
        Ok(policy) => lines.extend(policy.explain(language)),
        Err(error) => lines.push(match language {
            Language::English => {
                format!("Nothing is permitted: this node cannot enforce the policy ({error}).")
            }
            Language::Chinese => format!("不允许任何使用：本节点无法执行该策略（{error}）。"),
        }),
    }
    lines
}

fn english(agreement: &Agreement) -> Vec<String> {
    let party = |party: &Party| format!("{} (entity {}, node {})", party.name, party.entity, party.node);
    let price = if agreement.price.is_empty() { "free of charge" } else { &agreement.price };
    vec![
        format!(
            "Contract {} \"{}\", signed by the provider at {}.",
            agreement.contract, agreement.name, agreement.signed
        ),
        format!("Provider: {}.", party(&agreement.provider)),
        format!("Consumer: {}.", party(&agreement.consumer)),
        format!(
            "Product: \"{}\" ({}), {} bytes; fingerprint of the content (BLAKE3) {}.",
            agreement.product_name,
            agreement.product,
            grouped(agreement.size),
            agreement.root
        ),
        format!(
            "Delivery: as a file; at most {} bytes are sent before the consumer has acknowledged them with its \
             signature.",
            grouped(agreement.window_bytes)
        ),
        match agreement.coverage {
            Coverage::Version => "Versions: this content only.".to_owned(),
            Coverage::Series => format!(
                "Versions: version {} of the product, which is this content, and every later one; each delivery is of the \
                 newest one.",
                agreement.version.unwrap_or_default()
            ),
        },
        format!("Price: {price}."),
    ]
}

fn chinese(agreement: &Agreement) -> Vec<String> {
    let party = |party: &Party| format!("{}（主体 {}，节点 {}）", party.name, party.entity, party.node);
    let price = if agreement.price.is_empty() { "免费" } else { &agreement.price };
    vec![
        format!("合约 {}“{}”，提供方于 {} 签署。", agreement.contract, agreement.name, agreement.signed),
        format!("提供方：{}。", party(&agreement.provider)),
        format!("使用方：{}。", party(&agreement.consumer)),
        format!(
            "数据产品：“{}”（{}），{} 字节；内容摘要（BLAKE3）为 {}。",
            agreement.product_name,
            agreement.product,
            grouped(agreement.size),
            agreement.root
        ),
        format!(
            "交付：以文件方式；使用方尚未签名确认的数据最多发送 {} 字节。",
            grouped(agreement.window_bytes)
        ),
        match agreement.coverage {
            Coverage::Version => "版本：仅限上述内容。".to_owned(),
            Coverage::Series => format!(
                "版本：上述内容（该产品的第 {} 版）及之后的每个版本；每次交付当时的最新版本。",
                agreement.version.unwrap_or_default()
            ),
        },
        format!("价格：{price}。"),
    ]
}

/// `121,417`: long numbers are read aloud from this text.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && digits.len().saturating_sub(index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
