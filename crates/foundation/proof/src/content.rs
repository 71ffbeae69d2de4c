//! Content roots: BLAKE3's own tree, cut at groups of 1 MiB.
//!
//! The root of a content is its ordinary BLAKE3 hash, what `b3sum FILE` prints. The leaves are the chaining values of
//! its 1 MiB groups, so a receiver that holds the leaves can check each group by itself, in any order. A dataset of many
//! files has a manifest that names the root of each; its own root is the BLAKE3 hash of the manifest.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::digest::{HexError, read_hex, write_hex};

mod manifest;

pub use manifest::{MAX_FILES, MAX_MANIFEST_BYTES, Manifest, ManifestEntry, ManifestError, check_name};

/// Bytes in a group; only the last group of a content may be shorter.
pub const GROUP_BYTES: u64 = 1 << GROUP_LOG2;
/// [`GROUP_BYTES`] as a power of two.
pub const GROUP_LOG2: u8 = 20;

/// The most groups in a content, all its files together: 2 TiB of full ones, whose leaf values take 64 MiB.
pub const MAX_GROUPS: u64 = 1 << 21;

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

/// What a product consists of: one file, or the files of a manifest. Its groups are numbered across all files, in the
/// manifest's order; each file begins with a group of its own, and an empty one has none. Takes 32 bytes of memory per
/// group beside the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    manifest: Option<Manifest>,
    files: Vec<Extent>,
    leaves: Vec<LeafValue>,
    size: u64,
    root: ContentRoot,
}

/// Where a file lies among all groups and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    size: u64,
    first_group: u64,
    first_byte: u64,
}

/// Where a group lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    /// Index of the file; 0 in a content that is one file.
    pub file: usize,
    /// First byte in that file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Content {
    /// Bytes in all files.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What statements name: the file's BLAKE3 hash, or that of the manifest.
    pub fn root(&self) -> ContentRoot {
        self.root
    }

    /// The list of files, unless the content is one file.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of a file.
    pub fn file_size(&self, file: usize) -> Option<u64> {
        self.files.get(file).map(|file| file.size)
    }

    /// The groups of a file; none if there is no such file, or nothing in it.
    pub fn file_groups(&self, file: usize) -> Range<u64> {
        let Some(extent) = self.files.get(file) else { return 0..0 };
        extent.first_group..extent.first_group.saturating_add(group_count(extent.size))
    }

    /// Number of groups.
    pub fn groups(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Where a group lies, `None` beyond the last.
    pub fn place(&self, group: u64) -> Option<GroupPlace> {
        let (file, extent) = self.extent_of(group)?;
        let range = group_range(extent.size, group.saturating_sub(extent.first_group))?;
        Some(GroupPlace { file, offset: range.start, length: range.end - range.start })
    }

    /// The bytes of the first `groups` groups.
    pub fn prefix_bytes(&self, groups: u64) -> u64 {
        match self.extent_of(groups).and_then(|(_, extent)| {
            let in_file = groups.saturating_sub(extent.first_group).saturating_mul(GROUP_BYTES);
            extent.first_byte.checked_add(in_file)
        }) {
            Some(bytes) => bytes,
            None => self.size,
        }
    }

    /// How many groups from `first` on, and before `end`, have at most `bytes` bytes together; at least one if there is
    /// one at all.
    pub fn run(&self, first: u64, end: u64, bytes: u64) -> u64 {
        let (mut groups, mut sum) = (0u64, 0u64);
        while first.saturating_add(groups) < end {
            let Some(place) = self.place(first.saturating_add(groups)) else { break };
            sum = sum.saturating_add(place.length);
            if groups > 0 && sum > bytes {
                break;
            }
            groups = groups.saturating_add(1);
        }
        groups
    }

    /// What a receiver that knows root and manifest lacks in order to verify single groups: the leaf values of all files
    /// of more than one group, end to end, 32 bytes each. The leaf value of a single group is the file's root.
    pub fn leaf_bytes(&self) -> Vec<u8> {
        self.leaf_bytes_from(0, usize::MAX)
    }

    /// At most so many bytes of [`Content::leaf_bytes`], behind the first `skip` ones.
    pub fn leaf_bytes_from(&self, mut skip: usize, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for file in 0..self.files.len() {
            let groups = self.file_groups(file);
            if groups.end - groups.start <= 1 {
                continue;
            }
            let leaves = self.leaves_of(groups).as_flattened();
            let left = leaves.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(leaves.len());
            bytes.extend_from_slice(left.get(..most.saturating_sub(bytes.len())).unwrap_or(left));
            if bytes.len() >= most {
                break;
            }
        }
        bytes
    }

    /// How many bytes [`Content::leaf_bytes`] has for files of these sizes.
    pub fn leaf_byte_count(sizes: impl IntoIterator<Item = u64>) -> u64 {
        let groups = sizes.into_iter().map(group_count).filter(|groups| *groups > 1);
        groups.fold(0, u64::saturating_add).saturating_mul(LEAF_BYTES as u64)
    }

    /// One file of known size and root, with the leaf values that came from elsewhere.
    ///
    /// # Errors
    /// [`ContentError::LeafBytes`] unless there are as many as [`Content::leaf_byte_count`] says, [`ContentError::Root`]
    /// unless they merge to the root.
    pub fn of_file_leaves(size: u64, root: ContentRoot, leaves: &[u8]) -> Result<Self, ContentError> {
        let (files, leaves) = known(&[(size, root)], leaves)?;
        Ok(Self { manifest: None, files, leaves, size, root })
    }

    /// The files of a manifest, with the leaf values that came from elsewhere.
    ///
    /// # Errors
    /// As [`Content::of_file_leaves`].
    pub fn of_manifest_leaves(manifest: Manifest, leaves: &[u8]) -> Result<Self, ContentError> {
        let files: Vec<_> = manifest.entries().iter().map(|entry| (entry.size, entry.root)).collect();
        let (files, leaves) = known(&files, leaves)?;
        Ok(Self::of_manifest(manifest, files, leaves))
    }

    /// Checks that bytes, in any number of pieces, are group `index` of this content.
    ///
    /// # Errors
    /// [`ContentError::NoSuchGroup`], [`ContentError::GroupLength`], [`ContentError::GroupBytes`].
    pub fn verify_group<P: AsRef<[u8]>>(&self, index: u64, pieces: &[P]) -> Result<(), ContentError> {
        let leaf = usize::try_from(index).ok().and_then(|index| self.leaves.get(index));
        let (Some(leaf), Some(place)) = (leaf, self.place(index)) else {
            return Err(ContentError::NoSuchGroup { index, groups: self.groups() });
        };
        let length = |piece: &P| piece.as_ref().len() as u64;
        let (expected, found) = (place.length, pieces.iter().map(length).fold(0, u64::saturating_add));
        if found != expected {
            return Err(ContentError::GroupLength { index, expected, found });
        }
        if leaf_value(self.file_size(place.file).unwrap_or(0), place.offset, pieces) != *leaf {
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
        let (mut sizes, leaves) = hash_files(std::slice::from_ref(&path), progress)?;
        let size = sizes.pop().unwrap_or(0);
        let root = merge(&leaves);
        Ok(Self { manifest: None, files: extents([size]), leaves, size, root })
    }

    /// Hashes the files of a dataset, as [`Content::of_file`] does: where each lies in it, and where it is now.
    ///
    /// # Errors
    /// What the system says of a file; what makes them unfit for a manifest, as `InvalidInput`.
    pub fn of_dataset(files: &[(String, PathBuf)], progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let paths: Vec<&Path> = files.iter().map(|(_, path)| path.as_path()).collect();
        let (sizes, leaves) = hash_files(&paths, progress)?;
        let names = files.iter().map(|(name, _)| name.clone()).collect();
        Self::dataset(names, sizes, &leaves)
    }

    /// Hashes a content that lies elsewhere. `names` are those of a dataset's files, `None` stands for one file; `read` appends
    /// the bytes of one group after the other, in their order.
    ///
    /// # Errors
    /// What `read` says; `FileTooLarge`; what makes the files unfit for a manifest, as `InvalidInput`.
    pub fn of_groups<E: From<io::Error>>(
        names: Option<Vec<String>>,
        sizes: &[u64],
        mut read: impl FnMut(GroupPlace, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let groups = sizes.iter().copied().map(group_count).fold(0, u64::saturating_add);
        if groups > MAX_GROUPS {
            return Err(too_large().into());
        }
        let (mut leaves, mut buffer) = (Vec::new(), Vec::new());
        for (file, size) in sizes.iter().copied().enumerate() {
            for index in 0..group_count(size) {
                let range = group_range(size, index).unwrap_or(0..0);
                let place = GroupPlace { file, offset: range.start, length: range.end - range.start };
                buffer.clear();
                read(place, &mut buffer)?;
                leaves.push(leaf_value(size, place.offset, &[&buffer]));
            }
        }
        match names {
            Some(names) => Ok(Self::dataset(names, sizes.to_vec(), &leaves)?),
            None => {
                let (root, size) = (merge(&leaves), sizes.first().copied().unwrap_or(0));
                Ok(Self { manifest: None, files: extents([size]), leaves, size, root })
            }
        }
    }

    /// A dataset of files with these names and sizes, from the leaves of all of them in the same order.
    fn dataset(names: Vec<String>, sizes: Vec<u64>, leaves: &[LeafValue]) -> io::Result<Self> {
        let mut hashed: Vec<_> = names
            .into_iter()
            .zip(extents(sizes))
            .map(|(path, extent)| {
                let first = usize::try_from(extent.first_group).unwrap_or(usize::MAX);
                let count = usize::try_from(group_count(extent.size)).unwrap_or(usize::MAX);
                let leaves = leaves.get(first..first.saturating_add(count)).unwrap_or_default();
                (ManifestEntry { path, size: extent.size, root: merge(leaves) }, leaves)
            })
            .collect();
        hashed.sort_by(|(left, _), (right, _)| left.path.as_bytes().cmp(right.path.as_bytes()));
        let in_order = hashed.iter().flat_map(|(_, leaves)| leaves.iter().copied()).collect();
        let manifest = Manifest::new(hashed.into_iter().map(|(entry, _)| entry).collect())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let files = extents(manifest.entries().iter().map(|entry| entry.size));
        Ok(Self::of_manifest(manifest, files, in_order))
    }

    /// Hashes bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        let groups = bytes.chunks(GROUP_BYTES as usize).zip((0..).step_by(GROUP_BYTES as usize));
        let leaves: Vec<_> = groups.map(|(group, start)| leaf_value(size, start, &[group])).collect();
        let root = merge(&leaves);
        Self { manifest: None, files: extents([size]), leaves, size, root }
    }

    fn of_manifest(manifest: Manifest, files: Vec<Extent>, leaves: Vec<LeafValue>) -> Self {
        let size = files.last().map_or(0, |last| last.first_byte.saturating_add(last.size));
        Self { root: manifest.root(), manifest: Some(manifest), files, leaves, size }
    }

    fn leaves_of(&self, groups: Range<u64>) -> &[LeafValue] {
        let at = |group: u64| usize::try_from(group).unwrap_or(usize::MAX);
        self.leaves.get(at(groups.start)..at(groups.end)).unwrap_or_default()
    }

    /// The file that a group is of.
    fn extent_of(&self, group: u64) -> Option<(usize, Extent)> {
        if group >= self.groups() {
            return None;
        }
        // Empty files before a file begin with the same group: the last one that begins here or before has it.
        let file = self.files.partition_point(|file| file.first_group <= group).checked_sub(1)?;
        Some((file, *self.files.get(file)?))
    }
}

/// Files one behind the other.
fn extents(sizes: impl IntoIterator<Item = u64>) -> Vec<Extent> {
    let (mut first_group, mut first_byte) = (0u64, 0u64);
    let extent = |size| {
        let extent = Extent { size, first_group, first_byte };
        first_group = first_group.saturating_add(group_count(size));
        first_byte = first_byte.saturating_add(size);
        extent
    };
    sizes.into_iter().map(extent).collect()
}

/// The leaves of files with known sizes and roots, checked against those.
fn known(files: &[(u64, ContentRoot)], bytes: &[u8]) -> Result<(Vec<Extent>, Vec<LeafValue>), ContentError> {
    let expected = Content::leaf_byte_count(files.iter().map(|(size, _)| *size));
    let found = bytes.len() as u64;
    if found != expected {
        return Err(ContentError::LeafBytes { expected, found });
    }
    let (mut given, mut leaves) = (bytes.as_chunks().0, Vec::new());
    for (file, (size, root)) in files.iter().enumerate() {
        match group_count(*size) {
            0 if *root != merge(&[]) => return Err(ContentError::Root { file }),
            0 => {}
            1 => leaves.push(*root.as_bytes()),
            groups => {
                let of_file = usize::try_from(groups).ok().and_then(|groups| given.split_at_checked(groups));
                let (of_file, others) = of_file.ok_or(ContentError::LeafBytes { expected, found })?;
                if merge(of_file) != *root {
                    return Err(ContentError::Root { file });
                }
                leaves.extend_from_slice(of_file);
                given = others;
            }
        }
    }
    Ok((extents(files.iter().map(|(size, _)| *size)), leaves))
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
    /// The leaves of a file belong to another root.
    #[error("file {file}: its leaf values do not merge to its root")]
    Root {
        /// Index of the file.
        file: usize,
    },
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
fn leaf_value<P: AsRef<[u8]>>(size: u64, start: u64, group: &[P]) -> LeafValue {
    let mut hasher = blake3::Hasher::new();
    let is_root = size <= GROUP_BYTES;
    if !is_root {
        hasher.set_input_offset(start);
    }
    for piece in group {
        hasher.update(piece.as_ref());
    }
    if is_root { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() }
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

/// Sizes of files and the leaves of all of them. Workers take group after group from a shared counter, so reads stay
/// nearly sequential; results come back unordered.
fn hash_files(paths: &[&Path], progress: &mut dyn FnMut(u64)) -> io::Result<(Vec<u64>, Vec<LeafValue>)> {
    const RESULTS_WAITING: usize = 64;
    let named = |path: &Path, error: io::Error| match paths {
        // Who names one file knows which.
        [_] => error,
        _ => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
    };
    let sizes = paths
        .iter()
        .map(|path| size_of(path).map_err(|error| named(path, error)))
        .collect::<io::Result<Vec<_>>>()?;
    let files = extents(sizes.iter().copied());
    let groups = files.iter().map(|file| group_count(file.size)).fold(0, u64::saturating_add);
    let count = usize::try_from(groups).ok().filter(|_| groups <= MAX_GROUPS).ok_or_else(too_large)?;
    let mut leaves = vec![[0; LEAF_BYTES]; count];
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let next = AtomicU64::new(0);
    let (sender, receiver) = sync_channel(RESULTS_WAITING);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(groups) {
            let (sender, next, files) = (sender.clone(), &next, &files);
            scope.spawn(move || hash_until_done(paths, files, groups, next, &sender));
        }
        drop(sender);
        // Leaving early on an error drops the receiver, at which every worker stops.
        let receiver = receiver;
        let mut done = 0u64;
        for result in &receiver {
            let Hashed { group, bytes, leaf } = result?;
            if let Some(slot) = usize::try_from(group).ok().and_then(|group| leaves.get_mut(group)) {
                *slot = leaf;
            }
            done = done.saturating_add(bytes);
            progress(done);
        }
        Ok(())
    })
    .map_err(|(file, error): (usize, io::Error)| match paths.get(file) {
        Some(path) => named(path, error),
        None => error,
    })?;
    for (path, size) in paths.iter().zip(&sizes) {
        if size_of(path).map_err(|error| named(path, error))? != *size {
            let changed = io::Error::new(io::ErrorKind::InvalidData, "the file changed while it was read");
            return Err(named(path, changed));
        }
    }
    Ok((sizes, leaves))
}

/// Bytes of a regular file.
fn size_of(path: &Path) -> io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(metadata.len())
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a product has at most 2 TiB")
}

struct Hashed {
    group: u64,
    bytes: u64,
    leaf: LeafValue,
}

fn hash_until_done(
    paths: &[&Path],
    files: &[Extent],
    groups: u64,
    next: &AtomicU64,
    results: &SyncSender<Result<Hashed, (usize, io::Error)>>,
) {
    let mut buffer = vec![0; GROUP_BYTES as usize];
    let mut open: Option<(usize, File)> = None;
    loop {
        let group = next.fetch_add(1, Ordering::Relaxed);
        if group >= groups {
            return;
        }
        let file = files.partition_point(|file| file.first_group <= group).saturating_sub(1);
        let (Some(path), Some(extent)) = (paths.get(file), files.get(file)) else { return };
        let range = group_range(extent.size, group.saturating_sub(extent.first_group));
        let Some(range) = range else { return };
        let bytes = range.end - range.start;
        let Some(buffer) = buffer.get_mut(..bytes as usize) else { return };
        let mut hash = || {
            let source = match open.take() {
                Some((at, source)) if at == file => source,
                _ => File::open(path)?,
            };
            source.read_exact_at(buffer, range.start)?;
            open = Some((file, source));
            Ok(Hashed { group, bytes, leaf: leaf_value(extent.size, range.start, &[&*buffer]) })
        };
        let result = hash().map_err(|error| (file, error));
        let failed = result.is_err();
        if results.send(result).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
