//! Reads groups of published files, on a thread of its own.

use std::sync::Arc;

use bytes::Bytes;
use huitong_catalog::{OpenSource, SourceReader};
use huitong_identity::ServiceError;
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
    source: OpenSource,
    content: Arc<Content>,
    wanted: Ranges,
    buffers: Buffers,
) -> mpsc::Receiver<Result<Run, ServiceError>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader { source, content, buffers, open: None };
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
    source: OpenSource,
    content: Arc<Content>,
    buffers: Buffers,
    /// The file that was read last.
    open: Option<(usize, SourceReader)>,
}

impl Reader {
    fn read(&mut self, first: u64, groups: u64) -> Result<Bytes, ServiceError> {
        let places: Vec<GroupPlace> =
            (first..first.saturating_add(groups)).filter_map(|group| self.content.place(group)).collect();
        let length = places.iter().map(|place| place.length).fold(0, u64::saturating_add);
        let mut buffer = self.buffers.take();
        buffer.reserve_exact(usize::try_from(length).unwrap_or(0));
        for (group, place) in (first..).zip(places) {
            let missing = || ServiceError::Internal("a file of the dataset is missing".to_owned());
            let file = self.source.files.get(place.file).ok_or_else(missing)?;
            let open = match self.open.take() {
                Some((at, open)) if at == place.file => Ok(open),
                _ => file.reader(),
            };
            let length = usize::try_from(place.length).unwrap_or(usize::MAX);
            let (mut open, before) = (open?, buffer.len());
            open.append(place.offset, length, &mut buffer)?;
            // Nothing that was not agreed on leaves: what somebody has touched is compared first, also when size and modification
            // time are what they were.
            if !self.source.is_untouched || !open.is_untouched()? {
                let bytes = buffer.get(before..).unwrap_or_default();
                self.content.verify_group(group, &[bytes]).map_err(|error| ServiceError::Conflict {
                    reason: format!("a published file is not what it was: {error}"),
                })?;
            }
            self.open = Some((place.file, open));
            // A file that changes while it is read must not pass for what was agreed: its size and modification time are
            // looked at after the bytes, and the consumer verifies every group in any case.
            file.check_unchanged()?;
        }
        Ok(self.buffers.filled(buffer))
    }
}
