//! Where the bytes of a product lie, and whether they still are what was published.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use huitong_identity::ServiceError;
use huitong_proof::{Content, ContentRoot, Digest, MAX_FILES};

use super::nfc;
use super::record::{FileName, RecordError};

/// Where the bytes of a product lie, and how they looked when their root was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Canonical path of a regular file, or of the directory of a dataset.
    pub path: PathBuf,
    /// Bytes in all files.
    pub size: u64,
    /// What the content tree's root is.
    pub root: ContentRoot,
    /// How many files the dataset has; `None` for a product that is one file.
    pub files: Option<u64>,
    /// SHA-256 of the sizes and modification times of all files.
    pub stamp: Digest,
}

impl Source {
    /// Looks for the files of the content, which is this source's, and whether they still are what was published by
    /// size and modification time; blocks on the file system. The bytes themselves are verified group by group by who
    /// receives them.
    ///
    /// # Errors
    /// `Invalid` when a file is missing or not a regular one, `Conflict` when one has changed. Files that the manifest
    /// does not name are nobody's business.
    pub fn open(&self, content: &Content) -> Result<Vec<SourceFile>, ServiceError> {
        let files = match content.manifest() {
            None => vec![SourceFile::look(self.path.clone())?],
            Some(manifest) => {
                let path = |entry: &huitong_proof::ManifestEntry| self.path.join(&entry.path);
                manifest
                    .entries()
                    .iter()
                    .map(|entry| SourceFile::look(path(entry)))
                    .collect::<Result<Vec<_>, _>>()?
            }
        };
        if stamp(&files) == self.stamp {
            return Ok(files);
        }
        Err(changed(&self.path))
    }
}

/// One file of a source, as it looked when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970-01-01T00:00:00Z; 0 for anything earlier.
    modified: u64,
}

impl SourceFile {
    pub(crate) fn look(path: PathBuf) -> Result<Self, ServiceError> {
        let metadata = regular_file(&path)?;
        Ok(Self { size: metadata.len(), modified: modified_nanos(&metadata), path })
    }

    /// Looks whether the file is what it was; blocks on the file system.
    ///
    /// # Errors
    /// `Invalid` when it is missing or no regular file, `Conflict` when it has changed.
    pub fn check_unchanged(&self) -> Result<(), ServiceError> {
        if Self::look(self.path.clone())? == *self { Ok(()) } else { Err(changed(&self.path)) }
    }
}

fn changed(path: &Path) -> ServiceError {
    let path = path.display();
    ServiceError::Conflict {
        reason: format!("{path} has changed since it was published; publish it again as a new product"),
    }
}

/// Tells the same files in another state apart.
pub(crate) fn stamp(files: &[SourceFile]) -> Digest {
    let mut states = Vec::with_capacity(files.len().saturating_mul(16));
    for file in files {
        states.extend_from_slice(&file.size.to_be_bytes());
        states.extend_from_slice(&file.modified.to_be_bytes());
    }
    Digest::sha256(&states)
}

/// The files of a directory, and where each lies in it, in the order in which a manifest has them.
///
/// # Errors
/// `Invalid` when it holds anything but regular files and directories, a name that is not UTF-8, no file at all, or too
/// many.
pub(crate) fn walk(directory: &Path) -> Result<Vec<(String, PathBuf)>, ServiceError> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        ServiceError::invalid("file", format!("{} cannot be read: {error}", path.display()))
    };
    let mut files = Vec::new();
    let mut waiting = vec![(String::new(), directory.to_owned())];
    while let Some((inside, path)) = waiting.pop() {
        for entry in fs::read_dir(&path).map_err(|error| unreadable(&path, &error))? {
            let entry = entry.map_err(|error| unreadable(&path, &error))?;
            let (path, shown) = (entry.path(), entry.path().display().to_string());
            let name = entry.file_name().into_string().map_err(|_| {
                ServiceError::invalid("file", format!("{shown}: a name must be UTF-8; rename it"))
            })?;
            let inside = if inside.is_empty() { name } else { format!("{inside}/{name}") };
            let kind = entry.file_type().map_err(|error| unreadable(&path, &error))?;
            if kind.is_dir() {
                waiting.push((inside, path));
            } else if kind.is_file() {
                files.push((inside, path));
            } else {
                let expected = "a dataset holds regular files and directories only; move it elsewhere";
                return Err(ServiceError::invalid("file", format!("{shown}: {expected}")));
            }
            if files.len().saturating_add(waiting.len()) > MAX_FILES {
                let reason = format!("{}: more than {MAX_FILES} files", directory.display());
                return Err(ServiceError::invalid("file", reason));
            }
        }
    }
    if files.is_empty() {
        let reason = format!("{} is a directory without files", directory.display());
        return Err(ServiceError::invalid("file", reason));
    }
    files.sort_by(|(left, _), (right, _)| left.as_bytes().cmp(right.as_bytes()));
    Ok(files)
}

/// The metadata of a regular file; anything else, a symbolic link among them, is an input error.
fn regular_file(path: &Path) -> Result<Metadata, ServiceError> {
    let shown = path.display();
    let metadata = fs::symlink_metadata(path)
        .map_err(|error| ServiceError::invalid("file", format!("{shown} cannot be read: {error}")))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    Err(ServiceError::invalid("file", format!("{shown} is not a regular file")))
}

/// Nanoseconds since 1970; 0 for anything earlier or beyond the year 2554.
fn modified_nanos(metadata: &Metadata) -> u64 {
    let seconds = i128::from(metadata.mtime());
    let nanos = seconds.saturating_mul(1_000_000_000).saturating_add(i128::from(metadata.mtime_nsec()));
    u64::try_from(nanos).unwrap_or(0)
}

/// The name under which consumers will save the file or directory.
pub(crate) fn file_name_of(path: &Path) -> Result<FileName, RecordError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| RecordError::value("file", "the name must be UTF-8, and no `..`; rename it"))?;
    FileName::parse(&nfc(name))
}
