//! What operators do to a transfer, and what a full disk does.

use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::Duration;

use huitong_identity::ServiceError;
use huitong_proof::{Envelope, Kind, SpaceId};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::link::Link;
use super::{ALWAYS, MIB, Space, Who, Wire, part_of, policy};
use crate::details::{AckDetail, AckStatus, read_abort};
use crate::tables;
use crate::{
    FromConsumer, FromProvider, LOWEST_RATE, Limited, Priority, StartTransfer, Suspender, TransferState,
};

pub(super) const ID: [u8; 16] = [2; 16];

/// A wire on which partial acknowledgements vanish, so that the transfer stands still once its window is full; whatever
/// else the consumer says arrives.
fn still(space: &Space) -> (Wire, mpsc::Receiver<()>) {
    let (seen, first_chunk) = mpsc::channel(64);
    let of = *space.network.provider.ledger.space();
    let wire = Wire {
        up: Box::new(move |frame| if is_partial(&frame, &of) { Vec::new() } else { vec![frame] }),
        down: Box::new(move |frame| {
            if matches!(frame, FromProvider::Chunk { .. }) {
                let _ = seen.try_send(());
            }
            vec![frame]
        }),
        ..Wire::default()
    };
    (wire, first_chunk)
}

fn is_partial(frame: &FromConsumer, space: &SpaceId) -> bool {
    let FromConsumer::Statement(bytes) = frame else { return false };
    let statement = Envelope::decode(bytes.clone()).unwrap().trusted(space).unwrap();
    statement.kind() == Kind::Ack && AckDetail::read(&statement).unwrap().status == AckStatus::Partial
}

pub(super) async fn running() -> Space {
    let space = Space::new(3 * MIB, MIB, &policy(&[ALWAYS])).await;
    space.start(ID).await;
    space
}

/// Runs an attempt and does something once bytes move; both are over within seconds.
pub(super) async fn while_it_runs<T>(space: &Space, act: impl Future<Output = T>) -> (super::Attempt, T) {
    let (wire, mut first_chunk) = still(space);
    let both = async {
        tokio::join!(space.attempt(ID, wire), async {
            first_chunk.recv().await.unwrap();
            act.await
        })
    };
    timeout(Duration::from_secs(10), both).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_pauses_and_resumes() {
    let space = running().await;
    let (attempt, paused) = while_it_runs(&space, space.consumer.pause(&ID, "month's quota")).await;
    assert_eq!(paused.unwrap().suspended_by, Some(Suspender::Operator));
    attempt.assert_retry("the transfer is paused");

    assert_eq!(space.states(ID), [TransferState::Suspended; 2]);
    let provider = space.seen_by(Who::Provider, ID);
    assert_eq!((provider.suspended_by, provider.reason.as_str()), (Some(Suspender::Peer), "month's quota"));
    let consumer = space.seen_by(Who::Consumer, ID);
    assert_eq!(consumer.acknowledged, provider.acknowledged);
    assert!(part_of(&consumer).exists());
    // Nothing runs until the operator says so, not even when asked to.
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    assert_eq!(space.run(ID).await.frames, Vec::<String>::new());

    let space = space.restart().await;
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    let resumed = space.consumer.resume(&ID).await.unwrap();
    assert_eq!((resumed.state, resumed.reason.as_str()), (TransferState::Started, ""));
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_pauses_and_resumes() {
    let space = running().await;
    let (attempt, paused) = while_it_runs(&space, space.provider.pause(&ID, "maintenance")).await;
    paused.unwrap();
    attempt.assert_retry("the provider has paused this transfer: maintenance");
    assert_eq!(space.states(ID), [TransferState::Suspended, TransferState::Started]);
    space.run(ID).await.assert_retry("the provider has paused this transfer: maintenance");
    space.provider.resume(&ID).await.unwrap();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cancels_signs_and_both_sides_know() {
    for who in [Who::Provider, Who::Consumer] {
        let space = running().await;
        let (_, cancelled) = while_it_runs(&space, space.transfers(who).cancel(&ID, "wrong month")).await;
        assert_eq!(cancelled.unwrap().state, TransferState::Terminated);
        assert_eq!(space.states(ID), [TransferState::Terminated; 2], "{who:?}");
        for side in [Who::Provider, Who::Consumer] {
            let seen = space.seen_by(side, ID);
            assert_eq!((seen.code.as_str(), seen.reason.as_str()), ("transfer.cancelled", "wrong month"));
            let aborts = space.statements(side, ID);
            let aborts: Vec<_> = aborts.iter().filter(|found| found.kind() == Kind::Abort).collect();
            assert_eq!(aborts.len(), 1, "{who:?} {side:?}");
            assert_eq!(aborts[0].body().issuer, space.node(who).ledger.node());
            assert_eq!(read_abort(aborts[0]).unwrap().1, "wrong month");
        }
        assert!(space.files().is_empty(), "{:?}", space.files());
        assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new(), "{who:?}");
        // Again is the same; anything else comes too late.
        space.transfers(who).cancel(&ID, "once more").await.unwrap();
        let late = space.transfers(who).pause(&ID, "").await;
        assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_was_away_hears_of_the_cancellation_later() {
    let space = running().await;
    // Offered, accepted, then the connection is gone.
    space.attempt(ID, Wire::cut(4)).await;
    space.consumer.cancel(&ID, "").await.unwrap();
    assert_eq!(space.states(ID), [TransferState::Started, TransferState::Terminated]);
    let space = space.restart().await;
    assert_eq!(space.consumer.runnable().unwrap(), vec![ID]);
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert_eq!(space.states(ID), [TransferState::Terminated; 2]);
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    assert_eq!(space.counted(Who::Provider, ID, Kind::Abort), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_holds_a_transfer_hears_of_its_cancellation() {
    let space = running().await;
    space.attempt(ID, Wire::cut(4)).await;
    space.provider.pause(&ID, "maintenance").await.unwrap();
    space.consumer.cancel(&ID, "wrong month").await.unwrap();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert_eq!(space.states(ID), [TransferState::Terminated; 2]);
    assert_eq!(space.seen_by(Who::Provider, ID).reason, "wrong month");
    assert_eq!(space.counted(Who::Provider, ID, Kind::Abort), 1);
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
}

/// The connection breaks under the ABORT: it is said again until it has been heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_was_lost_is_said_again() {
    let space = running().await;
    space.attempt(ID, Wire::cut(4)).await;
    space.consumer.cancel(&ID, "").await.unwrap();
    // Want, certificate and offer pass.
    let wire = Wire { cut_after: 3, is_told_of_cuts: true, ..Wire::default() };
    assert_eq!(space.attempt(ID, wire).await.frames.last().unwrap(), "offer");
    assert_eq!(space.states(ID), [TransferState::Started, TransferState::Terminated]);
    assert_eq!(space.consumer.runnable().unwrap(), vec![ID]);
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert_eq!(space.states(ID), [TransferState::Terminated; 2]);
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_of_a_cancellation_for_ever() {
    let space = running().await;
    space.attempt(ID, Wire::cut(4)).await;
    space.consumer.cancel(&ID, "").await.unwrap();
    space.network.clock.advance(Duration::from_secs(24 * 60 * 60 + 1));
    let attempt = space.run(ID).await;
    assert_eq!((attempt.consumer, attempt.frames), (Ok(()), Vec::new()));
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    assert_eq!(space.states(ID), [TransferState::Started, TransferState::Terminated]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_was_never_offered_ends_without_a_word() {
    let space = running().await;
    space.consumer.pause(&ID, "not yet").await.unwrap();
    assert_eq!(space.consumer.resume(&ID).await.unwrap().state, TransferState::Requested);
    space.consumer.cancel(&ID, "").await.unwrap();
    assert_eq!(space.consumer.runnable().unwrap(), Vec::<[u8; 16]>::new());
    assert!(space.provider.transfer(&ID).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_controlled_is_said() {
    let space = running().await;
    let unknown = space.consumer.pause(&[9; 16], "").await;
    assert!(matches!(unknown, Err(ServiceError::NotFound { .. })), "{unknown:?}");
    for reason in ["x".repeat(257), "two\nlines".to_owned()] {
        let refused = space.consumer.cancel(&ID, &reason).await;
        assert!(
            matches!(&refused, Err(ServiceError::Invalid { field, .. }) if field == "reason"),
            "{refused:?}"
        );
    }
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    let late = space.consumer.cancel(&ID, "").await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    space.assert_delivered(ID);
}

/// At the lowest rate this would take most of a minute; the attempt gives up after half of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_changes_while_bytes_move() {
    let space = running().await;
    space.provider.limit(Limited::EachPeer, Some(LOWEST_RATE)).unwrap();
    let (chunks, mut first_chunk) = mpsc::channel(64);
    let wire = Wire::down(move |frame| {
        if matches!(frame, FromProvider::Chunk { .. }) {
            let _ = chunks.try_send(());
        }
        vec![frame]
    });
    let (attempt, ()) = tokio::join!(space.attempt(ID, wire), async {
        first_chunk.recv().await.unwrap();
        // Nothing follows until the limit is lifted.
        assert!(timeout(Duration::from_millis(300), first_chunk.recv()).await.is_err());
        space.provider.limit(Limited::EachPeer, None).unwrap();
    });
    assert_eq!(attempt.consumer, Ok(()));
    space.assert_delivered(ID);
}

/// A file system of 2 MiB, if this process may mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|done| done.status.success()).then(|| Self(at.to_owned()))
    }

    fn grow(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_suspends_and_room_resumes() {
    let space = Space::new(3 * MIB + 5, MIB, &policy(&[ALWAYS])).await;
    let directory = space.home.path().join("small");
    let Some(disk) = SmallDisk::mount(&directory) else {
        eprintln!("SKIPPED a_full_disk_suspends_and_room_resumes: this process may not mount a file system");
        return;
    };
    let request = StartTransfer {
        id: ID,
        contract: space.contract.clone(),
        product: None,
        directory: Some(directory),
        priority: Priority::Normal,
    };
    space.consumer.start(request).await.unwrap();
    space.run(ID).await.assert_retry("make room, the transfer goes on by itself");

    assert_eq!(space.states(ID), [TransferState::Suspended; 2]);
    let [provider, consumer] = [Who::Provider, Who::Consumer].map(|who| space.seen_by(who, ID));
    assert_eq!(
        [provider.suspended_by, consumer.suspended_by],
        [Some(Suspender::Peer), Some(Suspender::Space)]
    );
    assert_eq!(provider.reason, consumer.reason);
    assert!(provider.reason.contains("No space left"), "{}", provider.reason);
    // It asks again by itself, but not the provider as long as there is no room.
    assert_eq!(space.consumer.runnable().unwrap(), vec![ID]);
    assert_eq!(space.run(ID).await.frames, Vec::<String>::new());

    disk.grow();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_run_in_the_order_of_their_priority_and_age() {
    let space = Space::small().await;
    let started = [
        ([1; 16], Priority::Normal),
        ([2; 16], Priority::Low),
        ([3; 16], Priority::High),
        ([4; 16], Priority::Normal),
        ([5; 16], Priority::High),
    ];
    for (id, priority) in started {
        space.start_with(id, priority).await;
        space.network.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(space.consumer.runnable().unwrap(), [[3; 16], [5; 16], [1; 16], [4; 16], [2; 16]]);
    space.consumer.cancel(&[5; 16], "").await.unwrap();
    assert_eq!(space.run([3; 16]).await.consumer, Ok(()));
    assert_eq!(space.consumer.runnable().unwrap(), [[1; 16], [4; 16], [2; 16]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_has_not_ended_is_found_however_much_that_is() {
    let space = Space::small().await;
    let starts = (0..1_100_u16).map(|n| {
        let (space, mut id) = (&space, [7; 16]);
        id[..2].copy_from_slice(&n.to_be_bytes());
        async move { space.start(id).await.id }
    });
    let mut started = futures_util::future::join_all(starts).await;
    let mut live = space.consumer.live().unwrap();
    started.sort();
    live.sort();
    assert!(live == started, "{} of {}", live.len(), started.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_want_to_run_are_found() {
    let space = Space::small().await;
    let first = space.start(ID).await;
    let many = (0..2_500_u32).map(move |number| {
        let mut transfer = first.clone();
        transfer.id[..4].copy_from_slice(&number.to_be_bytes());
        transfer
    });
    let store = space.network.consumer.ledger.store();
    let saved = store.transact("test", move |tx| many.into_iter().try_for_each(|one| tables::save(tx, &one)));
    saved.await.unwrap();
    assert_eq!(space.consumer.runnable().unwrap().len(), 2_501);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wholly_acknowledged_cannot_be_cancelled() {
    let space = running().await;
    let of = *space.network.provider.ledger.space();
    let no_final = Wire::down(move |frame| {
        if let FromProvider::Statement(bytes) = &frame
            && Envelope::decode(bytes.clone()).unwrap().trusted(&of).unwrap().kind() == Kind::Final
        {
            return Vec::new();
        }
        vec![frame]
    });
    space.attempt(ID, no_final).await.assert_retry("closed the exchange");
    assert_eq!(space.states(ID), [TransferState::Completed, TransferState::Started]);
    let refused = space.consumer.cancel(&ID, "wrong month").await;
    assert!(matches!(refused, Err(ServiceError::Conflict { .. })), "{refused:?}");
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

/// The writer waits for the disk, here for somebody who reads a pipe that lies where a file belongs.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_after_its_writer_and_leaves_nothing() {
    let files = [("a.csv", vec![7; MIB]), ("b.csv", vec![8; MIB])];
    let space = Space::of_files(files.into_iter().collect(), 4 * MIB, &policy(&[ALWAYS])).await;
    space.start(ID).await;
    // Up to the offer.
    space.attempt(ID, Wire::cut(4)).await.assert_retry("closed the exchange");
    let part = part_of(&space.seen_by(Who::Consumer, ID));
    let (pipe, elsewhere) = (part.join("a.csv"), space.home.path().join("pipe"));
    std::fs::create_dir_all(&part).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    std::fs::hard_link(&pipe, &elsewhere).unwrap();
    let mut running = {
        let (consumer, link) = (space.consumer.clone(), Link::new(&space, Wire::default()));
        tokio::spawn(async move { consumer.run(&ID, &link).await })
    };
    while space.consumer.moved(&ID) < 2 * MIB as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    space.consumer.cancel(&ID, "wrong month").await.unwrap();
    let is_early = timeout(Duration::from_millis(500), &mut running).await.is_ok();
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let reader =
        std::fs::OpenOptions::new().read(true).custom_flags(without_waiting).open(elsewhere).unwrap();
    assert!(!is_early, "its writer is still there");
    let ended = timeout(Duration::from_secs(20), running).await.expect("it waits for ever").unwrap();
    assert!(ended.is_err());
    drop(reader);
    assert_eq!(space.files(), Vec::<String>::new());
}
