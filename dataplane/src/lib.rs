//! The Spillway data plane: poll-mode workers that carry ESP and AH.

pub mod buffer;
pub mod crypto;
pub mod drops;
pub mod lpm;
pub mod message;
pub mod policy;
pub mod port;
pub mod route;
pub mod sa;
mod sync;
