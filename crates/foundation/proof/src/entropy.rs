//! Randomness: one trait, the operating system's source, and a repeatable one for tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::rand::{SecureRandom, SystemRandom};

use crate::time::Clock;

/// Where random bytes come from. Keys, salts and ids are drawn through it, so that tests can repeat a run.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `out` completely with unpredictable bytes.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's generator. Ends the process when there is none: weak bytes in a key or salt would be worse.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::print_stderr, reason = "the process ends here and a log may never be written out")]
    fn fill(&self, out: &mut [u8]) {
        if SystemRandom::new().fill(out).is_err() {
            eprintln!(
                "huitong: the operating system gives no random bytes; stopping rather than using weak ones"
            );
            std::process::abort();
        }
    }
}

/// The same bytes for the same seed and the same sequence of calls. For tests and simulations only.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    calls: AtomicU64,
}

impl SeededEntropy {
    /// A source that is determined by `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: AtomicU64::new(0) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"huitong/seeded-entropy").update(&self.seed.to_be_bytes()).update(&call.to_be_bytes());
        hasher.finalize_xof().fill(out);
    }
}

/// `N` fresh random bytes.
pub fn random<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// The 16 bytes of a version 7 UUID (RFC 9562 section 5.7): 48 bits of milliseconds, then randomness.
///
/// Ids drawn in different milliseconds sort by time; within one millisecond their order is random.
pub fn time_ordered_id(clock: &dyn Clock, entropy: &dyn Entropy) -> [u8; 16] {
    const TIME_SHIFT: u32 = 80;
    const VERSION_MASK: u128 = 0xf << 76;
    const VERSION_7: u128 = 0x7 << 76;
    const VARIANT_MASK: u128 = 0b11 << 62;
    const VARIANT: u128 = 0b10 << 62;
    let noise = u128::from_be_bytes(random::<16>(entropy)) & ((1 << TIME_SHIFT) - 1);
    // Shifting drops the milliseconds above 48 bits, which are reached in the year 10889.
    let time = u128::from(clock.now().millis()) << TIME_SHIFT;
    ((time | noise) & !VERSION_MASK & !VARIANT_MASK | VERSION_7 | VARIANT).to_be_bytes()
}

/// An id as people read and type it: the hyphenated form of a UUID (RFC 9562 section 4).
#[must_use]
pub fn id_text(id: &[u8; 16]) -> String {
    let mut text = hex::encode(id);
    for position in [20, 16, 12, 8] {
        text.insert(position, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{ManualClock, Timestamp};
    use std::time::Duration;

    #[test]
    fn seeded_bytes_repeat_and_differ_by_seed_and_call() {
        let (a, b, c) = (SeededEntropy::new(1), SeededEntropy::new(1), SeededEntropy::new(2));
        let first: [u8; 100] = random(&a);
        assert_eq!(first, random(&b));
        assert_ne!(first, random(&a));
        assert_ne!(first, random(&c));
    }

    #[test]
    fn system_bytes_differ() {
        assert_ne!(random::<32>(&SystemEntropy), random::<32>(&SystemEntropy));
    }

    #[test]
    fn ids_read_as_uuids() {
        let id = *b"\x01\xa2\x09\x42\x9c\x93\x73\x8c\xa3\x44\x22\x9f\xff\xbc\xeb\xc5";
        assert_eq!(id_text(&id), "01a20942-9c93-738c-a344-229fffbcebc5");
    }

    #[test]
    fn ids_sort_by_time_and_are_version_7() {
        let clock = ManualClock::new(Timestamp::from_millis(0x0192_3456_789a));
        let entropy = SeededEntropy::new(7);
        let mut last = [0; 16];
        for _ in 0..200 {
            let id = time_ordered_id(&clock, &entropy);
            assert!(id > last);
            assert_eq!(id[..6], clock.now().millis().to_be_bytes()[2..]);
            assert_eq!((id[6] >> 4, id[8] >> 6), (7, 0b10));
            last = id;
            clock.advance(Duration::from_millis(1));
        }
        clock.set(Timestamp::from_millis(u64::MAX));
        assert_eq!(time_ordered_id(&clock, &entropy)[..6], [0xff; 6]);
    }
}
