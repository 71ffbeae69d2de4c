//! Reads groups of published files, on a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// A run ends early when it has taken this long, as one of many files on another machine may: both sides give up an exchange in which
/// nothing comes for a minute.
const LONGEST_RUN: Duration = Duration::from_secs(10);

/// What a reader reads. When this is dropped the reader ends, also one that waits for a buffer: what nobody takes could keep
/// all buffers, and the thread, for ever.
pub(super) struct Runs {
    runs: mpsc::Receiver<Result<Run, ServiceError>>,
    buffers: Buffers,
}

impl Runs {
    /// The next run, or why there are no more.
    pub(super) async fn recv(&mut self) -> Option<Result<Run, ServiceError>> {
        self.runs.recv().await
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.buffers.close();
    }
}

/// Streams the wanted groups in order, or says why there are no more.
pub(super) fn runs(source: OpenSource, content: Arc<Content>, wanted: Ranges, buffers: Buffers) -> Runs {
    runs_within(LONGEST_RUN, source, content, wanted, buffers)
}

fn runs_within(
    longest: Duration,
    source: OpenSource,
    content: Arc<Content>,
    wanted: Ranges,
    buffers: Buffers,
) -> Runs {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let buffers = buffers.for_reader();
    let runs = Runs { runs: receiver, buffers: buffers.clone() };
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader { longest, source, content, buffers, open: None };
        for range in wanted.iter() {
            let mut first = range.start;
            while first < range.end {
                let groups = reader.content.run(first, range.end, GROUP_BYTES);
                let Some(buffer) = reader.buffers.take() else { return };
                let outcome = reader.read(first, groups, buffer);
                let Some(next) = outcome.as_ref().ok().map(|run| first.saturating_add(run.groups)) else {
                    let _ = sender.blocking_send(outcome);
                    return;
                };
                if sender.blocking_send(outcome).is_err() {
                    return;
                }
                first = next;
            }
        }
    });
    runs
}

struct Reader {
    longest: Duration,
    source: OpenSource,
    content: Arc<Content>,
    buffers: Buffers,
    /// The file that was read last.
    open: Option<(usize, SourceReader)>,
}

impl Reader {
    /// As many groups, or as many of them as can be read in time, but one at least.
    fn read(&mut self, first: u64, groups: u64, mut buffer: Vec<u8>) -> Result<Run, ServiceError> {
        let began = Instant::now();
        let mut read = 0_u64;
        let places: Vec<GroupPlace> =
            (first..first.saturating_add(groups)).filter_map(|group| self.content.place(group)).collect();
        let length = places.iter().map(|place| place.length).fold(0, u64::saturating_add);
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
            open.append_until(self.buffers.closed(), place.offset, length, &mut buffer)?;
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
            read = read.saturating_add(1);
            if began.elapsed() >= self.longest {
                break;
            }
        }
        Ok(Run { first, groups: read, data: self.buffers.filled(buffer) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::share::Share;
    use crate::tests::{ALWAYS, MIB, Space, policy};

    #[tokio::test]
    async fn a_run_that_takes_too_long_goes_as_far_as_it_is() {
        let files = BTreeMap::from([("a", vec![1; 5]), ("b", vec![2; 7]), ("c", vec![3; 9])]);
        let space = Space::of_files(files, MIB, &policy(&[ALWAYS])).await;
        let shelf = &space.provider.shelf;
        let product = shelf.product(&space.product).unwrap().unwrap();
        let content = Arc::new(shelf.content(&product).unwrap());
        for (longest, expected) in
            [(LONGEST_RUN, vec![(0, 3, 21)]), (Duration::ZERO, vec![(0, 1, 5), (1, 1, 7), (2, 1, 9)])]
        {
            let files = shelf.open(&product, &content).unwrap();
            let buffers = Buffers::new(Share::default().join());
            let mut reader = runs_within(longest, files, Arc::clone(&content), Ranges::of(0..3), buffers);
            let mut seen = Vec::new();
            while let Some(run) = reader.recv().await {
                let run = run.unwrap();
                seen.push((run.first, run.groups, run.data.len()));
            }
            assert_eq!(seen, expected);
        }
    }

    #[tokio::test]
    async fn a_reader_ends_with_whoever_takes_its_runs() {
        let space = Space::new(8 * MIB, MIB, &policy(&[ALWAYS])).await;
        let shelf = &space.provider.shelf;
        let product = shelf.product(&space.product).unwrap().unwrap();
        let content = Arc::new(shelf.content(&product).unwrap());
        let files = shelf.open(&product, &content).unwrap();
        // So many exchanges that each may hold two runs.
        let share = Share::default();
        let _others: Vec<_> = (1..32).map(|_| share.join()).collect();
        let buffers = Buffers::new(share.join());
        let wanted = Ranges::of(0..8);
        let mut reader = runs(files, Arc::clone(&content), wanted, buffers);
        let _stuck = [reader.recv().await.unwrap().unwrap(), reader.recv().await.unwrap().unwrap()];
        drop(reader);
        let began = Instant::now();
        while Arc::strong_count(&content) > 1 {
            assert!(began.elapsed() < Duration::from_secs(1), "it waits for a buffer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
