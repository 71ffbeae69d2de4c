//! A process that is killed at any point loses no statement it has acknowledged, and never contradicts a checkpoint it
//! has shown.
//!
//! The test starts its own binary as the process to be killed, again and again over one directory. Blocks are so small
//! that they settle, and their runs are merged, all the time. A process is killed after it has issued some statements, or
//! at some moment while it opens the ledger. Then this one opens it: every statement is at its index, the newest
//! checkpoint is consistent with every one that was ever shown, and every eighth time `fsck` has nothing to say.
//!
//! 40 rounds by default. The long run:
//!
//! ```text
//! HUITONG_CRASH_ROUNDS=2000 cargo test --release -p huitong-ledger --test crash
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use huitong_ledger::{Identity, Ledger, LedgerError, origin_of, testing, verify_consistency};
use huitong_proof::{Clock, Digest, Draft, Kind, Map, SigningKey, SpaceId, SystemClock, SystemEntropy};
use huitong_store::offline::Severity;
use huitong_store::{Disk, Options, Store};

const DIRECTORY: &str = "HUITONG_LEDGER_CRASH_DIRECTORY";
const ROUNDS: &str = "HUITONG_CRASH_ROUNDS";
const DEFAULT_ROUNDS: u64 = 40;
/// Concurrent issuers in the process that is killed.
const ISSUERS: u64 = 4;
const BLOCK: u64 = 256;
const OPTIONS: Options =
    Options { segment_bytes: 32 * 1024, snapshot_bytes: 64 * 1024, chunk_bytes: 64 * 1024 };

/// Its syncs do not wait for the device: what a killed process wrote, the kernel has.
fn open(directory: &Path) -> Result<Ledger, LedgerError> {
    let clock = Arc::new(|| SystemClock.now().millis());
    let store = Store::open_with_options(directory, clock, Disk::counting(), OPTIONS)?;
    let node = "A".repeat(32);
    let identity = Identity {
        origin: origin_of(&node),
        node,
        space: SpaceId::from_name("crash"),
        statement_key: SigningKey::from_seed(&[1; 32]),
        log_key: SigningKey::from_seed(&[2; 32]),
    };
    testing::open_with_block(store, identity, Arc::new(SystemClock), Arc::new(SystemEntropy), BLOCK)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Issues statements until it is killed. What goes wrong ends the process, which is noticed.
async fn issue_forever(ledger: Ledger, issuer: u64) {
    let audience = format!("{issuer:032}");
    for number in 0.. {
        let (issuing, audience) = (ledger.clone(), audience.clone());
        let draft = Draft {
            kind: Kind::Ack,
            audience,
            subject: [5; 16],
            agreement: Digest::ZERO,
            reference: Digest::ZERO,
            detail: Map::new().uint(1, number),
        };
        let issued = ledger.store().transact("issue", move |tx| {
            let statement = issuing.issue(tx, draft)?;
            let index = issuing.size(tx)?.saturating_sub(1);
            Ok::<_, LedgerError>((index, statement.digest()))
        });
        match issued.await {
            Ok((index, digest)) => say(&format!("issued {index} {digest}")),
            Err(error) => fail(&error.to_string()),
        }
    }
}

async fn publish_forever(ledger: Ledger) {
    loop {
        match ledger.checkpoint().await {
            Ok(signed) => {
                let checkpoint = signed.checkpoint();
                say(&format!("signed {} {}", checkpoint.size, checkpoint.root));
            }
            Err(error) => fail(&error.to_string()),
        }
        if let Err(error) = ledger.publish().await {
            fail(&error.to_string());
        }
    }
}

fn fail(why: &str) -> ! {
    say(&format!("failed {why}"));
    std::process::exit(1)
}

/// Not a test by itself: the process that is killed.
#[test]
fn crash_child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let ledger = open(directory.as_ref()).unwrap_or_else(|error| fail(&error.to_string()));
    say("opened ledger");
    for issuer in 1..=ISSUERS {
        runtime.spawn(issue_forever(ledger.clone(), issuer));
    }
    runtime.block_on(publish_forever(ledger));
}

#[test]
fn nothing_acknowledged_is_lost_and_no_checkpoint_is_contradicted() {
    let rounds = std::env::var_os(ROUNDS).map_or(DEFAULT_ROUNDS, |rounds| {
        rounds
            .to_str()
            .and_then(|rounds| rounds.parse().ok())
            .unwrap_or_else(|| panic!("{ROUNDS} is a number"))
    });
    let place = tempfile::tempdir().unwrap();
    // The first process creates it.
    let directory = place.path().join("store");
    let mut known = Known::default();
    let mut killed_while_opening = 0;
    // How long the last process took to open the ledger.
    let mut opening = Duration::from_millis(100);
    let mut random = Random(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for round in 0..rounds {
        let plan = match random.below(4) {
            0 => Kill::After(opening.mul_f64(random.below(1000) as f64 / 1200.0)),
            _ => Kill::Issued(1 + random.below(150), Duration::from_micros(random.below(5000))),
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "crash_child", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory);
        let run = run_and_kill(command.stdout(Stdio::piped()).spawn().unwrap(), plan);
        match run.opened {
            Some(took) => opening = took,
            None => killed_while_opening += 1,
        }
        known.issued.extend(run.issued);
        known.signed.extend(run.signed);
        // The others are left to the next process.
        if random.below(2) == 0 || round % 8 == 7 || round + 1 == rounds {
            runtime.block_on(known.check(&directory, &format!("round {round}")));
        }
        if round % 8 == 7 || round + 1 == rounds {
            let store = huitong_store::offline::fsck(&directory, &Disk::counting(), &mut |_| ()).unwrap();
            assert_eq!(store.findings, [], "round {round}");
            let ledger = huitong_ledger::offline::fsck(&directory, &Disk::counting(), &mut |_| ()).unwrap();
            assert_eq!(ledger.worst(), Severity::Note, "round {round}: {:?}", ledger.findings);
        }
    }
    let (issued, signed) = (known.issued.len() as u64, known.signed.len() as u64);
    println!("{issued} statements, {signed} checkpoints, killed while opening: {killed_while_opening}");
    assert!(issued > rounds && signed > rounds, "{issued} statements, {signed} checkpoints");
}

/// What processes said before they were killed.
#[derive(Default)]
struct Known {
    /// Index and digest.
    issued: Vec<(u64, Digest)>,
    /// Size and root.
    signed: Vec<(u64, Digest)>,
}

impl Known {
    /// Opens the ledger, and compares it with everything that was ever said of it.
    async fn check(&self, directory: &Path, context: &str) {
        let ledger = open(directory).unwrap_or_else(|error| panic!("{context}: {error}"));
        ledger.signing().unwrap_or_else(|error| panic!("{context}: {error}"));
        let view = ledger.store().view();
        for (index, digest) in &self.issued {
            assert_eq!(ledger.index_of(&view, digest).unwrap(), Some(*index), "{context}: {digest}");
            let statement = ledger.statement(&view, digest).unwrap();
            let statement = statement.unwrap_or_else(|| panic!("{context}: statement {index} is missing"));
            assert_eq!(statement.digest(), *digest, "{context}");
            assert_eq!(
                ledger.entry(&view, *index).unwrap().as_deref(),
                Some(statement.bytes().as_ref()),
                "{context}"
            );
        }
        let newest = ledger.checkpoint().await.unwrap_or_else(|error| panic!("{context}: {error}"));
        let new = newest.checkpoint();
        for (size, root) in self.signed.iter().filter(|(size, _)| *size > 0) {
            assert!(*size <= new.size, "{context}: {size} entries were signed, {} are there", new.size);
            let path = ledger.consistency(*size, new.size).unwrap();
            verify_consistency(*size, root, new.size, &new.root, &path)
                .unwrap_or_else(|error| panic!("{context}: the checkpoint of {size} entries: {error}"));
        }
        ledger.publish().await.unwrap_or_else(|error| panic!("{context}: {error}"));
        drop(view);
        ledger.store().clone().close().await;
    }
}

/// When a process is killed.
enum Kill {
    /// So long after it was started.
    After(Duration),
    /// So long after it has acknowledged so many statements.
    Issued(u64, Duration),
}

/// What a process said before it was killed.
#[derive(Default)]
struct Run {
    /// How long it took to open the ledger.
    opened: Option<Duration>,
    issued: Vec<(u64, Digest)>,
    signed: Vec<(u64, Digest)>,
}

fn run_and_kill(mut child: Child, plan: Kill) -> Run {
    let began = Instant::now();
    let lines = lines(&mut child);
    let (mut deadline, wanted) = match plan {
        Kill::After(time) => (Some(began + time), u64::MAX),
        Kill::Issued(count, _) => (None, count),
    };
    let mut run = Run::default();
    let mut was_killed = false;
    loop {
        let line = match deadline.filter(|_| !was_killed) {
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => lines.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        let line = match line {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                was_killed = true;
                continue;
            }
        };
        // The harness may have begun the line. A line is one write to a pipe, so the kill cannot cut it.
        if line.contains("opened ledger") {
            run.opened = Some(began.elapsed());
        } else if let Some((_, issued)) = line.split_once("issued ") {
            run.issued.push(numbered_digest(issued));
        } else if let Some((_, signed)) = line.split_once("signed ") {
            run.signed.push(numbered_digest(signed));
        } else if let Some((_, why)) = line.split_once("failed ") {
            panic!("the process could not go on: {why}");
        }
        if let Kill::Issued(_, pause) = plan
            && deadline.is_none()
            && run.issued.len() as u64 >= wanted
        {
            deadline = Some(Instant::now() + pause);
        }
    }
    let status = child.wait().unwrap();
    assert!(was_killed && status.signal() == Some(9), "the process ended by itself: {status}");
    run
}

fn numbered_digest(text: &str) -> (u64, Digest) {
    let (number, digest) = text.split_once(' ').unwrap();
    (number.parse().unwrap(), digest.parse().unwrap())
}

/// What the process says, line by line, until it is gone.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let out = child.stdout.take().unwrap();
    thread::spawn(move || {
        for line in BufReader::new(out).lines() {
            // Nobody listens any more if the test failed.
            let Ok(()) = sender.send(line.unwrap()) else { return };
        }
    });
    lines
}

/// Numbers that look like chance and are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
