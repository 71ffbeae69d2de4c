//! Nodes with a ledger in a directory of their own, for tests.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use huitong_proof::{
    Digest, Draft, Envelope, Kind, ManualClock, Map, SeededEntropy, SigningKey, SpaceId, Statement, Timestamp,
};
use huitong_store::{Disk, Store, Tx};
use tempfile::TempDir;

use crate::opening::BLOCK;
use crate::{Identity, Ledger, LedgerError, origin_of};

pub(crate) const START: u64 = 1_700_000_000_000;

/// A node that can be stopped and started again on the same directory.
pub(crate) struct Node {
    pub(crate) ledger: Ledger,
    pub(crate) clock: ManualClock,
    pub(crate) directory: Arc<TempDir>,
    seed: u8,
    block: u64,
}

impl Node {
    pub(crate) fn new(seed: u8) -> Self {
        Self::with_block(seed, BLOCK)
    }

    /// A node that settles `block` entries at once: few, so that a test gets there soon.
    pub(crate) fn with_block(seed: u8, block: u64) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::open(&directory, seed, block, Disk::real()).unwrap()
    }

    pub(crate) fn open(
        directory: &Arc<TempDir>,
        seed: u8,
        block: u64,
        disk: Disk,
    ) -> Result<Self, LedgerError> {
        let clock = ManualClock::new(Timestamp::from_millis(START));
        let ledger = open(directory.path(), seed, &clock, &origin_of(&id(seed)), log_key(seed), block, disk)?;
        Ok(Self { ledger, clock, seed, block, directory: directory.clone() })
    }

    pub(crate) async fn restart(self) -> Self {
        self.try_restart().await.unwrap()
    }

    pub(crate) async fn try_restart(self) -> Result<Self, LedgerError> {
        let origin = self.ledger.origin().to_owned();
        let log_key = log_key(self.seed);
        self.try_restart_as(&origin, log_key).await
    }

    pub(crate) async fn restart_as(self, origin: &str, log_key: SigningKey) -> Self {
        self.try_restart_as(origin, log_key).await.unwrap()
    }

    async fn try_restart_as(self, origin: &str, log_key: SigningKey) -> Result<Self, LedgerError> {
        let Self { ledger, clock, seed, block, directory } = self;
        ledger.store().clone().close().await;
        drop(ledger);
        clock.advance(Duration::from_secs(1));
        let ledger = open(directory.path(), seed, &clock, origin, log_key, block, Disk::real())?;
        Ok(Self { ledger, clock, seed, block, directory })
    }

    /// Stops the node and leaves its directory.
    pub(crate) async fn stop(self) -> Arc<TempDir> {
        let Self { ledger, directory, .. } = self;
        ledger.store().clone().close().await;
        directory
    }

    /// Runs one transaction with a clone of the ledger.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Ledger, &mut Tx<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let ledger = self.ledger.clone();
        Ok(self.ledger.store().transact("test", move |tx| f(&ledger, tx)).await?)
    }

    pub(crate) async fn issue(&self, draft: Draft) -> Statement {
        self.run(|ledger, tx| ledger.issue(tx, draft)).await.unwrap()
    }

    pub(crate) async fn issue_many(&self, count: u64, audience: &str) -> Vec<Statement> {
        let audience = audience.to_owned();
        self.run(move |ledger, tx| (0..count).map(|n| ledger.issue(tx, draft(&audience, n))).collect())
            .await
            .unwrap()
    }

    /// What this node's statement is once it went over the wire.
    pub(crate) fn received(&self, statement: &Statement) -> Statement {
        let envelope = Envelope::decode(statement.bytes().clone()).unwrap();
        envelope.verify(&self.ledger.statement_key(), self.ledger.space()).unwrap()
    }
}

/// Copies the directory of a node that is stopped.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn id(seed: u8) -> String {
    format!("NODE{seed:028}")
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

pub(crate) fn log_key(seed: u8) -> SigningKey {
    key(seed + 100)
}

pub(crate) fn space() -> SpaceId {
    SpaceId::from_name("test")
}

pub(crate) fn draft(audience: &str, number: u64) -> Draft {
    Draft {
        kind: Kind::Offer,
        audience: audience.to_owned(),
        subject: [5; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Map::new().uint(1, number),
    }
}

fn open(
    directory: &Path,
    seed: u8,
    clock: &ManualClock,
    origin: &str,
    log_key: SigningKey,
    block: u64,
    disk: Disk,
) -> Result<Ledger, LedgerError> {
    let time = clock.clone();
    let clock = Arc::new(clock.clone());
    let store_clock = Arc::new(move || huitong_proof::Clock::now(&time).millis());
    let store = Store::open_on(directory, store_clock, disk)?;
    let identity = Identity {
        node: id(seed),
        origin: origin.to_owned(),
        space: space(),
        statement_key: key(seed),
        log_key,
    };
    Ledger::open_with(store, identity, clock, Arc::new(SeededEntropy::new(u64::from(seed))), block)
}
