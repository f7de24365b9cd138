//! SIGTERM and SIGINT: the gateway stops receiving, sends what it holds, and exits with 0.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether a signal asked the gateway to stop.
pub(super) struct Stop(Arc<AtomicUsize>);

/// Starts to take notice of signals. A second one ends the process at once.
pub(super) fn on_signals() -> io::Result<Stop> {
    let flag = Arc::new(AtomicUsize::new(0));
    for signal in [SIGTERM, SIGINT] {
        let already = Arc::new(std::sync::atomic::AtomicBool::new(false));
        // In this order: the handler sees what the one before it set, so only the second signal ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&already))?;
        signal_hook::flag::register(signal, already)?;
        signal_hook::flag::register_usize(signal, Arc::clone(&flag), signal as usize)?;
    }
    Ok(Stop(flag))
}

impl Stop {
    /// The signal's name, once one came.
    pub(super) fn requested(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) as i32 {
            0 => None,
            SIGINT => Some("SIGINT"),
            _ => Some("SIGTERM"),
        }
    }
}
