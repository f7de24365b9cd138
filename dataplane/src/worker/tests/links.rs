//! What the gateway tells its links without being asked.

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Event, Neighbour, Update};
use crate::packet::arp;
use crate::packet::ethernet::{Header, ethertype};
use crate::packet::icmp::kind;
use crate::packet::ip::protocol;
use crate::policy::Action;

#[test]
fn an_announcement_asks_about_every_address_on_its_link_and_names_it() {
    let mut gateway = Gateway::with_mtu(1, &["198.51.100.1/24"], &["10.1.0.1/16", "fd01::1/64"], 1500);
    gateway.update(Update::Announce);
    // Each port has a link-local address too.
    for (port, expected) in [
        (WAN, vec![ethertype::ARP, ethertype::IPV6]),
        (LAN, vec![ethertype::ARP, ethertype::IPV6, ethertype::IPV6]),
    ] {
        let frames = gateway.sent(port);
        let headers: Vec<_> = frames.iter().map(|frame| Header::parse(frame).unwrap()).collect();
        // The question, then the announcement.
        let found: Vec<_> = headers.chunks(2).map(|two| two.iter().map(|one| one.ethertype)).collect();
        assert_eq!(found.len(), expected.len());
        assert!(found.into_iter().zip(expected).all(|(mut two, ethertype)| two.all(|one| one == ethertype)));
        assert!(headers.iter().all(|header| header.source == gateway.macs[port]));
    }
}

#[test]
fn a_station_with_our_address_is_reported_but_not_without_end() {
    let mut gateway = Gateway::with_mtu(1, &["198.51.100.1/24"], &["10.1.0.1/16"], 1500);
    let mut frame = vec![0; 14 + arp::LEN];
    Header::untagged(gateway.macs[WAN], HOST_MAC, ethertype::ARP).emit(&mut frame).unwrap();
    let answer = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: HOST_MAC,
        sender_ip: "198.51.100.1".parse().unwrap(),
        target_mac: gateway.macs[WAN],
        target_ip: "0.0.0.0".parse().unwrap(),
    };
    answer.emit(frame[14..].first_chunk_mut().unwrap());
    gateway.receive(WAN, &vec![frame; 900]);
    let events = gateway.events();
    let other = Neighbour { port: WAN as u16, address: "198.51.100.1".parse().unwrap(), mac: HOST_MAC };
    assert!(events.iter().all(|event| matches!(event, Event::Conflict(found) if *found == other)));
    // A fifth of a second's at once, and what the limit allows in the milliseconds that they take.
    assert!((201..300).contains(&events.len()), "{}", events.len());
    assert_eq!(gateway.drops(), [(DropReason::AddressConflict, 900)]);
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
