//! Packets in the clear that policy, routing or good sense refuse.

use std::time::Duration;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Event, RouteUpdate, SaUpdate, Update};
use crate::packet::icmp;
use crate::packet::ip::{self, protocol};
use crate::policy::Action;
use crate::sa::TunnelId;

fn pair() -> Pair {
    Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"))
}

/// What the right gateway counts when this comes by its WAN port.
fn from_wan(packet: Vec<u8>) -> Vec<(DropReason, u64)> {
    let mut pair = pair();
    pair.right.receive_ip(WAN, &[packet]);
    assert_eq!(pair.right.sent(LAN).len(), 0);
    pair.right.drops()
}

#[test]
fn what_must_come_protected_does_not_pass_in_the_clear() {
    assert_eq!(from_wan(udp4("10.1.0.5", "10.2.0.5", 20)), [(DropReason::PolicyClear, 1)], "transit");
    assert_eq!(from_wan(ping4("10.1.0.5", "10.2.0.1", 20)), [(DropReason::PolicyClear, 1)], "to us");
    assert_eq!(from_wan(udp4("10.1.0.5", "10.2.0.1", 20)), [(DropReason::PolicyClear, 1)], "to us, no ping");
}

#[test]
fn without_a_policy_nothing_is_forwarded() {
    let mut pair = pair();
    pair.right.route("0.0.0.0/0", WAN, "198.51.100.254");
    pair.right.receive_ip(WAN, &[udp4("192.0.2.5", "10.2.0.5", 20)]);
    pair.right.receive_ip(LAN, &[udp4("10.2.0.5", "192.0.2.5", 20)]);
    pair.right.policy(9, "10.2.0.0/16", "192.0.2.7/32", Action::Discard);
    pair.right.receive_ip(LAN, &[udp4("10.2.0.5", "192.0.2.7", 20)]);
    assert_eq!(pair.right.drops(), [(DropReason::PolicyDiscard, 3)]);
    pair.right.policy(9, "10.2.0.0/16", "192.0.2.0/24", Action::Bypass);
    pair.right.receive_ip(WAN, &[udp4("192.0.2.5", "10.2.0.5", 20)]);
    assert_eq!(pair.right.sent(LAN).len(), 1);
}

#[test]
fn sources_that_cannot_be() {
    // Behind the LAN port, but from the WAN; nowhere; ourselves.
    for source in ["10.2.0.77", "172.16.0.1", "198.51.100.2"] {
        assert_eq!(from_wan(udp4(source, "10.2.0.5", 20)), [(DropReason::ReversePath, 1)], "{source}");
    }
    for source in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"] {
        assert_eq!(from_wan(udp4(source, "10.2.0.5", 20)), [(DropReason::AddressInvalid, 1)], "{source}");
    }
    for destination in ["127.0.0.1", "169.254.1.1", "240.0.0.1"] {
        assert_eq!(from_wan(udp4("198.51.100.7", destination, 20)), [(DropReason::AddressInvalid, 1)]);
    }
    // To us, in our own name: we would answer ourselves.
    for source in ["198.51.100.2", "10.2.0.1"] {
        let drops = from_wan(ping4(source, "198.51.100.2", 20));
        assert_eq!(drops, [(DropReason::AddressInvalid, 1)], "{source}");
    }
}

#[test]
fn a_frame_to_everybody_with_a_packet_to_one_is_not_forwarded_nor_answered() {
    let mut pair = pair();
    pair.right.policy(9, "10.2.0.0/16", "198.51.100.0/24", Action::Bypass);
    for packet in [udp4("198.51.100.7", "10.2.0.5", 20), ping4("198.51.100.7", "198.51.100.2", 20)] {
        let mut frame = pair.right.frame(WAN, &packet);
        frame[..6].fill(0xff);
        pair.right.receive(WAN, &[frame]);
    }
    assert_eq!(pair.right.drops(), [(DropReason::NotOurMac, 2)]);
    assert!(pair.right.sent(WAN).is_empty() && pair.right.sent(LAN).is_empty());
}

#[test]
fn ttl_runs_out_and_the_source_is_told() {
    let mut pair = pair();
    for ttl in [0, 1] {
        let mut packet = udp4("10.1.0.5", "10.2.0.5", 20);
        packet[8] = ttl;
        mend4(&mut packet);
        pair.left.receive_ip(LAN, &[packet]);
        let answer = &pair.left.sent_ip(LAN)[0];
        assert_eq!(ip::parse(answer).unwrap().destination, "10.1.0.5".parse::<std::net::IpAddr>().unwrap());
        assert_eq!(icmp::Header::parse(&answer[20..]).unwrap().0.kind, icmp::kind::TIME_EXCEEDED);
    }
    assert_eq!(pair.left.drops(), [(DropReason::TtlExceeded, 2)]);
    assert!(pair.left.sent(WAN).is_empty());
}

#[test]
fn without_a_route_the_source_is_told() {
    let mut pair = pair();
    pair.left.policy(9, "10.1.0.0/16", "192.0.2.0/24", Action::Bypass);
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "192.0.2.5", 20)]);
    let answer = &pair.left.sent_ip(LAN)[0];
    let header = icmp::Header::parse(&answer[20..]).unwrap().0;
    assert_eq!((header.kind, header.code), (icmp::kind::UNREACHABLE, icmp::unreachable::NETWORK));
    assert_eq!(pair.left.drops(), [(DropReason::NoRoute, 1)]);
    // No route to the peer either: the tunnel's drop.
    pair.left.update(Update::Route(RouteUpdate::Remove("198.51.100.0/24".parse().unwrap())));
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    assert_eq!(pair.left.drops(), [(DropReason::NoRoute, 2)]);
    let counters = pair.left.sa(crate::message::Direction::Outbound, 0x1001);
    assert_eq!(counters.drops().collect::<Vec<_>>(), [(DropReason::NoRoute, 1)]);
}

#[test]
fn without_an_sa_the_control_side_is_asked_once_a_second() {
    let mut pair = pair();
    pair.left.update(Update::Sa(SaUpdate::RemoveOutbound(TunnelId(1))));
    pair.left.events();
    let packets: Vec<_> = (0..500).map(|_| udp4("10.1.0.5", "10.2.0.5", 20)).collect();
    pair.left.receive_ip(LAN, &packets);
    let asked = |pair: &Pair| -> Vec<_> {
        let events = pair.left.events().into_iter();
        events
            .filter_map(|event| match event {
                Event::Acquire { tunnel, source, protocol, ports, .. } => {
                    Some((tunnel, source, protocol, ports))
                }
                _ => None,
            })
            .collect()
    };
    assert_eq!(
        asked(&pair),
        [(TunnelId(1), "10.1.0.5".parse().unwrap(), protocol::UDP, Some((0x1000, 0x2000)))]
    );
    pair.left.pass(Duration::from_secs(1));
    pair.left.receive_ip(LAN, &packets[..2]);
    assert_eq!(asked(&pair).len(), 1);
    assert_eq!(pair.left.drops(), [(DropReason::NoSa, 502)]);
}

#[test]
fn frames_that_are_not_for_us_or_not_ip() {
    let mut pair = pair();
    let good = pair.right.frame(WAN, &udp4("10.1.0.5", "10.2.0.5", 20));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    pair.right.receive(
        WAN,
        &[
            vec![],
            good[..13].to_vec(),
            with(0, &[2, 0, 0, 0, 9, 9]),
            with(12, &[0x88, 0xcc]),
            with(12, &[0x81, 0x00, 0x00, 0x07]),
            with(12, &[0x08, 0x06]),
            good[..14].to_vec(),
            with(14, &[0x55]),
        ],
    );
    let expected = [
        (DropReason::EthernetTruncated, 2),
        (DropReason::EtherTypeUnknown, 1),
        (DropReason::NotOurMac, 1),
        (DropReason::VlanUnknown, 1),
        (DropReason::ArpMalformed, 1),
        (DropReason::IpMalformed, 2),
    ];
    assert_eq!(pair.right.drops(), expected);
}

#[test]
fn fragments_that_overlap_give_up_their_packet() {
    let mut pair = pair();
    let fragment = |offset: u16, more: bool, len: usize| {
        let mut packet = udp4("198.51.100.1", "198.51.100.2", len - 8);
        packet[9] = protocol::ESP;
        packet[6..8].copy_from_slice(&((offset / 8) | (if more { 0x2000 } else { 0 })).to_be_bytes());
        mend4(&mut packet);
        packet
    };
    let fragments =
        [fragment(0, true, 64), fragment(56, true, 64), fragment(64, false, 64), fragment(0, true, 64)];
    pair.right.receive_ip(WAN, &fragments);
    assert_eq!(pair.right.drops(), [(DropReason::FragmentOverlap, 4)]);
    // A copy is no attack; what it belongs to goes on to be an ESP packet.
    let mut copies = [fragment(0, true, 64), fragment(0, true, 64), fragment(64, false, 64)];
    copies.iter_mut().for_each(|packet| {
        packet[5] = 8;
        mend4(packet);
    });
    pair.right.receive_ip(WAN, &copies);
    let expected =
        [(DropReason::FragmentOverlap, 4), (DropReason::FragmentDuplicate, 1), (DropReason::SpiUnknown, 1)];
    assert_eq!(pair.right.drops(), expected);
    pair.right.receive_ip(WAN, &[fragment(0, true, 60)]);
    assert_eq!(pair.right.count(DropReason::FragmentMalformed), 1, "not a multiple of eight");
    pair.right.pass(Duration::from_secs(60));
}
