//! What the gateway tells its links without being asked.

use super::support::*;
use crate::message::Update;
use crate::packet::ethernet::{Header, ethertype};
use crate::packet::icmp::kind;
use crate::packet::ip::protocol;
use crate::policy::Action;

#[test]
fn an_announcement_names_every_address_on_its_link() {
    let mut gateway = Gateway::with_mtu(1, &["198.51.100.1/24"], &["10.1.0.1/16", "fd01::1/64"], 1500);
    gateway.update(Update::Announce);
    // Each port has a link-local address too.
    for (port, expected) in [
        (WAN, vec![ethertype::ARP, ethertype::IPV6]),
        (LAN, vec![ethertype::ARP, ethertype::IPV6, ethertype::IPV6]),
    ] {
        let frames = gateway.sent(port);
        let headers: Vec<_> = frames.iter().map(|frame| Header::parse(frame).unwrap()).collect();
        let mut found: Vec<_> = headers.iter().map(|header| header.ethertype).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(headers.iter().all(|header| header.source == gateway.macs[port]));
    }
}

#[test]
fn a_source_is_told_of_a_dead_next_hop_though_nothing_else_comes() {
    let mut gateway = Gateway::with_mtu(1, &["198.51.100.1/24"], &["10.1.0.1/16"], 1500);
    gateway.route("10.9.0.0/16", WAN, "198.51.100.9");
    gateway.policy(1, "10.1.0.0/16", "10.9.0.0/16", Action::Bypass);
    gateway.neighbour(LAN, "10.1.0.5", HOST_MAC);
    gateway.receive_ip(LAN, &[udp4("10.1.0.5", "10.9.0.1", 64)]);
    assert_eq!(gateway.sent_ip(LAN).len(), 0);
    let mut told = Vec::new();
    for _ in 0..10 {
        gateway.now += 1_000_000_000;
        gateway.poll();
        told.extend(gateway.sent_ip(LAN));
    }
    assert_eq!(told.len(), 1);
    assert_eq!((told[0][9], told[0][20]), (protocol::ICMP, kind::UNREACHABLE));
}
