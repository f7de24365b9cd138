//! MOBIKE: ends that move, NATs that come and go, and peers that lie about where they are (RFC 4555).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::proposal::Proposal;
use crate::rejection::Rejection;
use crate::wire::{Notify, NotifyType, Payload};

const SOON: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(1000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A may be at three addresses, one of them IPv6; B at two and one.
const OURS: [&str; 3] = ["198.51.100.1", "203.0.113.1", "2001:db8::1"];
const THEIRS: [&str; 3] = ["198.51.100.2", "203.0.113.2", "2001:db8::2"];

/// A world in which the addresses decide what arrives: each end has some, and the rest is lost.
struct Roaming {
    world: World,
    present: Rc<RefCell<[Vec<IpAddr>; 2]>>,
}

impl Roaming {
    fn new(seed: u64, change: impl Fn(usize, &mut Connection)) -> Self {
        log();
        let mut world = World::new(
            seed,
            configs(|side, connection| {
                let ours = if side == A { OURS } else { THEIRS };
                connection.local_addresses = ours.map(ip).into();
                connection.remote = RemoteAddress::Any;
                if side == A {
                    connection.remote = RemoteAddress::Addresses(vec![ip(THEIRS[0])]);
                }
                change(side, connection);
            }),
        );
        let present = Rc::new(RefCell::new([vec![], vec![]]));
        let shared = present.clone();
        world.filter = Some(Box::new(move |side, datagram| {
            let present = shared.borrow();
            present[side].contains(&datagram.local.ip()) && present[1 - side].contains(&datagram.remote.ip())
        }));
        Self { world, present }
    }

    /// One end has these addresses from now on, and knows.
    fn place(&mut self, side: usize, addresses: &[&str]) {
        let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
        self.present.borrow_mut()[side] = addresses.clone();
        self.world.at(side, |endpoint, now, rng| endpoint.set_local_addresses(now, rng, addresses));
    }

    fn up(seed: u64, change: impl Fn(usize, &mut Connection)) -> Self {
        let mut roaming = Self::new(seed, change);
        roaming.place(A, &OURS[..1]);
        roaming.place(B, &THEIRS[..1]);
        roaming.world.initiate(A);
        roaming.world.run(SOON);
        roaming.world.assert_agreement(&["lan"]);
        roaming
    }

    /// The tunnels of both ends lead from and to these addresses.
    #[track_caller]
    fn assert_between(&self, a: &str, b: &str) {
        self.world.assert_agreement(&["lan"]);
        let ends = |side: usize| {
            let endpoints = self.world.sides[side].plane.outbound.values().next().unwrap().endpoints;
            (endpoints.local, endpoints.remote)
        };
        assert_eq!((ends(A), ends(B)), ((ip(a), ip(b)), (ip(b), ip(a))));
        for side in [A, B] {
            let status = self.world.sides[side].endpoint.status().find(|one| one.state == "established");
            let status = status.unwrap();
            assert_eq!((status.local.ip(), status.remote.ip()), ends(side));
        }
    }

    fn finish(mut self) {
        self.world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
        self.world.run(LONG);
        self.world.assert_empty();
    }
}

fn count(world: &mut World, side: usize, wanted: NotifyType) -> Rc<Cell<usize>> {
    let seen = Rc::new(Cell::new(0));
    let counter = seen.clone();
    world.sides[side].endpoint.bend(Some(Box::new(move |_, response, payloads| {
        let found = |payload: &&Payload<'_>| matches!(payload, Payload::Notify(one) if one.kind == wanted);
        counter.set(counter.get() + payloads.iter().filter(found).filter(|_| !response).count());
    })));
    seen
}

#[test]
fn the_initiator_moves_and_the_responder_checks_and_follows() {
    let mut roaming = Roaming::up(1, |_, _| {});
    let cookies = count(&mut roaming.world, B, NotifyType::COOKIE2);
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[1], THEIRS[0]);
    assert_eq!(cookies.get(), 1, "one return routability check");
    // Everything goes on from there, and back again.
    for side in [A, B] {
        roaming.world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
        roaming.world.run(Duration::from_secs(10));
        roaming.world.at(side, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
        roaming.world.run(Duration::from_secs(10));
        roaming.assert_between(OURS[1], THEIRS[0]);
    }
    // The responder made the last rekey; the initiator of the first IKE SA still decides (RFC 4555 s1.2).
    roaming.place(A, &OURS[..2]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[0], THEIRS[0]);
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[1], THEIRS[0]);
    roaming.finish();
}

#[test]
fn from_ipv4_to_ipv6_and_back() {
    let mut roaming = Roaming::up(1, |_, _| {});
    roaming.place(B, &THEIRS);
    roaming.world.run(SOON);
    roaming.place(A, &OURS[2..]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[2], THEIRS[2]);
    roaming.place(A, &OURS[..1]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[0], THEIRS[0]);
    roaming.finish();
}

#[test]
fn a_responder_that_dies_at_one_address_is_found_at_another() {
    let mut roaming = Roaming::up(1, |_, connection| connection.dpd = Some(Duration::from_secs(10)));
    roaming.place(B, &THEIRS[..2]);
    roaming.world.run(SOON);
    // The link to the first address breaks; the responder does not know.
    roaming.present.borrow_mut()[B].remove(0);
    roaming.world.run(Duration::from_secs(40));
    roaming.assert_between(OURS[0], THEIRS[1]);
    roaming.present.borrow_mut()[B].push(ip(THEIRS[0]));
    roaming.finish();
}

#[test]
fn a_responder_whose_address_goes_says_so_from_another() {
    let mut roaming = Roaming::up(1, |_, _| {});
    roaming.place(B, &THEIRS[1..2]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[0], THEIRS[1]);
    roaming.finish();
}

#[test]
fn an_address_that_the_connection_does_not_allow_is_refused() {
    let mut roaming = Roaming::up(1, |side, connection| {
        if side == B {
            connection.remote = RemoteAddress::Addresses(vec![ip(OURS[0])]);
        }
    });
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(LONG);
    assert_eq!(roaming.world.sides[B].endpoint.counters().get(Rejection::Addresses), 1);
    roaming.world.assert_empty();
}

#[test]
fn without_mobike_on_both_ends_nothing_moves() {
    for without in [A, B] {
        let mut roaming = Roaming::up(1, |side, connection| connection.mobike = side != without);
        roaming.place(A, &OURS[..2]);
        roaming.world.run(SOON);
        roaming.assert_between(OURS[0], THEIRS[0]);
        roaming.place(A, &OURS[1..2]);
        roaming.world.run(SOON);
        let remote = |side: usize| roaming.world.sides[side].endpoint.status().next().unwrap().remote.ip();
        assert_eq!(remote(B), ip(OURS[0]), "without {without}");
    }
}

/// Rekeys of everything and moves, over a network that loses a third of the packets. In the end all is where the
/// initiator is, and no tunnel was unusable.
#[test]
fn moves_over_a_bad_network_among_rekeys() {
    for seed in 0..30 {
        println!("seed {seed}");
        let mut roaming = Roaming::up(seed, |_, connection| connection.dpd = Some(Duration::from_secs(20)));
        roaming.place(B, &THEIRS);
        roaming.world.network = Network::BAD;
        roaming.world.run(SOON);
        let mut at = 0;
        for _ in 0..12 {
            let dice = (roaming.world.dice() * 6.0) as usize;
            let side = dice % 2;
            match dice / 2 {
                0 => {
                    at = (at + 1 + side) % 3;
                    roaming.place(A, &OURS[at..=at]);
                }
                1 => roaming.world.at(side, |one, now, rng| one.rekey_ike(now, rng, "net")).unwrap(),
                _ => roaming.world.at(side, |one, now, rng| one.rekey_child(now, rng, "net", "lan")).unwrap(),
            }
            roaming.world.assert_usable();
            let pause = Duration::from_secs_f64(roaming.world.dice() * 5.0);
            roaming.world.run(pause);
        }
        roaming.world.network = Network::GOOD;
        roaming.world.run(Duration::from_secs(300));
        // Of two families the address of the responder follows that of the initiator.
        let b =
            roaming.world.sides[A].endpoint.status().find(|one| one.state == "established").unwrap().remote;
        roaming.assert_between(OURS[at], &b.ip().to_string());
        assert_eq!(b.is_ipv6(), at == 2);
        roaming.finish();
    }
}

/// A NAT in front of A that is there when `on`; its ports start at `base`.
fn nat(world: &mut World, on: &Rc<Cell<bool>>, base: &Rc<Cell<u16>>) -> IpAddr {
    let public = ip("192.0.2.9");
    let (active, ports) = (on.clone(), base.clone());
    world.rewrite[A] = Some(Box::new(move |datagram| {
        if active.get() {
            let offset = u16::from(datagram.local.port() == 4500);
            datagram.local = SocketAddr::new(public, ports.get() + offset);
        }
    }));
    let ports = base.clone();
    world.rewrite[B] = Some(Box::new(move |datagram| {
        if datagram.remote.ip() == public {
            let known = [ports.get(), ports.get() + 1].contains(&datagram.remote.port());
            let port = if datagram.remote.port() == ports.get() { 500 } else { 4500 };
            datagram.remote = if known { socket(A, port) } else { SocketAddr::new(ip("192.0.2.1"), 1) };
        }
    }));
    public
}

fn udp(world: &World, side: usize) -> Option<(u16, u16)> {
    let endpoints = world.sides[side].plane.outbound.values().next().unwrap().endpoints;
    endpoints.udp.map(|udp| (udp.local, udp.remote))
}

#[test]
fn the_preferred_address_is_taken_again_when_it_comes_back() {
    let mut roaming = Roaming::up(7, |_, _| {});
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[1], THEIRS[0]);
    roaming.place(A, &OURS[..2]);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[0], THEIRS[0]);
    // One that is worse, or of the other family, changes nothing.
    roaming.place(A, &OURS);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[0], THEIRS[0]);
    // Of one that the connection does not use the peer hears nothing.
    let told = count(&mut roaming.world, A, NotifyType::ADDITIONAL_IP4_ADDRESS);
    roaming.place(A, &[OURS[0], OURS[1], OURS[2], "10.1.0.1"]);
    roaming.world.run(SOON);
    assert_eq!(told.get(), 0);
    roaming.place(A, &[OURS[0], OURS[1], "10.1.0.1"]);
    roaming.world.run(SOON);
    assert_eq!(told.get(), 1, "of one that is gone it does");
    roaming.finish();
}

#[test]
fn who_names_no_address_tells_the_peer_of_none() {
    let mut roaming = Roaming::new(8, |side, connection| {
        if side == B {
            connection.local_addresses.clear();
        }
    });
    let told = count(&mut roaming.world, B, NotifyType::ADDITIONAL_IP4_ADDRESS);
    roaming.place(A, &OURS[..1]);
    roaming.place(B, &THEIRS[..2]);
    roaming.world.initiate(A);
    roaming.world.run(SOON);
    roaming.place(B, &THEIRS);
    roaming.world.run(SOON);
    roaming.assert_between(OURS[0], THEIRS[0]);
    assert_eq!(told.get(), 0);
    roaming.finish();
}

#[test]
fn a_nat_that_appears_with_a_move_is_noticed_by_both() {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            connection.local_addresses.push(ip(if side == A { OURS[1] } else { THEIRS[1] }));
            if side == B {
                connection.remote = RemoteAddress::Any;
            }
        }),
    );
    let (on, base) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(40_000)));
    let public = nat(&mut world, &on, &base);
    world.at(A, |endpoint, now, rng| endpoint.set_local_addresses(now, rng, vec![address(A)]));
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement(&["lan"]);
    assert_eq!((udp(&world, A), udp(&world, B)), (None, None));
    on.set(true);
    world.at(A, |endpoint, now, rng| endpoint.set_local_addresses(now, rng, vec![ip(OURS[1])]));
    world.run(SOON);
    world.assert_agreement(&["lan"]);
    assert_eq!(world.sides[B].plane.outbound.values().next().unwrap().endpoints.remote, public);
    assert_eq!((udp(&world, A), udp(&world, B)), (Some((4500, 4500)), Some((4500, 40_001))));
    on.set(false);
    world.at(A, |endpoint, now, rng| endpoint.set_local_addresses(now, rng, vec![address(A)]));
    world.run(SOON);
    assert_eq!((udp(&world, A), udp(&world, B)), (None, None));
}

#[test]
fn a_new_mapping_is_noticed_by_the_one_behind_the_nat_and_by_the_first_esp_packet() {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            connection.dpd = (side == A).then_some(Duration::from_secs(10));
            if side == B {
                connection.remote = RemoteAddress::Any;
            }
        }),
    );
    let (on, base) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(40_000)));
    nat(&mut world, &on, &base);
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement(&["lan"]);
    assert_eq!(udp(&world, B), Some((4500, 40_001)));
    // The NAT restarts. An IKE message alone moves nothing (RFC 4555 s3.8).
    base.set(50_000);
    world.at(A, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
    world.run(Duration::from_secs(6));
    world.assert_agreement(&["lan"]);
    assert_eq!(udp(&world, B), Some((4500, 40_001)));
    // The next sign of life does.
    world.run(Duration::from_secs(40));
    assert_eq!(udp(&world, B), Some((4500, 50_001)));
    // Once more: an ESP packet gets through first.
    base.set(60_000);
    let install = world.sides[B].plane.outbound.values().next().unwrap().clone();
    let mut seen = install.endpoints;
    seen.udp = seen.udp.map(|udp| dataplane::sa::UdpPorts { remote: 60_001, ..udp });
    world.at(B, |endpoint, now, rng| endpoint.peer_moved(now, rng, install.tunnel, seen));
    assert_eq!(udp(&world, B), Some((4500, 60_001)));
    world.at(B, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
    world.run(Duration::from_secs(10));
    world.assert_agreement(&["lan"]);
}

#[test]
fn a_peer_that_is_not_where_it_says_gets_no_tunnel_there() {
    let mut roaming = Roaming::up(1, |_, _| {});
    // The initiator has it that it is at its second address, but nothing sent there arrives.
    let lost = ip(OURS[1]);
    let present = roaming.present.clone();
    roaming.world.filter = Some(Box::new(move |side, datagram| {
        let present = present.borrow();
        (side == A || datagram.remote.ip() != lost)
            && (side == B || present[A].contains(&datagram.local.ip()))
    }));
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(Duration::from_secs(20));
    let endpoints = roaming.world.sides[B].plane.outbound.values().next().unwrap().endpoints;
    assert_eq!(endpoints.remote, ip(OURS[0]));
    roaming.world.run(LONG);
    roaming.world.assert_empty();
}

#[test]
fn a_wrong_cookie_ends_the_ike_sa() {
    let mut roaming = Roaming::up(1, |_, _| {});
    roaming.world.sides[A].endpoint.bend(Some(Box::new(|_, response, payloads| {
        for payload in payloads.iter_mut().filter(|_| response) {
            if let Payload::Notify(Notify { kind: NotifyType::COOKIE2, data, .. }) = payload {
                data.to_mut()[0] ^= 1;
            }
        }
    })));
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(LONG);
    assert_eq!(roaming.world.sides[B].endpoint.counters().get(Rejection::Cookie), 1);
    roaming.world.assert_empty();
}

/// AH covers the outer addresses: with a NAT in between the connection does not come up.
#[test]
fn nats_are_refused_where_there_is_ah() {
    log();
    let ah = |side: usize, connection: &mut Connection| {
        let proposals = vec![Proposal::ah("sha256").unwrap()];
        let ah = ChildConfig { protocol: ProtocolId::AH, proposals, ..child(side, "lan", 1) };
        connection.children = vec![Arc::new(ah)];
        if side == B {
            connection.remote = RemoteAddress::Any;
        }
    };
    for behind in [false, true] {
        let mut world = World::new(1, configs(ah));
        let (on, base) = (Rc::new(Cell::new(behind)), Rc::new(Cell::new(40_000)));
        nat(&mut world, &on, &base);
        world.initiate(A);
        world.run(SOON);
        if behind {
            assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Addresses), 1);
            world.run(LONG);
            world.assert_empty();
        } else {
            world.assert_agreement(&["lan"]);
        }
    }
}

#[test]
fn transport_mode_does_not_move_and_is_made_anew() {
    let mut roaming = Roaming::up(1, |side, connection| {
        let host = ChildConfig {
            mode: Mode::Transport,
            local: vec![SelectorSpec::DYNAMIC],
            remote: vec![SelectorSpec::DYNAMIC],
            ..child(side, "lan", 2)
        };
        connection.children = vec![Arc::new(host)];
        if side == A {
            connection.on_down = OnDown::Restart;
        }
    });
    roaming.place(A, &OURS[1..2]);
    roaming.world.run(Duration::from_secs(60));
    roaming.assert_between(OURS[1], THEIRS[0]);
    let install = roaming.world.sides[B].plane.outbound.values().next().unwrap();
    assert_eq!(install.selectors[0].remote, "203.0.113.1/32".parse().unwrap());
}
