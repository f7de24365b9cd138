//! Spillway and strongSwan set tunnels up, either way round, and traffic passes.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use crate::lab::Nat;
use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::pki::Credentials;
use crate::serial;
use crate::site::{CONNECTION, Family, TUNNEL};
use crate::strongswan::TOOLS;

/// Up from one side, traffic, down; up from the other side, traffic.
fn both_ways(plan: &Plan<'_>) -> Pair {
    let pair = Pair::new(plan);
    pair.both_ways();
    pair
}

#[test]
fn preshared_keys_over_ipv4_and_ipv6() {
    privileged(TOOLS, || {
        let _alone = serial();
        for outer in [Family::V4, Family::V6] {
            both_ways(&Plan { outer, ..Plan::default() });
        }
    });
}

#[test]
fn rsa_and_ecdsa_certificates() {
    privileged(TOOLS, || {
        let _alone = serial();
        for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P256_SHA256] {
            let credentials = Credentials::new(algorithm);
            both_ways(&Plan { credentials: Some(&credentials), ..Plan::default() });
        }
    });
}

/// RFC 7427 has no way to ask for it: each end signs as it is told.
#[test]
fn rsa_signatures_by_pss() {
    privileged(TOOLS, || {
        let _alone = serial();
        let credentials = Credentials::new(&PKCS_RSA_SHA256);
        let pair = both_ways(&Plan {
            credentials: Some(&credentials),
            auth: Some("cert: own.pem, key: own.key, ca: ca.pem, rsa: pss"),
            charon: "rsa_pss = yes",
            ..Plan::default()
        });
        let log = pair.charon.log();
        for signed in ["with RSA_EMSA_PSS_SHA2_256_SALT_32 successful", "(myself) with RSA_EMSA_PSS"] {
            assert!(log.contains(signed), "`{signed}` not in {log}");
        }
    });
}

#[test]
fn a_chain_of_four_kilobytes_comes_in_fragments() {
    privileged(TOOLS, || {
        let _alone = serial();
        let credentials = Credentials::with_chain(&PKCS_ECDSA_P256_SHA256, 3_500);
        let pair = both_ways(&Plan { credentials: Some(&credentials), ..Plan::default() });
        let log = pair.charon.log();
        for fragments in [
            "parsed IKE_AUTH request 1 [ EF(1/",
            "generating IKE_AUTH response 1 [ EF(1/",
            "generating IKE_AUTH request 1 [ EF(1/",
            "parsed IKE_AUTH response 1 [ EF(1/",
        ] {
            assert!(log.contains(fragments), "`{fragments}` not in {log}");
        }
    });
}

#[test]
fn a_nat_in_front_of_spillway() {
    privileged(&[TOOLS, &["nft"]].concat(), || {
        let _alone = serial();
        let pair = Pair::new(&Plan { nat: Nat::Left, ..Plan::default() });
        pair.initiate();
        pair.assert_traffic();
        let sas = pair.charon.sas();
        assert!(sas.contains("203.0.113.254"), "{sas}");
        // The NAT's mapping serves the peer's requests too.
        pair.rekey_from_peer("child", "lan");
        pair.assert_traffic();
    });
}

#[test]
fn a_nat_in_front_of_strongswan() {
    privileged(&[TOOLS, &["nft"]].concat(), || {
        let _alone = serial();
        let pair = Pair::new(&Plan { nat: Nat::Right, ..Plan::default() });
        pair.initiate_from_peer();
        pair.assert_traffic();
        pair.rekey(CONNECTION);
        pair.assert_traffic();
    });
}

#[test]
fn a_nat_of_ipv6_in_front_of_either() {
    privileged(&[TOOLS, &["nft"]].concat(), || {
        let _alone = serial();
        let pair = Pair::new(&Plan { outer: Family::V6, nat: Nat::Left, ..Plan::default() });
        pair.initiate();
        pair.assert_traffic();
        let sas = pair.charon.sas();
        assert!(sas.contains("2001:db8:2::fe"), "{sas}");
        drop(pair);
        let pair = Pair::new(&Plan { outer: Family::V6, nat: Nat::Right, ..Plan::default() });
        pair.initiate_from_peer();
        pair.assert_traffic();
        pair.rekey(TUNNEL);
        pair.assert_traffic();
    });
}

#[test]
fn selectors_are_narrowed_by_whoever_answers() {
    privileged(TOOLS, || {
        let _alone = serial();
        // Spillway asks for more than strongSwan gives.
        let pair = Pair::new(&Plan {
            child: "local: [10.1.0.0/16], remote: [10.2.0.0/15], proposals: [aes128gcm16]",
            ..Plan::default()
        });
        pair.initiate();
        let sas = pair.charon.sas();
        assert!(sas.contains("local  10.2.0.0/16") && sas.contains("remote 10.1.0.0/16"), "{sas}");
        pair.assert_traffic_of(Family::V4);
        drop(pair);
        // strongSwan asks for more than Spillway gives.
        let pair = Pair::new(&Plan {
            peer_child: "local_ts = 10.2.0.0/16\n remote_ts = 10.0.0.0/15\n esp_proposals = aes128gcm16",
            ..Plan::default()
        });
        pair.initiate_from_peer();
        let sas = pair.charon.sas();
        assert!(sas.contains("local  10.2.0.0/16") && sas.contains("remote 10.1.0.0/16"), "{sas}");
        pair.assert_traffic_of(Family::V4);
    });
}
