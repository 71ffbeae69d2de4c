//! A whole node with a large ledger: proofs, checks, starts, memory.
//!
//! The node runs in a child process (this program again), so that it can be killed and its memory is its own. The parent
//! tells it by lines on its standard input what to do; it answers each with one line.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use huitong_ledger::{Ledger, testing};
use huitong_node::{Config, RunningNode, Sources};
use huitong_proof::{SystemClock, SystemEntropy};

use crate::report::Report;
use crate::writers;

/// First argument of a child.
pub(crate) const CHILD: &str = "--child-node";

const PROOFS: u64 = 20_000;

pub(crate) fn measure(place: &Path, entries: u64, report: &mut Report) {
    let directory = place.join("node");
    let mut node = Node::start(&directory);
    let empty = node.memory("VmRSS");
    report.figure("ready_empty_seconds", node.ready.as_secs_f64(), "s");

    eprintln!("filling the ledger through the node's own path");
    let began = Instant::now();
    node.ask(&format!("fill {entries}"));
    report.figure("fill_statements_per_second", entries as f64 / began.elapsed().as_secs_f64(), "1/s");
    report.figure("memory_while_filling_mib", node.memory("VmHWM"), "MiB");

    let proofs: Vec<f64> =
        node.ask(&format!("proofs {PROOFS}")).split(' ').map(|n| n.parse().unwrap()).collect();
    report.figure("proof_p50_ms", proofs[0], "ms");
    report.figure("proof_p99_ms", proofs[1], "ms");
    node.stop();

    let node = Node::start(&directory);
    report.figure("ready_after_stop_seconds", node.ready.as_secs_f64(), "s");
    node.stop();

    report.figure("fsck_seconds", fsck(&directory).as_secs_f64(), "s");

    let mut node = Node::start(&directory);
    node.tell("write");
    // Killed among its writes, with a few thousand statements behind the last start.
    node.wait_for_writes();
    node.kill();
    let mut node = Node::start(&directory);
    report.figure("ready_after_kill_seconds", node.ready.as_secs_f64(), "s");
    node.ask(&format!("proofs {PROOFS}"));
    report.compared("memory_mib", node.memory("VmHWM"), "MiB", empty, "the same node with an empty ledger");
    node.stop();
}

/// Checks store and ledger as `huitong store fsck` does; anything found is a failure of the bench.
fn fsck(directory: &Path) -> Duration {
    let store = directory.join("data/store");
    let began = Instant::now();
    let disk = huitong_store::disk::Disk::real();
    let found = huitong_store::offline::fsck(&store, &disk, &mut |_| {}).unwrap();
    assert!(found.is_clean(), "{found:?}");
    let found = huitong_ledger::offline::fsck(&store, &disk, &mut |_| {}).unwrap();
    assert!(found.is_clean(), "{found:?}");
    began.elapsed()
}

/// A node in a child process.
struct Node {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// From the start of the process until the node takes work.
    ready: Duration,
}

impl Node {
    fn start(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(CHILD)
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut node = Self { child, orders, answers, ready: Duration::ZERO };
        assert_eq!(node.answer(), "ready");
        node.ready = began.elapsed();
        node
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the node ended early");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    fn wait_for_writes(&mut self) {
        for _ in 0..20 {
            assert_eq!(self.answer(), "written");
        }
    }

    /// A line of the process's status, in MiB.
    fn memory(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kibibytes: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes / 1024.0
    }

    fn stop(mut self) {
        self.tell("stop");
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The child: runs a function node in that directory and does what it is told.
pub(crate) fn serve(directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sources = Sources { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
        let node = huitong_node::start(configuration(directory), sources).await.unwrap();
        while node.ready().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        say("ready");
        obey(node).await;
    });
}

async fn obey(node: RunningNode) {
    let ledger = node.standing().ledger.clone();
    let mut lines = std::io::stdin().lines();
    while let Some(Ok(line)) = lines.next() {
        match line.split_once(' ') {
            Some(("fill", count)) => {
                testing::fill(&ledger, count.parse().unwrap(), &mut |_| {}).await.unwrap();
                say("filled");
            }
            Some(("proofs", count)) => {
                let [median, worst] = proofs(&ledger, count.parse().unwrap()).await;
                say(&format!("{median} {worst}"));
            }
            None if line == "write" => loop {
                writers::issue(&ledger, 1, 64).await;
                say("written");
            },
            None if line == "stop" => return node.shutdown().await,
            _ => panic!("unknown order {line}"),
        }
    }
}

/// Median and 99th percentile in milliseconds of an inclusion proof for a random entry, checkpoint at hand.
async fn proofs(ledger: &Ledger, count: u64) -> [f64; 2] {
    let size = ledger.checkpoint().await.unwrap().checkpoint().size;
    let root = ledger.checkpoint().await.unwrap().checkpoint().root;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut times = Vec::new();
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let index = state % size;
        let view = ledger.store().view();
        let entry = ledger.entry(&view, index).unwrap().unwrap();
        let began = Instant::now();
        let proof = ledger.inclusion_at(index, size).unwrap();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        let leaf = huitong_ledger::leaf_hash(&entry);
        huitong_ledger::verify_inclusion(&leaf, index, size, &proof, &root).unwrap();
    }
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}

fn configuration(directory: &Path) -> Config {
    let text = r#"
[node]
role = "function"
data_dir = "data"
[identity]
domain = "localhost"
entity = "91110000802100433B"
name = "Example Bench Registrar"
segment = "4403"
[listen]
peers = "127.0.0.1:0"
enrolment = "127.0.0.1:0"
http = ""
"#;
    let directory: PathBuf = std::path::absolute(directory).unwrap();
    Config::from_toml(text, &directory).unwrap()
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}
