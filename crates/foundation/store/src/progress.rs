//! How far something long has got.

/// One report of a long operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done; steps follow one another.
    pub step: &'static str,
    /// How much of the step is done.
    pub done: u64,
    /// How much the step is, as far as is known; 0 if it is not.
    pub total: u64,
    /// What is counted.
    pub unit: Unit,
}

/// What a [`Progress`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Rows.
    Rows,
    /// Files.
    Files,
    /// Entries of a log.
    Entries,
}
