//! SAs that are replaced, moved and removed under traffic.

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Direction, Event, Refused, Retired, SaUpdate, Update};
use crate::sa::TunnelId;

fn tunnel() -> Tunnel {
    Tunnel::new("198.51.100.1", "198.51.100.2")
}

/// SAs that were retired: direction, SPI, packets carried.
fn retired(gateway: &Gateway) -> Vec<(Direction, u32, u64)> {
    let events = gateway.events().into_iter();
    events
        .filter_map(|event| match event {
            Event::Retired { sa: Retired::Inbound(sa), counters, .. } => {
                Some((Direction::Inbound, sa.spi, counters.packets))
            }
            Event::Retired { sa: Retired::Outbound(sa), counters, .. } => {
                Some((Direction::Outbound, sa.spi, counters.packets))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_rekey_under_traffic_loses_nothing() {
    let old = tunnel();
    let mut new = tunnel();
    new.spi = (0x1011, 0x2011);
    let mut pair = Pair::new(&old);
    let packets: Vec<_> = (0..40).map(|len| udp4("10.1.0.5", "10.2.0.5", len)).collect();
    let mut delivered = 0;
    let mut in_flight = Vec::new();
    for step in 0..6 {
        match step {
            // The new inbound SA first, so that it is there when the peer starts to use it.
            1 => {
                let sa = new.mirrored().inbound(&pair.right, 1);
                pair.right.update(Update::Sa(SaUpdate::AddInbound(sa)));
            }
            2 => {
                let sa = new.outbound(&pair.left, 1);
                pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, new.endpoints)));
                assert_eq!(retired(&pair.left), [(Direction::Outbound, 0x1001, 80)]);
            }
            4 => {
                pair.right.update(Update::Sa(SaUpdate::RemoveInbound(0x1001)));
                assert_eq!(retired(&pair.right), [(Direction::Inbound, 0x1001, 80)]);
            }
            _ => {}
        }
        pair.left.receive_ip(LAN, &packets);
        // What is on the wire arrives a step later, across the switch.
        let arriving = std::mem::replace(&mut in_flight, pair.left.sent(WAN));
        pair.right.receive(WAN, &arriving);
        delivered += pair.right.sent(LAN).len();
    }
    pair.right.receive(WAN, &in_flight);
    delivered += pair.right.sent(LAN).len();
    assert_eq!(delivered, 6 * 40);
    assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
    assert_eq!(pair.right.sa(Direction::Inbound, 0x1011).packets, 4 * 40);
}

#[test]
fn the_new_sa_takes_over_the_path_mtu_unless_the_path_is_another() {
    let old = tunnel();
    let mut pair = Pair::new(&old);
    let sa = old.outbound(&pair.left, 1);
    sa.path_mtu.lower(1300, pair.left.now);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(sa, old.endpoints)));
    let next = old.outbound(&pair.left, 1);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(next.clone(), old.endpoints)));
    assert_eq!(next.path_mtu.get(1500, pair.left.now), 1300);
    let mut elsewhere = old.endpoints;
    elsewhere.remote = "198.51.100.9".parse().unwrap();
    pair.left.update(Update::Sa(SaUpdate::MovePeer(TunnelId(1), elsewhere)));
    assert_eq!(next.path_mtu.get(1500, pair.left.now), 1500);
}

#[test]
fn a_removed_sa_answers_to_nothing() {
    let mut pair = Pair::new(&tunnel());
    pair.left.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    let wire = pair.left.sent(WAN);
    pair.right.update(Update::Sa(SaUpdate::RemoveInbound(0x1001)));
    pair.right.receive(WAN, &wire);
    assert_eq!(pair.right.drops(), [(DropReason::SpiUnknown, 1)]);
    pair.right.update(Update::Sa(SaUpdate::RemoveInbound(0x1001)));
    pair.right.update(Update::Sa(SaUpdate::RemoveOutbound(TunnelId(7))));
    assert_eq!(retired(&pair.right), [(Direction::Inbound, 0x1001, 0)], "once");
}

#[test]
fn what_has_no_room_is_refused_by_name() {
    let mut pair = Pair::new(&tunnel());
    let mut far = tunnel();
    far.spi = (0x5001, 0x6001);
    let outbound = far.outbound(&pair.left, 100_000);
    pair.left.update(Update::Sa(SaUpdate::SetOutbound(outbound, far.endpoints)));
    let mut tiny =
        Gateway::configured(9, &["198.51.100.9/24"], &["10.9.0.1/16"], |config| config.max_sas = 1);
    for spi in [0x7001, 0x7002] {
        far.spi.1 = spi;
        let sa = far.inbound(&tiny, 1);
        tiny.update(Update::Sa(SaUpdate::AddInbound(sa)));
    }
    let refused = |gateway: &Gateway| -> Vec<u32> {
        let events = gateway.events().into_iter();
        events
            .filter_map(|event| match event {
                Event::Refused(Refused::Inbound(sa)) => Some(sa.spi),
                Event::Refused(Refused::Outbound(sa)) => Some(sa.spi),
                _ => None,
            })
            .collect()
    };
    assert_eq!((refused(&pair.left), refused(&tiny)), (vec![0x5001], vec![0x7002]));
}
