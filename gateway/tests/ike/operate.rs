//! What operators do, and what happens by itself: on demand, rekeys, ends, refusals, crashes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::gateway::{Gateway, count};
use crate::netns::{Namespace, privileged};
use crate::site::{CONNECTION, Connection, Family, Site, Sites, TUNNEL, host_address, yaml};
use crate::traffic::{Fragments, Pinger};
use crate::waiting::SetOnDrop;
use crate::{PATIENCE, serial, wait_for};

/// A peer counts as dead after about three seconds.
const HASTY: &str = "ike: { retransmit: { initial: 300ms, factor: 1, tries: 4 } }\n";

#[test]
fn a_packet_sets_up_a_tunnel_and_is_not_lost() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { child: "start: traffic", ..Connection::default() };
        let sites = Sites::new(&left, &Connection::default());
        assert!(!sites.left.is_up());
        let mut pinger = Pinger::new(&sites.left.host, host_address(Family::V4, 2), Fragments::Allowed);
        assert_eq!(pinger.ping(100, PATIENCE), Ok(()), "the first: {}", sites.left.gateway.log());
        sites.wait_until_up();
        sites.ping();
        for reason in ["no_sa", "acquire_timeout", "acquire_queue_full"] {
            assert_eq!(sites.left.gateway.drops(reason), 0, "{reason}");
        }
    });
}

#[test]
fn rekeys_by_command_lose_no_ping_and_keep_the_counters() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { child: "start: boot", ..Connection::default() };
        let sites = Sites::new(&left, &Connection::default());
        sites.wait_until_up();
        sites.ping();
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let mut pinger =
                    Pinger::new(&sites.left.host, host_address(Family::V4, 2), Fragments::Allowed);
                let (mut sent, mut lost) = (0, 0);
                while !enough.load(Ordering::Relaxed) {
                    sent += 1;
                    lost += usize::from(pinger.ping(100, Duration::from_secs(3)).is_err());
                }
                (sent, lost)
            });
            // The pings end with the scope, also when an assertion ends it.
            let enough = SetOnDrop(&enough);
            for _ in 0..3 {
                for (site, target) in [
                    (&sites.left, TUNNEL),
                    (&sites.right, TUNNEL),
                    (&sites.left, CONNECTION),
                    (&sites.right, CONNECTION),
                ] {
                    let before = site.spis();
                    let carried = count(&site.tunnel()["outbound"]["packets"]);
                    assert_eq!(site.gateway.operate("rekey", target), Ok("rekeyed".to_owned()), "{target}");
                    if target == TUNNEL {
                        assert!(site.spis().iter().any(|spi| !before.contains(spi)), "{before:?}");
                    }
                    assert!(count(&site.tunnel()["outbound"]["packets"]) >= carried);
                }
            }
            drop(enough);
            let (sent, lost) = pings.join().unwrap();
            assert!(sent > 20 && lost == 0, "{lost} of {sent} lost; {}", sites.drops());
        });
    });
}

#[test]
fn an_sa_that_carried_its_packets_is_replaced() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection {
            child: "start: boot, rekey: { packets: 200 }, expire: { packets: 100000 }",
            ..Connection::default()
        };
        let sites = Sites::new(&left, &Connection::default());
        sites.wait_until_up();
        let before = sites.left.spis();
        let mut pinger = Pinger::new(&sites.left.host, host_address(Family::V4, 2), Fragments::Allowed);
        assert_eq!(pinger.ping_all((0..199).map(|_| 100)), 0, "{}", sites.drops());
        wait_for("other SAs", || sites.left.spis().iter().all(|spi| !before.contains(spi)).then_some(()));
        assert_eq!(pinger.ping_all((0..50).map(|_| 100)), 0, "{}", sites.drops());
        // What is shown may be a moment old.
        wait_for("counters that outlive SAs", || {
            (count(&sites.left.tunnel()["outbound"]["packets"]) >= 249).then_some(())
        });
    });
}

#[test]
fn a_connection_is_terminated_and_initiated_by_command() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Connection::default(), &Connection::default());
        let gateway = &sites.left.gateway;
        assert_eq!(
            gateway.operate("terminate", CONNECTION),
            Err("spillway: connection `net` is not up".to_owned())
        );
        assert!(gateway.operate("initiate", "nobody").unwrap_err().contains("no connection `nobody`"));
        assert!(gateway.operate("initiate", "net/wan").unwrap_err().contains("has no child `wan`"));
        assert_eq!(gateway.operate("initiate", CONNECTION), Ok("up".to_owned()), "{}", gateway.log());
        assert_eq!(gateway.operate("initiate", TUNNEL), Ok("is up already".to_owned()));
        sites.ping();
        let connection = gateway.row("connections", |row| row["name"] == CONNECTION);
        assert_eq!((&connection["state"], &connection["tries"]), (&"up".into(), &1.into()), "{connection}");
        assert_eq!(connection["ike_sas"][0]["peer"], "right.example.net");
        assert_eq!(gateway.operate("terminate", TUNNEL), Ok("down".to_owned()));
        wait_for("the other end to follow", || (!sites.right.is_up()).then_some(()));
        assert_eq!(gateway.operate("initiate", TUNNEL), Ok("up".to_owned()));
        assert_eq!(gateway.operate("terminate", CONNECTION), Ok("down".to_owned()));
        let connection = gateway.row("connections", |row| row["name"] == CONNECTION);
        assert_eq!((&connection["state"], &connection["tries"]), (&"down".into(), &1.into()), "{connection}");
        assert_eq!(connection["last_error"]["reason"], "terminated");
    });
}

#[test]
fn a_wrong_preshared_key_is_named_at_both_ends() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { auth: "psk_file: other.psk".to_owned(), ..Connection::default() };
        let sites =
            Sites::with(&left, &Connection::default(), |files| files.key_file("other.psk", "wrong horse"));
        let refused = sites.left.gateway.operate("initiate", CONNECTION);
        assert_eq!(refused, Err("spillway: peer says AUTHENTICATION_FAILED".to_owned()));
        let reason = |site: &Site| {
            let row = site.gateway.row("connections", |row| row["name"] == CONNECTION);
            assert_eq!(row["state"], "down", "{row}");
            row["last_error"]["reason"].as_str().unwrap().to_owned()
        };
        assert_eq!(reason(&sites.left), "peer says AUTHENTICATION_FAILED");
        let wrong = "the preshared key of left.example.net is another one than ours";
        assert!(reason(&sites.right).contains(wrong), "{}", reason(&sites.right));
        assert!(sites.right.gateway.log().contains(wrong), "{}", sites.right.gateway.log());
        assert_eq!(sites.right.gateway.drops("ike_authentication"), 1);
    });
}

/// Whom the left gateway expects, and what each of the two says.
#[test]
fn an_identity_that_is_not_expected_is_named_by_who_does_not_expect_it() {
    privileged(&[], || {
        let _alone = serial();
        let insides = [Namespace::new(), Namespace::new()];
        let [one, two] = &insides;
        one.join("wan0", two, "wan0", 2, 1500);
        let expecting = |who: &str| yaml(1, &Connection::default()).replace("id: right.example.net", who);
        let right = yaml(2, &Connection::default());
        let sites = Sites::between(insides, [expecting("id: '*.example.org'"), right], |_| {});
        let initiate = |site: &Site| site.gateway.operate("initiate", CONNECTION).unwrap_err();
        let refused = initiate(&sites.left);
        assert!(refused.contains("peer is right.example.net, expected *.example.org"), "{refused}");
        let log = sites.left.gateway.log();
        assert!(log.contains("peer is right.example.net, expected *.example.org"), "{log}");
        // The other way round it is the responder's turn.
        assert!(initiate(&sites.right).contains("AUTHENTICATION_FAILED"));
        let why = "no connection for right.example.net to left.example.net; expected left.example.net <- *.example.org";
        let row = sites.left.gateway.row("connections", |row| row["name"] == CONNECTION);
        assert!(row["last_error"]["reason"].as_str().unwrap().contains(why), "{row}");
        assert!(sites.left.gateway.log().contains(why), "{}", sites.left.gateway.log());
    });
}

#[test]
fn a_proposal_that_does_not_fit_is_explained() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { ike: "proposals: [aes256gcm16-prfsha384-ecp384]", ..Connection::default() };
        let right = Connection { ike: "proposals: [aes256gcm16-prfsha384-x25519]", ..Connection::default() };
        let sites = Sites::new(&left, &right);
        let refused = sites.left.gateway.operate("initiate", CONNECTION).unwrap_err();
        assert!(refused.contains("NO_PROPOSAL_CHOSEN to ") && refused.contains("ECP_384"), "{refused}");
        let log = sites.right.gateway.log();
        for part in ["no common", "ECP_384", "CURVE25519"] {
            assert!(log.contains(part), "{part} not in {log}");
        }
    });
}

#[test]
fn selectors_that_do_not_fit_are_explained() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { child_net: 3, ..Connection::default() };
        let sites = Sites::new(&left, &Connection::default());
        let refused = sites.left.gateway.operate("initiate", CONNECTION).unwrap_err();
        assert!(refused.contains("TS_UNACCEPTABLE to 10.3.0.0/16"), "{refused}");
        let log = sites.right.gateway.log();
        for part in ["selectors not acceptable", "10.3.0.0/16", "10.2.0.0/16"] {
            assert!(log.contains(part), "{part} not in {log}");
        }
    });
}

#[test]
fn a_gateway_that_was_killed_comes_back_and_takes_over() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { child: "start: boot", ..Connection::default() };
        let Sites { left, right } = Sites::new(&left, &left);
        let sites = Sites { left, right };
        sites.wait_until_up();
        sites.ping();
        let Sites { left, right } = sites;
        let before = right.spis();
        let Site { gateway, inside, host, yaml } = left;
        let gateway = Gateway::start(&inside, gateway.kill(), &yaml);
        let sites = Sites { left: Site { gateway, inside, host, yaml }, right };
        wait_for("the right gateway to have other SAs", || {
            let now = sites.right.spis();
            (!now.is_empty() && now.iter().all(|spi| !before.contains(spi))).then_some(())
        });
        sites.wait_until_up();
        sites.ping();
    });
}

#[test]
fn a_dead_peer_is_noticed_and_the_tunnel_comes_back_with_it() {
    privileged(&[], || {
        let _alone = serial();
        let left = Connection { child: "start: boot", ike: "dpd: 1s", top: HASTY, ..Connection::default() };
        let Sites { left, right } = Sites::new(&left, &Connection::default());
        let sites = Sites { left, right };
        sites.wait_until_up();
        sites.ping();
        let Sites { left, right } = sites;
        let Site { gateway, inside, host, yaml } = right;
        let files = gateway.kill();
        wait_for("the left gateway to notice", || (!left.is_up()).then_some(()));
        let row = left.gateway.row("connections", |row| row["name"] == CONNECTION);
        let reason = row["last_error"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("does not answer"), "{row}");
        let gateway = Gateway::start(&inside, files, &yaml);
        let sites = Sites { left, right: Site { gateway, inside, host, yaml } };
        sites.wait_until_up();
        sites.ping();
    });
}
