//! Further proofs between Spillway and strongSwan: raw public keys, and a post-quantum preshared key on top.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::serial;
use crate::site::CONNECTION;
use crate::strongswan::TOOLS;

#[test]
fn raw_public_keys_either_way_round() {
    privileged(TOOLS, || {
        let _alone = serial();
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let [ours, theirs] = [1, 2].map(|_| {
                let key = KeyPair::generate_for(algorithm).unwrap();
                (key.serialize_pem(), key.public_key_pem())
            });
            let plan = Plan {
                auth: Some("key: own.key, peer_key: peer.pub"),
                secrets: &[("own.key", ours.0.as_str()), ("peer.pub", theirs.1.as_str())],
                peer_auth: Some(["auth = pubkey\n pubkeys = own.pub", "auth = pubkey\n pubkeys = peer.pub"]),
                peer_files: &[
                    ("pubkey/own.pub", theirs.1.as_str()),
                    ("pubkey/peer.pub", ours.1.as_str()),
                    ("private/own.key", theirs.0.as_str()),
                ],
                ..Plan::default()
            };
            let pair = Pair::new(&plan);
            pair.both_ways();
        }
    });
}

#[test]
fn a_post_quantum_preshared_key_either_way_round() {
    privileged(TOOLS, || {
        let _alone = serial();
        let plan = Plan {
            more: "ppk: { id: p1, secret_file: net.ppk }",
            secrets: &[("net.ppk", "a long and secret text")],
            peer: "ppk_id = p1\n ppk_required = yes",
            peer_secrets: "ppk-1 { id = p1\n secret = \"a long and secret text\" }",
            ..Plan::default()
        };
        let pair = Pair::new(&plan);
        pair.both_ways();
        drop(pair);
        let pair = Pair::new(&Plan { secrets: &[("net.ppk", "another text")], ..plan });
        assert!(pair.gateway.operate("initiate", CONNECTION).is_err());
        assert!(!pair.is_up());
    });
}
