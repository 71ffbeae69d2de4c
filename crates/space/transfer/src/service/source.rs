//! Reads groups of a published file, on a thread of its own.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

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
            let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
            // A file that changes while it is read must not pass for what was agreed: its size and modification time
            // are looked at after the bytes, and the consumer verifies every group in any case.
            let read = file
                .read_exact_at(&mut buffer, offset)
                .map_err(|error| format!("{}: {error}", source.path.display()))
                .and_then(|()| source.check_unchanged().map_err(|error| error.to_string()));
            let outcome = read.map(|()| (group, Bytes::from(buffer)));
            let failed = outcome.is_err();
            if sender.blocking_send(outcome).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
