//! What of a content a consumer has already: what is acknowledged, what an earlier run has left, and what has not changed
//! since the delivery before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use huitong_proof::{Content, GROUP_BYTES};
use rustix::fs::OFlags;

use super::destination::file_path;
use super::sink;
use crate::ranges::Ranges;

/// Finds out which groups are missing. What is acknowledged is there if its file is long enough; everything else is there
/// if its bytes are right. Missing groups that `before`, the content that was delivered last under the same name, has in
/// the same place are copied from there.
pub(super) fn take(
    part: &Path,
    content: &Content,
    acknowledged: u64,
    before: Option<&Path>,
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
            let there = length >= end
                && match &found {
                    _ if group < acknowledged => true,
                    Some((found, _)) => stock.is_right(found, group)?,
                    None => false,
                };
            if there {
                continue;
            }
            let base = match (&base, before) {
                (Some(base), _) => base,
                (None, Some(before)) => &*base.insert(read(&file_path(before, content, file))?),
                (None, None) => &None,
            };
            if let Some((base, length)) = base
                && *length >= end
                && stock.is_right(base, group)?
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
