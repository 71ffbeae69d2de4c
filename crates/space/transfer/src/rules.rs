//! Pure decisions of a transfer.

use std::net::IpAddr;

use huitong_contract::{Agreement, Contract, Side};
use huitong_identity::{Caller, Refusal};
use huitong_policy::{Action, ClauseId, Decision, Policy, Request, Verdict, decide};
use huitong_proof::{Digest, Timestamp, group_count};

use crate::details::{AckDetail, AckStatus, OfferDetail};
use crate::model::{Transfer, Want};

/// A consumer makes data durable and acknowledges it at the latest after this many bytes.
pub(crate) const SYNC_BYTES: u64 = 32 << 20;

/// Whether this caller may fetch this product under this contract at all; the policy is asked afterwards.
pub(crate) fn may_open<'a>(
    want: &Want,
    caller: &Caller,
    contract: Option<&'a Contract>,
    existing: Option<&Transfer>,
) -> Result<&'a Contract, Refusal> {
    let contract = contract.filter(|contract| contract.side == Side::Provider).ok_or_else(|| {
        Refusal::new(
            "contract.unknown",
            format!("this node has no contract {}", want.contract),
            "negotiate a contract for the product first",
        )
    })?;
    if contract.agreement.consumer.node != *caller.node() {
        return Err(Refusal::new(
            "contract.party",
            format!("{} is not the consumer of contract {}", caller.node(), want.contract),
            "fetch with the node that signed the contract, or negotiate one of your own",
        ));
    }
    if contract.agreement.product != want.product {
        return Err(Refusal::new(
            "contract.product",
            format!(
                "contract {} is about product {}, not {}",
                want.contract, contract.agreement.product, want.product
            ),
            "negotiate a contract for the other product",
        ));
    }
    if !contract.in_force() {
        return Err(Refusal::new(
            "contract.state",
            format!("contract {} is {}, not in force", want.contract, contract.state.name()),
            "negotiate a new contract",
        ));
    }
    if existing.is_some_and(|existing| !is_resumed_by(want, caller, existing)) {
        return Err(Refusal::new(
            "transfer.id",
            "this transfer id belongs to another transfer",
            "choose a new random id",
        ));
    }
    Ok(contract)
}

/// Whether this want goes on with that transfer, and is no stranger's or another contract's use of the same id.
pub(crate) fn is_resumed_by(want: &Want, caller: &Caller, transfer: &Transfer) -> bool {
    transfer.side == Side::Provider
        && transfer.peer == *caller.node()
        && transfer.contract == want.contract
        && transfer.product == want.product
}

/// What the policy says about delivering now. `used` gives how often each clause's counter has been consumed by other
/// transfers.
pub(crate) fn ask_policy(
    agreement: &Agreement,
    caller: &Caller,
    address: IpAddr,
    now: Timestamp,
    used: &dyn Fn(&ClauseId) -> u64,
) -> Result<Decision, Refusal> {
    let policy = Policy::parse(&agreement.policy).map_err(|error| {
        Refusal::new(
            "policy.invalid",
            error.to_string(),
            "negotiate a contract with a policy this node can enforce",
        )
    })?;
    let segment = caller.node().segment();
    let decision = decide(
        &policy,
        &Request {
            now: now.millis(),
            action: Action::Delivery,
            party: caller.node().as_str(),
            entity: caller.entity().as_str(),
            product: agreement.product.as_str(),
            address: Some(address),
            region: segment.region(),
            used,
        },
    );
    match &decision.verdict {
        Verdict::Allow => Ok(decision),
        Verdict::Deny { clause, reason } => Err(Refusal::new(
            format!("policy.{clause}"),
            reason.clone(),
            "read the contract's terms with `huitong contract show`, or negotiate a new contract",
        )),
    }
}

/// Whether the consumer may take this offer: exactly what the agreement says.
pub(crate) fn check_offer(offer: &OfferDetail, agreement: &Agreement) -> Result<(), Refusal> {
    let differs = |what: &str| {
        Refusal::new(
            format!("offer.{what}"),
            format!("the offer's {what} is not the agreement's"),
            "keep the statements as evidence and ask the provider",
        )
    };
    if offer.product != agreement.product {
        return Err(differs("product"));
    }
    if offer.root != agreement.root {
        return Err(differs("root"));
    }
    if offer.size != agreement.size {
        return Err(differs("size"));
    }
    if offer.window != agreement.window_bytes {
        return Err(differs("window"));
    }
    if offer.policy != Digest::sha256(&agreement.policy) {
        return Err(differs("policy"));
    }
    Ok(())
}

/// Bytes in the first `groups` groups of content of `size` bytes.
pub(crate) fn prefix_bytes(groups: u64, size: u64) -> u64 {
    groups.saturating_mul(huitong_proof::GROUP_BYTES).min(size)
}

/// Whether a new acknowledgement can be true: nothing beyond what can have arrived, and more than before.
pub(crate) fn check_ack(ack: &AckDetail, transfer: &Transfer, arrived: u64) -> Result<(), Refusal> {
    let refuse =
        |code: &str, reason: String| Err(Refusal::new(code, reason, "acknowledge only what has arrived"));
    if transfer.root != Some(ack.root) {
        return refuse("ack.root", "the acknowledged root is not the offered one".to_owned());
    }
    let total = group_count(transfer.size);
    if ack.groups > total || ack.groups > arrived {
        return refuse(
            "ack.beyond",
            format!("{} groups are acknowledged, {arrived} of {total} can have arrived", ack.groups),
        );
    }
    if ack.bytes != prefix_bytes(ack.groups, transfer.size) {
        return refuse("ack.bytes", format!("{} bytes do not fit {} groups", ack.bytes, ack.groups));
    }
    // Each acknowledgement stays in the ledger for good, so each one must say something new.
    let says_nothing = ack.status == AckStatus::Partial && ack.bytes == transfer.acknowledged;
    if ack.bytes < transfer.acknowledged || says_nothing {
        return refuse("ack.backwards", format!("{} bytes were acknowledged before", transfer.acknowledged));
    }
    if (ack.status == AckStatus::Complete) != (ack.groups == total) {
        return refuse("ack.status", "complete means all groups, partial and stopped mean fewer".to_owned());
    }
    Ok(())
}

/// How often a clause counts as used for a transfer that is under way. Its own use is the one it was opened with. A
/// counter that it has not consumed does not carry it: otherwise a transfer that began under one permission could go
/// on under another one for free.
pub(crate) fn used_while_running(consumed: &[String], clause: &ClauseId) -> u64 {
    if consumed.iter().any(|own| own == clause.as_str()) { 0 } else { u64::MAX }
}

/// How many groups can be at the consumer although nothing was sent in this run: what it has acknowledged and a window
/// that an earlier run may have sent beyond it.
pub(crate) fn can_have_arrived(transfer: &Transfer, window: u64) -> u64 {
    let acknowledged = transfer.acknowledged.div_ceil(huitong_proof::GROUP_BYTES);
    acknowledged.saturating_add(window.div_ceil(huitong_proof::GROUP_BYTES)).min(group_count(transfer.size))
}

/// A plain file name: no separators, no control characters, not `.` or `..`, at most 255 bytes.
pub(crate) fn valid_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|character| character == '/' || character == '\\' || character.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_with_the_content() {
        let mib = 1 << 20;
        for (groups, size, bytes) in
            [(0, 0, 0), (0, 5, 0), (1, 5, 5), (1, mib, mib), (2, mib + 1, mib + 1), (1, mib + 1, mib)]
        {
            assert_eq!(prefix_bytes(groups, size), bytes, "{groups} groups of {size}");
        }
    }

    #[test]
    fn file_names() {
        for good in ["a", "weather-observations.csv", "数据.csv", "...", "a b"] {
            assert!(valid_file_name(good), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a\\b", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(!valid_file_name(bad), "{bad:?}");
        }
    }
}
