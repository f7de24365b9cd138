//! Thousands of rekeys over a network that loses, repeats, delays and reorders.
//!
//! A failure names its seed; `SPILLWAY_SIM_SEED=n cargo test sim::chaos` runs that one alone.

use super::*;

/// The seeds to run: all, or the one that the environment names.
fn seeds(all: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("SPILLWAY_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => all.collect(),
    }
}

fn below(world: &mut World, limit: u64) -> u64 {
    ((world.dice() * limit as f64) as u64).min(limit - 1)
}

/// One end, or both at once, rekeys something.
fn disturb(world: &mut World, children: &[&str]) {
    let what = below(world, 8);
    let first = below(world, 2) as usize;
    let both = below(world, 4) == 0;
    for side in [first, 1 - first].into_iter().take(1 + usize::from(both)) {
        let child = children[below(world, children.len() as u64) as usize];
        world
            .at(side, |endpoint, now, rng| match what {
                0 => endpoint.rekey_ike(now, rng, "net"),
                _ => endpoint.rekey_child(now, rng, "net", child),
            })
            .unwrap();
        if both && below(world, 2) == 0 {
            let pause = Duration::from_millis(below(world, 1500));
            world.run(pause);
        }
    }
}

/// Runs a seed: sets up, disturbs so many times under loss, lets it settle, compares, and takes it down.
fn chaos(seed: u64, disturbances: u32, change: impl Fn(usize, &mut Connection)) -> World {
    println!("seed {seed}");
    log();
    let names = ["lan", "dmz", "voice"];
    let mut world = World::new(
        seed,
        configs(|side, connection| {
            let children = names.iter().zip(1..).map(|(name, net)| Arc::new(child(side, name, net)));
            connection.children = children.collect();
            change(side, connection);
        }),
    );
    world.network = Network::BAD;
    world.initiate(A);
    world.run(Duration::from_secs(60));
    world.assert_agreement(&names);
    world.probe_every = Some(Duration::from_millis(101));
    for _ in 0..disturbances {
        disturb(&mut world, &names);
        let pause = Duration::from_millis(below(&mut world, 6000));
        world.run(pause);
    }
    world.network = Network::GOOD;
    world.run(Duration::from_secs(200));
    world.assert_agreement(&names);
    assert_eq!(world.lost, 0, "data packets that found no SA");
    assert!(world.delivered > 100);
    world
}

fn take_down(mut world: World) {
    world.probe_every = None;
    world.network = Network::BAD;
    world.at(B, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(Duration::from_secs(60));
    world.network = Network::GOOD;
    world.run(Duration::from_secs(1000));
    world.assert_empty();
}

#[test]
fn no_packet_is_lost_and_both_ends_agree() {
    for seed in seeds(0..40) {
        take_down(chaos(seed, 60, |_, _| {}));
    }
}

#[test]
fn the_same_with_perfect_forward_secrecy_and_automatic_rekeys() {
    for seed in seeds(100..110) {
        take_down(chaos(seed, 40, |side, connection| {
            let change = |child: &mut Arc<ChildConfig>| {
                let child = Arc::make_mut(child);
                child.proposals = vec![Proposal::esp("aes128gcm16-x25519-esn").unwrap()];
            };
            connection.children.iter_mut().for_each(change);
            connection.dpd = Some(Duration::from_secs(3));
            connection.fragment_size = if side == A { 576 } else { 1280 };
        }));
    }
}

#[test]
fn the_same_with_additional_key_exchanges() {
    for seed in seeds(300..308) {
        take_down(chaos(seed, 40, |side, connection| {
            followup::hybrid(side, connection);
            connection.dpd = Some(Duration::from_secs(10));
            connection.fragment_size = if side == A { 576 } else { 1280 };
        }));
    }
}

#[test]
fn ten_thousand_rekeys() {
    for seed in seeds(7..8) {
        // Some come to nothing, since the peer has just done the same.
        let world = chaos(seed, 13_000, |_, _| {});
        let rekeyed = |side: usize| {
            let events = world.sides[side].events.iter();
            events
                .filter(|event| matches!(event, Event::ChildRekeyed { .. } | Event::IkeRekeyed { .. }))
                .count()
        };
        assert!(rekeyed(A) >= 10_000 && rekeyed(B) >= 10_000, "{} {}", rekeyed(A), rekeyed(B));
        take_down(world);
    }
}

#[test]
fn a_seed_repeats_itself() {
    let run = |seed| {
        let world = chaos(seed, 20, |_, _| {});
        let spis: Vec<_> = world.sides[A].endpoint.status().map(|one| (one.spi, one.peer_spi)).collect();
        (spis, world.delivered, world.sides[A].events.len(), world.sides[B].events.len())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// Setting up under loss, from both ends at once, again and again.
#[test]
fn both_ends_initiate_over_a_bad_network() {
    for seed in seeds(200..240) {
        println!("seed {seed}");
        log();
        let mut world = World::new(seed, configs(|_, _| {}));
        world.network = Network::BAD;
        world.initiate(A);
        let pause = Duration::from_millis(below(&mut world, 2000));
        world.run(pause);
        world.initiate(B);
        world.run(Duration::from_secs(60));
        world.network = Network::GOOD;
        world.run(Duration::from_secs(60));
        world.assert_consistent();
        assert!(!world.sides[A].plane.outbound.is_empty());
        take_down(world);
    }
}
