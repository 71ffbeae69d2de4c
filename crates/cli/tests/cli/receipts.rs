//! A receipt in the hands of a third party.

use std::path::Path;

use huitong_identity::Trust;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_transfer::receipt::{Outcome, verify};
use serde_json::Value;

use crate::support::{Demo, huitong, stderr, stdout};

fn trust() -> Trust {
    Trust::from_json(&std::fs::read_to_string(Demo::shared().path("trust.json")).unwrap()).unwrap()
}

/// Verifies these bytes with the binary; gives the exit code and what it printed.
fn verified(receipt: &[u8], trust: &Path, form: &str) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("receipt");
    std::fs::write(&file, receipt).unwrap();
    let done = huitong()
        .args(["receipt", "verify"])
        .arg(&file)
        .arg("--trust")
        .arg(trust)
        .args(["-o", form])
        .output()
        .unwrap();
    (done.status.code().unwrap(), stdout(&done) + &stderr(&done))
}

#[test]
fn a_valid_receipt_proves_its_claims() {
    let demo = Demo::shared();
    let (code, text) = verified(&demo.receipt(), &demo.path("trust.json"), "text");
    assert_eq!(code, 0, "{text}");
    let contract = demo.summary["contract_id"].as_str().unwrap();
    let blake3 = demo.summary["blake3"].as_str().unwrap();
    for claim in ["credential", "agreement", "asset", "offer", "acknowledgement", "final", "ledger"] {
        let line = text.lines().find(|line| line.starts_with(&format!("proven  {claim}:")));
        assert!(line.is_some(), "{claim} is missing:\n{text}");
    }
    assert!(text.contains(contract) && text.contains(blake3) && text.contains("121417 bytes"), "{text}");

    let (code, json) = verified(&demo.receipt(), &demo.path("trust.json"), "json");
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["outcome"], "valid");
    assert_eq!(report["facts"]["contract"], contract);
    assert_eq!(report["facts"]["bytes"], 121_417);

    let shown = huitong().args(["receipt", "show"]).arg(demo.path("demo.receipt")).output().unwrap();
    assert_eq!(shown.status.code(), Some(0));
    assert!(stdout(&shown).contains(contract), "{}", stdout(&shown));
}

#[test]
fn exit_codes_tell_the_outcomes_apart() {
    let demo = Demo::shared();
    let (receipt, good) = (demo.receipt(), demo.path("trust.json"));
    let last = receipt.len() - 1;
    let mut false_proof = receipt.clone();
    false_proof[last] ^= 1;
    assert_eq!(verified(&false_proof, &good, "text").0, 3);
    assert_eq!(verified(&without_the_consumers_log(&receipt), &good, "text").0, 4);
    assert_eq!(verified(b"no receipt", &good, "text").0, 5);
    assert_eq!(verified(b"", &good, "text").0, 5);
    assert_eq!(verified(&receipt[..last], &good, "text").0, 5);
    assert_eq!(verified(&receipt, Path::new("/nonexistent"), "text").0, 5);
    assert_eq!(verified(&receipt, &demo.path("demo.receipt"), "text").0, 5);

    // A receipt of a data space that the verifier does not trust.
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("trust.json");
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let mut changed: Value = serde_json::from_str(&std::fs::read_to_string(&good).unwrap()).unwrap();
    changed["registrars"][0]["statement_key"] = key.into();
    std::fs::write(&other, changed.to_string()).unwrap();
    let (code, text) = verified(&receipt, &other, "text");
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("the provider's credential"), "{text}");
}

/// The same receipt with one log taken away.
fn without_the_consumers_log(receipt: &[u8]) -> Vec<u8> {
    let mut fields = Fields::decode(receipt, Limits { bytes: receipt.len(), depth: 8 }, "receipt").unwrap();
    let mut logs = fields.array(4, "logs").unwrap();
    logs.pop();
    Map::new()
        .text(1, fields.text(1, "format").unwrap())
        .bytes(2, &fields.bytes(2, "agreement").unwrap())
        .array(3, fields.array(3, "statements").unwrap())
        .array(4, logs)
        .encode()
}

#[test]
fn no_byte_can_change_unnoticed() {
    let (receipt, trust) = (Demo::shared().receipt(), trust());
    assert_eq!(verify(&receipt, &trust, None).outcome(), Outcome::Valid);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (receipt, trust) = (&receipt, &trust);
            scope.spawn(move || {
                for position in (thread..receipt.len()).step_by(threads) {
                    let mut changed = receipt.clone();
                    // Another bit in each place, so that all eight are covered.
                    changed[position] ^= 1 << (position % 8);
                    let report = verify(&changed, trust, None);
                    assert_ne!(report.outcome(), Outcome::Valid, "byte {position}");
                    assert!(!report.problems.is_empty() && report.facts.is_none(), "byte {position}");
                }
            });
        }
    });
}

#[test]
fn no_prefix_is_a_receipt() {
    let (receipt, trust) = (Demo::shared().receipt(), trust());
    for length in 0..receipt.len() {
        let outcome = verify(&receipt[..length], &trust, None).outcome();
        assert_eq!(outcome, Outcome::Unreadable, "{length} bytes");
    }
}
