//! Rings: byte records from one thread or process to another, bounded.
//!
//! Two kinds. Between processes records are copied through memory that both map: [`bytes`] is that ring,
//! [`shared`] its memory. Between threads of one process a record is an object already, so references cross
//! and nothing is copied: [`spsc`] and [`mpmc`] put the contract's account of bytes around rtrb's and
//! crossbeam's queues. [`bell`] is how the consumers of all of them wait.
//!
//! `cargo test` runs the models of loom with `RUSTFLAGS="--cfg loom"`: every order of steps that the memory
//! model allows, up to a number of preemptions (`LOOM_MAX_PREEMPTIONS`).

pub mod bell;
pub mod bytes;
pub mod mpmc;
#[cfg(all(feature = "python", not(loom)))]
mod python;
#[cfg(not(loom))]
pub mod shared;
#[cfg(not(loom))]
pub mod spsc;
mod sync;

#[cfg(feature = "python")]
pub use python::register;
