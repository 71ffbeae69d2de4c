//! Follows `docs/transfers.md` to the letter, on the nodes of the quickstart.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::document::Reader;
use crate::quickstart::DOCUMENT as QUICKSTART;
use crate::support::{Running, ask, huitong};

const GUIDE: &str = include_str!("../../../../docs/transfers.md");

#[test]
fn the_guide_works_as_written() {
    let (running, _) = QUICKSTART.split_once("## 6. Stop").unwrap();
    let mut reader = Reader::of(QUICKSTART);
    reader.follow(running, |_, _| {});
    // A program that follows everything meanwhile.
    let events = reader.path("consumer").join("events.jsonl");
    let mut watch = huitong();
    watch.args(["transfer", "watch", "-o", "json", "-c"]).arg(reader.path("consumer").join("node.toml"));
    let watch = Running(watch.stdout(std::fs::File::create(&events).unwrap()).spawn().unwrap());
    let printed = reader.follow(GUIDE, |_, _| {});
    let shown = || -> Vec<serde_json::Value> {
        let events = std::fs::read_to_string(&events).unwrap();
        events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let count = |events: &[serde_json::Value], state: &str| {
        events.iter().filter(|event| event["state"] == state).count()
    };
    // It looks some times a second, and may be about to.
    let limit = Instant::now() + Duration::from_secs(10);
    while count(&shown(), "COMPLETED") < 6 && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(watch);
    let events = shown();
    let ended = |state: &str| count(&events, state);
    // Of the quickstart nothing was under way any more.
    assert_eq!((ended("COMPLETED"), ended("TERMINATED")), (6, 1), "{events:?}");
    // What lasts for less than a tenth of a second may not be shown.
    assert!(ended("STARTED") > 2, "{events:?}");
    for sign in [
        "each contract  no limit",
        "node           65,536 bytes a second",
        "transfer.paused",
        "after office hours",
        "transfer.cancelled",
        "1,021,417 bytes in 4 files",
        "30 2 * * * UTC, and when the provider pushes",
        "FINALIZED, suspended",
        "suspended by the provider since",
        "FINALIZED, in force",
        "FINALIZED, ended",
        "4,000,000 bytes in 4 of 4 groups, ",
    ] {
        assert!(printed.contains(sign), "{sign:?} is missing:\n{printed}");
    }
    let mut figures = Vec::new();
    // The consumer also keeps the one that was refused in the quickstart.
    for (node, refused) in [("provider", 0), ("consumer", 1)] {
        let config = reader.path(node).join("node.toml");
        let listed = ask(&config, &["transfer", "list"]);
        let listed = listed["transfers"].as_array().unwrap();
        let states: Vec<_> = listed.iter().map(|one| one["state"].as_str().unwrap()).collect();
        let completed = states.iter().filter(|state| **state == "COMPLETED").count();
        let ended = states.iter().filter(|state| **state == "TERMINATED").count();
        assert_eq!((completed, ended), (7, refused + 1), "{node}: {states:?}\n{printed}");
        assert!(listed[0]["metering"]["bytes_per_second"].as_u64().unwrap() > 0, "{}", listed[0]);
        figures.push([listed[0]["metering"].clone(), listed[1]["metering"].clone()]);
        let contracts = ask(&config, &["contract", "list"]);
        let ended = contracts["negotiations"].as_array().unwrap();
        let ended = ended.iter().find(|one| one["product_name"] == "Sensor readings").unwrap();
        let hold = &ended["holds"][0];
        assert_eq!((&ended["national_state"], &ended["standing"]), (&json!("06"), &json!("ended")));
        assert_eq!((&hold["by"], &hold["reason"]), (&json!("consumer"), &json!("the season is over")));
    }
    assert_eq!(figures[0], figures[1], "both sides count what is signed");
}
