//! A bounded FIFO of byte records in one block of memory, between one producer and one consumer: the ring in
//! shared memory, without the memory.
//!
//! **Layout.** [`Indexes`], each word in cache lines of its own, then the data area: `capacity` bytes and a
//! margin for one record. A record is its length as a native 64-bit word, unaligned, and its bytes: exactly
//! [`OVERHEAD`] more than itself.
//!
//! **Two counters that only grow.** `put` counts the bytes ever put and is written by the producer only,
//! `got` those ever taken and is written by the consumer only. `put - got` bytes are in use; equal means
//! empty, and no byte is lost to tell full from empty. A position is `counter % capacity`. At 1 GB/s a
//! counter lasts 584 years.
//!
//! **No record is ever split.** One that starts before the end of the data area may run over it, into the
//! margin. The next one then starts as far behind the beginning as the other ran over. The bytes that it
//! skips there and those in the margin have the same counter values, so `put - got <= capacity` protects
//! both, and neither padding nor a wrap marker is needed: the ring is full when its capacity is used, to the
//! byte.
//!
//! **Order.** The producer writes records, then stores `put` with release; the consumer loads `put` with
//! acquire, then reads. So what it sees published is there in full. The consumer reads, then stores `got`
//! with release; the producer loads `got` with acquire, then overwrites. So nothing is overwritten that is
//! still being read. Without the first pair a consumer may read bytes of a lap ago, without the second a
//! record may change while it is copied out; x86 would forgive the lack of both, but not the compiler, and
//! ARM neither. Nothing else is shared: the bytes themselves are plain memory, always one side's.
//!
//! **What was not published does not exist.** A producer that gives up or is killed half-way leaves no trace;
//! whoever produces next starts at `put` and overwrites what it left. A consumer that is killed before it
//! stored `got` leaves its last batch to its successor: again, not lost. All state is in the memory but for
//! [`Cache`], which only saves looks at the other side's counter and a division: whoever has an outdated one
//! finds out, because the counter that it belongs to has moved on.
//!
//! **Fetched beforehand.** A record that moves to another core costs both sides waits for cache lines: the producer must
//! own those that the consumer read a lap ago, before what it published is seen at all, and the consumer must get them
//! back. Both are asked for early: the next ones by the producer when it has published, the oldest record's by the
//! consumer when its wait is over and it still has to get hold of the interpreter. A third of an idle ring's delay.
//!
//! **Trust.** Indexes and lengths may be those of another process. Whatever they say, no byte outside of the
//! data area is touched: positions are taken modulo the capacity, and a length above the largest record, or
//! beyond what is published, is [`Fault::Overwritten`].

use super::bell::Bell;
use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes a record costs beside its own.
pub const OVERHEAD: usize = 8;
/// Bytes. Below it, framing alone would break the promise that half of the capacity can be used.
pub const MIN_CAPACITY: usize = 64;

/// The longest record that a ring of `capacity` bytes takes.
pub const fn largest(capacity: usize) -> usize {
    capacity / 8
}

/// Bytes of the data area of a ring of `capacity` bytes, the margin included.
pub const fn area(capacity: usize) -> usize {
    capacity + OVERHEAD + largest(capacity)
}

/// Two cache lines, because processors fetch them in pairs: what one side writes does not slow down the
/// other.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Apart<T>(pub T);

/// What both sides see beside the data.
#[repr(C)]
#[derive(Default)]
pub struct Indexes {
    /// Bytes ever put. Written by the producer only.
    pub put: Apart<AtomicU64>,
    /// Bytes ever taken. Written by the consumer only.
    pub got: Apart<AtomicU64>,
    /// Written seldom, by either side.
    pub rest: Apart<Rest>,
}

/// See [`Indexes`].
#[repr(C)]
#[derive(Default)]
pub struct Rest {
    /// 0, then 1 for good.
    pub closed: AtomicU32,
    /// Where the consumer waits.
    pub bell: Bell,
}

/// Where a ring lives.
pub trait Memory {
    /// The indexes, zero when the ring is made.
    fn indexes(&self) -> &Indexes;

    /// Copies `from` to position `at` of the data area.
    ///
    /// # Safety
    /// The bytes lie inside of the data area, and nobody else reads or writes them meanwhile.
    unsafe fn write(&self, at: usize, from: &[u8]);

    /// Shows `len` bytes from position `at` of the data area.
    ///
    /// # Safety
    /// The bytes lie inside of the data area, and nobody writes them meanwhile.
    unsafe fn read<R>(&self, at: usize, len: usize, look: impl FnOnce(&[u8]) -> R) -> R;

    /// Says that a record at position `at` is about to be read, or written. A hint: it may do nothing.
    fn expect(&self, _at: usize, _to_write: bool) {}
}

/// What one side remembers between calls; it may be outdated. All zero was true of every ring once.
#[derive(Default)]
pub struct Cache {
    /// One's own counter, and its position.
    own: u64,
    at: usize,
    /// The other side's counter when it was last looked at.
    other: u64,
}

/// Why a record was not put or taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The ring was closed; a consumer hears it when nothing is left.
    Closed,
    /// The record is longer than the largest one.
    NeverFits(usize),
    /// The memory holds what no producer wrote: a record of this length at this counter.
    Overwritten(u64, u64),
}

/// The ring. Its two sides are [`Writer`] and [`Reader`]; the caller sees to it that there is one of each at
/// a time.
pub struct ByteRing<M> {
    memory: M,
    capacity: usize,
}

impl<M: Memory> ByteRing<M> {
    /// A ring in `memory`, whose data area has [`area`]`(capacity)` bytes.
    ///
    /// # Safety
    /// It has, and of all rings in this memory one writes and one reads at a time.
    pub unsafe fn new(memory: M, capacity: usize) -> Self {
        assert!(capacity >= MIN_CAPACITY);
        Self { memory, capacity }
    }

    /// In bytes, overhead included.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where it lives.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Bytes in use, overhead included.
    pub fn used(&self) -> usize {
        let indexes = self.memory.indexes();
        let got = indexes.got.0.load(Ordering::Acquire); // first: the difference is never negative, whoever asks
        let used = indexes.put.0.load(Ordering::Acquire).wrapping_sub(got);
        used.min(self.capacity as u64) as usize
    }

    /// Whether a consumer has something to do: take records, or hear that none will come.
    pub fn ready(&self) -> bool {
        let indexes = self.memory.indexes();
        indexes.put.0.load(Ordering::Relaxed) != indexes.got.0.load(Ordering::Relaxed) || self.closed()
    }

    /// The same, for a consumer that is about to take the oldest record.
    pub fn ready_to_take(&self) -> bool {
        let ready = self.ready();
        if ready {
            let got = self.memory.indexes().got.0.load(Ordering::Relaxed);
            self.memory.expect((got % self.capacity as u64) as usize, false);
        }
        ready
    }

    /// Whether somebody closed it.
    pub fn closed(&self) -> bool {
        self.memory.indexes().rest.0.closed.load(Ordering::Acquire) != 0
    }

    /// No more puts. Wakes the consumer.
    pub fn close(&self) {
        self.memory.indexes().rest.0.closed.store(1, Ordering::Release);
        self.bell().ring();
    }

    /// Where the consumer waits.
    pub fn bell(&self) -> &Bell {
        &self.memory.indexes().rest.0.bell
    }

    /// Begins to put.
    ///
    /// # Errors
    /// [`Fault::Closed`].
    pub fn writer<'a>(&'a self, cache: &'a mut Cache) -> Result<Writer<'a, M>, Fault> {
        if self.closed() {
            return Err(Fault::Closed);
        }
        let put = self.memory.indexes().put.0.load(Ordering::Relaxed); // one's own
        let at = self.position(cache, put);
        Ok(Writer { ring: self, cache, put, at })
    }

    /// Begins to take.
    ///
    /// # Errors
    /// [`Fault::Closed`] when there is nothing and will be nothing; [`Fault::Overwritten`].
    pub fn reader<'a>(&'a self, cache: &'a mut Cache) -> Result<Reader<'a, M>, Fault> {
        let indexes = self.memory.indexes();
        let got = indexes.got.0.load(Ordering::Relaxed); // one's own
        let at = self.position(cache, got);
        let inside = |put: u64| put.wrapping_sub(got);
        let mut put = cache.other;
        if inside(put) == 0 || inside(put) > self.capacity as u64 {
            put = indexes.put.0.load(Ordering::Acquire);
            if inside(put) == 0 && self.closed() {
                put = indexes.put.0.load(Ordering::Acquire); // a record put just before closing
                if inside(put) == 0 {
                    return Err(Fault::Closed);
                }
            }
            if inside(put) > self.capacity as u64 {
                return Err(Fault::Overwritten(inside(put), got));
            }
            cache.other = put;
        }
        Ok(Reader { ring: self, cache, got, at, left: inside(put) as usize })
    }

    fn position(&self, cache: &Cache, counter: u64) -> usize {
        if cache.own == counter {
            cache.at
        } else {
            (counter % self.capacity as u64) as usize
        }
    }
}

/// The producer's turn: records that are written and not yet published. Dropping it leaves the ring as it
/// was.
pub struct Writer<'a, M> {
    ring: &'a ByteRing<M>,
    cache: &'a mut Cache,
    put: u64,
    at: usize,
}

impl<M: Memory> Writer<'_, M> {
    /// Whether a record of that length is one for this ring.
    ///
    /// # Errors
    /// [`Fault::NeverFits`].
    pub fn check(&self, length: usize) -> Result<(), Fault> {
        if length > largest(self.ring.capacity) {
            return Err(Fault::NeverFits(length));
        }
        Ok(())
    }

    /// Writes a record, or returns that there is no room for it now.
    ///
    /// # Errors
    /// [`Fault::NeverFits`].
    pub fn push(&mut self, record: &[u8]) -> Result<bool, Fault> {
        self.check(record.len())?;
        let cost = OVERHEAD + record.len();
        if !self.has_room(cost) {
            return Ok(false);
        }
        // SAFETY: the position is below the capacity and the record not larger than the margin allows. No
        // consumer reads here before `publish`, nor any more since it gave these bytes back (`has_room`
        // acquired that); and there is one producer.
        unsafe {
            self.ring.memory.write(self.at, &(record.len() as u64).to_ne_bytes());
            self.ring.memory.write(self.at + OVERHEAD, record);
        }
        self.put = self.put.wrapping_add(cost as u64);
        self.at += cost;
        if self.at >= self.ring.capacity {
            self.at -= self.ring.capacity;
        }
        Ok(true)
    }

    fn has_room(&mut self, cost: usize) -> bool {
        let capacity = self.ring.capacity as u64;
        let free = |got: u64| capacity.saturating_sub(self.put.wrapping_sub(got));
        if free(self.cache.other) < cost as u64 {
            self.cache.other = self.ring.memory.indexes().got.0.load(Ordering::Acquire);
        }
        free(self.cache.other) >= cost as u64
    }

    /// Shows the consumer everything that was pushed, at once, and wakes it.
    pub fn publish(self) {
        self.ring.memory.indexes().put.0.store(self.put, Ordering::Release);
        self.ring.bell().ring();
        self.ring.memory.expect(self.at, true);
        (self.cache.own, self.cache.at) = (self.put, self.at);
    }
}

/// The consumer's turn: records that are read and not yet taken. Dropping it leaves the ring as it was.
pub struct Reader<'a, M> {
    ring: &'a ByteRing<M>,
    cache: &'a mut Cache,
    got: u64,
    at: usize,
    /// Published bytes from `got` on.
    left: usize,
}

impl<M: Memory> Reader<'_, M> {
    /// Shows the oldest record that was not shown yet; `None` when there is none now.
    ///
    /// # Errors
    /// [`Fault::Overwritten`]. Those before it can be taken.
    pub fn next<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Fault> {
        if self.left == 0 && !self.has_more()? {
            return Ok(None);
        }
        let mut length = [0; OVERHEAD];
        // SAFETY: the position is below the capacity and the margin larger than a length. The bytes are
        // published (acquired with `put`), and the producer leaves them alone until `take`.
        unsafe { self.ring.memory.read(self.at, OVERHEAD, |bytes| length.copy_from_slice(bytes)) };
        let length = u64::from_ne_bytes(length);
        if length > largest(self.ring.capacity) as u64 || OVERHEAD + length as usize > self.left {
            return Err(Fault::Overwritten(length, self.got));
        }
        let cost = OVERHEAD + length as usize;
        // SAFETY: as above; the length was just found to end before what is published does, and inside of the
        // margin.
        let shown = unsafe { self.ring.memory.read(self.at + OVERHEAD, length as usize, look) };
        self.got = self.got.wrapping_add(cost as u64);
        self.left -= cost;
        self.at += cost;
        if self.at >= self.ring.capacity {
            self.at -= self.ring.capacity;
        }
        Ok(Some(shown))
    }

    /// Looks whether more was published since this turn began: a batch is not cut where an older look ended.
    fn has_more(&mut self) -> Result<bool, Fault> {
        let put = self.ring.memory.indexes().put.0.load(Ordering::Acquire);
        let left = put.wrapping_sub(self.got);
        if left > self.ring.capacity as u64 {
            return Err(Fault::Overwritten(left, self.got));
        }
        self.cache.other = put;
        self.left = left as usize;
        Ok(left > 0)
    }

    /// Takes everything that was shown: the producer may overwrite it.
    pub fn take(self) {
        self.ring.memory.indexes().got.0.store(self.got, Ordering::Release);
        (self.cache.own, self.cache.at) = (self.got, self.at);
    }
}

#[cfg(test)]
mod tests;
