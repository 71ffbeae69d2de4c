//! What happens to transfers when their contract is suspended or ended, and what is counted of them.

use std::time::{Duration, Instant};

use huitong_contract::Negotiation;
use huitong_identity::{ServiceError, read_refusal};
use huitong_proof::{Envelope, Kind};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::consumer_lies::Raw;
use super::controlling::{ID, running, while_it_runs};
use super::link::ADDRESS;
use super::{MIB, Space, Who, Wire, part_of};
use crate::details::{AckDetail, AckStatus, read_abort};
use crate::{FromConsumer, FromProvider, Metering, StartTransfer, Suspender, TransferState, Want};

const BOTH: [Who; 2] = [Who::Provider, Who::Consumer];
const NEGOTIATION: [u8; 16] = [7; 16];
/// How long nothing may move any more.
const PROMPT: Duration = Duration::from_secs(1);

impl Space {
    /// What runs by itself on the nodes, until this is dropped.
    fn following(&self, nodes: &[Who]) -> JoinSet<()> {
        let mut workers = JoinSet::new();
        for who in nodes {
            let transfers = self.transfers(*who).clone();
            workers.spawn(async move { transfers.follow_contracts().await.unwrap() });
        }
        workers
    }

    async fn suspend(&self, who: Who, reason: &str) -> Negotiation {
        self.contracts(who).suspend(NEGOTIATION, reason).await.unwrap()
    }

    async fn resume(&self, who: Who) {
        self.contracts(who).resume(NEGOTIATION).await.unwrap();
    }

    async fn end(&self, who: Who, reason: &str) {
        self.contracts(who).terminate(NEGOTIATION, reason).await.unwrap();
    }

    /// Waits for something that commits bring about.
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let [mut provider, mut consumer] = BOTH.map(|who| self.node(who).ledger.store().commits());
        let come = async {
            loop {
                provider.borrow_and_update();
                consumer.borrow_and_update();
                if what(self) {
                    return;
                }
                tokio::select! {
                    changed = provider.changed() => changed.unwrap(),
                    changed = consumer.changed() => changed.unwrap(),
                }
            }
        };
        timeout(PROMPT, come).await.expect("it does not come about");
    }

    async fn until_states(&self, states: [TransferState; 2]) {
        self.until(|space| space.states(ID) == states).await;
    }
}

fn other(who: Who) -> Who {
    if who == Who::Provider { Who::Consumer } else { Who::Provider }
}

fn named(who: Who) -> &'static str {
    if who == Who::Provider { "provider" } else { "consumer" }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_contract_suspends_what_moves_and_resumed_it_goes_on() {
    for who in BOTH {
        let space = running().await;
        let workers = space.following(&BOTH);
        let (attempt, stopped) = while_it_runs(&space, async {
            space.until(|space| space.seen_by(Who::Consumer, ID).acknowledged > 0).await;
            // Its own side stops before the other one has heard.
            space.suspend(who, "audit").await;
            space.until(|space| space.seen_by(who, ID).state == TransferState::Suspended).await;
            space.settle().await;
            space.until_states([TransferState::Suspended; 2]).await;
            Instant::now()
        })
        .await;
        assert!(stopped.elapsed() < PROMPT, "{:?}", stopped.elapsed());
        attempt.assert_retry("the contract");
        for side in BOTH {
            let seen = space.seen_by(side, ID);
            let reason = format!("the {} has suspended the contract: audit", named(who));
            assert_eq!((seen.code.as_str(), seen.reason), ("contract.suspended", reason), "{who:?} {side:?}");
            assert_eq!(seen.suspended_by, Some(Suspender::Contract));
            assert_eq!(space.counted(side, ID, Kind::Abort), 0);
            assert_eq!(space.counted(side, ID, Kind::Refusal), 0);
        }
        let before = space.seen_by(Who::Consumer, ID);
        assert!(before.acknowledged > 0 && part_of(&before).exists());
        // Nobody asks, and who asks all the same is told to wait.
        assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
        assert_eq!(space.run(ID).await.frames, Vec::<String>::new());

        drop(workers);
        let space = space.restart().await;
        assert_eq!(space.states(ID), [TransferState::Suspended; 2]);
        let _workers = space.following(&BOTH);
        space.resume(who).await;
        space.settle().await;
        space.until_states([TransferState::Started; 2]).await;
        assert_eq!(space.consumer.runnable().unwrap(), vec![ID]);
        assert_eq!(space.seen_by(Who::Consumer, ID).acknowledged, before.acknowledged, "what arrived stays");
        let rest = space.run(ID).await;
        assert_eq!(rest.consumer, Ok(()));
        assert!(!rest.frames.contains(&"chunk 0".to_owned()), "and is not moved again: {:?}", rest.frames);
        space.assert_delivered(ID);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_contract_ends_what_moves_with_a_signature() {
    for who in BOTH {
        let space = running().await;
        let _workers = space.following(&BOTH);
        let (_, stopped) = while_it_runs(&space, async {
            space.until(|space| space.seen_by(Who::Consumer, ID).acknowledged > 0).await;
            space.end(who, "moved away").await;
            space.settle().await;
            space.until_states([TransferState::Terminated; 2]).await;
            Instant::now()
        })
        .await;
        assert!(stopped.elapsed() < PROMPT, "{:?}", stopped.elapsed());
        let acknowledged = space.seen_by(Who::Consumer, ID).acknowledged;
        for side in BOTH {
            let seen = space.seen_by(side, ID);
            let reason = format!("the {} has ended the contract: moved away", named(who));
            assert_eq!((seen.code.as_str(), &seen.reason), ("contract.ended", &reason), "{who:?} {side:?}");
            let statements = space.statements(side, ID);
            let abort = statements.iter().find(|found| found.kind() == Kind::Abort).expect("an ABORT");
            assert_eq!(read_abort(abort).unwrap(), ("contract.ended".to_owned(), reason));
            // What was acknowledged stays accounted.
            let metering = space.transfers(side).metering(&seen).unwrap();
            assert_eq!((metering.bytes, metering.groups), (seen.acknowledged, seen.acknowledged_groups));
        }
        assert!(acknowledged > 0);
        assert!(space.files().is_empty(), "{:?}", space.files());
        assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new(), "both have heard");
        let contract = space.contract.clone();
        let request =
            StartTransfer { id: [3; 16], contract, product: None, directory: None, priority: <_>::default() };
        let refused = space.consumer.start(request).await;
        assert!(
            matches!(&refused, Err(ServiceError::Conflict { reason }) if reason.contains("moved away")),
            "{refused:?}"
        );
    }
}

/// The provider's exchange looks by itself, whatever else its node is doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_exchange_asks_for_the_standing_of_its_contract() {
    let space = running().await;
    let (attempt, _) = while_it_runs(&space, async {
        space.suspend(Who::Provider, "audit").await;
        space.until_states([TransferState::Suspended, TransferState::Started]).await;
    })
    .await;
    attempt.assert_retry("the provider has suspended the contract: audit");
    // Asked again, it says so again: a consumer that has not heard of it waits.
    space.run(ID).await.assert_retry("the provider has suspended the contract: audit");
    let space = running().await;
    let (attempt, _) = while_it_runs(&space, async {
        space.end(Who::Provider, "moved away").await;
        space.until_states([TransferState::Terminated; 2]).await;
    })
    .await;
    attempt.assert_over("contract.ended");
    assert_eq!([Who::Provider, Who::Consumer].map(|who| space.counted(who, ID, Kind::Abort)), [1; 2]);
}

/// Nobody tells the provider, and nothing comes any more: the consumer's run ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_suspends_stops_at_once() {
    let space = running().await;
    let _workers = space.following(&[Who::Consumer]);
    let (attempt, _) = while_it_runs(&space, space.suspend(Who::Consumer, "audit")).await;
    attempt.assert_retry("the contract is suspended");
    assert_eq!(space.states(ID), [TransferState::Started, TransferState::Suspended]);
}

/// A consumer asks before its node has brought its transfers in line.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_looks_at_its_own_contract_before_it_asks() {
    let space = running().await;
    space.suspend(Who::Consumer, "audit").await;
    let attempt = space.run(ID).await;
    attempt.assert_retry("the consumer has suspended the contract: audit");
    assert_eq!(attempt.frames, Vec::<String>::new());
}

async fn ask(space: &Space, id: [u8; 16]) -> (Result<(), ServiceError>, Vec<Kind>) {
    let (out, incoming) = tokio::sync::mpsc::channel(4);
    let (answer, mut frames) = tokio::sync::mpsc::channel(64);
    let want = Want { transfer: id, contract: space.contract.clone(), product: space.product.clone() };
    out.send(Ok(FromConsumer::Want(want))).await.unwrap();
    let served =
        space.provider.exchange(space.network.consumer.caller.clone(), ADDRESS, incoming, answer).await;
    let mut said = Vec::new();
    while let Ok(FromProvider::Statement(bytes)) = frames.try_recv() {
        said.push(space.read(&bytes).kind());
    }
    (served, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_transfers_wait_for_a_suspended_contract_and_are_refused_under_an_ended_one() {
    let space = Space::small().await;
    space.suspend(Who::Provider, "audit").await;
    // This consumer has not heard, or does as if it had not.
    let (answer, said) = ask(&space, ID).await;
    assert!(matches!(&answer, Err(ServiceError::Busy { reason }) if reason.contains("audit")), "{answer:?}");
    assert_eq!((said, space.provider.transfer(&ID).unwrap()), (Vec::new(), None));
    assert_eq!(space.counter(), 0, "nothing is counted");
    // This one has: its own transfer waits, and says for what.
    space.settle().await;
    let waiting = space.start(ID).await;
    assert_eq!((waiting.state, waiting.code.as_str()), (TransferState::Suspended, "contract.suspended"));
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());

    let _workers = space.following(&BOTH);
    space.resume(Who::Provider).await;
    space.settle().await;
    space.until(|space| space.consumer.runnable().unwrap() == [ID]).await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);

    space.end(Who::Provider, "moved away").await;
    let id = [3; 16];
    let (answer, said) = ask(&space, id).await;
    answer.unwrap();
    assert_eq!(said, [Kind::Refusal]);
    let refusal = read_refusal(&space.statements(Who::Provider, id)[0]).unwrap();
    assert_eq!(refusal.code, "contract.ended");
    assert_eq!(refusal.next_step, "negotiate a new contract");
    assert_eq!(space.provider.transfer(&id).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_suspend_goes_on_when_both_have_resumed() {
    let space = running().await;
    let _workers = space.following(&BOTH);
    let reasons = |space: &Space| BOTH.map(|who| space.seen_by(who, ID).reason);
    while_it_runs(&space, async {
        space.suspend(Who::Provider, "ours").await;
        space.network.clock.advance(Duration::from_millis(1));
        space.suspend(Who::Consumer, "theirs").await;
        space.settle().await;
        space.until_states([TransferState::Suspended; 2]).await;
    })
    .await;
    space.until(|space| reasons(space).iter().all(|reason| reason.ends_with("ours"))).await;
    space.resume(Who::Provider).await;
    space.settle().await;
    space.until(|space| reasons(space).iter().all(|reason| reason.ends_with("theirs"))).await;
    assert_eq!(space.states(ID), [TransferState::Suspended; 2]);
    space.resume(Who::Consumer).await;
    space.settle().await;
    space.until_states([TransferState::Started; 2]).await;
}

/// An operator's pause and a contract's suspension know nothing of each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_transfer_under_a_suspended_contract_needs_both() {
    let space = running().await;
    let _workers = space.following(&BOTH);
    let by = |space: &Space| space.seen_by(Who::Consumer, ID).suspended_by;
    space.consumer.pause(&ID, "after office hours").await.unwrap();
    space.suspend(Who::Consumer, "audit").await;
    space.settle().await;
    let nothing_to_follow = |space: &Space| {
        BOTH.iter().all(|who| {
            let view = space.node(*who).ledger.store().view();
            space.contracts(*who).restated(&view, None).unwrap().is_none()
        })
    };
    space.until(nothing_to_follow).await;
    assert_eq!(by(&space), Some(Suspender::Operator));
    let resumed = space.consumer.resume(&ID).await.unwrap();
    assert_eq!((resumed.suspended_by, by(&space)), (Some(Suspender::Contract), Some(Suspender::Contract)));
    space.consumer.pause(&ID, "after office hours").await.unwrap();
    space.resume(Who::Consumer).await;
    space.settle().await;
    space.until(nothing_to_follow).await;
    assert_eq!(by(&space), Some(Suspender::Operator));
    space.consumer.resume(&ID).await.unwrap();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

/// One side is away while the other one suspends or ends: it hears of it when it is back, and its transfers follow.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_follows_later() {
    for who in BOTH {
        let space = running().await;
        space.attempt(ID, Wire::cut(4)).await;
        space.suspend(who, "audit").await;
        let space = space.restart().await;
        let workers = space.following(&[who]);
        space.until(|space| space.seen_by(who, ID).state == TransferState::Suspended).await;
        assert_eq!(space.seen_by(other(who), ID).state, TransferState::Started);
        drop(workers);
        // It hears, and stops before its transfers could follow.
        space.settle().await;
        let space = space.restart().await;
        assert_eq!(space.seen_by(other(who), ID).state, TransferState::Started);
        let _workers = space.following(&BOTH);
        space.until_states([TransferState::Suspended; 2]).await;
        space.end(who, "moved away").await;
        space.until(|space| space.seen_by(who, ID).state == TransferState::Terminated).await;
        space.settle().await;
        space.until_states([TransferState::Terminated; 2]).await;
        assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transfer_of_the_contract_follows_and_no_other() {
    let mut space = Space::small().await;
    let ids: Vec<[u8; 16]> = (0..150).map(|index| [index; 16]).collect();
    for id in &ids {
        space.start(*id).await;
    }
    let under = space.contract.clone();
    space.publish_again(MIB).await;
    assert_ne!(space.contract, under);
    let elsewhere = [200; 16];
    space.start(elsewhere).await;
    let _workers = space.following(&[Who::Consumer]);
    space.suspend(Who::Consumer, "audit").await;
    space.until(|space| space.consumer.runnable().unwrap() == [elsewhere]).await;
    space.resume(Who::Consumer).await;
    space.until(|space| space.consumer.runnable().unwrap().len() == ids.len() + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_completed_stays_so() {
    let space = Space::small().await;
    let _workers = space.following(&BOTH);
    space.start(ID).await;
    // Everything is acknowledged; the FINAL is lost.
    let of = *space.network.provider.ledger.space();
    let is_final = move |frame: &FromProvider| match frame {
        FromProvider::Statement(bytes) => {
            Envelope::decode(bytes.clone()).unwrap().trusted(&of).unwrap().kind() == Kind::Final
        }
        _ => false,
    };
    let lost = Wire::down(move |frame| if is_final(&frame) { Vec::new() } else { vec![frame] });
    space.attempt(ID, lost).await.assert_retry("");
    assert_eq!(space.states(ID), [TransferState::Completed, TransferState::Started]);
    for (step, act) in ["suspend", "resume", "end"].into_iter().enumerate() {
        match act {
            "suspend" => drop(space.suspend(Who::Provider, "audit").await),
            "resume" => space.resume(Who::Provider).await,
            _ => space.end(Who::Consumer, "moved away").await,
        }
        space.settle().await;
        space
            .until(|space| {
                let view = space.node(Who::Consumer).ledger.store().view();
                space.contracts(Who::Consumer).restated(&view, None).unwrap().is_none()
            })
            .await;
        assert_eq!(space.states(ID), [TransferState::Completed, TransferState::Started], "{step}");
    }
    // Nothing moves any more: the same statements once again, whatever has become of the contract.
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

/// Both sides count alike, because they count what is signed. The stretch of a pause is part of the time.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_the_same_figures() {
    let space = running().await;
    assert_eq!(space.consumer.metering(&space.seen_by(Who::Consumer, ID)).unwrap(), Metering::default());
    let (_, paused) = while_it_runs(&space, space.consumer.pause(&ID, "lunch")).await;
    let paused = paused.unwrap();
    let so_far = space.consumer.metering(&paused).unwrap();
    assert_eq!((so_far.bytes, so_far.groups), (paused.acknowledged, paused.acknowledged_groups));
    space.network.clock.advance(Duration::from_millis(2048));
    space.consumer.resume(&ID).await.unwrap();
    // The complete ACK takes long; the time goes on to the FINAL.
    let (clock, of) = (space.network.clock.clone(), *space.network.provider.ledger.space());
    let up = move |frame| {
        if let FromConsumer::Statement(bytes) = &frame {
            let said = Envelope::decode(bytes.clone()).unwrap().trusted(&of).unwrap();
            if AckDetail::read(&said).is_ok_and(|ack| ack.status == AckStatus::Complete) {
                clock.advance(Duration::from_millis(1024));
            }
        }
        vec![frame]
    };
    let wire = Wire { up: Box::new(up), ..Wire::default() };
    assert_eq!(space.attempt(ID, wire).await.consumer, Ok(()));
    let [provider, consumer] =
        BOTH.map(|who| space.transfers(who).metering(&space.seen_by(who, ID)).unwrap());
    assert_eq!(provider, consumer);
    assert_eq!(consumer, Metering { bytes: 3 * MIB as u64, groups: 3, milliseconds: 3072 });
    assert_eq!(consumer.bytes_per_second(), 1_024_000);
    assert_eq!(Metering { milliseconds: 0, ..consumer }.bytes_per_second(), 0, "too short to tell");
}

/// A consumer that runs on under an ended contract hears the ABORT, whatever it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_stop_gets_nothing_more() {
    let space = running().await;
    let _workers = space.following(&[Who::Provider]);
    let (mut raw, offer) = Raw::open(&space, ID).await;
    raw.say(&space.issue(Who::Consumer, super::consumer_lies::accept(&offer, &space, 0, 3)).await).await;
    raw.chunk(0).await;
    space.end(Who::Provider, "moved away").await;
    let abort = timeout(PROMPT, raw.statement(&space, Kind::Abort)).await.unwrap();
    assert_eq!(read_abort(&abort).unwrap().0, "contract.ended");
    assert!(timeout(PROMPT, raw.frames.recv()).await.unwrap().is_none(), "nothing follows");
    raw.served.await.unwrap().unwrap();
}
