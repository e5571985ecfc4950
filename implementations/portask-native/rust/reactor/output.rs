//! What goes out: frames as Python queues them (`portask.wire.frames.Outgoing`), as buffers for the kernel.

use super::framing::{header, Head, HEADER};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
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
    Buffer(PyBuffer<u8>),
}

/// The output of one turn. Keeps every part alive and as it is.
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
                let buffer = PyBuffer::get(&other.into_inner())?;
                if !buffer.is_c_contiguous() {
                    return Err(PyTypeError::new_err("output must be contiguous"));
                }
                let length = buffer.len_bytes();
                (Piece::Buffer(buffer), length)
            }
        };
        self.pieces.push(piece);
        Ok(length)
    }

    /// What to write.
    pub fn slices(&self, py: Python<'_>) -> Vec<IoSlice<'_>> {
        let slice = |piece| match piece {
            &Piece::Header(number) => IoSlice::new(&self.headers[number]),
            Piece::Bytes(bytes) => IoSlice::new(bytes.as_bytes(py)),
            // SAFETY: the buffer is contiguous and locked for as long as `self` lives, and nobody writes to what is
            // queued for output: `portask.wire.connection.Connection.send` asks that of its callers.
            Piece::Buffer(buffer) => IoSlice::new(unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes())
            }),
        };
        self.pieces.iter().map(slice).collect()
    }
}
