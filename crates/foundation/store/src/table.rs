//! Tables, rows, and reading them.

use crate::StoreError;

/// A named table. Rows are bytes to bytes, ordered by key. Declared as consts in the crates that own them.
///
/// A name has 1 to 64 characters of `a-z 0-9 . _ -`; by custom `<crate>.<what>`. Names that start with `store.`
/// belong to this crate. How a table is declared is part of what it is: a name keeps its kind for ever, because rows
/// written under one kind are not found under another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    name: &'static str,
    keeping: Keeping,
}

/// What a table keeps of a row that is overwritten or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    Latest,
    History,
    /// The latest value, and that in memory.
    Resident,
}

impl Table {
    /// A table that keeps the latest value of each row.
    ///
    /// # Panics
    /// If the name is not allowed; in a const, that is a compile error.
    pub const fn new(name: &'static str) -> Self {
        check_name(name);
        Self { name, keeping: Keeping::Latest }
    }

    /// A table whose every put and delete also leaves a row in the [`crate::history()`], in the same commit.
    ///
    /// # Panics
    /// If the name is not allowed; in a const, that is a compile error.
    pub const fn with_history(name: &'static str) -> Self {
        check_name(name);
        Self { name, keeping: Keeping::History }
    }

    /// A table whose rows lie in memory, never in the index: for rows that are few, short-lived and hot. They are
    /// in the journal and in snapshots like all others, and are read, scanned and written like all others. All of
    /// them together must fit in memory, and starting the node reads them.
    ///
    /// # Panics
    /// If the name is not allowed; in a const, that is a compile error.
    pub const fn resident(name: &'static str) -> Self {
        check_name(name);
        Self { name, keeping: Keeping::Resident }
    }

    /// A table of this crate.
    pub(crate) const fn own(name: &'static str) -> Self {
        Self { name, keeping: Keeping::Latest }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn keeping(&self) -> Keeping {
        self.keeping
    }

    /// The key of a row among all rows of all tables: `name 0x00 key`. A name holds no 0x00, so tables lie apart.
    pub(crate) fn row_key(&self, key: &[u8]) -> Vec<u8> {
        row_key(self.name.as_bytes(), key)
    }
}

/// A row: its key within the table, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key, without the table's name.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// Both a transaction and a view can read.
pub trait Read {
    /// The value of a row, or nothing if there is no such row.
    fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows whose key starts with `prefix`, in key order, after `after` (exclusive; a whole key, not only what
    /// follows the prefix) if given, at most `limit`.
    ///
    /// For the next page pass the last row's key as `after`. One call sees one commit, whole.
    fn scan(
        &self,
        table: &Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// The last row, in key order, whose key starts with `prefix`.
    fn last(&self, table: &Table, prefix: &[u8]) -> Result<Option<Row>, StoreError>;
}

pub(crate) fn row_key(table: &[u8], key: &[u8]) -> Vec<u8> {
    let mut row_key = Vec::with_capacity(table.len().saturating_add(1).saturating_add(key.len()));
    row_key.extend_from_slice(table);
    row_key.push(0);
    row_key.extend_from_slice(key);
    row_key
}

const fn check_name(name: &str) {
    let mut rest = name.as_bytes();
    assert!(!rest.is_empty() && rest.len() <= 64, "a table name has 1 to 64 characters");
    assert!(
        !matches!(rest, [b's', b't', b'o', b'r', b'e', b'.', ..]),
        "table names that start with store. belong to the store"
    );
    while let [first, others @ ..] = rest {
        assert!(
            matches!(first, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'),
            "a table name holds only a-z 0-9 . _ -"
        );
        rest = others;
    }
}
