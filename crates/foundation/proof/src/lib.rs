//! Who said what, and when: the proof layer under everything a node signs, stores or moves.
//!
//! This crate owns the signature suites and keys, digests, strict deterministic CBOR, signed statements, the content
//! tree whose root `b3sum` prints, and the only two sources of time and randomness ([`Clock`], [`Entropy`]).
//! It refuses to know what a statement means: which kinds may follow each other, who may sign them, where they are
//! stored and how they travel are decided above. It reads no configuration and opens no socket; of the file system it
//! knows private key files and the dataset file that it hashes.

pub mod cbor;
pub mod content;
pub mod digest;
pub mod entropy;
pub mod file_digests;
pub mod key;
pub mod key_file;
pub mod statement;
pub mod time;

pub use cbor::{CborError, FieldError, Fields, Limits, Map, Value};
pub use content::{
    Content, ContentError, ContentRoot, GROUP_BYTES, GROUP_LOG2, GroupPlace, LeafValue, MAX_FILES,
    MAX_GROUPS, MAX_MANIFEST_BYTES, Manifest, ManifestEntry, ManifestError, check_name, group_count,
};
pub use digest::{Digest, HexError};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy, id_text, random, time_ordered_id};
pub use file_digests::{DigestsInOrder, FileDigests, WantedDigests};
pub use key::{KeyError, SigningKey, Suite, VerifyingKey};
pub use key_file::KeyFileError;
pub use statement::{
    Anchor, Body, ChannelHead, Draft, Envelope, Kind, Signing, SpaceId, Statement, StatementError,
};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
