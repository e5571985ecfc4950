//! Receive buffers that the kernel takes by itself (io_uring's provided buffers): a ring of them that both sides see.
//!
//! The kernel writes what it receives into the next buffer of the ring and says which. It is given back at the next
//! exchange: as it is if nobody looks at the bytes any more, which is the rule, else new memory takes its place. So who
//! keeps bytes costs memory and never sees other ones.

use bytes::{BufMut, Bytes, BytesMut};
use io_uring::types::BufRingEntry;
use io_uring::IoUring;
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// Our one group of buffers.
pub const GROUP: u16 = 0;
/// How many; a power of two.
const COUNT: u16 = 64;

/// The buffers of one reactor. They must outlive the `IoUring` that they are registered with.
pub struct Provided {
    ring: MmapMut,
    tail: u16,
    size: usize,
    slots: Vec<BytesMut>,
    /// Taken since the last `refill`.
    spent: Vec<u16>,
}

impl Provided {
    /// Buffers of so many bytes, registered with `uring`.
    ///
    /// # Errors
    /// The kernel knows no such rings, or has no memory.
    pub fn new(uring: &IoUring, size: usize) -> io::Result<Self> {
        let ring = MmapMut::map_anon(usize::from(COUNT) * size_of::<BufRingEntry>())?;
        // SAFETY: page-aligned and long enough for so many entries; it lives as long as `self`, which the owner keeps
        // for longer than the ring.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(ring.as_ptr() as u64, COUNT, GROUP, 0)?;
        }
        let slots = (0..COUNT).map(|_| BytesMut::with_capacity(size)).collect();
        let mut made = Provided { ring, tail: 0, size, slots, spent: (0..COUNT).collect() };
        made.refill();
        Ok(made)
    }

    /// Gives the kernel back what was taken.
    pub fn refill(&mut self) {
        if self.spent.is_empty() {
            return;
        }
        let Provided { ring, tail, size, slots, spent } = self;
        let entries = ring.as_mut_ptr().cast::<BufRingEntry>();
        for id in spent.drain(..) {
            let slot = &mut slots[usize::from(id)];
            if !slot.try_reclaim(*size) {
                *slot = BytesMut::with_capacity(*size); // somebody still looks at the last bytes
            }
            // SAFETY: inside of the ring, whose length is a power of two. The kernel does not read an entry before
            // the tail says that it is there, and there are never more entries than buffers.
            let entry = unsafe { &mut *entries.add(usize::from(*tail & (COUNT - 1))) };
            entry.set_addr(slot.spare_capacity_mut().as_mut_ptr() as u64);
            entry.set_len(*size as u32);
            entry.set_bid(id);
            *tail = tail.wrapping_add(1);
        }
        // SAFETY: the tail lies in the first entry's reserved field, aligned, and is ours to write.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        shared.store(*tail, Ordering::Release);
    }

    /// The first `count` bytes of a buffer that the kernel took.
    ///
    /// # Safety
    /// It said so, once, since the last `refill`, and wrote so many.
    pub unsafe fn take(&mut self, id: u16, count: usize) -> Bytes {
        let slot = &mut self.slots[usize::from(id)];
        self.spent.push(id);
        // SAFETY: the kernel wrote them to the spare capacity.
        unsafe { slot.advance_mut(count) };
        slot.split().freeze()
    }
}
