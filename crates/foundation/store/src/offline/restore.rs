//! A store from a backup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::backup::{BackupError, BackupReport, Manifest, digest};
use crate::disk::Disk;
use crate::progress::{Progress, Unit};

/// A file with this name in a store's directory says that it was restored from a backup, and may have forgotten what
/// happened after it. Who signs for the node removes it once that is ruled out.
pub const RESTORED: &str = "restored";

/// Puts a backup into `to`, which must be empty or not exist. Every file is compared with the manifest before the store
/// gets its name, so `to` holds the whole store or nothing. The store is marked as [`RESTORED`], with `note` in the mark.
///
/// # Errors
/// [`BackupError`]; nothing is left in `to` then.
pub fn restore(
    from: &Path,
    to: &Path,
    note: &str,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, BackupError> {
    let manifest = Manifest::read(from)?;
    refuse_occupied(to)?;
    let draft = draft_of(to);
    if draft.exists() {
        disk.remove_directory(&draft).map_err(OpenError::io("remove", &draft))?;
    }
    let restored =
        fill(&manifest, from, &draft, note, disk, progress).and_then(|()| put_in_place(&draft, to, disk));
    if let Err(error) = restored {
        // What is left of the draft only takes space, and the next attempt removes it.
        let _ = disk.remove_directory(&draft);
        return Err(error);
    }
    Ok(BackupReport {
        sequence: manifest.sequence,
        files: manifest.files.len() as u64,
        bytes: manifest.files.iter().map(|file| file.length).sum(),
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

fn draft_of(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    to.with_file_name(name)
}

fn fill(
    manifest: &Manifest,
    from: &Path,
    draft: &Path,
    note: &str,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BackupError> {
    disk.create_directory(draft).map_err(OpenError::io("create directory", draft))?;
    let total = manifest.files.len() as u64;
    for (file, done) in manifest.files.iter().zip(0..) {
        progress(Progress { step: "copy and check", done, total, unit: Unit::Files });
        let (source, target) = (from.join(&file.path), draft.join(&file.path));
        if let Some(directory) = target.parent() {
            disk.create_directory(directory).map_err(OpenError::io("create directory", directory))?;
        }
        disk.copy(&source, &target, file.length).map_err(OpenError::io("copy", &source))?;
        let (length, sha256) = digest(&target).map_err(OpenError::io("read", &target))?;
        let whole = fs::metadata(&source).map_err(OpenError::io("inspect", &source))?.len();
        if (length, &sha256) != (file.length, &file.sha256) || whole != file.length {
            return Err(BackupError::Altered { file: source });
        }
    }
    let held = disk.directory(draft).map_err(OpenError::io("open", draft))?;
    disk.write_atomically(&held, RESTORED, note.as_bytes())
        .map_err(OpenError::io("write", &draft.join(RESTORED)))?;
    disk.sync_tree(draft).map_err(OpenError::io("sync", draft))?;
    Ok(())
}

fn put_in_place(draft: &Path, to: &Path, disk: &Disk) -> Result<(), BackupError> {
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let held = disk.directory(parent).map_err(OpenError::io("open", parent))?;
    if to.exists() {
        disk.remove_directory(to).map_err(OpenError::io("remove", to))?;
    }
    disk.rename(draft, to).and_then(|()| held.sync()).map_err(OpenError::io("rename", draft))?;
    Ok(())
}
