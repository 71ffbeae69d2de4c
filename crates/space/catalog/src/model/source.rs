//! Where the bytes of a product lie, and whether they still are what was published.

use std::borrow::Cow;
use std::fs::{self, Metadata};
use std::future::pending;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use huitong_identity::ServiceError;
use huitong_proof::{Content, ContentRoot, Digest, MAX_FILES, Manifest};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::nfc;
use super::record::{FileName, RecordError};
use crate::peer::{Elsewhere, RemoteFile, RemoteReader};

/// Where the bytes of a product lie, and how they looked when their root was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where its file, or the files of the dataset, lie.
    pub place: Place,
    /// Bytes in all files.
    pub size: u64,
    /// What the content tree's root is.
    pub root: ContentRoot,
    /// How many files the dataset has; `None` for a product that is one file.
    pub files: Option<u64>,
    /// SHA-256 of the sizes and versions of all files.
    pub stamp: Digest,
    /// SHA-256 of what tells that nobody has touched them at all: device, inode and time of the last change of any kind. Zeros for
    /// what lies elsewhere.
    pub seal: Digest,
}

/// The files of a source, as they were when it was opened.
#[derive(Debug, Clone)]
pub struct OpenSource {
    /// In the order of the manifest.
    pub files: Vec<SourceFile>,
    /// They are the very files that were hashed, and nobody has touched them since. Otherwise, although sizes and versions are
    /// right, only their bytes tell whether they are what was published: nothing may leave without being compared.
    pub is_untouched: bool,
}

/// Where a product lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine: the canonical path of a regular file, or of the directory of a dataset.
    Here(PathBuf),
    /// Elsewhere: the URL of an object, or of all objects below a prefix, which make a dataset.
    Elsewhere(String),
}

impl Place {
    /// What an operator has named: something with a scheme, such as `s3://bucket/prefix/`, is a URL.
    pub fn named(path: &Path) -> Self {
        match path.to_str() {
            Some(url) if url.contains("://") => Self::Elsewhere(url.to_owned()),
            _ => Self::Here(path.to_owned()),
        }
    }

    /// Whether a URL names everything below a prefix, which makes a dataset.
    pub(crate) fn is_prefix(url: &str) -> bool {
        url.split('?').next().is_some_and(|path| path.ends_with('/'))
    }

    /// Its last segment: what consumers save it as.
    ///
    /// # Errors
    /// An input error when there is none, or none that is a file name.
    pub(crate) fn file_name(&self, elsewhere: Option<&Arc<dyn Elsewhere>>) -> Result<FileName, ServiceError> {
        let name = match self {
            Self::Here(path) => path.file_name().and_then(|name| name.to_str()).map(str::to_owned),
            Self::Elsewhere(url) => Some(reached(url, elsewhere)?.file_name(url)?),
        };
        let name =
            name.ok_or_else(|| RecordError::value("file", "the name must be UTF-8, and no `..`; rename it"))?;
        Ok(FileName::parse(&nfc(&name))?)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(path) => path.display().fmt(formatter),
            Self::Elsewhere(url) => formatter.write_str(&shown(url)),
        }
    }
}

/// A URL as it may stand in logs and errors: without its query, which may be a secret.
fn shown(url: &str) -> Cow<'_, str> {
    match url.split_once('?') {
        Some((path, _)) => format!("{path}?...").into(),
        None => url.into(),
    }
}

impl Source {
    /// Looks for the files of the content, which is this source's, and whether they still are what was published by
    /// size and version; blocks. The bytes themselves are verified group by group by who receives them.
    ///
    /// # Errors
    /// `Invalid` when a file is missing or not a regular one, `Conflict` when one has changed. Files that the manifest
    /// does not name are nobody's business.
    pub fn open(
        &self,
        content: &Content,
        elsewhere: Option<&Arc<dyn Elsewhere>>,
    ) -> Result<OpenSource, ServiceError> {
        let files = match (&self.place, content.manifest()) {
            (Place::Here(path), None) => vec![SourceFile::look(path.clone())?],
            (Place::Here(path), Some(manifest)) => {
                let look = |entry: &huitong_proof::ManifestEntry| SourceFile::look(path.join(&entry.path));
                manifest.entries().iter().map(look).collect::<Result<Vec<_>, _>>()?
            }
            (Place::Elsewhere(url), manifest) => find(url, manifest, elsewhere)?,
        };
        if stamp(&files) != self.stamp {
            return Err(changed(&self.place));
        }
        let is_untouched = self.seal != Digest::ZERO && seal(&files) == self.seal;
        Ok(OpenSource { files, is_untouched })
    }
}

/// One file of a source, as it looked when it was opened.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Bytes.
    pub size: u64,
    /// Where it lies in a dataset; empty for a file of this machine.
    pub(crate) name: String,
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    /// With the modification time in nanoseconds since 1970-01-01T00:00:00Z; 0 for anything earlier.
    Here {
        path: PathBuf,
        modified: u64,
        inode: Inode,
    },
    Elsewhere {
        file: RemoteFile,
        reach: Arc<dyn Elsewhere>,
    },
}

/// Which file this is, and when anything about it changed last: nobody can set that time back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
    changed: (i64, i64),
}

impl Inode {
    fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { device: metadata.dev(), number: metadata.ino(), changed }
    }
}

impl SourceFile {
    pub(crate) fn look(path: PathBuf) -> Result<Self, ServiceError> {
        let metadata = regular_file(&path)?;
        let modified = modified_nanos(&metadata);
        let inode = Inode::of(&metadata);
        Ok(Self { size: metadata.len(), name: String::new(), at: At::Here { path, modified, inode } })
    }

    /// Looks whether the file is what it was; blocks on the file system. A file elsewhere is only ever read in the version in
    /// which it was listed, so there is nothing to look for.
    ///
    /// # Errors
    /// `Invalid` when it is missing or no regular file, `Conflict` when it has changed.
    pub fn check_unchanged(&self) -> Result<(), ServiceError> {
        let At::Here { path, .. } = &self.at else { return Ok(()) };
        let now = Self::look(path.clone())?;
        if now.version() == self.version() && now.size == self.size {
            return Ok(());
        }
        Err(changed(&Place::Here(path.clone())))
    }

    /// Opens it for reading; blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn reader(&self) -> Result<SourceReader, ServiceError> {
        match &self.at {
            At::Here { path, inode, .. } => {
                // Neither a link that leads elsewhere nor a pipe that never answers.
                let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
                let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
                let file = opened.map_err(|error| unreadable(path, &error))?;
                Ok(SourceReader(Reading::Here { path: path.clone(), file, inode: *inode }))
            }
            At::Elsewhere { file, reach } => Ok(SourceReader(Reading::Elsewhere(reach.reader(file)?))),
        }
    }

    /// Tells two states of the file apart.
    fn version(&self) -> Vec<u8> {
        match &self.at {
            At::Here { modified, .. } => modified.to_be_bytes().to_vec(),
            At::Elsewhere { file, .. } => file.version.as_bytes().to_vec(),
        }
    }
}

/// A file of a source that is being read. Call it where blocking is allowed, within the runtime.
pub struct SourceReader(Reading);

enum Reading {
    Here { path: PathBuf, file: fs::File, inode: Inode },
    Elsewhere(Box<dyn RemoteReader>),
}

impl SourceReader {
    /// Appends exactly `length` bytes from `offset` on.
    ///
    /// # Errors
    /// What the system or the other machine says; `Conflict` when the file is shorter, or another version, by now.
    pub fn append(&mut self, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), ServiceError> {
        self.append_until(pending(), offset, length, buffer)
    }

    /// The same, unless nobody wants it any more: another machine is not waited for then.
    ///
    /// # Errors
    /// As [`SourceReader::append`]; `Busy` when it was stopped.
    pub fn append_until(
        &mut self,
        stopped: impl Future<Output = ()>,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ServiceError> {
        match &mut self.0 {
            Reading::Here { path, file, .. } => {
                append(buffer, file, offset, length).map_err(|error| unreadable(path, &error))
            }
            Reading::Elsewhere(reader) => Handle::current().block_on(async {
                tokio::select! {
                    read = reader.append(offset, length, buffer) => read,
                    () = stopped => Err(ServiceError::Busy { reason: "nobody waits for it any more".to_owned() }),
                }
            }),
        }
    }
}

impl SourceReader {
    /// Whether this is, also after reading, the very file that was looked at, and nobody has touched it since.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_untouched(&self) -> Result<bool, ServiceError> {
        match &self.0 {
            Reading::Here { path, file, inode } => {
                let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
                Ok(Inode::of(&metadata) == *inode)
            }
            Reading::Elsewhere(_) => Ok(true),
        }
    }
}

impl fmt::Debug for SourceReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SourceReader").finish_non_exhaustive()
    }
}

fn append(buffer: &mut Vec<u8>, file: &fs::File, offset: u64, length: usize) -> io::Result<()> {
    let before = buffer.len();
    let end = before.saturating_add(length);
    buffer.reserve(length);
    while buffer.len() < end {
        let at = offset.saturating_add(buffer.len().saturating_sub(before) as u64);
        if rustix::io::pread(file, rustix::buffer::spare_capacity(buffer), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // There may be room for more than was asked for.
        buffer.truncate(end);
    }
    Ok(())
}

/// The files at a URL, in the order in which a manifest has them; blocks.
pub(crate) fn list(
    url: &str,
    elsewhere: Option<&Arc<dyn Elsewhere>>,
) -> Result<Vec<SourceFile>, ServiceError> {
    let reach = reached(url, elsewhere)?;
    let files = Handle::current().block_on(reach.list(url, MAX_FILES))?;
    if files.is_empty() {
        return Err(ServiceError::invalid("file", format!("{url}: there is nothing below this prefix")));
    }
    Ok(remote_files(files, reach))
}

/// The files at a URL that were published: those of the manifest, or the only one; blocks.
fn find(
    url: &str,
    manifest: Option<&Manifest>,
    elsewhere: Option<&Arc<dyn Elsewhere>>,
) -> Result<Vec<SourceFile>, ServiceError> {
    let reach = elsewhere.ok_or_else(|| ServiceError::Busy { reason: nothing_elsewhere(url) })?;
    let is_wanted = |path: &str| manifest.is_none_or(|manifest| is_in(manifest, path));
    let files = Handle::current().block_on(reach.find(url, &is_wanted))?;
    Ok(remote_files(files, reach))
}

fn reached<'a>(
    url: &str,
    elsewhere: Option<&'a Arc<dyn Elsewhere>>,
) -> Result<&'a Arc<dyn Elsewhere>, ServiceError> {
    elsewhere.ok_or_else(|| ServiceError::invalid("file", nothing_elsewhere(url)))
}

fn nothing_elsewhere(url: &str) -> String {
    format!("{}: this node reaches nothing but its own files", shown(url))
}

fn remote_files(mut files: Vec<RemoteFile>, reach: &Arc<dyn Elsewhere>) -> Vec<SourceFile> {
    files.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    let file = |file: RemoteFile| SourceFile {
        size: file.size,
        name: file.path.clone(),
        at: At::Elsewhere { file, reach: Arc::clone(reach) },
    };
    files.into_iter().map(file).collect()
}

fn is_in(manifest: &Manifest, name: &str) -> bool {
    manifest.entries().binary_search_by(|entry| entry.path.as_bytes().cmp(name.as_bytes())).is_ok()
}

fn changed(place: &Place) -> ServiceError {
    ServiceError::Conflict {
        reason: format!("{place} has changed since it was published; publish it again as a new version"),
    }
}

/// A file that is not there, or is no file, has changed; anything else may pass.
fn unreadable(path: &Path, error: &io::Error) -> ServiceError {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    let reason = format!("{} cannot be read: {error}", path.display());
    match error.kind() {
        NotFound | NotADirectory | IsADirectory | InvalidInput | UnexpectedEof => {
            ServiceError::invalid("file", reason)
        }
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            ServiceError::invalid("file", reason)
        }
        _ => ServiceError::Busy { reason },
    }
}

/// See [`Source::seal`].
pub(crate) fn seal(files: &[SourceFile]) -> Digest {
    let mut inodes = Vec::with_capacity(files.len().saturating_mul(32));
    for file in files {
        let At::Here { inode: Inode { device, number, changed }, .. } = &file.at else { return Digest::ZERO };
        inodes.extend_from_slice(&device.to_be_bytes());
        inodes.extend_from_slice(&number.to_be_bytes());
        inodes.extend_from_slice(&changed.0.to_be_bytes());
        inodes.extend_from_slice(&changed.1.to_be_bytes());
    }
    Digest::sha256(&inodes)
}

/// Tells the same files in another state apart.
pub(crate) fn stamp(files: &[SourceFile]) -> Digest {
    let mut states = Vec::with_capacity(files.len().saturating_mul(16));
    for file in files {
        let version = file.version();
        states.extend_from_slice(&file.size.to_be_bytes());
        // Only the length of a foreign version is not known beforehand.
        if let At::Elsewhere { .. } = file.at {
            states.extend_from_slice(&(version.len() as u64).to_be_bytes());
        }
        states.extend_from_slice(&version);
    }
    Digest::sha256(&states)
}

/// The files of a directory, and where each lies in it, in the order in which a manifest has them.
///
/// # Errors
/// `Invalid` when it holds anything but regular files and directories, a name that is not UTF-8, no file at all, or too
/// many.
pub(crate) fn walk(directory: &Path) -> Result<Vec<(String, PathBuf)>, ServiceError> {
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
    let metadata = fs::symlink_metadata(path).map_err(|error| unreadable(path, &error))?;
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    #[test]
    fn a_query_which_may_be_a_secret_is_not_shown() {
        let place = Place::Elsewhere("https://data.example/a.csv?X-Amz-Signature=secret".to_owned());
        assert_eq!(place.to_string(), "https://data.example/a.csv?...");
        assert!(!changed(&place).to_string().contains("secret"));
        assert!(!nothing_elsewhere("https://data.example/a?secret").contains("secret"));
        assert_eq!(Place::Elsewhere("s3://data/in/".to_owned()).to_string(), "s3://data/in/");
        assert!(Place::is_prefix("s3://data/in/") && !Place::is_prefix("https://data.example/a?path=/"));
    }

    /// A machine that never answers.
    struct Silent;

    #[async_trait]
    impl RemoteReader for Silent {
        async fn append(&mut self, _: u64, _: usize, _: &mut Vec<u8>) -> Result<(), ServiceError> {
            pending().await
        }
    }

    #[tokio::test]
    async fn a_machine_that_is_silent_is_not_waited_for_once_nobody_wants_it() {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let reading = tokio::task::spawn_blocking(move || {
            let stopped = async { stopped.await.unwrap() };
            SourceReader(Reading::Elsewhere(Box::new(Silent))).append_until(stopped, 0, 1, &mut Vec::new())
        });
        stop.send(()).unwrap();
        let ended = reading.await.unwrap();
        assert!(matches!(ended, Err(ServiceError::Busy { .. })), "{ended:?}");
    }
}
