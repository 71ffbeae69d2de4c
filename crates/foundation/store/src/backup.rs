//! Backups: a directory that holds what a store needs to start, and a manifest of it.
//!
//! ```text
//! backup.json                 the manifest, written last: without it there is no backup
//! snapshots/<sequence>.snap   the newest snapshot that checks, if there is one
//! journal/<number>.seg        the segments behind it, the last one up to what was durable
//! ...                         what others keep beside the store, see [`UnfinishedBackup::add`]
//! ```
//!
//! The manifest is written once, when everything it names is durable: what an interruption leaves has none, and is
//! refused.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::OpenError;
use crate::disk::Disk;
use crate::journal::Durable;
use crate::lock::Lock;
use crate::opening::Layout;
use crate::progress::{Progress, Unit};
use crate::segment::{self, Segment};
use crate::snapshot::{self, Checked, Listed, Snapshot};

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// The last transaction in it.
    pub sequence: u64,
    /// Files, the manifest not counted.
    pub files: u64,
    /// Of these files.
    pub bytes: u64,
    /// How many of the files are hard links to the originals, and so took no space.
    pub linked: u64,
}

/// A backup whose files are there, and which nothing accepts before [`UnfinishedBackup::finish`].
#[derive(Debug)]
#[must_use = "without its manifest it is no backup"]
pub struct UnfinishedBackup {
    store: PathBuf,
    to: PathBuf,
    disk: Disk,
    /// Not yet written.
    manifest: Manifest,
    linked: u64,
    /// Of a store that is stopped.
    _lock: Option<Lock>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target holds something already.
    #[error("the directory {} is not empty; choose one that does not exist yet", directory.display())]
    NotEmpty {
        /// The target.
        directory: PathBuf,
    },
    /// There is no manifest, or one that cannot be used.
    #[error("the backup's manifest {} cannot be used: {why}; choose another backup", manifest.display())]
    Manifest {
        /// Where it is, or should be.
        manifest: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that is to be added lies outside the store, or is in the backup already.
    #[error("{} cannot be added to the backup: {why}", path.display())]
    Addition {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The journal's files hold less than was made durable in them: the disk lost or altered the end.
    #[error(
        "the copy of the journal in {} ends at transaction {copied}, {durable} were made durable; \
         check the disk, then stop the node and run `huitong store fsck`",
        journal.display()
    )]
    Shortened {
        /// The journal's directory.
        journal: PathBuf,
        /// The last transaction in the copy that checks.
        copied: u64,
        /// The last transaction that was acknowledged.
        durable: u64,
    },
    /// A file of a backup is not what its manifest says.
    #[error("{} is not what the backup's manifest says; choose another backup", file.display())]
    Altered {
        /// In the backup.
        file: PathBuf,
    },
    /// What is to be backed up, or what was copied, does not check, or a file could not be used.
    #[error(transparent)]
    Files(#[from] OpenError),
}

/// A file beside the store's own that a backup is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// Relative to the store's directory, and to the backup's.
    pub path: PathBuf,
    /// How it may be taken.
    pub change: Change,
}

/// Whether a file can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It never changes any more, other than being deleted: a hard link will do.
    Never,
    /// It may: it is copied.
    Possible,
}

/// What a backup says of itself, in `backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// [`FORMAT`].
    pub(crate) format: String,
    /// The journal's identity, in hexadecimal digits.
    pub(crate) journal: String,
    /// The last transaction.
    pub(crate) sequence: u64,
    /// The sequence of the snapshot, if there is one.
    pub(crate) snapshot: Option<u64>,
    /// When it was made, in milliseconds since 1970.
    pub(crate) made: u64,
    /// In order of their paths.
    pub(crate) files: Vec<ManifestFile>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestFile {
    /// Relative to the backup, with `/`.
    pub(crate) path: String,
    pub(crate) length: u64,
    /// In hexadecimal digits.
    pub(crate) sha256: String,
}

pub(crate) const MANIFEST: &str = "backup.json";
pub(crate) const FORMAT: &str = "huitong/backup/v1";

impl UnfinishedBackup {
    /// Adds files that lie beside the store's own.
    ///
    /// # Errors
    /// [`BackupError`]; the backup then holds what it held, with some files more that are not in its manifest.
    pub fn add(&mut self, files: &[Addition], progress: &mut dyn FnMut(Progress)) -> Result<(), BackupError> {
        let mut known: HashSet<String> = self.manifest.files.iter().map(|file| file.path.clone()).collect();
        let mut copier = Copier::new(&self.store, &self.to, &self.disk);
        let total = files.len() as u64;
        for (addition, done) in files.iter().zip(0..) {
            progress(Progress { step: "copy", done, total, unit: Unit::Files });
            if !known.insert(addition.path.to_string_lossy().into_owned()) {
                let why = "it is in the backup already";
                return Err(BackupError::Addition { path: addition.path.clone(), why });
            }
            copier.take(&addition.path, None, addition.change)?;
        }
        copier.finish()?;
        let mut added = Vec::with_capacity(files.len());
        for (addition, done) in files.iter().zip(0..) {
            progress(Progress { step: "digest", done, total, unit: Unit::Files });
            added.push(ManifestFile::of(&self.to, &addition.path)?);
        }
        self.linked = self.linked.saturating_add(copier.linked);
        self.manifest.files.append(&mut added);
        Ok(())
    }

    /// Writes the manifest, which makes it a backup.
    ///
    /// # Errors
    /// [`BackupError`]; there is then no manifest. The one exception is that its name cannot be made durable at the
    /// very end: then the backup is whole, as long as the machine runs.
    pub fn finish(mut self) -> Result<BackupReport, BackupError> {
        self.manifest.write(&self.to, &self.disk)?;
        let files = &self.manifest.files;
        Ok(BackupReport {
            sequence: self.manifest.sequence,
            files: files.len() as u64,
            bytes: files.iter().fold(0, |bytes, file| bytes.saturating_add(file.length)),
            linked: self.linked,
        })
    }

    /// Keeps the store locked until the backup is finished.
    pub(crate) fn holding(self, lock: Lock) -> Self {
        Self { _lock: Some(lock), ..self }
    }
}

/// Copies a store. Nothing of it may be deleted meanwhile. `durable` is asked once a snapshot was chosen: were it
/// asked before, the snapshot could be newer.
pub(crate) fn make(
    store: &Path,
    durable: impl FnOnce() -> Durable,
    to: &Path,
    made: u64,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<UnfinishedBackup, BackupError> {
    prepare(to, disk)?;
    let layout = Layout::of(to);
    for directory in [&layout.journal, &layout.snapshots] {
        disk.create_directory(directory).map_err(OpenError::io("create directory", directory))?;
    }
    let mut copier = Copier::new(store, to, disk);
    let base = take_snapshot(store, &mut copier, progress)?;
    let after = base.as_ref().map_or(0, |base| base.header.sequence);
    let durable = durable();
    let segments = segment::from(&durable.segments, after);
    take_segments(segments, &mut copier, progress)?;
    copier.finish()?;

    progress(Progress { step: "check", done: 0, total: 0, unit: Unit::Bytes });
    let survey = segment::survey(&layout.journal, after, |_| ())?;
    if (survey.last_sequence, survey.torn_bytes) != (durable.last_sequence, 0) {
        let (copied, durable) = (survey.last_sequence, durable.last_sequence);
        return Err(BackupError::Shortened { journal: Layout::of(store).journal, copied, durable });
    }
    let identity = segments.first().map(|first| first.header.identity).unwrap_or_default();
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        journal: hex(&identity),
        sequence: survey.last_sequence,
        snapshot: base.as_ref().map(|base| base.header.sequence),
        made,
        files: Vec::new(),
    };
    let total = copier.taken.len() as u64;
    for (path, done) in copier.taken.iter().zip(0..) {
        progress(Progress { step: "digest", done, total, unit: Unit::Files });
        manifest.files.push(ManifestFile::of(to, path)?);
    }
    progress(Progress { step: "digest", done: total, total, unit: Unit::Files });
    Ok(UnfinishedBackup {
        store: store.to_owned(),
        to: to.to_owned(),
        disk: disk.clone(),
        manifest,
        linked: copier.linked,
        _lock: None,
    })
}

impl Manifest {
    pub(crate) fn read(backup: &Path) -> Result<Self, BackupError> {
        let path = backup.join(MANIFEST);
        let refuse = |why: String| BackupError::Manifest { manifest: path.clone(), why };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refuse("it is missing, so the backup was not finished".to_owned()));
            }
            bytes => bytes.map_err(OpenError::io("read", &path))?,
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(refuse(format!("its format is {}, this program reads {FORMAT}", manifest.format)));
        }
        if let Some(file) = manifest.files.iter().find(|file| !is_below(Path::new(&file.path))) {
            return Err(refuse(format!("the path {} leads out of the backup", file.path)));
        }
        Ok(manifest)
    }

    /// Makes everything said here durable, whole or not at all.
    fn write(&mut self, backup: &Path, disk: &Disk) -> Result<(), BackupError> {
        self.files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        let path = backup.join(MANIFEST);
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| BackupError::Manifest { manifest: path.clone(), why: error.to_string() })?;
        bytes.push(b'\n');
        disk.directory(backup)
            .and_then(|held| disk.write_atomically(&held, MANIFEST, &bytes))
            .map_err(OpenError::io("write", &path))?;
        Ok(())
    }
}

impl ManifestFile {
    /// Of a file in the backup.
    fn of(backup: &Path, path: &Path) -> Result<Self, BackupError> {
        let refuse = |why| BackupError::Addition { path: path.to_owned(), why };
        let named = path.to_str().ok_or_else(|| refuse("its name is not text"))?;
        let (length, sha256) =
            digest(&backup.join(path)).map_err(OpenError::io("read", &backup.join(path)))?;
        Ok(Self { path: named.to_owned(), length, sha256 })
    }
}

/// The length of a file and its SHA-256 in hexadecimal digits.
pub(crate) fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut length = 0_u64;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((length, hex(&hasher.finalize())));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        length = length.saturating_add(read as u64);
    }
}

/// An empty directory.
pub(crate) fn prepare(to: &Path, disk: &Disk) -> Result<(), BackupError> {
    match fs::read_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create_directory(to).map_err(OpenError::io("create directory", to))?;
        }
        Err(error) => return Err(OpenError::io("list", to)(error).into()),
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(BackupError::NotEmpty { directory: to.to_owned() });
            }
        }
    }
    Ok(())
}

/// Takes the newest snapshot that checks.
fn take_snapshot(
    store: &Path,
    copier: &mut Copier<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Snapshot>, BackupError> {
    let mut listed = snapshot::list(&Layout::of(store).snapshots)?;
    let mut refused = None;
    while let Some(newest) = listed.pop() {
        match check_snapshot(&newest, store, copier, progress) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(BackupError::Files(error @ OpenError::Snapshot { .. })) => {
                tracing::error!(%error, "a snapshot cannot be backed up; an older one and the journal are tried");
                copier.give_back()?;
                refused.get_or_insert(error);
            }
            Err(other) => return Err(other),
        }
    }
    let journal = Layout::of(store).journal;
    // Without a snapshot the journal must be there from its start, as it is before the first one is made.
    match refused {
        Some(error) if !Segment::path(&journal, 1).exists() => Err(error.into()),
        _ => Ok(None),
    }
}

fn check_snapshot(
    listed: &Listed,
    store: &Path,
    copier: &mut Copier<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Snapshot, BackupError> {
    let path = listed.path.strip_prefix(store).unwrap_or(&listed.path);
    progress(Progress { step: "copy the snapshot", done: 0, total: 1, unit: Unit::Files });
    copier.take(path, None, Change::Never)?;
    let copy = Listed { path: copier.to.join(path), sequence: listed.sequence };
    let snapshot = Snapshot::open(&copy)?;
    let total = snapshot.length;
    let checked = snapshot.check(|done| {
        progress(Progress { step: "check the snapshot", done, total, unit: Unit::Bytes });
        true
    })?;
    match checked {
        Checked::Whole | Checked::Stopped => Ok(snapshot),
    }
}

fn take_segments(
    segments: &[Segment],
    copier: &mut Copier<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BackupError> {
    let total = segments.len() as u64;
    for (segment, done) in segments.iter().zip(0..) {
        progress(Progress { step: "copy the journal", done, total, unit: Unit::Files });
        let path = segment.path.strip_prefix(copier.from).unwrap_or(&segment.path).to_owned();
        let is_open = done + 1 == total;
        let change = if is_open { Change::Possible } else { Change::Never };
        copier.take(&path, Some(segment.length), change)?;
    }
    Ok(())
}

/// Takes files from one directory into another.
struct Copier<'a> {
    from: &'a Path,
    to: &'a Path,
    disk: &'a Disk,
    /// Relative paths.
    taken: Vec<PathBuf>,
    /// That exist and whose names must be made durable.
    directories: BTreeSet<PathBuf>,
    linked: u64,
}

impl<'a> Copier<'a> {
    fn new(from: &'a Path, to: &'a Path, disk: &'a Disk) -> Self {
        Self { from, to, disk, taken: Vec::new(), directories: BTreeSet::new(), linked: 0 }
    }

    /// Takes a file, or its first `length` bytes.
    fn take(&mut self, path: &Path, length: Option<u64>, change: Change) -> Result<(), BackupError> {
        if !is_below(path) {
            return Err(BackupError::Addition { path: path.to_owned(), why: "its path leads elsewhere" });
        }
        let (source, target) = (self.from.join(path), self.to.join(path));
        if let Some(directory) = target.parent()
            && !self.directories.contains(directory)
        {
            self.disk.create_directory(directory).map_err(OpenError::io("create directory", directory))?;
            self.directories.insert(directory.to_owned());
        }
        // What an earlier attempt left may be a link to the very file that is taken: it must not be written over.
        if target.exists() {
            self.disk.remove(&target).map_err(OpenError::io("remove", &target))?;
        }
        let is_linked = change == Change::Never && self.disk.hard_link(&source, &target).is_ok();
        if is_linked {
            // Whoever wrote it may have left that to the kernel.
            self.disk.sync_file(&target).map_err(OpenError::io("sync", &target))?;
            self.linked = self.linked.saturating_add(1);
        } else {
            let length = match length {
                Some(length) => length,
                None => fs::metadata(&source).map_err(OpenError::io("inspect", &source))?.len(),
            };
            self.disk.copy(&source, &target, length).map_err(OpenError::io("copy", &source))?;
        }
        self.taken.push(path.to_owned());
        Ok(())
    }

    /// Removes the file taken last.
    fn give_back(&mut self) -> Result<(), BackupError> {
        if let Some(path) = self.taken.pop() {
            let target = self.to.join(path);
            self.disk.remove(&target).map_err(OpenError::io("remove", &target))?;
        }
        Ok(())
    }

    /// Makes the names of all files durable.
    fn finish(&self) -> Result<(), BackupError> {
        for directory in &self.directories {
            self.disk
                .directory(directory)
                .and_then(|held| held.sync())
                .map_err(OpenError::io("sync directory", directory))?;
        }
        Ok(())
    }
}

/// Whether a relative path stays below where it starts.
fn is_below(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |number: u8| char::from(DIGITS.get(usize::from(number)).copied().unwrap_or_default());
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
