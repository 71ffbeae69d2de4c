//! Private key files: readable by their owner only, or refused.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::digest::read_hex;
use crate::entropy::{SystemEntropy, random};
use crate::key::SigningKey;

const LABEL: &str = "huitong-ed25519-seed ";
/// Label, 64 digits, line end; one byte more tells that there is too much.
const MOST_BYTES: u64 = 128;
const OTHERS: u32 = 0o077;

/// Writes `key` to a new file as one line, `huitong-ed25519-seed <64 hex>`, with mode 0600.
///
/// On return the file and its directory entry are on disk. A crash leaves either the whole file or none.
///
/// # Errors
/// [`KeyFileError::Exists`] when the path is taken: a key is never overwritten. [`KeyFileError::Io`].
pub fn save(path: &Path, key: &SigningKey) -> Result<(), KeyFileError> {
    let seed = key.seed();
    let mut line = Zeroizing::new(vec![0; LABEL.len() + 2 * seed.len() + 1]);
    let (label, rest) = line.split_at_mut(LABEL.len());
    label.copy_from_slice(LABEL.as_bytes());
    let (digits, end) = rest.split_at_mut(2 * seed.len());
    hex::encode_to_slice(seed.as_slice(), digits).map_err(|_| KeyFileError::malformed(path))?;
    end.copy_from_slice(b"\n");
    write_private(path, &line)
}

/// Reads a key that [`save`] wrote.
///
/// # Errors
/// [`KeyFileError::Missing`], [`KeyFileError::Readable`] when the mode gives group or others any access,
/// [`KeyFileError::Malformed`] for any other content than the one line, [`KeyFileError::Io`].
pub fn load(path: &Path) -> Result<SigningKey, KeyFileError> {
    let file = File::open(path).map_err(|source| KeyFileError::from_io(path, source))?;
    // The mode is taken from the open file, so what is checked is what is read.
    check_mode(path, &file.metadata().map_err(|source| KeyFileError::from_io(path, source))?)?;
    let mut text = Zeroizing::new(String::with_capacity(MOST_BYTES as usize));
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => KeyFileError::malformed(path),
        _ => KeyFileError::from_io(path, source),
    })?;
    let digits = text.strip_suffix('\n').unwrap_or(&text).strip_prefix(LABEL);
    let seed = digits.and_then(|digits| read_hex(digits).ok()).map(Zeroizing::new);
    seed.map(|seed| SigningKey::from_seed(&seed)).ok_or_else(|| KeyFileError::malformed(path))
}

/// Checks that a file, for example a TLS key, is closed to group and others.
///
/// # Errors
/// [`KeyFileError::Missing`], [`KeyFileError::Readable`], [`KeyFileError::Malformed`] when it is no regular file,
/// [`KeyFileError::Io`].
pub fn check_private(path: &Path) -> Result<(), KeyFileError> {
    check_mode(path, &fs::metadata(path).map_err(|source| KeyFileError::from_io(path, source))?)
}

/// Writes secret bytes to a new file with mode 0600, with the promises of [`save`].
///
/// # Errors
/// [`KeyFileError::Exists`] when the path is taken, [`KeyFileError::Io`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    let draft = draft_path(path)?;
    let written = write_draft(&draft, bytes)
        // A link, unlike a rename, fails when the name is taken, also when someone else takes it at this moment.
        .and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed).and_then(|()| File::open(directory(path))?.sync_all()).map_err(|source| {
        match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
            // The directory is what is missing here, and only the system's own words say so.
            _ => KeyFileError::Io { path: path.to_owned(), source },
        }
    })
}

/// Why a private file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is no such file.
    #[error("{}: no such key file; restore it from the backup that the data directory belongs to", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Group or others may reach the file.
    #[error("{}: mode {mode:04o} lets other users reach this key; run: chmod 600 '{}'", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not that of a key file.
    #[error("{}: not a key file: expected one line `huitong-ed25519-seed` and 64 lower-case hexadecimal digits; restore it from a backup", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The path is taken.
    #[error("{}: exists already and is not overwritten; choose another path or move it away", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to read or write.
    #[error("{}: cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KeyFileError {
    fn malformed(path: &Path) -> Self {
        Self::Malformed { path: path.to_owned() }
    }

    fn from_io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), KeyFileError> {
    if !metadata.is_file() {
        return Err(KeyFileError::malformed(path));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyFileError::Readable { path: path.to_owned(), mode });
    }
    Ok(())
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name beside the target that nobody else uses.
fn draft_path(path: &Path) -> Result<PathBuf, KeyFileError> {
    let Some(name) = path.file_name() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        return Err(KeyFileError::Io { path: path.to_owned(), source });
    };
    let mut draft = std::ffi::OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}.tmp", hex::encode(random::<8>(&SystemEntropy))));
    Ok(path.with_file_name(draft))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    fn key() -> SigningKey {
        SigningKey::generate(&SeededEntropy::new(1))
    }

    fn write(path: &Path, content: &[u8], mode: u32) {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all(content).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_saved_key_is_private_and_loads_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("statement.key");
        save(&path, &key()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("huitong-ed25519-seed {}\n", hex::encode(*key().seed())));
        assert_eq!(load(&path).unwrap().seed(), key().seed());
        check_private(&path).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["statement.key"], "no draft stays behind");
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, b"something dear", 0o600);
        let error = save(&path, &key()).unwrap_err();
        assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"something dear");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn modes_that_let_others_in_are_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        save(&path, &key()).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o610, 0o666, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for error in [load(&path).unwrap_err(), check_private(&path).unwrap_err()] {
                assert!(matches!(error, KeyFileError::Readable { mode: m, .. } if m == mode), "{error}");
                let text = error.to_string();
                assert!(text.contains(&format!("{mode:04o}")), "{text}");
                assert!(text.contains(&format!("chmod 600 '{}'", path.display())), "{text}");
            }
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            load(&path).unwrap();
        }
    }

    #[test]
    fn other_contents_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let digits = "0b".repeat(32);
        let good = format!("{LABEL}{digits}");
        write(&path, good.as_bytes(), 0o600);
        assert_eq!(*load(&path).unwrap().seed(), [0x0b; 32], "the line end may be missing");
        for bad in [
            String::new(),
            digits.clone(),
            format!("{good}\n\n"),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}00"),
            format!("{LABEL}{}", &digits[2..]),
            format!("{LABEL}{}", digits.to_uppercase()),
            format!("{good}\n{}", "x".repeat(1_000)),
            good.replace("ed25519", "sm2"),
        ] {
            write(&path, bad.as_bytes(), 0o600);
            let error = load(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Malformed { .. }), "{bad:?}: {error}");
        }
        write(&path, &[0xff; 80], 0o600);
        assert!(matches!(load(&path).unwrap_err(), KeyFileError::Malformed { .. }));
    }

    #[test]
    fn missing_files_and_directories_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent");
        assert!(matches!(load(&absent).unwrap_err(), KeyFileError::Missing { path } if path == absent));
        assert!(matches!(check_private(&absent).unwrap_err(), KeyFileError::Missing { .. }));
        assert!(matches!(save(&absent.join("key"), &key()).unwrap_err(), KeyFileError::Io { .. }));
        assert!(matches!(load(directory.path()).unwrap_err(), KeyFileError::Malformed { .. }));
        assert!(matches!(write_private(Path::new("/"), b"x").unwrap_err(), KeyFileError::Io { .. }));
    }
}
