//! An AF_XDP socket with its rings, bound to one queue of an interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use super::super::sys::{Plain, bind, context, get_option, set_option, socket, until_released};
use super::ring::{Consumer, Producer};

/// Bytes that the kernel keeps free in front of a received packet (`XDP_PACKET_HEADROOM`).
pub(super) const KERNEL_HEADROOM: usize = 256;

/// Shortest packet that the kernel sends: an Ethernet header. A shorter one would never come back.
pub(super) const SHORTEST: usize = 14;

/// Smallest chunk of packet memory that the kernel takes; the largest is a page.
pub(super) const SMALLEST_CHUNK: usize = 2048;
/// A page.
pub(super) const LARGEST_CHUNK: usize = 4096;

/// Opens a socket that is not bound yet, in the network namespace of the thread.
pub(super) fn open() -> io::Result<OwnedFd> {
    socket(libc::AF_XDP, libc::SOCK_RAW, 0)
}

/// Memory for packets (UMEM), cut into chunks of one size.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    /// Where it begins, at a page.
    pub(super) base: NonNull<u8>,
    /// Bytes, a multiple of `chunk`.
    pub(super) len: usize,
    /// Bytes in a chunk, a power of two.
    pub(super) chunk: usize,
}

/// Registers packet memory with a socket.
///
/// # Errors
/// `InvalidInput` for chunks of a size that this kernel does not take; else what the kernel says.
pub(super) fn register(fd: &OwnedFd, memory: Memory) -> io::Result<()> {
    let request = libc::xdp_umem_reg {
        addr: memory.base.as_ptr() as u64,
        len: memory.len as u64,
        chunk_size: memory.chunk as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &request)
}

/// What to bind to.
#[derive(Clone, Copy)]
pub(super) struct Binding {
    /// Index of the interface.
    pub(super) interface: u32,
    /// Its queue.
    pub(super) queue: u32,
    /// XDP_COPY, XDP_ZEROCOPY or neither, and XDP_USE_SG.
    pub(super) flags: u16,
}

/// A bound socket.
pub(super) struct Socket {
    fd: OwnedFd,
    pub(super) rx: Consumer<libc::xdp_desc>,
    pub(super) tx: Producer<libc::xdp_desc>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    /// The interface was down or gone when last asked.
    down: bool,
}

impl Socket {
    /// Makes the rings of a socket with registered memory, `size` entries each, and binds it.
    pub(super) fn bind(fd: OwnedFd, size: u32, binding: Binding) -> io::Result<Self> {
        for ring in
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
        {
            set_option(&fd, libc::SOL_XDP, ring, &size)?;
        }
        let offsets: libc::xdp_mmap_offsets = get_option(&fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let fill = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let completion = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        let bound = Self {
            rx: Consumer::map(&fd, size, &offsets.rx, libc::XDP_PGOFF_RX_RING)?,
            tx: Producer::map(&fd, size, &offsets.tx, libc::XDP_PGOFF_TX_RING)?,
            fill: Producer::map(&fd, size, &offsets.fr, fill)?,
            completion: Consumer::map(&fd, size, &offsets.cr, completion)?,
            fd,
            down: false,
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: binding.flags | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: binding.interface,
            sxdp_queue_id: binding.queue,
            sxdp_shared_umem_fd: 0,
        };
        until_released(|| bind(&bound.fd, &address)).map_err(|error| explain(&error, binding))?;
        Ok(bound)
    }

    /// Whether packets cross without a copy between the kernel and the packet memory.
    pub(super) fn is_zero_copy(&self) -> bool {
        let options = get_option::<libc::xdp_options>(&self.fd, libc::SOL_XDP, libc::XDP_OPTIONS);
        options.is_ok_and(|options| options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// Shows the kernel what was put into the tx ring, and calls it if it asks to be called.
    #[inline]
    pub(super) fn transmit(&mut self) {
        self.tx.commit();
        if self.tx.needs_wakeup() {
            self.call_sender();
        }
    }

    /// Calls the kernel again for packets that it left in the tx ring.
    #[inline]
    pub(super) fn transmit_rest(&mut self) {
        if self.tx.needs_wakeup() && self.tx.pending() > 0 {
            self.call_sender();
        }
    }

    /// Shows the kernel what was put into the fill ring, and calls it if it asks to be called.
    #[inline]
    pub(super) fn refill(&mut self) {
        self.fill.commit();
        if self.fill.needs_wakeup() {
            // SAFETY: no buffer and no address is passed. There is nothing to do about an error but go on.
            unsafe {
                let (buffer, address, len) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
                libc::recvfrom(self.fd.as_raw_fd(), buffer, 0, libc::MSG_DONTWAIT, address, len)
            };
        }
    }

    /// Whether the interface is up; asks the kernel only after it said that it is not.
    #[inline]
    pub(super) fn is_up(&mut self) -> bool {
        if self.down {
            self.call_sender();
        }
        !self.down
    }

    /// Packets that were lost because the rx ring was full or the fill ring empty, and descriptors of packets
    /// to send that the kernel refused; both since the socket was bound.
    pub(super) fn lost(&self) -> (u64, u64) {
        let read = get_option::<libc::xdp_statistics>(&self.fd, libc::SOL_XDP, libc::XDP_STATISTICS);
        read.map_or((0, 0), |all| (all.rx_dropped + all.rx_ring_full, all.tx_invalid_descs))
    }

    fn call_sender(&mut self) {
        let mut before = self.tx.pending();
        loop {
            // SAFETY: no buffer and no address is passed.
            let sent = unsafe {
                libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0)
            };
            let error = if sent < 0 { io::Error::last_os_error().raw_os_error() } else { None };
            self.down = matches!(error, Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV));
            // In copy mode a call sends 32 descriptors at most. When it sends none the device is busy or down,
            // and the next burst calls again.
            let left = self.tx.pending();
            if left == 0 || left == before {
                return;
            }
            before = left;
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// SAFETY: structs of integers.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: a struct of integers.
unsafe impl Plain for libc::xdp_options {}
// SAFETY: a struct of integers.
unsafe impl Plain for libc::xdp_statistics {}

/// Says what would mend an error of binding.
fn explain(error: &io::Error, binding: Binding) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EBUSY) => "another AF_XDP socket has it",
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
            "the driver lacks zero-copy, or several buffers a packet for this MTU"
        }
        Some(libc::EINVAL) => "the interface has no such queue, or not this mode",
        Some(libc::ENOBUFS | libc::ENOMEM) => "out of locked memory; raise LimitMEMLOCK (ulimit -l)",
        Some(libc::ENETDOWN) => "the interface is down",
        _ => "the kernel refuses",
    };
    context(error, format_args!("cannot bind to queue {}: {hint}", binding.queue))
}

/// A socket whose rings lie in files, with the kernel's ends of them in the hands of a test.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The kernel's ends.
    pub(in super::super) struct Kernel {
        pub(in super::super) rx: Producer<libc::xdp_desc>,
        pub(in super::super) tx: Consumer<libc::xdp_desc>,
        pub(in super::super) fill: Consumer<u64>,
        pub(in super::super) completion: Producer<u64>,
    }

    const OFFSETS: libc::xdp_ring_offset =
        libc::xdp_ring_offset { producer: 0, consumer: 64, flags: 128, desc: 192 };

    fn ring<T: Copy>(size: u32) -> (Producer<T>, Consumer<T>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (producer, consumer) =
            (Producer::map(&file, size, &OFFSETS, 0), Consumer::map(&file, size, &OFFSETS, 0));
        (producer.unwrap(), consumer.unwrap())
    }

    /// A socket with rings of `size` entries that never asks to be woken.
    pub(in super::super) fn socket(size: u32) -> (Socket, Kernel) {
        let (rx, ours) = ring(size);
        let (tx, sent) = ring(size);
        let (fill, filled) = ring(size);
        let (completion, completed) = ring(size);
        let fd = tempfile::tempfile().unwrap().into();
        let socket = Socket { fd, rx: ours, tx, fill, completion: completed, down: false };
        (socket, Kernel { rx, tx: sent, fill: filled, completion })
    }
}
