//! Where a received file goes, and how it gets its name.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use huitong_proof::{Content, id_text};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::model::Transfer;
use crate::rules;

/// Bytes of a file name that every file system takes.
const LONGEST_NAME: usize = 255;

/// Where a delivery goes.
#[derive(Clone)]
pub(super) enum Destination {
    /// Into a directory, where it stays.
    Directory(PathBuf),
    /// Into a depot, below this place, which ends in `/`.
    Depot(String),
}

/// A destination that is no path but a URL.
pub(super) fn url(destination: &Path) -> Option<&str> {
    destination.to_str().filter(|text| destination.is_relative() && text.contains("://"))
}

/// Makes the directory for what a transfer is to put into a depot, durably.
pub(super) fn make_staging(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // As far up as the node's own directory.
    for parent in directory.ancestors().skip(1).take(2) {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Makes the directory that a delivery goes into, durably, with all that lead there.
pub(super) fn make_destination(directory: &Path) -> io::Result<()> {
    let missing: Vec<_> = directory.ancestors().take_while(|above| !above.exists()).collect();
    fs::create_dir_all(directory)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// The name of a received file or directory. The provider's may begin with a dot and pass for a file that programs read by
/// themselves: then this one does not.
pub(super) fn plain_name(given: &str) -> String {
    match given.strip_prefix('.') {
        Some(_) => format!("_{}", given.get(..given.floor_char_boundary(LONGEST_NAME - 1)).unwrap_or(given)),
        None => given.to_owned(),
    }
}

/// The name itself if it is free, else the name with the transfer's id in it.
pub(super) fn free_path(directory: &Path, name: &str, id: &[u8; 16]) -> PathBuf {
    let plain = directory.join(plain_name(name));
    if !plain.exists() {
        return plain;
    }
    marked_path(&plain, id)
}

/// The same name with the transfer's id in it, which no other file has.
pub(super) fn marked_path(path: &Path, id: &[u8; 16]) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.with_file_name(marked_name(name, id))
}

/// A name with the transfer's id in it.
pub(super) fn marked_name(name: &str, id: &[u8; 16]) -> String {
    let mark = id_text(id);
    if name.contains(&mark) {
        return name.to_owned();
    }
    let (stem, extension) = match name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) {
        Some((stem, extension)) => (stem, format!(".{extension}")),
        None => (name, String::new()),
    };
    // File systems take names of 255 bytes: the mark matters more than the end of a long name.
    let room = LONGEST_NAME.saturating_sub(mark.len().saturating_add(1)).saturating_sub(extension.len());
    let stem = stem.get(..stem.floor_char_boundary(room)).unwrap_or_default();
    let mut marked = format!("{stem}-{mark}{extension}");
    marked.truncate(marked.floor_char_boundary(LONGEST_NAME));
    marked
}

/// The unfinished file, or the unfinished dataset's directory, lies in the destination directory, so that putting it in its place moves no bytes.
pub(super) fn part_path(transfer: &Transfer) -> Option<PathBuf> {
    let directory = transfer.path.as_ref()?.parent()?;
    Some(directory.join(format!(".huitong-{}.part", id_text(&transfer.id))))
}

/// Whether a destination that had no room has some again: for what is missing, or for the next stretch of it.
pub(super) async fn has_room(transfer: &Transfer) -> bool {
    let missing = transfer.size.saturating_sub(transfer.acknowledged).min(rules::SYNC_BYTES);
    let directory = transfer.path.as_ref().and_then(|path| path.parent()).unwrap_or(&transfer.directory);
    let directory = directory.to_owned();
    // A file system that does not say is tried.
    tokio::task::spawn_blocking(move || {
        rustix::fs::statvfs(&directory).map_or(true, |found| {
            let room = Room {
                bytes: found.f_bavail.saturating_mul(found.f_frsize),
                // None in all is a file system that does not count its files.
                files: (found.f_files > 0).then_some(found.f_favail),
            };
            room.takes(missing)
        })
    })
    .await
    .unwrap_or(true)
}

/// What is free on a file system.
#[derive(Clone, Copy)]
struct Room {
    bytes: u64,
    files: Option<u64>,
}

impl Room {
    fn takes(self, bytes: u64) -> bool {
        self.bytes >= bytes && self.files != Some(0)
    }
}

/// Removes what arrived of a transfer that has ended short of completion; nothing to remove is fine.
pub(super) async fn remove_arrived(transfer: &Transfer) {
    let arrived = match transfer.deposit {
        Some(_) => Some(transfer.directory.clone()),
        None => part_path(transfer),
    };
    if let Some(arrived) = arrived {
        let _ = tokio::task::spawn_blocking(move || remove(&arrived)).await;
    }
}

/// Removes a file, or a directory and all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Gives the finished file or directory its name, or its marked one where another one has taken that by now, makes the directory
/// durable, and says which it is. Doing it twice is harmless.
pub(super) fn publish(part: &Path, path: &Path, marked: PathBuf) -> io::Result<PathBuf> {
    let placed = if part.try_exists()? {
        if place(part, path)? {
            path.to_owned()
        } else {
            fs::rename(part, &marked)?;
            marked
        }
    } else if marked.try_exists()? {
        marked
    } else {
        // An earlier run got as far as this. If nothing is there either, the file is lost.
        fs::metadata(path)?;
        path.to_owned()
    };
    fs::File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
    Ok(placed)
}

/// Gives a file or directory its name without ever replacing another one; `false` when the name is taken.
fn place(part: &Path, path: &Path) -> io::Result<bool> {
    match renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A file system that cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match path.try_exists()? {
            true => Ok(false),
            false => fs::rename(part, path).map(|()| true),
        },
        Err(error) => Err(error.into()),
    }
}

/// Where a file of the content lies below `place`, which is the file itself or the dataset's directory.
pub(super) fn file_path(place: &Path, content: &Content, file: usize) -> PathBuf {
    match content.manifest() {
        None => place.to_owned(),
        // A manifest has no path that leads out of here.
        Some(manifest) => match manifest.entries().get(file) {
            Some(entry) => place.join(&entry.path),
            None => place.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bytes_and_files() {
        let room = |bytes, files| Room { bytes, files };
        assert!(room(5, None).takes(5) && room(5, Some(1)).takes(5));
        assert!(!room(4, None).takes(5) && !room(5, Some(0)).takes(5));
    }

    #[test]
    fn a_name_that_begins_with_a_dot_does_not_stay_so() {
        let directory = Path::new("/nowhere/at/all");
        let name = |given: &str| free_path(directory, given, &[0; 16]).file_name().unwrap().to_owned();
        for (given, expected) in [(".ssh", "_.ssh"), ("...", "_..."), ("a.csv", "a.csv")] {
            assert_eq!(name(given), expected, "{given}");
        }
        let long = format!(".{}", "x".repeat(254));
        assert_eq!(name(&long).len(), LONGEST_NAME);
    }
}
