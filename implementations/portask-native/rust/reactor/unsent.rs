//! What the kernel did not take: a queue of bytes that grows behind and is written from the front.

use std::io::IoSlice;

/// Above so many unsent bytes a connection is congested.
pub const HIGH: usize = 1 << 20;
/// Below so many it is not any more.
pub const LOW: usize = 256 << 10;

/// Is made when something waits, and goes when nothing does any more.
#[derive(Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to send next.
    pub fn front(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The first `count` bytes of `front` were sent. Moves the rest only when at least as much was sent: each byte
    /// is moved once at most, on average.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Copies what follows the first `skip` bytes of `parts`.
    pub fn keep(&mut self, parts: &[IoSlice<'_>], mut skip: usize) {
        for part in parts {
            if skip >= part.len() {
                skip -= part.len();
            } else {
                self.bytes.extend_from_slice(&part[skip..]);
                skip = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_once_and_in_order(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..50), 0usize..60, 0usize..80), 0..40),
        ) {
            let mut unsent = Unsent::default();
            let (mut expected, mut sent) = (Vec::new(), Vec::new());
            for (piece, skip, count) in pieces {
                let skip = skip.min(piece.len());
                let (head, tail) = piece.split_at(piece.len() / 2);
                unsent.keep(&[IoSlice::new(head), IoSlice::new(tail)], skip);
                expected.extend_from_slice(&piece[skip..]);
                let count = count.min(unsent.len());
                sent.extend_from_slice(&unsent.front()[..count]);
                unsent.advance(count);
                prop_assert_eq!(unsent.len(), expected.len() - sent.len());
            }
            sent.extend_from_slice(unsent.front());
            prop_assert_eq!(sent, expected);
        }
    }
}
