//! What of the inner header shows in the outer one, and the way back: ECN (RFC 6040), DSCP, DF (RFC 4301 s5.1.2, s8.1).

use super::support::*;
use crate::drops::DropReason;
use crate::packet::ip;
use crate::sa::{DfPolicy, DscpPolicy, Protocol};

fn with_tos(tos: u8) -> Vec<u8> {
    let mut packet = udp4("10.1.0.5", "10.2.0.5", 100);
    packet[1] = tos;
    mend4(&mut packet);
    packet
}

fn with_traffic_class(tos: u8) -> Vec<u8> {
    let mut packet = udp6("fd01::5", "fd02::5", 100);
    packet[0] = 0x60 | tos >> 4;
    packet[1] = tos << 4;
    packet
}

#[test]
fn ecn_of_every_inner_and_outer_combination() {
    const NOT_ECT: u8 = 0;
    const CE: u8 = 3;
    // RFC 6040 figure 4, by inner and outer codepoint: Not-ECT, ECT(1), ECT(0), CE. None is a drop.
    let figure = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(CE)],
        [Some(2), Some(1), Some(2), Some(CE)],
        [Some(CE), Some(CE), Some(CE), Some(CE)],
    ];
    for six in [false, true] {
        for ecn in [true, false] {
            let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
            tunnel.ecn = ecn;
            if six {
                tunnel = Tunnel { ecn, ..Tunnel::new("2001:db8::1", "2001:db8::2") };
                (tunnel.local, tunnel.remote) = ("fd01::/64", "fd02::/64");
            }
            let mut pair = Pair::new(&tunnel);
            for (inner, row) in figure.iter().enumerate() {
                for (outer, expected) in row.iter().enumerate() {
                    let packet =
                        if six { with_traffic_class(inner as u8) } else { with_tos(0xb8 | inner as u8) };
                    pair.left.receive_ip(LAN, &[packet]);
                    let mut frame = pair.left.sent(WAN).remove(0);
                    let sent = ip::parse(&frame[14..]).unwrap().tos & 3;
                    assert_eq!(sent, if ecn { inner as u8 } else { NOT_ECT });
                    // A router on the way makes another of it.
                    let tos = ip::parse(&frame[14..]).unwrap().tos & !3 | outer as u8;
                    ip::set_tos(&mut frame[14..], tos).unwrap();
                    pair.right.receive(WAN, &[frame]);
                    let out = pair.right.sent_ip(LAN);
                    let got = out.first().map(|packet| ip::parse(packet).unwrap().tos & 3);
                    let expected = if ecn { *expected } else { Some(inner as u8) };
                    assert_eq!(got, expected, "{inner} in {outer}, ECN {ecn}");
                }
            }
            let dropped: &[_] = if ecn { &[(DropReason::EcnInvalid, 1)] } else { &[] };
            pair.right.assert_dropped_on(0x1001, dropped);
        }
    }
}

#[test]
fn dscp_is_copied_or_set_and_the_inner_one_is_never_touched() {
    for protocol in [Protocol::Esp, Protocol::Ah] {
        for (policy, expected) in [(DscpPolicy::Copy, 0xb8), (DscpPolicy::Set(10), 0x28)] {
            let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
            tunnel.protocol = protocol;
            tunnel.suite = if protocol == Protocol::Ah { "sha256" } else { "aes128gcm16" };
            tunnel.options.dscp = policy;
            let mut pair = Pair::new(&tunnel);
            let (wire, out) = pair.left_to_right(&[with_tos(0xb8)]);
            assert_eq!((ip::parse(&wire[0][14..]).unwrap().tos, out[0][1]), (expected, 0xb8));
        }
    }
}

#[test]
fn df_is_copied_set_or_cleared() {
    for (policy, of_clear, of_set) in
        [(DfPolicy::Copy, false, true), (DfPolicy::Set, true, true), (DfPolicy::Clear, false, false)]
    {
        let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
        tunnel.options.df = policy;
        let mut pair = Pair::new(&tunnel);
        let mut df = udp4("10.1.0.5", "10.2.0.5", 100);
        df[6] = 0x40;
        mend4(&mut df);
        let (wire, out) = pair.left_to_right(&[udp4("10.1.0.5", "10.2.0.5", 100), df]);
        let bits: Vec<_> = wire.iter().map(|frame| ip::parse(&frame[14..]).unwrap().dont_fragment).collect();
        assert_eq!(bits, [of_clear, of_set], "{policy:?}");
        let inner: Vec<_> = out.iter().map(|packet| ip::parse(packet).unwrap().dont_fragment).collect();
        assert_eq!(inner, [false, true]);
    }
}

#[test]
fn ttl_of_the_outer_header_is_the_tunnels_own() {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.options.ttl = 200;
    let mut pair = Pair::new(&tunnel);
    let (wire, out) = pair.left_to_right(&[with_tos(0)]);
    assert_eq!((ip::parse(&wire[0][14..]).unwrap().ttl, out[0][8]), (200, 62));
}
