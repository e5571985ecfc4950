//! Buffers cut from arenas: large blocks of memory, one class of buffers each.
//!
//! The allocator is asked once an arena, and never again in steady state. An arena is cut from its front as
//! buffers are first needed; the kernel gives pages when they are first touched, so that the uncut part costs
//! address space, not memory. A buffer is never joined with another nor cut again: two of them never overlap,
//! and an arena lives as long as any buffer of it, whoever holds that.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of the smallest class. Classes are powers of two.
pub const SMALLEST: usize = 64;
/// What a checked buffer is filled with while nobody has it.
const POISON: u8 = 0xdb;

/// The class that buffers of `size` bytes are of: they have 2 to the power of it.
pub fn class_of(size: usize) -> u32 {
    size.max(SMALLEST).next_power_of_two().trailing_zeros()
}

struct Arena {
    memory: NonNull<u8>,
    layout: Layout,
    /// Where the first buffer begins: on a cache line.
    start: usize,
}

impl Arena {
    fn new(bytes: usize) -> Option<Self> {
        // Zeroed because Python may read it. Of a large block that costs nothing, its pages come zeroed when
        // they are touched: but only if the alignment is one that the allocator has anyway, else it writes
        // the zeros itself.
        let layout = Layout::from_size_align(bytes.checked_add(SMALLEST)?, align_of::<u64>()).ok()?;
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { memory, layout, start: memory.align_offset(SMALLEST) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and the last buffer of it is gone.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

// SAFETY: it is memory and its size, both never changed. Who reads and writes the bytes, and when, is the
// business of those who have the buffers.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// The memory of one buffer. Keeps its arena alive.
pub struct Slot {
    arena: Arc<Arena>,
    at: usize,
    len: usize,
}

impl Slot {
    /// A buffer with an arena of its own, made to measure.
    pub fn loose(bytes: usize) -> Option<Self> {
        Some(Self { arena: Arc::new(Arena::new(bytes)?), at: 0, len: bytes })
    }

    /// Where it is. Valid for as long as the slot.
    pub fn memory(&self) -> *mut u8 {
        // SAFETY: every slot lies inside of its arena.
        unsafe { self.arena.memory.as_ptr().add(self.arena.start + self.at) }
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Fills it, so that who writes into it afterwards is found out.
    ///
    /// # Safety
    /// Nobody has the buffer.
    pub unsafe fn poison(&self) {
        // SAFETY: inside of the arena; nobody else's, says the caller.
        unsafe { self.memory().write_bytes(POISON, self.len) };
    }

    /// Whether nobody wrote into it since.
    ///
    /// # Safety
    /// Nobody has the buffer.
    pub unsafe fn is_poisoned(&self) -> bool {
        // SAFETY: inside of the arena, which is initialized; nobody else's, says the caller.
        unsafe { std::slice::from_raw_parts(self.memory(), self.len) }.iter().all(|byte| *byte == POISON)
    }
}

/// Arenas, as many as they may be.
pub struct Slabs {
    arena_bytes: usize,
    most: usize,
    bytes: usize,
    /// By class: an arena and where its uncut part begins.
    uncut: Vec<Option<(Arc<Arena>, usize)>>,
}

impl Slabs {
    /// Arenas of `arena_bytes`, a power of two, and `most` bytes of them together.
    pub fn new(arena_bytes: usize, most: usize) -> Self {
        let classes = arena_bytes.trailing_zeros() + 1;
        Self { arena_bytes, most, bytes: 0, uncut: (0..classes).map(|_| None).collect() }
    }

    /// Bytes in arenas.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many classes there are, those below the smallest included.
    pub fn classes(&self) -> usize {
        self.uncut.len()
    }

    /// A buffer that nobody had before. `None` when there may be no more arenas, or there is no memory for
    /// one.
    ///
    /// # Panics
    /// The class is larger than an arena.
    pub fn cut(&mut self, class: u32) -> Option<Slot> {
        let len = 1 << class;
        let uncut = &mut self.uncut[class as usize];
        let (arena, at) = match uncut.take() {
            Some(rest) => rest,
            None => {
                if self.bytes + self.arena_bytes > self.most {
                    return None;
                }
                let arena = Arc::new(Arena::new(self.arena_bytes)?);
                self.bytes += self.arena_bytes;
                (arena, 0)
            }
        };
        if at + len < self.arena_bytes {
            *uncut = Some((Arc::clone(&arena), at + len));
        }
        Some(Slot { arena, at, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_class_is_the_power_of_two_that_is_enough() {
        for (size, class) in [(1, 6), (64, 6), (65, 7), (4096, 12), (4097, 13)] {
            assert_eq!(class_of(size), class, "{size}");
        }
    }

    proptest! {
        /// Buffers do not overlap, whatever their classes; as many fit as the bound says, whole arenas only.
        #[test]
        fn nobody_writes_into_anothers(classes in prop::collection::vec(6..=12_u32, 1..200), most in 0..100_000_usize) {
            let mut slabs = Slabs::new(4096, most);
            let mut slots = Vec::new();
            for class in classes {
                let before = slabs.bytes();
                if let Some(slot) = slabs.cut(class) {
                    prop_assert_eq!(slot.size(), 1 << class);
                    prop_assert_eq!(slot.memory() as usize % SMALLEST, 0);
                    slots.push(slot);
                } else {
                    prop_assert!(before + 4096 > most, "there was room");
                }
                prop_assert!(slabs.bytes() <= most);
                prop_assert_eq!(slabs.bytes() % 4096, 0);
            }
            drop(slabs); // buffers outlive the pool
            for (mark, slot) in slots.iter().enumerate() {
                // SAFETY: this test has them all.
                unsafe { slot.memory().write_bytes(mark as u8, slot.size()) };
            }
            for (mark, slot) in slots.iter().enumerate() {
                // SAFETY: as above.
                let bytes = unsafe { std::slice::from_raw_parts(slot.memory(), slot.size()) };
                prop_assert!(bytes.iter().all(|byte| *byte == mark as u8));
            }
        }
    }

    #[test]
    fn who_writes_into_poison_is_found_out() {
        let slot = Slabs::new(64, 64).cut(6).unwrap();
        for at in [0, 31, 63] {
            // SAFETY: this test has it alone.
            unsafe {
                slot.poison();
                assert!(slot.is_poisoned());
                slot.memory().add(at).write(0);
                assert!(!slot.is_poisoned());
            }
        }
    }

    #[test]
    fn what_no_machine_has_is_none() {
        assert!(Slot::loose(usize::MAX).is_none());
        assert!(Slot::loose(1 << 60).is_none());
    }
}
