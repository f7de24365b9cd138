//! The receive ring of a packet socket (TPACKET_V2, Linux Documentation/networking/packet_mmap.rst).

use std::ffi::c_int;
use std::io::{self, IoSliceMut};
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::netdev::Interface;
use super::super::offload::{VNET_LEN, VnetHeader};
use super::super::sys::{Mapping, bind, get_option, set_option, socket};
use super::Spread;

/// The socket and its ring. The kernel fills frames in order; a frame belongs to whom its status word says.
pub(super) struct Ring {
    socket: OwnedFd,
    map: Mapping,
    frame_size: usize,
    /// A power of two.
    frames: usize,
    next: usize,
}

/// A packet in the ring.
pub(super) struct Arrival<'a> {
    /// The bytes that are in the ring, Ethernet header first, without the VLAN tag.
    pub(super) bytes: &'a [u8],
    /// Bytes of the packet; more than `bytes` when it was too long for a frame of the ring.
    pub(super) len: usize,
    /// Its offloads.
    pub(super) header: VnetHeader,
    /// The VLAN tag that the kernel took out.
    pub(super) tag: Option<[u8; 4]>,
    /// The whole packet waits in the socket, for [`Ring::receive_copy`].
    pub(super) copied: bool,
    /// Sent by this host.
    pub(super) outgoing: bool,
}

impl Ring {
    /// Opens a socket with a ring on the interface. It drops everything until [`Ring::start`].
    pub(super) fn open(interface: &Interface, frames: usize, mtu: u32) -> io::Result<Self> {
        // With protocol 0 nothing is received before the socket is bound to its interface.
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        set_option(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as c_int),
        )?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
        // A packet longer than a frame of the ring is also queued whole, as a copy.
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &1)?;
        grow_receive_buffer(&socket)?;
        // Linux 4.20. Before it, `Arrival::outgoing` says what this would have kept away.
        let _ignored = set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1);

        let frames = frames.next_power_of_two();
        let frame_size = (mtu as usize + OVERHEAD).next_power_of_two();
        let block_size = frame_size.max(BLOCK);
        let frames = frames.max(block_size / frame_size);
        let request = libc::tpacket_req {
            tp_block_size: block_size as u32,
            tp_block_nr: (frames * frame_size / block_size) as u32,
            tp_frame_size: frame_size as u32,
            tp_frame_nr: frames as u32,
        };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let map = Mapping::new(&socket, frames * frame_size, 0)?;
        drop_everything(&socket)?;
        bind(&socket, &address(interface.index(), libc::ETH_P_ALL))?;
        Ok(Self { socket, map, frame_size, frames, next: 0 })
    }

    /// Joins a fanout group, or makes one; returns its number.
    pub(super) fn join(&self, group: Option<u16>, spread: Spread) -> io::Result<u16> {
        let mode = match spread {
            Spread::Flow => libc::PACKET_FANOUT_HASH,
            Spread::Cpu => libc::PACKET_FANOUT_CPU,
            Spread::RoundRobin => libc::PACKET_FANOUT_LB,
        };
        // The kernel picks a number that is free in the namespace.
        let unique = if group.is_none() { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
        let join = |flags: u32| {
            let value = (mode | unique | flags) << 16 | u32::from(group.unwrap_or_default());
            set_option(&self.socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &value)
        };
        // The flag is of Linux 5.10; see `open` for what stands in for it.
        join(libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING).or_else(|_| join(0))?;
        let value: u32 = get_option(&self.socket, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok(value as u16)
    }

    /// Lets packets in.
    pub(super) fn start(&self) -> io::Result<()> {
        set_option(&self.socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0)
    }

    /// The next packet, if there is one. The same one again until [`Ring::release`].
    #[inline]
    pub(super) fn peek(&self) -> Option<Arrival<'_>> {
        // The kernel writes the status last; acquiring it makes the rest of the frame visible.
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the frame is ours while its status says USER, lies within the mapping, is aligned to 16
        // bytes, and begins with this header.
        let (header, frame) = unsafe {
            let start = self.map.base().add(self.next * self.frame_size);
            let header = start.cast::<libc::tpacket2_hdr>().read();
            (header, std::slice::from_raw_parts(start.as_ptr(), self.frame_size))
        };
        let mac = usize::from(header.tp_mac);
        let bytes = frame.get(mac..mac + header.tp_snaplen as usize).unwrap_or_default();
        let vnet = frame.get(mac.saturating_sub(VNET_LEN)..mac).unwrap_or_default();
        let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
            let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let [a, b] = if known { header.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 }.to_be_bytes();
            let [c, d] = header.tp_vlan_tci.to_be_bytes();
            [a, b, c, d]
        });
        Some(Arrival {
            bytes,
            len: header.tp_len as usize,
            header: VnetHeader::parse(vnet).unwrap_or_default(),
            tag,
            copied: status & libc::TP_STATUS_COPY != 0,
            outgoing: frame.get(PACKET_TYPE_AT) == Some(&libc::PACKET_OUTGOING),
        })
    }

    /// Gives the packet that was peeked back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        // Releasing keeps our reads of the frame before the kernel's next writes to it.
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) & (self.frames - 1);
    }

    /// Receives the whole of a packet that was too long for the ring, with a gap of four bytes behind the
    /// addresses if `gap`. Returns its length, gap not counted.
    #[cold]
    pub(super) fn receive_copy(&self, buffer: &mut [u8], gap: bool) -> Option<usize> {
        let mut header = [0; VNET_LEN];
        let (addresses, rest) = buffer.split_at_mut_checked(super::MACS)?;
        let rest = rest.get_mut(if gap { super::TAG_LEN } else { 0 }..)?;
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(addresses), IoSliceMut::new(rest)];
        nix::sys::uio::readv(&self.socket, &mut parts).ok()?.checked_sub(VNET_LEN)
    }

    /// Packets that found the ring full since the last call.
    pub(super) fn dropped(&self) -> u64 {
        let read = get_option::<libc::tpacket_stats>(&self.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS);
        read.map_or(0, |statistics| u64::from(statistics.tp_drops))
    }

    /// Forgets a pending error (the interface went down), which would wake a sleeper for ever.
    pub(super) fn clear_error(&self) {
        let _error = get_option::<c_int>(&self.socket, libc::SOL_SOCKET, libc::SO_ERROR);
    }

    #[inline]
    fn status(&self) -> &AtomicU32 {
        // SAFETY: `next` is below `frames`, so the word lies within the mapping; frames are aligned to 16
        // bytes; both sides access the word atomically only, while the other may own the frame.
        unsafe { AtomicU32::from_ptr(self.map.base().add(self.next * self.frame_size).cast().as_ptr()) }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The link-layer address that binds a packet socket to an interface and an EtherType (0: receive nothing).
pub(super) fn address(index: c_int, ethertype: c_int) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (ethertype as u16).to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Header, link-layer address, alignment, virtio header, Ethernet header and VLAN tags in front of and
/// around an IP packet in the ring: at most 108 bytes.
const OVERHEAD: usize = 128;
/// Contiguous memory that the kernel allocates at a time.
const BLOCK: usize = 64 << 10;
/// Where the packet type is: `sll_pkttype` of the `sockaddr_ll` that follows the aligned header.
const PACKET_TYPE_AT: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16)
    + std::mem::offset_of!(libc::sockaddr_ll, sll_pkttype);
/// Memory for copies of packets that are too long for the ring: some thirty of the largest.
const COPIES: c_int = 4 << 20;

fn grow_receive_buffer(socket: &OwnedFd) -> io::Result<()> {
    // Beyond the system's limit with CAP_NET_ADMIN, else up to it.
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &COPIES)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &COPIES))
}

/// Attaches a filter that drops all. Without it the sockets of a group would each receive every packet until
/// they have all joined, and packets would age in the ring until the worker starts.
fn drop_everything(socket: &OwnedFd) -> io::Result<()> {
    // BPF_RET | BPF_K with 0: keep no byte of the packet.
    let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}
