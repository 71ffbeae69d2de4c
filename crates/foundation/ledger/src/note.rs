//! Signed notes as C2SP signed-note 1.0.0 defines them: the text, its signature lines, and the keys that check them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use huitong_proof::{Digest, KeyError, SigningKey, VerifyingKey};

/// The longest note that is read: 16 signature lines of the largest known kind, and the text.
pub const MAX_NOTE_BYTES: usize = 96 * 1024;
/// The most signature lines that are read.
pub const MAX_SIGNATURES: usize = 16;
/// The longest key name and origin: cosignatures give the length one byte.
pub const MAX_NAME_BYTES: usize = 255;

/// Signature type of a log's Ed25519 signature.
pub(crate) const ED25519: u8 = 0x01;
/// Signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature 1.0.1).
pub(crate) const COSIGNATURE: u8 = 0x04;
const SIGNATURE_MARK: &str = "\u{2014} ";

/// Why a note, a checkpoint or a key text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The note is longer than any this node reads.
    #[error("the note has {found} bytes; at most {MAX_NOTE_BYTES} are read")]
    TooLong {
        /// Bytes in the note.
        found: usize,
    },
    /// The note is not `text, blank line, signature lines`.
    #[error("the note is malformed: {why}; ask the log for its checkpoint again")]
    Malformed {
        /// What is wrong with its shape.
        why: &'static str,
    },
    /// A line of signatures is malformed.
    #[error("signature line {line} is malformed: {why}")]
    SignatureLine {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There are more signature lines than allowed.
    #[error("the note has {found} signature lines; at most {limit} are read")]
    TooManySignatures {
        /// Lines found.
        found: usize,
        /// Lines allowed.
        limit: usize,
    },
    /// A cosignature is dated outside 1970-01-01T00:00:01Z to the year 9999.
    #[error("the cosignature by {name} has an impossible time; ask that witness again")]
    CosignatureTime {
        /// Key name on the line.
        name: String,
    },
    /// A quorum policy with log lines does not list the log of this checkpoint.
    #[error(
        "the quorum policy does not list the log {origin} with the key that signed; add a log line for it"
    )]
    UnlistedLog {
        /// Origin of the checkpoint.
        origin: String,
    },
    /// No line is signed by the expected key.
    #[error("no signature by {name} with key id {key_id}; check that the trusted log key is the current one")]
    NotSigned {
        /// Key name that was looked for.
        name: String,
        /// Key id that was looked for, in hex.
        key_id: String,
    },
    /// A line names the expected key but its signature is false.
    #[error("the signature by {name} does not verify; the note was altered or signed with another key")]
    BadSignature {
        /// Key name on the line.
        name: String,
    },
    /// The checkpoint speaks for another log than the key.
    #[error("the checkpoint is of log {found}, the key is of log {expected}")]
    OtherOrigin {
        /// Origin line of the checkpoint.
        found: String,
        /// Name of the key.
        expected: String,
    },
    /// A key name is empty, too long, or has a space, a control character or a plus sign.
    #[error(
        "key name {name:?} is not allowed: use 1 to {MAX_NAME_BYTES} bytes without spaces, control characters or +"
    )]
    Name {
        /// The refused name.
        name: String,
    },
    /// The key text is not a verifier key this node can use.
    #[error("the key text is malformed: {why}; expected name+key id in hex+base64")]
    KeyText {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The public key itself is refused.
    #[error("the public key in the key text is refused")]
    Key(#[source] KeyError),
}

/// The key of a log: its name, which is the log's origin, and its public key.
///
/// As text (`Display`, `FromStr`) it is a C2SP vkey: `name+<key id, 8 hex digits>+<base64(0x01 || public key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogVerifier {
    name: String,
    key: VerifyingKey,
}

impl LogVerifier {
    /// A log key with that name.
    ///
    /// # Errors
    /// [`NoteError::Name`] when the name is not 1 to 255 bytes without spaces, control characters and `+`.
    pub fn new(name: impl Into<String>, key: VerifyingKey) -> Result<Self, NoteError> {
        Ok(Self { name: checked_name(name.into())?, key })
    }

    /// Reads a vkey text; same as [`str::parse`].
    ///
    /// # Errors
    /// [`NoteError`] when the text is not exactly what `Display` writes for a usable Ed25519 key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, key) = read_vkey(text, ED25519, "the key is not of type 1, Ed25519")?;
        Ok(Self { name, key })
    }

    /// A verifier whose name is not checked: for this node's own log, whose name is checked before it first signs.
    pub(crate) fn unchecked(name: String, key: VerifyingKey) -> Self {
        Self { name, key }
    }

    /// Key name; for a log it equals the origin of its checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Public key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// First four bytes of SHA-256(name || 0x0A || 0x01 || public key).
    pub fn key_id(&self) -> [u8; 4] {
        key_id(&self.name, ED25519, &self.key)
    }
}

impl fmt::Display for LogVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_vkey(f, &self.name, ED25519, &self.key)
    }
}

impl FromStr for LogVerifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        Self::parse(text)
    }
}

/// A note taken apart; nothing in it is checked but its form.
pub(crate) struct Note<'a> {
    /// The signed text, its final newline included.
    pub(crate) text: &'a str,
    pub(crate) signatures: Vec<SignatureLine<'a>>,
}

pub(crate) struct SignatureLine<'a> {
    /// The whole line without its newline.
    pub(crate) line: &'a str,
    pub(crate) name: &'a str,
    pub(crate) key_id: [u8; 4],
    /// What follows the key id; for a cosignature time and signature.
    pub(crate) signature: Vec<u8>,
}

impl<'a> Note<'a> {
    pub(crate) fn split(note: &'a str, limit: usize) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { found: note.len() });
        }
        if note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Malformed { why: "it has a control character" });
        }
        let Some((text, lines)) = note.rsplit_once("\n\n") else {
            return Err(NoteError::Malformed { why: "it has no blank line before the signatures" });
        };
        let Some(lines) = lines.strip_suffix('\n') else {
            return Err(NoteError::Malformed { why: "it does not end with a signature line and a newline" });
        };
        let found = lines.split('\n').count();
        if found > limit {
            return Err(NoteError::TooManySignatures { found, limit });
        }
        let signatures = lines
            .split('\n')
            .enumerate()
            .map(|(before, line)| {
                SignatureLine::parse(line).map_err(|why| NoteError::SignatureLine { line: before + 1, why })
            })
            .collect::<Result<Vec<_>, _>>()?;
        // The newline that ends the text is the first of the two that were split at.
        let text = note.get(..=text.len()).unwrap_or(text);
        Ok(Self { text, signatures })
    }

    /// The line signed by `verifier`. Lines of other keys are passed over; a false line of this key refuses the note.
    pub(crate) fn signed_by(&self, verifier: &LogVerifier) -> Result<&SignatureLine<'a>, NoteError> {
        let key_id = verifier.key_id();
        let mut signed = None;
        for line in &self.signatures {
            if line.name != verifier.name || line.key_id != key_id {
                continue;
            }
            if verifier.key.verify(self.text.as_bytes(), &line.signature).is_err() {
                return Err(NoteError::BadSignature { name: verifier.name.clone() });
            }
            signed = signed.or(Some(line));
        }
        signed.ok_or_else(|| NoteError::NotSigned { name: verifier.name.clone(), key_id: hex_of(key_id) })
    }
}

impl<'a> SignatureLine<'a> {
    /// Reads one line, which has no newline.
    pub(crate) fn parse(line: &'a str) -> Result<Self, &'static str> {
        let rest =
            line.strip_prefix(SIGNATURE_MARK).ok_or("it does not start with an em dash and a space")?;
        let (name, encoded) = rest.split_once(' ').ok_or("it has no signature after the key name")?;
        if !is_name(name) {
            return Err("the key name is empty or has a space or a plus sign");
        }
        let decoded = STANDARD.decode(encoded).map_err(|_| "the signature is not canonical base64")?;
        match decoded.split_first_chunk::<4>() {
            Some((key_id, signature)) if !signature.is_empty() => {
                Ok(Self { line, name, key_id: *key_id, signature: signature.to_vec() })
            }
            _ => Err("the signature is shorter than five bytes"),
        }
    }
}

/// The signature line, without newline, of `text` (which ends with a newline) under a log key called `name`.
pub(crate) fn signature_line(name: &str, key: &SigningKey, text: &str) -> String {
    write_line(name, key_id(name, ED25519, &key.verifying_key()), &key.sign(text.as_bytes()))
}

/// A signature line without newline.
pub(crate) fn write_line(name: &str, key_id: [u8; 4], signature: &[u8]) -> String {
    let mut blob = key_id.to_vec();
    blob.extend_from_slice(signature);
    format!("{SIGNATURE_MARK}{name} {}", STANDARD.encode(blob))
}

/// Reads a vkey of that signature type.
pub(crate) fn read_vkey(
    text: &str,
    signature_type: u8,
    other_type: &'static str,
) -> Result<(String, VerifyingKey), NoteError> {
    let malformed = |why| NoteError::KeyText { why };
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(written_id), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(malformed("it has fewer than three parts"));
    };
    let decoded = STANDARD.decode(encoded).map_err(|_| malformed("the key is not canonical base64"))?;
    let public_key = match decoded.split_first() {
        Some((found, public_key)) if *found == signature_type => public_key,
        _ => return Err(malformed(other_type)),
    };
    let key = VerifyingKey::from_bytes(public_key).map_err(NoteError::Key)?;
    let name = checked_name(name.to_owned())?;
    if written_id != hex_of(key_id(&name, signature_type, &key)) {
        return Err(malformed("the key id does not belong to this name and key"));
    }
    Ok((name, key))
}

/// Writes what [`read_vkey`] reads.
pub(crate) fn write_vkey(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    signature_type: u8,
    key: &VerifyingKey,
) -> fmt::Result {
    let mut typed = vec![signature_type];
    typed.extend_from_slice(key.as_bytes());
    write!(f, "{name}+{}+{}", hex_of(key_id(name, signature_type, key)), STANDARD.encode(typed))
}

/// The name, if a key may be called so.
pub(crate) fn checked_name(name: String) -> Result<String, NoteError> {
    if name.len() > MAX_NAME_BYTES || !is_name(&name) {
        return Err(NoteError::Name { name });
    }
    Ok(name)
}

/// First four bytes of SHA-256(name || 0x0A || signature type || public key).
pub(crate) fn key_id(name: &str, signature_type: u8, key: &VerifyingKey) -> [u8; 4] {
    let digest = Digest::sha256_parts(&[name.as_bytes(), b"\n", &[signature_type], key.as_bytes()]);
    let [a, b, c, d, ..] = *digest.as_bytes();
    [a, b, c, d]
}

pub(crate) fn hex_of(key_id: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(key_id))
}

/// A hash as the formats write it.
pub(crate) fn hash_text(hash: &Digest) -> String {
    STANDARD.encode(hash.as_bytes())
}

/// Reads exactly what [`hash_text`] writes.
pub(crate) fn read_hash(text: &str) -> Option<Digest> {
    STANDARD.decode(text).ok().and_then(|bytes| Digest::from_slice(&bytes))
}

/// Reads a decimal number without sign and leading zeros, the only way the formats write one.
pub(crate) fn read_number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

/// Not empty, no white space or control character, no plus sign.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c < ' ' || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example key and note of golang.org/x/mod/sumdb/note.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    // The key of the Go checksum database.
    const GO: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";

    #[test]
    fn published_keys_and_note_verify() {
        for text in [PETER, GO] {
            assert_eq!(LogVerifier::parse(text).unwrap().to_string(), text);
        }
        let note = Note::split(NOTE, 1).unwrap();
        assert!(note.text.ends_with("problem is.\n"));
        let peter: LogVerifier = PETER.parse().unwrap();
        assert!(NOTE.ends_with(&format!("{}\n", note.signed_by(&peter).unwrap().line)));
        let go: LogVerifier = GO.parse().unwrap();
        assert!(matches!(note.signed_by(&go), Err(NoteError::NotSigned { .. })));
    }

    #[test]
    fn every_flipped_character_of_a_key_text_is_refused() {
        for at in 0..PETER.len() {
            let mut bytes = PETER.as_bytes().to_vec();
            bytes[at] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            assert!(LogVerifier::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn malformed_key_texts_are_refused() {
        let name_limit = "n".repeat(MAX_NAME_BYTES + 1);
        let key = SigningKey::from_seed(&[1; 32]).verifying_key();
        for name in ["", "a b", "a+b", "a\nb", "a\u{a0}b", "\u{1}", name_limit.as_str()] {
            let refused = LogVerifier::new(name, key.clone());
            assert_eq!(refused.unwrap_err(), NoteError::Name { name: name.to_owned() });
        }
        assert!(LogVerifier::new("n".repeat(MAX_NAME_BYTES), key).is_ok());
        for text in ["", "a", "a+b", "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"] {
            assert!(matches!(LogVerifier::parse(text), Err(NoteError::KeyText { .. })), "{text}");
        }
        // The identity point is a low-order key: it would let its owner deny any signature.
        let mut weak = vec![ED25519, 1];
        weak.resize(33, 0);
        let text = format!("a+00000000+{}", STANDARD.encode(weak));
        assert!(matches!(LogVerifier::parse(&text), Err(NoteError::Key(_))));
    }
}
