//! `huitong demo`: the whole story on one machine. Three nodes as three processes of this program, one dataset, one
//! contract, one receipt, five refusals.

mod fleet;
mod narrator;
mod policies;
mod refusals;
mod story;

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Demo;
use crate::exit::Failure;
use crate::output::{Format, Output, print};
use fleet::Fleet;
use narrator::Narrator;
use story::Told;

/// Real observations, public domain; `tests/data/README.md` says where they come from.
const DATASET: &[u8] = include_bytes!("../../../tests/data/weather-observations.csv");
const DATASET_NAME: &str = "weather-observations.csv";

/// Tells the story. Whatever happens, no process of it is left running.
pub(crate) async fn run(arguments: &Demo, output: Output) -> Result<(), Failure> {
    let mut interruption = Interruption::listen()?;
    let stage = Stage::prepare(arguments.dir.as_deref())?;
    let dataset = match &arguments.data {
        Some(path) => checked_dataset(path)?,
        None => {
            let path = stage.path.join(DATASET_NAME);
            std::fs::write(&path, DATASET).map_err(|error| Failure::file("write", &path, &error))?;
            path
        }
    };
    let narrator = Narrator::new(output);
    // Notes of single calls would interrupt the story; the fleet says when a node had to be started again.
    let calls = Output { format: output.format, quiet: true };
    let mut fleet = Fleet::new(calls);
    let told = tokio::select! {
        told = story::tell(&stage.path, &dataset, &mut fleet, &narrator) => told,
        failure = interruption.came() => Err(failure),
    };
    fleet.stop().await;
    narrator.say("Every node has stopped.");
    let kept = stage.close(arguments.keep);
    let told = told?;
    if let Some(path) = &kept {
        narrator.say(&format!(
            "Everything is kept in {}; verify again with\n  huitong receipt verify {} --trust {}",
            path.display(),
            told.receipt.display(),
            told.trust.display()
        ));
    }
    if kept.is_none() {
        narrator.say(
            "The temporary directory is removed; --keep keeps it, and --dir DIR tells the story in DIR.",
        );
    }
    if output.format == Format::Json {
        print(&summary(&told, kept.is_some()).to_string());
    }
    Ok(())
}

/// The demo as one JSON object. The files are named while they are there.
fn summary(told: &Told, kept: bool) -> serde_json::Value {
    let seconds: serde_json::Map<_, _> =
        told.seconds.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect();
    json!({
        "product_id": told.product, "contract_id": told.contract, "bytes": told.bytes, "blake3": told.blake3,
        "receipt": kept.then_some(&told.receipt), "trust": kept.then_some(&told.trust), "seconds": seconds,
    })
}

/// The directory in which everything happens.
struct Stage {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Stage {
    fn prepare(wanted: Option<&Path>) -> Result<Self, Failure> {
        let Some(wanted) = wanted else {
            let directory = tempfile::Builder::new()
                .prefix("huitong-demo-")
                .tempdir()
                .map_err(|error| Failure::file("make a directory in", &std::env::temp_dir(), &error))?;
            return Ok(Self { path: directory.path().to_owned(), temporary: Some(directory) });
        };
        std::fs::create_dir_all(wanted).map_err(|error| Failure::file("make", wanted, &error))?;
        let mut entries = std::fs::read_dir(wanted).map_err(|error| Failure::file("read", wanted, &error))?;
        if entries.next().is_some() {
            return Err(Failure::failed(
                "demo.dir",
                format!("{} is not empty", wanted.display()),
                "name a new directory with --dir, or leave it out for a temporary one",
            ));
        }
        let path = std::path::absolute(wanted).map_err(|error| Failure::file("find", wanted, &error))?;
        Ok(Self { path, temporary: None })
    }

    /// Removes a temporary directory unless it is to be kept; gives the path that is still there.
    fn close(self, keep: bool) -> Option<PathBuf> {
        match self.temporary {
            Some(temporary) if keep => Some(temporary.keep()),
            Some(_) => None,
            None => Some(self.path),
        }
    }
}

fn checked_dataset(path: &Path) -> Result<PathBuf, Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
    if !metadata.is_file() {
        return Err(Failure::failed(
            "demo.data",
            format!("{} is not a regular file", path.display()),
            "name a file with --data",
        ));
    }
    std::path::absolute(path).map_err(|error| Failure::file("find", path, &error))
}

/// SIGTERM and SIGINT, listened for before anything is started that would have to be stopped.
struct Interruption {
    terminate: Signal,
    interrupt: Signal,
}

impl Interruption {
    fn listen() -> Result<Self, Failure> {
        let system = |error: std::io::Error| {
            let message = format!("cannot listen for signals: {error}");
            Failure::failed("system", message, "look at the system's limits")
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(system)?,
            interrupt: signal(SignalKind::interrupt()).map_err(system)?,
        })
    }

    async fn came(&mut self) -> Failure {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        Failure::failed("demo.interrupted", "the demo was interrupted", "")
    }
}
