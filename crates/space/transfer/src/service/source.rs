//! Reads groups of a published file, on a thread of its own.

use std::fs::File;
use std::io;

use bytes::Bytes;
use huitong_catalog::Source;
use huitong_proof::GROUP_BYTES;
use tokio::sync::mpsc;

/// One group, or why there is none.
pub(super) type Read = Result<(u64, Bytes), String>;

/// Groups that are read ahead.
const READ_AHEAD: usize = 4;

/// Streams the groups from `first` to the end. The reader stops when the receiver is dropped.
pub(super) fn groups(source: Source, first: u64, end: u64) -> mpsc::Receiver<Read> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let file = match File::open(&source.path) {
            Ok(file) => file,
            Err(error) => {
                let _ = sender.blocking_send(Err(format!("{}: {error}", source.path.display())));
                return;
            }
        };
        for group in first..end {
            let offset = group.saturating_mul(GROUP_BYTES);
            let length = GROUP_BYTES.min(source.size.saturating_sub(offset));
            // A file that changes while it is read must not pass for what was agreed: its size and modification time
            // are looked at after the bytes, and the consumer verifies every group in any case.
            let outcome = read_at(&file, offset, length)
                .map_err(|error| format!("{}: {error}", source.path.display()))
                .and_then(|bytes| match source.check_unchanged() {
                    Ok(()) => Ok((group, bytes)),
                    Err(error) => Err(error.to_string()),
                });
            let failed = outcome.is_err();
            if sender.blocking_send(outcome).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Reads into memory that was not written before: a group is large enough for that to count.
fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let at = offset.saturating_add(buffer.len() as u64);
        if rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    buffer.truncate(length);
    Ok(Bytes::from(buffer))
}
