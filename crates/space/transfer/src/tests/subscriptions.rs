//! Standing orders: by schedule, and when the provider pushes.

use std::fs;
use std::time::Duration;

use async_trait::async_trait;
use huitong_catalog::Publish;
use huitong_contract::Coverage;
use huitong_identity::{Delivery, PeerError, ServiceError};
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_proof::{Clock as _, ContentRoot, Kind};
use huitong_store::outbox;

use super::series::{renew, space};
use super::{ALWAYS, MIB, Space, Who, as_peer_error, content, count, offer, policy, publish};
use crate::model::{Priority, Subscribe, Subscription, TransferState};
use crate::{Schedule, SubscriptionPeer, TOPIC, tables};

/// The other node, one call away, unless it is not reached.
struct Other<'a> {
    space: &'a Space,
    is_away: bool,
    /// Names a new content each time it is asked.
    lies: bool,
    /// Pushes again while it is asked.
    pushes: bool,
}

impl<'a> Other<'a> {
    fn of(space: &'a Space) -> Self {
        Self { space, is_away: false, lies: false, pushes: false }
    }
}

#[async_trait]
impl SubscriptionPeer for Other<'_> {
    async fn push(&self, _: &NodeId, contract: &ContractId, id: [u8; 16]) -> Result<(), PeerError> {
        if self.is_away {
            return Err(PeerError::Unavailable("away".to_owned()));
        }
        let caller = &self.space.network.provider.caller;
        self.space.consumer.pushed(caller, contract, id).await.map_err(|error| as_peer_error(&error))
    }

    async fn current_root(&self, _: &NodeId, product: &DataId) -> Result<ContentRoot, PeerError> {
        if self.is_away {
            return Err(PeerError::Unavailable("away".to_owned()));
        }
        if self.pushes {
            let caller = &self.space.network.provider.caller;
            self.space.consumer.pushed(caller, &self.space.contract, [90; 16]).await.unwrap();
        }
        if self.lies {
            return Ok(huitong_proof::Content::of_bytes(b"made up").root());
        }
        let terms =
            self.space.contracts(Who::Provider).standing_terms(&self.space.network.consumer.caller, product);
        terms.map(|terms| terms.root).map_err(|error| as_peer_error(&error))
    }
}

/// Every day at three, by the clock of the tests.
fn at_three() -> Schedule {
    Schedule::parse("0 3 * * *", Some("UTC")).unwrap()
}

fn order(space: &Space, schedule: Option<Schedule>, push: bool) -> Subscribe {
    let (contract, directory) = (space.contract.clone(), Some(space.received()));
    Subscribe { contract, directory, priority: Priority::High, schedule, push }
}

impl Space {
    /// Whether the provider has yet to tell consumers of a new version.
    fn unannounced(&self) -> bool {
        let shelf = super::shelf(self.home.path(), &self.network.provider);
        shelf.unannounced(&self.network.provider.ledger.store().view()).unwrap().is_some()
    }
}

fn hours(space: &Space, hours: u64) {
    space.network.clock.advance(Duration::from_secs(3_600 * hours));
    space.network.provider.hear_registrar();
    space.network.consumer.hear_registrar();
}

/// Looks at what is due, and runs what that has started; gives the transfers that were completed.
async fn serve(space: &Space) -> Vec<[u8; 16]> {
    let mut completed = Vec::new();
    for contract in space.consumer.due_subscriptions().unwrap() {
        let other = Other::of(space);
        assert_eq!(space.consumer.serve_subscription(&contract, &other).await, Ok(()));
    }
    for id in space.consumer.runnable().unwrap() {
        assert_eq!(space.run(id).await.consumer, Ok(()));
        completed.push(id);
    }
    completed
}

/// What the provider has pushed reaches the consumer.
async fn pass(space: &Space) -> Vec<Result<(), Delivery>> {
    let store = space.network.provider.ledger.store();
    let mut outcomes = Vec::new();
    for pending in outbox::pending(&store.view(), None, 100).unwrap() {
        if pending.topic == TOPIC {
            outcomes.push(space.provider.deliver(&pending, &Other::of(space)).await);
            let id = pending.id;
            let settled = store.transact("test", move |tx| {
                outbox::settle(tx, id)?;
                Ok::<_, ServiceError>(())
            });
            settled.await.unwrap();
        }
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_delivers_each_time_under_one_agreement() {
    let space = space(Coverage::Version).await;
    let subscribed = space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    assert_eq!(subscribed.due().map(|due| due.to_string()).as_deref(), Some("2026-09-22T03:00:00.000Z"));
    assert!(serve(&space).await.is_empty(), "nothing before its time");
    let mut seen = Vec::new();
    for day in 1..=3 {
        hours(&space, 24);
        let delivered = serve(&space).await;
        assert_eq!(delivered.len(), 1, "day {day}");
        let transfer = space.seen_by(Who::Consumer, delivered[0]);
        assert_eq!((transfer.state, transfer.priority), (TransferState::Completed, Priority::High));
        assert_eq!(fs::read(transfer.path.unwrap()).unwrap(), space.content);
        // Each delivery has its own statements, and so its own receipt.
        assert_eq!(space.counted(Who::Provider, delivered[0], Kind::Final), 1);
        assert!(serve(&space).await.is_empty(), "once a day");
        seen.push(delivered[0]);
    }
    // A node that was away for a week delivers once when it is back.
    let space = space.restart().await;
    hours(&space, 24 * 7);
    assert_eq!(serve(&space).await.len(), 1);
    assert!(serve(&space).await.is_empty());
    let known = space.consumer.subscriptions().unwrap();
    assert_eq!((known.len(), known[0].note.as_str()), (1, ""));
    assert!(known[0].due().unwrap() > space.network.clock.now());

    space.consumer.unsubscribe(&space.contract).await.unwrap();
    hours(&space, 48);
    assert!(serve(&space).await.is_empty());
    let gone = space.consumer.unsubscribe(&space.contract).await;
    assert!(matches!(gone, Err(ServiceError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_series_delivers_only_what_is_new() {
    let mut space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    hours(&space, 24);
    assert_eq!(serve(&space).await.len(), 1);
    hours(&space, 24);
    assert!(serve(&space).await.is_empty());
    assert_eq!(space.consumer.subscriptions().unwrap()[0].note, "nothing new");
    renew(&mut space, 20, content(2 * MIB), Coverage::Series).await;
    hours(&space, 24);
    let delivered = serve(&space).await;
    assert_eq!(space.seen_by(Who::Consumer, delivered[0]).version, Some(2));
    // What somebody has taken away is delivered again.
    fs::remove_file(space.seen_by(Who::Consumer, delivered[0]).path.unwrap()).unwrap();
    hours(&space, 24);
    assert_eq!(serve(&space).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_is_asked_again() {
    let space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    hours(&space, 24);
    let away = Other { is_away: true, ..Other::of(&space) };
    let outcome = space.consumer.serve_subscription(&space.contract, &away).await;
    assert!(matches!(&outcome, Err(Delivery::Retry(reason)) if reason.contains("away")), "{outcome:?}");
    assert_eq!(space.consumer.due_subscriptions().unwrap(), std::slice::from_ref(&space.contract));
    assert_eq!(serve(&space).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_delivers_to_who_has_agreed_to_it() {
    let mut space = space(Coverage::Series).await;
    space.provider.push(&space.contract, [11; 16]).await.unwrap();
    let outcomes = pass(&space).await;
    assert!(
        matches!(&outcomes[..], [Err(Delivery::Dead(reason))] if reason.starts_with("push.unwanted: ")),
        "{outcomes:?}"
    );
    // The refusal is on record on both sides, once, however often the notice comes.
    let again = space.consumer.pushed(&space.network.provider.caller, &space.contract, [11; 16]).await;
    assert!(matches!(again, Err(ServiceError::Refused { statement: Some(_), .. })), "{again:?}");
    for who in [Who::Consumer, Who::Provider] {
        assert_eq!(space.kinds(who, [11; 16]), [Kind::Refusal], "{who:?}");
    }
    assert!(serve(&space).await.is_empty());

    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    assert!(serve(&space).await.is_empty(), "nothing before the provider says something");
    // Many notices are one delivery.
    for n in 2..5 {
        space.provider.push(&space.contract, [n; 16]).await.unwrap();
    }
    assert_eq!(pass(&space).await, [Ok(()), Ok(()), Ok(())]);
    let delivered = serve(&space).await;
    assert_eq!(delivered.len(), 1);
    space.assert_delivered(delivered[0]);
    // Nothing new, nothing moved.
    space.provider.push(&space.contract, [6; 16]).await.unwrap();
    assert_eq!(pass(&space).await, [Ok(())]);
    assert!(serve(&space).await.is_empty());
    renew(&mut space, 20, content(MIB + 3), Coverage::Series).await;
    space.provider.push(&space.contract, [7; 16]).await.unwrap();
    assert_eq!(pass(&space).await, [Ok(())]);
    space.assert_delivered(serve(&space).await[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_while_a_delivery_is_under_way_is_not_lost() {
    let mut space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    space.provider.push(&space.contract, [1; 16]).await.unwrap();
    pass(&space).await;
    let other = Other::of(&space);
    assert_eq!(space.consumer.serve_subscription(&space.contract, &other).await, Ok(()));
    renew(&mut space, 20, content(MIB + 3), Coverage::Series).await;
    space.provider.push(&space.contract, [2; 16]).await.unwrap();
    pass(&space).await;
    let other = Other::of(&space);
    let outcome = space.consumer.serve_subscription(&space.contract, &other).await;
    assert!(matches!(outcome, Err(Delivery::Retry(_))), "{outcome:?}");
    // The first one, begun by now, brings the newest version; the notice then finds nothing new.
    let first = space.consumer.runnable().unwrap();
    assert_eq!(space.run(first[0]).await.consumer, Ok(()));
    assert!(serve(&space).await.is_empty());
    space.assert_delivered(first[0]);
    assert!(space.consumer.due_subscriptions().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_tells_who_has_agreed_to_a_series_of_each_new_version() {
    let space = space(Coverage::Series).await;
    for n in [8, 9] {
        space.request([n; 16]).await;
        space.settle().await;
    }
    let provider = space.contracts(Who::Provider);
    provider.suspend([8; 16], "audit").await.unwrap();
    provider.terminate([9; 16], "sold").await.unwrap();
    space.settle().await;
    let view = space.network.provider.ledger.store().view();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let (found, last) = provider.about(&view, &space.product, after.as_ref(), 2).unwrap();
        seen.extend(found.into_iter().map(|contract| contract.negotiation[0]));
        after = last;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, [7, 8, 9]);

    let file = space.home.path().join("next.csv");
    fs::write(&file, content(MIB + 3)).unwrap();
    let request = offer([20; 16], file, MIB, &policy(&[ALWAYS]));
    let request = Publish { renews: Some(space.product.clone()), push: true, ..request };
    publish(space.home.path(), &space.network, request).await;
    // The node goes down before it has told anybody, and does so when it is back.
    assert!(space.unannounced());
    drop((view, provider));
    let space = space.restart().await;
    let store = space.network.provider.ledger.store().clone();
    let provider = space.provider.clone();
    let announcing = tokio::spawn(async move { provider.announce_versions().await });
    let mut commits = store.commits();
    tokio::time::timeout(Duration::from_secs(20), async {
        while space.unannounced() {
            commits.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    announcing.abort();
    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    let outcomes = pass(&space).await;
    assert_eq!(outcomes.len(), 2, "not under the contract that has ended: {outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(serve(&space).await.len(), 1);
}

/// The only standing order.
fn standing(space: &Space) -> Subscription {
    space.consumer.subscriptions().unwrap().remove(0)
}

async fn push(space: &Space, n: u8) {
    space.consumer.pushed(&space.network.provider.caller, &space.contract, [n; 16]).await.unwrap();
}

async fn look(space: &Space) -> Result<(), Delivery> {
    space.consumer.serve_subscription(&space.contract, &Other::of(space)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_cannot_deliver_the_same_version_again_by_pushing() {
    let space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    push(&space, 1).await;
    assert_eq!(serve(&space).await.len(), 1);
    let files = space.files();
    for n in 2..4 {
        push(&space, n).await;
        let lying = Other { lies: true, ..Other::of(&space) };
        assert_eq!(space.consumer.serve_subscription(&space.contract, &lying).await, Ok(()));
        let started = space.consumer.runnable().unwrap();
        let attempt = space.run(started[0]).await;
        attempt.assert_over("offer.known");
        assert!(attempt.frames.iter().all(|frame| !frame.starts_with("chunk ")), "{attempt:?}");
        assert_eq!(space.states(started[0]), [TransferState::Terminated; 2]);
    }
    assert_eq!(space.files(), files);
    assert!(standing(&space).note.starts_with("offer.known: "), "{}", standing(&space).note);
    // What its own operator fetches comes as often as it likes.
    space.start([60; 16]).await;
    assert_eq!(space.run([60; 16]).await.consumer, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_without_a_subscription_is_not_new() {
    let space = space(Coverage::Series).await;
    space.start([60; 16]).await;
    assert_eq!(space.run([60; 16]).await.consumer, Ok(()));
    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    push(&space, 1).await;
    assert!(serve(&space).await.is_empty());
    assert_eq!(standing(&space).note, "nothing new");
    // It is where the order delivers to; in any other place it is new.
    let elsewhere = Some(space.home.path().join("archive"));
    space.consumer.subscribe(Subscribe { directory: elsewhere, ..order(&space, None, true) }).await.unwrap();
    push(&space, 2).await;
    assert_eq!(serve(&space).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pushes_are_one_that_waits_and_none_is_lost() {
    let mut space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    push(&space, 1).await;
    let commits = space.network.consumer.ledger.store().commits();
    let before = *commits.borrow();
    for n in 2..5 {
        space.network.clock.advance(Duration::from_secs(1));
        push(&space, n).await;
    }
    assert_eq!(*commits.borrow(), before, "they leave nothing behind");
    // One that comes amid a look does not keep that from starting what there is.
    let pushing = Other { pushes: true, ..Other::of(&space) };
    assert_eq!(space.consumer.serve_subscription(&space.contract, &pushing).await, Ok(()));
    let started = space.consumer.runnable().unwrap();
    assert_eq!(space.run(started[0]).await.consumer, Ok(()));
    // Nor is it taken for seen by a look that found nothing.
    push(&space, 6).await;
    let pushing = Other { pushes: true, ..Other::of(&space) };
    assert_eq!(space.consumer.serve_subscription(&space.contract, &pushing).await, Ok(()));
    assert!(space.consumer.runnable().unwrap().is_empty());
    renew(&mut space, 20, content(MIB + 3), Coverage::Series).await;
    assert_eq!(serve(&space).await.len(), 1);
    assert!(space.consumer.due_subscriptions().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_takes_the_place_of_no_scheduled_delivery() {
    let space = space(Coverage::Version).await;
    space.consumer.subscribe(order(&space, Some(at_three()), true)).await.unwrap();
    hours(&space, 24);
    assert_eq!(serve(&space).await.len(), 1);
    push(&space, 1).await;
    // Not even if it has waited for longer than that.
    hours(&space, 24);
    assert_eq!(serve(&space).await.len(), 1);
    push(&space, 2).await;
    // To order anew forgets no push.
    space.consumer.subscribe(order(&space, Some(at_three()), true)).await.unwrap();
    assert!(standing(&space).pushed.is_some());
    space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    assert_eq!(standing(&space).pushed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_waits_for_a_suspended_contract_and_ends_with_it() {
    let space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, Some(at_three()), true)).await.unwrap();
    space.contracts(Who::Provider).suspend([7; 16], "audit").await.unwrap();
    space.settle().await;
    hours(&space, 24);
    push(&space, 1).await;
    let waits = look(&space).await;
    assert!(matches!(&waits, Err(Delivery::Retry(reason)) if reason.contains("audit")), "{waits:?}");
    assert!(standing(&space).note.contains("audit"));
    assert!(standing(&space).pushed.is_some());
    // The provider may announce something meanwhile.
    space.provider.push(&space.contract, [2; 16]).await.unwrap();
    assert_eq!(pass(&space).await, [Ok(())]);
    space.contracts(Who::Provider).resume([7; 16]).await.unwrap();
    space.settle().await;
    assert_eq!(serve(&space).await.len(), 1);

    push(&space, 3).await;
    space.contracts(Who::Provider).terminate([7; 16], "sold").await.unwrap();
    space.settle().await;
    assert_eq!(look(&space).await, Ok(()));
    let ended = standing(&space);
    assert_eq!(ended.due(), None);
    assert!(ended.note.contains("sold"), "{}", ended.note);
    let refused = space.consumer.pushed(&space.network.provider.caller, &space.contract, [4; 16]).await;
    assert!(
        matches!(&refused, Err(ServiceError::Refused { refusal, .. }) if refusal.code == "contract.state"),
        "{refused:?}"
    );
    let refused = space.provider.push(&space.contract, [5; 16]).await;
    assert!(matches!(refused, Err(ServiceError::Conflict { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_stops_when_the_policy_allows_nothing_any_more() {
    let space = Space::new(MIB, MIB, &policy(&[&count(1)])).await;
    space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    hours(&space, 24);
    assert_eq!(serve(&space).await.len(), 1);
    hours(&space, 24);
    assert_eq!(look(&space).await, Ok(()));
    let started = space.consumer.runnable().unwrap();
    space.run(started[0]).await.assert_over("policy.permission[0].count");
    let note = standing(&space).note;
    assert!(note.starts_with("policy.permission[0].count: "), "{note}");
    assert!(standing(&space).due().is_some());
    hours(&space, 24);
    assert_eq!(look(&space).await, Ok(()));
    assert!(space.consumer.runnable().unwrap().is_empty());
    assert_eq!((standing(&space).due(), standing(&space).note), (None, note));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_does_not_put_a_schedule_off() {
    let space = space(Coverage::Version).await;
    space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    hours(&space, 24);
    assert_eq!(serve(&space).await.len(), 1);
    let (now, due) = (space.network.clock.now(), standing(&space).due());
    space.network.clock.advance(Duration::from_secs(3 * 365 * 86_400));
    let other = Other::of(&space);
    assert_eq!(space.consumer.serve_subscription(&space.contract, &other).await, Ok(()));
    space.network.clock.set(now);
    assert!(standing(&space).due() > due);
    space.consumer.recompute_schedules().await.unwrap();
    assert_eq!(standing(&space).due(), due);
    // What was due a moment ago is not due again when the clock is set back a little.
    let before_three = Duration::from_secs(12 * 3_600 + 46 * 60 + 40 - 30);
    space.network.clock.advance(before_three);
    space.consumer.recompute_schedules().await.unwrap();
    assert_eq!(standing(&space).due(), due);
}

/// Never answers.
struct Silent;

#[async_trait]
impl SubscriptionPeer for Silent {
    async fn push(&self, _: &NodeId, _: &ContractId, _: [u8; 16]) -> Result<(), PeerError> {
        std::future::pending().await
    }

    async fn current_root(&self, _: &NodeId, _: &DataId) -> Result<ContentRoot, PeerError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_provider_that_does_not_answer_holds_up_few_looks() {
    let mut space = space(Coverage::Series).await;
    let mut contracts = vec![space.contract.clone()];
    for n in [8, 9] {
        space.request([n; 16]).await;
        space.settle().await;
        contracts.push(space.negotiation(Who::Provider, [n; 16]).contract.unwrap());
    }
    for contract in &contracts {
        space.contract = contract.clone();
        space.consumer.subscribe(order(&space, None, true)).await.unwrap();
        push(&space, 1).await;
    }
    let look = |contract| space.consumer.serve_subscription(contract, &Silent);
    tokio::select! {
        biased;
        _ = look(&contracts[0]) => unreachable!(),
        _ = look(&contracts[1]) => unreachable!(),
        third = look(&contracts[2]) => {
            assert!(matches!(&third, Err(Delivery::Retry(reason)) if reason.contains("other questions")), "{third:?}");
        }
    }
    // Looks that were broken off hold up nothing.
    for contract in contracts {
        space.contract = contract;
        assert_eq!(super::subscriptions::look(&space).await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_start_says_why() {
    let space = space(Coverage::Series).await;
    space.consumer.subscribe(order(&space, Some(at_three()), false)).await.unwrap();
    hours(&space, 24);
    let away = Other { is_away: true, ..Other::of(&space) };
    assert!(space.consumer.serve_subscription(&space.contract, &away).await.is_err());
    assert!(standing(&space).note.contains("away"), "{}", standing(&space).note);
    assert_eq!(serve(&space).await.len(), 1);
    assert_eq!(standing(&space).note, "");
    // A time zone that this machine has forgotten shows with the order, and does not hide the others.
    let forgotten = Schedule::stored("0 3 * * *".to_owned(), Some("Nowhere/City".to_owned()));
    let forgotten = Subscription { schedule: Some(forgotten), ..standing(&space) };
    let store = space.network.consumer.ledger.store();
    let saved = store.transact("test", move |tx| tables::subscriptions::save(tx, &forgotten));
    saved.await.unwrap();
    hours(&space, 24);
    let waits = look(&space).await;
    assert!(matches!(&waits, Err(Delivery::Retry(reason)) if reason.contains("time zone")), "{waits:?}");
    assert!(standing(&space).note.contains("time zone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_pushes_that_cannot_be_are_refused() {
    let space = space(Coverage::Version).await;
    let without = space.consumer.subscribe(order(&space, None, false)).await;
    assert!(matches!(without, Err(ServiceError::Invalid { .. })), "{without:?}");
    let other_side = space.provider.subscribe(order(&space, None, true)).await;
    assert!(matches!(other_side, Err(ServiceError::NotFound { .. })), "{other_side:?}");
    let other_side = space.consumer.push(&space.contract, [1; 16]).await;
    assert!(matches!(other_side, Err(ServiceError::NotFound { .. })), "{other_side:?}");
    // Somebody else does not push under our contract, and hears nothing of it.
    space.consumer.subscribe(order(&space, None, true)).await.unwrap();
    let stranger = &space.network.consumer.caller;
    let refused = space.consumer.pushed(stranger, &space.contract, [1; 16]).await;
    assert!(
        matches!(&refused, Err(ServiceError::Refused { refusal, .. }) if refusal.code == "contract.unknown"),
        "{refused:?}"
    );
    assert!(space.consumer.due_subscriptions().unwrap().is_empty());
    // An unchanged publication of the same product is no news.
    let again = Publish::new([30; 16], space.source(), "Rainfall", "", b"");
    let again = Publish { renews: Some(space.product.clone()), window_bytes: 0, ..again };
    let shelf = super::shelf(space.home.path(), &space.network.provider);
    assert!(matches!(shelf.publish(again, |_| {}).await, Err(ServiceError::Conflict { .. })));
}
