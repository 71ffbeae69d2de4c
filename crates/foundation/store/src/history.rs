//! The history of rows in tables that keep one.
//!
//! A history row is not in the journal: it follows from the change that is, and is derived in the same way when
//! the change is made and when the index is rebuilt.

use crate::record::Cursor;
use crate::table::{Read, Table, row_key};
use crate::{StoreError, table::Keeping};

/// `table 0x00 | key length u32 | key | sequence u64` to `time u64 | 0 deleted, 1 put | value`.
const HISTORY: Table = Table::own("store.history");

/// One change of a row, as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The transaction's sequence number in the journal. A row changed twice in one transaction has one entry,
    /// with the value it ended with.
    pub sequence: u64,
    /// The transaction's time, in milliseconds since 1970.
    pub time: u64,
    /// The value put, or nothing if the row was deleted.
    pub value: Option<Vec<u8>>,
}

/// The first `limit` changes of a row, oldest first. Empty if the row was never written, or if the table was
/// declared without history.
pub fn history(
    reader: &(impl Read + ?Sized),
    table: &Table,
    key: &[u8],
    limit: usize,
) -> Result<Vec<History>, StoreError> {
    if table.keeping() != Keeping::History {
        return Ok(Vec::new());
    }
    let prefix = history_prefix(table.name().as_bytes(), key);
    let rows = reader.scan(&HISTORY, &prefix, None, limit)?;
    rows.into_iter()
        .map(|row| {
            decode(&row.key, &row.value).ok_or(StoreError::Row {
                table: HISTORY.name(),
                why: "it is cut short or has an unknown tag",
            })
        })
        .collect()
}

/// The history row that follows from a change: its row key and its value.
pub(crate) fn derive(changed: &[u8], sequence: u64, time: u64, value: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let (table, key) = split_row_key(changed);
    let mut history_key = history_prefix(table, key);
    history_key.extend_from_slice(&sequence.to_be_bytes());

    let mut history_value = Vec::with_capacity(value.map_or(0, <[u8]>::len).saturating_add(9));
    history_value.extend_from_slice(&time.to_be_bytes());
    history_value.push(u8::from(value.is_some()));
    history_value.extend_from_slice(value.unwrap_or_default());

    (HISTORY.row_key(&history_key), history_value)
}

/// The table's name and the key within it.
pub(crate) fn split_row_key(row_key: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = row_key.splitn(2, |byte| *byte == 0);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The key's length comes first, so that the history of one key never lies among that of a longer one.
fn history_prefix(table: &[u8], key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut prefix = row_key(table, &length.to_be_bytes());
    prefix.extend_from_slice(key);
    prefix
}

fn decode(key: &[u8], value: &[u8]) -> Option<History> {
    let sequence = u64::from_be_bytes(*key.last_chunk()?);
    let mut cursor = Cursor::new(value);
    let time = cursor.u64()?;
    let value = match cursor.u8()? {
        0 => None,
        1 => Some(cursor.rest().to_vec()),
        _ => return None,
    };
    Some(History { sequence, time, value })
}
