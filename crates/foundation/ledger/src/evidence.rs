//! Pairs of signed texts that no honest party signs both of.

use huitong_proof::Digest;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_store::{Read, Tx};

use crate::error::LedgerError;
use crate::tables::FORK;

const VERSION: u64 = 1;
const STATEMENTS: u64 = 1;
const CHECKPOINTS: u64 = 2;
/// Pairs read at once.
const PAGE: usize = 256;

/// Two signed texts that exclude each other: anybody with the signer's public key can check the contradiction.
///
/// For checkpoints of different sizes the contradiction also needs the log's failure to give a consistency path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Two statements of one issuer on one channel: the same sequence number, or a broken link between neighbours.
    Statements {
        /// Bytes of the statement that was recorded first.
        kept: Vec<u8>,
        /// Bytes of the statement that was refused.
        refused: Vec<u8>,
    },
    /// Two checkpoints of one log.
    Checkpoints {
        /// Text of the checkpoint seen first.
        kept: String,
        /// Text of the checkpoint that was refused.
        refused: String,
    },
}

impl Evidence {
    /// Writes the pair down. Writing it again changes nothing.
    pub(crate) fn keep(&self, tx: &mut Tx<'_>) -> Result<(), LedgerError> {
        let row = self.encode();
        tx.put(&FORK, Digest::sha256(&row).as_bytes(), &row)?;
        Ok(())
    }

    /// At most `limit` pairs, in no meaningful order.
    pub(crate) fn all(r: &impl Read, limit: usize) -> Result<Vec<Self>, LedgerError> {
        r.scan(&FORK, &[], None, limit)?.iter().map(|row| Self::decode(&row.value)).collect()
    }

    /// At most `limit` pairs behind the one with that key, each with its key, in the order of keys.
    pub(crate) fn page(
        r: &impl Read,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, Self)>, LedgerError> {
        let damaged = || LedgerError::Damaged { what: "the key of a row of evidence is malformed" };
        r.scan(&FORK, &[], after.map(|key| key.as_bytes().as_slice()), limit)?
            .iter()
            .map(|row| Ok((Digest::from_slice(&row.key).ok_or_else(damaged)?, Self::decode(&row.value)?)))
            .collect()
    }

    /// Whether a statement with these bytes is one of a pair.
    pub(crate) fn holds(r: &impl Read, statement: &[u8]) -> Result<bool, LedgerError> {
        let mut after = None;
        loop {
            let page = Self::page(r, after.as_ref(), PAGE)?;
            let is_it = |evidence: &Self| match evidence {
                Self::Statements { kept, refused } => kept == statement || refused == statement,
                Self::Checkpoints { .. } => false,
            };
            if page.iter().any(|(_, evidence)| is_it(evidence)) {
                return Ok(true);
            }
            match page.last() {
                Some((last, _)) => after = Some(*last),
                None => return Ok(false),
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (form, kept, refused) = match self {
            Self::Statements { kept, refused } => (STATEMENTS, kept.as_slice(), refused.as_slice()),
            Self::Checkpoints { kept, refused } => (CHECKPOINTS, kept.as_bytes(), refused.as_bytes()),
        };
        Map::new().uint(1, VERSION).uint(2, form).bytes(3, kept).bytes(4, refused).encode()
    }

    fn decode(row: &[u8]) -> Result<Self, LedgerError> {
        let mut fields = Fields::decode(row, Limits::DOCUMENT, "evidence")?;
        let version = fields.uint(1, "version")?;
        let form = fields.uint(2, "form")?;
        let (kept, refused) = (fields.bytes(3, "kept")?, fields.bytes(4, "refused")?);
        fields.finish()?;
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .map_err(|_| LedgerError::Damaged { what: "a kept checkpoint is not text" })
        };
        match (version, form) {
            (VERSION, STATEMENTS) => Ok(Self::Statements { kept, refused }),
            (VERSION, CHECKPOINTS) => Ok(Self::Checkpoints { kept: text(kept)?, refused: text(refused)? }),
            _ => Err(LedgerError::Damaged { what: "a row of evidence has an unknown form" }),
        }
    }
}
