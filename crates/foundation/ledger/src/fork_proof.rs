//! Fork proofs: files that show any third party, offline, that a log or an issuer signed two things that exclude each
//! other.
//!
//! # Format `huitong/fork-proof/v1`
//! UTF-8 text, every line ends with a newline, one way to write each proof. Base64 is that of RFC 4648 section 4.
//! ```text
//! huitong/fork-proof/v1
//! form checkpoints | entry | statements
//! credential <base64 of the signer's CREDENTIAL statement>     optional
//! ```
//! then for `checkpoints` (two roots at one size) and `entry` (two entries at one index):
//! ```text
//! log <vkey of the log>
//! index <index>                                                only entry, as are the next four
//! leaf a <base64 of the leaf hash under checkpoint a>
//! path a <base64 of a hash>                                    0 to 63 lines, the leaf's sibling first
//! leaf b <base64 of the leaf hash under checkpoint b>
//! path b <base64 of a hash>                                    0 to 63 lines
//!
//! <checkpoint a: C2SP signed note with the log's signature line only>
//!
//! <checkpoint b, likewise>
//! ```
//! and for `statements` (two statements for one number on one channel, or a broken link between neighbours):
//! ```text
//! key <base64 of the issuer's Ed25519 statement key>
//! space <space id, 64 hexadecimal digits>
//! statement a <base64 of the statement>
//! statement b <base64 of the statement>
//! ```
//! Whose key it is says the credential, which a registrar signed: checking that needs the reader's own trust in the
//! registrar and is not the business of [`ForkProof::verify`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use huitong_proof::{Digest, Envelope, KeyError, SpaceId, Statement, StatementError, VerifyingKey};

use crate::checkpoint::SignedCheckpoint;
use crate::merkle::{MAX_PATH, ProofError, verify_inclusion};
use crate::note::{LogVerifier, Note, NoteError, hash_text, read_hash, read_number};

/// The longest fork proof that is read: three statements in base64, or two checkpoints with two paths.
pub const MAX_FORK_PROOF_BYTES: usize = 96 * 1024;

const HEADER: &str = "huitong/fork-proof/v1";
/// A statement is never longer.
const MAX_STATEMENT_BYTES: usize = 16 * 1024;

/// Two signed texts that exclude each other, with all that somebody needs to see it who trusts nobody in the matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForkProof {
    /// Two checkpoints of one log with one size and different roots.
    Checkpoints {
        /// Key of the log.
        log: LogVerifier,
        /// Text of one checkpoint, with the log's signature line only.
        a: String,
        /// Text of the other checkpoint, likewise.
        b: String,
        /// The signer's CREDENTIAL statement, which binds the key to a node.
        credential: Option<Vec<u8>>,
    },
    /// Two checkpoints of one log, of any sizes, that hold different entries at one index.
    Entry {
        /// Key of the log.
        log: LogVerifier,
        /// Text of one checkpoint, with the log's signature line only.
        a: String,
        /// Text of the other checkpoint, likewise.
        b: String,
        /// Index of the entry, from 0.
        index: u64,
        /// What stands there under checkpoint `a`.
        in_a: ProvenLeaf,
        /// What stands there under checkpoint `b`.
        in_b: ProvenLeaf,
        /// The signer's CREDENTIAL statement, which binds the key to a node.
        credential: Option<Vec<u8>>,
    },
    /// Two statements of one issuer on one channel: for the same number, or neighbours of which the later does not
    /// name the earlier as its predecessor.
    Statements {
        /// The issuer's statement key.
        key: VerifyingKey,
        /// The data space of both statements.
        space: SpaceId,
        /// Bytes of one statement.
        a: Vec<u8>,
        /// Bytes of the other statement.
        b: Vec<u8>,
        /// The signer's CREDENTIAL statement, which binds the key to a node.
        credential: Option<Vec<u8>>,
    },
}

/// A leaf and its path to a checkpoint's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenLeaf {
    /// Leaf hash: SHA-256(0x00 || entry).
    pub leaf: Digest,
    /// Sibling hashes, the leaf's sibling first.
    pub path: Vec<Digest>,
}

/// Why a fork proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForkProofError {
    /// The text does not have the format.
    #[error("the fork proof is malformed: {why}; get the file again from whoever made it")]
    Malformed {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A checkpoint or the log's key is refused.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The statement key is refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A statement is malformed or not signed by the key.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// A path does not lead from its leaf to its checkpoint.
    #[error("under checkpoint {which} the leaf is not proved: {cause}")]
    Inclusion {
        /// `a` or `b`.
        which: char,
        /// What is wrong with the path.
        cause: ProofError,
    },
    /// Both signed texts may stand beside each other.
    #[error("both signatures are good, but nothing excludes the other: {why}")]
    NoContradiction {
        /// Why one party may sign both.
        why: &'static str,
    },
}

impl ForkProof {
    /// Of two checkpoints; lines other than the log's are left out of the proof.
    ///
    /// # Errors
    /// Those of [`ForkProof::verify`]: only what proves a fork is made.
    pub fn of_checkpoints(log: LogVerifier, a: &str, b: &str) -> Result<Self, ForkProofError> {
        let (a, b) = (own_line(a, &log)?, own_line(b, &log)?);
        Self::Checkpoints { log, a, b, credential: None }.verified()
    }

    /// Of two checkpoints that hold different leaves at one index; lines other than the log's are left out.
    ///
    /// # Errors
    /// Those of [`ForkProof::verify`]: only what proves a fork is made.
    pub fn of_entry(
        log: LogVerifier,
        index: u64,
        (a, in_a): (&str, ProvenLeaf),
        (b, in_b): (&str, ProvenLeaf),
    ) -> Result<Self, ForkProofError> {
        let (a, b) = (own_line(a, &log)?, own_line(b, &log)?);
        Self::Entry { log, a, b, index, in_a, in_b, credential: None }.verified()
    }

    /// Of two statements.
    ///
    /// # Errors
    /// Those of [`ForkProof::verify`]: only what proves a fork is made.
    pub fn of_statements(
        key: VerifyingKey,
        space: SpaceId,
        a: &[u8],
        b: &[u8],
    ) -> Result<Self, ForkProofError> {
        Self::Statements { key, space, a: a.to_vec(), b: b.to_vec(), credential: None }.verified()
    }

    /// The same proof with the signer's CREDENTIAL statement, at most 16 KiB.
    #[must_use]
    pub fn with_credential(mut self, statement: Vec<u8>) -> Self {
        *self.credential_mut() = Some(statement);
        self
    }

    /// The signer's CREDENTIAL statement, if the proof carries it. Nothing about it has been verified.
    pub fn credential(&self) -> Option<&[u8]> {
        match self {
            Self::Checkpoints { credential, .. }
            | Self::Entry { credential, .. }
            | Self::Statements { credential, .. } => credential.as_deref(),
        }
    }

    /// Key of the log, if a log forked.
    pub fn log(&self) -> Option<&LogVerifier> {
        match self {
            Self::Checkpoints { log, .. } | Self::Entry { log, .. } => Some(log),
            Self::Statements { .. } => None,
        }
    }

    /// Offline: is this a fork? Returns one sentence that says who signed what twice.
    ///
    /// The keys are taken from the proof: that they are those of a certain node is shown by the credential or known
    /// to the reader.
    ///
    /// # Errors
    /// [`ForkProofError`] when a signature or path is false, or the two texts do not exclude each other.
    pub fn verify(&self) -> Result<String, ForkProofError> {
        match self {
            Self::Checkpoints { log, a, b, .. } => verify_checkpoints(log, a, b),
            Self::Entry { log, a, b, index, in_a, in_b, .. } => {
                verify_entries(log, *index, (a, in_a), (b, in_b))
            }
            Self::Statements { key, space, a, b, .. } => verify_statements(key, space, a, b),
        }
    }

    /// The proof file.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\nform {}\n", self.form());
        if let Some(credential) = self.credential() {
            line(&mut text, "credential", &STANDARD.encode(credential));
        }
        match self {
            Self::Checkpoints { log, a, b, .. } => {
                line(&mut text, "log", &log.to_string());
                text.push_str(&format!("\n{a}\n{b}"));
            }
            Self::Entry { log, a, b, index, in_a, in_b, .. } => {
                line(&mut text, "log", &log.to_string());
                line(&mut text, "index", &index.to_string());
                for (which, ProvenLeaf { leaf, path }) in [('a', in_a), ('b', in_b)] {
                    line(&mut text, &format!("leaf {which}"), &hash_text(leaf));
                    for hash in path {
                        line(&mut text, &format!("path {which}"), &hash_text(hash));
                    }
                }
                text.push_str(&format!("\n{a}\n{b}"));
            }
            Self::Statements { key, space, a, b, .. } => {
                line(&mut text, "key", &STANDARD.encode(key.as_bytes()));
                line(&mut text, "space", &space.to_string());
                line(&mut text, "statement a", &STANDARD.encode(a));
                line(&mut text, "statement b", &STANDARD.encode(b));
            }
        }
        text
    }

    /// Reads exactly what [`ForkProof::to_text`] writes; nothing is verified but the form.
    ///
    /// # Errors
    /// [`ForkProofError::Malformed`], and [`ForkProofError::Note`] or [`ForkProofError::Key`] when the key is refused.
    pub fn parse(text: &str) -> Result<Self, ForkProofError> {
        if text.len() > MAX_FORK_PROOF_BYTES {
            return Err(malformed("it is too long"));
        }
        // The one empty line after the head, if the form has checkpoints.
        let (head, checkpoints) = match text.split_once("\n\n") {
            Some((head, checkpoints)) => (head, Some(checkpoints)),
            None => (text.strip_suffix('\n').ok_or(malformed("it does not end with a newline"))?, None),
        };
        let mut lines = Lines { rest: head.split('\n').peekable() };
        if lines.rest.next() != Some(HEADER) {
            return Err(malformed("its first line is not huitong/fork-proof/v1"));
        }
        let form = lines.need("form", "it has no line that names its form")?;
        let credential = lines.take("credential").map(read_statement).transpose()?;
        let proof = match (form, checkpoints) {
            ("checkpoints", Some(checkpoints)) => {
                let log = lines.log()?;
                let (a, b) = split_checkpoints(checkpoints)?;
                Self::Checkpoints { log, a, b, credential }
            }
            ("entry", Some(checkpoints)) => {
                let log = lines.log()?;
                let index = lines.need("index", "it has no index")?;
                let index = read_number(index).ok_or(malformed("its index is not a plain decimal number"))?;
                let (in_a, in_b) = (lines.leaf("leaf a", "path a")?, lines.leaf("leaf b", "path b")?);
                let (a, b) = split_checkpoints(checkpoints)?;
                Self::Entry { log, a, b, index, in_a, in_b, credential }
            }
            ("statements", None) => {
                let key = lines.need("key", "it has no statement key")?;
                let key = STANDARD.decode(key).map_err(|_| malformed("its key is not canonical base64"))?;
                let space = lines.need("space", "it has no space id")?;
                let space = space.parse().map_err(|_| malformed("its space id is not 64 hex digits"))?;
                let a = read_statement(lines.need("statement a", "it has no statement a")?)?;
                let b = read_statement(lines.need("statement b", "it has no statement b")?)?;
                Self::Statements { key: VerifyingKey::from_bytes(&key)?, space, a, b, credential }
            }
            _ => return Err(malformed("its form is unknown, or has checkpoints where none belong")),
        };
        match lines.rest.next() {
            None => Ok(proof),
            Some(_) => Err(malformed("it has a line that does not belong there")),
        }
    }

    fn verified(self) -> Result<Self, ForkProofError> {
        self.verify().map(|_| self)
    }

    fn form(&self) -> &'static str {
        match self {
            Self::Checkpoints { .. } => "checkpoints",
            Self::Entry { .. } => "entry",
            Self::Statements { .. } => "statements",
        }
    }

    fn credential_mut(&mut self) -> &mut Option<Vec<u8>> {
        match self {
            Self::Checkpoints { credential, .. }
            | Self::Entry { credential, .. }
            | Self::Statements { credential, .. } => credential,
        }
    }
}

fn verify_checkpoints(log: &LogVerifier, a: &str, b: &str) -> Result<String, ForkProofError> {
    let (a, b) = (SignedCheckpoint::parse_exact(a, log)?, SignedCheckpoint::parse_exact(b, log)?);
    let (a, b) = (a.checkpoint(), b.checkpoint());
    if a.size != b.size {
        return Err(no_contradiction("the checkpoints have different sizes"));
    }
    if a.root == b.root {
        return Err(no_contradiction("the checkpoints have the same root"));
    }
    Ok(format!("log {} signed two roots for size {}: {} and {}", log.name(), a.size, a.root, b.root))
}

fn verify_entries(
    log: &LogVerifier,
    index: u64,
    a: (&str, &ProvenLeaf),
    b: (&str, &ProvenLeaf),
) -> Result<String, ForkProofError> {
    let size_of = |which: char, (text, proven): (&str, &ProvenLeaf)| {
        let signed = SignedCheckpoint::parse_exact(text, log)?;
        let checkpoint = signed.checkpoint();
        verify_inclusion(&proven.leaf, index, checkpoint.size, &proven.path, &checkpoint.root)
            .map_err(|cause| ForkProofError::Inclusion { which, cause })?;
        Ok::<u64, ForkProofError>(checkpoint.size)
    };
    let (size_a, size_b) = (size_of('a', a)?, size_of('b', b)?);
    let (leaf_a, leaf_b) = (a.1.leaf, b.1.leaf);
    if leaf_a == leaf_b {
        return Err(no_contradiction("both checkpoints hold the same entry at this index"));
    }
    Ok(format!(
        "log {} signed two histories: at index {index} size {size_a} holds the leaf {leaf_a}, size {size_b} the leaf \
         {leaf_b}",
        log.name()
    ))
}

fn verify_statements(
    key: &VerifyingKey,
    space: &SpaceId,
    a: &[u8],
    b: &[u8],
) -> Result<String, ForkProofError> {
    let read = |bytes: &[u8]| Envelope::decode(bytes.to_vec())?.verify(key, space);
    let (a, b) = (read(a)?, read(b)?);
    let (earlier, later) = if a.body().seq <= b.body().seq { (&a, &b) } else { (&b, &a) };
    let (first, second) = (earlier.body(), later.body());
    if first.issuer != second.issuer || first.audience != second.audience {
        return Err(no_contradiction("the statements are on different channels"));
    }
    let said = |what: String| {
        format!("{} signed {what} to {}: {} and {}", first.issuer, first.audience, a.digest(), b.digest())
    };
    if first.seq == second.seq {
        if a.digest() == b.digest() {
            return Err(no_contradiction("it is the same statement twice"));
        }
        return Ok(said(format!("two statements with number {}", first.seq)));
    }
    if first.seq.checked_add(1) != Some(second.seq) {
        return Err(no_contradiction("the statements are not neighbours on their channel"));
    }
    if names_as_previous(later, earlier) {
        return Err(no_contradiction("the later statement names the earlier as its predecessor"));
    }
    Ok(said(format!(
        "statement {} although it does not follow the statement {} that it signed",
        second.seq, first.seq
    )))
}

fn names_as_previous(later: &Statement, earlier: &Statement) -> bool {
    later.body().prev == earlier.digest()
}

/// The checkpoint's text with the log's line only.
fn own_line(text: &str, log: &LogVerifier) -> Result<String, NoteError> {
    Ok(SignedCheckpoint::parse(text, log)?.with_log_signature_only().text().to_owned())
}

/// Each checkpoint is body, empty line, one signature line: so the second of three empty lines lies between the two.
fn split_checkpoints(text: &str) -> Result<(String, String), ForkProofError> {
    let parts: Vec<&str> = text.split("\n\n").collect();
    let [body_a, line_a, body_b, line_b] = parts.as_slice() else {
        return Err(malformed("it does not hold two checkpoints"));
    };
    let (a, b) = (format!("{body_a}\n\n{line_a}\n"), format!("{body_b}\n\n{line_b}"));
    Note::split(&a, 1)?;
    Note::split(&b, 1)?;
    Ok((a, b))
}

fn read_statement(encoded: &str) -> Result<Vec<u8>, ForkProofError> {
    match STANDARD.decode(encoded) {
        Ok(bytes) if !bytes.is_empty() && bytes.len() <= MAX_STATEMENT_BYTES => Ok(bytes),
        _ => Err(malformed("a statement is not canonical base64 of 1 byte to 16 KiB")),
    }
}

fn line(text: &mut String, keyword: &str, value: &str) {
    text.push_str(keyword);
    text.push(' ');
    text.push_str(value);
    text.push('\n');
}

fn malformed(why: &'static str) -> ForkProofError {
    ForkProofError::Malformed { why }
}

fn no_contradiction(why: &'static str) -> ForkProofError {
    ForkProofError::NoContradiction { why }
}

/// The head's lines, each a keyword and a value.
struct Lines<'a, I: Iterator<Item = &'a str>> {
    rest: std::iter::Peekable<I>,
}

impl<'a, I: Iterator<Item = &'a str>> Lines<'a, I> {
    /// The value of the next line if it has that keyword.
    fn take(&mut self, keyword: &str) -> Option<&'a str> {
        let value = self.rest.peek()?.strip_prefix(keyword)?.strip_prefix(' ')?;
        self.rest.next();
        Some(value)
    }

    fn need(&mut self, keyword: &str, why: &'static str) -> Result<&'a str, ForkProofError> {
        self.take(keyword).ok_or(malformed(why))
    }

    fn log(&mut self) -> Result<LogVerifier, ForkProofError> {
        Ok(self.need("log", "it has no log key")?.parse()?)
    }

    fn leaf(&mut self, leaf: &str, path: &str) -> Result<ProvenLeaf, ForkProofError> {
        let not_a_hash = malformed("a hash is not canonical base64 of 32 bytes");
        let leaf = self.need(leaf, "it has no leaf for one of the checkpoints")?;
        let leaf = read_hash(leaf).ok_or_else(|| not_a_hash.clone())?;
        let mut hashes = Vec::new();
        while let Some(hash) = self.take(path) {
            if hashes.len() == MAX_PATH {
                return Err(malformed("a path has more than 63 hashes"));
            }
            hashes.push(read_hash(hash).ok_or_else(|| not_a_hash.clone())?);
        }
        Ok(ProvenLeaf { leaf, path: hashes })
    }
}

#[cfg(test)]
#[path = "fork_proof_tests.rs"]
mod tests;
