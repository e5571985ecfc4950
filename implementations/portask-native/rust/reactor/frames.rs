//! Frames and batches as Python objects: `portask.wire.frames.Frame` and `portask.messages.RecordBatch`.

use super::body::Body;
use super::framing::{Cut, Stream, HEADER};
use super::peers::Taken;
use crate::wire::objects::Classes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// Bodies up to so many bytes are copied: into bytes, which are made and let go at less cost than a view, and keep no
/// receive buffer from being filled again.
const COPIED: usize = 16 * 1024;

/// The frames in order.
pub fn frames<'py>(py: Python<'py>, taken: Vec<Taken>) -> PyResult<Bound<'py, PyList>> {
    let classes = Classes::get(py)?;
    let mut made = Vec::with_capacity(taken.len());
    for Taken { head, body, batch } in taken {
        let body = if body.len() <= COPIED {
            PyBytes::new(py, &body).into_any()
        } else {
            Body::view(py, body)?.into_any()
        };
        made.push(classes.frame(&head, &body, batch.as_ref())?);
    }
    PyList::new(py, made)
}

/// The 24 bytes that were refused, empty for none.
pub fn refused<'py>(py: Python<'py>, header: Option<[u8; HEADER]>) -> Bound<'py, PyBytes> {
    PyBytes::new(py, header.as_ref().map_or(&[], |bytes| &bytes[..]))
}

/// The reactor's parser by itself, without sockets: for tests, that compare it with the Python one.
#[pyclass(module = "portask_native")]
pub struct Framer {
    stream: Stream,
}

#[pymethods]
impl Framer {
    #[new]
    fn new(limit: u32) -> Self {
        Framer { stream: Stream::new(limit) }
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
        Ok((frames(py, taken)?, refused(py, header)))
    }
}
