//! A bounded queue of values between any number of producers and consumers, on crossbeam's [`SegQueue`];
//! bounded by what they cost.
//!
//! **Room is reserved before a value is pushed and released after it was popped.** One word holds what is
//! reserved, so that reserving is one exchange and no number of producers overshoots. The queue itself need
//! not be bounded, and grows and shrinks in blocks with what is inside.
//!
//! **Closing is a bit of the same word.** A producer that reserved before the bit was set has its value
//! counted; one that comes later is refused. So "closed, and nothing reserved" means that nothing is inside
//! and nothing will come, while "closed, and the queue is empty" would not: a producer may be between
//! reserving and pushing, and its value, accepted, would be lost.

use super::bell::Bell;
use super::sync::{AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;

/// The word: what is reserved, and whether the queue is closed.
pub struct Budget {
    word: AtomicU64,
    capacity: u64,
}

/// The queue takes no more.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

impl Budget {
    /// Nothing reserved of `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { word: AtomicU64::new(0), capacity: capacity as u64 }
    }

    /// Reserves what `offer` asks for when it is told how much is free: all of a batch, or as much of it as
    /// fits. `offer` may be asked again when others were faster.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn reserve(&self, mut offer: impl FnMut(usize) -> usize) -> Result<usize, Closed> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return Err(Closed);
            }
            let free = (self.capacity - word) as usize;
            let wanted = offer(free);
            assert!(wanted <= free);
            match self.word.compare_exchange_weak(
                word,
                word + wanted as u64,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(wanted),
                Err(now) => word = now,
            }
        }
    }

    /// Gives back what a popped value had reserved; returns whether the queue is [`Budget::over`] with that.
    pub fn release(&self, cost: usize) -> bool {
        self.word.fetch_sub(cost as u64, Ordering::AcqRel) - cost as u64 == CLOSED
    }

    /// Whether somebody closed it.
    pub fn closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// What is reserved now.
    pub fn used(&self) -> usize {
        (self.word.load(Ordering::Acquire) & !CLOSED) as usize
    }

    /// No more reservations.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Closed, nothing inside, and nothing on its way.
    pub fn over(&self) -> bool {
        self.word.load(Ordering::Acquire) == CLOSED
    }
}

/// The queue.
#[cfg(not(loom))]
pub struct Queue<T> {
    values: crossbeam_queue::SegQueue<T>,
    budget: Budget,
    bell: Bell,
}

#[cfg(not(loom))]
impl<T> Queue<T> {
    /// A queue for values that cost at most `capacity` together.
    pub fn new(capacity: usize) -> Self {
        Self {
            values: crossbeam_queue::SegQueue::new(),
            budget: Budget::new(capacity),
            bell: Bell::default(),
        }
    }

    /// See [`Budget::reserve`]. What was reserved must be pushed.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn reserve(&self, offer: impl FnMut(usize) -> usize) -> Result<usize, Closed> {
        self.budget.reserve(offer)
    }

    /// Puts values that room was reserved for, and wakes who waits.
    pub fn push(&self, values: impl Iterator<Item = T>) {
        values.for_each(|value| self.values.push(value));
        self.bell.ring();
    }

    /// Takes the oldest value that is there.
    pub fn pop(&self, cost: impl Fn(&T) -> usize) -> Option<T> {
        let value = self.values.pop()?;
        if self.budget.release(cost(&value)) {
            self.bell.ring(); // others may wait to hear that it is over
        }
        Some(value)
    }

    /// What the values inside cost, and those on their way in.
    pub fn used(&self) -> usize {
        self.budget.used()
    }

    /// Whether a consumer has something to do: take values, or hear that none will come.
    pub fn ready(&self) -> bool {
        !self.values.is_empty() || self.over()
    }

    /// Whether somebody closed it.
    pub fn closed(&self) -> bool {
        self.budget.closed()
    }

    /// Whether there is nothing and will be nothing.
    pub fn over(&self) -> bool {
        self.budget.over()
    }

    /// No more puts. Wakes who waits.
    pub fn close(&self) {
        self.budget.close();
        self.bell.ring();
    }

    /// Where consumers wait.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    fn cost(record: &(usize, usize)) -> usize {
        8 + record.1 % 50
    }

    fn put_soon(queue: &Queue<(usize, usize)>, record: (usize, usize)) {
        let cost = cost(&record);
        while queue.reserve(|free| if free < cost { 0 } else { cost }) == Ok(0) {
            thread::yield_now();
        }
        queue.push(std::iter::once(record));
    }

    /// Nothing is lost or doubled, each producer's values come in its order, and every consumer hears the
    /// end.
    #[test]
    fn many_threads() {
        const EACH: usize = 50_000;
        let queue = Arc::new(Queue::new(1000));
        let producers: Vec<_> = (0..3)
            .map(|producer| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || (0..EACH).for_each(|number| put_soon(&queue, (producer, number))))
            })
            .collect();
        let consumers: Vec<_> = (0..3)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let far = Instant::now() + Duration::from_secs(60);
                    let mut got: Vec<(usize, usize)> = Vec::new();
                    while !queue.over() {
                        assert!(queue.bell().wait(Instant::now(), far, || queue.ready()));
                        got.extend(std::iter::from_fn(|| queue.pop(cost)));
                        assert!(queue.used() <= 1000);
                    }
                    got
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        queue.close();
        let mut all = Vec::new();
        for consumer in consumers {
            let got = consumer.join().unwrap();
            for producer in 0..3 {
                assert!(got.iter().filter(|record| record.0 == producer).is_sorted());
            }
            all.extend(got);
        }
        all.sort_unstable();
        let expected: Vec<_> =
            (0..3).flat_map(|producer| (0..EACH).map(move |number| (producer, number))).collect();
        assert!(all == expected);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::super::bell::NAP;
    use super::*;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// crossbeam's queue in loom's terms.
    struct Queue {
        values: Mutex<Vec<usize>>,
        budget: Budget,
        bell: Bell,
    }

    fn shared(capacity: usize) -> Arc<Queue> {
        Arc::new(Queue {
            values: Mutex::new(Vec::new()),
            budget: Budget::new(capacity),
            bell: Bell::default(),
        })
    }

    impl Queue {
        fn put(&self, cost: usize) -> Result<usize, Closed> {
            let reserved = self.budget.reserve(|free| if free < cost { 0 } else { cost })?;
            if reserved > 0 {
                self.values.lock().unwrap().push(cost);
                self.bell.ring();
            }
            Ok(reserved)
        }

        fn pop(&self) -> Option<usize> {
            let cost = self.values.lock().unwrap().pop()?;
            if self.budget.release(cost) {
                self.bell.ring();
            }
            Some(cost)
        }

        fn take_all(&self) -> usize {
            let mut taken = 0;
            while !self.budget.over() {
                while !self.bell.sleep(NAP, || self.budget.over() || !self.values.lock().unwrap().is_empty())
                {
                }
                while let Some(cost) = self.pop() {
                    taken += cost;
                }
            }
            taken
        }
    }

    #[test]
    fn what_was_accepted_comes_out_although_somebody_closes() {
        loom::model(|| {
            let queue = shared(100);
            let producer = thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.put(8).unwrap_or(0)
            });
            let closer = thread::spawn({
                let queue = Arc::clone(&queue);
                move || {
                    queue.budget.close();
                    queue.bell.ring();
                }
            });
            let taken = queue.take_all();
            assert_eq!(producer.join().unwrap(), taken);
            closer.join().unwrap();
        });
    }

    #[test]
    fn every_consumer_hears_the_end() {
        loom::model(|| {
            let queue = shared(100);
            assert_eq!(queue.put(8), Ok(8));
            queue.budget.close();
            let other = thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.take_all()
            });
            let taken = queue.take_all();
            assert_eq!(taken + other.join().unwrap(), 8);
        });
    }

    #[test]
    fn producers_do_not_overshoot_together() {
        loom::model(|| {
            let queue = shared(10);
            let other = thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.put(8)
            });
            let ours = queue.put(8).unwrap();
            let theirs = other.join().unwrap().unwrap();
            assert_eq!(ours + theirs, 8);
            assert_eq!(queue.budget.used(), 8);
        });
    }
}
