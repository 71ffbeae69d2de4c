use std::time::Duration;

use huitong_contract::State;
use huitong_identity::{Caller, PeerError, read_refusal};
use huitong_ids::{ContractId, DataId, DataType};
use huitong_proof::{Kind, Statement};
use tokio::sync::mpsc;

use super::link::ADDRESS;
use super::{ALWAYS, MIB, ONE_MINUTE, Space, Who, Wire, count, policy};
use crate::{FromConsumer, FromProvider, TransferState, Want, rules};

/// What the provider answers to one want.
async fn answer(space: &Space, caller: &Caller, want: Want) -> Vec<Statement> {
    let (send, incoming) = mpsc::channel::<Result<_, PeerError>>(4);
    let (out, mut frames) = mpsc::channel(64);
    send.send(Ok(FromConsumer::Want(want))).await.unwrap();
    drop(send);
    space.provider.exchange(caller.clone(), ADDRESS, incoming, out).await.unwrap();
    let mut statements = Vec::new();
    while let Some(frame) = frames.recv().await {
        let FromProvider::Statement(bytes) = frame else { panic!("bytes left without an acceptance") };
        statements.push(space.read(&bytes));
    }
    statements
}

async fn refusal(space: &Space, caller: &Caller, want: Want) -> String {
    let id = want.transfer;
    let statements = answer(space, caller, want).await;
    let [refusal] = statements.as_slice() else { panic!("{statements:?}") };
    assert_eq!(refusal.body().audience, caller.node().as_str());
    assert!(space.counted(Who::Provider, id, Kind::Refusal) > 0, "the refusal is in the provider's ledger");
    read_refusal(refusal).unwrap().code
}

fn want(space: &Space, transfer: [u8; 16]) -> Want {
    Want { transfer, contract: space.contract.clone(), product: space.product.clone() }
}

async fn assert_refused(space: &Space, id: [u8; 16], code: &str) {
    space.start(id).await;
    let attempt = space.run(id).await;
    attempt.assert_over(code);
    assert_eq!(attempt.frames.len(), 2, "nothing but the want and the refusal: {:?}", attempt.frames);
    assert!(!attempt.frames.iter().any(|name| name == "leaves" || name.starts_with("chunk")));
    for who in [Who::Provider, Who::Consumer] {
        let refused = space.statements(who, id).into_iter().filter(|found| found.kind() == Kind::Refusal);
        let codes: Vec<_> = refused.map(|found| read_refusal(&found).unwrap().code).collect();
        assert_eq!(codes, [code], "{who:?}");
    }
    let ended = space.seen_by(Who::Consumer, id);
    assert_eq!((ended.state, ended.code.as_str()), (TransferState::Terminated, code));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_count_refuses_the_next_transfer() {
    let space = Space::new(2 * MIB, MIB, &policy(&[&count(1)])).await;
    space.start([2; 16]).await;
    assert_eq!(space.run([2; 16]).await.consumer, Ok(()));
    assert_refused(&space, [3; 16], "policy.permission[0].count").await;
    assert_eq!(space.counter(), 1);
    let space = space.restart().await;
    assert_refused(&space, [4; 16], "policy.permission[0].count").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_policy_refuses() {
    let space = Space::new(2 * MIB, MIB, &policy(&[ONE_MINUTE])).await;
    space.start([2; 16]).await;
    assert_eq!(space.run([2; 16]).await.consumer, Ok(()));
    space.forget_delivered();
    // One that began in time, and one that did not.
    space.start([3; 16]).await;
    space.attempt([3; 16], Wire::cut(6)).await.assert_retry("");
    space.network.clock.advance(Duration::from_secs(61));
    assert_refused(&space, [4; 16], "policy.permission[0].time").await;
    space.run([3; 16]).await.assert_over("policy.permission[0].time");
    assert_eq!(space.states([3; 16]), [TransferState::Terminated; 2]);
    assert_eq!(space.files(), Vec::<String>::new());
}

/// A transfer stands under the permission it began with, and never goes on under a counted one for free.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_transfer_does_not_slip_under_another_permission() {
    let space = Space::new(2 * MIB, MIB, &policy(&[&count(1), ONE_MINUTE])).await;
    let id = [2; 16];
    space.start(id).await;
    space.attempt(id, Wire::cut(6)).await.assert_retry("");
    assert_eq!(space.counter(), 0, "the uncounted permission comes first");
    space.network.clock.advance(Duration::from_secs(61));
    space.run(id).await.assert_over("policy.permission[0].count");
    assert_eq!(space.counter(), 0);
    space.start([3; 16]).await;
    assert_eq!(space.run([3; 16]).await.consumer, Ok(()));
    assert_eq!(space.counter(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_to_ask_is_refused() {
    let space = Space::new(MIB, MIB, &policy(&[ALWAYS])).await;
    let (consumer, stranger) = (&space.network.consumer.caller, &space.network.registrar.caller);
    let id = [2; 16];
    assert_eq!(refusal(&space, stranger, want(&space, id)).await, "contract.party");
    let node = space.network.provider.membership.node();
    let unknown =
        ContractId::mint(node.node_type(), &node.entity(), &node.segment(), "20260921141320", [5; 16])
            .unwrap();
    let other = Want { contract: unknown, ..want(&space, id) };
    assert_eq!(refusal(&space, consumer, other).await, "contract.unknown");
    let entity = &space.network.provider.membership.credential().entity;
    let product = DataId::mint(DataType::Product, entity, &node.segment(), [5; 16], None).unwrap();
    let other = Want { product, ..want(&space, id) };
    assert_eq!(refusal(&space, consumer, other).await, "contract.product");
    // None of them is a transfer, and none of them stands in the way of one.
    assert!(space.provider.transfer(&id).unwrap().is_none());
    space.start(id).await;
    assert_eq!(space.run(id).await.consumer, Ok(()));
    // Whoever knows a transfer's id gains and spoils nothing by it.
    assert_eq!(refusal(&space, stranger, want(&space, id)).await, "contract.party");
    assert_eq!(space.seen_by(Who::Provider, id).state, TransferState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_belongs_to_one_transfer_under_one_contract() {
    let space = Space::new(MIB, MIB, &policy(&[ALWAYS])).await;
    let id = [2; 16];
    space.start(id).await;
    space.attempt(id, Wire::cut(5)).await.assert_retry("");
    space.request([8; 16]).await;
    space.settle().await;
    let contract = space.negotiation(Who::Provider, [8; 16]).contract.unwrap();
    let other = Want { contract, ..want(&space, id) };
    let consumer = &space.network.consumer.caller;
    assert_eq!(refusal(&space, consumer, other).await, "transfer.id");
    assert_eq!(space.seen_by(Who::Provider, id).state, TransferState::Started);
    assert_eq!(space.run(id).await.consumer, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_that_is_not_in_force_refuses() {
    let space = Space::new(MIB, MIB, &policy(&[ALWAYS])).await;
    let id = [8; 16];
    space.request(id).await;
    assert_eq!(space.deliver(Who::Consumer).await, 1);
    let contract =
        space.negotiation(Who::Provider, id).contract.expect("the provider has signed an agreement");
    let consumer = &space.network.consumer.caller;
    let asked = Want { contract, ..want(&space, [2; 16]) };
    assert_eq!(
        refusal(&space, consumer, asked.clone()).await,
        "contract.unknown",
        "agreed is no contract yet"
    );
    space.contracts(Who::Consumer).terminate(id, "changed our mind").await.unwrap();
    assert_eq!(space.deliver(Who::Consumer).await, 1);
    assert_eq!(space.negotiation(Who::Provider, id).state, State::Terminated);
    assert_eq!(refusal(&space, consumer, asked).await, "contract.unknown");
    let view = space.network.provider.ledger.store().view();
    let mut contract = space.contracts(Who::Provider).contract(&view, &space.contract).unwrap().unwrap();
    let asked = want(&space, [2; 16]);
    for state in State::ALL {
        contract.state = state;
        let answer = rules::may_open(&asked, consumer, Some(&contract), None).map_err(|refusal| refusal.code);
        if state == State::Finalized {
            assert!(answer.is_ok());
        } else {
            assert_eq!(answer, Err("contract.state".to_owned()), "{state}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_transfer_does_not_begin_again() {
    let space = Space::new(2 * MIB, MIB, &policy(&[ONE_MINUTE])).await;
    let id = [2; 16];
    space.start(id).await;
    space.attempt(id, Wire::cut(6)).await.assert_retry("");
    space.network.clock.advance(Duration::from_secs(61));
    let consumer = &space.network.consumer.caller;
    assert_eq!(refusal(&space, consumer, want(&space, id)).await, "policy.permission[0].time");
    assert_eq!(refusal(&space, consumer, want(&space, id)).await, "transfer.ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_only_so_many_at_once() {
    let space = Space::new(MIB, MIB, &policy(&[ALWAYS])).await;
    let caller = &space.network.consumer.caller;
    let mut held = Vec::new();
    for _ in 0..4 {
        let (send, incoming) = mpsc::channel::<Result<FromConsumer, PeerError>>(4);
        let (provider, caller) = (space.provider.clone(), caller.clone());
        let (out, frames) = mpsc::channel(64);
        let served = tokio::spawn(async move { provider.exchange(caller, ADDRESS, incoming, out).await });
        send.send(Ok(FromConsumer::Want(want(&space, [held.len() as u8 + 20; 16])))).await.unwrap();
        let mut frames: mpsc::Receiver<FromProvider> = frames;
        frames.recv().await.unwrap();
        held.push((send, frames, served));
    }
    space.start([2; 16]).await;
    space.run([2; 16]).await.assert_retry("try again later");
    for (send, frames, served) in held {
        drop((send, frames));
        served.await.unwrap().unwrap();
    }
    assert_eq!(space.run([2; 16]).await.consumer, Ok(()));
}
