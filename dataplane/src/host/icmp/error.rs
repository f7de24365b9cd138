//! ICMP errors: which are allowed, and what they look like.

use std::net::IpAddr;

use super::{emit_header, header_len_of, is_one_host};
use crate::buffer::{Packet, Pool};
use crate::drops::DropReason;
use crate::packet::ip::{IpInfo, Version, protocol};
use crate::packet::{icmp, icmpv6, ipv6};

/// The most bytes of an IPv4 error with its headers (RFC 1812 s4.3.2.3).
pub const MAX_ERROR_V4: usize = 576;
/// The most bytes of an IPv6 error with its headers (RFC 4443 s2.4 (c)).
pub const MAX_ERROR_V6: usize = ipv6::MIN_MTU;

/// Errors have precedence "internetwork control" (RFC 1812 s4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// An error to tell the source of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no route to the destination.
    NoRoute,
    /// The next hop does not answer.
    HostUnreachable,
    /// Policy forbids it.
    Prohibited,
    /// We do not serve the protocol.
    ProtocolUnreachable,
    /// We do not serve the port.
    PortUnreachable,
    /// The packet is longer than `mtu` bytes, header included, and must not be fragmented. IPv6 is never told less
    /// than 1280 (RFC 8200 s5), and not at all about a packet of up to 1280: a tunnel with less room fragments its
    /// own packets.
    TooBig {
        /// What would pass.
        mtu: u32,
    },
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// Not all fragments came.
    ReassemblyTimeout,
}

/// A packet that an error is about.
#[derive(Clone, Copy, Debug)]
pub struct Offender<'a> {
    /// From its IP header on, as it was received.
    pub packet: &'a [u8],
    /// What its headers say.
    pub info: &'a IpInfo,
    /// Whether it came in a frame to an Ethernet group or to broadcast.
    pub link_multicast: bool,
}

/// Whether the rules allow an error (RFC 1812 s4.3.2.7, RFC 4443 s2.4 (e)).
pub(super) fn may_answer(error: Error, offender: &Offender<'_>) -> bool {
    let info = offender.info;
    let to_group = offender.link_multicast || info.destination.is_group();
    // A type that is not shown may be an error's.
    let about_error = match (info.protocol, info.ports) {
        (protocol::ICMP, ports) => ports.is_none_or(|(value, _)| icmp::is_error((value >> 8) as u8)),
        (protocol::ICMPV6, ports) => ports.is_none_or(|(value, _)| {
            let kind = (value >> 8) as u8;
            icmpv6::is_error(kind) || kind == icmpv6::kind::REDIRECT
        }),
        _ => false,
    };
    let by_version = match (info.version, error) {
        (Version::V4, _) => !to_group && !info.is_later_fragment(),
        // RFC 4443 s2.4 (e.3): path MTU discovery works for multicast too.
        (Version::V6, Error::TooBig { .. }) => usize::from(info.total_len) > ipv6::MIN_MTU,
        (Version::V6, _) => !to_group,
    };
    by_version && !about_error && is_one_host(info.source)
}

/// The error, from our address `local` of the same family.
pub(super) fn build(
    error: Error,
    offender: &Offender<'_>,
    local: IpAddr,
    pool: &Pool,
) -> Result<Packet, DropReason> {
    let (info, quoted) = (offender.info, offender.packet);
    let header_len = header_len_of(info.version);
    let most = match info.version {
        Version::V4 => MAX_ERROR_V4,
        Version::V6 => MAX_ERROR_V6,
    };
    let quote_len = quoted.len().min(usize::from(info.total_len)).min(most - header_len - icmp::HEADER_LEN);
    let quote = quoted.get(..quote_len).unwrap_or_default();
    let mut packet = pool.alloc().ok_or(DropReason::NoBuffer)?;
    let out = packet.append(header_len + icmp::HEADER_LEN + quote_len).ok_or(DropReason::NoRoom)?;
    let (header, message) = out.split_at_mut(header_len);
    if let Some(place) = message.get_mut(icmp::HEADER_LEN..) {
        place.copy_from_slice(quote);
    }
    match (local, info.source.to_ip()) {
        (IpAddr::V6(local), IpAddr::V6(remote)) => header_v6(error, quoted).emit(local, remote, message),
        _ => header_v4(error).emit(message),
    }
    let len = message.len();
    emit_header(header, local, info.source.to_ip(), len, ERROR_TOS, 0, true);
    Ok(packet)
}

fn header_v4(error: Error) -> icmp::Header {
    use icmp::{kind, unreachable};
    let (kind, code) = match error {
        Error::NoRoute => (kind::UNREACHABLE, unreachable::NETWORK),
        Error::HostUnreachable => (kind::UNREACHABLE, unreachable::HOST),
        Error::Prohibited => (kind::UNREACHABLE, unreachable::PROHIBITED),
        Error::ProtocolUnreachable => (kind::UNREACHABLE, unreachable::PROTOCOL),
        Error::PortUnreachable => (kind::UNREACHABLE, unreachable::PORT),
        Error::TooBig { .. } => (kind::UNREACHABLE, unreachable::FRAGMENTATION_NEEDED),
        Error::TimeExceeded => (kind::TIME_EXCEEDED, 0),
        Error::ReassemblyTimeout => (kind::TIME_EXCEEDED, 1),
    };
    let rest = match error {
        // RFC 1191 s4: the lower 16 bits.
        Error::TooBig { mtu } => mtu.min(u32::from(u16::MAX)).to_be_bytes(),
        _ => [0; 4],
    };
    icmp::Header { kind, code, rest }
}

fn header_v6(error: Error, quoted: &[u8]) -> icmpv6::Header {
    use icmpv6::{kind, parameter_problem, unreachable};
    let (kind, code) = match error {
        Error::NoRoute => (kind::UNREACHABLE, unreachable::NO_ROUTE),
        Error::HostUnreachable => (kind::UNREACHABLE, unreachable::ADDRESS),
        Error::Prohibited => (kind::UNREACHABLE, unreachable::PROHIBITED),
        Error::ProtocolUnreachable => (kind::PARAMETER_PROBLEM, parameter_problem::NEXT_HEADER),
        Error::PortUnreachable => (kind::UNREACHABLE, unreachable::PORT),
        Error::TooBig { .. } => (kind::PACKET_TOO_BIG, 0),
        Error::TimeExceeded => (kind::TIME_EXCEEDED, 0),
        Error::ReassemblyTimeout => (kind::TIME_EXCEEDED, 1),
    };
    let rest = match error {
        Error::TooBig { mtu } => mtu.max(ipv6::MIN_MTU as u32).to_be_bytes(),
        Error::ProtocolUnreachable => {
            // Where the next header field is that we do not know (RFC 4443 s3.4).
            let at = ipv6::walk(quoted).map_or(0, |chain| {
                chain.fragment.map_or(chain.next_header_at, |(fragment_at, _)| fragment_at)
            });
            (at as u32).to_be_bytes()
        }
        _ => [0; 4],
    };
    icmpv6::Header { kind, code, rest }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::SECOND;
    use crate::host::icmp::{Icmp, IcmpConfig};
    use crate::host::test_support::{Bench, packet_v4, packet_v6};
    use crate::packet::{checksum, ip};

    fn icmp() -> Icmp {
        Icmp::new(&IcmpConfig::default())
    }

    /// The error about a packet, and how many were held back by the limits.
    fn error_with(error: Error, bytes: &[u8], link_multicast: bool, local: &str) -> Option<Vec<u8>> {
        let mut bench = Bench::new();
        let info = ip::parse(bytes).unwrap();
        let offender = Offender { packet: bytes, info: &info, link_multicast };
        let made = bench.with(|cx| icmp().error(error, &offender, local.parse().unwrap(), cx));
        assert_eq!(bench.dropped(), []);
        made.map(|packet| packet.data().to_vec())
    }

    fn error(error: Error, bytes: &[u8]) -> Option<Vec<u8>> {
        error_with(error, bytes, false, if bytes[0] >> 4 == 4 { "198.51.100.1" } else { "2001:db8::1" })
    }

    #[test]
    fn errors_quote_the_packet() {
        let offender = packet_v4("10.1.0.9", "192.0.2.7", protocol::UDP, &[7; 1000]);
        for (kind, expected) in [
            (Error::NoRoute, [3, 0, 0, 0, 0, 0]),
            (Error::HostUnreachable, [3, 1, 0, 0, 0, 0]),
            (Error::ProtocolUnreachable, [3, 2, 0, 0, 0, 0]),
            (Error::PortUnreachable, [3, 3, 0, 0, 0, 0]),
            (Error::TooBig { mtu: 1400 }, [3, 4, 0, 0, 0x05, 0x78]),
            (Error::Prohibited, [3, 13, 0, 0, 0, 0]),
            (Error::TimeExceeded, [11, 0, 0, 0, 0, 0]),
            (Error::ReassemblyTimeout, [11, 1, 0, 0, 0, 0]),
        ] {
            let made = error(kind, &offender).unwrap();
            assert_eq!(made.len(), 576);
            let info = ip::parse(&made).unwrap();
            assert_eq!(
                (info.source, info.destination),
                ("198.51.100.1".parse().unwrap(), "10.1.0.9".parse().unwrap())
            );
            assert_eq!((info.tos, info.protocol, info.ttl), (0xc0, protocol::ICMP, 64));
            let (header, quote) = icmp::Header::parse(&made[20..]).unwrap();
            let [a, b, c, d] = header.rest;
            assert_eq!([header.kind, header.code, a, b, c, d], expected);
            assert_eq!(quote, &offender[..548]);
        }
    }

    #[test]
    fn errors_quote_the_packet_over_ipv6() {
        let offender = packet_v6("2001:db8::9", "2001:db8:2::7", protocol::UDP, &[7; 1400]);
        for (kind, expected) in [
            (Error::NoRoute, [1, 0, 0, 0, 0, 0]),
            (Error::Prohibited, [1, 1, 0, 0, 0, 0]),
            (Error::HostUnreachable, [1, 3, 0, 0, 0, 0]),
            (Error::PortUnreachable, [1, 4, 0, 0, 0, 0]),
            (Error::TooBig { mtu: 1400 }, [2, 0, 0, 0, 0x05, 0x78]),
            (Error::TooBig { mtu: 1200 }, [2, 0, 0, 0, 0x05, 0x00]),
            (Error::TimeExceeded, [3, 0, 0, 0, 0, 0]),
            (Error::ReassemblyTimeout, [3, 1, 0, 0, 0, 0]),
            (Error::ProtocolUnreachable, [4, 1, 0, 0, 0, 6]),
        ] {
            let made = error(kind, &offender).unwrap();
            assert_eq!(made.len(), 1280);
            assert!(ip::parse(&made).is_ok());
            let [source, destination] =
                ["2001:db8::1", "2001:db8::9"].map(|address| address.parse().unwrap());
            let (header, quote) = icmpv6::Header::parse(source, destination, &made[40..]).unwrap();
            let [a, b, c, d] = header.rest;
            assert_eq!([header.kind, header.code, a, b, c, d], expected);
            assert_eq!(quote, &offender[..1232]);
        }
    }

    #[test]
    fn link_padding_is_not_quoted() {
        let mut offender = packet_v4("10.1.0.9", "192.0.2.7", protocol::UDP, &[7; 9]);
        offender.extend_from_slice(&[0; 17]);
        assert_eq!(error(Error::NoRoute, &offender).unwrap().len(), 28 + 29);
    }

    #[test]
    fn when_rfc_1812_forbids_an_error() {
        let udp = |source, destination| packet_v4(source, destination, protocol::UDP, &[0; 16]);
        let icmp_of = |kind| packet_v4("10.1.0.9", "192.0.2.7", protocol::ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        let fragment = |word: u16| {
            let mut bytes = udp("10.1.0.9", "192.0.2.7");
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            bytes[10..12].fill(0);
            let checksum = checksum::of(&bytes[..20]);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            bytes
        };
        assert!(error(Error::TimeExceeded, &udp("10.1.0.9", "192.0.2.7")).is_some());
        assert!(error(Error::TimeExceeded, &icmp_of(8)).is_some());
        assert!(error(Error::TimeExceeded, &fragment(0x2000)).is_some());
        for (bytes, why) in [
            (icmp_of(3), "an error about an error"),
            (icmp_of(11), "an error about an error"),
            (icmp_of(5), "an error about a redirect"),
            (packet_v4("10.1.0.9", "192.0.2.7", protocol::ICMP, &[]), "it may be an error"),
            (udp("10.1.0.9", "224.0.0.5"), "to a group"),
            (udp("10.1.0.9", "255.255.255.255"), "to all"),
            (fragment(0x0002), "not the first fragment"),
            (udp("0.0.0.0", "192.0.2.7"), "from nobody"),
            (udp("127.0.0.1", "192.0.2.7"), "from loopback"),
            (udp("224.0.0.1", "192.0.2.7"), "from a group"),
            (udp("240.0.0.1", "192.0.2.7"), "from class E"),
        ] {
            assert_eq!(error(Error::TimeExceeded, &bytes), None, "{why}");
        }
        let broadcast = error_with(Error::NoRoute, &udp("10.1.0.9", "192.0.2.7"), true, "198.51.100.1");
        assert_eq!(broadcast, None);
        assert_eq!(error_with(Error::NoRoute, &udp("10.1.0.9", "192.0.2.7"), false, "2001:db8::1"), None);
    }

    #[test]
    fn when_rfc_4443_forbids_an_error() {
        let udp = |source, destination, len| packet_v6(source, destination, protocol::UDP, &vec![0; len]);
        let icmp_of =
            |kind| packet_v6("2001:db8::9", "2001:db8:2::7", protocol::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert!(error(Error::NoRoute, &udp("2001:db8::9", "2001:db8:2::7", 8)).is_some());
        assert!(error(Error::NoRoute, &icmp_of(128)).is_some());
        for (bytes, why) in [
            (icmp_of(1), "an error about an error"),
            (icmp_of(127), "an error about an unknown error"),
            (icmp_of(137), "an error about a redirect"),
            (udp("2001:db8::9", "ff0e::1", 8), "to a group"),
            (udp("::", "2001:db8:2::7", 8), "from nobody"),
            (udp("ff02::1", "2001:db8:2::7", 8), "from a group"),
        ] {
            assert_eq!(error(Error::NoRoute, &bytes), None, "{why}");
        }
        let too_big = Error::TooBig { mtu: 1300 };
        assert!(
            error(too_big, &udp("2001:db8::9", "ff0e::1", 1400)).is_some(),
            "path MTU discovery of a group"
        );
        assert_eq!(
            error(too_big, &udp("2001:db8::9", "2001:db8:2::7", 1240)),
            None,
            "1280 bytes always pass"
        );
        assert!(error(too_big, &udp("2001:db8::9", "2001:db8:2::7", 1241)).is_some());
    }

    #[test]
    fn errors_are_limited_and_counted() {
        let mut bench = Bench::new();
        let bytes = packet_v4("10.1.0.9", "192.0.2.7", protocol::UDP, &[0; 8]);
        let info = ip::parse(&bytes).unwrap();
        let offender = Offender { packet: &bytes, info: &info, link_multicast: false };
        let local = "198.51.100.1".parse().unwrap();
        let mut icmp = Icmp::new(&IcmpConfig { errors: 1, error_burst: 2, ..IcmpConfig::default() });
        let made =
            (0..5).filter(|_| bench.with(|cx| icmp.error(Error::NoRoute, &offender, local, cx)).is_some());
        assert_eq!(made.count(), 2);
        assert_eq!(bench.dropped(), [(DropReason::RateLimited, 3)]);
        let _all: Vec<_> = std::iter::from_fn(|| bench.pool.alloc()).collect();
        bench.now = SECOND;
        assert!(bench.with(|cx| icmp.error(Error::NoRoute, &offender, local, cx)).is_none());
        assert_eq!(bench.drops.get(DropReason::NoBuffer), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 20..120), six: bool) {
            let mut bench = Bench::new();
            bytes[0] = if six { 0x60 } else { 0x45 };
            if let Ok(info) = ip::parse(&bytes) {
                let local = if six { "2001:db8::1" } else { "198.51.100.1" }.parse().unwrap();
                let offender = Offender { packet: &bytes, info: &info, link_multicast: false };
                bench.with(|cx| icmp().error(Error::ProtocolUnreachable, &offender, local, cx));
            }
        }
    }
}
