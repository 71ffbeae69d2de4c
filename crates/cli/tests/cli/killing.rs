//! Nodes that are killed at any moment: the story goes on, nothing is lost and nothing is done twice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{
    Demo, Running, ask, demo_in, get, huitong, is_node, kill, pid_of, stderr, stdout, wait_for,
};
use rustix::process::Signal;

const SIZE: usize = 64 << 20;
const KILLS: usize = 8;
const NODES: [&str; 3] = ["regional", "provider", "consumer"];

#[test]
fn nodes_may_be_killed_at_any_moment() {
    for seed in [1, 2] {
        let demo = killed(seed);
        let data = std::fs::read(demo.directory.path().join("dataset.bin")).unwrap();
        assert!(std::fs::read(demo.path("received/dataset.bin")).unwrap() == data, "seed {seed}");
        let verified = huitong()
            .args(["receipt", "verify"])
            .arg(demo.path("demo.receipt"))
            .arg("--trust")
            .arg(demo.path("trust.json"))
            .output()
            .unwrap();
        assert_eq!(verified.status.code(), Some(0), "seed {seed}: {}", stdout(&verified));
        once(&demo);
    }
}

/// Runs the demo while nodes are killed, at moments and in an order that the seed decides.
fn killed(seed: u64) -> Demo {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let data: Vec<u8> = (0..SIZE / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let child =
        demo_in(directory.path(), Some(&data)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut demo = Running(child);
    let mut due = Instant::now();
    let mut kills = 0;
    while kills < KILLS && demo.0.try_wait().unwrap().is_none() {
        due += Duration::from_millis(random.next() % 900);
        // A moment of the schedule, not a wait for something.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let node = NODES[usize::try_from(random.next() % 3).unwrap()];
        if let Some(pid) = pid_of(&directory.path().join("demo").join(node)).filter(|pid| is_node(*pid)) {
            kill(pid, Signal::KILL);
            kills += 1;
        }
    }
    assert!(kills > 2, "seed {seed}: only {kills} nodes were killed");
    let status = demo.0.wait().unwrap();
    let read = |pipe: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let done = std::process::Output {
        status,
        stdout: read(demo.0.stdout.as_mut().unwrap()),
        stderr: read(demo.0.stderr.as_mut().unwrap()),
    };
    assert!(status.success(), "seed {seed}: {}", stderr(&done));
    Demo::finished(directory, &done)
}

/// The first contract was delivered and counted exactly once.
fn once(demo: &Demo) {
    let contract = &demo.summary["contract_id"];
    let consumer = demo.path("consumer/node.toml");
    let running = Running::serve_until_it_answers(&consumer);
    let transfers = ask(&consumer, &["transfer", "list"]);
    let completed: Vec<_> = transfers["transfers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["contract"] == *contract && one["state"] == "COMPLETED")
        .collect();
    assert_eq!(completed.len(), 1, "{transfers}");
    drop(running);
    let provider = demo.path("provider/node.toml");
    let _running = Running::serve_until_it_answers(&provider);
    let ledger = ask(&provider, &["ledger", "list", "--limit", "1000"]);
    let of_kind = |kind: &str| {
        let statements = ledger["statements"].as_array().unwrap();
        statements.iter().filter(|one| one["kind"].as_str().unwrap().eq_ignore_ascii_case(kind)).count()
    };
    assert_eq!(of_kind("usage"), 1, "{ledger}");
    assert_eq!(of_kind("final"), 1, "{ledger}");
}

/// SplitMix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// How a run of [`transfers_survive_kills`] is made longer: rounds, mebibytes moved in each, and kills in a round.
fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var_os(name).map_or(otherwise, |value| value.to_str().unwrap().parse().unwrap())
}

/// Many transfers, each with either side killed at random moments until it ends. What the provider holds a signature for is
/// on the consumer's disk after every kill; what arrives is what was published; each has one receipt, and it is valid. What
/// had to be sent again because of a kill is within [`MOST_LOST`] and is printed.
///
/// With 1 GiB and up to 20 kills a round, 500 rounds:
/// `HUITONG_KILL_ROUNDS=500 HUITONG_KILL_MIB=1024 HUITONG_KILLS=20 cargo test --release -p huitong-cli --test cli transfers_survive_kills`
#[test]
fn transfers_survive_kills() {
    let rounds = setting("HUITONG_KILL_ROUNDS", 25);
    let (size, most) = (setting("HUITONG_KILL_MIB", 24) << 20, setting("HUITONG_KILLS", 3));
    let demo = Demo::run(None);
    let config = |node: &str| demo.path(node).join("node.toml");
    let text = std::fs::read_to_string(config("consumer")).unwrap();
    let http = text.lines().find_map(|line| line.strip_prefix("http = \"")?.strip_suffix('"')).unwrap();
    let _registrar = Running::serve_until_it_answers(&config("regional"));
    let mut nodes = ["provider", "consumer"].map(|node| Some(Running::serve_until_it_answers(&config(node))));
    let mut random = Random(3);
    let data: Vec<u8> = (0..size / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let source = demo.directory.path().join("moved.bin");
    std::fs::write(&source, &data).unwrap();
    let policy = demo.directory.path().join("policy.json");
    std::fs::write(&policy, OPEN).unwrap();
    let published = ask(
        &config("provider"),
        &["catalog", "publish", source.to_str().unwrap(), "--policy", policy.to_str().unwrap()],
    );
    let product = published["product"].as_str().unwrap();
    let contract = ask(&config("consumer"), &["contract", "negotiate", product])["contract"].clone();
    let target = demo.directory.path().join("target");
    let (mut ids, mut kills, mut lost) = (Vec::new(), 0, Vec::new());
    for round in 0..rounds {
        let (mut received, mut before) = (0, received_by(http));
        let kills_before = kills;
        let arguments = ["transfer", "start", contract.as_str().unwrap(), "--to", target.to_str().unwrap()];
        let id = ask(&config("consumer"), &arguments)["id"].as_str().unwrap().to_owned();
        let part = target.join(format!(".huitong-{id}.part"));
        for _ in 0..1 + random.next() as usize % most {
            // A moment of the schedule, not a wait for something: within the time that the transfer takes.
            std::thread::sleep(Duration::from_millis(random.next() % (50 + size as u64 / (256 << 10))));
            let side = random.next() as usize % 2;
            if side == 1 {
                received += received_by(http).saturating_sub(before);
                before = 0;
            }
            drop(nodes[side].take());
            kills += 1;
            if side == 1 {
                let seen = ask(&config("provider"), &["transfer", "list"]);
                let seen = seen["transfers"].as_array().unwrap().iter().find(|one| one["id"] == *id);
                let signed = seen.map_or(0, |seen| seen["bytes_acknowledged"].as_u64().unwrap());
                let signed = usize::try_from(signed).unwrap();
                let kept = std::fs::read(&part).or_else(|_| std::fs::read(target.join("moved.bin")));
                let kept = kept.unwrap_or_default();
                assert!(
                    kept.len() >= signed,
                    "round {round}: {signed} bytes are signed for, {} kept",
                    kept.len()
                );
                assert!(kept[..signed] == data[..signed], "round {round}");
            }
            nodes[side] = Some(Running::serve_until_it_answers(&config(["provider", "consumer"][side])));
        }
        wait_for("the transfer ends", || {
            let transfer = ask(&config("consumer"), &["transfer", "show", &id]);
            assert_ne!(transfer["state"], "TERMINATED", "round {round}: {transfer}");
            transfer["state"] == "COMPLETED"
        });
        received += received_by(http).saturating_sub(before);
        lost.push(received.saturating_sub(size as u64) / (kills - kills_before));
        assert!(lost[round] <= MOST_LOST, "round {round}: {} bytes a kill", lost[round]);
        assert!(std::fs::read(target.join("moved.bin")).unwrap() == data, "round {round}");
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1, "round {round}: something is left");
        // Or the next delivery would be made from this one.
        std::fs::remove_file(target.join("moved.bin")).unwrap();
        ids.push(id);
    }
    assert!(kills >= rounds as u64);
    let (most, sum) = (lost.iter().max().unwrap(), lost.iter().sum::<u64>());
    eprintln!(
        "{rounds} rounds, {kills} kills; bytes sent again for each kill: {} on average, {most} in the worst round",
        sum / rounds as u64
    );
    for id in &ids {
        let receipt = demo.directory.path().join("one.receipt");
        let export = huitong()
            .args(["receipt", "export", id, "--out", receipt.to_str().unwrap(), "--timeout", "60s", "-c"])
            .arg(config("consumer"))
            .output()
            .unwrap();
        assert!(export.status.success(), "{}", stderr(&export));
        let mut verify = huitong();
        verify.args(["receipt", "verify"]).arg(&receipt).arg("--trust").arg(demo.path("trust.json"));
        let verified = verify.output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
        std::fs::remove_file(receipt).unwrap();
    }
}

/// What one kill may cost.
const MOST_LOST: u64 = 256 << 20;

/// Bytes that the node behind this address has received since it started.
fn received_by(http: &str) -> u64 {
    let (_, metrics) = get(http, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("huitong_bytes_received_total "));
    line.unwrap().parse().unwrap()
}

const OPEN: &str = r#"{"contractPolicies": {"permissionPolicies": [{"actions": ["delivery", "read"], "constraints": [
  {"constraintName": "time", "constraintOperator": "lteq", "constraintValue": "2090-01-01T00:00:00Z"}]}]}}"#;
