use proptest::prelude::*;

use super::*;
use crate::host::fragment::{DontFragment, fragment_v4, fragment_v6};
use crate::host::test_support::{cached_pool, packet_v4, packet_v6};
use crate::packet::checksum;
use crate::packet::ip::{self, protocol};

/// A worker's view: fragments in frames of `pool`, results in frames of it or of `large`.
struct Worker {
    pool: Pool,
    large: Pool,
    drops: DropCounters,
    reassembly: Reassembly,
    now: u64,
}

impl Worker {
    fn new() -> Self {
        Self::with(ReassemblyConfig::default())
    }

    fn with(config: ReassemblyConfig) -> Self {
        Self {
            pool: cached_pool(256, 2048),
            large: cached_pool(2, 1 << 17),
            drops: DropCounters::default(),
            reassembly: Reassembly::new(config),
            now: 0,
        }
    }

    fn add(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.add_from(bytes, 0)
    }

    fn add_from(&mut self, bytes: &[u8], context: u32) -> Option<Vec<u8>> {
        let packet = self.pool.alloc_from(bytes).unwrap();
        let info = ip::parse(bytes).unwrap();
        let whole = self.reassembly.add(packet, &info, context, self.now, &self.large, &mut self.drops);
        whole.map(|packet| packet.data().to_vec())
    }

    fn tick(&mut self, now: u64) -> Vec<Vec<u8>> {
        let mut expired = Vec::new();
        self.reassembly.tick(now, &mut self.drops, &mut expired);
        expired.iter().map(|packet| packet.data().to_vec()).collect()
    }

    fn dropped(&self) -> Vec<(DropReason, u64)> {
        self.drops.nonzero().collect()
    }

    /// No frame is held and no count is left.
    fn assert_empty(&self) {
        let reassembly = &self.reassembly;
        assert_eq!((reassembly.fragments, reassembly.bytes), (0, 0));
        assert_eq!((self.pool.available(), self.large.available()), (256, 2));
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

fn datagram_v4(len: usize) -> Vec<u8> {
    packet_v4("10.1.0.9", "10.2.0.9", protocol::UDP, &payload(len))
}

fn datagram_v6(len: usize) -> Vec<u8> {
    packet_v6("2001:db8::1", "2001:db8::2", protocol::UDP, &payload(len))
}

fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (pool, large) = (cached_pool(300, 2048), cached_pool(1, 1 << 17));
    let (frame, info) = (large.alloc_from(packet).unwrap(), ip::parse(packet).unwrap());
    let mut out = Vec::new();
    match info.version {
        Version::V4 => fragment_v4(frame, &info, mtu, DontFragment::Override, &pool, &mut out).unwrap(),
        Version::V6 => fragment_v6(frame, &info, mtu, 0xdead_beef, &pool, &mut out).unwrap(),
    }
    out.iter().map(|fragment| fragment.data().to_vec()).collect()
}

/// An IPv4 fragment with `len` bytes of `byte`.
fn piece(offset: u16, len: usize, more: bool, byte: u8) -> Vec<u8> {
    let mut packet = packet_v4("10.1.0.9", "10.2.0.9", protocol::UDP, &vec![byte; len]);
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    packet[6..8].copy_from_slice(&word.to_be_bytes());
    seal(packet)
}

/// Mends the header checksum.
fn seal(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let checksum = checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn with_tos(mut packet: Vec<u8>, tos: u8) -> Vec<u8> {
    set_tos(&mut packet, tos).unwrap();
    packet
}

#[test]
fn in_order_and_backwards() {
    for packet in [datagram_v4(3000), datagram_v6(3000)] {
        let mut worker = Worker::new();
        let mut pieces = fragments(&packet, 1280);
        for _ in 0..2 {
            let done: Vec<_> = pieces.iter().filter_map(|piece| worker.add(piece)).collect();
            assert_eq!(done, std::slice::from_ref(&packet));
            pieces.reverse();
        }
        worker.assert_empty();
        assert_eq!(worker.dropped(), []);
    }
}

#[test]
fn a_small_packet_is_put_together_in_the_frame_of_its_first_fragment() {
    let mut worker = Worker::new();
    let packet = datagram_v4(1600);
    let _large: Vec<_> = std::iter::from_fn(|| worker.large.alloc()).collect();
    let done: Vec<_> = fragments(&packet, 1500).iter().filter_map(|piece| worker.add(piece)).collect();
    assert_eq!(done, [packet]);
}

#[test]
fn what_is_no_fragment_passes() {
    let mut worker = Worker::new();
    let mut padded = datagram_v4(20);
    padded.extend_from_slice(&[0; 6]);
    assert_eq!(worker.add(&padded), Some(padded));
    assert!(worker.reassembly.is_empty());
}

#[test]
fn link_padding_is_not_taken_for_payload() {
    let mut worker = Worker::new();
    let packet = datagram_v4(24);
    let mut pieces = [piece(0, 16, true, 0), piece(16, 8, false, 0)];
    pieces[1].extend_from_slice(&[0xff; 18]);
    assert_eq!(worker.add(&pieces[1]), None);
    let whole = worker.add(&pieces[0]).unwrap();
    assert_eq!((whole.len(), &whole[20..]), (packet.len(), &[0; 24][..]));
}

#[test]
fn the_key_keeps_packets_apart() {
    let first = piece(0, 16, true, 1);
    let last = piece(16, 8, false, 1);
    let change = |at: usize, value: u8| {
        let mut other = last.clone();
        other[at] = value;
        seal(other)
    };
    let mut worker = Worker::new();
    assert_eq!(worker.add_from(&first, 1), None);
    for (other, what) in [
        (change(5, 8), "identification"),
        (change(9, protocol::ICMP), "protocol"),
        (change(15, 8), "source"),
        (change(19, 8), "destination"),
    ] {
        assert_eq!(worker.add_from(&other, 1), None, "{what}");
    }
    assert_eq!(worker.add_from(&last, 2), None, "context");
    assert_eq!(worker.reassembly.len(), 6);
    assert!(worker.add_from(&last, 1).is_some());
}

#[test]
fn ipv6_later_fragments_may_name_another_next_header() {
    // RFC 8200 s4.5: only that of the first fragment counts.
    let packet = datagram_v6(2000);
    let mut pieces = fragments(&packet, 1280);
    pieces[1][40] = protocol::TCP;
    let mut worker = Worker::new();
    let done: Vec<_> = pieces.iter().filter_map(|piece| worker.add(piece)).collect();
    assert_eq!(done, [packet]);
}

#[test]
fn ipv6_hop_by_hop_options_of_the_first_fragment_stay() {
    let options = [protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let packet = packet_v6(
        "2001:db8::1",
        "2001:db8::2",
        protocol::HOP_BY_HOP,
        &[&options[..], &payload(2000)].concat(),
    );
    let mut worker = Worker::new();
    let done: Vec<_> = fragments(&packet, 1280).iter().rev().filter_map(|piece| worker.add(piece)).collect();
    assert_eq!(done, [packet]);
}

#[test]
fn an_overlap_gives_up_the_packet_until_its_time_is_over() {
    let first = piece(0, 24, true, 1);
    for (overlap, why) in [
        (piece(16, 16, false, 1), "the end of another"),
        (piece(8, 8, true, 1), "within another"),
        (piece(0, 24, true, 2), "same place, other data"),
        (piece(0, 16, true, 1), "same start"),
        (piece(0, 32, true, 1), "all of another"),
    ] {
        let mut worker = Worker::new();
        assert_eq!(worker.add(&first), None);
        assert_eq!(worker.add(&overlap), None);
        assert_eq!(worker.dropped(), [(DropReason::FragmentOverlap, 2)], "{why}");
        assert_eq!(worker.add(&first), None);
        assert_eq!(worker.add(&piece(24, 8, false, 1)), None);
        assert_eq!(worker.dropped(), [(DropReason::FragmentOverlap, 4)], "{why}");
        worker.assert_empty();
        worker.now = 15 * SECOND;
        assert!(worker.tick(worker.now).is_empty());
        assert_eq!(worker.add(&first), None);
        assert!(worker.add(&piece(24, 8, false, 1)).is_some());
    }
}

#[test]
fn a_copy_of_a_fragment_is_dropped_alone() {
    let mut worker = Worker::new();
    let pieces = fragments(&datagram_v6(3000), 1280);
    for piece in [&pieces[0], &pieces[0], &pieces[2], &pieces[2]] {
        assert_eq!(worker.add(piece), None);
    }
    assert_eq!(worker.dropped(), [(DropReason::FragmentDuplicate, 2)]);
    assert_eq!(worker.add(&pieces[1]), Some(datagram_v6(3000)));
    worker.assert_empty();
}

#[test]
fn a_copy_that_says_it_is_the_last_is_none() {
    let mut worker = Worker::new();
    assert_eq!(worker.add(&piece(8, 8, true, 1)), None);
    assert_eq!(worker.add(&piece(8, 8, false, 1)), None);
    assert_eq!(worker.dropped(), [(DropReason::FragmentOverlap, 2)]);
}

#[test]
fn ends_that_contradict() {
    for (pieces, why) in [
        ([piece(16, 8, false, 1), piece(32, 8, false, 1)], "two ends"),
        ([piece(32, 8, false, 1), piece(16, 8, false, 1)], "two ends, the later one first"),
        ([piece(16, 8, false, 1), piece(32, 8, true, 1)], "behind the end"),
        ([piece(32, 8, true, 1), piece(16, 8, false, 1)], "an end before data"),
    ] {
        let mut worker = Worker::new();
        assert!(pieces.iter().all(|piece| worker.add(piece).is_none()));
        assert_eq!(worker.dropped(), [(DropReason::FragmentMalformed, 2)], "{why}");
        worker.assert_empty();
    }
}

#[test]
fn what_does_not_come_in_time_is_given_up() {
    let mut worker = Worker::new();
    let first = piece(0, 16, true, 1);
    assert_eq!(worker.add(&first), None);
    worker.now = SECOND;
    let mut other = piece(16, 16, true, 1);
    other[5] = 99;
    assert_eq!(worker.add(&seal(other)), None);
    assert!(worker.tick(15 * SECOND - 1).is_empty());
    assert_eq!(worker.tick(15 * SECOND), [first], "the source may be told");
    assert_eq!(worker.dropped(), [(DropReason::FragmentTimeout, 1)]);
    assert!(worker.tick(16 * SECOND).is_empty(), "without a first fragment nobody is told");
    assert_eq!(worker.dropped(), [(DropReason::FragmentTimeout, 2)]);
    assert!(worker.reassembly.is_empty());
    worker.assert_empty();
}

#[test]
fn the_oldest_makes_room() {
    let of = |identification: u8, offset, more| {
        let mut piece = piece(offset, 80, more, 1);
        piece[5] = identification;
        seal(piece)
    };
    for config in [
        ReassemblyConfig { packets: 3, ..ReassemblyConfig::default() },
        ReassemblyConfig { fragments: 3, ..ReassemblyConfig::default() },
        ReassemblyConfig { bytes: 3 * 80, ..ReassemblyConfig::default() },
    ] {
        let mut worker = Worker::with(config);
        for identification in 1..=4 {
            assert_eq!(worker.add(&of(identification, 0, true)), None);
        }
        assert_eq!(worker.dropped(), [(DropReason::FragmentMemory, 1)]);
        assert_eq!(worker.pool.available(), 256 - 3);
        assert!(worker.add(&of(2, 80, false)).is_some(), "the others are as they were");
        assert_eq!(worker.add(&of(1, 80, false)), None);
    }
}

#[test]
fn a_packet_of_too_many_fragments_is_given_up() {
    let mut worker = Worker::with(ReassemblyConfig { fragments_each: 4, ..ReassemblyConfig::default() });
    for at in 0..6 {
        assert_eq!(worker.add(&piece(at * 8, 8, true, 1)), None);
    }
    assert_eq!(worker.dropped(), [(DropReason::FragmentMemory, 6)]);
    worker.assert_empty();
}

#[test]
fn no_memory_at_all_drops() {
    for config in [
        ReassemblyConfig { packets: 0, fragments: 0, ..ReassemblyConfig::default() },
        ReassemblyConfig { bytes: 0, ..ReassemblyConfig::default() },
        ReassemblyConfig { fragments_each: 0, ..ReassemblyConfig::default() },
    ] {
        let mut worker = Worker::with(config);
        assert_eq!(worker.add(&piece(0, 16, true, 1)), None);
        assert_eq!(worker.dropped(), [(DropReason::FragmentMemory, 1)]);
        worker.assert_empty();
    }
}

#[test]
fn a_packet_past_65535_bytes_is_too_long() {
    // Each fragment fits by itself; the options of the first make it too long.
    let mut worker = Worker::with(ReassemblyConfig { bytes: 1 << 20, ..ReassemblyConfig::default() });
    let mut first = piece(0, 1480, true, 1);
    first.splice(20..20, [1; 40]);
    first[0] = 0x4f;
    first[2..4].copy_from_slice(&1540u16.to_be_bytes());
    first[10..12].fill(0);
    let checksum = checksum::of(&first[..60]);
    first[10..12].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(worker.add(&first), None);
    let mut at = 1480;
    while at < 65_120 {
        assert_eq!(worker.add(&piece(at, 1480, true, 1)), None);
        at += 1480;
    }
    assert_eq!(worker.add(&piece(at, 65_515 - usize::from(at), false, 1)), None);
    assert_eq!(worker.dropped(), [(DropReason::FragmentTooLong, 45)]);
    worker.assert_empty();
}

#[test]
fn without_a_large_frame_the_packet_is_lost() {
    let pieces = fragments(&datagram_v4(6000), 1500);
    let mut worker = Worker::new();
    let held: Vec<_> = std::iter::from_fn(|| worker.large.alloc()).collect();
    assert!(pieces.iter().all(|piece| worker.add(piece).is_none()));
    assert_eq!(worker.dropped(), [(DropReason::NoBuffer, 5)]);
    drop(held);
    worker.assert_empty();

    worker.large = Pool::new(2, 4096).unwrap();
    assert!(pieces.iter().all(|piece| worker.add(piece).is_none()));
    assert_eq!(worker.drops.get(DropReason::NoRoom), 5);
    worker.assert_empty();
}

#[test]
fn congestion_of_any_fragment_is_congestion_of_the_whole() {
    use ecn::{CE, ECT_0, ECT_1, NOT_ECT};
    for (first, second, whole) in [
        (ECT_0, ECT_0, Ok(ECT_0)),
        (ECT_0, CE, Ok(CE)),
        (CE, ECT_1, Ok(CE)),
        (NOT_ECT, NOT_ECT, Ok(NOT_ECT)),
        (NOT_ECT, CE, Err(DropReason::EcnInvalid)),
        (CE, NOT_ECT, Err(DropReason::EcnInvalid)),
    ] {
        let mut worker = Worker::new();
        worker.add(&with_tos(piece(0, 16, true, 1), 0xb8 | first));
        let done = worker.add(&with_tos(piece(16, 8, false, 1), second));
        match whole {
            Ok(ecn) => assert_eq!(ip::parse(&done.unwrap()).unwrap().tos, 0xb8 | ecn),
            Err(reason) => assert_eq!((done, worker.dropped()), (None, vec![(reason, 2)])),
        }
    }
}

fn shuffled_copies() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..20)
}

proptest! {
    /// Any order, with any copies, gives the packet back; with a second cut on the way too.
    #[test]
    fn fragments_in_any_order_are_the_packet(
        len in 1usize..12_000, mtu in 400usize..1600, second_mtu in 300usize..1600, six: bool, keys: Vec<u32>,
        copies in shuffled_copies(),
    ) {
        let packet = if six { datagram_v6(len) } else { datagram_v4(len) };
        let mut pieces = fragments(&packet, mtu);
        if !six {
            pieces = pieces.iter().flat_map(|piece| fragments(piece, second_mtu)).collect();
        }
        prop_assume!(pieces.len() <= 128);
        let mut order: Vec<_> = (0..pieces.len()).collect();
        order.sort_by_key(|&at| keys.get(at % keys.len().max(1)).copied().unwrap_or(0).wrapping_mul(at as u32 | 1));
        let last = order.pop().unwrap();
        let mut worker = Worker::new();
        let mut done = Vec::new();
        for &at in &order {
            done.extend(worker.add(&pieces[at]));
        }
        if !order.is_empty() {
            for copy in copies {
                done.extend(worker.add(&pieces[*copy.get(&order)]));
            }
        }
        prop_assert!(done.is_empty());
        done.extend(worker.add(&pieces[last]));
        prop_assert_eq!(done, [packet]);
        worker.assert_empty();
        prop_assert!(worker.dropped().iter().all(|&(reason, _)| reason == DropReason::FragmentDuplicate));
    }

    /// Whatever comes, frames and counts agree, memory stays within bounds, and time frees all of it.
    #[test]
    fn any_fragments_are_accounted_for(
        steps in prop::collection::vec((0u16..12, 1usize..6, any::<bool>(), 0u8..4, 0u64..4), 1..120),
    ) {
        let config = ReassemblyConfig { packets: 3, fragments: 10, bytes: 300, fragments_each: 6, timeout: 5 * SECOND };
        let mut worker = Worker::with(config);
        let mut passed = 0;
        let total = steps.len() as u64;
        for (at, units, more, identification, seconds) in steps {
            worker.now += seconds * SECOND / 2;
            worker.tick(worker.now);
            let mut bytes = piece(at * 8, units * 8, more, at as u8);
            bytes[5] = identification;
            let bytes = seal(bytes);
            let before = worker.reassembly.fragments as u64;
            let whole = ip::parse(&bytes).unwrap().fragment.is_none();
            if worker.add(&bytes).is_some() {
                passed += if whole { 1 } else { before + 1 - worker.reassembly.fragments as u64 };
            }
            let held = worker.reassembly.fragments;
            prop_assert!(held <= 10 && worker.reassembly.bytes <= 300 && worker.reassembly.len() <= 3);
            prop_assert_eq!(worker.pool.available(), 256 - held);
        }
        worker.tick(worker.now + 5 * SECOND);
        worker.assert_empty();
        prop_assert!(worker.reassembly.is_empty() && worker.reassembly.order.is_empty());
        let dropped: u64 = worker.dropped().iter().map(|&(_, count)| count).sum();
        prop_assert_eq!(dropped + passed, total);
    }
}
