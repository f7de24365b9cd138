//! What peers that cannot prove themselves may take of us: room, time and lines of the log.

use super::cleartext::rebuild;
use super::hostile::first_request;
use super::*;
use crate::rejection::Rejection;
use crate::wire::Payload;

const SOON: Duration = Duration::from_secs(3);

fn count(world: &World, rejection: Rejection) -> u64 {
    world.sides[B].endpoint.counters().get(rejection)
}

/// B, to which datagrams come by hand, and which answers nobody.
fn listener(change: impl Fn(usize, &mut Connection), limit: impl Fn(&mut Config)) -> World {
    log();
    let mut configs = configs(change);
    limit(&mut configs[B]);
    let mut world = World::new(1, configs);
    world.held = Some(Default::default());
    world
}

fn receive(world: &mut World, datagram: Datagram) {
    world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
}

/// Whoever does a key exchange and then has no credentials takes no more room, and no more of our time, than who never
/// comes back: the table of IKE SAs stays free for peers that have.
#[test]
fn peers_that_fail_stay_half_open_for_as_long_as_those_that_never_come_back() {
    log();
    let mut configs = configs(|side, connection| {
        if side == A {
            connection.local_auth = LocalProof::Psk(Secret::copy_of(b"herring"));
        }
    });
    configs[B].limits.half_open = 4;
    configs[B].limits.ike_sas = 5;
    let timeout = configs[B].limits.half_open_timeout;
    let mut world = World::new(1, configs);
    for tries in 1..=6 {
        world.initiate(A);
        world.run(Duration::from_secs(1));
        assert_eq!(world.sides[B].endpoint.half_open(), tries.min(4));
        assert_eq!(world.sides[B].endpoint.status().count(), tries.min(4));
    }
    assert_eq!(count(&world, Rejection::Authentication), 4);
    assert!(count(&world, Rejection::HalfOpen) >= 2);
    assert_eq!(count(&world, Rejection::IkeLimit), 0);
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(timeout);
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
    assert_eq!(world.sides[B].endpoint.status().count(), 0);
}

#[test]
fn who_never_comes_back_is_counted() {
    let mut world = listener(|_, _| {}, |_| {});
    receive(&mut world, first_request());
    world.run(Duration::from_secs(29));
    assert_eq!(count(&world, Rejection::HalfOpenTimeout), 0);
    world.run(SOON);
    assert_eq!(count(&world, Rejection::HalfOpenTimeout), 1);
}

#[test]
fn a_first_request_that_is_too_long_is_not_kept() {
    let len = first_request().payload.len();
    for (most, refused) in [(len - 1, 1), (len, 0)] {
        let mut world = listener(|_, _| {}, |config| config.limits.first_request = most);
        receive(&mut world, first_request());
        assert_eq!(count(&world, Rejection::FirstRequestLength), refused);
        assert_eq!(world.sides[B].endpoint.half_open(), usize::from(refused == 0));
    }
}

#[test]
fn the_log_gets_so_many_lines_of_strangers_and_the_connection_hears_of_all() {
    let other = |side: usize, connection: &mut Connection| {
        if side == B {
            connection.proposals = vec![Proposal::ike("aes128-sha256-modp3072").unwrap()];
        }
    };
    let mut world = listener(other, |config| config.limits.log_lines_per_second = 2);
    for second in 1..=2 {
        for _ in 0..5 {
            receive(&mut world, first_request());
        }
        assert_eq!(count(&world, Rejection::LogLimit), 3 * second);
        world.now += Duration::from_secs(1);
    }
    assert_eq!(count(&world, Rejection::NoProposal), 10);
    let told = |event: &&Event| match event {
        Event::Refused { why, .. } => why.contains("we accept") && why.contains("peer has"),
        _ => false,
    };
    assert_eq!(world.sides[B].events.iter().filter(told).count(), 10);
}

#[test]
fn a_connection_that_nobody_could_use_says_who_came() {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            if side == B {
                connection.remote_id = IdPattern::parse("c.example.net").unwrap();
            }
        }),
    );
    world.initiate(A);
    world.run(SOON);
    let expected =
        "no connection for a.example.net to b.example.net; expected b.example.net <- c.example.net";
    assert!(
        world.has_event(B, |event| matches!(event, Event::Refused { why, .. } if why == expected)),
        "{:?}",
        world.sides[B].events
    );
}

/// A public value that is in no group is refused in the answer already (RFC 6989 s2), where that can be seen.
#[test]
fn a_value_off_the_curve_gets_no_half_open_ike_sa() {
    let ecp = |_, connection: &mut Connection| {
        connection.proposals = vec![Proposal::ike("aes256gcm16-prfsha384-ecp256").unwrap()];
    };
    let mut world = listener(ecp, |_| {});
    world.initiate(A);
    let mut request = world.held.as_mut().and_then(|held| held[B].pop_front()).unwrap();
    rebuild(&mut request, |payloads| {
        for payload in payloads {
            if let Payload::Ke(ke) = payload {
                ke.data.to_mut()[63] ^= 1;
            }
        }
    });
    receive(&mut world, request);
    assert_eq!(count(&world, Rejection::KeyExchange), 1);
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
}
