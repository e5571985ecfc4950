//! Frames and batches as Python objects: `portask.wire.frames.Frame` and `portask.messages.RecordBatch`.

use super::body::Body;
use super::framing::{Cut, Stream, HEADER};
use super::sockets::Taken;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// Makes them. Holds the two classes.
pub struct Maker {
    frame: Py<PyAny>,
    batch: Py<PyAny>,
}

impl Maker {
    /// Looks the classes up.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Maker {
            frame: py.import("portask.wire.frames")?.getattr("Frame")?.unbind(),
            batch: py.import("portask.messages")?.getattr("RecordBatch")?.unbind(),
        })
    }

    /// The frames in order.
    pub fn frames<'py>(&self, py: Python<'py>, taken: Vec<Taken>) -> PyResult<Bound<'py, PyList>> {
        let mut made = Vec::with_capacity(taken.len());
        for frame in taken {
            made.push(self.frame(py, frame)?);
        }
        PyList::new(py, made)
    }

    fn frame<'py>(&self, py: Python<'py>, taken: Taken) -> PyResult<Bound<'py, PyAny>> {
        let Taken { head, body, batch } = taken;
        let view = Body::view(py, body)?;
        let class = self.frame.bind(py);
        let (opcode, flags) = (head.opcode, head.flags);
        let (correlation, channel) = (head.correlation, head.channel);
        let Some(batch) = batch else {
            return class.call1((opcode, flags, correlation, channel, view));
        };
        let made = self.batch.bind(py).call1((
            &view,
            batch.count,
            batch.codec,
            batch.attributes,
            batch.raw_length,
            batch.ttl,
            batch.base_timestamp,
            batch.producer,
            batch.epoch,
            batch.sequence,
            batch.base_offset,
            batch.append_time,
        ))?;
        class.call1((opcode, flags, correlation, channel, view, made))
    }
}

/// The 24 bytes that were refused, empty for none.
pub fn refused<'py>(py: Python<'py>, header: Option<[u8; HEADER]>) -> Bound<'py, PyBytes> {
    PyBytes::new(py, header.as_ref().map_or(&[], |bytes| &bytes[..]))
}

/// The reactor's parser by itself, without sockets: for tests, that compare it with the Python one.
#[pyclass(module = "portask_native")]
pub struct Framer {
    stream: Stream,
    maker: Maker,
}

#[pymethods]
impl Framer {
    #[new]
    fn new(py: Python<'_>, limit: u32) -> PyResult<Self> {
        Ok(Framer { stream: Stream::new(limit), maker: Maker::new(py)? })
    }

    /// Largest body accepted, bytes.
    #[getter]
    fn get_limit(&self) -> u32 {
        self.stream.limit
    }

    #[setter]
    fn set_limit(&mut self, limit: u32) {
        self.stream.limit = limit;
    }

    /// Bytes held of an incomplete frame.
    #[getter]
    fn buffered(&self) -> usize {
        self.stream.buffered()
    }

    /// The frames that `data` completes, and the header that was refused.
    fn feed<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyBytes>)> {
        let piece = bytes::Bytes::copy_from_slice(data);
        let mut taken = Vec::new();
        let mut header = None;
        self.stream.feed(&piece, |cut| match cut {
            Cut::Here(head, at) => {
                let body = piece.slice(at..at + head.length as usize);
                taken.push(Taken::new(head, body));
            }
            Cut::Whole(head, body) => taken.push(Taken::new(head, body.into())),
            Cut::Refused(bytes) => header = Some(bytes),
        });
        Ok((self.maker.frames(py, taken)?, refused(py, header)))
    }
}
