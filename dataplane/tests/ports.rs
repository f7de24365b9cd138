//! The drivers against the kernel: frames cross a veth pair between a driver in one namespace and a raw
//! socket in another, byte for byte and in order.

#![cfg(test)]

mod netns;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use dataplane::buffer::{Burst, Pool};
use dataplane::port::{Device, Port, af_packet};
use netns::{Namespace, Wire, privileged};
use nix::poll::{PollFd, PollFlags, poll};

const PATIENCE: Duration = Duration::from_secs(5);

/// A gateway with `wan0` and a peer with `peer0`, joined.
struct Pair {
    gateway: Namespace,
    peer: Namespace,
}

impl Pair {
    fn new(queues: usize, mtu: usize) -> Self {
        let (gateway, peer) = (Namespace::new(), Namespace::new());
        gateway.join("wan0", &peer, "peer0", queues, mtu);
        Self { gateway, peer }
    }

    fn wire(&self) -> Wire {
        Wire::open(&self.peer, "peer0")
    }

    fn af_packet(&self, change: impl FnOnce(&mut af_packet::Config) + Send) -> Box<dyn Device> {
        let mut config = af_packet::Config::new("wan0");
        change(&mut config);
        self.gateway.run(|| af_packet::open(config)).unwrap()
    }
}

fn open(device: Box<dyn Device>, pool: &Pool) -> Vec<Box<dyn Port>> {
    device.queues().into_iter().map(|opener| opener(pool).unwrap()).collect()
}

/// A test frame of `len` bytes: IPv4, UDP with a source port of its own, the number and a pattern.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend(((len - 14) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 1, 203, 0, 113, 1]);
    frame.extend((1024 + (number % 50_000) as u16).to_be_bytes());
    frame.extend([0x10, 0]);
    frame.extend(((len - 34) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8));
    assert_eq!(frame.len(), len);
    frame
}

/// Frames of every size from 60 bytes to the largest of the MTU, in a burst that does not fit one call.
fn frames(mtu: usize) -> Vec<Vec<u8>> {
    let largest = mtu + 14;
    (0..300)
        .map(|n| frame(n, 60 + (n as usize * 4801) % (largest - 60 + 1)))
        .chain([frame(300, largest)])
        .collect()
}

/// Sends all frames through the port, again and again what did not fit.
fn send_all(port: &mut dyn Port, pool: &Pool, frames: &[Vec<u8>]) {
    let mut burst = Burst::new();
    let end = Instant::now() + PATIENCE;
    let mut rest = frames.iter();
    loop {
        while !burst.is_full() {
            let Some(frame) = rest.next() else { break };
            burst.push(pool.alloc_from(frame).unwrap());
        }
        if burst.is_empty() {
            return;
        }
        port.tx(&mut burst);
        assert!(Instant::now() < end, "{} packets do not leave", burst.len());
    }
}

/// Receives from the port until there are `count` frames; fewer when no more come in time.
fn receive_all(port: &mut dyn Port, pool: &Pool, count: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let end = Instant::now() + PATIENCE;
    let mut burst = Burst::new();
    while all.len() < count && Instant::now() < end {
        port.rx(pool, &mut burst);
        if burst.is_empty() {
            std::thread::sleep(Duration::from_micros(200));
        }
        all.extend(burst.drain(..).map(|packet| packet.data().to_vec()));
    }
    all
}

/// Both directions of a one-queue device, every size.
fn both_ways(device: Box<dyn Device>, wire: &Wire, mtu: usize) {
    let pool = Pool::new(1024, if mtu > 1800 { 16_384 } else { 2048 }).unwrap();
    let info = device.info().clone();
    assert_eq!(info.mtu as usize, mtu);
    let mut port = open(device, &pool).remove(0);
    let frames = frames(mtu);

    for frame in &frames {
        wire.send(frame);
    }
    assert_same(&receive_all(&mut *port, &pool, frames.len()), &frames);
    send_all(&mut *port, &pool, &frames);
    assert_same(&wire.collect(frames.len(), PATIENCE), &frames);

    let bytes: usize = frames.iter().map(Vec::len).sum();
    let counters = port.counters();
    assert_eq!((counters.rx_packets, counters.rx_bytes), (frames.len() as u64, bytes as u64), "{counters:?}");
    assert_eq!((counters.tx_packets, counters.tx_bytes), (frames.len() as u64, bytes as u64), "{counters:?}");
    assert_eq!(counters.rx_missed + counters.rx_errors + counters.rx_no_buffer + counters.tx_errors, 0);
    assert!(receive_all_now(&mut *port, &pool).is_empty(), "nothing of our own comes back");
}

fn receive_all_now(port: &mut dyn Port, pool: &Pool) -> Vec<Vec<u8>> {
    let mut burst = Burst::new();
    port.rx(pool, &mut burst);
    burst.drain(..).map(|packet| packet.data().to_vec()).collect()
}

/// Equality that names the first frame that differs instead of printing megabytes.
#[track_caller]
fn assert_same(got: &[Vec<u8>], wanted: &[Vec<u8>]) {
    if let Some(n) = got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        let (got, wanted) = (&got[n], &wanted[n]);
        panic!(
            "frame {n} differs: {} bytes {:02x?}, not {} bytes {:02x?}",
            got.len(),
            &got[..60],
            wanted.len(),
            &wanted[..60]
        );
    }
    assert_eq!(got.len(), wanted.len(), "frames");
}

/// With a VLAN tag (RFC of none: IEEE 802.1Q) behind the addresses.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0x60, 0x2a], &frame[12..]].concat()
}

/// Tagged frames both ways, the tag where it was.
fn vlan_both_ways(device: Box<dyn Device>, wire: &Wire) {
    let pool = Pool::new(256, 2048).unwrap();
    let mut port = open(device, &pool).remove(0);
    let frames: Vec<_> = (0..20).map(|n| tagged(&frame(n, 60 + 72 * n as usize))).collect();
    for frame in &frames {
        wire.send(frame);
    }
    assert_same(&receive_all(&mut *port, &pool, frames.len()), &frames);
    send_all(&mut *port, &pool, &frames);
    assert_same(&wire.collect(frames.len(), PATIENCE), &frames);
}

#[test]
fn af_packet_carries_every_size_both_ways() {
    privileged("af_packet_carries_every_size_both_ways", &[], || {
        let pair = Pair::new(1, 1500);
        both_ways(pair.af_packet(|_| ()), &pair.wire(), 1500);
    });
}

/// What `spillway demo` relies on: no capability outside of a user namespace of one's own.
#[test]
fn af_packet_works_in_a_user_namespace() {
    privileged("af_packet_works_in_a_user_namespace", &["unshare"], || {
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(this)
            .args(["--exact", "af_packet_carries_every_size_both_ways", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed") && !text.contains("SKIPPED"), "{text}");
    });
}

#[test]
fn af_packet_carries_jumbo_frames_and_sets_the_mtu() {
    privileged("af_packet_carries_jumbo_frames_and_sets_the_mtu", &[], || {
        let pair = Pair::new(1, 1500);
        pair.peer.ip("link set peer0 mtu 9000");
        both_ways(pair.af_packet(|config| config.mtu = Some(9000)), &pair.wire(), 9000);
    });
}

#[test]
fn af_packet_keeps_vlan_tags() {
    privileged("af_packet_keeps_vlan_tags", &[], || {
        let pair = Pair::new(1, 1500);
        vlan_both_ways(pair.af_packet(|_| ()), &pair.wire());
    });
}

#[test]
fn af_packet_finishes_the_offloads_of_local_senders() {
    privileged("af_packet_finishes_the_offloads_of_local_senders", &[], || {
        let pair = Pair::new(1, 1500);
        let device = pair.af_packet(|_| ());
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
        assert_eq!(port.counters().rx_errors, 0);
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
fn af_packet_spreads_flows_over_queues() {
    privileged("af_packet_spreads_flows_over_queues", &[], || {
        let pair = Pair::new(2, 1500);
        let pool = Pool::new(1024, 2048).unwrap();
        let mut ports = open(pair.af_packet(|config| config.queues = 2), &pool);
        spreads_flows(&mut ports, &pool, &pair.wire());
    });
}

/// Each of 200 flows arrives once, in one queue; both queues get some; both send.
fn spreads_flows(ports: &mut [Box<dyn Port>], pool: &Pool, wire: &Wire) {
    let sent: Vec<_> = (0..200).map(|n| frame(n, 200)).collect();
    for _ in 0..3 {
        for frame in &sent {
            wire.send(frame);
        }
    }
    let mut got = [Vec::new(), Vec::new()];
    let end = Instant::now() + PATIENCE;
    while got.iter().map(Vec::len).sum::<usize>() < 600 && Instant::now() < end {
        for (port, got) in ports.iter_mut().zip(&mut got) {
            got.extend(receive_all_now(&mut **port, pool));
        }
    }
    let [mut first, mut second] = got;
    assert!(first.len() >= 150 && second.len() >= 150, "{} and {} packets", first.len(), second.len());
    assert!(first.iter().all(|frame| !second.contains(frame)), "a flow stays in its queue");
    first.append(&mut second);
    first.sort();
    let mut wanted: Vec<_> = sent.iter().flat_map(|frame| vec![frame.clone(); 3]).collect();
    wanted.sort();
    assert_same(&first, &wanted);

    for (port, frame) in ports.iter_mut().zip(&sent) {
        send_all(&mut **port, pool, std::slice::from_ref(frame));
    }
    assert_same(&wire.collect(2, PATIENCE), &sent[..2]);
}

#[test]
fn af_packet_survives_a_device_that_goes_down_and_away() {
    privileged("af_packet_survives_a_device_that_goes_down_and_away", &[], || {
        let pair = Pair::new(1, 1500);
        let wire = pair.wire();
        let pool = Pool::new(64, 2048).unwrap();
        let mut port = open(pair.af_packet(|_| ()), &pool).remove(0);
        let transmit = |port: &mut dyn Port| {
            let mut burst = Burst::new();
            burst.extend((0..3).map(|n| pool.alloc_from(&frame(n, 100)).unwrap()));
            port.tx(&mut burst);
            port.before_sleep();
            port.counters()
        };

        pair.gateway.ip("link set wan0 down");
        assert_eq!(transmit(&mut *port).tx_errors, 3);
        assert!(receive_all_now(&mut *port, &pool).is_empty());

        pair.gateway.ip("link set wan0 up");
        assert_eq!(transmit(&mut *port).tx_packets, 3);
        wire.send(&frame(9, 100));
        assert_same(&receive_all(&mut *port, &pool, 1), &[frame(9, 100)]);

        pair.gateway.ip("link delete wan0");
        let counters = transmit(&mut *port);
        assert_eq!((counters.tx_errors, counters.tx_packets), (6, 3));
        assert!(receive_all_now(&mut *port, &pool).is_empty());
    });
}

#[test]
fn af_packet_counts_what_is_lost() {
    privileged("af_packet_counts_what_is_lost", &[], || {
        let pair = Pair::new(1, 1500);
        let wire = pair.wire();
        let pool = Pool::new(2, 2048).unwrap();
        let mut port = open(pair.af_packet(|config| config.ring = 64), &pool).remove(0);

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

#[test]
fn af_packet_wakes_a_sleeper() {
    privileged("af_packet_wakes_a_sleeper", &[], || {
        let pair = Pair::new(1, 1500);
        let pool = Pool::new(16, 2048).unwrap();
        let port = open(pair.af_packet(|_| ()), &pool).remove(0);
        wakes_a_sleeper(port, &pool, &pair.wire());
    });
}

/// The descriptor is silent, speaks when a packet comes, and is silent again when it was received.
fn wakes_a_sleeper(mut port: Box<dyn Port>, pool: &Pool, wire: &Wire) {
    let sleep = |port: &mut dyn Port, patience: u16| {
        port.before_sleep();
        let mut fds = [PollFd::new(port.poll_fd().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, patience).unwrap() == 1
    };
    for n in 0..3 {
        assert!(!sleep(&mut *port, 20));
        wire.send(&frame(n, 100));
        assert!(sleep(&mut *port, 5000));
        assert_same(&receive_all(&mut *port, pool, 1), &[frame(n, 100)]);
    }
}
