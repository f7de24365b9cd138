//! Reauthentication: a new IKE SA with all children, and no packet lost.

use super::*;
use crate::config::PoolConfig;
use crate::rejection::Rejection;
use crate::update::DownReason;

const SOON: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(1000);
const NAMES: [&str; 3] = ["lan", "dmz", "voice"];

fn world(seed: u64, change: impl Fn(usize, &mut Connection)) -> World {
    log();
    World::new(
        seed,
        configs(|side, connection| {
            let children = NAMES.iter().zip(1..).map(|(name, net)| Arc::new(child(side, name, net)));
            connection.children = children.collect();
            change(side, connection);
        }),
    )
}

fn hourly(wanted: usize) -> impl Fn(usize, &mut Connection) {
    move |side, connection| {
        connection.reauth = (side == wanted).then_some(Duration::from_secs(600));
        connection.rekey_jitter = Duration::from_secs(60);
    }
}

fn ups(world: &World, side: usize) -> usize {
    world.sides[side].events.iter().filter(|event| matches!(event, Event::IkeUp { .. })).count()
}

fn finish(mut world: World) {
    world.probe_every = None;
    world.at(B, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(LONG);
    world.assert_empty();
}

/// The tunnels that the data plane knows.
fn tunnels(world: &World, side: usize) -> Vec<TunnelId> {
    world.sides[side].plane.outbound.keys().copied().collect()
}

#[test]
fn a_new_ike_sa_takes_over_without_a_lost_packet() {
    // The initiator has it configured; or the responder, who says so (RFC 4478).
    for side in [A, B] {
        let mut world = world(1, hourly(side));
        world.initiate(A);
        world.run(SOON);
        world.assert_agreement(&NAMES);
        let before = [A, B].map(|side| tunnels(&world, side));
        world.probe_every = Some(Duration::from_millis(40));
        world.run(Duration::from_secs(640));
        world.assert_agreement(&NAMES);
        assert_eq!((ups(&world, A), ups(&world, B)), (2, 2), "configured at {side}");
        assert_eq!(world.lost, 0);
        assert!(world.delivered > 1000);
        assert_eq!([A, B].map(|side| tunnels(&world, side)), before, "the tunnels stay the same");
        for side in [A, B] {
            let down = |event: &Event| matches!(event, Event::ChildDown { .. });
            assert!(!world.has_event(side, down), "side {side}");
        }
        // The old IKE SA ends by itself, and so on for ever.
        world.probe_every = Some(Duration::from_millis(250));
        world.run(Duration::from_secs(3000));
        world.assert_agreement(&NAMES);
        assert!(ups(&world, A) >= 6);
        assert_eq!(world.lost, 0);
        finish(world);
    }
}

/// What the other end asks for on the old IKE SA just when that goes comes up on the new one.
#[test]
fn a_child_that_is_asked_for_meanwhile() {
    for seed in 0..6 {
        for delay in [5, 15, 25, 35, 42, 45, 48, 55, 65] {
            let every = Duration::from_secs(600);
            let mut world = world(seed, |side, connection| connection.reauth = (side == A).then_some(every));
            world.initiate(A);
            world.run(SOON);
            world.at(B, |one, now, rng| one.terminate(now, rng, "net", Some("voice"))).unwrap();
            world.run(SOON);
            // It came up two round trips after the start.
            world.run(every + Duration::from_millis(40 + delay) - SOON * 2);
            world.at(B, |one, now, rng| one.initiate(now, rng, "net", Some("voice"))).unwrap();
            world.run(Duration::from_secs(60));
            assert_eq!((ups(&world, A), ups(&world, B)), (2, 2));
            world.assert_agreement(&NAMES);
            finish(world);
        }
    }
}

#[test]
fn over_a_bad_network_among_rekeys() {
    for seed in 0..10 {
        println!("seed {seed}");
        let mut world = world(seed, |side, connection| {
            hourly(usize::from(seed % 2 == 0))(side, connection);
            connection.dpd = Some(Duration::from_secs(30));
        });
        world.initiate(A);
        world.run(SOON);
        world.network = Network::BAD;
        world.probe_every = Some(Duration::from_millis(101));
        for _ in 0..300 {
            let dice = (world.dice() * 8.0) as usize;
            let side = dice % 2;
            world
                .at(side, |endpoint, now, rng| match dice / 2 {
                    0 => endpoint.rekey_ike(now, rng, "net"),
                    1 => endpoint.rekey_child(now, rng, "net", "lan"),
                    2 => endpoint.rekey_child(now, rng, "net", "dmz"),
                    _ => Ok(()),
                })
                .unwrap();
            let pause = Duration::from_secs_f64(world.dice() * 20.0);
            world.run(pause);
        }
        world.network = Network::GOOD;
        world.run(Duration::from_secs(100));
        assert!(ups(&world, A) >= 4, "{}", ups(&world, A));
        assert_eq!(world.lost, 0);
        world.assert_agreement(&NAMES);
        finish(world);
    }
}

#[test]
fn a_client_keeps_its_inner_address() {
    log();
    let mut configs = configs(|side, connection| {
        hourly(A)(side, connection);
        let any: ipnet::IpNet = "0.0.0.0/0".parse().unwrap();
        let mut child = child(side, "all", 1);
        if side == A {
            connection.request_addresses = vec!["0.0.0.0".parse().unwrap()];
            (child.local, child.remote) = (vec![SelectorSpec::DYNAMIC], vec![any.into()]);
        } else {
            connection.pools = vec!["v4".into()];
            (child.local, child.remote) = (vec![any.into()], vec![SelectorSpec::DYNAMIC]);
        }
        connection.children = vec![Arc::new(child)];
    });
    configs[B].pools = vec![PoolConfig { name: "v4".into(), prefix: "10.9.0.0/24".parse().unwrap() }];
    let mut world = World::new(1, configs);
    world.initiate(A);
    world.run(SOON);
    world.probe_every = Some(Duration::from_millis(50));
    world.run(Duration::from_secs(2000));
    assert!(ups(&world, A) >= 3);
    let install = world.sides[B].plane.outbound.values().next().unwrap();
    assert_eq!(install.selectors[0].remote, "10.9.0.1/32".parse().unwrap());
    assert_eq!(world.lost, 0);
    finish(world);
}

#[test]
fn an_attempt_that_fails_leaves_the_old_one_and_is_made_again() {
    let mut world = world(1, hourly(A));
    world.initiate(A);
    world.run(SOON);
    world.probe_every = Some(Duration::from_millis(50));
    // B refuses every new IKE SA for a while.
    let refuse = std::rc::Rc::new(std::cell::Cell::new(true));
    let shared = refuse.clone();
    world.filter = Some(Box::new(move |_, datagram| {
        !shared.get() || datagram.payload[18] != crate::wire::ExchangeType::IKE_SA_INIT.0
    }));
    world.run(Duration::from_secs(900));
    world.assert_agreement_of_established(&NAMES);
    assert_eq!(ups(&world, A), 1);
    refuse.set(false);
    world.run(Duration::from_secs(200));
    world.assert_agreement(&NAMES);
    assert_eq!(ups(&world, A), 2);
    assert_eq!(world.lost, 0);
    finish(world);
}

/// The peer authenticates by EAP, so it alone can do it; when it does not, it is out (RFC 4478).
#[test]
fn a_peer_that_does_not_authenticate_anew_is_put_out() {
    let mut world = world(1, |side, connection| {
        hourly(B)(side, connection);
        if side == B {
            connection.remote = RemoteAddress::Any;
        }
    });
    world.sides[B].endpoint.bend(Some(Box::new(|_, _, payloads| {
        payloads.retain(|payload| {
            !matches!(payload, crate::wire::Payload::Notify(one) if one.kind == crate::wire::NotifyType::AUTH_LIFETIME)
        });
    })));
    world.initiate(A);
    world.run(Duration::from_secs(640));
    world.assert_agreement(&NAMES);
    world.run(LONG);
    let out = |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Failed(why), .. } if why.contains("RFC 4478"));
    assert!(world.has_event(B, out));
    assert_eq!(world.sides[A].endpoint.counters().get(Rejection::Authentication), 0);
    world.assert_empty();
}

/// A peer that was restarted comes back without INITIAL_CONTACT while the gateway still has its old IKE SA: the
/// tunnels stay, the first goes over to the new one as soon as the peer has shown that it is there, the others with
/// its next question or when the old one dies.
#[test]
fn a_peer_that_comes_back_gets_its_tunnel() {
    let mut world = world(1, |side, connection| {
        connection.unique = false;
        connection.dpd = (side == B).then_some(Duration::from_secs(30));
    });
    world.initiate(A);
    world.run(SOON);
    let before = tunnels(&world, B);
    let [fresh, _] = configs(|side, connection| {
        let children = NAMES.iter().zip(1..).map(|(name, net)| Arc::new(child(side, name, net)));
        connection.children = children.collect();
        connection.unique = false;
    });
    world.sides[A].endpoint = Endpoint::new(Arc::new(fresh), wall_clock(world.now));
    world.sides[A].plane = Plane::default();
    world.initiate(A);
    world.run(SOON);
    assert_eq!(tunnels(&world, B), before);
    let carried = |world: &World| {
        let outbound = world.sides[B].plane.outbound.values();
        outbound.filter(|one| world.sides[A].plane.inbound.contains_key(&one.spi)).count()
    };
    assert_eq!(carried(&world), 2, "all but the last");
    world.run(LONG);
    assert_eq!(carried(&world), 3);
    world.assert_agreement(&NAMES);
    assert!(!world.has_event(B, |event| matches!(event, Event::ChildDown { .. })));
    finish(world);
}
