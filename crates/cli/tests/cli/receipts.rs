//! A receipt in the hands of a third party.

use std::path::Path;

use huitong_identity::{Credential, Role, Trust};
use huitong_ids::NodeId;
use huitong_ledger::{
    Checkpoint, ForkProof, LogVerifier, QuorumPolicy, SignedCheckpoint, TlogProof, WitnessVerifier,
    origin_of, witness_name_of,
};
use huitong_proof::cbor::{self, Fields, Limits, Map};
use huitong_proof::{
    Anchor, ChannelHead, Digest, Draft, Envelope, Kind, Signing, SigningKey, Statement, Timestamp,
};
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
    let said = ask(&config, &["ledger", "policy"]);
    assert!(said["warning"].as_str().unwrap().contains("at least 4 witnesses"), "{said}");
    said["policy"].as_str().unwrap().to_owned()
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

/// A node with two signed checkpoints of one size, and the trust file of the registrar that vouches for its keys.
struct Forked {
    directory: tempfile::TempDir,
    trust: Trust,
    registrar: SigningKey,
    node: NodeId,
}

impl Forked {
    fn new() -> Self {
        let registrar = SigningKey::from_seed(&[9; 32]);
        let mut trust = trust();
        trust.registrars[0].statement_key = registrar.verifying_key();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("trust.json"), trust.to_json()).unwrap();
        let node = NodeId::parse("591440300MA5DEMA08P44035BS0SPPYV").unwrap();
        Self { directory, trust, registrar, node }
    }

    fn log(&self, key: &SigningKey) -> LogVerifier {
        LogVerifier::new(origin_of(self.node.as_str()), key.verifying_key()).unwrap()
    }

    fn proof(&self, key: &SigningKey) -> ForkProof {
        let signed = |root: &[u8]| {
            let (origin, root) = (origin_of(self.node.as_str()), Digest::sha256(root));
            SignedCheckpoint::sign(Checkpoint { origin, size: 8, root }, key).text().to_owned()
        };
        ForkProof::of_checkpoints(self.log(key), &signed(b"one"), &signed(b"other")).unwrap()
    }

    fn statement(&self, key: &SigningKey, issuer: &str, kind: Kind, detail: Map) -> Statement {
        let draft = Draft {
            kind,
            audience: self.node.to_string(),
            subject: [0; 16],
            agreement: Digest::ZERO,
            reference: Digest::ZERO,
            detail,
        };
        let signing = Signing {
            key,
            space: &self.trust.space,
            issuer,
            channel: ChannelHead::START,
            anchor: Anchor::none(),
            time: Timestamp::from_millis(1_800_000_000_000),
            salt: [0; 16],
        };
        Statement::sign(draft, signing).unwrap()
    }

    /// The CREDENTIAL statement that binds this key to the node, signed by whoever.
    fn credential(&self, registrar: &SigningKey, key: &SigningKey) -> Vec<u8> {
        let issuer = self.trust.registrars[0].node.as_str();
        let credential = Credential {
            node: self.node.clone(),
            entity: self.trust.registrars[0].entity.clone(),
            name: "Example Forger".to_owned(),
            domain: "example.com".to_owned(),
            tls_key: Digest::sha256(b"tls"),
            statement_key: key.verifying_key(),
            log: self.log(key),
            witness: WitnessVerifier::new(witness_name_of(self.node.as_str()), key.verifying_key()).unwrap(),
            roles: vec![Role::Provider],
            not_before: Timestamp::from_millis(1_700_000_000_000),
            not_after: Timestamp::from_millis(1_900_000_000_000),
            registrar: issuer.to_owned(),
        };
        self.statement(registrar, issuer, Kind::Credential, credential.to_detail()).bytes().to_vec()
    }

    /// Exit code, standard output with errors, and the outcome of `-o json` if there is one.
    fn verify(&self, text: &[u8], trusting: bool) -> (i32, String, Option<String>) {
        let file = self.directory.path().join("node.fork");
        std::fs::write(&file, text).unwrap();
        let run = |form: &str| {
            let mut command = huitong();
            command.args(["ledger", "fork", "verify", "-o", form]).arg(&file);
            if trusting {
                command.arg("--trust").arg(self.directory.path().join("trust.json"));
            }
            command.output().unwrap()
        };
        let (text, json) = (run("text"), run("json"));
        assert_eq!(text.status.code(), json.status.code());
        let outcome = serde_json::from_str::<Value>(&stdout(&json)).ok();
        let outcome = outcome.and_then(|json| json["outcome"].as_str().map(str::to_owned));
        (text.status.code().unwrap(), stdout(&text) + &stderr(&text), outcome)
    }
}

#[test]
fn a_fork_proof_convicts_without_a_node() {
    let forked = Forked::new();
    let (key, other_key) = (SigningKey::from_seed(&[7; 32]), SigningKey::from_seed(&[8; 32]));
    let credential = forked.credential(&forked.registrar, &key);
    let proof = forked.proof(&key).with_credential(credential.clone());
    let (code, text, outcome) = forked.verify(proof.to_text().as_bytes(), true);
    assert_eq!((code, outcome.as_deref()), (0, Some("forked")), "{text}");
    assert!(text.starts_with("FORKED  ") && text.contains(forked.node.as_str()), "{text}");
    assert!(text.contains("Example Forger"), "{text}");

    // Two statements with one number.
    let said = |key: &SigningKey, issuer: &str, word: &str| {
        forked.statement(key, issuer, Kind::Offer, Map::new().text(1, word)).bytes().to_vec()
    };
    let twice = |key: &SigningKey, issuer: &str| {
        let (one, other) = (said(key, issuer, "one"), said(key, issuer, "other"));
        ForkProof::of_statements(key.verifying_key(), forked.trust.space, &one, &other).unwrap()
    };
    let of_node = twice(&key, forked.node.as_str()).with_credential(credential.clone()).to_text();
    let (code, text, outcome) = forked.verify(of_node.as_bytes(), true);
    assert_eq!((code, outcome.as_deref()), (0, Some("forked")), "{text}");

    // Without a trust file, or without a credential, nobody is convicted.
    let bare = forked.proof(&key).to_text();
    for (text, trusting) in [(proof.to_text(), false), (bare.clone(), false), (bare, true)] {
        let (code, text, outcome) = forked.verify(text.as_bytes(), trusting);
        assert_eq!((code, outcome.as_deref()), (4, Some("not_attributed")), "{text}");
        assert!(text.starts_with("NOT ATTRIBUTED  ") && text.contains("next: "), "{text}");
    }

    // Anybody can make a key and name it after another node.
    let forger = SigningKey::from_seed(&[6; 32]);
    let issuer_of_another = trust().registrars[0].node.to_string();
    for wrong in [
        forked.proof(&other_key).with_credential(credential.clone()),
        forked.proof(&forger).with_credential(forked.credential(&forger, &forger)),
        forked.proof(&key).with_credential(b"nothing".to_vec()),
        twice(&other_key, forked.node.as_str()).with_credential(credential.clone()),
        twice(&key, &issuer_of_another).with_credential(credential),
    ] {
        let (code, text, outcome) = forked.verify(wrong.to_text().as_bytes(), true);
        assert_eq!((code, outcome.as_deref()), (3, Some("not_proven")), "{text}");
        assert!(text.starts_with("NOT PROVEN  "), "{text}");
    }
}

#[test]
fn what_is_no_fork_proof_convicts_nobody() {
    let forked = Forked::new();
    let proof = forked.proof(&SigningKey::from_seed(&[7; 32]));
    let ForkProof::Checkpoints { a, b, .. } = &proof else { panic!("another form") };
    // The same checkpoint twice.
    let (code, text, outcome) =
        forked.verify(proof.to_text().replace(b.trim_end(), a.trim_end()).as_bytes(), true);
    assert_eq!((code, outcome.as_deref()), (3, Some("not_proven")), "{text}");
    for unreadable in [&b""[..], b"huitong/fork-proof/v1\n", b"\xff", Demo::shared().receipt().as_slice()] {
        let (code, text, _) = forked.verify(unreadable, true);
        assert_eq!(code, 5, "{text}");
        assert!(text.contains("\n  next: "), "{text}");
    }
}

#[test]
fn a_receipt_comes_apart_into_proofs_that_other_tools_read() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("proofs");
    let run = |file: &Path| {
        huitong().args(["receipt", "proofs"]).arg(file).arg("--out").arg(&out).output().unwrap()
    };
    let done = run(&Demo::shared().path("demo.receipt"));
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    // The keys of the two ledgers, from the credentials at the head of the receipt.
    let (receipt, trust) = (Demo::shared().receipt(), trust());
    let mut fields = Fields::decode(&receipt, Limits { bytes: receipt.len(), depth: 8 }, "receipt").unwrap();
    let logs = fields.array(3, "statements").unwrap().into_iter().take(2).map(|statement| {
        let cbor::Value::Bytes(statement) = statement else { panic!("no bytes") };
        let envelope = Envelope::decode(statement).unwrap();
        let statement = envelope.verify(&trust.registrars[0].statement_key, &trust.space).unwrap();
        Credential::from_statement(&statement).unwrap().log
    });
    let logs: Vec<LogVerifier> = logs.collect();
    let mut checked = 0;
    for number in 0.. {
        let Ok(statement) = std::fs::read(out.join(format!("{number:02}.statement"))) else { break };
        for (whose, log) in ["provider", "consumer"].into_iter().zip(&logs) {
            let text = std::fs::read_to_string(out.join(format!("{number:02}.{whose}.tlog-proof"))).unwrap();
            TlogProof::parse(&text).unwrap().verify(&statement, log).unwrap();
            checked += 1;
        }
    }
    assert!(checked >= 14, "{checked}");
    let file = directory.path().join("no.receipt");
    std::fs::write(&file, b"no receipt").unwrap();
    assert_eq!(run(&file).status.code(), Some(5));
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
