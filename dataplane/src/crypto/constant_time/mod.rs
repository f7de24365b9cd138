//! Whether the engines' time depends on secrets, in two ways.
//!
//! - [`memcheck`] follows the secrets through the instructions of the one tier that valgrind can run, and finds every branch and
//!   address that depends on one. It is exact, and a busy machine does not disturb it.
//! - [`dudect`] measures every engine that the CPU has. Valgrind knows neither VAES, AVX-512 nor the SHA extensions.

mod dudect;
mod memcheck;
pub mod valgrind;
