//! The compiled parts of Portask: one module a part, and each registers its own classes and functions.
//!
//! What needs no interpreter (grammars, rings, slabs) stands in files of its own and compiles without the
//! feature `python`, so that `cargo test --no-default-features` runs with no libpython at hand.

#[cfg(feature = "python")]
use pyo3::prelude::*;

pub mod ahead;
#[cfg(feature = "python")]
mod calls;
pub mod codec;
#[cfg(feature = "python")]
mod fresh;
pub mod pool;
pub mod reactor;
pub mod ring;
pub mod wire;
pub mod workers;

/// The extension module: a plain list of the parts.
#[cfg(feature = "python")]
#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    codec::register(m)?;
    pool::register(m)?;
    reactor::register(m)?;
    ring::register(m)?;
    workers::register(m)?;
    wire::register(m)?;
    Ok(())
}
