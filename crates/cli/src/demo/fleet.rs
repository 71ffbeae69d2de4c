//! The demo's nodes: processes of this same program, started again when they die, and gone when the demo ends.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use huitong_grpc::proto::admin as api;
use huitong_proof::{SystemEntropy, random};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use crate::operations;
use crate::output::{Output, print_error};

/// How long a node may take to be ready, with restarts.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node gets to drain at the end before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const RESTART_PAUSE: Duration = Duration::from_millis(50);
/// Start errors in a row after which a node is given up.
const MAX_FAILED_STARTS: u32 = 5;
/// Start errors have exit codes from here on.
const FIRST_START_ERROR: i32 = 10;
const LOG_TAIL_LINES: usize = 5;
/// Longest path that a unix socket can have, with room to spare.
const MAX_SOCKET_PATH: usize = 100;
/// Below the range from which Linux takes the ports of outgoing connections: a node that is started again must find its
/// port free, and a port found by binding port 0 may by then serve somebody's outgoing connection.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Every node of the demo.
pub(crate) struct Fleet {
    nodes: Vec<Process>,
    sockets: Option<tempfile::TempDir>,
    calls: Output,
}

/// A node that is kept running.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its operator's client.
    pub(crate) admin: Admin,
    failure: watch::Receiver<Option<Failure>>,
}

struct Process {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Fleet {
    /// No node yet. `calls` is how the admin clients print.
    pub(crate) fn new(calls: Output) -> Self {
        Self { nodes: Vec::new(), sockets: None, calls }
    }

    /// Where the node's admin socket goes: into its data directory, or to a short path when that one is too long.
    pub(crate) fn socket(&mut self, name: &str, directory: &Path) -> Result<PathBuf, Failure> {
        let usual = directory.join("data").join("admin.sock");
        if usual.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(usual);
        }
        if self.sockets.is_none() {
            let made = tempfile::Builder::new().prefix("huitong-").tempdir();
            let made =
                made.map_err(|error| Failure::file("make a directory in", &std::env::temp_dir(), &error))?;
            self.sockets = Some(made);
        }
        let short = self.sockets.as_ref().map(|directory| directory.path().join(format!("{name}.sock")));
        Ok(short.unwrap_or(usual))
    }

    /// Starts the node whose `node.toml` lies in `directory`. It is kept running until [`Fleet::stop`].
    pub(crate) fn start(&mut self, name: &'static str, directory: &Path) -> Result<Node, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::file("find the program", Path::new("/proc/self/exe"), &error))?;
        let (stop, stopping) = watch::channel(false);
        let (failed, failure) = watch::channel(None);
        let keeper = Keeper { name, program, directory: directory.to_owned(), stopping, failed };
        self.nodes.push(Process { stop, task: tokio::spawn(keeper.keep()) });
        let admin = Admin::at(self.socket(name, directory)?, self.calls);
        Ok(Node { admin, failure })
    }

    /// Stops every node: SIGTERM, then SIGKILL for one that does not follow.
    pub(crate) async fn stop(self) {
        for node in &self.nodes {
            let _ = node.stop.send(true);
        }
        for node in self.nodes {
            // The task ends the process in bounded time; when it panicked, dropping its child killed the process.
            let _ = node.task.await;
        }
    }
}

impl Node {
    /// Waits until the node takes work; gives its account of itself.
    pub(crate) async fn ready(&self) -> Result<api::GetStatusResponse, Failure> {
        tokio::select! {
            status = operations::ready(&self.admin, READY_PATIENCE) => status,
            failure = self.lost() => Err(failure),
        }
    }

    /// Ends with the reason when the node cannot be kept running. Pending as long as it can.
    pub(crate) async fn lost(&self) -> Failure {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(found) => match found.clone() {
                Some(failure) => failure,
                None => std::future::pending().await,
            },
            Err(_) => std::future::pending().await,
        }
    }
}

/// Keeps one process running.
struct Keeper {
    name: &'static str,
    program: PathBuf,
    directory: PathBuf,
    stopping: watch::Receiver<bool>,
    failed: watch::Sender<Option<Failure>>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut failed_starts = 0;
        loop {
            let mut child = match self.spawn() {
                Ok(child) => child,
                Err(error) => return self.give_up(&error.to_string()),
            };
            // Held, not used: the node stops when it closes, which it does even when this process is killed.
            let stdin = child.stdin.take();
            let ended = tokio::select! {
                status = child.wait() => Some(status),
                // The value that woke us borrows the channel: it must not live across the next await.
                () = async { drop(self.stopping.wait_for(|stop| *stop).await) } => None,
            };
            let Some(status) = ended else { return end(&mut child).await };
            drop(stdin);
            let status = match status {
                Ok(status) => status,
                Err(error) => return self.give_up(&error.to_string()),
            };
            match status.code() {
                Some(code) if code >= FIRST_START_ERROR => failed_starts += 1,
                _ => failed_starts = 0,
            }
            if failed_starts >= MAX_FAILED_STARTS {
                return self.give_up(&format!("{status}"));
            }
            print_error(&format!("(the node {} has ended, {status}; it is started again)", self.name));
            sleep(RESTART_PAUSE).await;
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join("node.log"))?;
        let child = Command::new(&self.program)
            .arg("serve")
            .arg("--exit-with-parent")
            .arg("--config")
            .arg(self.directory.join("node.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()?;
        // Renamed into place, so that nobody reads half a number.
        let partial = self.directory.join("pid.new");
        writeln!(std::fs::File::create(&partial)?, "{}", child.id().unwrap_or_default())?;
        std::fs::rename(&partial, self.directory.join("pid"))?;
        Ok(child)
    }

    fn give_up(&self, why: &str) {
        let log = self.directory.join("node.log");
        let failure = Failure::new(
            Exit::Failed,
            "demo.node",
            format!("the node {} does not stay up: {why}\n{}", self.name, tail(&log)),
            format!("look at {}", log.display()),
        );
        let _ = self.failed.send(Some(failure));
    }
}

async fn end(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // An error means that it has ended already.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines.get(start..).unwrap_or_default().join("\n")
}

/// Ports on loopback that nobody uses now. They stay taken until the value is dropped.
pub(crate) fn free_ports(count: usize) -> Result<Vec<(u16, TcpListener)>, Failure> {
    const TRIES: usize = 1_000;
    let mut found = Vec::with_capacity(count);
    for _ in 0..TRIES {
        if found.len() == count {
            break;
        }
        let offset = u16::from_be_bytes(random(&SystemEntropy)) % (PORTS.end - PORTS.start);
        let port = PORTS.start + offset;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            found.push((port, listener));
        }
    }
    if found.len() < count {
        return Err(Failure::failed("demo.ports", "there are not enough free ports on 127.0.0.1", ""));
    }
    Ok(found)
}
