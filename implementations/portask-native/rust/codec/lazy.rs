//! A record area as a sequence of messages that are made when they are looked at.
//!
//! One pass checks every record to its last byte and notes where it ends: whatever is wrong with the bytes is
//! said then, and looking at a message later cannot fail. It pays when few of the messages are looked at, or
//! never all at once; whoever looks at each of them pays for the pass as well.
//!
//! Payloads are `bytes`, copied when they are looked at, or on request memoryviews of the area. A view saves
//! the copy and costs an object of 200 bytes: it pays from about 8 KiB on, and keeps the whole area alive.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMemoryView, PySlice};
use std::ops::Range;
use std::sync::Arc;

use super::body::Body;
use super::decode::{any_message, check_end, checked_count, plain_message, record_at, string, Base};
use super::messages::Messages;
use super::records::{self, Delta, Str};
use crate::ahead;

/// What all views of one record area share.
struct Area {
    body: Body,
    /// Where each record ends.
    ends: Vec<usize>,
    base: Base,
    /// The area as a memoryview, if payloads are to be slices of it.
    view: Option<Py<PyAny>>,
}

impl Area {
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

/// An immutable sequence of messages; a slice of consecutive ones is a view of the same bytes.
#[pyclass(frozen, sequence, module = "portask_native._native")]
pub struct LazyMessages {
    area: Arc<Area>,
    range: Range<usize>,
}

/// See `portask.contracts.Codec.decode`; checks and indexes, about 5 ns a record.
#[pyfunction]
pub fn decode_lazily(
    py: Python<'_>,
    body: &Bound<'_, PyAny>,
    count: &Bound<'_, PyAny>,
    base_timestamp: &Bound<'_, PyAny>,
    views: bool,
) -> PyResult<LazyMessages> {
    let known = Messages::get(py)?;
    let body = Body::kept(body)?;
    let data = body.data(py);
    let count = checked_count(known, data, count)?;
    let base = Base::new(base_timestamp)?;
    let mut ends = Vec::with_capacity(count);
    let mut at = 0;
    for index in 0..count {
        let start = at;
        at = match records::read_plain(data, at) {
            Some((_, _, end)) => end,
            None => record_at(data, at, index, count).map_err(|fault| known.fault(py, fault))?.1,
        };
        ends.push(at);
        expect(data, start, at);
    }
    check_end(data, at, count).map_err(|fault| known.fault(py, fault))?;
    let view = if views { Some(body.view(py)?.unbind()) } else { None };
    let area = Area { body, ends, base, view };
    Ok(LazyMessages { area: Arc::new(area), range: 0..count })
}

/// Where a record begins is known when the one before it was looked at, so nothing is fetched in time. Records of a batch
/// are of about one size: what comes some records on is asked for where it would be if they were of exactly this size.
#[inline(always)]
fn expect(data: &[u8], start: usize, end: usize) {
    /// Records: that far the guess holds, and a line from memory takes about as long.
    const DISTANCE: usize = 4;
    let guess = data.as_ptr().wrapping_add(end + DISTANCE * (end - start));
    ahead::read(guess.wrapping_sub(32));
    ahead::read(guess.wrapping_add(32));
}

impl LazyMessages {
    /// The message at a place of the area.
    fn message<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyAny>> {
        let known = Messages::get(py)?;
        let area = &*self.area;
        let data = area.body.data(py);
        let start = area.start(index);
        if let (None, Some((argument, payload, _))) = (&area.view, records::read_plain(data, start)) {
            let timestamp = area.base.timestamp(py, Delta { argument, negative: false })?;
            return plain_message(known, payload, &timestamp);
        }
        let (record, _) = records::read(data, start).map_err(|fault| known.fault(py, fault))?;
        let timestamp = area.base.timestamp(py, record.delta)?;
        let payload = match (&area.view, record.payload) {
            (Some(view), Str::Whole(payload)) => {
                let start = payload.as_ptr() as usize - data.as_ptr() as usize;
                let slice = PySlice::new(py, start as isize, (start + payload.len()) as isize, 1);
                view.bind(py).get_item(slice)?
            }
            (Some(_), chunked) => PyMemoryView::from(&string(py, chunked)?)?.into_any(),
            (None, payload) => string(py, payload)?,
        };
        any_message(known, &record, payload, &timestamp)
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for index in self.range.clone() {
            list.append(self.message(py, index)?)?;
        }
        Ok(list)
    }
}

#[pymethods]
impl LazyMessages {
    fn __len__(&self) -> usize {
        self.range.len()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let length = self.range.len() as isize;
        if let Ok(slice) = index.cast::<PySlice>() {
            let at = slice.indices(length)?;
            if at.step != 1 {
                return self.list(py)?.into_any().get_item(slice);
            }
            let start = self.range.start + at.start as usize;
            let range = start..start + at.slicelength;
            return Ok(LazyMessages { area: self.area.clone(), range }.into_pyobject(py)?.into_any());
        }
        let index: isize = index.extract()?;
        let index = if index < 0 { index + length } else { index };
        if !(0..length).contains(&index) {
            return Err(PyIndexError::new_err("message index out of range"));
        }
        self.message(py, self.range.start + index as usize)
    }

    fn __iter__(slf: PyRef<'_, Self>) -> LazyIterator {
        let next = slf.range.start;
        LazyIterator { messages: slf.into(), next }
    }

    fn __reversed__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.list(py)?.call_method0("__reversed__")
    }

    fn __contains__<'py>(&self, py: Python<'py>, message: &Bound<'py, PyAny>) -> PyResult<bool> {
        self.list(py)?.contains(message)
    }

    /// The first place of a message.
    #[pyo3(signature = (*arguments))]
    fn index<'py>(&self, py: Python<'py>, arguments: &Bound<'py, pyo3::types::PyTuple>) -> PyResult<usize> {
        self.list(py)?.call_method1("index", arguments.clone())?.extract()
    }

    /// How often a message is in it.
    fn count<'py>(&self, py: Python<'py>, message: &Bound<'py, PyAny>) -> PyResult<usize> {
        self.list(py)?.call_method1("count", (message,))?.extract()
    }

    fn __eq__<'py>(&self, py: Python<'py>, other: &Bound<'py, PyAny>) -> PyResult<Py<PyAny>> {
        let other = match other.cast::<LazyMessages>() {
            Ok(lazy) => lazy.get().list(py)?.into_any(),
            Err(_) if other.is_instance_of::<PyList>() => other.clone(),
            Err(_) => return Ok(py.NotImplemented()),
        };
        Ok(self.list(py)?.eq(other)?.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __repr__(&self) -> String {
        format!("<{} messages, decoded when looked at>", self.range.len())
    }
}

/// Goes through `LazyMessages` once.
#[pyclass(module = "portask_native._native")]
pub struct LazyIterator {
    messages: Py<LazyMessages>,
    next: usize,
}

#[pymethods]
impl LazyIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __length_hint__(&self) -> usize {
        self.messages.get().range.end.saturating_sub(self.next)
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let messages = self.messages.get();
        if self.next >= messages.range.end {
            return Ok(None);
        }
        let message = messages.message(py, self.next)?;
        self.next += 1;
        Ok(Some(message))
    }
}
