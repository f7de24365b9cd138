//! Ports that DPDK drives, over virtual devices: the same tunnels as over the kernel's sockets, and what only DPDK can
//! get wrong. Without huge pages, but for one test.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::gateway::{Files, Gateway, count};
use crate::netns::{Namespace, privileged};
use crate::serial;
use crate::site::{Driver, Family, Plan, Sites, TUNNEL, host_address};
use crate::traffic::{Direction, Fragments, Pinger, iperf3};
use crate::wait_for;

const AF_PACKET: Driver = Driver::Dpdk("net_af_packet{n},iface={device}");
const AF_PACKET_2: Driver = Driver::Dpdk("net_af_packet{n},iface={device},qpairs=2");
const AF_XDP: Driver = Driver::Dpdk("net_af_xdp{n},iface={device}");

const TOOLS: &[&str] = &["ethtool", "iperf3"];

#[test]
fn dpdk_pings_and_tcp_cross_net_af_packet() {
    tunnel(&Plan { wan: AF_PACKET, lan: AF_PACKET, ..Plan::default() }, 1);
}

#[test]
fn dpdk_pings_and_tcp_cross_net_af_xdp() {
    tunnel(&Plan { wan: AF_XDP, lan: AF_XDP, queues: 1, outer: Family::V6, ..Plan::default() }, 1);
}

/// Two workers a gateway, the first on the higher core: capsule counts queues by cores. On the left one of them is on
/// the control core, and so on the runtime's own thread.
#[test]
fn dpdk_two_workers_have_two_queues() {
    let cores = ["[1, 0]", "[1, 0]"];
    tunnel(&Plan { wan: AF_PACKET_2, lan: AF_PACKET_2, cores, ..Plan::default() }, 2);
}

/// One port is DPDK's, and the other is not.
#[test]
fn dpdk_and_the_kernel_share_a_gateway() {
    tunnel(&Plan { wan: AF_PACKET, lan: Driver::Tap, suite: "aes256-sha256", ..Plan::default() }, 1);
}

/// Pings and TCP through both gateways, then a clean end of both.
fn tunnel(plan: &Plan, workers: usize) {
    privileged(TOOLS, || {
        let _alone = serial();
        let sites = Sites::new(plan);
        for family in [Family::V4, Family::V6] {
            let to = host_address(family, 2);
            let mut pinger = Pinger::new(sites.left.host(), to, Fragments::Allowed);
            pinger.ping_until_answered(0, Duration::from_secs(30));
            // The kernel puts fragments together for net_af_packet, which cuts what is then longer than its frames.
            let largest = if plan.wan == AF_XDP { 4000 } else { 1900 };
            let lost = pinger.ping_all((0..100).map(|n| n * largest / 99));
            // An IPv6 host learns the tunnel's MTU by an error about a packet that is then lost: once each side.
            assert!(
                lost <= if family == Family::V6 { 2 } else { 0 },
                "{family:?}: {lost} lost; {}",
                sites.drops()
            );
            for direction in [Direction::FromClient, Direction::FromServer] {
                let bytes = iperf3(sites.left.host(), sites.right.host(), to, direction, 1);
                assert!(bytes >= 1_250_000, "{family:?} {direction:?}: {bytes} bytes; {}", sites.drops());
            }
        }
        let Sites { left, right, .. } = sites;
        for site in [left, right] {
            for direction in ["inbound", "outbound"] {
                let sa = site.gateway.sa(TUNNEL, direction);
                assert!(count(&sa["packets"]) >= 200, "{sa}");
            }
            let wan = port(&site.gateway, "wan");
            assert_eq!(wan["driver"], "dpdk", "{wan}");
            assert_eq!(wan["queues"], workers, "{wan}");
            ends_well(site.gateway);
        }
    });
}

/// SIGTERM ends a gateway, and nothing in it complains or dies on the way.
fn ends_well(gateway: Gateway) {
    let (status, _, files) = gateway.terminate();
    let log = fs::read_to_string(files.path("log")).unwrap();
    assert_eq!(status.code(), Some(0), "{status}: {log}");
    assert!(
        log.contains("the gateway has stopped") && !log.contains("ERROR") && !log.contains("died"),
        "{log}"
    );
}

fn port(gateway: &Gateway, name: &str) -> Value {
    gateway.row("ports", |row| row["name"] == name)
}

/// A gateway between two capture files of DPDK's own driver: what is read comes out as ESP.
#[test]
fn dpdk_reads_and_writes_captures() {
    privileged(&[], || {
        let _alone = serial();
        let namespace = Namespace::new();
        let mut files = Files::new();
        files.new_key("out.key", "aes128gcm16".parse().unwrap());
        files.new_key("in.key", "aes128gcm16".parse().unwrap());
        let (read, written) = (files.path("in.pcap"), files.path("out.pcap"));
        const PACKETS: usize = 20;
        fs::write(&read, capture(PACKETS)).unwrap();
        let yaml = format!(
            "dpdk: {{ huge_pages: none, memory: 128MiB }}\n\
             workers: {{ cores: [1], control_core: 0, idle: adaptive }}\n\
             ports:\n\
             \x20 lan: {{ driver: dpdk, device: 'net_pcap0,rx_pcap={},infinite_rx=1', addresses: [10.1.0.1/16] }}\n\
             \x20 wan: {{ driver: dpdk, device: 'net_pcap1,tx_pcap={}', addresses: [198.51.100.1/24] }}\n\
             routes: [ {{ to: 0.0.0.0/0, via: 198.51.100.2 }} ]\n\
             manual_sas:\n\
             \x20 site: {{ suite: aes128gcm16, local: 198.51.100.1, remote: 203.0.113.1,\n\
             \x20   outbound: {{ spi: 0x1001, key_file: out.key }}, inbound: {{ spi: 0x2001, key_file: in.key }},\n\
             \x20   selectors: {{ local: [10.1.0.0/16], remote: [10.2.0.0/16] }} }}\n",
            read.display(),
            written.display(),
        );
        let gateway = Gateway::start(&namespace, files, &yaml);
        // Nobody answers ARP in a capture, so the packets wait for the router, encapsulated: the SA has counted them.
        // What is read before the policies are there is discarded; the capture is read over and over.
        wait_for("the capture to be protected", || {
            (count(&gateway.sa("site", "outbound")["packets"]) >= PACKETS as u64).then_some(())
        });
        wait_for("an ARP request", || (count(&port(&gateway, "wan")["tx_packets"]) > 0).then_some(()));
        let (status, _, files) = gateway.terminate();
        assert_eq!(status.code(), Some(0), "{status}");
        let out = fs::read(files.path("out.pcap")).unwrap();
        // The first frame after the file's and the packet's header is a broadcast ARP request.
        assert_eq!(out.get(40..46), Some(&[0xff; 6][..]));
        assert_eq!(out.get(52..54), Some(&[8, 6][..]));
    });
}

/// A capture of UDP packets from 10.1.0.2 to 10.2.0.2, to the address that net_pcap0 has.
fn capture(packets: usize) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for _ in 0..packets {
        let mut frame = vec![2, b'p', b'c', b'a', b'p', 0];
        frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
        let mut header = vec![0x45, 0, 0, 28 + 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2];
        let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend([4, 0, 4, 1, 0, 40, 0, 0]);
        frame.extend([7; 32]);
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// Huge pages are free again when the gateway has ended, also when it was killed.
#[test]
fn dpdk_gives_huge_pages_back() {
    privileged(&[], || {
        let _alone = serial();
        let pages = HugePages::reserve(96);
        let namespace = Namespace::new();
        for kill in [false, true] {
            let free = HugePages::free();
            let yaml = "dpdk: { huge_pages: auto, memory: 128MiB }\n\
                        workers: { cores: [1], control_core: 0, idle: adaptive }\n\
                        ports: { wan: { driver: dpdk, device: 'net_null0,no-rx=1', addresses: [198.51.100.1/24] } }\n";
            let gateway = Gateway::start(&namespace, Files::new(), yaml);
            assert_eq!(port(&gateway, "wan")["features"]["huge_pages"], "on");
            assert!(HugePages::free() + 64 <= free, "{} of {free} pages are free", HugePages::free());
            if kill {
                drop(gateway);
            } else {
                ends_well(gateway);
            }
            wait_for("the pages to be free", || (HugePages::free() == free).then_some(()));
        }
        drop(pages);
    });
}

/// Huge pages of 2 MiB that were reserved for a test; as many as before when dropped.
struct HugePages {
    before: String,
}

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

impl HugePages {
    fn reserve(more: u64) -> Self {
        let before =
            fs::read_to_string(format!("{PAGES}/nr_hugepages")).expect("reads the number of huge pages");
        let wanted = before.trim().parse::<u64>().unwrap() + more;
        fs::write(format!("{PAGES}/nr_hugepages"), wanted.to_string()).expect("reserves huge pages");
        let reserved = Self { before };
        assert!(Self::free() >= more, "the kernel has no {more} huge pages in one piece");
        reserved
    }

    fn free() -> u64 {
        fs::read_to_string(format!("{PAGES}/free_hugepages")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _as_before = fs::write(format!("{PAGES}/nr_hugepages"), &self.before);
    }
}

/// What cannot start is refused with the command that mends it, by `check` before anything starts, and by `run`.
#[test]
fn dpdk_says_what_mends_what_it_cannot_do() {
    privileged(&[], || {
        let _alone = serial();
        let cases = [
            ("device: 'net_af_packet0,iface=nothing0'", "none", "there is no interface nothing0"),
            ("device: '0000:ff:1f.7'", "none", "no PCI device 0000:ff:1f.7: `lspci -D`"),
            ("device: 'net_nothing0'", "none", "this DPDK has no driver net_nothing"),
            ("device: 'net_null0'", "auto", "or go without, slower, with `dpdk: { huge_pages: none }`"),
            ("device: eth0", "none", "expected a PCI address such as 0000:65:00.0"),
        ];
        for (device, huge_pages, expected) in cases {
            let files = Files::new();
            let text = format!(
                "gateway: {{ control_socket: control.sock, state: off }}\n\
                 dpdk: {{ huge_pages: {huge_pages}, memory: 1TiB }}\n\
                 ports: {{ wan: {{ driver: dpdk, {device}, addresses: [198.51.100.1/24] }} }}\n"
            );
            fs::write(files.path("gateway.yaml"), text).unwrap();
            for command in ["check", "run"] {
                let (_, said, code) = files.spillway(&[command, "--config", "gateway.yaml"]);
                assert_eq!(code, Some(1), "{command}: {said}");
                assert!(said.contains(expected), "{command}: {said}");
            }
        }
    });
}

/// A device with fewer queues than there are workers: what DPDK and capsule say becomes what to do.
#[test]
fn dpdk_says_when_queues_are_too_few() {
    privileged(&[], || {
        let _alone = serial();
        let files = Files::new();
        let text = "gateway: { control_socket: control.sock, state: off }\n\
                    dpdk: { huge_pages: none, memory: 256MiB }\n\
                    workers: { cores: [0, 1], control_core: 0 }\n\
                    ports: { wan: { driver: dpdk, device: 'net_pcap0,rx_iface=lo,tx_iface=lo', addresses: [198.51.100.1/24] } }\n";
        fs::write(files.path("gateway.yaml"), text).unwrap();
        let (_, said, code) = files.spillway(&["run", "--config", "gateway.yaml"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("fewer queues than the 2 workers"), "{said}");
    });
}
