//! Pairs of signed texts that no honest party signs both of.

use huitong_proof::Digest;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_store::{Read, Tx};

use crate::error::LedgerError;
use crate::tables::FORK;

const VERSION: u64 = 1;
const STATEMENTS: u64 = 1;
const CHECKPOINTS: u64 = 2;

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
