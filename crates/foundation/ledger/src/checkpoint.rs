//! Checkpoints as C2SP tlog-checkpoint 1.0.0 defines them: the signed head of a log.

use huitong_proof::{Digest, SigningKey};

use crate::cosignature::{Cosignature, WitnessVerifier};
use crate::note::{
    LogVerifier, MAX_NAME_BYTES, MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError, SignatureLine, hash_text,
    read_hash, read_number, signature_line,
};

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
        format!("{}\n{}\n{}\n", self.origin, self.size, hash_text(&self.root))
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
        let size = read_number(size).ok_or(malformed("the size is not a plain decimal number below 2^64"))?;
        let root = read_hash(root).ok_or(malformed("the root is not canonical base64 of 32 bytes"))?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

/// A checkpoint with the log's signature, as the exact text that was signed or received. It may carry lines of others,
/// such as the cosignatures of witnesses; what they are worth says [`SignedCheckpoint::cosigned_by`].
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

    /// The same checkpoint with further signature lines, in the one order that this node writes: the log's line, then
    /// the others by key name and key id.
    ///
    /// Each key has one line, the first: a later line of the same key is dropped, so an early cosignature is not
    /// replaced by a later one of the same witness. No line is verified here: who adds one to a checkpoint without
    /// others checks it with [`SignedCheckpoint::cosigned_by`] before it is merged.
    ///
    /// # Errors
    /// [`NoteError::SignatureLine`] with the number of a malformed line among `lines`;
    /// [`NoteError::TooManySignatures`] beyond 16; [`NoteError::TooLong`] when the whole would not be read again.
    pub fn with_lines(&self, lines: &[String]) -> Result<Self, NoteError> {
        let note = Note::split(&self.text, MAX_SIGNATURES)?;
        let own = Self::line_of_log(&self.log_signature)?;
        let mut others: Vec<SignatureLine<'_>> = Vec::new();
        let added = lines.iter().enumerate().map(|(before, line)| {
            SignatureLine::parse(line).map_err(|why| NoteError::SignatureLine { line: before + 1, why })
        });
        for line in note.signatures.into_iter().map(Ok).chain(added) {
            let line = line?;
            let known = |other: &SignatureLine<'_>| other.name == line.name && other.key_id == line.key_id;
            if !known(&own) && !others.iter().any(known) {
                others.push(line);
            }
        }
        let found = others.len() + 1;
        if found > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures { found, limit: MAX_SIGNATURES });
        }

        others.sort_by(|a, b| (a.name, a.key_id).cmp(&(b.name, b.key_id)));
        let mut text = format!("{}\n{}\n", self.checkpoint.body(), self.log_signature);
        for other in &others {
            text.push_str(other.line);
            text.push('\n');
        }
        if text.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { found: text.len() });
        }
        Ok(Self { checkpoint: self.checkpoint.clone(), text, log_signature: self.log_signature.clone() })
    }

    /// The cosignature of that witness, if there is one; the earliest if there are several.
    ///
    /// # Errors
    /// A line with the witness's name and key id that is no valid cosignature refuses the checkpoint:
    /// [`NoteError::BadSignature`] or [`NoteError::CosignatureTime`].
    pub fn cosigned_by(&self, witness: &WitnessVerifier) -> Result<Option<Cosignature>, NoteError> {
        let note = Note::split(&self.text, MAX_SIGNATURES)?;
        let key_id = witness.key_id();
        let mut earliest: Option<Cosignature> = None;
        for line in &note.signatures {
            if line.name != witness.name() || line.key_id != key_id {
                continue;
            }
            let cosignature = witness.verify(note.text, &line.signature)?;
            if earliest.as_ref().is_none_or(|known| cosignature.time < known.time) {
                earliest = Some(cosignature);
            }
        }
        Ok(earliest)
    }

    /// All signature lines in the order of the text, without newlines; the log's is among them.
    pub fn signature_lines(&self) -> Vec<String> {
        self.lines().into_iter().map(|line| line.line.to_owned()).collect()
    }

    /// Key name and key id of every signature line that is not the log's, in the order of the text. Nothing about
    /// these lines has been verified.
    pub fn cosigner_names(&self) -> Vec<(String, [u8; 4])> {
        let own = Self::line_of_log(&self.log_signature).ok();
        let is_own = |line: &SignatureLine<'_>| {
            own.as_ref().is_some_and(|own| own.name == line.name && own.key_id == line.key_id)
        };
        let others = self.lines().into_iter().filter(|line| !is_own(line));
        others.map(|line| (line.name.to_owned(), line.key_id)).collect()
    }

    /// A text this node verified or signed itself before it stored it; no signature is checked again. The first line
    /// under the name of the origin is the log's.
    pub(crate) fn stored(text: &str) -> Result<Self, NoteError> {
        let note = Note::split(text, MAX_SIGNATURES)?;
        let checkpoint = Checkpoint::parse_body(note.text)?;
        let line = note
            .signatures
            .iter()
            .find(|line| line.name == checkpoint.origin)
            .ok_or(NoteError::Malformed { why: "it has no signature by its log" })?;
        let log_signature = line.line.to_owned();
        Ok(Self { checkpoint, text: text.to_owned(), log_signature })
    }

    /// The lines of a text that was split before, when it was made or read.
    fn lines(&self) -> Vec<SignatureLine<'_>> {
        Note::split(&self.text, MAX_SIGNATURES).map(|note| note.signatures).unwrap_or_default()
    }

    fn line_of_log(line: &str) -> Result<SignatureLine<'_>, NoteError> {
        SignatureLine::parse(line).map_err(|why| NoteError::SignatureLine { line: 1, why })
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
