//! Bytes in, frames out: `portask.wire.frames.FrameParser` in Rust, for whole buffers of the reactor.
//!
//! ```text
//! off size field           little-endian
//!   0    4 magic           b"PORT"
//!   4    1 version         2
//!   5    1 opcode
//!   6    2 flags           bit 0 REPLY; the others are rejected: WINDOW is never sent to a broker
//!   8    4 body length
//!  12    4 correlation id
//!  16    4 channel
//!  20    4 CRC32C          of bytes 0-19
//! ```
//!
//! Frames that lie whole in one piece are named by their place in it. A frame that is cut is put together in a
//! buffer of its own, which grows as bytes arrive: a header alone, whatever length it announces, costs nothing.
//!
//! What is wrong with a header is for people to read, so it is said in one place only, in Python: a refused
//! header is handed on as it came.

use std::mem::MaybeUninit;

/// Bytes of a frame header.
pub const HEADER: usize = 24;
/// Body limit before the handshake is complete, bytes.
pub const HELLO_LIMIT: u32 = 8 * 1024;

const MAGIC: [u8; 4] = *b"PORT";
const VERSION: u8 = 2;
const REPLY: u16 = 1;
const WINDOW: u16 = 2;
/// Bytes in front of the batches of a frame with the flag WINDOW, which the limit does not count.
const WINDOW_SIZE: u32 = 24;
/// Least room that a cut body gets when it grows, bytes.
const STEP: usize = 64 * 1024;
/// From so many missing bytes on it is worth a read of its own to have them land in their place.
const WORTH_A_READ: usize = 16 * 1024;

/// The fields of a header that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the frame is for.
    pub opcode: u8,
    /// Only those that are known.
    pub flags: u16,
    /// Bytes of the body.
    pub length: u32,
    /// 0 for one-way.
    pub correlation: u32,
    /// 0 for the connection itself.
    pub channel: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The header of a frame to a broker, unless it is none or announces more than `limit`.
pub fn head(bytes: &[u8; HEADER], limit: u32) -> Option<Head> {
    head_with(bytes, limit, REPLY)
}

/// The header, unless it is none, has other flags than `allowed`, or announces more than `limit`.
pub fn head_with(bytes: &[u8; HEADER], limit: u32, allowed: u16) -> Option<Head> {
    let found = Head {
        opcode: bytes[5],
        flags: u16::from_le_bytes([bytes[6], bytes[7]]),
        length: u32_at(bytes, 8),
        correlation: u32_at(bytes, 12),
        channel: u32_at(bytes, 16),
    };
    let sound = bytes[..4] == MAGIC
        && bytes[4] == VERSION
        && found.flags & !allowed == 0
        && found.length <= limit.saturating_add(if found.flags & WINDOW != 0 { WINDOW_SIZE } else { 0 })
        && crc32c::crc32c(&bytes[..20]) == u32_at(bytes, 20);
    sound.then_some(found)
}

/// The 24 bytes of a header.
pub fn header(head: &Head) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5] = head.opcode;
    bytes[6..8].copy_from_slice(&head.flags.to_le_bytes());
    bytes[8..12].copy_from_slice(&head.length.to_le_bytes());
    bytes[12..16].copy_from_slice(&head.correlation.to_le_bytes());
    bytes[16..20].copy_from_slice(&head.channel.to_le_bytes());
    let check = crc32c::crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// What a piece of the stream gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut {
    /// A frame whose body begins at this place of the piece.
    Here(Head, usize),
    /// A frame that came in several pieces.
    Whole(Head, Vec<u8>),
    /// Not a header, or one above the limit. Nothing follows.
    Refused([u8; HEADER]),
}

/// A frame of which a part came.
struct Held {
    header: [u8; HEADER],
    have: usize,
    head: Option<Head>,
    body: Vec<u8>,
}

/// One direction of one connection. Costs 16 bytes while no frame is cut.
pub struct Stream {
    held: Option<Box<Held>>,
    /// Largest body accepted, bytes. A larger one is refused when its header is read.
    pub limit: u32,
    refused: bool,
}

impl Stream {
    /// A stream at its beginning.
    pub fn new(limit: u32) -> Self {
        Stream { held: None, limit, refused: false }
    }

    /// Bytes held of an incomplete frame.
    pub fn buffered(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.have + held.body.len())
    }

    /// Calls `cut` with what `piece` completes, in order.
    pub fn feed(&mut self, piece: &[u8], mut cut: impl FnMut(Cut)) {
        let mut at = 0;
        if !self.refused && self.held.is_some() {
            at = self.complete(piece, &mut cut);
        }
        while !self.refused && at < piece.len() {
            let rest = &piece[at..];
            let Some(header) = rest.first_chunk::<HEADER>() else {
                self.hold(rest, None);
                return;
            };
            let Some(head) = head(header, self.limit) else {
                self.refuse(*header, &mut cut);
                return;
            };
            let end = HEADER + head.length as usize;
            if rest.len() < end {
                self.hold(rest, Some(head));
                return;
            }
            cut(Cut::Here(head, at + HEADER));
            at += end;
        }
    }

    /// Where the missing bytes of a large body go, if it is worth a read of its own. `landed` must follow.
    pub fn landing(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        let held = self.held.as_mut()?;
        let missing = held.head?.length as usize - held.body.len();
        if missing < WORTH_A_READ {
            return None;
        }
        let room = make_room(&mut held.body, missing);
        Some(&mut held.body.spare_capacity_mut()[..room])
    }

    /// So many bytes were read into what `landing` gave: the frame, if they complete it.
    ///
    /// # Safety
    /// The first `count` bytes of the last `landing` were written.
    pub unsafe fn landed(&mut self, count: usize) -> Option<(Head, Vec<u8>)> {
        let held = self.held.as_mut()?;
        // SAFETY: the caller wrote them, and `landing` gave no more than the spare capacity.
        unsafe { held.body.set_len(held.body.len() + count) };
        self.finish()
    }

    fn refuse(&mut self, header: [u8; HEADER], cut: &mut impl FnMut(Cut)) {
        self.refused = true;
        self.held = None;
        cut(Cut::Refused(header));
    }

    /// Keeps a copy of a frame's beginning.
    fn hold(&mut self, start: &[u8], head: Option<Head>) {
        let have = start.len().min(HEADER);
        let mut held = Box::new(Held { header: [0; HEADER], have, head, body: Vec::new() });
        held.header[..have].copy_from_slice(&start[..have]);
        if let Some(head) = head {
            let body = &start[HEADER..];
            held.body.reserve_exact((head.length as usize).min(body.len().max(STEP)));
            held.body.extend_from_slice(body);
        }
        self.held = Some(held);
    }

    /// Adds to the frame that was cut; returns how much of `piece` it took.
    fn complete(&mut self, piece: &[u8], cut: &mut impl FnMut(Cut)) -> usize {
        let limit = self.limit;
        let Some(held) = self.held.as_mut() else {
            return 0;
        };
        let mut at = 0;
        if held.head.is_none() {
            at = piece.len().min(HEADER - held.have);
            held.header[held.have..held.have + at].copy_from_slice(&piece[..at]);
            held.have += at;
            if held.have < HEADER {
                return at;
            }
            held.head = head(&held.header, limit);
        }
        let Some(head) = held.head else {
            let header = held.header;
            self.refuse(header, cut);
            return piece.len();
        };
        let missing = head.length as usize - held.body.len();
        let part = missing.min(piece.len() - at);
        let mut rest = &piece[at..at + part];
        while !rest.is_empty() {
            let room = make_room(&mut held.body, missing).min(rest.len());
            held.body.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
        }
        if let Some((head, body)) = self.finish() {
            cut(Cut::Whole(head, body));
        }
        at + part
    }

    /// The frame that was cut, if it is whole now.
    fn finish(&mut self) -> Option<(Head, Vec<u8>)> {
        let head = self.held.as_ref()?.head?;
        let whole = self.held.take_if(|held| held.body.len() == head.length as usize)?;
        Some((head, whole.body))
    }
}

/// Makes room for some of the bytes that a body misses; it never has more capacity than twice what came, or `STEP`.
fn make_room(body: &mut Vec<u8>, missing: usize) -> usize {
    if body.capacity() == body.len() {
        body.reserve_exact(missing.min(body.len().max(STEP)));
    }
    missing.min(body.capacity() - body.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u32 = 1 << 20;

    fn frame(opcode: u8, correlation: u32, body: &[u8]) -> Vec<u8> {
        let made = Head { opcode, flags: 0, length: body.len() as u32, correlation, channel: 7 };
        [&header(&made)[..], body].concat()
    }

    type Given = (Vec<(Head, Vec<u8>)>, Option<[u8; HEADER]>);

    /// Everything that a stream gives, bodies as bytes.
    fn cut(stream: &mut Stream, pieces: &[&[u8]]) -> Given {
        let mut frames = Vec::new();
        let mut refused = None;
        for piece in pieces {
            stream.feed(piece, |found| match found {
                Cut::Here(head, at) => frames.push((head, piece[at..at + head.length as usize].to_vec())),
                Cut::Whole(head, body) => frames.push((head, body)),
                Cut::Refused(header) => refused = Some(header),
            });
        }
        (frames, refused)
    }

    fn ways(bytes: &[u8]) -> Vec<Given> {
        let each: Vec<&[u8]> = bytes.chunks(1).collect();
        let some: Vec<&[u8]> = bytes.chunks(37).collect();
        [vec![bytes], each, some].iter().map(|pieces| cut(&mut Stream::new(LIMIT), pieces)).collect()
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let bodies = [vec![], vec![1], vec![2; 100], vec![3; 70_000]];
        let stream: Vec<u8> = (0..).zip(&bodies).flat_map(|(number, body)| frame(17, number, body)).collect();
        for (frames, refused) in ways(&stream) {
            assert_eq!(refused, None);
            assert_eq!(frames.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>(), bodies);
            assert_eq!(frames.iter().map(|(head, _)| head.correlation).collect::<Vec<_>>(), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn garbage_after_a_frame_is_refused_with_what_came_and_nothing_after_it_is_read() {
        let mut stream = frame(4, 1, b"ping");
        stream.extend_from_slice(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.extend(frame(4, 2, b""));
        for (frames, refused) in ways(&stream) {
            assert_eq!(frames.len(), 1);
            assert_eq!(&refused.unwrap()[..16], b"GET / HTTP/1.1\r\n");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_refused() {
        let sound = frame(17, 5, b"");
        for bit in 0..HEADER * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (frames, refused) = cut(&mut Stream::new(u32::MAX), &[&bytes]);
            assert!(frames.is_empty() && refused.is_some(), "bit {bit}");
        }
    }

    #[test]
    fn the_limit_is_exact_and_an_announced_length_costs_nothing() {
        let mut stream = Stream::new(10);
        let (frames, refused) = cut(&mut stream, &[&frame(17, 1, &[0; 10])]);
        assert_eq!((frames.len(), refused), (1, None));
        assert!(cut(&mut stream, &[&frame(17, 1, &[0; 11])]).1.is_some());
        let mut stream = Stream::new(u32::MAX);
        let head = head(frame(17, 1, b"").first_chunk().unwrap(), 0).unwrap();
        let length = 1 << 30;
        let mut large = header(&Head { length, ..head }).to_vec();
        large.extend_from_slice(b"some");
        assert_eq!(cut(&mut stream, &[&large]), (vec![], None));
        assert_eq!(stream.buffered(), 28);
        assert!(stream.held.unwrap().body.capacity() <= STEP);
    }

    #[test]
    fn a_large_body_lands_in_its_place() {
        let body: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let bytes = frame(17, 1, &body);
        let mut stream = Stream::new(LIMIT);
        assert!(stream.landing().is_none());
        assert!(cut(&mut stream, &[&bytes[..1000]]).0.is_empty());
        let mut at = 1000;
        let mut found = None;
        while let Some(room) = stream.landing() {
            let count = room.len().min(30_000);
            for (place, byte) in room.iter_mut().zip(&bytes[at..at + count]) {
                place.write(*byte);
            }
            at += count;
            // SAFETY: written just above.
            found = unsafe { stream.landed(count) };
        }
        if found.is_none() {
            stream.feed(&bytes[at..], |cut| match cut {
                Cut::Whole(head, body) => found = Some((head, body)),
                other => panic!("{other:?}"),
            });
        }
        assert!(found.is_some_and(|(_, whole)| whole == body));
        assert_eq!(stream.buffered(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            good in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..4),
            cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut stream: Vec<u8> = good.iter().flat_map(|(opcode, body)| frame(*opcode, 1, body)).collect();
            stream.extend_from_slice(&bytes);
            let mut pieces = Vec::new();
            let mut rest = &stream[..];
            for size in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*size));
                pieces.push(piece);
                rest = after;
            }
            let whole = cut(&mut Stream::new(LIMIT), &[&stream]);
            prop_assert!(whole.0.len() >= good.len());
            prop_assert_eq!(cut(&mut Stream::new(LIMIT), &pieces), whole);
        }
    }
}
