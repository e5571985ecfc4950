//! Rings: byte records from one thread or process to another, bounded.

pub mod bell;
pub mod bytes;
mod sync;
