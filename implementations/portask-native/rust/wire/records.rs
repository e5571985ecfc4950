//! Records that move from a batch of their own into one with others, and the header of that one.
//!
//! Of a record only the timestamp delta at its front is written anew, because it counts from another base:
//!
//! ```text
//! 0x84 <delta> <key> <headers> <payload>      →      0x84 <delta + shift> <key> <headers> <payload>
//! ```

use crate::codec::heads::{self, ARRAY_OF_4, NEGATIVE, UNSIGNED};
use crate::codec::records::{read, read_plain};

/// Bytes of a batch header.
pub const HEADER: usize = 64;
/// The codec's wire id whose records are understood here.
pub const CBOR_SEQUENCE: u8 = 1;
const VERSION: u8 = 1;

/// Whether this is one record that can be read, and nothing else: whatever is put beside another could spoil it.
pub fn is_record(record: &[u8]) -> bool {
    let end = match read_plain(record, 0) {
        Some((_, _, end)) => Some(end),
        None if record.first() == Some(&ARRAY_OF_4) => read(record, 0).ok().map(|(_, end)| end),
        None => None,
    };
    end == Some(record.len())
}

/// Appends `record` to `area`, its delta moved by `shift`. False, and nothing done, if it is no record, or no
/// head could carry the new delta.
pub fn move_in(area: &mut Vec<u8>, record: &[u8], shift: i128) -> bool {
    if !is_record(record) {
        return false;
    }
    let major = record[1] >> 5;
    let Ok((Some(argument), end)) = heads::argument(record, 1) else { return false };
    let argument = i128::from(argument);
    let delta = if major == UNSIGNED { argument } else { -1 - argument } + shift;
    let (major, argument) = if delta < 0 { (NEGATIVE, -1 - delta) } else { (UNSIGNED, delta) };
    let Ok(argument) = u64::try_from(argument) else { return false };
    let mut head = [0; heads::LONGEST];
    let size = heads::write(&mut head, major, argument);
    let needed = 1 + size + record.len() - end;
    if area.capacity() - area.len() < needed {
        area.reserve_exact(needed.max(area.len() / 8)); // doubling would waste half of every open batch
    }
    area.push(ARRAY_OF_4);
    area.extend_from_slice(&head[..size]);
    area.extend_from_slice(&record[end..]);
    true
}

/// What a gathered batch says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Gathered {
    /// Stamp: offset of its first record.
    pub base_offset: u64,
    /// Stamp, µs since the epoch.
    pub append_time: u64,
    /// Records in it.
    pub count: u32,
    /// ms after the append.
    pub ttl: u32,
    /// µs since the epoch.
    pub base_timestamp: u64,
}

impl Gathered {
    /// The header before `area`, which is uncompressed and has no producer; `None` if that is too long for a
    /// batch.
    pub fn header(&self, area: &[u8]) -> Option<[u8; HEADER]> {
        let length = u32::try_from(HEADER + area.len()).ok()?;
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&self.base_offset.to_le_bytes());
        header[8..16].copy_from_slice(&self.append_time.to_le_bytes());
        header[16..20].copy_from_slice(&length.to_le_bytes());
        header[24] = VERSION;
        header[25] = CBOR_SEQUENCE;
        header[28..32].copy_from_slice(&self.count.to_le_bytes());
        header[32..36].copy_from_slice(&(length - HEADER as u32).to_le_bytes());
        header[36..40].copy_from_slice(&self.ttl.to_le_bytes());
        header[40..48].copy_from_slice(&self.base_timestamp.to_le_bytes());
        let check = crc32c::crc32c_append(crc32c::crc32c(&header[24..]), area);
        header[20..24].copy_from_slice(&check.to_le_bytes());
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::batches;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn record(major: u8, argument: u64, rest: &[u8]) -> Vec<u8> {
        let mut head = [0; heads::LONGEST];
        let size = heads::write(&mut head, major, argument);
        [&[ARRAY_OF_4], &head[..size], rest].concat()
    }

    proptest! {
        #[test]
        fn a_moved_record_is_the_same_but_for_its_delta(
            argument in any::<u64>(),
            width in 0..64u32,
            negative in any::<bool>(),
            to in any::<u64>(),
            payload in vec(any::<u8>(), 0..30)
        ) {
            let mut rest = vec![0xf6, 0xf6, 0x58, payload.len() as u8];
            rest.extend(&payload);
            let before = record(u8::from(negative), argument >> width, &rest);
            let old = read(&before, 0).unwrap().0.delta.value();
            let mut area = b"before".to_vec();
            prop_assert!(move_in(&mut area, &before, i128::from(to) - old));
            prop_assert_eq!(&area[6..], &record(UNSIGNED, to, &rest)[..]);
            let mut again = Vec::new();
            prop_assert!(move_in(&mut again, &area[6..], old - i128::from(to)));
            prop_assert_eq!(again, before);
        }

        #[test]
        fn any_bytes_are_moved_or_left(bytes in vec(any::<u8>(), 0..20), shift in any::<i64>()) {
            let mut area = b"before".to_vec();
            if !move_in(&mut area, &bytes, i128::from(shift)) {
                prop_assert_eq!(area, b"before".to_vec());
            }
        }

        #[test]
        fn a_header_is_what_the_check_accepts(
            base_offset in any::<u64>(),
            append_time in any::<u64>(),
            ttl in any::<u32>(),
            base_timestamp in any::<u64>(),
            area in vec(any::<u8>(), 1..300)
        ) {
            let gathered = Gathered { base_offset, append_time, count: 1, ttl, base_timestamp };
            let batch = [&gathered.header(&area).unwrap()[..], &area].concat();
            let found = batches::check(&batch).unwrap();
            prop_assert_eq!((found.base_offset, found.append_time), (base_offset, append_time));
            prop_assert_eq!((found.ttl, found.base_timestamp, found.count), (ttl, base_timestamp, 1));
            prop_assert_eq!((found.codec, found.producer, found.sequence), (CBOR_SEQUENCE, 0, 0));
        }
    }

    #[test]
    fn a_delta_that_no_head_carries_is_left() {
        for (major, shift, fits) in
            [(UNSIGNED, 1, false), (UNSIGNED, 0, true), (NEGATIVE, -1, false), (NEGATIVE, 0, true)]
        {
            let mut area = Vec::new();
            assert_eq!(move_in(&mut area, &record(major, u64::MAX, b"\xf6\xf6\x44rest"), shift), fits);
            assert_eq!(area.is_empty(), !fits);
        }
    }
}
