//! `portask.wire.frames.Frame` and `portask.messages.RecordBatch`, made of what was read, and the bytes they
//! are read from.

use crate::calls::{call, int};
use crate::reactor::batches::Batch;
use crate::reactor::framing::Head;
use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The two classes, looked up once.
pub struct Classes {
    frame: Py<PyAny>,
    batch: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

impl Classes {
    /// The one instance; the first call imports portask.
    #[inline]
    pub fn get(py: Python<'_>) -> PyResult<&'static Classes> {
        CLASSES.get_or_try_init(py, || {
            Ok(Classes {
                frame: py.import("portask.wire.frames")?.getattr("Frame")?.unbind(),
                batch: py.import("portask.messages")?.getattr("RecordBatch")?.unbind(),
            })
        })
    }

    /// A frame around `body`, and the batch that the body is if that was checked.
    pub fn frame<'py>(
        &self,
        head: &Head,
        body: &Bound<'py, PyAny>,
        batch: Option<&Batch>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = body.py();
        let class = self.frame.bind(py);
        let opcode = int(py, head.opcode.into())?;
        let flags = int(py, head.flags.into())?;
        let correlation = int(py, head.correlation.into())?;
        let channel = int(py, head.channel.into())?;
        let [a, b, c, d] = [&opcode, &flags, &correlation, &channel].map(Bound::as_ptr);
        let Some(batch) = batch else {
            // SAFETY: all are held here.
            return unsafe { call(class, [a, b, c, d, body.as_ptr()]) };
        };
        let made = self.batch(body, batch)?;
        // SAFETY: likewise.
        unsafe { call(class, [a, b, c, d, body.as_ptr(), made.as_ptr()]) }
    }

    /// A record batch whose bytes are `data`.
    pub fn batch<'py>(&self, data: &Bound<'py, PyAny>, batch: &Batch) -> PyResult<Bound<'py, PyAny>> {
        let py = data.py();
        let values: [u64; 11] = [
            batch.count.into(),
            batch.codec.into(),
            batch.attributes.into(),
            batch.raw_length.into(),
            batch.ttl.into(),
            batch.base_timestamp,
            batch.producer,
            batch.epoch.into(),
            batch.sequence.into(),
            batch.base_offset,
            batch.append_time,
        ];
        let mut held = [const { None }; 11];
        let mut arguments = [data.as_ptr(); 12];
        for (index, value) in values.into_iter().enumerate() {
            let value = int(py, value)?;
            arguments[index + 1] = value.as_ptr();
            held[index] = Some(value);
        }
        // SAFETY: `held` and the caller hold all of them.
        unsafe { call(self.batch.bind(py), arguments) }
    }
}

/// Bytes of a Python object that may be written to between two looks: Python code runs whenever an object is
/// made.
pub struct Seen(PyBuffer<u8>);

impl Seen {
    /// TypeError or BufferError: no contiguous bytes.
    #[inline]
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Seen> {
        let buffer = PyBuffer::<u8>::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(pyo3::exceptions::PyBufferError::new_err("the bytes do not lie in one piece"));
        }
        Ok(Seen(buffer))
    }

    /// How many.
    #[inline]
    pub fn size(&self) -> usize {
        self.0.len_bytes()
    }

    /// What `look` makes of some of them; no Python code may run in it.
    #[inline]
    pub fn look<T>(&self, start: usize, end: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        assert!(start <= end && end <= self.size());
        if start == end {
            return look(&[]);
        }
        // SAFETY: inside the buffer, which is locked. Nobody writes meanwhile: the interpreter is held, and
        // `look` runs no Python code.
        look(unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>().add(start), end - start) })
    }
}

/// `view[start:end]`.
#[inline]
pub fn slice<'py>(view: &Bound<'py, PyAny>, start: usize, end: usize) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a live object; the result is a new reference, or null with an exception set.
    unsafe {
        let part = ffi::PySequence_GetSlice(view.as_ptr(), start as ffi::Py_ssize_t, end as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(view.py(), part)
    }
}
