//! Ports that DPDK drives, over virtual devices: the same tunnels as over the kernel's sockets, and what only DPDK can
//! get wrong. Without huge pages, but for one test.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Files, Gateway, count};
use crate::netns::{Namespace, privileged};
use crate::serial;
use crate::site::{Driver, Family, Plan, Site, Sites, TUNNEL, host_address};
use crate::traffic::{Direction, Fragments, Pinger, iperf3};
use crate::wait_for;

const AF_PACKET: Driver = Driver::Dpdk("net_af_packet{n},iface={device}");
const AF_PACKET_2: Driver = Driver::Dpdk("net_af_packet{n},iface={device},qpairs=2");
const AF_XDP: Driver = Driver::Dpdk("net_af_xdp{n},iface={device}");
/// libpcap on an interface: frames of any length. The interface's address, because the driver's own are the same in all
/// processes. What is sent is received too.
const PCAP: Driver = Driver::Dpdk("net_pcap{n},iface={device},phy_mac=1");

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
        for site in [&sites.left, &sites.right] {
            all_workers_carry(site, workers);
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
            let Driver::Dpdk(device) = plan.wan else { panic!("a WAN port of another driver") };
            let pmd = device.split_once('{').unwrap().0;
            // Virtual devices can do none of this, and say so.
            let expected = json!({
                "pmd": pmd, "descriptors": "1024", "rss": "off", "rss_key": "the driver's", "esp_by_spi": "off",
                "ike_to_worker_0": "off", "rx_checksum": "off", "fast_free": "off", "huge_pages": "off",
            });
            assert_eq!(wan["features"], expected);
            ends_well(site.gateway);
        }
    });
}

/// Flows of the host come to every worker, through its own queue of the LAN port.
fn all_workers_carry(site: &Site, workers: usize) {
    const FLOWS: u16 = 200;
    let received = || -> Vec<u64> {
        let rows = site.gateway.show("workers");
        rows.as_array().unwrap().iter().map(|row| count(&row["rx_packets"])).collect()
    };
    let before = received();
    assert_eq!(before.len(), workers);
    site.host().run(|| {
        // To the discard port of a host that is not there.
        for port in 40_000..40_000 + FLOWS {
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            let to = if site.yaml.contains("10.1.0.1/16") { "10.2.0.99:9" } else { "10.1.0.99:9" };
            socket.send_to(b"flow", to).unwrap();
        }
    });
    wait_for("packets at every worker", || {
        let more: Vec<u64> = received().iter().zip(&before).map(|(after, before)| after - before).collect();
        // Far less than the hash gives to each of two, and far more than comes by itself.
        more.iter().all(|&more| more >= u64::from(FLOWS) / 8).then_some(())
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

/// A row of `show ports`.
pub fn port(gateway: &Gateway, name: &str) -> Value {
    gateway.row("ports", |row| row["name"] == name)
}

/// Packets of 9,000 bytes, from end to end and in one piece.
#[test]
fn dpdk_carries_jumbo_frames() {
    privileged(TOOLS, || {
        let _alone = serial();
        let sites = Sites::new(&Plan { wan: PCAP, lan: PCAP, mtu: 9216, queues: 1, ..Plan::default() });
        for (family, headers) in [(Family::V4, 20 + 8), (Family::V6, 40 + 8)] {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Forbidden);
            pinger.ping_until_answered(0, Duration::from_secs(30));
            let lost = pinger.ping_all([1472, 8000, 9000 - headers].into_iter());
            assert_eq!(lost, 0, "{family:?}: {}", sites.drops());
        }
        let Sites { left, right, .. } = sites;
        for site in [left, right] {
            for name in ["wan", "lan"] {
                let row = port(&site.gateway, name);
                assert_eq!((&row["driver"], &row["mtu"]), (&json!("dpdk"), &json!(9216)), "{row}");
            }
            for direction in ["inbound", "outbound"] {
                let sa = site.gateway.sa(TUNNEL, direction);
                // As the SA counts them: inner packets, none of them a fragment.
                assert!(
                    count(&sa["bytes"]) >= 2 * (9000 + 8000 + 1500) - 100 && count(&sa["packets"]) < 200,
                    "{sa}"
                );
            }
            ends_well(site.gateway);
        }
    });
}

/// Devices whose frames are shorter than the MTU that is asked for: they start, and say what they carry.
#[test]
fn dpdk_tells_the_mtu_of_the_device() {
    privileged(&[], || {
        let _alone = serial();
        let [namespace, other] = [Namespace::new(), Namespace::new()];
        namespace.join("wan0", &other, "wan0", 1, 1500);
        for device in [
            "net_memif0,role=server,socket-abstract=no,socket=memif.sock",
            "net_af_packet0,iface=wan0,framesz=4096",
        ] {
            let files = Files::new();
            let device = device.replace("memif.sock", files.path("memif.sock").to_str().unwrap());
            let yaml = format!(
                "dpdk: {{ huge_pages: none, memory: 256MiB }}\n\
                 workers: {{ cores: [1], control_core: 0, idle: adaptive }}\n\
                 ports: {{ wan: {{ driver: dpdk, device: '{device}', mtu: 9000, addresses: [198.51.100.1/24] }} }}\n"
            );
            let gateway = Gateway::start(&namespace, files, &yaml);
            let wan = port(&gateway, "wan");
            assert_eq!(wan["mtu"], 1500, "{wan}");
            assert!(gateway.log().contains("carries no packets as large"), "{}", gateway.log());
            ends_well(gateway);
        }
    });
}

/// What a device can do is on, and told: net_tap spreads packets over queues by our key, and checks checksums.
#[test]
fn dpdk_tells_what_is_on() {
    privileged(&[], || {
        let _alone = serial();
        let namespace = Namespace::new();
        let yaml = "dpdk: { huge_pages: none, memory: 256MiB }\n\
                    workers: { cores: [1, 0], control_core: 0, idle: adaptive }\n\
                    ports: { wan: { driver: dpdk, device: 'net_tap0,iface=dtap0', descriptors: 256, addresses: [198.51.100.1/24] } }\n";
        let gateway = Gateway::start(&namespace, Files::new(), yaml);
        let wan = port(&gateway, "wan");
        let mut features = wan["features"].clone();
        // Its rules are the kernel's (flower), which not every kernel has.
        for rule in ["esp_by_spi", "ike_to_worker_0"] {
            let told = features.as_object_mut().unwrap().remove(rule);
            assert!(
                [Some(json!("off")), Some(json!("on")), Some(json!("flow rule"))].contains(&told),
                "{wan}"
            );
        }
        let expected = json!({
            "pmd": "net_tap", "descriptors": "256", "rss": "ip+tcp+udp", "rss_key": "random", "rx_checksum": "on",
            "fast_free": "off", "huge_pages": "off",
        });
        assert_eq!(features, expected);
        ends_well(gateway);
    });
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
        let [namespace, other] = [Namespace::new(), Namespace::new()];
        namespace.join("wan0", &other, "wan0", 2, 1500);
        for (device, expected) in [
            ("net_pcap0,rx_iface=lo,tx_iface=lo", "fewer queues than the 2 workers"),
            // DPDK's driver counts combined channels, and a veth pair has channels to receive and channels to send.
            ("net_af_xdp0,iface=wan0,queue_count=2", "`ethtool -L INTERFACE combined 2`"),
        ] {
            let files = Files::new();
            let text = format!(
                "gateway: {{ control_socket: control.sock, state: off }}\n\
                 dpdk: {{ huge_pages: none, memory: 256MiB }}\n\
                 workers: {{ cores: [0, 1], control_core: 0 }}\n\
                 ports: {{ wan: {{ driver: dpdk, device: '{device}', addresses: [198.51.100.1/24] }} }}\n"
            );
            fs::write(files.path("gateway.yaml"), text).unwrap();
            let (_, said, code) = namespace.run(|| files.spillway(&["run", "--config", "gateway.yaml"]));
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(expected), "{said}");
        }
    });
}
