//! What happens to a tunnel with strongSwan while it lives: rekeys from each side, deletes, and ends that go silent.

use std::time::Duration;

use crate::gateway::Gateway;
use crate::netns::privileged;
use crate::pair::{Pair, Plan, yaml};
use crate::site::{CONNECTION, Family, TUNNEL, host_address};
use crate::strongswan::TOOLS;
use crate::traffic::{Fragments, Pinger};
use crate::{serial, wait_for};

#[test]
fn rekeys_from_each_side() {
    privileged(TOOLS, || {
        let _alone = serial();
        // With perfect forward secrecy, and without.
        for (child, peer_child) in [
            (
                "local: [10.1.0.0/16, 'fd00:1::/64'], remote: [10.2.0.0/16, 'fd00:2::/64'], \
                 proposals: [aes256gcm16-x25519]",
                "local_ts = 10.2.0.0/16,fd00:2::/64\n remote_ts = 10.1.0.0/16,fd00:1::/64\n \
                 esp_proposals = aes256gcm16-x25519",
            ),
            (Plan::default().child, Plan::default().peer_child),
        ] {
            let pair = Pair::new(&Plan { child, peer_child, ..Plan::default() });
            pair.initiate();
            pair.assert_traffic();
            pair.rekey(TUNNEL);
            pair.assert_traffic();
            pair.rekey_from_peer("child", "lan");
            pair.assert_traffic();
            pair.rekey(CONNECTION);
            pair.assert_traffic();
            pair.rekey_from_peer("ike", CONNECTION);
            pair.assert_traffic();
            // Once more on what came of it.
            pair.rekey(TUNNEL);
            pair.rekey_from_peer("child", "lan");
            pair.assert_traffic();
        }
    });
}

#[test]
fn rekeys_from_each_side_of_what_strongswan_began() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan::default());
        pair.initiate_from_peer();
        pair.assert_traffic();
        pair.rekey_from_peer("child", "lan");
        pair.rekey(TUNNEL);
        pair.assert_traffic();
        pair.rekey_from_peer("ike", CONNECTION);
        pair.assert_traffic();
        pair.rekey(CONNECTION);
        pair.rekey_from_peer("child", "lan");
        pair.assert_traffic();
    });
}

/// strongSwan sets a new IKE SA up before it deletes the old one (RFC 7296 s2.8.3).
#[test]
fn strongswan_authenticates_anew_without_a_gap() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan {
            peer: "reauth_time = 4s\n rand_time = 0s",
            charon: "make_before_break = yes",
            ..Plan::default()
        });
        pair.initiate_from_peer();
        pair.assert_traffic();
        let mut pinger = Pinger::new(&pair.lab.right, host_address(Family::V4, 1), Fragments::Allowed);
        let inits = || pair.charon.log().matches("parsed IKE_SA_INIT response").count();
        let (mut lost, mut pings, before) = (0, 0, inits());
        wait_for("charon to authenticate anew twice", || {
            lost += (0..50).filter(|_| pinger.ping(56, Duration::from_secs(1)).is_err()).count();
            pings += 50;
            (inits() >= before + 2).then_some(())
        });
        assert_eq!(lost, 0, "of {pings}; {}", pair.logs());
        pair.assert_traffic();
    });
}

#[test]
fn deletes_from_each_side() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan::default());
        pair.initiate();
        // The child alone: the IKE SA carries the next one.
        pair.charon.swanctl(&["--terminate", "--child", "lan"]);
        pair.wait_until_down();
        pair.initiate();
        pair.assert_traffic();
        assert_eq!(pair.gateway.operate("terminate", TUNNEL), Ok("down".to_owned()), "{}", pair.logs());
        pair.wait_until_down();
        pair.initiate_from_peer();
        pair.assert_traffic();
        assert_eq!(pair.charon.log().matches("parsed IKE_SA_INIT request").count(), 1, "{}", pair.logs());
        // All of it.
        pair.charon.swanctl(&["--terminate", "--ike", CONNECTION]);
        pair.wait_until_down();
        let row = pair.gateway.row("connections", |row| row["name"] == CONNECTION);
        assert_eq!(row["state"], "down", "{row}");
        pair.initiate();
        pair.assert_traffic();
    });
}

#[test]
fn a_silent_end_is_noticed_by_the_other() {
    privileged(TOOLS, || {
        let _alone = serial();
        let plan = Plan {
            ike: "dpd: 1s",
            top: "ike: { retransmit: { initial: 300ms, factor: 1, tries: 4 } }\n",
            peer: "dpd_delay = 1s",
            charon: "retransmit_tries = 2",
            ..Plan::default()
        };
        let pair = Pair::new(&plan);
        pair.initiate();
        pair.assert_traffic();
        // Both ask, and both answer.
        pair.charon.wait_for_log("sending DPD request");
        pair.charon.wait_for_log("parsed INFORMATIONAL request");
        assert!(pair.is_up());
        let Pair { lab, gateway, charon } = pair;
        let files = gateway.kill();
        wait_for("charon to notice", || (!charon.sas().contains("INSTALLED")).then_some(()));
        let gateway = Gateway::start(&lab.left, files, &yaml(&plan));
        let mut pair = Pair { lab, gateway, charon };
        pair.initiate();
        pair.assert_traffic();
        pair.charon.kill();
        wait_for("Spillway to notice", || (!pair.is_up()).then_some(()));
        let row = pair.gateway.row("connections", |row| row["name"] == CONNECTION);
        assert!(row["last_error"]["reason"].as_str().unwrap().contains("does not answer"), "{row}");
    });
}
