//! One transaction, as its closure sees it.

use crate::StoreError;
use crate::committed::Committed;
use crate::outbox::{self, Outgoing};
use crate::overlay::{self, Change, Direction, Origin, Overlay, Span, layer};
use crate::record::change_bytes;
use crate::table::{Keeping, Read, Row, Table};

/// The longest key within a table, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// The most that one transaction may write, keys and values together, in bytes. Larger content belongs outside the
/// store, addressed by its digest.
pub const MAX_TRANSACTION_BYTES: usize = 32 * 1024 * 1024;

/// What a transaction's closure reads and writes through.
///
/// It sees the committed state, everything written before it, and its own writes. What it writes is kept whole if
/// the closure returns `Ok`, and not at all otherwise. If a write was refused, the transaction fails with that
/// error even if the closure ignores it.
#[derive(Debug)]
pub struct Tx<'a> {
    committed: &'a Committed,
    group: &'a Overlay,
    own: Overlay,
    sequence: u64,
    time: u64,
    bytes: usize,
    refused: Option<StoreError>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(committed: &'a Committed, group: &'a Overlay, sequence: u64, time: u64) -> Self {
        Self { committed, group, own: Overlay::default(), sequence, time, bytes: 0, refused: None }
    }

    /// What is to be committed.
    pub(crate) fn into_changes(self) -> Result<Overlay, StoreError> {
        match self.refused {
            Some(refused) => Err(refused),
            None => Ok(self.own),
        }
    }

    /// Sets a row.
    ///
    /// # Errors
    /// [`StoreError::KeyTooLong`] and [`StoreError::TransactionTooLarge`].
    pub fn put(&mut self, table: &Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.write(table, key, Some(value))
    }

    /// Removes a row; nothing happens if there is none, except that a table with history records the deletion.
    ///
    /// # Errors
    /// [`StoreError::KeyTooLong`] and [`StoreError::TransactionTooLarge`].
    pub fn delete(&mut self, table: &Table, key: &[u8]) -> Result<(), StoreError> {
        self.write(table, key, None)
    }

    /// This transaction's time, in milliseconds since 1970: what the clock said when the transaction began, but
    /// never less than the time of the last one in the journal. The same for the whole transaction.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Queues a message to another node and returns its id. It can be found in the [`outbox`] only after this
    /// transaction is durable. Ids count up from 1 and are never used again.
    ///
    /// # Errors
    /// [`StoreError::Message`] if the destination is empty, longer than 1,024 bytes or holds a zero byte, or the
    /// topic is longer than 65,535 bytes; [`StoreError::TransactionTooLarge`].
    pub fn send(&mut self, message: Outgoing) -> Result<u64, StoreError> {
        let sent = outbox::enqueue(self, &message);
        if let Err(refused) = &sent {
            self.refused.get_or_insert_with(|| refused.clone());
        }
        sent
    }

    fn write(&mut self, table: &Table, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let written = self.try_write(table, key, value);
        if let Err(refused) = &written {
            self.refused.get_or_insert_with(|| refused.clone());
        }
        written
    }

    fn try_write(&mut self, table: &Table, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::KeyTooLong {
                table: table.name(),
                bytes: key.len(),
                limit: MAX_KEY_BYTES,
            });
        }
        let row_key = table.row_key(key);
        let replaced = self
            .own
            .get(&row_key)
            .map_or(0, |change| change_bytes(row_key.len(), change.value.as_ref().map(Vec::len)));
        let bytes = self
            .bytes
            .saturating_sub(replaced)
            .saturating_add(change_bytes(row_key.len(), value.map(<[u8]>::len)));
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge { limit: MAX_TRANSACTION_BYTES });
        }
        self.bytes = bytes;
        let origin = match table.keeping() {
            Keeping::Latest => Origin::Written,
            Keeping::History => Origin::WrittenWithHistory,
            Keeping::Resident => Origin::Resident,
        };
        let change = Change { value: value.map(<[u8]>::to_vec), origin };
        self.own.write(row_key, change, self.sequence, self.time);
        Ok(())
    }
}

impl Read for Tx<'_> {
    fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let row_key = table.row_key(key);
        match self.own.get(&row_key).or_else(|| self.group.get(&row_key)) {
            Some(change) => Ok(change.value.clone()),
            None => self.committed.get(table, &row_key),
        }
    }

    fn scan(
        &self,
        table: &Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(span) = Span::new(table, prefix, after) else { return Ok(Vec::new()) };
        let direction = Direction::Forward;
        let memory = self.committed.memory(table);
        let unwritten = layer(self.own.range(&span), self.group.range(&span), direction);
        let committed = self.committed.range(&memory, &span);
        overlay::rows(table, layer(unwritten, committed, direction), limit)
    }

    fn last(&self, table: &Table, prefix: &[u8]) -> Result<Option<Row>, StoreError> {
        let Some(span) = Span::new(table, prefix, None) else { return Ok(None) };
        let direction = Direction::Backward;
        let memory = self.committed.memory(table);
        let unwritten = layer(self.own.range(&span).rev(), self.group.range(&span).rev(), direction);
        let committed = self.committed.range(&memory, &span).rev();
        let rows = overlay::rows(table, layer(unwritten, committed, direction), 1)?;
        Ok(rows.into_iter().next())
    }
}
