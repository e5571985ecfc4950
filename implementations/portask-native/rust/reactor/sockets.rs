//! Bytes by epoll: readiness is waited for, then each socket is read once and written at once.

use super::buffers::Buffers;
use super::idle::Waiting;
use super::peers::{Departure, Peers, Taken, Transport, STARVED};
use super::poller::{Poller, Ready};
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result};
use rustix::net::{self, RecvFlags, SocketFlags};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const BELL: u64 = u64::MAX - 2;
/// Connections accepted in one exchange, at most: each costs the interpreter some tens of µs, and others wait as well.
const ACCEPTS: usize = 64;

/// See the module's text. What a peer is watched for stands in its notes.
pub struct Sockets<T> {
    poller: Poller,
    listener: Option<OwnedFd>,
    accept_at: Option<Instant>,
    wake: Arc<OwnedFd>,
    bell: Option<OwnedFd>,
    peers: Peers<T>,
    buffers: Buffers,
    read_bytes: usize,
}

impl<T: Send> Transport<T> for Sockets<T> {
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
        let mut start = 0;
        for departure in departures {
            self.send(departure, &parts[start..departure.end]);
            start = departure.end;
        }
        let until = self.accept_at.map(|at| at.saturating_duration_since(Instant::now()));
        let urgent = self.peers.pass.urgent().then_some(Duration::ZERO);
        let came = self.poller.wait([timeout, until, urgent].into_iter().flatten().min())?;
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

    fn pause(&mut self, place: u32, paused: bool) {
        self.watch(place, Some(paused));
    }

    fn close(&mut self, place: u32) {
        self.peers.remove(place); // closing its descriptor takes it out of the set
    }

    fn stop_listening(&mut self) {
        self.listener = None;
    }

    fn listen_for(&mut self, bell: OwnedFd) -> Result<()> {
        self.poller.add(&bell, BELL, EventFlags::IN)?;
        self.bell = Some(bell);
        Ok(())
    }
}

impl<T: Send> Sockets<T> {
    /// Accepts on `listener`, a listening socket that does not block; `wake` is an eventfd that ends a wait.
    ///
    /// # Errors
    /// No descriptor left.
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
            peers: Peers::default(),
            buffers: Buffers::new(read_bytes),
            read_bytes,
        })
    }

    /// What the kernel does not take is copied; errors end the peer.
    fn send(&mut self, departure: &Departure, parts: &[IoSlice<'_>]) {
        let Some(peer) = self.peers.get(departure.place) else {
            return;
        };
        match peer.write(parts) {
            Ok(()) => {
                if departure.closing {
                    self.peers.leave(departure.place);
                }
                self.sent(departure.place);
            }
            Err(_) => self.close(departure.place),
        }
    }

    fn sent(&mut self, place: u32) {
        if self.peers.is_done(place) {
            self.close(place);
        } else {
            self.watch(place, None);
        }
    }

    fn watch(&mut self, place: u32, paused: Option<bool>) {
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        let watched = EventFlags::from_bits_retain(peer.notes);
        let mut wanted = watched;
        wanted.set(EventFlags::OUT, peer.waits());
        if let Some(paused) = paused {
            wanted.set(EventFlags::IN, !paused);
        }
        if wanted != watched {
            peer.notes = wanted.bits();
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
                    self.admit(fd, address.and_then(|any| SocketAddr::try_from(any).ok()))?
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNABORTED | Errno::PROTO | Errno::INTR) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    // the waiting connection stays ready: without a pause the loop would spin
                    self.poller.modify(listener, LISTENER, EventFlags::empty())?;
                    self.accept_at = Some(Instant::now() + STARVED);
                    self.peers.pass.starved = true;
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

    fn admit(&mut self, fd: OwnedFd, address: Option<SocketAddr>) -> Result<()> {
        if let Some(place) = self.peers.admit(fd, address) {
            if let Some(peer) = self.peers.get(place) {
                peer.notes = EventFlags::IN.bits();
                self.poller.add(&peer.fd, u64::from(place), EventFlags::IN)?;
            }
        }
        Ok(())
    }

    /// A peer is ready for something.
    fn look(&mut self, place: u32, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            let Some(peer) = self.peers.get(place) else {
                return;
            };
            match peer.flush() {
                Ok(()) => self.sent(place),
                Err(_) => self.close(place),
            }
        }
        if flags.intersects(!EventFlags::OUT) && !self.read(place).unwrap_or(false) {
            self.close(place);
        }
    }

    /// Reads once, or twice where a large body lands in its place first. False if the peer hung up.
    fn read(&mut self, place: u32) -> Result<bool> {
        let Some(peer) = self.peers.get(place) else {
            return Ok(true);
        };
        let mut landed = false;
        if let Some(room) = peer.stream.landing() {
            let most = room.len().min(self.read_bytes);
            match receive(&peer.fd, &mut room[..most])? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(count) => {
                    // SAFETY: `receive` wrote so many bytes there.
                    match unsafe { peer.stream.landed(count) } {
                        None => return Ok(true),
                        Some((head, body)) => {
                            landed = true;
                            self.peers.arrived(place, vec![Taken::new(head, body.into())], None);
                        }
                    }
                }
            }
        }
        let Some(peer) = self.peers.get(place) else {
            return Ok(true);
        };
        let room = self.buffers.room();
        let most = room.len().min(self.read_bytes).min(peer.room());
        match receive(&peer.fd, &mut room[..most]) {
            Ok(Some(count)) if count > 0 => {
                // SAFETY: `receive` wrote so many bytes there.
                let piece = unsafe { self.buffers.filled(count) };
                let frames = self.peers.take_in(place, &piece);
                if let Some(peer) = self.peers.get(place) {
                    peer.next(count, frames, most, self.read_bytes);
                }
            }
            Ok(None) => {}
            // what came before is handled first: the end is seen again in the next exchange
            Ok(Some(_)) | Err(_) if landed => {}
            Ok(Some(_)) => return Ok(false),
            Err(error) => return Err(error),
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
