//! Child SAs that packets ask for: the packet's own selectors come first, and what a peer narrows away is asked for when
//! a packet needs it (RFC 7296 s2.9).

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::rejection::Rejection;
use crate::selector::Packet;
use crate::wire::{ExchangeType, Notify, NotifyType, Payload};

const SOON: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(1000);

fn net(prefix: &str) -> SelectorSpec {
    prefix.parse::<ipnet::IpNet>().unwrap().into()
}

/// A protects 10.1.0.0/16 to 10.2.0.0/16, of which B has two parts, each by a child of its own.
fn parts(side: usize, connection: &mut Connection) {
    let one = |name, local: &str, remote: &str| {
        let (local, remote) = (vec![net(local)], vec![net(remote)]);
        Arc::new(ChildConfig { local, remote, start: Start::Traffic, ..child(side, name, 1) })
    };
    connection.children = if side == A {
        vec![one("lan", "10.1.0.0/16", "10.2.0.0/16")]
    } else {
        vec![one("one", "10.2.1.0/24", "10.1.0.0/16"), one("two", "10.2.2.0/24", "10.1.0.0/16")]
    };
}

fn world(change: impl Fn(&mut Connection), limit: impl Fn(&mut Config)) -> World {
    log();
    let mut configs = configs(|side, connection| {
        parts(side, connection);
        change(connection);
    });
    configs.iter_mut().for_each(limit);
    World::new(1, configs)
}

/// A TCP packet of A's side.
fn packet(to: &str) -> Packet {
    let [source, destination] = ["10.1.0.5", to].map(|text| text.parse().unwrap());
    Packet { source, destination, protocol: 6, ports: Some((40_000, 443)) }
}

fn acquire(world: &mut World, packet: Packet) {
    world.at(A, |endpoint, now, rng| endpoint.acquire(now, rng, "net", "lan", packet)).unwrap();
    world.run(SOON);
}

/// What one side protects, a line for each policy.
fn policies(world: &World, side: usize) -> Vec<String> {
    let installs = world.sides[side].plane.outbound.values().flat_map(|one| one.selectors.iter());
    let mut lines: Vec<_> = installs.map(|one| format!("{} {}", one.local, one.remote)).collect();
    lines.sort_unstable();
    lines
}

/// Traffic selectors of all messages of a side from now on, those of one message a line, and its notifies.
fn listen(world: &mut World, side: usize) -> Rc<RefCell<Vec<String>>> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let notes = heard.clone();
    world.sides[side].endpoint.bend(Some(Box::new(move |_, _, payloads| {
        let shown = |payload: &Payload<'_>| match payload {
            Payload::TsI(selectors) | Payload::TsR(selectors) => Some(crate::selector::display(selectors)),
            Payload::Notify(notify) if notify.kind == NotifyType::ADDITIONAL_TS_POSSIBLE => {
                Some("more".into())
            }
            _ => None,
        };
        let line: Vec<String> = payloads.iter().filter_map(shown).collect();
        if !line.is_empty() {
            notes.borrow_mut().push(line.join(" | "));
        }
    })));
    heard
}

fn count(world: &World, side: usize, rejection: Rejection) -> u64 {
    world.sides[side].endpoint.counters().get(rejection)
}

#[test]
fn the_packet_that_asks_comes_first_and_what_it_needs_is_kept() {
    let mut world = world(|_| {}, |_| {});
    let [ours, theirs] = [A, B].map(|side| listen(&mut world, side));
    acquire(&mut world, packet("10.2.2.7"));
    let expected = "10.1.0.5/32[6/40000] 10.1.0.0/16 | 10.2.2.7/32[6/443] 10.2.0.0/16";
    assert_eq!(*ours.borrow(), [expected]);
    // B's first child would do for a part of what A asks for, but not for the packet.
    assert_eq!(*theirs.borrow(), ["10.1.0.0/16 | 10.2.2.0/24 | more"]);
    assert_eq!(policies(&world, A), ["10.1.0.0/16 10.2.2.0/24"]);
    assert_eq!(policies(&world, B), ["10.2.2.0/24 10.1.0.0/16"]);
    world.assert_consistent();
}

/// An answer to an ICMP message has another type.
#[test]
fn of_icmp_all_types_are_asked_for() {
    let mut world = world(|_| {}, |_| {});
    let ours = listen(&mut world, A);
    acquire(&mut world, Packet { protocol: 1, ports: Some((0x0800, 0x0800)), ..packet("10.2.1.7") });
    let expected = "10.1.0.5/32[1] 10.1.0.0/16 | 10.2.1.7/32[1] 10.2.0.0/16";
    assert_eq!(*ours.borrow(), [expected]);
    // A packet that the configuration does not name changes nothing.
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(LONG);
    acquire(&mut world, packet("10.9.1.7"));
    assert_eq!(ours.borrow().last().unwrap(), "10.1.0.0/16 | 10.2.0.0/16");
}

#[test]
fn what_the_peer_narrowed_away_gets_a_child_sa_of_its_own() {
    let mut world = world(|_| {}, |_| {});
    acquire(&mut world, packet("10.2.2.7"));
    let ours = listen(&mut world, A);
    acquire(&mut world, packet("10.2.2.9"));
    assert_eq!(*ours.borrow(), [""; 0], "there is one");
    acquire(&mut world, packet("10.2.1.9"));
    acquire(&mut world, packet("10.2.1.10"));
    assert_eq!(ours.borrow().len(), 1);
    let both = ["10.1.0.0/16 10.2.1.0/24", "10.1.0.0/16 10.2.2.0/24"];
    assert_eq!(policies(&world, A), both);
    world.assert_consistent();
    // Each is rekeyed for itself, and both go over to another IKE SA.
    world.at(A, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
    world.run(LONG);
    world.at(A, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
    world.run(LONG);
    assert_eq!(policies(&world, A), both);
    world.assert_consistent();
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(LONG);
    world.assert_empty();
}

#[test]
fn as_many_child_sas_of_one_child_as_configured() {
    for (most, refused) in [(1, 1), (2, 0)] {
        let mut world = world(|_| {}, |config| config.peers.narrowed = most);
        acquire(&mut world, packet("10.2.2.7"));
        acquire(&mut world, packet("10.2.1.9"));
        assert_eq!(policies(&world, A).len(), most);
        assert_eq!(count(&world, A, Rejection::NarrowedLimit), refused);
    }
}

/// B has no policy for the packet: what it would make instead brings nothing, and is asked for seldom.
#[test]
fn a_packet_that_the_peer_leaves_out_makes_nothing() {
    let mut world = world(
        |_| {},
        |config| {
            (config.peers.left_out, config.peers.left_out_pause) = (2, Duration::from_secs(60));
        },
    );
    acquire(&mut world, packet("10.2.2.7"));
    let mut asked = 0;
    let mut ask = |world: &mut World, to: &str, more: u64| {
        acquire(world, packet(to));
        // The peer receives on what was deleted for a while.
        world.run(SOON * 2);
        asked += more;
        assert_eq!(count(world, A, Rejection::LeftOut), asked);
        assert_eq!(policies(world, A), ["10.1.0.0/16 10.2.2.0/24"]);
        world.assert_consistent();
    };
    ask(&mut world, "10.2.3.3", 1);
    ask(&mut world, "10.2.3.3", 0);
    ask(&mut world, "10.2.3.4", 1);
    ask(&mut world, "10.2.3.5", 0);
    world.run(Duration::from_secs(60));
    ask(&mut world, "10.2.3.3", 1);
    acquire(&mut world, packet("10.2.1.9"));
    assert_eq!(policies(&world, A).len(), 2, "what the peer does have is asked for meanwhile");
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(LONG);
    world.assert_empty();
}

/// The peer makes Child SAs for single pairs of addresses only.
#[test]
fn a_single_pair_is_asked_for_when_the_peer_wants_that() {
    let mut world = world(|_| {}, |_| {});
    let ours = listen(&mut world, A);
    world.sides[B].endpoint.bend(Some(Box::new(|exchange, response, payloads| {
        let makes =
            |payload: &Payload<'_>| matches!(payload, Payload::Sa(_) | Payload::TsI(_) | Payload::TsR(_));
        if exchange == ExchangeType::IKE_AUTH && response {
            payloads.retain(|payload| !makes(payload));
            payloads.push(Payload::Notify(Notify::bare(NotifyType::SINGLE_PAIR_REQUIRED)));
        }
    })));
    acquire(&mut world, packet("10.2.2.7"));
    assert_eq!(ours.borrow()[1..], ["10.1.0.5/32 | 10.2.2.7/32"]);
    assert_eq!(policies(&world, A), ["10.1.0.5/32 10.2.2.7/32"]);
    // A packet of the same hosts needs no other one, and one of other hosts asks for no more than it can get.
    acquire(&mut world, Packet { ports: Some((40_001, 443)), ..packet("10.2.2.7") });
    acquire(&mut world, packet("10.2.2.8"));
    assert_eq!(ours.borrow()[2..], ["10.1.0.5/32 | 10.2.2.8/32"]);
    assert_eq!(policies(&world, A), ["10.1.0.5/32 10.2.2.7/32", "10.1.0.5/32 10.2.2.8/32"]);
    // That outlasts the IKE SA.
    world.at(A, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
    world.run(SOON);
    acquire(&mut world, packet("10.2.2.9"));
    assert_eq!(ours.borrow()[3..], ["10.1.0.5/32 | 10.2.2.9/32"]);
    assert_eq!(policies(&world, A).len(), 3);
}

/// A child that is to be up from the start cannot be, with such a peer: packets bring it up.
#[test]
fn a_peer_of_single_pairs_gets_what_starts_at_boot_by_packets() {
    let mut world = world(|connection| start(connection, Start::Boot), |_| {});
    refuse(&mut world, NotifyType::SINGLE_PAIR_REQUIRED, 1);
    world.at(A, |endpoint, now, rng| endpoint.start(now, rng));
    acquire(&mut world, packet("10.2.2.7"));
    assert_eq!(policies(&world, A), [""; 0], "nobody knows yet that packets are to ask");
    acquire(&mut world, packet("10.2.2.7"));
    assert_eq!(policies(&world, A), ["10.1.0.5/32 10.2.2.7/32"]);
}

/// Of A, which has one child.
fn start(connection: &mut Connection, start: Start) {
    if let [child] = &mut connection.children[..] {
        Arc::make_mut(child).start = start;
        connection.on_down = OnDown::Restart;
    }
}

/// B answers so many requests for Child SAs with an error. (It has made them all the same.)
fn refuse(world: &mut World, error: NotifyType, mut times: usize) {
    world.sides[B].endpoint.bend(Some(Box::new(move |exchange, response, payloads| {
        let makes =
            |payload: &Payload<'_>| matches!(payload, Payload::Sa(_) | Payload::TsI(_) | Payload::TsR(_));
        let for_child = exchange != ExchangeType::IKE_SA_INIT;
        if for_child && response && times > 0 && payloads.iter().any(makes) {
            times -= 1;
            payloads.retain(|payload| !makes(payload));
            payloads.push(Payload::Notify(Notify::bare(error)));
        }
    })));
}

#[test]
fn what_starts_at_boot_is_asked_for_again_when_the_peer_refuses_it() {
    for (error, after) in [(NotifyType::TS_UNACCEPTABLE, 61), (NotifyType::TEMPORARY_FAILURE, 11)] {
        let mut world = world(|connection| start(connection, Start::Boot), |_| {});
        refuse(&mut world, error, 1);
        world.at(A, |endpoint, now, rng| endpoint.start(now, rng));
        world.run(SOON);
        assert_eq!(world.sides[A].plane.outbound.len(), 0);
        world.run(Duration::from_secs(after));
        assert_eq!(world.sides[A].plane.outbound.len(), 1, "{error}");
    }
}

/// Also while the delete is under way, and whatever packets want.
#[test]
fn what_an_operator_takes_down_stays_down() {
    for child in [None, Some("lan")] {
        let mut world = world(|connection| start(connection, Start::Boot), |_| {});
        acquire(&mut world, packet("10.2.1.9"));
        assert_eq!(policies(&world, A), [""; 0], "packets do not begin it");
        world.at(A, |endpoint, now, rng| endpoint.start(now, rng));
        world.run(SOON);
        let up = policies(&world, A);
        let other = if up == ["10.1.0.0/16 10.2.1.0/24"] { "10.2.2.9" } else { "10.2.1.9" };
        world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", child)).unwrap();
        for _ in 0..3 {
            acquire(&mut world, packet(other));
        }
        assert_eq!((up.len(), policies(&world, A).len()), (1, 0), "{child:?}");
    }
}

/// A peer that takes a tunnel away as soon as it is there sets the pace no more than it should.
#[test]
fn what_the_peer_takes_away_at_once_is_not_asked_for_at_once() {
    let mut world = world(|connection| start(connection, Start::Boot), |_| {});
    world.at(A, |endpoint, now, rng| endpoint.start(now, rng));
    for _ in 0..60 {
        world.run(Duration::from_secs(1));
        for name in ["one", "two"] {
            // It may be down.
            let _ = world.at(B, |endpoint, now, rng| endpoint.terminate(now, rng, "net", Some(name)));
        }
    }
    let made = world.sides[A].plane.added;
    assert!((6..=12).contains(&made), "{made} in a minute");
}

#[test]
fn reauthentication_keeps_all_of_them() {
    let reauth = Duration::from_secs(3000);
    for initiator_first in [true, false] {
        let mut world = world(|connection| connection.reauth = Some(reauth), |_| {});
        world.probe_every = Some(Duration::from_millis(200));
        acquire(&mut world, packet("10.2.2.7"));
        acquire(&mut world, packet("10.2.1.9"));
        if !initiator_first {
            world.at(B, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
        }
        let before: Vec<u64> = world.sides[A].endpoint.status().map(|ike| ike.spi).collect();
        world.run(reauth + LONG);
        assert!(world.sides[A].endpoint.status().all(|ike| !before.contains(&ike.spi)));
        assert_eq!(policies(&world, A), ["10.1.0.0/16 10.2.1.0/24", "10.1.0.0/16 10.2.2.0/24"]);
        world.assert_consistent();
        for side in [A, B] {
            assert!(!world.has_event(side, |event| matches!(event, Event::ChildDown { .. })));
        }
    }
}
