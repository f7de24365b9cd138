//! The AF_XDP driver.

use dataplane::port::af_xdp::{self, Config, Mode, ZeroCopy};

use super::*;

/// A pair of namespaces whose peer finishes its checksums itself.
fn pair(queues: usize, mtu: usize) -> Pair {
    let pair = Pair::new(queues, mtu);
    pair.peer.no_offload("peer0");
    pair
}

/// Rings that hold all frames of [`both_ways`].
fn device(pair: &Pair, change: impl FnOnce(&mut Config) + Send) -> Box<dyn Device> {
    let mut config = Config { ring: 512, ..Config::new("wan0") };
    change(&mut config);
    pair.gateway.run(|| af_xdp::open(config)).unwrap()
}

fn feature(device: &dyn Device, name: &str) -> String {
    let features = &device.info().features;
    features.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone()).unwrap()
}

#[test]
fn carries_every_size_both_ways_in_every_mode() {
    privileged(&["ethtool"], || {
        for (mode, hook) in [(Mode::Auto, "native"), (Mode::Native, "native"), (Mode::Generic, "generic")] {
            let pair = pair(1, 1500);
            let device = device(&pair, |config| config.mode = mode);
            assert_eq!(feature(&*device, "mode"), hook);
            both_ways(device, &pair.wire(), 1500);
        }
    });
}

#[test]
fn copies_where_the_kernel_does_not_take_the_frames() {
    privileged(&["ethtool"], || {
        // 2,176 is no power of two; 16,384 is more than a page.
        for frame_size in [2176, 16_384] {
            let pair = pair(1, 1500);
            let pool = Pool::new(1024, frame_size).unwrap();
            both_ways_with(device(&pair, |_| ()), &pool, &pair.wire(), 1500);
            assert_eq!(pool.available(), 1024, "it has memory of its own");
        }
    });
}

#[test]
fn carries_jumbo_frames_in_several_chunks() {
    privileged(&["ethtool"], || {
        let pair = pair(1, 9000);
        both_ways(
            device(&pair, |config| (config.mode, config.ring) = (Mode::Native, 1024)),
            &pair.wire(),
            9000,
        );
    });
}

#[test]
fn keeps_vlan_tags() {
    privileged(&["ethtool"], || {
        let pair = pair(1, 1500);
        vlan_both_ways(device(&pair, |config| config.ring = 64), &pair.wire());
    });
}

#[test]
fn spreads_flows_over_queues() {
    privileged(&["ethtool"], || {
        let pair = pair(2, 1500);
        let pool = Pool::new(2048, 2048).unwrap();
        let mut ports = open(device(&pair, |config| (config.queues, config.ring) = (2, 512)), &pool);
        spreads_flows_over(&mut ports, &pool, &pair.wire());
    });
}

#[test]
fn wakes_a_worker_that_sleeps() {
    privileged(&["ethtool"], || {
        let pair = pair(1, 1500);
        let pool = Pool::new(2048, 2048).unwrap();
        let mut port = open(device(&pair, |_| ()), &pool).remove(0);
        wakes_a_sleeper(&mut *port, &pool, &pair.wire());
    });
}

/// Two ports over one pool: what comes in by one leaves by the other from the same memory.
#[test]
fn packets_cross_from_port_to_port_without_a_copy() {
    privileged(&["ethtool"], || {
        let (left, right) = (pair(1, 1500), pair(1, 1500));
        let pool = Pool::new(4096, 2048).unwrap();
        let mut from = open(device(&left, |_| ()), &pool).remove(0);
        let mut to = open(device(&right, |_| ()), &pool).remove(0);
        let (sender, receiver) = (left.wire(), right.wire());
        let held = pool.available();
        for round in 0..40 {
            let frames: Vec<_> = (0..50).map(|n| frame(round * 50 + n, 1000)).collect();
            for frame in &frames {
                sender.send(frame);
            }
            let mut crossed = 0;
            let end = Instant::now() + PATIENCE;
            while crossed < frames.len() && Instant::now() < end {
                let mut burst = Burst::new();
                from.rx(&pool, &mut burst);
                crossed += burst.len();
                let places: Vec<_> = burst.iter().map(|packet| packet.data().as_ptr()).collect();
                let (base, len) = pool.region();
                let range = base.as_ptr().cast_const()..base.as_ptr().wrapping_add(len).cast_const();
                assert!(places.iter().all(|place| range.contains(place)));
                to.tx(&mut burst);
                assert!(burst.is_empty());
            }
            assert_same(&receiver.collect(frames.len(), PATIENCE), &frames);
        }
        assert_eq!((from.counters().rx_packets, to.counters().tx_packets), (2000, 2000));
        // Frames do not leak: what was sent comes back, and each port holds no more than its rings.
        let mut burst = Burst::new();
        for _ in 0..10 {
            from.rx(&pool, &mut burst);
            to.rx(&pool, &mut burst);
        }
        assert_eq!(pool.available(), held);
    });
}

#[test]
fn a_packet_of_another_pool_is_copied() {
    privileged(&["ethtool"], || {
        let pair = pair(1, 1500);
        let (pool, other) = (Pool::new(2048, 2048).unwrap(), Pool::new(16, 4096).unwrap());
        let mut port = open(device(&pair, |_| ()), &pool).remove(0);
        let mut burst = Burst::new();
        burst.push(other.alloc_from(&frame(2, 500)).unwrap());
        let wire = pair.wire();
        port.tx(&mut burst);
        assert_same(&wire.collect(1, PATIENCE), &[frame(2, 500)]);
        assert_eq!(other.available(), 16);
    });
}

#[test]
fn shares_the_interface_with_the_kernel() {
    privileged(&["ethtool", "ping"], || {
        let pair = pair(1, 1500);
        pair.gateway.ip("address add 198.51.100.1/24 dev wan0");
        pair.peer.ip("address add 198.51.100.9/24 dev peer0");
        let ours = vec!["198.51.100.2/32".parse().unwrap(), "10.2.0.0/16".parse().unwrap()];
        let device = device(&pair, |config| config.share = Some(ours));
        let mac = device.info().mac.unwrap();
        let pool = Pool::new(2048, 2048).unwrap();
        let mut port = open(device, &pool).remove(0);

        // The kernel answers for its address as before.
        pair.peer.command("ping", "-c 1 -W 5 198.51.100.1");
        assert!(receive_now(&mut *port, &pool).is_empty());

        // ARP for the gateway's address comes to the port alone, and so do its packets and the prefix's.
        let mut request = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        request.extend([2, 0, 0, 0, 0, 9, 198, 51, 100, 9, 0, 0, 0, 0, 0, 0, 198, 51, 100, 2]);
        request.resize(60, 0);
        let to = |address: [u8; 4]| {
            let mut frame = frame(1, 100);
            frame[..6].copy_from_slice(&mac);
            frame[30..34].copy_from_slice(&address);
            frame
        };
        let wire = pair.wire();
        let sent =
            [request, to([198, 51, 100, 2]), to([198, 51, 100, 1]), to([10, 2, 3, 4]), to([10, 3, 0, 1])];
        for frame in &sent {
            wire.send(frame);
        }
        let wanted = [sent[0].clone(), sent[1].clone(), sent[3].clone()];
        assert_same(&receive_all(&mut *port, &pool, 3), &wanted);
        std::thread::sleep(Duration::from_millis(20));
        assert!(receive_now(&mut *port, &pool).is_empty());
        pair.peer.command("ping", "-c 1 -W 5 198.51.100.1");
    });
}

#[test]
fn survives_a_device_that_goes_down_and_away() {
    privileged(&["ethtool"], || {
        for frame_size in [2048, 16_384] {
            let pair = pair(1, 1500);
            let wire = pair.wire();
            let pool = Pool::new(2048, frame_size).unwrap();
            let mut port = open(device(&pair, |_| ()), &pool).remove(0);
            let transmit = |port: &mut dyn Port| {
                let mut burst = Burst::new();
                burst.extend((0..3).map(|n| pool.alloc_from(&frame(n, 100)).unwrap()));
                port.tx(&mut burst);
                assert!(burst.is_empty());
                port.before_sleep();
                port.counters()
            };

            pair.gateway.ip("link set wan0 down");
            // The first burst finds out and waits in the ring; what comes after is refused.
            transmit(&mut *port);
            assert_eq!(transmit(&mut *port).tx_errors, 3);
            assert!(receive_now(&mut *port, &pool).is_empty());

            pair.gateway.ip("link set wan0 up");
            let before = port.counters().tx_packets;
            assert_eq!(transmit(&mut *port).tx_packets, before + 3);
            receives_again(&mut *port, &pool, &wire);

            pair.gateway.ip("link delete wan0");
            transmit(&mut *port);
            let before = port.counters().tx_errors;
            assert_eq!(transmit(&mut *port).tx_errors, before + 3);
            assert!(receive_now(&mut *port, &pool).is_empty());
        }
    });
}

#[test]
fn counts_what_is_lost() {
    privileged(&["ethtool"], || {
        let pair = pair(1, 1500);
        let wire = pair.wire();
        let pool = Pool::new(512, 2048).unwrap();
        let mut port = open(device(&pair, |config| config.ring = 64), &pool).remove(0);
        for n in 0..100 {
            wire.send(&frame(n, 100));
        }
        let got = receive_all(&mut *port, &pool, 64);
        assert_same(&got, &(0..64).map(|n| frame(n, 100)).collect::<Vec<_>>());
        assert_eq!(port.counters().rx_missed, 36);

        let mut burst = Burst::new();
        burst.push(pool.alloc_from(&frame(0, 1523)).unwrap());
        burst.push(pool.alloc_from(&[0; 13]).unwrap());
        burst.push(pool.alloc_from(&frame(1, 100)).unwrap());
        port.tx(&mut burst);
        assert!(burst.is_empty());
        let counters = port.counters();
        assert_eq!((counters.tx_packets, counters.tx_errors), (1, 2));
        assert_same(&wire.collect(1, PATIENCE), &[frame(1, 100)]);
    });
}

#[test]
fn says_why_it_cannot_open() {
    privileged(&["ethtool"], || {
        let pair = pair(1, 1500);
        let why = |change: fn(&mut Config)| {
            let mut config = Config { ring: 256, ..Config::new("wan0") };
            change(&mut config);
            pair.gateway.run(|| af_xdp::open(config))
        };
        let pool = Pool::new(2048, 2048).unwrap();
        let queue = |device: Box<dyn Device>, pool: &Pool| device.queues().remove(0)(pool).err().unwrap();

        let error = queue(why(|_| ()).unwrap(), &Pool::new(600, 2048).unwrap());
        assert!(error.to_string().contains("a pool of 640 frames"), "{error}");
        let error = queue(why(|_| ()).unwrap(), &Pool::new(1024, 1024).unwrap());
        assert!(error.to_string().contains("an MTU of 1500"), "{error}");
        let error = queue(why(|config| config.zero_copy = ZeroCopy::Require).unwrap(), &pool);
        assert!(error.to_string().contains("zero-copy"), "{error}");
        let error = why(|config| config.queues = 2).err().unwrap();
        assert!(error.to_string().contains("ethtool -L wan0 rx 2"), "{error}");

        let port = open(why(|_| ()).unwrap(), &pool);
        let error = why(|_| ()).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("another XDP program"), "{error}");
        assert!(pair.gateway.ip("link show wan0").contains("xdp"));
        drop(port);
        // A child that another test is starting holds our descriptors until it runs its program.
        let end = Instant::now() + PATIENCE;
        while pair.gateway.ip("link show wan0").contains("xdp") {
            assert!(Instant::now() < end, "the program is gone");
        }
        // Again, although the kernel may free the queue only later.
        open(why(|_| ()).unwrap(), &pool);
    });
}
