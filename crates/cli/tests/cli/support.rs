//! Running the binary, and making sure that nothing of it is left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Much more than anything here takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// The binary under test.
pub(crate) fn huitong() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huitong"));
    command.stdin(Stdio::null());
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A process that is killed when the test ends, however it ends.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// A node with its log in a file beside its configuration.
    pub(crate) fn serve(config: &Path) -> Self {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(config.with_file_name("node.log"))
            .unwrap();
        Self(huitong().arg("serve").arg("-c").arg(config).stderr(log).spawn().unwrap())
    }

    /// A node that answers on its admin socket.
    pub(crate) fn serve_until_it_answers(config: &Path) -> Self {
        let mut running = Self::serve(config);
        wait_for("the node answers", || {
            let ended = running.0.try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}\n{}", log_of(config));
            huitong().args(["status", "-c"]).arg(config).output().unwrap().status.success()
        });
        running
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        kill(i32::try_from(self.0.id()).unwrap(), signal);
    }
}

pub(crate) fn log_of(config: &Path) -> String {
    std::fs::read_to_string(config.with_file_name("node.log")).unwrap_or_default()
}

/// Sends a signal; the process may be gone already.
pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// A run of the demo with `-o json` in a directory of its own.
pub(crate) struct Demo {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) summary: Value,
}

impl Demo {
    /// Runs it with this dataset, or the bundled one.
    pub(crate) fn run(data: Option<&[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = demo_in(directory.path(), data);
        let done = command.output().unwrap();
        Self::finished(directory, &done)
    }

    /// Takes the summary of a run that has ended.
    #[track_caller]
    pub(crate) fn finished(directory: tempfile::TempDir, done: &Output) -> Self {
        let logs: String = ["regional", "provider", "consumer"]
            .map(|node| log_of(&directory.path().join("demo").join(node).join("node.toml")))
            .concat();
        assert!(done.status.success(), "{}\n{}\n{logs}", stdout(done), stderr(done));
        let summary = serde_json::from_str(stdout(done).lines().last().unwrap()).unwrap();
        let demo = Self { directory, summary };
        demo.nothing_is_running();
        demo
    }

    /// `D` of `huitong demo --dir D`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("demo").join(name)
    }

    pub(crate) fn receipt(&self) -> Vec<u8> {
        std::fs::read(self.path("demo.receipt")).unwrap()
    }

    /// A run with the bundled dataset that every test may read.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Demo> = OnceLock::new();
        SHARED.get_or_init(|| Self::run(None))
    }

    fn nothing_is_running(&self) {
        for node in ["regional", "provider", "consumer"] {
            let pid = pid_of(&self.path(node)).unwrap();
            assert!(!is_node(pid), "{node} is still running as {pid}");
        }
    }
}

/// `huitong demo --dir DIRECTORY/demo -o json`, with a dataset or the bundled one.
pub(crate) fn demo_in(directory: &Path, data: Option<&[u8]>) -> Command {
    let mut command = huitong();
    command.arg("demo").arg("--dir").arg(directory.join("demo")).args(["-o", "json"]);
    if let Some(data) = data {
        let file = directory.join("dataset.bin");
        std::fs::write(&file, data).unwrap();
        command.arg("--data").arg(file);
    }
    command
}

/// The process that keeps a node of the demo running now.
pub(crate) fn pid_of(node: &Path) -> Option<i32> {
    std::fs::read_to_string(node.join("pid")).ok()?.trim().parse().ok()
}

/// Whether this process is one of our nodes; pids are used again.
pub(crate) fn is_node(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    line.contains("huitong") && line.contains("serve")
}

/// A free port, outside the range of outgoing connections and of the demo's own ports.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 3_000).unwrap();
    loop {
        let port = 11_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst)) % 4_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What a node's plain HTTP answers to a GET: status and body.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A command to a node that must succeed, and its answer.
#[track_caller]
pub(crate) fn ask(config: &Path, arguments: &[&str]) -> Value {
    let done = huitong().args(arguments).args(["-o", "json", "-c"]).arg(config).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
    serde_json::from_str(&stdout(&done)).unwrap()
}
