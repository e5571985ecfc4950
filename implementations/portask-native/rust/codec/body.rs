//! The bytes of a record area, as Python hands them over.

use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::ops::Range;

/// Bytes that nobody changes while they are read: those of a `bytes`, given as such or seen through a
/// memoryview. Of anything else a copy is made: Python code may run in between (a collection calls
/// finalizers), and the caller may use a receive buffer again.
pub struct Body {
    bytes: Py<PyBytes>,
    range: Range<usize>,
}

impl Body {
    /// The bytes of `object`, to be read before the call returns.
    ///
    /// TypeError or BufferError: no contiguous bytes.
    #[inline]
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Body> {
        match object.cast_exact::<PyBytes>() {
            Ok(bytes) => Ok(Body::all(bytes)),
            Err(_) => Body::seen(object, usize::MAX),
        }
    }

    /// The bytes of `object`, to be kept: a small part of a large `bytes` is copied rather than keep all of
    /// that alive.
    pub fn kept(object: &Bound<'_, PyAny>) -> PyResult<Body> {
        match object.cast_exact::<PyBytes>() {
            Ok(bytes) => Ok(Body::all(bytes)),
            Err(_) => Body::seen(object, 2),
        }
    }

    fn all(bytes: &Bound<'_, PyBytes>) -> Body {
        Body { bytes: bytes.clone().unbind(), range: 0..bytes.as_bytes().len() }
    }

    /// Through the buffer protocol; not copied if it is at least one part in `share` of an immutable whole.
    fn seen(object: &Bound<'_, PyAny>, share: usize) -> PyResult<Body> {
        let py = object.py();
        let buffer = PyBuffer::<u8>::get(object)?;
        let size = buffer.len_bytes();
        if object.cast_exact::<PyMemoryView>().is_ok() && buffer.is_c_contiguous() && size > 0 {
            if let Ok(bytes) = object.getattr(intern!(py, "obj"))?.cast_exact::<PyBytes>() {
                let whole = bytes.as_bytes();
                let start = (buffer.buf_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
                let held = start <= whole.len() && size <= whole.len() - start;
                if held && whole.len() / share <= size {
                    return Ok(Body { bytes: bytes.clone().unbind(), range: start..start + size });
                }
            }
        }
        // SAFETY: it copies what the buffer protocol shows; a new ``bytes``, or null with an exception set.
        let copy = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromObject(object.as_ptr()))? };
        Ok(Body::all(copy.cast::<PyBytes>()?))
    }

    /// The bytes.
    #[inline]
    pub fn data<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        &self.bytes.as_bytes(py)[self.range.clone()]
    }

    /// A memoryview of all of them.
    pub fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let whole = PyMemoryView::from(self.bytes.bind(py).as_any())?;
        let slice = pyo3::types::PySlice::new(py, self.range.start as isize, self.range.end as isize, 1);
        whole.get_item(slice)
    }
}
