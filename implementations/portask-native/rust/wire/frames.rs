//! Cuts a received buffer into frames: `portask.wire.frames.FrameParser` for what lies whole in it.

use super::objects::{slice, Classes, Seen};
use crate::reactor::batches;
use crate::reactor::framing::{head_with, HEADER};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMemoryView};

const PUBLISH: u8 = 17;

/// Appends the frames of `view` to `frames`, from `start` on; their bodies are views of it, and a PUBLISH
/// whose batch is sound has it with it. Returns where it stopped, and the whole length of the frame that
/// begins there, 0 if that is not known yet, -1 if it is refused.
#[pyfunction]
pub fn scan_frames<'py>(
    py: Python<'py>,
    view: &Bound<'py, PyMemoryView>,
    start: usize,
    limit: u64,
    flags: u16,
    frames: &Bound<'py, PyList>,
) -> PyResult<(usize, i64)> {
    let classes = Classes::get(py)?;
    let seen = Seen::of(view)?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let size = seen.size();
    let mut at = start;
    while at < size && size - at >= HEADER {
        let found = seen.look(at, at + HEADER, |bytes| head_with(bytes.first_chunk()?, limit, flags));
        let Some(head) = found else { return Ok((at, -1)) };
        let body = at + HEADER;
        let length = head.length as usize;
        if length > size - body {
            return Ok((at, (HEADER + length) as i64));
        }
        let end = body + length;
        let batch = if head.opcode == PUBLISH { seen.look(body, end, batches::check) } else { None };
        frames.append(classes.frame(&head, &slice(view, body, end)?, batch.as_ref())?)?;
        at = end;
    }
    Ok((at, 0))
}
