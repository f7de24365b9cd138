//! ICMP errors about our own outer packets (RFC 4301 s6, s8.2).
//!
//! Nobody authenticates them, so they are hints. What is checked here: the error is sound, and it quotes a packet
//! from the address that it was sent to, of ESP, AH or UDP. The worker then looks for an SA with that SPI and those
//! addresses: an attacker off the path has to guess both. A path MTU never goes below [`MIN_PATH_MTU_V4`] or 1280.

use std::net::IpAddr;

use crate::drops::DropReason;
use crate::packet::bytes::be16;
use crate::packet::ip::{IpInfo, protocol};
use crate::packet::{ah, esp, icmp, icmpv6, ipv4, ipv6, udp};
use crate::sa::Spi;

/// The least path MTU that is believed for IPv4, whatever the error says. IPv4 allows 68 (RFC 791), but no link in use
/// has less than 576, and a forged 68 would make every packet ten.
pub const MIN_PATH_MTU_V4: u16 = 576;

/// An error about a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Who sent the error.
    pub reporter: IpAddr,
    /// Source of the packet that it is about: our address.
    pub local: IpAddr,
    /// Destination of that packet: the peer's address.
    pub remote: IpAddr,
    /// What the packet carried.
    pub flow: Flow,
    /// What is wrong.
    pub problem: Problem,
}

/// What a packet of ours carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// ESP.
    Esp(Spi),
    /// AH.
    Ah(Spi),
    /// ESP in UDP or IKE.
    Udp {
        /// Our port.
        local: u16,
        /// The peer's port.
        remote: u16,
        /// The SPI, when the error quotes that far and it is ESP. IPv4 routers need not (RFC 792).
        spi: Option<Spi>,
    },
}

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Packets of at most this many bytes pass, IP header included.
    PathMtu(u16),
    /// It did not arrive, for the reason in this code of "destination unreachable".
    Unreachable(u8),
    /// Its TTL or hop limit ran out, or fragments were lost.
    TimeExceeded,
}

/// Reads an ICMP error to us. `packet` starts at the IP header, `info` is of it.
///
/// # Errors
/// - [`DropReason::IcmpMalformed`]: cut, a wrong checksum, or a fragment.
/// - [`DropReason::NoService`]: not an error.
/// - [`DropReason::IcmpUnrelated`]: an error about a packet that we cannot have sent, that says nothing that
///   concerns an SA, or whose MTU makes no sense (RFC 8201 s4, RFC 5927 s7).
pub fn parse(packet: &[u8], info: &IpInfo) -> Result<Feedback, DropReason> {
    if info.fragment.is_some() {
        return Err(DropReason::IcmpMalformed);
    }
    let message = packet
        .get(usize::from(info.header_len)..usize::from(info.total_len))
        .ok_or(DropReason::IcmpMalformed)?;
    let (quoted, problem) = match (info.source.to_ip(), info.destination.to_ip(), info.protocol) {
        (IpAddr::V4(_), IpAddr::V4(_), protocol::ICMP) => {
            let (header, body) = icmp::Header::parse(message)?;
            if !icmp::is_error(header.kind) {
                return Err(DropReason::NoService);
            }
            let quoted = Quoted::parse_v4(body)?;
            (quoted, problem_v4(&header, quoted.total_len)?)
        }
        (IpAddr::V6(source), IpAddr::V6(destination), protocol::ICMPV6) => {
            let (header, body) = icmpv6::Header::parse(source, destination, message)?;
            if !icmpv6::is_error(header.kind) {
                return Err(DropReason::NoService);
            }
            let quoted = Quoted::parse_v6(body)?;
            (quoted, problem_v6(&header, quoted.total_len)?)
        }
        _ => return Err(DropReason::NoService),
    };
    if info.destination != quoted.source {
        return Err(DropReason::IcmpUnrelated);
    }
    Ok(Feedback {
        reporter: info.source.to_ip(),
        local: quoted.source,
        remote: quoted.destination,
        flow: flow(quoted.protocol, quoted.upper)?,
        problem,
    })
}

fn problem_v4(header: &icmp::Header, quoted_len: u16) -> Result<Problem, DropReason> {
    match (header.kind, header.code) {
        (icmp::kind::UNREACHABLE, icmp::unreachable::FRAGMENTATION_NEEDED) => {
            let mtu = match header.mtu() {
                0 => plateau_below(quoted_len),
                mtu => mtu,
            };
            // RFC 791: every link carries 68 bytes. And a packet that fits was not too big.
            if mtu < 68 || mtu >= quoted_len {
                return Err(DropReason::IcmpUnrelated);
            }
            Ok(Problem::PathMtu(mtu.max(MIN_PATH_MTU_V4)))
        }
        (icmp::kind::UNREACHABLE, code) => Ok(Problem::Unreachable(code)),
        (icmp::kind::TIME_EXCEEDED, _) => Ok(Problem::TimeExceeded),
        _ => Err(DropReason::IcmpUnrelated),
    }
}

fn problem_v6(header: &icmpv6::Header, quoted_len: u16) -> Result<Problem, DropReason> {
    match (header.kind, header.code) {
        // RFC 8201 s4: less than 1280 is discarded. RFC 4443 s3.2: the code is ignored.
        (icmpv6::kind::PACKET_TOO_BIG, _) => match u16::try_from(header.mtu()) {
            Ok(mtu) if usize::from(mtu) >= ipv6::MIN_MTU && mtu < quoted_len => Ok(Problem::PathMtu(mtu)),
            _ => Err(DropReason::IcmpUnrelated),
        },
        (icmpv6::kind::UNREACHABLE, code) => Ok(Problem::Unreachable(code)),
        (icmpv6::kind::TIME_EXCEEDED, _) => Ok(Problem::TimeExceeded),
        _ => Err(DropReason::IcmpUnrelated),
    }
}

/// The next lower common MTU, for a router that does not say its own (RFC 1191 s7.1).
fn plateau_below(len: u16) -> u16 {
    const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];
    PLATEAUS.into_iter().find(|&mtu| mtu < len).unwrap_or(0)
}

/// The start of a packet, as far as an error quotes it. Its IPv4 checksum may be gone, since routers change TTL
/// and TOS.
#[derive(Clone, Copy)]
struct Quoted<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    total_len: u16,
    upper: &'a [u8],
}

impl<'a> Quoted<'a> {
    fn parse_v4(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header: &[u8; ipv4::HEADER_LEN] = bytes.first_chunk().ok_or(DropReason::IcmpMalformed)?;
        let quoted = ipv4::Fixed::read(header);
        if quoted.version != 4 || quoted.header_len < ipv4::HEADER_LEN || quoted.offset != 0 {
            return Err(DropReason::IcmpUnrelated);
        }
        Ok(Self {
            source: quoted.source.into(),
            destination: quoted.destination.into(),
            protocol: quoted.protocol,
            total_len: quoted.total_len,
            upper: bytes.get(quoted.header_len..).ok_or(DropReason::IcmpMalformed)?,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header: &[u8; ipv6::HEADER_LEN] = bytes.first_chunk().ok_or(DropReason::IcmpMalformed)?;
        let quoted = ipv6::Fixed::read(header);
        if quoted.version != 6 {
            return Err(DropReason::IcmpUnrelated);
        }
        let total_len = quoted.payload_len.saturating_add(ipv6::HEADER_LEN as u16);
        // Too long to be quoted in full; the headers that we send fit.
        let chain = ipv6::walk(bytes).map_err(|_| DropReason::IcmpUnrelated)?;
        if matches!(chain.fragment, Some((_, header)) if header.fragment.offset > 0) {
            return Err(DropReason::IcmpUnrelated);
        }
        Ok(Self {
            source: quoted.source.into(),
            destination: quoted.destination.into(),
            protocol: chain.protocol,
            total_len,
            upper: bytes.get(chain.upper..).unwrap_or_default(),
        })
    }
}

fn flow(protocol: u8, upper: &[u8]) -> Result<Flow, DropReason> {
    let word =
        |at: usize| upper.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u32::from_be_bytes(*word));
    let spi = |at| word(at).filter(|&spi| spi >= 256);
    let flow = match protocol {
        protocol::ESP => spi(esp::SPI_OFFSET).map(Flow::Esp),
        protocol::AH => spi(ah::SPI_OFFSET).map(Flow::Ah),
        protocol::UDP => upper.first_chunk::<4>().map(|ports| Flow::Udp {
            local: be16::<0, _>(ports),
            remote: be16::<2, _>(ports),
            spi: spi(udp::HEADER_LEN + esp::SPI_OFFSET),
        }),
        _ => None,
    };
    flow.ok_or(DropReason::IcmpUnrelated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::icmp::{Error, Icmp, IcmpConfig, Offender};
    use crate::host::test_support::{Bench, packet_v4, packet_v6};
    use crate::packet::{checksum, ip};

    const ESP_HEADER: [u8; 8] = [0, 0, 0x10, 0x01, 0, 0, 0, 9];

    /// Our packet, as a router sends it back to us in an error.
    fn reported(error: Error, ours: &[u8]) -> Vec<u8> {
        let mut bench = Bench::new();
        let info = ip::parse(ours).unwrap();
        let offender = Offender { packet: ours, info: &info, link_multicast: false };
        let router = if ours[0] >> 4 == 4 { "192.0.2.254" } else { "2001:db8:ff::1" }.parse().unwrap();
        let mut icmp = Icmp::new(&IcmpConfig::default());
        bench.with(|cx| icmp.error(error, &offender, router, cx)).unwrap().data().to_vec()
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Feedback, DropReason> {
        parse(bytes, &ip::parse(bytes).unwrap())
    }

    /// A packet of ours of 1,420 or more bytes.
    fn outer_v4(protocol: u8, start: &[u8]) -> Vec<u8> {
        packet_v4("198.51.100.1", "203.0.113.7", protocol, &[start, &[0xee; 1400]].concat())
    }

    fn outer_v6(protocol: u8, start: &[u8]) -> Vec<u8> {
        packet_v6("2001:db8::1", "2001:db8:7::7", protocol, &[start, &[0xee; 1400]].concat())
    }

    #[test]
    fn path_mtu_of_an_sa() {
        let bytes = reported(Error::TooBig { mtu: 1400 }, &outer_v4(protocol::ESP, &ESP_HEADER));
        let expected = Feedback {
            reporter: "192.0.2.254".parse().unwrap(),
            local: "198.51.100.1".parse().unwrap(),
            remote: "203.0.113.7".parse().unwrap(),
            flow: Flow::Esp(0x1001),
            problem: Problem::PathMtu(1400),
        };
        assert_eq!(parse_bytes(&bytes), Ok(expected));
        let bytes = reported(Error::TooBig { mtu: 1400 }, &outer_v6(protocol::ESP, &ESP_HEADER));
        let expected = Feedback {
            reporter: "2001:db8:ff::1".parse().unwrap(),
            local: "2001:db8::1".parse().unwrap(),
            remote: "2001:db8:7::7".parse().unwrap(),
            ..expected
        };
        assert_eq!(parse_bytes(&bytes), Ok(expected));
    }

    #[test]
    fn what_a_packet_carried() {
        let flow = |protocol, start: &[u8]| {
            let [four, six] = [outer_v4(protocol, start), outer_v6(protocol, start)]
                .map(|ours| parse_bytes(&reported(Error::TimeExceeded, &ours)).map(|feedback| feedback.flow));
            assert_eq!(four, six);
            four
        };
        let ah = [4, 4, 0, 0, 0, 0, 0x10, 2, 0, 0, 0, 1];
        assert_eq!(flow(protocol::AH, &ah), Ok(Flow::Ah(0x1002)));
        let udp = [0x11, 0x94, 0x30, 0x39, 0, 0, 0, 0];
        let esp_in_udp = [&udp[..], &ESP_HEADER].concat();
        let expected = Flow::Udp { local: 4500, remote: 12345, spi: Some(0x1001) };
        assert_eq!(flow(protocol::UDP, &esp_in_udp), Ok(expected));
        let ike = [&udp[..], &[0; 4]].concat();
        assert_eq!(flow(protocol::UDP, &ike), Ok(Flow::Udp { local: 4500, remote: 12345, spi: None }));
        assert_eq!(flow(protocol::TCP, &[0; 20]), Err(DropReason::IcmpUnrelated));
        assert_eq!(flow(protocol::ESP, &[0, 0, 0, 255]), Err(DropReason::IcmpUnrelated), "reserved SPI");
    }

    #[test]
    fn a_quote_of_eight_bytes_is_enough() {
        for (protocol, start, flow) in [
            (protocol::ESP, ESP_HEADER, Flow::Esp(0x1001)),
            (
                protocol::UDP,
                [0x11, 0x94, 0x30, 0x39, 0, 0, 0, 0],
                Flow::Udp { local: 4500, remote: 12345, spi: None },
            ),
        ] {
            let bytes = reported(Error::TooBig { mtu: 1400 }, &outer_v4(protocol, &start));
            let mut message = bytes[20..20 + 8 + 28].to_vec();
            // A router has changed the TTL in the quote, and not its checksum.
            message[8 + 8] = 1;
            icmp::Header { kind: 3, code: 4, rest: [0, 0, 0x05, 0x78] }.emit(&mut message);
            let bytes = packet_v4("192.0.2.254", "198.51.100.1", protocol::ICMP, &message);
            assert_eq!(parse_bytes(&bytes).map(|feedback| feedback.flow), Ok(flow));
        }
    }

    #[test]
    fn an_mtu_that_makes_no_sense_is_not_believed() {
        let four = |mtu| parse_bytes(&reported(Error::TooBig { mtu }, &outer_v4(protocol::ESP, &ESP_HEADER)));
        let four = |mtu| four(mtu).map(|feedback| feedback.problem);
        assert_eq!(four(1427), Ok(Problem::PathMtu(1427)));
        assert_eq!(four(1428), Err(DropReason::IcmpUnrelated), "the packet would have passed");
        assert_eq!(four(300), Ok(Problem::PathMtu(576)));
        assert_eq!(four(67), Err(DropReason::IcmpUnrelated));
        assert_eq!(four(0), Ok(Problem::PathMtu(1006)), "the next plateau");
        let six = |mtu: u32| {
            let ours = outer_v6(protocol::ESP, &ESP_HEADER);
            let mut message = [&[0; 8][..], &ours[..1232]].concat();
            let (router, us) = ("2001:db8:ff::1", "2001:db8::1");
            let header = icmpv6::Header { kind: 2, code: 0, rest: mtu.to_be_bytes() };
            header.emit(router.parse().unwrap(), us.parse().unwrap(), &mut message);
            parse_bytes(&packet_v6(router, us, protocol::ICMPV6, &message)).map(|feedback| feedback.problem)
        };
        assert_eq!(six(1280), Ok(Problem::PathMtu(1280)));
        assert_eq!(six(1447), Ok(Problem::PathMtu(1447)));
        for mtu in [0, 68, 1279, 1448, 65_536 + 1400] {
            assert_eq!(six(mtu), Err(DropReason::IcmpUnrelated), "{mtu}");
        }
    }

    #[test]
    fn other_problems() {
        let ours = [outer_v4(protocol::ESP, &ESP_HEADER), outer_v6(protocol::ESP, &ESP_HEADER)];
        for (error, problems) in [
            (Error::PortUnreachable, [Problem::Unreachable(3), Problem::Unreachable(4)]),
            (Error::Prohibited, [Problem::Unreachable(13), Problem::Unreachable(1)]),
            (Error::TimeExceeded, [Problem::TimeExceeded; 2]),
        ] {
            for (ours, problem) in ours.iter().zip(problems) {
                assert_eq!(parse_bytes(&reported(error, ours)).map(|feedback| feedback.problem), Ok(problem));
            }
        }
    }

    #[test]
    fn what_cannot_be_about_us_is_unrelated() {
        let good = reported(Error::TooBig { mtu: 1400 }, &outer_v4(protocol::ESP, &ESP_HEADER));
        let with = |at: usize, value: u8| {
            let mut message = good[20..].to_vec();
            message[at] = value;
            let rest = [message[4], message[5], message[6], message[7]];
            icmp::Header { kind: message[0], code: message[1], rest }.emit(&mut message);
            parse_bytes(&packet_v4("192.0.2.254", "198.51.100.1", protocol::ICMP, &message))
        };
        assert!(with(8 + 8, 7).is_ok());
        for (at, value, why) in [
            (8 + 15, 99, "not from our address"),
            (8, 0x65, "not IPv4"),
            (8, 0x44, "shorter than a header"),
            (8 + 7, 1, "a later fragment"),
            (0, 5, "a redirect"),
            (0, 4, "a source quench, which is ignored (RFC 6633)"),
            (0, 12, "a parameter problem"),
        ] {
            assert_eq!(with(at, value), Err(DropReason::IcmpUnrelated), "{why}");
        }
        assert_eq!(with(0, 0), Err(DropReason::NoService), "an echo reply");
        let mut bad = good.clone();
        bad[100] ^= 1;
        assert_eq!(parse_bytes(&bad), Err(DropReason::IcmpMalformed), "checksum");
        let mut short = vec![3, 4, 0, 0, 0, 0, 5, 0x78, 0x45];
        let checksum = checksum::of(&short);
        short[2..4].copy_from_slice(&checksum.to_be_bytes());
        let short = packet_v4("192.0.2.254", "198.51.100.1", protocol::ICMP, &short);
        assert_eq!(parse_bytes(&short), Err(DropReason::IcmpMalformed), "no header in the quote");
    }

    #[test]
    fn a_fragment_header_of_ours_is_walked() {
        let fragment = [&[protocol::ESP, 0, 0, 1, 0, 0, 0, 5][..], &ESP_HEADER].concat();
        let ours = packet_v6(
            "2001:db8::1",
            "2001:db8:7::7",
            protocol::FRAGMENT,
            &[&fragment[..], &[0; 1392]].concat(),
        );
        let feedback = parse_bytes(&reported(Error::TimeExceeded, &ours)).unwrap();
        assert_eq!(feedback.flow, Flow::Esp(0x1001));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(kind in 0u8..16, code in 0u8..16, body in prop::collection::vec(any::<u8>(), 0..90), six: bool) {
            let mut message = [&[0; 8][..], &body].concat();
            if let Some(byte) = message.get_mut(8) {
                *byte = if six { 0x60 } else { 0x45 };
            }
            let bytes = if six {
                let (router, us) = ("2001:db8:ff::1", "2001:db8::1");
                icmpv6::Header { kind, code, rest: [0, 0, 5, 0x78] }
                    .emit(router.parse().unwrap(), us.parse().unwrap(), &mut message);
                packet_v6(router, us, protocol::ICMPV6, &message)
            } else {
                icmp::Header { kind, code, rest: [0, 0, 5, 0x78] }.emit(&mut message);
                packet_v4("192.0.2.254", "198.51.100.1", protocol::ICMP, &message)
            };
            let _ = parse_bytes(&bytes);
        }
    }
}
