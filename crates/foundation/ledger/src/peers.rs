//! What this node remembers of the logs of other nodes.

use huitong_proof::Digest;
use huitong_store::{Read, Tx};

use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::error::LedgerError;
use crate::evidence::Evidence;
use crate::log::Ledger;
use crate::merkle::verify_consistency;
use crate::note::LogVerifier;
use crate::tables;

/// How many older checkpoints a consistency path is tried against. Answers to requests in flight at the same moment
/// start from different sizes and arrive in any order; a few hundred covers every sensible number of them.
const LINKS_TRIED: usize = 256;

impl Ledger {
    /// Remembers a peer's checkpoint after checking its signature and its consistency with those seen before; the
    /// newest becomes the anchor of later statements to that peer.
    ///
    /// `consistency` is the path from a checkpoint seen before to this one, as [`Ledger::prove`] of the peer gives it
    /// for the known size that [`Ledger::observed`] names; empty on first contact and for a checkpoint seen before.
    /// A path from an older checkpoint than the newest is accepted, but then the newest stays the anchor.
    ///
    /// # Errors
    /// [`LedgerError::Note`] when the text is malformed or not signed by `peer_log`.
    /// [`LedgerError::Inconsistent`] when another root was seen at this size, or the path leads from no checkpoint
    /// seen before: both texts are written as evidence in `tx` and carried in the error (see [`Ledger::preserve`]).
    /// [`LedgerError::Unlinked`] when there is no path although checkpoints were seen before: ask the peer again with
    /// the size named there.
    pub fn observe(
        &self,
        tx: &mut Tx<'_>,
        peer_log: &LogVerifier,
        proofs_checkpoint: &str,
        consistency: &[Digest],
    ) -> Result<SignedCheckpoint, LedgerError> {
        let signed = SignedCheckpoint::parse(proofs_checkpoint, peer_log)?;
        // Only the log's own line is kept: others could fill this node's disk with lines of their own.
        let offered = signed.with_log_signature_only();
        let Checkpoint { origin, size, root } = offered.checkpoint();

        if let Some(same_size) = tables::seen_at(tx, origin, *size)? {
            if same_size.checkpoint().root != *root {
                return Err(contradiction(tx, &same_size, &offered)?);
            }
            return Ok(signed);
        }
        let Some(newest) = tables::observed(tx, origin)? else {
            remember(tx, &offered)?;
            return Ok(signed);
        };
        let newest_size = newest.checkpoint().size;
        if links(newest.checkpoint(), offered.checkpoint(), consistency) {
            remember(tx, &offered)?;
            return Ok(signed);
        }
        if consistency.is_empty() {
            return Err(LedgerError::Unlinked {
                origin: origin.clone(),
                remembered: newest_size,
                offered: *size,
            });
        }
        let older = tables::seen_below(tx, origin, *size, LINKS_TRIED)?;
        if older.iter().any(|older| links(older.checkpoint(), offered.checkpoint(), consistency)) {
            tables::put_seen(tx, &offered)?;
            return Ok(signed);
        }
        Err(contradiction(tx, &newest, &offered)?)
    }

    /// The newest checkpoint of that log, known to extend all newest ones before it.
    ///
    /// # Errors
    /// Storage errors.
    pub fn observed(&self, r: &impl Read, origin: &str) -> Result<Option<Checkpoint>, LedgerError> {
        Ok(tables::observed(r, origin)?.map(|signed| signed.checkpoint().clone()))
    }
}

/// Every log extends the empty one.
fn links(old: &Checkpoint, new: &Checkpoint, path: &[Digest]) -> bool {
    if old.size == 0 {
        return path.is_empty();
    }
    verify_consistency(old.size, &old.root, new.size, &new.root, path).is_ok()
}

fn remember(tx: &mut Tx<'_>, newest: &SignedCheckpoint) -> Result<(), LedgerError> {
    tables::put_seen(tx, newest)?;
    tables::put_observed(tx, newest)
}

fn contradiction(
    tx: &mut Tx<'_>,
    kept: &SignedCheckpoint,
    refused: &SignedCheckpoint,
) -> Result<LedgerError, LedgerError> {
    let evidence = Evidence::Checkpoints { kept: kept.text().to_owned(), refused: refused.text().to_owned() };
    evidence.keep(tx)?;
    Ok(LedgerError::Inconsistent {
        origin: refused.checkpoint().origin.clone(),
        evidence: Box::new(evidence),
    })
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
