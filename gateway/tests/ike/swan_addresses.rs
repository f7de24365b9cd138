//! Inner addresses between Spillway and strongSwan, and a strongSwan that moves to another outer address.

use std::time::Duration;

use serde_json::json;

use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::site::{CONNECTION, Family, host_address};
use crate::strongswan::TOOLS;
use crate::traffic::{Fragments, Pinger};
use crate::{PATIENCE, serial, wait_for};

/// A ping that gets an answer, and goes on getting one.
fn assert_reaches(pinger: &mut Pinger) {
    pinger.ping_until_answered(56, PATIENCE);
    for size in [0, 500, 1200] {
        assert_eq!(pinger.ping(size, Duration::from_secs(3)), Ok(()), "{size} bytes");
    }
}

#[test]
fn strongswan_gets_an_address_of_a_pool() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan {
            top: "pools: { mobile: 10.9.0.0/24, mobile6: 'fd00:9::/64' }\n",
            more: "pools: [mobile, mobile6]\n    dns: 10.1.0.53",
            child: "local: [10.1.0.0/16, 'fd00:1::/64'], remote: dynamic, proposals: [aes128gcm16]",
            peer: "vips = 0.0.0.0,::",
            peer_child: "remote_ts = 10.1.0.0/16,fd00:1::/64\n esp_proposals = aes128gcm16",
            ..Plan::default()
        });
        pair.initiate_from_peer();
        let sas = pair.charon.sas();
        assert!(sas.contains("10.9.0.1/32") && sas.contains("fd00:9::1/128"), "{sas}");
        let row = pair.gateway.row("connections", |row| row["name"] == CONNECTION);
        assert_eq!(row["ike_sas"][0]["given"], json!(["10.9.0.1", "fd00:9::1"]), "{row}");
        for (family, inner) in [(Family::V4, "10.9.0.1"), (Family::V6, "fd00:9::1")] {
            let to = host_address(family, 1);
            assert_reaches(&mut Pinger::new(&pair.lab.right, to, Fragments::Allowed));
            assert_reaches(&mut Pinger::new(&pair.lab.host, inner.parse().unwrap(), Fragments::Allowed));
        }
    });
}

#[test]
fn spillway_gets_an_address_of_strongswan() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan {
            child: "local: assigned, remote: [10.2.0.0/16, 'fd00:2::/64'], proposals: [aes128gcm16]",
            peer: "pools = mobile,mobile6",
            peer_child: "local_ts = 10.2.0.0/16,fd00:2::/64\n esp_proposals = aes128gcm16",
            peer_top: "pools { mobile { addrs = 10.9.0.0/24\n dns = 10.2.0.53 }
                               mobile6 { addrs = fd00:9::/120 } }",
            ..Plan::default()
        });
        pair.initiate();
        let row = pair.gateway.row("connections", |row| row["name"] == CONNECTION);
        let addresses = row["assigned"]["addresses"].as_array().unwrap().clone();
        assert_eq!((addresses.len(), &row["assigned"]["dns"]), (2, &json!(["10.2.0.53"])), "{row}");
        for inner in addresses {
            let inner = inner.as_str().unwrap().parse().unwrap();
            assert_reaches(&mut Pinger::new(&pair.lab.right, inner, Fragments::Allowed));
        }
        // They are kept when the IKE SA is replaced.
        pair.rekey(CONNECTION);
        let inner = "10.9.0.1".parse().unwrap();
        assert_reaches(&mut Pinger::new(&pair.lab.right, inner, Fragments::Allowed));
    });
}

#[test]
fn strongswan_moves_to_another_address_and_traffic_goes_on() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan { remote: Some("any"), peer_addresses: Some("%any"), ..Plan::default() });
        pair.initiate_from_peer();
        pair.assert_traffic();
        let right = &pair.lab.right;
        right.set("net/ipv4/conf/wan0/promote_secondaries", "1");
        for (to, from) in [("203.0.113.7", "203.0.113.1"), ("203.0.113.1", "203.0.113.7")] {
            right.ip(&format!("addr add {to}/24 dev wan0"));
            right.ip(&format!("addr del {from}/24 dev wan0"));
            wait_for("Spillway to follow", || {
                let sa = pair.gateway.row("sas", |row| row["direction"] == "outbound");
                (sa["remote"] == to).then_some(())
            });
            pair.assert_traffic();
        }
        // The same SAs all the while, and they can be rekeyed from either side.
        assert_eq!(pair.charon.log().matches("parsed IKE_SA_INIT response").count(), 1, "{}", pair.logs());
        pair.rekey(CONNECTION);
        pair.rekey_from_peer("child", "lan");
        pair.assert_traffic();
    });
}
