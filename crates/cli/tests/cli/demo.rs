//! `huitong demo` and what it leaves.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Demo, Running, demo_in, huitong, is_node, pid_of, stderr, stdout, wait_for};

const MIB: usize = 1 << 20;

#[test]
fn tells_the_story_and_leaves_the_evidence() {
    let demo = Demo::shared();
    let published = include_bytes!("../../../../tests/data/weather-observations.csv");
    assert_eq!(std::fs::read(demo.path("received/weather-observations.csv")).unwrap(), published);
    let summary = &demo.summary;
    assert_eq!(summary["bytes"], published.len());
    assert_eq!(summary["blake3"].as_str().unwrap().len(), 64);
    assert_eq!(summary["product_id"].as_str().unwrap().len(), 32);
    assert_eq!(summary["contract_id"].as_str().unwrap().len(), 47);
    assert_eq!(summary["receipt"], demo.path("demo.receipt").to_str().unwrap());
    assert_eq!(summary["trust"], demo.path("trust.json").to_str().unwrap());
    for step in ["start", "enrol", "publish", "negotiate", "transfer", "verify", "refusals", "total"] {
        assert!(summary["seconds"][step].is_number(), "{step}: {summary}");
    }
}

#[test]
fn every_size_of_file() {
    // At the same time: most of each run is the wait for a contract's end.
    std::thread::scope(|scope| {
        for size in [0, 1, MIB - 1, MIB, MIB + 1] {
            scope.spawn(move || {
                let data: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
                let demo = Demo::run(Some(&data));
                assert_eq!(demo.summary["bytes"], size);
                assert!(std::fs::read(demo.path("received/dataset.bin")).unwrap() == data, "{size} bytes");
            });
        }
    });
}

#[test]
fn the_text_shows_contract_receipt_and_refusals() {
    let home = tempfile::tempdir().unwrap();
    let done = huitong().arg("demo").env("TMPDIR", home.path()).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}\n{}", stdout(&done), stderr(&done));
    let story = stdout(&done);
    for part in [
        "Contract 8",
        "合约 8",
        "VALID   121,417 bytes",
        "policy.permission[0].count",
        "policy.permission[0].time",
        "contract.product",
        "contract.party",
        "identity.revoked",
    ] {
        assert!(story.contains(part), "{part} is missing:\n{story}");
    }
    assert_eq!(story.matches("0 payload bytes arrived").count(), 5, "{story}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "temporary files are left");
}

#[test]
fn does_not_touch_a_directory_with_something_in_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("demo")).unwrap();
    std::fs::write(directory.path().join("demo").join("mine"), "mine").unwrap();
    let done = demo_in(directory.path(), None).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    let error: Value = serde_json::from_str(&stderr(&done)).unwrap();
    assert_eq!(error["error"]["code"], "demo.dir");
    assert_eq!(std::fs::read_dir(directory.path().join("demo")).unwrap().count(), 1);
}

/// Runs the demo until its first node is there, does something to the demo, and waits until the node is gone.
fn first_node_goes_with(end: impl FnOnce(&Running)) -> Option<i32> {
    let directory = tempfile::tempdir().unwrap();
    let child = demo_in(directory.path(), None).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut demo = Running(child);
    let node = directory.path().join("demo").join("regional");
    wait_for("the first node runs", || pid_of(&node).is_some_and(is_node));
    let pid = pid_of(&node).unwrap();
    end(&demo);
    let code = demo.0.wait().unwrap().code();
    wait_for("the node is gone", || !is_node(pid));
    code
}

#[test]
fn an_interrupted_demo_takes_its_nodes_along() {
    assert_eq!(first_node_goes_with(|demo| demo.signal(Signal::INT)), Some(1));
}

#[test]
fn a_killed_demo_takes_its_nodes_along() {
    assert_eq!(first_node_goes_with(|demo| demo.signal(Signal::KILL)), None);
}
