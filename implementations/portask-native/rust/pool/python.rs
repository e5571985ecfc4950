//! `SlabPool`: memoryviews over slabs.

use super::slabs::{class_of, Slabs, Slot, SMALLEST};
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyMemoryView, PyType};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

pyo3::import_exception!(portask.errors, PoolError);

/// What a memoryview looks into: it holds this, and so the memory, for as long as it, or any view of it,
/// lives.
#[pyclass(frozen)]
struct Block {
    slot: Slot,
    /// Memoryviews of it that are alive; slices of one are one.
    exports: AtomicUsize,
}

#[pymethods]
impl Block {
    /// # Safety
    /// `view` is a buffer to fill, as Python promises.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: i32) -> PyResult<()> {
        let slot = &slf.get().slot;
        let (memory, length) = (slot.memory().cast(), slot.size() as isize);
        // SAFETY: Python's promise; the memory is as long, and lives as long as the object that the buffer
        // holds.
        if unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), memory, length, 0, flags) } < 0 {
            return Err(PyErr::take(slf.py()).unwrap_or_else(|| PyBufferError::new_err("no such buffer")));
        }
        slf.get().exports.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    /// Called once for each buffer that was filled, as Python promises.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.exports.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A buffer that belongs to the pool.
struct Buffer {
    block: Py<Block>,
    /// The one view of it that is lent again and again; checked buffers get a new one each time.
    view: Py<PyMemoryView>,
    /// Whether it is cut from an arena.
    kept: bool,
}

/// Cuts buffers from arenas of memory that Python's allocator knows nothing of; `Pool`.
///
/// Nothing is allocated in steady state: a buffer that comes back goes on its class's stack of free ones, its
/// memoryview with it. The memory of a view stays valid for as long as the view, or one made of it, lives,
/// also when the pool is gone. What is larger than an arena, or would exceed ``max_held``, is made to measure
/// and not kept.
///
/// Args:
///     max_held: Bytes in arenas, at most.
///     arena: Bytes of one arena, and the largest class; a power of two, at least 64.
///     checked: For debugging. A buffer that was given back cannot be used any more: its view is released, so
///         that touching it is a ValueError. Giving it while another view of it lives is a PoolError, and so
///         is taking one that somebody wrote into meanwhile (through a pointer, say). Costs a view and two
///         passes over the bytes each time.
///
/// Raises:
///     ValueError: an option is out of its range.
#[pyclass(module = "portask_native._native")]
pub struct SlabPool {
    slabs: Slabs,
    arena: usize,
    checked: bool,
    /// By class.
    free: Vec<Vec<Buffer>>,
    /// By the address of the view, which is held here: no other object has it meanwhile.
    lent: FxHashMap<usize, Buffer>,
    lent_bytes: usize,
    loose_bytes: usize,
    taken: usize,
    reused: usize,
}

fn no_memory(bytes: usize) -> PyErr {
    PyMemoryError::new_err(format!("there is no memory for a buffer of {bytes} bytes"))
}

fn buffer(py: Python<'_>, slot: Slot, kept: bool) -> PyResult<Buffer> {
    let block = Bound::new(py, Block { slot, exports: AtomicUsize::new(0) })?;
    let view = PyMemoryView::from(&block)?.unbind();
    Ok(Buffer { block: block.unbind(), view, kept })
}

impl SlabPool {
    fn found(&mut self, py: Python<'_>, size: usize) -> PyResult<Buffer> {
        let class = class_of(size);
        if size > self.arena {
            return buffer(py, Slot::loose(size).ok_or_else(|| no_memory(size))?, false);
        }
        if let Some(mut free) = self.free[class as usize].pop() {
            if self.checked {
                // SAFETY: it is free.
                if !unsafe { free.block.get().slot.is_poisoned() } {
                    let length = free.block.get().slot.size();
                    return Err(PoolError::new_err(format!(
                        "a buffer of {length} bytes was written into after it was given back"
                    )));
                }
                free.view = PyMemoryView::from(free.block.bind(py))?.unbind();
            }
            self.reused += 1;
            return Ok(free);
        }
        match self.slabs.cut(class) {
            Some(slot) => buffer(py, slot, true),
            None => buffer(py, Slot::loose(size).ok_or_else(|| no_memory(size))?, false),
        }
    }

    fn put_back(&mut self, py: Python<'_>, buffer: Buffer) -> PyResult<()> {
        let length = buffer.block.get().slot.size();
        *(if buffer.kept { &mut self.lent_bytes } else { &mut self.loose_bytes }) -= length;
        if self.checked {
            buffer.view.bind(py).call_method0(pyo3::intern!(py, "release"))?;
            if buffer.block.get().exports.load(Ordering::Relaxed) > 0 {
                // It is not reused: somebody still looks into it.
                return Err(PoolError::new_err(format!(
                    "a buffer of {length} bytes was given back while another view of it lives: release or drop that first"
                )));
            }
            // SAFETY: nobody has a view of it.
            unsafe { buffer.block.get().slot.poison() };
        }
        if buffer.kept {
            self.free[length.trailing_zeros() as usize].push(buffer);
        }
        Ok(())
    }
}

#[pymethods]
impl SlabPool {
    #[new]
    #[pyo3(signature = (max_held = 67108864, arena = 1048576, checked = false))]
    fn new(max_held: isize, arena: isize, checked: bool) -> PyResult<Self> {
        let good = arena >= SMALLEST as isize && arena.count_ones() == 1;
        let (Ok(most), true) = (usize::try_from(max_held), good) else {
            return Err(PyValueError::new_err(format!(
                "max_held ({max_held}) must be 0 or more bytes, arena ({arena}) a power of 2 from {SMALLEST}"
            )));
        };
        let slabs = Slabs::new(arena as usize, most);
        Ok(Self {
            arena: arena as usize,
            checked,
            free: (0..slabs.classes()).map(|_| Vec::new()).collect(),
            slabs,
            lent: FxHashMap::default(),
            lent_bytes: 0,
            loose_bytes: 0,
            taken: 0,
            reused: 0,
        })
    }

    /// A view of ``size`` rounded up to its class, the warmest one first. See `Pool.take`.
    ///
    /// Raises:
    ///     PoolError: the pool is checked, and somebody wrote into a buffer that was given back.
    fn take<'py>(&mut self, py: Python<'py>, size: isize) -> PyResult<Bound<'py, PyMemoryView>> {
        if size <= 0 {
            return Err(PyValueError::new_err(format!("a buffer has at least one byte, not {size}")));
        }
        let found = self.found(py, size as usize)?;
        self.taken += 1;
        let length = found.block.get().slot.size();
        *(if found.kept { &mut self.lent_bytes } else { &mut self.loose_bytes }) += length;
        let view = found.view.bind(py).clone();
        self.lent.insert(view.as_ptr() as usize, found);
        Ok(view)
    }

    /// Keeps ``buffer`` for the next `take` of its class, unless it is a loose one. See `Pool.give`.
    ///
    /// Raises:
    ///     PoolError: see `Pool.give`; and where the pool is checked, another view of it lives.
    ///     ValueError: the view was released.
    fn give(&mut self, buffer: &Bound<'_, PyMemoryView>) -> PyResult<()> {
        let address = buffer.as_ptr() as usize;
        if !self.lent.contains_key(&address) {
            return Err(PoolError::new_err(
                "this buffer was given back before, or was never taken from this pool",
            ));
        }
        buffer.len()?; // a released view fails here, and nothing has changed
        match self.lent.remove(&address) {
            Some(buffer_of_ours) => self.put_back(buffer.py(), buffer_of_ours),
            None => Ok(()),
        }
    }

    /// Counts; ``held`` are the bytes of the arenas that are not lent now.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static STATS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let held = self.slabs.bytes() - self.lent_bytes;
        let lent = self.lent_bytes + self.loose_bytes;
        STATS.import(py, "portask.contracts", "PoolStats")?.call1((self.taken, self.reused, held, lent))
    }
}
