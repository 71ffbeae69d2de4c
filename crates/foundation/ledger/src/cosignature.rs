//! Cosignatures as C2SP tlog-cosignature 1.0.1 defines them (`cosignature/v1`): a witness (见证) says when a checkpoint
//! was the largest consistent one it had seen of a log.

use std::fmt;
use std::str::FromStr;

use huitong_proof::{SigningKey, Timestamp, VerifyingKey};

use crate::checkpoint::Checkpoint;
use crate::note::{COSIGNATURE, NoteError, checked_name, key_id, read_vkey, write_line, write_vkey};

/// Bytes of the time before the signature.
const TIME_BYTES: usize = 8;

/// Name of a node's witness key: `<node id in lower case>/huitong-witness/1`.
pub fn witness_name_of(node_id: &str) -> String {
    format!("{}/huitong-witness/1", node_id.to_ascii_lowercase())
}

/// One witness's word for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosignature {
    /// Who cosigned: the name of the witness's key; in a [`crate::Quorum`] the witness's name in the policy.
    pub name: String,
    /// When, in whole seconds: at this moment the witness had seen no larger tree of this log.
    pub time: Timestamp,
}

/// The key of a witness: its name and its public key.
///
/// As text (`Display`, `FromStr`) it is a C2SP vkey of type 4: `name+<key id, 8 hex digits>+<base64(0x04 || public
/// key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessVerifier {
    name: String,
    key: VerifyingKey,
}

impl WitnessVerifier {
    /// A witness key with that name. The signed message does not hold the name, so one key belongs to one name only.
    ///
    /// # Errors
    /// [`NoteError::Name`] when the name is not 1 to 255 bytes without spaces, control characters and `+`.
    pub fn new(name: impl Into<String>, key: VerifyingKey) -> Result<Self, NoteError> {
        Ok(Self { name: checked_name(name.into())?, key })
    }

    /// Reads a vkey text; same as [`str::parse`].
    ///
    /// # Errors
    /// [`NoteError`] when the text is not exactly what `Display` writes for a usable key of type 4.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, key) = read_vkey(text, COSIGNATURE, "the key is not of type 4, Ed25519 cosignature")?;
        Ok(Self { name, key })
    }

    /// Key name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Public key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// First four bytes of SHA-256(name || 0x0A || 0x04 || public key).
    pub fn key_id(&self) -> [u8; 4] {
        key_id(&self.name, COSIGNATURE, &self.key)
    }

    /// Checks what follows the key id in a signature line: eight bytes of time and the signature over `body`.
    pub(crate) fn verify(&self, body: &str, timed: &[u8]) -> Result<Cosignature, NoteError> {
        let refused = || NoteError::BadSignature { name: self.name.clone() };
        let (seconds, signature) = timed.split_first_chunk::<TIME_BYTES>().ok_or_else(refused)?;
        let seconds = u64::from_be_bytes(*seconds);
        self.key.verify(message(seconds, body).as_bytes(), signature).map_err(|_| refused())?;
        // Zero would say nothing about the time, and a time that no calendar holds would pass for "after everything".
        let time = seconds.checked_mul(1000).map(Timestamp::from_millis);
        match time {
            Some(time) if seconds != 0 && time <= Timestamp::MAX => {
                Ok(Cosignature { name: self.name.clone(), time })
            }
            _ => Err(NoteError::CosignatureTime { name: self.name.clone() }),
        }
    }
}

impl fmt::Display for WitnessVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_vkey(f, &self.name, COSIGNATURE, &self.key)
    }
}

impl FromStr for WitnessVerifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        Self::parse(text)
    }
}

/// Cosigns checkpoints of other logs with this node's witness key, which signs nothing else.
#[derive(Clone, Debug)]
pub struct Cosigner {
    verifier: WitnessVerifier,
    key: SigningKey,
}

impl Cosigner {
    /// A cosigner with that name and key.
    ///
    /// # Errors
    /// [`NoteError::Name`], as for [`WitnessVerifier::new`].
    pub fn new(name: impl Into<String>, key: SigningKey) -> Result<Self, NoteError> {
        Ok(Self { verifier: WitnessVerifier::new(name, key.verifying_key())?, key })
    }

    /// What others check this node's cosignatures with.
    pub fn verifier(&self) -> &WitnessVerifier {
        &self.verifier
    }

    /// The signature line, without newline, that says: at `now` this is the largest consistent checkpoint seen.
    ///
    /// Whether that is true is the caller's business; see [`crate::add_checkpoint`]. The time is cut to whole
    /// seconds; a clock before 1970-01-01T00:00:01Z signs that second, because zero is not a time.
    pub fn cosign(&self, checkpoint: &Checkpoint, now: Timestamp) -> String {
        let seconds = (now.min(Timestamp::MAX).millis() / 1000).max(1);
        let mut timed = seconds.to_be_bytes().to_vec();
        timed.extend_from_slice(&self.key.sign(message(seconds, &checkpoint.body()).as_bytes()));
        write_line(&self.verifier.name, self.verifier.key_id(), &timed)
    }
}

/// What a cosignature signs; `body` ends with a newline.
fn message(seconds: u64, body: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{body}")
}

#[cfg(test)]
#[path = "cosignature_tests.rs"]
mod tests;
