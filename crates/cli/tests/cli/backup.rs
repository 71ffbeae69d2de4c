//! Follows `docs/operations/backup.md` to the letter, on the nodes of the quickstart.

use huitong_proof::Digest;

use crate::document::Reader;
use crate::quickstart::DOCUMENT as QUICKSTART;
use crate::support::{ask, get, wait_for};

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
        } else if seen.is_empty() && said.contains("cosigned") {
            until_mirrored(reader);
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
    assert_eq!(get(&reader.address(PROVIDER), "/readyz").0, 200);
    for node in ["provider", "consumer"] {
        assert!(!reader.path(node).join("data/store/restored").exists());
        let alerts = ask(&reader.path(node).join("node.toml"), &["ledger", "alerts", "--all"]);
        assert_eq!(alerts["alerts"].as_array().unwrap().len(), 0, "{alerts}");
    }
}

/// The witness fetches the hashes of what it has cosigned a moment later. Only people are slower than that.
fn until_mirrored(reader: &Reader) {
    let provider = reader.path("provider/node.toml");
    let signed = ask(&provider, &["ledger", "status"])["signed_size"].as_u64().unwrap();
    let origin = ask(&provider, &["status"])["ledger_origin"].as_str().unwrap().to_owned();
    let mirror =
        reader.path("regional/data/store/mirror").join(Digest::sha256(origin.as_bytes()).to_string());
    wait_for("the witness has the hashes of all that it has cosigned", || {
        let files = std::fs::read_dir(&mirror).into_iter().flatten();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        bytes >= signed * 32
    });
}
