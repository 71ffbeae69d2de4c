//! What an observer who sees everything remembers, to judge by.

use std::collections::BTreeMap;

use huitong_ledger::{empty_root, node_hash};
use huitong_proof::{Digest, Statement};

/// Everything that others hold of each node, for ever.
#[derive(Default)]
pub(crate) struct Memory {
    /// Node, size -> root of a checkpoint that another node keeps, and who does.
    roots: BTreeMap<(usize, u64), (Digest, String)>,
    /// Issuer, audience, number -> digest of a statement that has reached another node.
    numbers: BTreeMap<(String, String, u64), Digest>,
}

impl Memory {
    /// Another node keeps a checkpoint of that node; whether this is new. The error names the contradiction.
    pub(crate) fn keeps(&mut self, node: usize, size: u64, root: Digest, who: &str) -> Result<bool, String> {
        if let Some((known, first)) = self.roots.get(&(node, size)) {
            return if *known == root {
                Ok(false)
            } else {
                Err(format!(
                    "node {node} has signed two roots at size {size}: one is kept by {first}, one by {who}"
                ))
            };
        }
        self.roots.insert((node, size), (root, who.to_owned()));
        Ok(true)
    }

    /// A statement has reached somebody else.
    pub(crate) fn reached(&mut self, statement: &Statement) -> Result<(), String> {
        self.judge(statement)?;
        let body = statement.body();
        self.numbers.insert((body.issuer.clone(), body.audience.clone(), body.seq), statement.digest());
        Ok(())
    }

    /// Whether a statement may stand beside all that have reached somebody.
    pub(crate) fn judge(&self, statement: &Statement) -> Result<(), String> {
        let body = statement.body();
        let key = (body.issuer.clone(), body.audience.clone(), body.seq);
        match self.numbers.get(&key) {
            Some(known) if *known != statement.digest() => Err(format!(
                "{} has signed two statements with number {} to {}",
                body.issuer, body.seq, body.audience
            )),
            _ => Ok(()),
        }
    }

    /// Every checkpoint of that node which another keeps, by size.
    pub(crate) fn roots_of(&self, node: usize) -> impl Iterator<Item = (u64, &Digest, &str)> {
        let of_node = self.roots.range((node, 0)..=(node, u64::MAX));
        of_node.map(|((_, size), (root, who))| (*size, root, who.as_str()))
    }
}

/// The roots of all sizes from 0 on, by the definition (RFC 9162 section 2.1.1) and nothing that the ledger has.
pub(crate) fn roots(leaves: &[Digest]) -> Vec<Digest> {
    // The complete subtrees from left to right, each with its number of leaves.
    let mut subtrees: Vec<(usize, Digest)> = Vec::new();
    let mut roots = vec![empty_root()];
    for leaf in leaves {
        subtrees.push((1, *leaf));
        while let [.., (left, a), (right, b)] = subtrees.as_slice()
            && left == right
        {
            let joined = (left + right, node_hash(a, b));
            subtrees.truncate(subtrees.len() - 2);
            subtrees.push(joined);
        }
        let whole =
            subtrees.iter().map(|(_, hash)| *hash).rev().reduce(|right, left| node_hash(&left, &right));
        roots.extend(whole);
    }
    roots
}
