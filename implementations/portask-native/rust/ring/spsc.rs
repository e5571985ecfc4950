//! A bounded queue of values between one producer and one consumer, on [`rtrb`]'s ring; bounded by what they
//! cost.
//!
//! Values cross by reference: what a record costs is accounted for, not copied. Two counters do the
//! accounting, as in the reference ring. `put` is written by the producer only, `got` by the consumer only,
//! and the difference is what the queue holds. Each is stored after its step, so an old look at the
//! consumer's can only make the queue seem fuller than it is: the producer never overshoots. Room in bytes is
//! room in slots, for there are as many as records of the least cost fit, and the consumer gives back a slot
//! before its bytes. Bytes in use are values that can be taken, but one who looks while a value is on its way
//! may see it taken before it was put: he is told zero.

use super::bell::Bell;
use super::bytes::{Apart, OVERHEAD};
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
    slots: Producer<(T, usize)>,
    account: Arc<Account>,
    put: u64,
    got_seen: u64,
}

/// The consumer's side.
pub struct Receiver<T> {
    slots: Consumer<(T, usize)>,
    account: Arc<Account>,
    got: u64,
}

/// A queue for values that cost at most `capacity` together, and each at least [`OVERHEAD`]; `None` when
/// there is no memory for as many.
pub fn queue<T>(capacity: usize) -> Option<(Sender<T>, Receiver<T>, Arc<Account>)> {
    let slots = capacity / OVERHEAD;
    Vec::<(T, usize)>::new().try_reserve_exact(slots).ok()?; // what comes next would end the process
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

    /// Puts a value and wakes the consumer.
    ///
    /// # Panics
    /// There was no room: see [`Sender::free`].
    pub fn push(&mut self, value: T, cost: usize) {
        assert!(cost >= OVERHEAD && cost <= self.free(cost));
        let pushed = self.slots.push((value, cost));
        assert!(pushed.is_ok(), "as many slots as values of the least cost");
        self.put += cost as u64;
        self.account.put.0.store(self.put, Ordering::Release);
        self.account.bell.ring();
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest value out, and what it costs. That is in use until it is released.
    pub fn pop(&mut self) -> Option<(T, usize)> {
        self.slots.pop().ok()
    }

    /// Gives back what popped values cost.
    pub fn release(&mut self, cost: usize) {
        self.got += cost as u64;
        self.account.got.0.store(self.got, Ordering::Release);
    }

    /// Whether there is nothing to pop now.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether there is nothing and will be nothing.
    pub fn over(&self) -> bool {
        // Asked in this order: a value put just before closing is seen by the second question.
        self.account.closed() && self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::thread;
    use std::time::{Duration, Instant};

    proptest! {
        #[test]
        fn it_is_a_bounded_deque(
            capacity in 64..300_usize,
            steps in prop::collection::vec(prop_oneof![(8..60_usize).prop_map(Some), Just(None)], 0..300),
        ) {
            let (mut sender, mut receiver, account) = queue(capacity).unwrap();
            let mut model: VecDeque<(usize, usize)> = VecDeque::new();
            let used = |model: &VecDeque<(usize, usize)>| model.iter().map(|value| value.1).sum::<usize>();
            for (serial, step) in steps.into_iter().enumerate() {
                if let Some(cost) = step {
                    let fits = used(&model) + cost <= capacity;
                    prop_assert_eq!(sender.free(cost) >= cost, fits);
                    if fits {
                        sender.push(serial, cost);
                        model.push_back((serial, cost));
                    }
                } else {
                    let popped = receiver.pop();
                    prop_assert_eq!(account.used(), used(&model), "popped is not released");
                    prop_assert_eq!(popped, model.pop_front());
                    receiver.release(popped.map_or(0, |value| value.1));
                }
                prop_assert_eq!(account.used(), used(&model));
                prop_assert_eq!(account.ready(), !model.is_empty());
                prop_assert_eq!(receiver.is_empty(), model.is_empty());
            }
            prop_assert!(!receiver.over());
            account.close();
            prop_assert!(account.ready());
            prop_assert_eq!(receiver.over(), model.is_empty());
        }
    }

    #[test]
    fn two_threads() {
        const VALUES: usize = 500_000;
        let cost = |number: usize| OVERHEAD + number % 100;
        let (mut sender, mut receiver, account) = queue(2000).unwrap();
        let producer = thread::spawn(move || {
            for number in 0..VALUES {
                while sender.free(cost(number)) < cost(number) {
                    thread::yield_now();
                }
                sender.push(Box::new(number), cost(number));
            }
            sender.account.close();
        });
        let far = Instant::now() + Duration::from_secs(60);
        let mut number = 0;
        while account.bell().wait(Instant::now(), far, || account.ready()) && !receiver.over() {
            while let Some((value, cost_of_it)) = receiver.pop() {
                assert_eq!((*value, cost_of_it), (number, cost(number)));
                assert!(account.used() <= 2000);
                receiver.release(cost_of_it);
                number += 1;
            }
        }
        assert_eq!(number, VALUES);
        producer.join().unwrap();
    }

    #[test]
    fn more_than_there_is_memory_for_is_none() {
        assert!(queue::<u64>(usize::MAX / 2).is_none());
    }
}
