//! One store, one process.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::OpenError;
use crate::disk::{Disk, DiskFile};

/// A directory taken for one store alone, until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: DiskFile,
}

/// The file that is locked.
pub(crate) const LOCK: &str = "lock";

impl Lock {
    /// Takes a directory that exists.
    pub(crate) fn take(directory: &Path, disk: &Disk) -> Result<Self, OpenError> {
        let path: PathBuf = directory.join(LOCK);
        let mut file = disk.open_or_create(&path).map_err(OpenError::io("open", &path))?;
        match rustix::fs::flock(file.as_file(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = match fs::read_to_string(&path).unwrap_or_default().trim() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                return Err(OpenError::Locked { directory: directory.to_owned(), holder });
            }
            Err(errno) => return Err(OpenError::io("lock", &path)(errno.into())),
        }
        // The lock is what counts; the number in the file is only there for the refusal above.
        file.truncate(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(OpenError::io("write", &path))?;
        Ok(Self { _file: file })
    }
}
