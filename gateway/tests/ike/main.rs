//! Spillway's IKEv2 on real networks: gateways in network namespaces that negotiate with each other and with strongSwan.
//!
//! All of it needs root and `ip`; a test that lacks something prints `SKIPPED name: why`, and fails when CI=true.
//! Each test makes its own namespaces, waits for conditions and never for a fixed time, and has the machine for
//! itself while it runs ([`serial`]).

#![cfg(test)]

mod certificates;
mod establish;
#[allow(dead_code, reason = "shared with the tests of the data plane")]
#[path = "../interop/gateway.rs"]
mod gateway;
mod harness;
mod keylog;
mod lab;
mod load;
mod nat;
#[path = "../../../dataplane/tests/netns/mod.rs"]
mod netns;
mod operate;
mod options;
mod pair;
mod pki;
mod site;
mod strongswan;
mod swan_establish;
mod swan_life;
#[allow(dead_code, reason = "shared with the tests of the data plane")]
#[path = "../interop/traffic.rs"]
mod traffic;

use std::fs::File;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps other tests with gateways from running, in this process or another, until it is dropped: they share the
/// machine's cores.
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
