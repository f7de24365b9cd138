//! Each limit of the configuration is the one that acts, and what meets it is counted by its name.

use super::*;
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{Notify, NotifyType, Payload};

const SOON: Duration = Duration::from_secs(5);

fn count(world: &World, side: usize, rejection: Rejection) -> u64 {
    world.sides[side].endpoint.counters().get(rejection)
}

fn world(change: impl Fn(usize, &mut Connection), limit: impl Fn(&mut Config)) -> World {
    log();
    let mut configs = configs(change);
    limit(&mut configs[B]);
    World::new(1, configs)
}

fn two_children(side: usize, connection: &mut Connection) {
    connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
}

#[test]
fn ike_sas() {
    for (most, up) in [(1, false), (2, true)] {
        let mut world = world(|_, _| {}, |config| config.limits.ike_sas = most);
        world.held = Some(Default::default());
        world.initiate(A);
        let mut other = world.held.as_ref().unwrap()[B][0].clone();
        other.payload[0] ^= 1;
        other.remote.set_port(20_000);
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, other, rng));
        assert_eq!(world.sides[B].endpoint.half_open(), 1);
        world.held = None;
        world.run(SOON);
        assert_eq!(world.has_event(A, |event| matches!(event, Event::IkeUp { .. })), up);
        assert_eq!(count(&world, B, Rejection::IkeLimit) > 0, !up);
    }
}

#[test]
fn child_sas_of_all_peers() {
    for (most, refused) in [(1, 1), (2, 0)] {
        let mut world = world(two_children, |config| config.peers.child_sas = most);
        world.initiate(A);
        world.run(SOON);
        assert_eq!(count(&world, B, Rejection::ChildSaLimit), refused);
        let told = |event: &Event| matches!(event, Event::ChildFailed { reason: DownReason::Rejected(kind), .. } if *kind == NotifyType::NO_ADDITIONAL_SAS);
        assert_eq!(world.has_event(A, told), refused == 1);
        // A rekey makes one more for a while, and that is no reason to let a tunnel die.
        world.at(A, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
        world.run(SOON * 4);
        world.assert_agreement(&["lan", "more"][..most]);
        assert_eq!(count(&world, B, Rejection::ChildSaLimit), refused);
    }
}

#[test]
fn policies_of_a_child_sa() {
    for (most, refused) in [(3, 1), (4, 0)] {
        let mut world = world(
            |side, connection| {
                let (one, other) = (child(side, "lan", 1), child(side, "lan", 2));
                let both = |one: &[SelectorSpec], other: &[SelectorSpec]| [one, other].concat();
                let (local, remote) = (both(&one.local, &other.local), both(&one.remote, &other.remote));
                connection.children = vec![Arc::new(ChildConfig { local, remote, ..one })];
            },
            |config| config.peers.policies = most,
        );
        world.initiate(A);
        world.run(SOON);
        assert_eq!(count(&world, B, Rejection::PolicyLimit), refused);
        world.assert_agreement(if refused == 0 { &["lan"] } else { &[] });
    }
}

#[test]
fn error_answers_a_second() {
    let mut world = world(|_, _| {}, |config| config.limits.answers_per_second = 2);
    world.held = Some(Default::default());
    world.initiate(A);
    let mut stray = world.held.as_ref().unwrap()[B][0].clone();
    stray.payload[8] = 1;
    for second in 1..=2 {
        for _ in 0..5 {
            let datagram = stray.clone();
            world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
        }
        assert_eq!(world.held.as_ref().unwrap()[A].len(), 2 * second);
        assert_eq!(count(&world, B, Rejection::AnswerLimit), 3 * second as u64);
        world.now += Duration::from_secs(1);
    }
    assert_eq!(count(&world, B, Rejection::UnknownSpi), 10);
}

/// A's first request in more payloads, or more proposals, than B reads.
#[test]
fn payloads_and_proposals_of_a_message() {
    let two = |_: usize, connection: &mut Connection| {
        let proposals = ["aes256gcm16-prfsha384-x25519", "aes128gcm16-prfsha256-x25519"];
        connection.proposals = proposals.map(|one| Proposal::ike(one).unwrap()).into();
    };
    let first = {
        let mut world = world(two, |_| {});
        world.held = Some(Default::default());
        world.initiate(A);
        world.held.unwrap()[B].remove(0).unwrap()
    };
    let payloads = cleartext::payloads(&first).len();
    let limits = [
        (payloads, 2, None),
        (payloads - 1, 2, Some(Rejection::PayloadLimit)),
        (payloads, 1, Some(Rejection::ProposalLimit)),
    ];
    for (payloads, proposals, refused) in limits {
        let mut world = world(two, |config| {
            (config.limits.payloads, config.limits.proposals) = (payloads, proposals);
        });
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, first.clone(), rng));
        assert_eq!(world.sides[B].endpoint.half_open(), usize::from(refused.is_none()));
        for one in [Rejection::PayloadLimit, Rejection::ProposalLimit, Rejection::Malformed] {
            assert_eq!(count(&world, B, one), u64::from(refused == Some(one)), "{}", one.name());
        }
    }
}

#[test]
fn length_of_an_identity() {
    let name = "a.example.net".len();
    for (most, up) in [(name, true), (name - 1, false)] {
        let mut world = world(|_, _| {}, |config| config.limits.identity = most);
        world.initiate(A);
        world.run(SOON);
        assert_eq!(world.has_event(B, |event| matches!(event, Event::IkeUp { .. })), up);
        assert_eq!(count(&world, B, Rejection::IdentityLimit), u64::from(!up));
        assert_eq!(count(&world, B, Rejection::Malformed), 0);
    }
}

/// To choose another group is a part of the negotiation, and not an answer to a stranger.
#[test]
fn no_limit_on_answers_keeps_a_peer_from_another_group() {
    let groups = |side: usize, connection: &mut Connection| {
        let first = if side == A { "x25519-ecp256" } else { "ecp256" };
        connection.proposals = vec![Proposal::ike(&format!("aes256gcm16-prfsha384-{first}")).unwrap()];
    };
    let mut world = world(groups, |config| config.limits.answers_per_second = 0);
    world.initiate(A);
    world.run(SOON);
    assert!(world.has_event(A, |event| matches!(event, Event::IkeUp { .. })));
    assert_eq!(count(&world, B, Rejection::AnswerLimit), 0);
}

/// A child with so many prefixes that IKE_AUTH takes several fragments.
pub(super) fn many_prefixes(side: usize, connection: &mut Connection) {
    let mut one = child(side, "lan", 1);
    let prefixes = (1..=60).map(|net| child(side, "", net));
    (one.local, one.remote) = prefixes.map(|one| (one.local[0].clone(), one.remote[0].clone())).unzip();
    connection.children = vec![Arc::new(one)];
    connection.fragment_size = 576;
}

/// A sends IKE_AUTH in more fragments, or a longer one, than B puts together.
#[test]
fn fragments_and_length_of_a_message() {
    for (fragments, message, up) in [(255, 64 << 10, true), (3, 64 << 10, false), (255, 1500, false)] {
        let mut world = world(many_prefixes, |config| {
            (config.limits.fragments, config.limits.message) = (fragments, message);
        });
        world.initiate(A);
        world.run(SOON);
        assert_eq!(world.has_event(B, |event| matches!(event, Event::IkeUp { .. })), up);
        assert_eq!(count(&world, B, Rejection::Fragment) > 0, !up);
    }
}

#[test]
fn addresses_that_a_peer_may_move_to() {
    for (most, counted) in [(1, 1), (2, 0)] {
        let mut world = world(
            |side, connection| {
                if side == A {
                    let more: [IpAddr; 2] = ["203.0.113.1", "203.0.113.2"].map(|text| text.parse().unwrap());
                    connection.local_addresses.extend(more);
                }
            },
            |config| config.peers.addresses = most,
        );
        world.initiate(A);
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        assert_eq!(count(&world, B, Rejection::AddressLimit), counted);
    }
}

/// B asks for a cookie, and then for another method: three requests.
#[test]
fn attempts_of_an_initiator() {
    for (most, up) in [(2, false), (3, true)] {
        log();
        let mut configs = configs(|side, connection| {
            let both = if side == A { "x25519-ecp384" } else { "ecp384" };
            connection.proposals = vec![Proposal::ike(&format!("aes256gcm16-prfsha384-{both}")).unwrap()];
        });
        configs[B].limits.cookie_threshold = 0;
        configs[A].peers.init_attempts = most;
        let mut world = World::new(1, configs);
        world.initiate(A);
        world.run(SOON);
        assert_eq!(world.has_event(A, |event| matches!(event, Event::IkeUp { .. })), up);
        let why = |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Failed(why), .. } if why.contains("keeps asking"));
        assert_eq!(world.has_event(A, why), !up);
    }
}

/// B wants A to authenticate anew every 20 seconds.
#[test]
fn how_often_a_responder_may_want_reauthentication() {
    for (shortest, kept) in [(10, false), (25, true)] {
        log();
        let mut configs = configs(|side, connection| {
            connection.reauth = (side == B).then_some(Duration::from_secs(20));
        });
        configs[A].peers.shortest_reauth = Duration::from_secs(shortest);
        let mut world = World::new(1, configs);
        world.initiate(A);
        world.run(SOON);
        // A closed IKE SA stays for a while, for repeated messages.
        let spis = |world: &World| {
            let live = world.sides[A].endpoint.status().filter(|ike| ike.state != "closed");
            live.map(|ike| ike.spi).collect::<Vec<_>>()
        };
        let before = spis(&world);
        world.run(Duration::from_secs(17));
        assert_eq!(spis(&world) == before, kept);
        world.run(Duration::from_secs(10));
        assert!(!spis(&world).contains(&before[0]));
        world.assert_agreement_of_established(&["lan"]);
    }
}

/// A peer that says that it could not take what B gave it gets no more than the configuration allows it.
#[test]
fn child_sas_of_one_ike_sa() {
    let mut world = world(two_children, |config| config.peers.children = 9);
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(SOON);
    world.sides[B].endpoint.bend(Some(Box::new(|exchange, response, payloads| {
        if exchange == crate::wire::ExchangeType::CREATE_CHILD_SA && response {
            *payloads = vec![Payload::Notify(Notify::bare(NotifyType::TEMPORARY_FAILURE))];
        }
    })));
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("more"))).unwrap();
    world.run(Duration::from_secs(60));
    assert_eq!(world.sides[B].endpoint.status().map(|ike| ike.children.len()).sum::<usize>(), 9);
    assert!(count(&world, B, Rejection::ChildLimit) > 5);
}
