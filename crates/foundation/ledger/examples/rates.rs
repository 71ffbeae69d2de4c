//! Prints how fast this machine issues, fills, proves and opens: `cargo run --release -p huitong-ledger --features testing
//! --example rates -- DIRECTORY [ENTRIES]`. A directory that exists is only read.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it prints, and stops when something is wrong"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use huitong_ledger::{Identity, Ledger, offline, origin_of, testing};
use huitong_proof::{
    Clock, Digest, Draft, Envelope, Kind, Map, SigningKey, SpaceId, SystemClock, SystemEntropy,
};
use huitong_store::{Disk, Store};

fn open(directory: &Path) -> Ledger {
    let store = Store::open(directory, Arc::new(|| SystemClock.now().millis())).unwrap();
    let node = "A".repeat(32);
    let identity = Identity {
        origin: origin_of(&node),
        node,
        space: SpaceId::from_name("bench"),
        statement_key: SigningKey::from_seed(&[1; 32]),
        log_key: SigningKey::from_seed(&[2; 32]),
    };
    Ledger::open(store, identity, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
}

/// Processor seconds of the store's writer thread: what bounds the rate, whatever else the machine does meanwhile.
fn writer_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let schedules = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let schedule = std::fs::read_to_string(task.join("schedstat")).ok()?;
        (name.trim() == "store-writer").then_some(schedule)
    });
    let nanoseconds: f64 =
        schedules.filter_map(|schedule| schedule.split(' ').next()?.parse::<f64>().ok()).sum();
    nanoseconds / 1e9
}

async fn issue(ledger: &Ledger, callers: u64, time: Duration) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut count = 0_u64;
                while start.elapsed() < time {
                    let issuing = ledger.clone();
                    let draft = Draft {
                        kind: Kind::Ack,
                        audience: format!("{:032}", caller % 8),
                        subject: [caller as u8; 16],
                        agreement: Digest::ZERO,
                        reference: Digest::sha256(&count.to_be_bytes()),
                        detail: Map::new().uint(1, count),
                    };
                    ledger.store().transact("bench", move |tx| issuing.issue(tx, draft)).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    total as f64 / start.elapsed().as_secs_f64()
}

/// Signs and publishes each second, as a node does.
async fn publish(ledger: Ledger) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        ledger.checkpoint().await.unwrap();
        let signed = start.elapsed();
        ledger.publish().await.unwrap();
        println!("    checkpoint {signed:?}, publish {:?}", start.elapsed() - signed);
    }
}

async fn write(directory: &Path, entries: u64) {
    let ledger = open(directory);
    let publisher = tokio::spawn(publish(ledger.clone()));
    for callers in [1, 16, 256] {
        let before = writer_seconds();
        let rate = issue(&ledger, callers, Duration::from_secs(5)).await;
        let each = (writer_seconds() - before) / (rate * 5.0) * 1e6;
        println!("issued per second by {callers}: {rate:.0}, {each:.1} us each of the writer thread");
    }
    publisher.abort();
    let _ = publisher.await;

    let start = Instant::now();
    let mut last = Instant::now();
    testing::fill(&ledger, entries, &mut |done| {
        if last.elapsed() > Duration::from_secs(5) {
            println!("    {done} after {:?}, {}", start.elapsed(), memory());
            last = Instant::now();
        }
    })
    .await
    .unwrap();
    println!("filled per second: {:.0}", entries as f64 / start.elapsed().as_secs_f64());
    ledger.store().clone().close().await;
}

async fn read(directory: &Path) {
    let start = Instant::now();
    let ledger = open(directory);
    println!("opened in {:?}: {:?}, {}", start.elapsed(), ledger.opening(), memory());

    let view = ledger.store().view();
    let size = ledger.size(&view).unwrap();
    let mut times = Vec::new();
    for number in 0..5_000_u64 {
        let random = Digest::sha256(&number.to_be_bytes());
        let index = u64::from_be_bytes(random.as_bytes()[..8].try_into().unwrap()) % size;
        let bytes = ledger.entry(&view, index).unwrap().unwrap();
        let digest = Envelope::decode(bytes).unwrap().trusted(ledger.space()).unwrap().digest();
        let start = Instant::now();
        ledger.prove(vec![digest], 0).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("proof p50 {half:?}, p99 {most:?}, {}", memory());
    ledger.store().clone().close().await;
    drop((view, ledger));

    let start = Instant::now();
    let report = offline::fsck(directory, &Disk::real(), &mut |_| {}).unwrap();
    println!("fsck of {} entries in {:?}: {:?}, {}", report.size, start.elapsed(), report.findings, memory());
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let wanted = |line: &&str| line.starts_with("VmHWM") || line.starts_with("VmRSS");
    status.lines().filter(wanted).collect::<Vec<_>>().join(" ").replace('\t', "")
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap());
    let entries: u64 = arguments.next().map_or(100_000, |text| text.parse().unwrap());
    if !directory.exists() {
        write(&directory, entries).await;
    }
    read(&directory).await;
}
