//! `huitong serve`: one node until it is told to stop.

use huitong_identity::Sources;
use huitong_node::StartError;
use huitong_node::config::{Log, LogFormat};
use huitong_proof::{SystemClock, SystemEntropy};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, Serve};
use crate::commands::load_config;
use crate::exit::{Exit, Failure};

/// Freed memory that a thread's part of the heap keeps for what comes next is twice this, a little more than one transfer
/// has under way.
const KEPT: usize = 4 << 20;

/// Starts the node and returns once it has drained.
pub(crate) async fn run(arguments: &Serve, global: &Global) -> Result<(), Failure> {
    keep_freed_memory();
    let config = load_config(global)?;
    start_logging(&config.log)?;
    // Before the start, so that a node that waits for its registrar can be stopped too.
    let mut stop = Stop::new(arguments.exit_with_parent)?;
    let node = tokio::select! {
        node = huitong_node::start(config, sources()) => node.map_err(|error| start_failure(&error))?,
        () = stop.asked() => return Ok(()),
    };
    stop.asked().await;
    tracing::info!("stopping: no new work; running transfers are drained");
    tokio::select! {
        () = node.shutdown() => {}
        () = stop.asked() => tracing::warn!("not waiting for running work: it resumes at the next start"),
    }
    Ok(())
}

/// What comes from the network lies in memory that is freed as soon as it is written. The allocator of glibc would give that
/// back to the system and fetch it anew, page by page, all the time: a tenth of a transfer's processor time. It learns what
/// to keep from the largest mapping that it has seen freed; other allocators learn nothing.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT)));
}

/// The machine's clock and random numbers.
pub(crate) fn sources() -> Sources {
    Sources { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
}

/// A start error with its own exit code.
pub(crate) fn start_failure(error: &StartError) -> Failure {
    Failure::from_sentence(Exit::Start(error.exit_code()), error.code(), &error.to_string())
}

/// What tells a node to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    parent: Option<pipe::Receiver>,
}

impl Stop {
    fn new(with_parent: bool) -> Result<Self, Failure> {
        let system = |error: std::io::Error| {
            let message = format!("cannot listen for signals: {error}");
            Failure::failed("system", message, "look at the system's limits")
        };
        let parent = if with_parent {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(system)?;
            Some(pipe::Receiver::from_owned_fd(stdin).map_err(system)?)
        } else {
            None
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(system)?,
            interrupt: signal(SignalKind::interrupt()).map_err(system)?,
            parent,
        })
    }

    /// Ends at the next SIGTERM or SIGINT, or when the parent's pipe on stdin is closed.
    async fn asked(&mut self) {
        let parent_gone = async {
            match &mut self.parent {
                // The parent writes nothing: any answer means that it is gone.
                Some(pipe) => drop(pipe.read_u8().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = parent_gone => {}
        }
    }
}

fn start_logging(log: &Log) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| {
        let message = format!("log.level is {:?}, which is no filter: {error}", log.level);
        Failure::new(Exit::Start(10), "start.config", message, "write a level such as \"info\"")
    })?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => logger.with_ansi(false).init(),
        LogFormat::Json => logger.json().init(),
    }
    Ok(())
}
