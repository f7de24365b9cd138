//! Packets that are too long: fragments before and after, path MTU, errors to the source, MSS.

use std::net::IpAddr;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Direction, SaUpdate, Update};
use crate::packet::ip::{self, Version, protocol};
use crate::packet::{checksum, icmp, icmpv6};
use crate::policy::Action;
use crate::sa::{DfPolicy, Fragmentation, MssClamp, UdpPorts};

fn tunnel() -> Tunnel {
    Tunnel::new("198.51.100.1", "198.51.100.2")
}

fn tunnel6() -> Tunnel {
    let mut tunnel = Tunnel::new("2001:db8::1", "2001:db8::2");
    (tunnel.local, tunnel.remote) = ("fd01::/64", "fd02::/64");
    tunnel
}

fn with_df(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    mend4(&mut packet);
    packet
}

/// Puts IPv4 or IPv6 fragments together as the host behind a gateway would; the payload from the transport header on.
fn reassembled(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let info = ip::parse(piece).unwrap();
            let offset = info.fragment.map_or(0, |fragment| fragment.offset);
            (offset, piece[usize::from(info.header_len)..].to_vec())
        })
        .collect();
    parts.sort();
    parts.iter().fold(Vec::new(), |mut whole, (offset, part)| {
        assert_eq!(usize::from(*offset), whole.len());
        whole.extend_from_slice(part);
        whole
    })
}

#[test]
fn fragments_before_and_after_encapsulation_arrive_whole() {
    for (fragmentation, udp) in [
        (Fragmentation::Before, None),
        (Fragmentation::After, None),
        (Fragmentation::After, Some(UdpPorts { local: 4500, remote: 4500 })),
    ] {
        for outer in [tunnel(), Tunnel::new("2001:db8::1", "2001:db8::2")] {
            let mut tunnel = outer;
            tunnel.options.fragmentation = fragmentation;
            tunnel.endpoints.udp = udp;
            let mut pair = Pair::new(&tunnel);
            let packet = udp4("10.1.0.5", "10.2.0.5", 1472);
            let (wire, out) = pair.left_to_right(std::slice::from_ref(&packet));
            assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
            assert!(wire.iter().all(|frame| frame.len() <= 1514));
            let infos: Vec<_> = wire.iter().map(|frame| ip::parse(&frame[14..]).unwrap()).collect();
            assert_eq!(infos.len(), 2);
            let outer_fragments = infos.iter().all(|info| info.fragment.is_some());
            assert_eq!(outer_fragments, fragmentation == Fragmentation::After);
            assert_eq!(out.len(), if fragmentation == Fragmentation::After { 1 } else { 2 });
            assert_eq!(reassembled(&out), packet[20..]);
        }
    }
}

#[test]
fn outer_fragments_come_in_any_order_and_as_many_as_need_be() {
    let mut tunnel = tunnel();
    tunnel.options.fragmentation = Fragmentation::After;
    let mut pair = Pair::new(&tunnel);
    // A path of 576 bytes: three fragments each.
    let sa = tunnel.outbound(&pair.left, 1);
    sa.path_mtu.lower(576, pair.left.now);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, tunnel.endpoints)));
    let packets: Vec<_> = (0..20).map(|i| udp4("10.1.0.5", "10.2.0.5", 1400 + i)).collect();
    pair.left.receive_ip(LAN, &packets);
    let mut wire = pair.left.sent(WAN);
    assert_eq!(wire.len(), 60);
    wire.reverse();
    pair.right.receive(WAN, &wire);
    let mut out = pair.right.sent_ip(LAN);
    out.sort_by_key(Vec::len);
    assert_eq!(pair.right.drops(), []);
    assert_eq!(
        out.iter().map(|packet| &packet[20..]).collect::<Vec<_>>(),
        packets.iter().map(|p| &p[20..]).collect::<Vec<_>>()
    );
}

#[test]
fn what_cannot_be_fragmented_outside_is_dropped_on_the_sa_and_not_carried() {
    let mut tunnel = tunnel();
    tunnel.options.fragmentation = Fragmentation::After;
    let mut pair = Pair::new(&tunnel);
    let frame = pair.left.frame(LAN, &udp4("10.1.0.5", "10.2.0.5", 1472));
    let packet = pair.left.pool.alloc_from(&frame).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| pair.left.pool.alloc()).collect();
    pair.left.ports[LAN].push(packet).unwrap();
    pair.left.poll();
    drop(taken);
    assert_eq!(pair.left.drops(), [(DropReason::NoBuffer, 1)]);
    let counters = pair.left.sa(Direction::Outbound, tunnel.spi.0);
    assert_eq!(counters.drops().collect::<Vec<_>>(), [(DropReason::NoBuffer, 1)]);
    assert_eq!((counters.packets, counters.bytes), (0, 0));
    assert_eq!(pair.left.sent(WAN).len(), 0);
    let (wire, out) = pair.left_to_right(&[udp4("10.1.0.5", "10.2.0.5", 1472)]);
    assert_eq!((wire.len(), out.len()), (2, 1));
    let counters = pair.left.sa(Direction::Outbound, tunnel.spi.0);
    assert_eq!((counters.packets, counters.bytes), (1, 1500));
}

/// The MTU that an ICMP error tells, and to whom.
fn told(packet: &[u8]) -> (IpAddr, u32) {
    let info = ip::parse(packet).unwrap();
    let message = &packet[usize::from(info.header_len)..];
    let mtu = match (info.source.to_ip(), info.destination.to_ip()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = icmpv6::Header::parse(source, destination, message).unwrap().0;
            assert_eq!(header.kind, icmpv6::kind::PACKET_TOO_BIG);
            header.mtu()
        }
        _ => {
            let header = icmp::Header::parse(message).unwrap().0;
            assert_eq!((header.kind, header.code), (3, 4));
            header.mtu().into()
        }
    };
    (info.destination.to_ip(), mtu)
}

#[test]
fn the_source_is_told_what_fits_and_that_fits() {
    let mut pair = Pair::new(&tunnel());
    pair.left.receive_ip(LAN, &[with_df(udp4("10.1.0.5", "10.2.0.5", 1472))]);
    let (to, mtu) = told(&pair.left.sent_ip(LAN)[0]);
    // 20 + 8 + 8 + body + 16 <= 1500, the body in words, two bytes of it the trailer.
    assert_eq!((to, mtu), ("10.1.0.5".parse().unwrap(), 1446));
    let largest = with_df(udp4("10.1.0.5", "10.2.0.5", mtu as usize - 28));
    let (wire, out) = pair.left_to_right(&[largest]);
    assert_eq!((wire.len(), out.len(), wire[0].len()), (1, 1, 1514));
    assert_eq!(pair.left.drops(), [(DropReason::TooBig, 1)]);

    let mut pair = Pair::new(&tunnel6());
    pair.left.receive_ip(LAN, &[udp6("fd01::5", "fd02::5", 1452)]);
    let (to, mtu) = told(&pair.left.sent_ip(LAN)[0]);
    assert_eq!((to, mtu), ("fd01::5".parse().unwrap(), 1426));
    let (wire, out) = pair.left_to_right(&[udp6("fd01::5", "fd02::5", mtu as usize - 48)]);
    assert_eq!((wire.len(), out.len()), (1, 1));
}

#[test]
fn a_source_behind_the_tunnel_is_told_through_it() {
    for six in [false, true] {
        let tunnel = if six { tunnel6() } else { tunnel() };
        let mut pair = Pair::new(&tunnel);
        // The right gateway's host link is narrower than the path: the far source must learn that.
        let narrow = Pair::with_mtu(&tunnel, 1300);
        pair.right = narrow.right;
        let packet =
            if six { udp6("fd01::5", "fd02::5", 1320) } else { with_df(udp4("10.1.0.5", "10.2.0.5", 1350)) };
        let (_, out) = pair.left_to_right(&[packet]);
        assert_eq!(out.len(), 0);
        let wire = pair.right.sent(WAN);
        assert!(
            wire.iter().all(|frame| ip::parse(&frame[14..]).unwrap().protocol == protocol::ESP),
            "{wire:?}"
        );
        pair.left.receive(WAN, &wire);
        let source: IpAddr = if six { "fd01::5" } else { "10.1.0.5" }.parse().unwrap();
        assert_eq!(told(&pair.left.sent_ip(LAN)[0]), (source, 1300));
    }
}

#[test]
fn a_learned_path_mtu_is_heeded_at_once() {
    let tunnel = tunnel();
    let mut pair = Pair::new(&tunnel);
    let sa = tunnel.outbound(&pair.left, 1);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa.clone(), tunnel.endpoints)));
    let packet = with_df(udp4("10.1.0.5", "10.2.0.5", 1372));
    assert_eq!(pair.left_to_right(std::slice::from_ref(&packet)).1.len(), 1);
    sa.path_mtu.lower(1400, pair.left.now);
    assert_eq!(pair.left_to_right(std::slice::from_ref(&packet)).1.len(), 0);
    assert_eq!(told(&pair.left.sent_ip(LAN)[0]).1, 1346);
    // Ten minutes later the path may be wider again.
    pair.left.pass(std::time::Duration::from_secs(601));
    let (wire, _) = pair.left_to_right(&[packet]);
    assert!(wire.iter().any(|frame| frame.len() > 1400), "aged");
}

#[test]
fn ipv6_packets_of_1280_bytes_pass_every_path() {
    let tunnel = tunnel6();
    let mut pair = Pair::new(&tunnel);
    let sa = tunnel.outbound(&pair.left, 1);
    sa.path_mtu.lower(1280, pair.left.now);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, tunnel.endpoints)));
    let packet = udp6("fd01::5", "fd02::5", 1280 - 48);
    let (wire, out) = pair.left_to_right(std::slice::from_ref(&packet));
    assert_eq!((wire.len(), out.len()), (2, 1), "the outer packet is fragmented");
    assert!(wire.iter().all(|frame| frame.len() <= 14 + 1280));
    assert_eq!(out[0][40..], packet[40..]);
    pair.left.receive_ip(LAN, &[udp6("fd01::5", "fd02::5", 1281 - 48)]);
    assert_eq!(told(&pair.left.sent_ip(LAN)[0]).1, 1280, "never less (RFC 8200 s5)");
}

#[test]
fn df_that_is_cleared_lets_every_packet_pass() {
    let mut tunnel = tunnel();
    (tunnel.options.df, tunnel.options.fragmentation) = (DfPolicy::Clear, Fragmentation::After);
    let mut pair = Pair::new(&tunnel);
    let packet = with_df(udp4("10.1.0.5", "10.2.0.5", 1472));
    let (wire, out) = pair.left_to_right(std::slice::from_ref(&packet));
    assert_eq!((wire.len(), out.len()), (2, 1));
    assert_eq!(out[0][20..], packet[20..]);
}

#[test]
fn in_the_clear_too() {
    let mut pair = Pair::with_mtu(&tunnel(), 1300);
    pair.left.policy(9, "10.1.0.0/16", "198.51.100.0/24", Action::Bypass);
    pair.left.policy(10, "fd01::/64", "2001:db8::/64", Action::Bypass);
    pair.left.receive_ip(
        LAN,
        &[
            udp4("10.1.0.5", "198.51.100.2", 1372),
            with_df(udp4("10.1.0.5", "198.51.100.2", 1372)),
            udp6("fd01::5", "2001:db8::2", 1352),
        ],
    );
    assert_eq!(pair.left.sent_ip(WAN).len(), 2, "two pieces of the first");
    let told: Vec<_> = pair.left.sent_ip(LAN).iter().map(|packet| told(packet).1).collect();
    assert_eq!(told, [1300, 1300]);
    assert_eq!(pair.left.drops(), [(DropReason::TooBig, 2)]);
}

#[test]
fn fragments_of_hosts_pass_selectors_without_ports() {
    let mut pair = Pair::new(&tunnel());
    let whole = udp4("10.1.0.5", "10.2.0.5", 40);
    let piece = |offset: usize, more: bool, data: &[u8]| {
        let mut piece = [&whole[..20], data].concat();
        piece[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        piece[6..8].copy_from_slice(&((offset as u16 / 8) | (if more { 0x2000 } else { 0 })).to_be_bytes());
        mend4(&mut piece);
        piece
    };
    let (_, out) = pair.left_to_right(&[piece(24, false, &whole[44..]), piece(0, true, &whole[20..44])]);
    assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
    assert_eq!((out.len(), reassembled(&out)), (2, whole[20..].to_vec()));
}

#[test]
fn policies_that_name_ports_see_the_whole_of_a_fragmented_packet() {
    for six in [false, true] {
        let mut tunnel = if six { tunnel6() } else { tunnel() };
        tunnel.only = Some((protocol::UDP, 0x2000));
        let mut pair = Pair::new(&tunnel);
        let (whole, at) = if six {
            (udp6("fd01::5", "fd02::5", 2000), 40)
        } else {
            (udp4("10.1.0.5", "10.2.0.5", 2000), 20)
        };
        let piece = |offset: usize, more: bool, data: &[u8]| {
            let mut piece = whole[..at].to_vec();
            let word = offset as u16;
            if six {
                piece[6] = protocol::FRAGMENT;
                piece[4..6].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
                let word = (word | u16::from(more)).to_be_bytes();
                piece.extend([protocol::UDP, 0, word[0], word[1], 0, 0, 0, 7]);
            } else {
                piece[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
                piece[6..8].copy_from_slice(&((word / 8) | (if more { 0x2000 } else { 0 })).to_be_bytes());
                mend4(&mut piece);
            }
            piece.extend_from_slice(data);
            piece
        };
        let data = &whole[at..];
        let pieces = [piece(1200, false, &data[1200..]), piece(0, true, &data[..1200])];
        let (wire, out) = pair.left_to_right(&pieces);
        assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
        assert!(wire.len() == 2 && wire.iter().all(|frame| frame.len() <= 1514));
        let outside = wire.iter().all(|frame| ip::parse(&frame[14..]).unwrap().fragment.is_some());
        assert_eq!(outside, !six, "IPv6 stays in pieces");
        assert!(out.iter().all(|packet| packet.len() <= 1500));
        assert_eq!(reassembled(&out), data);
    }
}

/// A TCP SYN with an MSS option of 1460.
fn syn(six: bool) -> Vec<u8> {
    let mut packet = if six { udp6("fd01::5", "fd02::5", 16) } else { udp4("10.1.0.5", "10.2.0.5", 16) };
    let at = if six { 40 } else { 20 };
    packet[if six { 6 } else { 9 }] = protocol::TCP;
    packet[at..].copy_from_slice(&[
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4,
    ]);
    if !six {
        mend4(&mut packet);
    }
    let info = ip::parse(&packet).unwrap();
    ip::renew_checksum(&mut packet, &info);
    packet
}

#[test]
fn the_mss_of_a_syn_is_clamped_to_what_fits() {
    let mss = |packet: &[u8]| {
        let info = ip::parse(packet).unwrap();
        let segment = &packet[usize::from(info.header_len)..];
        let sum = ip::pseudo_header(info.source, info.destination, protocol::TCP, segment.len() as u32);
        assert_eq!(sum.bytes(segment).finish(), 0, "checksum");
        u16::from_be_bytes([segment[22], segment[23]])
    };
    for (six, clamp, path, expected) in [
        (false, None, 1500, 1460),
        (false, Some(MssClamp::PathMtu), 1500, 1406),
        (false, Some(MssClamp::PathMtu), 1400, 1306),
        (false, Some(MssClamp::Fixed(1200)), 1500, 1200),
        (true, Some(MssClamp::PathMtu), 1500, 1366),
        (true, Some(MssClamp::PathMtu), 1280, 1220),
    ] {
        let mut tunnel = if six { tunnel6() } else { tunnel() };
        tunnel.options.mss_clamp = clamp;
        let mut pair = Pair::new(&tunnel);
        let sa = tunnel.outbound(&pair.left, 1);
        sa.path_mtu.lower(path, pair.left.now);
        pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, tunnel.endpoints)));
        let (_, out) = pair.left_to_right(&[syn(six)]);
        assert_eq!(mss(&out[0]), expected, "{clamp:?} {path}");
        assert_eq!(ip::parse(&out[0]).unwrap().version == Version::V6, six);
    }
}

#[test]
fn a_large_ping_is_put_together_and_answered_in_pieces() {
    let mut pair = Pair::new(&tunnel());
    let whole = ping4("198.51.100.7", "198.51.100.2", 4000);
    pair.right.neighbour(WAN, "198.51.100.7", HOST_MAC);
    let data = &whole[20..];
    let pieces: Vec<_> = (0..data.len())
        .step_by(1480)
        .map(|offset| {
            let end = (offset + 1480).min(data.len());
            let mut piece = [&whole[..20], &data[offset..end]].concat();
            piece[2..4].copy_from_slice(&(20 + (end - offset) as u16).to_be_bytes());
            let more = if end < data.len() { 0x2000 } else { 0 };
            piece[6..8].copy_from_slice(&((offset as u16 / 8) | more).to_be_bytes());
            mend4(&mut piece);
            piece
        })
        .collect();
    pair.right.receive_ip(WAN, &pieces);
    let answer = reassembled(&pair.right.sent_ip(WAN));
    assert_eq!((answer[0], checksum::of(&answer), &answer[8..]), (0, 0, &data[8..]));
    assert_eq!(pair.right.drops(), []);
}
