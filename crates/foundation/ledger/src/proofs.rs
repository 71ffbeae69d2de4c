//! Signing the tree's head, and proving from it.

use huitong_proof::Digest;
use huitong_store::{Read, Tx};

use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::error::LedgerError;
use crate::log::{Inclusion, Ledger, Proofs};
use crate::merkle::{
    Nodes, consistency_path, empty_root, inclusion_path, node_hash, root, verify_consistency,
    verify_inclusion,
};
use crate::note::LogVerifier;
use crate::tables::{self, Extent};
use crate::tiles::WIDTH;
use crate::tree::{TreeNodes, leaf_of};

/// Entries read from the store at once.
const PAGE: usize = 1024;

/// A root that was computed, and what it was compared with.
struct Computed {
    extent: Extent,
    root: Digest,
    /// The newest checkpoint then: the tree has its root at its size.
    before: Option<SignedCheckpoint>,
}

/// What the transaction made of a computed root.
enum Signed {
    Checkpoint(Box<SignedCheckpoint>),
    /// Another checkpoint was signed meanwhile, or entries were taken back.
    Overtaken,
}

impl Ledger {
    /// The newest checkpoint this node signed.
    ///
    /// # Errors
    /// Storage errors.
    pub fn latest_checkpoint(&self, r: &impl Read) -> Result<Option<SignedCheckpoint>, LedgerError> {
        tables::latest_checkpoint(r)
    }

    /// The checkpoint of the current size, signed now unless there is one.
    ///
    /// A size never gets two roots: the signed row is written in one commit and only returned when durable. Before
    /// signing, the tree is shown to have, at the size of the checkpoint before, exactly the root signed there.
    ///
    /// # Errors
    /// [`LedgerError::SafeMode`] while nothing is signed, unless the size is signed already; [`LedgerError::Damaged`]
    /// when the tree does not extend what was signed before; [`LedgerError::OtherLog`] when the store belongs to another
    /// origin; [`LedgerError::Note`] when the origin is no valid name or the log key has changed; storage errors.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, LedgerError> {
        loop {
            let view = self.store().view();
            let latest =
                tables::latest_checkpoint(&view)?.map(|signed| self.of_this_log(signed)).transpose()?;
            let size = tables::size(&view)?;
            if let Some(latest) = latest
                && latest.checkpoint().size == size
            {
                return Ok(latest);
            }
            self.signing()?;
            let ledger = self.clone();
            let computed = tokio::task::spawn_blocking(move || ledger.compute())
                .await
                .map_err(|_| LedgerError::Worker)??;
            let ledger = self.clone();
            let signed =
                self.store().transact("ledger.checkpoint", move |tx| ledger.sign(tx, &computed)).await?;
            if let Signed::Checkpoint(signed) = signed {
                return Ok(*signed);
            }
        }
    }

    /// Keeps a checkpoint of this log together with the cosignatures it has gathered; the largest is kept, and of one
    /// size the one put last. Merging signature lines is the caller's.
    ///
    /// # Errors
    /// [`LedgerError::OtherLog`]; [`LedgerError::Behind`] when it is larger than what this log has signed;
    /// [`LedgerError::Damaged`] when its root is not the one signed for its size; storage errors.
    pub fn put_cosigned(&self, tx: &mut Tx<'_>, signed: &SignedCheckpoint) -> Result<(), LedgerError> {
        let signed = self.of_this_log(signed.clone())?;
        let latest = tables::latest_checkpoint(tx)?;
        let Checkpoint { size, root, .. } = signed.checkpoint();
        let newest = latest.as_ref().map_or(0, |latest| latest.checkpoint().size);
        if *size > newest {
            return Err(LedgerError::Behind { known: *size, size: newest });
        }
        if latest.is_some_and(|latest| latest.checkpoint().size == *size && latest.checkpoint().root != *root)
        {
            return Err(LedgerError::Damaged {
                what: "a cosigned checkpoint has another root than was signed",
            });
        }
        match tables::cosigned(tx)? {
            Some(kept) if kept.checkpoint().size > *size => Ok(()),
            _ => tables::put_cosigned(tx, &signed),
        }
    }

    /// The largest checkpoint of this log that was put with cosignatures.
    ///
    /// # Errors
    /// Storage errors.
    pub fn cosigned(&self, r: &impl Read) -> Result<Option<SignedCheckpoint>, LedgerError> {
        tables::cosigned(r)
    }

    /// Proofs that the given statements are in this log, all against one checkpoint, and that this checkpoint extends
    /// the one of `known_size` (0 = the asker knows none).
    ///
    /// The checkpoint is the newest cosigned one that covers everything, else the newest signed one that does, else one
    /// that is signed now. Removed entries can be proven as well: their hashes are kept.
    ///
    /// # Errors
    /// [`LedgerError::NotLogged`] for a digest that is not in the log; [`LedgerError::Behind`] when `known_size` is
    /// larger than the log; those of [`Ledger::checkpoint`].
    pub async fn prove(&self, digests: Vec<Digest>, known_size: u64) -> Result<Proofs, LedgerError> {
        let mut indexed = Vec::with_capacity(digests.len());
        let view = self.store().view();
        for digest in digests {
            let index = self.index_of(&view, &digest)?.ok_or(LedgerError::NotLogged { digest })?;
            indexed.push((digest, index));
        }
        let needed = indexed.iter().map(|(_, index)| index.saturating_add(1)).fold(known_size, u64::max);
        let signed = match self.covering(&view, needed)? {
            Some(signed) => signed,
            None => self.checkpoint().await?,
        };
        let Checkpoint { size, root, .. } = signed.checkpoint();
        if known_size > *size {
            return Err(LedgerError::Behind { known: known_size, size: *size });
        }

        let nodes = self.nodes();
        let inclusion = indexed
            .into_iter()
            .map(|(digest, index)| {
                Ok(Inclusion { digest, index, path: checked_inclusion(&nodes, index, *size, root)? })
            })
            .collect::<Result<_, LedgerError>>()?;
        let consistency = checked_consistency(&nodes, known_size, *size, root)?;
        Ok(Proofs { checkpoint: signed.text().to_owned(), inclusion, consistency })
    }

    /// The path from entry `index` to the root of the first `size` entries, the leaf's sibling first (RFC 9162 section
    /// 2.1.3). Any size up to the newest checkpoint's, which [`Ledger::consistency`] links to it.
    ///
    /// # Errors
    /// [`LedgerError::Beyond`] when the size is not signed yet or does not cover the entry; storage errors.
    pub fn inclusion_at(&self, index: u64, size: u64) -> Result<Vec<Digest>, LedgerError> {
        self.signed_size(size)?;
        if index >= size {
            return Err(LedgerError::Beyond { asked: index, size });
        }
        let nodes = self.nodes();
        checked_inclusion(&nodes, index, size, &root(&nodes, size)?)
    }

    /// Where the statement with that TBS digest stands, and its path to the root of the first `size` entries.
    ///
    /// # Errors
    /// [`LedgerError::NotLogged`]; those of [`Ledger::inclusion_at`].
    pub fn inclusion(&self, digest: &Digest, size: u64) -> Result<Inclusion, LedgerError> {
        let index =
            self.index_of(&self.store().view(), digest)?.ok_or(LedgerError::NotLogged { digest: *digest })?;
        Ok(Inclusion { digest: *digest, index, path: self.inclusion_at(index, size)? })
    }

    /// Proof that the first `old` of `new` entries are the older log (RFC 9162 section 2.1.4); empty when `old` is 0 or
    /// `new`. Any sizes up to the newest checkpoint's.
    ///
    /// # Errors
    /// [`LedgerError::Behind`] when `old` exceeds `new`; [`LedgerError::Beyond`] when `new` is not signed yet; storage
    /// errors.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, LedgerError> {
        self.signed_size(new)?;
        if old > new {
            return Err(LedgerError::Behind { known: old, size: new });
        }
        let nodes = self.nodes();
        checked_consistency(&nodes, old, new, &root(&nodes, new)?)
    }

    /// The leaf hashes of at most `limit` entries from index `from` on, as far as a checkpoint covers them.
    ///
    /// # Errors
    /// Storage errors.
    pub fn leaves(&self, from: u64, limit: usize) -> Result<Vec<Digest>, LedgerError> {
        let size = self.newest_size()?;
        let end = from.saturating_add(limit as u64).min(size);
        let mut leaves = Vec::new();
        let mut next = from;
        while next < end {
            let tile = self.tile(0, next / WIDTH)?;
            let first = next - next % WIDTH;
            let last = end.min(first.saturating_add(WIDTH));
            let range = usize::try_from(next - first).unwrap_or_default()
                ..usize::try_from(last - first).unwrap_or_default();
            let hashes =
                tile.get(range).ok_or(LedgerError::Damaged { what: "the hash of an entry is missing" })?;
            leaves.extend_from_slice(hashes);
            next = last;
        }
        Ok(leaves)
    }

    /// The root of the first `size` entries; any size up to the newest checkpoint's.
    ///
    /// # Errors
    /// [`LedgerError::Beyond`] when the size is not signed yet; storage errors.
    pub fn root_at(&self, size: u64) -> Result<Digest, LedgerError> {
        self.signed_size(size)?;
        root(&self.nodes(), size)
    }

    /// The root that the log would have if its first `from` entries were followed by entries with these leaf hashes: how
    /// a node that lost entries finds out whether a witness's copy of them leads to the cosigned root.
    ///
    /// # Errors
    /// [`LedgerError::Beyond`] when there are fewer than `from` entries; storage errors.
    pub fn root_with(&self, from: u64, leaves: &[Digest]) -> Result<Digest, LedgerError> {
        let size = self.integrate()?.size;
        if from > size {
            return Err(LedgerError::Beyond { asked: from, size });
        }
        let nodes = self.nodes();
        // Complete subtrees, the largest first, each with its level.
        let mut subtrees: Vec<(u8, Digest)> = Vec::new();
        for level in (0..64).rev().filter(|level| from >> level & 1 == 1) {
            let index = (from >> level) - 1;
            subtrees.push((level, nodes.node(level, index)?));
        }
        for leaf in leaves {
            let (mut level, mut hash) = (0, *leaf);
            while let Some((left_level, left)) = subtrees.pop() {
                if left_level != level {
                    subtrees.push((left_level, left));
                    break;
                }
                (level, hash) = (level + 1, node_hash(&left, &hash));
            }
            subtrees.push((level, hash));
        }
        let root =
            subtrees.into_iter().map(|(_, hash)| hash).rev().reduce(|right, left| node_hash(&left, &right));
        Ok(root.unwrap_or_else(empty_root))
    }

    /// A checkpoint that covers `needed` entries, if there is one: cosigned if possible.
    fn covering(&self, r: &impl Read, needed: u64) -> Result<Option<SignedCheckpoint>, LedgerError> {
        let Some(latest) = tables::latest_checkpoint(r)? else { return Ok(None) };
        let latest = self.of_this_log(latest)?;
        let cosigned = tables::cosigned(r)?.filter(|cosigned| cosigned.checkpoint().size >= needed);
        Ok(cosigned.or(Some(latest).filter(|latest| latest.checkpoint().size >= needed)))
    }

    /// Everything up to a signed size is in the tree, or in tiles.
    fn signed_size(&self, size: u64) -> Result<(), LedgerError> {
        let newest = self.newest_size()?;
        if size > newest { Err(LedgerError::Beyond { asked: size, size: newest }) } else { Ok(()) }
    }

    fn newest_size(&self) -> Result<u64, LedgerError> {
        let latest = tables::latest_checkpoint(&self.store().view())?;
        Ok(latest.map_or(0, |latest| latest.checkpoint().size))
    }

    /// The root over all committed entries, once the newest checkpoint was found to fit.
    fn compute(&self) -> Result<Computed, LedgerError> {
        // Read first: everything it covers is then in the tree.
        let before = tables::latest_checkpoint(&self.store().view())?;
        let extent = self.integrate()?;
        let nodes = self.nodes();
        if let Some(before) = &before {
            self.check_root(&nodes, before.checkpoint(), extent)?;
        }
        let root = root(&nodes, extent.size)?;
        let agrees = self.root_of_entries(before.as_ref(), extent).map(|again| again == root);
        let view = self.store().view();
        // What was signed, moved to files or taken back meanwhile is not signed from here.
        let is_overtaken = tables::latest_checkpoint(&view)? != before
            || tables::extent(&view)?.arrangement != extent.arrangement;
        if !is_overtaken && !agrees? {
            return Err(LedgerError::Damaged { what: "the hashes in memory are not those of the entries" });
        }
        Ok(Computed { extent, root, before })
    }

    /// A flipped bit among the hashes in memory must not be signed: what no checkpoint covers yet is hashed once more,
    /// from the entries themselves.
    fn root_of_entries(
        &self,
        before: Option<&SignedCheckpoint>,
        extent: Extent,
    ) -> Result<Digest, LedgerError> {
        let view = self.store().view();
        let signed = before.map_or(0, |before| before.checkpoint().size);
        let (mut leaves, mut next) = (Vec::new(), signed);
        while next < extent.size {
            let rows = tables::entries(&view, next, PAGE)?;
            if rows.is_empty() {
                return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
            }
            for row in rows {
                if next == extent.size {
                    break;
                }
                leaves.push(leaf_of(&view, next, &row)?);
                next = next.saturating_add(1);
            }
        }
        self.root_with(signed, &leaves)
    }

    /// A flipped bit or a rolled-back row must stop the log before it signs something its past contradicts.
    pub(crate) fn check_root(
        &self,
        nodes: &TreeNodes<'_>,
        signed: &Checkpoint,
        extent: Extent,
    ) -> Result<(), LedgerError> {
        if signed.size > extent.size {
            return Err(LedgerError::Damaged { what: "the log is shorter than its newest checkpoint" });
        }
        if root(nodes, signed.size)? != signed.root {
            return Err(LedgerError::Damaged {
                what: "the entries do not have the root that was signed for them",
            });
        }
        Ok(())
    }

    fn sign(&self, tx: &mut Tx<'_>, computed: &Computed) -> Result<Signed, LedgerError> {
        let Computed { extent, root, before } = computed;
        let latest = tables::latest_checkpoint(tx)?;
        if let Some(latest) = latest
            && Some(&latest) != before.as_ref()
        {
            let covers = latest.checkpoint().size >= extent.size;
            return Ok(if covers {
                Signed::Checkpoint(Box::new(self.of_this_log(latest)?))
            } else {
                Signed::Overtaken
            });
        }
        if let Some(before) = before
            && before.checkpoint().size == extent.size
        {
            return Ok(Signed::Checkpoint(Box::new(before.clone())));
        }
        let now = tables::extent(tx)?;
        if now.arrangement != extent.arrangement || now.size < extent.size {
            return Ok(Signed::Overtaken);
        }
        self.signing()?;
        let verifier = LogVerifier::new(self.origin(), self.inner.identity.log_key.verifying_key())?;
        if let Some(before) = before {
            // Another key must not continue this log.
            SignedCheckpoint::parse_exact(before.text(), &verifier)?;
        }
        let checkpoint = Checkpoint { origin: self.origin().to_owned(), size: extent.size, root: *root };
        let signed = SignedCheckpoint::sign(checkpoint, &self.inner.identity.log_key);
        tables::put_checkpoint(tx, &signed)?;
        Ok(Signed::Checkpoint(Box::new(signed)))
    }

    pub(crate) fn of_this_log(&self, signed: SignedCheckpoint) -> Result<SignedCheckpoint, LedgerError> {
        if signed.checkpoint().origin == self.origin() {
            return Ok(signed);
        }
        Err(LedgerError::OtherLog {
            stored: signed.checkpoint().origin.clone(),
            configured: self.origin().to_owned(),
        })
    }
}

/// A proof that did not hold would convict this node of a fork, so it is checked before anybody sees it.
fn checked_inclusion(
    nodes: &TreeNodes<'_>,
    index: u64,
    size: u64,
    root: &Digest,
) -> Result<Vec<Digest>, LedgerError> {
    let path = inclusion_path(nodes, index, size)?;
    let leaf = nodes.node(0, index)?;
    verify_inclusion(&leaf, index, size, &path, root).map_err(|_| LedgerError::Damaged {
        what: "the tiles do not lead from an entry to the signed root",
    })?;
    Ok(path)
}

/// As [`checked_inclusion`].
fn checked_consistency(
    nodes: &TreeNodes<'_>,
    old: u64,
    new: u64,
    new_root: &Digest,
) -> Result<Vec<Digest>, LedgerError> {
    if old == 0 {
        return Ok(Vec::new());
    }
    let path = consistency_path(nodes, old, new)?;
    verify_consistency(old, &root(nodes, old)?, new, new_root, &path).map_err(|_| LedgerError::Damaged {
        what: "the tiles do not lead from an older root to the signed one",
    })?;
    Ok(path)
}

#[cfg(test)]
#[path = "proofs_tests.rs"]
mod tests;
