//! The right edge of a tree: all that is needed to go on hashing where others have stopped. Pure.

use huitong_ledger::{empty_root, node_hash, verify_consistency};
use huitong_proof::Digest;

/// The roots of the complete subtrees that a tree of this size consists of, the largest first (RFC 9162 section 2.1):
/// one for each bit that is set in the size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frontier {
    size: u64,
    peaks: Vec<Digest>,
}

impl Frontier {
    /// `None` when the number of peaks is not that of the size.
    pub(crate) fn new(size: u64, peaks: Vec<Digest>) -> Option<Self> {
        let expected = usize::try_from(size.count_ones()).ok()?;
        (peaks.len() == expected).then_some(Self { size, peaks })
    }

    /// The edge at `size`, out of the path (RFC 9162 section 2.1.4) which shows that a tree of size `new` with that
    /// root extends it. `None` when the path does not show that. Nor is there one for a power of two: its path leaves
    /// out its only peak.
    pub(crate) fn from_consistency(size: u64, new: u64, root: &Digest, path: &[Digest]) -> Option<Self> {
        if size == 0 || size.is_power_of_two() || size >= new {
            return None;
        }
        let (mut node, mut last) = (size.checked_sub(1)?, new.checked_sub(1)?);
        while node % 2 == 1 {
            node >>= 1;
            last >>= 1;
        }
        let (smallest, rest) = path.split_first()?;
        let mut peaks = vec![*smallest];
        for sibling in rest {
            // Left siblings lie in the old tree, and nothing else of it is in the path.
            if node % 2 == 1 || node == last {
                peaks.push(*sibling);
                while node != 0 && node.is_multiple_of(2) {
                    node >>= 1;
                    last >>= 1;
                }
            }
            node >>= 1;
            last >>= 1;
        }
        peaks.reverse();
        let edge = Self::new(size, peaks)?;
        verify_consistency(size, &edge.root(), new, root, path).ok()?;
        Some(edge)
    }

    /// How many leaves the tree has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its complete subtrees, the largest first.
    pub(crate) fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// Takes in the next leaf hash.
    pub(crate) fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // There is a peak for every bit that is set.
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The root of the tree.
    pub(crate) fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(smallest) = peaks.next() else { return empty_root() };
        peaks.fold(*smallest, |right, left| node_hash(left, &right))
    }

    /// The peak over the `1 << level` leaves from `index << level` on, if there is one.
    pub(crate) fn peak(&self, level: u8, index: u64) -> Option<&Digest> {
        let mut start = 0_u64;
        for (height, peak) in (0_u32..64).rev().filter(|height| self.size >> height & 1 == 1).zip(&self.peaks)
        {
            if u32::from(level) == height && start >> height == index {
                return Some(peak);
            }
            start |= 1 << height;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use huitong_ledger::{Nodes, consistency_path, leaf_hash, root};
    use proptest::prelude::*;

    use super::*;

    /// Every node from the leaves anew.
    struct Naive(Vec<Digest>);

    impl Nodes for Naive {
        type Error = Infallible;

        fn node(&self, level: u8, index: u64) -> Result<Digest, Infallible> {
            if level == 0 {
                return Ok(self.0[index as usize]);
            }
            let (left, right) = (self.node(level - 1, 2 * index)?, self.node(level - 1, 2 * index + 1)?);
            Ok(node_hash(&left, &right))
        }
    }

    fn leaves(count: u64) -> Naive {
        Naive((0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect())
    }

    #[test]
    fn its_root_is_that_of_the_leaves() {
        let tree = leaves(600);
        let mut edge = Frontier::default();
        for size in 0..=600 {
            assert_eq!(edge.root(), root(&tree, size).unwrap(), "{size}");
            assert_eq!(Frontier::new(size, edge.peaks().to_vec()), Some(edge.clone()));
            let Some(leaf) = tree.0.get(size as usize) else { break };
            edge.push(*leaf);
        }
        assert_eq!(Frontier::new(600, edge.peaks()[1..].to_vec()), None);
        assert_eq!(edge.peak(9, 0), Some(&tree.node(9, 0).unwrap()));
        assert_eq!(edge.peak(3, 74), Some(&tree.node(3, 74).unwrap()));
        assert_eq!((edge.peak(3, 73), edge.peak(8, 0)), (None, None));
    }

    #[test]
    fn a_path_gives_the_edge_unless_the_size_is_a_power_of_two() {
        let tree = leaves(70);
        let mut edges = vec![Frontier::default()];
        for leaf in &tree.0 {
            let mut edge = edges.last().unwrap().clone();
            edge.push(*leaf);
            edges.push(edge);
        }
        for new in 1..=70_u64 {
            let new_root = root(&tree, new).unwrap();
            for old in 0..=new {
                let path = consistency_path(&tree, old, new).unwrap();
                let edge = Frontier::from_consistency(old, new, &new_root, &path);
                let expected =
                    (old > 0 && !old.is_power_of_two() && old < new).then(|| edges[old as usize].clone());
                assert_eq!(edge, expected, "{old} to {new}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_wrong_path_gives_no_edge(new in 4_u64..200, old in 3_u64..200, which in any::<prop::sample::Index>()) {
            prop_assume!(old < new && !old.is_power_of_two());
            let tree = leaves(new);
            let new_root = root(&tree, new).unwrap();
            let mut path = consistency_path(&tree, old, new).unwrap();
            let position = which.index(path.len());
            path[position] = leaf_hash(b"other");
            prop_assert_eq!(Frontier::from_consistency(old, new, &new_root, &path), None);
        }
    }
}
