//! The end of an SA: sequence numbers, and soft and hard limits of time, bytes and packets.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Direction, Event, SaUpdate, Update};
use crate::sa::sequence::Sequence;
use crate::sa::{Lifetime, Limits};

/// Expiries that were reported: direction, and whether hard.
fn expiries(gateway: &Gateway) -> Vec<(Direction, bool)> {
    let events = gateway.events().into_iter();
    events
        .filter_map(|event| match event {
            Event::Expired { direction, hard, .. } => Some((direction, hard)),
            _ => None,
        })
        .collect()
}

fn with_lifetime(soft: Limits, hard: Limits) -> Pair {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.lifetime = Lifetime { soft, hard };
    Pair::new(&tunnel)
}

fn packets(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| udp4("10.1.0.5", "10.2.0.5", 72)).collect()
}

#[test]
fn without_esn_the_numbers_end_and_the_sa_with_them() {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.esn = false;
    let mut pair = Pair::new(&tunnel);
    let mut sa = tunnel.outbound(&pair.left, 1);
    // Ten numbers are left.
    Arc::get_mut(&mut sa).unwrap().sequence = Sequence::starting_at(u64::from(u32::MAX) - 9, false);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, tunnel.endpoints)));
    expiries(&pair.left);
    let (wire, out) = pair.left_to_right(&packets(10));
    assert_eq!((wire.len(), out.len()), (10, 10));
    assert_eq!(wire[9][38..42], [0xff; 4]);
    let (wire, _) = pair.left_to_right(&packets(70));
    assert_eq!(wire.len(), 0, "a number would come again");
    pair.left.poll();
    assert_eq!(expiries(&pair.left), [(Direction::Outbound, true)]);
    pair.left_to_right(&packets(5));
    pair.left.pass(Duration::from_secs(100));
    assert_eq!(expiries(&pair.left), [], "once");
    assert_eq!(pair.left.drops(), [(DropReason::SequenceExhausted, 75)]);
    let counters = pair.left.sa(Direction::Outbound, 0x1001);
    assert_eq!(counters.drops().collect::<Vec<_>>(), [(DropReason::SequenceExhausted, 75)]);
    assert_eq!(counters.packets, 10);
}

#[test]
fn numbers_that_are_not_written_down_are_not_sent_and_do_not_end_the_sa() {
    let tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    let mut pair = Pair::new(&tunnel);
    let sa = tunnel.outbound(&pair.left, 1);
    sa.sequence.set_ceiling(10);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(Arc::clone(&sa), tunnel.endpoints)));
    let (wire, _) = pair.left_to_right(&packets(10));
    assert_eq!(wire.len(), 10);
    let (wire, _) = pair.left_to_right(&packets(5));
    assert_eq!(wire.len(), 0);
    pair.left.poll();
    assert_eq!(expiries(&pair.left), [], "its end has not come");
    assert_eq!(pair.left.drops(), [(DropReason::SequenceUnsaved, 5)]);
    let counters = pair.left.sa(Direction::Outbound, 0x1001);
    assert_eq!(counters.drops().collect::<Vec<_>>(), [(DropReason::SequenceUnsaved, 5)]);
    sa.sequence.set_ceiling(1_000);
    let (_, out) = pair.left_to_right(&packets(3));
    assert_eq!(out.len(), 3, "it goes on, and the peer follows");
}

#[test]
fn packets_and_bytes_end_an_sa_on_both_sides() {
    let limits = |packets, bytes| Limits { packets, bytes, time: None };
    for (soft, hard) in
        [(limits(Some(5), None), limits(Some(10), None)), (limits(None, Some(500)), limits(None, Some(1000)))]
    {
        let mut pair = with_lifetime(soft, hard);
        let (_, out) = pair.left_to_right(&packets(4));
        assert_eq!(out.len(), 4);
        pair.left.poll();
        pair.right.poll();
        assert_eq!((expiries(&pair.left), expiries(&pair.right)), (vec![], vec![]));
        let (_, out) = pair.left_to_right(&packets(20));
        assert_eq!(out.len(), 6, "ten packets of a hundred bytes in all");
        pair.left.poll();
        pair.right.poll();
        assert_eq!(expiries(&pair.left), [(Direction::Outbound, false), (Direction::Outbound, true)]);
        assert_eq!(expiries(&pair.right), [(Direction::Inbound, false)]);
        assert_eq!(pair.left.drops(), [(DropReason::SaExpired, 14)]);
        let counters = pair.left.sa(Direction::Outbound, 0x1001);
        assert_eq!(counters.drops().collect::<Vec<_>>(), [(DropReason::SaExpired, 14)]);
        assert_eq!((counters.packets, counters.bytes), (10, 1000));
    }
}

#[test]
fn the_receiver_has_limits_of_its_own() {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    let mut pair = Pair::new(&tunnel);
    tunnel.lifetime.hard.packets = Some(3);
    let sa = tunnel.mirrored().inbound(&pair.right, 1);
    pair.right.update(Update::Sa(SaUpdate::AddInbound(sa)));
    expiries(&pair.right);
    let (_, out) = pair.left_to_right(&packets(10));
    assert_eq!(out.len(), 3);
    pair.right.poll();
    assert_eq!(expiries(&pair.right), [(Direction::Inbound, true)]);
    pair.right.assert_dropped_on(0x1001, &[(DropReason::SaExpired, 7)]);
}

#[test]
fn time_ends_an_sa_with_and_without_packets() {
    let limits = |seconds| Limits { time: Some(Duration::from_secs(seconds)), ..Limits::default() };
    for busy in [false, true] {
        let mut pair = with_lifetime(limits(50), limits(60));
        let mut out = 0;
        for _ in 0..70 {
            pair.left.pass(Duration::from_secs(1));
            pair.right.pass(Duration::from_secs(1));
            if busy {
                out += pair.left_to_right(&packets(1)).1.len();
            }
        }
        pair.left.poll();
        pair.right.poll();
        let mut left = expiries(&pair.left);
        left.sort_by_key(|&(direction, hard)| (hard, direction == Direction::Outbound));
        let both = [Direction::Inbound, Direction::Outbound];
        let expected: Vec<_> =
            [false, true].iter().flat_map(|&hard| both.map(|direction| (direction, hard))).collect();
        assert_eq!(left, expected, "each once; busy: {busy}");
        assert_eq!(pair.left.count(DropReason::SaExpired) + out as u64, if busy { 70 } else { 0 });
        assert!(!busy || (55..60).contains(&out), "{out}");
    }
}

#[test]
fn a_packet_that_is_refused_does_not_use_up_the_sa() {
    let mut pair = with_lifetime(Limits::default(), Limits { packets: Some(2), ..Limits::default() });
    let mut too_big = udp4("10.1.0.5", "10.2.0.5", 1472);
    too_big[6] = 0x40;
    mend4(&mut too_big);
    let (wire, _) = pair.left_to_right(&vec![too_big; 10]);
    assert_eq!(wire.len(), 0);
    let (wire, _) = pair.left_to_right(&packets(3));
    assert_eq!(wire.len(), 2);
    assert_eq!(pair.left.drops(), [(DropReason::TooBig, 10), (DropReason::SaExpired, 1)]);
    // Each piece is a packet of the SA.
    let mut pair = with_lifetime(Limits::default(), Limits { packets: Some(3), ..Limits::default() });
    let (wire, _) = pair.left_to_right(&vec![udp4("10.1.0.5", "10.2.0.5", 1472); 2]);
    assert_eq!((wire.len(), pair.left.count(DropReason::SaExpired)), (3, 1));
}

#[test]
fn events_wait_in_order_when_the_control_side_is_slow() {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    let mut pair = Pair::new(&tunnel);
    tunnel.lifetime.hard.packets = Some(1);
    let sa = tunnel.outbound(&pair.left, 1);
    // The channel fills up with answers, then an SA ends, is retired, and a barrier comes.
    for number in 0..1024 {
        pair.left.updates.send(Update::Barrier(number)).unwrap();
    }
    for _ in 0..32 {
        pair.left.poll();
    }
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, tunnel.endpoints)));
    pair.left_to_right(&packets(2));
    let first = pair.left.events();
    assert_eq!(first.len(), 1024);
    pair.left.poll();
    pair.left.update(Update::Barrier(9999));
    let names: Vec<_> = pair
        .left
        .events()
        .iter()
        .map(|event| match event {
            Event::Retired { .. } => "retired",
            Event::Expired { .. } => "expired",
            Event::Barrier { .. } => "barrier",
            _ => "other",
        })
        .collect();
    assert_eq!(names, ["retired", "expired", "barrier"]);
}
