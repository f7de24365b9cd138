//! Where packets come from: what an inbound SA is watched for, so that a peer whose address changed is followed.

use std::net::IpAddr;

use crate::outer::v6;
use crate::packet::address::Address;
use crate::packet::{ipv4, ipv6, udp};
use crate::sa::{Endpoints, UdpPorts};

/// Where a packet came from, with our own side as it was addressed: [`Endpoints`] as they are in the packet, quick to read
/// and to compare.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Whence {
    /// Source and destination over IPv4; the first words of them over IPv6.
    first: u64,
    /// Source and destination port of UDP.
    ports: u32,
    /// What there is of these: [`Whence::IPV6`], [`Whence::UDP`].
    kind: u32,
    rest: [u64; 3],
}

impl Whence {
    const IPV6: u32 = 1;
    const UDP: u32 = 2;

    /// Of a packet that was parsed before: its IP header is `ip_len` bytes long, and a UDP header is behind it when its
    /// protected header is not, but at `at`.
    #[inline(always)]
    pub(super) fn read(packet: &[u8], ip_len: usize, at: usize) -> Self {
        let word = |at| u64::from_ne_bytes(copy(packet, at));
        let (ports, udp) =
            if at == ip_len { (0, 0) } else { (u32::from_ne_bytes(copy(packet, ip_len)), Self::UDP) };
        match packet.first() {
            Some(byte) if byte >> 4 == 6 => {
                let [first, rest @ ..] = [8, 16, 24, 32].map(word);
                Self { first, ports, kind: Self::IPV6 | udp, rest }
            }
            _ => Self { first: word(12), ports, kind: udp, rest: [0; 3] },
        }
    }
}

impl PartialEq for Whence {
    /// Word by word, in registers: one of them was read just now and need not go through memory.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let differ = u64::from(self.ports ^ other.ports | self.kind ^ other.kind) | self.first ^ other.first;
        // Over IPv4 there is no more of it, and the other line of the slot need not be looked at.
        differ == 0 && (self.kind & Self::IPV6 == 0 || self.rest == other.rest)
    }
}

/// `N` bytes at `at`; zeros behind the end.
#[inline(always)]
fn copy<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    packet.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

impl From<Endpoints> for Whence {
    fn from(endpoints: Endpoints) -> Self {
        // As a packet from there would show it.
        let mut packet = [0; ipv6::HEADER_LEN + 4];
        let (ip_len, kind) = match (endpoints.remote, endpoints.local) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => {
                packet[12..16].copy_from_slice(&remote.octets());
                packet[16..20].copy_from_slice(&local.octets());
                (ipv4::HEADER_LEN, 0x40)
            }
            (remote, local) => {
                packet[8..24].copy_from_slice(&v6(remote));
                packet[24..40].copy_from_slice(&v6(local));
                (ipv6::HEADER_LEN, 0x60)
            }
        };
        packet[0] = kind;
        if let Some(ports) = endpoints.udp {
            packet[ip_len..ip_len + 2].copy_from_slice(&ports.remote.to_be_bytes());
            packet[ip_len + 2..ip_len + 4].copy_from_slice(&ports.local.to_be_bytes());
        }
        Self::read(&packet, ip_len, if endpoints.udp.is_some() { ip_len + udp::HEADER_LEN } else { ip_len })
    }
}

impl From<Whence> for Endpoints {
    fn from(whence: Whence) -> Self {
        let [second, third, fourth] = whence.rest;
        let words = [whence.first, second, third, fourth].map(u64::to_ne_bytes);
        let bytes = words.as_flattened();
        let (remote, local) = if whence.kind & Whence::IPV6 == 0 {
            (Address::v4(copy(bytes, 0)), Address::v4(copy(bytes, 4)))
        } else {
            (Address::v6(copy(bytes, 0)), Address::v6(copy(bytes, 16)))
        };
        let [a, b, c, d] = whence.ports.to_ne_bytes();
        let ports = UdpPorts { local: u16::from_be_bytes([c, d]), remote: u16::from_be_bytes([a, b]) };
        let udp = (whence.kind & Whence::UDP != 0).then_some(ports);
        Self { local: local.to_ip(), remote: remote.to_ip(), udp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(local: &str, remote: &str, udp: Option<(u16, u16)>) -> Endpoints {
        let udp = udp.map(|(local, remote)| UdpPorts { local, remote });
        Endpoints { local: local.parse().unwrap(), remote: remote.parse().unwrap(), udp }
    }

    #[test]
    fn endpoints_differ_by_each_of_their_parts_and_come_back() {
        let all = [
            endpoints("198.51.100.1", "203.0.113.7", None),
            endpoints("198.51.100.2", "203.0.113.7", None),
            endpoints("198.51.100.1", "203.0.113.8", None),
            endpoints("198.51.100.1", "203.0.113.7", Some((4500, 4500))),
            endpoints("198.51.100.1", "203.0.113.7", Some((4500, 4501))),
            endpoints("198.51.100.1", "203.0.113.7", Some((4501, 4500))),
            endpoints("198.51.100.1", "203.0.113.7", Some((0, 0))),
            endpoints("2001:db8::1", "2001:db8::2", None),
            endpoints("2001:db8::3", "2001:db8::2", None),
            endpoints("2001:db8:1::1", "2001:db8::2", None),
            endpoints("2001:db8::1", "2001:db8::3", None),
            endpoints("2001:db8::1", "2001:db8::2", Some((4500, 4500))),
        ];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(Endpoints::from(Whence::from(*one)), *one);
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(Whence::from(*one) == Whence::from(*other), at == other_at, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn what_a_packet_does_not_show_is_zero() {
        let v6 = |len| Endpoints::from(Whence::read(&vec![0x60; len], 40, 48));
        let v4 = |len| Endpoints::from(Whence::read(&vec![0x45; len], 20, 28));
        assert_eq!(v4(24), endpoints("69.69.69.69", "69.69.69.69", Some((0x4545, 0x4545))));
        assert_eq!(v4(19), endpoints("0.0.0.0", "0.0.0.0", Some((0, 0))));
        assert_eq!(v6(44).udp, v6(48).udp);
        assert_eq!(
            v6(39),
            endpoints("6060:6060:6060:6060::", "6060:6060:6060:6060:6060:6060:6060:6060", Some((0, 0)))
        );
        assert_eq!(v4(0), v4(11));
    }
}
