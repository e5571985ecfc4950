//! How a consumer waits and a producer wakes it, without a lock and without a system call while nobody
//! sleeps.
//!
//! **What must hold.** A consumer never sleeps while there is something to take. The danger is that it looks
//! and finds nothing, the producer publishes and sees nobody asleep, and then the consumer falls asleep. So
//! each side first says what it did and then looks at what the other did, with a sequentially consistent
//! fence between the two:
//!
//! ```text
//! producer                     consumer
//!   publish                      say "I sleep"
//!   ── fence ──                  ── fence ──
//!   does anybody sleep?          is there something?
//! ```
//!
//! Whichever fence comes second in the one order of all fences, its side sees what the other said: they
//! cannot both look too early. Release and acquire alone would not do: they let a load overtake an earlier
//! store to another place, which is this very mistake, and so does every x86.
//!
//! **One word.** Its lowest bit says that somebody sleeps or is about to; the other 31 count the rings. The
//! producer that finds the bit set clears it and counts, in one step, and wakes everybody: for the next
//! record it need not call the kernel again. The kernel lets nobody fall asleep on a word that has changed,
//! and the count makes it change also for a second consumer that had set the bit already.
//!
//! **Who dies when.** A consumer that is killed while it sleeps leaves the bit: the next record costs one
//! needless system call. A producer that is killed between publishing and waking leaves a sleeper behind,
//! which is why nobody sleeps longer than a [`NAP`] without looking.

use super::sync::{fence, Futex, Ordering};
use std::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

/// The longest that a consumer sleeps without looking.
pub const NAP: Duration = Duration::from_millis(20);

const SLEEPS: u32 = 1;

/// See the module.
#[repr(transparent)]
#[derive(Default)]
pub struct Bell(Futex);

impl Bell {
    /// Wakes whoever sleeps. After each publication. Costs a fence, and a system call when somebody sleeps.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        let word = self.0.word.load(Ordering::Relaxed);
        // Where the exchange fails another producer woke them, after both publications.
        if word & SLEEPS != 0
            && self
                .0
                .word
                .compare_exchange(word, word.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.0.wake();
        }
    }

    /// Sleeps until somebody rings, for `nap` at most, unless it is `ready`; returns whether it is.
    pub fn sleep(&self, nap: Duration, ready: impl Fn() -> bool) -> bool {
        let word = self.0.word.fetch_or(SLEEPS, Ordering::Relaxed) | SLEEPS;
        fence(Ordering::SeqCst);
        if ready() {
            return true; // the bit stays: others may need it, and it costs the next ring a system call at most
        }
        self.0.sleep(word, nap);
        ready()
    }

    /// Waits until it is `ready`, and no longer than to `end`: spins up to `spin`, which burns one core that
    /// nobody else wants, then sleeps. Returns whether it is.
    #[cfg(not(loom))]
    pub fn wait(&self, spin: Instant, end: Instant, ready: impl Fn() -> bool) -> bool {
        /// How often it looks before it asks what time it is.
        const LOOKS: u32 = 32;
        loop {
            for _ in 0..LOOKS {
                if ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now >= end {
                return false;
            }
            if now >= spin {
                break;
            }
            // Where cores are fewer than those who want one, the producer may be among those who wait for ours.
            std::thread::yield_now();
        }
        loop {
            let now = Instant::now();
            if now >= end {
                return ready();
            }
            if self.sleep(NAP.min(end - now), &ready) {
                return true;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn who_is_ready_does_not_wait() {
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(Bell::default().wait(far, far, || true));
        assert!(Bell::default().wait(Instant::now(), far, || true));
    }

    #[test]
    fn time_is_up() {
        let start = Instant::now();
        for spin in [Duration::ZERO, Duration::from_secs(1)] {
            let end = Instant::now() + Duration::from_millis(30);
            assert!(!Bell::default().wait(start + spin, end, || false));
            assert!(Instant::now() >= end);
        }
    }

    #[test]
    fn a_ring_wakes_every_sleeper() {
        let bell = Arc::new((Bell::default(), AtomicBool::new(false)));
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                let bell = Arc::clone(&bell);
                thread::spawn(move || {
                    let end = Instant::now() + Duration::from_secs(20);
                    bell.0.wait(Instant::now(), end, || bell.1.load(Ordering::Relaxed))
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(5));
        bell.1.store(true, Ordering::Relaxed);
        bell.0.ring();
        assert!(sleepers.into_iter().all(|sleeper| sleeper.join().unwrap()));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::super::sync::AtomicU32;
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// A sleeper that nobody wakes is a deadlock, and loom finds it.
    fn nobody_oversleeps(producers: u32, consumers: usize) {
        loom::model(move || {
            let shared = Arc::new((Bell::default(), AtomicU32::new(0)));
            let consumers: Vec<_> = (0..consumers)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        let (bell, published) = &*shared;
                        while !bell.sleep(NAP, || published.load(Ordering::Relaxed) == producers) {}
                    })
                })
                .collect();
            let producers: Vec<_> = (1..producers)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        shared.1.fetch_add(1, Ordering::Relaxed);
                        shared.0.ring();
                    })
                })
                .collect();
            shared.1.fetch_add(1, Ordering::Relaxed);
            shared.0.ring();
            for other in producers.into_iter().chain(consumers) {
                other.join().unwrap();
            }
        });
    }

    #[test]
    fn one_producer_one_consumer() {
        nobody_oversleeps(1, 1);
    }

    #[test]
    fn two_producers_one_consumer() {
        nobody_oversleeps(2, 1);
    }

    #[test]
    fn one_producer_two_consumers() {
        nobody_oversleeps(1, 2);
    }
}
