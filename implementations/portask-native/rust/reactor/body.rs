//! Received bytes as Python sees them: an object that exposes them by the buffer protocol and keeps them alive.

use bytes::Bytes;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use std::ffi::{c_int, c_void};

/// A frame's body, read-only. The receive buffer is free again when the last view of it is gone.
#[pyclass(frozen, module = "portask_native")]
pub struct Body {
    bytes: Bytes,
}

impl Body {
    /// A memoryview of `bytes`, without a copy.
    pub fn view(py: Python<'_>, bytes: Bytes) -> PyResult<Bound<'_, PyMemoryView>> {
        let body = Bound::new(py, Body { bytes })?;
        PyMemoryView::from(body.as_any())
    }
}

#[pymethods]
impl Body {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill in"));
        }
        let bytes = &slf.get().bytes;
        // SAFETY: `view` is the caller's to fill in. The bytes stay where they are for as long as `slf` lives, which
        // the view refers to, and nobody writes to them: `Buffers` fills only what nobody holds.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast::<c_void>().cast_mut(),
                bytes.len() as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}
