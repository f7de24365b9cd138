//! Traffic that does not wait for the worker: packets arrive by a schedule, whatever the worker does.
//!
//! Time here is virtual: it goes on only while the worker polls, by as much as the poll took. So the making of packets
//! takes no time, and the worker polls without a pause, also when nothing waits. A packet's latency is the time from
//! its scheduled arrival to the end of the poll that sent it. Arrivals never slow down, so there is no coordinated
//! omission to correct: the packets that arrive during a stall all wait, and all count.
//!
//! On a machine with other work the kernel takes the core away now and then, which says nothing about the worker. So
//! traffic comes in slices of about a millisecond, and a slice in which that happened is left out and run again. When it
//! happens every time, the last try counts; a poll that was interrupted then counts with the mean time of its packets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dataplane::clock;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};

use crate::frames::Frames;
use crate::gateway::DEPTH;
use crate::random::Random;
use crate::traffic::Stream;
use crate::tunnels::Direction;
use crate::world::{Shape, World};

/// Frames that are made at once when those that were made before the slice do not suffice.
const STOCK: usize = 64;
/// Virtual nanoseconds that a slice lasts, within bounds on its packets.
const SLICE: f64 = 1_000_000.0;
const SLICE_PACKETS: [f64; 2] = [200.0, 2_000.0];
/// Packets that arrive in a slice before those that count: queues and caches are then as they are later.
const WARM: u64 = 200;
/// How often a slice is tried.
const TRIES: usize = 6;
/// A poll that took this many times as long as its packets should, and this much longer, is looked at.
const SUSPICIOUS: f64 = 4.0;
const SUSPICIOUS_NS: f64 = 5_000.0;
/// The machine's own gaps are counted from this length on.
const NOISE: Duration = Duration::from_micros(5);

/// Packets of one direction.
pub struct Flow {
    direction: Direction,
    stream: Stream,
    /// Mean time between two arrivals in nanoseconds; they are a Poisson process.
    interval: f64,
    random: Random,
    frames: Frames,
    used: usize,
    due: f64,
    /// When those that wait arrived, and whether they count.
    waiting: VecDeque<(f64, bool)>,
}

/// What a run showed.
pub struct Outcome {
    /// Nanoseconds from arrival to the end of the poll that sent the packet.
    pub latency: Histogram<u64>,
    /// Packets that arrived.
    pub offered: u64,
    /// Those that found the receive queue of 1,024 full, or that the worker dropped.
    pub lost: u64,
    /// The longest poll in nanoseconds.
    pub longest_poll: u64,
    /// Slices that count although the kernel took the core away meanwhile.
    pub disturbed: u64,
    /// Virtual nanoseconds from start to end.
    pub span: f64,
}

impl Flow {
    /// Packets of `stream` that arrive `interval` nanoseconds apart on average.
    pub fn new(direction: Direction, stream: Stream, interval: f64) -> Self {
        Self {
            direction,
            stream,
            interval,
            random: Random::default(),
            frames: Frames::default(),
            used: 0,
            due: 0.0,
            waiting: VecDeque::with_capacity(DEPTH),
        }
    }

    /// Makes frames for a run. Those that were left over are not used: their sequence numbers may have left the window.
    fn stock(&mut self, world: &mut World, packets: usize) -> anyhow::Result<()> {
        self.used = 0;
        world.prepare(self.direction, self.stream.by_ref().take(packets), &mut self.frames)
    }

    /// Carries packets that do not count, so that the caches hold what they hold when only this traffic runs.
    fn warm(&mut self, world: &mut World) -> anyhow::Result<()> {
        let shape = Shape { ahead: 128, times: self.stream.lap().div_ceil(128), warm: 0 };
        world.round(self.direction, &mut self.stream, shape).map(|_| ())
    }

    fn begin(&mut self, now: f64) {
        self.due = now + self.random.exponential(self.interval);
    }

    /// Lets one packet arrive, which counts or not. Returns whether there was room for it.
    fn arrive(&mut self, world: &mut World, counts: bool) -> anyhow::Result<bool> {
        if self.used == self.frames.len() {
            self.stock(world, STOCK)?;
        }
        let room = self.waiting.len() < DEPTH;
        if room {
            let frame = self.frames.get(self.used).context("no frame in stock")?;
            world.gateway.arrive(self.direction, std::iter::once(frame))?;
            self.waiting.push_back((self.due, counts));
        }
        self.used += 1;
        self.due += self.random.exponential(self.interval);
        Ok(room)
    }
}

impl Default for Outcome {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, 10_000_000_000, 3);
        Self {
            latency: latency.expect("the bounds are constant and valid"),
            offered: 0,
            lost: 0,
            longest_poll: 0,
            disturbed: 0,
            span: 0.0,
        }
    }
}

impl Outcome {
    /// Microseconds that this share of the packets did not exceed.
    pub fn percentile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest latency in microseconds.
    pub fn longest(&self) -> f64 {
        self.latency.max() as f64 / 1e3
    }

    /// Adds another run of the same load.
    pub fn merge(&mut self, other: &Self) {
        self.latency += &other.latency;
        self.offered += other.offered;
        self.lost += other.lost;
        self.longest_poll = self.longest_poll.max(other.longest_poll);
        self.disturbed += other.disturbed;
        self.span += other.span;
    }
}

/// Packets of a slice of flows that together have an arrival every `interval` nanoseconds.
pub fn slice_packets(interval: f64) -> u64 {
    let [least, most] = SLICE_PACKETS;
    (SLICE / interval).clamp(least, most) as u64
}

/// Runs a slice until the kernel leaves it alone.
///
/// # Errors
/// Those of the slice.
pub fn undisturbed(mut slice: impl FnMut() -> anyhow::Result<Outcome>) -> anyhow::Result<Outcome> {
    let mut outcome = slice()?;
    for _ in 1..TRIES {
        if outcome.disturbed == 0 {
            break;
        }
        outcome = slice()?;
    }
    Ok(outcome)
}

/// Runs flows until `packets` packets that count arrived and all that got in are out. A packet costs `cost` nanoseconds
/// on average. The worker is told the virtual time, which starts at the time it is. `control` is called between polls
/// with the nanoseconds since the start, and takes no time.
///
/// # Errors
/// When the engine refuses a packet, or the worker sends something else.
pub fn run(
    world: &mut World,
    flows: &mut [Flow],
    packets: u64,
    cost: f64,
    control: &mut dyn FnMut(f64, &mut World) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let count = flows.len().max(1);
    for flow in flows.iter_mut() {
        let share = (WARM + packets) as usize / count;
        flow.stock(world, share + share / 4)?;
    }
    for flow in flows.iter_mut() {
        flow.warm(world)?;
    }
    let preempted = preemptions()?;
    let mut now = clock::now() as f64;
    let begun = now;
    // When the first packet that counts arrived.
    let mut start = now;
    let (mut arrived, mut received, mut sent) = (0, 0, 0);
    for flow in flows.iter_mut() {
        flow.begin(now);
    }
    let mut watch = Watch { preemptions: preempted };
    loop {
        for flow in flows.iter_mut() {
            while flow.due <= now && arrived < WARM + packets {
                if arrived == WARM {
                    start = flow.due;
                }
                arrived += 1;
                let counts = arrived > WARM;
                let room = flow.arrive(world, counts)?;
                outcome.lost += u64::from(counts && !room);
            }
        }
        if arrived == WARM + packets && flows.iter().all(|flow| flow.waiting.is_empty()) {
            break;
        }
        let busy = flows.iter().any(|flow| !flow.waiting.is_empty());
        let (count, took) = watch.poll(world, now, busy, cost)?;
        now += took;
        control(now - begun, world)?;
        received += count;
        if arrived > WARM {
            outcome.longest_poll = outcome.longest_poll.max(took as u64);
        }
        for flow in flows.iter_mut() {
            let left = world.gateway.waiting(flow.direction);
            let taken = flow.waiting.len().saturating_sub(left);
            for (arrived, counts) in flow.waiting.drain(..taken) {
                if counts {
                    outcome.latency.saturating_record((now - arrived) as u64);
                }
            }
        }
        sent += world.gateway.collect(&mut |_, _| {})?;
    }
    outcome.offered = packets;
    outcome.lost += (received as u64).saturating_sub(sent as u64);
    outcome.span = now - start;
    outcome.disturbed = u64::from(preemptions()? != preempted);
    Ok(outcome)
}

/// Tells polls that were interrupted.
struct Watch {
    /// How often the kernel had taken the core away when it was last asked.
    preemptions: i64,
}

impl Watch {
    /// One poll: packets received, and nanoseconds. Before polls that find nothing the kernel is not asked, since there
    /// are many.
    fn poll(&mut self, world: &mut World, now: f64, busy: bool, cost: f64) -> anyhow::Result<(usize, f64)> {
        if busy {
            self.preemptions = preemptions()?;
        }
        let (count, took) = world.gateway.poll_at(now as u64);
        let (took, expected) = (took.as_nanos() as f64, count as f64 * cost);
        if took > SUSPICIOUS * expected + SUSPICIOUS_NS {
            let before = std::mem::replace(&mut self.preemptions, preemptions()?);
            if self.preemptions != before {
                return Ok((count, expected.max(1.0)));
            }
        }
        Ok((count, took))
    }
}

/// How much interrupts and the hypervisor disturb a thread that does nothing but read the clock for `span`, in words.
/// Latencies of packets cannot be better than this. What other threads take is left out, as it is for packets.
///
/// # Errors
/// That of `getrusage`.
pub fn machine_noise(span: Duration) -> anyhow::Result<String> {
    let start = Instant::now();
    let (mut last, mut longest, mut gaps, mut total) = (start, Duration::ZERO, 0, Duration::ZERO);
    let mut before = preemptions()?;
    while last - start < span {
        let now = Instant::now();
        let gap = now - last;
        last = now;
        if gap < NOISE {
            continue;
        }
        let preempted = std::mem::replace(&mut before, preemptions()?) != before;
        if !preempted {
            (gaps, total, longest) = (gaps + 1, total + gap, longest.max(gap));
        }
        last = Instant::now();
    }
    Ok(format!(
        "The machine alone, in {:.1} s: {gaps} gaps of {} us or more, the longest {:.1} us, {:.2} % of the time.",
        span.as_secs_f64(),
        NOISE.as_micros(),
        longest.as_secs_f64() * 1e6,
        total.as_secs_f64() / span.as_secs_f64() * 100.0
    ))
}

/// How often the kernel took the core away from this thread.
fn preemptions() -> anyhow::Result<i64> {
    match getrusage(UsageWho::RUSAGE_THREAD) {
        Ok(usage) => Ok(usage.involuntary_context_switches()),
        Err(error) => bail!("getrusage: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dataplane::crypto::{Crypto, EngineChoice};

    use super::*;
    use crate::gateway::Pools;
    use crate::traffic::{Order, Size};

    fn world() -> World {
        let crypto = Arc::new(Crypto::new(EngineChoice::AwsLc).unwrap());
        World::new(&crypto, "aes128gcm16".parse().unwrap(), 3, Pools::new().unwrap()).unwrap()
    }

    fn flow(direction: Direction, interval: f64) -> Flow {
        Flow::new(direction, Stream::new(Size::Fixed(64), 3, Order::RoundRobin), interval)
    }

    #[test]
    fn every_packet_of_both_directions_is_measured_once() {
        let mut world = world();
        let mut flows = [flow(Direction::Outbound, 50_000.0), flow(Direction::Inbound, 50_000.0)];
        let mut times = Vec::new();
        let mut note = |time, _: &mut World| {
            times.push(time);
            Ok(())
        };
        let outcome = run(&mut world, &mut flows, 500, 1_000.0, &mut note).unwrap();
        assert_eq!((outcome.offered, outcome.lost), (500, 0));
        assert_eq!(outcome.latency.len(), 500);
        // 500 packets at 25 microseconds.
        assert!((8e6..20e6).contains(&outcome.span), "{}", outcome.span);
        assert!(times.is_sorted() && times.last().is_some_and(|&last| last >= outcome.span));
        // What was made for the run before is not sent in the next.
        let mut inbound = [flow(Direction::Inbound, 1_000.0), flow(Direction::Inbound, 1_000.0)];
        for _ in 0..2 {
            for flow in &mut inbound {
                let outcome =
                    run(&mut world, std::slice::from_mut(flow), 100, 1_000.0, &mut |_, _| Ok(())).unwrap();
                assert_eq!(world.gateway.drops().unwrap(), "");
                assert_eq!(outcome.offered, 100);
            }
        }
    }

    #[test]
    fn what_comes_faster_than_the_worker_is_lost_and_what_waits_counts_its_wait() {
        let mut world = world();
        let mut flows = [flow(Direction::Outbound, 1.0)];
        let outcome = run(&mut world, &mut flows, 5_000, 1_000.0, &mut |_, _| Ok(())).unwrap();
        assert!(outcome.lost > 1_000, "{}", outcome.lost);
        assert_eq!(outcome.latency.len() + outcome.lost, 5_000);
        let mut merged = Outcome::default();
        merged.merge(&outcome);
        merged.merge(&outcome);
        assert_eq!((merged.lost, merged.latency.len()), (2 * outcome.lost, 2 * outcome.latency.len()));
    }

    #[test]
    fn a_disturbed_slice_is_run_again_but_not_for_ever() {
        let slices = |disturbed: u64| {
            let mut runs = 0;
            let outcome = undisturbed(|| {
                runs += 1;
                Ok(Outcome { disturbed: u64::from(runs <= disturbed), ..Outcome::default() })
            });
            (runs, outcome.unwrap().disturbed)
        };
        assert_eq!(slices(0), (1, 0));
        assert_eq!(slices(3), (4, 0));
        assert_eq!(slices(u64::MAX), (TRIES as u64, 1));
        assert_eq!(
            (slice_packets(10_000.0), slice_packets(1_000.0), slice_packets(100.0)),
            (200, 1_000, 2_000)
        );
    }
}
