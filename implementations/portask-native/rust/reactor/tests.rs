//! What moves the bytes, against real sockets: each the same, whatever it is.

use super::framing::{header, Head, HEADER};
use super::idle::{Idle, Waiting};
use super::peers::{Departure, Transport, FRAMES, LEAST};
use super::sockets::Sockets;
use super::unsent::{HIGH, LOW};
use super::uring::{why_not, Uring};
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes that are read of one peer at once.
const READ: usize = 1 << 18;

fn bell() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
}

/// Each transport that can run here, listening, with the eventfd that wakes it.
fn with_each(act: impl Fn(&mut dyn Transport<()>, SocketAddr, &OwnedFd)) {
    for uring in [false, true] {
        if let (true, Some(reason)) = (uring, why_not()) {
            eprintln!("io_uring is left out: {reason}");
            continue;
        }
        for idle in [Idle::Sleep, Idle::SpinThenSleep, Idle::Spin] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let wake = Arc::new(bell());
            let waiting = Waiting::new(idle, Duration::from_micros(50));
            let mut transport: Box<dyn Transport<()>> = if uring {
                Box::new(Uring::new(listener.into(), wake.clone(), waiting).unwrap())
            } else {
                Box::new(Sockets::new(listener.into(), wake.clone(), READ, waiting).unwrap())
            };
            act(&mut *transport, address, &wake);
        }
    }
}

/// Exchanges nothing until `done`.
fn until(transport: &mut dyn Transport<()>, mut done: impl FnMut(&mut dyn Transport<()>) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(transport) {
        assert!(Instant::now() < end, "it did not come");
        transport.exchange(&[], &[], Some(Duration::from_millis(20))).unwrap();
    }
}

/// A client, and its place.
fn connected(transport: &mut dyn Transport<()>, address: SocketAddr) -> (TcpStream, u32) {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    until(transport, |transport| !transport.peers().pass.accepted.is_empty());
    let (place, seen) = transport.peers().pass.accepted.pop().unwrap();
    assert_eq!(seen, client.local_addr().unwrap());
    let peer = transport.peers().get(place).unwrap();
    peer.tag = Some(());
    *peer.limit() = 1 << 20;
    (client, place)
}

fn frame(correlation: u32, body: &[u8]) -> Vec<u8> {
    let head = Head { opcode: 4, flags: 0, length: body.len() as u32, correlation, channel: 0 };
    [&header(&head)[..], body].concat()
}

#[test]
fn frames_come_in_order_and_an_end_follows_them() {
    with_each(|transport, address, _| {
        let (mut client, place) = connected(transport, address);
        let bodies = [vec![1; 10], vec![2; 100_000], vec![], vec![3; 40_000]];
        for (number, body) in (1..).zip(&bodies) {
            client.write_all(&frame(number, body)).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut found = Vec::new();
        until(transport, |transport| {
            for arrived in std::mem::take(&mut transport.peers().pass.arrived) {
                assert_eq!((arrived.peer, arrived.refused), (place, None));
                assert!(transport.peers().get(place).is_some(), "it is gone before what it sent is handled");
                found.extend(arrived.frames.into_iter().map(|taken| (taken.head.correlation, taken.body)));
            }
            !transport.peers().pass.gone.is_empty()
        });
        let expected: Vec<_> = (1..).zip(bodies.map(bytes::Bytes::from)).collect();
        assert_eq!(found, expected);
        assert_eq!(transport.peers().count(), 0);
    });
}

#[test]
fn what_departs_arrives_whole_however_slowly_it_is_read_and_then_the_peer_is_hung_up_on() {
    with_each(|transport, address, _| {
        let (mut client, place) = connected(transport, address);
        let piece: Vec<u8> = (0..1 << 20).map(|byte| (byte * 7 % 251) as u8).collect();
        let small = *b"a small part";
        let mut sent = Vec::new();
        let mut congested = false;
        for turn in 0..16 {
            let parts: Vec<_> =
                (0..turn * 100).map(|_| IoSlice::new(&small)).chain([IoSlice::new(&piece)]).collect();
            parts.iter().for_each(|part| sent.extend_from_slice(part));
            let departure = Departure { place, end: parts.len(), closing: turn == 15 };
            transport.exchange(&[departure], &parts, Some(Duration::ZERO)).unwrap();
            let pass = &mut transport.peers().pass;
            congested |= std::mem::take(&mut pass.congested).contains(&(place, true));
        }
        assert!(congested, "{HIGH} bytes and more wait, and nobody is told");
        let lingering = std::mem::take(&mut transport.peers().pass.lingering);
        assert_eq!(lingering, [place]);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            client.read_to_end(&mut got).unwrap();
            got
        });
        let mut relieved = false;
        until(transport, |transport| {
            let pass = &mut transport.peers().pass;
            relieved |= std::mem::take(&mut pass.congested).contains(&(place, false));
            !pass.gone.is_empty()
        });
        assert!(relieved, "fewer than {LOW} bytes wait, and nobody is told");
        transport.exchange(&[], &[], Some(Duration::ZERO)).unwrap();
        assert!(reader.join().unwrap() == sent);
    });
}

#[test]
fn many_are_sent_to_at_once_and_a_place_is_given_away_later() {
    with_each(|transport, address, _| {
        let mut clients: Vec<_> = (0..600).map(|_| connected(transport, address)).collect();
        let words: Vec<_> = (0..600u32).map(|number| number.to_le_bytes()).collect();
        let parts: Vec<_> = words.iter().map(|word| IoSlice::new(word)).collect();
        let depart = |(at, (_, place)): (usize, &(TcpStream, u32))| Departure {
            place: *place,
            end: at + 1,
            closing: at % 2 == 0,
        };
        let departures: Vec<_> = clients.iter().enumerate().map(depart).collect();
        transport.exchange(&departures, &parts, Some(PATIENCE)).unwrap();
        while transport.exchange(&[], &[], Some(Duration::from_millis(1))).unwrap() {} // a kernel ends some at a time
        assert_eq!(transport.peers().pass.gone.len(), 300);
        assert_eq!(transport.peers().count(), 300);
        for (at, (client, _)) in clients.iter_mut().enumerate() {
            let mut word = [0; 4];
            client.read_exact(&mut word).unwrap();
            assert_eq!(word, words[at]);
            if at % 2 == 0 {
                assert_eq!(client.read(&mut word).unwrap(), 0);
            }
        }
        transport.peers().pass.gone.clear();
        let (_again, place) = connected(transport, address);
        assert!(departures.iter().any(|departure| departure.place == place && departure.closing));
    });
}

#[test]
fn who_is_hung_up_on_or_full_does_not_wait_for_what_comes_next() {
    with_each(|transport, address, _| {
        let began = Instant::now();
        let (mut client, place) = connected(transport, address);
        let departure = Departure { place, end: 1, closing: true };
        transport.exchange(&[departure], &[IoSlice::new(b"bye")], Some(PATIENCE)).unwrap();
        transport.exchange(&[], &[], Some(Duration::ZERO)).unwrap();
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"bye");
        let (mut client, place) = connected(transport, address);
        let much = vec![7; 32 << 20];
        let departure = Departure { place, end: 1, closing: false };
        transport.exchange(&[departure], &[IoSlice::new(&much)], Some(PATIENCE)).unwrap();
        let reader = std::thread::spawn(move || client.read_exact(&mut vec![0; 32 << 20]).unwrap());
        until(transport, |_| reader.is_finished());
        reader.join().unwrap();
        assert!(began.elapsed() < PATIENCE, "it slept with something to do");
    });
}

#[test]
fn who_is_paused_is_not_read_until_it_goes_on() {
    with_each(|transport, address, _| {
        let (mut client, place) = connected(transport, address);
        transport.pause(place, true);
        for _ in 0..3 {
            transport.exchange(&[], &[], Some(Duration::from_millis(1))).unwrap();
        }
        client.write_all(&frame(1, b"later")).unwrap();
        for _ in 0..3 {
            transport.exchange(&[], &[], Some(Duration::from_millis(5))).unwrap();
        }
        assert!(transport.peers().pass.arrived.is_empty());
        transport.pause(place, false);
        until(transport, |transport| !transport.peers().pass.arrived.is_empty());
    });
}

#[test]
fn a_bell_ends_every_wait_while_it_is_readable_and_a_wake_ends_one() {
    with_each(|transport, _, wake| {
        let ours = bell();
        transport.listen_for(ours.try_clone().unwrap()).unwrap();
        transport.exchange(&[], &[], Some(Duration::ZERO)).unwrap();
        assert!(!transport.exchange(&[], &[], Some(Duration::from_millis(1))).unwrap());
        ring(&ours);
        for _ in 0..3 {
            assert!(transport.exchange(&[], &[], Some(PATIENCE)).unwrap());
        }
        rustix::io::read(&ours, &mut [0u8; 8]).unwrap();
        transport.exchange(&[], &[], Some(Duration::ZERO)).unwrap();
        assert!(!transport.exchange(&[], &[], Some(Duration::from_millis(1))).unwrap());
        ring(wake);
        assert!(transport.exchange(&[], &[], Some(PATIENCE)).unwrap());
        assert!(!transport.exchange(&[], &[], Some(Duration::from_millis(1))).unwrap());
    });
}

#[test]
fn who_sends_many_small_frames_gets_a_turn_s_worth_of_them_at_once() {
    with_each(|transport, address, _| {
        const COUNT: usize = 5000;
        let (mut client, _) = connected(transport, address);
        let small: Vec<u8> = (1..=COUNT as u32).flat_map(|number| frame(number, &[7; 100])).collect();
        let writer = std::thread::spawn(move || {
            client.write_all(&small).unwrap();
            client
        });
        let mut shares = Vec::new();
        until(transport, |transport| {
            let arrived = std::mem::take(&mut transport.peers().pass.arrived);
            shares.push(arrived.iter().map(|one| one.frames.len()).sum::<usize>());
            shares.iter().sum::<usize>() == COUNT
        });
        drop(writer.join().unwrap());
        let most = shares.into_iter().max().unwrap();
        assert!(most <= FRAMES + LEAST / HEADER, "{most} at once");
    });
}

#[test]
fn who_sends_much_in_few_frames_is_read_much_of_at_once() {
    with_each(|transport, address, _| {
        const SIZE: usize = 60_000;
        let (mut client, _) = connected(transport, address);
        let writer = std::thread::spawn(move || {
            for number in 0..200 {
                client.write_all(&frame(number, &[7; SIZE])).unwrap();
            }
            client
        });
        let (mut frames, mut most) = (0, 0);
        until(transport, |transport| {
            let arrived = std::mem::take(&mut transport.peers().pass.arrived);
            let count = arrived.iter().map(|one| one.frames.len()).sum::<usize>();
            frames += count;
            most = most.max(count);
            if count == 0 {
                std::thread::sleep(Duration::from_millis(1)); // something piles up
            }
            frames == 200
        });
        drop(writer.join().unwrap());
        assert!(most > 1, "a frame at a time");
    });
}

#[test]
fn who_sends_without_end_is_read_no_more_of_at_once_than_others_can_wait_for() {
    with_each(|transport, address, _| {
        const SIZE: usize = 10_000;
        const COUNT: usize = 2000;
        let (mut client, _) = connected(transport, address);
        let writer = std::thread::spawn(move || {
            for number in 0..COUNT {
                client.write_all(&frame(number as u32, &[7; SIZE])).unwrap();
            }
            client
        });
        let mut shares = Vec::new();
        until(transport, |transport| {
            let arrived = std::mem::take(&mut transport.peers().pass.arrived);
            shares.push(arrived.iter().map(|one| one.frames.len()).sum::<usize>());
            std::thread::sleep(Duration::from_millis(1)); // something piles up
            shares.iter().sum::<usize>() == COUNT
        });
        drop(writer.join().unwrap());
        let most = shares.into_iter().max().unwrap();
        assert!(most <= 2 * (READ / SIZE + 1), "{most} at once");
    });
}

#[test]
fn nobody_is_left_out_however_many_never_stop() {
    with_each(|transport, address, _| {
        let mut loud: Vec<_> = (0..100).map(|_| connected(transport, address).0).collect();
        let (mut quiet, place) = connected(transport, address);
        let much: Vec<u8> = (0..80).flat_map(|number| frame(number, &[7; 10_000])).collect();
        let fill = |loud: &mut [TcpStream]| {
            for client in loud {
                client.set_nonblocking(true).unwrap();
                while client.write(&much).is_ok_and(|written| written == much.len()) {}
            }
        };
        fill(&mut loud);
        for _ in 0..20 {
            transport.exchange(&[], &[], Some(Duration::ZERO)).unwrap();
            transport.peers().pass.arrived.clear();
        }
        quiet.write_all(&frame(1, b"me too")).unwrap();
        let mut waited = 0;
        until(transport, |transport| {
            waited += 1;
            std::mem::take(&mut transport.peers().pass.arrived).iter().any(|arrived| arrived.peer == place)
        });
        assert!(waited < 8, "it waited for {waited} exchanges");
    });
}

#[test]
fn garbage_is_refused_once() {
    with_each(|transport, address, _| {
        let (mut client, _) = connected(transport, address);
        client.write_all(&[frame(1, b"x"), vec![b'?'; 50]].concat()).unwrap();
        until(transport, |transport| {
            transport.peers().pass.arrived.iter().any(|arrived| arrived.refused == Some([b'?'; HEADER]))
        });
    });
}

#[test]
fn the_port_is_free_when_nobody_listens_any_more() {
    with_each(|transport, address, _| {
        let _client = connected(transport, address);
        transport.stop_listening();
        assert!(TcpStream::connect(address).is_err());
    });
}
