//! The grammar of a record: `[timestamp delta, key|null, headers|null, payload]`, in any well-formed CBOR.
//!
//! Nothing is copied and nothing allocated: a record is slices of the record area. Strings of indefinite
//! length stay as their chunks, headers as their map; both were checked to their last byte when `read`
//! returns, so that whoever walks them later finds no fault. Nothing recurses: the grammar has a fixed depth.
//! Lengths are compared with what is there before they are used, so a hostile one costs nothing.

use super::fault::{Fault, Part, What};
use super::heads::{self, ARRAY, ARRAY_OF_4, BREAK, BYTES, MAP, NEGATIVE, NULL, TEXT, UNSIGNED};

/// Bytes of the smallest record: array of four, one-byte delta, null, null, empty payload.
pub const SMALLEST: usize = 5;

/// A string: in one piece, or the chunks of one of indefinite length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Str<'a> {
    /// In one piece.
    Whole(&'a [u8]),
    /// Definite strings back to back, and how many bytes they carry together.
    Chunked(&'a [u8], usize),
}

impl<'a> Str<'a> {
    /// Bytes that it carries.
    pub fn len(&self) -> usize {
        match *self {
            Str::Whole(bytes) => bytes.len(),
            Str::Chunked(_, size) => size,
        }
    }

    /// Whether it carries none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives each piece to `take`, in order.
    pub fn pieces(&self, mut take: impl FnMut(&'a [u8])) {
        match *self {
            Str::Whole(bytes) => take(bytes),
            Str::Chunked(mut chunks, _) => {
                while !chunks.is_empty() {
                    // checked by `read_chunks`: a definite string that is all there
                    let Ok((Some(size), start)) = heads::argument(chunks, 0) else { return };
                    let (chunk, rest) = chunks[start..].split_at(size as usize);
                    take(chunk);
                    chunks = rest;
                }
            }
        }
    }

    /// All of it in one piece, gathered if it must be.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.pieces(|piece| all.extend_from_slice(piece));
        all
    }
}

/// A header's value: text or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text string; UTF-8.
    Text(Str<'a>),
    /// A byte string.
    Bytes(Str<'a>),
}

/// The pairs of a headers' map, one after the other, checked; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Iterator for Headers<'a> {
    type Item = (Str<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let (name, value, end) = read_pair::<false>(self.0, 0).ok()?;
        self.0 = &self.0[end..];
        Some((name, value))
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// µs from the batch's base; -2^64 to 2^64-1.
    pub delta: Delta,
    /// Its key.
    pub key: Option<Str<'a>>,
    /// Its headers; an empty map is none.
    pub headers: Option<Headers<'a>>,
    /// Its payload.
    pub payload: Str<'a>,
}

/// A CBOR integer: the argument of its head, and whether it means -1 minus that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The head's argument.
    pub argument: u64,
    /// Major type 1.
    pub negative: bool,
}

impl Delta {
    /// The base itself.
    pub const ZERO: Delta = Delta { argument: 0, negative: false };

    /// The integer.
    #[inline(always)]
    pub fn value(self) -> i128 {
        let argument = i128::from(self.argument);
        if self.negative {
            -1 - argument
        } else {
            argument
        }
    }
}

/// A record as nearly all are: no key, no headers, heads as an encoder of wire id 1 writes them. Its delta,
/// its payload, and where it ends. `None` says nothing about what else is there: ask `read`.
///
/// A head's argument has 0, 1, 2, 4 or 8 bytes, and which follows no pattern that a processor could predict.
/// So nothing branches on it: eight bytes are loaded, and those that do not belong to it are shifted out.
#[inline(always)]
pub fn read_plain(data: &[u8], at: usize) -> Option<(u64, &[u8], usize)> {
    let window: &[u8; WINDOW] = data.get(at..)?.first_chunk()?;
    if window[0] != ARRAY_OF_4 {
        return None;
    }
    let (delta, nulls) = short_argument(window, 1, UNSIGNED)?;
    if window[nulls] != NULL || window[nulls + 1] != NULL {
        return None;
    }
    let (size, start) = short_argument(window, nulls + 2, BYTES)?;
    let start = at + start;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    Some((delta, data.get(start..end)?, end))
}

/// Bytes before the payload of a plain record, at most: the array's head, the delta, two nulls, the payload's
/// head.
const WINDOW: usize = 1 + heads::LONGEST + 2 + heads::LONGEST;

/// Bytes of the argument after an initial byte with this additional information; 9 for what has none.
const WIDTHS: [u8; 32] = {
    let mut widths = [0; 32];
    (widths[24], widths[25], widths[26], widths[27]) = (1, 2, 4, 8);
    (widths[28], widths[29], widths[30], widths[31]) = (9, 9, 9, 9);
    widths
};

#[inline(always)]
fn short_argument(window: &[u8; WINDOW], at: usize, major: u8) -> Option<(u64, usize)> {
    let first = window[at];
    let info = first & 31;
    let width = u32::from(WIDTHS[usize::from(info)]);
    if first >> 5 != major || width > 8 {
        return None;
    }
    let wide = u64::from_be_bytes(*window[at + 1..].first_chunk()?);
    let value = if width == 0 { u64::from(info) } else { wide >> (64 - 8 * width) };
    Some((value, at + 1 + width as usize))
}

/// The record at `at` and where it ends.
pub fn read(data: &[u8], at: usize) -> Result<(Record<'_>, usize), Fault> {
    let (items, at) = {
        let (items, end) = heads::read(data, at, ARRAY, Part::Record)?;
        if let Some(items) = items.filter(|items| *items != 4) {
            return Err(Fault { at, what: What::Items(items) });
        }
        (items, end)
    };
    let (delta, at) = read_delta(data, at)?;
    let (key, at) = match byte(data, at)? {
        NULL => (None, at + 1),
        _ => read_string::<true>(data, at, BYTES, Part::Key).map(|(key, end)| (Some(key), end))?,
    };
    let (headers, at) = match byte(data, at)? {
        NULL => (None, at + 1),
        _ => read_headers(data, at)?,
    };
    let (payload, mut at) = read_string::<true>(data, at, BYTES, Part::Payload)?;
    if items.is_none() {
        if byte(data, at)? != BREAK {
            return Err(Fault { at, what: What::GoesOn });
        }
        at += 1;
    }
    Ok((Record { delta, key, headers, payload }, at))
}

#[inline]
fn byte(data: &[u8], at: usize) -> Result<u8, Fault> {
    data.get(at).copied().ok_or(Fault::cut(data))
}

fn read_delta(data: &[u8], at: usize) -> Result<(Delta, usize), Fault> {
    let major = byte(data, at)? >> 5;
    if major != UNSIGNED && major != NEGATIVE {
        return Err(Fault::kind(at, Part::Delta, data[at]));
    }
    match heads::argument(data, at)? {
        (Some(argument), end) => Ok((Delta { argument, negative: major == NEGATIVE }, end)),
        (None, _) => Err(Fault { at, what: What::EndlessInteger }),
    }
}

fn read_headers(data: &[u8], at: usize) -> Result<(Option<Headers<'_>>, usize), Fault> {
    let (pairs, start) = heads::read(data, at, MAP, Part::Headers)?;
    let mut at = start;
    let mut left = pairs;
    loop {
        match left {
            Some(0) => break,
            None if byte(data, at)? == BREAK => break,
            _ => {}
        }
        at = read_pair::<true>(data, at)?.2;
        left = left.map(|left| left - 1);
    }
    let headers = (at > start).then(|| Headers(&data[start..at]));
    Ok((headers, if pairs.is_none() { at + 1 } else { at }))
}

/// A name and a value. Without `CHECK` for text that was checked before.
fn read_pair<const CHECK: bool>(data: &[u8], at: usize) -> Result<(Str<'_>, Value<'_>, usize), Fault> {
    let (name, at) = read_string::<CHECK>(data, at, TEXT, Part::Name)?;
    let (value, at) = if byte(data, at)? >> 5 == BYTES {
        let (value, end) = read_string::<CHECK>(data, at, BYTES, Part::Value)?;
        (Value::Bytes(value), end)
    } else {
        let (value, end) = read_string::<CHECK>(data, at, TEXT, Part::Value)?;
        (Value::Text(value), end)
    };
    Ok((name, value, at))
}

fn read_string<const CHECK: bool>(
    data: &[u8],
    at: usize,
    major: u8,
    part: Part,
) -> Result<(Str<'_>, usize), Fault> {
    match heads::read(data, at, major, part)? {
        (Some(size), start) => {
            let whole = piece(data, at, start, size, part)?;
            if CHECK && major == TEXT {
                check_text(whole, at, part)?;
            }
            Ok((Str::Whole(whole), start + whole.len()))
        }
        (None, start) => read_chunks::<CHECK>(data, start, major, part),
    }
}

/// The rest of a string of indefinite length: definite chunks, then the break (RFC 8949 §3.2.3). Each chunk
/// of a text is UTF-8 by itself.
fn read_chunks<const CHECK: bool>(
    data: &[u8],
    start: usize,
    major: u8,
    part: Part,
) -> Result<(Str<'_>, usize), Fault> {
    let mut at = start;
    let mut total = 0;
    while byte(data, at)? != BREAK {
        let (size, from) = heads::read(data, at, major, part)?;
        let Some(size) = size else {
            return Err(Fault { at, what: What::EndlessChunk(part) });
        };
        let chunk = piece(data, at, from, size, part)?;
        if CHECK && major == TEXT {
            check_text(chunk, at, part)?;
        }
        total += chunk.len();
        at = from + chunk.len();
    }
    Ok((Str::Chunked(&data[start..at], total), at + 1))
}

fn piece(data: &[u8], at: usize, start: usize, size: u64, part: Part) -> Result<&[u8], Fault> {
    let rest = &data[start..];
    match usize::try_from(size).ok().and_then(|size| rest.get(..size)) {
        Some(piece) => Ok(piece),
        None => Err(Fault { at, what: What::Long(part, size, data.len()) }),
    }
}

fn check_text(text: &[u8], at: usize, part: Part) -> Result<(), Fault> {
    std::str::from_utf8(text).map(drop).map_err(|_| Fault { at, what: What::Text(part) })
}
