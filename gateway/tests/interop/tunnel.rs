//! Traffic between two sites: every driver, family, and MTU.

use std::net::IpAddr;
use std::time::Duration;

use crate::gateway::count;
use crate::netns::privileged;
use crate::serial;
use crate::site::{Driver, Family, Plan, Sites, TUNNEL, host_address};
use crate::traffic::{Direction, Fragments, Pinger, iperf3_bytes};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn pings_of_every_size_from_0_to_9000_bytes_cross_af_packet() {
    pings(&Plan::default(), 0..=9000);
}

#[test]
fn pings_of_every_size_from_0_to_9000_bytes_cross_af_xdp() {
    pings(&Plan { wan: Driver::AfXdp, lan: Driver::AfXdp, ..Plan::default() }, 0..=9000);
}

#[test]
fn pings_of_every_size_from_0_to_9000_bytes_cross_tap() {
    pings(&Plan { lan: Driver::Tap, ..Plan::default() }, 0..=9000);
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_a_tunnel_of_mtu_1280_over_ipv6() {
    pings(&Plan { mtu: 1280, outer: Family::V6, ..Plan::default() }, a_thousand());
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_a_tunnel_of_mtu_9000() {
    pings(&Plan { mtu: 9000, ..Plan::default() }, a_thousand());
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_outer_fragments() {
    let sa = ", fragmentation: after, df: clear";
    pings(&Plan { sa, suite: "aes256-sha256", ..Plan::default() }, a_thousand());
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_outer_fragments_over_ipv6() {
    let sa = ", fragmentation: after, df: clear";
    pings(&Plan { sa, outer: Family::V6, suite: "chacha20poly1305", ..Plan::default() }, a_thousand());
}

#[test]
fn tcp_flows_both_ways_through_af_packet_in_all_families_and_mtus() {
    tcp_matrix(&["iperf3"], &Plan::default());
}

#[test]
fn tcp_flows_both_ways_through_af_xdp_in_all_families_and_mtus() {
    let plan = Plan { wan: Driver::AfXdp, lan: Driver::AfXdp, ..Plan::default() };
    tcp_matrix(&["iperf3", "ethtool"], &plan);
}

#[test]
fn tcp_flows_both_ways_through_tap_in_all_families_and_mtus() {
    tcp_matrix(&["iperf3"], &Plan { lan: Driver::Tap, ..Plan::default() });
}

#[test]
fn tcp_flows_both_ways_through_udp_encapsulation_in_a_vlan() {
    let sa = ", encap: { local_port: 4500, remote_port: 4500 }";
    tcp(&["iperf3"], &Plan { sa, vlan: Some(7), ..Plan::default() });
}

/// 1,000 sizes from 0 to 9,000.
fn a_thousand() -> impl Iterator<Item = usize> + Clone {
    (0..1000).map(|n| n * 9000 / 999)
}

/// Pings with so many bytes of data, in both inner families.
fn pings(plan: &Plan, sizes: impl Iterator<Item = usize> + Clone) {
    let pinged = 2 * sizes.clone().count() as u64;
    privileged(&["ethtool"], || {
        let _alone = serial();
        let sites = Sites::new(plan);
        for family in FAMILIES {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Allowed);
            let lost = pinger.ping_all(sizes.clone());
            // An IPv6 host learns the tunnel's MTU by an error about a packet that is then lost: once each side.
            let learning = if family == Family::V6 { 2 } else { 0 };
            assert!(lost <= learning, "{family:?}: {lost} lost; {}", sites.drops());
        }
        for site in [&sites.left, &sites.right] {
            for direction in ["inbound", "outbound"] {
                let sa = site.gateway.sa(TUNNEL, direction);
                assert!(count(&sa["packets"]) >= pinged, "{sa}");
            }
        }
    });
}

/// Of a transfer: thousands of packets of the largest MTU.
const BYTES: u64 = 16 << 20;

/// TCP in each direction and each inner family, for each outer family and MTU.
fn tcp_matrix(tools: &[&str], plan: &Plan) {
    privileged(tools, || {
        for (outer, mtu) in FAMILIES.into_iter().flat_map(|outer| [1280, 1500, 9000].map(|mtu| (outer, mtu)))
        {
            let plan = Plan { outer, mtu, ..plan.clone() };
            transfers(&plan, |sites, to, direction| {
                let bytes = iperf3_bytes(sites.left.host(), sites.right.host(), to, direction, BYTES);
                // The receiver does not count what comes after the sender has said that it is done.
                assert!(
                    bytes >= BYTES / 2,
                    "{outer:?} {mtu} {to} {direction:?}: {bytes} bytes; {}",
                    sites.drops()
                );
            });
        }
    });
}

/// TCP in each direction and each inner family.
fn tcp(tools: &[&str], plan: &Plan) {
    privileged(tools, || {
        transfers(plan, |sites, to, direction| {
            let bytes = iperf3_bytes(sites.left.host(), sites.right.host(), to, direction, BYTES);
            assert!(bytes >= BYTES / 2, "{to} {direction:?}: {bytes} bytes; {}", sites.drops());
        });
    });
}

/// Has `transfer` send to an address of either inner family in each direction, and checks what was dropped.
fn transfers(plan: &Plan, transfer: impl Fn(&Sites, IpAddr, Direction)) {
    let _alone = serial();
    let sites = Sites::new(plan);
    for family in FAMILIES {
        let to = host_address(family, 2);
        Pinger::new(sites.left.host(), to, Fragments::Allowed)
            .ping_until_answered(0, Duration::from_secs(10));
        for direction in [Direction::FromClient, Direction::FromServer] {
            transfer(&sites, to, direction);
        }
    }
    for site in [&sites.left, &sites.right] {
        for direction in ["inbound", "outbound"] {
            let drops = &site.gateway.sa(TUNNEL, direction)["drops"];
            // Packets that did not fit teach the hosts the tunnel's MTU.
            let others = drops.as_object().unwrap().keys().filter(|reason| *reason != "too_big").count();
            assert_eq!(others, 0, "{plan:?} {direction}: {drops}");
        }
    }
}
