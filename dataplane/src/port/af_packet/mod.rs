//! Packets through AF_PACKET sockets: any Ethernet interface of the kernel, in any network namespace, with
//! no more privilege than CAP_NET_RAW (and CAP_NET_ADMIN where a setting has to change).
//!
//! **Receiving** goes through a ring shared with the kernel. It is TPACKET_V2, which hands over each packet
//! as it comes. TPACKET_V3 hands over blocks, and a block that is not full only when a timer of at least a
//! millisecond runs out; on a lightly loaded tunnel every packet would wait for it.
//!
//! **Sending** is one `sendmmsg` a burst, straight from the worker's frames, past the queueing discipline. The
//! transmit ring that the kernel offers needs a copy into it first and was 5 to 15 % slower on veth at every
//! size.
//!
//! **Several queues** are one socket each in a PACKET_FANOUT group. The kernel hashes addresses and ports
//! (for ESP, the SPI) and hashes all fragments of a packet by its addresses alone, so that one worker sees
//! every fragment.
//!
//! **Offloads** of local senders are finished here: partial checksums are completed, TCP and UDP
//! super-packets (GSO) are segmented, and VLAN tags that the kernel took out are put back. Super-packets of
//! other kinds are dropped: by the kernel in `rx_missed`, or here in `rx_too_long` and `rx_errors`.
//!
//! **The kernel sees the packets too.** It must have no IP address on the interface, or else it answers ARP,
//! ICMP and TCP in the gateway's place; and it must not forward. The driver warns of both.

mod ring;
mod send;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use self::ring::{Arrival, Ring};
use self::send::Sender;
use super::netdev::{Interface, ReceiveMode};
use super::offload::{Gso, VnetHeader};
use super::segment::{Segment, Segmenter};
use super::sys::context;
use super::{Device, DeviceInfo, Port, PortCounters, QueueOpener, check_room};
use crate::buffer::{BURST, Burst, HEADROOM, Packet, Pool};

/// How the kernel spreads packets over the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// By a hash of addresses, ports and SPI: packets of a flow stay in order.
    #[default]
    Flow,
    /// By the core that the packet came in on: the NIC's own spreading (RSS) decides.
    Cpu,
    /// In turns: the packets of one large SA reach every worker. Packets of a flow may overtake each other,
    /// and fragments of one packet go to different workers.
    RoundRobin,
}

/// An AF_PACKET port.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the interface.
    pub device: String,
    /// Queue pairs: one a worker.
    pub queues: usize,
    /// MTU to set on the interface; `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// Receive packets to every Ethernet address, and on most NICs with every VLAN tag.
    pub promiscuous: bool,
    /// Packets that wait in the ring of a queue; rounded up to a power of two.
    pub ring: usize,
    /// How packets are spread over the queues.
    pub spread: Spread,
    /// Send past the queueing discipline. Turn it off to shape with `tc`.
    pub qdisc_bypass: bool,
}

impl Config {
    /// One queue on `device`, everything else at its default.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            queues: 1,
            mtu: None,
            promiscuous: false,
            ring: 4096,
            spread: Spread::Flow,
            qdisc_bypass: true,
        }
    }
}

/// Opens an interface. Packets are received from when a queue is opened on its worker.
///
/// # Errors
/// `NotFound` for a missing interface, `PermissionDenied` naming the capability that lacks, `InvalidInput`
/// for settings that cannot be; else what the kernel says.
pub fn open(config: Config) -> io::Result<Box<dyn Device>> {
    if config.queues == 0 || config.ring == 0 || config.ring > 1 << 20 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{}: needs at least one queue, and a ring of 1 to 1048576 packets", config.device),
        ));
    }
    let interface = Interface::find(&config.device)?;
    let mac = interface.mac()?;
    let mtu = interface.adjust_mtu(config.mtu)?;
    interface.bring_up()?;
    interface.stop_merging();
    interface.warn_of_kernel();

    let mut queues = Vec::with_capacity(config.queues);
    let mut group = None;
    for _ in 0..config.queues {
        let ring = Ring::open(&interface, config.ring, mtu).map_err(|error| explain(&error, &interface))?;
        if config.queues > 1 {
            group = Some(ring.join(group, config.spread).map_err(|error| {
                context(&error, format_args!("cannot spread {} over several sockets", interface.name()))
            })?);
        }
        let sender =
            Sender::open(&interface, config.qdisc_bypass).map_err(|error| explain(&error, &interface))?;
        let mode = ReceiveMode::enter(&interface, config.promiscuous)?;
        queues.push(Queue { ring, sender, mode });
    }
    let info = DeviceInfo {
        driver: "af_packet",
        device: config.device,
        mac: Some(mac),
        mtu,
        queues: config.queues,
        features: vec![
            ("ring", config.ring.next_power_of_two().to_string()),
            ("spread", format!("{:?}", config.spread).to_lowercase()),
            ("qdisc_bypass", config.qdisc_bypass.to_string()),
        ],
    };
    Ok(Box::new(AfPacket { info, queues }))
}

struct AfPacket {
    info: DeviceInfo,
    queues: Vec<Queue>,
}

/// What a queue needs, opened on the main thread so that errors are seen there.
struct Queue {
    ring: Ring,
    sender: Sender,
    mode: ReceiveMode,
}

impl Device for AfPacket {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        let mtu = self.info.mtu;
        let open = |queue: Queue| -> QueueOpener {
            Box::new(move |pool| {
                check_room(pool, mtu)?;
                queue.ring.start()?;
                Ok(Box::new(AfPacketPort {
                    ring: queue.ring,
                    sender: queue.sender,
                    segmenter: Segmenter::new(),
                    counters: PortCounters::default(),
                    _mode: queue.mode,
                }))
            })
        };
        self.queues.into_iter().map(open).collect()
    }
}

struct AfPacketPort {
    ring: Ring,
    sender: Sender,
    segmenter: Segmenter,
    counters: PortCounters,
    _mode: ReceiveMode,
}

impl Port for AfPacketPort {
    fn rx(&mut self, pool: &Pool, burst: &mut Burst) {
        // Lost packets fill no burst, so the number of rounds bounds the call.
        for _ in 0..BURST {
            if burst.is_full() {
                break;
            }
            if !self.segmenter.is_pending() {
                let Some(arrival) = self.ring.peek() else { break };
                let taken = take(&arrival, &self.ring, pool, &mut self.segmenter);
                self.ring.release();
                match taken {
                    Taken::Packet(packet) => {
                        self.counters.rx_packets += 1;
                        self.counters.rx_bytes += packet.len() as u64;
                        burst.push(packet);
                        continue;
                    }
                    Taken::Super => {}
                    Taken::NoBuffer => self.counters.rx_no_buffer += 1,
                    Taken::TooLong => self.counters.rx_too_long += 1,
                    Taken::Error => self.counters.rx_errors += 1,
                    Taken::Ignored => {}
                }
            }
            match self.segmenter.next(pool) {
                Segment::Frame(packet) => {
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += packet.len() as u64;
                    burst.push(packet);
                }
                Segment::NoBuffer => self.counters.rx_no_buffer += 1,
                Segment::Done => {}
            }
        }
    }

    fn tx(&mut self, burst: &mut Burst) {
        self.sender.send(burst, &mut self.counters);
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn before_sleep(&mut self) {
        self.ring.clear_error();
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.rx_missed += self.ring.dropped();
        self.counters
    }
}

/// What became of a packet in the ring.
enum Taken {
    Packet(Packet),
    /// A super-packet, which the segmenter now holds.
    Super,
    NoBuffer,
    /// Longer than a frame of the pool or the ring.
    TooLong,
    Error,
    Ignored,
}

/// Takes a packet out of the ring: into a frame, or into the segmenter.
fn take(arrival: &Arrival<'_>, ring: &Ring, pool: &Pool, segmenter: &mut Segmenter) -> Taken {
    if arrival.outgoing {
        return Taken::Ignored;
    }
    let mut header = arrival.header;
    let tag = arrival.tag;
    header.shift(if tag.is_some() { TAG_LEN as u16 } else { 0 });

    if arrival.copied || header.gso != Gso::None {
        let room = pool.frame_size() - HEADROOM;
        let buffer = segmenter.buffer();
        let received = if arrival.copied {
            ring.receive_copy(buffer, tag.is_some()).filter(|&len| len == arrival.len)
        } else {
            (arrival.bytes.len() == arrival.len).then(|| lay(buffer, arrival.bytes, tag.is_some())).flatten()
        };
        let Some(mut len) = received else { return Taken::Error };
        if let Some(tag) = tag {
            len += TAG_LEN;
            let Some(field) = buffer.get_mut(MACS..MACS + TAG_LEN) else { return Taken::Error };
            field.copy_from_slice(&tag);
        }
        if header.gso != Gso::None {
            return if segmenter.start(len, &header, room) { Taken::Super } else { Taken::Error };
        }
        // The interface's MTU was raised after the ring was made: large, but an ordinary packet.
        let Some(bytes) = segmenter.buffer().get(..len) else { return Taken::Error };
        return frame(pool, |data| data.copy_from_slice(bytes), len, &header);
    }

    if arrival.bytes.len() < arrival.len {
        return Taken::TooLong;
    }
    if arrival.len < ETHERNET_LEN {
        return Taken::Error;
    }
    match tag {
        None => frame(pool, |data| data.copy_from_slice(arrival.bytes), arrival.len, &header),
        Some(tag) => frame(
            pool,
            |data| {
                lay(data, arrival.bytes, true);
                if let Some(field) = data.get_mut(MACS..MACS + TAG_LEN) {
                    field.copy_from_slice(&tag);
                }
            },
            arrival.len + TAG_LEN,
            &header,
        ),
    }
}

/// A frame of `len` bytes that `fill` writes, with its checksum completed.
fn frame(pool: &Pool, fill: impl FnOnce(&mut [u8]), len: usize, header: &VnetHeader) -> Taken {
    let Some(mut packet) = pool.alloc() else { return Taken::NoBuffer };
    let Some(data) = packet.append(len) else { return Taken::TooLong };
    fill(data);
    if header.needs_checksum && !header.complete_checksum(data) {
        return Taken::Error;
    }
    Taken::Packet(packet)
}

/// Copies a frame to `to`, with room for a VLAN tag behind the addresses if `gap`. Returns its length.
fn lay(to: &mut [u8], from: &[u8], gap: bool) -> Option<usize> {
    let (addresses, rest) = from.split_at_checked(MACS)?;
    let behind = if gap { MACS + TAG_LEN } else { MACS };
    to.get_mut(..MACS)?.copy_from_slice(addresses);
    to.get_mut(behind..behind + rest.len())?.copy_from_slice(rest);
    Some(from.len())
}

const ETHERNET_LEN: usize = 14;
/// Bytes of the two Ethernet addresses, in front of any VLAN tag.
const MACS: usize = 12;
const TAG_LEN: usize = 4;

/// Says what would mend an error of opening a packet socket.
fn explain(error: &io::Error, interface: &Interface) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": needs CAP_NET_RAW (run as root, or grant it to the service)",
        Some(libc::ENOMEM) => ": the kernel has no memory for the ring; ask for a smaller one",
        Some(libc::EAFNOSUPPORT) => ": this kernel has no AF_PACKET (CONFIG_PACKET)",
        _ => "",
    };
    context(error, format_args!("cannot open a packet socket on {}{hint}", interface.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for (queues, ring) in [(0, 64), (1, 0), (1, usize::MAX)] {
            let error = open(Config { queues, ring, ..Config::new("lo") }).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let error = open(Config::new("nothing0")).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tag_gets_its_place_behind_the_addresses() {
        let from: Vec<u8> = (0..20).collect();
        let mut to = [0xee; 24];
        assert_eq!(lay(&mut to, &from, true), Some(20));
        assert_eq!(to[..12], from[..12]);
        assert_eq!(to[12..16], [0xee; 4]);
        assert_eq!(to[16..], from[12..]);
        assert_eq!(lay(&mut to, &from[..11], true), None);
        assert_eq!(lay(&mut to[..20], &from, true), None);
    }
}
