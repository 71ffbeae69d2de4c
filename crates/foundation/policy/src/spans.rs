/// A set of whole numbers as sorted spans, both ends inside, that neither touch nor overlap.
///
/// Used for instants (milliseconds, up to `u64::MAX`) and for minutes of a day (up to 1439).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spans {
    list: Vec<Span>,
}

/// The numbers from `first` to `last`, both included; `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Spans {
    /// All numbers up to `last`.
    pub(crate) fn up_to(last: u64) -> Spans {
        Spans { list: vec![Span { first: 0, last }] }
    }

    /// The union of the given spans.
    pub(crate) fn union(mut spans: Vec<Span>) -> Spans {
        spans.sort_unstable();
        let mut list: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match list.last_mut() {
                Some(before) if span.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(span.last);
                }
                _ => list.push(span),
            }
        }
        Spans { list }
    }

    /// All numbers up to `last` that are not in this set.
    pub(crate) fn complement(&self, last: u64) -> Spans {
        let mut list = Vec::with_capacity(self.list.len().saturating_add(1));
        let mut next = Some(0);
        for span in &self.list {
            if let (Some(first), Some(before)) = (next, span.first.checked_sub(1))
                && first <= before
            {
                list.push(Span { first, last: before });
            }
            next = span.last.checked_add(1);
        }
        if let Some(first) = next
            && first <= last
        {
            list.push(Span { first, last });
        }
        Spans { list }
    }

    pub(crate) fn intersect(&self, other: &Spans) -> Spans {
        let mut list = Vec::new();
        for left in &self.list {
            for right in &other.list {
                let (first, last) = (left.first.max(right.first), left.last.min(right.last));
                if first <= last {
                    list.push(Span { first, last });
                }
            }
        }
        Spans { list }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.around(number).is_some()
    }

    /// The span that contains `number`.
    pub(crate) fn around(&self, number: u64) -> Option<Span> {
        self.list.iter().copied().find(|span| span.first <= number && number <= span.last)
    }

    pub(crate) fn is_subset(&self, other: &Spans) -> bool {
        self.list
            .iter()
            .all(|span| other.list.iter().any(|whole| whole.first <= span.first && span.last <= whole.last))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.list.iter().copied()
    }
}
