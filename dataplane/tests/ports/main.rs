//! The drivers against the kernel: frames cross a veth pair between a driver in one namespace and a raw
//! socket in another, byte for byte and in order.

#![cfg(test)]

mod af_packet;
mod af_xdp;
#[path = "../netns/mod.rs"]
mod netns;
mod tap;

use std::time::{Duration, Instant};

use dataplane::buffer::{Burst, Pool};
use dataplane::port::{Device, Port};
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
    both_ways_with(device, &Pool::new(2048, if mtu > 1800 { 16_384 } else { 2048 }).unwrap(), wire, mtu);
}

/// [`both_ways`] with a pool of the caller's.
fn both_ways_with(device: Box<dyn Device>, pool: &Pool, wire: &Wire, mtu: usize) {
    let info = device.info().clone();
    assert_eq!(info.mtu as usize, mtu);
    let mut port = open(device, pool).remove(0);
    let frames = frames(mtu);

    for frame in &frames {
        wire.send(frame);
    }
    assert_same(&receive_all(&mut *port, pool, frames.len()), &frames);
    send_all(&mut *port, pool, &frames);
    assert_same(&wire.collect(frames.len(), PATIENCE), &frames);

    let bytes: usize = frames.iter().map(Vec::len).sum();
    let counters = port.counters();
    assert_eq!((counters.rx_packets, counters.rx_bytes), (frames.len() as u64, bytes as u64), "{counters:?}");
    assert_eq!((counters.tx_packets, counters.tx_bytes), (frames.len() as u64, bytes as u64), "{counters:?}");
    let lost = counters.rx_missed + counters.rx_errors + counters.rx_too_long + counters.rx_no_buffer;
    assert_eq!(lost + counters.tx_errors, 0);
    assert!(receive_now(&mut *port, pool).is_empty(), "nothing of our own comes back");
}

fn receive_now(port: &mut dyn Port, pool: &Pool) -> Vec<Vec<u8>> {
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
    let pool = Pool::new(512, 2048).unwrap();
    let mut port = open(device, &pool).remove(0);
    let frames: Vec<_> = (0..20).map(|n| tagged(&frame(n, 60 + 72 * n as usize))).collect();
    for frame in &frames {
        wire.send(frame);
    }
    assert_same(&receive_all(&mut *port, &pool, frames.len()), &frames);
    send_all(&mut *port, &pool, &frames);
    assert_same(&wire.collect(frames.len(), PATIENCE), &frames);
}

/// Each of 200 flows arrives once, in one queue; both queues get some; both send.
fn spreads_flows_over(ports: &mut [Box<dyn Port>], pool: &Pool, wire: &Wire) {
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
            got.extend(receive_now(&mut **port, pool));
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

/// The descriptor is silent, speaks when a packet comes, and is silent again when it was received.
fn wakes_a_sleeper(port: &mut dyn Port, pool: &Pool, wire: &Wire) {
    let sleep = |port: &mut dyn Port, patience: u16| {
        port.before_sleep();
        let mut fds = [PollFd::new(port.poll_fd().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, patience).unwrap() == 1
    };
    for n in 0..3 {
        assert!(!sleep(port, 20));
        wire.send(&frame(n, 100));
        assert!(sleep(port, 5000));
        assert_same(&receive_all(port, pool, 1), &[frame(n, 100)]);
    }
}

/// A link that came up carries packets a moment later; until then the sender's kernel drops them.
fn receives_again(port: &mut dyn Port, pool: &Pool, wire: &Wire) {
    let end = Instant::now() + PATIENCE;
    loop {
        wire.send(&frame(9, 100));
        std::thread::sleep(Duration::from_millis(5));
        let got = receive_now(port, pool);
        if !got.is_empty() {
            assert!(got.iter().all(|got| *got == frame(9, 100)));
            return;
        }
        assert!(Instant::now() < end, "nothing comes though the link is up");
    }
}
