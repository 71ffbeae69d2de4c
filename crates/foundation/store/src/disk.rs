//! The only way the store, and the ledger beside it, change files.
//!
//! A [`Disk`] creates, writes, renames and removes; [`DiskFile`] is a file open for writing; [`Directory`] is a
//! directory whose names are to be made durable. Files and directories are for their owner alone (0600, 0700).
//! Reading needs no disk. With the feature `testing`, `Disk::failing` makes the n-th operation fail, so that a
//! test can walk through every one of them, and `Disk::losing_power` knows what a power cut would leave.
//!
//! What a rename or a new name needs to outlast a power failure is an fsync of its directory. The kernel reports a
//! failed write-back once, to handles that were open when it failed: therefore a [`Directory`] is opened before
//! the change and held until it is synced.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
#[cfg(any(test, feature = "testing"))]
use std::sync::Arc;

#[cfg(any(test, feature = "testing"))]
mod power;

#[cfg(any(test, feature = "testing"))]
pub use faults::{Fault, FaultPlan};
#[cfg(any(test, feature = "testing"))]
pub use power::Names;

/// How files are changed. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    #[cfg(any(test, feature = "testing"))]
    faults: Option<Arc<faults::Faults>>,
}

/// A file open for writing.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
    disk: Disk,
    /// Tells it from others in the tests' record of what a power cut would leave.
    number: usize,
}

/// An open directory, held from before a change of its names until they are durable.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
    disk: Disk,
}

/// What can be asked of a disk, as far as it can fail by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A file is created, or opened for writing.
    Open,
    /// Bytes are written to a file.
    Write,
    /// A file is made durable.
    Sync,
    /// A file is cut to a length.
    Truncate,
    /// A file or directory gets another name.
    Rename,
    /// A file gets a second name.
    Link,
    /// A file, or a directory with all it holds, is removed.
    Remove,
    /// A directory is created.
    CreateDirectory,
    /// The names in a directory are made durable.
    SyncDirectory,
}

impl Disk {
    /// The operating system's.
    pub fn real() -> Self {
        Self::default()
    }

    /// Creates a file, or empties the one there is, for writing at its end.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(&self, path: &Path) -> io::Result<DiskFile> {
        let mut options = OpenOptions::new();
        let file = self.open_with(path, options.write(true).create(true).truncate(true).mode(0o600))?;
        self.note(Event::Truncated { number: file.number, length: 0 });
        Ok(file)
    }

    /// Opens a file that exists, for writing at its end.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn append(&self, path: &Path) -> io::Result<DiskFile> {
        self.open_with(path, OpenOptions::new().append(true))
    }

    /// Opens a file that exists, for [`DiskFile::write_at`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn overwrite(&self, path: &Path) -> io::Result<DiskFile> {
        self.open_with(path, OpenOptions::new().write(true))
    }

    /// Opens a file for reading and writing, creating it if missing and leaving what it holds.
    pub(crate) fn open_or_create(&self, path: &Path) -> io::Result<DiskFile> {
        let mut options = OpenOptions::new();
        self.open_with(path, options.read(true).write(true).create(true).truncate(false).mode(0o600))
    }

    /// Gives a file or directory another name; a file that has that name is replaced. Durable after
    /// [`Directory::sync`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.attempt(Operation::Rename)?;
        fs::rename(from, to)?;
        self.note(Event::Renamed { from, to });
        Ok(())
    }

    /// Gives a file a second name. Durable after [`Directory::sync`].
    ///
    /// # Errors
    /// What the operating system says; among others if both names would not lie on one file system.
    pub fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.attempt(Operation::Link)?;
        fs::hard_link(from, to)?;
        self.note(Event::Linked { from, to });
        Ok(())
    }

    /// Removes a file. Durable after [`Directory::sync`].
    ///
    /// # Errors
    /// What the operating system says; also if there is no such file.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.attempt(Operation::Remove)?;
        fs::remove_file(path)?;
        self.note(Event::Removed(path));
        Ok(())
    }

    /// Removes a directory with everything in it. Durable after [`Directory::sync`] of the one above.
    ///
    /// # Errors
    /// What the operating system says; also if there is no such directory.
    pub fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.attempt(Operation::Remove)?;
        fs::remove_dir_all(path)
    }

    /// Makes sure that a directory, and those above it, exist and keep their names through a power failure. Costs
    /// one fsync if it exists already.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create_directory(&self, path: &Path) -> io::Result<()> {
        let above = match path.parent() {
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            Some(above) => above,
            None => return Ok(()),
        };
        if !above.is_dir() {
            self.create_directory(above)?;
        }
        let held = match self.directory(above) {
            // A directory that may be passed but not read belongs to somebody else, who keeps its names.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.is_dir() => return Ok(()),
            held => held?,
        };
        if !path.is_dir() {
            self.attempt(Operation::CreateDirectory)?;
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                created => created?,
            }
            self.note(Event::CreatedDirectory(path));
        }
        held.sync()
    }

    /// Opens a directory, so that changes of its names can be made durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn directory(&self, path: &Path) -> io::Result<Directory> {
        let file = File::open(path)?;
        Ok(Directory { file, path: path.to_owned(), disk: self.clone() })
    }

    /// Gives the file `name` in `directory` these bytes, all or none of them whatever happens, and returns when
    /// they are durable. Uses `<name>.tmp` beside it, which a crash or a failure may leave behind.
    ///
    /// # Errors
    /// What the operating system says. Whether the file then has the old bytes or the new is not known.
    pub fn write_atomically(&self, directory: &Directory, name: &str, bytes: &[u8]) -> io::Result<()> {
        let draft = directory.path.join(format!("{name}.tmp"));
        let mut file = self.create(&draft)?;
        file.write_all(bytes)?;
        file.sync()?;
        self.rename(&draft, &directory.path.join(name))?;
        directory.sync()
    }

    /// Copies the first `length` bytes of a file into a new one and makes its content durable. The name is durable
    /// after [`Directory::sync`].
    ///
    /// # Errors
    /// What the operating system says; also if the file is shorter.
    pub fn copy(&self, from: &Path, to: &Path, length: u64) -> io::Result<()> {
        let source = File::open(from)?;
        let mut target = self.create(to)?;
        let mut buffer = vec![0; 256 * 1024];
        let mut offset = 0_u64;
        while offset < length {
            let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            source.read_exact_at(piece, offset)?;
            target.write_all(piece)?;
            offset = offset.saturating_add(wanted as u64);
        }
        target.sync()
    }

    /// Makes a file that somebody wrote durable.
    pub(crate) fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.attempt(Operation::Sync)?;
        let file = File::open(path)?;
        if self.is_patient() {
            file.sync_all()?;
        }
        self.note(Event::SyncedPath(path));
        Ok(())
    }

    /// Makes every file below a directory, and every name in it, durable.
    pub(crate) fn sync_tree(&self, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.sync_tree(&entry.path())?;
            } else {
                self.sync_file(&entry.path())?;
            }
        }
        self.directory(path)?.sync()
    }

    fn open_with(&self, path: &Path, options: &OpenOptions) -> io::Result<DiskFile> {
        self.attempt(Operation::Open)?;
        let file = options.open(path)?;
        let number = self.note(Event::Opened(path));
        Ok(DiskFile { file, path: path.to_owned(), disk: self.clone(), number })
    }

    /// Records what was done; says the number of a file that was opened.
    #[cfg(any(test, feature = "testing"))]
    fn note(&self, event: Event<'_>) -> usize {
        let power = self.faults.as_ref().and_then(|faults| faults.power());
        power.map_or(0, |power| power.note(event))
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only the tests' disk keeps a record")]
    fn note(&self, _: Event<'_>) -> usize {
        0
    }

    /// Whether a sync waits for the device. That of a test need not: its processes are killed, its machine is not.
    #[cfg(any(test, feature = "testing"))]
    fn is_patient(&self) -> bool {
        self.faults.is_none()
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only the tests' disk does not wait")]
    fn is_patient(&self) -> bool {
        true
    }

    /// Fails where a test wants it.
    #[cfg(any(test, feature = "testing"))]
    fn attempt(&self, operation: Operation) -> io::Result<()> {
        self.attempt_write(operation).map_err(|torn| torn.error)
    }

    #[cfg(any(test, feature = "testing"))]
    fn attempt_write(&self, operation: Operation) -> Result<(), Torn> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.attempt(operation))
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the tests' disk fails here")]
    fn attempt(&self, _: Operation) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the tests' disk fails here")]
    fn attempt_write(&self, _: Operation) -> Result<(), Torn> {
        Ok(())
    }
}

/// Something that was done, as the tests' record of what a power cut would leave has to know it.
#[cfg_attr(
    not(any(test, feature = "testing")),
    expect(dead_code, reason = "only the tests' disk keeps a record")
)]
enum Event<'a> {
    Opened(&'a Path),
    /// At the end, if no offset is given.
    Written {
        number: usize,
        offset: Option<u64>,
        bytes: &'a [u8],
    },
    Truncated {
        number: usize,
        length: u64,
    },
    Synced {
        number: usize,
    },
    /// A sync failed.
    Unsynced {
        number: usize,
    },
    SyncedPath(&'a Path),
    Renamed {
        from: &'a Path,
        to: &'a Path,
    },
    Linked {
        from: &'a Path,
        to: &'a Path,
    },
    Removed(&'a Path),
    CreatedDirectory(&'a Path),
    SyncedDirectory(&'a Path),
}

/// A write that is to fail after its first bytes.
struct Torn {
    bytes: usize,
    error: io::Error,
}

impl DiskFile {
    /// Writes all bytes at `offset`.
    ///
    /// # Errors
    /// What the operating system says; some of the bytes may have been written.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(torn) = self.disk.attempt_write(Operation::Write) {
            let written = bytes.get(..torn.bytes).unwrap_or(bytes);
            self.file.write_all_at(written, offset)?;
            self.disk.note(self.written(Some(offset), written));
            return Err(torn.error);
        }
        self.file.write_all_at(bytes, offset)?;
        self.disk.note(self.written(Some(offset), bytes));
        Ok(())
    }

    /// Makes what was written durable. After an error it must not be tried again: the kernel may have dropped what
    /// it could not write.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync(&mut self) -> io::Result<()> {
        let number = self.number;
        if let Err(error) = self.disk.attempt(Operation::Sync) {
            self.disk.note(Event::Unsynced { number });
            return Err(error);
        }
        if self.disk.is_patient() {
            self.file.sync_data()?;
        }
        self.disk.note(Event::Synced { number });
        Ok(())
    }

    /// Cuts the file, or fills it with zeros, to `length` bytes.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk.attempt(Operation::Truncate)?;
        self.file.set_len(length)?;
        self.disk.note(Event::Truncated { number: self.number, length });
        Ok(())
    }

    /// Where the file lay when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn written<'a>(&self, offset: Option<u64>, bytes: &'a [u8]) -> Event<'a> {
        Event::Written { number: self.number, offset, bytes }
    }

    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }
}

impl Write for DiskFile {
    /// Writes all of `bytes` as one operation.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(torn) = self.disk.attempt_write(Operation::Write) {
            let written = bytes.get(..torn.bytes).unwrap_or(bytes);
            self.file.write_all(written)?;
            self.disk.note(self.written(None, written));
            return Err(torn.error);
        }
        self.file.write_all(bytes)?;
        self.disk.note(self.written(None, bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Directory {
    /// Makes all changes of names in the directory durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.attempt(Operation::SyncDirectory)?;
        if self.disk.is_patient() {
            self.file.sync_all()?;
        }
        self.disk.note(Event::SyncedDirectory(&self.path));
        Ok(())
    }

    /// Which directory it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(any(test, feature = "testing"))]
mod faults {
    use std::collections::BTreeMap;
    use std::io;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use super::power::Power;
    use super::{Disk, Operation, Torn};

    /// Which operation of a disk fails, and how.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct FaultPlan {
        /// Counted from 1, from when the plan was given.
        pub at: u64,
        /// Count only operations of this kind; all kinds if nothing.
        pub only: Option<Operation>,
        /// What happens.
        pub fault: Fault,
    }

    /// How an operation fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// Input/output error, and nothing was done.
        Io,
        /// No space left on the device, and nothing was done.
        NoSpace,
        /// Input/output error; of a write, the first `bytes` bytes reached the file.
        Torn {
            /// How many.
            bytes: usize,
        },
        /// This and every later operation fails with an input/output error, and nothing is done.
        Everything,
    }

    impl FaultPlan {
        /// The n-th operation, whatever it is, counted from 1.
        pub fn nth(at: u64, fault: Fault) -> Self {
            Self { at, only: None, fault }
        }

        /// The n-th operation of one kind, counted from 1.
        pub fn nth_of(only: Operation, at: u64, fault: Fault) -> Self {
            Self { at, only: Some(only), fault }
        }
    }

    impl Disk {
        /// A disk that counts, and fails as planned. Its syncs do not wait for the device: what it has written
        /// outlasts the process, but not the machine.
        pub fn failing(plan: FaultPlan) -> Self {
            let disk = Self::counting();
            disk.plan(plan);
            disk
        }

        /// The same before there is a plan; see [`Disk::plan`].
        pub fn counting() -> Self {
            Self { faults: Some(Arc::new(Faults::default())) }
        }

        /// Fails as planned, counted from now; a plan made before is forgotten.
        ///
        /// # Panics
        /// On a disk that does not count.
        pub fn plan(&self, plan: FaultPlan) {
            let mut state = self.state();
            state.plan = Some(plan);
            state.since = 0;
            state.fired = false;
        }

        /// Whether the plan was reached.
        ///
        /// # Panics
        /// On a disk that does not count.
        pub fn has_failed(&self) -> bool {
            self.state().fired
        }

        /// Operations so far.
        ///
        /// # Panics
        /// On a disk that does not count.
        pub fn operations(&self) -> u64 {
            self.state().counts.values().sum()
        }

        /// Operations of one kind so far.
        ///
        /// # Panics
        /// On a disk that does not count.
        pub fn operations_of(&self, operation: Operation) -> u64 {
            self.state().counts.get(&(operation as u8)).copied().unwrap_or_default()
        }

        #[expect(clippy::expect_used, reason = "only tests get here, and they should fail loudly")]
        fn state(&self) -> MutexGuard<'_, State> {
            self.faults.as_ref().expect("a disk that counts").lock()
        }
    }

    #[derive(Debug, Default)]
    pub(super) struct Faults {
        state: Mutex<State>,
        /// What a power cut would leave, if that is to be known.
        power: Option<Power>,
    }

    #[derive(Debug, Default)]
    struct State {
        counts: BTreeMap<u8, u64>,
        plan: Option<FaultPlan>,
        /// Operations counted by the plan.
        since: u64,
        fired: bool,
    }

    impl Faults {
        pub(super) fn with_power(power: Power) -> Self {
            Self { power: Some(power), ..Self::default() }
        }

        pub(super) fn power(&self) -> Option<&Power> {
            self.power.as_ref()
        }

        pub(super) fn attempt(&self, operation: Operation) -> Result<(), Torn> {
            let mut state = self.lock();
            let count = state.counts.entry(operation as u8).or_default();
            *count = count.saturating_add(1);
            let Some(plan) = state.plan else { return Ok(()) };
            if plan.only.is_none_or(|only| only == operation) {
                state.since = state.since.saturating_add(1);
                state.fired |= state.since == plan.at;
            } else if plan.fault != Fault::Everything {
                return Ok(());
            }
            let fails = if plan.fault == Fault::Everything { state.fired } else { state.since == plan.at };
            if fails { Err(plan.fault.torn()) } else { Ok(()) }
        }

        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Fault {
        fn torn(self) -> Torn {
            let io = || io::Error::from(rustix::io::Errno::IO);
            match self {
                Self::Io | Self::Everything => Torn { bytes: 0, error: io() },
                Self::NoSpace => Torn { bytes: 0, error: io::Error::from(rustix::io::Errno::NOSPC) },
                Self::Torn { bytes } => Torn { bytes, error: io() },
            }
        }
    }
}
