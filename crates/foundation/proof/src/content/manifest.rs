//! The list of a dataset's files.

use std::collections::HashSet;

use unicase::UniCase;

use crate::cbor::{self, CborError, Limits, Value};
use crate::content::ContentRoot;

/// The most files in a dataset.
pub const MAX_FILES: usize = 100_000;
/// The most bytes in an encoded manifest.
pub const MAX_MANIFEST_BYTES: usize = 16 << 20;
/// The longest path, in bytes.
const MAX_PATH_BYTES: usize = 1024;
/// The most names in a path.
const MAX_DEPTH: usize = 32;
/// The longest name of a file or directory, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The most bytes in all files together: none of our arithmetic comes near an overflow.
const MAX_SIZE: u64 = 1 << 60;

/// One file of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    /// Where it lies in the dataset: names joined by `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 hash.
    pub root: ContentRoot,
}

/// The files of a dataset in the order of their paths' bytes; at least one. Its encoding is the strict CBOR array of
/// `[path, size, root]`, and the BLAKE3 hash of that is the dataset's root.
///
/// Any manifest can be written to a directory that was empty: no path leaves it, and no two files get in each other's
/// way, not even on a file system that ignores case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<ManifestEntry>,
    encoded: Vec<u8>,
}

impl Manifest {
    /// Sorts and checks the files.
    ///
    /// # Errors
    /// What makes a manifest unfit; see [`ManifestError`].
    pub fn new(mut entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        entries.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        check(&entries)?;
        let items = entries.iter().map(|entry| {
            Value::Array(vec![
                Value::Text(entry.path.clone()),
                Value::Uint(entry.size),
                Value::Bytes(entry.root.as_bytes().to_vec()),
            ])
        });
        let encoded = cbor::encode(&Value::Array(items.collect()));
        if encoded.len() > MAX_MANIFEST_BYTES {
            let (size, limit) = (encoded.len(), MAX_MANIFEST_BYTES);
            return Err(CborError::TooLarge { size, limit }.into());
        }
        Ok(Self { entries, encoded })
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// Anything that [`Manifest::encoded`] would not have given.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let items = cbor::items(bytes, Limits { bytes: MAX_MANIFEST_BYTES, depth: 2 })?;
        if items.left() > MAX_FILES as u64 {
            return Err(ManifestError::Files);
        }
        let mut entries: Vec<ManifestEntry> = Vec::new();
        for (item, number) in items.zip(1..) {
            let Value::Array(fields) = item? else { return Err(ManifestError::Shape { number }) };
            let Ok([Value::Text(path), Value::Uint(size), Value::Bytes(root)]) =
                <[Value; 3]>::try_from(fields)
            else {
                return Err(ManifestError::Shape { number });
            };
            let root = ContentRoot::from_slice(&root).ok_or(ManifestError::Shape { number })?;
            if entries.last().is_some_and(|last| last.path.as_bytes() >= path.as_bytes()) {
                return Err(ManifestError::Order { number });
            }
            entries.push(ManifestEntry { path, size, root });
        }
        check(&entries)?;
        Ok(Self { entries, encoded: bytes.to_vec() })
    }

    /// The files.
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// The encoding.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The root of the dataset.
    pub fn root(&self) -> ContentRoot {
        ContentRoot::from_bytes(*blake3::hash(&self.encoded).as_bytes())
    }
}

/// Why files do not make a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are not strict CBOR, or too many.
    #[error("manifest: {0}")]
    Cbor(#[from] CborError),
    /// An entry is not `[path, size, root]`.
    #[error("manifest: entry {number} is not a path, a size and a root")]
    Shape {
        /// Which entry, from 1.
        number: u64,
    },
    /// An entry does not follow its predecessor in the order of the paths.
    #[error("manifest: entry {number} is repeated or out of order")]
    Order {
        /// Which entry, from 1.
        number: u64,
    },
    /// None, or too many.
    #[error("a dataset has 1 to {MAX_FILES} files")]
    Files,
    /// Too many bytes in all files together.
    #[error("the files of a dataset have at most 2^60 bytes together")]
    Size,
    /// A path that may not be.
    #[error("file {path:?}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two files that cannot lie in one directory everywhere.
    #[error("files {path:?} and {other:?} get in each other's way where file names ignore case")]
    Collision {
        /// The one.
        path: String,
        /// The other.
        other: String,
    },
}

/// Whether a text is a plain name of a file or directory on every file system that we write to.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err("a name has 1 to 255 bytes");
    }
    if name == "." || name == ".." {
        return Err("`.` and `..` name directories");
    }
    if name.contains(['/', '\\']) {
        return Err("`/` and `\\` separate directories; expected a plain name");
    }
    if name.chars().any(char::is_control) {
        return Err("control characters may not appear in a name");
    }
    Ok(())
}

fn check(entries: &[ManifestEntry]) -> Result<(), ManifestError> {
    if entries.is_empty() || entries.len() > MAX_FILES {
        return Err(ManifestError::Files);
    }
    let mut size = 0u64;
    let mut folded = Vec::with_capacity(entries.len());
    for ManifestEntry { path, size: bytes, .. } in entries {
        check_path(path).map_err(|reason| ManifestError::Path { path: path.clone(), reason })?;
        size = size.checked_add(*bytes).filter(|size| *size <= MAX_SIZE).ok_or(ManifestError::Size)?;
        folded.push(UniCase::unicode(path).to_folded_case());
    }
    let mut files = HashSet::with_capacity(folded.len());
    let twice = folded.iter().position(|path| !files.insert(path.as_str()));
    let below = || {
        // A file where another one's directory has to be.
        folded.iter().enumerate().find_map(|(at, path)| {
            let inner = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
            inner.into_iter().find(|directory| files.contains(directory)).map(|file| (at, file))
        })
    };
    let found = match twice {
        Some(at) => folded.get(at).map(|path| (at, path.as_str())),
        None => below(),
    };
    let Some((at, in_the_way)) = found else { return Ok(()) };
    let name = |at: Option<usize>| at.and_then(|at| entries.get(at)).map(|entry| entry.path.clone());
    let other = folded.iter().position(|path| path == in_the_way);
    Err(ManifestError::Collision {
        path: name(Some(at)).unwrap_or_default(),
        other: name(other).unwrap_or_default(),
    })
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("a path has at most 1024 bytes");
    }
    if path.split('/').count() > MAX_DEPTH {
        return Err("a path has at most 32 names");
    }
    // What statements carry as text is in this form, and names that only look alike are a trap.
    if !unicode_normalization::is_nfc(path) {
        return Err("a path is in Unicode NFC; rename the file");
    }
    path.split('/').try_for_each(check_name)
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
