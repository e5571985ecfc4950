//! Atomics and the futex: the standard library's and the kernel's, or loom's models of them under `--cfg
//! loom`.

#[cfg(loom)]
pub use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A word that threads can sleep on, also threads of several processes when it lies in shared memory
/// (futex(2)).
#[repr(transparent)]
#[cfg(not(loom))]
#[derive(Default)]
pub struct Futex {
    /// What is compared before a thread falls asleep.
    pub word: AtomicU32,
}

#[cfg(not(loom))]
impl Futex {
    /// Sleeps unless the word is no longer `expected`; for `nap` at most. May wake for no reason.
    pub fn sleep(&self, expected: u32, nap: Duration) {
        use rustix::thread::futex::{wait, Flags, Timespec};
        let nap = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: nap.subsec_nanos().into() };
        // Every outcome is one for the caller to look again: woken, changed before it slept, a signal, time
        // is up.
        let _ = wait(&self.word, Flags::empty(), expected, Some(&nap));
    }

    /// Wakes everybody who sleeps.
    pub fn wake(&self) {
        use rustix::thread::futex::{wake, Flags};
        let _ = wake(&self.word, Flags::empty(), i32::MAX as u32); // its one error is an address that is none
    }
}

/// The kernel's promise, in loom's terms: comparing and falling asleep are one step for whoever wakes.
#[cfg(loom)]
#[derive(Default)]
pub struct Futex {
    /// See above.
    pub word: AtomicU32,
    sleepers: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

#[cfg(loom)]
impl Futex {
    /// Sleeps unless the word is no longer `expected`. For good, if nobody wakes it: loom reports that as a
    /// deadlock.
    pub fn sleep(&self, expected: u32, _nap: Duration) {
        let guard = self.sleepers.0.lock().unwrap();
        if self.word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.1.wait(guard).unwrap());
        }
    }

    /// Wakes everybody who sleeps.
    pub fn wake(&self) {
        drop(self.sleepers.0.lock().unwrap());
        self.sleepers.1.notify_all();
    }
}
