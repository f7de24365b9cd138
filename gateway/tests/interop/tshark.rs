//! tshark reads what is on the wire between two gateways: with the keys it sees the inner packets and finds
//! their ICVs right, and in nothing that a gateway sends does it find a fault.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dataplane::crypto::Suite;

use crate::gateway::key;
use crate::netns::{Wire, privileged};
use crate::serial;
use crate::site::{Family, Plan, Sites, host_address, outer_address};
use crate::traffic::{Fragments, Pinger};

/// A suite, and what tshark calls its cipher and its integrity algorithm.
const SUITES: [(&str, &str, &str); 8] = [
    ("aes128gcm16", "AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
    ("aes256gcm16", "AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
    ("aes128-sha256", "AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"),
    ("aes192-sha384", "AES-CBC [RFC3602]", "HMAC-SHA-384-192 [RFC4868]"),
    ("aes256-sha512", "AES-CBC [RFC3602]", "HMAC-SHA-512-256 [RFC4868]"),
    ("3des-sha1", "TripleDES-CBC [RFC2451]", "HMAC-SHA-1-96 [RFC2404]"),
    ("null-sha256", "NULL", "HMAC-SHA-256-128 [RFC4868]"),
    ("null-sha1", "NULL", "HMAC-SHA-1-96 [RFC2404]"),
];

/// Data of the pings that are captured: every length of padding, and nothing that is fragmented.
const SIZES: [usize; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 100, 1000, 1300];

#[test]
fn tshark_opens_esp_with_the_keys_and_finds_the_icvs_right() {
    privileged(&["tshark"], || {
        let _alone = serial();
        for (index, (suite, cipher, integrity)) in SUITES.into_iter().enumerate() {
            let outer = if index % 2 == 0 { Family::V4 } else { Family::V6 };
            // tshark 4.0 knows no ESN.
            let plan = Plan { suite, outer, sa: ", esn: false, allow_weak: [sha1, 3des]", ..Plan::default() };
            let directory = tempfile::tempdir().unwrap();
            let capture = directory.path().join("wire.pcap");
            capture_pings(&plan, &SIZES, &capture);
            let keys = [sa(&plan, 1, cipher, integrity), sa(&plan, 2, cipher, integrity)];
            let mut options: Vec<&str> = keys.iter().flat_map(|key| ["-o", key.as_str()]).collect();
            for preference in [
                "esp.enable_encryption_decode:TRUE",
                "esp.enable_authentication_check:TRUE",
                "ip.check_checksum:TRUE",
            ] {
                options.extend(["-o", preference]);
            }

            let fields = "esp.sequence icmp.type icmp.checksum.status esp.icv_good esp.icv_bad data.len";
            let rows = tshark_fields(&capture, "esp", fields, &options);
            assert_eq!(rows.len(), 2 * SIZES.len(), "{suite}: {rows:?}");
            for kind in ["8", "0"] {
                let of_kind = rows.iter().filter(|row| row[1] == kind);
                for ((row, size), number) in of_kind.zip(SIZES).zip(1..) {
                    let size = if size == 0 { String::new() } else { size.to_string() };
                    let (checksum_good, icv_good, icv_bad) = ("1", "1", "0");
                    let expected = [&number.to_string(), kind, checksum_good, icv_good, icv_bad, &size];
                    assert_eq!(row.each_ref().map(String::as_str), expected, "{suite}");
                }
                assert_eq!(
                    rows.iter().filter(|row| row[1] == kind).count(),
                    SIZES.len(),
                    "{suite}: {rows:?}"
                );
            }
            assert_eq!(faults(&capture, &options), "", "{suite}");
        }
    });
}

#[test]
fn tshark_finds_no_malformed_packet_whatever_the_gateway_sends() {
    privileged(&["tshark"], || {
        let _alone = serial();
        let udp = ", encap: { local_port: 4500, remote_port: 4500 }, keepalive: 1s";
        for plan in [
            Plan { sa: udp, vlan: Some(7), ..Plan::default() },
            Plan { sa: udp, outer: Family::V6, ..Plan::default() },
            Plan { sa: ", fragmentation: after, df: clear", suite: "aes256-sha512", ..Plan::default() },
            Plan { sa: ", fragmentation: after, df: clear", outer: Family::V6, mtu: 1280, ..Plan::default() },
            Plan { sa: ", tfc_pad: 700", suite: "chacha20poly1305", ..Plan::default() },
            Plan { sa: ", protocol: ah", suite: "sha256", ..Plan::default() },
            Plan {
                sa: ", protocol: ah, fragmentation: after",
                suite: "sha512",
                outer: Family::V6,
                ..Plan::default()
            },
        ] {
            let directory = tempfile::tempdir().unwrap();
            let capture = directory.path().join("wire.pcap");
            let frames = capture_pings(&plan, &[0, 1, 99, 1386, 1387, 1472, 3000, 9000], &capture);
            assert!(frames > 30, "{frames}");
            assert_eq!(faults(&capture, &["-o", "ip.check_checksum:TRUE"]), "", "{} {}", plan.suite, plan.sa);
        }
    });
}

/// Pings from host to host, captures what both gateways send meanwhile, and writes it to a file. Returns the number
/// of frames.
fn capture_pings(plan: &Plan, sizes: &[usize], file: &Path) -> usize {
    let sites = Sites::new(plan);
    // A gateway's own packets do not pass the tap of its device: those of the left are captured on the right.
    let wires = [&sites.left, &sites.right].map(|site| Wire::open(&site.inside, "wan0"));
    let mut pinger = Pinger::new(sites.left.host(), host_address(Family::V4, 2), Fragments::Allowed);
    assert_eq!(pinger.ping_all(sizes.iter().copied()), 0, "{}", sites.drops());
    // All of it was received before the last answer was.
    let frames = wires.iter().flat_map(|wire| wire.collect(usize::MAX, Duration::from_millis(50)));
    let mut capture = pcap_header();
    let mut count = 0;
    for frame in frames {
        count += 1;
        let len = (frame.len() as u32).to_le_bytes();
        capture.extend([[0; 4], [0; 4], len, len].concat());
        capture.extend(frame);
    }
    fs::write(file, capture).unwrap();
    count
}

/// Magic number, version 2.4, no time zone, whole packets, Ethernet.
fn pcap_header() -> Vec<u8> {
    let words: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 1];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The SA of a sender as tshark wants it.
fn sa(plan: &Plan, sender: u8, cipher: &str, integrity: &str) -> String {
    let suite: Suite = plan.suite.parse().unwrap();
    let key = key(sender.into(), suite);
    // An encryption key (with its salt), then an integrity key.
    let encryption_len = if suite.is_aead() { key.len() } else { key.len() - 2 * suite.integrity_key_len() };
    let hex = |key: &str| if key.is_empty() { String::new() } else { format!("0x{key}") };
    let (encryption, authentication) = key.split_at(encryption_len);
    let family = if plan.outer == Family::V4 { "IPv4" } else { "IPv6" };
    let (from, to) = (outer_address(plan, sender), outer_address(plan, 3 - sender));
    format!(
        "uat:esp_sa:\"{family}\",\"{from}\",\"{to}\",\"0x0000{sender}001\",\"{cipher}\",\"{}\",\"{integrity}\",\"{}\"",
        hex(encryption),
        hex(authentication),
    )
}

/// Malformed packets, and everything that tshark calls an error, a line each.
fn faults(capture: &Path, options: &[&str]) -> String {
    let bad = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0";
    tshark(capture, &[&["-Y", bad], options].concat())
}

/// The values of fields in the packets that a filter takes.
fn tshark_fields<const N: usize>(
    capture: &Path,
    filter: &str,
    fields: &str,
    options: &[&str],
) -> Vec<[String; N]> {
    let mut arguments = vec!["-Y", filter, "-T", "fields"];
    arguments.extend(fields.split(' ').flat_map(|field| ["-e", field]));
    arguments.extend(options);
    let text = tshark(capture, &arguments);
    let row = |line: &str| {
        let mut columns: Vec<String> = line.split('\t').map(str::to_owned).collect();
        columns.resize(N, String::new());
        columns.try_into().unwrap_or_else(|columns| panic!("{columns:?}"))
    };
    text.lines().map(row).collect()
}

fn tshark(capture: &Path, arguments: &[&str]) -> String {
    let output = Command::new("tshark").arg("-r").arg(capture).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
