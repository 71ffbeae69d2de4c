use huitong_identity::Delivery;
use huitong_proof::Kind;

use super::{ALWAYS, MIB, Space, Who, Wire, count, policy};
use crate::{FromConsumer, TransferState};

fn id(cut: usize) -> [u8; 16] {
    let mut id = [4; 16];
    id[..8].copy_from_slice(&(cut as u64).to_be_bytes());
    id
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    Restart,
}

/// Cuts one transfer after every number of frames, first once and then at every later frame again, until one attempt
/// gets through.
async fn cut_everywhere(size: usize, window: usize, between: Between) {
    let mut space = Space::new(size, window, &policy(&[&count(1000)])).await;
    for cut in 1.. {
        let id = id(cut);
        space.start(id).await;
        let attempt = space.attempt(id, Wire::cut(cut)).await;
        let through = attempt.consumer.is_ok();
        space.assert_acknowledged_is_durable(id);
        if between == Between::Restart {
            space = space.restart().await;
            space.assert_acknowledged_is_durable(id);
        }
        if !through {
            attempt.assert_retry("");
            // A second cut a little further on, so that what was repeated is cut off too.
            if cut % 2 == 0 {
                let again = space.attempt(id, Wire::cut(6)).await;
                assert!(!matches!(again.consumer, Err(Delivery::Dead(_))), "{again:?}");
                space.assert_acknowledged_is_durable(id);
            }
            let resumed = space.run(id).await;
            assert_eq!(resumed.consumer, Ok(()), "cut after {:?}: {resumed:?}", attempt.frames);
        }
        space.assert_delivered(id);
        assert_eq!(space.counter(), cut as u64, "counted once, cut after {:?}", attempt.frames);
        for who in [Who::Provider, Who::Consumer] {
            assert_eq!(space.counted(who, id, Kind::Usage), 1);
            assert_eq!(space.counted(who, id, Kind::Offer), 1);
            assert_eq!(space.counted(who, id, Kind::Final), 1);
            assert_eq!(space.counted(who, id, Kind::Abort), 0);
        }
        if through {
            assert!(cut > 6, "the wire never cut anything");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_any_frame_is_survived() {
    cut_everywhere(3 * MIB + 5, MIB, Between::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_both_nodes_after_any_frame_is_survived() {
    cut_everywhere(2 * MIB + 5, MIB, Between::Restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_any_frame_is_survived_by_an_empty_file() {
    cut_everywhere(0, MIB, Between::Restart).await;
}

/// The acknowledgements of a whole window are lost: without them the provider would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn lost_acknowledgements_are_said_again() {
    let space = Space::new(6 * MIB, 2 * MIB, &policy(&[&count(1)])).await;
    let id = id(0);
    space.start(id).await;
    let mut acknowledged = 0;
    let wire = Wire {
        cut_after: 9,
        up: Box::new(move |frame| match &frame {
            crate::FromConsumer::Want(_) => vec![frame],
            crate::FromConsumer::Statement(_) => {
                acknowledged += 1;
                // The acceptance arrives, no acknowledgement does.
                if acknowledged == 1 { vec![frame] } else { Vec::new() }
            }
        }),
        ..Wire::default()
    };
    space.attempt(id, wire).await.assert_retry("");
    assert_eq!(space.seen_by(Who::Provider, id).acknowledged, 0);
    assert!(space.seen_by(Who::Consumer, id).acknowledged > 0);
    let resumed = space.run(id).await;
    assert_eq!(resumed.consumer, Ok(()), "{resumed:?}");
    space.assert_delivered(id);
}

/// The provider has closed the transfer; the consumer never heard so.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_final_is_said_again_after_a_restart() {
    let space = Space::small().await;
    let id = id(0);
    space.start(id).await;
    let frames = space.run(id).await.frames;
    space.forget_delivered();
    let id = self::id(1);
    space.start(id).await;
    space.attempt(id, Wire::cut(frames.len() - 1)).await.assert_retry("closed the exchange");
    assert_eq!(space.states(id), [TransferState::Completed, TransferState::Started]);
    let space = space.restart().await;
    // Whatever the policy says by now: nothing moves any more.
    let resumed = space.run(id).await;
    assert_eq!(resumed.consumer, Ok(()));
    assert!(!resumed.frames.iter().any(|name| name.starts_with("chunk")), "{:?}", resumed.frames);
    space.assert_delivered(id);
}

/// Two runs at once: the older one gives way, and what is signed never goes backwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_run_takes_over() {
    let space = Space::small().await;
    let id = id(0);
    space.start(id).await;
    let (seen, mut waiting) = tokio::sync::mpsc::channel(64);
    // The first run's acknowledgements are swallowed: it stands still.
    let mut statements = 0;
    let still = Wire {
        up: Box::new(move |frame| {
            statements += 1;
            if statements <= 2 { vec![frame] } else { Vec::new() }
        }),
        down: Box::new(move |frame| {
            if matches!(frame, crate::FromProvider::Chunk { .. }) {
                seen.try_send(()).unwrap();
            }
            vec![frame]
        }),
        ..Wire::default()
    };
    let (first, second) = tokio::join!(space.attempt(id, still), async {
        waiting.recv().await.unwrap();
        space.run(id).await
    });
    first.assert_retry("took over");
    assert_eq!(second.consumer, Ok(()), "{second:?}");
    space.assert_delivered(id);
}

/// The consumer has found on its disk what it had not acknowledged, accepts nothing more, and acknowledges: all of that gets
/// lost. With something still missing, and with nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_was_lost_is_said_again() {
    for (arrived, window) in [(8, 64 * MIB), (7, 64 * MIB)] {
        let space = Space::new(3 * MIB, window, &policy(&[ALWAYS])).await;
        let id = id(0);
        space.start(id).await;
        // Want, certificate, offer, leaves, acceptance, and so many of three chunks.
        space.attempt(id, Wire::cut(arrived)).await.assert_retry("");
        let up = |frame| match frame {
            FromConsumer::Statement(_) => Vec::new(),
            want => vec![want],
        };
        let deaf = Wire { up: Box::new(up), cut_after: 5, ..Wire::default() };
        assert!(space.attempt(id, deaf).await.consumer.is_err());
        let resumed = space.run(id).await;
        assert_eq!(resumed.consumer, Ok(()), "{arrived}: {resumed:?}");
        space.assert_delivered(id);
    }
}

/// What was accepted before is said again with the acknowledgement that answers it; it does not set off what it wanted then.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_another_one_followed_sets_nothing_off() {
    let space = Space::new(6 * MIB, MIB, &policy(&[ALWAYS])).await;
    let id = id(0);
    space.start(id).await;
    let first = space.attempt(id, Wire::cut(7)).await;
    assert_eq!(first.frames.last().map(String::as_str), Some("ack"), "{first:?}");
    // Accepted anew, and cut off before anything is acknowledged.
    let second = space.attempt(id, Wire::cut(7)).await;
    assert_eq!(second.frames.iter().filter(|frame| *frame == "accept").count(), 2, "{second:?}");
    assert_eq!(second.frames.last().map(String::as_str), Some("accept"), "{second:?}");
    let mut statements = 0;
    let late = Wire {
        up: Box::new(move |frame| {
            statements += usize::from(matches!(frame, FromConsumer::Statement(_)));
            if statements == 3 {
                // The newest one is a while behind those that are said again.
                let while_others_run = || std::thread::sleep(std::time::Duration::from_millis(200));
                tokio::task::block_in_place(while_others_run);
            }
            vec![frame]
        }),
        ..Wire::default()
    };
    let third = space.attempt(id, late).await;
    assert_eq!(third.consumer, Ok(()), "{third:?}");
    space.assert_delivered(id);
}

#[tokio::test]
async fn who_says_nothing_at_first_is_told_to_come_again() {
    let space = Space::small().await;
    let (_silent, incoming) = tokio::sync::mpsc::channel(1);
    let (out, _answers) = tokio::sync::mpsc::channel(1);
    tokio::time::pause();
    let caller = space.network.consumer.caller.clone();
    let ended = space.provider.exchange(caller, super::link::ADDRESS, incoming, out).await;
    assert!(matches!(ended, Err(huitong_identity::ServiceError::Busy { .. })), "{ended:?}");
}
