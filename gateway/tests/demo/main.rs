//! `spillway demo` as a user runs it: what it shows, and that nothing of it stays.
//!
//! `#[cfg(test)]` lets helpers fail by `unwrap`, as tests do.

#[cfg(test)]
mod ends;
#[cfg(test)]
mod program;
#[cfg(test)]
mod shows;
