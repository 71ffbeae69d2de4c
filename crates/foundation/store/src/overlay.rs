//! Changes not yet in the index, and reading through them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use crate::table::{Row, Table};
use crate::{StoreError, history};

/// Changes by row key (`table 0x00 key`); the later change of a row replaces the earlier.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    changes: BTreeMap<Vec<u8>, Change>,
}

/// The new value of a row, or nothing if it is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) origin: Origin,
}

/// Where a change comes from, and so whether the journal must hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Written by a transaction.
    Written,
    /// Written by a transaction to a table with history.
    WrittenWithHistory,
    /// The history row of such a change: follows from the journal, is not in it.
    Derived,
    /// Written by a transaction to a resident table.
    Resident,
}

impl Overlay {
    pub(crate) fn get(&self, row_key: &[u8]) -> Option<&Change> {
        self.changes.get(row_key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Records a written change and, where its table keeps history, the history row that follows from it.
    pub(crate) fn write(&mut self, row_key: Vec<u8>, change: Change, sequence: u64, time: u64) {
        if change.origin == Origin::WrittenWithHistory {
            let (key, value) = history::derive(&row_key, sequence, time, change.value.as_deref());
            self.changes.insert(key, Change { value: Some(value), origin: Origin::Derived });
        }
        self.changes.insert(row_key, change);
    }

    /// Lays the changes of a later transaction over these.
    pub(crate) fn absorb(&mut self, later: Overlay) {
        self.changes.extend(later.changes);
    }

    /// The changes that the journal must hold.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        self.changes
            .iter()
            .filter(|(_, change)| change.origin != Origin::Derived)
            .map(|(row_key, change)| (row_key.as_slice(), change))
    }

    pub(crate) fn into_changes(self) -> impl Iterator<Item = (Vec<u8>, Change)> {
        self.changes.into_iter()
    }

    pub(crate) fn range(&self, span: &Span) -> impl DoubleEndedIterator<Item = Entry<'_>> {
        self.changes.range::<Vec<u8>, _>(span.bounds()).map(|(row_key, change)| {
            Ok((Cow::Borrowed(row_key.as_slice()), change.value.as_deref().map(Cow::Borrowed)))
        })
    }
}

/// A row key and its value, or nothing if this layer deletes the row.
pub(crate) type Entry<'a> = Result<(Cow<'a, [u8]>, Option<Cow<'a, [u8]>>), StoreError>;

/// A range of row keys that is known to be in order: `start` does not lie behind `end`.
#[derive(Debug)]
pub(crate) struct Span {
    start: Bound<Vec<u8>>,
    end: Vec<u8>,
}

impl Span {
    /// The rows of `table` whose key starts with `prefix` and lies behind `after`; none if there can be no such
    /// row.
    pub(crate) fn new(table: &Table, prefix: &[u8], after: Option<&[u8]>) -> Option<Self> {
        let first = table.row_key(prefix);
        let end = successor(&first)?;
        let start = match after.map(|after| table.row_key(after)) {
            Some(after) if after >= end => return None,
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        Some(Self { start, end })
    }

    pub(crate) fn bounds(&self) -> (Bound<&Vec<u8>>, Bound<&Vec<u8>>) {
        (self.start.as_ref(), Bound::Excluded(&self.end))
    }
}

/// Which way a range is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Reads `upper` over `lower`, both in `direction`: where both have a row, the upper one counts.
pub(crate) fn layer<'a, U, L>(upper: U, lower: L, direction: Direction) -> impl Iterator<Item = Entry<'a>>
where
    U: Iterator<Item = Entry<'a>>,
    L: Iterator<Item = Entry<'a>>,
{
    Layered { upper: upper.peekable(), lower: lower.peekable(), direction }
}

/// Turns what is left after layering into rows of `table`.
pub(crate) fn rows<'a>(
    table: &Table,
    entries: impl Iterator<Item = Entry<'a>>,
    limit: usize,
) -> Result<Vec<Row>, StoreError> {
    let before_key = table.name().len().saturating_add(1);
    entries
        .filter_map(|entry| match entry {
            Ok((_, None)) => None,
            Ok((row_key, Some(value))) => {
                let key = row_key.get(before_key..).unwrap_or_default().to_vec();
                Some(Ok(Row { key, value: value.into_owned() }))
            }
            Err(error) => Some(Err(error)),
        })
        .take(limit)
        .collect()
}

struct Layered<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
    direction: Direction,
}

impl<'a, U, L> Iterator for Layered<U, L>
where
    U: Iterator<Item = Entry<'a>>,
    L: Iterator<Item = Entry<'a>>,
{
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let order = match (self.upper.peek(), self.lower.peek()) {
            (None, _) => return self.lower.next(),
            (_, None) | (Some(Err(_)), _) => return self.upper.next(),
            (_, Some(Err(_))) => return self.lower.next(),
            (Some(Ok((upper, _))), Some(Ok((lower, _)))) => match self.direction {
                Direction::Forward => upper.cmp(lower),
                Direction::Backward => lower.cmp(upper),
            },
        };
        match order {
            Ordering::Less => self.upper.next(),
            Ordering::Greater => self.lower.next(),
            Ordering::Equal => {
                self.lower.next();
                self.upper.next()
            }
        }
    }
}

/// The first key behind all keys that start with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if let Some(next) = last.checked_add(1) {
            *last = next;
            return Some(end);
        }
        end.pop();
    }
    None
}
