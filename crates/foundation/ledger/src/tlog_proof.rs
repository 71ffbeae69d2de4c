//! Proof files as C2SP tlog-proof defines them (`c2sp.org/tlog-proof@v1`): an entry's place in a log and the
//! checkpoint it is proved against, in one text that verifies offline.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use huitong_proof::Digest;

use crate::checkpoint::SignedCheckpoint;
use crate::merkle::{MAX_PATH, ProofError, leaf_hash, verify_inclusion};
use crate::note::{
    LogVerifier, MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError, hash_text, read_hash, read_number,
};

/// The most extra data that is read, in bytes.
pub const MAX_EXTRA_BYTES: usize = 16 * 1024;
/// The longest proof file that is read.
pub const MAX_TLOG_PROOF_BYTES: usize = MAX_NOTE_BYTES + MAX_PATH * 45 + MAX_EXTRA_BYTES / 3 * 4 + 128;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// An entry's index, the path to the root, and the checkpoint with its signatures. Files end in `.tlog-proof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Data of the application; empty if there is none. Nothing vouches for it.
    pub extra: Vec<u8>,
    /// Index of the entry, from 0.
    pub index: u64,
    /// Sibling hashes, the leaf's sibling first, at most 63.
    pub path: Vec<Digest>,
    /// Text of the signed checkpoint, verbatim.
    pub checkpoint: String,
}

/// Why a proof file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// The text does not have the format.
    #[error("the proof file is malformed: {why}; get it again from the log")]
    Malformed {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The checkpoint is malformed, or not signed by the log.
    #[error(transparent)]
    Checkpoint(#[from] NoteError),
    /// The path does not lead from the entry to the checkpoint's root.
    #[error(transparent)]
    Inclusion(#[from] ProofError),
}

impl TlogProof {
    /// A proof without extra data.
    pub fn new(index: u64, path: Vec<Digest>, checkpoint: impl Into<String>) -> Self {
        Self { extra: Vec::new(), index, path, checkpoint: checkpoint.into() }
    }

    /// Reads a proof file. Nothing is verified but the form, that of the checkpoint's note included.
    ///
    /// # Errors
    /// [`TlogProofError::Malformed`] and [`TlogProofError::Checkpoint`].
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let malformed = |why| TlogProofError::Malformed { why };
        if text.len() > MAX_TLOG_PROOF_BYTES {
            return Err(malformed("it is too long"));
        }
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(malformed("it has no empty line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(malformed("its first line is not c2sp.org/tlog-proof@v1"));
        }
        let mut extra = Vec::new();
        if let Some(encoded) = lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            extra =
                STANDARD.decode(encoded).map_err(|_| malformed("its extra data is not canonical base64"))?;
            if extra.is_empty() || extra.len() > MAX_EXTRA_BYTES {
                return Err(malformed("its extra data is empty or too long"));
            }
            lines.next();
        }
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(read_number)
            .ok_or(malformed("it has no line \"index\" with a plain decimal number"))?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() == MAX_PATH {
                return Err(malformed("its path has more than 63 hashes"));
            }
            path.push(read_hash(line).ok_or(malformed("a hash is not canonical base64 of 32 bytes"))?);
        }
        Note::split(checkpoint, MAX_SIGNATURES)?;
        Ok(Self { extra, index, path, checkpoint: checkpoint.to_owned() })
    }

    /// The proof file, as [`TlogProof::parse`] reads it.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if !self.extra.is_empty() {
            text.push_str(&format!("extra {}\n", STANDARD.encode(&self.extra)));
        }
        text.push_str(&format!("index {}\n", self.index));
        for hash in &self.path {
            text.push_str(&hash_text(hash));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Offline: does this log hold these bytes, under the checkpoint that is returned?
    ///
    /// Who cosigned the checkpoint is the business of [`crate::QuorumPolicy::evaluate`].
    ///
    /// # Errors
    /// [`TlogProofError::Checkpoint`] when the log did not sign the checkpoint; [`TlogProofError::Inclusion`] when
    /// index and path do not lead from the entry to its root.
    pub fn verify(&self, entry: &[u8], log: &LogVerifier) -> Result<SignedCheckpoint, TlogProofError> {
        let signed = SignedCheckpoint::parse(&self.checkpoint, log)?;
        let checkpoint = signed.checkpoint();
        verify_inclusion(&leaf_hash(entry), self.index, checkpoint.size, &self.path, &checkpoint.root)?;
        Ok(signed)
    }
}

#[cfg(test)]
#[path = "tlog_proof_tests.rs"]
mod tests;
