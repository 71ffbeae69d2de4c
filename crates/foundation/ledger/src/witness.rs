//! The witness role (见证) as C2SP tlog-witness 1.0.0 defines it: cosign a checkpoint of another log only if it extends
//! the one that was cosigned before.

use std::time::Duration;

use huitong_proof::{Digest, Timestamp};
use huitong_store::{Read, Table, Tx};

use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::cosignature::Cosigner;
use crate::error::LedgerError;
use crate::evidence::Evidence;
use crate::merkle::{MAX_PATH, empty_root, verify_consistency};
use crate::note::{LogVerifier, MAX_NOTE_BYTES, NoteError, hash_text, read_hash, read_number};

/// The longest add-checkpoint body that is read: the note, 63 proof lines, the line of the old size.
pub const MAX_ADD_CHECKPOINT_BYTES: usize = MAX_NOTE_BYTES + MAX_PATH * 45 + 32;
/// Content type of the answer to [`WitnessRefusal::Conflict`].
pub const SIZE_CONTENT_TYPE: &str = "text/x.tlog.size";

/// Origin -> the newest checkpoint this node cosigned, with the log's line and this node's.
const WITNESSED: Table = Table::new("ledger.witnessed");
/// Origin -> the size at which evidence of two roots was last kept: one pair says all, more would only fill the disk.
const CONTRADICTED: Table = Table::new("ledger.contradicted");

/// A request to a witness: please cosign this checkpoint, which extends the one of size `old` that you cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the checkpoint that the witness cosigned last, 0 if none.
    pub old: u64,
    /// Consistency proof from `old` to the checkpoint's size (RFC 9162 section 2.1.4.1), at most 63 hashes; empty when
    /// `old` is 0 or the size itself.
    pub proof: Vec<Digest>,
    /// The signed checkpoint, as text. It may carry lines of other keys.
    pub note: String,
}

impl AddCheckpoint {
    /// Reads the body of the request: `old <size>`, the proof lines, an empty line, the checkpoint.
    ///
    /// What the checkpoint says is looked at by [`add_checkpoint`].
    ///
    /// # Errors
    /// [`WitnessRefusal::Malformed`].
    pub fn parse(text: &str) -> Result<Self, WitnessRefusal> {
        let malformed = |why: &str| WitnessRefusal::Malformed { why: why.to_owned() };
        if text.len() > MAX_ADD_CHECKPOINT_BYTES {
            return Err(malformed("the request is too long"));
        }
        let (head, note) = text
            .split_once("\n\n")
            .ok_or_else(|| malformed("there is no empty line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .and_then(read_number)
            .ok_or_else(|| malformed("the first line is not \"old\" and a plain decimal size"))?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_PATH {
                return Err(malformed("there are more than 63 proof lines"));
            }
            proof.push(
                read_hash(line)
                    .ok_or_else(|| malformed("a proof line is not canonical base64 of 32 bytes"))?,
            );
        }
        Ok(Self { old, proof, note: note.to_owned() })
    }

    /// The body of the request, as [`AddCheckpoint::parse`] reads it.
    pub fn to_text(&self) -> String {
        let mut text = format!("old {}\n", self.old);
        for hash in &self.proof {
            text.push_str(&hash_text(hash));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.note);
        text
    }

    /// The log that the checkpoint claims to be of: where to look for its key, no more.
    pub fn origin(&self) -> &str {
        self.note.split('\n').next().unwrap_or_default()
    }
}

/// Why a witness does not cosign. A refusal is an answer of the protocol, not a failure of the witness.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessRefusal {
    /// The witness is not configured for this log.
    #[error("this witness does not know the log; ask its operator to witness it")]
    UnknownOrigin,
    /// The log's key signed nothing here, or its line is false.
    #[error("the checkpoint is not signed by the log's trusted key: {why}")]
    NotSigned {
        /// What is wrong with the signature.
        why: String,
    },
    /// The request or its checkpoint cannot be read. Extension lines in a checkpoint are not read here.
    #[error("the request is malformed: {why}")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// The old size exceeds the checkpoint's.
    #[error("the old size is larger than the checkpoint's size; send the checkpoint of the larger size")]
    OldAboveNew,
    /// The old size is not the one this witness cosigned last.
    #[error("this witness has cosigned size {size}; send a consistency proof from there")]
    Conflict {
        /// Size that the witness cosigned last, 0 if none.
        size: u64,
    },
    /// The checkpoint does not extend the one that was cosigned.
    #[error("the checkpoint does not extend what this witness cosigned: {why}")]
    NotConsistent {
        /// What does not fit.
        why: String,
    },
    /// Too many requests for this log.
    #[error("too many requests for this log; try again in {} ms", retry_after.as_millis())]
    Rate {
        /// How long to wait.
        retry_after: Duration,
    },
}

impl WitnessRefusal {
    /// The HTTP status of the answer.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::UnknownOrigin => 404,
            Self::NotSigned { .. } => 403,
            Self::Malformed { .. } | Self::OldAboveNew => 400,
            Self::Conflict { .. } => 409,
            Self::NotConsistent { .. } => 422,
            Self::Rate { .. } => 429,
        }
    }

    /// The content type of [`WitnessRefusal::http_body`].
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => SIZE_CONTENT_TYPE,
            _ => "text/plain; charset=utf-8",
        }
    }

    /// The body of the answer: for a conflict the size and a newline, else the reason and a newline.
    pub fn http_body(&self) -> String {
        match self {
            Self::Conflict { size } => format!("{size}\n"),
            other => format!("{other}\n"),
        }
    }
}

/// Checks a checkpoint as a witness and cosigns it, all in `tx`: the answer may be sent once `tx` is durable.
///
/// `log` is the trusted key of the log that [`AddCheckpoint::origin`] names; the caller answers
/// [`WitnessRefusal::UnknownOrigin`] itself when it has none. The answer is one signature line without its newline.
///
/// The checks and their order are those of C2SP tlog-witness: the log's signature, old size not above the new one,
/// old size equal to the one cosigned last, consistency. A first request for a log has old size 0 and no proof; one
/// for the very checkpoint that was cosigned last gets a fresh cosignature. The time is never before the store's last
/// transaction. Texts of the specification differ about another root at the same size: here it is 422 like every
/// other inconsistency, since a 409 names a size to try again from.
///
/// A root that contradicts the cosigned one of the same size is kept as [`Evidence`], whatever the answer: so `tx`
/// must be committed with a refusal, too.
///
/// # Errors
/// Storage errors, and [`LedgerError::Note`] when the stored checkpoint cannot be read.
pub fn add_checkpoint(
    tx: &mut Tx<'_>,
    request: &AddCheckpoint,
    log: &LogVerifier,
    cosigner: &Cosigner,
    now: Timestamp,
) -> Result<Result<String, WitnessRefusal>, LedgerError> {
    if request.origin() != log.name() {
        return Ok(Err(WitnessRefusal::UnknownOrigin));
    }
    let offered = match SignedCheckpoint::parse(&request.note, log) {
        // Lines of others could fill this node's disk.
        Ok(signed) => signed.with_log_signature_only(),
        Err(refused) => return Ok(Err(refusal_of(&refused))),
    };
    let cosigned = witnessed(tx, log.name())?;
    if let Some(cosigned) = &cosigned {
        keep_contradiction(tx, cosigned, &offered)?;
    }
    if let Err(refused) = check(request, cosigned.as_ref().map(SignedCheckpoint::checkpoint), &offered) {
        return Ok(Err(refused));
    }

    let line = cosigner.cosign(offered.checkpoint(), now.max(Timestamp::from_millis(tx.time())));
    let signed = offered.with_lines(std::slice::from_ref(&line))?;
    tx.put(&WITNESSED, log.name().as_bytes(), signed.text().as_bytes())?;
    Ok(Ok(line))
}

/// The newest checkpoint of that log which this node cosigned, with the log's line and this node's.
///
/// # Errors
/// Storage errors, and [`LedgerError::Note`] when the stored checkpoint cannot be read.
pub fn witnessed(r: &impl Read, origin: &str) -> Result<Option<SignedCheckpoint>, LedgerError> {
    let Some(row) = r.get(&WITNESSED, origin.as_bytes())? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&row)
        .map_err(|_| LedgerError::Damaged { what: "a cosigned checkpoint is not text" })?;
    Ok(Some(SignedCheckpoint::stored(text)?))
}

fn refusal_of(refused: &NoteError) -> WitnessRefusal {
    let why = refused.to_string();
    match refused {
        NoteError::NotSigned { .. } | NoteError::BadSignature { .. } => WitnessRefusal::NotSigned { why },
        _ => WitnessRefusal::Malformed { why },
    }
}

/// What the specification checks once the log's signature is known to be good.
fn check(
    request: &AddCheckpoint,
    cosigned: Option<&Checkpoint>,
    offered: &SignedCheckpoint,
) -> Result<(), WitnessRefusal> {
    let not_consistent = |why: &str| Err(WitnessRefusal::NotConsistent { why: why.to_owned() });
    let Checkpoint { size, root, .. } = offered.checkpoint();
    let cosigned_size = cosigned.map_or(0, |cosigned| cosigned.size);
    if request.old > *size {
        return Err(WitnessRefusal::OldAboveNew);
    }
    if request.old != cosigned_size {
        return Err(WitnessRefusal::Conflict { size: cosigned_size });
    }
    if *size == 0 && *root != empty_root() {
        return not_consistent("the root of an empty log is not that of the empty tree");
    }
    match cosigned {
        // Any log extends the empty one. `verify_consistency` refuses that size, since for others it proves nothing.
        Some(Checkpoint { size: 0, .. }) | None if request.proof.is_empty() => Ok(()),
        Some(Checkpoint { size: 0, .. }) | None => not_consistent("from size 0 the proof must be empty"),
        Some(cosigned) => {
            let Checkpoint { size: old, root: old_root, .. } = cosigned;
            verify_consistency(*old, old_root, *size, root, &request.proof)
                .map_err(|refused| WitnessRefusal::NotConsistent { why: refused.to_string() })
        }
    }
}

/// Two roots at one size under the log's own signature need no further proof. (A false path proves nothing: anybody
/// may have sent it.)
fn keep_contradiction(
    tx: &mut Tx<'_>,
    cosigned: &SignedCheckpoint,
    offered: &SignedCheckpoint,
) -> Result<(), LedgerError> {
    let (kept, refused) = (cosigned.checkpoint(), offered.checkpoint());
    if kept.size != refused.size || kept.root == refused.root {
        return Ok(());
    }
    let (origin, size) = (kept.origin.as_bytes(), kept.size.to_be_bytes());
    if tx.get(&CONTRADICTED, origin)?.is_some_and(|at| at == size) {
        return Ok(());
    }
    let evidence = Evidence::Checkpoints {
        kept: cosigned.with_log_signature_only().text().to_owned(),
        refused: offered.text().to_owned(),
    };
    evidence.keep(tx)?;
    tx.put(&CONTRADICTED, origin, &size)?;
    Ok(())
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
