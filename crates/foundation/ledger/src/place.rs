//! Where the ledger's files lie, and how they are read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use huitong_store::disk::{Directory, Disk, DiskFile};

use crate::error::LedgerError;
use crate::run::RunName;
use crate::tiles::{BundleName, FilePath, TileName};

/// The directory `ledger` beside the journal.
///
/// ```text
/// about                      format version, data space, node, origin
/// checkpoint                 the published checkpoint (C2SP signed note)
/// tile/<L>/<N>[.p/<W>]       tiles, and tile/entries/<N>[.p/<W>] bundles, as C2SP tlog-tiles names them
/// redacted/entries/<N>       a bundle with removed entries, of length 0; then there is no tile/entries/<N>
/// lookup/<level>-<number>    runs of lookup records
/// unconfirmed                why this node signs nothing, if it signs nothing
/// ```
pub(crate) struct Place {
    root: PathBuf,
    disk: Disk,
    /// Directories that are known to exist.
    known: Mutex<BTreeSet<PathBuf>>,
    /// Held until the ledger is closed: two ledgers over the same files would not know of each other's newest entries.
    _lock: File,
}

/// Files that are in place but not yet durable, and the directories of their names.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    files: Vec<DiskFile>,
    directories: BTreeMap<PathBuf, Directory>,
}

pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const UNCONFIRMED: &str = "unconfirmed";
pub(crate) const ABOUT: &str = "about";
pub(crate) const LOOKUP: &str = "lookup";
pub(crate) const DRAFT: &str = ".tmp";

impl Place {
    /// The files below `root`, which is created if missing.
    pub(crate) fn open(root: &Path, disk: &Disk) -> Result<Self, LedgerError> {
        disk.create_directory(root).map_err(LedgerError::file("create directory", root))?;
        let lookup = root.join(LOOKUP);
        disk.create_directory(&lookup).map_err(LedgerError::file("create directory", &lookup))?;
        let lock = File::open(root).map_err(LedgerError::file("open", root))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse { directory: root.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(LedgerError::file("lock", root)(error)),
        }
        Ok(Self { root: root.to_owned(), disk: disk.clone(), known: Mutex::default(), _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn of(&self, path: &FilePath) -> PathBuf {
        self.root.join(path.to_string())
    }

    /// Where a bundle with removed entries lies.
    pub(crate) fn of_redacted(&self, number: u64) -> PathBuf {
        redacted(&self.root, number)
    }

    pub(crate) fn of_run(&self, name: RunName) -> PathBuf {
        self.root.join(LOOKUP).join(name.file())
    }

    /// Puts a file in place, whole or not at all, but not yet durably: a power failure may leave anything under its
    /// name until [`Unsynced::sync`] has returned.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8], unsynced: &mut Unsynced) -> Result<(), LedgerError> {
        let directory = path.parent().unwrap_or(&self.root);
        self.ensure(directory)?;
        if !unsynced.directories.contains_key(directory) {
            let held =
                self.disk.directory(directory).map_err(LedgerError::file("open directory", directory))?;
            unsynced.directories.insert(directory.to_owned(), held);
        }
        let draft = with_suffix(path, DRAFT);
        let write = || {
            let mut file = self.disk.create(&draft)?;
            file.write_all(bytes)?;
            self.disk.rename(&draft, path)?;
            Ok(file)
        };
        unsynced.files.push(write().map_err(LedgerError::file("write", path))?);
        Ok(())
    }

    /// Puts a file in place, whole or not at all, and returns when it is durable. `write` gets a buffered writer.
    pub(crate) fn put_durably(
        &self,
        path: &Path,
        write: impl FnOnce(&mut BufWriter<DiskFile>) -> io::Result<()>,
    ) -> Result<(), LedgerError> {
        let directory = path.parent().unwrap_or(&self.root);
        self.ensure(directory)?;
        let draft = with_suffix(path, DRAFT);
        let put = || {
            let held = self.disk.directory(directory)?;
            let mut out = BufWriter::with_capacity(256 * 1024, self.disk.create(&draft)?);
            write(&mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync()?;
            self.disk.rename(&draft, path)?;
            held.sync()
        };
        put().map_err(LedgerError::file("write", path))
    }

    /// Removes a file, if there is one. Not durable: whoever finds it again removes it again.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), LedgerError> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LedgerError::file("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a file, if there is one, durably.
    pub(crate) fn remove_durably(&self, path: &Path) -> Result<(), LedgerError> {
        let directory = path.parent().unwrap_or(&self.root);
        let held = match self.disk.directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            held => held.map_err(LedgerError::file("open directory", directory))?,
        };
        self.remove(path)?;
        held.sync().map_err(LedgerError::file("sync directory", directory))
    }

    /// A directory was removed.
    pub(crate) fn forget(&self, directory: &Path) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(directory);
    }

    fn ensure(&self, directory: &Path) -> Result<(), LedgerError> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(directory) {
            return Ok(());
        }
        self.disk.create_directory(directory).map_err(LedgerError::file("create directory", directory))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_owned());
        Ok(())
    }
}

impl Unsynced {
    /// Makes everything durable. After an error the files must be written anew: the kernel may have dropped what it
    /// could not write.
    pub(crate) fn sync(self) -> Result<(), LedgerError> {
        for mut file in self.files {
            file.sync().map_err(|source| LedgerError::file("sync", file.path())(source))?;
        }
        for (path, directory) in self.directories {
            directory.sync().map_err(LedgerError::file("sync directory", &path))?;
        }
        Ok(())
    }
}

/// The bytes of a file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, LedgerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LedgerError::file("read", path)(error)),
    }
}

pub(crate) fn tile(root: &Path, level: u8, number: u64) -> PathBuf {
    root.join(FilePath::Tile(TileName::full(level, number)).to_string())
}

pub(crate) fn bundle(root: &Path, number: u64) -> PathBuf {
    root.join(FilePath::Entries(BundleName::full(number)).to_string())
}

pub(crate) fn redacted(root: &Path, number: u64) -> PathBuf {
    let name = BundleName::full(number).to_string();
    root.join("redacted").join(name.strip_prefix("tile/").unwrap_or(&name))
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
