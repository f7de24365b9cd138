//! AH (RFC 4302): what routers may change does not matter, everything else does.

use super::support::*;
use crate::drops::DropReason;
use crate::message::{SaUpdate, Update};
use crate::packet::checksum;
use crate::packet::ip::{self, protocol};
use crate::sa::{Mode, Protocol};

fn tunnel(local: &str, remote: &str, mode: Mode, suite: &'static str) -> Tunnel {
    let mut tunnel = Tunnel::new(local, remote);
    (tunnel.protocol, tunnel.mode, tunnel.suite) = (Protocol::Ah, mode, suite);
    tunnel
}

/// What somebody on the way does to a packet.
type Change = fn(&mut [u8]);

/// Sends a ping of the left gateway's own through a transport mode SA, lets `change` have it on the way (from the IP
/// header on), and returns what the right gateway counts. It answers what it takes.
fn transported(tunnel: &Tunnel, ping: &[u8], change: impl Fn(&mut [u8])) -> Vec<(DropReason, u64)> {
    let mut pair = Pair::new(tunnel);
    let packet = pair.left.pool.alloc_from(ping).unwrap();
    pair.left.worker.originate_for_test(packet, pair.left.now);
    pair.left.poll();
    let mut frame = pair.left.sent(WAN).remove(0);
    change(&mut frame[14..]);
    mend(&mut frame[14..]);
    pair.right.receive(WAN, &[frame]);
    let drops = pair.right.drops();
    assert_eq!(pair.right.sent(WAN).len(), usize::from(drops.is_empty()), "answered or dropped");
    drops
}

/// Computes an IPv4 header checksum anew, options included.
fn mend(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let len = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

const ICV_BAD: [(DropReason, u64); 1] = [(DropReason::IcvBad, 1)];

#[test]
fn ipv4_options_that_routers_change_and_those_that_they_do_not() {
    for suite in ["sha256", "sha1", "ah-aes128gmac"] {
        let mut tunnel = tunnel("198.51.100.1", "198.51.100.2", Mode::Transport, suite);
        (tunnel.local, tunnel.remote) = ("198.51.100.1/32", "198.51.100.2/32");
        let mut ping = ping4("198.51.100.1", "198.51.100.2", 56);
        // Router alert, record route with room for one, no operation.
        ping.splice(20..20, [148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 1]);
        ping[0] = 0x48;
        ping[3] += 12;
        mend(&mut ping);
        assert_eq!(transported(&tunnel, &ping, |_| {}), [], "{suite}");
        // TTL, DSCP and ECN, DF, the recorded route.
        let fair: [Change; 4] = [
            |packet| packet[8] = 3,
            |packet| packet[1] = 0xbb,
            |packet| packet[6] ^= 0x40,
            |packet| packet[26..31].copy_from_slice(&[8, 192, 0, 2, 1]),
        ];
        for (i, change) in fair.into_iter().enumerate() {
            assert_eq!(transported(&tunnel, &ping, change), [], "{suite} {i}");
        }
        // Identification, source, router alert, the order of options, AH's reserved bytes, payload, ICV.
        let len = ping.len();
        for at in [4, 13, 22, 31, 32 + 2, len + 20] {
            assert_eq!(transported(&tunnel, &ping, |packet| packet[at] ^= 1), ICV_BAD, "{suite} {at}");
        }
        let last = |packet: &mut [u8]| *packet.last_mut().unwrap() ^= 0x80;
        assert_eq!(transported(&tunnel, &ping, last), ICV_BAD);
    }
}

#[test]
fn ipv6_extension_headers_that_routers_change_and_those_that_they_do_not() {
    let mut tunnel = tunnel("2001:db8::1", "2001:db8::2", Mode::Transport, "sha384");
    (tunnel.local, tunnel.remote) = ("2001:db8::1/128", "2001:db8::2/128");
    let mut ping = udp6("2001:db8::1", "2001:db8::2", 24);
    ping[6] = protocol::ICMPV6;
    ping[40..48].copy_from_slice(&[128, 0, 0, 0, 0, 1, 0, 1]);
    let info = ip::parse(&ping).unwrap();
    ip::renew_checksum(&mut ping, &info);
    // Hop-by-hop options with one that may change on the way, and one that may not; both are skipped when unknown.
    ping.splice(40..40, [protocol::ICMPV6, 1, 0x3e, 4, 1, 2, 3, 4, 0x1e, 4, 5, 6, 7, 8, 1, 0]);
    (ping[6], ping[5]) = (protocol::HOP_BY_HOP, ping[5] + 16);
    assert_eq!(transported(&tunnel, &ping, |_| {}), []);
    let fair: [Change; 4] = [
        |packet| packet[7] = 9,
        |packet| (packet[0], packet[1]) = (0x6b, 0xb5),
        |packet| packet[2..4].copy_from_slice(&[7, 7]),
        |packet| packet[44..48].fill(0xee),
    ];
    for (i, change) in fair.into_iter().enumerate() {
        assert_eq!(transported(&tunnel, &ping, change), [], "{i}");
    }
    // Source, the other option, payload.
    for at in [20, 50, ping.len() + 8] {
        assert_eq!(transported(&tunnel, &ping, |packet| packet[at] ^= 1), ICV_BAD, "{at}");
    }
}

#[test]
fn in_tunnel_mode_the_outer_header_is_covered_too() {
    for (local, remote) in [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")] {
        for esn in [false, true] {
            let mut tunnel = tunnel(local, remote, Mode::Tunnel, "sha256");
            tunnel.esn = esn;
            let six = local.contains(':');
            let (fair, foul): (&[usize], &[usize]) = if six {
                // Class and label, hop limit; addresses, next header of AH, sequence number, inner packet.
                (&[1, 2, 3, 7], &[20, 23, 40, 51, 100, 120])
            } else {
                (&[1, 6, 8], &[4, 5, 15, 20, 31, 80, 100])
            };
            for (places, expected) in [(fair, &[][..]), (foul, &ICV_BAD[..])] {
                for &at in places {
                    let mut pair = Pair::new(&tunnel);
                    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 100)]);
                    let mut frame = pair.left.sent(WAN).remove(0);
                    frame[14 + at] ^= if !six && at == 6 { 0x40 } else { 4 };
                    mend(&mut frame[14..]);
                    pair.right.receive(WAN, &[frame]);
                    assert_eq!(pair.right.drops(), expected, "{local} byte {at}, ESN {esn}");
                    assert_eq!(pair.right.sent(LAN).len(), usize::from(expected.is_empty()));
                }
            }
        }
    }
}

#[test]
fn lengths_and_next_headers_that_do_not_fit() {
    let tunnel = tunnel("198.51.100.1", "198.51.100.2", Mode::Tunnel, "sha256");
    let mut pair = Pair::new(&tunnel);
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 100)]);
    let frame = pair.left.sent(WAN).remove(0);
    let with_len = |len: u8| {
        let mut frame = frame.clone();
        frame[14 + 20 + 1] = len;
        frame
    };
    // 12 bytes and an ICV of 16: five words more than two. Zero leaves no ICV, 255 is longer than the packet.
    assert_eq!(frame[14 + 21], 5);
    pair.right.receive(WAN, &[with_len(0), with_len(1), with_len(4), with_len(9), with_len(255)]);
    assert_eq!(pair.right.drops(), [(DropReason::AhMalformed, 5)]);
    pair.right.receive(WAN, &[frame.clone(), frame]);
    assert_eq!(pair.right.drops(), [(DropReason::AhMalformed, 5), (DropReason::ReplayDuplicate, 1)]);
    assert_eq!(pair.right.sent(LAN).len(), 1);
}

#[test]
fn a_next_header_that_does_not_fit_the_mode() {
    let mut transport = tunnel("198.51.100.1", "198.51.100.2", Mode::Transport, "sha256");
    (transport.local, transport.remote) = ("198.51.100.1/32", "198.51.100.2/32");
    let mut pair = Pair::new(&transport);
    // The peer wraps UDP, and this side awaits whole packets.
    let whole = Tunnel { mode: Mode::Tunnel, ..transport.mirrored() }.inbound(&pair.right, 1);
    pair.right.update(Update::Sa(SaUpdate::AddInbound(whole)));
    pair.right.events();
    let packet = pair.left.pool.alloc_from(&udp4("198.51.100.1", "198.51.100.2", 40)).unwrap();
    pair.left.worker.originate_for_test(packet, pair.left.now);
    pair.left.poll();
    let wire = pair.left.sent(WAN);
    assert_eq!(wire[0][14 + 20], protocol::UDP);
    pair.right.receive(WAN, &wire);
    pair.right.assert_dropped_on(0x1001, &[(DropReason::NextHeaderBad, 1)]);
}
