//! Ports that DPDK drives, with capsule as the framework.
//!
//! capsule's `Runtime` starts EAL, makes the pools of buffers, configures and starts the ports, brings the threads
//! and hears signals. It lives on a thread of its own (`runtime`). Each worker is a capsule `Pipeline` on one of
//! its threads (`pipeline`), with the same [`Worker`](crate::worker::Worker) as over every other driver: [`open`]
//! gives the devices, and the [`Crew`] whose threads the fleet has to use. Other drivers' ports may be beside.
//!
//! Packets do not go through capsule's batches. A queue bursts through `capsule_ffi` on `rte_mbuf`s, which the
//! worker sees as packets in place, with DPDK's headroom (`queue`). capsule's own path costs up to twice as much, and its
//! `Mbuf` can not grow at the front.
//!
//! EAL starts once in a process, so [`open`] can succeed once.

mod device;
#[cfg(test)]
mod live;
mod pipeline;
mod probe;
mod queue;
mod runtime;

use std::collections::HashSet;
use std::io;

use capsule_ffi::pool::HEADROOM;

pub use self::probe::probe;
use super::{Device, LINK_OVERHEAD};
use crate::crew::Crew;

/// Ports and what they share.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ports. They share the pools of buffers.
    pub ports: Vec<PortConfig>,
    /// Core of each worker, in their order. Each port has a queue pair for each.
    pub cores: Vec<usize>,
    /// Core of everything else.
    pub control_core: usize,
    /// Whether packets are in huge pages.
    pub huge_pages: bool,
    /// Bytes that DPDK takes for packets.
    pub memory: u64,
    /// Buffers of a worker beyond what its queues hold.
    pub buffers: usize,
    /// More arguments for EAL, each one word.
    pub eal: Vec<String>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// PCI address, or a virtual device such as `net_af_packet0,iface=eth0`.
    pub device: String,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Packets that wait in a queue, each way.
    pub descriptors: usize,
}

/// Devices, and the threads that their workers must run on.
pub struct Opened {
    /// In the order of the configuration.
    pub devices: Vec<Box<dyn Device>>,
    /// For [`Fleet::start_on`](crate::fleet::Fleet::start_on). Dropping it without closes the ports.
    pub crew: Box<dyn Crew>,
}

/// Starts EAL and the ports. Packets are received from when a worker runs.
///
/// # Errors
/// What [`probe`] finds; what DPDK says, with its last lines.
pub fn open(config: Config) -> io::Result<Opened> {
    let problems = probe(&config);
    if !problems.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problems.join("; ")));
    }
    runtime::start(config)
}

/// Bytes of a buffer: headroom, the largest packet with its link header, and room for ESP's trailer.
fn data_room(mtu: u32) -> usize {
    let needed = (HEADROOM + LINK_OVERHEAD + mtu as usize + HEADROOM).next_multiple_of(64);
    // Drivers receive into buffers of 2 KiB at least.
    needed.max(2048 + HEADROOM)
}

impl Config {
    /// Pools of buffers: capsule makes one, of the whole capacity, on each NUMA node of the workers and the control core.
    fn pools(&self, node_of: impl Fn(usize) -> i32) -> usize {
        let cores = self.cores.iter().chain([&self.control_core]);
        cores.map(|&core| node_of(core)).collect::<HashSet<_>>().len()
    }

    fn largest_mtu(&self) -> u32 {
        self.ports.iter().map(|port| port.mtu).max().unwrap_or(1500)
    }

    /// Buffers of each pool: what the queues hold, and the workers' share. Where devices want longer queues, `capsule-ffi`
    /// adds to it.
    fn capacity(&self) -> usize {
        let queues: usize = self.ports.iter().map(|port| 2 * port.descriptors).sum();
        self.cores.len() * (queues + self.buffers)
    }

    /// What the buffers take, and DPDK beside them, with pools on so many NUMA nodes.
    fn needed(&self, pools: usize) -> u64 {
        // Each has a header of 128 bytes, one of its pool, and padding. Outside of huge pages none crosses a page.
        let buffer = data_room(self.largest_mtu()) + 128 + 64 + 128;
        let buffer = if self.huge_pages { buffer } else { buffer.next_multiple_of(4096) };
        (pools * self.capacity() * buffer) as u64 + (16 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::GROWTH;

    #[test]
    fn buffers_hold_the_largest_packet_with_headers_on_both_sides() {
        assert_eq!(data_room(1500), 2176);
        for mtu in [576, 1500, 2000, 9216] {
            assert!(data_room(mtu) >= HEADROOM + LINK_OVERHEAD + mtu as usize + HEADROOM);
            assert!(u16::try_from(data_room(mtu)).is_ok());
        }
        // Received packets have DPDK's headroom in front.
        const { assert!(HEADROOM >= GROWTH) };
    }
}
