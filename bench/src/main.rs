//! `spillway-bench`: benches of the crypto engines and of the packet path.
fn main() {}
