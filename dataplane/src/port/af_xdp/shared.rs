//! A queue whose packet memory is the worker's own pool: a received packet is a frame of the pool, and leaves
//! by any other AF_XDP port of the worker without a copy, since each has registered the same pool.
//!
//! Frames that are with the kernel when the port is closed stay taken, since nothing says when the kernel or
//! the device is done with them: a port lives as long as its worker.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::super::{Port, PortCounters};
use super::Attachment;
use super::socket::{SHORTEST, Socket};
use crate::buffer::{Burst, Packet, Pool};

/// A queue over the worker's pool.
pub(super) struct SharedPort {
    socket: Socket,
    pool: Pool,
    /// Entries in a ring, and the most frames that the kernel holds in each direction.
    size: u32,
    /// Frames in the fill ring, in the rx ring, and with the kernel in between.
    receiving: u32,
    /// Frames in the tx ring, in the completion ring, and with the kernel in between.
    sending: u32,
    longest: usize,
    counters: PortCounters,
    _attachment: Arc<Attachment>,
}

impl SharedPort {
    /// A port over a socket with rings of `size` entries, with which `pool` is registered.
    pub(super) fn new(
        socket: Socket,
        pool: Pool,
        size: u32,
        longest: usize,
        attachment: Arc<Attachment>,
    ) -> Self {
        let counters = PortCounters::default();
        let mut port =
            Self { socket, pool, size, receiving: 0, sending: 0, longest, counters, _attachment: attachment };
        port.fill();
        port
    }

    /// Keeps the kernel supplied with frames to receive into.
    fn fill(&mut self) {
        while self.receiving < self.size {
            let Some(frame) = self.pool.alloc() else { break };
            let Ok((offset, _)) = self.pool.surrender(frame) else { break };
            // The kernel takes the chunk that the address lies in.
            let pushed = self.socket.fill.push(offset as u64);
            debug_assert!(pushed, "the ring has room for every frame that is receiving");
            self.receiving += 1;
        }
        self.socket.refill();
    }

    /// Takes back the frames of packets that were sent.
    fn reclaim(&mut self) {
        while let Some(address) = self.socket.completion.pop() {
            self.sending -= 1;
            // SAFETY: the frame was surrendered in `put`, and the kernel says that it is done with it.
            drop(unsafe { self.pool.adopt(address as usize, 0) });
        }
        self.socket.completion.release();
    }

    /// Puts a packet into the tx ring, which has room for it.
    fn put(&mut self, packet: Packet) {
        // A packet of another owner (a DPDK port's) is copied into a frame of ours.
        let surrendered = self.pool.surrender(packet).or_else(|foreign| {
            self.pool.alloc_from(foreign.data()).ok_or(foreign).and_then(|copy| self.pool.surrender(copy))
        });
        match surrendered {
            Ok((offset, len)) => {
                self.socket.tx.push(libc::xdp_desc { addr: offset as u64, len: len as u32, options: 0 });
                self.sending += 1;
                self.counters.tx_packets += 1;
                self.counters.tx_bytes += len as u64;
            }
            // No frame is free for the copy.
            Err(_) => self.counters.tx_errors += 1,
        }
    }
}

impl Port for SharedPort {
    fn rx(&mut self, _pool: &Pool, burst: &mut Burst) {
        while !burst.is_full() {
            let Some(descriptor) = self.socket.rx.pop() else { break };
            self.receiving -= 1;
            // SAFETY: the frame was surrendered in `fill`, and the kernel has handed it back with a packet.
            match unsafe { self.pool.adopt(descriptor.addr as usize, descriptor.len as usize) } {
                Some(packet) => {
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += packet.len() as u64;
                    burst.push(packet);
                }
                None => self.counters.rx_errors += 1,
            }
        }
        self.socket.rx.release();
        self.reclaim();
        self.fill();
        self.socket.transmit_rest();
    }

    fn tx(&mut self, burst: &mut Burst) {
        self.reclaim();
        if !self.socket.is_up() {
            self.counters.tx_errors += burst.len() as u64;
            burst.clear();
            return;
        }
        let room = (self.size - self.sending) as usize;
        let n = burst.len().min(room);
        for packet in burst.drain(..n) {
            if !(SHORTEST..=self.longest).contains(&packet.len()) {
                self.counters.tx_errors += 1;
            } else {
                self.put(packet);
            }
        }
        self.socket.transmit();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn before_sleep(&mut self) {
        self.reclaim();
        self.fill();
        self.socket.transmit_rest();
    }

    fn counters(&mut self) -> PortCounters {
        let (missed, refused) = self.socket.lost();
        PortCounters { rx_missed: missed, tx_errors: self.counters.tx_errors + refused, ..self.counters }
    }
}
