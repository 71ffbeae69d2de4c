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

use run::{Done, check_seeds};

/// What a list of operations can bring about; a simulation in which one of them never happens shows nothing about it.
const HAPPENS: [&str; 14] = [
    "Say", "Arrive", "Round", "Monitor", "Recover", "Restart", "Crash", "Backup", "Restore", "RollBack",
    "Part", "Weather", "Lie", "Collude",
];

/// Runs after which everything must have happened. Digests differ from process to process, and with them some of what
/// comes of the rarer things.
const MOST_RUNS: u64 = 72;

#[test]
fn ordinary_seeds() {
    let mut runs = check_seeds(0..=11, 60);
    for seed in 12..MOST_RUNS {
        if missing(&runs).is_empty() {
            break;
        }
        runs.extend(check_seeds(seed..=seed, 60));
    }
    assert_eq!(missing(&runs), Vec::<&str>::new(), "never happened");
}

/// Whether a run was so.
type Is = fn(&Done) -> bool;

/// What has not happened yet.
fn missing(runs: &[Done]) -> Vec<&'static str> {
    let ends: [(&str, Is); 5] = [
        ("a liar was caught", |run| run.ending.caught),
        ("a node was put back", |run| run.ending.restored),
        ("entries were lost", |run| run.ending.lost > 0),
        ("the registrar was the only witness", Done::is_default),
        ("a node was put back while the registrar was the only witness", |run| {
            run.is_default() && run.ending.restored
        }),
    ];
    let operations = HAPPENS.into_iter().filter(|name| !runs.iter().any(|run| run.happened.contains(*name)));
    let endings = ends.into_iter().filter(|(_, is_so)| !runs.iter().any(is_so)).map(|(what, _)| what);
    operations.chain(endings).collect()
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
