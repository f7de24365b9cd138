//! `spillway`: the command line of the appliance.
#![forbid(unsafe_code)]
fn main() {}
