//! Checkpoints as C2SP tlog-checkpoint 1.0.0 defines them: the signed head of a log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use huitong_proof::{Digest, SigningKey};

use crate::note::{LogVerifier, MAX_NAME_BYTES, MAX_SIGNATURES, Note, NoteError, signature_line};

/// What a log says of itself at one moment: these `size` entries hash to this `root`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// Name of the log, such as `<node id>/huitong-log/1`; equal to the name of its key.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Merkle root over these entries (RFC 9162 section 2.1.1).
    pub root: Digest,
}

impl Checkpoint {
    /// The text that is signed: origin, size and base64 of the root, each on a line.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }

    /// Reads exactly what [`Checkpoint::body`] writes; extension lines are refused.
    fn parse_body(body: &str) -> Result<Self, NoteError> {
        let malformed = |why| NoteError::Malformed { why };
        let mut lines = body.strip_suffix('\n').unwrap_or(body).split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed("a checkpoint has three lines: origin, size, root"));
        };
        if origin.is_empty() || origin.len() > MAX_NAME_BYTES {
            return Err(malformed("the origin is empty or too long"));
        }
        let number = size.parse::<u64>().map_err(|_| malformed("the size is not a number below 2^64"))?;
        if number.to_string() != size {
            return Err(malformed("the size is not a plain decimal number"));
        }
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|bytes| Digest::from_slice(&bytes))
            .ok_or(malformed("the root is not canonical base64 of 32 bytes"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }
}

/// A checkpoint with the log's signature, as the exact text that was signed or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    text: String,
    log_signature: String,
}

impl SignedCheckpoint {
    /// Signs with a key named like the origin. Ed25519 is deterministic: signing again gives the same text.
    ///
    /// The origin must be a name that [`LogVerifier::new`] takes; otherwise no verifier accepts the text.
    pub fn sign(c: Checkpoint, key: &SigningKey) -> Self {
        let body = c.body();
        let log_signature = signature_line(&c.origin, key, &body);
        Self { text: format!("{body}\n{log_signature}\n"), checkpoint: c, log_signature }
    }

    /// The whole note: the three lines, a blank line, the signature lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was signed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Reads a checkpoint that may carry signatures of others, such as witnesses, beside the log's.
    ///
    /// At most 16 signature lines. Lines of unknown keys are passed over; a line with the log's name and key id must
    /// verify and there must be one.
    ///
    /// # Errors
    /// [`NoteError`] says which part of the text is malformed, unsigned or false.
    pub fn parse(text: &str, verifier: &LogVerifier) -> Result<Self, NoteError> {
        Self::verify(text, verifier, MAX_SIGNATURES)
    }

    /// Reads a checkpoint with exactly one signature line, the log's, so that one checkpoint has one text.
    ///
    /// # Errors
    /// Those of [`SignedCheckpoint::parse`]; [`NoteError::TooManySignatures`] when there are further lines.
    pub fn parse_exact(text: &str, verifier: &LogVerifier) -> Result<Self, NoteError> {
        Self::verify(text, verifier, 1)
    }

    /// The same checkpoint with the log's signature line only: what is worth keeping of a text that others may have
    /// lengthened.
    pub fn with_log_signature_only(&self) -> Self {
        let text = format!("{}\n{}\n", self.checkpoint.body(), self.log_signature);
        Self { checkpoint: self.checkpoint.clone(), text, log_signature: self.log_signature.clone() }
    }

    /// A text this node verified or signed itself before it stored it; the signature is not checked again.
    pub(crate) fn stored(text: &str) -> Result<Self, NoteError> {
        let note = Note::split(text, 1)?;
        let line = note.signatures.first().ok_or(NoteError::Malformed { why: "it has no signature" })?;
        Ok(Self {
            checkpoint: Checkpoint::parse_body(note.text)?,
            text: text.to_owned(),
            log_signature: line.line.to_owned(),
        })
    }

    fn verify(text: &str, verifier: &LogVerifier, limit: usize) -> Result<Self, NoteError> {
        let note = Note::split(text, limit)?;
        let line = note.signed_by(verifier)?;
        let checkpoint = Checkpoint::parse_body(note.text)?;
        if checkpoint.origin != verifier.name() {
            return Err(NoteError::OtherOrigin {
                found: checkpoint.origin,
                expected: verifier.name().to_owned(),
            });
        }
        Ok(Self { checkpoint, text: text.to_owned(), log_signature: line.line.to_owned() })
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
