//! Sets of groups, as statements name them: sorted ranges that neither touch nor overlap.

use std::ops::Range;

use huitong_identity::ServiceError;
use huitong_proof::cbor::Value;

/// The most ranges in a statement.
const MAX_RANGES: usize = 1024;

/// A set of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// One range, or nothing if it is empty.
    pub(crate) fn of(range: Range<u64>) -> Self {
        Self(if range.is_empty() { Vec::new() } else { vec![range] })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// The first group of the set.
    pub(crate) fn first(&self) -> Option<u64> {
        self.0.first().map(|range| range.start)
    }

    /// The first group of the set that is not below `group`.
    pub(crate) fn first_from(&self, group: u64) -> Option<u64> {
        self.0.iter().find(|range| range.end > group).map(|range| range.start.max(group))
    }

    /// Where the set ends.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end)
    }

    /// Adds a range behind all others, or touching the last one.
    pub(crate) fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    /// Takes a range out; `false`, and nothing changes, unless the whole of it is there.
    pub(crate) fn remove(&mut self, range: &Range<u64>) -> bool {
        let at = self.0.partition_point(|found| found.end <= range.start);
        let Some(found) = self.0.get(at).filter(|found| found.start <= range.start && range.end <= found.end)
        else {
            return false;
        };
        let rest = [found.start..range.start, range.end..found.end];
        self.0.splice(at..=at, rest.into_iter().filter(|rest| !rest.is_empty()));
        true
    }

    /// The same set, or a larger one, in as many ranges as a statement may name.
    pub(crate) fn coarsened(mut self) -> Self {
        if let (Some(kept), Some(last)) = (self.0.get(MAX_RANGES - 1), self.0.last()) {
            let rest = kept.start..last.end;
            self.0.truncate(MAX_RANGES - 1);
            self.0.push(rest);
        }
        self
    }

    /// As a statement has it: `[[start, end], ...]`, ends not included.
    pub(crate) fn to_values(&self) -> Vec<Value> {
        let value = |range: &Range<u64>| Value::Array(vec![Value::Uint(range.start), Value::Uint(range.end)]);
        self.0.iter().map(value).collect()
    }

    /// Reads what [`Ranges::to_values`] writes.
    pub(crate) fn read(values: Vec<Value>) -> Result<Self, ServiceError> {
        if values.len() > MAX_RANGES {
            return Err(ServiceError::invalid("ranges", format!("must be at most {MAX_RANGES}")));
        }
        let mut ranges = Vec::with_capacity(values.len());
        let mut free_from = 0;
        for value in values {
            let pair = match &value {
                Value::Array(pair) => pair.as_slice(),
                _ => &[],
            };
            match pair {
                [Value::Uint(start), Value::Uint(end)] if start < end && *start >= free_from => {
                    ranges.push(*start..*end);
                    // Ranges that touch would be one.
                    free_from = end.saturating_add(1);
                }
                _ => {
                    let expected = "must be ranges [start, end], start below end, in order and apart";
                    return Err(ServiceError::invalid("ranges", expected));
                }
            }
        }
        Ok(Self(ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[Range<u64>]) -> Ranges {
        let mut ranges = Ranges::default();
        list.iter().cloned().for_each(|range| ranges.push(range));
        ranges
    }

    fn pair(start: u64, end: u64) -> Value {
        Value::Array(vec![Value::Uint(start), Value::Uint(end)])
    }

    #[test]
    fn ranges_are_pushed_and_taken_out() {
        let mut set = ranges(&[0..4, 4..6, 9..9, 10..12, 11..13]);
        assert_eq!(set, Ranges(vec![0..6, 10..13]));
        for absent in [0..7, 6..7, 9..11, 5..11, 12..14, 20..21] {
            assert!(!set.remove(&absent), "{absent:?}");
        }
        for (taken, rest) in [
            (2..3, &[0..2, 3..6, 10..13][..]),
            (0..2, &[3..6, 10..13]),
            (10..13, std::slice::from_ref(&(3..6))),
            (5..6, std::slice::from_ref(&(3..5))),
        ] {
            assert!(set.remove(&taken));
            assert_eq!(set.0, rest);
        }
        assert_eq!((set.first(), set.end()), (Some(3), 5));
        assert!(set.remove(&(3..5)) && set.is_empty());
        assert_eq!((set.first(), set.end()), (None, 0));
    }

    #[test]
    fn the_first_from_somewhere() {
        let set = ranges(&[2..4, 8..9]);
        for (from, first) in [(0, Some(2)), (2, Some(2)), (3, Some(3)), (4, Some(8)), (8, Some(8)), (9, None)]
        {
            assert_eq!(set.first_from(from), first, "{from}");
        }
    }

    #[test]
    fn a_statement_names_a_bounded_number_in_one_form() {
        let set = ranges(&[0..1, 5..9]);
        assert_eq!(Ranges::read(set.to_values()).unwrap(), set);
        for wrong in [
            vec![pair(1, 1)],
            vec![pair(2, 1)],
            vec![pair(5, 6), pair(0, 1)],
            vec![pair(0, 1), pair(1, 2)],
            vec![pair(0, 2), pair(1, 3)],
            vec![pair(0, u64::MAX), pair(u64::MAX, u64::MAX)],
            vec![Value::Uint(1)],
            vec![Value::Array(vec![Value::Uint(0); 3])],
        ] {
            assert!(Ranges::read(wrong.clone()).is_err(), "{wrong:?}");
        }
        let many = |count: u64| ranges(&(0..count).map(|n| 2 * n..2 * n + 1).collect::<Vec<_>>());
        assert!(Ranges::read(many(1024).to_values()).is_ok());
        assert!(Ranges::read(many(1025).to_values()).is_err());
        assert_eq!(many(1024).coarsened(), many(1024));
        let coarse = many(3000).coarsened();
        assert_eq!(coarse.0.len(), 1024);
        assert_eq!((coarse.first(), coarse.end()), (Some(0), 5999));
        assert_eq!(coarse.0[..1023], many(1023).0);
    }
}
