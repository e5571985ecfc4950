//! Workers: steps that run off the loop, on threads of Rust.
//!
//! What this brings over threads of Python is not the compression, which both do without the interpreter
//! lock. It is what stands around it: a thread of Python needs the lock to take a step from the queue, to
//! call it and to keep its result, and beside a busy loop it waits up to 5 ms for it each time.

pub mod crew;
#[cfg(feature = "python")]
mod python;
pub mod steps;

#[cfg(feature = "python")]
use pyo3::prelude::*;

/// Adds the classes to the extension module.
#[cfg(feature = "python")]
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<python::ThreadWorkers>()?;
    m.add_class::<python::ZstdCompress>()?;
    m.add_class::<python::ZstdDecompress>()?;
    m.add_class::<python::Crc32c>()
}
