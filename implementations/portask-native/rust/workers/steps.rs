//! What the threads can do by themselves: zstd and CRC32C.

use std::collections::HashMap;
use zstd::bulk::{Compressor, Decompressor};

/// What a thread keeps: compressors by level, a decompressor. Their tables are larger than most messages.
#[derive(Default)]
pub struct Tools {
    compressors: HashMap<i32, Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
}

/// A result, or why there is none.
pub type Result<T> = std::result::Result<T, String>;

impl Tools {
    /// A zstd frame (RFC 8878) that states its raw length.
    ///
    /// # Errors
    /// zstd's own words.
    pub fn compress(&mut self, data: &[u8], level: i32) -> Result<Vec<u8>> {
        let compressor = match self.compressors.entry(level) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(Compressor::new(level).map_err(|error| error.to_string())?)
            }
        };
        compressor.compress(data).map_err(|error| error.to_string())
    }

    /// What a zstd frame of exactly `length` raw bytes holds. Never writes more, whatever the frame says.
    ///
    /// # Errors
    /// It is no such frame.
    pub fn decompress(&mut self, data: &[u8], length: usize) -> Result<Vec<u8>> {
        if self.decompressor.is_none() {
            self.decompressor = Some(Decompressor::new().map_err(|error| error.to_string())?);
        }
        let decompressor = self.decompressor.as_mut().ok_or("no decompressor")?;
        let raw = decompressor
            .decompress(data, length)
            .map_err(|error| format!("no zstd frame of {length} raw bytes: {error}"))?;
        if raw.len() != length {
            return Err(format!("the zstd frame holds {} raw bytes, not {length}", raw.len()));
        }
        Ok(raw)
    }
}

/// The CRC32C of the bytes, in hardware where there is some.
pub fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
}

/// The levels that zstd knows.
pub fn levels() -> std::ops::RangeInclusive<i32> {
    zstd::compression_level_range()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(data in prop::collection::vec(0..4_u8, 0..10_000), level in -5..=9_i32) {
            let mut tools = Tools::default();
            for _ in 0..2 { // the second time with tools that were used
                let packed = tools.compress(&data, level).unwrap();
                prop_assert_eq!(&tools.decompress(&packed, data.len()).unwrap(), &data);
                prop_assert!(tools.decompress(&packed, data.len() + 1).is_err());
                if !data.is_empty() {
                    prop_assert!(tools.decompress(&packed, data.len() - 1).is_err());
                    prop_assert!(tools.decompress(&packed[..packed.len() - 1], data.len()).is_err());
                }
            }
        }

        #[test]
        fn garbage_is_an_error_and_harms_no_tool(data in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut tools = Tools::default();
            prop_assert!(tools.decompress(&data, 1000).is_err());
            let packed = tools.compress(b"after", 1).unwrap();
            prop_assert_eq!(tools.decompress(&packed, 5).unwrap(), b"after");
        }
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283); // RFC 3720, B.4
    }
}
