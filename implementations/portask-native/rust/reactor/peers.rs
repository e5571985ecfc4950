//! Peers by their places, what one exchange found, and what moves their bytes: whatever that is, streams are cut, limits
//! kept and unsent bytes counted here.
//!
//! A peer is named by its place. A place is given to a new peer only in the next exchange, so nothing that is said
//! about one exchange can mean another peer.

use super::batches::{self, Batch};
use super::framing::{Cut, Head, Stream, HEADER, HELLO_LIMIT};
use super::unsent::{Unsent, HIGH, LOW};
use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result};
use rustix::net::{self, SendAncillaryBuffer, SendFlags};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

/// Buffers a `sendmsg`: the kernel's limit.
pub const IOV: usize = 1024;
/// How long nothing is accepted when descriptors ran out.
pub const STARVED: Duration = Duration::from_millis(10);
/// About as many frames of one peer in one exchange: see `portask.contracts.server.next_read`, whose rule this is.
pub const FRAMES: usize = 64;
/// The least that is read at once.
pub const LEAST: usize = 8 * 1024;
const PUBLISH: u8 = 17;

/// Moves the bytes of one server's sockets, and knows nothing of an interpreter.
pub trait Transport<T>: Send {
    /// Those that it moves bytes for, and what the last exchange found.
    fn peers(&mut self) -> &mut Peers<T>;

    /// Sends what departs, whose parts are `parts` up to each one's end, then waits until something arrives, `timeout`
    /// at most (`None` for ever), and takes it in. Does not sleep if there is something to hear before that
    /// (`Pass::urgent`). False if nothing came: then the caller should look at its signals.
    ///
    /// # Errors
    /// The server's own: a peer's end only the peer.
    fn exchange(
        &mut self,
        departures: &[Departure],
        parts: &[IoSlice<'_>],
        timeout: Option<Duration>,
    ) -> Result<bool>;

    /// Stops reading from a peer, or goes on. What was read already still arrives.
    fn pause(&mut self, place: u32, paused: bool);

    /// Ends a peer; what waits for it is dropped.
    fn close(&mut self, place: u32);

    /// Accepts no more.
    fn stop_listening(&mut self);

    /// Ends every wait while `bell` is readable; reading it is the caller's.
    ///
    /// # Errors
    /// It cannot be waited for.
    fn listen_for(&mut self, bell: OwnedFd) -> Result<()>;
}

/// What one peer is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Who.
    pub place: u32,
    /// Where its parts end, and the next one's begin.
    pub end: usize,
    /// Hang up when it is sent.
    pub closing: bool,
}

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

/// What one exchange found, for the caller to take.
pub struct Pass<T> {
    /// New peers.
    pub accepted: Vec<(u32, SocketAddr)>,
    /// In the order in which they were read.
    pub arrived: Vec<Arrived>,
    /// What the caller kept of peers that are gone.
    pub gone: Vec<T>,
    /// Peers that became congested, or are not any more.
    pub congested: Vec<(u32, bool)>,
    /// Peers that will be hung up on when they have read the rest.
    pub lingering: Vec<u32>,
    /// Descriptors ran out: nothing is accepted for a moment.
    pub starved: bool,
}

impl<T> Pass<T> {
    /// Whether the caller has something to hear before anything is waited for.
    pub fn urgent(&self) -> bool {
        !(self.gone.is_empty() && self.congested.is_empty() && self.lingering.is_empty())
    }
}

/// One connection. There may be very many that do nothing: with what Python keeps of it, it fits into 64 bytes.
pub struct Peer<T> {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
    unsent: Option<Box<Unsent>>,
    congested: bool,
    closing: bool,
    /// For the caller, who pauses it.
    pub paused: bool,
    /// What the transport notes of it.
    pub(super) notes: u32,
    /// Bytes to read at once.
    room: u32,
    /// Tells it from others that had its place.
    pub(super) serial: u32,
    /// What the caller keeps of it.
    pub tag: Option<T>,
}

impl<T> Peer<T> {
    /// Largest body accepted, bytes; to be set once the handshake is over.
    pub fn limit(&mut self) -> &mut u32 {
        &mut self.stream.limit
    }

    /// `count` bytes of `room` came, in so many frames: decides how much to read the next time, `most` at most.
    pub(super) fn next(&mut self, count: usize, frames: usize, room: usize, most: usize) {
        if frames > FRAMES {
            self.room = (count * FRAMES / frames).clamp(LEAST, room.max(LEAST)) as u32;
        } else if count == room && 4 * frames <= FRAMES {
            self.room = (4 * self.room()).min(most.max(LEAST)) as u32;
        }
    }

    /// Bytes to read at once.
    pub(super) fn room(&self) -> usize {
        self.room as usize
    }

    /// No more than so many, for now.
    pub(super) fn shrink(&mut self, most: usize) {
        self.room = self.room.min(most as u32);
    }

    /// Whether the kernel did not take all.
    pub(super) fn waits(&self) -> bool {
        self.unsent.is_some()
    }

    /// Keeps what follows the first `skip` bytes for later.
    pub(super) fn keep(&mut self, parts: &[IoSlice<'_>], skip: usize) {
        if skip < parts.iter().map(|part| part.len()).sum() {
            self.unsent.get_or_insert_default().keep(parts, skip);
        }
    }

    /// Hands `parts` to the kernel, in order behind what waits; what it does not take waits.
    pub(super) fn write(&mut self, mut parts: &[IoSlice<'_>]) -> Result<()> {
        while !self.waits() && !parts.is_empty() {
            let (some, rest) = parts.split_at(parts.len().min(IOV));
            let sent = match send(&self.fd, some) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            self.keep(some, sent);
            parts = rest;
        }
        self.keep(parts, 0);
        Ok(())
    }

    /// Hands what waits to the kernel.
    pub(super) fn flush(&mut self) -> Result<()> {
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
    net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// The peers of one server.
pub struct Peers<T> {
    peers: Vec<Option<Peer<T>>>,
    free: Vec<u32>,
    left: Vec<u32>,
    serial: u32,
    /// What the last exchange found.
    pub pass: Pass<T>,
}

impl<T> Default for Peers<T> {
    fn default() -> Self {
        let pass = Pass {
            accepted: Vec::new(),
            arrived: Vec::new(),
            gone: Vec::new(),
            congested: Vec::new(),
            lingering: Vec::new(),
            starved: false,
        };
        Peers { peers: Vec::new(), free: Vec::new(), left: Vec::new(), serial: 0, pass }
    }
}

impl<T> Peers<T> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.peers.len() - self.free.len() - self.left.len()
    }

    /// The peer at this place, if it is still there.
    pub fn get(&mut self, place: u32) -> Option<&mut Peer<T>> {
        self.peers.get_mut(place as usize)?.as_mut()
    }

    /// The places of all.
    pub fn places(&self) -> Vec<u32> {
        let taken = |(place, peer): (u32, &Option<_>)| peer.is_some().then_some(place);
        (0..).zip(&self.peers).filter_map(taken).collect()
    }

    /// An exchange begins: places that were left may be given away.
    pub(super) fn begin(&mut self) {
        self.free.append(&mut self.left);
        self.pass.starved = false;
    }

    /// A new peer; `None` if it is gone already.
    pub(super) fn admit(&mut self, fd: OwnedFd, address: Option<SocketAddr>) -> Option<u32> {
        net::sockopt::set_tcp_nodelay(&fd, true).ok()?;
        let place = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            (self.peers.len() - 1) as u32
        });
        self.serial = self.serial.wrapping_add(1);
        self.peers[place as usize] = Some(Peer {
            fd,
            stream: Stream::new(HELLO_LIMIT),
            unsent: None,
            congested: false,
            closing: false,
            paused: false,
            notes: 0,
            room: LEAST as u32,
            serial: self.serial,
            tag: None,
        });
        self.pass.accepted.push((place, address.unwrap_or(([0, 0, 0, 0], 0).into())));
        Some(place)
    }

    /// Ends a peer, which is handed back for its descriptor.
    pub(super) fn remove(&mut self, place: u32) -> Option<Peer<T>> {
        let mut peer = self.peers.get_mut(place as usize)?.take()?;
        self.left.push(place);
        self.pass.gone.extend(peer.tag.take());
        Some(peer)
    }

    /// The peer is to be hung up on when all is sent.
    pub(super) fn leave(&mut self, place: u32) {
        if let Some(peer) = self.peers.get_mut(place as usize).and_then(Option::as_mut) {
            if !std::mem::replace(&mut peer.closing, true) && peer.waits() {
                self.pass.lingering.push(place);
            }
        }
    }

    /// Looks at what is unsent: notes whether that congests the peer. True if it is time to hang up on it.
    pub(super) fn is_done(&mut self, place: u32) -> bool {
        let Some(peer) = self.peers.get_mut(place as usize).and_then(Option::as_mut) else {
            return false;
        };
        let unsent = peer.unsent.as_ref().map_or(0, |unsent| unsent.len());
        let congested = unsent > HIGH || (peer.congested && unsent >= LOW);
        if congested != peer.congested {
            peer.congested = congested;
            self.pass.congested.push((place, congested));
        }
        peer.closing && unsent == 0
    }

    /// Cuts what a peer sent into frames; returns how many they are.
    pub(super) fn take_in(&mut self, place: u32, piece: &Bytes) -> usize {
        let Some(peer) = self.peers.get_mut(place as usize).and_then(Option::as_mut) else {
            return 0;
        };
        let mut frames = Vec::new();
        let mut refused = None;
        peer.stream.feed(piece, |cut| match cut {
            Cut::Here(head, at) => {
                let body = piece.slice(at..at + head.length as usize);
                frames.push(Taken::new(head, body));
            }
            Cut::Whole(head, body) => frames.push(Taken::new(head, body.into())),
            Cut::Refused(header) => refused = Some(header),
        });
        let count = frames.len();
        self.arrived(place, frames, refused);
        count
    }

    /// A peer sent this.
    pub(super) fn arrived(&mut self, peer: u32, mut frames: Vec<Taken>, refused: Option<[u8; HEADER]>) {
        if frames.is_empty() && refused.is_none() {
            return;
        }
        match self.pass.arrived.last_mut() {
            Some(last) if last.peer == peer => {
                last.frames.append(&mut frames);
                last.refused = last.refused.or(refused);
            }
            _ => self.pass.arrived.push(Arrived { peer, frames, refused }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_peer_is_small() {
        assert_eq!(size_of::<Option<Peer<[std::ptr::NonNull<u8>; 2]>>>(), 64);
    }
}
