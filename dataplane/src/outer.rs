//! Outer headers of a tunnel: IPv4 or IPv6, and UDP when encapsulated (RFC 3948), made once and stamped onto
//! every packet.

use std::net::IpAddr;

use crate::packet::address::Address;
use crate::packet::bytes::put;
use crate::packet::checksum::Checksum;
use crate::packet::ip::{self, Version};
use crate::packet::{esp, ipv4, ipv6, udp};
use crate::sa::Endpoints;

const IPV4_LEN: usize = ipv4::HEADER_LEN;
const IPV6_LEN: usize = ipv6::HEADER_LEN;
const UDP_LEN: usize = udp::HEADER_LEN;

/// The outer headers of one tunnel's outbound packets.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    bytes: [u8; IPV6_LEN + UDP_LEN],
    /// Sum over what is constant of the IPv4 header.
    sum: Checksum,
    len: u8,
    ip_len: u8,
}

// With many tunnels it is a cache miss: not two.
const _: () = assert!(size_of::<Outer>() == 64);

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
        let sum = Checksum::default().bytes(&bytes[..IPV4_LEN]);
        Self { bytes, sum, len: len as u8, ip_len: ip_len as u8 }
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
            // In words of four bytes, as they are in the packet.
            let first = u32::from(stamp.tos) << 16 | total as u32 & 0xffff;
            let second = u32::from(stamp.id) << 16 | if stamp.dont_fragment { 0x4000 } else { 0 };
            let sum = self.sum.u32(first).u32(second).finish();
            let [_, _, _, _, _, _, _, _, ttl, protocol, ..] = self.bytes;
            header.copy_from_slice(&self.bytes[..IPV4_LEN]);
            put::<0, 4, _>(header, (0x4500_0000 | first).to_be_bytes());
            put::<4, 4, _>(header, second.to_be_bytes());
            let third = u32::from(ttl) << 24 | u32::from(protocol) << 16 | u32::from(sum);
            put::<8, 4, _>(header, third.to_be_bytes());
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

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
