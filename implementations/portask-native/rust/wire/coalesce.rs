//! Gathers one-record batches: `portask.wire.coalesce.Coalescer` and `portask.storage.gathering.gather`.

use super::objects::Seen;
use super::records::{is_record, move_in, Gathered, CBOR_SEQUENCE, HEADER};
use crate::fresh::Fresh;
use pyo3::exceptions::{PyIndexError, PyOverflowError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList};

/// A batch of a header and records.
fn batch<'py>(py: Python<'py>, says: Gathered, area: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let Some(header) = says.header(area) else {
        return Err(PyOverflowError::new_err("the records are too long for a batch"));
    };
    let mut made = Fresh::of(py, HEADER + area.len())?;
    made.push(&header);
    made.push(area);
    Ok(made.whole())
}

/// `portask.contracts.COALESCE_WINDOW_US`.
static WINDOW: PyOnceLock<u64> = PyOnceLock::new();

/// See `portask.wire.coalesce.Coalescer`.
#[pyclass(module = "portask_native._native")]
pub struct Coalescer {
    #[pyo3(get)]
    base_offset: u64,
    #[pyo3(get)]
    last_append: u64,
    says: Gathered,
    until: u64,
    target: usize,
    area: Vec<u8>,
    /// Where each record ends.
    ends: Vec<u32>,
}

#[pymethods]
impl Coalescer {
    #[new]
    #[pyo3(signature = (first, base_offset, now, target=64 * 1024))]
    fn new(first: &Bound<'_, PyAny>, base_offset: u64, now: u64, target: u32) -> PyResult<Self> {
        let py = first.py();
        let window = *WINDOW.get_or_try_init(py, || {
            py.import("portask.contracts")?.getattr("COALESCE_WINDOW_US")?.extract::<u64>()
        })?;
        let ttl = first.getattr(intern!(py, "ttl"))?.extract()?;
        let base_timestamp = first.getattr(intern!(py, "base_timestamp"))?.extract()?;
        Ok(Coalescer {
            base_offset,
            last_append: now,
            says: Gathered { base_offset, append_time: now, count: 0, ttl, base_timestamp },
            // a batch expires as one: what was appended later would lose some of its time
            until: now.saturating_add(if ttl == 0 { window } else { 1 }),
            target: target as usize,
            area: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Records in it.
    #[getter]
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn __len__(&self) -> usize {
        self.area.len()
    }

    /// Takes the batch's record in; false, and nothing done, if it cannot be.
    fn add(&mut self, batch: &Bound<'_, PyAny>, now: u64) -> PyResult<bool> {
        let py = batch.py();
        let ttl: u32 = batch.getattr(intern!(py, "ttl"))?.extract()?;
        let raw_length: usize = batch.getattr(intern!(py, "raw_length"))?.extract()?;
        if ttl != self.says.ttl || now >= self.until || self.area.len() + raw_length > self.target {
            return Ok(false);
        }
        let base_timestamp: u64 = batch.getattr(intern!(py, "base_timestamp"))?.extract()?;
        let shift = i128::from(base_timestamp) - i128::from(self.says.base_timestamp);
        let seen = Seen::of(&batch.getattr(intern!(py, "data"))?)?;
        if !seen.look(HEADER, seen.size(), |record| move_in(&mut self.area, record, shift)) {
            return Ok(false);
        }
        self.ends.push(self.area.len() as u32);
        self.last_append = now;
        Ok(true)
    }

    /// A stamped batch of the records from `offset` on (all by default). A copy: it stays as it is.
    #[pyo3(signature = (offset=None))]
    fn batch<'py>(&self, py: Python<'py>, offset: Option<u64>) -> PyResult<Bound<'py, PyBytes>> {
        let skip = offset.map_or(Some(0), |offset| offset.checked_sub(self.base_offset));
        let start = match skip {
            Some(0) => Some(0),
            Some(skip) => self.ends.get(skip as usize - 1).map(|end| *end as usize),
            None => None,
        };
        let (Some(skip), Some(start)) = (skip, start) else {
            return Err(PyIndexError::new_err("the offset is not in this batch"));
        };
        let mut says = self.says;
        says.base_offset += skip;
        says.count = self.ends.len() as u32 - skip as u32;
        batch(py, says, &self.area[start..])
    }
}

/// Largest batch that is gathered, bytes.
const SMALL: usize = HEADER + 4096;
/// Bytes 24 to 31 of a batch of one uncompressed CBOR record: version, codec, attributes, count.
const ONE: [u8; 8] = [1, CBOR_SEQUENCE, 0, 0, 1, 0, 0, 0];

/// The header fields of a stamped batch that may be gathered.
fn fields(batch: &[u8]) -> Option<Gathered> {
    let header = batch.first_chunk::<HEADER>()?;
    let number = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().unwrap_or(&[0; 8]));
    let fits = batch.len() <= SMALL
        && batch.len() > HEADER + 1
        && header[24..32] == ONE
        && number(48) == 0
        && is_record(&batch[HEADER..]);
    fits.then(|| Gathered {
        base_offset: number(0),
        append_time: number(8),
        count: 1,
        ttl: (number(36) & 0xffff_ffff) as u32,
        base_timestamp: number(40),
    })
}

/// Neighbours that become one batch. A single one stays as it is.
struct Run<'py> {
    first: Bound<'py, PyAny>,
    says: Gathered,
    area: Vec<u8>,
}

impl<'py> Run<'py> {
    /// Copies the first one's record, which is not needed as long as it is alone.
    fn begin(&mut self) -> PyResult<()> {
        if self.area.is_empty() {
            let first = Seen::of(&self.first)?;
            first.look(HEADER, first.size(), |record| self.area.extend_from_slice(record));
        }
        Ok(())
    }

    /// Adds the next neighbour; false, and nothing done, if it cannot be.
    fn take(&mut self, next: &[u8], fields: &Gathered, target: usize, window: u64) -> bool {
        let says = &mut self.says;
        let apart = fields.append_time.checked_sub(says.append_time);
        let shift = i128::from(fields.base_timestamp) - i128::from(says.base_timestamp);
        let taken = fields.base_offset == says.base_offset.wrapping_add(says.count.into())
            && fields.ttl == says.ttl
            && apart.is_some_and(|apart| apart <= if says.ttl == 0 { window } else { 0 })
            && self.area.len() + next.len() <= target
            && move_in(&mut self.area, &next[HEADER..], shift);
        says.count += u32::from(taken);
        taken
    }

    /// What became of the run.
    fn end(self, finish: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if self.says.count == 1 {
            return Ok(self.first);
        }
        let gathered = batch(finish.py(), self.says, &self.area)?;
        if finish.is_none() {
            Ok(gathered.into_any())
        } else {
            finish.call1((gathered,))
        }
    }
}

/// See `portask.storage.gathering.gather`.
#[pyfunction]
pub fn gather_batches<'py>(
    py: Python<'py>,
    found: &Bound<'py, PyAny>,
    target: usize,
    window: u64,
    finish: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    let out = PyList::empty(py);
    let mut run: Option<Run<'py>> = None;
    for stored in found.try_iter()? {
        let stored = stored?;
        let seen = Seen::of(&stored)?;
        let fields = seen.look(0, seen.size().min(SMALL + 1), fields);
        if let (Some(run), Some(fields)) = (&mut run, &fields) {
            run.begin()?;
            if seen.look(0, seen.size(), |next| run.take(next, fields, target, window)) {
                continue;
            }
        }
        if let Some(run) = run.take() {
            out.append(run.end(finish)?)?;
        }
        match fields {
            Some(says) => run = Some(Run { first: stored, says, area: Vec::new() }),
            None => out.append(stored)?,
        }
    }
    if let Some(run) = run {
        out.append(run.end(finish)?)?;
    }
    Ok(out)
}
