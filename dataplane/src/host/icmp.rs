//! ICMP that the gateway sends: echo replies and errors (RFC 792, RFC 1812 s4.3, RFC 4443).
//!
//! All functions work on IP packets without Ethernet header. The worker routes what they make like any packet of
//! ours, so an answer to a packet that came through a tunnel goes back through it.

use std::net::IpAddr;

use super::Context;
use super::rate_limit::TokenBucket;
use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::packet::address::Address;
use crate::packet::ip::{IpInfo, Version, protocol};
use crate::packet::{checksum, icmp, icmpv6, ipv4, ipv6};

mod error;

pub use error::{Error, MAX_ERROR_V4, MAX_ERROR_V6, Offender};

const TTL: u8 = 64;
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
        let reply_kind = match (info.source.to_ip(), info.destination.to_ip(), info.protocol) {
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
        if !is_one_host(info.source) || info.destination.is_group() {
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
        emit_header(header, info.destination.to_ip(), info.source.to_ip(), len, tos, identification, false);
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
        if local.is_ipv4() != (offender.info.version == Version::V4) || !error::may_answer(error, offender) {
            return None;
        }
        let made = if self.errors.take(cx.now) {
            error::build(error, offender, local, cx.pool)
        } else {
            Err(DropReason::RateLimited)
        };
        made.map_err(|reason| cx.drops.count(reason)).ok()
    }
}

/// Whether an address can be that of one host, on this link or another.
fn is_one_host(address: Address) -> bool {
    let link_local = match address.to_ip() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    address.is_forwardable() || link_local
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

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 20..120), six: bool) {
            let bench = Bench::new();
            bytes[0] = if six { 0x60 } else { 0x45 };
            if let Ok(info) = ip::parse(&bytes) {
                let _ = icmp().echo(&mut bench.pool.alloc_from(&bytes).unwrap(), &info, 0);
            }
        }
    }
}
