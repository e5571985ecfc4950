//! A reactor for the server contract: it waits, reads, cuts into frames and writes for all sockets, with the
//! interpreter let go; what the frames mean is decided in Python, once a wake-up and for all sockets together.
//!
//! ```text
//! Reactor.turn   exchange: send to each that has output, wait, accept, receive              (no interpreter)
//!                into shared slabs, frames and batches checked
//!                engine.connect, engine.disconnect for who came and went
//!                endpoint.receive_frames(…) each, then engine.turn(now) once
//!                the output lists of those that turn named are taken: the next call sends them
//! ```
//!
//! What moves the bytes is a `peers::Transport`: `sockets` by epoll, `uring` by io_uring. Framing, limits, what is unsent
//! and everything that Python sees are the same for both.
//!
//! What must hold:
//!
//! - A frame's body is a view of a slab. A slab is filled again only where no view of it is left, so a view that is
//!   kept too long costs memory and never shows other bytes (`buffers`, `body`).
//! - Output is read where Python has it. The lists' items are kept alive, and their buffers locked, until the kernel
//!   has taken them; what it does not take is copied (`unsent`).
//! - Sending is the last thing before the wait. Who is woken by it often takes this very core at once, and whatever was
//!   still to do would be done later, with cold caches.
//! - A place names another peer only after the next exchange began (`peers`).
//! - Python objects are only ever let go with the interpreter held: peers that end while it is not are handed over
//!   (`Pass::gone`).

pub mod batches;
pub mod buffers;
pub mod framing;
pub mod idle;
pub mod peers;
pub mod poller;
pub mod provided;
pub mod sockets;
pub mod unsent;
pub mod uring;

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(feature = "python")]
mod body;
#[cfg(feature = "python")]
mod frames;
#[cfg(feature = "python")]
mod output;
#[cfg(feature = "python")]
mod python;

#[cfg(feature = "python")]
pub use python::register;
