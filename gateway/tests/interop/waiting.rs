//! Waiting for conditions, and for the machine.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// Keeps other tests with gateways from running, in this process or another, until it is dropped: they share the
/// machine's cores.
pub fn serial() -> File {
    let path = std::env::temp_dir().join("spillway-interop.lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).expect("opens a lock file");
    file.lock().expect("locks it");
    file
}

/// Waits until `condition` gives a value; panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sets the flag when it is dropped, so that a thread which goes on until then ends also when an assertion fails.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
