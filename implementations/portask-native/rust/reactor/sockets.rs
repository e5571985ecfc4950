//! The sockets of one reactor: accepts, reads, cuts into frames and writes, and knows nothing of an interpreter.
//!
//! One pass is `wait`, then the caller looks at `Pass`, then `send` for whoever has output. A peer is named by its
//! place. A place is given to a new peer only in the next `wait`, so nothing that a pass says can mean another one.

use super::batches::{self, Batch};
use super::buffers::Buffers;
use super::framing::{Cut, Head, Stream, HEADER, HELLO_LIMIT};
use super::idle::Waiting;
use super::poller::{Poller, Ready};
use super::unsent::Unsent;
use bytes::Bytes;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result};
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const BELL: u64 = u64::MAX - 2;
/// Connections accepted in one pass, at most: each costs the interpreter some tens of µs, and others wait as well.
const ACCEPTS: usize = 64;
/// About as many frames of one peer in one pass: see `portask.contracts.server.next_read`, whose rule this is.
const FRAMES: usize = 64;
/// The least that is read at once.
const LEAST: usize = 8 * 1024;
/// How long nothing is accepted when descriptors ran out.
const STARVED: Duration = Duration::from_millis(10);
/// Buffers a `sendmsg`: the kernel's limit.
const IOV: usize = 1024;
const PUBLISH: u8 = 17;

/// A frame that arrived.
pub struct Taken {
    /// Its header.
    pub head: Head,
    /// Its body: a part of a receive buffer, kept for as long as this is.
    pub body: Bytes,
    /// What the body of a PUBLISH is, if it is sound.
    pub batch: Option<Batch>,
}

impl Taken {
    /// Looks whether the body of a PUBLISH is a sound batch.
    pub fn new(head: Head, body: Bytes) -> Self {
        let batch = if head.opcode == PUBLISH { batches::check(&body) } else { None };
        Taken { head, body, batch }
    }
}

/// What one peer sent.
pub struct Arrived {
    /// Who.
    pub peer: u32,
    /// Whole frames in order.
    pub frames: Vec<Taken>,
    /// Where its stream stopped making sense.
    pub refused: Option<[u8; HEADER]>,
}

/// What one `wait` found, for the caller to take.
pub struct Pass<T> {
    /// New peers.
    pub accepted: Vec<(u32, SocketAddr)>,
    /// In the order in which they were read.
    pub arrived: Vec<Arrived>,
    /// What the caller kept of peers that are gone.
    pub gone: Vec<T>,
    /// Peers with fewer unsent bytes than before.
    pub written: Vec<u32>,
    /// Descriptors ran out: nothing is accepted for a moment.
    pub starved: bool,
}

/// One connection.
pub struct Peer<T> {
    fd: OwnedFd,
    stream: Stream,
    unsent: Option<Box<Unsent>>,
    watched: EventFlags,
    /// Bytes to read at once.
    room: usize,
    /// What the caller keeps of it.
    pub tag: Option<T>,
}

impl<T> Peer<T> {
    /// Bytes that the kernel did not take.
    pub fn unsent(&self) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| unsent.len())
    }

    /// Largest body accepted, bytes; to be set once the handshake is over.
    pub fn limit(&mut self) -> &mut u32 {
        &mut self.stream.limit
    }

    fn keep(&mut self, parts: &[IoSlice<'_>], skip: usize) {
        self.unsent.get_or_insert_default().keep(parts, skip);
    }

    /// Hands `parts` to the kernel; what it does not take waits.
    fn write(&mut self, mut parts: &[IoSlice<'_>]) -> Result<()> {
        while self.unsent.is_none() && !parts.is_empty() {
            let (some, rest) = parts.split_at(parts.len().min(IOV));
            let sent = match send(&self.fd, some) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            if sent < some.iter().map(|part| part.len()).sum() {
                self.keep(some, sent);
            }
            parts = rest;
        }
        if !parts.is_empty() {
            self.keep(parts, 0);
        }
        Ok(())
    }

    /// Hands what waits to the kernel.
    fn flush(&mut self) -> Result<()> {
        let Some(unsent) = self.unsent.as_mut() else {
            return Ok(());
        };
        match send(&self.fd, &[IoSlice::new(unsent.front())]) {
            Ok(sent) => unsent.advance(sent),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if unsent.is_empty() {
            self.unsent = None;
        }
        Ok(())
    }
}

fn send(fd: &OwnedFd, parts: &[IoSlice<'_>]) -> Result<usize> {
    net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
}

/// See the module's text.
pub struct Sockets<T> {
    poller: Poller,
    listener: Option<OwnedFd>,
    accept_at: Option<Instant>,
    wake: Arc<OwnedFd>,
    bell: Option<OwnedFd>,
    peers: Vec<Option<Peer<T>>>,
    free: Vec<u32>,
    left: Vec<u32>,
    buffers: Buffers,
    read_bytes: usize,
    /// What the last `wait` found.
    pub pass: Pass<T>,
}

impl<T> Sockets<T> {
    /// Accepts on `listener`, a listening socket that does not block; `wake` is an eventfd that ends a `wait`.
    pub fn new(listener: OwnedFd, wake: Arc<OwnedFd>, read_bytes: usize, waiting: Waiting) -> Result<Self> {
        let poller = Poller::new(waiting)?;
        poller.add(&listener, LISTENER, EventFlags::IN)?;
        poller.add(&wake, WAKE, EventFlags::IN)?;
        Ok(Sockets {
            poller,
            listener: Some(listener),
            accept_at: None,
            wake,
            bell: None,
            peers: Vec::new(),
            free: Vec::new(),
            left: Vec::new(),
            buffers: Buffers::new(read_bytes),
            read_bytes,
            pass: Pass {
                accepted: Vec::new(),
                arrived: Vec::new(),
                gone: Vec::new(),
                written: Vec::new(),
                starved: false,
            },
        })
    }

    /// Ends every `wait` while `bell` is readable; reading it is the caller's.
    pub fn listen_for(&mut self, bell: OwnedFd) -> Result<()> {
        self.poller.add(&bell, BELL, EventFlags::IN)?;
        self.bell = Some(bell);
        Ok(())
    }

    /// How many peers there are.
    pub fn count(&self) -> usize {
        self.peers.len() - self.free.len() - self.left.len()
    }

    /// The peer at this place, if it is still there.
    pub fn peer(&mut self, place: u32) -> Option<&mut Peer<T>> {
        self.peers.get_mut(place as usize)?.as_mut()
    }

    /// The places of all peers.
    pub fn places(&self) -> Vec<u32> {
        let taken = |(place, peer): (u32, &Option<_>)| peer.is_some().then_some(place);
        (0..).zip(&self.peers).filter_map(taken).collect()
    }

    /// Accepts no more.
    pub fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// Waits for something, `timeout` at most (`None` for ever), and takes it in. False if nothing came: then the
    /// caller should look at its signals.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        self.free.append(&mut self.left);
        self.pass.starved = false;
        let until = self.accept_at.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.into_iter().chain(until).min();
        let came = self.poller.wait(timeout)?;
        self.accept_again()?;
        self.buffers.rewind();
        let ready = self.poller.take();
        for Ready { name, flags } in ready.iter().copied() {
            match name {
                LISTENER => self.accept()?,
                // it only says that it was called
                WAKE => drop(rustix::io::read(&self.wake, &mut [0u8; 8])),
                BELL => {} // the turn that follows reads it
                place => self.look(place as u32, flags),
            }
        }
        self.poller.put_back(ready);
        Ok(came)
    }

    /// Sends `parts` in order behind what waits. What the kernel does not take is copied; errors end the peer.
    pub fn send(&mut self, place: u32, parts: &[IoSlice<'_>]) {
        if let Some(peer) = self.peer(place) {
            match peer.write(parts) {
                Ok(()) => self.watch(place, None),
                Err(_) => self.close(place),
            }
        }
    }

    /// Stops reading from a peer, or goes on.
    pub fn pause(&mut self, place: u32, paused: bool) {
        self.watch(place, Some(paused));
    }

    /// Ends a peer; what waits for it is dropped.
    pub fn close(&mut self, place: u32) {
        if let Some(peer) = self.peers.get_mut(place as usize).and_then(Option::take) {
            self.left.push(place);
            self.pass.gone.extend(peer.tag);
        }
    }

    fn watch(&mut self, place: u32, paused: Option<bool>) {
        let Some(peer) = self.peers.get_mut(place as usize).and_then(Option::as_mut) else {
            return;
        };
        let mut wanted = peer.watched;
        wanted.set(EventFlags::OUT, peer.unsent.is_some());
        if let Some(paused) = paused {
            wanted.set(EventFlags::IN, !paused);
        }
        if wanted != peer.watched {
            peer.watched = wanted;
            if self.poller.modify(&peer.fd, u64::from(place), wanted).is_err() {
                self.close(place);
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.listener else {
                break;
            };
            match net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, address)) => {
                    let address = address.and_then(|any| SocketAddr::try_from(any).ok());
                    self.admit(fd, address.unwrap_or(([0, 0, 0, 0], 0).into()))?;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNABORTED | Errno::PROTO | Errno::INTR) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    // the waiting connection stays ready: without a pause the loop would spin
                    self.poller.modify(listener, LISTENER, EventFlags::empty())?;
                    self.accept_at = Some(Instant::now() + STARVED);
                    self.pass.starved = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn accept_again(&mut self) -> Result<()> {
        if self.accept_at.is_some_and(|at| Instant::now() >= at) {
            self.accept_at = None;
            if let Some(listener) = &self.listener {
                self.poller.modify(listener, LISTENER, EventFlags::IN)?;
            }
        }
        Ok(())
    }

    fn admit(&mut self, fd: OwnedFd, address: SocketAddr) -> Result<()> {
        if net::sockopt::set_tcp_nodelay(&fd, true).is_err() {
            return Ok(()); // it is gone already
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            (self.peers.len() - 1) as u32
        });
        let watched = EventFlags::IN;
        self.poller.add(&fd, u64::from(place), watched)?;
        self.peers[place as usize] =
            Some(Peer { fd, stream: Stream::new(HELLO_LIMIT), unsent: None, watched, room: LEAST, tag: None });
        self.pass.accepted.push((place, address));
        Ok(())
    }

    /// A peer is ready for something.
    fn look(&mut self, place: u32, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            let Some(peer) = self.peer(place) else {
                return;
            };
            match peer.flush() {
                Ok(()) => {
                    self.pass.written.push(place);
                    self.watch(place, None);
                }
                Err(_) => self.close(place),
            }
        }
        if flags.intersects(!EventFlags::OUT) && !self.read(place).unwrap_or(false) {
            self.close(place);
        }
    }

    /// Reads once, or twice where a large body lands in its place first. False if the peer hung up.
    fn read(&mut self, place: u32) -> Result<bool> {
        let Some(peer) = self.peers.get_mut(place as usize).and_then(Option::as_mut) else {
            return Ok(true);
        };
        let mut frames = Vec::new();
        let mut refused = None;
        if let Some(room) = peer.stream.landing() {
            let most = room.len().min(self.read_bytes);
            match receive(&peer.fd, &mut room[..most])? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(count) => {
                    // SAFETY: `receive` wrote so many bytes there.
                    match unsafe { peer.stream.landed(count) } {
                        None => return Ok(true),
                        Some((head, body)) => frames.push(Taken::new(head, body.into())),
                    }
                }
            }
        }
        let room = self.buffers.room();
        let most = room.len().min(self.read_bytes).min(peer.room);
        match receive(&peer.fd, &mut room[..most]) {
            Ok(Some(count)) if count > 0 => {
                // SAFETY: `receive` wrote so many bytes there.
                let piece = unsafe { self.buffers.filled(count) };
                peer.stream.feed(&piece, |cut| match cut {
                    Cut::Here(head, at) => {
                        let body = piece.slice(at..at + head.length as usize);
                        frames.push(Taken::new(head, body));
                    }
                    Cut::Whole(head, body) => frames.push(Taken::new(head, body.into())),
                    Cut::Refused(header) => refused = Some(header),
                });
                if frames.len() > FRAMES {
                    peer.room = (count * FRAMES / frames.len()).clamp(LEAST, most.max(LEAST));
                } else if count == most && 4 * frames.len() <= FRAMES {
                    peer.room = (4 * peer.room).min(self.read_bytes.max(LEAST));
                }
            }
            Ok(None) => {}
            // what came before is handled first: the end is seen again in the next pass
            Ok(Some(_)) | Err(_) if !frames.is_empty() => {}
            Ok(Some(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        if !frames.is_empty() || refused.is_some() {
            self.pass.arrived.push(Arrived { peer: place, frames, refused });
        }
        Ok(true)
    }
}

/// Reads what is there; `None` if nothing is, 0 if the peer hung up.
fn receive(fd: &OwnedFd, room: &mut [std::mem::MaybeUninit<u8>]) -> Result<Option<usize>> {
    match net::recv(fd, room, RecvFlags::empty()) {
        Ok((_, count)) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}
