//! `SharedRing`: a producer in one process, a consumer in another.

use super::{
    checked_capacity, closed, empty, for_each, full, never_fits, over, side, wait, with_bytes, RingClosed,
    RingError,
};
use crate::ring::bytes::{ByteRing, Cache, Fault};
use crate::ring::shared::{Name, Refusal, Shared};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyType};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// A bounded FIFO of byte records between two processes (or threads); `Ring`, `BatchRing`, `SharedRing`,
/// `WaitingRing`.
///
/// Records are copied through memory that both map. It needs no `/dev/shm`, and nothing remains of it: the
/// name ends with the maker's `close()`, handle or process, however that ends; the memory with the last
/// handle. A side that is killed leaves what was published, whole; with a consumer dies what it had been
/// handed. A successor attaches by the same name.
///
/// Args:
///     capacity: In bytes, overhead included; at least 64. The memory is allocated at once.
///
/// Raises:
///     RingError: there is not as much memory.
#[pyclass(frozen, module = "portask_native._native")]
pub struct SharedRing {
    name: String,
    ring: ByteRing<Shared>,
    producer: Mutex<Cache>,
    consumer: Mutex<Cache>,
    /// What the name lasts as long as; the maker's handle has it.
    maker: Mutex<Option<OwnedFd>>,
}

impl SharedRing {
    fn of(name: Name, memory: Shared, capacity: usize, maker: Option<OwnedFd>) -> Self {
        Self {
            name: name.to_string(),
            // SAFETY: the memory was made for, or validated to have, this capacity. That there is one
            // producer and one consumer is the contract, which this process's locks cannot keep for others;
            // see `bytes`, "Trust".
            ring: unsafe { ByteRing::new(memory, capacity) },
            producer: Mutex::default(),
            consumer: Mutex::default(),
            maker: Mutex::new(maker),
        }
    }

    fn error(&self, fault: Fault) -> PyErr {
        match fault {
            Fault::Closed => closed(),
            Fault::NeverFits(length) => never_fits(length, self.ring.capacity()),
            Fault::Overwritten(length, at) => RingError::new_err(format!(
                "the ring's memory was overwritten: a record of {length} bytes stands at {at}. Two producers, two \
                 consumers or a stray write did that; make a new ring"
            )),
        }
    }

    fn reading_error(&self, fault: Fault) -> PyErr {
        match fault {
            Fault::Closed => over(),
            other => self.error(other),
        }
    }
}

#[pymethods]
impl SharedRing {
    #[new]
    #[pyo3(signature = (capacity = 1048576))]
    fn new(capacity: isize) -> PyResult<Self> {
        let capacity = checked_capacity(capacity)?;
        let (memory, name, descriptor) = Shared::create(capacity).map_err(|error| {
            RingError::new_err(format!(
                "a ring of {capacity} bytes cannot be made: {error}; lower the capacity"
            ))
        })?;
        Ok(Self::of(name, memory, capacity, Some(descriptor)))
    }

    /// The ring of that name, made by another process or by this one.
    ///
    /// Raises:
    ///     RingClosed: there is no ring of that name: its maker closed it, or is gone.
    ///     RingError: it is no ring, or one of another version, or this process may not open it.
    #[classmethod]
    fn attach(_cls: &Bound<'_, PyType>, name: &str) -> PyResult<Self> {
        let refused = |refusal: Refusal| match refusal {
            Refusal::Gone => RingClosed::new_err(format!(
                "there is no ring named {name:?}: its maker closed it, or is gone"
            )),
            Refusal::NoRing(why) => RingError::new_err(format!("{name:?} is no ring to attach to: {why}")),
            Refusal::System(error) => {
                RingError::new_err(format!("the ring {name:?} cannot be opened: {error}"))
            }
        };
        let parsed =
            Name::parse(name).ok_or_else(|| refused(Refusal::NoRing("a ring's name looks different")))?;
        let (memory, capacity) = Shared::attach(parsed).map_err(refused)?;
        Ok(Self::of(parsed, memory, capacity, None))
    }

    /// What the other process gives to `attach`.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// In bytes, overhead included.
    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Appends the record. See `Ring.put`.
    fn put(&self, record: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut cache = side(&self.producer, "producer")?;
        let mut writer = self.ring.writer(&mut cache).map_err(|fault| self.error(fault))?;
        if !with_bytes(record, |bytes| writer.push(bytes))?.map_err(|fault| self.error(fault))? {
            return Err(full(record));
        }
        writer.publish();
        Ok(())
    }

    /// Puts as many as fit, in order; returns how many. See `BatchRing.put_many`.
    ///
    /// Raises:
    ///     RingClosed: the ring was closed.
    ///     ValueError: one of them can never fit. None was put.
    fn put_many(&self, records: &Bound<'_, PyAny>) -> PyResult<usize> {
        let mut cache = side(&self.producer, "producer")?;
        let mut writer = self.ring.writer(&mut cache).map_err(|fault| self.error(fault))?;
        let mut count = 0;
        let mut room = true;
        for_each(records, |record| {
            let pushed = with_bytes(record, |bytes| {
                if room {
                    writer.push(bytes)
                } else {
                    writer.check(bytes.len()).map(|()| false)
                }
            })?;
            room = pushed.map_err(|fault| self.error(fault))?;
            count += usize::from(room);
            Ok(())
        })?;
        if count > 0 {
            writer.publish();
        }
        Ok(count)
    }

    /// The oldest record. See `Ring.get`.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut cache = side(&self.consumer, "consumer")?;
        let mut reader = self.ring.reader(&mut cache).map_err(|fault| self.reading_error(fault))?;
        let record =
            reader.next(|bytes| PyBytes::new(py, bytes)).map_err(|fault| self.reading_error(fault))?;
        let record = record.ok_or_else(empty)?;
        reader.take();
        Ok(record)
    }

    /// Up to ``limit`` records, oldest first. See `BatchRing.get_many`.
    fn get_many<'py>(&self, py: Python<'py>, limit: isize) -> PyResult<Bound<'py, PyList>> {
        let mut cache = side(&self.consumer, "consumer")?;
        let mut reader = self.ring.reader(&mut cache).map_err(|fault| self.reading_error(fault))?;
        let mut records = Vec::with_capacity(limit.clamp(0, 1024) as usize);
        for _ in 0..limit {
            match reader.next(|bytes| PyBytes::new(py, bytes)) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(_) if !records.is_empty() => break, // the next call says it
                Err(fault) => return Err(self.reading_error(fault)),
            }
        }
        let records = PyList::new(py, records)?;
        reader.take();
        Ok(records)
    }

    /// Waits until there is something to take, without the interpreter lock. See `WaitingRing.wait`.
    #[pyo3(signature = (timeout, spin = 0.0))]
    fn wait(&self, py: Python<'_>, timeout: f64, spin: f64) -> PyResult<bool> {
        wait(py, self.ring.bell(), timeout, spin, || self.ring.ready_to_take())
    }

    fn __len__(&self) -> usize {
        self.ring.used()
    }

    /// No more puts; what is inside can still be taken.
    fn close(&self) {
        self.ring.close();
        if let Ok(mut maker) = self.maker.lock() {
            *maker = None;
        }
    }
}
