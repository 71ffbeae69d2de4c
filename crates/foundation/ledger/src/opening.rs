//! Opening a ledger: what is on disk is brought in line with the rows, and what can be made again is.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use huitong_proof::{Clock, Entropy, Envelope};
use huitong_store::{Read, Store};

use crate::about::About;
use crate::archive::Archive;
use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::gate::Gate;
use crate::log::{Identity, Ledger, Parts};
use crate::lookup::{Keys, Recent};
use crate::mending::Mender;
use crate::place::{self, CHECKPOINT, Place};
use crate::publish::Publishing;
use crate::tables::{self, Extent};
use crate::tree::Tree;

/// Entries that are settled together.
pub(crate) const BLOCK: u64 = 4_096;
const PAGE: usize = 1_024;

/// What was found and mended when a ledger was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Entries in the log.
    pub size: u64,
    /// Entries that are in settled files.
    pub settled: u64,
    /// Files that were missing or damaged and were made again from the entries.
    pub rebuilt: Vec<String>,
}

impl Ledger {
    /// The ledger in that store. Its files lie in the directory `ledger` of the store's own.
    ///
    /// Reads the right edge of the tree and compares it with the newest checkpoint. Tiles and lookup runs that are
    /// missing are made again from the entries ([`Ledger::opening`] says which); what an interrupted publication left
    /// behind is written again by the next. Blocks meanwhile: call it off the runtime's threads or before they matter.
    ///
    /// # Errors
    /// [`LedgerError::DamagedFile`] when entries are missing; [`LedgerError::Damaged`] when they do not have the root that
    /// was signed for them; [`LedgerError::InUse`] while another ledger over this store is open; storage errors.
    pub fn open(
        store: Store,
        identity: Identity,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, LedgerError> {
        Self::open_with(store, identity, clock, entropy, BLOCK)
    }

    pub(crate) fn open_with(
        store: Store,
        identity: Identity,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        block: u64,
    ) -> Result<Self, LedgerError> {
        let place = Place::open(&store.directory().join("ledger"), store.disk())?;
        let block = About::read(place.root())?.map_or(block, |about| about.block);
        let Identity { node, origin, space, .. } = &identity;
        About { space: *space, node: node.clone(), origin: origin.clone(), block }.keep(&place)?;
        let gate = Gate::open(&store, &place)?;

        let view = store.view();
        let Extent { size, arrangement } = tables::extent(&view)?;
        let settled = tables::settled(&view)?;
        let signed = tables::latest_checkpoint(&view)?.map(|latest| latest.checkpoint().clone());
        if settled > size || !settled.is_multiple_of(block) {
            return Err(LedgerError::Damaged { what: "more entries are settled than there are" });
        }
        let mender = Mender { place: &place, view: &view, space, block, settled };
        let (mut rebuilt, mut partials) = (Vec::new(), BTreeSet::new());
        mender.mend_tiles(&mut rebuilt, &mut partials)?;
        let archive = Archive::new(place.root().to_owned(), mender.mend_runs(&mut rebuilt)?);
        let grow = || {
            let mut tree = Tree::settled(&archive, settled, arrangement)?;
            tree.grow(&view, size)?;
            check_root(&tree, &archive, signed.as_ref()).map(|()| tree)
        };
        let tree = match grow() {
            Err(LedgerError::Damaged { .. } | LedgerError::DamagedFile { .. }) if settled > 0 => {
                // Tiles can be made again. If the entries themselves do not fit, it shows now.
                mender.make_tiles(&mut rebuilt)?;
                grow()
            }
            grown => grown,
        }?;
        let recent = recall(&view, &identity, block, settled..size)?;
        for what in &rebuilt {
            tracing::warn!(directory = %place.root().display(), what, "a file of the ledger was made again");
        }

        let text =
            place::read(&place.root().join(CHECKPOINT))?.and_then(|bytes| String::from_utf8(bytes).ok());
        let published = text.and_then(|text| SignedCheckpoint::stored(&text).ok());
        let published = published.map_or(0, |published| published.checkpoint().size);
        let published = published.min(signed.map_or(0, |signed| signed.size));
        let publishing = Publishing::resume(settled, partials);
        let opening = Opening { size, settled, rebuilt };
        let parts = Parts { block, place, archive, gate, tree, recent, publishing, published, opening };
        Ok(Self::new(store, identity, clock, entropy, parts))
    }
}

fn check_root(tree: &Tree, archive: &Archive, signed: Option<&Checkpoint>) -> Result<(), LedgerError> {
    match signed {
        Some(signed) if !tree.has_root(archive, signed)? => {
            Err(LedgerError::Damaged { what: "the entries do not have the root that was signed for them" })
        }
        _ => Ok(()),
    }
}

/// The lookup records of the entries that are not settled.
fn recall(
    r: &impl Read,
    identity: &Identity,
    block: u64,
    entries: Range<u64>,
) -> Result<Recent, LedgerError> {
    let mut recent = Recent::new(block);
    let mut next = entries.start;
    while next < entries.end {
        let rows = tables::entries(r, next, PAGE)?;
        if rows.is_empty() {
            return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
        }
        for row in rows {
            let keys = if row.is_empty() {
                Gap::get(r, next)?.and_then(|gap| gap.keys())
            } else {
                Some(Keys::of(&Envelope::decode(row)?.trusted(&identity.space)?))
            };
            if let Some(keys) = keys {
                recent.note(&keys, next);
            }
            next = next.saturating_add(1);
        }
    }
    Ok(recent)
}
