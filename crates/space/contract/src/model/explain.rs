//! A contract in plain words (可解释).

use huitong_policy::Language;

use super::agreement::{Agreement, Party};

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
            Language::Chinese => format!("不允许任何使用:本节点无法执行该策略({error})。"),
        }),
    }
    lines
}

fn english(agreement: &Agreement) -> Vec<String> {
    let party = |party: &Party| format!("{} (entity {}, node {})", party.name, party.entity, party.node);
    let price = if agreement.price.is_empty() { "none" } else { &agreement.price };
    vec![
        format!(
            "Contract {} \"{}\", signed by the provider at {}.",
            agreement.contract, agreement.name, agreement.signed
        ),
        format!("Provider: {}.", party(&agreement.provider)),
        format!("Consumer: {}.", party(&agreement.consumer)),
        format!(
            "Product: \"{}\" ({}), {} bytes, content root (BLAKE3) {}.",
            agreement.product_name, agreement.product, agreement.size, agreement.root
        ),
        format!(
            "Delivery: as a file, at most {} bytes ahead of the consumer's signed acknowledgements.",
            agreement.window_bytes
        ),
        format!("Price: {price}."),
    ]
}

fn chinese(agreement: &Agreement) -> Vec<String> {
    let party = |party: &Party| format!("{}(主体 {},节点 {})", party.name, party.entity, party.node);
    let price = if agreement.price.is_empty() { "无" } else { &agreement.price };
    vec![
        format!("合约 {}「{}」,提供方签署于 {}。", agreement.contract, agreement.name, agreement.signed),
        format!("提供方:{}。", party(&agreement.provider)),
        format!("使用方:{}。", party(&agreement.consumer)),
        format!(
            "数据产品:「{}」({}),{} 字节,内容根(BLAKE3){}。",
            agreement.product_name, agreement.product, agreement.size, agreement.root
        ),
        format!("交付:文件方式,最多领先使用方签名确认 {} 字节。", agreement.window_bytes),
        format!("价格:{price}。"),
    ]
}
