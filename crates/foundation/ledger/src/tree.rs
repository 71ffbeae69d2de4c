//! The tree over all entries: its right edge in memory, everything else in tiles on disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{MutexGuard, PoisonError};

use huitong_proof::Digest;
use huitong_store::Read;

use crate::archive::Archive;
use crate::checkpoint::Checkpoint;
use crate::edge::Edge;
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::log::Ledger;
use crate::merkle::{Nodes, leaf_hash, root};
use crate::tables::{self, Extent};
use crate::tiles::{HEIGHT, WIDTH, full_tiles, subtree_hash};

/// Entries read from the store at once.
const PAGE: usize = 1024;
/// Tiles that one proof, or one batch of proofs, keeps at hand: 512 KiB.
const TILES_KEPT: usize = 64;

/// The hashes that are not in settled tiles.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) edge: Edge,
    /// Of the [`Extent`] that the edge belongs to.
    pub(crate) arrangement: u64,
}

impl Tree {
    /// The tree over the first `settled` entries.
    pub(crate) fn settled(archive: &Archive, settled: u64, arrangement: u64) -> Result<Self, LedgerError> {
        let mut open = Vec::new();
        for level in 1..HEIGHT {
            let below = full_tiles(level - 1, settled);
            let first = full_tiles(level, settled).saturating_mul(WIDTH);
            let hashes = (first..below)
                .map(|number| {
                    subtree_hash(&archive.tile(level - 1, number)?)
                        .ok_or(LedgerError::Damaged { what: "a tile is not full" })
                })
                .collect::<Result<Vec<_>, LedgerError>>()?;
            open.push(hashes);
        }
        while open.last().is_some_and(Vec::is_empty) {
            open.pop();
        }
        Ok(Self { edge: Edge::resume(settled, open), arrangement })
    }

    /// Whether the entries have the root that was signed for them.
    pub(crate) fn has_root(&self, archive: &Archive, signed: &Checkpoint) -> Result<bool, LedgerError> {
        if signed.size > self.edge.size() {
            return Ok(false);
        }
        let nodes = TreeNodes::over(|level, number| match self.edge.tile(level, number) {
            Some(hashes) => Ok(hashes.to_vec()),
            None => archive.tile(level, number),
        });
        Ok(root(&nodes, signed.size)? == signed.root)
    }

    /// Takes in the entries up to `size` that it does not have yet.
    pub(crate) fn grow(&mut self, r: &impl Read, size: u64) -> Result<(), LedgerError> {
        while self.edge.size() < size {
            let rows = tables::entries(r, self.edge.size(), PAGE)?;
            if rows.is_empty() {
                return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
            }
            for row in rows {
                if self.edge.size() == size {
                    break;
                }
                self.edge.push(leaf_of(r, self.edge.size(), &row)?);
            }
        }
        Ok(())
    }
}

/// The leaf hash of an entry as its row or its bundle holds it: empty if there is a gap.
pub(crate) fn leaf_of(r: &impl Read, index: u64, bytes: &[u8]) -> Result<Digest, LedgerError> {
    if !bytes.is_empty() {
        return Ok(leaf_hash(bytes));
    }
    let gap = Gap::get(r, index)?
        .ok_or(LedgerError::Damaged { what: "an entry is empty and nothing says who removed it" })?;
    Ok(gap.leaf)
}

impl Ledger {
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.inner.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all committed entries into the tree, and says how far the log reached then.
    pub(crate) fn integrate(&self) -> Result<Extent, LedgerError> {
        let view = self.store().view();
        let mut tree = self.tree();
        loop {
            let extent = tables::extent(&view)?;
            if tree.arrangement != extent.arrangement {
                let settled = tables::settled(&view)?;
                *tree = Tree::settled(&self.inner.archive, settled, extent.arrangement)?;
            }
            let grown = tree.grow(&view, extent.size);
            if tables::extent(&view)?.arrangement == extent.arrangement {
                return grown.map(|()| extent);
            }
            // Entries were taken back meanwhile, so what was read may be of two logs.
            tree.arrangement = u64::MAX;
        }
    }

    /// The hashes of complete subtrees below what was integrated.
    pub(crate) fn nodes(&self) -> TreeNodes<'_> {
        TreeNodes::over(|level, number| self.tile(level, number))
    }

    /// The hashes of one tile, as far as there are any.
    pub(crate) fn tile(&self, level: u8, number: u64) -> Result<Vec<Digest>, LedgerError> {
        if let Some(hashes) = self.tree().edge.tile(level, number) {
            return Ok(hashes.to_vec());
        }
        self.inner.archive.tile(level, number)
    }
}

/// The hashes of complete subtrees, from tiles, each of which is read once.
pub(crate) struct TreeNodes<'a> {
    read: Box<dyn Fn(u8, u64) -> Result<Vec<Digest>, LedgerError> + 'a>,
    /// By level and number.
    tiles: RefCell<HashMap<(u8, u64), Hashes>>,
}

type Hashes = Rc<Vec<Digest>>;

impl<'a> TreeNodes<'a> {
    /// `read` gives the hashes of a tile, as far as there are any.
    pub(crate) fn over(read: impl Fn(u8, u64) -> Result<Vec<Digest>, LedgerError> + 'a) -> Self {
        Self { read: Box::new(read), tiles: RefCell::default() }
    }

    fn tile(&self, level: u8, number: u64) -> Result<Hashes, LedgerError> {
        if let Some(hashes) = self.tiles.borrow().get(&(level, number)) {
            return Ok(hashes.clone());
        }
        let hashes = Rc::new((self.read)(level, number)?);
        let mut tiles = self.tiles.borrow_mut();
        if tiles.len() >= TILES_KEPT {
            tiles.clear();
        }
        tiles.insert((level, number), hashes.clone());
        Ok(hashes)
    }
}

impl Nodes for TreeNodes<'_> {
    type Error = LedgerError;

    fn node(&self, level: u8, index: u64) -> Result<Digest, LedgerError> {
        let (tile_level, inner) = (level / HEIGHT, level % HEIGHT);
        let first = index.checked_shl(u32::from(inner)).unwrap_or(u64::MAX);
        let start = usize::try_from(first % WIDTH).unwrap_or_default();
        let tile = self.tile(tile_level, first / WIDTH)?;
        let end = start.saturating_add(1 << inner);
        tile.get(start..end)
            .and_then(subtree_hash)
            .ok_or(LedgerError::Damaged { what: "the hash of a complete subtree is missing" })
    }
}
