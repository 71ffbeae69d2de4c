//! This node's own tree beyond what its checkpoints cover: what was shown may be of any size, and a ledger that signs
//! nothing goes on receiving.

use huitong_identity::ServiceError;
use huitong_ledger::{EntryState, Ledger, leaf_hash};
use huitong_proof::Digest;
use huitong_store::Read;

use crate::mirror::Frontier;

/// The edge of this node's tree at the size of its newest checkpoint.
pub(crate) fn signed_edge(ledger: &Ledger, r: &impl Read) -> Result<Frontier, ServiceError> {
    let damaged = || ServiceError::Internal("the newest checkpoint is not over the tree".to_owned());
    let size = ledger.latest_checkpoint(r)?.map_or(0, |signed| signed.checkpoint().size);
    let Some(last) = size.checked_sub(1) else { return Ok(Frontier::default()) };
    let leaf = ledger.leaves(last, 1)?.first().copied().ok_or_else(damaged)?;
    edge_of_last(last, leaf, ledger.inclusion_at(last, size)?).ok_or_else(damaged)
}

/// The leaf hash of an entry.
pub(crate) fn leaf_at(ledger: &Ledger, r: &impl Read, index: u64) -> Result<Option<Digest>, ServiceError> {
    Ok(ledger.entry_state(r, index)?.map(|state| match state {
        EntryState::Present(bytes) => leaf_hash(&bytes),
        EntryState::Redacted(gap) => gap.leaf,
    }))
}

/// The root of the first `size` entries.
pub(crate) fn root_of(ledger: &Ledger, r: &impl Read, size: u64) -> Result<Digest, ServiceError> {
    let mut edge = signed_edge(ledger, r)?;
    if size <= edge.size() {
        return Ok(ledger.root_at(size)?);
    }
    while edge.size() < size {
        let leaf = leaf_at(ledger, r, edge.size())?;
        edge.push(leaf.ok_or_else(|| ServiceError::Internal("an entry is missing".to_owned()))?);
    }
    Ok(edge.root())
}

/// The siblings of the last leaf are the complete subtrees before it (RFC 9162 section 2.1.3), the nearest first.
fn edge_of_last(index: u64, leaf: Digest, mut path: Vec<Digest>) -> Option<Frontier> {
    path.reverse();
    let mut edge = Frontier::new(index, path)?;
    edge.push(leaf);
    Some(edge)
}

#[cfg(test)]
mod tests {
    use huitong_ledger::{Nodes, ProofError, inclusion_path, node_hash, root};

    use super::*;

    struct Leaves(Vec<Digest>);

    impl Nodes for Leaves {
        type Error = ProofError;

        fn node(&self, level: u8, index: u64) -> Result<Digest, ProofError> {
            let width = 1_usize << level;
            let first = usize::try_from(index).unwrap() * width;
            Ok(naive(&self.0[first..first + width]))
        }
    }

    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&naive(left), &naive(right))
            }
        }
    }

    #[test]
    fn the_last_leafs_path_is_the_edge() {
        let leaves: Vec<Digest> = (0..140_u8).map(|n| leaf_hash(&[n])).collect();
        let nodes = Leaves(leaves.clone());
        for size in 1..=leaves.len() {
            let path = inclusion_path(&nodes, size as u64 - 1, size as u64).unwrap();
            let mut edge = edge_of_last(size as u64 - 1, leaves[size - 1], path).unwrap();
            assert_eq!(edge.root(), root(&nodes, size as u64).unwrap(), "{size}");
            for leaf in &leaves[size..] {
                edge.push(*leaf);
            }
            assert_eq!(edge.root(), naive(&leaves), "from {size}");
        }
        assert_eq!(edge_of_last(4, leaves[4], vec![Digest::ZERO; 2]), None);
    }
}
