//! CBOR heads: the initial byte and its argument (RFC 8949 §3), read and written.

use super::fault::{Fault, Part};

/// Major types (RFC 8949 §3.1).
pub const UNSIGNED: u8 = 0;
/// Negative integers.
pub const NEGATIVE: u8 = 1;
/// Byte strings.
pub const BYTES: u8 = 2;
/// Text strings.
pub const TEXT: u8 = 3;
/// Arrays.
pub const ARRAY: u8 = 4;
/// Maps.
pub const MAP: u8 = 5;

/// The simple value null.
pub const NULL: u8 = 0xf6;
/// The end of an item of indefinite length.
pub const BREAK: u8 = 0xff;
/// The head of an array of four.
pub const ARRAY_OF_4: u8 = 0x84;

/// Bytes of the longest head.
pub const LONGEST: usize = 9;

/// Writes the shortest head of a major type; returns its length.
#[inline(always)]
pub fn write(to: &mut [u8; LONGEST], major: u8, value: u64) -> usize {
    let first = major << 5;
    if value < 24 {
        to[0] = first | value as u8;
        1
    } else if value < 1 << 8 {
        to[0] = first | 24;
        to[1] = value as u8;
        2
    } else if value < 1 << 16 {
        to[0] = first | 25;
        to[1..3].copy_from_slice(&(value as u16).to_be_bytes());
        3
    } else if value < 1 << 32 {
        to[0] = first | 26;
        to[1..5].copy_from_slice(&(value as u32).to_be_bytes());
        5
    } else {
        to[0] = first | 27;
        to[1..9].copy_from_slice(&value.to_be_bytes());
        9
    }
}

/// The argument of the head at `at`, which must be of `major`, and where the head ends; `None` is an
/// indefinite length.
#[inline]
pub fn read(data: &[u8], at: usize, major: u8, part: Part) -> Result<(Option<u64>, usize), Fault> {
    let first = *data.get(at).ok_or(Fault::cut(data))?;
    if first >> 5 != major {
        return Err(Fault::kind(at, part, first));
    }
    argument(data, at)
}

/// The argument of the head at `at`, whatever its type, and where the head ends.
#[inline]
pub fn argument(data: &[u8], at: usize) -> Result<(Option<u64>, usize), Fault> {
    let info = data[at] & 31;
    if info < 24 {
        return Ok((Some(u64::from(info)), at + 1));
    }
    let start = at + 1;
    let rest = &data[start..];
    match info {
        24 => rest.first().map(|byte| (u64::from(*byte), 1)),
        25 => rest.first_chunk().map(|wide| (u64::from(u16::from_be_bytes(*wide)), 2)),
        26 => rest.first_chunk().map(|wide| (u64::from(u32::from_be_bytes(*wide)), 4)),
        27 => rest.first_chunk().map(|wide| (u64::from_be_bytes(*wide), 8)),
        31 => return Ok((None, start)),
        _ => return Err(Fault::reserved(at, info)),
    }
    .map(|(value, width)| (Some(value), start + width))
    .ok_or(Fault::cut(data))
}
