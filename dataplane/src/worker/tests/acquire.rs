//! Packets that wait for the first SA of their tunnel.

use std::time::Duration;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Event, SaUpdate, Update};
use crate::policy::Action;
use crate::sa::TunnelId;
use crate::worker::{OnDemand, WaitingLimits};

/// Tunnels 7 and 8 are set up on demand; an SA will come as tunnel 20.
const HOLD: u32 = 7;
const UP: u32 = 20;

fn gateway() -> Gateway {
    with(WaitingLimits::default())
}

fn with(limits: WaitingLimits) -> Gateway {
    let (wan, lan) = (["198.51.100.1/24"], ["10.1.0.1/16"]);
    let mut gateway =
        Gateway::configured(1, &wan, &lan, |config| config.on_demand = OnDemand { tunnels: 7..9, limits });
    gateway.neighbour(WAN, "198.51.100.2", [2, 0, 0, 0, 2, 0]);
    gateway.policy(1, "10.1.0.0/16", "10.2.0.0/16", Action::Protect(TunnelId(HOLD)));
    gateway.policy(2, "10.1.0.0/16", "10.3.0.0/16", Action::Protect(TunnelId(HOLD + 1)));
    gateway
}

fn acquired(gateway: &Gateway) -> Vec<u32> {
    let events = gateway.events().into_iter();
    events
        .filter_map(|event| match event {
            Event::Acquire { tunnel, .. } => Some(tunnel.0),
            _ => None,
        })
        .collect()
}

fn bring_up(gateway: &mut Gateway) {
    let tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    let sa = tunnel.outbound(gateway, UP);
    gateway.update(Update::Sa(SaUpdate::SetOutbound(sa, tunnel.endpoints)));
    gateway.policy(1, "10.1.0.0/16", "10.2.0.0/16", Action::Protect(TunnelId(UP)));
}

#[test]
fn the_first_packets_wait_and_go_once_there_is_an_sa() {
    let mut gateway = gateway();
    let packets: Vec<_> = (0..5).map(|len| udp4("10.1.0.5", "10.2.0.5", len)).collect();
    gateway.receive_ip(LAN, &packets);
    assert_eq!(acquired(&gateway), [HOLD], "asked once");
    assert!(gateway.sent(WAN).is_empty() && gateway.drops().is_empty());
    bring_up(&mut gateway);
    assert_eq!(gateway.sent(WAN).len(), 5);
    assert_eq!(gateway.drops(), []);
    gateway.receive_ip(LAN, &packets);
    assert_eq!(gateway.sent(WAN).len(), 5, "and what comes later does not wait");
}

#[test]
fn a_tunnel_may_keep_a_few_waiting_and_not_at_the_cost_of_another() {
    let mut gateway = gateway();
    let packets = |to: &str, count| (0..count).map(|_| udp4("10.1.0.5", to, 20)).collect::<Vec<_>>();
    gateway.receive_ip(LAN, &packets("10.2.0.5", 40));
    gateway.receive_ip(LAN, &packets("10.3.0.5", 3));
    assert_eq!(gateway.drops(), [(DropReason::AcquireQueueFull, 24)]);
    assert_eq!(acquired(&gateway), [HOLD, HOLD + 1]);
    bring_up(&mut gateway);
    assert_eq!(gateway.sent(WAN).len(), 16, "those of the other tunnel still wait");
    gateway.pass(Duration::from_secs(4));
    assert_eq!(gateway.count(DropReason::AcquireTimeout), 3);
    assert!(gateway.sent_ip(WAN).iter().all(|packet| packet[9] != 17), "nothing went in the clear");
}

/// The peer may leave out what comes most, and not the rest.
#[test]
fn a_flow_that_asks_again_and_again_keeps_no_other_from_asking() {
    let mut gateway = gateway();
    let to = |host: u8| udp4("10.1.0.5", &format!("10.2.0.{host}"), 20);
    for _ in 0..3 {
        gateway.receive_ip(LAN, &[to(5), to(5), to(6), to(5)]);
    }
    assert_eq!(acquired(&gateway), [HOLD; 2], "each once");
    gateway.receive_ip(LAN, &(7..40).map(to).collect::<Vec<_>>());
    assert_eq!(acquired(&gateway), [HOLD; 6], "eight a second in all");
    gateway.pass(Duration::from_millis(1100));
    gateway.receive_ip(LAN, &[to(5), to(5)]);
    assert_eq!(acquired(&gateway), [HOLD]);
}

#[test]
fn the_configured_bounds_are_those_that_act() {
    let limits = WaitingLimits { all: 5, each: 4, flows: 2, patience: Duration::from_secs(1) };
    let mut gateway = with(limits);
    let packets = |to: &str| (0..9).map(|_| udp4("10.1.0.5", to, 20)).collect::<Vec<_>>();
    gateway.receive_ip(LAN, &packets("10.2.0.5"));
    assert_eq!(gateway.count(DropReason::AcquireQueueFull), 5, "4 of one tunnel");
    gateway.receive_ip(LAN, &packets("10.3.0.5"));
    assert_eq!(gateway.count(DropReason::AcquireQueueFull), 5 + 8, "5 of all");
    gateway.pass(Duration::from_millis(1500));
    assert_eq!(gateway.count(DropReason::AcquireTimeout), 5);
    assert_eq!(acquired(&gateway), [HOLD, HOLD + 1]);
    let to = |host: u8| udp4("10.1.0.5", &format!("10.2.0.{host}"), 20);
    gateway.receive_ip(LAN, &[to(6), to(7), to(8)]);
    assert_eq!(acquired(&gateway), [HOLD; 2], "2 flows of one tunnel");
}

#[test]
fn who_waits_too_long_is_dropped_by_name_and_leaves_room() {
    let mut gateway = gateway();
    gateway.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    gateway.pass(Duration::from_secs(2));
    assert_eq!(gateway.drops(), []);
    gateway.pass(Duration::from_secs(2));
    assert_eq!(gateway.drops(), [(DropReason::AcquireTimeout, 1)]);
    bring_up(&mut gateway);
    assert_eq!(gateway.sent(WAN).len(), 0);
}

#[test]
fn a_packet_that_waits_never_goes_in_the_clear() {
    let mut gateway = gateway();
    gateway.receive_ip(LAN, &[udp4("10.1.0.5", "10.2.0.5", 20)]);
    gateway.policy(1, "10.1.0.0/16", "10.2.0.0/16", Action::Bypass);
    assert_eq!(gateway.drops(), [(DropReason::PolicyDiscard, 1)]);
    assert!(gateway.sent(WAN).is_empty());
}

#[test]
fn tunnels_that_are_not_set_up_on_demand_keep_nobody_waiting() {
    let mut gateway = gateway();
    gateway.policy(3, "10.1.0.0/16", "10.4.0.0/16", Action::Protect(TunnelId(9)));
    gateway.receive_ip(LAN, &[udp4("10.1.0.5", "10.4.0.5", 20)]);
    assert_eq!(gateway.drops(), [(DropReason::NoSa, 1)]);
    assert_eq!(acquired(&gateway), [9], "the control side may want to know");
}
