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
    let base = Base::new(base_timestamp)?;
    let mut last = Last { delta: Delta::ZERO, timestamp: base.timestamp(py, Delta::ZERO)? };
    // SAFETY: a new list whose places are empty until they are set; nobody else knows it yet.
    let list: Bound<'_, PyList> = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyList_New(count as ffi::Py_ssize_t))?.cast_into_unchecked()
    };
    let mut at = 0;
    for index in 0..count {
        let message;
        if let Some((argument, payload, end)) = records::read_plain(data, at) {
            last.move_to(py, &base, Delta { argument, negative: false })?;
            message = plain_message(known, payload, &last.timestamp)?;
            at = end;
        } else {
            let (record, end) = record_at(data, at, index, count).map_err(|fault| known.fault(py, fault))?;
            last.move_to(py, &base, record.delta)?;
            message = any_message(known, &record, string(py, record.payload)?, &last.timestamp)?;
            at = end;
        }
        // SAFETY: the index is below the length; the list takes the reference.
        unsafe { ffi::PyList_SetItem(list.as_ptr(), index as ffi::Py_ssize_t, message.into_ptr()) };
    }
    check_end(data, at, count).map_err(|fault| known.fault(py, fault))?;
    Ok(list)
}

/// The timestamp made last: records of a batch often share it.
struct Last<'py> {
    delta: Delta,
    timestamp: Bound<'py, PyAny>,
}

impl<'py> Last<'py> {
    #[inline(always)]
    fn move_to(&mut self, py: Python<'py>, base: &Base, delta: Delta) -> PyResult<()> {
        if delta != self.delta {
            (self.delta, self.timestamp) = (delta, base.timestamp(py, delta)?);
        }
        Ok(())
    }
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

/// The base timestamp of a batch, µs.
pub struct Base {
    exact: Py<PyAny>,
    small: Option<i64>,
}

impl Base {
    /// TypeError: no int.
    pub fn new(base: &Bound<'_, PyAny>) -> PyResult<Base> {
        let small = match base.extract::<i64>() {
            Ok(small) => Some(small),
            Err(_) if base.is_instance_of::<PyInt>() => None,
            Err(error) => return Err(error),
        };
        let exact = if base.is_exact_instance_of::<PyInt>() {
            base.clone()
        } else {
            base.py().get_type::<PyInt>().call1((base,))?
        };
        Ok(Base { exact: exact.unbind(), small })
    }

    /// The timestamp of a record.
    #[inline(always)]
    pub fn timestamp<'py>(&self, py: Python<'py>, delta: Delta) -> PyResult<Bound<'py, PyAny>> {
        let small = self.small.and_then(|base| i64::try_from(i128::from(base) + delta.value()).ok());
        match small {
            // SAFETY: a new reference, or null with an exception set.
            Some(small) => unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(small)) },
            None => self.exact.bind(py).call_method1(intern!(py, "__add__"), (delta.value(),)),
        }
    }
}

/// The message of a plain record.
#[inline(always)]
pub fn plain_message<'py>(
    known: &Messages,
    payload: &[u8],
    timestamp: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    known.make(&bytes(timestamp.py(), payload)?, None, None, timestamp)
}

/// The message of any record.
pub fn any_message<'py>(
    known: &Messages,
    record: &Record<'_>,
    payload: Bound<'py, PyAny>,
    timestamp: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = timestamp.py();
    let key = record.key.map(|key| string(py, key)).transpose()?;
    let headers = record.headers.map(|headers| dict(py, headers)).transpose()?;
    known.make(&payload, key.as_ref(), headers.as_ref(), timestamp)
}

#[inline(always)]
fn bytes<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as many bytes as there are; a new reference, or null with an exception set.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(data.as_ptr().cast(), data.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, made)
    }
}

/// A `bytes` of a string.
pub fn string<'py>(py: Python<'py>, string: Str<'_>) -> PyResult<Bound<'py, PyAny>> {
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
