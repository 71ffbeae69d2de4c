//! Content in the pieces in which it came.

use bytes::{Bytes, BytesMut};

/// Bytes that nobody joins: from the network to the disk each piece stays where it was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    pieces: Vec<Bytes>,
    length: usize,
}

/// Pieces below this size are joined: there may be any number of them.
const SMALL: usize = 16 << 10;

impl Pieces {
    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces, none of them empty.
    pub fn as_slice(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Adds bytes at the end. Small pieces one after another are joined, so that there are never more than two for
    /// every 16 KiB.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.length = self.length.saturating_add(piece.len());
        match self.pieces.last_mut() {
            Some(last) if last.len() < SMALL && piece.len() < SMALL => {
                // Ours alone from the second time on, and then extended in place.
                let mut joined = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
                    let mut joined = BytesMut::with_capacity(SMALL.saturating_mul(2));
                    joined.extend_from_slice(&shared);
                    joined
                });
                joined.extend_from_slice(&piece);
                *last = joined.freeze();
            }
            _ => self.pieces.push(piece),
        }
    }

    /// Takes the first piece out.
    pub fn pop(&mut self) -> Option<Bytes> {
        let length = self.pieces.first()?.len();
        self.split_to(length).pieces.pop()
    }

    /// Takes the first `count` bytes out, or all that there are.
    pub fn split_to(&mut self, count: usize) -> Self {
        let (mut taken, mut whole) = (Self::default(), 0);
        let mut left = count.min(self.length);
        self.length = self.length.saturating_sub(left);
        for piece in &mut self.pieces {
            if left == 0 {
                break;
            }
            let part = piece.split_to(left.min(piece.len()));
            left = left.saturating_sub(part.len());
            taken.length = taken.length.saturating_add(part.len());
            taken.pieces.push(part);
            if piece.is_empty() {
                whole += 1;
            }
        }
        self.pieces.drain(..whole);
        taken
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(piece);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: &Pieces) -> Vec<u8> {
        pieces.as_slice().concat()
    }

    #[test]
    fn pieces_hold_what_was_pushed_in_its_order() {
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        for (number, length) in
            [0, 1, 5, 0, SMALL, 3, 4, SMALL - 1, SMALL - 1, 2 * SMALL].into_iter().enumerate()
        {
            let piece = vec![number as u8; length];
            expected.extend_from_slice(&piece);
            pieces.push(piece.into());
        }
        assert_eq!((joined(&pieces), pieces.len()), (expected.clone(), expected.len()));
        assert!(pieces.as_slice().iter().all(|piece| !piece.is_empty()));
        for count in [0, 1, 5, SMALL, 3 * SMALL, 1, usize::MAX, 7] {
            let taken = pieces.split_to(count);
            let count = count.min(expected.len());
            assert_eq!((joined(&taken), taken.len()), (expected.drain(..count).collect(), count));
            assert_eq!((joined(&pieces), pieces.len()), (expected.clone(), expected.len()));
        }
        assert!(pieces.is_empty() && pieces.as_slice().is_empty());
    }

    #[test]
    fn a_mebibyte_in_single_bytes_is_a_few_pieces() {
        let mut pieces = Pieces::default();
        let source = Bytes::from(vec![7; 1 << 20]);
        for at in 0..source.len() {
            pieces.push(source.slice(at..at + 1));
        }
        assert_eq!(joined(&pieces), source);
        assert!(pieces.as_slice().len() <= 128, "{}", pieces.as_slice().len());
    }
}
