//! How often one ledger may have its checkpoints cosigned.

use std::collections::HashMap;
use std::time::Duration;

use huitong_proof::Timestamp;

/// Checkpoints that a ledger may hand in at once.
const BURST: u64 = 30;
/// Milliseconds in which it earns one more: a node signs at most one checkpoint each second.
const EARN: u64 = 500;

/// One token bucket for each origin. Only origins that are configured get one, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    buckets: HashMap<String, Bucket>,
}

/// A bucket in milliseconds' worth of tokens, so that nothing is lost to rounding.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    saved: u64,
    at: Timestamp,
}

impl Rates {
    /// Takes one token of that origin, or says when there will be one.
    pub(crate) fn take(&mut self, origin: &str, now: Timestamp) -> Result<(), Duration> {
        const FULL: u64 = BURST * EARN;
        let full = Bucket { saved: FULL, at: now };
        let bucket = self.buckets.entry(origin.to_owned()).or_insert(full);
        // A clock that was set back earns nothing, and nothing is owed to it either.
        let passed = u64::try_from(now.saturating_since(bucket.at).as_millis()).unwrap_or(u64::MAX);
        let saved = bucket.saved.saturating_add(passed).min(FULL);
        let (left, answer) = match saved.checked_sub(EARN) {
            Some(left) => (left, Ok(())),
            None => (saved, Err(Duration::from_millis(EARN.saturating_sub(saved)))),
        };
        *bucket = Bucket { saved: left, at: now };
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_spent_and_filled_again() {
        let mut rates = Rates::default();
        let at = |millis: u64| Timestamp::from_millis(1_000_000 + millis);
        for _ in 0..BURST {
            assert_eq!(rates.take("a", at(0)), Ok(()));
        }
        assert_eq!(rates.take("a", at(0)), Err(Duration::from_millis(500)));
        assert_eq!(rates.take("a", at(200)), Err(Duration::from_millis(300)));
        assert_eq!(rates.take("b", at(200)), Ok(()), "another origin has its own");
        assert_eq!(rates.take("a", at(500)), Ok(()));
        assert_eq!(rates.take("a", at(500)), Err(Duration::from_millis(500)));
        // A clock that is set back earns nothing for it, and is not locked out until it catches up.
        assert_eq!(rates.take("a", at(0)), Err(Duration::from_millis(500)));
        assert_eq!(rates.take("a", at(500)), Ok(()));
        for _ in 0..BURST {
            assert_eq!(rates.take("a", at(10_000_000)), Ok(()));
        }
        assert!(rates.take("a", at(10_000_000)).is_err());
    }
}
