//! Outer headers of a tunnel: IPv4 or IPv6, and UDP when encapsulated (RFC 3948), made once and stamped onto
//! every packet.

use std::net::IpAddr;

use crate::packet::address::Address;
use crate::packet::bytes::put;
use crate::packet::ip::{self, Version};
use crate::packet::{checksum, ecn, esp, ipv4, ipv6, udp};
use crate::sa::{DfPolicy, DscpPolicy, Endpoints, OutboundOptions};

const IPV4_LEN: usize = ipv4::HEADER_LEN;
const IPV6_LEN: usize = ipv6::HEADER_LEN;
const UDP_LEN: usize = udp::HEADER_LEN;

/// The outer headers of one tunnel's outbound packets.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    bytes: [u8; IPV6_LEN + UDP_LEN],
    len: u8,
    ip_len: u8,
}

/// What the IPv4 headers of a tunnel's packets have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SameV4 {
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) source: u32,
    pub(crate) destination: u32,
    /// Source and destination port of the UDP header behind it.
    pub(crate) ports: Option<u32>,
    /// Sum of the header's 16-bit words, where those that differ are zero.
    pub(crate) sum: u16,
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// DF bit; IPv4 only.
    pub dont_fragment: bool,
    /// Identification; IPv4 only.
    pub id: u16,
}

impl Stamp {
    /// Flags and offset of the IPv4 header.
    #[inline]
    pub(crate) fn fragment_word(self) -> u16 {
        if self.dont_fragment { 0x4000 } else { 0 }
    }
}

/// How an SA derives DSCP, ECN and DF of the outer header from the inner one (RFC 4301 s5.1.2, RFC 6040 s4.1).
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// Bits that are copied.
    tos_copied: u8,
    tos_set: u8,
    copy_df: bool,
    set_df: bool,
}

impl Marks {
    /// Those of an SA with these options; `ecn` as in [`SaParams`](crate::sa::SaParams).
    #[inline]
    pub fn new(options: &OutboundOptions, ecn: bool) -> Self {
        let mode = if ecn { ecn::Mode::Normal } else { ecn::Mode::Compatibility };
        let (dscp_copied, tos_set) = match options.dscp {
            DscpPolicy::Copy => (!ecn::MASK, 0),
            DscpPolicy::Set(dscp) => (0, dscp << 2),
        };
        Self {
            tos_copied: dscp_copied | ecn::copied(mode),
            tos_set,
            copy_df: options.df == DfPolicy::Copy,
            set_df: options.df == DfPolicy::Set,
        }
    }

    /// For an inner packet with this TOS byte or traffic class and this DF bit.
    #[inline]
    pub fn stamp(self, tos: u8, dont_fragment: bool, id: u16) -> Stamp {
        Stamp {
            tos: tos & self.tos_copied | self.tos_set,
            dont_fragment: dont_fragment & self.copy_df | self.set_df,
            id,
        }
    }
}

impl Outer {
    /// Headers between `endpoints` for `protocol` (50 or 51), with this TTL or hop limit.
    pub fn new(endpoints: &Endpoints, protocol: u8, ttl: u8) -> Self {
        let mut bytes = [0; IPV6_LEN + UDP_LEN];
        let protocol = if endpoints.udp.is_some() { ip::protocol::UDP } else { protocol };
        let ip_len = match (endpoints.local, endpoints.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                bytes[0] = 0x45;
                bytes[8] = ttl;
                bytes[9] = protocol;
                bytes[12..16].copy_from_slice(&local.octets());
                bytes[16..20].copy_from_slice(&remote.octets());
                IPV4_LEN
            }
            (local, remote) => {
                bytes[0] = 0x60;
                bytes[6] = protocol;
                bytes[7] = ttl;
                bytes[8..24].copy_from_slice(&v6(local));
                bytes[24..40].copy_from_slice(&v6(remote));
                IPV6_LEN
            }
        };
        let mut len = ip_len;
        if let Some(ports) = endpoints.udp {
            bytes[len..len + 2].copy_from_slice(&ports.local.to_be_bytes());
            bytes[len + 2..len + 4].copy_from_slice(&ports.remote.to_be_bytes());
            len += UDP_LEN;
        }
        Self { bytes, len: len as u8, ip_len: ip_len as u8 }
    }

    /// Length of all outer headers in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    fn ip_len(&self) -> usize {
        usize::from(self.ip_len)
    }

    /// Version of the outer header.
    #[inline]
    pub fn version(&self) -> Version {
        if self.is_ipv6() { Version::V6 } else { Version::V4 }
    }

    #[inline]
    fn is_ipv6(&self) -> bool {
        self.ip_len() == IPV6_LEN
    }

    /// Whether there is a UDP header.
    #[inline]
    pub fn is_udp(&self) -> bool {
        self.len != self.ip_len
    }

    /// What the IPv4 headers of all packets have in common; `None` over IPv6.
    #[inline]
    pub(crate) fn v4(&self) -> Option<SameV4> {
        let [_, _, _, _, _, _, _, _, ttl, protocol, _, _, addresses @ ..] = &self.bytes;
        let word = |at: usize| addresses.get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
        let ports = if self.is_udp() { Some(word(8)?) } else { None };
        let (ttl, protocol, sum) = (*ttl, *protocol, !checksum::of(&self.bytes[..IPV4_LEN]));
        (!self.is_ipv6()).then_some(SameV4 {
            ttl,
            protocol,
            source: word(0)?,
            destination: word(4)?,
            ports,
            sum,
        })
    }

    /// Writes the headers to the front of `packet`, which is the whole outer packet. The UDP checksum is left
    /// zero, as RFC 3948 s2.1 wants for IPv4; for IPv6 see [`Outer::finish_udp6`].
    #[inline]
    pub fn write(&self, packet: &mut [u8], stamp: Stamp) {
        let total = packet.len();
        if self.is_ipv6() {
            let Some(header) = packet.first_chunk_mut::<IPV6_LEN>() else { return };
            header.copy_from_slice(&self.bytes[..IPV6_LEN]);
            header[0] |= stamp.tos >> 4;
            header[1] = stamp.tos << 4;
            header[4..6].copy_from_slice(&((total - IPV6_LEN) as u16).to_be_bytes());
        } else {
            let Some(header) = packet.first_chunk_mut::<IPV4_LEN>() else { return };
            header.copy_from_slice(&self.bytes[..IPV4_LEN]);
            header[1] = stamp.tos;
            put::<2, 2, _>(header, (total as u16).to_be_bytes());
            put::<4, 2, _>(header, stamp.id.to_be_bytes());
            put::<6, 2, _>(header, stamp.fragment_word().to_be_bytes());
            put::<10, 2, _>(header, checksum::of(header).to_be_bytes());
        }
        if self.is_udp()
            && let Some(datagram) = packet.get_mut(self.ip_len()..)
        {
            self.write_udp(datagram);
        }
    }

    /// Writes the UDP header, if there is one, to the front of `datagram`, which is all of the UDP packet.
    #[inline]
    pub fn write_udp(&self, datagram: &mut [u8]) {
        let len = datagram.len() as u16;
        if self.is_udp()
            && let Some(header) = datagram.first_chunk_mut::<UDP_LEN>()
        {
            let ip_len = self.ip_len();
            header.copy_from_slice(&self.bytes[ip_len..ip_len + UDP_LEN]);
            header[4..6].copy_from_slice(&len.to_be_bytes());
        }
    }

    /// Writes a NAT keepalive (RFC 3948 s2.3) into `packet`, which is [`Outer::len`] and one byte long.
    pub fn write_keepalive(&self, packet: &mut [u8]) {
        if let Some(payload) = packet.get_mut(self.len()) {
            *payload = esp::NAT_KEEPALIVE;
        }
        self.write(packet, Stamp { tos: 0, dont_fragment: false, id: 0 });
        self.finish_udp6(packet, self.ip_len());
    }

    /// Whether [`Outer::finish_udp6`] has something to do.
    #[inline]
    pub fn needs_checksum(&self) -> bool {
        self.is_udp() && self.is_ipv6()
    }

    /// Writes the UDP checksum of a finished packet over IPv6: RFC 8200 s8.1 lets receivers discard a zero
    /// one, and Linux does. `at` is where the UDP header is: behind the outer IP header or, in transport mode, behind
    /// the packet's own with its extensions.
    #[inline]
    pub fn finish_udp6(&self, packet: &mut [u8], at: usize) {
        if !self.needs_checksum() {
            return;
        }
        let address = |at: usize| self.bytes.get(at..).and_then(|rest| rest.first_chunk::<16>());
        let (Some(source), Some(destination)) = (address(8), address(24)) else { return };
        let (source, destination) = (Address::v6(*source), Address::v6(*destination));
        if let Some(datagram) = packet.get_mut(at..) {
            let checksum = udp::checksum(source, destination, datagram);
            if let Some(header) = datagram.first_chunk_mut::<UDP_LEN>() {
                header[6..8].copy_from_slice(&checksum.to_be_bytes());
            }
        }
    }
}

/// The octets of an IPv6 address, or of an IPv4 address mapped into one.
pub(crate) fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
