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
