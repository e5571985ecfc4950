//! What the broker and the client do for every frame and every batch, for `portask.wire.accelerate`.
//!
//! Only what is sound is handled here. What is wrong with bytes is for people to read, so it is said in one
//! place, in Python, which looks again at what is refused here.

pub mod records;

#[cfg(feature = "python")]
mod batches;
#[cfg(feature = "python")]
mod coalesce;
#[cfg(feature = "python")]
mod frames;
#[cfg(feature = "python")]
pub mod objects;

#[cfg(feature = "python")]
pub use python::register;

#[cfg(feature = "python")]
mod python {
    use pyo3::prelude::*;

    /// Adds the functions to the module.
    pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add_function(wrap_pyfunction!(super::frames::scan_frames, m)?)?;
        m.add_function(wrap_pyfunction!(super::batches::parse_batch, m)?)?;
        m.add_function(wrap_pyfunction!(super::batches::split_batches, m)?)?;
        m.add_function(wrap_pyfunction!(super::coalesce::gather_batches, m)?)?;
        m.add_class::<super::coalesce::Coalescer>()?;
        Ok(())
    }
}
