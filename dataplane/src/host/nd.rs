//! Neighbour Discovery on our ports (RFC 4861): solicitations and advertisements. Router advertisements and
//! redirects have no effect on a router with static routes (RFC 4861 s8.2), and are not looked at. Duplicate addresses
//! are looked for and reported, and ours are used all the same: see [`super::announce`].

use std::net::{IpAddr, Ipv6Addr};

use super::neighbour::{Evidence, NeighbourTable};
use super::{Context, Interface, Output};
use crate::buffer::{Packet, Pool};
use crate::drops::DropReason;
use crate::message;
use crate::packet::ethernet::{Header, ethertype, ipv6_multicast, is_multicast};
use crate::packet::icmpv6::{self, Neighbour, kind};
use crate::packet::ip::{self, IpInfo, protocol};
use crate::packet::ipv6::{self, solicited_node};
use crate::port::{Mac, PortId};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What a message that no router forwarded still has (RFC 4861 s3.1).
const HOP_LIMIT: u8 = 255;

/// Whether a packet is a neighbour solicitation or advertisement, for [`receive`].
#[inline]
pub fn is_neighbour_message(info: &IpInfo) -> bool {
    const SOLICITATION: u16 = (kind::NEIGHBOUR_SOLICITATION as u16) << 8;
    const ADVERTISEMENT: u16 = (kind::NEIGHBOUR_ADVERTISEMENT as u16) << 8;
    info.protocol == protocol::ICMPV6
        && info.ports.is_some_and(|(value, _)| matches!(value & 0xff00, SOLICITATION | ADVERTISEMENT))
}

/// Takes in a frame (from its Ethernet header on) with a neighbour solicitation or advertisement that came in by
/// `port`: answers a solicitation of an address of ours and lets the table learn.
///
/// # Errors
/// - [`DropReason::IcmpMalformed`] for what RFC 4861 s7.1.1 and s7.1.2 say to discard, a message in fragments
///   (RFC 6980 s5), and a link-layer address that is a group.
/// - [`DropReason::AddressConflict`] when another station claims our address (RFC 4862 s5.4.3, s5.4.4); the conflict
///   is reported.
/// - [`DropReason::NotOurMac`] for a port that has no interface.
/// - Those of [`ip::parse`], and [`DropReason::NoBuffer`] when there is no frame to answer with.
pub fn receive(
    table: &mut NeighbourTable,
    port: PortId,
    frame: Packet,
    cx: &mut Context<'_>,
) -> Result<(), DropReason> {
    let header = Header::parse(frame.data())?;
    let packet = frame.data().get(header.header_len()..).unwrap_or_default();
    let received = Received::parse(packet)?;
    let interface = table.interface(port).ok_or(DropReason::NotOurMac)?;
    match received.message {
        Neighbour::Solicitation { target, source_mac } => {
            if source_mac == Some(interface.mac()) || header.source == interface.mac() {
                // Our own, come back.
                return Ok(());
            }
            if !interface.owns(target.into()) {
                return Ok(());
            }
            if interface.owns(received.source.into()) {
                return Err(conflict(port, received.source, source_mac.unwrap_or(header.source), cx));
            }
            let reply = answer(interface, &header, &received, target, source_mac, cx.pool)?;
            let on_link = interface.is_on_link(received.source.into());
            cx.out.push(Output::Frame(port, reply));
            if let Some(mac) = source_mac {
                let evidence = if on_link {
                    Evidence::Asked(mac)
                } else {
                    Evidence::Advertised { mac: Some(mac), solicited: false, overriding: true }
                };
                table.learn(port, received.source.into(), evidence, cx);
            }
        }
        Neighbour::Advertisement { target, target_mac, solicited, overriding, .. } => {
            if interface.owns(target.into()) {
                if target_mac == Some(interface.mac()) || header.source == interface.mac() {
                    return Ok(());
                }
                return Err(conflict(port, target, target_mac.unwrap_or(header.source), cx));
            }
            let evidence = Evidence::Advertised { mac: target_mac, solicited, overriding };
            table.learn(port, target.into(), evidence, cx);
        }
    }
    Ok(())
}

/// A solicitation of `target`: to its solicited-node group, or to the Ethernet address that it had (RFC 4861
/// s7.2.2, s7.3.3).
///
/// # Errors
/// [`DropReason::NoRoute`] when the interface has no IPv6 address to ask from, [`DropReason::NoBuffer`].
pub fn solicitation(
    interface: &Interface,
    target: Ipv6Addr,
    known: Option<Mac>,
    pool: &Pool,
) -> Result<Packet, DropReason> {
    let Some(IpAddr::V6(source)) = interface.source_for(target.into()) else {
        return Err(DropReason::NoRoute);
    };
    let message = Neighbour::Solicitation { target, source_mac: Some(interface.mac()) };
    let destination = if known.is_some() { target } else { solicited_node(target) };
    let to = known.unwrap_or(ipv6_multicast(destination));
    build(interface.header(to, ethertype::IPV6), source, destination, &message, pool)
}

/// Asks who else has `address` (RFC 4862 s5.4.2): from no address, so that nobody learns anything.
///
/// # Errors
/// [`DropReason::NoBuffer`].
pub fn probe(interface: &Interface, address: Ipv6Addr, pool: &Pool) -> Result<Packet, DropReason> {
    let message = Neighbour::Solicitation { target: address, source_mac: None };
    let group = solicited_node(address);
    let header = interface.header(ipv6_multicast(group), ethertype::IPV6);
    build(header, Ipv6Addr::UNSPECIFIED, group, &message, pool)
}

/// Tells the link that `address` is ours (RFC 4861 s7.2.6), so that caches forget who had it before.
///
/// # Errors
/// [`DropReason::NoBuffer`].
pub fn announcement(interface: &Interface, address: Ipv6Addr, pool: &Pool) -> Result<Packet, DropReason> {
    let message = advertisement(interface, address, false);
    let to = ipv6_multicast(ALL_NODES);
    build(interface.header(to, ethertype::IPV6), address, ALL_NODES, &message, pool)
}

/// A message that passed the checks that do not depend on us.
struct Received {
    source: Ipv6Addr,
    message: Neighbour,
}

impl Received {
    fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let info = ip::parse(packet)?;
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (info.source.to_ip(), info.destination.to_ip())
        else {
            return Err(DropReason::IcmpMalformed);
        };
        let packet = packet.get(..usize::from(info.total_len)).ok_or(DropReason::IpMalformed)?;
        // RFC 6980 s5: not even an atomic fragment.
        let fragmented =
            info.header_len as usize != ipv6::HEADER_LEN && ipv6::walk(packet)?.fragment.is_some();
        if info.protocol != protocol::ICMPV6 || info.ttl != HOP_LIMIT || fragmented {
            return Err(DropReason::IcmpMalformed);
        }
        let message = packet.get(usize::from(info.header_len)..).unwrap_or_default();
        let (header, body) = icmpv6::Header::parse(source, destination, message)?;
        let message = Neighbour::parse(&header, body)?;
        let (mac, sound) = match message {
            // RFC 4861 s7.1.1: duplicate address detection goes to the group, and names no link-layer address.
            Neighbour::Solicitation { target, source_mac } => (
                source_mac,
                !source.is_unspecified() || (destination == solicited_node(target) && source_mac.is_none()),
            ),
            // RFC 4861 s7.1.2.
            Neighbour::Advertisement { solicited, target_mac, .. } => {
                (target_mac, !(solicited && destination.is_multicast()))
            }
        };
        if !sound || source.is_multicast() || mac.is_some_and(|mac| is_multicast(mac) || mac == [0; 6]) {
            return Err(DropReason::IcmpMalformed);
        }
        Ok(Self { source, message })
    }
}

/// Reports that a station has an address of ours.
fn conflict(port: PortId, address: Ipv6Addr, mac: Mac, cx: &mut Context<'_>) -> DropReason {
    cx.out.push(Output::Conflict(message::Neighbour { port, address: address.into(), mac }));
    DropReason::AddressConflict
}

/// The answer to a solicitation (RFC 4861 s7.2.4).
fn answer(
    interface: &Interface,
    header: &Header,
    received: &Received,
    target: Ipv6Addr,
    source_mac: Option<Mac>,
    pool: &Pool,
) -> Result<Packet, DropReason> {
    let detection = received.source.is_unspecified();
    let message = advertisement(interface, target, !detection);
    let (destination, to) = if detection {
        (ALL_NODES, ipv6_multicast(ALL_NODES))
    } else {
        (received.source, source_mac.unwrap_or(header.source))
    };
    let header = Header { destination: to, ..header.reply(interface.mac()) };
    build(header, target, destination, &message, pool)
}

fn advertisement(interface: &Interface, target: Ipv6Addr, solicited: bool) -> Neighbour {
    Neighbour::Advertisement {
        target,
        router: true,
        solicited,
        overriding: true,
        target_mac: Some(interface.mac()),
    }
}

fn build(
    header: Header,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &Neighbour,
    pool: &Pool,
) -> Result<Packet, DropReason> {
    let mut frame = pool.alloc().ok_or(DropReason::NoBuffer)?;
    let len = message.message_len();
    let out = frame.append(ipv6::HEADER_LEN + len).ok_or(DropReason::NoRoom)?;
    let (ip_header, body) = out.split_first_chunk_mut().ok_or(DropReason::NoRoom)?;
    let repr = ipv6::Repr {
        source,
        destination,
        next_header: protocol::ICMPV6,
        payload_len: len as u16,
        hop_limit: HOP_LIMIT,
        traffic_class: 0,
        flow_label: 0,
    };
    repr.emit(ip_header);
    message.emit(source, destination, body)?;
    header.push(&mut frame)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::neighbour::NeighbourConfig;
    use crate::host::test_support::Bench;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const PEER: Mac = [2, 0, 0, 0, 0, 9];
    const OUR_IP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const PEER_IP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

    fn table() -> NeighbourTable {
        let interface = Interface::new(4, OURS, &[], &["2001:db8::1/64".parse().unwrap()]);
        NeighbourTable::new(NeighbourConfig::default(), vec![interface])
    }

    fn from_peer(bench: &Bench, source: Ipv6Addr, destination: Ipv6Addr, message: &Neighbour) -> Packet {
        let to = if destination.is_multicast() { ipv6_multicast(destination) } else { OURS };
        let header = Header::untagged(to, PEER, ethertype::IPV6);
        build(header, source, destination, message, &bench.pool).unwrap()
    }

    fn solicit(source_mac: Option<Mac>) -> Neighbour {
        Neighbour::Solicitation { target: OUR_IP, source_mac }
    }

    fn advertise(target: Ipv6Addr, solicited: bool) -> Neighbour {
        Neighbour::Advertisement {
            target,
            router: false,
            solicited,
            overriding: true,
            target_mac: Some(PEER),
        }
    }

    /// Destination MAC, source, destination and message of a frame that we sent; its checksums are right.
    fn parse(frame: &Packet) -> (Mac, Ipv6Addr, Ipv6Addr, Neighbour) {
        let header = Header::parse(frame.data()).unwrap();
        assert_eq!(header.source, OURS);
        let packet = &frame.data()[14..];
        let info = ip::parse(packet).unwrap();
        assert_eq!((info.ttl, usize::from(info.total_len)), (255, packet.len()));
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (info.source.to_ip(), info.destination.to_ip())
        else {
            panic!()
        };
        let (icmp, body) = icmpv6::Header::parse(source, destination, &packet[40..]).unwrap();
        (header.destination, source, destination, Neighbour::parse(&icmp, body).unwrap())
    }

    fn our_advertisement(solicited: bool) -> Neighbour {
        Neighbour::Advertisement {
            target: OUR_IP,
            router: true,
            solicited,
            overriding: true,
            target_mac: Some(OURS),
        }
    }

    #[test]
    fn answers_a_solicitation_and_learns_who_asked() {
        let (mut bench, mut table) = (Bench::new(), table());
        let frame = from_peer(&bench, PEER_IP, solicited_node(OUR_IP), &solicit(Some([2, 0, 0, 0, 0, 8])));
        assert!(is_neighbour_message(&ip::parse(&frame.data()[14..]).unwrap()));
        bench.with(|cx| receive(&mut table, 4, frame, cx)).unwrap();
        let expected = ([2, 0, 0, 0, 0, 8], OUR_IP, PEER_IP, our_advertisement(true));
        assert_eq!(parse(&bench.frames(4)[0]), expected);
        let index = table.find(4, PEER_IP.into()).unwrap();
        assert_eq!(table.mac(index), Some([2, 0, 0, 0, 0, 8]));
    }

    #[test]
    fn without_the_option_the_answer_goes_to_the_frame_s_source() {
        let (mut bench, mut table) = (Bench::new(), table());
        let frame = from_peer(&bench, PEER_IP, OUR_IP, &solicit(None));
        bench.with(|cx| receive(&mut table, 4, frame, cx)).unwrap();
        assert_eq!(parse(&bench.frames(4)[0]), (PEER, OUR_IP, PEER_IP, our_advertisement(true)));
        assert!(table.is_empty());
    }

    #[test]
    fn duplicate_address_detection_of_our_address_is_answered_to_all() {
        let (mut bench, mut table) = (Bench::new(), table());
        let frame = from_peer(&bench, Ipv6Addr::UNSPECIFIED, solicited_node(OUR_IP), &solicit(None));
        bench.with(|cx| receive(&mut table, 4, frame, cx)).unwrap();
        let expected = ([0x33, 0x33, 0, 0, 0, 1], OUR_IP, ALL_NODES, our_advertisement(false));
        assert_eq!(parse(&bench.frames(4)[0]), expected);
        assert!(table.is_empty());
    }

    #[test]
    fn other_targets_are_not_ours_to_answer() {
        let (mut bench, mut table) = (Bench::new(), table());
        let message = Neighbour::Solicitation { target: PEER_IP, source_mac: Some(PEER) };
        let frame = from_peer(&bench, PEER_IP, solicited_node(PEER_IP), &message);
        assert_eq!(bench.with(|cx| receive(&mut table, 4, frame, cx)), Ok(()));
        assert!(bench.frames(4).is_empty() && table.is_empty());
    }

    #[test]
    fn an_advertisement_alone_creates_nothing() {
        let (mut bench, mut table) = (Bench::new(), table());
        for (destination, solicited) in [(ALL_NODES, false), (OUR_IP, true)] {
            let frame = from_peer(&bench, PEER_IP, destination, &advertise(PEER_IP, solicited));
            assert_eq!(bench.with(|cx| receive(&mut table, 4, frame, cx)), Ok(()));
        }
        assert!(bench.frames(4).is_empty() && table.is_empty());
    }

    #[test]
    fn who_else_claims_our_address_is_in_conflict() {
        let (mut bench, mut table) = (Bench::new(), table());
        let advertisement = from_peer(&bench, OUR_IP, ALL_NODES, &advertise(OUR_IP, false));
        let solicitation = from_peer(&bench, OUR_IP, solicited_node(OUR_IP), &solicit(Some(PEER)));
        for frame in [advertisement, solicitation] {
            let result = bench.with(|cx| receive(&mut table, 4, frame, cx));
            assert_eq!(result, Err(DropReason::AddressConflict));
            let other = message::Neighbour { port: 4, address: OUR_IP.into(), mac: PEER };
            assert_eq!(bench.conflicts(), [other]);
        }
        assert!(bench.out.is_empty() && table.is_empty());
    }

    #[test]
    fn our_own_messages_come_back_without_harm() {
        let (mut bench, mut table) = (Bench::new(), table());
        let interface = table.interface(4).unwrap();
        let ours = [
            announcement(interface, OUR_IP, &bench.pool).unwrap(),
            probe(interface, OUR_IP, &bench.pool).unwrap(),
            solicitation(interface, OUR_IP, None, &bench.pool).unwrap(),
        ];
        for frame in ours {
            assert_eq!(bench.with(|cx| receive(&mut table, 4, frame, cx)), Ok(()));
        }
        assert!(bench.out.is_empty() && table.is_empty());
    }

    #[test]
    fn a_probe_is_what_another_station_answers_to_all() {
        let (bench, table) = (Bench::new(), table());
        let probe = probe(table.interface(4).unwrap(), OUR_IP, &bench.pool).unwrap();
        let group = solicited_node(OUR_IP);
        let expected = ([0x33, 0x33, 0xff, 0, 0, 1], Ipv6Addr::UNSPECIFIED, group, solicit(None));
        assert_eq!(parse(&probe), expected);
        Received::parse(&probe.data()[14..]).unwrap();
    }

    #[test]
    fn what_rfc_4861_says_to_discard() {
        let (mut bench, mut table) = (Bench::new(), table());
        let group = solicited_node(OUR_IP);
        let unspecified = Ipv6Addr::UNSPECIFIED;
        let with = |packet: Packet, at: usize, value: u8| {
            let mut packet = packet;
            packet.data_mut()[at] = value;
            packet
        };
        let good = |bench: &Bench| from_peer(bench, PEER_IP, group, &solicit(Some(PEER)));
        for (frame, why) in [
            (with(good(&bench), 14 + 7, 254), "hop limit"),
            (with(good(&bench), 14 + 42, 0xaa), "checksum"),
            (from_peer(&bench, unspecified, OUR_IP, &solicit(None)), "detection not to the group"),
            (from_peer(&bench, unspecified, group, &solicit(Some(PEER))), "detection with an address"),
            (from_peer(&bench, PEER_IP, ALL_NODES, &advertise(PEER_IP, true)), "solicited, to all"),
            (from_peer(&bench, PEER_IP, group, &solicit(Some([0xff; 6]))), "group address"),
            (from_peer(&bench, PEER_IP, group, &solicit(Some([0; 6]))), "no address"),
            (from_peer(&bench, ALL_NODES, group, &solicit(Some(PEER))), "from a group"),
        ] {
            let result = bench.with(|cx| receive(&mut table, 4, frame, cx));
            assert_eq!(result, Err(DropReason::IcmpMalformed), "{why}");
        }
        assert!(bench.frames(4).is_empty() && table.is_empty());
    }

    #[test]
    fn an_atomic_fragment_is_discarded() {
        let (mut bench, mut table) = (Bench::new(), table());
        let frame = from_peer(&bench, PEER_IP, OUR_IP, &solicit(Some(PEER)));
        let mut bytes = frame.data().to_vec();
        bytes.splice(54..54, [58, 0, 0, 0, 0, 0, 0, 1]);
        bytes[14 + 5] += 8;
        bytes[14 + 6] = protocol::FRAGMENT;
        let frame = bench.pool.alloc_from(&bytes).unwrap();
        assert_eq!(bench.with(|cx| receive(&mut table, 4, frame, cx)), Err(DropReason::IcmpMalformed));
    }

    #[test]
    fn solicitations_go_to_the_group_or_to_one() {
        let (bench, table) = (Bench::new(), table());
        let interface = table.interface(4).unwrap();
        let message = Neighbour::Solicitation { target: PEER_IP, source_mac: Some(OURS) };
        let frame = solicitation(interface, PEER_IP, None, &bench.pool).unwrap();
        assert_eq!(parse(&frame), ([0x33, 0x33, 0xff, 0, 0, 9], OUR_IP, solicited_node(PEER_IP), message));
        let frame = solicitation(interface, PEER_IP, Some(PEER), &bench.pool).unwrap();
        assert_eq!(parse(&frame), (PEER, OUR_IP, PEER_IP, message));
    }
}
