//! tshark with the key log opens what two gateways say to each other, and finds no fault in it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::netns::{Wire, privileged};
use crate::site::{CONNECTION, Connection, Sites, TUNNEL};
use crate::{serial, wait_for};

#[test]
fn tshark_with_the_key_log_opens_an_exchange_and_finds_nothing_malformed() {
    privileged(&["tshark"], || {
        let _alone = serial();
        let keys = Connection {
            top: "log: { key_log: keys }\n",
            ike: "proposals: [aes256-sha256-prfsha256-x25519]",
            // tshark 4.0 knows no ESN.
            child: "start: wait, proposals: [aes128gcm16-noesn]",
            ..Connection::default()
        };
        let sites = Sites::new(&keys, &Connection { top: "", ..keys.clone() });
        let wires = [&sites.left, &sites.right].map(|site| Wire::open(&site.inside, "wan0"));
        let gateway = &sites.left.gateway;
        assert_eq!(gateway.operate("initiate", CONNECTION), Ok("up".to_owned()));
        sites.ping();
        assert_eq!(gateway.operate("rekey", TUNNEL), Ok("rekeyed".to_owned()));
        assert_eq!(gateway.operate("rekey", CONNECTION), Ok("rekeyed".to_owned()));
        assert_eq!(gateway.operate("terminate", CONNECTION), Ok("down".to_owned()));
        wait_for("the other end to follow", || (!sites.right.is_up()).then_some(()));
        assert!(gateway.log().contains("ALL KEYS"), "a loud warning");

        // A gateway's own packets do not pass the tap of its device: those of the left are captured on the right.
        let frames = wires.iter().flat_map(|wire| wire.collect(usize::MAX, Duration::from_millis(200)));
        let frames: Vec<_> = frames.collect();
        let directory = tempfile::tempdir().unwrap();
        let capture = directory.path().join("wire.pcap");
        write_pcap(&capture, &frames);
        let lines = fs::read_to_string(gateway.files.path("keys")).unwrap();
        let (esp, ike): (Vec<_>, Vec<_>) = lines.lines().partition(|line| line.starts_with('"'));
        assert_eq!(ike.len(), 2, "the first IKE SA and its successor");
        assert!(esp.len() >= 4, "two directions, and again after the rekey: {}", esp.len());
        let mut options = Vec::new();
        for line in esp {
            options.extend(["-o".to_owned(), format!("uat:esp_sa:{line}")]);
        }
        for line in ike {
            options.extend(["-o".to_owned(), format!("uat:ikev2_decryption_table:{line}")]);
        }
        options.extend(["-o".to_owned(), "esp.enable_encryption_decode:TRUE".to_owned()]);

        // What is only to be seen in decrypted messages: identities, AUTH, traffic selectors, deletes.
        let inner =
            ["isakmp.id.data.fqdn", "isakmp.auth.data", "isakmp.ts.start_ipv4", "isakmp.delete.protoid"];
        for field in inner {
            assert!(!tshark(&capture, &options, &["-Y", field]).is_empty(), "{field}");
        }
        let sealed = tshark(&capture, &options, &["-Y", "isakmp.typepayload == 46 && !isakmp.enc.decrypted"]);
        assert_eq!(sealed, "", "all of it is opened");
        assert!(!tshark(&capture, &options, &["-Y", "esp && icmp"]).is_empty(), "the pings are seen");
        let faults = tshark(&capture, &options, &["-Y", "_ws.malformed || _ws.expert.severity == error"]);
        assert_eq!(faults, "");
    });
}

fn write_pcap(file: &Path, frames: &[Vec<u8>]) {
    // Magic number, version 2.4, no time zone, whole packets, Ethernet.
    let words: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 1];
    let mut capture: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for frame in frames {
        let len = (frame.len() as u32).to_le_bytes();
        capture.extend([[0; 4], [0; 4], len, len].concat());
        capture.extend(frame);
    }
    fs::write(file, capture).unwrap();
}

fn tshark(capture: &Path, options: &[String], arguments: &[&str]) -> String {
    let output =
        Command::new("tshark").arg("-r").arg(capture).args(arguments).args(options).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
