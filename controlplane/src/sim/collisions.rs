//! Exchanges that cross each other, in every order of arrival and with every single loss (RFC 7296 s2.8, s2.25).
//!
//! The datagrams of both ends are held, and a search tries all ways to deliver or lose them: it runs the scenario
//! again from the start with another list of choices until there is none left. Everything is deterministic, so
//! the same choices lead to the same state.

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
}

const ACTS: [Act; 5] = [Act::RekeyChild, Act::RekeyIke, Act::DeleteChild, Act::DeleteIke, Act::Create];

fn act(world: &mut World, side: usize, act: Act) {
    let result = world.at(side, |endpoint, now, rng| match act {
        Act::RekeyChild => endpoint.rekey_child(now, rng, "net", "lan"),
        Act::RekeyIke => endpoint.rekey_ike(now, rng, "net"),
        Act::DeleteChild => endpoint.terminate(now, rng, "net", Some("lan")),
        Act::DeleteIke => endpoint.terminate(now, rng, "net", None),
        Act::Create => endpoint.initiate(now, rng, "net", Some("more")),
        Act::Probe => Ok(()),
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

/// Runs two acts at once with one list of choices. At most `losses` datagrams are lost.
fn run(choices: &mut Choices, acts: [Act; 2], losses: usize, seed: u64) -> World {
    let mut world = World::new(
        seed,
        configs(|side, connection| {
            connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
        }),
    );
    world.at(A, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some("lan"))).unwrap();
    world.run(Duration::from_secs(2));
    world.assert_agreement(&["lan"]);
    world.held = Some(Default::default());
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
fn explore(acts: [Act; 2], losses: usize, seed: u64, check: impl Fn(&World)) -> usize {
    log();
    let mut choices = Choices::default();
    let mut runs = 0;
    loop {
        let world = run(&mut choices, acts, losses, seed);
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
                runs += explore([a, b], 0, seed, |world| {
                    if let Some(names) = expected([a, b]) {
                        world.assert_agreement(&names);
                    }
                });
            }
        }
    }
    assert!(runs > 400, "{runs}");
}

#[test]
fn every_pair_of_acts_with_any_datagram_lost() {
    let mut runs = 0;
    for a in ACTS {
        for b in ACTS {
            runs += explore([a, b], 1, 1, |world| {
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
            explore(acts, if acts[0] == acts[1] { 1 } else { 2 }, seed, |world| {
                world.assert_agreement(&["lan"])
            });
        }
    }
}

/// A asks for a Child SA, or for the rekey of one. B's response is late, and what B made is used up meanwhile: a hard
/// limit deletes it and a soft one rekeys it, before A knows it.
fn overtaken(ask: Act, hard: bool) -> World {
    log();
    let mut world = World::new(
        1,
        configs(|side, connection| {
            connection.children = vec![Arc::new(child(side, "lan", 1)), Arc::new(child(side, "more", 2))];
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

#[test]
fn a_rekey_that_overtakes_the_response_which_it_is_about() {
    overtaken(Act::Create, false).assert_agreement(&["lan", "more"]);
    overtaken(Act::RekeyChild, false).assert_agreement(&["lan"]);
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
