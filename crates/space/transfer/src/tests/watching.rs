//! What ends a transfer that is under way, and what holds it back.

use std::fs::{File, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use huitong_identity::workers::apply;
use huitong_proof::Kind;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::consumer_lies::{Raw, accept, ack};
use super::{ALWAYS, Attempt, MIB, ONE_MINUTE, Space, Who, Wire, policy};
use crate::details::read_abort;
use crate::{FromConsumer, FromProvider, TransferState};

const ID: [u8; 16] = [2; 16];

/// A wire on which acknowledgements vanish, so that the transfer stands still once its window is full.
fn still() -> (Wire, mpsc::Receiver<()>) {
    let (seen, first_chunk) = mpsc::channel(64);
    let mut statements = 0;
    let wire = Wire {
        up: Box::new(move |frame| {
            statements += usize::from(matches!(frame, FromConsumer::Statement(_)));
            if statements <= 1 { vec![frame] } else { Vec::new() }
        }),
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

fn assert_aborted_by_provider(space: &Space, attempt: &Attempt, code: &str) {
    attempt.assert_over(code);
    assert_eq!(space.states(ID), [TransferState::Terminated; 2]);
    for who in [Who::Provider, Who::Consumer] {
        let aborts: Vec<_> =
            space.statements(who, ID).into_iter().filter(|found| found.kind() == Kind::Abort).collect();
        assert_eq!(aborts.len(), 1, "{who:?}");
        assert_eq!(aborts[0].body().issuer, space.network.provider.ledger.node());
        assert_eq!(read_abort(&aborts[0]).unwrap().0, code);
        assert_eq!(space.seen_by(who, ID).code, code);
    }
    assert!(space.files().is_empty(), "{:?}", space.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_expires_ends_a_running_transfer() {
    let space = Space::new(3 * MIB, MIB, &policy(&[ONE_MINUTE])).await;
    space.start(ID).await;
    let (wire, mut first_chunk) = still();
    let ended = timeout(Duration::from_secs(5), async {
        tokio::join!(space.attempt(ID, wire), async {
            first_chunk.recv().await.unwrap();
            space.network.clock.advance(Duration::from_secs(61));
        })
    });
    assert_aborted_by_provider(&space, &ended.await.unwrap().0, "policy.permission[0].time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_consumer_ends_a_running_transfer() {
    let space = Space::new(3 * MIB, MIB, &policy(&[ALWAYS])).await;
    space.start(ID).await;
    let (wire, mut first_chunk) = still();
    let ended = timeout(Duration::from_secs(5), async {
        tokio::join!(space.attempt(ID, wire), async {
            first_chunk.recv().await.unwrap();
            revoke(&space).await;
        })
    });
    assert_aborted_by_provider(&space, &ended.await.unwrap().0, "identity.revoked");
}

/// A face cuts a revoked caller's connection by itself: that must not take the place of the signed end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_for_revocation_is_signed_too() {
    for accepted in [false, true] {
        let space = Space::new(3 * MIB, MIB, &policy(&[ALWAYS])).await;
        let (mut raw, offer) = Raw::open(&space, ID).await;
        if accepted {
            raw.say(&space.issue(Who::Consumer, accept(&offer, &space, 0, 3)).await).await;
            raw.chunk(0).await;
        }
        revoke(&space).await;
        let cut = huitong_identity::PeerError::Unavailable("cut".to_owned());
        raw.out.send(Err(cut)).await.unwrap();
        let abort = raw.statement(&space, Kind::Abort).await;
        assert_eq!(read_abort(&abort).unwrap().0, "identity.revoked");
        assert!(raw.served.await.unwrap().is_err());
        assert_eq!(space.seen_by(Who::Provider, ID).state, TransferState::Terminated);
    }
}

/// A provider that has lost its registrar stops, but the transfer is not over.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_out_of_touch_only_pauses() {
    let space = Space::new(3 * MIB, MIB, &policy(&[ALWAYS])).await;
    space.start(ID).await;
    let (wire, mut first_chunk) = still();
    let (attempt, ()) = tokio::join!(space.attempt(ID, wire), async {
        first_chunk.recv().await.unwrap();
        space.network.clock.advance(Duration::from_secs(301));
    });
    attempt.assert_retry("last heard from its registrar");
    assert_eq!(space.states(ID), [TransferState::Started; 2]);
    confirm(&space).await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    space.assert_delivered(ID);
}

async fn revoke(space: &Space) {
    let consumer = space.network.consumer.membership.node();
    space.network.registry.revoke(consumer, "left the space").await.unwrap();
    confirm(space).await;
}

async fn confirm(space: &Space) {
    let standing = &space.network.provider.standing;
    let known = (standing.directory.roots().version, standing.directory.status().version);
    let (update, _, _) = space.network.registry.trust_since(known.0, known.1).unwrap();
    apply(standing, update).await.unwrap();
}

/// Nothing is acknowledged: exactly one window goes out, and not a byte more until the end of the policy ends it all.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_window_is_ever_on_its_way() {
    for (window, before) in [(MIB, 1), (MIB + 1, 1), (2 * MIB, 2), (3 * MIB - 1, 2), (4 * MIB, 4)] {
        let space = Space::new(6 * MIB, window, &policy(&[ONE_MINUTE])).await;
        let (mut raw, offer) = Raw::open(&space, ID).await;
        let accepted = space.issue(Who::Consumer, accept(&offer, &space, 0, 6)).await;
        raw.say(&accepted).await;
        raw.chunk(before - 1).await;
        raw.say(&space.issue(Who::Consumer, ack(&accepted, &space, 1, 6 * MIB as u64)).await).await;
        raw.chunk(before).await;
        space.network.clock.advance(Duration::from_secs(61));
        let last = raw.frames.recv().await.unwrap();
        let FromProvider::Statement(bytes) = last else { panic!("window {window}: one too many: {last:?}") };
        assert_eq!(space.read(&bytes).kind(), Kind::Abort);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_since_publication_is_not_offered() {
    type Change = fn(&std::path::Path);
    let changes: [Change; 3] = [
        |path| OpenOptions::new().write(true).open(path).unwrap().set_len(7).unwrap(),
        |path| {
            let other = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(5);
            File::options().write(true).open(path).unwrap().set_modified(other).unwrap();
        },
        |path| std::fs::remove_file(path).unwrap(),
    ];
    for change in changes {
        let space = Space::small().await;
        change(&space.source());
        space.start(ID).await;
        let attempt = space.run(ID).await;
        attempt.assert_over("source.changed");
        assert_eq!(attempt.frames.len(), 2);
        let told = space.seen_by(Who::Consumer, ID).reason;
        assert!(!told.contains("rain.csv"), "where the provider keeps its files is its own business: {told}");
        assert_eq!(space.counter(), 0, "nothing is counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_read_ends_the_transfer() {
    let space = Space::new(14 * MIB, MIB, &policy(&[ALWAYS])).await;
    space.start(ID).await;
    let source = space.source();
    let wire = Wire::down(move |frame| {
        if matches!(frame, FromProvider::Chunk { group: 0, .. }) {
            let file = OpenOptions::new().write(true).open(&source).unwrap();
            file.write_all_at(b"other bytes", 13 * MIB as u64).unwrap();
            let other = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(5);
            file.set_modified(other).unwrap();
        }
        vec![frame]
    });
    let attempt = space.attempt(ID, wire).await;
    assert_aborted_by_provider(&space, &attempt, "source.changed");
}

/// A change that leaves size and time as they were is found by the provider, group by group, before it sends them.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_in_secret_is_found_out() {
    let space = Space::small().await;
    let file = OpenOptions::new().write(true).open(space.source()).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"other bytes", 2 * MIB as u64).unwrap();
    file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    space.start(ID).await;
    let attempt = space.run(ID).await;
    attempt.assert_over("source.changed");
    assert!(!attempt.frames.contains(&"chunk 2".to_owned()), "{attempt:?}");
    assert!(space.files().is_empty());
    assert_eq!(space.states(ID), [TransferState::Terminated; 2]);
}
