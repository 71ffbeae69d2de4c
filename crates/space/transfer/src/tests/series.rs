//! Later versions of a product under one agreement.

use std::fs;
use std::path::PathBuf;

use huitong_catalog::Publish;
use huitong_contract::Coverage;
use huitong_identity::testing::network;
use huitong_store::Table;

use super::receipts::{Parts, assert_not_valid, keeper, receipts, trust};
use super::{ALWAYS, Attempt, MIB, Space, Who, Wire, content, offer, policy, publish};
use crate::model::{Transfer, TransferState};
use crate::receipt::{Outcome, verify};

const FIRST: [u8; 16] = [2; 16];
const SECOND: [u8; 16] = [3; 16];
const THIRD: [u8; 16] = [4; 16];

/// A product of 3 MiB and a bit, agreed on as a series or as one version.
pub(super) async fn space(coverage: Coverage) -> Space {
    let home = tempfile::tempdir().unwrap();
    let network = network(home.path()).await;
    let (file, bytes) = (home.path().join("rain.csv"), content(3 * MIB + 5));
    fs::write(&file, &bytes).unwrap();
    let mut request = offer([1; 16], file, MIB, &policy(&[ALWAYS]));
    request.series = coverage == Coverage::Series;
    Space { content: bytes, ..Space::offering(home, network, request).await }
}

/// The provider publishes these bytes, in a file of the same name, as the next version of the product.
pub(super) async fn renew(space: &mut Space, n: u8, bytes: Vec<u8>, coverage: Coverage) {
    let directory = space.home.path().join(format!("version-{n}"));
    fs::create_dir(&directory).unwrap();
    let file: PathBuf = directory.join("rain.csv");
    fs::write(&file, &bytes).unwrap();
    let request = Publish {
        renews: Some(space.product.clone()),
        series: coverage == Coverage::Series,
        ..offer([n; 16], file, MIB, &policy(&[ALWAYS]))
    };
    let product = publish(space.home.path(), &space.network, request).await;
    assert_eq!(product, space.product);
    space.content = bytes;
}

async fn delivered(space: &Space, id: [u8; 16]) -> (Attempt, Transfer) {
    space.start(id).await;
    let attempt = space.run(id).await;
    assert_eq!(attempt.consumer, Ok(()), "{attempt:?}");
    (attempt, space.seen_by(Who::Consumer, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_delivery_of_a_series_is_of_the_newest_version_and_has_its_own_receipt() {
    let mut space = space(Coverage::Series).await;
    let (_, first) = delivered(&space, FIRST).await;
    assert_eq!(first.version, Some(1));
    let mut bytes = space.content.clone();
    bytes[MIB + 1] ^= 1;
    renew(&mut space, 20, bytes, Coverage::Series).await;
    let (attempt, second) = delivered(&space, SECOND).await;
    assert_eq!((second.version, &second.contract), (Some(2), &first.contract));
    assert_eq!(space.seen_by(Who::Provider, SECOND).version, Some(2));
    assert_ne!(second.root, first.root);
    space.assert_delivered(SECOND);
    // What has not changed was not moved.
    let chunks: Vec<_> = attempt.frames.iter().filter(|frame| frame.starts_with("chunk ")).collect();
    assert_eq!(chunks, ["chunk 1"], "{attempt:?}");
    // A version may be smaller, or empty.
    renew(&mut space, 21, Vec::new(), Coverage::Series).await;
    let (_, third) = delivered(&space, THIRD).await;
    assert_eq!((third.version, third.size), (Some(3), 0));
    space.assert_delivered(THIRD);

    for (id, transfer) in [(FIRST, &first), (SECOND, &second), (THIRD, &third)] {
        for (who, other) in [(Who::Provider, Who::Consumer), (Who::Consumer, Who::Provider)] {
            space.transfers(who).collect(&id, &keeper(&space, other)).await.unwrap();
            let receipt = space.transfers(who).receipt(&id).await.unwrap();
            let report = verify(&receipt, &trust(&space), None);
            assert_eq!(report.outcome(), Outcome::Valid, "{report:?}");
            let facts = report.facts.unwrap();
            assert_eq!((Some(facts.blake3), facts.bytes), (transfer.root, transfer.size));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_with_the_version_that_it_began_with() {
    let mut space = space(Coverage::Series).await;
    let before = space.content.clone();
    space.start(FIRST).await;
    space.attempt(FIRST, Wire::cut(6)).await.assert_retry("");
    assert_eq!(space.seen_by(Who::Consumer, FIRST).state, TransferState::Started);
    renew(&mut space, 20, content(2 * MIB), Coverage::Series).await;
    let mut space = space.restart().await;
    let attempt = space.run(FIRST).await;
    assert_eq!(attempt.consumer, Ok(()), "{attempt:?}");
    let newest = std::mem::replace(&mut space.content, before);
    space.assert_delivered(FIRST);
    space.content = newest;
    assert_eq!(delivered(&space, SECOND).await.1.version, Some(2));
    space.assert_delivered(SECOND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_about_one_version_delivers_that_one() {
    let mut space = space(Coverage::Version).await;
    let before = space.content.clone();
    renew(&mut space, 20, content(MIB), Coverage::Version).await;
    let (_, first) = delivered(&space, FIRST).await;
    assert_eq!(first.version, Some(1));
    space.content = before;
    space.assert_delivered(FIRST);
    // Its file may be gone by now; the newer one is not sent in its place.
    fs::remove_file(space.source()).unwrap();
    space.start(SECOND).await;
    space.run(SECOND).await.assert_over("source.changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_never_goes_back() {
    let mut space = space(Coverage::Series).await;
    delivered(&space, FIRST).await;
    let before = space.content.clone();
    renew(&mut space, 20, content(MIB), Coverage::Series).await;
    delivered(&space, SECOND).await;
    go_back(&space).await;
    space.content = before;
    space.start(THIRD).await;
    space.run(THIRD).await.assert_over("offer.version");
    assert_eq!(space.states(THIRD), [TransferState::Terminated; 2]);
}

/// The provider shows the first version as its newest one.
async fn go_back(space: &Space) {
    let key = space.product.as_str().as_bytes().to_vec();
    let store = space.network.provider.ledger.store();
    store
        .transact("test", move |tx| {
            tx.put(&Table::new("catalog.product"), &key, &[1; 16])?;
            Ok::<_, huitong_identity::ServiceError>(())
        })
        .await
        .unwrap();
}

/// The consumer agrees to the series as it is now.
async fn agree(space: &mut Space) {
    space.request([8; 16]).await;
    space.settle().await;
    space.contract = space.negotiation(Who::Provider, [8; 16]).contract.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_what_was_agreed_on_is_delivered() {
    let mut space = space(Coverage::Series).await;
    renew(&mut space, 20, content(MIB), Coverage::Series).await;
    agree(&mut space).await;
    go_back(&space).await;
    space.start(FIRST).await;
    space.run(FIRST).await.assert_over("offer.version");
    assert_eq!(space.states(FIRST), [TransferState::Terminated; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_over_an_older_version_than_was_agreed_on_does_not_hold() {
    let mut space = space(Coverage::Series).await;
    let (before, old) = (space.content.clone(), receipts(&space, FIRST).await);
    renew(&mut space, 20, content(MIB), Coverage::Series).await;
    // The third version is the first one again, and its certificate fits in all but the number.
    renew(&mut space, 21, before, Coverage::Series).await;
    agree(&mut space).await;
    for (old, receipt) in old.iter().zip(receipts(&space, SECOND).await) {
        assert_eq!(verify(&receipt, &trust(&space), None).outcome(), Outcome::Valid);
        let mut parts = Parts::of(&receipt);
        parts.statements[2] = Parts::of(old).statements[2].clone();
        let report = verify(&parts.encode(), &trust(&space), None);
        assert_not_valid(&report, "an older certificate");
        assert_eq!(report.problems[0].reason, "is about an older version than was agreed on");
    }
}
