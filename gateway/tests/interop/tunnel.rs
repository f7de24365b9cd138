//! Traffic between two sites: every driver, family, and MTU.

use std::time::Duration;

use crate::gateway::count;
use crate::netns::privileged;
use crate::serial;
use crate::site::{Driver, Family, Plan, Sites, TUNNEL, host_address};
use crate::traffic::{Direction, Fragments, Pinger, iperf3};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_a_tunnel_of_mtu_1500() {
    pings(&Plan::default());
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_a_tunnel_of_mtu_1280_over_ipv6() {
    pings(&Plan { mtu: 1280, outer: Family::V6, ..Plan::default() });
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_a_tunnel_of_mtu_9000() {
    pings(&Plan { mtu: 9000, ..Plan::default() });
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_outer_fragments() {
    pings(&Plan { sa: ", fragmentation: after, df: clear", suite: "aes256-sha256", ..Plan::default() });
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_outer_fragments_over_ipv6() {
    let sa = ", fragmentation: after, df: clear";
    pings(&Plan { sa, outer: Family::V6, suite: "chacha20poly1305", ..Plan::default() });
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_af_xdp() {
    pings(&Plan { wan: Driver::AfXdp, lan: Driver::AfXdp, ..Plan::default() });
}

#[test]
fn a_thousand_pings_of_0_to_9000_bytes_cross_tap() {
    pings(&Plan { lan: Driver::Tap, ..Plan::default() });
}

#[test]
fn tcp_flows_both_ways_through_af_packet() {
    tcp(&["iperf3"], &Plan::default());
}

#[test]
fn tcp_flows_both_ways_through_af_packet_over_ipv6_with_mtu_1280() {
    tcp(&["iperf3"], &Plan { outer: Family::V6, mtu: 1280, ..Plan::default() });
}

#[test]
fn tcp_flows_both_ways_through_af_packet_over_ipv6_with_mtu_9000() {
    tcp(&["iperf3"], &Plan { outer: Family::V6, mtu: 9000, ..Plan::default() });
}

#[test]
fn tcp_flows_both_ways_through_af_xdp() {
    let plan = Plan { outer: Family::V6, wan: Driver::AfXdp, lan: Driver::AfXdp, ..Plan::default() };
    tcp(&["iperf3", "ethtool"], &plan);
}

#[test]
fn tcp_flows_both_ways_through_tap() {
    tcp(&["iperf3"], &Plan { lan: Driver::Tap, ..Plan::default() });
}

#[test]
fn tcp_flows_both_ways_through_udp_encapsulation_in_a_vlan() {
    let sa = ", encap: { local_port: 4500, remote_port: 4500 }";
    tcp(&["iperf3"], &Plan { sa, vlan: Some(7), ..Plan::default() });
}

/// Pings of 1,000 sizes from 0 to 9,000 bytes of data, in both inner families.
fn pings(plan: &Plan) {
    privileged(&["ethtool"], || {
        let _alone = serial();
        let sites = Sites::new(plan);
        for family in FAMILIES {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Allowed);
            let lost = pinger.ping_all((0..1000).map(|n| n * 9000 / 999));
            // An IPv6 host learns the tunnel's MTU by an error about a packet that is then lost: once each side.
            let learning = if family == Family::V6 { 2 } else { 0 };
            assert!(lost <= learning, "{family:?}: {lost} lost; {}", sites.drops());
        }
        for site in [&sites.left, &sites.right] {
            for direction in ["inbound", "outbound"] {
                let sa = site.gateway.sa(TUNNEL, direction);
                assert!(count(&sa["packets"]) >= 2000, "{sa}");
            }
        }
    });
}

/// A second of TCP in each direction and each inner family.
fn tcp(tools: &[&str], plan: &Plan) {
    privileged(tools, || {
        let _alone = serial();
        let sites = Sites::new(plan);
        for family in FAMILIES {
            let to = host_address(family, 2);
            Pinger::new(sites.left.host(), to, Fragments::Allowed)
                .ping_until_answered(0, Duration::from_secs(10));
            for direction in [Direction::FromClient, Direction::FromServer] {
                let bytes = iperf3(sites.left.host(), sites.right.host(), to, direction, 1);
                let rate = bytes / 125_000;
                assert!(rate >= 10, "{family:?} {direction:?}: {rate} Mbit/s; {}", sites.drops());
            }
        }
        for site in [&sites.left, &sites.right] {
            for direction in ["inbound", "outbound"] {
                let drops = &site.gateway.sa(TUNNEL, direction)["drops"];
                // Packets that did not fit teach the hosts the tunnel's MTU.
                let others = drops.as_object().unwrap().keys().filter(|reason| *reason != "too_big").count();
                assert_eq!(others, 0, "{direction}: {drops}");
            }
        }
    });
}
