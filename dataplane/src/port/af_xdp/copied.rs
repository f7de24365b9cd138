//! A queue with packet memory of its own, for frames that the kernel does not take as chunks, and for packets
//! larger than a chunk, which come and go as several descriptors. Every packet is copied once.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::super::sys::Mapping;
use super::super::{Port, PortCounters};
use super::Attachment;
use super::socket::{Memory, SHORTEST, Socket};
use crate::buffer::{Burst, Packet, Pool};

/// Packet memory of a socket's own.
pub(super) struct Chunks {
    map: Mapping,
    size: usize,
}

impl Chunks {
    /// Maps `count` chunks of `size` bytes.
    pub(super) fn new(count: usize, size: usize) -> std::io::Result<Self> {
        Ok(Self { map: Mapping::anonymous(count * size)?, size })
    }

    /// What to register with the socket.
    pub(super) fn memory(&self) -> Memory {
        Memory { base: self.map.base(), len: self.map.len(), chunk: self.size }
    }

    /// The bytes of a descriptor; `None` if they are outside of the memory.
    ///
    /// # Safety
    /// The chunk is ours: the kernel has handed it back.
    unsafe fn bytes(&self, address: u64, len: u32) -> Option<&[u8]> {
        let (start, len) = (address as usize, len as usize);
        if start.checked_add(len)? > self.map.len() {
            return None;
        }
        // SAFETY: within the mapping, as just checked, and not written to, as the caller promises.
        Some(unsafe { std::slice::from_raw_parts(self.map.base().as_ptr().add(start), len) })
    }

    /// Copies bytes, no more than a chunk holds, to the start of the chunk at `address`.
    ///
    /// # Safety
    /// The chunk is ours: it is free, or the kernel has handed it back.
    unsafe fn write(&self, address: u64, bytes: &[u8]) {
        let start = address as usize;
        debug_assert!(bytes.len() <= self.size && start + bytes.len() <= self.map.len());
        // SAFETY: chunk addresses are made in `CopiedPort::new`, so that the whole chunk is within the mapping.
        unsafe {
            let to = self.map.base().as_ptr().add(start);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len().min(self.size));
        }
    }
}

/// A queue over memory of its own.
pub(super) struct CopiedPort {
    socket: Socket,
    chunks: Chunks,
    /// Chunks to send from.
    free: Vec<u64>,
    /// The packet whose first pieces have come; `None` in it when it is lost.
    partial: Option<Option<Packet>>,
    longest: usize,
    counters: PortCounters,
    _attachment: Arc<Attachment>,
}

impl CopiedPort {
    /// A port over a socket with rings of `size` entries, with which `chunks`, two for each, are registered.
    pub(super) fn new(
        mut socket: Socket,
        chunks: Chunks,
        size: u32,
        longest: usize,
        attachment: Arc<Attachment>,
    ) -> Self {
        let mut addresses = (0..chunks.map.len() / chunks.size).map(|n| (n * chunks.size) as u64);
        for address in addresses.by_ref().take(size as usize) {
            socket.fill.push(address);
        }
        socket.refill();
        let free = addresses.collect();
        let counters = PortCounters::default();
        Self { socket, chunks, free, partial: None, longest, counters, _attachment: attachment }
    }

    /// Adds a piece to the packet that is being received. Returns the packet when it is whole.
    fn take(&mut self, descriptor: &libc::xdp_desc, pool: &Pool) -> Option<Packet> {
        let packet = match self.partial.take() {
            Some(begun) => begun,
            None => {
                let fresh = pool.alloc();
                self.counters.rx_no_buffer += u64::from(fresh.is_none());
                fresh
            }
        };
        // SAFETY: the kernel has handed the chunk to us with a packet.
        let piece = unsafe { self.chunks.bytes(descriptor.addr, descriptor.len) }.unwrap_or_default();
        let packet = packet.and_then(|mut packet| match packet.append(piece.len()) {
            Some(room) if !piece.is_empty() => {
                room.copy_from_slice(piece);
                Some(packet)
            }
            Some(_) => {
                self.counters.rx_errors += 1;
                None
            }
            None => {
                self.counters.rx_too_long += 1;
                None
            }
        });
        // Back to the kernel, which takes the chunk that the address lies in.
        self.socket.fill.push(descriptor.addr);
        if descriptor.options & libc::XDP_PKT_CONTD != 0 {
            self.partial = Some(packet);
            return None;
        }
        packet
    }

    /// Takes back the chunks of packets that were sent.
    fn reclaim(&mut self) {
        while let Some(address) = self.socket.completion.pop() {
            self.free.push(address);
        }
        self.socket.completion.release();
    }
}

impl Port for CopiedPort {
    fn rx(&mut self, pool: &Pool, burst: &mut Burst) {
        // Lost packets fill no burst, so the number of descriptors bounds the call.
        for _ in 0..8 * burst.capacity() {
            // The kernel shows a packet in the rx ring before it shows that it took the chunk from the fill ring:
            // until then there may be no room to give the chunk back.
            if burst.is_full() || self.socket.fill.free(1) == 0 {
                break;
            }
            let Some(descriptor) = self.socket.rx.pop() else { break };
            if let Some(packet) = self.take(&descriptor, pool) {
                self.counters.rx_packets += 1;
                self.counters.rx_bytes += packet.len() as u64;
                burst.push(packet);
            }
        }
        self.socket.rx.release();
        self.socket.refill();
        self.reclaim();
        self.socket.transmit_rest();
    }

    fn tx(&mut self, burst: &mut Burst) {
        self.reclaim();
        if !self.socket.is_up() {
            self.counters.tx_errors += burst.len() as u64;
            burst.clear();
            return;
        }
        let mut taken = 0;
        for packet in burst.iter() {
            if !(SHORTEST..=self.longest).contains(&packet.len()) {
                self.counters.tx_errors += 1;
                taken += 1;
                continue;
            }
            let pieces = packet.data().chunks(self.chunks.size);
            let count = pieces.len();
            if self.free.len() < count || (self.socket.tx.free(count as u32) as usize) < count {
                break;
            }
            for (n, piece) in pieces.enumerate() {
                let Some(address) = self.free.pop() else { break };
                // SAFETY: the chunk was free.
                unsafe { self.chunks.write(address, piece) };
                let options = if n + 1 < count { libc::XDP_PKT_CONTD } else { 0 };
                self.socket.tx.push(libc::xdp_desc { addr: address, len: piece.len() as u32, options });
            }
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += packet.len() as u64;
            taken += 1;
        }
        burst.drain(..taken);
        self.socket.transmit();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn before_sleep(&mut self) {
        self.reclaim();
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

    #[test]
    fn a_chunk_that_is_received_before_its_room_is_released_is_not_lost() {
        let pool = Pool::new(BURST, 2048).unwrap();
        let (socket, mut kernel) = testing::socket(SIZE);
        let chunks = Chunks::new(2 * SIZE as usize, 4096).unwrap();
        let mut port = CopiedPort::new(socket, chunks, SIZE, 1514, Attachment::detached());
        for round in 0..5 * u64::from(SIZE) {
            let address = kernel.fill.pop().expect("the kernel has a chunk to receive into");
            kernel.rx.push(libc::xdp_desc { addr: address, len: 60, options: 0 });
            kernel.rx.commit();
            let mut burst = Burst::new();
            port.rx(&pool, &mut burst);
            assert!(burst.is_empty(), "it waits in round {round}");
            kernel.fill.release();
            port.rx(&pool, &mut burst);
            assert_eq!(burst.len(), 1, "round {round}");
        }
    }
}
