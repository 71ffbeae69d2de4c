//! Limits of a store.

/// Sizes at which a store begins something new. The defaults suit a node; tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A journal segment takes no further group once it has this many bytes.
    pub segment_bytes: u64,
    /// A snapshot is made when the sealed segments behind the last one have this many bytes, or half of the last
    /// snapshot's if that is more.
    pub snapshot_bytes: u64,
    /// Making a snapshot sorts the journal in memory in pieces of about this many bytes.
    pub chunk_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            snapshot_bytes: 64 * 1024 * 1024,
            chunk_bytes: 32 * 1024 * 1024,
        }
    }
}
