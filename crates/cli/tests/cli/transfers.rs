//! Follows `docs/transfers.md` to the letter, on the nodes of the quickstart.

use crate::document::Reader;
use crate::quickstart::DOCUMENT as QUICKSTART;
use crate::support::ask;

const GUIDE: &str = include_str!("../../../../docs/transfers.md");

#[test]
fn the_guide_works_as_written() {
    let (running, _) = QUICKSTART.split_once("## 6. Stop").unwrap();
    let mut reader = Reader::of(QUICKSTART);
    reader.follow(running, |_, _| {});
    let printed = reader.follow(GUIDE, |_, _| {});
    for sign in [
        "each contract  no limit",
        "node           65,536 bytes a second",
        "transfer.paused",
        "after office hours",
        "transfer.cancelled",
        "1,021,417 bytes in 4 files",
        "30 2 * * * UTC, and when the provider pushes",
    ] {
        assert!(printed.contains(sign), "{sign:?} is missing:\n{printed}");
    }
    let mut states = [Vec::new(), Vec::new()];
    for (node, states) in ["provider", "consumer"].into_iter().zip(&mut states) {
        let listed = ask(&reader.path(node).join("node.toml"), &["transfer", "list"]);
        for transfer in listed["transfers"].as_array().unwrap() {
            states.push(transfer["state"].as_str().unwrap().to_owned());
        }
    }
    for states in states {
        let ended = states.iter().filter(|state| *state == "TERMINATED").count();
        let completed = states.iter().filter(|state| *state == "COMPLETED").count();
        // Three of them are those of the quickstart.
        assert_eq!((completed, ended, states.len()), (6, 2, 8), "{states:?}\n{printed}");
    }
}
