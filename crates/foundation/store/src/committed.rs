//! The committed state: the rows in the index, and those of resident tables, which are in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::failure::Failure;
use crate::index::{Index, IndexPlace, Standing};
use crate::overlay::{Entry, Origin, Overlay, Span};
use crate::record::Group;
use crate::table::{Keeping, Table};
use crate::{StoreError, table};

/// A handle; clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    index: Index,
    resident: Arc<RwLock<Resident>>,
    failure: Arc<Failure>,
}

/// The rows of all resident tables, by row key.
#[derive(Debug, Default)]
pub(crate) struct Resident {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The resident rows if a table is resident, and nothing to read in memory if it is not.
pub(crate) struct Memory<'a>(Option<RwLockReadGuard<'a, Resident>>);

impl Committed {
    pub(crate) fn new(index: Index, resident: Resident, place: IndexPlace) -> Self {
        let failure = Arc::new(Failure::none(place));
        Self { index, resident: Arc::new(RwLock::new(resident)), failure }
    }

    /// The same rows over another index that holds the same.
    pub(crate) fn over(&self, index: Index) -> Self {
        Self { index, resident: self.resident.clone(), failure: self.failure.clone() }
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Where reading and writing say that they failed.
    pub(crate) fn failure(&self) -> &Arc<Failure> {
        &self.failure
    }

    pub(crate) fn get(&self, table: &Table, row_key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.memory(table).0 {
            Some(resident) => Ok(resident.rows.get(row_key).cloned()),
            None => self.index.get(row_key).inspect_err(|error| self.give_up(error)),
        }
    }

    /// What must be held while a range of the table is read.
    pub(crate) fn memory(&self, table: &Table) -> Memory<'_> {
        let is_resident = table.keeping() == Keeping::Resident;
        Memory(is_resident.then(|| self.resident.read().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn range<'a>(
        &'a self,
        memory: &'a Memory<'_>,
        span: &'a Span,
    ) -> impl DoubleEndedIterator<Item = Entry<'a>> + use<'a> {
        match &memory.0 {
            Some(resident) => Range::Memory(resident.range(span)),
            None => {
                let rows = self.index.range(span);
                Range::Index(rows.map(|row| row.inspect_err(|error| self.give_up(error))))
            }
        }
    }

    /// An index that does not read is missing rows: nothing must be decided by it, nor by the next start.
    fn give_up(&self, error: &StoreError) {
        self.failure.note(error.clone());
    }

    /// Moves the state on. Only the writer does, and it keeps readers away meanwhile.
    pub(crate) fn apply(&self, changes: Overlay, standing: Standing) -> Result<(), StoreError> {
        let (resident, indexed): (Vec<_>, Vec<_>) =
            changes.into_changes().partition(|(_, change)| change.origin == Origin::Resident);
        self.index.apply(indexed.into_iter().map(|(row_key, change)| (row_key, change.value)), standing)?;
        if !resident.is_empty() {
            let mut rows = self.resident.write().unwrap_or_else(PoisonError::into_inner);
            for (row_key, change) in resident {
                rows.write(row_key, change.value);
            }
        }
        Ok(())
    }
}

impl Resident {
    /// Takes over what a group of the journal says about resident rows after sequence `after`.
    pub(crate) fn follow(&mut self, group: &Group<'_>, after: u64) {
        for (entry, sequence) in group.entries.iter().zip(group.first_sequence..) {
            if sequence <= after {
                continue;
            }
            for change in entry.changes.iter().filter(|change| change.origin == Origin::Resident) {
                self.write(table::row_key(change.table, change.key), change.value.map(<[u8]>::to_vec));
            }
        }
    }

    pub(crate) fn write(&mut self, row_key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.rows.insert(row_key, value),
            None => self.rows.remove(&row_key),
        };
    }

    fn range<'a>(&'a self, span: &'a Span) -> impl DoubleEndedIterator<Item = Entry<'a>> + use<'a> {
        self.rows.range::<Vec<u8>, _>(span.bounds()).map(|(row_key, value)| {
            Ok((Cow::Borrowed(row_key.as_slice()), Some(Cow::Borrowed(value.as_slice()))))
        })
    }
}

enum Range<M, I> {
    Memory(M),
    Index(I),
}

impl<'a, M, I> Iterator for Range<M, I>
where
    M: Iterator<Item = Entry<'a>>,
    I: Iterator<Item = Entry<'a>>,
{
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        match self {
            Self::Memory(rows) => rows.next(),
            Self::Index(rows) => rows.next(),
        }
    }
}

impl<'a, M, I> DoubleEndedIterator for Range<M, I>
where
    M: DoubleEndedIterator<Item = Entry<'a>>,
    I: DoubleEndedIterator<Item = Entry<'a>>,
{
    fn next_back(&mut self) -> Option<Entry<'a>> {
        match self {
            Self::Memory(rows) => rows.next_back(),
            Self::Index(rows) => rows.next_back(),
        }
    }
}
