//! Traffic through a tunnel between two gateways.

use super::support::*;
use crate::drops::DropReason;
use crate::packet::ip::{self, protocol};
use crate::sa::{Mode, Protocol, UdpPorts};

fn decremented(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    ip::decrement_ttl(&mut packet).unwrap();
    ip::decrement_ttl(&mut packet).unwrap();
    packet
}

#[test]
fn packets_come_out_as_they_went_in_but_for_the_ttl() {
    let mut pair = Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"));
    let packets: Vec<_> = (0..300).map(|len| udp4("10.1.0.5", "10.2.0.5", len)).collect();
    let (wire, out) = pair.left_to_right(&packets);
    assert_eq!(pair.left.drops(), []);
    assert_eq!(pair.right.drops(), []);
    assert_eq!(out, packets.iter().map(|packet| decremented(packet)).collect::<Vec<_>>());
    for frame in &wire {
        let info = ip::parse(&frame[14..]).unwrap();
        assert_eq!((info.protocol, info.destination), (protocol::ESP, "198.51.100.2".parse().unwrap()));
    }
}

#[test]
fn every_family_goes_through_every_other_with_and_without_udp_and_with_ah() {
    for (local, remote) in [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")] {
        for (inner_local, inner_remote) in [("10.1.0.0/16", "10.2.0.0/16"), ("fd01::/64", "fd02::/64")] {
            for (protocol, udp, suite) in [
                (Protocol::Esp, false, "aes256gcm16"),
                (Protocol::Esp, true, "aes128-sha256"),
                (Protocol::Ah, false, "sha256"),
            ] {
                let mut tunnel = Tunnel::new(local, remote);
                (tunnel.local, tunnel.remote) = (inner_local, inner_remote);
                (tunnel.protocol, tunnel.suite) = (protocol, suite);
                tunnel.endpoints.udp = udp.then_some(UdpPorts { local: 4500, remote: 4500 });
                let mut pair = Pair::new(&tunnel);
                let packets: Vec<_> = (0..100)
                    .map(|len| match inner_local {
                        "fd01::/64" => udp6("fd01::5", "fd02::5", len),
                        _ => udp4("10.1.0.5", "10.2.0.5", len),
                    })
                    .collect();
                let (_, out) = pair.left_to_right(&packets);
                assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]), "{protocol:?} {udp}");
                assert_eq!(out, packets.iter().map(|packet| decremented(packet)).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_replayed_and_a_tampered_packet_are_dropped_and_counted() {
    let mut pair = Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"));
    let (wire, out) = pair.left_to_right(&[udp4("10.1.0.5", "10.2.0.5", 100)]);
    assert_eq!(out.len(), 1);
    pair.right.receive(WAN, &wire);
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 100)]);
    let mut tampered = pair.left.sent(WAN);
    *tampered[0].last_mut().unwrap() ^= 1;
    pair.right.receive(WAN, &tampered);
    assert_eq!(pair.right.sent(LAN).len(), 0);
    assert_eq!(pair.right.drops(), [(DropReason::IcvBad, 1), (DropReason::ReplayDuplicate, 1)]);
}

#[test]
fn transport_mode_protects_pings_between_the_gateways_themselves() {
    for (protocol, suite) in [(Protocol::Esp, "aes128gcm16"), (Protocol::Ah, "sha256")] {
        let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
        (tunnel.mode, tunnel.protocol, tunnel.suite) = (Mode::Transport, protocol, suite);
        (tunnel.local, tunnel.remote) = ("198.51.100.1/32", "198.51.100.2/32");
        let mut pair = Pair::new(&tunnel);
        // The left gateway pings the right one: as if it had made the request itself.
        let request = pair.left.pool.alloc_from(&ping4("198.51.100.1", "198.51.100.2", 64)).unwrap();
        pair.left.worker.originate_for_test(request, pair.left.now);
        pair.left.poll();
        let wire = pair.left.sent(WAN);
        assert_eq!(ip::parse(&wire[0][14..]).unwrap().protocol, protocol.number());
        pair.right.receive(WAN, &wire);
        let reply = pair.right.sent(WAN);
        assert_eq!(pair.right.drops(), []);
        assert_eq!(ip::parse(&reply[0][14..]).unwrap().protocol, protocol.number());
        pair.left.receive(WAN, &reply);
        // An echo reply is for nobody here, but it came that far.
        assert_eq!(pair.left.drops(), [(DropReason::NoService, 1)]);
    }
}
