//! Making every derived file again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use huitong_store::disk::Disk;
use huitong_store::{Progress, Unit};

use super::Stopped;
use crate::error::LedgerError;
use crate::mending::{Mender, file_names};
use crate::place::LOOKUP;
use crate::run::RunName;
use crate::tiles::{HEIGHT, WIDTH, full_tiles};

/// Makes every tile and every lookup run of a stopped node's ledger again from its settled entries, on all processors.
/// Says how many entries that were.
///
/// # Errors
/// [`LedgerError::DamagedFile`] when a bundle is missing or does not read; storage errors. The next start, or another
/// call, makes what is missing then.
pub fn rebuild(store: &Path, disk: &Disk, progress: &mut dyn FnMut(Progress)) -> Result<u64, LedgerError> {
    let stopped = Stopped::open(store, disk)?;
    let (about, facts, view) = (stopped.about()?, stopped.facts()?, &stopped.view);
    let (block, settled) = (about.block, facts.settled);
    let mender = Mender { place: &stopped.place, view, space: &about.space, block, settled };
    let lookup = stopped.root.join(LOOKUP);
    for file in file_names(&lookup)? {
        stopped.place.remove(&lookup.join(file))?;
    }

    let (next, done, blocks) = (AtomicU64::new(0), AtomicU64::new(0), settled / block);
    let work = || -> Result<(), LedgerError> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= blocks {
                return Ok(());
            }
            let bundles = block / WIDTH;
            for bundle in number.saturating_mul(bundles)..number.saturating_add(1).saturating_mul(bundles) {
                mender.make_tile(0, bundle)?;
            }
            mender.make_run(RunName { level: 0, number })?;
            done.fetch_add(block, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            while !worker.is_finished() {
                let step = Progress {
                    step: "read entries",
                    done: done.load(Ordering::Relaxed),
                    total: settled,
                    unit: Unit::Entries,
                };
                progress(step);
                thread::park_timeout(std::time::Duration::from_millis(100));
            }
            worker.join().map_err(|_| LedgerError::Worker)??;
        }
        Ok::<(), LedgerError>(())
    })?;
    for level in 1..HEIGHT {
        let total = full_tiles(level, settled);
        for number in 0..total {
            progress(Progress { step: "make upper tiles", done: number, total, unit: Unit::Files });
            mender.make_tile(level, number)?;
        }
    }
    progress(Progress { step: "merge lookup runs", done: 0, total: 0, unit: Unit::Files });
    mender.mend_runs(&mut Vec::new())?;
    Ok(settled)
}
