//! A NAT in the middle: IKE goes over to port 4500 and ESP into UDP (RFC 7296 s2.23, RFC 3948).

use std::time::Duration;

use crate::netns::{Namespace, privileged};
use crate::serial;
use crate::site::{Connection, Family, Sites, host_address, yaml_behind_nat};
use crate::traffic::{Fragments, Pinger};

/// A router that hides what is on its left behind its own address on the right.
fn nat(left: &Namespace, right: &Namespace) -> Namespace {
    let router = Namespace::new();
    left.join("wan0", &router, "left", 2, 1500);
    right.join("wan0", &router, "right", 2, 1500);
    router.ip("addr add 198.51.100.254/24 dev left");
    router.ip("addr add 203.0.113.254/24 dev right");
    router.set("net/ipv4/ip_forward", "1");
    for rule in [
        "add table ip nat",
        "add chain ip nat post { type nat hook postrouting priority 100 ; }",
        "add rule ip nat post oifname right masquerade random",
    ] {
        router.command("nft", rule);
    }
    router
}

#[test]
fn a_tunnel_comes_up_through_a_nat_and_carries_pings_in_udp() {
    privileged(&["nft"], || {
        let _alone = serial();
        let [left, right] = [Namespace::new(), Namespace::new()];
        let router = nat(&left, &right);
        let starts = Connection { child: "start: boot", ..Connection::default() };
        let yamls = [yaml_behind_nat(1, &starts), yaml_behind_nat(2, &Connection::default())];
        let sites = Sites::between([left, right], yamls, |_| {});
        sites.wait_until_up();
        sites.ping();
        let sa = sites.right.gateway.row("sas", |row| row["direction"] == "outbound");
        assert_eq!((&sa["remote"], &sa["udp"][0]), (&"203.0.113.254".into(), &4500.into()), "{sa}");
        assert_ne!(sa["udp"][1], 4500, "the NAT gives another port: {sa}");
        let sa = sites.left.gateway.row("sas", |row| row["direction"] == "outbound");
        assert_eq!(sa["udp"], serde_json::json!([4500, 4500]));
        let port = sa["udp"][1].clone();
        // The mapping is known to both: either end can rekey.
        for site in [&sites.left, &sites.right] {
            assert_eq!(site.gateway.operate("rekey", "net/lan"), Ok("rekeyed".to_owned()));
            assert_eq!(site.gateway.operate("rekey", "net"), Ok("rekeyed".to_owned()));
        }
        sites.ping();
        // The NAT forgets its mappings, as one that was restarted: packets of the tunnel alone bring the right gateway to
        // the new one (RFC 7296 s2.23), and then IKE of either end gets through too.
        for change in ["link set right down", "link set right up"] {
            router.ip(change);
        }
        let mut pinger = Pinger::new(&sites.left.host, host_address(Family::V4, 2), Fragments::Allowed);
        pinger.ping_until_answered(100, Duration::from_secs(10));
        sites.ping();
        let sa = sites.right.gateway.row("sas", |row| row["direction"] == "outbound");
        assert!(sa["udp"][1] != port && sa["udp"][1] != 4500, "another port than {port}: {sa}");
        for site in [&sites.right, &sites.left] {
            assert_eq!(site.gateway.operate("rekey", "net"), Ok("rekeyed".to_owned()));
        }
        sites.ping();
    });
}
