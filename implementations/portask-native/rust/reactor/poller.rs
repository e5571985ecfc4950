//! Waiting for sockets: an epoll set, the eventfd that ends a wait from any thread, and how to wait.

use super::idle::Waiting;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use std::mem::MaybeUninit;
use std::time::Duration;

/// Events taken at once: what is beyond comes with the next wait.
const EVENTS: usize = 256;

/// Somebody is ready for something.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Who, by the name given to `Poller::add`.
    pub name: u64,
    /// For what.
    pub flags: EventFlags,
}

/// One epoll set. Whoever is in it is named by a number.
pub struct Poller {
    epoll: OwnedFd,
    ready: Vec<Ready>,
    waiting: Waiting,
}

impl Poller {
    /// An empty set.
    pub fn new(waiting: Waiting) -> Result<Self> {
        Ok(Poller { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(EVENTS), waiting })
    }

    /// Watches `fd`; closing it ends that.
    pub fn add(&self, fd: impl AsFd, name: u64, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(name), flags)
    }

    /// Watches it for something else.
    pub fn modify(&self, fd: impl AsFd, name: u64, flags: EventFlags) -> Result<()> {
        epoll::modify(&self.epoll, fd, EventData::new_u64(name), flags)
    }

    /// Waits until something is ready, `timeout` at most (`None` for ever). False if nothing is: then the caller should
    /// look at its signals.
    ///
    /// # Errors
    /// A mistake of ours.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        let Poller { epoll, ready, waiting } = self;
        match waiting.wait(timeout, |timeout| ask(epoll, ready, timeout)) {
            Err(Errno::INTR) => Ok(false),
            other => other,
        }
    }

    /// What the last `wait` found. `put_back` should follow.
    pub fn take(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready)
    }

    /// Saves the next wait an allocation.
    pub fn put_back(&mut self, ready: Vec<Ready>) {
        self.ready = ready;
    }
}

/// One `epoll_wait`. Its timeouts are in ms: rounded up, so that no timer comes early.
fn ask(epoll: &OwnedFd, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<bool> {
    ready.clear();
    let spec = timeout.map(|timeout| {
        let ms = timeout.as_micros().div_ceil(1000) as i64;
        Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 }
    });
    let mut room = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
    let (found, _) = epoll::wait(epoll, &mut room[..], spec.as_ref())?;
    ready.extend(found.iter().map(|event| Ready { name: event.data.u64(), flags: event.flags }));
    Ok(!ready.is_empty())
}
