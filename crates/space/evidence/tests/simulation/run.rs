//! Running a list of operations, and making a failing one short.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::operation::{Operation, Witnesses, draw, witnesses};
use crate::settling::Ending;
use crate::space::Space;
use crate::world::{Violation, World};

/// Attempts at making a failing list shorter.
const ATTEMPTS: usize = 200;

/// What a simulation begins with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) witnesses: Witnesses,
    pub(crate) operations: Vec<Operation>,
}

impl Plan {
    pub(crate) fn of_seed(seed: u64, steps: usize) -> Self {
        Self { seed, witnesses: witnesses(seed), operations: draw(seed, steps) }
    }
}

/// A simulation that came to a good end.
pub(crate) struct Done {
    witnesses: Witnesses,
    pub(crate) ending: Ending,
    /// Names of the operations that did something.
    pub(crate) happened: BTreeSet<String>,
}

impl Done {
    /// Whether it had the policy of a space in which nobody has set another.
    pub(crate) fn is_default(&self) -> bool {
        self.witnesses == Witnesses::Registrar
    }
}

/// Runs every seed; panics at the first that fails, with the shortest list of operations that does, too.
pub(crate) fn check_seeds(seeds: RangeInclusive<u64>, steps: usize) -> Vec<Done> {
    let space = Space::shared();
    let began = Instant::now();
    let mut runs = Vec::new();
    for seed in seeds {
        let plan = Plan::of_seed(seed, steps);
        match run(&space, &plan) {
            (trace, Ok(ending)) => {
                let happened = trace.iter().filter_map(|line| name_of(line)).collect();
                runs.push(Done { witnesses: plan.witnesses, ending, happened });
            }
            (trace, Err(violation)) => fail(&space, plan, &trace, &violation),
        }
    }
    let count = |which: fn(&Ending) -> bool| runs.iter().filter(|run| which(&run.ending)).count();
    println!(
        "{} runs in {:?}: {} with a node put back, {} of them stuck, {} with lost entries; {} liars caught; at most {:?} rounds to rest",
        runs.len(),
        began.elapsed(),
        count(|ending| ending.restored),
        count(|ending| ending.stuck),
        count(|ending| ending.lost > 0),
        count(|ending| ending.caught),
        runs.iter().map(|run| run.ending.rounds).max(),
    );
    runs
}

/// The operation of a line of the trace, unless nothing came of it.
fn name_of(line: &str) -> Option<String> {
    let name = line.split([' ', ':']).next().filter(|name| name.starts_with(char::is_uppercase))?;
    let idle = [": nothing,", ": no copy,", ": no route,"];
    (!idle.iter().any(|idle| line.contains(idle))).then(|| name.to_owned())
}

/// Runs one plan: what was done, and what came of it all.
pub(crate) fn run(space: &Arc<Space>, plan: &Plan) -> (Vec<String>, Result<Ending, Violation>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = match World::new(Arc::clone(space), plan.seed, plan.witnesses) {
            Ok(world) => world,
            Err(violation) => return (Vec::new(), Err(violation)),
        };
        let outcome = everything(&mut world, &plan.operations).await;
        let trace = std::mem::take(&mut world.trace);
        world.close().await;
        (trace, outcome)
    })
}

async fn everything(world: &mut World, operations: &[Operation]) -> Result<Ending, Violation> {
    world.look().await?;
    if world.witnesses == Witnesses::Registrar {
        world.introduce().await?;
    }
    for operation in operations {
        world.act(*operation).await.map_err(|violation| format!("{violation} (at {operation:?})"))?;
    }
    world.settle().await
}

/// Without panicking.
fn violation_of(space: &Arc<Space>, plan: &Plan) -> Option<Violation> {
    match catch_unwind(AssertUnwindSafe(|| run(space, plan).1)) {
        Ok(outcome) => outcome.err(),
        Err(_) => Some("panicked".to_owned()),
    }
}

fn fail(space: &Arc<Space>, plan: Plan, trace: &[String], violation: &str) -> ! {
    let seed = plan.seed;
    for line in trace {
        println!("{line}");
    }
    println!("seed {seed}: {violation}\n{:#?}", plan.operations);
    let (short, violation) = shortened(space, plan, violation);
    println!("the shortest:\n{}", run(space, &short).0.join("\n"));
    panic!("seed {seed}, {:?}: {violation}\n{:#?}", short.witnesses, short.operations);
}

/// Leaves out what is not needed for some violation: halves first, then single operations.
fn shortened(space: &Arc<Space>, mut plan: Plan, violation: &str) -> (Plan, Violation) {
    let mut violation = violation.to_owned();
    let mut attempts = 0;
    let mut width = plan.operations.len().div_ceil(2);
    while width > 0 && attempts < ATTEMPTS {
        let mut first = 0;
        while first < plan.operations.len() && attempts < ATTEMPTS {
            let mut shorter = plan.clone();
            shorter.operations.drain(first..plan.operations.len().min(first + width));
            attempts += 1;
            match violation_of(space, &shorter) {
                Some(other) => (plan, violation) = (shorter, other),
                None => first += width,
            }
        }
        width = if width == 1 { 0 } else { width.div_ceil(2) };
    }
    (plan, violation)
}
