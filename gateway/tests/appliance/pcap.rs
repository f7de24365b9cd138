//! Capture files through a whole gateway: what is in one comes out of the other protected, and then the gateway ends.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};
use std::thread::available_parallelism;

use crate::files::Files;

/// As many as keep the workers busy for longer than it takes to tell them of SAs and policies.
const PACKETS: u32 = 10_000;
/// LINKTYPE_RAW: packets begin with their IP header.
const RAW: u32 = 101;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

const CONFIG: &str = "\
gateway: { control_socket: control.sock, state: state }
workers: { cores: [CORES], control_core: 0 }
ports:
  lan: { driver: pcap, read: in.pcap, addresses: [10.1.0.1/16] }
  wan: { driver: pcap, write: out.pcap, addresses: [198.51.100.1/24] }
manual_sas:
  lab:
    suite: aes128gcm16
    local: 198.51.100.1
    remote: 198.51.100.2
    outbound: { spi: 0x1001, key_file: out.key }
    inbound: { spi: 0x2001, key_file: in.key }
    selectors: { local: 10.1.0.0/16, remote: 10.2.0.0/16 }
policies: [ { action: bypass, local: 10.1.0.0/16, remote: 10.1.0.0/16 } ]
";

/// A capture file with nanoseconds.
fn capture(link: u32, packets: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let header = [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, link];
    let mut file = header.map(u32::to_le_bytes).concat();
    for packet in packets {
        let len = packet.len() as u32;
        file.extend([1, 0, len, len].map(u32::to_le_bytes).concat());
        file.extend(packet);
    }
    file
}

/// Link type and packets of a capture file that this machine wrote.
fn packets(file: &[u8]) -> (u32, Vec<Vec<u8>>) {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d);
    let (mut at, mut found) = (24, Vec::new());
    while at < file.len() {
        let len = word(at + 8) as usize;
        found.push(file[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    (word(20), found)
}

/// UDP from one of many ports of 10.1.0.5.
fn udp(number: u32, to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 5];
    packet.extend(to);
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend((number as u16).to_be_bytes());
    packet.extend([0x20, 0, 0, 12, 0, 0]);
    packet.extend(number.to_be_bytes());
    packet
}

/// Runs the gateway until it ends by itself.
fn run(files: &Files, cores: &str) -> Output {
    files.secret("pcap.yaml", &CONFIG.replace("CORES", cores));
    let mut gateway = Command::new("timeout");
    gateway.args(["60", env!("CARGO_BIN_EXE_spillway"), "run", "--config", "pcap.yaml"]);
    gateway.current_dir(files.path()).output().unwrap()
}

#[test]
fn every_packet_of_a_file_comes_out_protected_and_the_gateway_ends() {
    let cores: &[(&str, &[&str])] = &[("0", &["out.pcap"]), ("0, 1", &["out.pcap", "out.1.pcap"])];
    for (cores, outputs) in &cores[..available_parallelism().unwrap().get().min(2)] {
        let files = Files::new();
        // Of many hosts, since a host stays with one worker.
        let input = (0..PACKETS).map(|number| udp(number, [10, 2, 0, number as u8]));
        fs::write(files.path().join("in.pcap"), capture(RAW, input)).unwrap();
        let output = run(&files, cores);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{log}");
        let mut numbers = BTreeSet::new();
        for name in *outputs {
            let (link, sent) = packets(&fs::read(files.path().join(name)).unwrap());
            assert_eq!(link, RAW, "nobody can answer ARP");
            assert!(!sent.is_empty(), "{name}");
            for packet in sent {
                assert_eq!(
                    (packet[0], packet[9], &packet[12..16], &packet[16..20], &packet[20..24]),
                    (0x45, 50, &[198, 51, 100, 1][..], &[198, 51, 100, 2][..], &[0, 0, 0x10, 1][..])
                );
                assert!(numbers.insert(u32::from_be_bytes(packet[24..28].try_into().unwrap())));
            }
        }
        assert_eq!(numbers.len(), PACKETS as usize, "{log}");
        assert!(log.contains("all ports came to their end"), "{log}");
        assert!(log.contains(r#"the gateway has stopped drops="""#), "{log}");
    }
}

#[test]
fn what_cannot_be_sent_at_the_end_is_dropped_by_name() {
    let files = Files::new();
    // To a host on the same link, which does not answer.
    let frame =
        |number| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0][..], &udp(number, [10, 1, 0, 99])].concat();
    fs::write(files.path().join("in.pcap"), capture(ETHERNET, (0..2).map(frame))).unwrap();
    let output = run(&files, "0");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains(r#"the gateway has stopped drops="neighbour_unresolved 2""#), "{log}");
}
