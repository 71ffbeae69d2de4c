use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// Complete subtrees in memory, filled the way the ledger fills its table.
struct Tree(Vec<Vec<Digest>>);

impl Tree {
    fn of(leaves: &[Digest]) -> Self {
        let mut tree = Self(vec![Vec::new(); 64]);
        for (index, leaf) in leaves.iter().enumerate() {
            tree.0[0].push(*leaf);
            for (level, parent) in completed_by(index as u64) {
                let level = usize::from(level);
                let children = &tree.0[level - 1][2 * parent as usize..];
                assert_eq!(children.len(), 2, "leaf {index} completes exactly this pair");
                let hash = node_hash(&children[0], &children[1]);
                assert_eq!(tree.0[level].len() as u64, parent);
                tree.0[level].push(hash);
            }
        }
        tree
    }
}

impl Nodes for Tree {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Digest, Infallible> {
        Ok(self.0[usize::from(level)][index as usize])
    }
}

/// The definitions of RFC 9162 section 2.1, word for word; the hash of a range that was computed once is remembered.
pub(crate) struct Naive<'a> {
    leaves: &'a [Digest],
    known: RefCell<HashMap<(usize, usize), Digest>>,
}

impl<'a> Naive<'a> {
    pub(crate) fn new(leaves: &'a [Digest]) -> Self {
        Self { leaves, known: RefCell::default() }
    }

    /// Root of the first `size` leaves.
    pub(crate) fn root(&self, size: usize) -> Digest {
        self.hash(0, size)
    }

    /// PATH(m, D[size]).
    pub(crate) fn path(&self, m: usize, size: usize) -> Vec<Digest> {
        let (mut start, mut end, mut path) = (0, size, Vec::new());
        while end - start > 1 {
            let k = start + Self::split(end - start);
            if m < k {
                path.push(self.hash(k, end));
                end = k;
            } else {
                path.push(self.hash(start, k));
                start = k;
            }
        }
        path.reverse();
        path
    }

    /// PROOF(m, D[size]).
    pub(crate) fn consistency(&self, m: usize, size: usize) -> Vec<Digest> {
        self.subproof(m, 0, size, true)
    }

    fn subproof(&self, m: usize, start: usize, end: usize, whole: bool) -> Vec<Digest> {
        if m == end - start {
            return if whole { Vec::new() } else { vec![self.hash(start, end)] };
        }
        let k = Self::split(end - start);
        let (mut proof, sibling) = if m <= k {
            (self.subproof(m, start, start + k, whole), self.hash(start + k, end))
        } else {
            (self.subproof(m - k, start + k, end, false), self.hash(start, start + k))
        };
        proof.push(sibling);
        proof
    }

    fn hash(&self, start: usize, end: usize) -> Digest {
        if let Some(known) = self.known.borrow().get(&(start, end)) {
            return *known;
        }
        let hash = match end - start {
            0 => empty_root(),
            1 => self.leaves[start],
            n => {
                let k = start + Self::split(n);
                node_hash(&self.hash(start, k), &self.hash(k, end))
            }
        };
        self.known.borrow_mut().insert((start, end), hash);
        hash
    }

    fn split(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }
}

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|index| leaf_hash(format!("entry {index}").as_bytes())).collect()
}

fn get<T>(result: Result<T, Infallible>) -> T {
    result.unwrap()
}

fn flipped(digest: &Digest, byte: usize) -> Digest {
    let mut bytes = *digest.as_bytes();
    bytes[byte] ^= 1 << (byte % 8);
    Digest::from_bytes(bytes)
}

#[test]
fn roots_of_the_certificate_transparency_test_data() {
    let entries =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves: Vec<Digest> = entries
        .iter()
        .map(|hex| {
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            leaf_hash(&bytes)
        })
        .collect();
    let tree = Tree::of(&leaves);
    for (size, expected) in roots.iter().enumerate() {
        assert_eq!(get(root(&tree, size as u64)).to_string(), *expected, "size {size}");
    }
}

#[test]
fn every_root_to_2000_matches_the_definition() {
    let leaves = leaves(2_000);
    let (tree, naive) = (Tree::of(&leaves), Naive::new(&leaves));
    for size in 0..=2_000 {
        assert_eq!(get(root(&tree, size as u64)), naive.root(size), "size {size}");
    }
}

#[test]
fn every_inclusion_proof_to_130_matches_and_verifies() {
    let leaves = leaves(130);
    let (tree, naive) = (Tree::of(&leaves), Naive::new(&leaves));
    for size in 1..=130_u64 {
        let root = get(root(&tree, size));
        for index in 0..size {
            let path = get(inclusion_path(&tree, index, size));
            assert_eq!(path, naive.path(index as usize, size as usize), "{index} of {size}");
            let every = if size <= 65 { 1 } else { 13 };
            for claimed in (0..=size).filter(|claimed| claimed % every == index % every) {
                let verdict = verify_inclusion(&leaves[index as usize], claimed, size, &path, &root);
                assert_eq!(verdict.is_ok(), claimed == index, "{index} of {size} claimed as {claimed}");
            }
        }
    }
}

#[test]
fn every_consistency_proof_to_130_matches_and_verifies() {
    let leaves = leaves(130);
    let (tree, naive) = (Tree::of(&leaves), Naive::new(&leaves));
    let roots: Vec<Digest> = (0..=130).map(|size| get(root(&tree, size))).collect();
    for new in 1..=130_usize {
        for old in 1..=new {
            let path = get(consistency_path(&tree, old as u64, new as u64));
            assert_eq!(path, naive.consistency(old, new), "{old} to {new}");
            let check = |old: usize, new: usize| {
                verify_consistency(old as u64, &roots[old], new as u64, &roots[new], &path)
            };
            assert_eq!(check(old, new), Ok(()), "{old} to {new}");
            let every = if new <= 65 { 1 } else { 13 };
            for other in (1..=new).step_by(every).filter(|other| *other != old && *other != new) {
                assert!(check(other, new).is_err(), "{old} to {new} as from {other}");
                assert!(check(old, other).is_err(), "{old} to {new} as to {other}");
            }
        }
    }
}

#[test]
fn edges_of_powers_of_two() {
    let leaves = leaves((1 << 16) + 1);
    let (tree, naive) = (Tree::of(&leaves), Naive::new(&leaves));
    let edges: Vec<u64> =
        (0..=16).flat_map(|k| [(1_u64 << k) - 1, 1 << k, (1 << k) + 1]).filter(|size| *size > 0).collect();
    let roots: Vec<Digest> = edges.iter().map(|size| get(root(&tree, *size))).collect();
    for (size, root) in edges.iter().zip(&roots) {
        assert_eq!(*root, naive.root(*size as usize), "size {size}");
        for index in
            [0, 1, size / 2, size.saturating_sub(2), size - 1].into_iter().filter(|index| index < size)
        {
            let path = get(inclusion_path(&tree, index, *size));
            let verdict = verify_inclusion(&leaves[index as usize], index, *size, &path, root);
            assert_eq!(verdict, Ok(()), "{index} of {size}");
        }
        for (old, old_root) in edges.iter().zip(&roots).filter(|(old, _)| *old <= size) {
            let path = get(consistency_path(&tree, *old, *size));
            assert_eq!(verify_consistency(*old, old_root, *size, root, &path), Ok(()), "{old} to {size}");
        }
    }
}

#[test]
fn a_wrong_size_is_refused_with_its_own_root() {
    let leaves = leaves(40);
    let tree = Tree::of(&leaves);
    for size in 1..=40_u64 {
        for index in 0..size {
            let path = get(inclusion_path(&tree, index, size));
            for other in (1..=40).filter(|other| *other != size) {
                let root = get(root(&tree, other));
                let verdict = verify_inclusion(&leaves[index as usize], index, other, &path, &root);
                assert!(verdict.is_err(), "{index} of {size} taken for size {other}");
            }
        }
    }
}

#[test]
fn every_changed_byte_and_length_of_an_inclusion_proof_is_refused() {
    let leaves = leaves(21);
    let tree = Tree::of(&leaves);
    for (index, size) in [(0, 1), (0, 2), (1, 2), (2, 3), (4, 7), (0, 8), (20, 21), (11, 21)] {
        let root = get(root(&tree, size));
        let leaf = leaves[index as usize];
        let path = get(inclusion_path(&tree, index, size));
        for byte in 0..32 {
            assert!(verify_inclusion(&flipped(&leaf, byte), index, size, &path, &root).is_err());
            assert!(verify_inclusion(&leaf, index, size, &path, &flipped(&root, byte)).is_err());
            for at in 0..path.len() {
                let mut changed = path.clone();
                changed[at] = flipped(&changed[at], byte);
                assert!(verify_inclusion(&leaf, index, size, &changed, &root).is_err(), "{index} of {size}");
            }
        }
        check_lengths(&path, |path| verify_inclusion(&leaf, index, size, path, &root));
    }
}

#[test]
fn every_changed_byte_and_length_of_a_consistency_proof_is_refused() {
    let leaves = leaves(33);
    let tree = Tree::of(&leaves);
    for (old, new) in [(1, 1), (1, 2), (2, 3), (3, 7), (4, 8), (7, 8), (6, 33), (32, 33), (31, 32)] {
        let (old_root, new_root) = (get(root(&tree, old)), get(root(&tree, new)));
        let path = get(consistency_path(&tree, old, new));
        for byte in 0..32 {
            assert!(verify_consistency(old, &flipped(&old_root, byte), new, &new_root, &path).is_err());
            assert!(verify_consistency(old, &old_root, new, &flipped(&new_root, byte), &path).is_err());
            for at in 0..path.len() {
                let mut changed = path.clone();
                changed[at] = flipped(&changed[at], byte);
                assert!(
                    verify_consistency(old, &old_root, new, &new_root, &changed).is_err(),
                    "{old} to {new}"
                );
            }
        }
        check_lengths(&path, |path| verify_consistency(old, &old_root, new, &new_root, path));
    }
}

/// One hash more at either end, or one less, is a proof of something else.
fn check_lengths(path: &[Digest], verify: impl Fn(&[Digest]) -> Result<(), ProofError>) {
    let mut longer = path.to_vec();
    longer.push(Digest::ZERO);
    assert_eq!(verify(&longer), Err(ProofError::WrongLength { found: path.len() + 1, expected: path.len() }));
    longer.rotate_right(1);
    assert!(verify(&longer).is_err());
    if let Some((_, shorter)) = path.split_first() {
        assert!(verify(shorter).is_err());
        assert!(verify(&path[..path.len() - 1]).is_err());
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let z = Digest::ZERO;
    assert_eq!(verify_inclusion(&z, 0, 0, &[], &z), Err(ProofError::OutOfRange { index: 0, size: 0 }));
    assert_eq!(verify_inclusion(&z, 7, 7, &[], &z), Err(ProofError::OutOfRange { index: 7, size: 7 }));
    assert_eq!(verify_consistency(0, &empty_root(), 5, &z, &[]), Err(ProofError::FromEmpty));
    assert_eq!(verify_consistency(0, &empty_root(), 0, &empty_root(), &[]), Err(ProofError::FromEmpty));
    assert_eq!(verify_consistency(6, &z, 5, &z, &[]), Err(ProofError::Shrinks { old: 6, new: 5 }));
    // Sizes that need 64 hashes are beyond what any log reaches.
    let long = [z; 64];
    let refused = Err(ProofError::WrongLength { found: 64, expected: 64 });
    assert_eq!(verify_inclusion(&z, 0, u64::MAX, &long, &z), refused);
    assert_eq!(verify_consistency(1, &z, u64::MAX, &z, &long), refused);
    assert_eq!(completed_by(u64::MAX).count(), 63);
    let tree = Tree::of(&leaves(5));
    assert_eq!(get(consistency_path(&tree, 0, 5)), []);
    assert_eq!(get(consistency_path(&tree, 5, 5)), []);
    assert_eq!(get(consistency_path(&tree, 6, 5)), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn proofs_of_random_sizes_verify(size in 1_usize..1500, at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let leaves = leaves(size);
        let tree = Tree::of(&leaves);
        let (index, old) = (at.index(size), from.index(size) + 1);
        let naive = Naive::new(&leaves);
        let new_root = naive.root(leaves.len());
        let path = get(inclusion_path(&tree, index as u64, size as u64));
        prop_assert_eq!(verify_inclusion(&leaves[index], index as u64, size as u64, &path, &new_root), Ok(()));
        let path = get(consistency_path(&tree, old as u64, size as u64));
        let old_root = naive.root(old);
        prop_assert_eq!(verify_consistency(old as u64, &old_root, size as u64, &new_root, &path), Ok(()));
    }

    #[test]
    fn forged_proofs_of_any_size_are_refused_without_panic(a in any::<u64>(), b in any::<u64>(), length in 0_usize..70) {
        let path = vec![Digest::ZERO; length];
        prop_assert!(verify_inclusion(&empty_root(), a, b, &path, &Digest::ZERO).is_err());
        prop_assert!(verify_consistency(a, &Digest::ZERO, b, &empty_root(), &path).is_err());
    }
}
