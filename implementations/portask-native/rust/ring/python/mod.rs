//! The rings as Python sees them, and what they share: errors, records, waiting.
//!
//! A ring is one object for both sides, so each side stands in a lock of its own. The contract allows one
//! producer and one consumer, so nobody ever waits for it: who finds it taken is a second producer, or a
//! second consumer, and is told.

mod batch;
mod mpmc;
mod shared;
mod spsc;

use super::bell::Bell;
use super::bytes::{largest, MIN_CAPACITY};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

pyo3::import_exception!(portask.errors, RingClosed);
pyo3::import_exception!(portask.errors, RingEmpty);
pyo3::import_exception!(portask.errors, RingError);
pyo3::import_exception!(portask.errors, RingFull);

/// Adds the classes to the extension module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<spsc::SpscRing>()?;
    m.add_class::<mpmc::MpmcRing>()?;
    m.add_class::<shared::SharedRing>()
}

/// The capacity, if a ring can have it.
fn checked_capacity(capacity: isize) -> PyResult<usize> {
    match usize::try_from(capacity) {
        Ok(enough) if enough >= MIN_CAPACITY => Ok(enough),
        _ => Err(PyValueError::new_err(format!(
            "a ring of {capacity} bytes is too small: give it at least {MIN_CAPACITY}"
        ))),
    }
}

fn no_memory(capacity: usize) -> PyErr {
    RingError::new_err(format!("there is no memory for a ring of {capacity} bytes: lower the capacity"))
}

fn never_fits(length: usize, capacity: usize) -> PyErr {
    PyValueError::new_err(format!(
        "a record of {length} bytes never fits: a ring of {capacity} bytes takes records of up to {}; give the ring \
         more capacity or split the record",
        largest(capacity)
    ))
}

fn full(record: &Bound<'_, PyAny>) -> PyErr {
    RingFull::new_err((record.clone().unbind(),))
}

fn empty() -> PyErr {
    RingEmpty::new_err("the ring is empty")
}

fn closed() -> PyErr {
    RingClosed::new_err("the ring is closed: nothing can be put")
}

fn over() -> PyErr {
    RingClosed::new_err("the ring is closed and empty: nothing will come")
}

/// One side of a ring.
fn side<'a, T>(lock: &'a Mutex<T>, who: &str) -> PyResult<MutexGuard<'a, T>> {
    match lock.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => Err(RingError::new_err(format!(
            "two {who}s at once: this ring is for one; give each a ring of its own"
        ))),
    }
}

/// The record as bytes: itself when it is, else a copy.
fn bytes_of<'py>(record: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = record.cast_exact::<PyBytes>() {
        return Ok(bytes.clone());
    }
    with_bytes(record, |bytes| PyBytes::new(record.py(), bytes))
}

/// Shows the record's bytes.
fn with_bytes<R>(record: &Bound<'_, PyAny>, look: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    if let Ok(bytes) = record.cast_exact::<PyBytes>() {
        return Ok(look(bytes.as_bytes()));
    }
    let buffer = PyUntypedBuffer::get(record).map_err(|_| {
        let kind = record.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        PyTypeError::new_err(format!("a record is bytes, a bytearray or a memoryview, not {kind}"))
    })?;
    if !buffer.is_c_contiguous() {
        let copy = record.py().get_type::<PyBytes>().call1((record,))?;
        return Ok(look(copy.cast::<PyBytes>()?.as_bytes()));
    }
    let length = buffer.len_bytes();
    if length == 0 {
        return Ok(look(&[]));
    }
    // SAFETY: the buffer is contiguous and held until the end of this function. Nothing that runs meanwhile
    // calls into Python, so that with the interpreter lock held nobody writes into it.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), length) };
    Ok(look(bytes))
}

/// Calls `each` with every record of a sequence.
fn for_each<'py>(
    records: &Bound<'py, PyAny>,
    mut each: impl FnMut(&Bound<'py, PyAny>) -> PyResult<()>,
) -> PyResult<()> {
    if let Ok(list) = records.cast::<PyList>() {
        list.iter().try_for_each(|record| each(&record))
    } else if let Ok(tuple) = records.cast::<PyTuple>() {
        tuple.iter_borrowed().try_for_each(|record| each(&record))
    } else {
        records.try_iter()?.try_for_each(|record| each(&record?))
    }
}

/// Waits without the interpreter until it is `ready`, for `timeout` seconds at most, of which it spins
/// `spin`.
fn wait(
    py: Python<'_>,
    bell: &Bell,
    timeout: f64,
    spin: f64,
    ready: impl Fn() -> bool + Send + Sync,
) -> PyResult<bool> {
    /// How long a signal waits for its handler.
    const SLICE: Duration = Duration::from_millis(50);
    if ready() {
        return Ok(true);
    }
    let start = Instant::now();
    let (end, spin) = (start + seconds("timeout", timeout)?, start + seconds("spin", spin)?);
    loop {
        let slice = end.min(Instant::now() + SLICE);
        if py.detach(|| bell.wait(spin, slice, &ready)) {
            return Ok(true);
        }
        py.check_signals()?;
        if Instant::now() >= end {
            return Ok(false);
        }
    }
}

fn seconds(what: &str, seconds: f64) -> PyResult<Duration> {
    const LONGEST: f64 = 1e9; // 30 years: "forever", that a clock can still add
    if seconds.is_nan() {
        return Err(PyValueError::new_err(format!("{what} is a number of seconds, not nan")));
    }
    Ok(Duration::from_secs_f64(seconds.clamp(0.0, LONGEST)))
}
