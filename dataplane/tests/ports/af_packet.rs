//! The AF_PACKET driver.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use dataplane::port::af_packet::{self, Config};

use super::*;

#[test]
fn carries_every_size_both_ways() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        both_ways(device(&pair, |_| ()), &pair.wire(), 1500);
    });
}

/// What `spillway demo` relies on: no capability outside of a user namespace of one's own.
#[test]
fn works_in_a_user_namespace() {
    privileged(&["unshare"], || {
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(this)
            .args(["--exact", "af_packet::carries_every_size_both_ways", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed") && !text.contains("SKIPPED"), "{text}");
    });
}

#[test]
fn carries_jumbo_frames_and_sets_the_mtu() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        pair.peer.ip("link set peer0 mtu 9000");
        both_ways(device(&pair, |config| config.mtu = Some(9000)), &pair.wire(), 9000);
    });
}

#[test]
fn keeps_vlan_tags() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        vlan_both_ways(device(&pair, |_| ()), &pair.wire());
    });
}

#[test]
fn finishes_the_offloads_of_local_senders() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        let device = device(&pair, |_| ());
        let pool = Pool::new(256, 2048).unwrap();
        let mut port = open(device, &pool).remove(0);
        pair.peer.ip("address add 198.51.100.2/24 dev peer0");
        pair.peer.ip("neighbour add 198.51.100.1 lladdr 02:00:00:00:00:01 dev peer0");
        let payload: Vec<u8> = (0..6000u32).map(|n| (n * 7) as u8).collect();
        pair.peer.run(|| {
            let socket = UdpSocket::bind("198.51.100.2:4000").unwrap();
            // One datagram with a partial checksum, then one super-packet of five datagrams.
            socket.send_to(&payload[..101], "198.51.100.1:5000").unwrap();
            let size = nix::sys::socket::sockopt::UdpGsoSegment;
            nix::sys::socket::setsockopt(&socket, size, &1300).unwrap();
            socket.send_to(&payload, "198.51.100.1:5000").unwrap();
        });
        let got = receive_all(&mut *port, &pool, 6);
        let sizes: Vec<_> = got.iter().map(|frame| frame.len() - 42).collect();
        assert_eq!(sizes, [101, 1300, 1300, 1300, 1300, 800]);
        for frame in &got {
            assert_eq!(sum(&frame[14..34], 0), 0xffff, "IPv4 header checksum");
            let pseudo = sum(&frame[26..34], 17 + (frame.len() as u32 - 34));
            assert_eq!(sum(&frame[34..], u32::from(pseudo)), 0xffff, "UDP checksum");
        }
        assert_eq!(got[0][42..], payload[..101]);
        assert_eq!(got[1..].iter().flat_map(|frame| frame[42..].to_vec()).collect::<Vec<_>>(), payload);
        assert_eq!(port.counters().rx_packets, 6);
        assert_eq!(port.counters().rx_errors + port.counters().rx_too_long, 0);
    });
}

/// A bridge of two ports between hosts whose kernels leave checksums and segmentation to us, both ways.
#[test]
fn carries_tcp_between_hosts_with_offloads() {
    privileged(&[], || {
        let (gateway, client, server) = (Namespace::new(), Namespace::new(), Namespace::new());
        gateway.join("lan0", &client, "eth0", 1, 1500);
        gateway.join("wan0", &server, "eth0", 1, 1500);
        client.ip("address add 10.1.0.1/24 dev eth0");
        server.ip("address add 10.1.0.2/24 dev eth0");
        let pool = Pool::new(2048, 2048).unwrap();
        let mut ports = ["lan0", "wan0"]
            .map(|name| open(gateway.run(|| af_packet::open(Config::new(name))).unwrap(), &pool).remove(0));

        let payload: Vec<u8> =
            (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let listener = server.run(|| TcpListener::bind("10.1.0.2:5000")).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let sent = payload.clone();
        let transfer = std::thread::spawn(move || {
            let mut stream = client.run(|| TcpStream::connect("10.1.0.2:5000")).unwrap();
            stream.write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            back
        });
        let end = Instant::now() + 4 * PATIENCE;
        let mut burst = Burst::new();
        while !transfer.is_finished() && Instant::now() < end {
            let mut idle = true;
            for (from, to) in [(0, 1), (1, 0)] {
                ports[from].rx(&pool, &mut burst);
                idle &= burst.is_empty();
                ports[to].tx(&mut burst);
                burst.clear();
            }
            if idle {
                std::thread::yield_now();
            }
        }
        assert!(transfer.is_finished(), "{:?} {:?}", ports[0].counters(), ports[1].counters());
        assert!(transfer.join().unwrap() == payload, "what came back is what was sent");
        echo.join().unwrap();
        for port in &mut ports {
            let counters = port.counters();
            assert_eq!(counters.rx_errors + counters.rx_too_long + counters.tx_errors, 0, "{counters:?}");
        }
    });
}

#[test]
fn prepares_the_interface() {
    privileged(&["ethtool"], || {
        let pair = Pair::new(1, 1500);
        pair.gateway.ip("link set wan0 down");
        pair.gateway.command("ethtool", "-K wan0 gro on");
        let link = || pair.gateway.ip("-details link show wan0");
        let port = device(&pair, |config| config.promiscuous = true);
        assert!(link().contains("promiscuity 1") && link().contains(",UP"), "{}", link());
        let features = pair.gateway.command("ethtool", "-k wan0");
        assert!(features.contains("generic-receive-offload: off"), "{features}");
        drop(port);
        let port = device(&pair, |_| ());
        // Neighbour solicitations come to groups that the kernel has not joined.
        assert!(link().contains("promiscuity 0") && link().contains("allmulti 1"), "{}", link());
        drop(port);
        assert!(link().contains("allmulti 0"), "{}", link());

        let config = Config { mtu: Some(100_000), ..Config::new("wan0") };
        let error = pair.gateway.run(|| af_packet::open(config)).err().unwrap();
        assert!(error.to_string().contains("MTU of wan0 from 1500 to 100000"), "{error}");
    });
}

/// The one's complement sum of RFC 1071, folded.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum = words.fold(start, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn spreads_flows_over_queues() {
    privileged(&[], || {
        let pair = Pair::new(2, 1500);
        let pool = Pool::new(1024, 2048).unwrap();
        let mut ports = open(device(&pair, |config| config.queues = 2), &pool);
        spreads_flows_over(&mut ports, &pool, &pair.wire());
    });
}

#[test]
fn survives_a_device_that_goes_down_and_away() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        let wire = pair.wire();
        let pool = Pool::new(64, 2048).unwrap();
        let mut port = open(device(&pair, |_| ()), &pool).remove(0);
        let transmit = |port: &mut dyn Port| {
            let mut burst = Burst::new();
            burst.extend((0..3).map(|n| pool.alloc_from(&frame(n, 100)).unwrap()));
            port.tx(&mut burst);
            port.before_sleep();
            port.counters()
        };

        pair.gateway.ip("link set wan0 down");
        assert_eq!(transmit(&mut *port).tx_errors, 3);
        assert!(receive_now(&mut *port, &pool).is_empty());

        pair.gateway.ip("link set wan0 up");
        assert_eq!(transmit(&mut *port).tx_packets, 3);
        receives_again(&mut *port, &pool, &wire);

        pair.gateway.ip("link delete wan0");
        let counters = transmit(&mut *port);
        assert_eq!((counters.tx_errors, counters.tx_packets), (6, 3));
        assert!(receive_now(&mut *port, &pool).is_empty());
    });
}

#[test]
fn counts_what_is_lost() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        let wire = pair.wire();
        let pool = Pool::new(2, 2048).unwrap();
        let mut port = open(device(&pair, |config| config.ring = 64), &pool).remove(0);

        // The ring holds 64; the pool holds two.
        for n in 0..100 {
            wire.send(&frame(n, 100));
        }
        let mut burst = Burst::new();
        port.rx(&pool, &mut burst);
        let counters = port.counters();
        assert_eq!(burst.len(), 2);
        assert_eq!(
            (counters.rx_packets, counters.rx_no_buffer, counters.rx_missed),
            (2, 62, 36),
            "{counters:?}"
        );

        // Longer than the device's MTU with its tags: refused alone, the others leave.
        burst.clear();
        let long = pool.alloc_from(&frame(0, 1600)).unwrap();
        burst.push(long);
        burst.push(pool.alloc_from(&frame(1, 100)).unwrap());
        port.tx(&mut burst);
        let counters = port.counters();
        assert_eq!((burst.len(), counters.tx_packets, counters.tx_errors), (0, 1, 1));
        assert_same(&wire.collect(1, PATIENCE), &[frame(1, 100)]);
    });
}

/// The ring was made for 1,500 bytes; larger packets come by another way, tags and all.
#[test]
fn takes_packets_of_an_mtu_that_was_raised() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        let (wide, narrow) = (Pool::new(64, 8192).unwrap(), Pool::new(64, 2048).unwrap());
        let mut port = open(device(&pair, |_| ()), &wide).remove(0);
        let wire = pair.wire();
        for (namespace, name) in [(&pair.gateway, "wan0"), (&pair.peer, "peer0")] {
            namespace.ip(&format!("link set {name} mtu 4000"));
        }
        let frames = [frame(0, 4014), tagged(&frame(1, 3000)), frame(2, 60), tagged(&frame(3, 60))];
        for frame in &frames {
            wire.send(frame);
        }
        assert_same(&receive_all(&mut *port, &wide, frames.len()), &frames);

        for frame in &frames {
            wire.send(frame);
        }
        assert_same(&receive_all(&mut *port, &narrow, 2), &frames[2..]);
        let counters = port.counters();
        assert_eq!((counters.rx_too_long, counters.rx_errors), (2, 0), "two were larger than a frame");
    });
}

#[test]
fn wakes_a_worker_that_sleeps() {
    privileged(&[], || {
        let pair = Pair::new(1, 1500);
        let pool = Pool::new(16, 2048).unwrap();
        let mut port = open(device(&pair, |_| ()), &pool).remove(0);
        wakes_a_sleeper(&mut *port, &pool, &pair.wire());
    });
}

fn device(pair: &Pair, change: impl FnOnce(&mut Config) + Send) -> Box<dyn Device> {
    let mut config = Config::new("wan0");
    change(&mut config);
    pair.gateway.run(|| af_packet::open(config)).unwrap()
}
