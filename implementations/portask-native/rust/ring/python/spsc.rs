//! `SpscRing`: one producer and one consumer, in two threads.

use super::{
    bytes_of, checked_capacity, closed, empty, for_each, full, never_fits, no_memory, over, side, wait,
};
use crate::ring::bytes::{largest, OVERHEAD};
use crate::ring::spsc::{queue, Account, Receiver, Sender};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use std::sync::{Arc, Mutex};

type Record = Py<PyBytes>;

struct Producer {
    queue: Sender<Record>,
    /// A batch on its way, kept for its memory.
    batch: Vec<Record>,
}

/// A bounded FIFO of byte records between two threads, on the rtrb crate; `Ring`, `BatchRing`, `WaitingRing`.
///
/// ``bytes`` cross as they are, by reference; of other buffers a copy is made.
///
/// Args:
///     capacity: In bytes, overhead included; at least 64. An eighth of it in slots is reserved at once, of 8 bytes each.
///
/// Raises:
///     RingError: there is not as much memory.
#[pyclass(frozen, module = "portask_native._native")]
pub struct SpscRing {
    capacity: usize,
    producer: Mutex<Producer>,
    consumer: Mutex<Receiver<Record>>,
    account: Arc<Account>,
}

fn cost(record: &Bound<'_, PyBytes>) -> usize {
    record.as_bytes().len() + OVERHEAD
}

#[pymethods]
impl SpscRing {
    #[new]
    #[pyo3(signature = (capacity = 1048576))]
    fn new(capacity: isize) -> PyResult<Self> {
        let capacity = checked_capacity(capacity)?;
        let (sender, receiver, account) = queue(capacity).ok_or_else(|| no_memory(capacity))?;
        let producer = Mutex::new(Producer { queue: sender, batch: Vec::new() });
        Ok(Self { capacity, producer, consumer: Mutex::new(receiver), account })
    }

    /// In bytes, overhead included.
    #[getter]
    fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends the record. See `Ring.put`.
    fn put(&self, record: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.account.closed() {
            return Err(closed());
        }
        let bytes = bytes_of(record)?;
        let cost = cost(&bytes);
        if cost - OVERHEAD > largest(self.capacity) {
            return Err(never_fits(cost - OVERHEAD, self.capacity));
        }
        let mut producer = side(&self.producer, "producer")?;
        if producer.queue.free(cost) < cost {
            return Err(full(record));
        }
        producer.queue.push(std::iter::once(bytes.unbind()), cost);
        Ok(())
    }

    /// Puts as many as fit, in order; returns how many. See `BatchRing.put_many`.
    ///
    /// Raises:
    ///     RingClosed: the ring was closed.
    ///     ValueError: one of them can never fit. None was put.
    fn put_many(&self, records: &Bound<'_, PyAny>) -> PyResult<usize> {
        if self.account.closed() {
            return Err(closed());
        }
        let mut guard = side(&self.producer, "producer")?;
        let Producer { queue, batch } = &mut *guard;
        let (mut free, mut used) = (0, 0);
        let mut room = true;
        let checked = for_each(records, |record| {
            let bytes = bytes_of(record)?;
            let cost = cost(&bytes);
            if cost - OVERHEAD > largest(self.capacity) {
                return Err(never_fits(cost - OVERHEAD, self.capacity));
            }
            if room && used + cost > free {
                free = queue.free(used + cost);
            }
            room = room && used + cost <= free;
            if room {
                used += cost;
                batch.push(bytes.unbind());
            }
            Ok(())
        });
        if let Err(error) = checked {
            batch.clear();
            return Err(error);
        }
        let count = batch.len();
        if count > 0 {
            queue.push(batch.drain(..), used);
        }
        Ok(count)
    }

    /// The oldest record. See `Ring.get`.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut consumer = side(&self.consumer, "consumer")?;
        let record = consumer.take(1, |record| cost(record.bind(py))).next();
        match record {
            Some(record) => Ok(record.into_bound(py)),
            None => Err(if consumer.over() { over() } else { empty() }),
        }
    }

    /// Up to ``limit`` records, oldest first. See `BatchRing.get_many`.
    fn get_many<'py>(&self, py: Python<'py>, limit: isize) -> PyResult<Bound<'py, PyList>> {
        let mut consumer = side(&self.consumer, "consumer")?;
        let taken = consumer.take(limit.max(0) as usize, |record| cost(record.bind(py)));
        if taken.len() > 0 {
            return PyList::new(py, taken);
        }
        drop(taken);
        if consumer.over() {
            return Err(over());
        }
        Ok(PyList::empty(py))
    }

    /// Waits until there is something to take, without the interpreter lock. See `WaitingRing.wait`.
    #[pyo3(signature = (timeout, spin = 0.0))]
    fn wait(&self, py: Python<'_>, timeout: f64, spin: f64) -> PyResult<bool> {
        wait(py, self.account.bell(), timeout, spin, || self.account.ready())
    }

    fn __len__(&self) -> usize {
        self.account.used()
    }

    /// No more puts; what is inside can still be taken.
    fn close(&self) {
        self.account.close();
    }
}
