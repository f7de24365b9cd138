//! IKEv2 for Spillway: a sans-IO protocol core, and the one control thread that drives it.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod crypto;
pub mod endpoint;
mod lease;
mod peer;
mod pool;
pub mod proposal;
pub mod rejection;
mod sa;
pub mod selector;
#[cfg(test)]
mod sim;
pub mod timer;
pub mod update;
pub mod wire;

pub use endpoint::Endpoint;
