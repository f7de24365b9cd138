//! The TAP driver.

use dataplane::port::tap;

use super::*;

fn device(gateway: &Namespace, config: tap::Config) -> Box<dyn Device> {
    gateway.run(|| tap::open(config)).unwrap()
}

#[test]
fn carries_every_size_both_ways() {
    privileged(&[], || {
        for mtu in [1500, 9000] {
            let gateway = Namespace::new();
            let device = device(&gateway, tap::Config { mtu: Some(mtu), ..tap::Config::new("tap0") });
            both_ways(device, &Wire::open(&gateway, "tap0"), mtu as usize);
        }
    });
}

#[test]
fn keeps_vlan_tags_and_has_an_address_of_its_own() {
    privileged(&[], || {
        let gateway = Namespace::new();
        let device = device(&gateway, tap::Config::new("tap0"));
        let wire = Wire::open(&gateway, "tap0");
        let mac = device.info().mac.unwrap();
        assert_eq!(mac[..5], wire.mac()[..5]);
        assert_ne!(mac[5], wire.mac()[5]);
        vlan_both_ways(device, &wire);
    });
}

#[test]
fn spreads_flows_over_queues() {
    privileged(&[], || {
        let gateway = Namespace::new();
        let pool = Pool::new(1024, 2048).unwrap();
        let device = device(&gateway, tap::Config { queues: 2, ..tap::Config::new("tap0") });
        spreads_flows_over(&mut open(device, &pool), &pool, &Wire::open(&gateway, "tap0"));
    });
}

#[test]
fn attaches_to_a_device_that_exists_and_leaves_it() {
    privileged(&[], || {
        let gateway = Namespace::new();
        for (queues, kind) in [(1, "tap"), (1, "tap multi_queue"), (2, "tap multi_queue")] {
            gateway.ip(&format!("tuntap add tap0 mode {kind}"));
            drop(device(&gateway, tap::Config { queues, ..tap::Config::new("tap0") }));
            assert!(gateway.ip("link show tap0").contains("tap0"));
            gateway.ip("link delete tap0");
        }
        drop(device(&gateway, tap::Config::new("tap1")));
        assert!(!gateway.ip("link show").contains("tap1"), "one that we made goes away");
    });
}

#[test]
fn says_why_it_cannot_attach() {
    privileged(&[], || {
        let gateway = Namespace::new();
        let why = |queues, name: &str| {
            let config = tap::Config { queues, ..tap::Config::new(name) };
            gateway.run(|| tap::open(config)).err().unwrap().to_string()
        };
        assert!(why(1, "lo").contains("no TAP device"), "{}", why(1, "lo"));
        gateway.ip("tuntap add tap0 mode tap");
        assert!(why(2, "tap0").contains("multi_queue"), "{}", why(2, "tap0"));
        let _taken = device(&gateway, tap::Config::new("tap0"));
        assert!(why(1, "tap0").contains("another program"), "{}", why(1, "tap0"));
    });
}

#[test]
fn wakes_a_sleeper_and_survives_its_device() {
    privileged(&[], || {
        let gateway = Namespace::new();
        let pool = Pool::new(16, 2048).unwrap();
        let mut port = open(device(&gateway, tap::Config::new("tap0")), &pool).remove(0);
        wakes_a_sleeper(&mut *port, &pool, &Wire::open(&gateway, "tap0"));

        let transmit = |port: &mut dyn Port| {
            let mut burst = Burst::new();
            burst.push(pool.alloc_from(&frame(0, 100)).unwrap());
            port.tx(&mut burst);
            assert!(burst.is_empty());
            port.counters().tx_errors
        };
        gateway.ip("link set tap0 down");
        assert_eq!(transmit(&mut *port), 1);
        gateway.ip("link delete tap0");
        assert_eq!(transmit(&mut *port), 2);
        assert!(receive_now(&mut *port, &pool).is_empty());
        let mut fds = [PollFd::new(port.poll_fd().unwrap(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 20u16), Ok(0), "a device that is gone wakes nobody");
    });
}

#[test]
fn counts_what_is_lost() {
    privileged(&[], || {
        let gateway = Namespace::new();
        let pool = Pool::new(2, 2048).unwrap();
        let mut port = open(device(&gateway, tap::Config::new("tap0")), &pool).remove(0);
        let wire = Wire::open(&gateway, "tap0");
        for n in 0..5 {
            wire.send(&frame(n, 100));
        }
        let mut burst = Burst::new();
        port.rx(&pool, &mut burst);
        assert_eq!((burst.len(), port.counters().rx_no_buffer), (2, 3));
        burst.clear();

        gateway.ip("link set tap0 mtu 4000");
        wire.send(&frame(0, 3000));
        port.rx(&pool, &mut burst);
        let counters = port.counters();
        assert_eq!((burst.len(), counters.rx_too_long, counters.rx_errors), (0, 1, 0), "larger than a frame");

        burst.push(pool.alloc_from(&frame(0, 1523)).unwrap());
        burst.push(pool.alloc_from(&frame(0, 1522)).unwrap());
        port.tx(&mut burst);
        assert_eq!((burst.len(), port.counters().tx_errors, port.counters().tx_packets), (0, 1, 1));
    });
}
