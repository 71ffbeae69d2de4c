//! What is settled: tiles, bundles and lookup runs in files that no longer change.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use huitong_proof::Digest;

use crate::error::LedgerError;
use crate::place;
use crate::run::{Run, RunName};
use crate::tiles::{Bundle, WIDTH, decode_tile};

/// Reads settled files below one directory.
///
/// Memory: the bundles read last, up to [`CACHE_BYTES`], and one open file for each run, of which there are at most
/// three for each factor of four that the log has grown.
#[derive(Debug)]
pub(crate) struct Archive {
    root: PathBuf,
    cache: Mutex<VecDeque<(u64, Arc<Bundle>)>>,
    /// In log order.
    runs: RwLock<Arc<Vec<Arc<Run>>>>,
}

const CACHE_BYTES: usize = 4 * 1024 * 1024;
const FULL: u16 = 256;

impl Archive {
    pub(crate) fn new(root: PathBuf, runs: Vec<Run>) -> Self {
        let runs = RwLock::new(Arc::new(runs.into_iter().map(Arc::new).collect()));
        Self { root, cache: Mutex::default(), runs }
    }

    /// A settled bundle. Where entries were removed, what is left of it.
    pub(crate) fn bundle(&self, number: u64) -> Result<Arc<Bundle>, LedgerError> {
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = cache.iter().position(|(cached, _)| *cached == number)
                && let Some(hit) = cache.remove(at)
            {
                let bundle = hit.1.clone();
                cache.push_front(hit);
                return Ok(bundle);
            }
        }
        let bundle = Arc::new(read_bundle(&self.root, number)?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_front((number, bundle.clone()));
        let mut bytes = 0_usize;
        cache.retain(|(_, bundle)| {
            let kept = bytes == 0 || bytes.saturating_add(bundle.bytes().len()) <= CACHE_BYTES;
            if kept {
                bytes = bytes.saturating_add(bundle.bytes().len()).max(1);
            }
            kept
        });
        Ok(bundle)
    }

    /// A settled full tile.
    pub(crate) fn tile(&self, level: u8, number: u64) -> Result<Vec<Digest>, LedgerError> {
        read_tile(&self.root, level, number)
    }

    /// Forgets what was read of a bundle whose file has changed.
    pub(crate) fn bundle_changed(&self, number: u64) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).retain(|(cached, _)| *cached != number);
    }

    pub(crate) fn runs(&self) -> Arc<Vec<Arc<Run>>> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in a run instead of those that lie within its span.
    pub(crate) fn add_run(&self, run: Run, block: u64) {
        let within = |other: &RunName| match (run.name.span(block), other.span(block)) {
            (Some(new), Some(old)) => new.start <= old.start && old.end <= new.end,
            _ => false,
        };
        let mut runs = self.runs.write().unwrap_or_else(PoisonError::into_inner);
        let mut others: Vec<Arc<Run>> = runs.iter().filter(|other| !within(&other.name)).cloned().collect();
        others.push(Arc::new(run));
        others.sort_by_key(|run| run.name.span(block).map(|span| span.start));
        *runs = Arc::new(others);
    }
}

/// A full bundle below `root`, whole or with removed entries.
pub(crate) fn read_bundle(root: &Path, number: u64) -> Result<Bundle, LedgerError> {
    let mut path = place::redacted(root, number);
    let mut bytes = place::read(&path)?;
    if bytes.is_none() {
        path = place::bundle(root, number);
        bytes = place::read(&path)?;
    }
    let bytes = bytes.ok_or_else(|| {
        LedgerError::damaged_file(&path, "is missing, and 256 entries with it; restore them from a backup")
    })?;
    Bundle::decode(bytes, FULL)
        .ok_or_else(|| LedgerError::damaged_file(&path, "does not hold 256 entries, each after its length"))
}

/// A full tile below `root`.
pub(crate) fn read_tile(root: &Path, level: u8, number: u64) -> Result<Vec<Digest>, LedgerError> {
    let path = place::tile(root, level, number);
    let bytes = place::read(&path)?.ok_or_else(|| LedgerError::damaged_file(&path, "is missing"))?;
    decode_tile(&bytes, FULL)
        .ok_or_else(|| LedgerError::damaged_file(&path, "does not hold 256 hashes of 32 bytes"))
}

/// The bundle that holds an entry, and its position there.
pub(crate) fn within_bundle(index: u64) -> (u64, usize) {
    (index / WIDTH, usize::try_from(index % WIDTH).unwrap_or_default())
}
