//! A gateway with two uplinks: when one loses its link, routes and tunnels go over to the other, and back.

use crate::lab::outer_address;
use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::serial;
use crate::site::{CONNECTION, Family};
use crate::strongswan::TOOLS;
use crate::wait_for;

#[test]
fn a_tunnel_moves_when_its_uplink_loses_the_link_and_moves_back() {
    privileged(TOOLS, || {
        let _alone = serial();
        let plan = Plan { peer_remote: Some("%any"), second_uplink: true, ..Plan::default() };
        let pair = Pair::new(&plan);
        pair.initiate();
        pair.assert_traffic();
        let first = outer_address(Family::V4, 1).to_string();
        let at = |address: &str| {
            wait_for(&format!("the tunnel to be at {address}"), || {
                let sa = pair.gateway.row("sas", |row| row["direction"] == "outbound");
                (sa["local"] == address).then_some(())
            });
            pair.assert_traffic();
        };
        let link = |up| pair.gateway.row("ports", |row| row["name"] == "wan")["link"] == up;
        let route = |port: &str| {
            let row = pair.gateway.row("routes", |row| row["to"] == "0.0.0.0/0" && row["port"] == port);
            row["in_force"] == true
        };
        assert!(link(true) && route("wan") && !route("lte"));
        for _ in 0..2 {
            pair.lab.middle.ip("link set left down");
            at("192.0.2.1");
            assert!(link(false) && !route("wan") && route("lte"));
            pair.lab.middle.ip("link set left up");
            at(&first);
            assert!(link(true) && route("wan"));
        }
        // The same IKE SA all the while, which can do everything still.
        assert_eq!(pair.charon.log().matches("parsed IKE_SA_INIT request").count(), 1, "{}", pair.logs());
        pair.rekey(CONNECTION);
        pair.rekey_from_peer("child", "lan");
        pair.assert_traffic();
        let log = pair.gateway.log();
        assert!(log.contains("the port has no link") && log.contains("the port has its link"), "{log}");
    });
}
