//! Calls into Python without a tuple of arguments.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::ptr::null_mut;

extern "C" {
    // In the stable ABI since 3.12; 3.11 has the same function with the same signature, outside of its
    // limited API.
    fn PyObject_Vectorcall(
        callable: *mut ffi::PyObject,
        arguments: *const *mut ffi::PyObject,
        count: usize,
        names: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;

    // Likewise.
    fn PyObject_VectorcallMethod(
        name: *mut ffi::PyObject,
        arguments: *const *mut ffi::PyObject,
        count: usize,
        names: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// Calls with positional arguments.
///
/// # Safety
/// All are live objects.
#[inline(always)]
pub unsafe fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: N live objects, as the caller says, and no names; the result is a new reference, or null with
    // an exception set.
    unsafe {
        let made = PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), N, null_mut());
        Bound::from_owned_ptr_or_err(callable.py(), made)
    }
}

/// Calls a method of the first argument with the others.
///
/// # Safety
/// All are live objects, and there is one at least.
#[inline(always)]
pub unsafe fn call_method<'py, const N: usize>(
    name: &Bound<'py, PyString>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: N live objects, as the caller says, and no names; the result is a new reference, or null with
    // an exception set.
    unsafe {
        let made = PyObject_VectorcallMethod(name.as_ptr(), arguments.as_ptr(), N, null_mut());
        Bound::from_owned_ptr_or_err(name.py(), made)
    }
}

/// An int.
#[inline(always)]
pub fn int(py: Python<'_>, value: u64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromUnsignedLongLong(value)) }
}
