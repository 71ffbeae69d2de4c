//! How many bytes may come unread on the connections of exchanges, so that all of them together have a bound.

use std::sync::{Arc, Mutex, PoisonError};

/// What all windows share, above the smallest ones.
const ALL: u32 = 48 << 20;
/// Enough for 600 Mbit/s over a line of 200 ms.
const LARGEST: u32 = 16 << 20;
/// What every exchange has, however many there are.
pub(super) const SMALLEST: u32 = 1 << 20;

/// Clones share what there is.
#[derive(Clone, Default)]
pub(super) struct Windows(Arc<Mutex<u32>>);

/// A window that was given out; it comes back when it is dropped.
pub(super) struct Window {
    all: Windows,
    bytes: u32,
}

impl Windows {
    /// Half of what is left, within the bounds.
    pub(super) fn open(&self) -> Window {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = (ALL.saturating_sub(*given) / 2).clamp(SMALLEST, LARGEST);
        *given = given.saturating_add(bytes);
        Window { all: self.clone(), bytes }
    }
}

impl Window {
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut given = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        *given = given.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_have_large_windows_and_many_have_small_ones() {
        let windows = Windows::default();
        let mut open: Vec<Window> = (0..64).map(|_| windows.open()).collect();
        assert_eq!((open[0].bytes(), open[1].bytes()), (LARGEST, LARGEST));
        assert_eq!(open[63].bytes(), SMALLEST);
        let sum: u32 = open.iter().map(Window::bytes).sum();
        assert!(sum <= 2 * ALL + (16 << 20), "{sum}");
        open.clear();
        assert_eq!(windows.open().bytes(), LARGEST);
    }
}
