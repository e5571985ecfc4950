//! Bytes by io_uring: one system call an exchange, however many sockets it sends to.
//!
//! Accepting is asked for once and goes on by itself (multishot). Receiving goes into buffers that the kernel takes from a
//! ring (`provided`), so that who is silent has none. It is asked for once an exchange, for a turn's worth (`Peer::next`):
//! what goes on by itself is not stopped before all buffers are full, and everybody else waits for what it cost. Who sends
//! much in few frames gets one of a few large buffers. Whoever found none left is first the next time. An exchange
//! puts its sends into the submission queue and enters the kernel once, to submit them and to wait for something else.
//!
//! **What must hold.**
//!
//! - *Nothing that the kernel reads or writes is let go before it is done.* Sends do not wait (`MSG_DONTWAIT`): they are
//!   complete, with whatever the kernel took, when the submission returns, and `exchange` does not return before all is
//!   submitted. Receive buffers outlive the ring: they are dropped after it, and everything is cancelled first.
//! - *What a send leaves is heard of at once.* Only then it has a completion: a send that did all is not worth one (it is
//!   skipped, and `MSG_WAITALL` has the kernel call anything less a failure), unless its peer is to be hung up on. So the one
//!   call may wait for whatever comes, and a socket that is full, or to be closed, does not wait with it.
//! - *A completion may be about a peer that is gone*, and its place another's. So requests are named by place and serial.
//! - *A request keeps its socket open.* Closing a descriptor hangs up only when what is asked of it was cancelled too.
//! - *An end follows what came before it.* Both may be found at once; then the peer ends in the next exchange, when what
//!   it sent has been handled and answered.
//!
//! Deferred task work (Linux 6.1) has completions made only when we enter: nothing interrupts the turn.

use super::idle::Waiting;
use super::peers::{Departure, Peers, Transport, IOV, STARVED};
use super::provided::Provided;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode, squeue, IoUring};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Submissions that fit into one entry of the kernel.
const SUBMISSIONS: u32 = 1024;
/// Completions that wait for us before the kernel keeps them elsewhere.
const COMPLETIONS: u32 = 4096;
/// Sends an entry: their completions are waited for together.
const SENDS: usize = 512;
/// Receive buffers, and bytes of each.
const SMALL: (u16, usize) = (64, 32 * 1024);
/// Those for peers that send much in few frames.
const LARGE: (u16, usize) = (4, 256 * 1024);

// What a completion is about: the highest byte of its name. Below it the serial's 24 lowest bits, and the place.
const ACCEPT: u64 = 1;
const WAKE: u64 = 2;
const RECEIVE: u64 = 3;
const ROOM: u64 = 4;
const SEND: u64 = 5;
const CANCEL: u64 = 6;
const BELL: u64 = 7;
const RECEIVE_LARGE: u64 = 8;

// What is noted of a peer.
const ARMED: u32 = 1;
const PAUSED: u32 = 2;
const ROOM_ASKED: u32 = 4;
/// What is asked for it goes into a large buffer.
const INTO_LARGE: u32 = 8;
/// The last receive took all that it may: there is probably more.
const MORE: u32 = 16;

/// IORING_RECVSEND_POLL_FIRST of linux/io_uring.h: does not look before it waits.
const POLL_FIRST: u16 = 1;

fn name(what: u64, serial: u32, place: u32) -> u64 {
    what << 56 | u64::from(serial & 0xFF_FFFF) << 32 | u64::from(place)
}

/// What receiving is called for a peer with these notes.
fn receiving(notes: u32) -> u64 {
    if notes & INTO_LARGE == 0 {
        RECEIVE
    } else {
        RECEIVE_LARGE
    }
}

/// A completion: its name, result and flags.
type Done = (u64, i32, u32);

/// See the module's text. What goes on for a peer stands in its notes.
pub struct Uring<T: Send> {
    uring: IoUring,
    // after the ring: dropped later
    small: Provided,
    large: Provided,
    listener: Option<OwnedFd>,
    accepting: bool,
    accept_at: Option<Instant>,
    wake: Arc<OwnedFd>,
    waking: bool,
    bell: Option<OwnedFd>,
    belling: bool,
    waiting: Waiting,
    peers: Peers<T>,
    /// Peers whose receiving ended and is to go on.
    rearm: Vec<(u32, u32)>,
    /// Those among them who found no buffer: they go on before the others.
    short: Vec<(u32, u32)>,
    /// Peers that hung up after they sent something.
    ended: Vec<(u32, u32)>,
    done: Vec<Done>,
    /// There may be sends that the kernel does not have yet.
    queued: bool,
}

/// A ring such as `Uring` needs.
fn ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)
}

/// Its buffers, small and large.
fn buffers(uring: &IoUring) -> io::Result<(Provided, Provided)> {
    Ok((Provided::new(uring, 0, SMALL.0, SMALL.1)?, Provided::new(uring, 1, LARGE.0, LARGE.1)?))
}

/// Why there can be no `Uring` here; `None` when there can.
pub fn why_not() -> Option<String> {
    let made = ring().and_then(|uring| buffers(&uring).map(|buffers| (uring, buffers)));
    match made {
        Ok((uring, buffers)) => {
            drop(uring);
            drop(buffers);
            None
        }
        Err(error) => Some(match error.raw_os_error() {
            Some(libc::EINVAL) => format!(
                "needs io_uring as of Linux 6.1, and this is {}: use native-epoll",
                rustix::system::uname().release().to_string_lossy()
            ),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => format!(
                "may not use io_uring here ({error}): a container's seccomp profile or the sysctl \
                 kernel.io_uring_disabled forbids it; allow it, or use native-epoll"
            ),
            Some(libc::ENOMEM) => {
                format!("has too little locked memory for io_uring ({error}): raise ulimit -l")
            }
            _ => format!("cannot set up io_uring: {error}"),
        }),
    }
}

impl<T: Send> Transport<T> for Uring<T> {
    fn peers(&mut self) -> &mut Peers<T> {
        &mut self.peers
    }

    fn exchange(
        &mut self,
        departures: &[Departure],
        parts: &[IoSlice<'_>],
        timeout: Option<Duration>,
    ) -> Result<bool> {
        self.peers.begin();
        self.small.refill();
        self.large.refill();
        self.arm()?;
        let mut messages = Vec::with_capacity(departures.len().min(SENDS));
        if let Err(error) = self.send_all(departures, parts, &mut messages) {
            self.settle(departures, parts)?; // what is queued already must not outlive what it points to
            return Err(error);
        }
        for (place, serial) in std::mem::take(&mut self.ended) {
            self.end(place, serial);
        }
        let until = self.accept_at.map(|at| at.saturating_duration_since(Instant::now()));
        let urgent = self.peers.pass.urgent().then_some(Duration::ZERO);
        let timeout = [timeout, until, urgent].into_iter().flatten().min();
        let mut waiting = self.waiting;
        let came = waiting.wait(timeout, |timeout| self.ask(departures, parts, timeout));
        self.waiting = waiting;
        let settled = self.settle(departures, parts);
        came.and_then(|came| settled.map(|more| came || more))
    }

    fn pause(&mut self, place: u32, paused: bool) {
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        let serial = peer.serial;
        if paused {
            peer.notes |= PAUSED;
            if peer.notes & ARMED != 0 {
                let what = receiving(peer.notes);
                self.cancel(name(what, serial, place));
            }
        } else {
            peer.notes &= !PAUSED;
            if peer.notes & ARMED == 0 {
                self.rearm.push((place, serial)); // else when its cancellation has come
            }
        }
    }

    fn close(&mut self, place: u32) {
        let Some(peer) = self.peers.remove(place) else {
            return;
        };
        if peer.notes & ARMED != 0 {
            self.cancel(name(receiving(peer.notes), peer.serial, place));
        }
        if peer.notes & ROOM_ASKED != 0 {
            self.cancel(name(ROOM, peer.serial, place));
        }
    }

    fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            if std::mem::take(&mut self.accepting) {
                self.cancel_now(CancelBuilder::fd(Fd(listener.as_raw_fd())).all());
            }
        }
    }

    fn listen_for(&mut self, bell: OwnedFd) -> Result<()> {
        self.bell = Some(bell);
        Ok(())
    }
}

impl<T: Send> Drop for Uring<T> {
    fn drop(&mut self) {
        // Until then the sockets are open, and buffers may be written to.
        self.cancel_now(CancelBuilder::any());
    }
}

impl<T: Send> Uring<T> {
    /// Accepts on `listener`, a listening socket; `wake` is an eventfd that ends a wait.
    ///
    /// # Errors
    /// See `why_not`.
    pub fn new(listener: OwnedFd, wake: Arc<OwnedFd>, waiting: Waiting) -> io::Result<Self> {
        let uring = ring()?;
        let (small, large) = buffers(&uring)?;
        Ok(Uring {
            uring,
            small,
            large,
            listener: Some(listener),
            accepting: false,
            accept_at: None,
            wake,
            waking: false,
            bell: None,
            belling: false,
            waiting,
            peers: Peers::default(),
            rearm: Vec::new(),
            short: Vec::new(),
            ended: Vec::new(),
            done: Vec::new(),
            queued: false,
        })
    }

    // ── what is asked of the kernel ───────────────────────────────────────────────────────────────────────

    /// # Safety
    /// What the entry points to lives until its completion was seen.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: the caller's promise.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.uring.submit().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        Ok(())
    }

    /// Asks again for what goes on by itself, where it does not.
    fn arm(&mut self) -> Result<()> {
        if !self.waking {
            let entry = opcode::PollAdd::new(Fd(self.wake.as_raw_fd()), libc::POLLIN as u32).multi(true);
            // SAFETY: it points to nothing.
            unsafe { self.push(&entry.build().user_data(name(WAKE, 0, 0))) }?;
            self.waking = true;
        }
        if let (Some(bell), false) = (&self.bell, self.belling) {
            // once each time, so that it is complete at once as long as the bell is readable
            let entry = opcode::PollAdd::new(Fd(bell.as_raw_fd()), libc::POLLIN as u32).build();
            // SAFETY: it points to nothing.
            unsafe { self.push(&entry.user_data(name(BELL, 0, 0))) }?;
            self.belling = true;
        }
        if self.accept_at.is_some_and(|at| Instant::now() >= at) {
            self.accept_at = None;
        }
        if let (Some(listener), false, None) = (&self.listener, self.accepting, self.accept_at) {
            let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC);
            // SAFETY: it points to nothing.
            unsafe { self.push(&entry.build().user_data(name(ACCEPT, 0, 0))) }?;
            self.accepting = true;
        }
        let first = std::mem::take(&mut self.short);
        for (place, serial) in first.into_iter().chain(std::mem::take(&mut self.rearm)) {
            self.receive(place, serial)?;
        }
        Ok(())
    }

    /// Asks for what a peer sends.
    fn receive(&mut self, place: u32, serial: u32) -> Result<()> {
        let Some(peer) = self.peers.get(place).filter(|peer| peer.serial == serial) else {
            return Ok(());
        };
        if peer.notes & (ARMED | PAUSED) != 0 {
            return Ok(());
        }
        let into = if peer.room() > self.small.size { &self.large } else { &self.small };
        peer.notes =
            peer.notes & !INTO_LARGE | ARMED | if into.group == self.large.group { INTO_LARGE } else { 0 };
        let entry = opcode::Recv::new(
            Fd(peer.fd.as_raw_fd()),
            std::ptr::null_mut(),
            peer.room().min(into.size) as u32,
        )
        .ioprio(if peer.notes & MORE == 0 { POLL_FIRST } else { 0 })
        .buf_group(into.group)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
        let what = receiving(peer.notes);
        // SAFETY: it points to nothing; the buffers of the group outlive the ring.
        unsafe { self.push(&entry.user_data(name(what, serial, place))) }
    }

    /// Asks to hear when the kernel takes more for a peer.
    fn ask_for_room(&mut self, place: u32) -> Result<()> {
        let Some(peer) = self.peers.get(place) else {
            return Ok(());
        };
        if !peer.waits() || peer.notes & ROOM_ASKED != 0 {
            return Ok(());
        }
        peer.notes |= ROOM_ASKED;
        let serial = peer.serial;
        let entry = opcode::PollAdd::new(Fd(peer.fd.as_raw_fd()), libc::POLLOUT as u32).build();
        // SAFETY: it points to nothing.
        unsafe { self.push(&entry.user_data(name(ROOM, serial, place))) }
    }

    fn cancel(&mut self, what: u64) {
        let entry = opcode::AsyncCancel::new(what).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: it points to nothing. Where it cannot be pushed the ring is of no use any more, and ends with the server.
        let _ = unsafe { self.push(&entry.user_data(name(CANCEL, 0, 0))) };
    }

    /// Cancels, and returns when nothing of it goes on any more.
    fn cancel_now(&mut self, what: CancelBuilder) {
        let _ = self.uring.submit();
        let patience = Timespec::new().sec(1);
        let _ = self.uring.submitter().register_sync_cancel(Some(patience), what);
        let _ = self.enter(1, Some(Duration::ZERO)); // what was cancelled is let go by task work
        let _ = self.reap(&[], &[]);
    }

    /// Puts all sends into the queue, so many an entry; only the last entry is left to whoever enters next.
    fn send_all(
        &mut self,
        departures: &[Departure],
        parts: &[IoSlice<'_>],
        messages: &mut Vec<libc::msghdr>,
    ) -> Result<()> {
        let mut start = 0;
        let mut rest = departures;
        while rest.len() > SENDS {
            let (some, others) = rest.split_at(SENDS);
            start = self.submit_sends(some, parts, start, messages)?;
            self.settle(departures, parts)?;
            rest = others;
        }
        self.submit_sends(rest, parts, start, messages)?;
        Ok(())
    }

    /// Puts sends into the queue, the parts of the first from `start` on; returns where those of the last end.
    fn submit_sends(
        &mut self,
        departures: &[Departure],
        parts: &[IoSlice<'_>],
        mut start: usize,
        messages: &mut Vec<libc::msghdr>,
    ) -> Result<usize> {
        messages.clear();
        for departure in departures {
            let some = &parts[start..departure.end];
            let first = start as u32;
            start = departure.end;
            let Some(peer) = self.peers.get(departure.place) else {
                continue;
            };
            if some.is_empty() || some.len() > IOV || peer.waits() {
                let written = peer.write(some);
                self.sent(departure, written)?;
                continue;
            }
            let fd = Fd(peer.fd.as_raw_fd());
            // SAFETY: all zero is a message without a name, buffers or control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = some.as_ptr().cast_mut().cast(); // an `IoSlice` is an iovec; it is only read
            message.msg_iovlen = some.len() as _;
            assert!(messages.len() < messages.capacity(), "messages stay where they are");
            messages.push(message);
            let entry = opcode::SendMsg::new(fd, &messages[messages.len() - 1])
                .flags((libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL) as u32)
                .build();
            let quiet = if departure.closing { squeue::Flags::empty() } else { squeue::Flags::SKIP_SUCCESS };
            // SAFETY: the parts live until `exchange` returns and the messages stay where they are until they are
            // cleared; before either, all was submitted, and so done (`settle`).
            unsafe { self.push(&entry.flags(quiet).user_data(name(SEND, 0, first))) }?;
            self.queued = true;
        }
        Ok(start)
    }

    // ── what it says ──────────────────────────────────────────────────────────────────────────────────────

    /// Enters the kernel once: submits, and waits for so many completions.
    fn enter(&mut self, wanted: usize, timeout: Option<Duration>) -> Result<()> {
        let spec = timeout.map(|timeout| Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos()));
        let entered = match &spec {
            Some(spec) => self.uring.submitter().submit_with_args(wanted, &SubmitArgs::new().timespec(spec)),
            None => self.uring.submit_and_wait(wanted),
        };
        self.queued &= !self.uring.submission().is_empty();
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // time is up; a signal; completions that must be taken first
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            },
        }
    }

    /// Waits once; returns whether there was more than completed sends.
    fn ask(
        &mut self,
        departures: &[Departure],
        parts: &[IoSlice<'_>],
        timeout: Option<Duration>,
    ) -> Result<bool> {
        let polls = timeout == Some(Duration::ZERO);
        if polls && self.nothing_new() {
            return Ok(false);
        }
        self.enter(1, timeout)?;
        self.reap(departures, parts)
    }

    /// Whether entering the kernel would bring nothing.
    fn nothing_new(&mut self) -> bool {
        let queue = self.uring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        idle && self.uring.completion().is_empty()
    }

    /// Returns when every send was submitted, so is complete, and what it said was heard; whether there was more than that.
    fn settle(&mut self, departures: &[Departure], parts: &[IoSlice<'_>]) -> Result<bool> {
        let mut news = false;
        while self.unsettled() {
            let entered = self.enter(0, Some(Duration::ZERO));
            let reaped = self.reap(departures, parts);
            match (entered.and(reaped), self.unsettled()) {
                (Ok(more), _) => news |= more,
                (Err(error), false) => return Err(error),
                (Err(error), true) => {
                    // The kernel may still read what the caller is about to let go, and cannot be asked.
                    eprintln!("portask-native: io_uring does not finish what it was given: {error}");
                    std::process::abort();
                }
            }
        }
        Ok(news)
    }

    /// Whether something may be about to be sent, or was, and what it said found no room among the completions.
    fn unsettled(&mut self) -> bool {
        self.queued || self.uring.submission().cq_overflow()
    }

    /// Takes the completions in; returns whether there was more than sends.
    fn reap(&mut self, departures: &[Departure], parts: &[IoSlice<'_>]) -> Result<bool> {
        let mut done = std::mem::take(&mut self.done);
        done.extend(self.uring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        let mut news = false;
        let mut outcome = Ok(());
        for completion in done.drain(..) {
            let place = completion.0 as u32;
            let serial = (completion.0 >> 32) as u32 & 0xFF_FFFF;
            let handled = match completion.0 >> 56 {
                SEND => self.send_done(departures, parts, place as usize, completion.1),
                CANCEL => Ok(()),
                what => {
                    news = true;
                    match what {
                        ACCEPT => self.accepted(completion),
                        WAKE => self.woken(completion),
                        BELL => {
                            self.belling = false; // the turn that follows reads it
                            Ok(())
                        }
                        ROOM => self.has_room(place, serial),
                        _ => self.received(place, serial, what == RECEIVE_LARGE, completion),
                    }
                }
            };
            outcome = outcome.and(handled);
        }
        self.done = done;
        self.end_those_who_said_nothing();
        outcome.map(|()| news)
    }

    fn send_done(
        &mut self,
        departures: &[Departure],
        parts: &[IoSlice<'_>],
        first: usize,
        result: i32,
    ) -> Result<()> {
        // those with parts end one after the other, each behind where it begins
        let number = departures.partition_point(|departure| departure.end <= first);
        let Some(departure) = departures.get(number) else {
            return Ok(());
        };
        let Some(peer) = self.peers.get(departure.place) else {
            return Ok(());
        };
        let written = match result {
            sent if sent >= 0 => Ok(sent as usize),
            error => match Errno::from_raw_os_error(-error) {
                Errno::AGAIN | Errno::INTR => Ok(0),
                other => Err(other),
            },
        };
        let written = written.map(|sent| peer.keep(&parts[first..departure.end], sent));
        self.sent(departure, written)
    }

    fn sent(&mut self, departure: &Departure, written: Result<()>) -> Result<()> {
        let place = departure.place;
        if written.is_err() {
            self.close(place);
            return Ok(());
        }
        if departure.closing {
            self.peers.leave(place);
        }
        if self.peers.is_done(place) {
            self.close(place);
            return Ok(());
        }
        self.ask_for_room(place)
    }

    fn accepted(&mut self, (_, result, flags): Done) -> Result<()> {
        self.accepting &= cqueue::more(flags);
        if result >= 0 {
            // SAFETY: the kernel made it for us.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            if self.listener.is_none() {
                return Ok(()); // too late
            }
            let address = rustix::net::getpeername(&fd).ok().flatten().and_then(|any| any.try_into().ok());
            if let Some(place) = self.peers.admit(fd, address) {
                let serial = self.peers.get(place).map_or(0, |peer| peer.serial);
                self.receive(place, serial)?;
            }
            return Ok(());
        }
        match Errno::from_raw_os_error(-result) {
            Errno::MFILE | Errno::NFILE => {
                self.accept_at = Some(Instant::now() + STARVED);
                self.peers.pass.starved = true;
                Ok(())
            }
            Errno::CANCELED | Errno::CONNABORTED | Errno::PROTO | Errno::INTR | Errno::AGAIN => Ok(()),
            _ if self.listener.is_none() => Ok(()),
            other => Err(other),
        }
    }

    fn woken(&mut self, (_, _, flags): Done) -> Result<()> {
        self.waking &= cqueue::more(flags);
        // it only says that it was called
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        Ok(())
    }

    fn has_room(&mut self, place: u32, serial: u32) -> Result<()> {
        let Some(peer) = self.peers.get(place).filter(|peer| peer.serial & 0xFF_FFFF == serial) else {
            return Ok(());
        };
        peer.notes &= !ROOM_ASKED;
        match peer.flush() {
            Ok(()) if self.peers.is_done(place) => self.close(place),
            Ok(()) => self.ask_for_room(place)?,
            Err(_) => self.close(place),
        }
        Ok(())
    }

    fn received(
        &mut self,
        place: u32,
        serial: u32,
        into_large: bool,
        (_, result, flags): Done,
    ) -> Result<()> {
        let buffers = if into_large { &mut self.large } else { &mut self.small };
        // SAFETY: the kernel says each buffer once, with the bytes that it wrote to it; one it took for nothing has none.
        let piece = cqueue::buffer_select(flags)
            .map(|id| unsafe { buffers.take(id, usize::try_from(result).unwrap_or(0)) });
        let Some(peer) = self.peers.get(place).filter(|peer| peer.serial & 0xFF_FFFF == serial) else {
            return Ok(());
        };
        let serial = peer.serial;
        peer.notes &= !ARMED;
        match (result, piece) {
            (1.., Some(piece)) => {
                let frames = self.peers.take_in(place, &piece);
                self.adapt(place, piece.len(), frames);
                self.rearm.push((place, serial));
            }
            (0, _) => self.ended.push((place, serial)),
            (error, _) => match Errno::from_raw_os_error(-error) {
                Errno::NOBUFS => {
                    peer.notes |= MORE;
                    peer.shrink(SMALL.1); // of which there are more
                    self.short.push((place, serial));
                }
                // somebody paused it and, maybe, goes on already
                Errno::CANCELED | Errno::INTR | Errno::AGAIN => self.rearm.push((place, serial)),
                _ => self.ended.push((place, serial)),
            },
        }
        Ok(())
    }

    /// Decides how much of a peer is received at once, by what came.
    fn adapt(&mut self, place: u32, count: usize, frames: usize) {
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        let most = peer.room().min(if peer.notes & INTO_LARGE == 0 { SMALL.1 } else { LARGE.1 });
        peer.notes = if count == most { peer.notes | MORE } else { peer.notes & !MORE };
        peer.next(count, frames, most, LARGE.1);
    }

    /// A peer's end may be seen together with what it sent before: that is handled first.
    fn end_those_who_said_nothing(&mut self) {
        for (place, serial) in std::mem::take(&mut self.ended) {
            if self.peers.pass.arrived.iter().any(|arrived| arrived.peer == place) {
                self.ended.push((place, serial));
            } else {
                self.end(place, serial);
            }
        }
    }

    fn end(&mut self, place: u32, serial: u32) {
        if self.peers.get(place).is_some_and(|peer| peer.serial == serial) {
            self.close(place);
        }
    }
}
