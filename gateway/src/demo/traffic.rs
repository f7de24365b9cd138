//! The hosts' traffic: UDP in both directions at once, as fast as the gateways carry it or at a fixed pace.
//!
//! At full load each direction has at most [`WINDOW`] packets under way, so a slow machine is not flooded and the latency is that
//! of packets that wait for each other in a busy gateway, not that of an overflowing queue. Every packet carries
//! its number and the time at which it was sent; both hosts are this process, so they have one clock.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use nix::sys::socket::{setsockopt, sockopt};

use super::netns::Namespace;
use super::plan::Side;
use super::report::{Flow, Throughput};
use crate::snapshot::Latency;

/// The whole IP packet that a host sends, in bytes.
pub(super) const PACKET: usize = 1400;
/// What UDP carries of it.
const PAYLOAD: usize = PACKET - 20 - 8;
/// Number and time.
const STAMP: usize = 16;
/// Packets under way in one direction. Fits the kernel's default receive buffer.
const WINDOW: u64 = 64;
/// What a sender sleeps when its window is full.
const PAUSE: Duration = Duration::from_micros(50);
/// With a full window and nothing received for so long, what is under way counts as lost.
const STALL: Duration = Duration::from_millis(50);
/// How long the last packets may take to arrive.
const LINGER: Duration = Duration::from_millis(300);
/// Latencies are told apart up to this many nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;
/// UDP port on both hosts.
const PORT: u16 = 7000;
/// Receive buffer of a host in bytes: what any user may ask for by default.
const RECEIVE_BUFFER: usize = 212_992;

/// The hosts' sockets.
pub(super) struct Hosts {
    left: UdpSocket,
    right: UdpSocket,
    payload: Vec<u8>,
}

/// How much the hosts send.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// As much as gets through.
    Full,
    /// A packet in each direction this often: far below what the gateways carry, so that none may be lost.
    Paced(Duration),
}

/// How far the run is.
pub(super) struct Progress {
    pub(super) elapsed: Duration,
    /// In both directions together, in the last interval.
    pub(super) mbit_per_second: f64,
    pub(super) packets: u64,
}

impl Hosts {
    /// Opens a socket on each host. Every packet carries the marker.
    pub(super) fn open(left: &Namespace, right: &Namespace, marker: &[u8]) -> Result<Self> {
        let payload = marker.iter().copied().cycle().take(PAYLOAD - STAMP);
        let payload = std::iter::repeat_n(0, STAMP).chain(payload).collect();
        Ok(Self { left: open(Side::Left, left)?, right: open(Side::Right, right)?, payload })
    }

    /// Sends for some time in both directions and tells `progress` how it goes every `interval`.
    pub(super) fn run(
        &self,
        load: Load,
        duration: Duration,
        interval: Duration,
        mut progress: impl FnMut(Progress) -> Result<()>,
    ) -> Result<Throughput> {
        let directions = [Direction::default(), Direction::default()];
        let done = AtomicBool::new(false);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let sockets = [(&self.left, &self.right), (&self.right, &self.left)];
            let mut flows = Vec::new();
            for (direction, (from, to)) in directions.iter().zip(sockets) {
                let receiver = scope.spawn(|| direction.receive(to, &self.payload, start, &done));
                let sender = scope.spawn(move || direction.send(from, &self.payload, load, start, duration));
                flows.push((sender, receiver));
            }
            let told = watch(&directions, start, duration, interval, &mut progress);
            let mut sent = Vec::new();
            let mut received = Vec::new();
            for (sender, receiver) in flows {
                sent.push(join(sender));
                received.push(receiver);
            }
            sleep(LINGER);
            done.store(true, Ordering::Relaxed);
            let received: Vec<_> = received.into_iter().map(join).collect();
            told?;
            let mut flows = Vec::new();
            for ((side, sent), received) in Side::ALL.into_iter().zip(sent).zip(received) {
                let sent = sent.with_context(|| format!("host {side} cannot send"))?;
                let received = received.with_context(|| format!("host {} cannot receive", side.other()))?;
                flows.push(received.flow(side, sent, duration.as_secs_f64()));
            }
            Ok(Throughput { seconds: duration.as_secs_f64(), packet_bytes: PACKET, flows })
        })
    }
}

fn open(side: Side, namespace: &Namespace) -> Result<UdpSocket> {
    namespace.run(|| {
        let socket = UdpSocket::bind((side.host().addr(), PORT))?;
        socket.connect((side.other().host().addr(), PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        Ok(socket)
    })
}

/// What sender and receiver of one direction tell each other.
#[derive(Default)]
struct Direction {
    packets: AtomicU64,
    /// The highest number received, plus one.
    seen: AtomicU64,
}

impl Direction {
    /// Returns how many packets were sent.
    fn send(
        &self,
        socket: &UdpSocket,
        payload: &[u8],
        load: Load,
        start: Instant,
        duration: Duration,
    ) -> io::Result<u64> {
        let mut payload = payload.to_vec();
        let mut next = 0_u64;
        // Numbers below this are not waited for.
        let mut settled = 0;
        let mut heard = Instant::now();
        while start.elapsed() < duration {
            let seen = self.seen.load(Ordering::Relaxed);
            if seen > settled {
                settled = seen;
                heard = Instant::now();
            }
            match load {
                Load::Full if next - settled >= WINDOW => {
                    if heard.elapsed() > STALL {
                        settled = next;
                        heard = Instant::now();
                    }
                    sleep(PAUSE);
                    continue;
                }
                // Late by however much, it sends one and waits again: no burst makes up for lost time.
                Load::Paced(interval) if next > 0 => sleep(interval),
                Load::Full | Load::Paced(_) => {}
            }
            let time = start.elapsed().as_nanos() as u64;
            for (to, from) in payload.iter_mut().zip([next.to_be_bytes(), time.to_be_bytes()].as_flattened())
            {
                *to = *from;
            }
            socket.send(&payload)?;
            next += 1;
        }
        Ok(next)
    }

    /// Receives until `done`.
    fn receive(
        &self,
        socket: &UdpSocket,
        payload: &[u8],
        start: Instant,
        done: &AtomicBool,
    ) -> Result<Received> {
        let mut received = Received::new()?;
        let mut datagram = [0; PAYLOAD + 1];
        while !done.load(Ordering::Relaxed) {
            let len = match socket.recv(&mut datagram) {
                Ok(len) => len,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let now = start.elapsed().as_nanos() as u64;
            let datagram = datagram.get(..len).unwrap_or_default();
            let (number, time) = stamp(datagram)
                .filter(|_| datagram.get(STAMP..) == payload.get(STAMP..))
                .ok_or_else(|| anyhow!("a packet arrived changed"))?;
            received.take(number, now.saturating_sub(time));
            self.packets.store(received.packets, Ordering::Relaxed);
            self.seen.store(received.next, Ordering::Relaxed);
        }
        Ok(received)
    }
}

fn stamp(datagram: &[u8]) -> Option<(u64, u64)> {
    let (number, rest) = datagram.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(*rest.first_chunk()?)))
}

struct Received {
    packets: u64,
    next: u64,
    reordered: u64,
    latency: Histogram<u64>,
}

impl Received {
    fn new() -> Result<Self> {
        Ok(Self {
            packets: 0,
            next: 0,
            reordered: 0,
            latency: Histogram::new_with_bounds(1, LATENCY_MAX, 3)?,
        })
    }

    fn take(&mut self, number: u64, latency: u64) {
        self.packets += 1;
        if number < self.next {
            self.reordered += 1;
        } else {
            self.next = number + 1;
        }
        self.latency.saturating_record(latency);
    }

    fn flow(&self, from: Side, sent: u64, seconds: f64) -> Flow {
        let packets_per_second = self.packets as f64 / seconds;
        Flow {
            from,
            to: from.other(),
            sent,
            received: self.packets,
            lost: sent.saturating_sub(self.packets),
            reordered: self.reordered,
            packets_per_second,
            mbit_per_second: mbit(self.packets) / seconds,
            latency: (self.packets > 0).then(|| Latency {
                p50_ns: self.latency.value_at_quantile(0.5),
                p99_ns: self.latency.value_at_quantile(0.99),
                p999_ns: self.latency.value_at_quantile(0.999),
                max_ns: self.latency.max(),
            }),
        }
    }
}

/// Tells how it goes until the time is over.
fn watch(
    directions: &[Direction],
    start: Instant,
    duration: Duration,
    interval: Duration,
    progress: &mut impl FnMut(Progress) -> Result<()>,
) -> Result<()> {
    let mut before = (start, 0);
    while start.elapsed() < duration {
        sleep(interval.min(duration.saturating_sub(start.elapsed())));
        let now = (Instant::now(), directions.iter().map(|d| d.packets.load(Ordering::Relaxed)).sum());
        let seconds = (now.0 - before.0).as_secs_f64().max(1e-6);
        progress(Progress {
            elapsed: start.elapsed(),
            mbit_per_second: mbit(now.1 - before.1) / seconds,
            packets: now.1,
        })?;
        before = now;
    }
    Ok(())
}

/// Megabits of the hosts' IP packets.
fn mbit(packets: u64) -> f64 {
    packets as f64 * PACKET as f64 * 8.0 / 1e6
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_reordering_are_counted() {
        let mut received = Received::new().unwrap();
        for (number, latency) in [(0, 1000), (1, 1000), (4, 1000), (3, 5000)] {
            received.take(number, latency);
        }
        let flow = received.flow(Side::Left, 6, 2.0);
        assert_eq!((flow.sent, flow.received, flow.lost, flow.reordered), (6, 4, 2, 1));
        assert_eq!(flow.packets_per_second, 2.0);
        assert_eq!(flow.mbit_per_second, 4.0 * 1400.0 * 8.0 / 2.0 / 1e6);
        let latency = flow.latency.unwrap();
        assert!((990..=1010).contains(&latency.p50_ns) && (4950..=5050).contains(&latency.max_ns));
    }

    #[test]
    fn nothing_received_has_no_latency() {
        let flow = Received::new().unwrap().flow(Side::Right, 9, 1.0);
        assert_eq!((flow.lost, flow.mbit_per_second, flow.latency), (9, 0.0, None));
    }

    #[test]
    fn a_stamp_is_read_as_written_and_a_short_datagram_has_none() {
        let datagram = [7_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat();
        assert_eq!(stamp(&datagram), Some((7, 9)));
        assert_eq!(stamp(&datagram[..15]), None);
    }
}
