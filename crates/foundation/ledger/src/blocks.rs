//! What a bundle of entries gives: their leaf hashes and their lookup records. Pure but for the gaps asked for.

use huitong_proof::{Digest, Envelope, SpaceId};

use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::lookup::{Keys, Record};
use crate::merkle::leaf_hash;
use crate::tiles::{Bundle, WIDTH};

/// What follows from entries.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    pub(crate) leaves: Vec<Digest>,
    pub(crate) records: Vec<Record>,
}

impl Derived {
    /// Adds what follows from bundle `number`. `gap` says what is known of an entry without bytes.
    pub(crate) fn add(
        &mut self,
        number: u64,
        bundle: &Bundle,
        space: &SpaceId,
        gap: &mut dyn FnMut(u64) -> Result<Option<Gap>, LedgerError>,
    ) -> Result<(), LedgerError> {
        let first = number.saturating_mul(WIDTH);
        for (index, bytes) in (first..).zip(bundle.entries()) {
            if bytes.is_empty() {
                let gap = gap(index)?.ok_or(LedgerError::Damaged {
                    what: "an entry is empty and nothing says who removed it",
                })?;
                self.leaves.push(gap.leaf);
                self.records.extend(gap.keys().iter().flat_map(|keys| keys.records(index)));
            } else {
                self.leaves.push(leaf_hash(bytes));
                let statement = Envelope::decode(bytes.to_vec())?.trusted(space)?;
                self.records.extend(Keys::of(&statement).records(index));
            }
        }
        Ok(())
    }
}
