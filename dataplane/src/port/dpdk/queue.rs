//! One queue pair: bursts of `rte_mbuf`s, which are packets in place.

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use arrayvec::ArrayVec;
use capsule_ffi::pool::Pool as Mbufs;
use capsule_ffi::{
    CAPSULE_MBUF_RX_IP_CHECKSUM_BAD as CHECKSUM_BAD, CAPSULE_MBUF_RX_IP_CHECKSUM_MASK as CHECKSUM_MASK,
    rte_mbuf,
};

use crate::buffer::{BURST, Burst, Lender, Lending, Packet, Pool};
use crate::port::{Port, PortCounters};

/// A queue pair of a started port, on a thread that DPDK knows.
pub(super) struct DpdkPort {
    port: capsule_ffi::port::Port,
    queue: u16,
    mbufs: Mbufs,
    lending: Lending,
    counters: PortCounters,
    /// Counters that the device has for all queues are the first one's.
    counts_device: bool,
}

/// Why a buffer is no packet.
#[derive(Clone, Copy)]
enum Refused {
    /// The packet took more buffers than one.
    TooLong,
    /// A checksum was wrong, by the NIC's account.
    Bad,
}

impl DpdkPort {
    /// The queue pair. The calling thread alone uses it, and is registered with DPDK. `core` is where it runs.
    pub(super) fn open(
        port: capsule_ffi::port::Port,
        queue: u16,
        core: usize,
        counts_device: bool,
    ) -> io::Result<Self> {
        let mbufs = capsule_ffi::pool::of_core(core)
            .ok_or_else(|| io::Error::other(format!("DPDK has no buffers for core {core}")))?;
        Ok(Self { port, queue, mbufs, lending: lending(), counters: PortCounters::default(), counts_device })
    }

    /// A buffer as a packet.
    ///
    /// # Errors
    /// When it is not one that the worker can take. It is freed.
    ///
    /// # Safety
    /// `mbuf` is a buffer that DPDK gave us, and nobody else's.
    unsafe fn lend(&self, mbuf: *mut rte_mbuf) -> Result<Packet, Refused> {
        // SAFETY: the caller's promise.
        let fields = unsafe { &*mbuf };
        let is_bad = fields.ol_flags & CHECKSUM_MASK == CHECKSUM_BAD;
        let (capacity, start, len) = (fields.buf_len.into(), fields.data_off.into(), fields.data_len.into());
        let whole = fields.nb_segs == 1;
        let buffer = NonNull::new(fields.buf_addr.cast::<u8>())
            .filter(|_| whole && !is_bad && start + len <= capacity);
        let Some(buffer) = buffer else {
            // SAFETY: ours, and used no more.
            unsafe { capsule_ffi::_rte_pktmbuf_free(mbuf) };
            return Err(if whole { Refused::Bad } else { Refused::TooLong });
        };
        // SAFETY: a buffer of `capacity` bytes, with the data inside, that is ours until it is freed or sent.
        Ok(unsafe { self.lending.lend(buffer, mbuf as usize, capacity, start, len) })
    }

    /// The buffer of a packet: its own when DPDK's, else a copy. The packet comes back when there is no buffer that
    /// holds it.
    fn buffer(&self, packet: Packet) -> Result<*mut rte_mbuf, Packet> {
        let (mbuf, start, len) = match self.lending.reclaim(packet) {
            Ok((token, start, len)) => (token as *mut rte_mbuf, start, len),
            Err(packet) => {
                // What the gateway says itself, or what came in by another driver's port.
                let mbuf = self.copy(packet.data()).ok_or(packet)?;
                return Ok(mbuf);
            }
        };
        // SAFETY: the token is the buffer that was lent; with the packet gone it is ours.
        let fields = unsafe { &mut *mbuf };
        fields.data_off = start as u16;
        fields.data_len = len as u16;
        fields.pkt_len = len as u32;
        // What the NIC said on receipt would be orders on the way out.
        fields.ol_flags = 0;
        Ok(mbuf)
    }

    fn copy(&self, data: &[u8]) -> Option<*mut rte_mbuf> {
        // SAFETY: a pool that lives as long as the runtime, which outlives the workers.
        let mbuf = NonNull::new(unsafe { capsule_ffi::_rte_pktmbuf_alloc(self.mbufs.raw()) })?;
        // SAFETY: just allocated.
        let fields = unsafe { &mut *mbuf.as_ptr() };
        if data.len() > usize::from(fields.buf_len - fields.data_off) {
            // SAFETY: ours, and used no more.
            unsafe { capsule_ffi::_rte_pktmbuf_free(mbuf.as_ptr()) };
            return None;
        }
        fields.data_len = data.len() as u16;
        fields.pkt_len = data.len() as u32;
        // SAFETY: `data_off` and as many bytes lie within the buffer, which does not overlap a frame of ours.
        unsafe {
            let to = fields.buf_addr.cast::<u8>().add(fields.data_off.into());
            std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
        Some(mbuf.as_ptr())
    }
}

impl Port for DpdkPort {
    fn rx(&mut self, _pool: &Pool, burst: &mut Burst) {
        let mut mbufs = [null_mut(); BURST];
        let room = burst.remaining_capacity() as u16;
        // SAFETY: room for as many pointers; the queue is this thread's.
        let received =
            unsafe { capsule_ffi::_rte_eth_rx_burst(self.port.id(), self.queue, mbufs.as_mut_ptr(), room) };
        for &mbuf in mbufs.iter().take(received.into()) {
            // SAFETY: DPDK filled in as many buffers as it says, and they are ours now.
            match unsafe { self.lend(mbuf) } {
                Ok(packet) => {
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += packet.len() as u64;
                    burst.push(packet);
                }
                Err(Refused::TooLong) => self.counters.rx_too_long += 1,
                Err(Refused::Bad) => self.counters.rx_errors += 1,
            }
        }
    }

    fn tx(&mut self, burst: &mut Burst) {
        let mut mbufs: ArrayVec<*mut rte_mbuf, BURST> = ArrayVec::new();
        let mut kept = Burst::new();
        let mut bytes = 0;
        let mut packets = burst.drain(..);
        for packet in packets.by_ref() {
            match self.buffer(packet) {
                Ok(mbuf) => {
                    // SAFETY: ours until it is sent.
                    bytes += u64::from(unsafe { (*mbuf).pkt_len });
                    mbufs.push(mbuf);
                }
                Err(packet) => {
                    kept.push(packet);
                    break;
                }
            }
        }
        kept.extend(packets);
        // DPDK takes an empty burst; not every driver was tried with one.
        let sent = if mbufs.is_empty() {
            0
        } else {
            // SAFETY: as many buffers, each ours; the queue is this thread's.
            unsafe {
                capsule_ffi::_rte_eth_tx_burst(
                    self.port.id(),
                    self.queue,
                    mbufs.as_mut_ptr(),
                    mbufs.len() as u16,
                )
            }
        };
        self.counters.tx_packets += u64::from(sent);
        for &mbuf in mbufs.iter().skip(sent.into()) {
            // SAFETY: not taken, so still ours.
            if let Ok(packet) = unsafe { self.lend(mbuf) } {
                bytes -= packet.len() as u64;
                burst.push(packet);
            }
        }
        self.counters.tx_bytes += bytes;
        // Seldom any. By value all of its room would be copied.
        burst.extend(kept.drain(..));
    }

    /// DPDK's drivers are polled. A worker that sleeps looks at them every millisecond.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&mut self) -> PortCounters {
        let mut counters = self.counters;
        if self.counts_device {
            let device = self.port.stats();
            counters.rx_missed += device.missed;
            counters.rx_errors += device.rx_errors;
            counters.rx_no_buffer += device.no_buffer;
            counters.tx_errors += device.tx_errors;
        }
        counters
    }
}

/// The one owner of all buffers of DPDK that the calling worker has: what came in by one port leaves by another in place.
fn lending() -> Lending {
    thread_local!(static LENDING: Lending = Lending::new(Box::new(Release)));
    LENDING.with(|&lending| lending)
}

/// Gives buffers back to their pool.
struct Release;

impl Lender for Release {
    fn release(&self, token: usize) {
        // SAFETY: the token is a buffer that was lent as a packet, which is gone. Packets do not leave their thread.
        unsafe { capsule_ffi::_rte_pktmbuf_free(token as *mut rte_mbuf) }
    }
}

const _: () = assert!(size_of::<*mut c_void>() == size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_one_port_leaves_by_another_in_place() {
        let mut memory = [0_u8; 256];
        let buffer = NonNull::from(&mut memory).cast();
        let (received_on, sent_by) = (lending(), lending());
        // SAFETY: the memory outlives the packet, which is taken back before anything else uses it.
        let packet = unsafe { received_on.lend(buffer, 7, 256, 128, 64) };
        assert_eq!(sent_by.reclaim(packet).ok(), Some((7, 128, 64)));
    }
}
