//! Reads groups of published files, on a thread of its own.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use huitong_catalog::SourceFile;
use huitong_proof::{Content, GROUP_BYTES, GroupPlace};
use tokio::sync::mpsc;

use crate::ranges::Ranges;
use crate::share::Buffers;

/// Consecutive groups of 1 MiB at most: the first one, how many, and their bytes.
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) groups: u64,
    pub(super) data: Bytes,
}

/// Runs that are read ahead, if the exchange may hold as many.
const READ_AHEAD: usize = 4;

/// Streams the wanted groups in order, or says why there are no more. The reader stops when the receiver is dropped.
pub(super) fn runs(
    files: Vec<SourceFile>,
    content: Arc<Content>,
    wanted: Ranges,
    buffers: Buffers,
) -> mpsc::Receiver<Result<Run, String>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader { files, content, buffers, open: None };
        for range in wanted.iter() {
            let mut first = range.start;
            while first < range.end {
                let groups = reader.content.run(first, range.end, GROUP_BYTES);
                let outcome = reader.read(first, groups).map(|data| Run { first, groups, data });
                let failed = outcome.is_err();
                if sender.blocking_send(outcome).is_err() || failed {
                    return;
                }
                first = first.saturating_add(groups);
            }
        }
    });
    receiver
}

struct Reader {
    files: Vec<SourceFile>,
    content: Arc<Content>,
    buffers: Buffers,
    /// The file that was read last.
    open: Option<(usize, File)>,
}

impl Reader {
    fn read(&mut self, first: u64, groups: u64) -> Result<Bytes, String> {
        let places: Vec<GroupPlace> =
            (first..first.saturating_add(groups)).filter_map(|group| self.content.place(group)).collect();
        let length = places.iter().map(|place| place.length).fold(0, u64::saturating_add);
        let mut buffer = self.buffers.take();
        buffer.reserve_exact(usize::try_from(length).unwrap_or(0));
        for place in places {
            let file = self.files.get(place.file).ok_or("a file of the dataset is missing")?;
            let open = match self.open.take() {
                Some((at, open)) if at == place.file => Ok(open),
                _ => File::open(&file.path),
            };
            let read = open.and_then(|open| {
                append(&mut buffer, &open, &place)?;
                self.open = Some((place.file, open));
                Ok(())
            });
            read.map_err(|error| format!("{}: {error}", file.path.display()))?;
            // A file that changes while it is read must not pass for what was agreed: its size and modification time are
            // looked at after the bytes, and the consumer verifies every group in any case.
            file.check_unchanged().map_err(|error| error.to_string())?;
        }
        Ok(self.buffers.filled(buffer))
    }
}

fn append(buffer: &mut Vec<u8>, file: &File, place: &GroupPlace) -> io::Result<()> {
    let length = usize::try_from(place.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let before = buffer.len();
    let end = before.saturating_add(length);
    buffer.reserve(length);
    while buffer.len() < end {
        let at = place.offset.saturating_add(buffer.len().saturating_sub(before) as u64);
        if rustix::io::pread(file, rustix::buffer::spare_capacity(buffer), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // There may be room for more than was asked for.
        buffer.truncate(end);
    }
    Ok(())
}
