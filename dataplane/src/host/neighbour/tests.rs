use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::host::test_support::Bench;
use crate::packet::ethernet::{BROADCAST, Header};

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const PEER: Mac = [2, 0, 0, 0, 0, 9];
const OTHER: Mac = [2, 0, 0, 0, 0, 8];

fn peer() -> IpAddr {
    IpAddr::from([198, 51, 100, 9])
}

fn table_with(config: NeighbourConfig) -> NeighbourTable {
    let nets = ["198.51.100.1/24", "2001:db8::1/64"].map(|net| net.parse().unwrap());
    NeighbourTable::new(config, vec![Interface::new(4, OURS, &[], &nets)])
}

fn table() -> NeighbourTable {
    table_with(NeighbourConfig::default())
}

fn answered(mac: Mac) -> Evidence {
    Evidence::Advertised { mac: Some(mac), solicited: true, overriding: true }
}

fn announced(mac: Mac) -> Evidence {
    Evidence::Advertised { mac: Some(mac), solicited: false, overriding: true }
}

fn send(bench: &mut Bench, table: &mut NeighbourTable, byte: u8) -> NeighbourIndex {
    let packet = bench.pool.alloc_from(&[0x45, byte]).unwrap();
    bench.with(|cx| table.send(4, peer(), packet, cx)).unwrap()
}

fn learn(bench: &mut Bench, table: &mut NeighbourTable, evidence: Evidence) {
    bench.with(|cx| table.learn(4, peer(), evidence, cx));
}

fn tick(bench: &mut Bench, table: &mut NeighbourTable, seconds: u64) {
    bench.now += seconds * SECOND;
    bench.with(|cx| table.tick(cx));
}

/// Where frames went and what they are.
fn frames(bench: &mut Bench) -> Vec<(Mac, u16)> {
    let frames = bench.frames(4);
    frames
        .iter()
        .map(|frame| Header::parse(frame.data()).map(|h| (h.destination, h.ethertype)).unwrap())
        .collect()
}

/// A table whose peer has just answered.
fn resolved(bench: &mut Bench) -> (NeighbourTable, NeighbourIndex) {
    let mut table = table();
    let index = send(bench, &mut table, 1);
    learn(bench, &mut table, answered(PEER));
    bench.out.clear();
    (table, index)
}

#[test]
fn packets_wait_for_the_answer_and_leave_in_order() {
    let (mut bench, mut table) = (Bench::new(), table());
    let index = send(&mut bench, &mut table, 1);
    assert_eq!(send(&mut bench, &mut table, 2), index);
    assert_eq!(table.mac(index), None);
    assert_eq!(frames(&mut bench), [(BROADCAST, ethertype::ARP)]);
    learn(&mut bench, &mut table, answered(PEER));
    let sent = bench.frames(4);
    assert_eq!(sent.iter().map(|frame| frame.data()[15]).collect::<Vec<_>>(), [1, 2]);
    let header = Header::parse(sent[0].data()).unwrap();
    assert_eq!(header, Header::untagged(PEER, OURS, ethertype::IPV4));
    assert_eq!(bench.learned(), [Neighbour { port: 4, address: peer(), mac: PEER }]);
    assert_eq!(table.mac(index), Some(PEER));
    send(&mut bench, &mut table, 3);
    assert_eq!(frames(&mut bench), [(PEER, ethertype::IPV4)]);
    assert_eq!(bench.dropped(), []);
}

#[test]
fn ipv6_asks_the_solicited_node_group() {
    let (mut bench, mut table) = (Bench::new(), table());
    let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
    let packet = bench.pool.alloc_from(&[0x60]).unwrap();
    bench.with(|cx| table.send(4, address.into(), packet, cx)).unwrap();
    assert_eq!(frames(&mut bench), [([0x33, 0x33, 0xff, 0, 0, 9], ethertype::IPV6)]);
    bench.with(|cx| table.learn(4, address.into(), answered(PEER), cx));
    assert_eq!(frames(&mut bench), [(PEER, ethertype::IPV6)]);
}

#[test]
fn nobody_answers_three_requests_a_second_apart() {
    let (mut bench, mut table) = (Bench::new(), table());
    send(&mut bench, &mut table, 1);
    for second in 1..=2 {
        bench.out.clear();
        tick(&mut bench, &mut table, 1);
        assert_eq!(frames(&mut bench), [(BROADCAST, ethertype::ARP)], "after {second} s");
    }
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), []);
    assert_eq!(bench.unreachable()[0].data(), [0x45, 1]);
    assert_eq!(bench.dropped(), [(DropReason::NeighbourUnresolved, 1)]);

    // Held down: refused at once, without a request.
    tick(&mut bench, &mut table, 4);
    send(&mut bench, &mut table, 2);
    assert_eq!((frames(&mut bench), bench.unreachable().len()), (vec![], 1));
    assert_eq!(bench.dropped(), [(DropReason::NeighbourUnresolved, 2)]);
    tick(&mut bench, &mut table, 1);
    assert!(table.is_empty());
    send(&mut bench, &mut table, 3);
    assert_eq!(frames(&mut bench), [(BROADCAST, ethertype::ARP)]);
}

#[test]
fn a_failed_neighbour_that_speaks_up_is_back() {
    let (mut bench, mut table) = (Bench::new(), table());
    let index = send(&mut bench, &mut table, 1);
    for _ in 0..3 {
        tick(&mut bench, &mut table, 1);
    }
    learn(&mut bench, &mut table, announced(PEER));
    assert_eq!(table.mac(index), Some(PEER));
}

#[test]
fn an_entry_in_use_is_probed_and_an_answer_keeps_it() {
    let mut bench = Bench::new();
    let (mut table, index) = resolved(&mut bench);
    assert!(table.mac(index).is_some());
    tick(&mut bench, &mut table, 30);
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [], "not used since it went stale");
    assert!(table.mac(index).is_some());
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [(PEER, ethertype::ARP)], "a unicast probe");
    assert_eq!(table.mac(index), Some(PEER), "still good meanwhile");
    learn(&mut bench, &mut table, answered(PEER));
    bench.out.clear();
    tick(&mut bench, &mut table, 29);
    assert_eq!(table.mac(index), Some(PEER));
    assert_eq!(frames(&mut bench), []);
}

#[test]
fn three_probes_without_answer_and_everybody_is_asked_again() {
    let mut bench = Bench::new();
    let (mut table, index) = resolved(&mut bench);
    tick(&mut bench, &mut table, 30);
    assert!(table.mac(index).is_some());
    for _ in 0..3 {
        tick(&mut bench, &mut table, 1);
        assert_eq!(frames(&mut bench), [(PEER, ethertype::ARP)]);
    }
    assert!(table.mac(index).is_some());
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [(BROADCAST, ethertype::ARP)]);
    assert_eq!(table.mac(index), None);
}

#[test]
fn use_during_any_probe_counts_and_none_lets_go() {
    for (used_after, asked) in [(Some(1), true), (Some(2), true), (Some(3), true), (None, false)] {
        let mut bench = Bench::new();
        let (mut table, index) = resolved(&mut bench);
        tick(&mut bench, &mut table, 30);
        assert!(table.mac(index).is_some());
        for probe in 1..=3 {
            tick(&mut bench, &mut table, 1);
            assert_eq!(frames(&mut bench), [(PEER, ethertype::ARP)]);
            assert!(used_after != Some(probe) || table.mac(index).is_some());
        }
        tick(&mut bench, &mut table, 1);
        let asked = if asked { vec![(BROADCAST, ethertype::ARP)] } else { vec![] };
        assert_eq!(frames(&mut bench), asked, "used after {used_after:?}");
        assert_eq!(table.is_empty(), asked.is_empty());
    }
}

#[test]
fn an_entry_that_nobody_uses_goes() {
    let mut bench = Bench::new();
    let (mut table, index) = resolved(&mut bench);
    for _ in 0..629 {
        tick(&mut bench, &mut table, 1);
    }
    assert_eq!(table.len(), 1);
    tick(&mut bench, &mut table, 1);
    assert!(table.is_empty());
    assert_eq!(frames(&mut bench), []);
    assert_eq!(table.mac(index), None);
}

#[test]
fn an_announcement_moves_an_entry_and_creates_none() {
    let mut bench = Bench::new();
    let (mut table, index) = resolved(&mut bench);
    learn(&mut bench, &mut table, announced(OTHER));
    assert_eq!(table.mac(index), Some(OTHER), "a fail-over takes effect at once");
    assert_eq!(bench.learned().len(), 1);
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [(OTHER, ethertype::ARP)], "and is verified");

    let stranger = IpAddr::from([198, 51, 100, 77]);
    bench.with(|cx| table.learn(4, stranger, announced(PEER), cx));
    assert_eq!(table.find(4, stranger), None);
    assert_eq!(
        bench.learned(),
        [Neighbour { port: 4, address: stranger, mac: PEER }],
        "another worker may have asked"
    );
}

#[test]
fn advertisements_without_override_cast_doubt_only() {
    let mut bench = Bench::new();
    let (mut table, index) = resolved(&mut bench);
    let doubt = Evidence::Advertised { mac: Some(OTHER), solicited: true, overriding: false };
    learn(&mut bench, &mut table, doubt);
    assert_eq!(table.mac(index), Some(PEER));
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [(PEER, ethertype::ARP)]);
}

#[test]
fn an_answer_without_an_address_confirms_but_does_not_complete() {
    let (mut bench, mut table) = (Bench::new(), table());
    let bare = Evidence::Advertised { mac: None, solicited: true, overriding: false };
    let index = send(&mut bench, &mut table, 1);
    learn(&mut bench, &mut table, bare);
    assert_eq!(table.mac(index), None);
    learn(&mut bench, &mut table, answered(PEER));
    tick(&mut bench, &mut table, 30);
    bench.out.clear();
    learn(&mut bench, &mut table, bare);
    assert!(table.mac(index).is_some());
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [], "reachable again, so not probed");
}

#[test]
fn other_workers_answers_complete_what_is_here_only() {
    let (mut bench, mut table) = (Bench::new(), table());
    let neighbour = Neighbour { port: 4, address: peer(), mac: PEER };
    bench.with(|cx| table.apply(&neighbour, cx));
    assert!(table.is_empty());
    let index = send(&mut bench, &mut table, 1);
    bench.out.clear();
    bench.with(|cx| table.apply(&neighbour, cx));
    assert_eq!(frames(&mut bench), [(PEER, ethertype::IPV4)]);
    assert!(bench.learned().is_empty(), "no echo");
    tick(&mut bench, &mut table, 30);
    bench.with(|cx| table.apply(&neighbour, cx));
    assert!(table.mac(index).is_some());
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [], "confirmed");
    bench.with(|cx| table.apply(&Neighbour { mac: OTHER, ..neighbour }, cx));
    assert_eq!(table.mac(index), Some(OTHER));
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [(OTHER, ethertype::ARP)], "a new address is verified");
}

#[test]
fn an_index_dies_with_its_entry() {
    let mut bench = Bench::new();
    let mut table = table_with(NeighbourConfig { capacity: 1, ..NeighbourConfig::default() });
    let first = send(&mut bench, &mut table, 1);
    learn(&mut bench, &mut table, answered(PEER));
    tick(&mut bench, &mut table, 30);
    let packet = bench.pool.alloc_from(&[0x45]).unwrap();
    let second = bench.with(|cx| table.send(4, IpAddr::from([198, 51, 100, 10]), packet, cx)).unwrap();
    bench.with(|cx| table.learn(4, IpAddr::from([198, 51, 100, 10]), answered(OTHER), cx));
    assert_ne!(first, second);
    assert_eq!((table.mac(first), table.mac(second)), (None, Some(OTHER)));
    assert_eq!(table.mac(NeighbourIndex(77)), None);
}

#[test]
fn a_full_table_refuses_rather_than_lose_a_neighbour_in_use() {
    let mut bench = Bench::new();
    let mut table = table_with(NeighbourConfig { capacity: 2, ..NeighbourConfig::default() });
    let kept = send(&mut bench, &mut table, 1);
    learn(&mut bench, &mut table, answered(PEER));
    let scan = |bench: &mut Bench, table: &mut NeighbourTable, host: u8| {
        let packet = bench.pool.alloc_from(&[0x45, host]).unwrap();
        bench.with(|cx| table.send(4, IpAddr::from([198, 51, 100, host]), packet, cx))
    };
    assert!(scan(&mut bench, &mut table, 100).is_some());
    assert!(scan(&mut bench, &mut table, 101).is_none(), "the one before was only just asked for");
    assert_eq!(bench.dropped(), [(DropReason::NeighbourTableFull, 1)]);
    tick(&mut bench, &mut table, 1);
    assert!(scan(&mut bench, &mut table, 102).is_some(), "it did not answer for a second");
    assert_eq!(bench.unreachable()[0].data(), [0x45, 100]);
    assert_eq!(table.mac(kept), Some(PEER));
    assert_eq!(table.find(4, IpAddr::from([198, 51, 100, 100])), None);
}

#[test]
fn requests_to_us_leave_a_quarter_of_the_table_free() {
    let mut bench = Bench::new();
    let mut table = table_with(NeighbourConfig { capacity: 8, ..NeighbourConfig::default() });
    for host in 10..30 {
        bench.with(|cx| table.learn(4, IpAddr::from([198, 51, 100, host]), Evidence::Asked(PEER), cx));
    }
    assert_eq!(table.len(), 7);
}

#[test]
fn reports_are_limited() {
    let mut bench = Bench::new();
    let mut table = table_with(NeighbourConfig { reports: 3, ..NeighbourConfig::default() });
    for _ in 0..10 {
        learn(&mut bench, &mut table, announced(PEER));
    }
    assert_eq!(bench.learned().len(), 3);
}

#[test]
fn a_port_without_interface_has_no_neighbours() {
    let (mut bench, mut table) = (Bench::new(), table());
    let packet = bench.pool.alloc_from(&[0x45]).unwrap();
    assert_eq!(bench.with(|cx| table.send(5, peer(), packet, cx)), None);
    assert_eq!(bench.dropped(), [(DropReason::NeighbourTableFull, 1)]);
}

#[test]
fn an_empty_pool_costs_a_request_and_not_the_entry() {
    let (mut bench, mut table) = (Bench::new(), table());
    let packet = bench.pool.alloc_from(&[0x45]).unwrap();
    let mut all: Vec<_> = std::iter::from_fn(|| bench.pool.alloc()).collect();
    bench.with(|cx| table.send(4, peer(), packet, cx)).unwrap();
    assert_eq!(bench.dropped(), [(DropReason::NoBuffer, 1)]);
    all.pop();
    tick(&mut bench, &mut table, 1);
    assert_eq!(frames(&mut bench), [(BROADCAST, ethertype::ARP)]);
}

proptest! {
    /// Whatever happens in whatever order, no frame is lost or kept for ever, and the books agree.
    #[test]
    fn frames_are_accounted_for(steps in prop::collection::vec((0u8..6, 0u8..12, 0u64..40), 1..200)) {
        let mut bench = Bench::new();
        let config = NeighbourConfig { capacity: 6, waiting_each: 3, waiting_total: 8, ..NeighbourConfig::default() };
        let mut table = table_with(config);
        let mut indices = Vec::new();
        for (step, host, seconds) in steps {
            let address = IpAddr::from([198, 51, 100, 10 + host]);
            let mac = [2, 0, 0, 0, 1, host];
            match step {
                0 | 1 => {
                    let packet = bench.pool.alloc_from(&[0x45]).unwrap();
                    indices.extend(bench.with(|cx| table.send(4, address, packet, cx)).map(|index| (index, mac)));
                }
                2 => bench.with(|cx| table.learn(4, address, answered(mac), cx)),
                3 => bench.with(|cx| table.learn(4, address, Evidence::Asked(mac), cx)),
                4 => bench.with(|cx| table.apply(&Neighbour { port: 4, address, mac }, cx)),
                _ => tick(&mut bench, &mut table, seconds),
            }
            for &(index, mac) in &indices {
                let found = table.mac(index);
                prop_assert!(found.is_none() || found == Some(mac), "an index led to another neighbour");
            }
            bench.out.clear();
            prop_assert!(bench.pool.available() >= 64 - 8);
            let free = table.entries.iter().filter(|entry| entry.state == State::Free).count();
            prop_assert_eq!(free, table.free.len());
            prop_assert_eq!(table.len() + free, 6);
        }
        // An hour without use.
        for _ in 0..3600 {
            tick(&mut bench, &mut table, 1);
            bench.out.clear();
        }
        prop_assert!(table.is_empty());
        prop_assert_eq!(bench.pool.available(), 64);
    }
}
