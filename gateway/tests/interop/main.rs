//! Spillway on real networks: gateways in network namespaces against the IPsec of a Linux kernel and of scapy,
//! tshark, the kernel's TCP and ICMP, and each other.
//!
//! All of it needs root and `ip`; a test that lacks something prints `SKIPPED name: why`, and fails when CI=true.
//! Each test makes its own namespaces, waits for conditions and never for a fixed time, and has the machine for
//! itself while it runs ([`serial`]).

#![cfg(test)]

#[cfg(feature = "dpdk")]
mod dpdk;
#[cfg(feature = "dpdk")]
mod dpdk_captures;
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
mod waiting;

use std::time::Duration;

use waiting::{serial, wait_for};

/// How long a test waits for what must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(15);
