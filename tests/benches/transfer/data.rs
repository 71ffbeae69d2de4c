//! The data that is moved: bytes that do not compress, different in every mebibyte.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// Writes a file of this size.
pub(crate) fn file(path: &Path, size: u64, seed: u64) {
    let mut state = seed | 1;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut block = vec![0_u8; 1 << 16];
    let mut left = size;
    while left > 0 {
        for word in block.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        out.write_all(&block[..take]).unwrap();
        left -= take as u64;
    }
    out.flush().unwrap();
}

/// How many files there are below a directory.
pub(crate) fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

/// Empties a directory, or makes it.
pub(crate) fn empty(directory: &Path) {
    if directory.exists() {
        fs::remove_dir_all(directory).unwrap();
    }
    fs::create_dir_all(directory).unwrap();
}
