//! Time as the node sees it: one type for a moment, one trait to ask for the present.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// Displays as RFC 3339 in UTC with three decimals, for example `2026-03-01T08:00:00.250Z`. Moments after
/// [`Timestamp::MAX`] can be held but display as that last moment; statements refuse them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last moment that the calendar in use can write: 9999-12-30T22:00:00.999Z.
    pub const MAX: Self = Self(253_402_207_200_999);

    /// The moment this many milliseconds after 1970-01-01T00:00:00Z.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// This moment moved into the future, in whole milliseconds; stops at the largest number instead of wrapping.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this moment is; zero when it is not after it.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The 14 digits `YYYYMMDDHHMMSS` in UTC, as identifiers in the national documents write a moment.
    pub fn compact(self) -> String {
        self.calendar().strftime("%Y%m%d%H%M%S").to_string()
    }

    fn calendar(self) -> jiff::Timestamp {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.calendar())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the present comes from. Everything that needs the time is handed one, so that tests can drive it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment. May step backwards when the machine's clock is set; who needs order keeps its own maximum.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one adapter through which the wall clock enters")]
    fn now(&self) -> Timestamp {
        // A machine whose clock stands before 1970 reads as 1970: every validity check then refuses, which is right.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::default().saturating_add(since)
    }
}

/// A clock that moves only when told to. Clones share their time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    millis: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self { millis: Arc::new(AtomicU64::new(start.millis())) }
    }

    /// Moves this clock and all its clones to `now`, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.millis.store(now.millis(), Ordering::SeqCst);
    }

    /// Moves this clock and all its clones forward.
    pub fn advance(&self, by: Duration) {
        let step = |millis| Some(Timestamp(millis).saturating_add(by).millis());
        // The closure never declines, so both arms of the result mean "moved".
        let _ = self.millis.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.millis.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(millis: u64, text: &str, compact: &str) {
        let moment = Timestamp::from_millis(millis);
        assert_eq!(moment.to_string(), text);
        assert_eq!(moment.compact(), compact);
        assert_eq!(moment.millis(), millis);
    }

    #[test]
    fn writes_moments_in_utc() {
        check(0, "1970-01-01T00:00:00.000Z", "19700101000000");
        check(1, "1970-01-01T00:00:00.001Z", "19700101000000");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z", "20000229000000");
        check(1_000_000_000_000, "2001-09-09T01:46:40.000Z", "20010909014640");
        check(Timestamp::MAX.millis(), "9999-12-30T22:00:00.999Z", "99991230220000");
        check(Timestamp::MAX.millis() + 1, "9999-12-30T22:00:00.999Z", "99991230220000");
        check(u64::MAX, "9999-12-30T22:00:00.999Z", "99991230220000");
    }

    #[test]
    fn arithmetic_saturates() {
        let late = Timestamp::from_millis(u64::MAX - 1);
        assert_eq!(late.saturating_add(Duration::MAX).millis(), u64::MAX);
        assert_eq!(late.saturating_add(Duration::from_micros(1_999)).millis(), u64::MAX);
        assert_eq!(Timestamp::from_millis(5).saturating_since(Timestamp::from_millis(9)), Duration::ZERO);
        assert_eq!(
            Timestamp::from_millis(9).saturating_since(Timestamp::from_millis(5)),
            Duration::from_millis(4)
        );
    }

    #[test]
    fn clones_of_a_manual_clock_share_time() {
        let clock = ManualClock::new(Timestamp::from_millis(10));
        let other = clock.clone();
        clock.advance(Duration::from_secs(2));
        assert_eq!(other.now().millis(), 2_010);
        other.set(Timestamp::from_millis(3));
        assert_eq!(clock.now().millis(), 3);
        clock.set(Timestamp::from_millis(u64::MAX));
        clock.advance(Duration::from_millis(1));
        assert_eq!(clock.now().millis(), u64::MAX);
    }

    #[test]
    fn the_system_clock_stands_in_this_century() {
        let now = SystemClock.now();
        assert!(now > Timestamp::from_millis(1_700_000_000_000) && now < Timestamp::MAX, "{now}");
    }

    proptest! {
        #[test]
        fn text_sorts_as_time(a in 0..Timestamp::MAX.millis(), b in 0..Timestamp::MAX.millis()) {
            let (a, b) = (Timestamp::from_millis(a), Timestamp::from_millis(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
