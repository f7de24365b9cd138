//! The anti-replay window.

/// x
#[derive(Debug)]
pub struct ReplayWindow;
