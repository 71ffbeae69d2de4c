//! A receipt in the hands of a third party.

use std::path::Path;

use huitong_identity::Trust;
use huitong_ledger::{Checkpoint, ForkProof, LogVerifier, QuorumPolicy, SignedCheckpoint, WitnessVerifier};
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_proof::{Digest, SigningKey};
use huitong_transfer::receipt::{Outcome, verify};
use serde_json::Value;

use crate::store::copy;
use crate::support::{Demo, Running, ask, huitong, stderr, stdout};

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

/// The quorum policy of the demo's provider, as its node tells it.
fn policy_in_force() -> String {
    let home = tempfile::tempdir().unwrap();
    let (provider, config) = (Demo::shared().path("provider"), home.path().join("node.toml"));
    copy(&provider.join("data"), &home.path().join("data"));
    let text = std::fs::read_to_string(provider.join("node.toml")).unwrap();
    std::fs::write(&config, text.replace(provider.to_str().unwrap(), home.path().to_str().unwrap())).unwrap();
    let _running = Running::serve_until_it_answers(&config);
    ask(&config, &["ledger", "policy"])["policy"].as_str().unwrap().to_owned()
}

#[test]
fn a_policy_decides_how_many_witnesses_are_enough() {
    let demo = Demo::shared();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.txt");
    let verify = |policy: &[u8]| {
        std::fs::write(&file, policy).unwrap();
        let mut command = huitong();
        command.args(["receipt", "verify", "-o", "json"]).arg(demo.path("demo.receipt"));
        command.arg("--trust").arg(demo.path("trust.json")).arg("--policy").arg(&file);
        let done = command.output().unwrap();
        (done.status.code().unwrap(), stdout(&done), stderr(&done))
    };
    let policy = policy_in_force();
    let (code, json, error) = verify(policy.as_bytes());
    assert_eq!(code, 0, "{json}{error}");
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&report["outcome"], &report["finality"]), (&"valid".into(), &"final".into()), "{report}");
    assert!(report["not_after"].is_string(), "{report}");
    for ledger in report["ledgers"].as_array().unwrap() {
        assert_eq!(ledger["cosignatures"].as_array().unwrap().len(), 1, "{ledger}");
    }

    // The same witness and one that has never heard of these ledgers, and both are needed.
    let stranger = SigningKey::from_seed(&[9; 32]).verifying_key();
    let stranger = WitnessVerifier::new("stranger.example/witness", stranger).unwrap();
    let mut witnesses = policy.parse::<QuorumPolicy>().unwrap().witnesses().to_vec();
    witnesses.push(("stranger".to_owned(), stranger, None));
    let (code, json, error) =
        verify(QuorumPolicy::k_of(2, witnesses.clone()).unwrap().to_string().as_bytes());
    assert_eq!(code, 8, "{json}{error}");
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["outcome"], "policy_not_met");
    assert!(json.contains("stranger"), "{json}");
    let (code, json, _) = verify(QuorumPolicy::k_of(1, witnesses).unwrap().to_string().as_bytes());
    assert_eq!(code, 0, "{json}");

    for unreadable in [&b"quorum nobody\n"[..], b"", b"\xff\xfe", demo.receipt().as_slice()] {
        let (code, json, error) = verify(unreadable);
        assert_eq!(code, 5, "{json}{error}");
        assert!(error.contains("policy.txt"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    let done = huitong()
        .args(["receipt", "verify"])
        .arg(demo.path("demo.receipt"))
        .arg("--trust")
        .arg(demo.path("trust.json"))
        .arg("--policy")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(5), "{}", stderr(&done));
}

#[test]
fn a_fork_proof_convicts_without_a_node() {
    let key = SigningKey::from_seed(&[7; 32]);
    let origin = "591440300ma5dema08p44035bs0sppyv/huitong-log/1";
    let log = LogVerifier::new(origin, key.verifying_key()).unwrap();
    let signed = |root: &[u8]| {
        let checkpoint = Checkpoint { origin: origin.to_owned(), size: 8, root: Digest::sha256(root) };
        SignedCheckpoint::sign(checkpoint, &key).text().to_owned()
    };
    let proof = ForkProof::of_checkpoints(log, &signed(b"one"), &signed(b"other")).unwrap().to_text();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.fork");
    let verify = |text: &[u8], form: &str| {
        std::fs::write(&file, text).unwrap();
        let done = huitong().args(["ledger", "fork", "verify", "-o", form]).arg(&file).output().unwrap();
        (done.status.code().unwrap(), stdout(&done) + &stderr(&done))
    };
    let (code, text) = verify(proof.as_bytes(), "text");
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("FORKED  ") && text.contains(origin), "{text}");
    let (code, json) = verify(proof.as_bytes(), "json");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&json).unwrap()["outcome"].as_str()),
        (0, Some("forked"))
    );

    // The same checkpoint twice, which is no fork.
    let (one, other) = (signed(b"one"), signed(b"other"));
    let (code, text) = verify(proof.replace(other.trim_end(), one.trim_end()).as_bytes(), "text");
    assert_eq!(code, 3, "{text}");
    assert!(text.starts_with("NOT PROVEN  "), "{text}");
    for unreadable in [&b""[..], b"huitong/fork-proof/v1\n", b"\xff", Demo::shared().receipt().as_slice()] {
        let (code, text) = verify(unreadable, "text");
        assert_eq!(code, 5, "{text}");
        assert!(text.contains("\n  next: "), "{text}");
    }
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
        .array(5, fields.array(5, "witnesses").unwrap())
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
