//! Pure decisions of a transfer.

use std::net::IpAddr;
use std::time::Duration;

use huitong_contract::{Agreement, Contract, Coverage, Side, Standing, State};
use huitong_identity::{Caller, Refusal};
use huitong_policy::{Action, ClauseId, Decision, Policy, Request, Verdict, decide};
use huitong_proof::{Content, Digest, Timestamp};

use crate::details::{AckDetail, AckStatus, OfferDetail};
use crate::lanes::MOST_LANES;
use crate::model::{Suspender, Transfer, Want};
use crate::ranges::Ranges;

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
    if contract.state != State::Finalized {
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

/// The code of what waits for a suspended contract.
pub(crate) const SUSPENDED: &str = "contract.suspended";
/// The code of what ended with its contract.
pub(crate) const ENDED: &str = "contract.ended";

/// What the standing of its contract asks of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// It is as it should be.
    Nothing,
    /// To wait.
    Wait,
    /// Not to wait any longer.
    GoOn,
    /// To end for good.
    End,
}

pub(crate) fn demanded(standing: &Standing, transfer: &Transfer) -> Demand {
    // Nothing moves any more.
    if transfer.state.is_terminal() || transfer.is_acknowledged() {
        return Demand::Nothing;
    }
    match (standing, transfer.suspended_by) {
        (Standing::Ended(_), _) => Demand::End,
        // Whoever has paused it lets it go on, and it waits for the contract then.
        (Standing::Suspended(_), Some(Suspender::Operator | Suspender::Peer)) => Demand::Nothing,
        (Standing::Suspended(_), Some(Suspender::Contract)) if transfer.reason == standing.to_string() => {
            Demand::Nothing
        }
        (Standing::Suspended(_), _) => Demand::Wait,
        (Standing::InForce, Some(Suspender::Contract)) => Demand::GoOn,
        (Standing::InForce, _) => Demand::Nothing,
    }
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

/// Whether no delivery can be allowed any more, as far as the consumer can tell: every permission has run out of time for good,
/// or is the one whose uses the provider has said to be used up.
pub(crate) fn is_spent(agreement: &Agreement, code: &str, now: Timestamp) -> bool {
    let Some(refused) = code.strip_prefix("policy.") else { return false };
    let Ok(policy) = Policy::parse(&agreement.policy) else { return false };
    let used_up = |clause: &ClauseId| refused == format!("{clause}.count");
    policy.is_spent(Action::Delivery, now.millis(), &used_up)
}

/// Whether the consumer may take this offer: exactly what the agreement says, and of a series what the registrar has
/// certified, not older than what was agreed on, which its caller looks at.
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
    if agreement.coverage == Coverage::Version {
        if offer.root != agreement.root {
            return Err(differs("root"));
        }
        if offer.size != agreement.size {
            return Err(differs("size"));
        }
    }
    if offer.window != agreement.window_bytes {
        return Err(differs("window"));
    }
    if offer.policy != Digest::sha256(&agreement.policy) {
        return Err(differs("policy"));
    }
    Ok(())
}

/// A consumer syncs after so many bytes: often enough that the window does not close on what it has not acknowledged yet.
pub(crate) fn sync_bytes(window: u64) -> u64 {
    let room_for_another = window.saturating_sub(huitong_proof::GROUP_BYTES);
    SYNC_BYTES.min(window / 2).min(room_for_another).max(1)
}

/// How many connections an exchange has beside its first one. Opening the first one took about three round trips; a
/// line that long is kept full by one connection only as long as it loses nothing.
pub(crate) fn lanes(connections: Option<usize>, size: u64, opening: Duration) -> usize {
    const LONG: Duration = Duration::from_millis(60);
    const WORTH_IT: u64 = 32 << 20;
    const SEVERAL: usize = 8;
    let connections = match connections {
        Some(connections) => connections,
        None if opening > LONG && size > WORTH_IT => SEVERAL,
        None => 1,
    };
    connections.saturating_sub(1).min(MOST_LANES)
}

/// Whether a new acknowledgement can be true: nothing beyond what can have arrived, and more than before.
pub(crate) fn check_ack(
    ack: &AckDetail,
    transfer: &Transfer,
    content: &Content,
    arrived: u64,
) -> Result<(), Refusal> {
    let refuse =
        |code: &str, reason: String| Err(Refusal::new(code, reason, "acknowledge only what has arrived"));
    if transfer.root != Some(ack.root) {
        return refuse("ack.root", "the acknowledged root is not the offered one".to_owned());
    }
    let total = content.groups();
    if ack.groups > total || ack.groups > arrived {
        return refuse(
            "ack.beyond",
            format!("{} groups are acknowledged, {arrived} of {total} can have arrived", ack.groups),
        );
    }
    if ack.bytes != content.prefix_bytes(ack.groups) {
        return refuse("ack.bytes", format!("{} bytes do not fit {} groups", ack.bytes, ack.groups));
    }
    // Each acknowledgement stays in the ledger for good, so each one must say something new.
    let before = transfer.acknowledged_groups;
    let says_nothing = ack.status == AckStatus::Partial && ack.groups == before;
    if ack.groups < before || says_nothing {
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

/// How many groups from the first one can be at the consumer although nothing was sent in this run: what it has
/// acknowledged, and of what it wanted in an earlier run a window beyond that.
pub(crate) fn can_have_arrived(content: &Content, wanted: &Ranges, acknowledged: u64, window: u64) -> u64 {
    let mut left = window;
    for range in wanted.iter() {
        for group in range.start.max(acknowledged)..range.end {
            let Some(place) = content.place(group) else { break };
            let Some(rest) = left.checked_sub(place.length) else { return group };
            left = rest;
        }
    }
    content.groups()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_several_connections() {
        let ms = Duration::from_millis;
        for (connections, size, opening, lanes) in [
            (None, 1 << 30, ms(5), 0),
            (None, 1 << 30, ms(600), 7),
            (None, 1 << 20, ms(600), 0),
            (Some(1), 1 << 30, ms(600), 0),
            (Some(4), 1, ms(5), 3),
            (Some(1000), 1 << 30, ms(5), MOST_LANES),
        ] {
            assert_eq!(super::lanes(connections, size, opening), lanes, "{connections:?} {size} {opening:?}");
        }
    }

    #[test]
    fn a_window_never_closes_on_what_waits_to_be_acknowledged() {
        const MIB: u64 = 1 << 20;
        for window in [MIB, MIB + 1, 3 * MIB / 2, 2 * MIB, 3 * MIB, 64 * MIB, 1 << 30] {
            let unsynced = sync_bytes(window) - 1;
            assert!(unsynced + MIB <= window, "{window}");
        }
        assert_eq!(sync_bytes(1 << 30), SYNC_BYTES);
    }

    #[test]
    fn a_window_of_what_was_wanted_can_have_arrived() {
        const MIB: u64 = 1 << 20;
        let content = Content::of_bytes(&vec![0; 5 << 20 | 5]);
        let mut wanted = Ranges::of(0..2);
        wanted.push(4..6);
        for (acknowledged, window, arrived) in
            [(0, MIB, 1), (0, 2 * MIB, 4), (0, 3 * MIB, 5), (0, 3 * MIB + 5, 6), (1, MIB, 4), (5, MIB, 6)]
        {
            let found = can_have_arrived(&content, &wanted, acknowledged, window);
            assert_eq!(found, arrived, "{acknowledged}, {window}");
        }
        assert_eq!(can_have_arrived(&content, &Ranges::default(), 0, MIB), 6);
    }
}
