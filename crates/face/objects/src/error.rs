//! What can go wrong with an object, in words for an operator.

use std::io;
use std::path::{Path, PathBuf};

use crate::Location;

/// Why an object was not listed, read or put. Every message names the object, the cause and the next step; none has a
/// secret key or the query of a URL in it, which may be one.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// A value of the caller or of the configuration is not acceptable.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which value.
        field: &'static str,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Nobody said how to reach the bucket.
    #[error("{bucket}: no bucket of this name is configured; add it to the node's configuration")]
    NotConfigured {
        /// Its name.
        bucket: String,
    },
    /// The server wants other credentials (401), or these may not do this (403).
    #[error(
        "{object}: access denied ({reason}); check the access key, its permissions and the machine's clock"
    )]
    Denied {
        /// The URL.
        object: String,
        /// What the server says.
        reason: String,
    },
    /// The object is not there, or its bucket is not.
    #[error("{object}: not found ({reason}); check the name")]
    NotFound {
        /// The URL.
        object: String,
        /// What the server says.
        reason: String,
        /// Whether the server says itself that it has no such key. Any other 404 may come from what stands in front of it, or
        /// from a bucket that is away.
        is_certain: bool,
    },
    /// The object is not the one any more that was listed; nothing of the other one was taken.
    #[error("{object}: has changed since it was listed ({reason}); publish it again as a new product")]
    Changed {
        /// The URL.
        object: String,
        /// What differs.
        reason: String,
    },
    /// There is an object of this name, and it is not what this upload put there; it was left alone.
    #[error("{object}: exists already and is not replaced; choose another name or remove it")]
    Exists {
        /// The URL.
        object: String,
    },
    /// The server no longer knows the upload: it was aborted, or it expired.
    #[error("{object}: the server no longer knows the upload; begin it again")]
    UploadLost {
        /// The URL.
        object: String,
    },
    /// The server did not answer, broke off, or said that it cannot at the moment, as often as it was asked.
    #[error("{object}: the server is unavailable ({reason}); try again later")]
    Unavailable {
        /// The URL.
        object: String,
        /// What happened the last time.
        reason: String,
    },
    /// The server answers, and the answer is of no use.
    #[error("{object}: {reason}")]
    Unusable {
        /// The URL.
        object: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A prefix has more keys than the caller takes.
    #[error("{object}: more than {most} objects; name a narrower prefix")]
    TooMany {
        /// The URL.
        object: String,
        /// How many there may be.
        most: usize,
    },
    /// The local file cannot be read, or is not the one that the upload was begun for.
    #[error("{}: cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ObjectError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    pub(crate) fn denied(at: &Location, reason: impl Into<String>) -> Self {
        Self::Denied { object: at.shown(), reason: reason.into() }
    }

    pub(crate) fn not_found(at: &Location, reason: impl Into<String>) -> Self {
        Self::NotFound { object: at.shown(), reason: reason.into(), is_certain: false }
    }

    pub(crate) fn changed(at: &Location, reason: impl Into<String>) -> Self {
        Self::Changed { object: at.shown(), reason: reason.into() }
    }

    pub(crate) fn exists(at: &Location) -> Self {
        Self::Exists { object: at.shown() }
    }

    pub(crate) fn unusable(at: &Location, reason: impl Into<String>) -> Self {
        Self::Unusable { object: at.shown(), reason: reason.into() }
    }

    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// Why one request came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is worth another try.
    Again(String),
    /// It would fail again.
    Final(ObjectError),
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        Self::Final(error)
    }
}
