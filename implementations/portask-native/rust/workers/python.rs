//! `ThreadWorkers` and its steps, as Python sees them.

use super::crew::{self, Crew, Job};
use super::steps::{self, Tools};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pyo3::import_exception!(portask.errors, WorkersFull);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ── steps ────────────────────────────────────────────────────────────────────────────────────────────────

/// Bytes of a Python buffer, held so that threads without the interpreter can read them.
struct Input {
    buffer: PyUntypedBuffer,
}

impl Input {
    fn new(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(data)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the bytes of a step are contiguous"));
        }
        Ok(Self { buffer })
    }

    fn bytes(&self) -> &[u8] {
        if self.buffer.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous and held for as long as `self`. That nobody writes into it before
        // the step is done is what its docstring asks for; ``bytes`` cannot be written at all.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast(), self.buffer.len_bytes()) }
    }
}

/// What a step gives, before Python sees it.
enum Outcome {
    Bytes(Vec<u8>),
    Number(u32),
    Object(Py<PyAny>),
    Raised(PyErr),
    Failed(String),
}

impl Outcome {
    fn of(result: steps::Result<Vec<u8>>) -> Self {
        result.map_or_else(Self::Failed, Self::Bytes)
    }

    fn into_python(self, py: Python<'_>) -> Result<Py<PyAny>, PyErr> {
        match self {
            Self::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any().unbind()),
            Self::Number(number) => Ok(PyInt::new(py, number).into_any().unbind()),
            Self::Object(object) => Ok(object),
            Self::Raised(error) => Err(error),
            Self::Failed(why) => Err(PyValueError::new_err(why)),
        }
    }
}

/// A step that needs no interpreter.
trait Native: Sync {
    fn run(&self, tools: &mut Tools) -> Outcome;

    /// Runs it on the thread that calls it, without the interpreter lock.
    fn call(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        thread_local! {
            static TOOLS: RefCell<Tools> = RefCell::default();
        }
        py.detach(|| TOOLS.with_borrow_mut(|tools| self.run(tools))).into_python(py)
    }
}

/// Compresses ``data`` as one zstd frame (RFC 8878): a step for workers, or called at once. Gives bytes.
///
/// Args:
///     data: Must not change until the step is done.
///     level: zstd's.
///
/// Raises:
///     ValueError: zstd has no such level.
#[pyclass(frozen, module = "portask_native._native")]
pub struct ZstdCompress {
    data: Input,
    level: i32,
}

#[pymethods]
impl ZstdCompress {
    #[new]
    #[pyo3(signature = (data, level = 3))]
    fn new(data: &Bound<'_, PyAny>, level: i32) -> PyResult<Self> {
        let known = steps::levels();
        if !known.contains(&level) {
            let (least, most) = (known.start(), known.end());
            return Err(PyValueError::new_err(format!(
                "zstd has levels from {least} to {most}, not {level}"
            )));
        }
        Ok(Self { data: Input::new(data)?, level })
    }

    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.call(py)
    }
}

impl Native for ZstdCompress {
    fn run(&self, tools: &mut Tools) -> Outcome {
        Outcome::of(tools.compress(self.data.bytes(), self.level))
    }
}

/// Decompresses one zstd frame of exactly ``length`` raw bytes: a step for workers, or called at once. Gives
/// bytes.
///
/// A frame of any other length is a ValueError when the step is done, and never more than ``length`` bytes
/// are written.
///
/// Args:
///     data: Must not change until the step is done.
///     length: Declared by whoever sent it, and checked against a limit before.
#[pyclass(frozen, module = "portask_native._native")]
pub struct ZstdDecompress {
    data: Input,
    length: usize,
}

#[pymethods]
impl ZstdDecompress {
    #[new]
    fn new(data: &Bound<'_, PyAny>, length: usize) -> PyResult<Self> {
        Ok(Self { data: Input::new(data)?, length })
    }

    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.call(py)
    }
}

impl Native for ZstdDecompress {
    fn run(&self, tools: &mut Tools) -> Outcome {
        Outcome::of(tools.decompress(self.data.bytes(), self.length))
    }
}

/// The CRC32C of ``data``: a step for workers, or called at once. Gives an integer.
///
/// Args:
///     data: Must not change until the step is done.
#[pyclass(frozen, module = "portask_native._native")]
pub struct Crc32c {
    data: Input,
}

#[pymethods]
impl Crc32c {
    #[new]
    fn new(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { data: Input::new(data)? })
    }

    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.call(py)
    }
}

impl Native for Crc32c {
    fn run(&self, _tools: &mut Tools) -> Outcome {
        Outcome::Number(steps::checksum(self.data.bytes()))
    }
}

/// A step as it was submitted.
enum Step {
    Compress(Py<ZstdCompress>),
    Decompress(Py<ZstdDecompress>),
    Checksum(Py<Crc32c>),
    Python(Py<PyAny>),
}

impl Step {
    fn of(step: Bound<'_, PyAny>) -> Self {
        if let Ok(known) = step.cast::<ZstdCompress>() {
            Self::Compress(known.clone().unbind())
        } else if let Ok(known) = step.cast::<ZstdDecompress>() {
            Self::Decompress(known.clone().unbind())
        } else if let Ok(known) = step.cast::<Crc32c>() {
            Self::Checksum(known.clone().unbind())
        } else {
            Self::Python(step.unbind())
        }
    }

    /// What the step gives without the interpreter; `None` when it needs it.
    fn run(&self, tools: &mut Tools) -> Option<Outcome> {
        match self {
            Self::Compress(step) => Some(step.get().run(tools)),
            Self::Decompress(step) => Some(step.get().run(tools)),
            Self::Checksum(step) => Some(step.get().run(tools)),
            Self::Python(_) => None,
        }
    }

    /// Calls it, which is the same for the others.
    fn call(&self, py: Python<'_>) -> Outcome {
        let called = match self {
            Self::Compress(step) => step.get().call(py),
            Self::Decompress(step) => step.get().call(py),
            Self::Checksum(step) => step.get().call(py),
            Self::Python(step) => step.call0(py),
        };
        called.map_or_else(Outcome::Raised, Outcome::Object)
    }
}

// ── workers ──────────────────────────────────────────────────────────────────────────────────────────────

struct Flying {
    step: Step,
    done: Py<PyAny>,
    outcome: Mutex<Option<Outcome>>,
    notifier: Option<Arc<Notifier>>,
}

impl Flying {
    fn is_finished(&self) -> bool {
        locked(&self.outcome).is_some()
    }

    fn finish(&self, outcome: Outcome) {
        *locked(&self.outcome) = Some(outcome);
    }
}

impl Job for Flying {
    type Tools = Tools;

    fn run(&self, tools: &mut Tools) {
        let run = std::panic::AssertUnwindSafe(|| self.step.run(tools));
        match std::panic::catch_unwind(run) {
            Ok(Some(outcome)) => self.finish(outcome),
            Err(_) => self.finish(Outcome::Failed("the step panicked".into())),
            Ok(None) => {
                Python::attach(|py| {
                    self.finish(self.step.call(py));
                    if let Some(notifier) = &self.notifier {
                        notifier.call(py); // here and now: we have the lock
                    }
                });
                return;
            }
        }
        if let Some(notifier) = &self.notifier {
            notifier.signal();
        }
    }

    /// Threads are known to the interpreter from their first to their last moment, and without its lock in
    /// between: making itself known for every step would cost a thread more than most steps.
    fn around(work: impl FnOnce() + Send) {
        Python::attach(|py| py.detach(work));
    }
}

/// Calls ``notify``, on a thread of its own where a worker has no interpreter lock.
///
/// A busy loop gives the lock up every 5 ms only, and a worker that waited for it would not work meanwhile.
/// So workers only signal this thread, and it calls once for everything that it was signalled meanwhile.
struct Notifier {
    notify: Py<PyAny>,
    state: Mutex<Pending>,
    more: Condvar,
}

#[derive(Default)]
struct Pending {
    results: bool,
    closed: bool,
}

impl Notifier {
    fn signal(&self) {
        locked(&self.state).results = true;
        self.more.notify_one();
    }

    fn close(&self) {
        locked(&self.state).closed = true;
        self.more.notify_one();
    }

    fn call(&self, py: Python<'_>) {
        if let Err(error) = self.notify.call0(py) {
            error.write_unraisable(py, Some(self.notify.bind(py)));
        }
    }

    fn run(&self) {
        loop {
            let mut state = locked(&self.state);
            while !state.results && !state.closed {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if !state.results {
                return;
            }
            state.results = false;
            drop(state);
            Python::attach(|py| self.call(py));
        }
    }
}

/// Runs steps on threads of Rust, ``limit`` of them in flight at most; `Workers`.
///
/// The steps of its own (`NativeSteps`) run without the interpreter from beginning to end: they neither wait
/// for a busy loop nor hold it up, and all that is left for `poll` is to copy the result. Any other step is
/// called as by `threads`.
///
/// Args:
///     limit: Steps submitted and not yet polled.
///     threads: How many run at once; 0 for one a core, four at most.
///     notify: Called on a thread of its own, once for all results since the last call. What it raises goes
///         to `sys.unraisablehook`.
#[pyclass(frozen, weakref, module = "portask_native._native")]
pub struct ThreadWorkers {
    limit: usize,
    crew: Crew<Flying>,
    notifier: Option<Arc<Notifier>>,
    notifying: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
    /// In the order of submission.
    flight: Mutex<VecDeque<Arc<Flying>>>,
}

#[pymethods]
impl ThreadWorkers {
    #[new]
    #[pyo3(signature = (limit = 64, threads = 0, notify = None))]
    fn new(py: Python<'_>, limit: isize, threads: isize, notify: Option<Py<PyAny>>) -> PyResult<Self> {
        let (1.., 0..) = (limit, threads) else {
            return Err(PyValueError::new_err(format!(
                "workers need a limit ({limit}) of 1 or more and 0 or more threads ({threads})"
            )));
        };
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
        let no_thread = |error: std::io::Error| PyRuntimeError::new_err(format!("no more threads: {error}"));
        let crew = Crew::new(if threads == 0 { cores } else { threads as usize }).map_err(no_thread)?;
        py.detach(|| crew.wait_until_ready()); // they need the interpreter lock once
        let notifier =
            notify.map(|notify| Arc::new(Notifier { notify, state: Mutex::default(), more: Condvar::new() }));
        let mut notifying = None;
        if let Some(notifier) = &notifier {
            let notifier = Arc::clone(notifier);
            let thread = std::thread::Builder::new().name("portask-notify".into());
            notifying = Some(thread.spawn(move || Flying::around(|| notifier.run())).map_err(no_thread)?);
        }
        Ok(Self {
            limit: limit as usize,
            crew,
            notifier,
            notifying: Mutex::new(notifying),
            closed: AtomicBool::new(false),
            flight: Mutex::default(),
        })
    }

    /// Queues ``step`` for the next free thread. See `Workers.submit`.
    ///
    /// Raises:
    ///     WorkersFull: ``limit`` steps are in flight, or the workers are closed.
    fn submit(&self, step: Bound<'_, PyAny>, done: Py<PyAny>) -> PyResult<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(WorkersFull::new_err("the workers are closed: they take no more steps"));
        }
        let step = Step::of(step);
        let mut flight = locked(&self.flight);
        if flight.len() >= self.limit {
            return Err(WorkersFull::new_err(format!(
                "{} steps are in flight: poll and try again, or raise the limit",
                self.limit
            )));
        }
        let job = Arc::new(Flying { step, done, outcome: Mutex::default(), notifier: self.notifier.clone() });
        flight.push_back(Arc::clone(&job));
        self.crew.submit(job);
        Ok(())
    }

    /// Calls ``done`` for every finished step that no unfinished one precedes. See `Workers.poll`.
    ///
    /// A ``done`` that raises ends `poll`. The results behind it stay, and ``notify`` is called for them.
    fn poll(&self, py: Python<'_>) -> PyResult<usize> {
        let most = locked(&self.flight).len(); // what a callback submits is for the next poll
        for count in 0..most {
            let mut flight = locked(&self.flight);
            let job = match flight.front() {
                Some(job) if job.is_finished() => flight.pop_front(),
                _ => None,
            };
            drop(flight); // a callback may submit, or poll
            let Some(job) = job else { return Ok(count) };
            let Some(outcome) = locked(&job.outcome).take() else { return Ok(count) };
            let called = match outcome.into_python(py) {
                Ok(result) => job.done.call1(py, (result, py.None())),
                Err(error) => job.done.call1(py, (py.None(), error)),
            };
            if let Err(error) = called {
                if let Some(notifier) = &self.notifier {
                    notifier.notify.call0(py)?;
                }
                return Err(error);
            }
        }
        Ok(most)
    }

    /// Waits for the steps in flight; their results can still be polled.
    fn close(&self, py: Python<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        self.crew.close();
        let notifying = locked(&self.notifying).take();
        py.detach(|| {
            self.crew.join();
            if let (Some(notifier), Some(thread)) = (&self.notifier, notifying) {
                notifier.close();
                let _ = thread.join(); // what notify raised was reported
            }
        });
    }

    /// Waits for the threads of those that were dropped and not closed. Before the interpreter ends.
    #[staticmethod]
    fn join_dropped(py: Python<'_>) {
        py.detach(crew::join_left);
    }

    /// A step: one zstd frame of ``data``, which must not change until it is done. See `NativeSteps`.
    #[staticmethod]
    #[pyo3(signature = (data, level = 3))]
    fn zstd_compress(data: &Bound<'_, PyAny>, level: i32) -> PyResult<ZstdCompress> {
        ZstdCompress::new(data, level)
    }

    /// A step: the ``length`` raw bytes of a zstd frame, or a ValueError. See `NativeSteps`.
    #[staticmethod]
    fn zstd_decompress(data: &Bound<'_, PyAny>, length: usize) -> PyResult<ZstdDecompress> {
        ZstdDecompress::new(data, length)
    }

    /// A step: the CRC32C of ``data``. See `NativeSteps`.
    #[staticmethod]
    fn crc32c(data: &Bound<'_, PyAny>) -> PyResult<Crc32c> {
        Crc32c::new(data)
    }
}

impl Drop for ThreadWorkers {
    fn drop(&mut self) {
        if let Some(notifier) = &self.notifier {
            notifier.close();
        }
        crew::leave(locked(&self.notifying).take());
    }
}
