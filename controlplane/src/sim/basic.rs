//! Each exchange once, over a good network.

use super::*;
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::NotifyType;

const SOON: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(1000);

fn world(change: impl Fn(usize, &mut Connection)) -> World {
    log();
    World::new(1, configs(change))
}

fn up(change: impl Fn(usize, &mut Connection)) -> World {
    let mut world = world(change);
    world.initiate(A);
    world.run(SOON);
    world
}

fn children(side: usize, count: u8) -> Vec<Arc<ChildConfig>> {
    (1..=count).map(|net| Arc::new(child(side, &format!("lan{net}"), net))).collect()
}

#[test]
fn psk_brings_up_a_child_and_terminate_removes_everything() {
    for side in [A, B] {
        let mut world = world(|_, _| {});
        world.initiate(side);
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        let install = world.sides[A].plane.outbound.values().next().unwrap();
        assert_eq!(install.selectors[0].local, "10.1.1.0/24".parse().unwrap());
        assert_eq!(install.selectors[0].remote, "10.1.2.0/24".parse().unwrap());
        assert_eq!(install.endpoints.udp, None);
        world.at(B, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
        world.run(LONG);
        world.assert_empty();
        assert!(
            world.has_event(A, |event| matches!(
                event,
                Event::IkeDown { reason: DownReason::PeerDeleted, .. }
            ))
        );
        assert!(
            world
                .has_event(B, |event| matches!(event, Event::IkeDown { reason: DownReason::Terminated, .. }))
        );
    }
}

#[test]
fn ipv6_and_every_kind_of_suite() {
    for (ike, esp) in [
        ("aes128-sha256-modp2048", "aes256-sha256"),
        ("chacha20poly1305-prfsha256-ecp256", "chacha20poly1305-esn"),
        ("aes256gcm16-prfsha512-ecp521", "aes128gmac-esn"),
        ("aes192ctr-sha384-ecp384", "null-sha512"),
    ] {
        let world = up(|side, connection| {
            let address = |side: usize| format!("2001:db8::{}", side + 1).parse::<IpAddr>().unwrap();
            connection.local_addresses = vec![address(side)];
            connection.remote = RemoteAddress::Addresses(vec![address(1 - side)]);
            connection.proposals = vec![Proposal::ike(ike).unwrap()];
            let proposals = vec![Proposal::esp(esp).unwrap()];
            connection.children = vec![Arc::new(ChildConfig { proposals, ..child(side, "lan", 1) })];
        });
        world.assert_agreement(&["lan"]);
    }
}

#[test]
fn ah_and_transport_mode() {
    let world = up(|side, connection| {
        let ah = ChildConfig {
            protocol: ProtocolId::AH,
            proposals: vec![Proposal::ah("sha256-esn").unwrap()],
            ..child(side, "ah", 1)
        };
        let transport = ChildConfig {
            mode: Mode::Transport,
            local: vec![SelectorSpec::DYNAMIC],
            remote: vec![SelectorSpec::DYNAMIC],
            ..child(side, "host", 2)
        };
        connection.children = vec![Arc::new(ah), Arc::new(transport)];
    });
    world.assert_agreement(&["ah", "host"]);
    let host = world.sides[B].plane.outbound.values().find(|one| &*one.child.name == "host").unwrap();
    assert_eq!(host.mode, Mode::Transport);
    assert_eq!(host.selectors[0].local, "198.51.100.2/32".parse().unwrap());
}

#[test]
fn several_children_come_up_in_one_ike_sa() {
    let world = up(|side, connection| connection.children = children(side, 5));
    world.assert_agreement(&["lan1", "lan2", "lan3", "lan4", "lan5"]);
}

#[test]
fn childless_ike_sa_and_a_child_later() {
    let mut world = up(|_, connection| connection.childless = true);
    world.assert_agreement(&["lan"]);
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", Some("lan"))).unwrap();
    world.run(LONG);
    world.assert_agreement(&[]);
    world.at(B, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(SOON);
    world.assert_agreement(&["lan"]);
}

#[test]
fn selectors_are_narrowed_and_a_mismatch_leaves_the_ike_sa() {
    let wide = |side, connection: &mut Connection| {
        if side == A {
            let local = vec!["10.0.0.0/8".parse::<ipnet::IpNet>().unwrap().into()];
            let remote = vec!["0.0.0.0/0".parse::<ipnet::IpNet>().unwrap().into()];
            connection.children = vec![Arc::new(ChildConfig { local, remote, ..child(side, "lan", 1) })];
        }
    };
    let world = up(wide);
    world.assert_agreement(&["lan"]);
    let install = world.sides[A].plane.outbound.values().next().unwrap();
    assert_eq!(install.selectors[0].local, "10.1.1.0/24".parse().unwrap());
    let other = |side, connection: &mut Connection| {
        if side == B {
            connection.children = vec![Arc::new(child(side, "lan", 9))];
        }
    };
    let world = up(other);
    world.assert_agreement(&[]);
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Selectors), 1);
    let asked = "10.1.1.0/24 === 10.1.2.0/24".into();
    let refused = DownReason::Declined(NotifyType::TS_UNACCEPTABLE, asked);
    assert!(
        world.has_event(A, |event| matches!(event, Event::ChildFailed { reason, .. } if *reason == refused))
    );
}

#[test]
fn wrong_psk_and_unknown_identity_are_refused_alike() {
    type Change = fn(usize, &mut Connection);
    let cases: [(Change, Rejection); 2] = [
        (
            |side, connection| {
                if side == B {
                    connection.remote_auth = RemoteProof::Psk(Secret::copy_of(b"herring"));
                }
            },
            Rejection::Authentication,
        ),
        (
            |side, connection| {
                if side == B {
                    connection.remote_id = IdPattern::parse("c.example.net").unwrap();
                }
            },
            Rejection::Identity,
        ),
    ];
    for (change, rejection) in cases {
        let mut world = up(change);
        assert_eq!(world.sides[B].endpoint.counters().get(rejection), 1);
        let refused = DownReason::Rejected(NotifyType::AUTHENTICATION_FAILED);
        assert!(
            world.has_event(A, |event| matches!(event, Event::IkeDown { reason, .. } if *reason == refused))
        );
        world.run(LONG);
        world.assert_empty();
    }
}

#[test]
fn an_initiator_that_does_not_accept_the_responder_closes_both_ends() {
    let mut world = up(|side, connection| {
        if side == A {
            connection.remote_auth = RemoteProof::Psk(Secret::copy_of(b"herring"));
        }
    });
    assert_eq!(world.sides[A].endpoint.counters().get(Rejection::Authentication), 1);
    world.run(LONG);
    world.assert_empty();
}

#[test]
fn no_common_proposal_is_said_at_once() {
    let mut world = up(|side, connection| {
        if side == B {
            connection.proposals = vec![Proposal::ike("aes128-sha256-modp3072").unwrap()];
        }
    });
    world.run(Duration::from_secs(5));
    assert!(world.sides[B].endpoint.counters().get(Rejection::NoProposal) > 0);
    let offer = connection(A).proposals[0].to_string();
    let refused = DownReason::Declined(NotifyType::NO_PROPOSAL_CHOSEN, offer);
    assert!(world.has_event(A, |event| matches!(event, Event::IkeDown { reason, .. } if *reason == refused)));
    world.run(LONG);
    world.assert_empty();
}

#[test]
fn another_key_exchange_method_is_tried_again() {
    let world = up(|side, connection| {
        let both = if side == A { "x25519-ecp384" } else { "ecp384" };
        connection.proposals = vec![Proposal::ike(&format!("aes256gcm16-prfsha384-{both}")).unwrap()];
    });
    world.assert_agreement(&["lan"]);
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::KeyExchange), 1);
}

#[test]
fn cookies_are_asked_for_under_load() {
    log();
    let mut configs = configs(|_, _| {});
    configs[B].limits.cookie_threshold = 0;
    let mut world = World::new(1, configs);
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement(&["lan"]);
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::CookieRequired), 1);
}

#[test]
fn cookie_and_another_method_together() {
    log();
    let mut configs = configs(|side, connection| {
        let both = if side == A { "x25519-ecp384" } else { "ecp384" };
        connection.proposals = vec![Proposal::ike(&format!("aes256gcm16-prfsha384-{both}")).unwrap()];
    });
    configs[B].limits.cookie_threshold = 0;
    let mut world = World::new(1, configs);
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement(&["lan"]);
}

#[test]
fn rekeys_of_child_and_ike_from_either_side() {
    for pfs in [false, true] {
        let mut world = up(|side, connection| {
            if pfs {
                let proposals = vec![Proposal::esp("aes128gcm16-x25519-esn").unwrap()];
                connection.children = vec![Arc::new(ChildConfig { proposals, ..child(side, "lan", 1) })];
            }
        });
        world.probe_every = Some(Duration::from_millis(7));
        for side in [A, B, A, B] {
            let before = world.sides[A].plane.added;
            world.at(side, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
            world.run(Duration::from_secs(10));
            world.assert_agreement(&["lan"]);
            assert_eq!(world.sides[A].plane.added, before + 1);
            let spi = world.sides[A].endpoint.status().next().unwrap().spi;
            world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
            world.run(LONG);
            world.assert_agreement(&["lan"]);
            assert_ne!(world.sides[A].endpoint.status().next().unwrap().spi, spi);
        }
        assert_eq!(world.lost, 0);
        assert!(world.delivered > 1000);
    }
}

#[test]
fn a_dead_peer_is_noticed_and_set_up_again() {
    let mut world = up(|_, connection| {
        connection.dpd = Some(Duration::from_secs(30));
        connection.on_down = OnDown::Restart;
    });
    world.network.loss = 1.0;
    world.run(Duration::from_secs(300));
    for side in [A, B] {
        let dead = |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Unreachable(_), .. });
        assert!(world.has_event(side, dead), "side {side}");
    }
    world.network.loss = 0.0;
    world.run(LONG);
    // Both ends may have tried at the same time.
    world.assert_consistent();
    assert!(!world.sides[A].plane.outbound.is_empty());
}

#[test]
fn an_idle_peer_is_asked_whether_it_is_alive() {
    let mut world = up(|side, connection| {
        connection.dpd = (side == A).then_some(Duration::from_secs(30));
    });
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = asked.clone();
    world.filter = Some(Box::new(move |side, _| {
        count.set(count.get() + usize::from(side == A));
        true
    }));
    world.run(Duration::from_secs(305));
    assert_eq!(asked.get(), 10);
    world.assert_agreement(&["lan"]);
}

#[test]
fn initial_contact_replaces_what_is_stale() {
    let mut world = up(|_, _| {});
    // A restarts and has forgotten everything.
    let [fresh, _] = configs(|_, _| {});
    world.sides[A].endpoint = Endpoint::new(Arc::new(fresh), wall_clock(world.now));
    world.sides[A].plane = Plane::default();
    world.initiate(A);
    world.run(LONG);
    world.assert_agreement(&["lan"]);
    assert!(world.has_event(B, |event| matches!(event, Event::IkeDown { reason: DownReason::Replaced, .. })));
}

#[test]
fn a_peer_that_lost_its_state_says_so() {
    let mut world = up(|side, connection| connection.dpd = (side == B).then_some(Duration::from_secs(30)));
    let [fresh, _] = configs(|_, _| {});
    world.sides[A].endpoint = Endpoint::new(Arc::new(fresh), wall_clock(world.now));
    world.run(Duration::from_secs(40));
    assert!(world.sides[A].endpoint.counters().get(Rejection::UnknownSpi) > 0);
    world.run(LONG);
    assert!(world.has_event(B, |event| matches!(event, Event::IkeDown { .. })));
}

#[test]
fn lifetimes_rekey_and_expire_by_themselves() {
    let mut world = up(|side, connection| {
        connection.rekey = Some(Duration::from_secs(400));
        connection.rekey_jitter = Duration::from_secs(100);
        let (rekey, rekey_jitter) = (Some(Duration::from_secs(100)), Duration::from_secs(30));
        connection.children = vec![Arc::new(ChildConfig { rekey, rekey_jitter, ..child(side, "lan", 1) })];
    });
    world.probe_every = Some(Duration::from_millis(500));
    world.run(Duration::from_secs(4000));
    let rekeyed = |event: &&Event| matches!(event, Event::ChildRekeyed { .. });
    let ike = |event: &&Event| matches!(event, Event::IkeRekeyed { .. });
    let count = (
        world.sides[A].events.iter().filter(rekeyed).count(),
        world.sides[A].events.iter().filter(ike).count(),
    );
    assert!(count.0 >= 45 && count.1 >= 10, "{count:?}");
    assert_eq!(world.lost, 0);
}

#[test]
fn soft_and_hard_limits_of_the_data_plane() {
    let mut world = up(|_, _| {});
    let (tunnel, spi) = {
        let install = world.sides[A].plane.outbound.values().next().unwrap();
        (install.tunnel, install.spi)
    };
    world.at(A, |endpoint, now, rng| endpoint.child_expired(now, rng, tunnel, spi, false));
    world.run(Duration::from_secs(10));
    world.assert_agreement(&["lan"]);
    let install = world.sides[A].plane.outbound.values().next().unwrap().clone();
    assert_ne!(install.spi, spi);
    world.at(A, |endpoint, now, rng| endpoint.child_expired(now, rng, install.tunnel, install.spi, true));
    world.run(Duration::from_secs(10));
    world.assert_agreement(&[]);
}

#[test]
fn long_messages_are_fragmented() {
    let largest = std::rc::Rc::new(std::cell::Cell::new(0));
    for (fragmentation, fits) in [(true, true), (false, false)] {
        largest.set(0);
        let mut world = world(|side, connection| {
            connection.fragmentation = fragmentation;
            connection.fragment_size = 576;
            let many = (0..60).map(|net| {
                SelectorSpec::from(format!("10.{net}.{}.0/24", side + 1).parse::<ipnet::IpNet>().unwrap())
            });
            let local = many.collect();
            let remote = vec!["10.0.0.0/8".parse::<ipnet::IpNet>().unwrap().into()];
            connection.children = vec![Arc::new(ChildConfig { local, remote, ..child(side, "lan", 1) })];
        });
        let seen = largest.clone();
        world.filter = Some(Box::new(move |_, datagram| {
            seen.set(seen.get().max(datagram.payload.len()));
            true
        }));
        world.network = Network { max_delay: Duration::from_millis(200), ..Network::GOOD };
        world.initiate(A);
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        assert_eq!(largest.get() <= 576 - 32, fits, "{}", largest.get());
    }
}

#[test]
fn behind_a_nat_ports_float_and_a_new_mapping_is_followed() {
    let mut world = world(|side, connection| {
        // With MOBIKE an IKE message alone moves nothing: see `sim/mobike.rs`.
        connection.mobike = false;
        if side == B {
            connection.remote = RemoteAddress::Any;
        }
    });
    let outside = std::rc::Rc::new(std::cell::Cell::new(40_000u16));
    let mapped = outside.clone();
    let public = IpAddr::from([203, 0, 113, 9]);
    world.rewrite[A] = Some(Box::new(move |datagram| {
        let offset = if datagram.local.port() == 4500 { 1000 } else { 0 };
        datagram.local = SocketAddr::new(public, mapped.get() + offset);
    }));
    // Back through the NAT: to whoever is inside, when the mapping is the current one.
    let current = outside.clone();
    world.rewrite[B] = Some(Box::new(move |datagram| {
        let port = datagram.remote.port();
        let inner = if port == current.get() { 500 } else { 4500 };
        let known = port == current.get() || port == current.get() + 1000;
        datagram.remote = if known { socket(A, inner) } else { SocketAddr::new(public, 1) };
    }));
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement(&["lan"]);
    let endpoints = world.sides[B].plane.outbound.values().next().unwrap().endpoints;
    assert_eq!(endpoints.remote, public);
    assert_eq!(endpoints.udp.map(|udp| (udp.local, udp.remote)), Some((4500, 41_000)));
    // The NAT restarts.
    outside.set(50_000);
    world.at(A, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
    world.run(Duration::from_secs(10));
    world.assert_agreement(&["lan"]);
    let endpoints = world.sides[B].plane.outbound.values().next().unwrap().endpoints;
    assert_eq!(endpoints.udp.map(|udp| udp.remote), Some(51_000));
    // Whoever is behind it keeps the mapping alive (RFC 7296 s2.23), every 20 s of silence.
    let before = world.keepalives;
    world.run(Duration::from_secs(110));
    assert_eq!([A, B].map(|side| world.keepalives[side] - before[side]), [5, 0]);
}
