//! The codec of wire id 1: CBOR sequences of records (RFC 8742, RFC 8949), straight to and from Python
//! objects.
//!
//! `records` is the grammar, without an interpreter; `decode`, `encode` and `lazy` are its Python faces.

pub mod fault;
pub mod heads;
pub mod records;
#[cfg(test)]
mod tests;

#[cfg(feature = "python")]
mod body;
#[cfg(feature = "python")]
mod decode;
#[cfg(feature = "python")]
mod encode;
#[cfg(feature = "python")]
mod lazy;
#[cfg(feature = "python")]
mod messages;

#[cfg(feature = "python")]
pub use python::register;

#[cfg(feature = "python")]
mod python {
    use pyo3::prelude::*;

    /// Adds the codec's functions to the module.
    pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add_function(wrap_pyfunction!(super::encode::encode, m)?)?;
        m.add_function(wrap_pyfunction!(super::decode::decode, m)?)?;
        m.add_function(wrap_pyfunction!(super::lazy::decode_lazily, m)?)?;
        m.add_class::<super::lazy::LazyMessages>()?;
        m.add_function(wrap_pyfunction!(super::messages::reads_fields, m)?)?;
        Ok(())
    }
}
