//! The Spillway data plane: poll-mode workers that carry ESP and AH.

pub mod ah;
pub mod buffer;
pub mod clock;
pub mod crew;
pub mod crypto;
pub mod drops;
pub mod esp;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod heap;
pub mod host;
pub mod lpm;
pub mod message;
pub mod outer;
pub mod packet;
pub mod policy;
pub mod port;
pub mod route;
pub mod sa;
pub mod snapshot;
mod sync;
mod transport;
pub mod worker;
