//! Traffic between tunnels, and what the gateway says about packets out of a tunnel.

use std::time::Duration;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{AddressUpdate, Update};
use crate::packet::icmp;
use crate::packet::ip::{self, protocol};
use crate::policy::Action;

/// The right gateway with a second tunnel, to 10.3.0.0/16 behind 198.51.100.3. Both tunnels take all of 10.0.0.0/8.
fn hub() -> (Pair, Tunnel) {
    let mut first = Tunnel::new("198.51.100.1", "198.51.100.2");
    first.remote = "10.0.0.0/8";
    let mut pair = Pair::new(&first);
    pair.left.route("10.3.0.0/16", WAN, "198.51.100.2");
    let mut second = Tunnel::new("198.51.100.2", "198.51.100.3");
    (second.local, second.remote, second.spi) = ("10.0.0.0/8", "10.3.0.0/16", (0x3001, 0x4001));
    second.install(&mut pair.right, 2);
    pair.right.neighbour(WAN, "198.51.100.3", HOST_MAC);
    pair.right.route("10.3.0.0/16", WAN, "198.51.100.3");
    (pair, first)
}

#[test]
fn a_packet_out_of_one_tunnel_goes_into_the_next() {
    let (mut pair, _) = hub();
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.3.0.5", 100)]);
    let wire = pair.left.sent(WAN);
    pair.right.receive(WAN, &wire);
    let out = pair.right.sent_ip(WAN);
    let info = ip::parse(&out[0]).unwrap();
    assert_eq!((out.len(), info.protocol), (1, protocol::ESP));
    assert_eq!(info.destination, "198.51.100.3".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(out[0][20..24], 0x3001u32.to_be_bytes());
    assert_eq!(pair.right.drops(), []);
}

#[test]
fn nobody_speaks_to_one_branch_in_the_name_of_another() {
    let (mut pair, _) = hub();
    pair.right.receive_ip(WAN, &[udp4("10.1.0.5", "10.3.0.5", 100)]);
    assert_eq!(pair.right.drops(), [(DropReason::PolicyClear, 1)]);
    assert!(pair.right.sent(WAN).is_empty());
    // The hub's own hosts may, though the first tunnel's policy holds them too.
    pair.right.receive_ip(LAN, &[udp4("10.2.0.5", "10.3.0.5", 100)]);
    assert_eq!(pair.right.sent(WAN).len(), 1);
}

#[test]
fn a_default_tunnel_does_not_claim_the_sources_of_the_others() {
    let mut pair = Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"));
    // Everything else goes through a third gateway.
    let mut default = Tunnel::new("198.51.100.1", "198.51.100.3");
    (default.local, default.remote, default.spi) = ("10.0.0.0/8", "0.0.0.0/0", (0x3001, 0x4001));
    default.install(&mut pair.left, 2);
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 100)]);
    assert_eq!((pair.left.drops(), pair.left.sent(WAN).len()), (vec![], 1));
}

#[test]
fn errors_about_packets_out_of_a_tunnel_go_back_through_it() {
    let mut pair = Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"));
    let mut packet = udp4("10.1.0.5", "10.2.0.5", 100);
    packet[8] = 2;
    mend4(&mut packet);
    let (_, out) = pair.left_to_right(&[packet]);
    assert_eq!((out.len(), pair.right.count(DropReason::TtlExceeded)), (0, 1));
    let wire = pair.right.sent(WAN);
    assert_eq!((wire.len(), ip::parse(&wire[0][14..]).unwrap().protocol), (1, protocol::ESP));
    pair.left.receive(WAN, &wire);
    let answer = &pair.left.sent_ip(LAN)[0];
    let info = ip::parse(answer).unwrap();
    assert_eq!(info.source, "10.2.0.1".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(icmp::Header::parse(&answer[20..]).unwrap().0.kind, icmp::kind::TIME_EXCEEDED);
}

/// A tunnel whose policy holds no address of the right gateway.
fn narrow() -> Pair {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.remote = "10.2.9.0/24";
    Pair::new(&tunnel)
}

#[test]
fn errors_that_could_only_leave_in_the_clear_are_not_sent() {
    let mut pair = narrow();
    // Out of time, no such neighbour: each error would quote the inside.
    let mut expired = udp4("10.1.0.5", "10.2.9.5", 100);
    expired[8] = 2;
    mend4(&mut expired);
    pair.left_to_right(&[expired, udp4("10.1.0.5", "10.2.9.6", 100)]);
    pair.right.sent(LAN);
    for _ in 0..100 {
        pair.right.pass(Duration::from_secs(1));
    }
    assert_eq!(pair.right.count(DropReason::TtlExceeded), 1);
    assert_eq!(pair.right.count(DropReason::NeighbourUnresolved), 1);
    assert_eq!(pair.right.sent(WAN), [] as [Vec<u8>; 0], "nothing in the clear");
}

#[test]
fn an_inner_address_is_ours_for_as_long_as_it_is_given() {
    let (mut pair, inner) = (narrow(), "10.2.9.1".parse().unwrap());
    let answers = |pair: &mut Pair| {
        let (_, out) = pair.left_to_right(&[ping4("10.1.0.5", "10.2.9.1", 64)]);
        let wire = pair.right.sent(WAN);
        pair.left.receive(WAN, &wire);
        (pair.left.sent_ip(LAN).len(), out.len())
    };
    assert_eq!(answers(&mut pair), (0, 1), "somebody else's, who is asked for");
    pair.right.update(Update::Address(AddressUpdate::Add(inner)));
    assert_eq!(answers(&mut pair), (1, 0));
    // Nobody else may come in its name, nor from outside the tunnel to it.
    pair.right.receive_ip(LAN, &[udp4("10.2.9.1", "10.1.0.5", 20)]);
    assert_eq!(pair.right.count(DropReason::ReversePath), 1);
    pair.right.receive_ip(WAN, &[ping4("10.1.0.5", "10.2.9.1", 20)]);
    assert_eq!(pair.right.count(DropReason::PolicyClear), 1);
    pair.right.update(Update::Address(AddressUpdate::Remove(inner)));
    assert_eq!(answers(&mut pair).0, 0);
    pair.right.receive_ip(LAN, &[udp4("10.2.9.1", "10.1.0.5", 20)]);
    assert_eq!(pair.right.count(DropReason::ReversePath), 1, "and a host may have it again");
}

#[test]
fn a_neighbour_that_does_not_answer_is_told_through_the_tunnel() {
    let mut pair = Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"));
    pair.left_to_right(&[udp4("10.1.0.5", "10.2.0.66", 100)]);
    for _ in 0..10 {
        pair.right.pass(Duration::from_secs(1));
    }
    assert_eq!(pair.right.count(DropReason::NeighbourUnresolved), 1);
    let wire = pair.right.sent(WAN);
    pair.left.receive(WAN, &wire);
    let answer = &pair.left.sent_ip(LAN)[0];
    let header = icmp::Header::parse(&answer[20..]).unwrap().0;
    assert_eq!((header.kind, header.code), (icmp::kind::UNREACHABLE, icmp::unreachable::HOST));
}

#[test]
fn an_answer_to_a_ping_out_of_a_tunnel_does_not_leave_in_the_clear() {
    let mut pair = Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"));
    pair.left.receive_ip(LAN, &[ping4("10.1.0.5", "10.2.0.1", 64)]);
    let wire = pair.left.sent(WAN);
    // The policy goes before the packet comes; the inbound SA is still there.
    pair.right.update(Update::Policy(crate::message::PolicyUpdate::Remove(crate::policy::PolicyId(1))));
    pair.right.receive(WAN, &wire);
    assert_eq!(pair.right.drops(), [(DropReason::PolicyDiscard, 1)]);
    assert!(pair.right.sent(WAN).is_empty());
    pair.right.policy(2, "10.2.0.0/16", "10.1.0.0/16", Action::Bypass);
    pair.right.receive_ip(WAN, &[ping4("10.1.0.5", "10.2.0.1", 64)]);
    assert_eq!(pair.right.sent(WAN).len(), 1, "one in the clear is answered in the clear");
}
