//! `MpmcRing`: any number of producers and consumers, in as many threads.

use super::batch::Batch;
use super::{bytes_of, checked_capacity, closed, empty, full, never_fits, over, wait};
use crate::ring::bytes::{largest, OVERHEAD};
use crate::ring::mpmc::Queue;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// A bounded FIFO of byte records between any number of threads, on the crossbeam crate; `Ring`, `BatchRing`,
/// `WaitingRing`.
///
/// ``bytes`` cross as they are, by reference; of other buffers a copy is made. The records of one producer
/// keep their order. Those of one `put_many` may have others' between them.
///
/// Args:
///     capacity: In bytes, overhead included; at least 64. Memory is taken as records need it.
#[pyclass(frozen, module = "portask_native._native")]
pub struct MpmcRing {
    capacity: usize,
    queue: Queue<Py<PyBytes>>,
}

impl MpmcRing {
    fn checked<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, usize)> {
        let bytes = bytes_of(record)?;
        let length = bytes.as_bytes().len();
        if length > largest(self.capacity) {
            return Err(never_fits(length, self.capacity));
        }
        Ok((bytes, length + OVERHEAD))
    }

    fn pop(&self, py: Python<'_>) -> Option<Py<PyBytes>> {
        self.queue.pop(|record| record.bind(py).as_bytes().len() + OVERHEAD)
    }
}

#[pymethods]
impl MpmcRing {
    #[new]
    #[pyo3(signature = (capacity = 1048576))]
    fn new(capacity: isize) -> PyResult<Self> {
        let capacity = checked_capacity(capacity)?;
        Ok(Self { capacity, queue: Queue::new(capacity) })
    }

    /// In bytes, overhead included.
    #[getter]
    fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends the record. See `Ring.put`.
    fn put(&self, record: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.queue.closed() {
            return Err(closed());
        }
        let (bytes, cost) = self.checked(record)?;
        match self.queue.reserve(|free| if cost <= free { cost } else { 0 }) {
            Ok(0) => Err(full(record)),
            Ok(_) => {
                self.queue.push(std::iter::once(bytes.unbind()));
                Ok(())
            }
            Err(_) => Err(closed()),
        }
    }

    /// Puts as many as fit, in order; returns how many. See `BatchRing.put_many`.
    ///
    /// Raises:
    ///     RingClosed: the ring was closed.
    ///     ValueError: one of them can never fit. None was put.
    fn put_many(&self, records: &Bound<'_, PyAny>) -> PyResult<usize> {
        if self.queue.closed() {
            return Err(closed());
        }
        let py = records.py();
        let batch = Batch::of(records, self.capacity)?;
        let mut count = 0;
        let reserved = self.queue.reserve(|free| {
            let (fitting, cost) = batch.prefix(free);
            count = fitting;
            cost
        });
        reserved.map_err(|_| closed())?;
        if count > 0 {
            self.queue.push(batch.iter(py).take(count).map(Bound::unbind));
        }
        Ok(count)
    }

    /// The oldest record. See `Ring.get`.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self.pop(py) {
            Some(record) => Ok(record.into_bound(py)),
            None => Err(if self.queue.over() { over() } else { empty() }),
        }
    }

    /// Up to ``limit`` records, oldest first. See `BatchRing.get_many`.
    fn get_many<'py>(&self, py: Python<'py>, limit: isize) -> PyResult<Bound<'py, PyList>> {
        let records: Vec<_> = std::iter::from_fn(|| self.pop(py)).take(limit.max(0) as usize).collect();
        if records.is_empty() && self.queue.over() {
            return Err(over());
        }
        PyList::new(py, records)
    }

    /// Waits until there is something to take, without the interpreter lock. See `WaitingRing.wait`.
    #[pyo3(signature = (timeout, spin = 0.0))]
    fn wait(&self, py: Python<'_>, timeout: f64, spin: f64) -> PyResult<bool> {
        wait(py, self.queue.bell(), timeout, spin, || self.queue.ready())
    }

    fn __len__(&self) -> usize {
        self.queue.used()
    }

    /// No more puts; what is inside can still be taken.
    fn close(&self) {
        self.queue.close();
    }
}
