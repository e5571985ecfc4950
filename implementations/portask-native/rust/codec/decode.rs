//! A record area to messages.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyString};

use super::body::Body;
use super::fault::{Fault, What};
use super::messages::Messages;
use super::records::{self, Delta, Headers, Record, Str, Value};

/// See `portask.contracts.Codec.decode`.
#[pyfunction]
pub fn decode<'py>(
    py: Python<'py>,
    body: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
    base_timestamp: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    let known = Messages::get(py)?;
    let body = Body::of(body)?;
    let data = body.data(py);
    let count = checked_count(known, data, count)?;
    let mut maker = Maker::new(known, base_timestamp)?;
    // SAFETY: a new list whose places are empty until they are set; nobody else knows it yet.
    let list: Bound<'_, PyList> = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyList_New(count as ffi::Py_ssize_t))?.cast_into_unchecked()
    };
    let mut at = 0;
    for index in 0..count {
        let (message, end) = match records::read_plain(data, at) {
            Some((delta, payload, end)) => (maker.plain(delta, payload)?, end),
            None => {
                let (record, end) =
                    record_at(data, at, index, count).map_err(|fault| known.fault(py, fault))?;
                (maker.message(&record)?, end)
            }
        };
        // SAFETY: the index is below the length; the list takes the reference.
        unsafe { ffi::PyList_SetItem(list.as_ptr(), index as ffi::Py_ssize_t, message.into_ptr()) };
        at = end;
    }
    check_end(data, at, count).map_err(|fault| known.fault(py, fault))?;
    Ok(list)
}

/// The number of records, if `data` can hold them: before anything is allocated for them.
pub fn checked_count(known: &Messages, data: &[u8], count: &Bound<'_, PyAny>) -> PyResult<usize> {
    let possible = data.len() / records::SMALLEST;
    match count.extract::<usize>() {
        Ok(count) if count <= possible => Ok(count),
        Err(error) if !count.is_instance_of::<PyInt>() => Err(error),
        _ => Err(known.error(
            count.py(),
            format!(
                "byte {}: the record area ends, and is too short for the {count} records announced",
                data.len()
            ),
        )),
    }
}

/// The record at `at` and its end.
pub fn record_at(data: &[u8], at: usize, index: usize, count: usize) -> Result<(Record<'_>, usize), Fault> {
    if at == data.len() {
        return Err(Fault { at, what: What::Missing(index, count) });
    }
    records::read(data, at)
}

/// Nothing may follow the last record.
#[inline]
pub fn check_end(data: &[u8], at: usize, count: usize) -> Result<(), Fault> {
    if at < data.len() {
        return Err(Fault { at, what: What::Follows(data.len() - at, count) });
    }
    Ok(())
}

/// Makes messages of records.
pub struct Maker<'a, 'py> {
    known: &'a Messages,
    base: Bound<'py, PyAny>,
    small_base: Option<i64>,
    /// The timestamp made last, and its delta: records of a batch often share it.
    last: Bound<'py, PyAny>,
    last_delta: Delta,
}

impl<'a, 'py> Maker<'a, 'py> {
    /// For records of a batch with this base.
    pub fn new(known: &'a Messages, base: &Bound<'py, PyAny>) -> PyResult<Maker<'a, 'py>> {
        let small_base = match base.extract::<i64>() {
            Ok(small) => Some(small),
            Err(_) if base.is_instance_of::<PyInt>() => None,
            Err(error) => return Err(error),
        };
        // a delta of 0 is the base itself
        let last_delta = Delta { argument: 0, negative: false };
        let last = if base.is_exact_instance_of::<PyInt>() {
            base.clone()
        } else {
            base.py().get_type::<PyInt>().call1((base,))?
        };
        Ok(Maker { known, base: last.clone(), small_base, last, last_delta })
    }

    /// The message of a plain record.
    #[inline(always)]
    pub fn plain(&mut self, delta: u64, payload: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let payload = bytes(self.base.py(), payload)?;
        let known = self.known;
        let timestamp = self.timestamp(Delta { argument: delta, negative: false })?;
        known.make(&payload, None, None, timestamp)
    }

    /// The message of any record.
    pub fn message(&mut self, record: &Record<'_>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.base.py();
        let payload = string(py, record.payload)?;
        let key = record.key.map(|key| string(py, key)).transpose()?;
        let headers = record.headers.map(|headers| dict(py, headers)).transpose()?;
        let known = self.known;
        known.make(&payload, key.as_ref(), headers.as_ref(), self.timestamp(record.delta)?)
    }

    #[inline(always)]
    fn timestamp(&mut self, delta: Delta) -> PyResult<&Bound<'py, PyAny>> {
        if self.last_delta != delta {
            self.last = self.new_timestamp(delta)?;
            self.last_delta = delta;
        }
        Ok(&self.last)
    }

    #[inline(always)]
    fn new_timestamp(&self, delta: Delta) -> PyResult<Bound<'py, PyAny>> {
        let py = self.base.py();
        let small = self.small_base.and_then(|base| i64::try_from(i128::from(base) + delta.value()).ok());
        match small {
            // SAFETY: a new reference, or null with an exception set.
            Some(small) => unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(small)) },
            None => self.base.call_method1(intern!(py, "__add__"), (delta.value(),)),
        }
    }
}

#[inline(always)]
fn bytes<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as many bytes as there are; a new reference, or null with an exception set.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(data.as_ptr().cast(), data.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, made)
    }
}

fn string<'py>(py: Python<'py>, string: Str<'_>) -> PyResult<Bound<'py, PyAny>> {
    match string {
        Str::Whole(data) => bytes(py, data),
        Str::Chunked(..) => bytes(py, &string.to_vec()),
    }
}

fn text<'py>(py: Python<'py>, string: Str<'_>) -> PyResult<Bound<'py, PyAny>> {
    let made = match string {
        Str::Whole(piece) => PyString::from_bytes(py, piece)?,
        Str::Chunked(..) => PyString::from_bytes(py, &string.to_vec())?,
    };
    Ok(made.into_any())
}

fn dict<'py>(py: Python<'py>, headers: Headers<'_>) -> PyResult<Bound<'py, PyAny>> {
    let made = PyDict::new(py);
    for (name, value) in headers {
        let value = match value {
            Value::Text(value) => text(py, value)?,
            Value::Bytes(value) => string(py, value)?,
        };
        made.set_item(text(py, name)?, value)?;
    }
    Ok(made.into_any())
}
