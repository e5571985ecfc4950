//! A batch of records as one Python list that nobody else knows, so that a whole batch crosses as one
//! reference.

use super::{bytes_of, never_fits};
use crate::ring::bytes::{largest, OVERHEAD};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// A list of ours alone, whose every item is exactly ``bytes``, in order, and what the items cost.
///
/// It is hidden from the garbage collector, which would look at every item of thousands of waiting lists
/// again and again to find that bytes are in no cycle.
pub struct Batch {
    list: Py<PyList>,
    /// Records before this one were taken.
    at: usize,
    len: usize,
    cost: usize,
}

impl Batch {
    /// The records of any sequence: ``bytes`` as they are, copies of other buffers.
    ///
    /// # Errors
    /// One of them can never fit into a ring of `capacity` bytes, or is no buffer.
    pub fn of(records: &Bound<'_, PyAny>, capacity: usize) -> PyResult<Self> {
        let py = records.py();
        // SAFETY: it returns a new list, or null with an exception set.
        let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PySequence_List(records.as_ptr()))? };
        let list = list.cast_into::<PyList>()?;
        let len = list.len();
        let mut cost = OVERHEAD * len;
        for index in 0..len {
            // SAFETY: the index is below the length, and the list is ours: the item stays in it for as long
            // as it is borrowed here.
            let item = unsafe { Borrowed::from_ptr(py, ffi::PyList_GetItem(list.as_ptr(), index as isize)) };
            let length = match item.cast_exact::<PyBytes>() {
                Ok(bytes) => length(bytes.as_ptr()),
                Err(_) => {
                    let copy = bytes_of(&item.to_owned())?;
                    let length = copy.as_bytes().len();
                    list.set_item(index, copy)?;
                    length
                }
            };
            if length > largest(capacity) {
                return Err(never_fits(length, capacity));
            }
            cost += length;
        }
        // SAFETY: a list that was just made is tracked. `into_list` tracks it again; freeing it needs
        // neither.
        unsafe { ffi::PyObject_GC_UnTrack(list.as_ptr().cast()) };
        Ok(Self { list: list.unbind(), at: 0, len, cost })
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.len - self.at
    }

    /// What they cost.
    pub fn cost(&self) -> usize {
        self.cost
    }

    fn item(&self, index: usize) -> *mut ffi::PyObject {
        debug_assert!(index < self.len);
        // SAFETY: the list is a list, and out of range would be null.
        unsafe { ffi::PyList_GetItem(self.list.as_ptr(), index as isize) }
    }

    fn cost_of(&self, index: usize) -> usize {
        OVERHEAD + length(self.item(index))
    }

    /// How many of the records fit into `room`, from the first on, and what they cost.
    pub fn prefix(&self, room: usize) -> (usize, usize) {
        let (mut len, mut cost) = (self.len, self.cost);
        while cost > room {
            len -= 1;
            cost -= self.cost_of(len);
        }
        (len - self.at, cost)
    }

    /// Forgets the records behind a [`Batch::prefix`].
    pub fn truncate(&mut self, py: Python<'_>, (count, cost): (usize, usize)) -> PyResult<()> {
        if count < self.len() {
            self.list.bind(py).del_slice(self.at + count, self.len)?;
            (self.len, self.cost) = (self.at + count, cost);
        }
        Ok(())
    }

    /// Takes the first record.
    pub fn pop<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if self.len() == 0 {
            return Ok(None);
        }
        // SAFETY: every item is ``bytes``.
        let record =
            unsafe { Bound::from_borrowed_ptr(py, self.item(self.at)).cast_into_unchecked::<PyBytes>() };
        self.cost -= OVERHEAD + record.as_bytes().len();
        self.at += 1;
        self.forget_taken(py)?;
        Ok(Some(record))
    }

    /// Takes the first `count` records.
    pub fn split<'py>(&mut self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyList>> {
        let end = self.at + count;
        let records = self.list.bind(py).get_slice(self.at, end);
        self.cost -=
            if end == self.len { self.cost } else { (self.at..end).map(|at| self.cost_of(at)).sum() };
        self.at = end;
        self.forget_taken(py)?;
        Ok(records)
    }

    /// Taken records must not live as long as the batch. Half of it at a time: a record is moved once on
    /// average.
    fn forget_taken(&mut self, py: Python<'_>) -> PyResult<()> {
        if self.at * 2 >= self.len {
            self.list.bind(py).del_slice(0, self.at)?;
            (self.at, self.len) = (0, self.len - self.at);
        }
        Ok(())
    }

    /// All records as a list, for anybody.
    pub fn into_list(self, py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
        let list = self.list.into_bound(py);
        if self.at > 0 {
            list.del_slice(0, self.at)?;
        }
        // SAFETY: it was untracked in `of`.
        unsafe { ffi::PyObject_GC_Track(list.as_ptr().cast()) };
        Ok(list)
    }

    /// Every record.
    pub fn iter<'py>(&self, py: Python<'py>) -> impl Iterator<Item = Bound<'py, PyBytes>> + use<'_, 'py> {
        // SAFETY: every item is ``bytes``.
        (self.at..self.len)
            .map(move |at| unsafe { Bound::from_borrowed_ptr(py, self.item(at)).cast_into_unchecked() })
    }
}

/// The length of an object that is ``bytes``.
fn length(bytes: *mut ffi::PyObject) -> usize {
    // SAFETY: the callers know its type.
    unsafe { ffi::Py_SIZE(bytes) as usize }
}
