//! Nodes that are killed at any moment: the story goes on, nothing is lost and nothing is done twice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Demo, Running, ask, demo_in, huitong, is_node, kill, pid_of, stderr, stdout};
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
