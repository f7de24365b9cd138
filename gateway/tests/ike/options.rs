//! What a connection can ask for beyond the usual.

use crate::netns::privileged;
use crate::serial;
use crate::site::{CONNECTION, Connection, Sites};

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
