//! Content roots: BLAKE3's own tree, cut at groups of 1 MiB.
//!
//! The root of a content is its ordinary BLAKE3 hash, what `b3sum FILE` prints. The leaves are the chaining values of
//! its 1 MiB groups, so a receiver that holds the leaves can check each group by itself, in any order.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::digest::{HexError, read_hex, write_hex};

/// Bytes in a group; only the last group of a content may be shorter.
pub const GROUP_BYTES: u64 = 1 << GROUP_LOG2;
/// [`GROUP_BYTES`] as a power of two.
pub const GROUP_LOG2: u8 = 20;

const LEAF_BYTES: usize = 32;

/// The value of one group: its BLAKE3 chaining value at its place in the content, or the root if it is the only group.
pub type LeafValue = [u8; LEAF_BYTES];

/// The groups of a content of `size` bytes: 0 for an empty one.
pub fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES)
}

/// The BLAKE3 hash of a whole content. Written as 64 lower-case hexadecimal digits, and read in exactly that form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentRoot([u8; 32]);

impl ContentRoot {
    /// Takes exactly 32 bytes as a root, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Takes 32 bytes as a root.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for ContentRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for ContentRoot {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        read_hex(text).map(Self)
    }
}

/// Size, leaves and root of a content. Takes 32 bytes of memory per MiB of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentTree {
    size: u64,
    leaves: Vec<LeafValue>,
    root: ContentRoot,
}

impl ContentTree {
    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root.
    pub fn root(&self) -> ContentRoot {
        self.root
    }

    /// Number of groups, which is the number of leaves.
    pub fn groups(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The leaf values end to end, 32 bytes each; nothing for an empty content.
    pub fn leaf_bytes(&self) -> Vec<u8> {
        self.leaves.concat()
    }

    /// Takes the leaf values that a peer sent for a content of known size and root.
    ///
    /// # Errors
    /// [`ContentError::LeafBytes`] unless there are 32 bytes for each group, [`ContentError::Root`] unless they merge
    /// to `root`.
    pub fn from_leaf_bytes(size: u64, bytes: &[u8], root: &ContentRoot) -> Result<Self, ContentError> {
        let expected = group_count(size).saturating_mul(LEAF_BYTES as u64);
        let found = bytes.len() as u64;
        if found != expected {
            return Err(ContentError::LeafBytes { expected, found });
        }
        let leaves: Vec<LeafValue> = bytes.as_chunks().0.to_vec();
        if merge(&leaves) != *root {
            return Err(ContentError::Root);
        }
        Ok(Self { size, leaves, root: *root })
    }

    /// The byte range of group `index`, `None` beyond the last.
    pub fn group_range(&self, index: u64) -> Option<Range<u64>> {
        group_range(self.size, index)
    }

    /// Checks that `bytes` are group `index` of this content.
    ///
    /// # Errors
    /// [`ContentError::NoSuchGroup`], [`ContentError::GroupLength`], [`ContentError::GroupBytes`].
    pub fn verify_group(&self, index: u64, bytes: &[u8]) -> Result<(), ContentError> {
        let leaf = usize::try_from(index).ok().and_then(|index| self.leaves.get(index));
        let (Some(leaf), Some(range)) = (leaf, self.group_range(index)) else {
            return Err(ContentError::NoSuchGroup { index, groups: self.groups() });
        };
        let (expected, found) = (range.end - range.start, bytes.len() as u64);
        if found != expected {
            return Err(ContentError::GroupLength { index, expected, found });
        }
        if leaf_value(self.size, range.start, bytes) != *leaf {
            return Err(ContentError::GroupBytes { index });
        }
        Ok(())
    }

    /// Hashes a file on all cores, with about 1 MiB of memory per core beside the leaves.
    ///
    /// `progress` is called on the calling thread with the bytes done so far, ending with the size; it need not be
    /// called for an empty file.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for anything but a regular file; `UnexpectedEof` or `InvalidData` when the
    /// size changes while the file is read.
    pub fn of_file(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let size = metadata.len();
        let leaves = hash_groups(&file, size, progress)?;
        if file.metadata()?.len() != size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file changed while it was read"));
        }
        Ok(Self::from_leaves(size, leaves))
    }

    /// Hashes bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        let groups = bytes.chunks(GROUP_BYTES as usize).zip((0..).step_by(GROUP_BYTES as usize));
        Self::from_leaves(size, groups.map(|(group, start)| leaf_value(size, start, group)).collect())
    }

    fn from_leaves(size: u64, leaves: Vec<LeafValue>) -> Self {
        Self { size, root: merge(&leaves), leaves }
    }
}

/// Why leaves or a group were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Not 32 bytes for each group.
    #[error("leaf values: expected {expected} bytes for this size, found {found}")]
    LeafBytes {
        /// Bytes the size calls for.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The leaves belong to another root.
    #[error("leaf values do not merge to the root")]
    Root,
    /// An index beyond the last group.
    #[error("group {index}: the content has {groups} groups")]
    NoSuchGroup {
        /// The index asked for.
        index: u64,
        /// Groups there are.
        groups: u64,
    },
    /// A group of the wrong length.
    #[error("group {index}: expected {expected} bytes, found {found}")]
    GroupLength {
        /// The group.
        index: u64,
        /// Bytes it has.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// Bytes that are not those of the content.
    #[error("group {index}: the bytes are not those of the content")]
    GroupBytes {
        /// The group.
        index: u64,
    },
}

fn group_range(size: u64, index: u64) -> Option<Range<u64>> {
    let start = index.checked_mul(GROUP_BYTES).filter(|start| *start < size)?;
    Some(start..start.saturating_add(GROUP_BYTES).min(size))
}

/// A group that is the whole content has no parent, so its value is the root.
fn leaf_value(size: u64, start: u64, group: &[u8]) -> LeafValue {
    if size <= GROUP_BYTES {
        return *blake3::hash(group).as_bytes();
    }
    blake3::Hasher::new().set_input_offset(start).update(group).finalize_non_root()
}

/// Joins leaves the way BLAKE3 does: a left subtree holds the largest power of two of leaves below the total.
fn merge(leaves: &[LeafValue]) -> ContentRoot {
    // Complete subtrees, largest first. Two are joined only when a further leaf follows: the last join makes the root.
    let mut subtrees: Vec<LeafValue> = Vec::with_capacity(u64::BITS as usize);
    for (before, leaf) in leaves.iter().enumerate() {
        while subtrees.len() > before.count_ones() as usize {
            join_last(&mut subtrees);
        }
        subtrees.push(*leaf);
    }
    let Some(mut right) = subtrees.pop() else { return ContentRoot(*blake3::hash(b"").as_bytes()) };
    while let Some(left) = subtrees.pop() {
        if subtrees.is_empty() {
            return ContentRoot(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes());
        }
        right = merge_subtrees_non_root(&left, &right, Mode::Hash);
    }
    // A single leaf is the root already.
    ContentRoot(right)
}

fn join_last(subtrees: &mut Vec<LeafValue>) {
    if let (Some(right), Some(left)) = (subtrees.pop(), subtrees.pop()) {
        subtrees.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
}

/// Workers take group after group from a shared counter, so reads stay nearly sequential; results come back unordered.
fn hash_groups(file: &File, size: u64, progress: &mut dyn FnMut(u64)) -> io::Result<Vec<LeafValue>> {
    const RESULTS_WAITING: usize = 64;
    let groups = group_count(size);
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "the leaves do not fit in memory");
    let mut leaves = vec![[0; LEAF_BYTES]; usize::try_from(groups).map_err(|_| too_large())?];
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let next = AtomicU64::new(0);
    let (sender, receiver) = sync_channel(RESULTS_WAITING);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(groups) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || hash_until_done(file, size, next, &sender));
        }
        drop(sender);
        // Leaving early on an error drops the receiver, at which every worker stops.
        let receiver = receiver;
        let mut done = 0;
        for result in &receiver {
            let (index, leaf): (u64, LeafValue) = result?;
            if let Some(slot) = usize::try_from(index).ok().and_then(|index| leaves.get_mut(index)) {
                *slot = leaf;
            }
            done += group_range(size, index).map_or(0, |range| range.end - range.start);
            progress(done);
        }
        Ok(())
    })
    .map(|()| leaves)
}

fn hash_until_done(
    file: &File,
    size: u64,
    next: &AtomicU64,
    results: &SyncSender<io::Result<(u64, LeafValue)>>,
) {
    let mut buffer = vec![0; GROUP_BYTES as usize];
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(range) = group_range(size, index) else { return };
        let Some(group) = buffer.get_mut(..(range.end - range.start) as usize) else { return };
        let result =
            file.read_exact_at(group, range.start).map(|()| (index, leaf_value(size, range.start, group)));
        let failed = result.is_err();
        if results.send(result).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
