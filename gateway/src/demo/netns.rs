//! Network namespaces without names: each lives as long as a descriptor, a socket or a process holds it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::Rtnetlink;

/// A network namespace of this process.
pub(super) struct Namespace {
    name: &'static str,
    file: File,
}

impl Namespace {
    /// A new one, with nothing in it. `name` is for messages.
    pub(super) fn new(name: &'static str) -> Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        let file = on_a_thread(make).with_context(|| format!("cannot make the namespace of {name}"))?;
        Ok(Self { name, file })
    }

    /// Runs `inside` on a thread in the namespace. Sockets and processes that it makes stay there.
    pub(super) fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("setns")?;
            inside()
        };
        on_a_thread(enter).with_context(|| format!("in the namespace of {}", self.name))
    }

    /// Joins this one's interface `name` to another's `peer` with a cable (a veth pair), both ends up.
    pub(super) fn join(&self, name: &str, other: &Self, peer: &str) -> Result<()> {
        self.run(|| {
            let kernel = Rtnetlink::open().context("rtnetlink")?;
            kernel.add_veth(name, peer, other).context("cannot make a veth pair")?;
            kernel.bring_up(name).with_context(|| format!("cannot bring {name} up"))
        })?;
        other.run(|| {
            let kernel = Rtnetlink::open().context("rtnetlink")?;
            kernel.bring_up(peer).with_context(|| format!("cannot bring {peer} up"))
        })
    }

    /// Gives an interface an address, and routes `far` through the gateway at `via`.
    pub(super) fn make_host(&self, name: &str, address: Ipv4Net, far: Ipv4Net, via: Ipv4Net) -> Result<()> {
        self.run(|| {
            let kernel = Rtnetlink::open().context("rtnetlink")?;
            kernel.add_address(name, address).with_context(|| format!("cannot set the address {address}"))?;
            kernel.add_route(far, via.addr()).with_context(|| format!("cannot set the route to {far}"))
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A thread may leave its namespace for another, and is then good for nothing else.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match std::thread::scope(|scope| scope.spawn(work).join()) {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
