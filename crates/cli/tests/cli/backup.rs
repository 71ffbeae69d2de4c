//! Follows `docs/operations/backup.md` to the letter, on the nodes of the quickstart.

use crate::document::Reader;
use crate::quickstart::DOCUMENT as QUICKSTART;
use crate::support::get;

const DRILL: &str = include_str!("../../../../docs/operations/backup.md");

/// Where the provider's health is, as the quickstart says it.
const PROVIDER: &str = "127.0.0.1:7580";

#[test]
fn the_drill_works_as_written() {
    let (running, _) = QUICKSTART.split_once("## 6. Stop").unwrap();
    let mut reader = Reader::of(QUICKSTART);
    reader.follow(running, |_, _| {});
    let mut seen = Vec::new();
    let printed = reader.follow(DRILL, |reader, said| {
        if said.contains("SAFE MODE") {
            seen.push(get(&reader.address(PROVIDER), "/readyz"));
        }
    });
    assert_eq!(seen.len(), 1, "{printed}");
    let (status, why) = &seen[0];
    assert_eq!(*status, 503, "{why}");
    assert!(why.contains("signs nothing"), "{why}");
    for sign in [
        "backed up to ../backup",
        "restored ",
        "SAFE MODE, nothing is signed",
        "ready         no:",
        " statements came back, of 0 only the hash is left",
        "look through the contracts and transfers",
        "CLEAN",
    ] {
        assert!(printed.contains(sign), "{sign:?} is missing:\n{printed}");
    }
    assert_eq!(printed.matches("VALID ").count(), 2, "{printed}");
    assert_eq!(printed.matches("the node signs").count(), 3, "{printed}");
    assert_eq!(get(&reader.address(PROVIDER), "/readyz").0, 200);
    assert!(!reader.path("provider/data/store/restored").exists());
    assert!(!reader.path("consumer/data/store/restored").exists());
}
