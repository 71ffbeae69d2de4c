//! What of a content a consumer has already: what is acknowledged, what an earlier run has left, and what has not changed
//! since the delivery before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use huitong_proof::{Content, GROUP_BYTES};
use rustix::fs::OFlags;
use tokio::time::Instant;

use super::destination::file_path;
use super::sink;
use crate::ranges::Ranges;

/// How long may be looked for what is there: less than the provider waits for the acceptance. What has not been looked at by
/// then is moved: acknowledgements make that durable, which looking does not.
pub(super) const PATIENCE: Duration = Duration::from_secs(240);

/// When looking ends.
#[derive(Clone)]
pub(super) struct Patience {
    until: Instant,
    is_over: Arc<AtomicBool>,
}

impl Patience {
    pub(super) fn until(until: Instant) -> Self {
        Self { until, is_over: Arc::default() }
    }

    /// Ends it before its time.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

/// Finds out which groups are missing. What is acknowledged is there if its file is long enough; everything else is there
/// if its bytes are right. Missing groups that `before`, the content that was delivered last under the same name, has in
/// the same place are copied from there.
pub(super) fn take(
    part: &Path,
    content: &Content,
    acknowledged: u64,
    before: Option<&Path>,
    patience: &Patience,
) -> io::Result<Ranges> {
    let mut missing = Ranges::default();
    let mut stock = Stock { content, buffer: Vec::new() };
    if before.is_none() && !part.try_exists()? {
        return Ok(Ranges::of(0..content.groups()));
    }
    for file in 0..content.files() {
        let groups = content.file_groups(file);
        let path = file_path(part, content, file);
        let found = read(&path)?;
        let (length, size) = (found.as_ref().map_or(0, |(_, length)| *length), content.file_size(file));
        let size = size.unwrap_or(0);
        if length > size {
            fs::OpenOptions::new().write(true).open(&path)?.set_len(size)?;
        }
        let mut base = None;
        let mut written = None;
        for group in groups {
            let Some(place) = content.place(group) else { break };
            let end = place.offset.saturating_add(place.length);
            let may_look = group < acknowledged || !patience.is_over();
            let there = length >= end
                && match &found {
                    _ if group < acknowledged => true,
                    Some((found, _)) if may_look => stock.is_right(found, group)?,
                    Some(_) | None => false,
                };
            if there {
                continue;
            }
            // What cannot be read of the delivery before is no hindrance: it is as good as not there.
            let base = match (&base, before) {
                (Some(base), _) => base,
                (None, Some(before)) => {
                    &*base.insert(read(&file_path(before, content, file)).unwrap_or_default())
                }
                (None, None) => &None,
            };
            if let Some((base, length)) = base
                && may_look
                && *length >= end
                && stock.is_right(base, group).unwrap_or_default()
            {
                let to = match &written {
                    Some(to) => to,
                    None => &*written.insert(sink::make(&path)?),
                };
                to.write_all_at(&stock.buffer, place.offset)?;
                continue;
            }
            missing.push(group..group.saturating_add(1));
        }
    }
    Ok(missing.coarsened())
}

/// Forgets what was received beyond the acknowledged groups.
pub(super) fn discard(part: &Path, content: &Content, acknowledged: u64) -> io::Result<()> {
    for file in 0..content.files() {
        let groups = content.file_groups(file);
        if groups.end <= acknowledged {
            continue;
        }
        let path = file_path(part, content, file);
        let kept = acknowledged.max(groups.start);
        let length = content.place(kept).map_or(0, |place| place.offset);
        match fs::OpenOptions::new().write(true).open(&path) {
            Ok(found) if found.metadata()?.len() > length => found.set_len(length)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A regular file and its length; `None` where there is none.
fn read(path: &Path) -> io::Result<Option<(File, u64)>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Neither a link that leads elsewhere nor a pipe that never answers.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {
            let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            let length = file.metadata()?.len();
            Ok(Some((file, length)))
        }
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

struct Stock<'a> {
    content: &'a Content,
    /// The group that was looked at last.
    buffer: Vec<u8>,
}

impl Stock<'_> {
    /// Whether a file has this group where it belongs; the group is in the buffer then.
    fn is_right(&mut self, file: &File, group: u64) -> io::Result<bool> {
        let Some(place) = self.content.place(group) else { return Ok(false) };
        self.buffer.resize(usize::try_from(place.length.min(GROUP_BYTES)).unwrap_or(0), 0);
        file.read_exact_at(&mut self.buffer, place.offset)?;
        Ok(self.content.verify_group(group, &[&self.buffer]).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_there_was_no_time_to_look_at_is_moved() {
        let directory = tempfile::tempdir().unwrap();
        let (part, before) = (directory.path().join("part"), directory.path().join("before"));
        let bytes = vec![7; 3 * MIB + 5];
        let content = Content::of_bytes(&bytes);
        std::fs::write(&part, &bytes).unwrap();
        std::fs::write(&before, &bytes).unwrap();
        let take = |acknowledged, before, patience: &Patience| {
            super::take(&part, &content, acknowledged, before, patience).unwrap()
        };
        let long = Patience::until(Instant::now() + Duration::from_secs(3600));
        assert_eq!(take(1, None, &long), Ranges::default());
        let over = Patience::until(Instant::now());
        // What is acknowledged needs no look.
        assert_eq!(take(1, Some(before.as_path()), &over), Ranges::of(1..4));
        long.end();
        assert_eq!(take(2, Some(before.as_path()), &long), Ranges::of(2..4));
    }

    #[test]
    fn what_is_discarded_is_missing_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let part = directory.path().join("part");
        let files: Vec<_> = [("a", MIB), ("b", 2 * MIB + 3), ("c", 5)]
            .into_iter()
            .map(|(name, size)| {
                let path = part.join(name);
                std::fs::create_dir_all(&part).unwrap();
                std::fs::write(&path, vec![1; size]).unwrap();
                (name.to_owned(), path)
            })
            .collect();
        let content = Content::of_dataset(&files, &mut |_| ()).unwrap();
        assert_eq!(content.groups(), 5);
        for (acknowledged, lengths) in
            [(5, [MIB, 2 * MIB + 3, 5]), (3, [MIB, 2 * MIB, 0]), (2, [MIB, MIB, 0]), (0, [0, 0, 0])]
        {
            discard(&part, &content, acknowledged).unwrap();
            let found = files.iter().map(|(_, path)| std::fs::metadata(path).unwrap().len() as usize);
            assert_eq!(found.collect::<Vec<_>>(), lengths, "{acknowledged}");
            let patience = Patience::until(Instant::now() + Duration::from_secs(3600));
            let missing = take(&part, &content, acknowledged, None, &patience).unwrap();
            assert_eq!(missing.first(), (acknowledged < 5).then_some(acknowledged));
        }
        // Not there at all is fine.
        std::fs::remove_dir_all(&part).unwrap();
        discard(&part, &content, 0).unwrap();
    }
}
