//! Ports: where packets come from and go to. One file a driver.
//!
//! A [`Device`] is opened and checked on the main thread. It then hands out one [`QueueOpener`] a worker;
//! the worker's thread opens the queue with its own [`Pool`], so that a driver can register the pool's
//! memory with the kernel or a NIC and receive straight into the worker's frames.
#![allow(unsafe_code)]

pub mod af_packet;
pub mod af_xdp;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod memory;
pub mod pcap;
pub mod tap;

mod netdev;
mod offload;
mod segment;
mod sys;

use std::io;
use std::os::fd::BorrowedFd;

use crate::buffer::{Burst, HEADROOM, Pool};

/// Index of a port in the configuration's order; the same on every worker.
pub type PortId = u16;

/// Six bytes of Ethernet address.
pub type Mac = [u8; 6];

/// What is known of a device once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Driver name as in the configuration, for example `af_packet`.
    pub driver: &'static str,
    /// Interface, file or PCI address.
    pub device: String,
    /// Our Ethernet address. `None` for a port that carries bare IP packets (a TUN device).
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes that the device carries.
    pub mtu: u32,
    /// Queue pairs that it was opened with.
    pub queues: usize,
    /// Facts worth showing to an operator, such as `("mode", "zero-copy")`.
    pub features: Vec<(&'static str, String)>,
}

/// What a queue counted since it was opened. All in packets unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, link layer included.
    pub rx_bytes: u64,
    /// Packets that the kernel or the NIC dropped because we were too slow.
    pub rx_missed: u64,
    /// Packets dropped on receipt because they were malformed at the link layer.
    pub rx_errors: u64,
    /// Packets dropped on receipt because they were larger than a frame.
    pub rx_too_long: u64,
    /// Packets dropped on receipt because the pool had no free frame.
    pub rx_no_buffer: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, link layer included.
    pub tx_bytes: u64,
    /// Packets that the device refused (too long for it, link down).
    pub tx_errors: u64,
}

/// One queue pair of a device, used by one worker.
pub trait Port {
    /// Receives packets into `burst` until it is full or nothing is waiting. Never blocks.
    fn rx(&mut self, pool: &Pool, burst: &mut Burst);

    /// Sends packets from the front of `burst` and removes those that were taken. What stays did not fit;
    /// the caller drops and counts it. Never blocks.
    fn tx(&mut self, burst: &mut Burst);

    /// Descriptor that becomes readable when packets wait, for a worker that sleeps; `None` when the driver
    /// can only be polled.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Called before the worker sleeps on [`Port::poll_fd`], for drivers that must ask for a wake-up.
    fn before_sleep(&mut self) {}

    /// Whether nothing will ever be received again: a file was read to its end, or there is none.
    fn finished(&self) -> bool {
        false
    }

    /// Counters since the queue was opened.
    fn counters(&mut self) -> PortCounters;
}

/// Opens one queue on the worker's own thread, with the worker's pool.
pub type QueueOpener = Box<dyn FnOnce(&Pool) -> io::Result<Box<dyn Port>> + Send>;

/// An open device, before its queues are given to the workers.
pub trait Device: Send {
    /// What is known of it.
    fn info(&self) -> &DeviceInfo;

    /// The opener of each queue, in order: `info().queues` of them.
    fn queues(self: Box<Self>) -> Vec<QueueOpener>;
}

/// Bytes that the link layer adds to an IP packet: an Ethernet header and two VLAN tags.
const LINK_OVERHEAD: usize = 14 + 2 * 4;

/// Checks that a frame of the pool holds the largest packet of a device.
fn check_room(pool: &Pool, mtu: u32) -> io::Result<()> {
    let needed = HEADROOM + LINK_OVERHEAD + mtu as usize;
    if pool.frame_size() < needed {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "an MTU of {mtu} needs frames of {needed} bytes; those of the pool have {}",
                pool.frame_size()
            ),
        ));
    }
    Ok(())
}
