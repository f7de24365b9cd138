//! The short way of usual packets says what the long way says, and forgets when something changed.

use proptest::prelude::*;
use proptest::sample::Index;

use super::support::*;
use crate::drops::DropReason;
use crate::message::{RouteUpdate, Update};
use crate::packet::ip::protocol;
use crate::policy::Action;
use crate::sa::TunnelId;
use crate::worker::usual::Usual;

const SOURCE: &str = "10.1.0.5";
const DESTINATION: &str = "10.2.0.5";

fn pair() -> Pair {
    Pair::new(&Tunnel::new("198.51.100.1", "198.51.100.2"))
}

/// Whether the left gateway takes the short way with a packet of its host.
fn is_short(pair: &Pair, packet: &[u8]) -> bool {
    let worker = &pair.left.worker;
    let frame = pair.left.frame(LAN, packet);
    let usual = Usual::read(&frame, &pair.left.macs[LAN]);
    usual.is_some_and(|usual| worker.usual_tunnel(&usual, LAN as u16, true).is_some())
}

/// What the left gateway drops when its host sends this.
fn left_drops(pair: &mut Pair, packet: &[u8]) -> Vec<(DropReason, u64)> {
    pair.left.receive_ip(LAN, &[packet.to_vec()]);
    pair.left.drops()
}

#[test]
fn what_was_decided_once_is_short() {
    let mut pair = pair();
    let packet = udp4(SOURCE, DESTINATION, 20);
    assert!(!is_short(&pair, &packet), "nothing is known");
    pair.left_to_right(std::slice::from_ref(&packet));
    assert!(is_short(&pair, &packet));
    let (inner, worker) = (Usual::of_packet(&packet).unwrap(), &pair.right.worker);
    assert!(worker.decisions.goes_clear(&inner, worker.epoch()), "out of the tunnel");
    assert!(is_short(&pair, &ping4(SOURCE, DESTINATION, 20)), "whatever the protocol");
    for other in [udp4(SOURCE, "10.2.0.6", 20), udp4("10.1.0.6", DESTINATION, 20)] {
        assert!(!is_short(&pair, &other));
    }
    // Both ways carry the packet.
    let (_, out) = pair.left_to_right(&[packet.clone(), packet]);
    assert_eq!(out.len(), 2);
    assert_eq!((pair.left.drops(), pair.right.drops()), (vec![], vec![]));
}

#[test]
fn a_policy_that_looks_at_ports_is_asked_every_time() {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.only = Some((17, 0x2000));
    let mut pair = Pair::new(&tunnel);
    let packet = udp4(SOURCE, DESTINATION, 20);
    let (_, out) = pair.left_to_right(std::slice::from_ref(&packet));
    assert_eq!(out.len(), 1);
    assert!(!is_short(&pair, &packet));
    let mut other = packet;
    other[22..24].copy_from_slice(&[0x20, 1]);
    assert_eq!(left_drops(&mut pair, &other), [(DropReason::PolicyDiscard, 1)]);
}

#[test]
fn a_change_of_policies_is_heeded_at_once() {
    let packet = udp4(SOURCE, DESTINATION, 20);
    let mut primed = pair();
    primed.left_to_right(std::slice::from_ref(&packet));
    primed.left.policy(9, "10.1.0.0/16", "10.2.0.5/32", Action::Discard);
    assert!(!is_short(&primed, &packet));
    assert_eq!(left_drops(&mut primed, &packet), [(DropReason::PolicyDiscard, 1)]);
    // The source is behind another tunnel from now on, so it may not come in the clear.
    let mut primed = pair();
    primed.left_to_right(std::slice::from_ref(&packet));
    primed.left.policy(9, "10.2.0.0/16", "10.1.0.5/32", Action::Protect(TunnelId(7)));
    assert_eq!(left_drops(&mut primed, &packet), [(DropReason::PolicyClear, 1)]);
    // What came out of the tunnel goes into another one.
    let mut primed = pair();
    primed.left_to_right(std::slice::from_ref(&packet));
    primed.right.policy(9, "10.1.0.0/16", "10.2.0.5/32", Action::Discard);
    let (_, out) = primed.left_to_right(&[packet]);
    assert!(out.is_empty());
    assert_eq!(primed.right.drops(), [(DropReason::PolicyDiscard, 1)]);
}

#[test]
fn a_change_of_routes_is_heeded_at_once() {
    let packet = udp4(SOURCE, DESTINATION, 20);
    let mut pair = pair();
    pair.left_to_right(std::slice::from_ref(&packet));
    pair.left.route("10.1.0.5/32", WAN, "198.51.100.2");
    assert_eq!(left_drops(&mut pair, &packet), [(DropReason::ReversePath, 1)]);
    let to = "10.1.0.5/32".parse().unwrap();
    pair.left.update(Update::Route(RouteUpdate::Remove(to)));
    assert_eq!(left_drops(&mut pair, &packet), [(DropReason::ReversePath, 1)], "no more");
    assert_eq!(pair.left.sent(WAN).len(), 1);
}

/// What becomes of a frame: what leaves by either port, and what was dropped.
type Outcome = (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<(DropReason, u64)>);

fn outcome(gateway: &mut Gateway, port: usize, frame: &[u8]) -> Outcome {
    gateway.receive(port, &[frame.to_vec()]);
    (gateway.sent(WAN), gateway.sent(LAN), gateway.drops())
}

/// A frame with a priority tag always goes the long way.
#[test]
fn every_bit_of_the_headers_counts_on_both_ways() {
    const HEADERS: usize = 14 + 20 + 8;
    for inbound in [false, true] {
        let mut ways = [pair(), pair()].map(|mut pair| {
            pair.left_to_right(&[udp4(SOURCE, DESTINATION, 20)]);
            let mut frame = pair.left.frame(LAN, &udp4(SOURCE, DESTINATION, 20));
            if inbound {
                pair.left.receive(LAN, &[frame]);
                frame = pair.left.sent(WAN).remove(0);
            }
            (pair, frame)
        });
        for bit in 0..HEADERS * 8 {
            let [short, long] = [false, true].map(|tagged| {
                let (pair, frame) = &mut ways[usize::from(tagged)];
                let mut frame = frame.clone();
                frame[bit / 8] ^= 1 << (bit % 8);
                if tagged {
                    frame.splice(12..12, [0x81, 0, 0, 0]);
                }
                let (gateway, port) = if inbound { (&mut pair.right, WAN) } else { (&mut pair.left, LAN) };
                let (wan, lan, drops) = outcome(gateway, port, &frame);
                (wan.len(), lan.len(), drops)
            });
            assert_eq!(short, long, "inbound: {inbound}, byte {}, bit {}", bit / 8, bit % 8);
        }
    }
}

/// A source that the selectors of [`wide`] admit, as they do 127.0.0.1.
const NEAR: &str = "100.0.0.5";

/// Where a gateway that does not know [`DESTINATION`] sent a packet before.
const ELSEWHERE: &str = "10.2.0.6";

fn wide() -> Tunnel {
    let mut tunnel = Tunnel::new("198.51.100.1", "198.51.100.2");
    tunnel.local = "64.0.0.0/2";
    tunnel
}

/// What the right gateway, whose links carry 600 bytes, makes of a plaintext that comes in the tunnel in an outer packet
/// with this TOS byte. When `known`, it sent on a packet to the destination before.
fn opened_outcome(known: bool, payload: &[u8], tos: u8) -> Outcome {
    let mut pair = Pair::with_mtu(&wide(), 600);
    let forger = Forger::new(&pair, &wide());
    let sealed = |seq, payload: &[u8]| forger.frame(seq, &forger.plaintext(payload, protocol::IPV4));
    let first = udp4(NEAR, if known { DESTINATION } else { ELSEWHERE }, 20);
    pair.right.receive(WAN, &[sealed(1, &first)]);
    assert_eq!(pair.right.sent(LAN).len(), 1);
    let worker = &pair.right.worker;
    let usual = Usual::of_packet(&udp4(NEAR, DESTINATION, 20)).unwrap();
    assert_eq!(worker.decisions.goes_clear(&usual, worker.epoch()), known);
    let mut frame = sealed(2, payload);
    frame[15] = tos;
    mend4(&mut frame[14..]);
    outcome(&mut pair.right, WAN, &frame)
}

/// Each guard of the short way out of a tunnel, one by one.
#[test]
fn what_is_known_opens_no_door() {
    let packet = |source: &str, len: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = udp4(source, DESTINATION, len);
        change(&mut packet);
        mend4(&mut packet);
        packet
    };
    let ttl = |value: u8| move |packet: &mut Vec<u8>| packet[8] = value;
    let cases: [(Vec<u8>, u8, &[DropReason]); 8] = [
        (packet(NEAR, 20, &|_| {}), 0, &[]),
        (packet("10.9.0.5", 20, &|_| {}), 0, &[DropReason::SelectorMismatch]),
        (packet("127.0.0.1", 20, &|_| {}), 0, &[DropReason::AddressInvalid]),
        (packet(NEAR, 20, &ttl(1)), 0, &[DropReason::TtlExceeded]),
        (packet(NEAR, 20, &ttl(0)), 0, &[DropReason::TtlExceeded]),
        (packet(NEAR, 600, &|packet| packet[6] = 0x40), 0, &[DropReason::TooBig]),
        (packet(NEAR, 20, &|_| {}), 3, &[DropReason::EcnInvalid]),
        (packet(NEAR, 20, &|packet| packet[1] = 1), 3, &[]),
    ];
    for (packet, tos, dropped) in cases {
        let [known, unknown] = [true, false].map(|known| opened_outcome(known, &packet, tos));
        assert_eq!(known, unknown);
        let reasons: Vec<_> = known.2.iter().map(|&(reason, _)| reason).collect();
        assert_eq!((reasons.as_slice(), known.1.len()), (dropped, usize::from(dropped.is_empty())));
    }
    // What is behind the packet by its own length is padding (RFC 4303 s2.7).
    let whole = packet(NEAR, 20, &|_| {});
    let padded = [&whole[..], &[0xaa; 40]].concat();
    let [short, long] = [true, false].map(|known| opened_outcome(known, &padded, 0));
    assert_eq!((&short, short.1[0].len()), (&long, 14 + whole.len()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any packet out of a tunnel that is a good one but for some bytes.
    #[test]
    fn both_ways_say_the_same_of_what_was_opened(
        source in prop::sample::select(vec![NEAR, "100.0.0.6", "127.0.0.1", "10.9.0.5", DESTINATION]),
        len in 0usize..700,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        mend in any::<bool>(),
        cut in prop::option::of(any::<Index>()),
        padding in 0usize..20,
        tos in prop_oneof![Just(0u8), any::<u8>()],
    ) {
        let mut packet = udp4(source, DESTINATION, len);
        for (at, value) in &changes {
            let at = at.index(packet.len().min(28));
            packet[at] = *value;
        }
        if mend {
            mend4(&mut packet);
        }
        // There only one of the two would have to ask for the neighbour.
        prop_assume!(packet[16..20] != udp4(source, ELSEWHERE, 0)[16..20]);
        packet.extend(vec![0; padding]);
        if let Some(cut) = cut {
            packet.truncate(cut.index(packet.len()));
        }
        let [known, unknown] = [true, false].map(|known| opened_outcome(known, &packet, tos));
        prop_assert_eq!(known, unknown);
    }

    /// Any frame that is a good one but for some bytes. What a gateway knows must make no difference.
    #[test]
    fn both_ways_say_the_same(
        inbound in any::<bool>(),
        len in 0usize..100,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        mend in any::<bool>(),
        cut in prop::option::of(any::<Index>()),
        padding in 0usize..20,
    ) {
        let mut outcomes = Vec::new();
        for known in [true, false] {
            let mut pair = pair();
            // One packet each, so that sequence numbers are the same.
            let first = if known { DESTINATION } else { ELSEWHERE };
            pair.left_to_right(&[udp4(SOURCE, first, 20)]);
            prop_assert_eq!(is_short(&pair, &udp4(SOURCE, DESTINATION, 20)), known);
            let mut frame = pair.left.frame(LAN, &udp4(SOURCE, DESTINATION, len));
            if inbound {
                pair.left.receive(LAN, &[frame]);
                frame = pair.left.sent(WAN).remove(0);
            }
            for (at, value) in &changes {
                let at = at.index(frame.len().min(50));
                frame[at] = *value;
            }
            if mend {
                mend4(&mut frame[14..]);
            }
            frame.extend(vec![0; padding]);
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            outcomes.push(if inbound {
                outcome(&mut pair.right, WAN, &frame)
            } else {
                outcome(&mut pair.left, LAN, &frame)
            });
        }
        prop_assert_eq!(&outcomes[0], &outcomes[1]);
    }
}
