//! The checks of `portask.wire.batches.parse` on the body of a PUBLISH, done where no interpreter is needed.
//!
//! What is wrong with a batch is said in Python, which looks again at one that is not found sound here.

/// Bytes of a batch header.
pub const HEADER: usize = 64;

const VERSION: u8 = 1;
const RESERVED_ATTRIBUTES: u16 = 0x00F0;

/// The header fields of a sound batch, in the order of `portask.messages.RecordBatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Records in it.
    pub count: u32,
    /// Wire id of its codec.
    pub codec: u8,
    /// Compression and dictionary.
    pub attributes: u16,
    /// Bytes of its records before compression.
    pub raw_length: u32,
    /// ms after the append.
    pub ttl: u32,
    /// µs since the epoch.
    pub base_timestamp: u64,
    /// Producer id, 0 for none.
    pub producer: u64,
    /// Of the producer.
    pub epoch: u16,
    /// Of its first record.
    pub sequence: u32,
    /// Stamp.
    pub base_offset: u64,
    /// Stamp, µs since the epoch.
    pub append_time: u64,
}

fn u16_at(bytes: &[u8; HEADER], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// `body` as exactly one batch, every header field and the checksum verified; the limit of raw bytes is not known here.
pub fn check(body: &[u8]) -> Option<Batch> {
    let header = body.first_chunk::<HEADER>()?;
    let batch = Batch {
        count: u32_at(header, 28),
        codec: header[25],
        attributes: u16_at(header, 26),
        raw_length: u32_at(header, 32),
        ttl: u32_at(header, 36),
        base_timestamp: u64_at(header, 40),
        producer: u64_at(header, 48),
        epoch: u16_at(header, 56),
        sequence: u32_at(header, 60),
        base_offset: u64_at(header, 0),
        append_time: u64_at(header, 8),
    };
    let sound = u32_at(header, 16) as usize == body.len()
        && header[24] == VERSION
        && u16_at(header, 58) == 0
        && batch.count > 0
        && batch.count <= batch.raw_length
        && batch.attributes & RESERVED_ATTRIBUTES == 0
        && (batch.attributes != 0 || batch.raw_length as usize == body.len() - HEADER)
        && crc32c::crc32c(&body[24..]) == u32_at(header, 20);
    sound.then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::records::Gathered;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn sound(area: &[u8], ttl: u32) -> Vec<u8> {
        let says = Gathered { base_offset: 7, append_time: 8, count: 1, ttl, base_timestamp: 9 };
        [&says.header(area).unwrap()[..], area].concat()
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sound_batch_or_none(bytes in vec(any::<u8>(), 0..200)) {
            if let Some(batch) = check(&bytes) {
                prop_assert!(batch.count > 0 && batch.count <= batch.raw_length);
            }
        }

        #[test]
        fn whatever_a_checksum_covers_is_found_out(
            area in vec(any::<u8>(), 1..200),
            ttl in any::<u32>(),
            place in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut batch = sound(&area, ttl);
            prop_assert!(check(&batch).is_some());
            let at = place.index(batch.len() - 16) + 16; // the stamp is the broker's, and not covered
            batch[at] ^= 1 << bit;
            prop_assert_eq!(check(&batch), None);
        }

        #[test]
        fn a_batch_that_is_cut_or_followed_is_none(
            area in vec(any::<u8>(), 1..200),
            place in any::<prop::sample::Index>(),
            more in vec(any::<u8>(), 1..20),
        ) {
            let batch = sound(&area, 0);
            prop_assert_eq!(check(&batch[..place.index(batch.len())]), None);
            prop_assert_eq!(check(&[batch, more].concat()), None);
        }
    }
}
