//! Tunnels with strongSwan through ports that DPDK drives: IKE reaches the control thread, and what it orders reaches
//! every worker.

use crate::lab::Nat;
use crate::netns::privileged;
use crate::pair::{Driver, Pair, Plan};
use crate::serial;
use crate::site::{CONNECTION, Family};
use crate::strongswan::TOOLS;

const AF_PACKET: Driver = Driver::Dpdk("net_af_packet{n},iface={device}", 1);
const AF_PACKET_2: Driver = Driver::Dpdk("net_af_packet{n},iface={device},qpairs=2", 2);
const AF_XDP: Driver = Driver::Dpdk("net_af_xdp{n},iface={device}", 1);

/// Up from either side, with traffic, and new keys from either side, with traffic.
fn life(plan: &Plan<'_>) {
    privileged(&[TOOLS, &["ethtool", "nft"]].concat(), || {
        let _alone = serial();
        let pair = Pair::new(plan);
        pair.initiate();
        pair.assert_traffic();
        pair.rekey("net/lan");
        pair.assert_traffic();
        pair.rekey_from_peer("ike", CONNECTION);
        pair.rekey_from_peer("child", "lan");
        pair.assert_traffic();
        pair.terminate();
        pair.initiate_from_peer();
        pair.assert_traffic();
    });
}

#[test]
fn dpdk_negotiates_over_net_af_packet() {
    life(&Plan { driver: AF_PACKET, ..Plan::default() });
}

#[test]
fn dpdk_negotiates_over_net_af_xdp_and_ipv6() {
    life(&Plan { driver: AF_XDP, outer: Family::V6, ..Plan::default() });
}

#[test]
fn dpdk_negotiates_with_two_workers_behind_a_nat() {
    life(&Plan { driver: AF_PACKET_2, nat: Nat::Left, ..Plan::default() });
}
