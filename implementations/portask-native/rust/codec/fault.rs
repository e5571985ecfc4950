//! What is wrong with bytes, and where.

use std::fmt;

/// What an item is in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The array of four.
    Record,
    /// Its first item.
    Delta,
    /// Its second.
    Key,
    /// Its third.
    Headers,
    /// A key of the headers' map.
    Name,
    /// A value of the headers' map.
    Value,
    /// Its fourth.
    Payload,
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Part::Record => "the record",
            Part::Delta => "the timestamp delta",
            Part::Key => "the key",
            Part::Headers => "the headers",
            Part::Name => "a header's name",
            Part::Value => "a header's value",
            Part::Payload => "the payload",
        })
    }
}

/// The first thing that is wrong with a record area. Its text begins with the byte position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Byte position in the record area.
    pub at: usize,
    /// What is wrong there.
    pub what: What,
}

/// See `Fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The data ends where more must follow.
    Cut,
    /// An item of another type; its initial byte.
    Kind(Part, u8),
    /// Additional information 28 to 30.
    Reserved(u8),
    /// An array of another number of items.
    Items(u64),
    /// An indefinite array that goes on after its fourth item.
    GoesOn,
    /// An integer with additional information 31.
    EndlessInteger,
    /// A chunk with additional information 31.
    EndlessChunk(Part),
    /// A string of so many bytes, and the data ends at byte so many.
    Long(Part, u64, usize),
    /// Bytes that are not UTF-8.
    Text(Part),
    /// The data ends after so many records of so many.
    Missing(usize, usize),
    /// So many bytes after the last of so many records.
    Follows(usize, usize),
}

impl Fault {
    #[cold]
    pub(super) fn cut(data: &[u8]) -> Fault {
        Fault { at: data.len(), what: What::Cut }
    }

    #[cold]
    pub(super) fn kind(at: usize, part: Part, first: u8) -> Fault {
        Fault { at, what: What::Kind(part, first) }
    }

    #[cold]
    pub(super) fn reserved(at: usize, info: u8) -> Fault {
        Fault { at, what: What::Reserved(info) }
    }
}

const KINDS: [&str; 8] = [
    "an integer",
    "an integer",
    "a byte string",
    "a text string",
    "an array",
    "a map",
    "a tag",
    "a simple value or a float",
];

fn wanted(part: Part) -> &'static str {
    match part {
        Part::Record => "an array",
        Part::Delta => "an integer",
        Part::Headers => "a map",
        Part::Name | Part::Value => "a text string",
        Part::Key | Part::Payload => "a byte string",
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "byte {}: ", self.at)?;
        match self.what {
            What::Cut => write!(out, "the data ends inside a record"),
            What::Kind(part, first) => {
                write!(out, "{part} is {}, not {}", KINDS[usize::from(first >> 5)], wanted(part))
            }
            What::Reserved(info) => write!(out, "additional information {info} is reserved"),
            What::Items(items) => write!(out, "the record is an array of {items} items, not of four"),
            What::GoesOn => write!(out, "the record's array goes on after its fourth item"),
            What::EndlessInteger => write!(out, "an integer has no indefinite length"),
            What::EndlessChunk(part) => write!(out, "a chunk of {part} has no length of its own"),
            What::Long(part, length, end) => {
                write!(out, "{part} has {length} bytes, the data ends at byte {end}")
            }
            What::Text(part) => write!(out, "{part} is not UTF-8"),
            What::Missing(read, announced) => {
                write!(out, "the data ends after {read} records, and {announced} were announced")
            }
            What::Follows(left, count) => {
                write!(out, "{left} bytes after the last of {count} records")
            }
        }
    }
}

impl std::error::Error for Fault {}
