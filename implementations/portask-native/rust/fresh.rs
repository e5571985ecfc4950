//! New ``bytes`` that are written once, from front to back. `PyBytes::new_with` fills them with zeros before that, which
//! for a batch of large messages is a third of what copying them costs.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The bytes in the making; nobody else knows them yet.
pub struct Fresh<'py> {
    bytes: Bound<'py, PyBytes>,
    size: usize,
    filled: usize,
}

impl<'py> Fresh<'py> {
    /// Room for exactly `size` bytes. MemoryError: there is none.
    pub fn of(py: Python<'py>, size: usize) -> PyResult<Self> {
        // SAFETY: without a source the bytes are as they come; a new reference, or null with an exception set.
        let bytes = unsafe {
            let made = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked::<PyBytes>()
        };
        Ok(Fresh { bytes, size, filled: 0 })
    }

    /// Appends `piece`.
    ///
    /// # Panics
    /// There is no room for it.
    #[inline]
    pub fn push(&mut self, piece: &[u8]) {
        assert!(piece.len() <= self.size - self.filled);
        // SAFETY: as many bytes are left, as was just seen, and they are nobody else's; `piece` is a live slice and
        // cannot lie in them, for no reference to them was ever made.
        unsafe {
            let place = ffi::PyBytes_AsString(self.bytes.as_ptr()).cast::<u8>().add(self.filled);
            std::ptr::copy_nonoverlapping(piece.as_ptr(), place, piece.len());
        }
        self.filled += piece.len();
    }

    /// The bytes.
    ///
    /// # Panics
    /// Some were not written.
    pub fn whole(self) -> Bound<'py, PyBytes> {
        assert!(self.filled == self.size);
        self.bytes
    }
}
