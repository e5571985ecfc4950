//! The reactor as Python sees it.

use super::frames::{frames, refused, Framer};
use super::framing::HELLO_LIMIT;
use super::idle::{Idle, Waiting};
use super::output::Output;
use super::peers::{Arrived, Departure, Transport};
use super::sockets::Sockets;
use super::uring::{self, Uring};
use crate::calls::{call, call_method, int};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use rustix::event::EventfdFlags;
use rustix::fd::{FromRawFd, OwnedFd, RawFd};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Adds the classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Reactor>()?;
    m.add_class::<Framer>()?;
    m.add_function(wrap_pyfunction!(why_no_uring, m)?)
}

/// Why io_uring cannot be used here; ``None`` when it can.
#[pyfunction]
fn why_no_uring() -> Option<String> {
    uring::why_not()
}

/// One endpoint, and what the reactor told it and knows of it.
struct Endpoint {
    object: Py<PyAny>,
    output: Py<PyList>,
}

/// Hashes the address of an object.
#[derive(Default)]
struct Address(u64);

impl Hasher for Address {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) ^ u64::from(*byte);
        }
    }

    fn write_usize(&mut self, address: usize) {
        // objects are 16 bytes apart: the multiplication spreads what differs (Fibonacci hashing)
        self.0 = (address as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

struct State {
    transport: Box<dyn Transport<Endpoint>>,
    places: HashMap<usize, u32, BuildHasherDefault<Address>>,
    /// Those that are to read the rest: until when, and who, by place and serial.
    leaving: VecDeque<(Instant, u32, u32)>,
    engine: Py<PyAny>,
    /// The engine's methods that every turn calls.
    deadline: Py<PyAny>,
    turn: Py<PyAny>,
    starved: Py<PyAny>,
    complained: Option<Instant>,
    grace: Duration,
    now: i64,
    /// What the last turn left to be sent.
    output: Output,
    departures: Vec<Departure>,
}

/// Sockets of one server. One thread calls everything but `wake`.
#[pyclass(frozen, module = "portask_native")]
pub struct Reactor {
    state: Mutex<Option<State>>,
    wake: Mutex<Option<Arc<OwnedFd>>>,
    woken: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Reactor {
    /// Args: `by` what moves the bytes, `epoll` or `uring`; `listener` a listening socket that does not block, which the
    /// reactor closes; `starved` is called with the number of connections when descriptors run out; `read_bytes` is for
    /// `epoll`; `grace` in seconds.
    #[new]
    #[pyo3(signature = (by, listener, engine, starved, *, idle, spin_us, grace, read_bytes = 0))]
    #[allow(clippy::too_many_arguments)] // they are options, given by name
    fn new(
        py: Python<'_>,
        by: &str,
        listener: RawFd,
        engine: Py<PyAny>,
        starved: Py<PyAny>,
        idle: &str,
        spin_us: u64,
        grace: f64,
        read_bytes: usize,
    ) -> PyResult<Self> {
        // SAFETY: the caller detached it from its socket object, so it is nobody else's to close.
        let listener = unsafe { OwnedFd::from_raw_fd(listener) };
        let idle = match idle {
            "sleep" => Idle::Sleep,
            "spin-then-sleep" => Idle::SpinThenSleep,
            "spin" => Idle::Spin,
            other => {
                return Err(PyValueError::new_err(format!(
                    "idle is sleep, spin-then-sleep or spin, not {other:?}"
                )))
            }
        };
        let waiting = Waiting::new(idle, Duration::from_micros(spin_us));
        let wake =
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let wake = Arc::new(wake);
        let woken = wake.clone();
        let transport: Box<dyn Transport<Endpoint>> = match by {
            "epoll" => Box::new(Sockets::new(listener, woken, read_bytes, waiting).map_err(failed)?),
            "uring" => Box::new(Uring::new(listener, woken, waiting)?),
            other => {
                return Err(PyValueError::new_err(format!(
                    "bytes are moved by epoll or uring, not {other:?}"
                )))
            }
        };
        Ok(Reactor {
            state: Mutex::new(Some(State {
                transport,
                places: HashMap::default(),
                leaving: VecDeque::new(),
                deadline: engine.getattr(py, intern!(py, "deadline"))?,
                turn: engine.getattr(py, intern!(py, "turn"))?,
                engine,
                starved,
                complained: None,
                grace: Duration::try_from_secs_f64(grace)
                    .map_err(|why| PyValueError::new_err(format!("grace: {why}")))?,
                now: 0,
                output: Output::default(),
                departures: Vec::new(),
            })),
            wake: Mutex::new(Some(wake)),
            woken: AtomicBool::new(false),
        })
    }

    /// Sends what the last turn left, waits until something arrives, or to the engine's deadline, or `latest` (µs since
    /// the epoch, `None` for neither), and takes the engine's next turn.
    #[pyo3(signature = (latest = None))]
    fn turn(&self, py: Python<'_>, latest: Option<i64>) -> PyResult<()> {
        self.with(|state| {
            let deadline = state.deadline(py)?;
            let timeout = state.timeout([deadline, latest].into_iter().flatten().min());
            let came = state.exchange(py, timeout)?;
            // before anything is looked at: a `wake` that comes now is for what the next turn may not see
            self.woken.store(false, Ordering::SeqCst);
            if !came {
                py.check_signals()?;
            }
            state.clock();
            state.settle(py)?;
            state.hand_over(py)?;
            state.gather(py)
        })
    }

    /// Ends every wait while the descriptor is readable, which the engine reads; the reactor closes it.
    fn listen_for(&self, bell: RawFd) -> PyResult<()> {
        // SAFETY: the caller duplicated it for us, so it is nobody else's to close.
        let bell = unsafe { OwnedFd::from_raw_fd(bell) };
        self.with(|state| state.transport.listen_for(bell).map_err(failed))
    }

    /// How many connections there are.
    #[getter]
    fn connections(&self) -> PyResult<usize> {
        self.with(|state| Ok(state.transport.peers().count()))
    }

    /// Accepts no more.
    fn stop_listening(&self) -> PyResult<()> {
        self.with(|state| {
            state.transport.stop_listening();
            Ok(())
        })
    }

    /// Ends the wait that is under way, or the next one. From any thread, also after `close`.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            if let Some(wake) = locked(&self.wake).as_ref() {
                // it can only fail when it is full, and then nothing is missing
                let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
            }
        }
    }

    /// Hangs up on everybody and closes everything. Idempotent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        *locked(&self.wake) = None;
        let taken = locked(&self.state).take();
        let Some(mut state) = taken else {
            return Ok(());
        };
        for place in state.transport.peers().places() {
            state.transport.close(place);
        }
        state.let_go(py)
    }
}

impl Reactor {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> PyResult<R>) -> PyResult<R> {
        let mut guard = match self.state.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(PyRuntimeError::new_err(
                    "the reactor is at work: it is one thread's, and the engine may only call wake",
                ))
            }
        };
        match guard.as_mut() {
            Some(state) => act(state),
            None => Err(PyRuntimeError::new_err("the reactor is closed")),
        }
    }
}

impl State {
    fn clock(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        self.now = self.now.max(now);
    }

    /// When the engine wants its next turn.
    fn deadline(&self, py: Python<'_>) -> PyResult<Option<i64>> {
        // SAFETY: no arguments.
        unsafe { call(self.deadline.bind(py), []) }?.extract()
    }

    fn timeout(&mut self, deadline: Option<i64>) -> Option<Duration> {
        let due = deadline.map(|due| {
            self.clock();
            Duration::from_micros(due.saturating_sub(self.now).max(0) as u64)
        });
        let until = self.leaving.front().map(|(until, ..)| until.saturating_duration_since(Instant::now()));
        due.into_iter().chain(until).min()
    }

    /// Sends and waits, without the interpreter.
    fn exchange(&mut self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<bool> {
        let (transport, departures) = (&mut self.transport, &self.departures);
        let parts = self.output.slices(py);
        let came = py.detach(|| transport.exchange(departures, &parts, timeout)).map_err(failed);
        drop(parts);
        self.departures.clear();
        self.output.clear();
        came
    }

    /// Tells the engine who came and went, and who has room.
    fn settle(&mut self, py: Python<'_>) -> PyResult<()> {
        let pass = &mut self.transport.peers().pass;
        let (accepted, congested) = (std::mem::take(&mut pass.accepted), std::mem::take(&mut pass.congested));
        let lingering = std::mem::take(&mut pass.lingering);
        if pass.starved {
            self.complain(py)?;
        }
        for (place, address) in accepted {
            let name = format!("{}:{}", address.ip(), address.port());
            let method = intern!(py, "connect");
            let object = self.engine.bind(py).call_method1(method, (name, self.now))?;
            let output = object.getattr(intern!(py, "output")).map_err(|_| {
                PyTypeError::new_err(
                    "the engine's endpoints take no frames: see portask.contracts.FramedEndpoint",
                )
            })?;
            if let Some(peer) = self.transport.peers().get(place) {
                self.places.insert(object.as_ptr() as usize, place);
                peer.tag = Some(Endpoint {
                    output: output.cast_into::<PyList>()?.unbind(),
                    object: object.unbind(),
                });
            }
        }
        for (place, congested) in congested {
            if let Some(object) = self.endpoint(py, place) {
                if congested {
                    object.setattr(intern!(py, "congested"), true)?;
                } else {
                    self.engine.bind(py).call_method1(intern!(py, "uncongested"), (object,))?;
                }
            }
        }
        let now = Instant::now();
        for place in lingering {
            let until = now + self.grace;
            if let Some(peer) = self.transport.peers().get(place) {
                self.leaving.push_back((until, place, peer.serial));
            }
        }
        while let Some((until, place, serial)) = self.leaving.front().copied() {
            if until > Instant::now() {
                break;
            }
            self.leaving.pop_front();
            if self.transport.peers().get(place).is_some_and(|peer| peer.serial == serial) {
                self.transport.close(place);
            }
        }
        self.let_go(py)
    }

    fn endpoint<'py>(&mut self, py: Python<'py>, place: u32) -> Option<Bound<'py, PyAny>> {
        let tag = self.transport.peers().get(place)?.tag.as_ref()?;
        Some(tag.object.bind(py).clone())
    }

    /// Tells the engine who is gone.
    fn let_go(&mut self, py: Python<'_>) -> PyResult<()> {
        for endpoint in std::mem::take(&mut self.transport.peers().pass.gone) {
            self.places.remove(&(endpoint.object.as_ptr() as usize));
            self.engine.bind(py).call_method1(intern!(py, "disconnect"), (endpoint.object,))?;
        }
        Ok(())
    }

    fn complain(&mut self, py: Python<'_>) -> PyResult<()> {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= Duration::from_secs(1)) {
            self.complained = Some(now);
            self.starved.bind(py).call1((self.transport.peers().count(),))?;
        }
        Ok(())
    }

    /// Hands the endpoints what arrived for them.
    fn hand_over(&mut self, py: Python<'_>) -> PyResult<()> {
        for Arrived { peer, frames: taken, refused: header } in
            std::mem::take(&mut self.transport.peers().pass.arrived)
        {
            let Some(object) = self.endpoint(py, peer) else {
                continue;
            };
            let name = intern!(py, "receive_frames");
            let frames = frames(py, taken)?;
            match header {
                // SAFETY: all are held here.
                None => unsafe { call_method(name, [object.as_ptr(), frames.as_ptr()]) }?,
                Some(header) => object.call_method1(name, (frames, refused(py, Some(header))))?,
            };
        }
        Ok(())
    }

    /// Takes the engine's turn, and gathers what it leaves: outputs, and who is to be paused or hung up on.
    fn gather(&mut self, py: Python<'_>) -> PyResult<()> {
        let now = int(py, self.now as u64)?;
        // SAFETY: it is held here.
        let departing = unsafe { call(self.turn.bind(py), [now.as_ptr()]) }?;
        for endpoint in departing.try_iter()? {
            let endpoint = endpoint?;
            let Some(&place) = self.places.get(&(endpoint.as_ptr() as usize)) else {
                continue; // it is gone
            };
            let Some(peer) = self.transport.peers().get(place) else {
                continue;
            };
            let greeted = *peer.limit() != HELLO_LIMIT;
            let paused = endpoint.getattr(intern!(py, "paused"))?.is_truthy()?;
            let turned = std::mem::replace(&mut peer.paused, paused) != paused;
            let Some(tag) = peer.tag.as_ref() else {
                continue;
            };
            let frames = tag.output.bind(py);
            let queued = frames.len();
            if queued > 0 {
                for frame in frames.iter() {
                    self.output.add(&frame)?;
                }
                frames.del_slice(0, queued)?;
            }
            if !greeted {
                let limit: u64 = endpoint.getattr(intern!(py, "frame_limit"))?.extract()?;
                *peer.limit() = u32::try_from(limit).unwrap_or(u32::MAX);
            }
            let closing = endpoint.getattr(intern!(py, "closing"))?.is_truthy()?;
            if queued > 0 || closing {
                self.departures.push(Departure { place, end: self.output.pieces.len(), closing });
            }
            if turned {
                self.transport.pause(place, paused);
            }
        }
        Ok(())
    }
}

fn failed(error: rustix::io::Errno) -> PyErr {
    std::io::Error::from(error).into()
}
