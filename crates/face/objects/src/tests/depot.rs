//! Deliveries into S3, from what was received to what lies in the bucket.

use std::path::Path;
use std::sync::Arc;

use huitong_identity::Delivery;
use huitong_identity::testing::{TestNetwork, network};
use huitong_transfer::{DepositState, Depot, DepotError, Transfers, testing};
use zeroize::Zeroizing;

use super::put::{parts_sent, until};
use super::{MIB, bounded, objects, sample, server};
use crate::testing::S3Server;
use crate::{Bucket, Objects};

const ID: [u8; 16] = [7; 16];
/// The same as text.
const MARK: &str = "07070707-0707-0707-0707-070707070707";

struct Node {
    home: tempfile::TempDir,
    network: TestNetwork,
}

impl Node {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let network = network(home.path()).await;
        Self { home, network }
    }

    /// What the node is after a restart: nothing but what it has stored.
    fn transfers(&self, objects: Objects) -> Transfers {
        testing::transfers(self.home.path(), &self.network.consumer).with_depot(Arc::new(objects))
    }

    fn staging(&self) -> std::path::PathBuf {
        self.home.path().join("received/.deposits").join(MARK)
    }
}

async fn file(transfers: &Transfers, bytes: &[u8]) {
    testing::received(transfers, ID, "s3://data/in/", "rain.csv", &[("", bytes)]).await;
}

async fn deposit(transfers: &Transfers) -> Result<(), Delivery> {
    bounded(transfers.deposit(&ID)).await
}

/// The place, the state and the reason of the deposit.
fn seen(transfers: &Transfers) -> (String, DepositState, String) {
    let deposit = transfers.transfer(&ID).unwrap().unwrap().deposit.unwrap();
    (deposit.path.unwrap_or_default(), deposit.state, deposit.reason)
}

fn assert_done(node: &Node, transfers: &Transfers, place: &str) {
    assert_eq!(seen(transfers), (place.to_owned(), DepositState::Done, String::new()));
    assert_eq!(transfers.transfer(&ID).unwrap().unwrap().path, None);
    assert!(!node.staging().exists());
    assert!(transfers.open_deposits().unwrap().is_empty());
}

fn is_retry(tried: &Result<(), Delivery>, why: &str) -> bool {
    matches!(tried, Err(Delivery::Retry(reason)) if reason.contains(why))
}

#[tokio::test]
async fn a_delivered_file_is_put_where_nothing_is() {
    let (server, objects) = server();
    let node = Node::new().await;
    let transfers = node.transfers(objects);
    file(&transfers, b"1,2,3").await;
    assert_eq!(deposit(&transfers).await, Ok(()));
    assert_done(&node, &transfers, "s3://data/in/rain.csv");
    assert_eq!(server.get("data", "in/rain.csv").unwrap(), "1,2,3");
    let methods: Vec<String> =
        server.requests().iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "PUT"], "is it free, is it ours, put it");
}

#[tokio::test]
async fn what_is_there_already_when_it_is_begun_stays_what_it_is() {
    let (server, objects) = server();
    let home = tempfile::tempdir().unwrap();
    for size in [100, 9 * MIB] {
        let (path, url) = (home.path().join("rain.csv"), format!("s3://data/{size}"));
        std::fs::write(&path, sample(size)).unwrap();
        let depot: &dyn Depot = &objects;
        for _ in 0..2 {
            let upload = depot.begin(&url, size as u64, "mark-1").await.unwrap();
            depot.put(&upload, &path, true).await.unwrap();
        }
        assert!(server.get("data", &size.to_string()).unwrap() == sample(size));
        assert!(server.uploads().is_empty());
    }
    assert_eq!(parts_sent(&server), [1, 2]);
}

#[tokio::test]
async fn what_is_there_already_gets_another_beside_it() {
    let (server, objects) = server();
    let node = Node::new().await;
    let transfers = node.transfers(objects);
    server.put("data", "in/rain.csv", "precious");
    file(&transfers, b"1,2,3").await;
    assert_eq!(deposit(&transfers).await, Ok(()));
    let marked = format!("in/rain-{MARK}.csv");
    assert_done(&node, &transfers, &format!("s3://data/{marked}"));
    assert_eq!(server.get("data", "in/rain.csv").unwrap(), "precious");
    assert_eq!(server.get("data", &marked).unwrap(), "1,2,3");
}

#[tokio::test]
async fn a_file_that_loses_the_race_for_its_name_is_put_beside_it() {
    let (server, objects) = server();
    let node = Node::new().await;
    let transfers = node.transfers(objects);
    let bytes = sample(9 * MIB);
    file(&transfers, &bytes).await;
    let last = "POST /data/in/rain.csv?uploadId";
    server.hold(Some(last));
    let task = tokio::spawn({
        let transfers = transfers.clone();
        async move { deposit(&transfers).await }
    });
    until(|| server.requests().iter().any(|line| line.starts_with(last))).await;
    server.put("data", "in/rain.csv", "precious");
    server.hold(None);
    assert_eq!(task.await.unwrap(), Ok(()));
    let marked = format!("in/rain-{MARK}.csv");
    assert_done(&node, &transfers, &format!("s3://data/{marked}"));
    assert_eq!(server.get("data", "in/rain.csv").unwrap(), "precious");
    assert!(server.get("data", &marked).unwrap() == bytes);
    assert!(server.uploads().is_empty(), "the upload under the other name is ended");
}

#[tokio::test]
async fn a_dataset_is_put_below_its_name() {
    let large = sample(9 * MIB);
    let files: [(&str, &[u8]); 4] =
        [("README.md", b"Rain"), ("2026/none.csv", b""), ("2026/数据 1.csv", b"1,2"), ("b+c.csv", &large)];
    for (taken, name) in [(None, "rain".to_owned()), (Some("in/rain/old"), format!("rain-{MARK}"))] {
        let (server, objects) = server();
        let node = Node::new().await;
        let transfers = node.transfers(objects);
        if let Some(key) = taken {
            server.put("data", key, "precious");
        }
        testing::received(&transfers, ID, "s3://data/in/", "rain", &files).await;
        assert_eq!(deposit(&transfers).await, Ok(()));
        assert_done(&node, &transfers, &format!("s3://data/in/{name}/"));
        for (path, bytes) in &files {
            assert!(server.get("data", &format!("in/{name}/{path}")).unwrap() == *bytes, "{path}");
        }
        assert_eq!(taken.map(|key| server.get("data", key).unwrap()), taken.map(|_| "precious".into()));
    }
}

#[tokio::test]
async fn a_node_that_is_killed_in_the_middle_does_not_send_finished_parts_again() {
    let (mut server, objects) = server();
    let node = Node::new().await;
    let transfers = node.transfers(objects.clone());
    let bytes = sample(40 * MIB + 1);
    file(&transfers, &bytes).await;
    server.hold(Some("partNumber=3"));
    let task = tokio::spawn(async move { transfers.deposit(&ID).await });
    until(|| server.uploads() == [5]).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // What is in the buffers of the connection does not arrive later.
    server.stop();
    server.hold(None);
    server.restart();
    assert!(server.get("data", "in/rain.csv").is_none());

    let transfers = node.transfers(objects);
    assert_eq!(transfers.open_deposits().unwrap(), [ID]);
    assert_eq!(deposit(&transfers).await, Ok(()));
    assert_done(&node, &transfers, "s3://data/in/rain.csv");
    assert!(server.get("data", "in/rain.csv").unwrap() == bytes);
    assert_eq!(parts_sent(&server), [1, 2, 3, 3, 4, 5, 6]);
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_and_comes_back_gets_the_rest() {
    let (mut server, objects) = server();
    let node = Node::new().await;
    let transfers = node.transfers(objects);
    let bytes = sample(32 * MIB);
    file(&transfers, &bytes).await;
    server.hold(Some("partNumber=2"));
    let task = tokio::spawn({
        let transfers = transfers.clone();
        async move { deposit(&transfers).await }
    });
    until(|| server.uploads() == [3]).await;
    server.stop();
    let gone = task.await.unwrap();
    assert!(is_retry(&gone, "unavailable"), "{gone:?}");
    let (place, state, reason) = seen(&transfers);
    assert_eq!((place.as_str(), state), ("s3://data/in/rain.csv", DepositState::Open));
    assert!(reason.contains("unavailable"), "{reason}");
    assert!(node.staging().join("rain.csv").exists());

    server.hold(None);
    server.restart();
    assert_eq!(deposit(&transfers).await, Ok(()));
    assert_done(&node, &transfers, "s3://data/in/rain.csv");
    assert!(server.get("data", "in/rain.csv").unwrap() == bytes);
    assert_eq!(parts_sent(&server), [1, 2, 2, 3, 4]);
}

#[tokio::test]
async fn wrong_credentials_are_shown_and_right_ones_go_on() {
    let server = S3Server::start();
    let right = server.create_bucket("data");
    let wrong = Bucket { secret_access_key: Zeroizing::new("another".to_owned()), ..right.clone() };
    let node = Node::new().await;
    let transfers = node.transfers(objects(wrong));
    file(&transfers, b"1,2,3").await;
    let denied = deposit(&transfers).await;
    assert!(is_retry(&denied, "access denied"), "{denied:?}");
    assert!(seen(&transfers).2.contains("check the access key"), "{:?}", seen(&transfers));
    assert!(node.staging().join("rain.csv").exists());
    let transfers = node.transfers(objects(right));
    assert_eq!(deposit(&transfers).await, Ok(()));
    assert_done(&node, &transfers, "s3://data/in/rain.csv");
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_waited_for() {
    let server = S3Server::start();
    let bucket = server.create_bucket("data");
    let node = Node::new().await;
    let other = Bucket { name: "other".to_owned(), ..bucket.clone() };
    for (configured, why) in [(bucket.clone(), "not found"), (bucket, "no bucket of this name is configured")]
    {
        // The first is configured and does not exist, the second exists and is not configured.
        let missing = if why == "not found" { other.clone() } else { configured };
        let transfers = node.transfers(objects(missing));
        testing::received(&transfers, ID, "s3://other/", "rain", &[("a.csv", b"1")]).await;
        let waits = deposit(&transfers).await;
        assert!(is_retry(&waits, why), "{waits:?}");
    }
    server.create_bucket("other");
    let transfers = node.transfers(objects(other));
    assert_eq!(deposit(&transfers).await, Ok(()));
    assert_done(&node, &transfers, "s3://other/rain/");
}

#[tokio::test]
async fn a_place_is_checked_without_asking_the_server() {
    let (server, objects) = server();
    let long = format!("s3://data/{}/", "k".repeat(1100));
    for (url, reason) in [
        ("s3://data/", ""),
        ("s3://data/in/2026/", ""),
        ("s3://data/in/rain.csv", ""),
        ("s3://elsewhere/", "elsewhere: no bucket of this name is configured"),
        ("https://data.example/in/", "expected"),
        ("ftp://data/", "begins with s3://"),
        ("s3://data/a//b/", "no empty segments"),
        ("s3://data/../", "`..`"),
        ("s3://data/#/", "fragment"),
        (&long, "longer than 1024 bytes"),
    ] {
        let said = objects.check(url).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(said.contains(reason) && said.is_empty() == reason.is_empty(), "{url}: {said}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_begun_again() {
    let (_server, objects) = server();
    let depot: &dyn Depot = &objects;
    let upload = depot.begin("s3://data/in/rain.csv", 9 << 20, "mark-1").await.unwrap();
    depot.abort(&upload).await.unwrap();
    depot.abort(&upload).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("rain.csv");
    std::fs::write(&path, sample(9 * MIB)).unwrap();
    let lost = depot.put(&upload, &path, false).await;
    assert!(matches!(lost, Err(DepotError::Lost(_))), "{lost:?}");
    let gone = depot.put(&upload, Path::new("gone"), false).await;
    assert!(matches!(gone, Err(DepotError::Again(_))), "{gone:?}");
    let damaged = depot.put(b"{}", &path, false).await;
    assert!(matches!(damaged, Err(DepotError::Never(_))), "{damaged:?}");
    assert!(depot.is_free("s3://data/in/rain.csv").await.unwrap());
    assert!(depot.is_free("s3://data/in/").await.unwrap());
    let upload = depot.begin("s3://data/in/rain.csv", 9 << 20, "mark-1").await.unwrap();
    depot.put(&upload, &path, false).await.unwrap();
    assert!(!depot.is_free("s3://data/in/rain.csv").await.unwrap());
    assert!(!depot.is_free("s3://data/in/").await.unwrap());
    let taken = depot.begin("s3://data/in/rain.csv", 9 << 20, "mark-2").await;
    assert!(matches!(taken, Err(DepotError::Exists(_))), "{taken:?}");
}
