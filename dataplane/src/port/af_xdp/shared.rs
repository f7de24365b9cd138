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
        // The kernel shows a packet in the rx ring before it shows that it took the frame from the fill ring, so
        // the fill ring may be full for a moment although frames are missing.
        while self.receiving < self.size && self.socket.fill.free(1) > 0 {
            let Some(frame) = self.pool.alloc() else { break };
            let Ok((offset, _)) = self.pool.surrender(frame) else { break };
            // The kernel takes the chunk that the address lies in.
            self.socket.fill.push(offset as u64);
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
        // The kernel may also have completed a packet before it shows that it took it from the tx ring.
        let room = (self.size - self.sending).min(self.socket.tx.free(burst.len() as u32));
        let n = burst.len().min(room as usize);
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

#[cfg(test)]
mod tests {
    use super::super::socket::testing;
    use super::*;
    use crate::buffer::BURST;

    const SIZE: u32 = 8;

    /// A port whose kernel is the test.
    fn port(pool: Pool) -> (SharedPort, testing::Kernel) {
        let (socket, kernel) = testing::socket(SIZE);
        (SharedPort::new(socket, pool, SIZE, 1514, Attachment::detached()), kernel)
    }

    #[test]
    fn a_frame_that_is_received_before_its_room_is_released_is_replaced_later() {
        let pool = Pool::new(3 * BURST, 2048).unwrap();
        let (mut port, mut kernel) = port(pool);
        for round in 0..5 * u64::from(SIZE) {
            let address = kernel.fill.pop().expect("the kernel has a frame to receive into");
            kernel.rx.push(libc::xdp_desc { addr: address + 256, len: 60, options: 0 });
            kernel.rx.commit();
            let mut burst = Burst::new();
            port.rx(&pool, &mut burst);
            assert_eq!(burst.len(), 1, "round {round}");
            drop(burst);
            // Only now does the kernel show that it took the frame.
            kernel.fill.release();
            port.rx(&pool, &mut Burst::new());
            assert_eq!(pool.available(), 3 * BURST - SIZE as usize, "no frame is lost in round {round}");
        }
    }

    #[test]
    fn a_packet_that_is_completed_before_its_room_is_released_delays_the_next() {
        let pool = Pool::new(3 * BURST, 2048).unwrap();
        let (mut port, mut kernel) = port(pool);
        let before = pool.available();
        let full = || (0..SIZE).map(|_| pool.alloc_from(&[0; 60]).unwrap()).collect::<Burst>();
        for round in 0..5 {
            let mut burst = full();
            port.tx(&mut burst);
            assert!(burst.is_empty(), "round {round}");
            while let Some(descriptor) = kernel.tx.pop() {
                kernel.completion.push(descriptor.addr);
            }
            kernel.completion.commit();
            let mut burst = full();
            port.tx(&mut burst);
            assert_eq!(burst.len(), SIZE as usize, "there is no room yet in round {round}");
            burst.clear();
            kernel.tx.release();
            assert_eq!(pool.available(), before, "no frame is lost in round {round}");
        }
        assert_eq!(port.counters.tx_packets, 5 * u64::from(SIZE));
    }
}
