//! The one place that names atomics, so that a model checker can stand in for them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p spillway-dataplane --lib --release loom` runs the models.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
