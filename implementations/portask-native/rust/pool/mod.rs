//! Buffer pools: memory that is handed out and taken back, by size class.

#[cfg(feature = "python")]
mod python;
pub mod slabs;

#[cfg(feature = "python")]
use pyo3::prelude::*;

/// Adds the class to the extension module.
#[cfg(feature = "python")]
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<python::SlabPool>()
}
