//! Where received bytes live: slabs that all sockets share, borrowed for as long as somebody looks at the bytes.
//!
//! Reads go one after the other into the same slab. When nobody holds a part of it any more, which is the rule once a
//! turn is over, it is filled from its beginning again: the same few cache lines serve wake-up after wake-up, and
//! idle connections hold nothing. Who keeps a part (a storage that appends later) keeps the slab, and only the rest
//! of it is filled on: memory goes with the bytes in flight, not with the number of reads.

use bytes::{BufMut, Bytes, BytesMut};
use std::mem::MaybeUninit;

/// A read that has less room than this is not worth its system call.
const LEAST: usize = 8 * 1024;
/// Slabs that are kept for later when they are full, at most.
const KEPT: usize = 8;

/// The slabs of one reactor.
pub struct Buffers {
    size: usize,
    current: BytesMut,
    /// Full ones, that may have become free.
    full: Vec<BytesMut>,
}

impl Buffers {
    /// Slabs of so many bytes, and so many at most in one read.
    pub fn new(size: usize) -> Self {
        let size = size.max(LEAST);
        Buffers { size, current: BytesMut::with_capacity(size), full: Vec::new() }
    }

    /// Begins a wake-up: takes back the slab if nobody looks at it any more.
    pub fn rewind(&mut self) {
        let _ = self.current.try_reclaim(self.size); // if not, the rest of it is filled on
    }

    /// Where to read to. `filled` must follow.
    pub fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.current.capacity() - self.current.len() < LEAST {
            let free = self.full.iter_mut().position(|slab| slab.try_reclaim(self.size));
            let next = match free {
                Some(at) => self.full.swap_remove(at),
                None => BytesMut::with_capacity(self.size),
            };
            let last = std::mem::replace(&mut self.current, next);
            if self.full.len() < KEPT {
                self.full.push(last);
            }
        }
        self.current.spare_capacity_mut()
    }

    /// The first `count` bytes of the last `room`, which were read.
    ///
    /// # Safety
    /// They were written.
    pub unsafe fn filled(&mut self, count: usize) -> Bytes {
        // SAFETY: the caller wrote them, and `room` is the spare capacity.
        unsafe { self.current.advance_mut(count) };
        self.current.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffers: &mut Buffers, count: usize, value: u8) -> Bytes {
        for place in &mut buffers.room()[..count] {
            place.write(value);
        }
        // SAFETY: written just above.
        unsafe { buffers.filled(count) }
    }

    #[test]
    fn a_slab_that_nobody_holds_is_filled_from_its_beginning() {
        let mut buffers = Buffers::new(64 * 1024);
        let first = fill(&mut buffers, 5000, 1).as_ptr();
        buffers.rewind();
        assert_eq!(fill(&mut buffers, 5000, 2).as_ptr(), first);
    }

    #[test]
    fn what_is_held_stays_as_it_is() {
        let mut buffers = Buffers::new(64 * 1024);
        let mut held = Vec::new();
        for round in 0..100u8 {
            buffers.rewind();
            held.push((round, fill(&mut buffers, 7000, round)));
        }
        assert!(held.iter().all(|(round, bytes)| bytes.iter().all(|byte| byte == round)));
        drop(held);
        assert!(buffers.full.len() <= KEPT);
        buffers.rewind();
        assert!(fill(&mut buffers, 7000, 7).iter().all(|byte| *byte == 7));
    }

    #[test]
    fn many_small_reads_share_a_slab() {
        let mut buffers = Buffers::new(64 * 1024);
        let held: Vec<Bytes> = (0..100).map(|_| fill(&mut buffers, 10, 1)).collect();
        assert!(buffers.full.is_empty());
        assert_eq!(held.len(), 100);
    }
}
