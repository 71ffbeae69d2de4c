//! A store from a backup.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};

use super::Journal;
use crate::OpenError;
use crate::backup::{BackupError, BackupReport, MANIFEST, Manifest, ManifestFile, digest};
use crate::disk::Disk;
use crate::lock::{LOCK, Lock};
use crate::opening::Layout;
use crate::progress::{Progress, Unit};

/// A file with this name in a store's directory says that it was restored from a backup, and may have forgotten what
/// happened after it. Who signs for the node removes it once that is ruled out.
pub const RESTORED: &str = "restored";

/// Puts a backup into `to`, which must be empty or not exist. It is put together beside it, in `<to>.restoring`; every
/// file is compared with the manifest, and the journal read, before it gets its name: `to` holds the whole store or
/// nothing. The store is marked as [`RESTORED`], with `note` in the mark. The index is built at its first start.
///
/// # Errors
/// [`BackupError`]; nothing is in `to` then. The one exception is that the name cannot be made durable at the very
/// end: then `to` holds the whole store, as long as the machine runs.
pub fn restore(
    from: &Path,
    to: &Path,
    note: &str,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, BackupError> {
    let manifest = Manifest::read(from)?;
    refuse_occupied(to)?;
    let (to, draft) = places(to)?;
    disk.create_directory(&draft).map_err(OpenError::io("create directory", &draft))?;
    // Two that restore to one place must not mix their files.
    let _lock = Lock::take(&draft, disk)?;
    let restored = clear(&draft, disk)
        .and_then(|()| fill(&manifest, from, &draft, disk, progress))
        .and_then(|()| check(&manifest, from, &draft))
        .and_then(|()| put_in_place(&draft, &to, note, disk));
    if let Err(error) = restored {
        // What is left of the draft only takes space, and the next attempt removes it.
        let _ = disk.remove_directory(&draft);
        return Err(error);
    }
    Ok(BackupReport {
        sequence: manifest.sequence,
        files: manifest.files.len() as u64,
        bytes: manifest.files.iter().fold(0, |bytes, file| bytes.saturating_add(file.length)),
        linked: 0,
    })
}

fn refuse_occupied(to: &Path) -> Result<(), BackupError> {
    match fs::read_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::io("list", to)(error).into()),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BackupError::NotEmpty { directory: to.to_owned() }),
        },
    }
}

/// Where the store is to be, and where it is put together.
fn places(to: &Path) -> Result<(PathBuf, PathBuf), BackupError> {
    let absolute = path::absolute(to).map_err(OpenError::io("find", to))?;
    let Some(name) = absolute.file_name() else {
        let nameless = io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a name");
        return Err(OpenError::io("restore to", to)(nameless).into());
    };
    let mut name = name.to_owned();
    name.push(".restoring");
    let draft = absolute.with_file_name(name);
    Ok((absolute, draft))
}

/// Removes what an earlier attempt left, but for the lock, which is held.
fn clear(draft: &Path, disk: &Disk) -> Result<(), BackupError> {
    for entry in fs::read_dir(draft).map_err(OpenError::io("list", draft))? {
        let entry = entry.map_err(OpenError::io("list", draft))?;
        let path = entry.path();
        if entry.file_name() == OsStr::new(LOCK) {
            continue;
        }
        let is_directory = entry.file_type().map_err(OpenError::io("inspect", &path))?.is_dir();
        let removed = if is_directory { disk.remove_directory(&path) } else { disk.remove(&path) };
        removed.map_err(OpenError::io("remove", &path))?;
    }
    Ok(())
}

fn fill(
    manifest: &Manifest,
    from: &Path,
    draft: &Path,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BackupError> {
    // Perhaps it names none.
    let snapshots = Layout::of(draft).snapshots;
    disk.create_directory(&snapshots).map_err(OpenError::io("create directory", &snapshots))?;
    let total = manifest.files.len() as u64;
    for (file, done) in manifest.files.iter().zip(0..) {
        progress(Progress { step: "copy and check", done, total, unit: Unit::Files });
        take(file, &from.join(&file.path), &draft.join(&file.path), disk)?;
    }
    progress(Progress { step: "copy and check", done: total, total, unit: Unit::Files });
    Ok(())
}

/// Copies a file, and checks the copy.
fn take(file: &ManifestFile, source: &Path, target: &Path, disk: &Disk) -> Result<(), BackupError> {
    let altered = || BackupError::Altered { file: source.to_owned() };
    let length = match fs::metadata(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(altered()),
        found => found.map_err(OpenError::io("inspect", source))?.len(),
    };
    if length != file.length {
        return Err(altered());
    }
    if let Some(directory) = target.parent() {
        disk.create_directory(directory).map_err(OpenError::io("create directory", directory))?;
    }
    disk.copy(source, target, length).map_err(OpenError::io("copy", source))?;
    let copied = digest(target).map_err(OpenError::io("read", target))?;
    if copied != (file.length, file.sha256.clone()) {
        return Err(altered());
    }
    Ok(())
}

/// Whether the files are a store, and the one that the manifest speaks of.
fn check(manifest: &Manifest, from: &Path, draft: &Path) -> Result<(), BackupError> {
    let refuse = |why: String| BackupError::Manifest { manifest: from.join(MANIFEST), why };
    if !Layout::of(draft).journal.is_dir() {
        return Err(refuse("it names no file of a journal".to_owned()));
    }
    let survey = match Journal::read(draft) {
        Err(error @ (OpenError::Damaged { .. } | OpenError::Snapshot { .. })) => {
            return Err(refuse(format!("the files it names are not a whole store: {error}")));
        }
        read => read?.survey,
    };
    if (survey.last_sequence, survey.torn_bytes) != (manifest.sequence, 0) {
        return Err(refuse(format!(
            "it says that transaction {} is the last one, the journal ends at {}",
            manifest.sequence, survey.last_sequence
        )));
    }
    Ok(())
}

fn put_in_place(draft: &Path, to: &Path, note: &str, disk: &Disk) -> Result<(), BackupError> {
    disk.directory(draft)
        .and_then(|held| disk.write_atomically(&held, RESTORED, note.as_bytes()))
        .map_err(OpenError::io("write", &draft.join(RESTORED)))?;
    disk.sync_tree(draft).map_err(OpenError::io("sync", draft))?;
    let parent = to.parent().unwrap_or(to);
    let held = disk.directory(parent).map_err(OpenError::io("open", parent))?;
    // An empty directory is replaced; one into which something was put meanwhile is not.
    disk.rename(draft, to).and_then(|()| held.sync()).map_err(OpenError::io("rename", draft))?;
    Ok(())
}
