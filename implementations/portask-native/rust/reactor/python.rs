//! The reactor as Python sees it.

use super::frames::{frames, refused, Framer};
use super::framing::HELLO_LIMIT;
use super::idle::{Idle, Waiting};
use super::output::Output;
use super::sockets::{Peer, Sockets};
use super::unsent::{HIGH, LOW};
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
    m.add_class::<Framer>()
}

/// One endpoint, and what the reactor told it and knows of it.
struct Endpoint {
    object: Py<PyAny>,
    output: Py<PyList>,
    paused: bool,
    congested: bool,
    /// Closing, with something unsent: until then.
    until: Option<Instant>,
}

type Connection = Peer<Endpoint>;

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
    sockets: Sockets<Endpoint>,
    places: HashMap<usize, u32, BuildHasherDefault<Address>>,
    leaving: VecDeque<(Instant, u32)>,
    engine: Py<PyAny>,
    starved: Py<PyAny>,
    complained: Option<Instant>,
    grace: Duration,
    now: i64,
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
    /// Args: `listener` a listening socket that does not block, which the reactor closes; `starved` is called with
    /// the number of connections when descriptors run out; `grace` in seconds.
    #[new]
    #[pyo3(signature = (listener, engine, starved, *, read_bytes, idle, spin_us, grace))]
    #[allow(clippy::too_many_arguments)] // they are options, given by name
    fn new(
        listener: RawFd,
        engine: Py<PyAny>,
        starved: Py<PyAny>,
        read_bytes: usize,
        idle: &str,
        spin_us: u64,
        grace: f64,
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
        Ok(Reactor {
            state: Mutex::new(Some(State {
                sockets: Sockets::new(listener, wake.clone(), read_bytes, waiting).map_err(failed)?,
                places: HashMap::default(),
                leaving: VecDeque::new(),
                engine,
                starved,
                complained: None,
                grace: Duration::try_from_secs_f64(grace)
                    .map_err(|why| PyValueError::new_err(format!("grace: {why}")))?,
                now: 0,
            })),
            wake: Mutex::new(Some(wake)),
            woken: AtomicBool::new(false),
        })
    }

    /// Waits until something arrives, `deadline` at most (µs since the epoch, `None` for ever), and takes it in.
    /// Gives the time and, for each endpoint that sent something, `(endpoint, frames, refused header)`.
    fn wait<'py>(&self, py: Python<'py>, deadline: Option<i64>) -> PyResult<(i64, Bound<'py, PyList>)> {
        self.with(|state| {
            let timeout = state.timeout(deadline);
            let sockets = &mut state.sockets;
            let came = py.detach(|| sockets.wait(timeout)).map_err(failed)?;
            // before anything is looked at: a `wake` that comes now is for what the next turn may not see
            self.woken.store(false, Ordering::SeqCst);
            if !came {
                py.check_signals()?;
            }
            state.clock();
            state.settle(py)?;
            let arrived = state.arrived(py)?;
            Ok((state.now, arrived))
        })
    }

    /// Sends what the endpoints have in their outputs, and follows their `closing`, `paused` and `frame_limit`.
    fn send(&self, py: Python<'_>, departing: &Bound<'_, PyAny>) -> PyResult<()> {
        self.with(|state| {
            let mut places = Vec::with_capacity(8);
            for endpoint in departing.try_iter()? {
                places.extend(state.places.get(&(endpoint?.as_ptr() as usize)));
            }
            state.send(py, &places)?;
            for place in places {
                state.follow(py, place)?;
            }
            state.let_go(py)
        })
    }

    /// Ends every `wait` while the descriptor is readable, which the engine reads; the reactor closes it.
    fn listen_for(&self, bell: RawFd) -> PyResult<()> {
        // SAFETY: the caller duplicated it for us, so it is nobody else's to close.
        let bell = unsafe { OwnedFd::from_raw_fd(bell) };
        self.with(|state| state.sockets.listen_for(bell).map_err(failed))
    }

    /// How many connections there are.
    #[getter]
    fn connections(&self) -> PyResult<usize> {
        self.with(|state| Ok(state.sockets.count()))
    }

    /// Accepts no more.
    fn stop_listening(&self) -> PyResult<()> {
        self.with(|state| {
            state.sockets.stop_listening();
            Ok(())
        })
    }

    /// Ends the `wait` that is under way, or the next one. From any thread, also after `close`.
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
        for place in state.sockets.places() {
            state.sockets.close(place);
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

    fn timeout(&mut self, deadline: Option<i64>) -> Option<Duration> {
        let due = deadline.map(|due| {
            self.clock();
            Duration::from_micros(due.saturating_sub(self.now).max(0) as u64)
        });
        let until = self.leaving.front().map(|(until, _)| until.saturating_duration_since(Instant::now()));
        due.into_iter().chain(until).min()
    }

    /// Tells the engine who came and went.
    fn settle(&mut self, py: Python<'_>) -> PyResult<()> {
        if self.sockets.pass.starved {
            self.complain(py)?;
        }
        for (place, address) in std::mem::take(&mut self.sockets.pass.accepted) {
            let name = format!("{}:{}", address.ip(), address.port());
            let method = intern!(py, "connect");
            let object = self.engine.bind(py).call_method1(method, (name, self.now))?;
            let output = object.getattr(intern!(py, "output")).map_err(|_| {
                PyTypeError::new_err(
                    "the engine's endpoints take no frames: see portask.contracts.FramedEndpoint",
                )
            })?;
            self.places.insert(object.as_ptr() as usize, place);
            if let Some(peer) = self.sockets.peer(place) {
                peer.tag = Some(Endpoint {
                    output: output.cast_into::<PyList>()?.unbind(),
                    object: object.unbind(),
                    paused: false,
                    congested: false,
                    until: None,
                });
            }
        }
        for place in std::mem::take(&mut self.sockets.pass.written) {
            self.follow(py, place)?;
        }
        while let Some((until, place)) = self.leaving.front().copied() {
            if until > Instant::now() {
                break;
            }
            self.leaving.pop_front();
            let same = |peer: &mut Connection| peer.tag.as_ref().is_some_and(|tag| tag.until == Some(until));
            if self.sockets.peer(place).is_some_and(same) {
                self.sockets.close(place);
            }
        }
        self.let_go(py)
    }

    /// Tells the engine who is gone.
    fn let_go(&mut self, py: Python<'_>) -> PyResult<()> {
        for endpoint in std::mem::take(&mut self.sockets.pass.gone) {
            self.places.remove(&(endpoint.object.as_ptr() as usize));
            self.engine.bind(py).call_method1(intern!(py, "disconnect"), (endpoint.object,))?;
        }
        Ok(())
    }

    fn complain(&mut self, py: Python<'_>) -> PyResult<()> {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= Duration::from_secs(1)) {
            self.complained = Some(now);
            self.starved.bind(py).call1((self.sockets.count(),))?;
        }
        Ok(())
    }

    fn arrived<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for arrived in std::mem::take(&mut self.sockets.pass.arrived) {
            let tag = self.sockets.peer(arrived.peer).and_then(|peer| peer.tag.as_ref());
            if let Some(tag) = tag {
                let object = tag.object.bind(py);
                let frames = frames(py, arrived.frames)?;
                list.append((object, frames, refused(py, arrived.refused)))?;
            }
        }
        Ok(list)
    }

    /// Takes the outputs and writes them.
    fn send(&mut self, py: Python<'_>, places: &[u32]) -> PyResult<()> {
        let mut output = Output::default();
        let mut ends = Vec::with_capacity(places.len());
        for &place in places {
            let Some(tag) = self.sockets.peer(place).and_then(|peer| peer.tag.as_ref()) else {
                continue;
            };
            let frames = tag.output.bind(py);
            if !frames.is_empty() {
                for frame in frames.iter() {
                    output.add(&frame)?;
                }
                frames.del_slice(0, frames.len())?;
                ends.push((place, output.pieces.len()));
            }
        }
        let slices = output.slices(py);
        let sockets = &mut self.sockets;
        py.detach(|| {
            let mut start = 0;
            for (place, end) in ends {
                sockets.send(place, &slices[start..end]);
                start = end;
            }
        });
        Ok(())
    }

    /// Looks at what an endpoint wants, and tells it how much is unsent.
    fn follow(&mut self, py: Python<'_>, place: u32) -> PyResult<()> {
        let Some(peer) = self.sockets.peer(place) else {
            return Ok(());
        };
        let unsent = peer.unsent();
        let greeted = *peer.limit() != HELLO_LIMIT;
        let Some(tag) = peer.tag.as_mut() else {
            return Ok(());
        };
        let object = tag.object.clone_ref(py).into_bound(py);
        let closing = object.getattr(intern!(py, "closing"))?.is_truthy()?;
        let paused = object.getattr(intern!(py, "paused"))?.is_truthy()?;
        let changed = paused != tag.paused;
        tag.paused = paused;
        let was_congested = tag.congested;
        tag.congested = unsent > HIGH || (was_congested && unsent >= LOW);
        let congested = tag.congested;
        let leaving = closing && unsent > 0 && tag.until.is_none();
        if leaving {
            let until = Instant::now() + self.grace;
            tag.until = Some(until);
            self.leaving.push_back((until, place));
        }
        if !greeted {
            let limit: u64 = object.getattr(intern!(py, "frame_limit"))?.extract()?;
            *peer.limit() = u32::try_from(limit).unwrap_or(u32::MAX);
        }
        if changed {
            self.sockets.pause(place, paused);
        }
        if closing && unsent == 0 {
            self.sockets.close(place);
        }
        if congested && !was_congested {
            object.setattr(intern!(py, "congested"), true)?;
        } else if was_congested && !congested {
            let method = intern!(py, "uncongested");
            self.engine.bind(py).call_method1(method, (object,))?;
        }
        Ok(())
    }
}

fn failed(error: rustix::io::Errno) -> PyErr {
    std::io::Error::from(error).into()
}
