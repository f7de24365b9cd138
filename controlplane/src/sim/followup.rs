//! Additional key exchanges in rekeys (RFC 9370 s2.2.4).

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{ExchangeType, Header, Notify, NotifyType, Payload, PayloadType};

const SOON: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(1000);

/// ML-KEM in the rekeys of the IKE SA and of the child.
pub(super) fn hybrid(_: usize, connection: &mut Connection) {
    with(connection, "aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes128gcm16-x25519-ke1_mlkem512-esn");
}

fn with(connection: &mut Connection, ike: &str, esp: &str) {
    connection.proposals = vec![Proposal::ike(ike).unwrap()];
    for child in &mut connection.children {
        Arc::make_mut(child).proposals = vec![Proposal::esp(esp).unwrap()];
    }
}

fn up(change: impl Fn(usize, &mut Connection)) -> World {
    log();
    let mut world = World::new(1, configs(change));
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement(&["lan"]);
    world
}

fn rekey_child(world: &mut World, side: usize) {
    world.at(side, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
}

fn rekey_ike(world: &mut World, side: usize) {
    world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
}

fn finish(mut world: World) {
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(LONG);
    world.assert_empty();
}

/// SPIs of the IKE SA and its child.
fn spis(world: &World) -> (u64, u32) {
    let mut established = world.sides[A].endpoint.status().filter(|one| one.state == "established");
    let ike = established.next().expect("one is up");
    (ike.spi, ike.children.first().map_or(0, |child| child.spi_in))
}

fn count(world: &World, rejection: Rejection) -> u64 {
    world.sides.iter().map(|side| side.endpoint.counters().get(rejection)).sum()
}

/// Notes the headers of all messages from now on.
fn listen(world: &mut World) -> Rc<RefCell<Vec<Header>>> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let notes = heard.clone();
    world.filter = Some(Box::new(move |_, datagram| {
        notes.borrow_mut().push(Header::parse(&datagram.payload).expect("what we send parses"));
        true
    }));
    heard
}

fn bend(
    world: &mut World,
    side: usize,
    bend: impl FnMut(ExchangeType, bool, &mut Vec<Payload<'_>>) + 'static,
) {
    world.sides[side].endpoint.bend(Some(Box::new(bend)));
}

fn is_link(payload: &Payload<'_>) -> bool {
    matches!(payload, Payload::Notify(notify) if notify.kind == NotifyType::ADDITIONAL_KEY_EXCHANGE)
}

#[test]
fn rekeys_from_either_side_do_all_key_exchanges() {
    for (ike, esp, rounds) in [
        ("aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes128gcm16-x25519-ke1_mlkem768-esn", 1),
        (
            "aes128-sha256-ecp256-ke1_mlkem512-ke3_x25519-ke7_ecp384",
            "aes256-sha256-ecp256-ke2_mlkem1024-ke4_x25519-ke5_ecp384",
            3,
        ),
        // NONE makes one optional, and the peer's wish comes second.
        ("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_none", "aes128gcm16-x25519-ke1_mlkem768-ke2_none", 1),
        ("aes256gcm16-prfsha384-x25519-ke1_none-ke1_mlkem768", "aes128gcm16-x25519-ke1_none-ke1_mlkem768", 0),
        ("aes256gcm16-prfaescmac-x25519-ke1_mlkem768", "aes128gcm16-none-ke1_none-x25519-ke1_mlkem768", 0),
    ] {
        let mut world = up(|_, connection| with(connection, ike, esp));
        for side in [A, B] {
            for what in [rekey_child, rekey_ike] {
                let before = spis(&world);
                let heard = listen(&mut world);
                what(&mut world, side);
                world.run(SOON * 3);
                world.filter = None;
                world.assert_agreement(&["lan"]);
                let after = spis(&world);
                assert!(before.0 != after.0 || before.1 != after.1, "{ike} {esp}");
                let heard = heard.borrow();
                let followups = heard.iter().filter(|one| one.exchange == ExchangeType::IKE_FOLLOWUP_KE);
                // A response may come in fragments.
                let answered = followups.filter(|one| one.response).map(|one| one.message_id);
                let ike_rekeyed = before.0 != after.0;
                let expected = if ike_rekeyed && ike.contains("prfaescmac") { 1 } else { rounds };
                assert_eq!(answered.collect::<BTreeSet<_>>().len(), expected, "{ike} {esp}");
            }
        }
        finish(world);
    }
}

#[test]
fn a_new_child_does_them_too() {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            connection.children.push(Arc::new(child(side, "more", 2)));
            hybrid(side, connection);
        }),
    );
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(SOON);
    let heard = listen(&mut world);
    world.at(B, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("more"))).unwrap();
    world.run(SOON);
    world.filter = None;
    world.assert_agreement(&["lan", "more"]);
    assert!(heard.borrow().iter().any(|one| one.exchange == ExchangeType::IKE_FOLLOWUP_KE));
    finish(world);
}

/// When rekeys cross, whoever began the exchange with the lowest of the four nonces does not go on.
#[test]
fn the_lowest_nonce_stops() {
    for what in [rekey_child, rekey_ike] {
        let mut stopped = [0; 2];
        for seed in 0..8 {
            log();
            let mut world = World::new(seed, configs(hybrid));
            world.initiate(A);
            world.run(SOON);
            let nonces = Rc::new(RefCell::new(Vec::<(Vec<u8>, usize)>::new()));
            for side in [A, B] {
                let nonces = nonces.clone();
                bend(&mut world, side, move |exchange, response, payloads| {
                    let initiator = if response { 1 - side } else { side };
                    for payload in payloads {
                        if let (ExchangeType::CREATE_CHILD_SA, Payload::Nonce(nonce)) = (exchange, payload) {
                            nonces.borrow_mut().push((nonce.to_vec(), initiator));
                        }
                    }
                });
            }
            let gone_on: Rc<RefCell<BTreeSet<usize>>> = Rc::default();
            let notes = gone_on.clone();
            world.filter = Some(Box::new(move |side, datagram| {
                let header = Header::parse(&datagram.payload).unwrap();
                if header.exchange == ExchangeType::IKE_FOLLOWUP_KE && !header.response {
                    notes.borrow_mut().insert(side);
                }
                true
            }));
            what(&mut world, A);
            what(&mut world, B);
            world.run(SOON * 3);
            world.filter = None;
            world.assert_agreement(&["lan"]);
            assert_eq!(nonces.borrow().len(), 4);
            let (_, lowest) = nonces.borrow().iter().min().cloned().unwrap();
            assert_eq!(*gone_on.borrow(), BTreeSet::from([1 - lowest]), "seed {seed}");
            stopped[lowest] += 1;
        }
        assert!(stopped[A] > 0 && stopped[B] > 0, "{stopped:?}");
    }
}

/// A KEM turns a bent ciphertext into another secret: if it did not matter, both ends would have the same keys.
#[test]
fn the_secrets_go_into_the_keys() {
    let bent = |world: &mut World| {
        bend(world, B, |exchange, response, payloads| {
            for payload in payloads {
                if let (ExchangeType::IKE_FOLLOWUP_KE, true, Payload::Ke(ke)) = (exchange, response, payload)
                {
                    ke.data.to_mut()[3] ^= 1;
                }
            }
        });
    };
    let mut world = up(hybrid);
    bent(&mut world);
    rekey_child(&mut world, A);
    world.run(SOON);
    let (_, out) = world.sides[A].plane.outbound.iter().next().unwrap();
    assert_ne!(world.sides[B].plane.inbound[&out.spi].1, out.keys);
    let mut world = up(hybrid);
    bent(&mut world);
    rekey_ike(&mut world, A);
    world.run(SOON);
    rekey_child(&mut world, A);
    world.run(SOON);
    assert!(count(&world, Rejection::Integrity) > 0);
}

#[test]
fn in_fragments_over_a_bad_network() {
    for seed in 0..6 {
        println!("seed {seed}");
        log();
        let mut world = World::new(
            seed,
            configs(|side, connection| {
                hybrid(side, connection);
                connection.fragment_size = 576;
            }),
        );
        world.initiate(A);
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        world.network = Network::BAD;
        let heard = listen(&mut world);
        for side in [A, B] {
            rekey_child(&mut world, side);
            world.run(Duration::from_secs(60));
            rekey_ike(&mut world, side);
            world.run(Duration::from_secs(60));
        }
        world.network = Network::GOOD;
        world.filter = None;
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        let fragmented = |one: &&Header| {
            one.exchange == ExchangeType::IKE_FOLLOWUP_KE && one.next_payload == PayloadType::SKF
        };
        assert!(heard.borrow().iter().filter(fragmented).count() >= 16);
        finish(world);
    }
}

/// The responder forgets after a while, and says so. The initiator begins anew.
#[test]
fn what_takes_too_long_begins_anew() {
    for what in [rekey_child, rekey_ike] {
        for side in [A, B] {
            let mut world = up(hybrid);
            let before = spis(&world);
            world.filter = Some(Box::new(move |from, datagram| {
                let header = Header::parse(&datagram.payload).unwrap();
                from != side || header.exchange != ExchangeType::IKE_FOLLOWUP_KE
            }));
            what(&mut world, side);
            world.run(Duration::from_secs(25));
            world.filter = None;
            world.assert_agreement(&["lan"]);
            assert_eq!(spis(&world), before, "nothing is made without the additional key exchange");
            world.run(Duration::from_secs(25));
            world.assert_agreement(&["lan"]);
            assert_ne!(spis(&world), before);
            assert_eq!(count(&world, Rejection::FollowupUnknown), 1);
            finish(world);
        }
    }
}

/// The initiator never goes on: the responder can rekey by itself after a while.
#[test]
fn an_initiator_that_forgets_blocks_nothing_for_long() {
    for what in [rekey_child, rekey_ike] {
        let mut world = up(hybrid);
        let before = spis(&world);
        // A believes that it was refused.
        bend(&mut world, B, |exchange, response, payloads| {
            if exchange == ExchangeType::CREATE_CHILD_SA && response {
                *payloads = vec![Payload::Notify(Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN))];
            }
        });
        what(&mut world, A);
        world.run(Duration::from_secs(1));
        world.sides[B].endpoint.bend(None);
        what(&mut world, B);
        world.run(Duration::from_secs(10));
        assert_eq!(spis(&world), before, "the peer is at it");
        // And it does not come back to it.
        world.filter = Some(Box::new(|side, datagram| {
            let header = Header::parse(&datagram.payload).unwrap();
            side == B || header.response || header.exchange != ExchangeType::CREATE_CHILD_SA
        }));
        world.run(Duration::from_secs(60));
        assert_ne!(spis(&world), before);
        world.filter = None;
        world.run(Duration::from_secs(60));
        world.assert_agreement(&["lan"]);
        assert_ne!(spis(&world), before);
        finish(world);
    }
}

#[test]
fn what_a_peer_has_under_way_is_bounded() {
    log();
    let more = |side: usize, connection: &mut Connection| {
        connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
        hybrid(side, connection);
    };
    for limit in [1, 4] {
        let mut world = World::new(1, with_limits(more, |limits| limits.followups = limit));
        under_way(&mut world, limit);
        world.sides[B].endpoint.bend(None);
        world.run(Duration::from_secs(30));
        world.assert_agreement(&["lan", "more"]);
        finish(world);
    }
}

fn with_limits(
    change: impl Fn(usize, &mut Connection),
    limit: impl Fn(&mut crate::config::PeerLimits),
) -> [Config; 2] {
    let mut configs = configs(change);
    configs.iter_mut().for_each(|config| limit(&mut config.peers));
    configs
}

fn under_way(world: &mut World, limit: usize) {
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(SOON);
    let heard = listen(world);
    // A believes that B could not do it at the moment, and asks again and again.
    bend(world, B, |exchange, response, payloads| {
        if exchange == ExchangeType::CREATE_CHILD_SA && response {
            *payloads = vec![Payload::Notify(Notify::bare(NotifyType::TEMPORARY_FAILURE))];
        }
    });
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("more"))).unwrap();
    world.run(Duration::from_secs(15));
    let refused = count(world, Rejection::FollowupLimit) as usize;
    let asked = |one: &&Header| one.exchange == ExchangeType::CREATE_CHILD_SA && !one.response;
    assert!(refused > 5);
    assert_eq!(heard.borrow().iter().filter(asked).count() - refused, limit);
}

/// What the peer goes on with after a while is known still, or not, as the configuration says.
#[test]
fn the_patience_with_a_peer_is_configured() {
    for (timeout, unknown) in [(20, 1), (60, 0)] {
        let limit = |limits: &mut crate::config::PeerLimits| {
            limits.followup_timeout = Duration::from_secs(timeout);
        };
        let mut world = World::new(1, with_limits(hybrid, limit));
        world.initiate(A);
        world.run(SOON);
        world.filter = Some(Box::new(|_, datagram| {
            Header::parse(&datagram.payload).unwrap().exchange != ExchangeType::IKE_FOLLOWUP_KE
        }));
        rekey_child(&mut world, A);
        world.run(Duration::from_secs(25));
        world.filter = None;
        world.run(Duration::from_secs(25));
        assert_eq!(count(&world, Rejection::FollowupUnknown), unknown);
        world.assert_agreement(&["lan"]);
    }
}

#[test]
fn child_sas_of_a_peer_are_bounded() {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
        }),
    );
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(SOON);
    bend(&mut world, B, |exchange, response, payloads| {
        if exchange == ExchangeType::CREATE_CHILD_SA && response {
            *payloads = vec![Payload::Notify(Notify::bare(NotifyType::TEMPORARY_FAILURE))];
        }
    });
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("more"))).unwrap();
    world.run(Duration::from_secs(300));
    assert!(count(&world, Rejection::ChildLimit) > 5);
    assert_eq!(world.sides[B].endpoint.status().map(|ike| ike.children.len()).sum::<usize>(), 256);
    // A is told so, and stops asking.
    world.sides[B].endpoint.bend(None);
    world.run(SOON);
    let told = |event: &Event| matches!(event, Event::ChildFailed { reason: DownReason::Rejected(kind), .. } if *kind == NotifyType::NO_ADDITIONAL_SAS);
    assert!(world.has_event(A, told));
    finish(world);
}

/// A peer that forgets again and again is left (RFC 9370 s2.2.4).
#[test]
fn a_peer_that_always_forgets_is_left() {
    for (what, retries) in [(rekey_child as fn(&mut World, usize), 5), (rekey_ike, 5), (rekey_child, 2)] {
        let mut world = World::new(1, with_limits(hybrid, |limits| limits.followup_retries = retries));
        world.initiate(A);
        world.run(SOON);
        bend(&mut world, A, |exchange, response, payloads| {
            for payload in payloads {
                if let Payload::Notify(notify) = payload
                    && exchange == ExchangeType::IKE_FOLLOWUP_KE
                    && !response
                {
                    notify.data.to_mut()[0] ^= 1;
                }
            }
        });
        what(&mut world, A);
        world.run(Duration::from_secs(100));
        let left = |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Rejected(kind), .. } if *kind == NotifyType::STATE_NOT_FOUND);
        assert!(world.has_event(A, left));
        assert_eq!(count(&world, Rejection::FollowupUnknown), u64::from(retries));
        world.run(LONG);
        world.assert_empty();
    }
}

/// A response that says that there is more to do, but not by what link.
#[test]
fn a_response_without_link_makes_nothing() {
    let unlinked = |world: &mut World| {
        bend(world, B, |_, response, payloads| payloads.retain(|payload| !response || !is_link(payload)));
    };
    let mut world = up(hybrid);
    unlinked(&mut world);
    let before = spis(&world);
    rekey_child(&mut world, A);
    world.run(Duration::from_secs(10));
    assert_eq!(spis(&world), before);
    world.sides[B].endpoint.bend(None);
    world.run(Duration::from_secs(60));
    world.assert_agreement(&["lan"]);
    assert_ne!(spis(&world), before, "it is tried again");
    finish(world);
    let mut world = up(hybrid);
    unlinked(&mut world);
    rekey_ike(&mut world, A);
    world.run(LONG);
    world.assert_empty();
}

/// A value of the wrong length, and none: INVALID_SYNTAX ends the IKE SA at both ends (RFC 7296 s2.21.3).
#[test]
fn a_malformed_key_exchange_ends_the_ike_sa() {
    for cut in [0, 100] {
        let mut world = up(hybrid);
        bend(&mut world, A, move |exchange, response, payloads| {
            if exchange != ExchangeType::IKE_FOLLOWUP_KE || response {
                return;
            }
            if cut == 0 {
                payloads.retain(is_link);
            }
            for payload in payloads {
                if let Payload::Ke(ke) = payload {
                    ke.data.to_mut().truncate(cut);
                }
            }
        });
        rekey_child(&mut world, A);
        world.run(LONG);
        assert_eq!(count(&world, Rejection::KeyExchange), 1);
        world.assert_empty();
    }
}

/// What is taken down during its own rekey stays down, whatever is still to do.
#[test]
fn taken_down_in_the_midst_of_it() {
    for what in [rekey_child, rekey_ike] {
        for side in [A, B] {
            for delay in [5, 15, 25, 35, 45, 55] {
                for child in [None, Some("lan")] {
                    let mut world = up(hybrid);
                    what(&mut world, A);
                    world.run(Duration::from_millis(delay));
                    world.at(side, |endpoint, now, rng| endpoint.terminate(now, rng, "net", child)).unwrap();
                    world.run(Duration::from_secs(60));
                    if child.is_some() {
                        world.assert_agreement(&[]);
                        finish(world);
                    } else {
                        world.run(LONG);
                        world.assert_empty();
                    }
                }
            }
        }
    }
}
