//! Statements made durable and logged per second, by several callers at once.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use huitong_ledger::{Identity, Ledger, LedgerError, origin_of};
use huitong_proof::cbor::Map;
use huitong_proof::{Clock as _, Digest, Draft, Kind, SigningKey, SpaceId, SystemClock, SystemEntropy};
use huitong_store::Store;

use crate::report::Report;

const NODE: &str = "BENCHNODE00000000000000000000001";
/// About what a transfer's statements have.
const STATEMENT_BYTES: usize = 450;

pub(crate) fn measure(place: &Path, time: Duration, report: &mut Report) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let loops = write_and_sync(&place.join("loop"), time / 4);
    for writers in [1_u64, 16, 256] {
        let directory = place.join(format!("writers-{writers}"));
        let rate = runtime.block_on(statements(&directory, writers, time));
        let bench = format!("statements_per_second_{writers}");
        report.compared(
            &bench,
            rate,
            "1/s",
            loops,
            "one caller: write of 450 bytes and fdatasync, again and again",
        );
        std::fs::remove_dir_all(directory).unwrap();
    }
}

/// What a program does that makes one record after another durable.
fn write_and_sync(path: &Path, time: Duration) -> f64 {
    let mut file = OpenOptions::new().create_new(true).append(true).open(path).unwrap();
    let record = [7_u8; STATEMENT_BYTES];
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < time {
        file.write_all(&record).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

async fn statements(directory: &Path, writers: u64, time: Duration) -> f64 {
    let ledger = ledger(directory);
    let publishing = tokio::spawn(publish(ledger.clone()));
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let callers: Vec<_> = (0..writers)
        .map(|writer| {
            let (ledger, done) = (ledger.clone(), done.clone());
            tokio::spawn(async move {
                while began.elapsed() < time {
                    issue(&ledger, writer, 1).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    publishing.abort();
    let _ = publishing.await;
    // What was counted is in the log.
    let size = ledger.size(&ledger.store().view()).unwrap();
    assert_eq!(size, done.load(Ordering::Relaxed));
    ledger.store().clone().close().await;
    rate
}

/// The node's own worker does this.
async fn publish(ledger: Ledger) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ledger.checkpoint().await.unwrap();
        ledger.publish().await.unwrap();
    }
}

/// Issues `count` statements to one of 1,024 peers in one transaction.
pub(crate) async fn issue(ledger: &Ledger, writer: u64, count: u64) {
    let drafts: Vec<Draft> = (0..count).map(|number| draft(writer.wrapping_add(number))).collect();
    let signer = ledger.clone();
    ledger
        .store()
        .transact("bench.issue", move |tx| -> Result<(), LedgerError> {
            for draft in drafts {
                signer.issue(tx, draft)?;
            }
            Ok(())
        })
        .await
        .unwrap();
}

fn draft(number: u64) -> Draft {
    let mut subject = [0; 16];
    subject[..8].copy_from_slice(&number.to_be_bytes());
    Draft {
        kind: Kind::Ack,
        audience: format!("BENCHPEER{:023}", number % 1024),
        subject,
        agreement: Digest::sha256(b"agreement"),
        reference: Digest::sha256(&number.to_be_bytes()),
        detail: Map::new().uint(1, 1).bytes(2, &[3; 32]).uint(5, number).bytes(6, &[5; 32]),
    }
}

fn ledger(directory: &Path) -> Ledger {
    let store = Store::open(directory, Arc::new(|| SystemClock.now().millis())).unwrap();
    let identity = Identity {
        node: NODE.to_owned(),
        origin: origin_of(NODE),
        space: SpaceId::from_name("bench"),
        statement_key: SigningKey::from_seed(&[1; 32]),
        log_key: SigningKey::from_seed(&[2; 32]),
    };
    Ledger::open(store, identity, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
}
