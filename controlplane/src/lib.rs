//! IKEv2 for Spillway: a sans-IO protocol core, and the one control thread that drives it.
#![forbid(unsafe_code)]

pub mod auth;
pub mod crypto;
pub mod proposal;
pub mod selector;
pub mod wire;
