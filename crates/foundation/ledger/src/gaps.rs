//! Gaps in the log: entries whose bytes were removed, or are lost. Their hashes stay, so the tree stays whole.

use bytes::Bytes;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_proof::{Digest, Timestamp};
use huitong_store::{Read, Tx};

use crate::error::LedgerError;
use crate::lookup::Keys;
use crate::tables::GAP;

const VERSION: u64 = 1;

/// An entry of the log without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Index of the entry.
    pub index: u64,
    /// Its leaf hash (RFC 9162 section 2.1.1), which proofs still lead from.
    pub leaf: Digest,
    /// Who decided on the removal; empty for a lost entry.
    pub who: String,
    /// Why the bytes are not here.
    pub why: String,
    /// When the gap was made.
    pub time: Timestamp,
    /// What is still known of the statement; nothing of a lost one.
    pub removed: Option<Removed>,
}

/// What is kept of a statement whose bytes were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// TBS digest of the removed statement.
    pub digest: Digest,
    /// Its issuer.
    pub issuer: String,
    /// Its audience.
    pub audience: String,
    /// Its number on the channel between them.
    pub seq: u64,
    /// What it was about.
    pub subject: [u8; 16],
    /// What it answered, zeros if nothing.
    pub reference: Digest,
    /// Number of its kind.
    pub kind: u64,
    /// TBS digest of the REDACTION statement that says so to everybody; zeros if there is none.
    pub statement: Digest,
}

/// The decision to remove an entry's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// TBS digest of the statement to remove.
    pub digest: Digest,
    /// Who decided it.
    pub who: String,
    /// Why: the retention rule, the order, the case number.
    pub why: String,
    /// TBS digest of the REDACTION statement, zeros if there is none.
    pub statement: Digest,
}

/// What is put back into a log whose newest entries were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reinstated {
    /// The bytes of the statement, as a counterparty kept them.
    Statement(Bytes),
    /// Nobody has the bytes; a witness's copy has the hash.
    Lost {
        /// Leaf hash of the entry.
        leaf: Digest,
        /// How it is known, and who was asked for the bytes.
        reason: String,
    },
}

/// An entry, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Its bytes.
    Present(Vec<u8>),
    /// Its bytes were removed or lost.
    Redacted(Box<Gap>),
}

impl Gap {
    /// Why the entry cannot be read, as an error.
    pub fn to_error(&self) -> LedgerError {
        LedgerError::Redacted { index: self.index, who: self.who.clone(), why: self.why.clone() }
    }

    pub(crate) fn keys(&self) -> Option<Keys> {
        let removed = self.removed.as_ref()?;
        Some(Keys {
            digest: removed.digest,
            issuer: removed.issuer.clone(),
            audience: removed.audience.clone(),
            seq: removed.seq,
            subject: removed.subject,
            reference: removed.reference,
        })
    }

    pub(crate) fn put(&self, tx: &mut Tx<'_>) -> Result<(), LedgerError> {
        Ok(tx.put(&GAP, &self.index.to_be_bytes(), &self.encode())?)
    }

    pub(crate) fn get(r: &impl Read, index: u64) -> Result<Option<Self>, LedgerError> {
        r.get(&GAP, &index.to_be_bytes())?.map(|row| Self::decode(index, &row)).transpose()
    }

    fn encode(&self) -> Vec<u8> {
        let map = Map::new()
            .uint(1, VERSION)
            .digest(2, &self.leaf)
            .text(3, self.who.as_str())
            .text(4, self.why.as_str())
            .uint(5, self.time.millis());
        let Some(removed) = &self.removed else { return map.encode() };
        map.map(
            6,
            Map::new()
                .digest(1, &removed.digest)
                .text(2, removed.issuer.as_str())
                .text(3, removed.audience.as_str())
                .uint(4, removed.seq)
                .bytes(5, &removed.subject)
                .digest(6, &removed.reference)
                .uint(7, removed.kind)
                .digest(8, &removed.statement),
        )
        .encode()
    }

    pub(crate) fn decode(index: u64, row: &[u8]) -> Result<Self, LedgerError> {
        let mut fields = Fields::decode(row, Limits::DOCUMENT, "gap")?;
        if fields.uint(1, "version")? != VERSION {
            return Err(LedgerError::Damaged {
                what: "a gap was written by another version of this program",
            });
        }
        let (leaf, who, why) = (fields.digest(2, "leaf")?, fields.text(3, "who")?, fields.text(4, "why")?);
        let time = Timestamp::from_millis(fields.uint(5, "time")?);
        let removed = match fields.maybe_value(6, "removed")? {
            None => None,
            Some(value) => {
                let mut fields = Fields::from_value(value, "gap.removed")?;
                let removed = Removed {
                    digest: fields.digest(1, "digest")?,
                    issuer: fields.text(2, "issuer")?,
                    audience: fields.text(3, "audience")?,
                    seq: fields.uint(4, "seq")?,
                    subject: fields.fixed(5, "subject")?,
                    reference: fields.digest(6, "reference")?,
                    kind: fields.uint(7, "kind")?,
                    statement: fields.digest(8, "statement")?,
                };
                fields.finish()?;
                Some(removed)
            }
        };
        fields.finish()?;
        Ok(Self { index, leaf, who, why, time, removed })
    }
}
