//! Messages to a record area.
//!
//! A message of the usual types is written from its fields; for any other, `records.row` makes it plain or
//! says what is wrong with it. Small pieces are gathered in a buffer that the thread keeps; large payloads
//! are copied once, into the result.

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString};
use std::cell::Cell;
use std::ptr::null_mut;

use super::heads::{self, BYTES, MAP, NEGATIVE, TEXT, UNSIGNED};
use super::messages::{Messages, Read};
use crate::fresh::Fresh;

/// Payloads of this many bytes are not gathered.
const LARGE: usize = 4096;
/// Bytes that a thread's buffer may keep between calls.
const KEPT: usize = 1 << 20;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// See `portask.contracts.Codec.encode`.
#[pyfunction]
pub fn encode<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    base_timestamp: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let list = match messages.cast_exact::<PyList>() {
        Ok(list) => list.clone(),
        // SAFETY: a new list, or null with an exception set.
        Err(_) => unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PySequence_List(messages.as_ptr()))?.cast_into_unchecked()
        },
    };
    let known = Messages::get(py)?;
    let base = small(base_timestamp.as_borrowed());
    let mut out = Area { small: BUFFER.take(), large: Vec::new() };
    out.small.clear();
    let mut index = 0;
    while index < list.len() {
        // SAFETY: the index is below the length; no Python code runs while the message is only borrowed.
        let message =
            unsafe { Borrowed::from_ptr(py, ffi::PyList_GetItem(list.as_ptr(), index as ffi::Py_ssize_t)) };
        let written = match (base, known.read(message)) {
            (Some(base), Some(read)) => write_usual(&mut out, &read, base),
            _ => false,
        };
        if !written {
            write_unusual(&mut out, known, &message.to_owned(), index, base_timestamp)?;
        }
        index += 1;
    }
    let area = out.finish(py);
    if out.small.capacity() <= KEPT {
        BUFFER.set(out.small);
    }
    area
}

/// The record area in the making: small pieces in one buffer, and large payloads with their place in it.
struct Area<'py> {
    small: Vec<u8>,
    large: Vec<(usize, Bound<'py, PyBytes>)>,
}

impl<'py> Area<'py> {
    #[inline(always)]
    fn head(&mut self, major: u8, value: u64) {
        let mut head = [0; heads::LONGEST];
        let size = heads::write(&mut head, major, value);
        self.small.extend_from_slice(&head[..size]);
    }

    #[inline(always)]
    fn string(&mut self, major: u8, data: &[u8]) {
        self.head(major, data.len() as u64);
        self.small.extend_from_slice(data);
    }

    #[inline(always)]
    fn payload(&mut self, payload: Borrowed<'_, 'py, PyBytes>, data: &[u8]) {
        self.head(BYTES, data.len() as u64);
        if data.len() < LARGE {
            self.small.extend_from_slice(data);
        } else {
            self.large.push((self.small.len(), payload.to_owned()));
        }
    }

    fn finish(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if self.large.is_empty() {
            return Ok(PyBytes::new(py, &self.small));
        }
        let size = self.small.len() + self.large.iter().map(|(_, data)| data.as_bytes().len()).sum::<usize>();
        let mut area = Fresh::of(py, size)?;
        let mut from = 0;
        for (at, payload) in &self.large {
            area.push(&self.small[from..*at]);
            area.push(payload.as_bytes());
            from = *at;
        }
        area.push(&self.small[from..]);
        Ok(area.whole())
    }
}

/// The integer, if 64 bits hold it and it is exactly an int.
#[inline(always)]
fn small(value: Borrowed<'_, '_, PyAny>) -> Option<i64> {
    if !value.is_exact_instance_of::<PyInt>() {
        return None;
    }
    let mut overflow = 0;
    // SAFETY: an int; an overflow is told, not raised.
    let small = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow) };
    (overflow == 0).then_some(small)
}

/// Writes the record of a message of the usual types. False, and nothing written, for another one.
#[inline(always)]
fn write_usual<'py>(out: &mut Area<'py>, message: &Read<'_, 'py>, base: i64) -> bool {
    let Ok(payload) = message.payload.cast_exact::<PyBytes>() else { return false };
    let Some(timestamp) = small(message.timestamp) else { return false };
    let delta = if timestamp == 0 { 0 } else { i128::from(timestamp) - i128::from(base) };
    let key = match message.key.cast_exact::<PyBytes>() {
        Ok(key) => Some(key),
        Err(_) if message.key.is_none() => None,
        Err(_) => return false,
    };
    let start = out.small.len();
    out.small.reserve(32);
    out.small.push(heads::ARRAY_OF_4);
    write_delta(out, delta);
    match key {
        None => out.small.push(heads::NULL),
        Some(key) => out.string(BYTES, key.as_bytes()),
    }
    if message.headers.is_none() {
        out.small.push(heads::NULL);
    } else if !write_headers(out, message.headers) {
        out.small.truncate(start);
        return false;
    }
    out.payload(payload, payload.as_bytes());
    true
}

/// A delta that fits in a head, as every difference of two 64-bit numbers does.
#[inline(always)]
fn write_delta(out: &mut Area<'_>, delta: i128) {
    if delta >= 0 {
        out.head(UNSIGNED, delta as u64);
    } else {
        out.head(NEGATIVE, (-1 - delta) as u64);
    }
}

/// Writes headers that are a dict of str to str or bytes, exactly. False, maybe with something written, for
/// others.
fn write_headers(out: &mut Area<'_>, headers: Borrowed<'_, '_, PyAny>) -> bool {
    let Ok(headers) = headers.cast_exact::<PyDict>() else { return false };
    if headers.is_empty() {
        out.small.push(heads::NULL);
        return true;
    }
    out.head(MAP, headers.len() as u64);
    let (mut at, mut name, mut value) = (0, null_mut(), null_mut());
    // SAFETY: a dict that nothing changes meanwhile, because no Python code runs here.
    while unsafe { ffi::PyDict_Next(headers.as_ptr(), &mut at, &mut name, &mut value) } != 0 {
        // SAFETY: both are borrowed from the dict.
        let name = unsafe { Borrowed::from_ptr(headers.py(), name) };
        // SAFETY: likewise.
        let value = unsafe { Borrowed::from_ptr(headers.py(), value) };
        if !write_text(out, name) {
            return false;
        }
        if let Ok(value) = value.cast_exact::<PyBytes>() {
            out.string(BYTES, value.as_bytes());
        } else if !write_text(out, value) {
            return false;
        }
    }
    true
}

/// False for what is no str, and for one with lone surrogates.
fn write_text(out: &mut Area<'_>, text: Borrowed<'_, '_, PyAny>) -> bool {
    let Ok(text) = text.cast_exact::<PyString>() else { return false };
    let Ok(text) = text.to_str() else { return false };
    out.string(TEXT, text.as_bytes());
    true
}

#[cold]
#[inline(never)]
fn write_unusual<'py>(
    out: &mut Area<'py>,
    known: &Messages,
    message: &Bound<'py, PyAny>,
    index: usize,
    base: &Bound<'py, PyAny>,
) -> PyResult<()> {
    let (delta, key, headers, payload) = known.row(message, index, base)?;
    out.small.push(heads::ARRAY_OF_4);
    write_delta(out, delta.extract()?);
    if key.is_none() {
        out.small.push(heads::NULL);
    } else {
        out.string(BYTES, key.cast::<PyBytes>()?.as_bytes());
    }
    if headers.is_none() {
        out.small.push(heads::NULL);
    } else if !write_headers(out, headers.as_borrowed()) {
        return Err(PyMemoryError::new_err("a header's text could not be converted"));
    }
    let payload = payload.cast::<PyBytes>()?;
    out.payload(payload.as_borrowed(), payload.as_bytes());
    Ok(())
}
