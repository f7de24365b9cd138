//! The Spillway appliance: configuration, command line, control socket and wiring. No protocol logic.
#![forbid(unsafe_code)]

pub mod config;
pub mod host;
