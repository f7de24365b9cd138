//! Inner addresses, handed out and asked for.

use super::*;
use crate::config::PoolConfig;
use crate::rejection::Rejection;
use crate::update::Assigned;

/// B is a gateway with pools; A asks for addresses of both families.
fn world(prefix: &str) -> World {
    log();
    let mut configs = configs(|side, connection| {
        let any: ipnet::IpNet = "0.0.0.0/0".parse().unwrap();
        let any6: ipnet::IpNet = "::/0".parse().unwrap();
        let (inside, everything) = (vec![SelectorSpec::DYNAMIC], vec![any.into(), any6.into()]);
        let mut child = child(side, "all", 1);
        if side == A {
            connection.request_addresses = vec!["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
            (child.local, child.remote) = (inside, everything);
        } else {
            connection.pools = vec!["v4".into(), "v6".into()];
            connection.dns = vec!["10.1.0.53".parse().unwrap(), "2001:db8:1::53".parse().unwrap()];
            connection.subnets = vec!["10.1.0.0/16".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()];
            (child.local, child.remote) = (everything, inside);
        }
        connection.children = vec![Arc::new(child)];
    });
    configs[B].pools = vec![
        PoolConfig { name: "v4".into(), prefix: prefix.parse().unwrap() },
        PoolConfig { name: "v6".into(), prefix: "2001:db8:9::/64".parse().unwrap() },
    ];
    World::new(1, configs)
}

fn selectors(world: &World, side: usize) -> Vec<String> {
    let install = world.sides[side].plane.outbound.values().next().unwrap();
    install.selectors.iter().map(|one| format!("{} {}", one.local, one.remote)).collect()
}

#[test]
fn a_client_gets_addresses_name_servers_and_subnets() {
    let mut world = world("10.9.0.0/24");
    world.initiate(A);
    world.run(Duration::from_secs(2));
    world.assert_agreement(&["all"]);
    let expected = Assigned {
        addresses: vec!["10.9.0.1".parse().unwrap(), "2001:db8:9::1".parse().unwrap()],
        dns: vec!["10.1.0.53".parse().unwrap(), "2001:db8:1::53".parse().unwrap()],
        subnets: vec!["10.1.0.0/16".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()],
    };
    assert!(
        world.has_event(
            A,
            |event| matches!(event, Event::Configured { assigned, .. } if *assigned == expected)
        )
    );
    assert_eq!(selectors(&world, A), ["10.9.0.1/32 0.0.0.0/0", "2001:db8:9::1/128 ::/0"]);
    assert_eq!(selectors(&world, B), ["0.0.0.0/0 10.9.0.1/32", "::/0 2001:db8:9::1/128"]);
    // The addresses survive rekeys of everything, and are given back in the end.
    for side in [A, B] {
        world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
        world.run(Duration::from_secs(5));
        world.at(side, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "all")).unwrap();
        world.run(Duration::from_secs(10));
        world.assert_agreement(&["all"]);
        assert_eq!(selectors(&world, B), ["0.0.0.0/0 10.9.0.1/32", "::/0 2001:db8:9::1/128"]);
    }
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(Duration::from_secs(1000));
    world.assert_empty();
}

#[test]
fn a_child_that_is_added_later_has_the_same_address() {
    let mut world = world("10.9.0.0/24");
    world.initiate(A);
    world.run(Duration::from_secs(2));
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", Some("all"))).unwrap();
    world.run(Duration::from_secs(10));
    world.initiate(A);
    world.run(Duration::from_secs(2));
    world.assert_agreement(&["all"]);
    assert_eq!(selectors(&world, A), ["10.9.0.1/32 0.0.0.0/0", "2001:db8:9::1/128 ::/0"]);
}

#[test]
fn an_exhausted_pool_is_said_and_nothing_is_left() {
    let mut world = world("10.9.0.1/32");
    world.initiate(A);
    world.run(Duration::from_secs(2));
    // A second client, for whom nothing is left.
    let [second, _] = configs(|side, connection| {
        connection.local_id =
            Identity::parse(if side == A { "a.example.net" } else { "b.example.net" }).unwrap();
        connection.unique = false;
        connection.request_addresses = vec!["0.0.0.0".parse().unwrap()];
    });
    let first = std::mem::replace(
        &mut world.sides[A].endpoint,
        Endpoint::new(Arc::new(second), wall_clock(world.now)),
    );
    world.initiate(A);
    world.run(Duration::from_secs(2));
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Configuration), 1);
    assert!(world.has_event(A, |event| matches!(event, Event::IkeDown { .. })));
    world.sides[A].endpoint = first;
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(Duration::from_secs(1000));
    assert!(world.sides[B].endpoint.is_empty());
}
