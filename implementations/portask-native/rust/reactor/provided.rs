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

/// A group of buffers of one size. They must outlive the `IoUring` that they are registered with.
pub struct Provided {
    /// What requests name it by.
    pub group: u16,
    /// Bytes of each.
    pub size: usize,
    ring: MmapMut,
    tail: u16,
    slots: Vec<BytesMut>,
    /// Taken since the last `refill`.
    spent: Vec<u16>,
}

impl Provided {
    /// So many buffers, a power of two, of so many bytes, registered with `uring`.
    ///
    /// # Errors
    /// The kernel knows no such rings, or has no memory.
    pub fn new(uring: &IoUring, group: u16, count: u16, size: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a ring's length");
        let ring = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        // SAFETY: page-aligned and long enough for so many entries; it lives as long as `self`, which the owner keeps
        // for longer than the ring.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(ring.as_ptr() as u64, count, group, 0)?;
        }
        let slots = (0..count).map(|_| BytesMut::with_capacity(size)).collect();
        let mut made = Provided { group, size, ring, tail: 0, slots, spent: (0..count).collect() };
        made.refill();
        Ok(made)
    }

    /// Gives the kernel back what was taken.
    pub fn refill(&mut self) {
        if self.spent.is_empty() {
            return;
        }
        let Provided { ring, tail, size, slots, spent, .. } = self;
        let last = slots.len() - 1;
        let entries = ring.as_mut_ptr().cast::<BufRingEntry>();
        for id in spent.drain(..) {
            let slot = &mut slots[usize::from(id)];
            if !slot.try_reclaim(*size) {
                *slot = BytesMut::with_capacity(*size); // somebody still looks at the last bytes
            }
            // SAFETY: inside of the ring, whose length is a power of two. The kernel does not read an entry before
            // the tail says that it is there, and there are never more entries than buffers.
            let entry = unsafe { &mut *entries.add(usize::from(*tail) & last) };
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
