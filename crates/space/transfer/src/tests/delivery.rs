use huitong_proof::{Content, Digest, Kind};

use super::consumer_lies::{Raw, accept};
use super::{ALWAYS, MIB, Space, Who, count, policy};
use crate::FromProvider;
use crate::details::{AcceptDetail, OfferDetail};
use crate::ranges::Ranges;

#[tokio::test(flavor = "multi_thread")]
async fn every_size_arrives_as_it_was_published() {
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7] {
        let space = Space::new(size, 2 * MIB, &policy(&[ALWAYS])).await;
        let id = [2; 16];
        space.start(id).await;
        let attempt = space.run(id).await;
        assert_eq!(attempt.consumer, Ok(()), "{size}");
        assert!(attempt.provider.is_ok(), "{size}: {attempt:?}");
        space.assert_delivered(id);
        assert_eq!(space.files(), ["rain.csv"]);
        assert_eq!(
            space.counted(Who::Provider, id, Kind::Usage),
            0,
            "an uncounted permission leaves no record"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_come_in_their_order() {
    let space = Space::new(2 * MIB + 1, MIB, &policy(&[&count(3)])).await;
    let id = [2; 16];
    space.start(id).await;
    let attempt = space.run(id).await;
    let expected = [
        "want",
        "ASSET CERTIFICATE",
        "USAGE",
        "OFFER",
        "leaves",
        "ACCEPT",
        "chunk 0",
        "ACK",
        "chunk 1",
        "ACK",
        "chunk 2",
        "ACK",
        "FINAL",
    ];
    let shown: Vec<String> = attempt.frames.iter().map(|name| name.to_lowercase()).collect();
    let expected: Vec<String> = expected.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(shown, expected);
    space.assert_delivered(id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_transfer_stays_as_it_is() {
    let space = Space::small().await;
    let id = [2; 16];
    space.start(id).await;
    assert_eq!(space.run(id).await.consumer, Ok(()));
    let sizes = |space: &Space| {
        [Who::Provider, Who::Consumer].map(|who| {
            let ledger = &space.node(who).ledger;
            ledger.size(&ledger.store().view()).unwrap()
        })
    };
    let before = sizes(&space);
    let again = space.run(id).await;
    assert_eq!(again.consumer, Ok(()));
    assert!(again.frames.is_empty(), "a finished transfer needs no exchange");
    assert_eq!(sizes(&space), before);
    assert_eq!(space.counter(), 1);
    space.assert_delivered(id);
    assert!(space.consumer.runnable().unwrap().is_empty());
    assert_eq!(space.start(id).await, space.seen_by(Who::Consumer, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delivered_file_is_ever_replaced() {
    let space = Space::small().await;
    // Both choose their names before either is there; then a stranger's file takes the name too.
    for id in [[2; 16], [3; 16]] {
        space.start(id).await;
        space.attempt(id, super::Wire::cut(6)).await.assert_retry("closed the exchange");
    }
    assert_eq!(space.seen_by(Who::Consumer, [2; 16]).path, space.seen_by(Who::Consumer, [3; 16]).path);
    std::fs::write(space.received().join("rain.csv"), b"somebody else's").unwrap();
    for id in [[2; 16], [3; 16]] {
        assert_eq!(space.run(id).await.consumer, Ok(()));
        space.assert_delivered(id);
    }
    assert_eq!(std::fs::read(space.received().join("rain.csv")).unwrap(), b"somebody else's");
    let marked = |byte| format!("rain-{}.csv", huitong_proof::id_text(&[byte; 16]));
    assert_eq!(space.files(), [marked(2), marked(3), "rain.csv".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_unfinished_file_is_fetched_again() {
    for kept in [None, Some(0), Some(MIB + 9)] {
        let space = Space::small().await;
        let id = [2; 16];
        space.start(id).await;
        // Two groups are acknowledged by then.
        space.attempt(id, super::Wire::cut(10)).await.assert_retry("closed the exchange");
        let transfer = space.seen_by(Who::Consumer, id);
        assert_eq!(transfer.acknowledged, 2 * MIB as u64);
        let part = super::part_of(&transfer);
        match kept {
            None => std::fs::remove_file(part).unwrap(),
            Some(length) => {
                std::fs::OpenOptions::new().write(true).open(part).unwrap().set_len(length as u64).unwrap();
            }
        }
        assert_eq!(space.run(id).await.consumer, Ok(()));
        space.assert_delivered(id);
    }
}

/// Size and modification time are what they were; the bytes are not, and none of them leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_only_looks_unchanged_is_compared_before_anything_leaves() {
    let space = Space::new(2 * MIB, MIB, &policy(&[ALWAYS])).await;
    let modified = std::fs::metadata(space.source()).unwrap().modified().unwrap();
    let restore = || {
        std::fs::OpenOptions::new().write(true).open(space.source()).unwrap().set_modified(modified).unwrap();
    };
    // Touched, but the same: compared, and delivered.
    restore();
    let id = [31; 16];
    space.start(id).await;
    assert_eq!(space.run(id).await.consumer, Ok(()));
    space.assert_delivered(id);
    space.forget_delivered();
    let mut bytes = space.content.clone();
    bytes[5] ^= 1;
    std::fs::write(space.source(), &bytes).unwrap();
    restore();
    let id = [32; 16];
    space.start(id).await;
    let attempt = space.run(id).await;
    attempt.assert_over("source.changed");
    assert!(!attempt.frames.iter().any(|frame| frame.starts_with("chunk")), "{attempt:?}");
    // Another file in its place, with the same size and time.
    let other = space.home.path().join("other");
    std::fs::write(&other, &bytes).unwrap();
    std::fs::rename(&other, space.source()).unwrap();
    restore();
    let id = [33; 16];
    space.start(id).await;
    let attempt = space.run(id).await;
    attempt.assert_over("source.changed");
    assert!(!attempt.frames.iter().any(|frame| frame.starts_with("chunk")), "{attempt:?}");
}

/// Groups out of the middle come alone, and are verified against the agreed root by the index alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_alone_is_fetched_and_verified() {
    const SIZE: usize = 5 * MIB + 5;
    let space = Space::new(SIZE, 4 * MIB, &policy(&[ALWAYS])).await;
    let id = [2; 16];
    let (mut raw, offer) = Raw::open(&space, id).await;
    let mut wanted = Ranges::of(1..2);
    wanted.push(4..6);
    let mut draft = accept(&offer, &space, 0, 6);
    draft.detail = AcceptDetail { wanted, resume: Digest::ZERO }.to_detail();
    raw.say(&space.issue(Who::Consumer, draft).await).await;
    let (mut index, mut came) = (None, Vec::new());
    while came.len() < 3 {
        match raw.frames.recv().await.unwrap() {
            FromProvider::Leaves(leaves) => {
                let root = OfferDetail::read(&offer).unwrap().root;
                index = Some(Content::of_file_leaves(SIZE as u64, root, &leaves).unwrap());
            }
            FromProvider::Chunk { group, data } => {
                let bytes = data.as_slice().concat();
                let index = index.as_ref().unwrap();
                index.verify_group(group, &[&bytes]).unwrap();
                assert!(
                    index.verify_group(group - 1, &[&bytes]).is_err(),
                    "it is verified as that group only"
                );
                assert_eq!(bytes, space.content.chunks(MIB).nth(group as usize).unwrap());
                came.push(group);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(came, [1, 4, 5]);
    // Nothing is taken for acknowledged, and the rest is there to be asked for.
    drop(raw);
    assert_eq!(space.seen_by(Who::Provider, id).acknowledged, 0);
}
