//! What goes out: frames as Python queues them (`portask.wire.frames.Outgoing`), as buffers for the kernel.

use super::framing::{header, Head, HEADER};
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use std::io::IoSlice;

/// One buffer.
pub enum Piece {
    /// A header, by its number.
    Header(usize),
    /// Part of a body.
    Bytes(Py<PyBytes>),
    /// Part of a body, locked.
    Locked(Locked),
}

/// The bytes of a Python object, which stay where they are until this is dropped. To be dropped with the interpreter
/// held. Does without what `PyBuffer` looks at: shape and format.
pub struct Locked(ffi::Py_buffer);

// SAFETY: what it points to is held by the buffer's owner, which no thread owns; whoever drops it holds the interpreter.
unsafe impl Send for Locked {}

impl Locked {
    fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = ffi::Py_buffer::new();
        // SAFETY: a live object and a view to fill in; without flags it is contiguous bytes.
        let done = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view, ffi::PyBUF_SIMPLE) };
        if done == 0 {
            Ok(Locked(view))
        } else {
            Err(PyErr::fetch(object.py()))
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[]; // where an empty view points is nowhere said
        }
        // SAFETY: contiguous, and locked for as long as `self` lives; nobody writes to what is queued for output:
        // `portask.wire.connection.Connection.send` asks that of its callers.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: filled in by `new`, and the interpreter is held, as the type's text asks.
        unsafe { ffi::PyBuffer_Release(&mut self.0) }
    }
}

/// The output of one turn. Keeps every part alive and as it is. To be dropped or cleared with the interpreter held.
#[derive(Default)]
pub struct Output {
    headers: Vec<[u8; HEADER]>,
    /// In order.
    pub pieces: Vec<Piece>,
}

type Fields<'py> = (u8, u16, u32, u32, u32, Bound<'py, PyAny>);

impl Output {
    /// Adds a frame.
    pub fn add(&mut self, frame: &Bound<'_, PyAny>) -> PyResult<()> {
        let (opcode, flags, length, correlation, channel, parts): Fields<'_> = frame.extract()?;
        self.pieces.push(Piece::Header(self.headers.len()));
        self.headers.push(header(&Head { opcode, flags, length, correlation, channel }));
        let mut total = 0;
        if let Ok(parts) = parts.cast::<PyTuple>() {
            for part in parts.iter() {
                total += self.part(part)?;
            }
        } else {
            for part in parts.cast::<PyList>()?.iter() {
                total += self.part(part)?;
            }
        }
        if total == length as usize {
            Ok(())
        } else {
            let text = format!("a frame of {length} bytes has parts of {total}");
            Err(PyValueError::new_err(text))
        }
    }

    fn part(&mut self, part: Bound<'_, PyAny>) -> PyResult<usize> {
        let (piece, length) = match part.cast_into_exact::<PyBytes>() {
            Ok(bytes) => {
                let length = bytes.as_bytes().len();
                (Piece::Bytes(bytes.unbind()), length)
            }
            Err(other) => {
                let locked = Locked::new(&other.into_inner())?;
                let length = locked.bytes().len();
                (Piece::Locked(locked), length)
            }
        };
        self.pieces.push(piece);
        Ok(length)
    }

    /// Everything was written.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.pieces.clear();
    }

    /// What to write.
    pub fn slices(&self, py: Python<'_>) -> Vec<IoSlice<'_>> {
        let slice = |piece| match piece {
            &Piece::Header(number) => IoSlice::new(&self.headers[number]),
            Piece::Bytes(bytes) => IoSlice::new(bytes.as_bytes(py)),
            Piece::Locked(locked) => IoSlice::new(locked.bytes()),
        };
        self.pieces.iter().map(slice).collect()
    }
}
