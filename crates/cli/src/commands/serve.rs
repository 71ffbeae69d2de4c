//! `huitong serve`: one node until it is told to stop.

use huitong_identity::Sources;
use huitong_node::{LogFormat, RunningNode, StartError};
use huitong_proof::{SystemClock, SystemEntropy};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, Serve};
use crate::commands::load_config;
use crate::exit::{Exit, Failure};

/// Starts the node and returns once it has drained.
pub(crate) async fn run(arguments: &Serve, global: &Global) -> Result<(), Failure> {
    let config = load_config(global)?;
    start_logging(&config.log)?;
    // Before the start, so that a node that waits for its registrar can be stopped too.
    let stop = stop_asked(arguments.exit_with_parent)?;
    tokio::pin!(stop);
    let node = tokio::select! {
        node = huitong_node::start(config, sources()) => node.map_err(|error| start_failure(&error))?,
        () = &mut stop => return Ok(()),
    };
    announce(&node);
    stop.await;
    tracing::info!("stopping: no new work, running transfers are drained");
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// The machine's clock and random numbers.
pub(crate) fn sources() -> Sources {
    Sources { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
}

/// A start error with its own exit code.
pub(crate) fn start_failure(error: &StartError) -> Failure {
    Failure::new(Exit::Start(error.exit_code()), error.code(), error.to_string(), "")
}

fn announce(node: &RunningNode) {
    tracing::info!(node = %node.node_id, peers = %node.peers_address, "ready");
}

/// Ends when SIGTERM or SIGINT arrives, or when the parent's pipe on stdin closes.
fn stop_asked(with_parent: bool) -> Result<impl Future<Output = ()>, Failure> {
    let system = |error: std::io::Error| {
        Failure::failed("system", format!("cannot listen for signals: {error}"), "look at the system's limits")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let mut parent = match with_parent {
        true => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(system)?;
            Some(pipe::Receiver::from_owned_fd(stdin).map_err(system)?)
        }
        false => None,
    };
    Ok(async move {
        let parent_gone = async {
            match &mut parent {
                // The parent writes nothing: any answer means that it is gone.
                Some(pipe) => drop(pipe.read_u8().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = parent_gone => {}
        }
    })
}

fn start_logging(log: &huitong_node::Log) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| {
        let message = format!("log.level is {:?}, which is no filter: {error}", log.level);
        Failure::new(Exit::Start(10), "config", message, "write a level such as \"info\"")
    })?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => logger.with_ansi(false).init(),
        LogFormat::Json => logger.json().init(),
    }
    Ok(())
}
