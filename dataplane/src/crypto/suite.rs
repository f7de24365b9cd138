//! Algorithms of an SA.

/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite;
