//! A tunnel comes up, carries packets and goes down.

use std::time::Duration;

use crate::gateway::count;
use crate::netns::privileged;
use crate::site::{Connection, Family, Sites, host_address};
use crate::traffic::{Fragments, Pinger, Unanswered};
use crate::{serial, wait_for};

#[test]
fn a_tunnel_with_a_preshared_key_comes_up_at_boot_and_carries_pings() {
    establish(&Connection { child: "start: boot", ..Connection::default() });
}

#[test]
fn a_tunnel_over_ipv6_comes_up_at_boot_and_carries_pings() {
    establish(&Connection { outer: Family::V6, child: "start: boot", ..Connection::default() });
}

#[test]
fn a_tunnel_with_ml_kem_and_cbc_comes_up_at_boot_and_carries_pings() {
    let ike = "proposals: [aes256-sha512-modp3072-ke1_mlkem768]";
    let child = "start: boot, proposals: [aes256-sha256]";
    establish(&Connection { ike, child, ..Connection::default() });
}

fn establish(left: &Connection) {
    privileged(&[], || {
        let _alone = serial();
        let right = Connection { child: left.child.trim_start_matches("start: boot, "), ..left.clone() };
        let right = Connection { child: right.child.trim_start_matches("start: boot"), ..right };
        let sites = Sites::new(left, &right);
        sites.wait_until_up();
        sites.ping();
        for site in [&sites.left, &sites.right] {
            let tunnel = site.tunnel();
            for direction in ["inbound", "outbound"] {
                assert!(count(&tunnel[direction]["packets"]) >= 36, "{tunnel}");
            }
            assert_eq!(site.spis().len(), 2);
        }
        let crossed = |a: Vec<u64>, b: Vec<u64>| a.iter().rev().copied().collect::<Vec<_>>() == b;
        assert!(crossed(sites.left.spis(), sites.right.spis()), "each end sends on what the other receives");
    });
}

#[test]
fn a_gateway_that_stops_tells_its_peer_and_traffic_is_held_back() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { child: "start: boot", ..Connection::default() };
        let sites = Sites::new(&left, &Connection::default());
        sites.wait_until_up();
        sites.ping();
        let carried = count(&sites.left.tunnel()["outbound"]["packets"]);
        let Sites { left, right } = sites;
        let (status, _, _) = right.gateway.terminate();
        assert!(status.success(), "{status}");
        wait_for("the left gateway to see that the tunnel is down", || (!left.is_up()).then_some(()));
        wait_for("its SAs to go", || left.spis().is_empty().then_some(()));
        assert!(count(&left.tunnel()["outbound"]["packets"]) >= carried, "counters outlive SAs");
        let before = left.gateway.drops("no_sa");
        let mut pinger = Pinger::new(&left.host, host_address(Family::V4, 2), Fragments::Allowed);
        assert_eq!(pinger.ping(56, Duration::from_millis(300)), Err(Unanswered::Silence));
        wait_for("the ping to be dropped by name", || (left.gateway.drops("no_sa") > before).then_some(()));
    });
}
