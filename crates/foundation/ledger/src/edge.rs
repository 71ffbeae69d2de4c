//! The right edge of the tree, in memory: what is not yet in full tiles on disk.

use std::collections::BTreeMap;

use huitong_proof::Digest;

use crate::tiles::{WIDTH, full_tiles, shift, subtree_hash};

/// The hashes that tiles on disk do not hold yet: the tile under way on each level, and the full ones not written.
///
/// Memory: at most 255 hashes on each of 8 levels, and 8 KiB for each full tile since the last call of
/// [`Edge::written`].
#[derive(Debug, Default, Clone)]
pub(crate) struct Edge {
    size: u64,
    /// On each level of tiles, lowest first: the hashes of the tile that is not full.
    open: Vec<Vec<Digest>>,
    /// Full tiles by level and number.
    full: BTreeMap<(u8, u64), Vec<Digest>>,
}

impl Edge {
    /// The edge of a log of `size` entries, a multiple of the tile's width, whose full tiles are all on disk. `open`
    /// holds the hashes beside the last full tile on each level above the lowest, lowest first.
    pub(crate) fn resume(size: u64, open: Vec<Vec<Digest>>) -> Self {
        let mut levels = vec![Vec::new()];
        levels.extend(open);
        Self { size, open: levels, full: BTreeMap::new() }
    }

    /// How many leaves it has taken in.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Takes in the next leaf, and what becomes complete with it.
    pub(crate) fn push(&mut self, leaf: Digest) {
        let mut hash = Some(leaf);
        let mut level = 0_u8;
        while let Some(next) = hash.take() {
            let at = usize::from(level);
            if self.open.len() <= at {
                self.open.push(Vec::new());
            }
            let Some(tile) = self.open.get_mut(at) else { return };
            tile.push(next);
            if tile.len() as u64 == WIDTH {
                let complete = std::mem::take(tile);
                hash = subtree_hash(&complete);
                self.full.insert((level, self.size >> shift(level) >> 8), complete);
                level = level.saturating_add(1);
            }
        }
        self.size = self.size.saturating_add(1);
    }

    /// The hashes of a tile that is still in memory: full, or as far as it is.
    pub(crate) fn tile(&self, level: u8, number: u64) -> Option<&[Digest]> {
        if let Some(tile) = self.full.get(&(level, number)) {
            return Some(tile);
        }
        let open = self.open.get(usize::from(level))?;
        (number == full_tiles(level, self.size)).then_some(open)
    }

    /// The full tiles that are not on disk, lowest level first, whose leaves all lie below `size`.
    pub(crate) fn unwritten(&self, size: u64) -> impl Iterator<Item = (u8, u64, &[Digest])> {
        self.full
            .iter()
            .filter(move |((level, number), _)| *number < full_tiles(*level, size))
            .map(|((level, number), hashes)| (*level, *number, hashes.as_slice()))
    }

    /// Forgets the full tiles below `size`: they are on disk, and stay there.
    pub(crate) fn written(&mut self, size: u64) {
        self.full.retain(|(level, number), _| *number >= full_tiles(*level, size));
    }

    /// Levels of tiles that a log of this size has.
    pub(crate) fn levels(&self) -> u8 {
        u8::try_from(self.open.len()).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::leaf_hash;
    use crate::tiles::TileName;

    /// Every tile of every level, computed level by level from all leaves.
    fn naive(leaves: &[Digest]) -> BTreeMap<(u8, u64), Vec<Digest>> {
        let mut tiles = BTreeMap::new();
        let mut row = leaves.to_vec();
        let mut level = 0;
        while !row.is_empty() {
            for (number, tile) in (0..).zip(row.chunks(256)) {
                tiles.insert((level, number), tile.to_vec());
            }
            row = row.chunks_exact(256).map(|tile| subtree_hash(tile).unwrap()).collect();
            level += 1;
        }
        tiles
    }

    #[test]
    fn holds_every_tile_until_it_is_written() {
        let leaves: Vec<Digest> = (0..70_000_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let mut edge = Edge::default();
        let mut checked = 0;
        for (size, leaf) in (1_u64..).zip(&leaves) {
            edge.push(*leaf);
            if size < 2_000 && size % 97 != 0 && size % 256 > 1
                || size >= 2_000 && !(65_534..=65_538).contains(&size) && size != 70_000
            {
                continue;
            }
            let naive = naive(&leaves[..size as usize]);
            for (&(level, number), hashes) in &naive {
                assert_eq!(edge.tile(level, number), Some(hashes.as_slice()), "{size}: {level}/{number}");
                let partial = (hashes.len() < 256).then_some((number, hashes.len() as u16));
                if let Some((number, width)) = partial {
                    assert_eq!(TileName::partial(level, size), Some(TileName { level, number, width }));
                }
            }
            let full: Vec<_> =
                naive.iter().filter(|(_, hashes)| hashes.len() == 256).map(|(key, _)| *key).collect();
            assert_eq!(
                edge.unwritten(size).map(|(level, number, _)| (level, number)).collect::<Vec<_>>(),
                full
            );
            checked += 1;
        }
        assert!(checked > 30);
        assert_eq!((edge.size(), edge.levels()), (70_000, 3));

        // What is written is forgotten, level by level; what lies above stays.
        edge.written(65_536);
        assert_eq!(edge.tile(0, 255), None);
        assert_eq!(edge.tile(1, 0), None);
        assert_eq!(edge.unwritten(65_536).count(), 0);
        assert_eq!(edge.unwritten(70_000).count(), 273 - 256);
        assert_eq!(edge.tile(0, 256).unwrap(), &leaves[65_536..65_792]);
        assert_eq!(edge.tile(0, 274), None);
    }

    #[test]
    fn resumes_where_the_tiles_on_disk_end() {
        let leaves: Vec<Digest> = (0..3_000_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let all = naive(&leaves);
        let mut edge = Edge::resume(2_048, vec![all[&(1, 0)][..8].to_vec()]);
        for leaf in &leaves[2_048..] {
            edge.push(*leaf);
        }
        for number in 8..12 {
            assert_eq!(edge.tile(0, number), Some(all[&(0, number)].as_slice()));
        }
        assert_eq!(edge.tile(1, 0), Some(all[&(1, 0)].as_slice()));
        assert_eq!(edge.tile(0, 7), None);
    }
}
