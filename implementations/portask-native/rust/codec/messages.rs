//! Python's `Message`: made by a vectorcall, read at the places where its fields lie.
//!
//! A `msgspec.Struct` keeps each field as a pointer in its instance. Where, is found out once, by looking for
//! four known objects in an instance made of them: that needs no knowledge of msgspec's or the interpreter's
//! structures, and stays within the stable ABI. Reading a field so takes a load where an attribute look-up
//! takes 11 ns. Should a msgspec lay its structs out otherwise, nothing is read so: every message goes the
//! way of the unusual ones (`records.row`, in Python), and `reads_fields` says False.
//!
//! Messages are not made so, though that would save another 8 of 54 ns: it would rely on how msgspec
//! allocates.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyType};
use std::mem::size_of;

use super::fault::Fault;
use crate::calls::call;

/// Delta, key, headers and payload, in the order of the wire.
type Row<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// What the codec needs of portask, imported once.
pub struct Messages {
    class: Py<PyType>,
    fields: Option<Fields>,
    error: Py<PyType>,
    row: Py<PyAny>,
}

/// Byte offsets of the fields' pointers in an instance.
#[derive(Clone, Copy)]
struct Fields {
    payload: usize,
    key: usize,
    headers: usize,
    timestamp: usize,
}

/// The fields of one message, borrowed from it.
pub struct Read<'a, 'py> {
    pub payload: Borrowed<'a, 'py, PyAny>,
    pub key: Borrowed<'a, 'py, PyAny>,
    pub headers: Borrowed<'a, 'py, PyAny>,
    pub timestamp: Borrowed<'a, 'py, PyAny>,
}

static MESSAGES: PyOnceLock<Messages> = PyOnceLock::new();

impl Messages {
    /// The one instance; the first call imports portask.
    #[inline]
    pub fn get(py: Python<'_>) -> PyResult<&'static Messages> {
        MESSAGES.get_or_try_init(py, || {
            let class = py.import("portask.messages")?.getattr("Message")?.cast_into::<PyType>()?;
            Ok(Messages {
                fields: Fields::find(&class)?,
                class: class.unbind(),
                error: py.import("portask.errors")?.getattr("CodecError")?.cast_into()?.unbind(),
                row: py.import("portask.reference.records")?.getattr("row")?.unbind(),
            })
        })
    }

    /// A new message.
    #[inline]
    pub fn make<'py>(
        &self,
        payload: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyAny>>,
        headers: Option<&Bound<'py, PyAny>>,
        timestamp: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: None lives as long as the interpreter.
        let none = unsafe { ffi::Py_None() };
        let key = key.map_or(none, Bound::as_ptr);
        let headers = headers.map_or(none, Bound::as_ptr);
        let class = self.class.bind(timestamp.py()).as_any();
        // SAFETY: all are held by the caller.
        unsafe { call(class, [payload.as_ptr(), key, headers, timestamp.as_ptr()]) }
    }

    /// The fields of `message`, if it is exactly a `Message` whose fields can be read.
    #[inline]
    pub fn read<'a, 'py>(&self, message: Borrowed<'a, 'py, PyAny>) -> Option<Read<'a, 'py>> {
        let fields = self.fields?;
        if message.get_type_ptr().cast::<ffi::PyObject>() != self.class.as_ptr() {
            return None;
        }
        // SAFETY: an instance of exactly the class that `Fields::find` examined.
        unsafe {
            Some(Read {
                payload: field(message, fields.payload)?,
                key: field(message, fields.key)?,
                headers: field(message, fields.headers)?,
                timestamp: field(message, fields.timestamp)?,
            })
        }
    }

    /// `portask.reference.records.row`: the plain values of a message that is not plain, or what is wrong
    /// with it.
    pub fn row<'py>(
        &self,
        message: &Bound<'py, PyAny>,
        index: usize,
        base: &Bound<'py, PyAny>,
    ) -> PyResult<Row<'py>> {
        self.row.bind(message.py()).call1((message, index, base))?.extract()
    }

    /// A `CodecError`.
    #[cold]
    pub fn error(&self, py: Python<'_>, text: String) -> PyErr {
        PyErr::from_type(self.error.bind(py).clone(), text)
    }

    /// A fault as a `CodecError`.
    #[cold]
    pub fn fault(&self, py: Python<'_>, fault: Fault) -> PyErr {
        self.error(py, fault.to_string())
    }
}

/// # Safety
/// `at` is where an instance of the message's class has a pointer to an object, or null.
#[inline]
unsafe fn field<'a, 'py>(message: Borrowed<'a, 'py, PyAny>, at: usize) -> Option<Borrowed<'a, 'py, PyAny>> {
    // SAFETY: the caller's promise. The message owns the object and is frozen, so it lives as long as the
    // message.
    unsafe {
        let place = message.as_ptr().cast::<u8>().add(at).cast::<*mut ffi::PyObject>();
        Borrowed::from_ptr_or_opt(message.py(), place.read())
    }
}

impl Fields {
    /// Where instances of `class` keep their fields; `None` if that cannot be told with certainty.
    fn find(class: &Bound<'_, PyType>) -> PyResult<Option<Fields>> {
        let py = class.py();
        let size: usize = class.getattr(intern!(py, "__basicsize__"))?.extract()?;
        let known = [
            PyBytes::new(py, b"a payload").into_any(),
            PyBytes::new(py, b"a key").into_any(),
            PyDict::new(py).into_any(),
            (1u64 << 50).into_pyobject(py)?.into_any(),
        ];
        let message = class.call1((&known[0], &known[1], &known[2], &known[3]))?;
        if !message.is_exact_instance(class) {
            return Err(PyTypeError::new_err("portask.messages.Message makes instances of another class"));
        }
        let head = size_of::<ffi::PyObject>();
        let mut found = [None; 4];
        for at in (head..size).step_by(size_of::<usize>()) {
            // SAFETY: within the instance, aligned; a word is only compared, never followed.
            let word = unsafe { message.as_ptr().cast::<u8>().add(at).cast::<usize>().read() };
            for (place, object) in found.iter_mut().zip(&known) {
                if word == object.as_ptr() as usize && place.replace(at).is_some() {
                    return Ok(None); // twice: something else is kept there
                }
            }
        }
        let [payload, key, headers, timestamp] = found;
        Ok((|| Some(Fields { payload: payload?, key: key?, headers: headers?, timestamp: timestamp? }))())
    }
}

/// Whether messages are read where their fields lie: the tests' business.
#[pyfunction]
pub fn reads_fields(py: Python<'_>) -> PyResult<bool> {
    Ok(Messages::get(py)?.fields.is_some())
}
