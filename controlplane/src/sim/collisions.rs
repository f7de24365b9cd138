//! Exchanges that cross each other, in every order of arrival and with every single loss (RFC 7296 s2.8, s2.25).
//!
//! The datagrams of both ends are held, and a search tries all ways to deliver or lose them: it runs the scenario
//! again from the start with another list of choices until there is none left. Everything is deterministic, so
//! the same choices lead to the same state.

use dataplane::sa::Endpoints;

use super::*;

/// What an end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    RekeyChild,
    RekeyIke,
    DeleteChild,
    DeleteIke,
    Create,
    Probe,
    /// A authenticates anew, which its configuration makes due.
    Reauth,
    /// A's address changes.
    Move,
}

/// When A authenticates anew, after it has come up.
const REAUTH: Duration = Duration::from_secs(3000);

/// Where A moves to.
const MOVED: &str = "203.0.113.7";

const ACTS: [Act; 5] = [Act::RekeyChild, Act::RekeyIke, Act::DeleteChild, Act::DeleteIke, Act::Create];

fn act(world: &mut World, side: usize, act: Act) {
    let result = world.at(side, |endpoint, now, rng| match act {
        Act::RekeyChild => endpoint.rekey_child(now, rng, "net", "lan"),
        Act::RekeyIke => endpoint.rekey_ike(now, rng, "net"),
        Act::DeleteChild => endpoint.terminate(now, rng, "net", Some("lan")),
        Act::DeleteIke => endpoint.terminate(now, rng, "net", None),
        Act::Create => endpoint.initiate(now, rng, "net", Some("more")),
        Act::Move => {
            endpoint.set_local_addresses(now, rng, vec![MOVED.parse().unwrap()]);
            Ok(())
        }
        Act::Probe | Act::Reauth => Ok(()),
    });
    // The other end's act may have come first and taken everything down.
    let _ = result;
}

/// A list of choices, and how many there were at each.
#[derive(Default)]
struct Choices {
    taken: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    fn next(&mut self, options: usize) -> usize {
        if self.at == self.taken.len() {
            self.taken.push((0, options));
        }
        let (choice, _) = self.taken[self.at];
        self.at += 1;
        choice
    }

    /// The next list in order; `false` when there is none.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, options)) = self.taken.pop() {
            if choice + 1 < options {
                self.taken.push((choice + 1, options));
                return true;
            }
        }
        false
    }
}

/// Changes the configuration of a side.
type Change = fn(usize, &mut Connection);

fn plain(_: usize, _: &mut Connection) {}

/// Each end prefers something else when it answers: B's rekeys take an additional key exchange, A's do not.
fn mixed(side: usize, connection: &mut Connection) {
    let order = |first: &str, second: &str, parse: fn(&str) -> Proposal| {
        let mut proposals = vec![parse(first), parse(second)];
        proposals.rotate_left(side);
        proposals
    };
    connection.proposals =
        order("aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16-prfsha384-x25519", |words| {
            Proposal::ike(words).unwrap()
        });
    for child in &mut connection.children {
        Arc::make_mut(child).proposals =
            order("aes128gcm16-x25519-ke1_mlkem512-esn", "aes128gcm16-x25519-esn", |words| {
                Proposal::esp(words).unwrap()
            });
    }
}

/// Runs two acts at once with one list of choices. At most `losses` datagrams are lost.
fn run(choices: &mut Choices, acts: [Act; 2], losses: usize, seed: u64, change: Change) -> World {
    let mut world = World::new(
        seed,
        configs(|side, connection| {
            connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
            change(side, connection);
        }),
    );
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(Duration::from_secs(2));
    world.assert_agreement(&["lan"]);
    if acts[A] == Act::Reauth {
        // It came up two round trips after the start.
        let up = Duration::from_millis(40);
        world.run(REAUTH + up - Duration::from_millis(5) - Duration::from_secs(2));
    }
    world.held = Some(Default::default());
    if acts[A] == Act::Reauth {
        world.run(Duration::from_millis(10));
        assert_eq!(world.held.as_ref().unwrap()[B].len(), 1, "A has begun");
    }
    act(&mut world, A, acts[A]);
    act(&mut world, B, acts[B]);
    let mut losses = losses;
    while let Some(held) = &world.held {
        let waiting: Vec<usize> = [A, B].into_iter().filter(|&to| !held[to].is_empty()).collect();
        if waiting.is_empty() {
            let tired = world.sides.iter().filter_map(|side| side.endpoint.next_deadline()).min();
            // What is left is waiting for repetitions and grace times: one request is repeated at a time.
            let repeats = tired.is_some_and(|at| at - world.now < Duration::from_secs(3));
            if !repeats {
                break;
            }
            let wait = tired.map_or(Duration::ZERO, |at| at - world.now);
            world.run(wait);
            continue;
        }
        let options = waiting.len() * if losses > 0 { 2 } else { 1 };
        let choice = choices.next(options);
        let to = waiting[choice % waiting.len()];
        let datagram = world.held.as_mut().and_then(|held| held[to].pop_front());
        if choice < waiting.len() {
            let datagram = datagram.unwrap();
            world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
        } else {
            losses -= 1;
        }
        world.assert_usable();
    }
    world.held = None;
    world.run(Duration::from_secs(400));
    world
}

/// All choices of a pair of acts.
fn explore(acts: [Act; 2], losses: usize, seed: u64, change: Change, check: impl Fn(&World)) -> usize {
    log();
    let mut choices = Choices::default();
    let mut runs = 0;
    loop {
        let world = run(&mut choices, acts, losses, seed, change);
        let taken: Vec<_> = choices.taken.iter().map(|(choice, _)| choice).collect();
        println!("{acts:?} seed {seed} choices {taken:?}");
        world.assert_consistent();
        check(&world);
        runs += 1;
        if !choices.advance() {
            return runs;
        }
    }
}

fn expected(acts: [Act; 2]) -> Option<Vec<&'static str>> {
    if acts.contains(&Act::DeleteIke) {
        return None;
    }
    let mut names = vec!["lan"];
    if acts.contains(&Act::DeleteChild) {
        names.clear();
    }
    if acts.contains(&Act::Create) {
        names.push("more");
    }
    Some(names)
}

#[test]
fn every_pair_of_acts_in_every_order() {
    let mut runs = 0;
    for a in ACTS {
        for b in ACTS {
            // Two seeds: either end has the lowest nonce.
            for seed in 1..5 {
                runs += explore([a, b], 0, seed, plain, |world| {
                    if let Some(names) = expected([a, b]) {
                        world.assert_agreement(&names);
                    }
                });
            }
        }
    }
    assert!(runs > 400, "{runs}");
}

/// The same with additional key exchanges, at both ends or at one (RFC 9370 s2.2.4).
#[test]
fn every_pair_of_acts_in_every_order_with_additional_key_exchanges() {
    for change in [followup::hybrid, mixed] {
        let mut runs = 0;
        for a in ACTS {
            for b in ACTS {
                for seed in 1..3 {
                    runs += explore([a, b], 0, seed, change, |world| {
                        if let Some(names) = expected([a, b]) {
                            world.assert_agreement(&names);
                        }
                    });
                }
            }
        }
        assert!(runs > 200, "{runs}");
    }
}

#[test]
fn rekeys_with_additional_key_exchanges_and_any_datagram_lost() {
    for change in [followup::hybrid, mixed] {
        for (a, b) in [
            (Act::RekeyChild, Act::RekeyChild),
            (Act::RekeyIke, Act::RekeyIke),
            (Act::RekeyChild, Act::RekeyIke),
            (Act::RekeyIke, Act::RekeyChild),
        ] {
            explore([a, b], 1, 1, change, |world| world.assert_agreement(&["lan"]));
        }
    }
}

fn reauthenticating(side: usize, connection: &mut Connection) {
    connection.reauth = (side == A).then_some(REAUTH);
}

fn roaming(side: usize, connection: &mut Connection) {
    let addresses = vec![address(A), MOVED.parse().unwrap()];
    if side == A {
        connection.local_addresses = addresses;
    } else {
        connection.remote = RemoteAddress::Addresses(addresses);
    }
}

/// B does something while A authenticates anew (RFC 7296 s2.8.3).
#[test]
fn reauthentication_and_acts_of_the_other_end() {
    for (b, losses) in [(Act::RekeyChild, 1), (Act::RekeyIke, 1), (Act::Create, 0), (Act::Probe, 2)] {
        for seed in 1..3 {
            let names = expected([Act::Reauth, b]).unwrap();
            explore([Act::Reauth, b], losses, seed, reauthenticating, |world| world.assert_agreement(&names));
        }
    }
}

/// B does something while A moves (RFC 4555).
#[test]
fn moves_and_acts_of_the_other_end() {
    for b in [Act::RekeyChild, Act::RekeyIke, Act::DeleteChild, Act::Create, Act::Probe] {
        for seed in 1..3 {
            let names = expected([Act::Move, b]).unwrap();
            explore([Act::Move, b], 1, seed, roaming, |world| {
                world.assert_agreement(&names);
                for side in [A, B] {
                    let ike = world.sides[side].endpoint.status().find(|one| one.state == "established");
                    let ike = ike.unwrap();
                    let end = if side == A { ike.local } else { ike.remote };
                    assert_eq!(end.ip().to_string(), MOVED, "side {side}");
                    for install in world.sides[side].plane.outbound.values() {
                        let Endpoints { local, remote, .. } = install.endpoints;
                        assert_eq!((if side == A { local } else { remote }).to_string(), MOVED);
                    }
                }
            });
        }
    }
}

#[test]
fn every_pair_of_acts_with_any_datagram_lost() {
    let mut runs = 0;
    for a in ACTS {
        for b in ACTS {
            runs += explore([a, b], 1, 1, plain, |world| {
                if let Some(names) = expected([a, b]) {
                    world.assert_agreement(&names);
                }
            });
        }
    }
    assert!(runs > 400, "{runs}");
}

#[test]
fn every_pair_of_rekeys_with_any_two_datagrams_lost() {
    for acts in [
        [Act::RekeyChild, Act::RekeyChild],
        [Act::RekeyIke, Act::RekeyIke],
        [Act::RekeyChild, Act::RekeyIke],
        [Act::RekeyIke, Act::RekeyChild],
        [Act::RekeyChild, Act::Probe],
        [Act::RekeyIke, Act::Probe],
    ] {
        for seed in 1..3 {
            explore(acts, 2, seed, plain, |world| world.assert_agreement(&["lan"]));
        }
    }
}

/// A asks for a Child SA, or for the rekey of one. B's response is late, and what B made is used up meanwhile: a hard
/// limit deletes it and a soft one rekeys it, before A knows it.
fn overtaken(ask: Act, hard: bool) -> World {
    overtaken_with(ask, hard, plain)
}

fn overtaken_with(ask: Act, hard: bool, change: Change) -> World {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
            change(side, connection);
        }),
    );
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(Duration::from_secs(2));
    let before: Vec<u32> = world.sides[B].plane.inbound.keys().copied().collect();
    world.held = Some(Default::default());
    let next = |world: &mut World, to: usize| world.held.as_mut().unwrap()[to].pop_front().unwrap();
    act(&mut world, A, ask);
    let request = next(&mut world, B);
    world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, request, rng));
    let late = next(&mut world, A);
    let made = world.sides[B].plane.inbound.iter().find(|(spi, _)| !before.contains(spi));
    let (&spi, &(tunnel, _)) = made.expect("B has made it");
    world.at(B, |endpoint, now, rng| endpoint.child_expired(now, rng, tunnel, spi, hard));
    let overtaking = next(&mut world, A);
    world.at(A, |endpoint, now, rng| endpoint.handle_datagram(now, overtaking, rng));
    let answer = next(&mut world, B);
    world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, answer, rng));
    world.at(A, |endpoint, now, rng| endpoint.handle_datagram(now, late, rng));
    for (to, queue) in world.held.take().into_iter().flatten().enumerate() {
        queue.into_iter().for_each(|datagram| world.inject(to, datagram));
    }
    world.run(Duration::from_secs(100));
    world
}

#[test]
fn a_delete_that_overtakes_the_response_which_it_is_about() {
    let world = overtaken(Act::Create, true);
    world.assert_agreement(&["lan"]);
    assert!(world.has_event(A, |event| matches!(
        event,
        Event::ChildDown { child, reason: crate::update::DownReason::PeerDeleted, .. } if &**child == "more"
    )));
    // Its successor was what was used up, so nothing is left of the tunnel.
    overtaken(Act::RekeyChild, true).assert_agreement(&[]);
}

/// The peer deletes the successor alone, while we delete what it replaced: the tunnel ends by the peer's delete, and is
/// set up again where the configuration says so.
#[test]
fn a_tunnel_whose_successor_the_peer_deletes_is_set_up_again() {
    let world = overtaken_with(Act::RekeyChild, true, |side, connection| {
        connection.on_down = if side == A { OnDown::Restart } else { OnDown::Clear };
    });
    world.assert_agreement(&["lan"]);
    assert!(world.has_event(A, |event| matches!(
        event,
        Event::ChildDown { child, reason: crate::update::DownReason::PeerDeleted, .. } if &**child == "lan"
    )));
}

#[test]
fn a_rekey_that_overtakes_the_response_which_it_is_about() {
    overtaken(Act::Create, false).assert_agreement(&["lan", "more"]);
    overtaken(Act::RekeyChild, false).assert_agreement(&["lan"]);
}

/// Both ends rekey at once, and the response to A's is so late that B has rekeyed what came of its own once more: which of
/// the two was redundant is decided as ever, though one of them is gone.
#[test]
fn a_response_that_comes_after_the_next_rekey() {
    log();
    for seed in 0..20 {
        let mut world = World::new(seed, configs(|_, _| {}));
        world.initiate(A);
        world.run(Duration::from_secs(2));
        world.held = Some(Default::default());
        let next = |world: &mut World, to: usize| world.held.as_mut().unwrap()[to].pop_front();
        let deliver = |world: &mut World, to: usize, datagram| {
            world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
        };
        act(&mut world, A, Act::RekeyChild);
        act(&mut world, B, Act::RekeyChild);
        let requests = [A, B].map(|to| next(&mut world, to).unwrap());
        for (to, request) in [A, B].into_iter().zip(requests) {
            deliver(&mut world, to, request);
        }
        let late = next(&mut world, A).unwrap();
        // Everything else takes its course: B's rekey, the delete, another rekey.
        for again in [false, true] {
            if again {
                act(&mut world, B, Act::RekeyChild);
            }
            while let Some((to, datagram)) =
                [A, B].into_iter().find_map(|to| next(&mut world, to).map(|datagram| (to, datagram)))
            {
                deliver(&mut world, to, datagram);
            }
        }
        deliver(&mut world, A, late);
        for (to, queue) in world.held.take().into_iter().flatten().enumerate() {
            queue.into_iter().for_each(|datagram| world.inject(to, datagram));
        }
        world.run(Duration::from_secs(100));
        world.assert_agreement(&["lan"]);
    }
}

#[test]
fn what_is_taken_down_during_its_own_rekey_stays_down() {
    log();
    for side in [A, B] {
        for both in [false, true] {
            let mut world = World::new(1, configs(|_, _| {}));
            world.initiate(A);
            world.run(Duration::from_secs(2));
            act(&mut world, side, Act::RekeyIke);
            if both {
                act(&mut world, 1 - side, Act::RekeyIke);
            }
            act(&mut world, side, Act::DeleteIke);
            world.run(Duration::from_secs(400));
            world.assert_empty();
        }
    }
}
