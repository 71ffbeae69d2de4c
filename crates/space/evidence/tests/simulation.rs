//! Nodes that lose messages, crash, come back from old copies and lie, under a clock that the test turns.
//!
//! A run follows from its seed: a list of operations ([`operation`]) is drawn and done one after the other on a space of
//! five nodes with real stores ([`world`]), over a network that loses, repeats and delays ([`network`]). After every step
//! and at the end ([`settling`]) all is compared with what an observer remembers who sees everything ([`memory`]). Only
//! the digests differ from run to run, because each process makes keys of its own.
//!
//! More, or longer: `HUITONG_SIMULATION_SEEDS=0..999 HUITONG_SIMULATION_STEPS=200 cargo test -p huitong-evidence --test
//! simulation -- --nocapture more`. A run that fails prints its operations, without those that do not matter, in the form
//! in which [`regressions`] keeps them.

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

#[test]
fn ordinary_seeds() {
    check_seeds(0..=9, 60);
}

/// Nothing unless it is asked for.
#[test]
fn more() {
    let Some(seeds) = std::env::var_os("HUITONG_SIMULATION_SEEDS") else { return };
    let (first, last) = seeds.to_str().unwrap().split_once("..").unwrap();
    let steps = std::env::var_os("HUITONG_SIMULATION_STEPS");
    let steps = steps.map_or(60, |steps| steps.to_str().unwrap().parse().unwrap());
    check_seeds(first.parse().unwrap()..=last.parse().unwrap(), steps);
}
