//! What the gateway does itself: ping, ARP and ND, IKE, VLANs, answers to the control side, the end.

use std::time::Duration;

use super::support::*;
use crate::drops::DropReason;
use crate::host::feedback::{Flow, Problem};
use crate::message::{Datagram, Direction, Event, Inject, SaUpdate, Update};
use crate::packet::ethernet::{self, ethertype};
use crate::packet::ip::{self, protocol};
use crate::packet::ipv6::solicited_node;
use crate::packet::{arp, icmpv6, udp};
use crate::policy::Action;
use crate::sa::{Mode, TunnelId};
use crate::snapshot::{SaPage, Snapshot};

fn tunnel() -> Tunnel {
    Tunnel::new("198.51.100.1", "198.51.100.2")
}

fn ping6(source: &str, destination: &str) -> Vec<u8> {
    let mut packet = udp6(source, destination, 24);
    packet[6] = protocol::ICMPV6;
    packet[40..48].copy_from_slice(&[128, 0, 0, 0, 0, 1, 0, 1]);
    let info = ip::parse(&packet).unwrap();
    ip::renew_checksum(&mut packet, &info);
    packet
}

#[test]
fn answers_pings_in_the_clear_and_through_the_tunnel() {
    let mut pair = Pair::new(&tunnel());
    pair.right.neighbour(WAN, "198.51.100.7", HOST_MAC);
    pair.right.neighbour(WAN, "2001:db8::7", HOST_MAC);
    pair.right
        .receive_ip(WAN, &[ping4("198.51.100.7", "198.51.100.2", 40), ping6("2001:db8::7", "2001:db8::2")]);
    let replies = pair.right.sent_ip(WAN);
    assert_eq!((replies[0][20], replies[1][40]), (0, icmpv6::kind::ECHO_REPLY));
    pair.left.receive_ip(LAN, &[ping4("10.1.0.5", "10.2.0.1", 40)]);
    let request = pair.left.sent(WAN);
    pair.right.receive(WAN, &request);
    let reply = pair.right.sent(WAN);
    assert_eq!(ip::parse(&reply[0][14..]).unwrap().protocol, protocol::ESP);
    pair.left.receive(WAN, &reply);
    let out = pair.left.sent_ip(LAN);
    assert_eq!((out.len(), out[0][20], &out[0][28..]), (1, 0, &ping4("10.1.0.5", "10.2.0.1", 40)[28..]));
    assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
}

#[test]
fn answers_pings_to_the_link_local_address_of_a_port_on_its_link_alone() {
    let mut pair = Pair::new(&tunnel());
    let (wan, lan) = ("fe80::ff:fe00:200", "fe80::ff:fe00:201");
    let right = &mut pair.right;
    let pings = [ping6("fe80::7", wan), ping6("2001:db8::7", wan)];
    right.receive_ip(WAN, &pings);
    // Both stations are asked for first, on the link that they pinged on.
    let asked = right.sent_ip(WAN);
    assert!(
        asked.len() == 2 && asked.iter().all(|packet| packet[40] == icmpv6::kind::NEIGHBOUR_SOLICITATION)
    );
    for address in ["fe80::7", "2001:db8::7"] {
        let address = address.parse().unwrap();
        right.update(Update::Neighbour(crate::message::Neighbour {
            port: WAN as u16,
            address,
            mac: HOST_MAC,
        }));
    }
    let replies = right.sent_ip(WAN);
    let ends: Vec<_> = replies
        .iter()
        .map(|reply| {
            let info = ip::parse(reply).unwrap();
            (reply[40], info.source.to_ip().to_string(), info.destination.to_ip().to_string())
        })
        .collect();
    let reply = |to: &str| (icmpv6::kind::ECHO_REPLY, wan.to_owned(), to.to_owned());
    assert_eq!(ends, [reply("fe80::7"), reply("2001:db8::7")]);
    assert_eq!(right.drops(), []);
    // Not from afar, and not the address of the other link.
    right.receive_ip(WAN, &[ping6("2001:db9::7", wan), ping6("fe80::7", lan)]);
    assert_eq!(right.sent_ip(WAN), [] as [Vec<u8>; 0]);
    assert_eq!(right.drops(), [(DropReason::NoRoute, 1), (DropReason::NoService, 1)]);
}

#[test]
fn answers_are_limited() {
    let mut pair = Pair::new(&tunnel());
    pair.right.neighbour(WAN, "198.51.100.7", HOST_MAC);
    let pings = vec![ping4("198.51.100.7", "198.51.100.2", 40); 500];
    pair.right.receive_ip(WAN, &pings);
    let limited = pair.right.count(DropReason::RateLimited);
    assert_eq!(pair.right.sent(WAN).len() as u64 + limited, 500);
    assert!(limited > 250, "{limited}");
    pair.right.receive_ip(WAN, &vec![udp4("198.51.100.7", "198.51.100.2", 40); 500]);
    assert!(pair.right.sent(WAN).len() < 250, "nor errors about closed ports");
    assert_eq!(pair.right.count(DropReason::NoService), 500);
}

fn solicitation(target: &str, source: &str, destination: Option<&str>) -> Vec<u8> {
    let target = target.parse().unwrap();
    let message = icmpv6::Neighbour::Solicitation { target, source_mac: Some(HOST_MAC) };
    let destination =
        destination.map_or(solicited_node(target).to_string(), |destination| destination.to_string());
    let mut packet = udp6(source, &destination, message.message_len() - 8);
    (packet[6], packet[7]) = (protocol::ICMPV6, 255);
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    message.emit(source, destination, &mut packet[40..]).unwrap();
    packet
}

#[test]
fn answers_arp_and_neighbour_solicitations() {
    let mut pair = Pair::new(&tunnel());
    let mut frame = vec![0; 14 + arp::LEN];
    ethernet::Header::untagged(ethernet::BROADCAST, HOST_MAC, ethertype::ARP).emit(&mut frame).unwrap();
    let request = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: HOST_MAC,
        sender_ip: "198.51.100.7".parse().unwrap(),
        target_mac: [0; 6],
        target_ip: "198.51.100.2".parse().unwrap(),
    };
    request.emit(frame[14..].first_chunk_mut().unwrap());
    pair.right.receive(WAN, &[frame]);
    let reply = pair.right.sent(WAN).remove(0);
    let reply = arp::Repr::parse(&reply[14..]).unwrap();
    assert_eq!((reply.operation, reply.sender_mac), (arp::Operation::Reply, pair.right.macs[WAN]));

    // To the group, to the address itself, and to the link-local address that the port gave itself: NUD probes
    // (RFC 4861 s7.3.3) come to that.
    let own = "fe80::ff:fe00:200";
    for (target, destination) in
        [("2001:db8::2", None), ("2001:db8::2", Some("2001:db8::2")), (own, Some(own))]
    {
        let packet = solicitation(target, "2001:db8::7", destination);
        let mut frame = pair.right.frame(WAN, &packet);
        if destination.is_none() {
            let group = solicited_node(target.parse().unwrap());
            frame[..6].copy_from_slice(&ethernet::ipv6_multicast(group));
        }
        pair.right.receive(WAN, &[frame]);
        let answers = pair.right.sent_ip(WAN);
        assert_eq!((answers.len(), answers[0][40]), (1, icmpv6::kind::NEIGHBOUR_ADVERTISEMENT), "{target}");
    }
    assert_eq!(pair.right.drops(), []);
}

#[test]
fn packets_that_waited_for_a_neighbour_keep_their_order() {
    let mut pair = Pair::new(&tunnel());
    let packets: Vec<_> = (0..5).map(|len| udp4("10.1.0.5", "10.2.0.66", len)).collect();
    let (_, out) = pair.left_to_right(&packets);
    let request = arp::Repr::parse(&[vec![0; 0], out.concat()].concat());
    assert!(request.is_ok() && out.len() == 1, "one request");
    let neighbour =
        crate::message::Neighbour { port: LAN as u16, address: "10.2.0.66".parse().unwrap(), mac: HOST_MAC };
    pair.right.update(Update::Neighbour(neighbour));
    let lengths: Vec<_> = pair.right.sent_ip(LAN).iter().map(Vec::len).collect();
    assert_eq!(lengths, [28, 29, 30, 31, 32]);
}

#[test]
fn a_vlan_port_takes_and_sends_its_tag_alone() {
    let mut gateway = Gateway::configured(3, &["198.51.100.3/24"], &["10.3.0.1/16"], |config| {
        config.ports[LAN].vlan = Some(42);
    });
    gateway.policy(1, "10.3.0.0/16", "198.51.100.0/24", Action::Bypass);
    gateway.neighbour(WAN, "198.51.100.7", HOST_MAC);
    gateway.neighbour(LAN, "10.3.0.5", HOST_MAC);
    let packet = udp4("10.3.0.5", "198.51.100.7", 20);
    let tagged = |tags: &[u16]| {
        let mut header = ethernet::Header::untagged(gateway.macs[LAN], HOST_MAC, ethertype::IPV4);
        header.tags.extend(tags.iter().map(|&id| ethernet::VlanTag::customer(id)));
        let mut frame = vec![0; header.header_len()];
        header.emit(&mut frame).unwrap();
        [frame, packet.clone()].concat()
    };
    let frames = [tagged(&[42]), tagged(&[]), tagged(&[43]), tagged(&[42, 42]), tagged(&[0])];
    gateway.receive(LAN, &frames);
    assert_eq!(gateway.drops(), [(DropReason::VlanUnknown, 4)]);
    let out = gateway.sent(WAN);
    assert_eq!((out.len(), &out[0][12..14]), (1, &[8, 0][..]));
    gateway.receive_ip(WAN, &[udp4("198.51.100.7", "10.3.0.5", 20)]);
    let out = gateway.sent(LAN).remove(0);
    let header = ethernet::Header::parse(&out).unwrap();
    assert_eq!((header.tags[0].id(), header.ethertype), (42, ethertype::IPV4));
    // A priority tag on the untagged port is no VLAN (IEEE 802.1Q s6.9).
    let mut priority = vec![0; 18];
    let mut header = ethernet::Header::untagged(gateway.macs[WAN], HOST_MAC, ethertype::IPV4);
    header.tags.push(ethernet::VlanTag { tpid: ethertype::VLAN, tci: 0xe000 });
    header.emit(&mut priority).unwrap();
    gateway.receive(WAN, &[[priority, udp4("198.51.100.7", "10.3.0.5", 20)].concat()]);
    assert_eq!(gateway.sent(LAN).len(), 1);
}

#[test]
fn ike_is_punted_and_injected_with_the_marker_where_it_belongs() {
    for (six, address) in [(false, "198.51.100"), (true, "2001:db8:")] {
        let at = |host: u8, port: u16| -> std::net::SocketAddr {
            let text =
                if six { format!("[{address}:{host}]:{port}") } else { format!("{address}.{host}:{port}") };
            text.parse().unwrap()
        };
        let mut pair = Pair::new(&tunnel());
        for port in [500, 4500] {
            let payload: Vec<u8> = (1..=200).collect();
            let sent = Datagram { local: at(1, port), remote: at(2, port), payload };
            pair.left.update(Update::Inject(Inject(sent.clone())));
            let wire = pair.left.sent(WAN);
            let header = if six { 48 } else { 28 };
            let marked = wire[0][14 + header..].starts_with(&[0; 4]);
            assert_eq!(marked, port == 4500, "non-ESP marker (RFC 3948 s2.2)");
            pair.right.receive(WAN, &wire);
            let punted: Vec<_> = pair
                .right
                .events()
                .into_iter()
                .filter_map(|event| match event {
                    Event::Punt(datagram) => Some(datagram),
                    _ => None,
                })
                .collect();
            let expected = Datagram { local: sent.remote, remote: sent.local, ..sent.clone() };
            assert_eq!(punted, [expected]);
            // A bad checksum is not IKE's to see.
            let mut spoilt = wire[0].clone();
            *spoilt.last_mut().unwrap() ^= 1;
            pair.right.receive(WAN, &[spoilt]);
            assert!(pair.right.events().is_empty());
        }
        assert_eq!(pair.right.drops(), [(DropReason::UdpMalformed, 2)]);
        // A long one goes in fragments and comes out whole.
        let sent = Datagram { local: at(1, 500), remote: at(2, 500), payload: vec![7; 6000] };
        pair.left.update(Update::Inject(Inject(sent)));
        let wire = pair.left.sent(WAN);
        assert_eq!(wire.len(), 5);
        pair.right.receive(WAN, &wire);
        let whole = pair
            .right
            .events()
            .into_iter()
            .any(|event| matches!(event, Event::Punt(datagram) if datagram.payload == [7; 6000]));
        assert!(whole);
    }
}

#[test]
fn ike_that_the_control_side_does_not_take_is_counted() {
    let mut pair = Pair::new(&tunnel());
    let mut packet = udp4("198.51.100.7", "198.51.100.2", 40);
    packet[22..24].copy_from_slice(&500u16.to_be_bytes());
    pair.right.events();
    pair.right.receive_ip(WAN, &vec![packet; 1100]);
    assert_eq!(pair.right.drops(), [(DropReason::PuntQueueFull, 1100 - 1024)]);
}

#[test]
fn short_udp_on_the_ipsec_ports_is_malformed() {
    let mut pair = Pair::new(&tunnel());
    let to = |port: u16, payload: &[u8]| {
        let mut packet = udp4("198.51.100.7", "198.51.100.2", payload.len());
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet[28..].copy_from_slice(payload);
        packet
    };
    let mut long = to(4500, &[1; 40]);
    long[25] += 1;
    pair.right
        .receive_ip(WAN, &[to(4500, &[]), to(4500, &[1]), to(4500, &[0, 0, 0]), long, to(4500, &[0xff])]);
    let reserved = to(4500, &[0, 0, 0, 9, 0, 0, 0, 1, 0, 0]);
    pair.right.receive_ip(WAN, &[reserved]);
    let expected =
        [(DropReason::UdpMalformed, 4), (DropReason::NatKeepalive, 1), (DropReason::SpiReserved, 1)];
    assert_eq!(pair.right.drops(), expected);
}

#[test]
fn icmp_errors_about_our_packets_are_told_and_others_are_not() {
    let mut pair = Pair::new(&tunnel());
    let (wire, _) = pair.left_to_right(&[udp4("10.1.0.5", "10.2.0.5", 1300)]);
    let error = |quoted: &[u8], mtu: u16| {
        let mut packet = udp4("198.51.100.254", "198.51.100.1", quoted.len());
        packet[9] = protocol::ICMP;
        mend4(&mut packet);
        packet[20..28].copy_from_slice(&[3, 4, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8]);
        packet[28..].copy_from_slice(quoted);
        let sum = crate::packet::checksum::of(&packet[20..]);
        packet[22..24].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    pair.left.events();
    let foreign = udp4("198.51.100.9", "203.0.113.1", 1400);
    pair.left.receive_ip(WAN, &[error(&wire[0][14..14 + 28], 1400), error(&foreign[..28], 1400)]);
    assert_eq!(pair.left.sent(WAN).len(), 0, "no error about an error");
    // 1,388 bytes were sent, so 1,400 is no news; 1,300 is.
    pair.left.receive_ip(WAN, &[error(&wire[0][14..14 + 28], 1300)]);
    let told: Vec<_> = pair
        .left
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Feedback(feedback) => Some((feedback.flow, feedback.problem)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(Flow::Esp(0x1001), Problem::PathMtu(1300))]);
    assert_eq!(pair.left.drops(), [(DropReason::IcmpUnrelated, 2)]);
}

#[test]
fn snapshots_and_pages_tell_what_is_there() {
    let mut pair = Pair::new(&tunnel());
    for id in 2..302 {
        let mut other = tunnel();
        other.spi = (0x10_0000 + id, 0x20_0000 + id);
        let sa = other.inbound(&pair.left, id);
        pair.left.update(Update::Sa(SaUpdate::AddInbound(sa)));
        let sa = other.outbound(&pair.left, id);
        pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, other.endpoints)));
    }
    let read = |gateway: &mut Gateway| {
        gateway.events();
        gateway.update(Update::Snapshot(Box::new(Snapshot::with_room(2, 16))));
        let events = gateway.events();
        let Some(Event::Snapshot(snapshot)) = events.into_iter().next() else { panic!("no snapshot") };
        snapshot
    };
    let before = read(&mut pair.left);
    pair.left_to_right(&vec![udp4("10.1.0.5", "10.2.0.5", 72); 5]);
    pair.left.receive_ip(LAN, &[udp4("127.0.0.1", "10.2.0.5", 20)]);
    let snapshot = read(&mut pair.left);
    assert_eq!((snapshot.inbound_sas, snapshot.outbound_sas, snapshot.policies), (301, 301, 1));
    assert_eq!(snapshot.drops.get(DropReason::AddressInvalid), 1);
    let sent = snapshot.ports[WAN].tx_packets - before.ports[WAN].tx_packets;
    assert_eq!((snapshot.ports[LAN].rx_packets, sent), (6, 5));
    assert_eq!(snapshot.frames, (2048, 2048));
    assert_eq!(snapshot.latency.len(), 6);
    assert!(snapshot.neighbours.iter().any(|neighbour| neighbour.address.to_string() == "198.51.100.2"));
    for direction in [Direction::Inbound, Direction::Outbound] {
        let (mut page, mut seen) = (SaPage::first(direction), Vec::new());
        while page.cursor.is_some() {
            pair.left.update(Update::SaPage(Box::new(page)));
            let events = pair.left.events();
            let Some(Event::SaPage(next)) = events.into_iter().next() else { panic!("no page") };
            seen.extend(next.entries.iter().map(|entry| (entry.tunnel, entry.counters.packets)));
            page = *next;
        }
        seen.sort();
        let carried = if direction == Direction::Outbound { 5 } else { 0 };
        assert_eq!((seen.len(), seen[0]), (301, (TunnelId(1), carried)));
    }
}

#[test]
fn a_drained_worker_takes_nothing_more() {
    let mut pair = Pair::new(&tunnel());
    assert!(!pair.left.worker.is_drained());
    pair.left.update(Update::Drain);
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    assert!(pair.left.worker.is_drained());
    assert_eq!((pair.left.sent(WAN).len(), pair.left.ports[LAN].arriving()), (0, 1));
}

#[test]
fn what_waits_at_the_end_is_dropped_by_name() {
    let mut pair = Pair::new(&tunnel());
    pair.left.policy(9, "10.1.0.0/16", "198.51.100.0/24", Action::Bypass);
    // Nobody has this address, and half a packet to us lacks the rest.
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "198.51.100.99", 20)]);
    let mut half = ping4("10.1.0.5", "10.1.0.1", 64);
    half[6] |= 0x20;
    mend4(&mut half);
    pair.left.receive_ip(LAN, &[half]);
    assert_eq!(pair.left.drops(), []);
    pair.left.update(Update::Drain);
    let expected = [(DropReason::NeighbourUnresolved, 1), (DropReason::FragmentTimeout, 1)];
    let told = pair.left.events().into_iter().find_map(|event| match event {
        Event::Drained { drops } => Some(drops.nonzero().collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(told.unwrap(), expected);
    assert!(pair.left.worker.is_drained());
}

#[test]
fn a_worker_that_is_held_leaves_packets_where_they_are() {
    let mut pair = Pair::new(&tunnel());
    pair.left.worker.hold();
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    assert_eq!((pair.left.sent(WAN).len(), pair.left.ports[LAN].arriving()), (0, 1));
    pair.left.update(Update::Receive);
    assert_eq!((pair.left.sent(WAN).len(), pair.left.ports[LAN].arriving()), (1, 0));
    // Once it is at its end it does not begin again.
    pair.left.update(Update::Drain);
    pair.left.update(Update::Receive);
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    assert_eq!(pair.left.ports[LAN].arriving(), 1);
}

#[test]
fn what_does_not_fit_the_queue_is_counted() {
    let mut pair = Pair::new(&tunnel());
    // The wire holds 1,024 frames, and nobody takes them.
    let packets = vec![udp4("10.1.0.5", "10.2.0.5", 20); 1100];
    pair.left.receive_ip(LAN, &packets);
    assert_eq!(pair.left.drops(), [(DropReason::TxFull, 76)]);
}

#[test]
fn without_frames_nothing_is_made_up() {
    let mut pair = Pair::new(&tunnel());
    let ping = pair.right.frame(WAN, &udp4("198.51.100.7", "198.51.100.2", 40));
    let packet = pair.right.pool.alloc_from(&ping).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| pair.right.pool.alloc()).collect();
    pair.right.ports[WAN].push(packet).unwrap();
    pair.right.poll();
    assert_eq!(pair.right.drops(), [(DropReason::NoService, 1), (DropReason::NoBuffer, 1)]);
    drop(taken);
}

#[test]
fn transport_mode_through_ipv6_extension_headers_keeps_the_packet_whole() {
    for (encapsulated, header) in [
        (false, protocol::DESTINATION_OPTIONS),
        (true, protocol::DESTINATION_OPTIONS),
        (false, protocol::FRAGMENT),
        (true, protocol::FRAGMENT),
    ] {
        let mut tunnel = Tunnel::new("2001:db8::1", "2001:db8::2");
        tunnel.mode = Mode::Transport;
        tunnel.endpoints.udp = encapsulated.then_some(crate::sa::UdpPorts { local: 4500, remote: 4500 });
        (tunnel.local, tunnel.remote) = ("2001:db8::1/128", "2001:db8::2/128");
        let mut pair = Pair::new(&tunnel);
        let mut request = ping6("2001:db8::1", "2001:db8::2");
        request[6] = header;
        request[5] += 8;
        let extension = match header {
            protocol::FRAGMENT => [protocol::ICMPV6, 0, 0, 0, 0, 0, 0, 9],
            _ => [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0],
        };
        request.splice(40..40, extension);
        let packet = pair.left.pool.alloc_from(&request).unwrap();
        pair.left.worker.originate_for_test(packet, pair.left.now);
        pair.left.poll();
        let wire = pair.left.sent(WAN);
        if encapsulated {
            let info = ip::parse(&wire[0][14..]).unwrap();
            udp::verify(info.source, info.destination, &wire[0][14 + 48..]).unwrap();
        }
        pair.right.receive(WAN, &wire);
        assert_eq!(pair.right.drops(), [], "{encapsulated} {header}");
        assert_eq!(pair.right.sent(WAN).len(), 1, "answered");
        pair.right.pass(Duration::from_millis(10));
    }
}
