//! Ways in which gateways prove who they are beyond preshared keys and certificates, and addresses that one gives the
//! other.

use std::fs;
use std::time::Duration;

use rcgen::KeyPair;
use serde_json::json;

use crate::certificates::Authority;
use crate::gateway::Files;
use crate::netns::{Namespace, privileged};
use crate::site::{CONNECTION, Connection, Family, Sites, host_address, identity, yaml};
use crate::traffic::{Fragments, Pinger, Unanswered};
use crate::{PATIENCE, serial};

/// The left gateway initiates, and pings pass.
fn up(auths: [&str; 2], change: impl Fn(String) -> String, files: impl Fn(&Files)) -> Sites {
    let yaml = |side: u8, child| {
        let auth = auths[usize::from(side) - 1].to_owned();
        change(yaml(side, &Connection { auth, child, ..Connection::default() }))
    };
    let sites = sites([yaml(1, "start: boot"), yaml(2, "start: wait")], files);
    sites.wait_until_up();
    sites.ping();
    sites
}

fn sites(yamls: [String; 2], files: impl Fn(&Files)) -> Sites {
    let insides = [Namespace::new(), Namespace::new()];
    let [one, two] = &insides;
    one.join("wan0", two, "wan0", 2, 1500);
    Sites::between(insides, yamls, files)
}

#[test]
fn eap_tls_with_a_certificate_of_the_gateway_and_alone() {
    privileged(&[], || {
        let _alone = serial();
        let authority = Authority::new();
        for alone in ["", ", eap_only: true"] {
            let client = format!("ca: ca.pem, eap_cert: 1.pem, eap_key: 1.key{alone}");
            let server = format!("cert: 2.pem, key: 2.key, eap_ca: ca.pem{alone}");
            let sites = up([&client, &server], |yaml| yaml, |files| authority.provide(files, 2090));
            let row = sites.right.gateway.row("connections", |row| row["name"] == CONNECTION);
            assert_eq!(row["ike_sas"][0]["peer"], identity(1), "{row}");
        }
    });
}

#[test]
fn a_client_of_another_authority_is_not_let_in_by_eap_tls() {
    privileged(&[], || {
        let _alone = serial();
        let client = "ca: ca.pem, eap_cert: 1.pem, eap_key: 1.key, eap_only: true";
        let server = "cert: 2.pem, key: 2.key, eap_ca: other.pem, eap_only: true";
        let auth = |auth: &str| Connection { auth: auth.to_owned(), ..Connection::default() };
        let authority = Authority::new();
        let sites = Sites::with(&auth(client), &auth(server), |files| {
            // Only the names are those of the other authority's files.
            Authority::new().provide(files, 2090);
            fs::rename(files.path("ca.pem"), files.path("other.pem")).unwrap();
            for side in [1, 2] {
                fs::remove_file(files.path(&format!("{side}.key"))).unwrap();
            }
            authority.provide(files, 2090);
        });
        assert!(sites.left.gateway.operate("initiate", CONNECTION).is_err());
        let log = sites.right.gateway.log();
        assert!(log.contains("EAP failed") && log.contains("left.example.net"), "{log}");
    });
}

#[test]
fn raw_public_keys() {
    privileged(&[], || {
        let _alone = serial();
        let keys = [1, 2].map(|_| KeyPair::generate().unwrap());
        let auths = ["key: raw1.key, peer_key: raw2.pub", "key: raw2.key, peer_key: both.pub"];
        up(
            auths,
            |yaml| yaml,
            |files| {
                for (key, side) in keys.iter().zip(1..) {
                    files.key_file(&format!("raw{side}.key"), &key.serialize_pem());
                    fs::write(files.path(&format!("raw{side}.pub")), key.public_key_pem()).unwrap();
                }
                // One of several.
                let other = KeyPair::generate().unwrap().public_key_pem();
                fs::write(files.path("both.pub"), other + &keys[0].public_key_pem()).unwrap();
            },
        );
    });
}

#[test]
fn nobody_speaks_with_nobody_only_when_told_so_and_loudly() {
    privileged(&[], || {
        let _alone = serial();
        let nobody =
            |yaml: String| [1, 2].iter().fold(yaml, |yaml, side| yaml.replace(identity(*side), "'%null'"));
        let sites = up(["null_auth: both"; 2], nobody, |_| {});
        for site in [&sites.left, &sites.right] {
            let log = site.gateway.log();
            assert!(log.contains("WHOEVER COMES IS LET IN"), "{log}");
            let row = site.gateway.row("connections", |row| row["name"] == CONNECTION);
            assert_eq!(row["ike_sas"][0]["peer"], "%null", "{row}");
        }
        drop(sites);
        // Who wants a proof does not take nothing for one.
        let left =
            nobody(yaml(1, &Connection { auth: "null_auth: both".to_owned(), ..Connection::default() }));
        let sites = self::sites([left, yaml(2, &Connection::default())], |_| {});
        assert!(sites.left.gateway.operate("initiate", CONNECTION).is_err());
        assert!(!sites.left.is_up() && !sites.right.is_up());
    });
}

#[test]
fn a_gateway_gets_inner_addresses_and_is_reached_at_them_while_it_has_them() {
    privileged(&[], || {
        let _alone = serial();
        let more = "pools: [mobile, mobile6]\n    dns: 10.2.0.53\n    subnets: 10.2.0.0/16";
        let top = "pools: { mobile: 10.9.0.0/24, mobile6: 'fd00:9::/64' }\n";
        let left = yaml(1, &Connection { child: "start: boot", ..Connection::default() })
            .replace("local: [10.1.0.0/16, 'fd00:1::/64']", "local: assigned");
        let right = yaml(2, &Connection { more, top, ..Connection::default() })
            .replace("remote: [10.1.0.0/16, 'fd00:1::/64']", "remote: dynamic");
        let sites = sites([left, right], |_| {});
        sites.wait_until_up();
        let [inner4, inner6] = ["10.9.0.1", "fd00:9::1"];
        for inner in [inner4, inner6] {
            let mut pinger = Pinger::new(&sites.right.host, inner.parse().unwrap(), Fragments::Allowed);
            pinger.ping_until_answered(100, PATIENCE);
            assert_eq!(pinger.ping(1000, Duration::from_secs(3)), Ok(()), "{inner}");
        }
        let row = sites.left.gateway.row("connections", |row| row["name"] == CONNECTION);
        let assigned =
            json!({ "addresses": [inner4, inner6], "dns": ["10.2.0.53"], "subnets": ["10.2.0.0/16"] });
        assert_eq!(row["assigned"], assigned, "{row}");
        let row = sites.right.gateway.row("connections", |row| row["name"] == CONNECTION);
        assert_eq!(row["ike_sas"][0]["given"], json!([inner4, inner6]), "{row}");
        // The addresses survive a rekey; hosts behind the gateway do not have them.
        assert_eq!(sites.left.gateway.operate("rekey", CONNECTION), Ok("rekeyed".to_owned()));
        let mut pinger = Pinger::new(&sites.right.host, inner4.parse().unwrap(), Fragments::Allowed);
        assert_eq!(pinger.ping(100, Duration::from_secs(3)), Ok(()));
        let mut outsider = Pinger::new(&sites.left.host, host_address(Family::V4, 2), Fragments::Allowed);
        assert_eq!(outsider.ping(100, Duration::from_millis(300)), Err(Unanswered::Silence));
        assert_eq!(sites.left.gateway.operate("terminate", CONNECTION), Ok("down".to_owned()));
        assert_eq!(pinger.ping(100, Duration::from_millis(300)), Err(Unanswered::Silence));
        let row = sites.left.gateway.row("connections", |row| row["name"] == CONNECTION);
        assert_eq!(row["assigned"], serde_json::Value::Null, "{row}");
    });
}
