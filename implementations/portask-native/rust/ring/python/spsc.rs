//! `SpscRing`: one producer and one consumer, in two threads.

use super::batch::Batch;
use super::{bytes_of, checked_capacity, closed, empty, full, never_fits, no_memory, over, side, wait};
use crate::ring::bytes::{largest, OVERHEAD};
use crate::ring::spsc::{queue, Account, Receiver, Sender};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use std::sync::{Arc, Mutex};

/// What crosses: a record, or the records of a `put_many` together.
enum Parcel {
    Record(Py<PyBytes>),
    Batch(Batch),
}

struct Consumer {
    queue: Receiver<Parcel>,
    /// What is left of a batch that was larger than what was asked for; never empty.
    rest: Option<Batch>,
}

impl Consumer {
    fn pop(&mut self) -> Option<Parcel> {
        self.rest.take().map(Parcel::Batch).or_else(|| Some(self.queue.pop()?.0))
    }

    fn over(&self) -> bool {
        self.rest.is_none() && self.queue.over()
    }

    /// Takes the first record of `batch`; the others are next.
    fn first<'py>(&mut self, py: Python<'py>, mut batch: Batch) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let record = batch.pop(py)?;
        self.rest = (batch.len() > 0).then_some(batch);
        Ok(record)
    }
}

/// A bounded FIFO of byte records between two threads, on the rtrb crate; `Ring`, `BatchRing`, `WaitingRing`.
///
/// ``bytes`` cross as they are, by reference; of other buffers a copy is made. What `put_many` puts crosses
/// as one list, which `get_many` hands out whole where the limit allows it.
///
/// Args:
///     capacity: In bytes, overhead included; at least 64. Twice as much address space is reserved for slots;
///         the memory comes as they are first used.
///
/// Raises:
///     RingError: there is not as much memory.
#[pyclass(frozen, module = "portask_native._native")]
pub struct SpscRing {
    capacity: usize,
    producer: Mutex<Sender<Parcel>>,
    consumer: Mutex<Consumer>,
    account: Arc<Account>,
}

#[pymethods]
impl SpscRing {
    #[new]
    #[pyo3(signature = (capacity = 1048576))]
    fn new(capacity: isize) -> PyResult<Self> {
        let capacity = checked_capacity(capacity)?;
        let (sender, receiver, account) = queue(capacity).ok_or_else(|| no_memory(capacity))?;
        let consumer = Consumer { queue: receiver, rest: None };
        Ok(Self { capacity, producer: Mutex::new(sender), consumer: Mutex::new(consumer), account })
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
        let length = bytes.as_bytes().len();
        if length > largest(self.capacity) {
            return Err(never_fits(length, self.capacity));
        }
        let mut producer = side(&self.producer, "producer")?;
        if producer.free(length + OVERHEAD) < length + OVERHEAD {
            return Err(full(record));
        }
        producer.push(Parcel::Record(bytes.unbind()), length + OVERHEAD);
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
        let mut batch = Batch::of(records, self.capacity)?;
        let mut producer = side(&self.producer, "producer")?;
        let room = producer.free(batch.cost());
        batch.truncate(records.py(), batch.prefix(room))?;
        let count = batch.len();
        if count > 0 {
            let cost = batch.cost();
            producer.push(Parcel::Batch(batch), cost);
        }
        Ok(count)
    }

    /// The oldest record. See `Ring.get`.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut consumer = side(&self.consumer, "consumer")?;
        let record = match consumer.pop() {
            Some(Parcel::Record(record)) => Some(record.into_bound(py)),
            Some(Parcel::Batch(batch)) => consumer.first(py, batch)?,
            None => None,
        };
        match record {
            Some(record) => {
                consumer.queue.release(OVERHEAD + record.as_bytes().len());
                Ok(record)
            }
            None => Err(if consumer.over() { over() } else { empty() }),
        }
    }

    /// Up to ``limit`` records, oldest first. See `BatchRing.get_many`.
    fn get_many<'py>(&self, py: Python<'py>, limit: isize) -> PyResult<Bound<'py, PyList>> {
        let limit = limit.max(0) as usize;
        let mut consumer = side(&self.consumer, "consumer")?;
        if consumer.over() {
            return Err(over());
        }
        let mut records: Option<Bound<'py, PyList>> = None;
        let mut left = limit;
        while left > 0 {
            let (more, cost) = match consumer.pop() {
                None => break,
                Some(Parcel::Record(record)) => {
                    let cost = OVERHEAD + record.bind(py).as_bytes().len();
                    (PyList::new(py, [record])?, cost)
                }
                Some(Parcel::Batch(mut batch)) => {
                    let cost = batch.cost();
                    if batch.len() <= left {
                        (batch.into_list(py)?, cost)
                    } else {
                        let first = batch.split(py, left)?;
                        let cost = cost - batch.cost();
                        consumer.rest = Some(batch);
                        (first, cost)
                    }
                }
            };
            left -= more.len();
            consumer.queue.release(cost);
            match &records {
                None => records = Some(more), // as it is: the producer made it for us
                Some(records) => records.set_slice(records.len(), records.len(), &more)?,
            }
        }
        Ok(records.unwrap_or_else(|| PyList::empty(py)))
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
