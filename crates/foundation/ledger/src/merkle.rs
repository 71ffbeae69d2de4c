//! The Merkle tree of RFC 9162 section 2.1 over SHA-256: hashes, roots, proofs and their verification. Pure.

use huitong_proof::Digest;

/// The most hashes a proof may carry: no tree of a 64-bit size below 2^63 needs more (C2SP tlog-proof).
pub const MAX_PATH: usize = 63;

/// Read access to the hashes of complete subtrees.
///
/// `node(level, index)` is the hash over the leaves `index << level .. (index + 1) << level`; level 0 holds the
/// leaf hashes. The functions here ask only for subtrees that lie wholly inside the size they were given.
pub trait Nodes {
    /// Why a hash could not be read.
    type Error;

    /// The hash of one complete subtree.
    ///
    /// # Errors
    /// Whatever the storage behind it reports, a missing hash included.
    fn node(&self, level: u8, index: u64) -> Result<Digest, Self::Error>;
}

/// Why a proof does not show what it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf index lies outside the tree.
    #[error("index {index} is outside a log of {size} entries; ask for a proof against a newer checkpoint")]
    OutOfRange {
        /// Index of the entry.
        index: u64,
        /// Number of entries the checkpoint covers.
        size: u64,
    },
    /// The path has another number of hashes than the sizes require.
    #[error("the path has {found} hashes where {expected} are needed; the proof belongs to other sizes")]
    WrongLength {
        /// Hashes in the path.
        found: usize,
        /// Hashes that index and size, or the two sizes, require.
        expected: usize,
    },
    /// The path leads to another root than the checkpoint's.
    #[error("the path does not lead to the root of the checkpoint at size {size}; the proof is refused")]
    WrongRoot {
        /// Size of the tree whose root was missed.
        size: u64,
    },
    /// A consistency proof from the empty tree says nothing.
    #[error("a consistency proof cannot start from an empty log; compare from a size of at least 1")]
    FromEmpty,
    /// The older size is larger than the newer one.
    #[error("the older size {old} exceeds the newer size {new}; swap the checkpoints")]
    Shrinks {
        /// Size called older.
        old: u64,
        /// Size called newer.
        new: u64,
    },
}

/// Hash of one entry: SHA-256(0x00 || entry).
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest::sha256_parts(&[&[0x00], entry])
}

/// Hash of two neighbouring subtrees: SHA-256(0x01 || left || right).
pub fn node_hash(l: &Digest, r: &Digest) -> Digest {
    Digest::sha256_parts(&[&[0x01], l.as_bytes(), r.as_bytes()])
}

/// Root of the tree without entries: SHA-256 of the empty string.
pub fn empty_root() -> Digest {
    Digest::sha256(&[])
}

/// Root of the first `size` leaves. Reads one hash per set bit of `size`.
///
/// # Errors
/// Those of [`Nodes::node`].
pub fn root<N: Nodes>(n: &N, size: u64) -> Result<Digest, N::Error> {
    range_root(n, 0, size)
}

/// Path from leaf `index` to the root over `size` leaves, the leaf's sibling first (RFC 9162 section 2.1.3.1).
///
/// The caller guarantees `index < size`; otherwise the result is a path that no verifier accepts.
///
/// # Errors
/// Those of [`Nodes::node`].
pub fn inclusion_path<N: Nodes>(n: &N, index: u64, size: u64) -> Result<Vec<Digest>, N::Error> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + largest_power_below(end - start);
        if index < middle {
            path.push(range_root(n, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(n, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// Proof that the first `old` of `new` leaves are the older tree (RFC 9162 section 2.1.4.1).
///
/// Empty when `old` is 0 or not below `new`: then there is nothing to prove, or nothing that can be.
///
/// # Errors
/// Those of [`Nodes::node`].
pub fn consistency_path<N: Nodes>(n: &N, old: u64, new: u64) -> Result<Vec<Digest>, N::Error> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = start + largest_power_below(end - start);
        if old <= middle {
            path.push(range_root(n, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(n, start, middle)?);
            start = middle;
        }
    }
    // The verifier holds the old root itself; it needs the last piece only when that is not the whole old tree.
    if start > 0 {
        path.push(range_root(n, start, end)?);
    }
    path.reverse();
    Ok(path)
}

/// The interior subtrees (level, index) that become complete when leaf `index` is appended, lowest first.
///
/// Each is the parent of the one before it; the first is the parent of the leaf, always as right child.
pub fn completed_by(index: u64) -> impl Iterator<Item = (u8, u64)> {
    (1..=63_u8)
        .take_while(move |level| index.trailing_ones() >= u32::from(*level))
        .map(move |level| (level, index >> level))
}

/// Checks that the entry with hash `leaf` stands at `index` of the `size` entries under `root`
/// (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// [`ProofError`] when the index lies outside, the path has another length than index and size require
/// (so never more than [`MAX_PATH`] hashes), or it leads to another root.
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    path: &[Digest],
    root: &Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    check_length(path, inclusion_length(index, size))?;
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if node % 2 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            climb_past_single_children(&mut node, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 || hash != *root {
        return Err(ProofError::WrongRoot { size });
    }
    Ok(())
}

/// Checks that the log of size `new` extends the log of size `old` (RFC 9162 section 2.1.4.2).
///
/// Equal sizes need an empty path and equal roots. `old == 0` is refused: it would accept any log. (A witness, which
/// must accept it once, needs another function.)
///
/// # Errors
/// [`ProofError`] when the sizes are in the wrong order, the path has another length than they require, or it misses
/// one of the roots.
pub fn verify_consistency(
    old: u64,
    old_root: &Digest,
    new: u64,
    new_root: &Digest,
    path: &[Digest],
) -> Result<(), ProofError> {
    if old == 0 {
        return Err(ProofError::FromEmpty);
    }
    if old > new {
        return Err(ProofError::Shrinks { old, new });
    }
    check_length(path, consistency_length(old, new))?;
    if old == new {
        return if old_root == new_root { Ok(()) } else { Err(ProofError::WrongRoot { size: new }) };
    }

    let (mut node, mut last) = (old - 1, new - 1);
    while node % 2 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // An old tree of a power of two is itself the first subtree: its root is not repeated in the path.
    let (first, rest) = match path.split_first() {
        Some((first, rest)) if !old.is_power_of_two() => (first, rest),
        _ => (old_root, path),
    };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if node % 2 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            climb_past_single_children(&mut node, &mut last);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if old_hash != *old_root {
        return Err(ProofError::WrongRoot { size: old });
    }
    if last != 0 || new_hash != *new_root {
        return Err(ProofError::WrongRoot { size: new });
    }
    Ok(())
}

/// On the right edge a subtree without sibling moves up unchanged until it is a right child.
fn climb_past_single_children(node: &mut u64, last: &mut u64) {
    while *node != 0 && node.is_multiple_of(2) {
        *node >>= 1;
        *last >>= 1;
    }
}

fn check_length(path: &[Digest], expected: usize) -> Result<(), ProofError> {
    if path.len() != expected || expected > MAX_PATH {
        return Err(ProofError::WrongLength { found: path.len(), expected });
    }
    Ok(())
}

/// Number of hashes in the inclusion path of `index < size`.
fn inclusion_length(index: u64, size: u64) -> usize {
    // Below the point where the paths to this leaf and to the last leaf part, every level has a sibling; above it only
    // the levels where this path is a right child.
    let last = size - 1;
    let inner = u64::BITS - (index ^ last).leading_zeros();
    let border = index.checked_shr(inner).unwrap_or(0).count_ones();
    to_length(inner + border)
}

/// Number of hashes in the consistency path of `0 < old <= new`.
fn consistency_length(old: u64, new: u64) -> usize {
    if old == new {
        return 0;
    }
    // The path is the inclusion path of the old tree's last complete subtree, and that subtree unless it is the whole.
    let level = old.trailing_zeros();
    let in_subtrees = inclusion_length((old - 1) >> level, ((new - 1) >> level) + 1);
    in_subtrees + usize::from(!old.is_power_of_two())
}

fn to_length(bits: u32) -> usize {
    usize::try_from(bits).unwrap_or(usize::MAX)
}

/// Root over the leaves `start..end`, where `start` is a multiple of the power of two at or above `end - start`.
fn range_root<N: Nodes>(n: &N, start: u64, end: u64) -> Result<Digest, N::Error> {
    let mut remaining = end - start;
    let mut position = end;
    let mut right: Option<Digest> = None;
    while remaining > 0 {
        let level = remaining.trailing_zeros();
        let width = 1_u64 << level;
        position -= width;
        remaining -= width;
        let subtree = n.node(to_level(level), position >> level)?;
        right = Some(match right {
            Some(right) => node_hash(&subtree, &right),
            None => subtree,
        });
    }
    Ok(right.unwrap_or_else(empty_root))
}

/// The number of trailing zeros of a non-zero 64-bit number fits a byte.
fn to_level(trailing_zeros: u32) -> u8 {
    u8::try_from(trailing_zeros).unwrap_or(63)
}

/// The largest power of two below `n`, for `n >= 2`.
fn largest_power_below(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

#[cfg(test)]
#[path = "merkle_tests.rs"]
pub(crate) mod tests;
