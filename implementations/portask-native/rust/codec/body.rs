//! The bytes of a record area, as Python hands them over.

use pyo3::buffer::PyBuffer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

/// Bytes that nobody changes while they are read: those of a `bytes`, directly or seen through a memoryview,
/// or a copy.
pub enum Body {
    /// All of a `bytes`.
    Whole(Py<PyBytes>),
    /// A part of a `bytes`.
    Part(PyBuffer<u8>),
    /// Of something that may change, as a bytearray does: Python code can run in between (a collection may
    /// call finalizers), and the receive buffer be used again.
    Copy(Vec<u8>),
}

impl Body {
    /// Takes `object`; copies it unless it is immutable.
    ///
    /// TypeError or BufferError: no contiguous bytes.
    #[inline]
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Body> {
        let py = object.py();
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            return Ok(Body::Whole(bytes.clone().unbind()));
        }
        let buffer = PyBuffer::<u8>::get(object)?;
        let immutable = object.cast_exact::<PyMemoryView>().is_ok()
            && buffer.is_c_contiguous()
            && object.getattr(intern!(py, "obj"))?.is_exact_instance_of::<PyBytes>();
        Ok(if immutable { Body::Part(buffer) } else { Body::Copy(buffer.to_vec(py)?) })
    }

    /// The bytes.
    #[inline]
    pub fn data<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Body::Whole(bytes) => bytes.as_bytes(py),
            Body::Part(buffer) => match buffer.len_bytes() {
                0 => &[],
                // SAFETY: a contiguous view of a `bytes`, which never changes, held by the buffer.
                size => unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), size) },
            },
            Body::Copy(copy) => copy,
        }
    }
}
