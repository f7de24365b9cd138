//! What holds for every packet: what goes in comes out, and what nobody authenticated changes nothing.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::support::*;
use crate::message::{Event, SaUpdate, Update};
use crate::packet::{ip, udp};
use crate::sa::{DfPolicy, DscpPolicy, Fragmentation, InboundSa, Mode, OutboundOptions, Protocol, UdpPorts};

const ESP_SUITES: [&str; 9] = [
    "aes128gcm16",
    "aes192gcm12",
    "aes256gcm8",
    "aes256gcm16iiv",
    "aes128gmac",
    "chacha20poly1305",
    "aes128-sha256",
    "aes256-sha512",
    "null-sha384",
];

fn tunnels() -> impl Strategy<Value = Tunnel> {
    let options = (
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(0u16..1500),
        select(vec![DfPolicy::Copy, DfPolicy::Set, DfPolicy::Clear]),
        select(vec![DscpPolicy::Copy, DscpPolicy::Set(46)]),
        select(vec![Fragmentation::Before, Fragmentation::After]),
    );
    let kind =
        (any::<bool>(), any::<bool>(), select(ESP_SUITES.to_vec()), select(vec!["sha256", "ah-aes256gmac"]));
    (kind, options, 64u32..10_000).prop_map(|((ah, outer6, esp, ah_suite), options, window)| {
        let (inner6, udp, tfc_pad, df, dscp, fragmentation) = options;
        let mut tunnel = if outer6 {
            Tunnel::new("2001:db8::1", "2001:db8::2")
        } else {
            Tunnel::new("198.51.100.1", "198.51.100.2")
        };
        if inner6 {
            (tunnel.local, tunnel.remote) = ("fd01::/64", "fd02::/64");
        }
        if ah {
            (tunnel.protocol, tunnel.suite) = (Protocol::Ah, ah_suite);
        } else {
            tunnel.suite = esp;
            tunnel.endpoints.udp = udp.then_some(UdpPorts { local: 4500, remote: 4500 });
        }
        (tunnel.window, tunnel.esn) = (window, tfc_pad.is_some_and(|pad| pad % 2 == 0));
        tunnel.options = OutboundOptions { tfc_pad, df, dscp, fragmentation, ..tunnel.options };
        tunnel
    })
}

fn inner(tunnel: &Tunnel, tos: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match tunnel.local {
        "fd01::/64" => udp6("fd01::5", "fd02::5", payload.len()),
        _ => udp4("10.1.0.5", "10.2.0.5", payload.len()),
    };
    let at = packet.len() - payload.len();
    packet[at..].copy_from_slice(payload);
    ip::set_tos(&mut packet, tos).unwrap();
    packet
}

/// The tunnel in transport mode, which has the outer addresses inside.
fn between_the_ends(tunnel: Tunnel) -> Tunnel {
    let (local, remote) = if tunnel.endpoints.local.is_ipv6() {
        ("2001:db8::1/128", "2001:db8::2/128")
    } else {
        ("198.51.100.1/32", "198.51.100.2/32")
    };
    Tunnel { mode: Mode::Transport, local, remote, ..tunnel }
}

/// A datagram of the left gateway's own that the right one hands to its control side as it is.
fn ike(tunnel: &Tunnel, payload: &[u8]) -> Vec<u8> {
    let (local, remote) = (tunnel.endpoints.local, tunnel.endpoints.remote);
    let (source, destination) = (local.to_string(), remote.to_string());
    let mut packet = match local.is_ipv6() {
        true => udp6(&source, &destination, payload.len()),
        false => udp4(&source, &destination, payload.len()),
    };
    let at = packet.len() - payload.len();
    packet[at..].copy_from_slice(payload);
    packet[at - 6..at - 4].copy_from_slice(&500u16.to_be_bytes());
    let sum = udp::checksum(local, remote, &packet[at - 8..]);
    packet[at - 2..at].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn decremented(mut packet: Vec<u8>) -> Vec<u8> {
    ip::decrement_ttl(&mut packet).unwrap();
    ip::decrement_ttl(&mut packet).unwrap();
    packet
}

/// A right gateway whose inbound SA is looked at from outside, and a good frame for it.
fn watched(tunnel: &Tunnel) -> (Pair, Arc<InboundSa>, Vec<u8>) {
    let mut pair = Pair::new(tunnel);
    let sa = tunnel.mirrored().inbound(&pair.right, 1);
    pair.right.update(Update::Sa(SaUpdate::AddInbound(Arc::clone(&sa))));
    pair.left.receive_ip(LAN, &[inner(tunnel, 0, &[7; 60])]);
    let frame = pair.left.sent(WAN).remove(0);
    pair.right.events();
    (pair, sa, frame)
}

/// Everything that a stranger must not be able to change.
fn state(pair: &mut Pair, sa: &InboundSa) -> impl PartialEq + std::fmt::Debug + use<> {
    let tables = &pair.right.worker.tables;
    (
        (tables.inbound.len(), tables.outbound.len(), tables.spd.len(), tables.routes.generation()),
        tables.moves,
        sa.replay.as_ref().map(|window| window.high_water()),
        pair.right.worker.unsent.len(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_goes_in_comes_out(
        tunnel in tunnels(),
        packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..1200)), 1..80),
    ) {
        let mut pair = Pair::new(&tunnel);
        let packets: Vec<_> = packets.iter().map(|(tos, payload)| inner(&tunnel, *tos, payload)).collect();
        let (_, out) = pair.left_to_right(&packets);
        prop_assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
        prop_assert_eq!(out, packets.into_iter().map(decremented).collect::<Vec<_>>());
    }

    #[test]
    fn what_goes_in_comes_out_in_transport_mode(
        tunnel in tunnels(),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..1200), 1..40),
    ) {
        let tunnel = between_the_ends(tunnel);
        let mut pair = Pair::new(&tunnel);
        for payload in &payloads {
            let packet = pair.left.pool.alloc_from(&ike(&tunnel, payload)).unwrap();
            pair.left.worker.originate_for_test(packet, pair.left.now);
        }
        pair.left.poll();
        let wire = pair.left.sent(WAN);
        prop_assert_eq!(wire.len(), payloads.len());
        pair.right.receive(WAN, &wire);
        prop_assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
        let punted = pair.right.events().into_iter().filter_map(|event| match event {
            Event::Punt(datagram) => Some(datagram.payload),
            _ => None,
        });
        prop_assert_eq!(punted.collect::<Vec<_>>(), payloads);
    }

    #[test]
    fn a_frame_that_was_changed_is_dropped_by_name_and_changes_nothing(
        tunnel in tunnels(),
        changes in prop::collection::vec((any::<Index>(), 1u8..), 1..6),
    ) {
        let (mut pair, sa, frame) = watched(&tunnel);
        let before = state(&mut pair, &sa);
        // Behind the IP header, and behind a UDP header, whose ports and checksum ESP does not cover.
        let info = ip::parse(&frame[14..]).unwrap();
        let from = 14 + usize::from(info.header_len) + if tunnel.endpoints.udp.is_some() { 8 } else { 0 };
        let mut changed = frame.clone();
        for (place, flip) in changes {
            let at = from + place.index(frame.len() - from);
            changed[at] ^= flip;
        }
        if changed != frame {
            pair.right.receive(WAN, &[changed]);
            // Its first bytes may have become IKE's marker.
            let punted = pair.right.events().len();
            let dropped: u64 = pair.right.drops().iter().map(|&(_, count)| count).sum();
            prop_assert_eq!(dropped + punted as u64, 1);
            prop_assert_eq!(pair.right.sent(LAN).len(), 0);
            prop_assert_eq!(state(&mut pair, &sa), before);
        }
        pair.right.receive(WAN, &[frame]);
        prop_assert_eq!(pair.right.sent(LAN).len(), 1, "the honest packet is as good as ever");
    }

    #[test]
    fn strangers_change_nothing(
        frames in prop::collection::vec((
            prop::collection::vec(any::<u8>(), 0..200),
            select(vec![&[][..], &[8, 0], &[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[8, 6, 0, 1, 8, 0, 6, 4]]),
            any::<bool>(),
        ), 1..100),
    ) {
        let tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
        let (mut pair, sa, good) = watched(&tunnel);
        let before = state(&mut pair, &sa);
        for (mut bytes, start, lan) in frames {
            let port = if lan { LAN } else { WAN };
            if !start.is_empty() {
                let head = [&pair.right.macs[port][..], &HOST_MAC, start].concat();
                bytes.splice(..0, head);
                if start.len() == 3 {
                    // Make the lengths and the checksum right, so that it gets further.
                    bytes.resize(bytes.len().max(14 + 40), 0);
                    let len = (bytes.len() - 14) as u16;
                    if start[2] == 0x45 {
                        bytes[16..18].copy_from_slice(&len.to_be_bytes());
                        bytes[14 + 16..14 + 20].copy_from_slice(&[198, 51, 100, 2]);
                        mend4(&mut bytes[14..]);
                    } else {
                        bytes[18..20].copy_from_slice(&(len - 40).to_be_bytes());
                    }
                }
            }
            pair.right.receive(port, &[bytes]);
        }
        prop_assert_eq!(state(&mut pair, &sa), before);
        pair.right.sent(LAN);
        pair.right.receive(WAN, &[good]);
        prop_assert_eq!(pair.right.sent_ip(LAN).iter().filter(|packet| packet[9] == 17).count(), 1);
    }

    #[test]
    fn bursts_in_any_order_with_copies_come_out_once_each(
        order in prop::collection::vec(0usize..200, 1..300), window in select(vec![64u32, 256, 4096]),
    ) {
        let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
        (tunnel.window, tunnel.esn) = (window, false);
        let mut pair = Pair::new(&tunnel);
        let packets: Vec<_> = (0..200).map(|len| udp4("10.1.0.5", "10.2.0.5", len)).collect();
        pair.left.receive_ip(LAN, &packets);
        let wire = pair.left.sent(WAN);
        let chosen: Vec<_> = order.iter().map(|&i| wire[i].clone()).collect();
        pair.right.receive(WAN, &chosen);
        // The window by the book (RFC 4303 s3.4.3): sequence numbers are the index and one.
        let (mut top, mut seen) = (0u64, std::collections::BTreeSet::new());
        let mut expected = Vec::new();
        for &i in &order {
            let seq = i as u64 + 1;
            if seq + u64::from(window) > top && seen.insert(seq) {
                top = top.max(seq);
                expected.push(packets[i].len());
            }
        }
        let out: Vec<_> = pair.right.sent_ip(LAN).iter().map(Vec::len).collect();
        prop_assert_eq!(out, expected);
    }
}
