//! Room for a transport mode header (RFC 4301 s3.2) between an IP header and its payload.

use crate::buffer::Packet;
use crate::packet::{ip, ipv4, ipv6};

/// Opens a gap of `gap` bytes behind the first `ip_len` bytes, the IP header with its extensions, and makes
/// `protocol` follow it. `None` when there is no room, or the packet would exceed 65,535 bytes.
pub(crate) fn open(packet: &mut Packet, ip_len: usize, gap: usize, protocol: u8) -> Option<()> {
    packet.prepend(gap)?;
    packet.data_mut().copy_within(gap..gap + ip_len, 0);
    rewrite(packet, protocol)
}

/// Closes the gap between the first `ip_len` bytes and `payload_at`, and makes `protocol` follow the IP header.
/// `None` when the offsets do not fit the packet.
pub(crate) fn close(packet: &mut Packet, ip_len: usize, payload_at: usize, protocol: u8) -> Option<()> {
    let gap = payload_at.checked_sub(ip_len)?;
    if payload_at > packet.len() {
        return None;
    }
    packet.data_mut().copy_within(..ip_len, gap);
    packet.trim_front(gap);
    rewrite(packet, protocol)
}

/// Sets the protocol that follows the IP header and its extensions.
pub(crate) fn set_protocol(packet: &mut [u8], protocol: u8) -> Option<()> {
    if packet.first()? >> 4 == 4 {
        ipv4::set_protocol(packet.first_chunk_mut()?, protocol);
    } else {
        let at = ipv6::walk(packet).ok()?.upper_next_at;
        *packet.get_mut(at)? = protocol;
    }
    Some(())
}

fn rewrite(packet: &mut Packet, protocol: u8) -> Option<()> {
    let total = u16::try_from(packet.len()).ok()?;
    let data = packet.data_mut();
    ip::set_total_len(data, total).ok()?;
    set_protocol(data, protocol)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::buffer::Pool;
    use crate::packet::ip::protocol;

    fn udp4() -> Vec<u8> {
        let mut packet = vec![0; 28];
        let repr = ipv4::Repr {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
            protocol: protocol::UDP,
            total_len: 28,
            identification: 1,
            dont_fragment: false,
            ttl: 64,
            tos: 0,
        };
        repr.emit(packet.first_chunk_mut().unwrap());
        packet
    }

    /// IPv6 with destination options before UDP.
    fn udp6() -> Vec<u8> {
        let mut packet = vec![0; 56];
        packet[0] = 0x60;
        packet[5] = 16;
        packet[6] = protocol::DESTINATION_OPTIONS;
        packet[7] = 64;
        packet[40] = protocol::UDP;
        packet[42] = 1;
        packet[43] = 4;
        packet
    }

    /// IPv6 with a fragment header though it is whole (RFC 6946), before UDP.
    fn atomic6() -> Vec<u8> {
        let mut packet = udp6();
        packet[6] = protocol::FRAGMENT;
        packet[40..48].copy_from_slice(&[protocol::UDP, 0, 0, 0, 1, 2, 3, 4]);
        packet
    }

    #[test]
    fn a_gap_opens_behind_the_headers_and_closes_again() {
        let pool = Pool::new(1, 2048).unwrap();
        for (original, ip_len) in [(udp4(), 20), (udp6(), 48), (atomic6(), 48)] {
            let mut packet = pool.alloc_from(&original).unwrap();
            open(&mut packet, ip_len, 16, protocol::ESP).unwrap();
            let opened = ip::parse(packet.data()).unwrap();
            assert_eq!(usize::from(opened.total_len), original.len() + 16);
            assert_eq!((opened.protocol, usize::from(opened.header_len)), (protocol::ESP, ip_len));
            close(&mut packet, ip_len, ip_len + 16, protocol::UDP).unwrap();
            assert_eq!(packet.data(), original);
        }
    }

    #[test]
    fn offsets_outside_of_the_packet_are_refused() {
        let pool = Pool::new(1, 2048).unwrap();
        let mut packet = pool.alloc_from(&udp4()).unwrap();
        assert_eq!(close(&mut packet, 20, 29, protocol::UDP), None);
        assert_eq!(open(&mut packet, 20, 4096, protocol::ESP), None);
        assert_eq!(packet.data(), udp4());
    }
}
