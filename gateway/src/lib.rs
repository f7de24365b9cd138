//! The Spillway appliance: configuration, command line, control socket and wiring. No protocol logic.
//!
//! [`config`] turns a YAML file into types; [`run`](run::run) turns those into a gateway. What a gateway tells of
//! itself it tells through [`snapshot::Snapshot`]: [`control`] answers `spillway show` from it, [`metrics`]
//! answers Prometheus. [`demo`] shows it all on any machine.
#![forbid(unsafe_code)]

pub mod appliance;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod host;
pub mod logging;
pub mod metrics;
pub mod run;
pub mod service;
pub mod show;
pub mod snapshot;
pub mod summary;
