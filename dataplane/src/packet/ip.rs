//! IPv4 and IPv6 together: what the fast path asks of a packet, and what it changes in place.

use super::address::Address;
use super::checksum::Checksum;
use super::{icmpv6, ipv4, ipv6, tcp, udp};
use crate::drops::DropReason;

/// IP protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP; the next header of ESP and AH in tunnel mode.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP; the next header of ESP and AH in tunnel mode.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ESP.
    pub const ESP: u8 = 50;
    /// AH.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows; the next header of a dummy packet (RFC 4303 s2.6).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// Longest IP packet that is handled, header included.
pub const MAX_TOTAL_LEN: usize = 65_535;

/// Version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// The protocol number by which another header announces a packet of this version.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::V4 => protocol::IPV4,
            Self::V6 => protocol::IPV6,
        }
    }
}

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpInfo {
    /// IPv4 or IPv6.
    pub version: Version,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The upper-layer protocol, behind all extension headers. ESP, AH and the mobility header count as upper
    /// layer. In a later fragment it is the one that its IPv4 or fragment header names.
    pub protocol: u8,
    /// Where the upper-layer header starts, in bytes from the IP header.
    pub header_len: u16,
    /// Header and payload by the header's own length field. What the slice holds beyond is link padding.
    pub total_len: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS byte or traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// IPv4's DF bit; true for IPv6, which routers do not fragment.
    pub dont_fragment: bool,
    /// Set when the packet is a piece of another. An IPv6 atomic fragment is whole, so it is `None` (RFC 6946).
    pub fragment: Option<FragmentInfo>,
    /// Source and destination port of TCP, UDP, UDP-Lite, SCTP and DCCP. For ICMP, `type << 8 | code`, and for
    /// the mobility header, `type << 8` (RFC 4301 s4.4.1.1), in both places, so that a selector on either side
    /// matches it in both directions. `None` for other protocols and where the packet does not show them.
    pub ports: Option<(u16, u16)>,
}

/// Which piece of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Same in all fragments of the packet.
    pub identification: u32,
    /// Where the piece belongs, in bytes.
    pub offset: u16,
    /// It is not the last one.
    pub more: bool,
}

impl IpInfo {
    /// Bytes behind the headers.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_len.saturating_sub(self.header_len))
    }

    /// Whether the packet is a fragment without the upper-layer header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0)
    }
}

/// Parses the headers of the packet at the start of `packet`, down to the ports. Verifies version, lengths,
/// extension headers, the IPv4 header checksum, and that a fragment is one that can be put together.
///
/// # Errors
/// - [`DropReason::IpMalformed`]: version, or a length that does not fit the header or the slice.
/// - [`DropReason::IpChecksum`]: IPv4 header checksum.
/// - [`DropReason::IpOptions`]: IPv4 source route, or options that do not parse.
/// - [`DropReason::ExtensionHeaders`]: more or longer IPv6 extension headers than the bounds in [`ipv6`], or a
///   routing header of type 0.
/// - [`DropReason::FragmentMalformed`]: length, alignment, or so small that it hides the upper-layer header.
/// - [`DropReason::FragmentTooLong`]: past 65,535 bytes.
#[inline]
pub fn parse(packet: &[u8]) -> Result<IpInfo, DropReason> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4::parse(packet),
        Some(6) => ipv6::parse(packet),
        _ => Err(DropReason::IpMalformed),
    }
}

/// Whether a router may forward a packet with these addresses (RFC 1812 s5.3.7, RFC 4291 s2.5).
///
/// # Errors
/// [`DropReason::AddressInvalid`] for a source that cannot be a unicast address of a host, and for a destination
/// that is unspecified, loopback, link-local, reserved or multicast: multicast is not routed here.
#[inline]
pub fn check_forwardable(info: &IpInfo) -> Result<(), DropReason> {
    let (source, destination) = (info.source, info.destination);
    let forwardable =
        source.version() == destination.version() && source.is_forwardable() && destination.is_forwardable();
    if forwardable { Ok(()) } else { Err(DropReason::AddressInvalid) }
}

/// Takes one from the TTL or hop limit and mends the IPv4 checksum. Returns the new TTL.
///
/// # Errors
/// [`DropReason::TtlExceeded`] when nothing would be left (RFC 1812 s5.3.1, RFC 8200 s3); the packet is then as
/// it was. [`DropReason::IpMalformed`] when there is no IP header.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Result<u8, DropReason> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4::decrement_ttl(packet.first_chunk_mut().ok_or(DropReason::IpMalformed)?),
        Some(6) => ipv6::decrement_hop_limit(packet.first_chunk_mut().ok_or(DropReason::IpMalformed)?),
        _ => Err(DropReason::IpMalformed),
    }
}

/// The TOS byte or traffic class; 0 when there is no IP header.
#[inline]
pub fn tos(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        [_, second, ..] => *second,
        _ => 0,
    }
}

/// Sets the TOS byte or traffic class and mends the IPv4 checksum.
///
/// # Errors
/// [`DropReason::IpMalformed`] when there is no IP header.
#[inline]
pub fn set_tos(packet: &mut [u8], tos: u8) -> Result<(), DropReason> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4::set_tos(packet.first_chunk_mut().ok_or(DropReason::IpMalformed)?, tos),
        Some(6) => ipv6::set_traffic_class(packet.first_chunk_mut().ok_or(DropReason::IpMalformed)?, tos),
        _ => return Err(DropReason::IpMalformed),
    }
    Ok(())
}

/// Sets the length field so that header and payload have `total_len` bytes, and mends the IPv4 checksum.
///
/// # Errors
/// [`DropReason::IpMalformed`] when there is no IP header, or `total_len` is shorter than an IPv6 header.
#[inline]
pub fn set_total_len(packet: &mut [u8], total_len: u16) -> Result<(), DropReason> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4::set_total_len(packet.first_chunk_mut().ok_or(DropReason::IpMalformed)?, total_len),
        Some(6) => {
            let payload_len =
                total_len.checked_sub(ipv6::HEADER_LEN as u16).ok_or(DropReason::IpMalformed)?;
            ipv6::set_payload_len(packet.first_chunk_mut().ok_or(DropReason::IpMalformed)?, payload_len);
        }
        _ => return Err(DropReason::IpMalformed),
    }
    Ok(())
}

/// The sum over the pseudo-header of TCP, UDP and ICMPv6: addresses, protocol, and the upper layer's length in
/// bytes (RFC 768, RFC 9293 s3.1, RFC 8200 s8.1).
#[inline]
pub fn pseudo_header(
    source: impl Into<Address>,
    destination: impl Into<Address>,
    protocol: u8,
    len: u32,
) -> Checksum {
    let sum = Checksum::default().u16(u16::from(protocol)).u32(len);
    // The bits behind an IPv4 address are zero and change no sum.
    let add = |sum: Checksum, address: Address| sum.bytes(&address.key().to_be_bytes());
    add(add(sum, source.into()), destination.into())
}

/// Lowers the MSS option of a TCP SYN to `max_mss` and mends the TCP checksum. `info` is of this packet. Returns
/// whether the packet changed.
pub fn clamp_mss(ip_packet: &mut [u8], info: &IpInfo, max_mss: u16) -> bool {
    if info.protocol != protocol::TCP || info.is_later_fragment() {
        return false;
    }
    ip_packet
        .get_mut(usize::from(info.header_len)..usize::from(info.total_len))
        .is_some_and(|segment| tcp::clamp_mss(segment, max_mss))
}

/// Computes the checksum of TCP, UDP or ICMPv6 anew, for a packet whose addresses a NAT changed while they were not
/// to be seen (RFC 3948 s3.1.2). `info` is of this packet. A UDP packet over IPv4 without a checksum stays without.
pub fn renew_checksum(ip_packet: &mut [u8], info: &IpInfo) {
    let at = match info.protocol {
        protocol::TCP => tcp::CHECKSUM_OFFSET,
        protocol::UDP => udp::CHECKSUM_OFFSET,
        protocol::ICMPV6 => icmpv6::CHECKSUM_OFFSET,
        _ => return,
    };
    let range = usize::from(info.header_len)..usize::from(info.total_len);
    let Some(segment) = ip_packet.get_mut(range).filter(|_| info.fragment.is_none()) else { return };
    let len = segment.len() as u32;
    let Some(field) = segment.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else { return };
    if info.protocol == protocol::UDP && *field == [0; 2] && info.version == Version::V4 {
        return;
    }
    *field = [0; 2];
    let sum = pseudo_header(info.source, info.destination, info.protocol, len).bytes(segment).finish();
    // Only UDP knows a packet without a checksum, but ones are as good as zero to all of them (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    if let Some(field) = segment.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// The ports at the start of an upper-layer header; see [`IpInfo::ports`].
#[inline]
pub(super) fn ports(protocol: u8, upper: &[u8]) -> Option<(u16, u16)> {
    let word = u32::from_be_bytes(*upper.first_chunk()?);
    let (first, second) = ((word >> 16) as u16, word as u16);
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP => {
            Some((first, second))
        }
        protocol::ICMP | protocol::ICMPV6 => Some((first, first)),
        // The type is the third byte of a mobility header (RFC 6275 s6.1.1).
        protocol::MOBILITY => Some((second & 0xff00, second & 0xff00)),
        _ => None,
    }
}

/// Checks a fragment on its own. `before` and `len` are the bytes in front of the fragmented part and of this
/// piece; `upper_len` the bytes of upper-layer header and data that the piece shows.
#[cold]
pub(super) fn check_fragment(
    fragment: FragmentInfo,
    before: usize,
    len: usize,
    protocol: u8,
    upper_len: usize,
) -> Result<FragmentInfo, DropReason> {
    let misaligned = fragment.more && !len.is_multiple_of(8);
    let too_long = before + usize::from(fragment.offset) + len > MAX_TOTAL_LEN;
    // A first fragment must show the whole upper-layer header, and no other may start within a TCP header, or
    // filters could be made to see what the destination does not (RFC 1858 s3, RFC 3128, RFC 7112 s5).
    let hides_header = match fragment.offset {
        0 => upper_len < least_header(protocol),
        8 => protocol == protocol::TCP,
        _ => false,
    };
    if len == 0 || misaligned || hides_header {
        return Err(DropReason::FragmentMalformed);
    }
    if too_long {
        return Err(DropReason::FragmentTooLong);
    }
    Ok(fragment)
}

/// Bytes of a protocol's fixed header.
fn least_header(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => tcp::HEADER_LEN,
        protocol::SCTP | protocol::DCCP | protocol::AH => 12,
        protocol::NO_NEXT_HEADER => 0,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::checksum;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let repr = ipv4::Repr {
            source: [10, 1, 0, 1].into(),
            destination: [10, 2, 0, 1].into(),
            protocol,
            total_len: (20 + payload.len()) as u16,
            identification: 7,
            dont_fragment: true,
            ttl: 64,
            tos: 0xb9,
        };
        let mut header = [0; 20];
        repr.emit(&mut header);
        [&header[..], payload].concat()
    }

    fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let repr = ipv6::Repr {
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8::2".parse().unwrap(),
            next_header,
            payload_len: payload.len() as u16,
            hop_limit: 64,
            traffic_class: 0xb9,
            flow_label: 0xabcde,
        };
        let mut header = [0; 40];
        repr.emit(&mut header);
        [&header[..], payload].concat()
    }

    #[test]
    fn ports_of_each_protocol() {
        let upper = [8, 0, 5, 7, 0, 0, 0, 0];
        let ports = |protocol| {
            let four = parse(&v4(protocol, &upper)).unwrap();
            let six = parse(&v6(protocol, &upper)).unwrap();
            assert_eq!((four.ports, four.protocol), (six.ports, six.protocol));
            four.ports
        };
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::UDP_LITE, protocol::DCCP] {
            assert_eq!(ports(protocol), Some((0x0800, 0x0507)));
        }
        for protocol in [protocol::ICMP, protocol::ICMPV6] {
            assert_eq!(ports(protocol), Some((0x0800, 0x0800)));
        }
        assert_eq!(ports(protocol::MOBILITY), Some((0x0500, 0x0500)));
        for protocol in [protocol::ESP, protocol::AH, protocol::NO_NEXT_HEADER, 47, 255] {
            assert_eq!(ports(protocol), None);
        }
        assert_eq!(parse(&v4(protocol::TCP, &upper[..3])).unwrap().ports, None);
    }

    #[test]
    fn changes_in_place_keep_the_checksum_right() {
        for mut packet in [v4(protocol::UDP, &[0; 12]), v6(protocol::UDP, &[0; 12])] {
            let before = parse(&packet).unwrap();
            assert_eq!(decrement_ttl(&mut packet), Ok(63));
            set_tos(&mut packet, 0x03).unwrap();
            set_total_len(&mut packet, before.total_len - 1).unwrap();
            let expected = IpInfo { ttl: 63, tos: 3, total_len: before.total_len - 1, ..before };
            assert_eq!(parse(&packet), Ok(expected));
        }
    }

    #[test]
    fn the_last_hop_is_not_taken() {
        for mut packet in [v4(protocol::UDP, &[0; 8]), v6(protocol::UDP, &[0; 8])] {
            for _ in 0..63 {
                decrement_ttl(&mut packet).unwrap();
            }
            let before = packet.clone();
            assert_eq!(decrement_ttl(&mut packet), Err(DropReason::TtlExceeded));
            assert_eq!(packet, before);
        }
    }

    #[test]
    fn what_is_no_ip_packet_is_left_alone() {
        for bytes in [&[][..], &[0x45; 19], &[0x60; 39], &[0x50; 60]] {
            let mut packet = bytes.to_vec();
            assert_eq!(parse(&packet), Err(DropReason::IpMalformed));
            assert_eq!(decrement_ttl(&mut packet), Err(DropReason::IpMalformed));
            assert_eq!(set_tos(&mut packet, 1), Err(DropReason::IpMalformed));
            assert_eq!(set_total_len(&mut packet, 50), Err(DropReason::IpMalformed));
            assert_eq!(packet, bytes);
        }
        assert_eq!(set_total_len(&mut v6(59, &[]), 39), Err(DropReason::IpMalformed));
    }

    #[test]
    fn addresses_that_a_router_does_not_forward() {
        let info = |source: &str, destination: &str| IpInfo {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            ..parse(&v4(protocol::UDP, &[0; 8])).unwrap()
        };
        for (source, destination) in [("10.0.0.1", "192.0.2.1"), ("2001:db8::1", "fd00::1")] {
            assert_eq!(check_forwardable(&info(source, destination)), Ok(()));
        }
        let bad4 =
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "240.0.0.1"];
        let bad6 = ["::", "::1", "ff02::1", "ff0e::1", "fe80::1", "::ffff:10.0.0.1"];
        for (good, bad) in [("10.0.0.1", &bad4[..]), ("2001:db8::1", &bad6[..])] {
            for bad in bad {
                assert_eq!(
                    check_forwardable(&info(bad, good)),
                    Err(DropReason::AddressInvalid),
                    "from {bad}"
                );
                assert_eq!(check_forwardable(&info(good, bad)), Err(DropReason::AddressInvalid), "to {bad}");
            }
        }
        assert_eq!(check_forwardable(&info("10.0.0.1", "2001:db8::1")), Err(DropReason::AddressInvalid));
    }

    #[test]
    fn pseudo_headers() {
        // UDP from port 1234 to 5678, checksum left out.
        let datagram = [0x04, 0xd2, 0x16, 0x2e, 0x00, 0x0a, 0x00, 0x00, b'h', b'i'];
        let sum = |source: &str, destination: &str| {
            pseudo_header(source.parse::<Address>().unwrap(), destination.parse::<Address>().unwrap(), 17, 10)
                .bytes(&datagram)
                .finish()
        };
        // The sums by hand: addresses, protocol, length, datagram. They do not reach 65,536.
        let words = [0x0a01u32, 0x0001, 0x0a02, 0x0001, 17, 10, 0x04d2, 0x162e, 10, 0x6869];
        assert_eq!(sum("10.1.0.1", "10.2.0.1"), !(words.iter().sum::<u32>() as u16));
        let words = [0x2001u32, 0x0db8, 1, 0x2001, 0x0db8, 2, 17, 10, 0x04d2, 0x162e, 10, 0x6869];
        assert_eq!(sum("2001:db8::1", "2001:db8::2"), !(words.iter().sum::<u32>() as u16));
    }

    #[test]
    fn the_mss_of_a_syn_is_clamped_through_the_ip_header() {
        let syn = [0, 80, 1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4];
        let mut packet = v4(protocol::TCP, &syn);
        let info = parse(&packet).unwrap();
        assert!(clamp_mss(&mut packet, &info, 1300));
        assert_eq!(packet[42..44], 1300u16.to_be_bytes());
        assert!(!clamp_mss(&mut packet, &info, 1300));
        let udp = IpInfo { protocol: protocol::UDP, ..info };
        assert!(!clamp_mss(&mut packet, &udp, 100));
        let later = FragmentInfo { identification: 1, offset: 8, more: false };
        assert!(!clamp_mss(&mut packet, &IpInfo { fragment: Some(later), ..info }, 100));
        assert!(!clamp_mss(&mut packet[..30], &info, 100));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(mut packet in prop::collection::vec(any::<u8>(), 0..200), six: bool) {
            if let Some(first) = packet.first_mut() {
                *first = if six { 0x60 } else { 0x40 | *first & 0x0f };
            }
            let _ = parse(&packet);
            let _ = decrement_ttl(&mut packet);
            let _ = set_tos(&mut packet, 1);
            let _ = set_total_len(&mut packet, 1);
        }

        #[test]
        fn what_parses_lies_within_the_packet(
            next in prop::sample::select(vec![0u8, 43, 44, 60, 6, 17, 50, 51, 58, 59, 135]),
            payload in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 1, 6, 17, 43, 44, 60, 255]), 0..120),
        ) {
            let packet = v6(next, &payload);
            if let Ok(info) = parse(&packet) {
                prop_assert!(info.header_len >= 40 && info.header_len <= info.total_len);
                prop_assert_eq!(usize::from(info.total_len), packet.len());
            }
        }

        #[test]
        fn updates_of_ipv4_equal_a_new_checksum(
            source: [u8; 4], identification: u16, ttl in 2u8.., tos: u8, new_tos: u8, new_len: u16,
        ) {
            let mut header = [0; 20];
            ipv4::Repr {
                source: source.into(), destination: [198, 51, 100, 1].into(), protocol: 50, total_len: 100,
                identification, dont_fragment: false, ttl, tos,
            }.emit(&mut header);
            decrement_ttl(&mut header).unwrap();
            set_tos(&mut header, new_tos).unwrap();
            set_total_len(&mut header, new_len).unwrap();
            prop_assert_eq!(checksum::of(&header), 0);
            prop_assert_eq!((header[8], header[1]), (ttl - 1, new_tos));
            prop_assert_eq!(&header[2..4], &new_len.to_be_bytes());
        }
    }
}
