//! IPv6 headers and extension headers (RFC 8200).

use std::net::Ipv6Addr;

use super::address::Address;
use super::bytes::{array, be16, be32, put};
use super::ip::{self, FragmentInfo, IpInfo, Version, protocol};
use crate::drops::DropReason;

mod field {
    pub const VERSION: usize = 0;
    pub const PAYLOAD_LEN: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SOURCE: usize = 8;
    pub const DESTINATION: usize = 24;
}

/// Offsets in an extension header.
mod extension {
    pub const NEXT_HEADER: usize = 0;
    pub const LEN: usize = 1;
    pub const ROUTING_TYPE: usize = 2;
    pub const SEGMENTS_LEFT: usize = 3;
}

/// Offsets in a fragment header.
mod fragment_field {
    pub const NEXT_HEADER: usize = 0;
    pub const OFFSET: usize = 2;
    pub const IDENTIFICATION: usize = 4;
}

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Bytes of a fragment header.
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// The most extension headers that are walked.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// The most bytes of extension headers that are walked.
pub const MAX_EXTENSION_BYTES: usize = 1024;
/// What every link carries without fragmentation (RFC 8200 s5).
pub const MIN_MTU: usize = 1280;

/// A fixed header, to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Bytes behind this header.
    pub payload_len: u16,
    /// Hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
}

impl Repr {
    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let word = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        put::<{ field::VERSION }, 4, _>(out, word.to_be_bytes());
        put::<{ field::PAYLOAD_LEN }, 2, _>(out, self.payload_len.to_be_bytes());
        out[field::NEXT_HEADER] = self.next_header;
        out[field::HOP_LIMIT] = self.hop_limit;
        put::<{ field::SOURCE }, 16, _>(out, self.source.octets());
        put::<{ field::DESTINATION }, 16, _>(out, self.destination.octets());
    }
}

/// The fields of a fixed header, as they are. Nothing is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub version: u8,
    pub payload_len: u16,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Fixed {
    pub fn read(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            version: header[field::VERSION] >> 4,
            payload_len: be16::<{ field::PAYLOAD_LEN }, _>(header),
            source: array::<{ field::SOURCE }, 16, _>(header).into(),
            destination: array::<{ field::DESTINATION }, 16, _>(header).into(),
        }
    }
}

/// A fragment header (RFC 8200 s4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// The first header of the fragmented part.
    pub next_header: u8,
    /// Identification, offset in bytes, and whether more follow.
    pub fragment: FragmentInfo,
}

impl FragmentHeader {
    /// Reads the header.
    #[inline]
    pub fn parse(header: &[u8; FRAGMENT_HEADER_LEN]) -> Self {
        let word = be16::<{ fragment_field::OFFSET }, _>(header);
        Self {
            next_header: header[fragment_field::NEXT_HEADER],
            fragment: FragmentInfo {
                identification: be32::<{ fragment_field::IDENTIFICATION }, _>(header),
                offset: word & !7,
                more: word & 1 != 0,
            },
        }
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; FRAGMENT_HEADER_LEN]) {
        let word = self.fragment.offset & !7 | u16::from(self.fragment.more);
        *out = [0; FRAGMENT_HEADER_LEN];
        out[fragment_field::NEXT_HEADER] = self.next_header;
        put::<{ fragment_field::OFFSET }, 2, _>(out, word.to_be_bytes());
        put::<{ fragment_field::IDENTIFICATION }, 4, _>(out, self.fragment.identification.to_be_bytes());
    }
}

/// Where the headers of a packet are, in bytes from the IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The upper-layer protocol, or what a later fragment's fragment header names.
    pub protocol: u8,
    /// Where it starts.
    pub upper: usize,
    /// The byte that names the header at `upper` or, when there is one, the fragment header.
    pub next_header_at: usize,
    /// The byte that names the header at `upper`.
    pub upper_next_at: usize,
    /// Where a fragment header goes: behind hop-by-hop options and routing header (RFC 8200 s4.5).
    pub fragmentable: usize,
    /// The byte that names the header there.
    pub fragmentable_next_at: usize,
    /// The fragment header and where it is.
    pub fragment: Option<(usize, FragmentHeader)>,
}

/// Walks the extension headers of a packet that ends where its length field says. ESP, AH and the mobility header
/// count as upper layer, and so does everything that is unknown.
///
/// # Errors
/// [`DropReason::IpMalformed`] when a header is cut or out of place, [`DropReason::ExtensionHeaders`] when the
/// bounds are passed or a routing header is of type 0, [`DropReason::FragmentMalformed`] for a second fragment
/// header or a first fragment that does not show all headers (RFC 7112).
pub fn walk(packet: &[u8]) -> Result<Chain, DropReason> {
    let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(DropReason::IpMalformed)?;
    let mut chain = Chain {
        protocol: header[field::NEXT_HEADER],
        upper: HEADER_LEN,
        next_header_at: field::NEXT_HEADER,
        upper_next_at: field::NEXT_HEADER,
        fragmentable: HEADER_LEN,
        fragmentable_next_at: field::NEXT_HEADER,
        fragment: None,
    };
    let mut count = 0;
    while is_extension(chain.protocol) {
        // RFC 7112 s5: the first fragment shows the whole chain.
        let cut =
            if chain.fragment.is_some() { DropReason::FragmentMalformed } else { DropReason::IpMalformed };
        let header: &[u8; 8] = packet.get(chain.upper..).and_then(|rest| rest.first_chunk()).ok_or(cut)?;
        let len = match chain.protocol {
            protocol::FRAGMENT => FRAGMENT_HEADER_LEN,
            _ => (usize::from(header[extension::LEN]) + 1) * 8,
        };
        count += 1;
        if count > MAX_EXTENSION_HEADERS || chain.upper + len > HEADER_LEN + MAX_EXTENSION_BYTES {
            return Err(DropReason::ExtensionHeaders);
        }
        if chain.upper + len > packet.len() {
            return Err(cut);
        }
        match chain.protocol {
            // RFC 8200 s4.1: hop-by-hop options come first or not at all.
            protocol::HOP_BY_HOP if count > 1 => return Err(DropReason::IpMalformed),
            // RFC 5095: such a packet may be sent in circles, and its destination field is not where it goes.
            protocol::ROUTING
                if header[extension::ROUTING_TYPE] == 0 && header[extension::SEGMENTS_LEFT] > 0 =>
            {
                return Err(DropReason::ExtensionHeaders);
            }
            protocol::FRAGMENT if chain.fragment.is_some() => return Err(DropReason::FragmentMalformed),
            protocol::FRAGMENT => chain.fragment = Some((chain.upper, FragmentHeader::parse(header))),
            _ => {}
        }
        chain.upper_next_at = chain.upper + extension::NEXT_HEADER;
        if chain.fragment.is_none() {
            chain.next_header_at = chain.upper_next_at;
            if matches!(chain.protocol, protocol::HOP_BY_HOP | protocol::ROUTING) {
                chain.fragmentable = chain.upper + len;
                chain.fragmentable_next_at = chain.next_header_at;
            }
        }
        chain.protocol = header[extension::NEXT_HEADER];
        chain.upper += len;
        if matches!(chain.fragment, Some((_, header)) if header.fragment.offset > 0) {
            break;
        }
    }
    Ok(chain)
}

/// [`ip::parse`] for IPv6.
#[inline]
pub(super) fn parse(packet: &[u8]) -> Result<IpInfo, DropReason> {
    let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(DropReason::IpMalformed)?;
    let payload_len = be16::<{ field::PAYLOAD_LEN }, _>(header);
    // Longer ones could only come over links that we do not have.
    let total_len = payload_len.checked_add(HEADER_LEN as u16).ok_or(DropReason::IpMalformed)?;
    let packet = packet.get(..usize::from(total_len)).ok_or(DropReason::IpMalformed)?;
    let protocol = header[field::NEXT_HEADER];
    let (protocol, header_len, fragment) =
        if is_extension(protocol) { parse_extensions(packet)? } else { (protocol, HEADER_LEN as u16, None) };
    let ports = match fragment {
        Some(FragmentInfo { offset: 1.., .. }) => None,
        _ => ip::ports(protocol, packet.get(usize::from(header_len)..).unwrap_or_default()),
    };
    Ok(IpInfo {
        version: Version::V6,
        source: Address::v6(array::<{ field::SOURCE }, 16, _>(header)),
        destination: Address::v6(array::<{ field::DESTINATION }, 16, _>(header)),
        protocol,
        header_len,
        total_len,
        ttl: header[field::HOP_LIMIT],
        tos: (be16::<{ field::VERSION }, _>(header) >> 4) as u8,
        dont_fragment: true,
        fragment,
        ports,
    })
}

#[inline]
pub(super) fn decrement_hop_limit(header: &mut [u8; HEADER_LEN]) -> Result<u8, DropReason> {
    match header[field::HOP_LIMIT] {
        0 | 1 => Err(DropReason::TtlExceeded),
        hop_limit => {
            header[field::HOP_LIMIT] = hop_limit - 1;
            Ok(hop_limit - 1)
        }
    }
}

#[inline]
pub(super) fn set_traffic_class(header: &mut [u8; HEADER_LEN], traffic_class: u8) {
    let word = be16::<{ field::VERSION }, _>(header) & 0xf00f | u16::from(traffic_class) << 4;
    put::<{ field::VERSION }, 2, _>(header, word.to_be_bytes());
}

#[inline]
pub(super) fn set_payload_len(header: &mut [u8; HEADER_LEN], payload_len: u16) {
    put::<{ field::PAYLOAD_LEN }, 2, _>(header, payload_len.to_be_bytes());
}

/// The solicited-node multicast address (RFC 4291 s2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}

#[inline]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    )
}

#[cold]
fn parse_extensions(packet: &[u8]) -> Result<(u8, u16, Option<FragmentInfo>), DropReason> {
    let chain = walk(packet)?;
    let fragment = match chain.fragment {
        None => None,
        // RFC 6946, RFC 8200 s4.5: an atomic fragment is a whole packet.
        Some((_, FragmentHeader { fragment: FragmentInfo { offset: 0, more: false, .. }, .. })) => None,
        Some((at, header)) => {
            let start = at + FRAGMENT_HEADER_LEN;
            // RFC 8200 s4.5 counts the length of what is put together without the fragment header.
            let len = packet.len() - start;
            let upper_len = packet.len() - chain.upper;
            Some(ip::check_fragment(header.fragment, at, len, chain.protocol, upper_len)?)
        }
    };
    // The walk ended within the packet, so its end fits 16 bits as the packet's does.
    Ok((chain.protocol, chain.upper as u16, fragment))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_LEN];
        Repr {
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8::2".parse().unwrap(),
            next_header,
            payload_len: payload.len() as u16,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
        }
        .emit(&mut header);
        [&header[..], payload].concat()
    }

    fn options(next: u8) -> [u8; 8] {
        [next, 0, 1, 4, 0, 0, 0, 0]
    }

    fn fragment_header(next_header: u8, offset: u16, more: bool) -> [u8; 8] {
        let mut out = [0xaa; 8];
        let fragment = FragmentInfo { identification: 0xdead_beef, offset, more };
        FragmentHeader { next_header, fragment }.emit(&mut out);
        out
    }

    #[test]
    fn reads_a_header() {
        let mut bytes = packet(17, &[0x11, 0x94, 0x11, 0x95, 0, 8, 0, 0]);
        bytes[..4].copy_from_slice(&[0x6b, 0x9a, 0xbc, 0xde]);
        bytes.extend_from_slice(&[0; 6]);
        let info = parse(&bytes).unwrap();
        assert_eq!((info.tos, info.ttl, info.protocol), (0xb9, 64, 17));
        assert_eq!((info.header_len, info.total_len), (40, 48));
        assert_eq!(info.ports, Some((4500, 4501)));
        assert_eq!(
            (info.source, info.destination),
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
        );
        assert!(info.dont_fragment);
        assert_eq!(parse(&bytes[..47]), Err(DropReason::IpMalformed));
        assert_eq!(parse(&packet(59, &[])).unwrap().payload_len(), 0);
    }

    #[test]
    fn extension_headers_are_walked_to_the_upper_layer() {
        let routing_4 = [60, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let payload = [&options(43)[..], &routing_4, &options(6), &[0, 80, 0, 81, 0, 0, 0, 0]].concat();
        let bytes = packet(0, &payload);
        let info = parse(&bytes).unwrap();
        assert_eq!((info.protocol, info.header_len, info.ports), (6, 80, Some((80, 81))));
        let chain = walk(&bytes).unwrap();
        assert_eq!((chain.next_header_at, chain.fragmentable, chain.fragmentable_next_at), (72, 72, 48));
        for last in [protocol::ESP, protocol::AH, protocol::NO_NEXT_HEADER, protocol::MOBILITY] {
            let info = parse(&packet(60, &[options(last), options(60)].concat())).unwrap();
            assert_eq!((info.protocol, info.header_len), (last, 48));
        }
    }

    #[test]
    fn bounds_on_extension_headers() {
        let chain = |count: usize| [vec![options(60); count - 1].concat(), options(59).to_vec()].concat();
        assert!(parse(&packet(60, &chain(MAX_EXTENSION_HEADERS))).is_ok());
        let over = packet(60, &chain(MAX_EXTENSION_HEADERS + 1));
        assert_eq!(parse(&over), Err(DropReason::ExtensionHeaders));
        let mut long = vec![0; MAX_EXTENSION_BYTES + 8];
        long[..2].copy_from_slice(&[59, 127]);
        assert!(parse(&packet(60, &long)).is_ok());
        long[1] = 128;
        assert_eq!(parse(&packet(60, &long)), Err(DropReason::ExtensionHeaders));
    }

    #[test]
    fn extension_headers_that_are_cut_or_out_of_place() {
        assert_eq!(parse(&packet(60, &[17, 0, 1])), Err(DropReason::IpMalformed));
        assert_eq!(parse(&packet(60, &[17, 1, 1, 4, 0, 0, 0, 0])), Err(DropReason::IpMalformed));
        let late = [options(0), options(59)].concat();
        assert_eq!(parse(&packet(60, &late)), Err(DropReason::IpMalformed));
        let routing_0 = [59, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&packet(43, &routing_0)), Err(DropReason::ExtensionHeaders));
        let mut done = routing_0;
        done[3] = 0;
        assert!(parse(&packet(43, &done)).is_ok());
    }

    #[test]
    fn fragments() {
        let first = packet(44, &[&fragment_header(17, 0, true)[..], &[7; 16]].concat());
        let info = parse(&first).unwrap();
        let expected = FragmentInfo { identification: 0xdead_beef, offset: 0, more: true };
        assert_eq!((info.fragment, info.protocol, info.header_len), (Some(expected), 17, 48));
        assert_eq!(info.ports, Some((0x0707, 0x0707)));
        let chain = walk(&first).unwrap();
        assert_eq!((chain.next_header_at, chain.fragment.map(|(at, _)| at)), (6, Some(40)));

        // What a later fragment holds is not walked, whatever it looks like.
        let later = packet(60, &[&options(44)[..], &fragment_header(60, 1448, false), &[7; 5]].concat());
        let info = parse(&later).unwrap();
        assert_eq!((info.protocol, info.header_len, info.ports), (60, 56, None));
        assert_eq!(info.fragment, Some(FragmentInfo { offset: 1448, more: false, ..expected }));
        assert_eq!(walk(&later).unwrap().next_header_at, 40);
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet() {
        let atomic = packet(44, &[&fragment_header(17, 0, false)[..], &[7; 9]].concat());
        let info = parse(&atomic).unwrap();
        assert_eq!((info.fragment, info.header_len, info.ports), (None, 48, Some((0x0707, 0x0707))));
    }

    #[test]
    fn fragments_that_make_no_sense() {
        let case = |header: [u8; 8], rest: &[u8]| parse(&packet(44, &[&header[..], rest].concat()));
        for (result, why) in [
            (case(fragment_header(17, 0, true), &[0; 12]), "not a multiple of 8"),
            (case(fragment_header(17, 8, true), &[]), "empty"),
            (case(fragment_header(6, 0, true), &[0; 16]), "first, without the TCP header (RFC 7112)"),
            (case(fragment_header(60, 0, true), &[17, 1, 0, 0, 0, 0, 0, 0]), "first, without all headers"),
            (case(fragment_header(60, 0, true), &options(17)), "first, without the upper-layer header"),
            (case(fragment_header(44, 0, true), &fragment_header(17, 0, true)), "two fragment headers"),
        ] {
            assert_eq!(result, Err(DropReason::FragmentMalformed), "{why}");
        }
        let past_the_end = case(fragment_header(17, 0xfff8, false), &[0; 8]);
        assert_eq!(past_the_end, Err(DropReason::FragmentTooLong));
    }

    #[test]
    fn solicited_node_addresses() {
        let address: Ipv6Addr = "4037::1:800:200e:8c6c".parse().unwrap();
        assert_eq!(solicited_node(address), "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(
            source: [u8; 16], destination: [u8; 16], hop_limit: u8, traffic_class: u8, flow_label: u32,
            payload in 0usize..100,
        ) {
            let repr = Repr {
                source: source.into(), destination: destination.into(), next_header: 50,
                payload_len: payload as u16, hop_limit, traffic_class, flow_label,
            };
            let mut header = [0xaa; HEADER_LEN];
            repr.emit(&mut header);
            let info = parse(&[&header[..], &vec![0; payload]].concat()).unwrap();
            prop_assert_eq!((info.source, info.destination), (repr.source.into(), repr.destination.into()));
            prop_assert_eq!((info.ttl, info.tos, info.payload_len()), (hop_limit, traffic_class, payload));
            prop_assert_eq!(be32::<0, _>(&header) & 0xf_ffff, flow_label & 0xf_ffff);
        }

        #[test]
        fn fragment_headers_go_there_and_back(next_header: u8, offset: u16, more: bool, identification: u32) {
            let fragment = FragmentInfo { identification, offset: offset & !7, more };
            let header = FragmentHeader { next_header, fragment };
            let mut out = [0xff; FRAGMENT_HEADER_LEN];
            header.emit(&mut out);
            prop_assert_eq!(FragmentHeader::parse(&out), header);
            prop_assert_eq!(out[1], 0);
        }
    }
}
