//! Spillway and strongSwan authenticate by EAP, either of them as the client.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};

use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::pki::Credentials;
use crate::serial;
use crate::site::{CONNECTION, identity};
use crate::strongswan::TOOLS;

const CAROL: &str = "carol@example.net";
const PASSWORD: &str = "tell nobody";

#[test]
fn strongswan_is_a_client_with_a_password() {
    privileged(TOOLS, || {
        let _alone = serial();
        let credentials = Credentials::new(&PKCS_ECDSA_P256_SHA256);
        let secret = format!("eap-1 {{ id = {CAROL}\n secret = \"{PASSWORD}\" }}");
        let users = format!("{CAROL}: {PASSWORD}\n");
        let plan = Plan {
            credentials: Some(&credentials),
            ids: [identity(1), CAROL],
            auth: Some("cert: own.pem, key: own.key, eap_users: users"),
            secrets: &[("users", users.as_str())],
            peer_auth: Some(["auth = eap-mschapv2\n eap_id = carol@example.net", "auth = pubkey"]),
            peer_secrets: &secret,
            ..Plan::default()
        };
        let pair = Pair::new(&plan);
        pair.initiate_from_peer();
        pair.assert_traffic();
        assert_eq!(peer(&pair), CAROL);
        drop(pair);
        let wrong = format!("{CAROL}: something else\n");
        let pair = Pair::new(&Plan { secrets: &[("users", wrong.as_str())], ..plan });
        assert!(pair.charon.try_swanctl(&["--initiate", "--child", "lan", "--timeout", "15"]).is_err());
        assert!(!pair.is_up());
        // strongSwan leaves without acknowledging the failure; the reason is known all the same.
        let row = pair.gateway.row("connections", |row| row["name"] == CONNECTION);
        let reason = row["last_error"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("wrong password for user \"carol@example.net\""), "{row}");
    });
}

#[test]
fn spillway_is_a_client_with_a_password() {
    privileged(TOOLS, || {
        let _alone = serial();
        let credentials = Credentials::new(&PKCS_RSA_SHA256);
        let secret = format!("eap-1 {{ id = {CAROL}\n secret = \"{PASSWORD}\" }}");
        let plan = Plan {
            credentials: Some(&credentials),
            ids: [CAROL, identity(2)],
            auth: Some("ca: ca.pem, eap_user: carol@example.net, eap_password_file: password"),
            secrets: &[("password", PASSWORD)],
            peer_auth: Some(["auth = pubkey\n certs = own.pem", "auth = eap-mschapv2\n eap_id = %any"]),
            peer_secrets: &secret,
            ..Plan::default()
        };
        let pair = Pair::new(&plan);
        pair.initiate();
        pair.assert_traffic();
        drop(pair);
        let pair = Pair::new(&Plan { secrets: &[("password", "something else")], ..plan });
        let refused = pair.gateway.operate("initiate", CONNECTION).unwrap_err();
        assert!(refused.contains("EAP failed"), "{refused}");
    });
}

/// Either with a certificate of the gateway, or with EAP alone (RFC 5998).
fn by_tls(algorithm: &'static SignatureAlgorithm, alone: bool) {
    let credentials = Credentials::new(algorithm);
    let only = if alone { ", eap_only: true" } else { "" };
    let server = format!("cert: own.pem, key: own.key, eap_ca: ca.pem{only}");
    let client = format!("ca: ca.pem, eap_cert: own.pem, eap_key: own.key{only}");
    let [by_eap, by_key] = ["auth = eap-tls\n certs = own.pem", "auth = pubkey\n certs = own.pem"];
    let gateway = if alone { by_eap } else { by_key };
    let remote = if alone { "auth = eap-tls" } else { "auth = pubkey" };
    let plan = |auth, peer_auth| Plan {
        credentials: Some(&credentials),
        auth: Some(auth),
        peer_auth: Some(peer_auth),
        ..Plan::default()
    };
    let pair = Pair::new(&plan(&server, [by_eap, remote]));
    pair.initiate_from_peer();
    pair.assert_traffic();
    assert_eq!(peer(&pair), identity(2));
    drop(pair);
    let pair = Pair::new(&plan(&client, [gateway, "auth = eap-tls"]));
    pair.initiate();
    pair.assert_traffic();
    assert_eq!(peer(&pair), identity(2));
}

#[test]
fn eap_tls_either_way_round() {
    privileged(TOOLS, || {
        let _alone = serial();
        by_tls(&PKCS_ECDSA_P256_SHA256, false);
        by_tls(&PKCS_RSA_SHA256, false);
    });
}

#[test]
fn eap_tls_alone_either_way_round() {
    privileged(TOOLS, || {
        let _alone = serial();
        by_tls(&PKCS_ECDSA_P256_SHA256, true);
    });
}

/// Who Spillway says that the peer is.
fn peer(pair: &Pair) -> String {
    let row = pair.gateway.row("connections", |row| row["name"] == CONNECTION);
    row["ike_sas"][0]["peer"].as_str().unwrap_or_default().to_owned()
}
