//! What a connection can ask for beyond the usual.

use crate::netns::{Namespace, privileged};
use crate::serial;
use crate::site::{CONNECTION, Connection, Sites, TUNNEL, yaml};

#[test]
fn esp_goes_in_udp_without_a_nat_when_the_configuration_says_so() {
    privileged(&[], || {
        let _alone = serial();
        let ike = "encapsulation: always";
        let left = Connection { ike, child: "start: boot", ..Connection::default() };
        let sites = Sites::new(&left, &Connection { ike, ..Connection::default() });
        sites.wait_until_up();
        sites.ping();
        for site in [&sites.left, &sites.right] {
            let sa = site.gateway.row("sas", |row| row["direction"] == "outbound");
            assert_eq!(sa["udp"], serde_json::json!([4500, 4500]), "{sa}");
        }
    });
}

#[test]
fn authentication_headers_are_negotiated_and_carry_traffic() {
    privileged(&[], || {
        let _alone = serial();
        let child = |start: &'static str| Connection { child: start, ..Connection::default() };
        let sites = Sites::new(
            &child("protocol: ah, proposals: [sha256-esn], start: boot"),
            &child("protocol: ah, proposals: [sha256-esn], start: wait"),
        );
        sites.wait_until_up();
        sites.ping();
        assert_eq!(sites.right.gateway.operate("rekey", TUNNEL), Ok("rekeyed".to_owned()));
        sites.ping();
        let sa = sites.left.gateway.row("sas", |row| row["direction"] == "outbound");
        assert_eq!(sa["protocol"], "ah", "{sa}");
    });
}

/// What such an SA carries are packets of the gateways themselves, which begin nothing but IKE; `interop` has peers that do.
#[test]
fn transport_mode_is_negotiated_and_rekeyed() {
    privileged(&[], || {
        let _alone = serial();
        let yamls = [(1, 2, "boot"), (2, 1, "wait")].map(|(own, other, start)| {
            let ends = format!("local: [198.51.100.{own}/32], remote: [198.51.100.{other}/32]");
            yaml(own, &Connection::default()).replace(
                &format!("local: [10.{own}.0.0/16, 'fd00:{own}::/64'], remote: [10.{other}.0.0/16, 'fd00:{other}::/64'], start: wait"),
                &format!("mode: transport, {ends}, start: {start}"),
            )
        });
        let insides = [Namespace::new(), Namespace::new()];
        let [one, two] = &insides;
        one.join("wan0", two, "wan0", 2, 1500);
        let sites = Sites::between(insides, yamls, |_| {});
        sites.wait_until_up();
        let sa = sites.left.gateway.row("sas", |row| row["direction"] == "outbound");
        assert_eq!(sa["mode"], "transport", "{sa}");
        assert_eq!(sites.right.gateway.operate("rekey", TUNNEL), Ok("rekeyed".to_owned()));
    });
}

#[test]
fn a_post_quantum_preshared_key_must_be_the_same_at_both_ends() {
    privileged(&[], || {
        let _alone = serial();
        let ppk = Connection { more: "ppk: { id: p1, secret_file: net.ppk }", ..Connection::default() };
        let sites = Sites::with(&ppk, &ppk, |files| files.key_file("net.ppk", "a long and secret text"));
        assert_eq!(sites.left.gateway.operate("initiate", CONNECTION), Ok("up".to_owned()));
        sites.ping();
        drop(sites);
        let sites =
            Sites::with(&ppk, &Connection::default(), |files| files.key_file("net.ppk", "a secret text"));
        assert!(sites.left.gateway.operate("initiate", CONNECTION).is_err(), "a peer without it is refused");
        assert!(!sites.left.is_up() && !sites.right.is_up());
    });
}
