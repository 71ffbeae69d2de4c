//! A process that is killed at any point loses nothing it has acknowledged.
//!
//! The test starts its own binary as the process to be killed, again and again over one directory. Segments and
//! snapshots are so small that they are begun, made and deleted all the time; every fifth process compacts without
//! pause. A process is killed after it has acknowledged some entries, or at some moment while it opens the store.
//! The next one checks what it finds, and so does this one, with `fsck`, every tenth time.
//!
//! 200 rounds by default. The long run:
//!
//! ```text
//! HUITONG_CRASH_ROUNDS=5000 cargo test --release -p huitong-store --test crash
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

use huitong_store::offline::{self, Severity};
use huitong_store::{Disk, History, Options, Outgoing, Read, Store, StoreError, Table, Tx, history, outbox};

const ENTRY: Table = Table::new("crash.entry");
const COUNT: Table = Table::resident("crash.count");
const KEPT: Table = Table::with_history("crash.kept");
const DIRECTORY: &str = "HUITONG_STORE_CRASH_DIRECTORY";
const COMPACTS: &str = "HUITONG_STORE_CRASH_COMPACTS";
const ROUNDS: &str = "HUITONG_CRASH_ROUNDS";
const DEFAULT_ROUNDS: u64 = 200;
/// Concurrent writers in the process that is killed.
const WRITERS: u64 = 16;
const OPTIONS: Options =
    Options { segment_bytes: 8 * 1024, snapshot_bytes: 16 * 1024, chunk_bytes: 8 * 1024 };
/// So many of the last entries, and of their messages, are kept, so that the state stays small.
const ENTRIES: u64 = 60;
const MESSAGES: u64 = 20;
/// Every so many entries one has a history.
const KEPT_EVERY: u64 = 10;

/// Its syncs do not wait for the device: what a killed process wrote, the kernel has.
fn open(dir: &Path) -> Store {
    Store::open_with_options(dir, Arc::new(|| 1), Disk::counting(), OPTIONS).unwrap()
}

/// Adds the next entry and removes the oldest: its number, a value made from it, a message and its history, all in
/// one transaction.
fn append(tx: &mut Tx<'_>) -> Result<u64, StoreError> {
    let number = tx.get(&COUNT, b"count")?.map_or(0, |bytes| number(&bytes)) + 1;
    tx.put(&COUNT, b"count", &number.to_be_bytes())?;
    tx.put(&ENTRY, &number.to_be_bytes(), &value(number))?;
    tx.delete(&ENTRY, &number.saturating_sub(ENTRIES).to_be_bytes())?;
    let message =
        Outgoing { destination: "peer".into(), topic: "t".into(), payload: number.to_be_bytes().into() };
    tx.send(message)?;
    outbox::settle(tx, number.saturating_sub(MESSAGES))?;
    if number.is_multiple_of(KEPT_EVERY) {
        tx.put(&KEPT, b"kept", &number.to_be_bytes())?;
    }
    Ok(number)
}

/// Everything is there that so many entries leave, in order, and nothing else. Says how many they are.
fn check(store: &Store) -> u64 {
    let view = store.view();
    let count = view.get(&COUNT, b"count").unwrap().map_or(0, |bytes| number(&bytes));
    let rows = view.scan(&ENTRY, b"", None, usize::MAX).unwrap();
    let kept = count.saturating_sub(ENTRIES) + 1..=count;
    assert!(rows.iter().map(|row| number(&row.key)).eq(kept), "{count} entries");
    assert!(rows.iter().all(|row| row.value == value(number(&row.key))), "{count} entries");
    let messages = outbox::pending(&view, Some("peer"), usize::MAX).unwrap();
    let pending = count.saturating_sub(MESSAGES) + 1..=count;
    assert!(messages.iter().map(|message| message.id).eq(pending), "{count} entries");
    assert!(messages.iter().all(|message| number(&message.payload) == message.id), "{count} entries");
    let changes: Vec<History> = history(&view, &KEPT, b"kept", usize::MAX).unwrap();
    let values = changes.iter().map(|change| number(change.value.as_deref().unwrap_or_default()));
    assert!(values.eq((KEPT_EVERY..=count).step_by(KEPT_EVERY as usize)), "{count} entries");
    assert!(
        changes.is_sorted_by(|one, other| one.sequence + KEPT_EVERY <= other.sequence),
        "{count} entries"
    );
    let opening = store.opening();
    assert_eq!(opening.refused_snapshots, Vec::<String>::new());
    // One transaction per entry; a compaction has one too.
    assert!(opening.records >= count, "{count} entries, {opening:?}");
    count
}

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key.try_into().unwrap())
}

/// Lengths vary, so that writes end anywhere within a page.
fn value(number: u64) -> Vec<u8> {
    vec![number.to_le_bytes()[0]; (number * 7919 % 700) as usize]
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Appends until it is killed. What goes wrong ends the process, which is noticed.
async fn append_forever(store: Store) {
    loop {
        match store.transact("append", append).await {
            Ok(number) => say(&format!("acknowledged {number}")),
            Err(error) => fail(&error.to_string()),
        }
    }
}

async fn compact_forever(store: Store) {
    loop {
        if let Err(error) = store.compact().await {
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
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = open(dir.as_ref());
    let count = check(&store);
    say(&format!("opened {count}"));
    if let Some(why) = &store.opening().rebuilt {
        say(&format!("rebuilt {why}"));
    }
    if std::env::var_os(COMPACTS).is_some() {
        runtime.spawn(compact_forever(store.clone()));
    }
    for _ in 1..WRITERS {
        runtime.spawn(append_forever(store.clone()));
    }
    runtime.block_on(append_forever(store));
}

#[test]
fn nothing_acknowledged_is_lost() {
    let rounds = std::env::var_os(ROUNDS).map_or(DEFAULT_ROUNDS, |rounds| {
        rounds
            .to_str()
            .and_then(|rounds| rounds.parse().ok())
            .unwrap_or_else(|| panic!("{ROUNDS} is a number"))
    });
    let place = tempfile::tempdir().unwrap();
    // The first process creates it.
    let dir = place.path().join("store");
    let mut known = Known::default();
    let (mut killed_while_opening, mut torn, mut snapshots) = (0, 0, 0);
    // Times that an index was lost to a kill. What sled left does not always open again; it may not be the rule.
    let mut rebuilt = 0;
    // How long the last process took to open the store.
    let mut opening = Duration::from_millis(50);
    let mut random = Random(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for round in 0..rounds {
        let plan = match random.below(4) {
            0 => Kill::After(opening.mul_f64(random.below(1000) as f64 / 800.0)),
            _ => Kill::Acknowledged(1 + random.below(60), Duration::from_micros(random.below(3000))),
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash_child", "--nocapture", "--test-threads=1"]).env(DIRECTORY, &dir);
        if round % 5 == 4 {
            command.env(COMPACTS, "1");
        }
        let run = run_and_kill(command.stdout(Stdio::piped()).spawn().unwrap(), plan);
        match run.opened {
            Some((count, took)) => {
                known.check(count, &format!("round {round}"));
                opening = took;
                if let Some(why) = run.rebuilt
                    && known.index_was_made
                {
                    println!("round {round}: {why}");
                    rebuilt += 1;
                }
                known.index_was_made = true;
            }
            None => killed_while_opening += 1,
        }
        known.acknowledged.extend(run.acknowledged);

        if round % 10 == 9 && dir.join("snapshots").exists() {
            // As it was left.
            let report = offline::fsck(&dir, &Disk::counting(), &mut |_| ()).unwrap();
            for finding in &report.findings {
                let is_torn = finding.what.contains("never completed");
                let is_behind =
                    finding.severity == Severity::Note && finding.what.contains("behind the journal");
                let is_index = finding.place.ends_with("index");
                let is_unmade = is_index && (!known.index_was_made || dir.join("index.condemned").exists());
                let is_lost = is_index && finding.severity == Severity::Recoverable && !is_unmade;
                assert!(is_torn || is_behind || is_unmade || is_lost, "round {round}: {finding:?}");
                torn += u64::from(is_torn);
                rebuilt += u64::from(is_lost);
            }
            // After a start.
            let store = open(&dir);
            known.check(check(&store), &format!("round {round}"));
            // Few processes live long enough to shorten what has gathered.
            runtime.block_on(async {
                store.rest().await;
                if round % 20 == 19 {
                    store.compact().await.unwrap();
                }
            });
            assert_eq!(store.maintenance().last_error, None);
            snapshots = store.maintenance().last_snapshot_sequence.unwrap_or(0);
            drop(store);
            known.index_was_made = true;
            let report = offline::fsck(&dir, &Disk::counting(), &mut |_| ()).unwrap();
            assert_eq!(report.findings, [], "round {round}");
        }
    }
    println!(
        "{} entries, killed while opening: {killed_while_opening}, torn: {torn}, indexes lost: {rebuilt}",
        known.count
    );
    assert!(rebuilt <= 1 + rounds / 100, "{rebuilt} indexes were lost in {rounds} rounds");
    assert!(known.count > rounds && killed_while_opening > rounds / 20 && snapshots > rounds, "{snapshots}");

    // Snapshot and journal alone tell the same.
    let rows = |store: &Store| {
        let view = store.view();
        [ENTRY, COUNT, KEPT].map(|table| view.scan(&table, b"", None, usize::MAX).unwrap())
    };
    let store = open(&dir);
    known.check(check(&store), "in the end");
    let before = rows(&store);
    drop(store);
    std::fs::remove_dir_all(dir.join("index")).unwrap();
    let store = open(&dir);
    known.check(check(&store), "without the index");
    assert!(rows(&store) == before);
}

/// What must be there at the next start.
#[derive(Default)]
struct Known {
    /// Entries that were there at the last start.
    count: u64,
    /// Since then.
    acknowledged: Vec<u64>,
    index_was_made: bool,
}

impl Known {
    /// Compares with how many entries there are now.
    fn check(&mut self, count: u64, context: &str) {
        self.acknowledged.sort_unstable();
        let before = self.count;
        let last = self.acknowledged.last().copied().unwrap_or(before);
        assert!(last <= count, "{context}: {last} was acknowledged, {count} are there");
        assert!(
            self.acknowledged.first().is_none_or(|first| *first > before),
            "{context}: a number came twice"
        );
        assert!(self.acknowledged.is_sorted_by(|one, other| one < other), "{context}: a number came twice");
        // At most what was in flight was not acknowledged.
        let most = before + self.acknowledged.len() as u64 + WRITERS;
        assert!(count <= most, "{context}: {count} are there, {most} can be");
        self.count = count;
        self.acknowledged.clear();
    }
}

/// When a process is killed.
enum Kill {
    /// So long after it was started.
    After(Duration),
    /// So long after it has acknowledged so many entries.
    Acknowledged(u64, Duration),
}

/// What a process said before it was killed.
#[derive(Default)]
struct Run {
    /// How many entries it found, and how long it took to say so.
    opened: Option<(u64, Duration)>,
    rebuilt: Option<String>,
    acknowledged: Vec<u64>,
}

fn run_and_kill(mut child: Child, plan: Kill) -> Run {
    let began = Instant::now();
    let lines = lines(&mut child);
    let (mut deadline, wanted) = match plan {
        Kill::After(time) => (Some(began + time), u64::MAX),
        Kill::Acknowledged(count, _) => (None, count),
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
        if let Some((_, count)) = line.split_once("opened ") {
            run.opened = Some((count.parse().unwrap(), began.elapsed()));
        } else if let Some((_, why)) = line.split_once("rebuilt ") {
            run.rebuilt = Some(why.to_owned());
        } else if let Some((_, number)) = line.split_once("acknowledged ") {
            run.acknowledged.push(number.parse().unwrap());
        } else if let Some((_, why)) = line.split_once("failed ") {
            panic!("the process could not go on: {why}");
        }
        if let Kill::Acknowledged(_, pause) = plan
            && deadline.is_none()
            && run.acknowledged.len() as u64 >= wanted
        {
            deadline = Some(Instant::now() + pause);
        }
    }
    let status = child.wait().unwrap();
    assert!(was_killed && status.signal() == Some(9), "the process ended by itself: {status}");
    run
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
