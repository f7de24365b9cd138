//! What operators rely on: clean ends, counters that agree, VLANs, several workers, neighbours that move.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::gateway::{Files, Gateway, count};
use crate::netns::{Namespace, Wire, privileged};
use crate::site::{Driver, Family, Plan, Sites, TUNNEL, host_address};
use crate::traffic::{Direction, Fragments, Pinger, iperf3};
use crate::waiting::SetOnDrop;
use crate::{PATIENCE, serial, wait_for};

#[test]
fn sigterm_under_traffic_ends_the_gateway_with_0_at_once() {
    privileged(&[], || {
        let _alone = serial();
        let Sites { left, right, .. } = Sites::new(&Plan::default());
        let to = host_address(Family::V4, 2);
        Pinger::new(left.host(), to, Fragments::Allowed).ping_until_answered(0, PATIENCE);
        let flood = left.host().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    // The host may have no room for more, or hear that nobody listens.
                    let _sent = flood.send_to(&[7; 1000], (to, 9));
                }
            });
            // The flood ends with the scope, also when an assertion ends it.
            let _enough = SetOnDrop(&enough);
            let carried = || count(&left.gateway.sa(TUNNEL, "outbound")["packets"]);
            wait_for("traffic", || (carried() > 1000).then_some(()));
            for gateway in [right.gateway, left.gateway] {
                let (status, took, files) = gateway.terminate();
                assert_eq!(status.code(), Some(0), "{status}");
                assert!(took < Duration::from_secs(3), "{took:?}");
                assert!(!files.path("control.sock").exists(), "the control socket is gone");
            }
        });
    });
}

#[test]
fn show_and_metrics_count_what_passed() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { metrics: Some("127.0.0.1:9464"), ..Plan::default() });
        let gateway = &sites.left.gateway;
        let to = host_address(Family::V4, 2);
        let mut pinger = Pinger::new(sites.left.host(), to, Fragments::Allowed);
        assert_eq!(pinger.ping_all((0..100).map(|_| 1000)), 0);
        for direction in ["inbound", "outbound"] {
            let sa = gateway.sa(TUNNEL, direction);
            assert_eq!((count(&sa["packets"]), count(&sa["bytes"])), (100, 100 * 1028), "{sa}");
            assert_eq!(count(&sa["sequence"]), 100, "{sa}");
        }
        let tunnel = gateway.row("tunnels", |row| row["name"] == TUNNEL);
        assert_eq!(tunnel["up"], true);
        assert_eq!(count(&tunnel["outbound"]["packets"]), 100);
        let status = gateway.show("status");
        assert_eq!(
            (count(&status["tunnels"]), count(&status["tunnels_up"]), count(&status["sas"])),
            (1, 1, 2)
        );
        // 14 + 20 + 8 + 8 + 1028 + 2 + 2 + 16 bytes a packet on the wire, and little else.
        let wan = gateway.row("ports", |row| row["name"] == "wan")["tx_bytes"].clone();
        assert!((109_800..120_000).contains(&count(&wan)), "{wan}");
        let neighbours = gateway.show("neighbours");
        assert_eq!(neighbours.as_array().unwrap().len(), 2, "{neighbours}");
        assert!(neighbours.as_array().unwrap().iter().all(|row| row["mac"].is_string()), "{neighbours}");

        // The metrics are read once a second.
        let metric = |name: &str| metric(&sites.left.inside, name);
        let labels = |direction| format!("{{tunnel=\"{TUNNEL}\",direction=\"{direction}\"}}");
        for direction in ["inbound", "outbound"] {
            wait_for("the metrics", || {
                let packets = metric(&format!("spillway_tunnel_packets_total{}", labels(direction)));
                (packets == 100.0).then_some(())
            });
            assert_eq!(metric(&format!("spillway_tunnel_bytes_total{}", labels(direction))), 102_800.0);
        }
        assert_eq!(metric("spillway_sas"), 2.0);
        assert_eq!(metric(&format!("spillway_tunnel_up{{tunnel=\"{TUNNEL}\"}}")), 1.0);

        // Whoever asks right after a packet, and just after somebody else asked, sees it.
        for more in 1..=5 {
            assert_eq!(pinger.ping_all([1000].into_iter()), 0);
            assert_eq!(count(&gateway.sa(TUNNEL, "inbound")["packets"]), 100 + more);
        }
    });
}

/// A value of the metrics at 127.0.0.1:9464 in a namespace.
fn metric(namespace: &Namespace, name: &str) -> f64 {
    let page = namespace.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9464").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    });
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[test]
fn a_vlan_port_tags_what_it_sends_and_drops_what_is_not_tagged() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { vlan: Some(7), ..Plan::default() });
        let wire = Wire::open(&sites.right.inside, "wan0");
        for family in [Family::V4, Family::V6] {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Allowed);
            assert_eq!(pinger.ping_all([0, 500, 1000].into_iter()), 0);
        }
        // What the left gateway sent; what a gateway sends itself does not pass the tap of its own device.
        let frames = wire.collect(6, PATIENCE);
        assert_eq!(frames.len(), 6);
        assert!(frames.iter().all(|frame| frame[12..16] == [0x81, 0, 0, 7]), "{frames:02x?}");
        assert_eq!(sites.right.gateway.drops("vlan_unknown"), 0);
        let mut untagged = frames.into_iter().find(|frame| frame[16..18] == [8, 0]).unwrap();
        untagged.drain(12..16);
        Wire::open(&sites.left.inside, "wan0").send(&untagged);
        wait_for("the drop", || (sites.right.gateway.drops("vlan_unknown") == 1).then_some(()));
    });
}

#[test]
fn two_workers_share_the_sas_of_a_tunnel() {
    privileged(&["iperf3"], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { cores: ["[0, 1]", "[0, 1]"], ..Plan::default() });
        for family in [Family::V4, Family::V6] {
            let to = host_address(family, 2);
            let mut pinger = Pinger::new(sites.left.host(), to, Fragments::Allowed);
            pinger.ping_until_answered(0, PATIENCE);
            for direction in [Direction::FromClient, Direction::FromServer] {
                let bytes = iperf3(sites.left.host(), sites.right.host(), to, direction, 8);
                assert!(bytes > 1_000_000, "{family:?} {direction:?}: {bytes}; {}", sites.drops());
            }
        }
        for site in [&sites.left, &sites.right] {
            let workers = site.gateway.show("workers");
            let received: Vec<_> = rows(&workers).map(|worker| count(&worker["rx_packets"])).collect();
            assert!(received.len() == 2 && received.iter().all(|&packets| packets > 100), "{workers}");
            // No number was given out twice, and none was refused.
            let sa = site.gateway.sa(TUNNEL, "inbound");
            assert_eq!(sa["drops"], serde_json::json!({}), "{sa}");
        }
        // Once the last packets of the streams are through: both figures are not read at the same moment.
        wait_for("as many packets sent as numbers taken", || {
            let sa = sites.left.gateway.sa(TUNNEL, "outbound");
            (count(&sa["sequence"]) == count(&sa["packets"])).then_some(())
        });
    });
}

fn rows(table: &Value) -> impl Iterator<Item = &Value> {
    table.as_array().expect("a table").iter()
}

#[test]
fn a_peer_that_restarts_with_a_new_mac_is_found_again() {
    privileged(&[], || {
        let _alone = serial();
        for outer in [Family::V4, Family::V6] {
            // Its sequence numbers go on, so the replay window lets it in.
            let plan = Plan { outer, ..Plan::default() };
            let Sites { left, right, .. } = Sites::new(&plan);
            let mut pinger = Pinger::new(left.host(), host_address(Family::V4, 2), Fragments::Allowed);
            pinger.ping_until_answered(0, PATIENCE);
            let right = right.restart(|inside| drop(inside.ip("link set wan0 address 02:00:00:00:77:77")));
            pinger.ping_until_answered(0, Duration::from_secs(5));
            let neighbours = left.gateway.show("neighbours");
            assert!(rows(&neighbours).any(|row| row["mac"] == "02:00:00:00:77:77"), "{neighbours}");
            drop(right);
        }
    });
}

#[test]
fn a_host_that_moves_to_a_new_mac_is_found_again() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan::default());
        let host = sites.right.host();
        for family in [Family::V4, Family::V6] {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Allowed);
            pinger.ping_until_answered(0, PATIENCE);
        }
        // It says so on the link, as hosts do: gratuitous ARP, unsolicited advertisement.
        host.set("net/ipv4/conf/eth0/arp_notify", "1");
        host.set("net/ipv6/conf/eth0/ndisc_notify", "1");
        host.ip("link set eth0 address 02:00:00:00:88:88");
        for family in [Family::V4, Family::V6] {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Allowed);
            pinger.ping_until_answered(0, Duration::from_secs(5));
        }
    });
}

#[test]
fn an_idle_worker_of_af_packet_costs_less_than_two_percent_of_its_core() {
    idle(&[], &Plan { cores: ["[0, 1]", "[0]"], ..Plan::default() });
}

#[test]
fn an_idle_worker_of_af_xdp_costs_less_than_two_percent_of_its_core() {
    let plan = Plan { wan: Driver::AfXdp, lan: Driver::AfXdp, ..Plan::default() };
    idle(&["ethtool"], &Plan { cores: ["[0, 1]", "[0, 1]"], ..plan });
}

#[test]
fn an_idle_worker_of_tap_costs_less_than_two_percent_of_its_core() {
    idle(&[], &Plan { lan: Driver::Tap, cores: ["[0, 1]", "[0]"], ..Plan::default() });
}

/// The left gateway's workers, two of them, when nothing comes.
fn idle(tools: &[&str], plan: &Plan) {
    privileged(tools, || {
        let _alone = serial();
        let sites = Sites::new(plan);
        let gateway = &sites.left.gateway;
        Pinger::new(sites.left.host(), host_address(Family::V4, 2), Fragments::Allowed)
            .ping_until_answered(0, PATIENCE);
        let pid = count(&gateway.show("status")["pid"]);
        let (before, since) = (worker_ticks(pid), Instant::now());
        std::thread::sleep(Duration::from_secs(5));
        let (after, took) = (worker_ticks(pid), since.elapsed());
        assert_eq!(before.len(), 2, "{before:?}");
        for (worker, ticks) in after {
            // A tick is a hundredth of a second.
            let share = (ticks - before[&worker]) as f64 / took.as_secs_f64();
            assert!(share < 2.0, "{worker}: {share:.2} % of a core");
        }
        assert!(rows(&gateway.show("workers")).all(|worker| count(&worker["sleeps"]) > 0));
    });
}

#[test]
fn a_worker_stays_on_its_core() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { cores: ["[0, 1]", "[1]"], ..Plan::default() });
        for (site, expected) in
            [(&sites.left, &[("worker-0", "0"), ("worker-1", "1")][..]), (&sites.right, &[("worker-0", "1")])]
        {
            let pid = count(&site.gateway.show("status")["pid"]);
            let expected = expected.iter().map(|&(name, cores)| (name.to_owned(), cores.to_owned()));
            assert_eq!(worker_cores(pid), expected.collect::<BTreeMap<_, _>>());
        }
    });
}

/// The cores that each worker of a process may run on.
fn worker_cores(pid: u64) -> BTreeMap<String, String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
    let statuses = threads.map(|thread| fs::read_to_string(thread.join("status")).unwrap());
    let cores = statuses.map(|status| {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap().trim().to_owned()
        };
        (field("Name"), field("Cpus_allowed_list"))
    });
    cores.filter(|(name, _)| name.starts_with("worker-")).collect()
}

/// Both gateways on one core, so that the other stays free.
#[test]
fn a_worker_that_spins_never_sleeps_and_answers() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { idle: "spin", cores: ["[1]", "[1]"], ..Plan::default() });
        for family in [Family::V4, Family::V6] {
            let mut pinger = Pinger::new(sites.left.host(), host_address(family, 2), Fragments::Allowed);
            pinger.ping_until_answered(0, PATIENCE);
            assert_eq!(pinger.ping_all([0, 56, 1000].into_iter()), 0);
        }
        for site in [&sites.left, &sites.right] {
            let worker = site.gateway.row("workers", |row| row["index"] == 0);
            assert_eq!(count(&worker["sleeps"]), 0, "{worker}");
            assert!(count(&worker["empty_polls"]) > 10_000, "{worker}");
        }
    });
}

#[test]
fn sigterm_drops_by_name_what_still_waits() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan::default());
        let to = host_address(Family::V4, 2);
        Pinger::new(sites.left.host(), to, Fragments::Allowed).ping_until_answered(0, PATIENCE);
        let right = sites.right.gateway;
        let before = count(&right.sa(TUNNEL, "inbound")["packets"]);
        // Through the tunnel, to a host that is not there: the gateway asks for it for three seconds.
        let socket = sites.left.host().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.send_to(&[7; 100], ("10.2.0.77", 9)).unwrap();
        wait_for("the packet", || (count(&right.sa(TUNNEL, "inbound")["packets"]) > before).then_some(()));
        assert_eq!(right.drops("neighbour_unresolved"), 0, "it waits");
        let (status, _, files) = right.terminate();
        assert_eq!(status.code(), Some(0), "{status}");
        let log = fs::read_to_string(files.path("log")).unwrap();
        let last = log.lines().find(|line| line.contains("the gateway has stopped")).unwrap();
        assert!(last.contains("neighbour_unresolved 1"), "{last}");
    });
}

#[test]
fn the_drops_of_workers_by_name_add_up_to_all() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { cores: ["[0, 1]", "[0]"], ..Plan::default() });
        let wire = Wire::open(&sites.right.inside, "wan0");
        // ESP with an unknown SPI, from many addresses so that both workers get some, and frames for somebody else.
        let mac = sites.left.gateway.row("ports", |row| row["name"] == "wan")["mac"].clone();
        let mac: Vec<u8> =
            mac.as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        for number in 0..64u8 {
            let mut frame = [&mac[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
            frame.extend(esp(number));
            wire.send(&frame);
            frame[5] ^= 1;
            wire.send(&frame);
        }
        let gateway = &sites.left.gateway;
        wait_for("the drops", || (gateway.drops("spi_unknown") == 64).then_some(()));
        // Both are read at the same moment, or at the next.
        wait_for("sums that agree", || {
            let mut sums = BTreeMap::<String, u64>::new();
            for worker in rows(&gateway.show("workers")) {
                for (reason, packets) in worker["drops"].as_object().unwrap() {
                    *sums.entry(reason.clone()).or_default() += count(packets);
                }
            }
            let drops = gateway.show("drops");
            let drops = rows(&drops).map(|row| (row["reason"].as_str().unwrap(), count(&row["packets"])));
            let all: BTreeMap<_, _> = drops
                .filter(|(reason, packets)| *packets > 0 && !reason.starts_with("ike_"))
                .map(|(reason, packets)| (reason.to_owned(), packets))
                .collect();
            (sums == all).then_some(())
        });
    });
}

/// An ESP packet from 198.51.100.`number` to the left gateway with an SPI that nobody has.
fn esp(number: u8) -> Vec<u8> {
    let mut packet =
        vec![0x45, 0, 0, 68, 0, 0, 0, 0, 64, 50, 0, 0, 198, 51, 100, 100 + number, 198, 51, 100, 1];
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend([0x77, 0x77, 0x77, number]);
    packet.resize(68, 0);
    packet
}

/// CPU time that each worker of a process has used, in clock ticks: `utime` and `stime` in the `stat` of its thread.
fn worker_ticks(pid: u64) -> BTreeMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
    let stats = threads.map(|thread| fs::read_to_string(thread.join("stat")).unwrap());
    let ticks = stats.map(|stat| {
        let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        (name.to_owned(), ticks)
    });
    ticks.filter(|(name, _)| name.starts_with("worker-")).collect()
}

#[test]
fn another_station_with_the_gateway_s_address_is_logged_and_shown() {
    privileged(&[], || {
        let _alone = serial();
        let (inside, other) = (Namespace::new(), Namespace::new());
        inside.join("wan0", &other, "eth0", 1, 1500);
        other.set("net/ipv6/conf/eth0/accept_dad", "0");
        other.set("net/ipv6/conf/eth0/disable_ipv6", "0");
        other.ip("addr add 198.51.100.1/24 dev eth0");
        other.ip("addr add 2001:db8:1::1/64 dev eth0 nodad");
        let mac = other.ip("link show eth0").split("ether ").nth(1).unwrap()[..17].to_owned();
        let yaml = "workers: { cores: [0] }\nports:\n  wan: { driver: af_packet, device: wan0, \
                    addresses: [198.51.100.1/24, '2001:db8:1::1/64', '2001:db8:1::5/64'] }\n";
        let gateway = Gateway::start(&inside, Files::new(), yaml);
        let conflicts = wait_for("the conflicts to show", || {
            let conflicts = gateway.row("ports", |row| row["name"] == "wan")["conflicts"].clone();
            (conflicts.as_array().unwrap().len() >= 2).then_some(conflicts)
        });
        let shown: Vec<_> =
            rows(&conflicts).map(|row| (row["address"].as_str(), row["mac"].as_str())).collect();
        assert_eq!(shown, [(Some("198.51.100.1"), Some(&*mac)), (Some("2001:db8:1::1"), Some(&*mac))]);
        let log = gateway.log();
        let said =
            |address: &str| log.lines().filter(|line| line.contains(address) && line.contains(&mac)).count();
        assert_eq!((said("=198.51.100.1"), said("=2001:db8:1::1")), (1, 1), "{log}");
    });
}

#[test]
fn a_second_gateway_on_the_same_socket_is_refused() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan::default());
        let gateway: &Gateway = &sites.left.gateway;
        let (out, err, code) = gateway.files.spillway(&["run", "--config", "gateway.yaml"]);
        assert_eq!((out.as_str(), code), ("", Some(1)), "{err}");
        gateway.show("status");
    });
}
