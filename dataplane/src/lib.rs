//! The Spillway data plane: poll-mode workers that carry ESP and AH.

pub mod buffer;
pub mod crypto;
pub mod drops;
pub mod host;
pub mod message;
pub mod packet;
pub mod policy;
pub mod port;
pub mod sa;
mod sync;
