//! Spillway on real networks: gateways in network namespaces against the IPsec of a Linux kernel and of scapy,
//! tshark, the kernel's TCP and ICMP, and each other.
//!
//! All of it needs root and `ip`; a test that lacks something prints `SKIPPED name: why`, and fails when CI=true.
//! Each test makes its own namespaces, waits for conditions and never for a fixed time, and has the machine for
//! itself while it runs ([`serial`]).

#![cfg(test)]

#[cfg(feature = "dpdk")]
mod dpdk;
mod gateway;
mod guest;
mod kernel;
#[path = "../../../dataplane/tests/netns/mod.rs"]
mod netns;
mod operation;
mod path_mtu;
mod refusals;
mod scapy;
mod site;
mod traffic;
mod tshark;
mod tunnel;

use std::fs::File;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(15);

/// Keeps other tests of this program from running, in this process or another, until it is dropped: gateways
/// share the machine's cores.
fn serial() -> File {
    let path = std::env::temp_dir().join("spillway-interop.lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).expect("opens a lock file");
    file.lock().expect("locks it");
    file
}

/// Waits until `condition` gives a value; panics with `what` after [`PATIENCE`].
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}
