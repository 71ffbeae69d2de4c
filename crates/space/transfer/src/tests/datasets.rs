//! Products of many files.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use huitong_proof::Kind;

use super::receipts::{receipts, trust};
use super::{ALWAYS, MIB, Space, Who, Wire, content, joined, part_of, policy};
use crate::details::AcceptDetail;
use crate::model::{FromProvider, Suspender, TransferState};
use crate::receipt::{Outcome, verify};

const ID: [u8; 16] = [2; 16];

/// Some of each kind: empty, small, exactly a group, many groups, nested.
fn files() -> BTreeMap<&'static str, Vec<u8>> {
    BTreeMap::from([
        ("README.md", b"Rainfall of two years.\n".to_vec()),
        ("empty", Vec::new()),
        ("2025/a.csv", content(5)),
        ("2025/b.csv", content(2 * MIB + 77)),
        ("2025/stations/1.csv", content(MIB)),
        ("2026/a.csv", content(700_000)),
        ("2026/b.csv", content(300_000)),
        ("2026/none.csv", Vec::new()),
        ("2026/数据.csv", content(3 * MIB)),
    ])
}

async fn space(window: usize) -> Space {
    Space::of_files(files(), window, &policy(&[ALWAYS])).await
}

fn assert_delivered(space: &Space, path: &Path, expected: &BTreeMap<&'static str, Vec<u8>>) {
    let mut found = BTreeMap::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                let inside = entry.path().strip_prefix(path).unwrap().to_str().unwrap().to_owned();
                found.insert(inside, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let expected: BTreeMap<String, Vec<u8>> =
        expected.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
    assert!(found == expected, "{:?}", found.keys().collect::<Vec<_>>());
    let [provider, consumer] = [Who::Provider, Who::Consumer].map(|who| space.seen_by(who, ID));
    assert_eq!([provider.state, consumer.state], [TransferState::Completed; 2]);
    assert_eq!(provider.statements, consumer.statements);
    for transfer in [provider, consumer] {
        assert_eq!(transfer.files, Some(expected.len() as u64));
        assert_eq!(transfer.acknowledged_groups, transfer.groups);
        assert_eq!(transfer.acknowledged, expected.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_arrives_as_it_was_published() {
    for window in [MIB, 3 * MIB / 2, 64 * MIB] {
        let space = space(window).await;
        space.start(ID).await;
        let attempt = space.run(ID).await;
        assert_eq!(attempt.consumer, Ok(()), "{:?}", attempt.frames);
        assert!(attempt.provider.is_ok());
        let path = space.seen_by(Who::Consumer, ID).path.unwrap();
        assert_eq!(path, space.received().join("rain"));
        assert_delivered(&space, &path, &files());
        assert_eq!(space.files(), ["rain"]);
        // Groups of several files travel together.
        let chunks = attempt.frames.iter().filter(|frame| frame.starts_with("chunk")).count() as u64;
        assert!(chunks < space.seen_by(Who::Consumer, ID).groups, "{:?}", attempt.frames);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receipt_of_a_dataset_is_valid() {
    let space = space(64 * MIB).await;
    for receipt in receipts(&space, ID).await {
        let report = verify(&receipt, &trust(&space), None);
        assert_eq!(report.outcome(), Outcome::Valid, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_of_empty_files_arrives() {
    let files = BTreeMap::from([("a", Vec::new()), ("b/c", Vec::new())]);
    let space = Space::of_files(files.clone(), MIB, &policy(&[ALWAYS])).await;
    space.start(ID).await;
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert_delivered(&space, &space.seen_by(Who::Consumer, ID).path.unwrap(), &files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_there_already_stays_as_it_is() {
    let space = space(64 * MIB).await;
    space.start(ID).await;
    space.attempt(ID, Wire::cut(6)).await.assert_retry("");
    let taken = space.received().join("rain");
    std::fs::create_dir(&taken).unwrap();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    let path = space.seen_by(Who::Consumer, ID).path.unwrap();
    assert_eq!(path, space.received().join(format!("rain-{}", huitong_proof::id_text(&ID))));
    assert_delivered(&space, &path, &files());
    assert_eq!(std::fs::read_dir(taken).unwrap().count(), 0);
}

/// Cut off after every frame in turn: the files that are there stay, nothing is sent twice that was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_resumes_wherever_it_was_cut_off() {
    for frames in 1..30 {
        let space = space(MIB).await;
        space.start(ID).await;
        let cut = space.attempt(ID, Wire::cut(frames)).await;
        if cut.consumer.is_ok() {
            assert!(frames > 15, "{cut:?}");
            return;
        }
        let acknowledged = space.seen_by(Who::Consumer, ID).acknowledged_groups;
        let resumed = space.run(ID).await;
        assert_eq!(resumed.consumer, Ok(()), "{frames}: {resumed:?}");
        let first = resumed.frames.iter().find_map(|frame| frame.strip_prefix("chunk ")?.parse::<u64>().ok());
        assert!(first.is_none_or(|first| first >= acknowledged), "{frames}: {first:?} of {acknowledged}");
        assert_delivered(&space, &space.seen_by(Who::Consumer, ID).path.unwrap(), &files());
    }
    panic!("it never got through");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_removed_meanwhile_is_fetched_again() {
    let space = space(MIB).await;
    space.start(ID).await;
    space.attempt(ID, Wire::cut(16)).await.assert_retry("");
    let transfer = space.seen_by(Who::Consumer, ID);
    let part = part_of(&transfer);
    let there = transfer.acknowledged_groups;
    // In the order of the paths: a.csv is group 0, b.csv groups 1 to 3, stations/1.csv group 4.
    assert!((5..transfer.groups).contains(&there), "{there}");
    std::fs::remove_file(part.join("2025/a.csv")).unwrap();
    let b = std::fs::OpenOptions::new().write(true).open(part.join("2025/b.csv")).unwrap();
    b.set_len(MIB as u64 + 1).unwrap();
    assert_eq!(space.run(ID).await.consumer, Ok(()));
    assert_delivered(&space, &space.seen_by(Who::Consumer, ID).path.unwrap(), &files());
    let accepts: Vec<_> = space
        .statements(Who::Provider, ID)
        .into_iter()
        .filter(|found| found.kind() == Kind::Accept)
        .collect();
    let wanted = AcceptDetail::read(accepts.last().unwrap()).unwrap().wanted;
    // What was written behind the acknowledged groups may be there as well.
    let wanted: Vec<_> = wanted.iter().collect();
    assert_eq!(wanted[..2], [0..1, 2..4]);
    assert!(wanted[2..].iter().all(|range| range.start >= there), "{wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_under_way_is_refused() {
    // Before the transfer, between two runs, and while it runs.
    let change = |space: &Space| {
        let file = space.home.path().join("rain/2026/数据.csv");
        std::fs::write(file, content(3 * MIB - 1)).unwrap();
    };
    let one = space(MIB).await;
    change(&one);
    one.start(ID).await;
    one.run(ID).await.assert_over("source.changed");
    let two = space(MIB).await;
    two.start(ID).await;
    two.attempt(ID, Wire::cut(12)).await.assert_retry("");
    change(&two);
    two.run(ID).await.assert_over("source.changed");
    assert!(!part_of(&two.seen_by(Who::Consumer, ID)).exists(), "what came before is removed");
    let three = space(MIB).await;
    let file = three.home.path().join("rain/2026/数据.csv");
    three.start(ID).await;
    let lie = move |frame: FromProvider| {
        if matches!(frame, FromProvider::Chunk { group: 0, .. }) {
            std::fs::write(&file, b"new").unwrap();
        }
        vec![frame]
    };
    three.attempt(ID, Wire::down(lie)).await.assert_over("source.changed");
    // A file of the dataset that was replaced by a link to something else is not followed.
    let four = space(MIB).await;
    let file = four.home.path().join("rain/README.md");
    let secret = four.home.path().join("secret");
    std::fs::rename(&file, &secret).unwrap();
    std::os::unix::fs::symlink(&secret, &file).unwrap();
    four.start(ID).await;
    four.run(ID).await.assert_over("source.changed");
}

/// The transfer goes on under an honest provider after each of these.
#[tokio::test(flavor = "multi_thread")]
async fn another_manifest_is_not_taken() {
    type Lie = (&'static str, fn(FromProvider) -> Vec<FromProvider>);
    let lies: [Lie; 8] = [
        ("the manifest has another root", |frame| match frame {
            FromProvider::Manifest(bytes) => {
                let text = bytes.windows(6).position(|window| window == b"README").unwrap();
                let mut other = bytes.to_vec();
                other[text] = b'P';
                vec![FromProvider::Manifest(other.into())]
            }
            other => vec![other],
        }),
        ("more leaf values or manifest", |frame| match frame {
            FromProvider::Manifest(bytes) => {
                vec![FromProvider::Manifest([bytes, Bytes::from_static(b"x")].concat().into())]
            }
            other => vec![other],
        }),
        ("more leaf values or manifest", |frame| match frame {
            FromProvider::Manifest(_) => vec![FromProvider::Manifest(Bytes::new())],
            other => vec![other],
        }),
        ("content before its manifest", |frame| match frame {
            FromProvider::Manifest(bytes) => vec![FromProvider::Leaves(bytes)],
            other => vec![other],
        }),
        ("content before its manifest", |frame| match frame {
            FromProvider::Leaves(bytes) => vec![FromProvider::Manifest(bytes)],
            other => vec![other],
        }),
        ("leaf values among the content", |frame| match frame {
            FromProvider::Chunk { .. } => vec![FromProvider::Manifest(Bytes::from_static(b"x"))],
            other => vec![other],
        }),
        ("came where group 0 was due", |frame| match frame {
            FromProvider::Chunk { group, data } => {
                // The end of a group is missing.
                vec![FromProvider::Chunk { group, data: joined(&data).slice(..data.len() - 1).into() }]
            }
            other => vec![other],
        }),
        ("manifest: ", |frame| match frame {
            FromProvider::Manifest(bytes) => vec![FromProvider::Manifest(vec![0xff; bytes.len()].into())],
            other => vec![other],
        }),
    ];
    for (text, lie) in lies {
        let space = space(MIB).await;
        space.start(ID).await;
        space.attempt(ID, Wire::down(lie)).await.assert_retry(text);
        let resumed = space.run(ID).await;
        assert_eq!(resumed.consumer, Ok(()), "after {text:?}: {resumed:?}");
        assert_delivered(&space, &space.seen_by(Who::Consumer, ID).path.unwrap(), &files());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_group_is_named_with_its_file() {
    let space = space(64 * MIB).await;
    space.start(ID).await;
    let lie = |frame| match frame {
        FromProvider::Chunk { group, data } => {
            let mut data = joined(&data).to_vec();
            if let Some(last) = data.last_mut() {
                *last ^= u8::from(group == 3);
            }
            vec![FromProvider::Chunk { group, data: Bytes::from(data).into() }]
        }
        other => vec![other],
    };
    space.attempt(ID, Wire::down(lie)).await.assert_over("group.wrong");
    let reason = space.seen_by(Who::Consumer, ID).reason;
    assert!(reason.starts_with("group 2 of file 2025/b.csv "), "{reason}");
    assert!(!part_of(&space.seen_by(Who::Consumer, ID)).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_dataset_leaves_nothing() {
    let space = space(MIB).await;
    space.start(ID).await;
    space.attempt(ID, Wire::cut(14)).await.assert_retry("");
    let part = part_of(&space.seen_by(Who::Consumer, ID));
    assert!(part.join("2025/a.csv").exists());
    space.consumer.pause(&ID, "").await.unwrap();
    assert_eq!(space.seen_by(Who::Consumer, ID).suspended_by, Some(Suspender::Operator));
    space.consumer.cancel(&ID, "not needed").await.unwrap();
    assert!(!part.exists());
    space.run(ID).await;
    assert_eq!(space.seen_by(Who::Provider, ID).state, TransferState::Terminated);
    assert_eq!(space.files(), Vec::<String>::new());
}
