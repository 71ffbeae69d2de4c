//! Nodes that lose messages, crash, come back from old copies and lie, under a clock that the test turns.
//!
//! A run follows from its seed: a list of operations ([`operation`]) is drawn and done one after the other on a space of
//! five nodes with real stores ([`world`]), over a network that loses, repeats and delays ([`network`]). After every step
//! and at the end ([`settling`]) all is compared with what an observer remembers who sees everything ([`memory`]). Only
//! the digests differ from run to run, because each process makes keys of its own.
//!
//! More, or longer: `HUITONG_SIMULATION_SEEDS=0..999 HUITONG_SIMULATION_STEPS=200 cargo test -p huitong-evidence --test
//! simulation -- --nocapture more`. A run that fails prints its operations, without those that do not matter.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    reason = "helpers of a test, which tells what failed"
)]

#[path = "simulation/memory.rs"]
mod memory;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/operation.rs"]
mod operation;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/settling.rs"]
mod settling;
#[path = "simulation/space.rs"]
mod space;
#[path = "simulation/world.rs"]
mod world;

use run::check_seeds;

/// What a list of operations can bring about; a simulation in which one of them never happens shows nothing about it.
const HAPPENS: [&str; 14] = [
    "Say", "Arrive", "Round", "Monitor", "Recover", "Restart", "Crash", "Backup", "Restore", "RollBack",
    "Part", "Weather", "Lie", "Collude",
];

#[test]
fn ordinary_seeds() {
    let runs = check_seeds(0..=11, 60);
    for happens in HAPPENS {
        assert!(runs.iter().any(|run| run.happened.contains(happens)), "{happens} never happened");
    }
    for (what, count) in [
        ("a liar was caught", runs.iter().filter(|run| run.ending.caught).count()),
        ("a node was put back", runs.iter().filter(|run| run.ending.restored).count()),
        ("entries were lost", runs.iter().filter(|run| run.ending.lost > 0).count()),
        ("the registrar was the only witness", runs.iter().filter(|run| run.is_default()).count()),
        (
            "a node was put back while the registrar was the only witness",
            runs.iter().filter(|run| run.is_default() && run.ending.restored).count(),
        ),
    ] {
        assert!(count > 0, "in no run {what}");
    }
}

/// Nothing unless it is asked for.
#[test]
fn more() {
    let Some(seeds) = std::env::var_os("HUITONG_SIMULATION_SEEDS") else { return };
    let (first, last) = seeds.to_str().unwrap().split_once("..").unwrap();
    let steps = std::env::var_os("HUITONG_SIMULATION_STEPS");
    let steps = steps.map_or(60, |steps| steps.to_str().unwrap().parse().unwrap());
    drop(check_seeds(first.parse().unwrap()..=last.parse().unwrap(), steps));
}
