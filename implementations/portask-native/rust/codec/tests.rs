//! Properties of the grammar: whatever was written in any form is read; whatever the bytes, they are read or
//! refused.

use super::fault::{Fault, Part, What};
use super::heads::{self, ARRAY, BREAK, BYTES, MAP, NEGATIVE, NULL, TEXT, UNSIGNED};
use super::records::{read, read_plain, Delta, Record, Str, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// A record as its sender means it.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    delta: Delta,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Result<String, Vec<u8>>)>,
    payload: Vec<u8>,
}

fn model_of(record: &Record<'_>) -> Model {
    let text = |string: Str<'_>| String::from_utf8(string.to_vec()).unwrap();
    let headers = record.headers.into_iter().flatten().map(|(name, value)| match value {
        Value::Text(value) => (text(name), Ok(text(value))),
        Value::Bytes(value) => (text(name), Err(value.to_vec())),
    });
    Model {
        delta: record.delta,
        key: record.key.map(|key| key.to_vec()),
        headers: headers.collect(),
        payload: record.payload.to_vec(),
    }
}

fn models() -> impl Strategy<Value = Model> {
    let argument = prop_oneof![0..30u64, 200..300u64, 60_000..70_000u64, any::<u64>()];
    let size = prop_oneof![0..30usize, 250..260usize, Just(65_536)];
    let bytes = size.prop_flat_map(|size| vec(any::<u8>(), size));
    let value = prop_oneof!["\\PC{0,9}".prop_map(Ok), vec(any::<u8>(), 0..9).prop_map(Err)];
    (
        (argument, any::<bool>()).prop_map(|(argument, negative)| Delta { argument, negative }),
        proptest::option::of(vec(any::<u8>(), 0..40)),
        vec(("\\PC{0,9}", value), 0..4),
        bytes,
    )
        .prop_map(|(delta, key, headers, payload)| Model { delta, key, headers, payload })
}

/// Writes records, each choice of form taken from `choices`.
struct Writer<'a> {
    out: Vec<u8>,
    choices: &'a [u8],
}

impl Writer<'_> {
    fn choose(&mut self, among: u8) -> u8 {
        let Some((first, rest)) = self.choices.split_first() else { return 0 };
        self.choices = rest;
        first % among
    }

    /// A head in any width that holds the value; the shortest is choice 0.
    fn head(&mut self, major: u8, value: u64) {
        let widths = [(24, 0usize), (1 << 8, 1), (1 << 16, 2), (1 << 32, 4), (u64::MAX, 8)];
        let least = widths.iter().position(|(end, _)| value < *end).unwrap_or(4);
        let width = widths[least + usize::from(self.choose((widths.len() - least) as u8))].1;
        match width {
            0 => self.out.push((major << 5) | value as u8),
            width => {
                self.out.push((major << 5) | (24 + width.trailing_zeros() as u8));
                self.out.extend(&value.to_be_bytes()[8 - width..]);
            }
        }
    }

    fn string(&mut self, major: u8, data: &[u8], cuts: impl Fn(usize) -> bool) {
        if self.choose(2) == 0 {
            self.head(major, data.len() as u64);
            return self.out.extend(data);
        }
        self.out.push((major << 5) | 31);
        let mut rest = data;
        while !rest.is_empty() {
            let mut size = usize::from(self.choose(8)).min(rest.len());
            while !cuts(data.len() - rest.len() + size) {
                size += 1;
            }
            self.head(major, size as u64);
            self.out.extend(&rest[..size]);
            rest = &rest[size..];
            if self.choices.is_empty() {
                self.head(major, rest.len() as u64);
                self.out.extend(rest);
                break;
            }
        }
        self.out.push(BREAK);
    }

    fn text(&mut self, text: &str) {
        self.string(TEXT, text.as_bytes(), |at| text.is_char_boundary(at));
    }

    fn record(&mut self, model: &Model) {
        let endless = self.choose(2) == 1;
        if endless {
            self.out.push((ARRAY << 5) | 31);
        } else {
            self.head(ARRAY, 4);
        }
        self.head(if model.delta.negative { NEGATIVE } else { UNSIGNED }, model.delta.argument);
        match &model.key {
            None => self.out.push(NULL),
            Some(key) => self.string(BYTES, key, |_| true),
        }
        let form = self.choose(3);
        if model.headers.is_empty() && form == 0 {
            self.out.push(NULL);
        } else {
            match form {
                2 => self.out.push((MAP << 5) | 31),
                _ => self.head(MAP, model.headers.len() as u64),
            }
            for (name, value) in &model.headers {
                self.text(name);
                match value {
                    Ok(text) => self.text(text),
                    Err(bytes) => self.string(BYTES, bytes, |_| true),
                }
            }
            if form == 2 {
                self.out.push(BREAK);
            }
        }
        self.string(BYTES, &model.payload, |_| true);
        if endless {
            self.out.push(BREAK);
        }
    }
}

fn written(model: &Model, choices: &[u8]) -> Vec<u8> {
    let mut writer = Writer { out: Vec::new(), choices };
    writer.record(model);
    writer.out
}

/// Whatever the bytes: no panic, an end inside them, a fault inside them, and the fast way agrees.
fn examine(data: &[u8], at: usize) -> Option<usize> {
    match read(data, at) {
        Ok((record, end)) => {
            assert!(at < end && end <= data.len());
            let model = model_of(&record);
            if let Some((delta, payload, plain_end)) = read_plain(data, at) {
                let delta = Delta { argument: delta, negative: false };
                assert_eq!((model.delta, &model.payload[..], end), (delta, payload, plain_end));
                assert!(model.key.is_none() && model.headers.is_empty());
            }
            Some(end)
        }
        Err(fault) => {
            assert!(at <= fault.at && fault.at <= data.len(), "{fault}");
            assert!(fault.to_string().starts_with(&format!("byte {}: ", fault.at)));
            assert_eq!(read_plain(data, at), None);
            None
        }
    }
}

proptest! {
    #[test]
    fn every_form_of_a_record_is_read(
        model in models(),
        choices in vec(any::<u8>(), 0..60),
        before in vec(any::<u8>(), 0..5),
        after in vec(any::<u8>(), 0..30)
    ) {
        let record = written(&model, &choices);
        let data = [&before[..], &record, &after].concat();
        let (found, end) = read(&data, before.len()).unwrap();
        prop_assert_eq!(model_of(&found), model);
        prop_assert_eq!(end, before.len() + record.len());
        examine(&data, before.len());
    }

    #[test]
    fn a_record_that_is_cut_is_refused(
        model in models(), choices in vec(any::<u8>(), 0..60), cut in any::<Index>()
    ) {
        let record = written(&model, &choices);
        let cut = &record[..cut.index(record.len())];
        prop_assert!(read(cut, 0).is_err());
        prop_assert_eq!(examine(cut, 0), None);
    }

    #[test]
    fn any_bytes_are_records_or_a_fault(data in vec(any::<u8>(), 0..80)) {
        let mut at = 0;
        while let Some(end) = examine(&data, at) {
            at = end;
        }
    }

    #[test]
    fn damaged_records_are_records_or_a_fault(
        model in models(),
        choices in vec(any::<u8>(), 0..60),
        damage in vec((any::<Index>(), any::<u8>()), 1..4)
    ) {
        let mut record = written(&model, &choices);
        for (at, byte) in damage {
            let at = at.index(record.len());
            record[at] = byte;
        }
        examine(&record, 0);
    }

    #[test]
    fn the_shortest_head_is_read_back(major in 0..6u8, value in any::<u64>(), shift in 0..64u32) {
        let value = value >> shift;
        let mut head = [0; heads::LONGEST];
        let size = heads::write(&mut head, major, value);
        prop_assert_eq!(heads::argument(&head[..size], 0), Ok((Some(value), size)));
        let wanted = match value {
            0..=23 => 1,
            24..=0xff => 2,
            0x100..=0xffff => 3,
            0x1_0000..=0xffff_ffff => 5,
            _ => 9,
        };
        prop_assert_eq!(size, wanted);
    }
}

#[test]
fn plain_records_are_read_the_fast_way_wherever_their_window_is_whole() {
    for (delta, size) in
        [(0, 40), (23, 23), (24, 24), (255, 255), (256, 256), (70_000, 70_000), (u64::MAX, 30)]
    {
        let delta = Delta { argument: delta, negative: false };
        let model = Model { delta, key: None, headers: Vec::new(), payload: vec![7; size] };
        let mut record = written(&model, &[]);
        record.extend([0; 21]);
        let (found, payload, _) = read_plain(&record, 0).expect("a plain record");
        assert_eq!((found, payload.len()), (delta.argument, size));
    }
}

#[test]
fn lengths_that_are_not_there_are_refused_by_their_position() {
    for (head, length) in [("5a7fffffff", 0x7fff_ffff), ("5bffffffffffffffff", u64::MAX)] {
        let head: Vec<u8> =
            (0..head.len()).step_by(2).map(|at| u8::from_str_radix(&head[at..at + 2], 16).unwrap()).collect();
        let data = [&[0x84, 0, NULL, NULL][..], &head, &[0; 100]].concat();
        let fault = Fault { at: 4, what: What::Long(Part::Payload, length, data.len()) };
        assert_eq!(read(&data, 0), Err(fault));
    }
}

#[test]
fn nesting_costs_no_stack() {
    for opening in [0x81, 0x9f, 0xa1, 0xbf, 0xc1, 0x5f, 0x7f, 0x84] {
        let nested = [opening; 100_000];
        assert!(read(&nested, 0).is_err());
        assert!(read(&[&[0x84, 0, NULL][..], &nested].concat(), 0).is_err());
    }
}
