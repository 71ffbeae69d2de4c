//! New versions of a product: what has not changed is not moved again.

use std::collections::BTreeMap;
use std::fs;

use super::{ALWAYS, Attempt, MIB, Space, Who, Wire, content, policy};
use crate::details::AcceptDetail;
use crate::model::TransferState;
use huitong_proof::Kind;

const FIRST: [u8; 16] = [2; 16];
const SECOND: [u8; 16] = [3; 16];

fn chunks(attempt: &Attempt) -> Vec<String> {
    attempt.frames.iter().filter_map(|frame| frame.strip_prefix("chunk ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_changed_groups_of_a_file_are_moved() {
    let mut space = Space::new(5 * MIB + 9, MIB, &policy(&[ALWAYS])).await;
    space.start(FIRST).await;
    assert_eq!(space.run(FIRST).await.consumer, Ok(()));
    // One group in the middle, and some more at the end.
    let mut bytes = space.content.clone();
    bytes[2 * MIB + 7] ^= 1;
    bytes.extend_from_slice(&content(MIB));
    fs::write(space.source(), &bytes).unwrap();
    let before = std::mem::replace(&mut space.content, bytes);
    space.publish_again(MIB).await;
    space.start(SECOND).await;
    let attempt = space.run(SECOND).await;
    assert_eq!(attempt.consumer, Ok(()));
    assert_eq!(chunks(&attempt), ["2", "5", "6"]);
    space.assert_delivered(SECOND);
    let accepts: Vec<_> = space.statements(Who::Provider, SECOND);
    let accept = accepts.iter().find(|found| found.kind() == Kind::Accept).unwrap();
    let wanted: Vec<_> = AcceptDetail::read(accept).unwrap().wanted.iter().collect();
    assert_eq!(wanted, [2..3, 5..7]);
    // The version before stays as it was delivered.
    assert!(fs::read(space.seen_by(Who::Consumer, FIRST).path.unwrap()).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_file_is_not_moved_at_all() {
    let mut space = Space::new(3 * MIB, MIB, &policy(&[ALWAYS])).await;
    space.start(FIRST).await;
    assert_eq!(space.run(FIRST).await.consumer, Ok(()));
    space.publish_again(MIB).await;
    space.start(SECOND).await;
    let attempt = space.run(SECOND).await;
    assert_eq!((attempt.consumer.clone(), chunks(&attempt)), (Ok(()), Vec::new()), "{attempt:?}");
    space.assert_delivered(SECOND);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_changed_files_of_a_dataset_are_moved() {
    let files = BTreeMap::from([
        ("a", content(700_000)),
        ("b/c", content(2 * MIB + 3)),
        ("d", b"old".to_vec()),
        ("e", Vec::new()),
    ]);
    let mut space = Space::of_files(files, MIB, &policy(&[ALWAYS])).await;
    space.start(FIRST).await;
    assert_eq!(space.run(FIRST).await.consumer, Ok(()));
    let source = space.home.path().join("rain");
    fs::write(source.join("d"), b"new").unwrap();
    fs::write(source.join("f"), b"another").unwrap();
    fs::remove_file(source.join("a")).unwrap();
    space.publish_again(MIB).await;
    space.start(SECOND).await;
    // Cut off before the first chunk: what was copied is there.
    space.attempt(SECOND, Wire::cut(6)).await.assert_retry("");
    let attempt = space.run(SECOND).await;
    assert_eq!(attempt.consumer, Ok(()), "{attempt:?}");
    // Groups 0 to 2 are b/c.
    assert_eq!(chunks(&attempt), ["3"], "{attempt:?}");
    let path = space.seen_by(Who::Consumer, SECOND).path.unwrap();
    assert_eq!(fs::read(path.join("b/c")).unwrap(), content(2 * MIB + 3));
    assert_eq!(fs::read(path.join("d")).unwrap(), b"new");
    assert_eq!(fs::read(path.join("f")).unwrap(), b"another");
    assert_eq!(fs::read(path.join("e")).unwrap(), b"");
    assert!(!path.join("a").exists());
    assert_eq!(space.states(SECOND), [TransferState::Completed; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_before_that_is_gone_or_something_else_is_no_hindrance() {
    for what in ["gone", "changed", "directory", "link"] {
        let mut space = Space::new(2 * MIB, MIB, &policy(&[ALWAYS])).await;
        space.start(FIRST).await;
        assert_eq!(space.run(FIRST).await.consumer, Ok(()));
        let path = space.seen_by(Who::Consumer, FIRST).path.unwrap();
        fs::remove_file(&path).unwrap();
        match what {
            "changed" => fs::write(&path, content(MIB)).unwrap(),
            "directory" => fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink(space.source(), &path).unwrap(),
            _ => {}
        }
        space.publish_again(MIB).await;
        space.start(SECOND).await;
        let attempt = space.run(SECOND).await;
        assert_eq!(attempt.consumer, Ok(()), "{what}");
        let expected: &[&str] = if what == "changed" { &["1"] } else { &["0", "1"] };
        assert_eq!(chunks(&attempt), expected, "{what}");
        space.assert_delivered(SECOND);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_before_that_cannot_be_read_is_no_hindrance() {
    let files = || BTreeMap::from([("a", content(2 * MIB))]);
    let mut space = Space::of_files(files(), MIB, &policy(&[ALWAYS])).await;
    space.start(FIRST).await;
    assert_eq!(space.run(FIRST).await.consumer, Ok(()));
    let path = space.seen_by(Who::Consumer, FIRST).path.unwrap();
    fs::remove_dir_all(&path).unwrap();
    // Every look below it fails, and not because nothing is there.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    space.publish_again(MIB).await;
    space.start(SECOND).await;
    let attempt = space.run(SECOND).await;
    assert_eq!((attempt.consumer.clone(), chunks(&attempt)), (Ok(()), vec!["0".to_owned(), "1".to_owned()]));
    let delivered = space.seen_by(Who::Consumer, SECOND).path.unwrap();
    assert_eq!(fs::read(delivered.join("a")).unwrap(), content(2 * MIB));
}
