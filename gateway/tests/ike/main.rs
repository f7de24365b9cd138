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
mod proofs;
mod site;
mod strongswan;
mod swan_addresses;
#[cfg(feature = "dpdk")]
mod swan_dpdk;
mod swan_eap;
mod swan_establish;
mod swan_life;
mod swan_proofs;
mod swan_traffic;
#[allow(dead_code, reason = "shared with the tests of the data plane")]
#[path = "../interop/traffic.rs"]
mod traffic;
mod uplinks;
#[path = "../interop/waiting.rs"]
mod waiting;

use std::time::Duration;

use waiting::{serial, wait_for};

/// How long a test waits for what must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
