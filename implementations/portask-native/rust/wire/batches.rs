//! Record batches, checked: `portask.wire.batches.parse` and `split`.

use super::objects::{slice, Classes, Seen};
use crate::reactor::batches::{check, Batch, HEADER};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMemoryView};

fn checked(bytes: &[u8], max_raw_length: u64) -> Option<Batch> {
    check(bytes).filter(|batch| u64::from(batch.raw_length) <= max_raw_length)
}

/// `data` as exactly one batch; `None` if it is not, or declares more raw bytes than that.
#[pyfunction]
pub fn parse_batch<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    max_raw_length: u64,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let seen = Seen::of(data)?;
    match seen.look(0, seen.size(), |bytes| checked(bytes, max_raw_length)) {
        Some(batch) => Classes::get(py)?.batch(data, &batch).map(Some),
        None => Ok(None),
    }
}

/// The batches that lie back to back in `view`, each a view of it; `None` if one is not sound.
#[pyfunction]
pub fn split_batches<'py>(
    py: Python<'py>,
    view: &Bound<'py, PyMemoryView>,
    max_raw_length: u64,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let classes = Classes::get(py)?;
    let seen = Seen::of(view)?;
    let size = seen.size();
    let list = PyList::empty(py);
    let mut at = 0;
    while at < size {
        let found = seen.look(at, size, |rest| {
            let header = rest.first_chunk::<HEADER>()?;
            let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
            Some((checked(rest.get(..length)?, max_raw_length)?, length))
        });
        let Some((batch, length)) = found else { return Ok(None) };
        list.append(classes.batch(&slice(view, at, at + length)?, &batch)?)?;
        at += length;
    }
    Ok(Some(list))
}
