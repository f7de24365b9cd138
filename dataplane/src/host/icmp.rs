//! ICMP that the gateway sends: echo replies and errors (RFC 792, RFC 1812 s4.3, RFC 4443).
//!
//! All functions work on IP packets without Ethernet header. The worker routes what they make like any packet of
//! ours, so an answer to a packet that came through a tunnel goes back through it.

use std::net::IpAddr;

use super::Context;
use super::rate_limit::TokenBucket;
use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::packet::ip::{IpInfo, Version, protocol};
use crate::packet::{checksum, icmp, icmpv6, ipv4, ipv6};

/// The most bytes of an IPv4 error with its headers (RFC 1812 s4.3.2.3).
pub const MAX_ERROR_V4: usize = 576;
/// The most bytes of an IPv6 error with its headers (RFC 4443 s2.4 (c)).
pub const MAX_ERROR_V6: usize = ipv6::MIN_MTU;

const TTL: u8 = 64;
/// Errors have precedence "internetwork control" (RFC 1812 s4.3.2.5).
const ERROR_TOS: u8 = 0xc0;
const ECN: u8 = crate::packet::ecn::MASK;

/// How much the gateway answers, per worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpConfig {
    /// Errors a second.
    pub errors: u32,
    /// Errors at once.
    pub error_burst: u32,
    /// Echo replies a second.
    pub echoes: u32,
    /// Echo replies at once.
    pub echo_burst: u32,
}

impl Default for IcmpConfig {
    fn default() -> Self {
        Self { errors: 1000, error_burst: 200, echoes: 1000, echo_burst: 200 }
    }
}

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

/// Makes answers, within limits.
#[derive(Clone, Debug)]
pub struct Icmp {
    errors: TokenBucket,
    echoes: TokenBucket,
}

impl Icmp {
    /// Limits start out full.
    pub fn new(config: &IcmpConfig) -> Self {
        Self {
            errors: TokenBucket::new(config.errors, config.error_burst),
            echoes: TokenBucket::new(config.echoes, config.echo_burst),
        }
    }

    /// Turns an echo request to an address of ours into its reply, in place (RFC 1122 s3.2.2.6, RFC 4443 s4.2).
    /// IPv4 options and extension headers are left out. The packet is whole: fragments are put together before.
    ///
    /// # Errors
    /// The packet is then as it was.
    /// - [`DropReason::IcmpMalformed`]: cut, a wrong checksum, or a fragment.
    /// - [`DropReason::NoService`]: not an echo request.
    /// - [`DropReason::AddressInvalid`]: the source is not one host, or the destination is a group.
    /// - [`DropReason::RateLimited`].
    pub fn echo(&mut self, packet: &mut Packet, info: &IpInfo, now: u64) -> Result<(), DropReason> {
        if info.fragment.is_some() {
            return Err(DropReason::IcmpMalformed);
        }
        let (header_len, total_len) = (usize::from(info.header_len), usize::from(info.total_len));
        let message = packet.data().get(header_len..total_len).ok_or(DropReason::IcmpMalformed)?;
        let reply_kind = match (info.source, info.destination, info.protocol) {
            (IpAddr::V4(_), IpAddr::V4(_), protocol::ICMP) => match icmp::Header::parse(message)?.0.kind {
                icmp::kind::ECHO_REQUEST => icmp::kind::ECHO_REPLY,
                _ => return Err(DropReason::NoService),
            },
            (IpAddr::V6(source), IpAddr::V6(destination), protocol::ICMPV6) => {
                match icmpv6::Header::parse(source, destination, message)?.0.kind {
                    icmpv6::kind::ECHO_REQUEST => icmpv6::kind::ECHO_REPLY,
                    _ => return Err(DropReason::NoService),
                }
            }
            _ => return Err(DropReason::NoService),
        };
        if !is_one_host(info.source) || is_group(info.destination) {
            return Err(DropReason::AddressInvalid);
        }
        if !self.echoes.take(now) {
            return Err(DropReason::RateLimited);
        }
        let identification = identification(packet.data());
        let new_header_len = header_len_of(info.version);
        packet.truncate(total_len);
        packet.trim_front(header_len.saturating_sub(new_header_len));
        let Some((header, message)) = packet.data_mut().split_at_mut_checked(new_header_len) else {
            return Err(DropReason::IcmpMalformed);
        };
        if let Some([kind, code, high, low]) = message.first_chunk_mut::<4>() {
            // The pseudo-header's sum does not change when source and destination change places.
            let (old, new) = (u16::from_be_bytes([*kind, *code]), u16::from_be_bytes([reply_kind, *code]));
            let checksum = checksum::update(u16::from_be_bytes([*high, *low]), old, new);
            *kind = reply_kind;
            [*high, *low] = checksum.to_be_bytes();
        }
        let tos = info.tos & !ECN;
        let len = message.len();
        emit_header(header, info.destination, info.source, len, tos, identification, false);
        Ok(())
    }

    /// Makes the error about a packet, from our address `local`, or nothing: when the rules forbid one (RFC 1812
    /// s4.3.2.7, RFC 4443 s2.4 (e)), or with a count in `cx.drops` when the limit is reached or there is no frame.
    pub fn error(
        &mut self,
        error: Error,
        offender: &Offender<'_>,
        local: IpAddr,
        cx: &mut Context<'_>,
    ) -> Option<Packet> {
        if local.is_ipv4() != (offender.info.version == Version::V4) || !may_answer(error, offender) {
            return None;
        }
        let made = if self.errors.take(cx.now) {
            build(error, offender, local, cx)
        } else {
            Err(DropReason::RateLimited)
        };
        made.map_err(|reason| cx.drops.count(reason)).ok()
    }
}

fn may_answer(error: Error, offender: &Offender<'_>) -> bool {
    let info = offender.info;
    let to_group = offender.link_multicast || is_group(info.destination);
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

/// Whether an address can be that of one host, on this link or another.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => ipv4::is_forwardable(address) || address.is_link_local(),
        IpAddr::V6(address) => ipv6::is_forwardable(address) || address.is_unicast_link_local(),
    }
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

fn build(
    error: Error,
    offender: &Offender<'_>,
    local: IpAddr,
    cx: &mut Context<'_>,
) -> Result<Packet, DropReason> {
    let (info, quoted) = (offender.info, offender.packet);
    let header_len = header_len_of(info.version);
    let most = match info.version {
        Version::V4 => MAX_ERROR_V4,
        Version::V6 => MAX_ERROR_V6,
    };
    let quote_len = quoted.len().min(usize::from(info.total_len)).min(most - header_len - icmp::HEADER_LEN);
    let quote = quoted.get(..quote_len).unwrap_or_default();
    let mut packet = cx.pool.alloc().ok_or(DropReason::NoBuffer)?;
    let out = packet.append(header_len + icmp::HEADER_LEN + quote_len).ok_or(DropReason::NoRoom)?;
    let (header, message) = out.split_at_mut(header_len);
    if let Some(place) = message.get_mut(icmp::HEADER_LEN..) {
        place.copy_from_slice(quote);
    }
    match (local, info.source) {
        (IpAddr::V6(local), IpAddr::V6(remote)) => header_v6(error, quoted).emit(local, remote, message),
        _ => header_v4(error).emit(message),
    }
    let len = message.len();
    emit_header(header, local, info.source, len, ERROR_TOS, 0, true);
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

fn header_len_of(version: Version) -> usize {
    match version {
        Version::V4 => ipv4::HEADER_LEN,
        Version::V6 => ipv6::HEADER_LEN,
    }
}

/// The identification of an IPv4 header.
fn identification(packet: &[u8]) -> u16 {
    packet.first_chunk::<{ ipv4::HEADER_LEN }>().map_or(0, ipv4::identification)
}

/// Writes the IP header in front of an ICMP message of `len` bytes.
fn emit_header(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    len: usize,
    tos: u8,
    identification: u16,
    dont_fragment: bool,
) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let repr = ipv4::Repr {
                source,
                destination,
                protocol: protocol::ICMP,
                total_len: (ipv4::HEADER_LEN + len) as u16,
                identification,
                dont_fragment,
                ttl: TTL,
                tos,
            };
            if let Some(out) = out.first_chunk_mut() {
                repr.emit(out);
            }
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let repr = ipv6::Repr {
                source,
                destination,
                next_header: protocol::ICMPV6,
                payload_len: len as u16,
                hop_limit: TTL,
                traffic_class: tos,
                flow_label: 0,
            };
            if let Some(out) = out.first_chunk_mut() {
                repr.emit(out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::SECOND;
    use crate::host::test_support::{Bench, packet_v4, packet_v6};
    use crate::packet::ip;

    const PING_V4: [u8; 12] = [8, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g'];

    fn ping_v4(source: &str, destination: &str) -> Vec<u8> {
        let mut message = PING_V4;
        let checksum = checksum::of(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        packet_v4(source, destination, protocol::ICMP, &message)
    }

    fn ping_v6(source: &str, destination: &str) -> Vec<u8> {
        let mut message = PING_V4;
        let header = icmpv6::Header { kind: icmpv6::kind::ECHO_REQUEST, code: 0, rest: [0x12, 0x34, 0, 1] };
        header.emit(source.parse().unwrap(), destination.parse().unwrap(), &mut message);
        packet_v6(source, destination, protocol::ICMPV6, &message)
    }

    fn icmp() -> Icmp {
        Icmp::new(&IcmpConfig::default())
    }

    /// Answers a request in a frame of its own.
    fn echo(bytes: &[u8]) -> Result<Vec<u8>, DropReason> {
        let bench = Bench::new();
        let mut packet = bench.pool.alloc_from(bytes).unwrap();
        let info = ip::parse(packet.data()).unwrap();
        let result = icmp().echo(&mut packet, &info, 0);
        assert!(result.is_ok() || packet.data() == bytes, "changed though refused");
        result.map(|()| packet.data().to_vec())
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
    fn an_echo_request_becomes_its_reply() {
        let mut request = ping_v4("10.1.0.9", "10.1.0.1");
        ip::set_tos(&mut request, 0xbb).unwrap();
        request.extend_from_slice(&[0xff; 6]);
        let reply = echo(&request).unwrap();
        let info = ip::parse(&reply).unwrap();
        assert_eq!(
            (info.source, info.destination),
            ("10.1.0.1".parse().unwrap(), "10.1.0.9".parse().unwrap())
        );
        assert_eq!((info.ttl, info.tos, info.dont_fragment), (64, 0xb8, false));
        assert_eq!(usize::from(info.total_len), reply.len());
        let (header, body) = icmp::Header::parse(&reply[20..]).unwrap();
        assert_eq!(header, icmp::Header { kind: 0, code: 0, rest: [0x12, 0x34, 0, 1] });
        assert_eq!(body, b"ping");
        assert_eq!(reply[4..6], request[4..6], "an identification that is unique on the way back too");
    }

    #[test]
    fn an_echo_request_over_ipv6_too() {
        let request = ping_v6("2001:db8::9", "2001:db8::1");
        let reply = echo(&request).unwrap();
        let info = ip::parse(&reply).unwrap();
        assert_eq!(
            (info.source, info.destination),
            ("2001:db8::1".parse().unwrap(), "2001:db8::9".parse().unwrap())
        );
        let [source, destination] = ["2001:db8::1", "2001:db8::9"].map(|address| address.parse().unwrap());
        let (header, body) = icmpv6::Header::parse(source, destination, &reply[40..]).unwrap();
        assert_eq!(header, icmpv6::Header { kind: 129, code: 0, rest: [0x12, 0x34, 0, 1] });
        assert_eq!(body, b"ping");
    }

    #[test]
    fn options_and_extension_headers_are_left_out_of_the_reply() {
        let mut request = ping_v4("10.1.0.9", "10.1.0.1");
        request.splice(20..20, [7, 7, 4, 0, 0, 0, 0, 0]);
        request[0] = 0x47;
        request[3] += 8;
        request[10..12].fill(0);
        let checksum = checksum::of(&request[..28]);
        request[10..12].copy_from_slice(&checksum.to_be_bytes());
        let reply = echo(&request).unwrap();
        assert_eq!((reply[0], reply.len()), (0x45, 32));
        assert!(icmp::Header::parse(&reply[20..]).is_ok());

        let mut request = ping_v6("2001:db8::9", "2001:db8::1");
        request.splice(40..40, [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0]);
        request[5] += 8;
        request[6] = protocol::DESTINATION_OPTIONS;
        let reply = echo(&request).unwrap();
        assert_eq!((reply[6], reply.len()), (protocol::ICMPV6, 52));
    }

    #[test]
    fn what_is_not_answered() {
        let mut bad_checksum = ping_v4("10.1.0.9", "10.1.0.1");
        bad_checksum[30] ^= 1;
        let mut bad_checksum_v6 = ping_v6("2001:db8::9", "2001:db8::1");
        bad_checksum_v6[50] ^= 1;
        let mut reply = PING_V4;
        icmp::Header { kind: 0, code: 0, rest: [0; 4] }.emit(&mut reply);
        for (bytes, reason) in [
            (bad_checksum, DropReason::IcmpMalformed),
            (bad_checksum_v6, DropReason::IcmpMalformed),
            (packet_v4("10.1.0.9", "10.1.0.1", protocol::ICMP, &[8, 0, 0xf7]), DropReason::IcmpMalformed),
            (packet_v4("10.1.0.9", "10.1.0.1", protocol::ICMP, &reply), DropReason::NoService),
            (packet_v4("10.1.0.9", "10.1.0.1", protocol::UDP, &[0; 8]), DropReason::NoService),
            (packet_v6("2001:db8::9", "2001:db8::1", protocol::ICMP, &reply), DropReason::NoService),
            (ping_v4("255.255.255.255", "10.1.0.1"), DropReason::AddressInvalid),
            (ping_v4("224.0.0.1", "10.1.0.1"), DropReason::AddressInvalid),
            (ping_v4("0.0.0.0", "10.1.0.1"), DropReason::AddressInvalid),
            (ping_v4("10.1.0.9", "224.0.0.1"), DropReason::AddressInvalid),
            (ping_v6("::", "2001:db8::1"), DropReason::AddressInvalid),
            (ping_v6("2001:db8::9", "ff02::1"), DropReason::AddressInvalid),
        ] {
            assert_eq!(echo(&bytes), Err(reason), "{bytes:x?}");
        }
        assert!(echo(&ping_v6("fe80::9", "fe80::1")).is_ok());
    }

    #[test]
    fn echo_replies_are_limited() {
        let bench = Bench::new();
        let config = IcmpConfig { echoes: 10, echo_burst: 2, ..IcmpConfig::default() };
        let mut icmp = Icmp::new(&config);
        let bytes = ping_v4("10.1.0.9", "10.1.0.1");
        let info = ip::parse(&bytes).unwrap();
        let mut echo = |now| icmp.echo(&mut bench.pool.alloc_from(&bytes).unwrap(), &info, now);
        assert_eq!([echo(0), echo(0)], [Ok(()); 2]);
        assert_eq!(echo(0), Err(DropReason::RateLimited));
        assert_eq!(echo(SECOND / 10), Ok(()));
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
                let _ = icmp().echo(&mut bench.pool.alloc_from(&bytes).unwrap(), &info, 0);
            }
        }
    }
}
