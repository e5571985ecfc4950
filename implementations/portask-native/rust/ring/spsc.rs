//! A bounded queue of values between one producer and one consumer, on [`rtrb`]'s ring; bounded by what they cost.
//!
//! Values cross by reference: what a record costs is accounted for, not copied. Two counters do the accounting, as in
//! the reference ring. `put` is written by the producer only, `got` by the consumer only, and the difference is what
//! the queue holds. Each is stored after its step, so an old look at the consumer's can only make the queue seem fuller
//! than it is: the producer never overshoots. Room in bytes is room in slots, for there are as many as records of the
//! least cost fit, and the consumer gives back slots before bytes. Bytes in use are values that can be taken, but one
//! who looks while a value is on its way may see it taken before it was put: he is told zero.

use super::bell::Bell;
use super::bytes::{Apart, OVERHEAD};
use rtrb::chunks::ReadChunkIntoIter;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// What both sides, and whoever else is interested, see.
pub struct Account {
    capacity: u64,
    put: Apart<AtomicU64>,
    got: Apart<AtomicU64>,
    closed: AtomicBool,
    bell: Bell,
}

impl Account {
    /// What the values inside cost.
    pub fn used(&self) -> usize {
        let put = self.put.0.load(Ordering::Acquire);
        let used = put.wrapping_sub(self.got.0.load(Ordering::Acquire)) as i64;
        used.clamp(0, self.capacity as i64) as usize
    }

    /// Whether the consumer has something to do: take values, or hear that none will come.
    pub fn ready(&self) -> bool {
        self.used() > 0 || self.closed()
    }

    /// Whether somebody closed it.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// No more puts. Wakes the consumer.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Where the consumer waits.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// The producer's side.
pub struct Sender<T> {
    slots: Producer<T>,
    account: Arc<Account>,
    put: u64,
    got_seen: u64,
}

/// The consumer's side.
pub struct Receiver<T> {
    slots: Consumer<T>,
    account: Arc<Account>,
    got: u64,
}

/// A queue for values that cost at most `capacity` together, and each at least [`OVERHEAD`]; `None` when there is no
/// memory for as many.
pub fn queue<T>(capacity: usize) -> Option<(Sender<T>, Receiver<T>, Arc<Account>)> {
    let slots = capacity / OVERHEAD;
    Vec::<T>::new().try_reserve_exact(slots).ok()?; // what comes next would end the process
    let (producer, consumer) = RingBuffer::new(slots);
    let account = Arc::new(Account {
        capacity: capacity as u64,
        put: Apart::default(),
        got: Apart::default(),
        closed: AtomicBool::new(false),
        bell: Bell::default(),
    });
    let sender = Sender { slots: producer, account: Arc::clone(&account), put: 0, got_seen: 0 };
    let receiver = Receiver { slots: consumer, account: Arc::clone(&account), got: 0 };
    Some((sender, receiver, account))
}

impl<T> Sender<T> {
    /// What may be put now, at least as far as somebody interested in `wanted` must know.
    pub fn free(&mut self, wanted: usize) -> usize {
        let free = |got: u64| (self.account.capacity - (self.put - got)) as usize;
        if free(self.got_seen) < wanted {
            self.got_seen = self.account.got.0.load(Ordering::Acquire);
        }
        free(self.got_seen)
    }

    /// Puts `values`, which cost `cost` together, at once, and wakes the consumer.
    ///
    /// # Panics
    /// There was no room: see [`Sender::free`].
    pub fn push(&mut self, values: impl ExactSizeIterator<Item = T>, cost: usize) {
        assert!(cost <= self.free(cost));
        let chunk = self.slots.write_chunk_uninit(values.len()).expect("as many slots as the least records");
        chunk.fill_from_iter(values);
        self.put += cost as u64;
        self.account.put.0.store(self.put, Ordering::Release);
        self.account.bell.ring();
    }
}

impl<T> Receiver<T> {
    /// Takes up to `limit` values, oldest first: those that are iterated over.
    pub fn take<C: Fn(&T) -> usize>(&mut self, limit: usize, cost: C) -> Taken<'_, T, C> {
        let count = self.slots.slots().min(limit);
        let chunk = self.slots.read_chunk(count).expect("slots that were counted");
        Taken { values: Some(chunk.into_iter()), account: &self.account, got: &mut self.got, cost }
    }

    /// Whether there is nothing and will be nothing.
    pub fn over(&self) -> bool {
        // Asked in this order: a value put just before closing is seen by the second question.
        self.account.closed() && self.slots.slots() == 0
    }
}

/// Values on their way out. What they cost is given back when it is dropped.
pub struct Taken<'a, T, C> {
    values: Option<ReadChunkIntoIter<'a, T>>,
    account: &'a Account,
    got: &'a mut u64,
    cost: C,
}

impl<T, C: Fn(&T) -> usize> Iterator for Taken<'_, T, C> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let value = self.values.as_mut()?.next()?;
        *self.got += (self.cost)(&value) as u64;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.values.as_ref().map_or((0, Some(0)), ReadChunkIntoIter::size_hint)
    }
}

impl<T, C: Fn(&T) -> usize> ExactSizeIterator for Taken<'_, T, C> {}

impl<T, C> Drop for Taken<'_, T, C> {
    fn drop(&mut self) {
        drop(self.values.take()); // the slots first: see the module
        self.account.got.0.store(*self.got, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::thread;
    use std::time::{Duration, Instant};

    fn cost(record: &Vec<u8>) -> usize {
        record.len() + OVERHEAD
    }

    fn put(sender: &mut Sender<Vec<u8>>, records: &[Vec<u8>]) -> usize {
        let total: usize = records.iter().map(cost).sum();
        let free = sender.free(total);
        let mut used = 0;
        let fit = records.iter().take_while(|record| {
            used += cost(record);
            used <= free
        });
        let fit: Vec<_> = fit.cloned().collect();
        let (count, used) = (fit.len(), fit.iter().map(cost).sum());
        sender.push(fit.into_iter(), used);
        count
    }

    proptest! {
        #[test]
        fn it_is_a_bounded_deque(
            capacity in 64..300_usize,
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(0..40_usize, 0..6)), 0..200),
        ) {
            let (mut sender, mut receiver, account) = queue(capacity).unwrap();
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let mut serial = 0_u8;
            for (is_put, lengths) in steps {
                if is_put {
                    let records: Vec<Vec<u8>> = lengths.iter().map(|length| {
                        serial = serial.wrapping_add(1);
                        vec![serial; *length]
                    }).collect();
                    let count = put(&mut sender, &records);
                    model.extend(records[..count].iter().cloned());
                    let used: usize = model.iter().map(cost).sum();
                    prop_assert!(used <= capacity);
                    prop_assert!(count == records.len() || used + cost(&records[count]) > capacity);
                } else {
                    let limit = lengths.len();
                    let iterated = limit.min(3); // the others stay
                    let taken: Vec<_> = receiver.take(limit, cost).take(iterated).collect();
                    let expected: Vec<_> = model.drain(..iterated.min(model.len())).collect();
                    prop_assert_eq!(taken, expected);
                }
                prop_assert_eq!(account.used(), model.iter().map(cost).sum::<usize>());
                prop_assert_eq!(account.ready(), !model.is_empty());
            }
            account.close();
            prop_assert!(account.ready());
            prop_assert_eq!(receiver.over(), model.is_empty());
        }
    }

    #[test]
    fn two_threads() {
        const RECORDS: usize = 300_000;
        let (mut sender, mut receiver, account) = queue(2000).unwrap();
        let producer = thread::spawn(move || {
            let mut number = 0;
            while number < RECORDS {
                let batch: Vec<Vec<u8>> =
                    (number..RECORDS.min(number + number % 9 + 1)).map(|n| vec![n as u8; n % 100]).collect();
                match put(&mut sender, &batch) {
                    0 => thread::yield_now(),
                    count => number += count,
                }
            }
            sender.account.close();
        });
        let far = Instant::now() + Duration::from_secs(60);
        let mut number = 0;
        while account.bell().wait(Instant::now(), far, || account.ready()) && !receiver.over() {
            for record in receiver.take(7, cost) {
                assert_eq!(record, vec![number as u8; number % 100]);
                number += 1;
            }
        }
        assert_eq!(number, RECORDS);
        producer.join().unwrap();
    }

    #[test]
    fn more_than_there_is_memory_for_is_none() {
        assert!(queue::<u64>(usize::MAX / 2).is_none());
    }
}
