//! Packets that an outbound SA refuses: each is counted by name, on the worker and on the SA.

use std::sync::Arc;

use super::support::*;
use crate::crypto::tests::skip;
use crate::crypto::{Crypto, EngineChoice};
use crate::drops::DropReason;
use crate::message::Direction;
use crate::sa::Mode;

#[track_caller]
fn assert_dropped_outbound(gateway: &mut Gateway, spi: u32, expected: &[(DropReason, u64)]) {
    assert_eq!(gateway.drops(), expected, "on the worker");
    let counters = gateway.sa(Direction::Outbound, spi);
    assert_eq!(counters.drops().collect::<Vec<_>>(), expected, "on the SA");
    assert_eq!(counters.packets, 0);
    assert_eq!(gateway.sent(WAN), [] as [Vec<u8>; 0]);
}

/// RFC 4303 s3.1.1: transport mode carries whole packets.
#[test]
fn a_fragment_does_not_go_into_transport_mode() {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.mode = Mode::Transport;
    (tunnel.local, tunnel.remote) = ("198.51.100.1/32", "198.51.100.2/32");
    let mut pair = Pair::new(&tunnel);
    let mut piece = udp4("198.51.100.1", "198.51.100.2", 48);
    piece[6] = 0x20;
    mend4(&mut piece);
    let piece = pair.left.pool.alloc_from(&piece).unwrap();
    pair.left.worker.originate_for_test(piece, pair.left.now);
    assert_dropped_outbound(&mut pair.left, tunnel.spi.0, &[(DropReason::TransportFragment, 1)]);
}

/// Packets of several tunnels in one burst leave together where that is one way.
#[test]
fn each_packet_of_a_burst_goes_to_the_next_hop_of_its_tunnel() {
    let first = Tunnel::new("198.51.100.1", "198.51.100.2");
    let Pair { left: mut gateway, right, .. } = Pair::new(&first);
    let mut second = Tunnel::new("198.51.100.1", "198.51.100.3");
    (second.remote, second.spi) = ("10.3.0.0/16", (0x3001, 0x4001));
    second.install(&mut gateway, 2);
    gateway.neighbour(WAN, "198.51.100.3", HOST_MAC);
    let burst: Vec<_> =
        [0, 1, 0, 0, 1, 1, 0, 1].iter().map(|&to| (to, ["10.2.0.5", "10.3.0.5"][to])).collect();
    let packets: Vec<_> = burst.iter().map(|&(_, to)| udp4("10.1.0.5", to, 100)).collect();
    // The first burst finds the ways, the second knows them.
    for _ in 0..2 {
        gateway.receive_ip(LAN, &packets);
        let sent = gateway.sent(WAN);
        let at = |frame: &[u8]| (frame[..6].to_vec(), frame[34..38].to_vec());
        let macs = [right.macs[WAN], HOST_MAC];
        let wanted = burst
            .iter()
            .map(|&(to, _)| (macs[to].to_vec(), [first.spi.0, second.spi.0][to].to_be_bytes().to_vec()));
        assert_eq!(sent.iter().map(|frame| at(frame)).collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    }
    for spi in [first.spi.0, second.spi.0] {
        let counters = gateway.sa(Direction::Outbound, spi);
        assert_eq!((counters.packets, counters.bytes), (8, 8 * packets[0].len() as u64));
    }
}

#[test]
fn what_the_engine_refuses_to_seal_is_not_sent() {
    let tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    let mut pair = Pair::new(&tunnel);
    if pair.left.crypto.engine_name(tunnel.suite.parse().unwrap()) == "aws-lc" {
        return skip("this CPU has no engine but aws-lc");
    }
    // The SA's key is of an engine that this worker has not.
    pair.left.worker.crypto = Arc::new(Crypto::new(EngineChoice::AwsLc).unwrap());
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 100)]);
    assert_dropped_outbound(&mut pair.left, tunnel.spi.0, &[(DropReason::SealFailed, 1)]);
}
