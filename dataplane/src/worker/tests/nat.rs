//! NAT traversal (RFC 3948): UDP encapsulation, keepalives, peers that move; and dummy packets, which keep quiet
//! tunnels busy in the same way.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Direction, Event, SaUpdate, Update};
use crate::packet::ip::{self, protocol};
use crate::packet::udp;
use crate::sa::{Endpoints, Mode, OutboundOptions, TunnelId, UdpPorts};

const NAT: Option<UdpPorts> = Some(UdpPorts { local: 4500, remote: 4500 });

fn tunnel(udp: Option<UdpPorts>) -> Tunnel {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.endpoints.udp = udp;
    tunnel
}

fn inner() -> Vec<Vec<u8>> {
    vec![udp4("10.1.0.5", "10.2.0.5", 100)]
}

/// Where peers were reported to have moved.
fn moves(gateway: &Gateway) -> Vec<Endpoints> {
    let events = gateway.events().into_iter();
    events
        .filter_map(|event| match event {
            Event::PeerMoved { tunnel: TunnelId(1), spi: 0x1001, endpoints } => Some(endpoints),
            _ => None,
        })
        .collect()
}

/// A frame as a NAT passes it on: from another address and, when there is one, UDP port.
fn through_nat(frame: &[u8], source: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[26..30].copy_from_slice(&source);
    if frame[23] == protocol::UDP {
        frame[34..36].copy_from_slice(&port.to_be_bytes());
    }
    let mut header = frame[14..34].to_vec();
    mend4(&mut header);
    frame[14..34].copy_from_slice(&header);
    frame
}

#[test]
fn encapsulated_packets_pass_whether_configured_or_not() {
    for (sender, receiver) in [(NAT, None), (None, NAT), (NAT, NAT)] {
        let mut pair = Pair::new(&tunnel(sender));
        let sa = tunnel(receiver).mirrored().inbound(&pair.right, 1);
        pair.right.update(Update::Sa(SaUpdate::AddInbound(sa)));
        let (wire, out) = pair.left_to_right(&inner());
        let expected = if sender.is_some() { protocol::UDP } else { protocol::ESP };
        assert_eq!(ip::parse(&wire[0][14..]).unwrap().protocol, expected);
        assert_eq!(out.len(), 1, "RFC 7296 s2.23: both must be taken at any time");
    }
}

#[test]
fn what_lies_behind_the_udp_length_is_cut_off() {
    let mut pair = Pair::new(&tunnel(NAT));
    pair.left.receive_ip(LAN, &inner());
    let mut frame = pair.left.sent(WAN).remove(0);
    frame.extend([0xee; 6]);
    let len = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    let frame = through_nat(&frame, [198, 51, 100, 1], 4500);
    pair.right.receive(WAN, &[frame]);
    assert_eq!((pair.right.drops(), pair.right.sent(LAN).len()), (vec![], 1));
}

#[test]
fn a_peer_that_moves_is_reported_once_per_change_and_followed() {
    let mut pair = Pair::new(&tunnel(NAT));
    let from = |pair: &mut Pair, port: u16| {
        pair.left.receive_ip(LAN, &inner());
        let frame = through_nat(&pair.left.sent(WAN)[0], [198, 51, 100, 1], port);
        pair.right.receive(WAN, &[frame]);
        assert_eq!(pair.right.sent(LAN).len(), 1);
        pair.right.poll();
        moves(&pair.right)
    };
    let at = |port| Endpoints {
        local: "198.51.100.2".parse().unwrap(),
        remote: "198.51.100.1".parse().unwrap(),
        udp: Some(UdpPorts { local: 4500, remote: port }),
    };
    assert_eq!(from(&mut pair, 4500), []);
    assert_eq!(from(&mut pair, 1111), [at(1111)]);
    assert_eq!(from(&mut pair, 1111), []);
    assert_eq!(from(&mut pair, 2222), [at(2222)]);
    assert_eq!(from(&mut pair, 1111), [at(1111)]);
    pair.right.update(Update::Sa(SaUpdate::MovePeer(TunnelId(1), at(1111))));
    assert_eq!(from(&mut pair, 1111), []);
    pair.right.receive_ip(LAN, &[udp4("10.2.0.5", "10.1.0.5", 10)]);
    assert_eq!(ip::parse(&pair.right.sent_ip(WAN)[0]).unwrap().ports, Some((4500, 1111)));
    // Back to where it was when the SA was made: that is a move too.
    assert_eq!(from(&mut pair, 4500), [at(4500)]);
}

#[test]
fn an_overtaken_packet_does_not_say_where_the_peer_is() {
    let mut pair = Pair::new(&tunnel(NAT));
    pair.left.receive_ip(LAN, &[inner(), inner()].concat());
    let wire = pair.left.sent(WAN);
    let late = through_nat(&wire[0], [203, 0, 113, 66], 6666);
    pair.right.receive(WAN, &[wire[1].clone(), late]);
    pair.right.poll();
    assert_eq!((moves(&pair.right), pair.right.sent(LAN).len()), (vec![], 2));
}

#[test]
fn moves_are_told_at_a_limited_rate_and_none_is_forgotten() {
    let mut pair = Pair::new(&tunnel(NAT));
    // Two paths, packet by packet.
    let mut told = 0;
    for i in 0..3000u16 {
        pair.left.receive_ip(LAN, &inner());
        let frame = through_nat(&pair.left.sent(WAN)[0], [198, 51, 100, 1], 1111 + i % 2);
        pair.right.receive(WAN, &[frame]);
        pair.right.sent(LAN);
        // 50,000 packets a second.
        pair.right.now -= 980_000;
        told += moves(&pair.right).len();
    }
    assert!((200..300).contains(&told), "{told} of 3000, at 1,000 a second and 201 at once");
    pair.right.pass(Duration::from_secs(1));
    pair.left.receive_ip(LAN, &inner());
    let frame = through_nat(&pair.left.sent(WAN)[0], [198, 51, 100, 1], 3333);
    pair.right.receive(WAN, &[frame]);
    assert_eq!(moves(&pair.right).len(), 1);
}

#[test]
fn keepalives_are_sent_in_silence_only_and_consumed() {
    for (local, remote, header) in [("198.51.100.1", "198.51.100.2", 20), ("2001:db8::1", "2001:db8::2", 40)]
    {
        let mut tunnel = Tunnel::new(local, remote);
        tunnel.endpoints.udp = NAT;
        tunnel.options.keepalive = Some(Duration::from_secs(20));
        let mut pair = Pair::new(&tunnel);
        let mut wire = Vec::new();
        for second in 0..100 {
            pair.left.pass(Duration::from_secs(1));
            if second < 50 {
                pair.left_to_right(&inner());
            }
            wire.extend(pair.left.sent(WAN));
        }
        assert_eq!(wire.len(), 2, "50 s of silence");
        for frame in &wire {
            assert_eq!((frame.len(), *frame.last().unwrap()), (14 + header + 8 + 1, 0xff), "RFC 3948 s2.3");
            let info = ip::parse(&frame[14..]).unwrap();
            assert_eq!((info.ports, info.source.to_ip().to_string()), (Some((4500, 4500)), local.to_owned()));
            if header == 40 {
                // RFC 8200 s8.1: it must not be zero, and a receiver checks it.
                assert_ne!(frame[14 + header + 6..][..2], [0, 0]);
                udp::verify(info.source, info.destination, &frame[14 + header..]).unwrap();
            }
        }
        pair.right.receive(WAN, &wire);
        assert_eq!(pair.right.drops(), [(DropReason::NatKeepalive, 2)]);
        assert!(pair.right.sent(LAN).is_empty());
        // None without UDP encapsulation.
        tunnel.endpoints.udp = None;
        let mut pair = Pair::new(&tunnel);
        (0..100).for_each(|_| pair.left.pass(Duration::from_secs(1)));
        assert!(pair.left.sent(WAN).is_empty());
    }
}

#[test]
fn silence_is_broken_by_dummies_that_the_peer_drops() {
    for udp in [None, NAT] {
        for (local, remote) in [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")] {
            let mut tunnel = Tunnel::new(local, remote);
            tunnel.endpoints.udp = udp;
            tunnel.options = OutboundOptions {
                dummy: Some(Duration::from_secs(5)),
                keepalive: Some(Duration::from_secs(5)),
                tfc_pad: Some(400),
                ..tunnel.options
            };
            let mut pair = Pair::new(&tunnel);
            let (real, _) = pair.left_to_right(&inner());
            (0..21).for_each(|_| pair.left.pass(Duration::from_secs(1)));
            let wire = pair.left.sent(WAN);
            assert_eq!(wire.len(), 4);
            assert!(wire.iter().all(|frame| frame.len() == real[0].len()), "cannot be told from a real one");
            pair.right.receive(WAN, &wire);
            pair.right.assert_dropped_on(0x1001, &[(DropReason::Dummy, 4)]);
            assert_eq!(pair.left.sa(Direction::Outbound, 0x1001).packets, 1, "the real one");
            let (_, out) = pair.left_to_right(&inner());
            assert_eq!(out.len(), 1);
        }
    }
}

#[test]
fn an_sa_at_its_end_sends_no_dummies() {
    let mut tunnel = tunnel(None);
    tunnel.options.dummy = Some(Duration::from_secs(1));
    tunnel.lifetime.hard.packets = Some(3);
    let mut pair = Pair::new(&tunnel);
    (0..20).for_each(|_| pair.left.pass(Duration::from_secs(2)));
    assert_eq!(pair.left.sent(WAN).len(), 3);
    assert!(pair.left.count(DropReason::SaExpired) <= 1);
}

#[test]
fn a_checksum_that_a_nat_spoilt_unseen_is_made_good_in_transport_mode() {
    for bare in [false, true] {
        let mut tunnel = tunnel(NAT);
        tunnel.mode = Mode::Transport;
        (tunnel.local, tunnel.remote) = ("198.51.100.1/32", "198.51.100.2/32");
        let mut pair = Pair::new(&tunnel);
        // The left gateway sends an IKE message through its SA; the NAT makes 198.51.100.7 of it.
        let mut wide = tunnel.clone();
        wide.local = "198.51.100.0/24";
        let sa = wide.mirrored().inbound(&pair.right, 1);
        pair.right.update(Update::Sa(SaUpdate::AddInbound(sa)));
        let mut packet = udp4("198.51.100.1", "198.51.100.2", 40);
        packet[22..24].copy_from_slice(&500u16.to_be_bytes());
        if !bare {
            let sum =
                udp::checksum(Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2), &packet[20..]);
            packet[26..28].copy_from_slice(&sum.to_be_bytes());
        }
        let packet = pair.left.pool.alloc_from(&packet).unwrap();
        pair.left.worker.originate_for_test(packet, pair.left.now);
        pair.left.poll();
        let frame = through_nat(&pair.left.sent(WAN)[0], [198, 51, 100, 7], 1024);
        pair.right.events();
        pair.right.receive(WAN, &[frame]);
        assert_eq!(pair.right.drops(), []);
        let punted = pair.right.events().into_iter().any(|event| match event {
            Event::Punt(datagram) => datagram.remote == "198.51.100.7:4096".parse().unwrap(),
            _ => false,
        });
        assert!(punted, "the checksum of RFC 3948 s3.1.2");
    }
}
