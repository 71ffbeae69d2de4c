//! The rows of a ledger whose node is stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use huitong_store::disk::Disk;
use huitong_store::{Read, Row, Store, StoreError, Table};

use crate::error::LedgerError;
use crate::tables::{CHECKPOINT, DOUBT, ENTRY, ERASE, GAP, HEAD, STATE};

/// The tables that a ledger's files are checked against.
const TABLES: [Table; 7] = [ENTRY, STATE, HEAD, GAP, ERASE, CHECKPOINT, DOUBT];
const PAGE: usize = 4_096;

/// Rows in memory, by table and key.
pub(super) struct Rows(BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Rows {
    /// Reads what is needed; the store is closed again when this returns.
    pub(super) fn read(store: &Path, disk: &Disk) -> Result<Self, LedgerError> {
        let store = Store::open_on(store, Arc::new(|| 0), disk.clone())?;
        let view = store.view();
        let mut tables = BTreeMap::new();
        for table in TABLES {
            let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            loop {
                let after = rows.last_key_value().map(|(key, _)| key.clone());
                let page = view.scan(&table, &[], after.as_deref(), PAGE)?;
                if page.is_empty() {
                    break;
                }
                rows.extend(page.into_iter().map(|row| (row.key, row.value)));
            }
            tables.insert(table.name(), rows);
        }
        Ok(Self(tables))
    }
}

impl Read for Rows {
    fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(table.name()).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(
        &self,
        table: &Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(rows) = self.0.get(table.name()) else { return Ok(Vec::new()) };
        let first = after.map_or(prefix, |after| after.max(prefix)).to_vec();
        let rows = rows
            .range(first..)
            .filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit);
        Ok(rows.map(|(key, value)| Row { key: key.clone(), value: value.clone() }).collect())
    }

    fn last(&self, table: &Table, prefix: &[u8]) -> Result<Option<Row>, StoreError> {
        Ok(self.scan(table, prefix, None, usize::MAX)?.pop())
    }
}
