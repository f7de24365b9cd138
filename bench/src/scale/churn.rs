//! SAs that come and go while packets are forwarded: loss and the longest stall, beside the same load without.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender};
use dataplane::clock::SECOND;
use dataplane::crypto::{Crypto, Suite};
use dataplane::message::{Event, Retired, SaUpdate, Update};
use dataplane::sa::Spi;
use dataplane::sa::allocator::SpiAllocator;

use crate::gateway::Pools;
use crate::latency::{capacity, figures};
use crate::report::{Finding, Goal, Report, Row};
use crate::simulation::{self, Flow, Outcome};
use crate::traffic::{Order, Size, Stream};
use crate::tunnels::{self, Direction, Tunnels};
use crate::world::World;

/// Tunnels that carry the packets. Their outbound SAs are replaced, as by a rekey.
const LIVE: usize = 1_000;
/// Tunnels beside them that are set up and torn down.
const SPARE: usize = 1_024;
/// Share of the capacity that the packets take, both directions together.
const LOAD: f64 = 0.5;
/// Slices in which the cases take turns.
const SLICES: u64 = 10;
/// SAs that are added in one step: one outbound by a rekey, two by a set-up. As many are removed.
const ADDS_A_STEP: u64 = 3;

/// What runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Algorithms.
    pub suite: Suite,
    /// SAs that are added in a second of the worker's time; as many are removed.
    pub rate: u64,
    /// Packets of each case.
    pub packets: u64,
}

/// The control side of one slice.
struct Control<'c> {
    plan: &'c Plan,
    crypto: &'c Crypto,
    updates: Sender<Update>,
    events: Receiver<Event>,
    /// The worker's time, 0 before it starts.
    time: &'c AtomicU64,
    done: &'c AtomicBool,
}

/// Spare tunnels that are set up, and where SPIs for more come from.
struct Spares<'t> {
    next: u64,
    up: VecDeque<(usize, Spi)>,
    spis: &'t mut SpiAllocator,
}

/// Runs both cases and adds rows and findings.
///
/// # Errors
/// When the worker refuses an update.
pub fn run(
    plan: &Plan,
    engine: &'static str,
    crypto: &Arc<Crypto>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut tunnels = Tunnels::new(crypto, plan.suite, LIVE, 2 * SPARE)?;
    let mut world = World::over(crypto, plan.suite, &tunnels, SPARE, 0, Pools::new()?)?;
    world.prove(0)?;
    let stream = || Stream::new(Size::Fixed(64), LIVE, Order::Random);
    let costs = [
        capacity(&mut world, Direction::Outbound, stream())?,
        capacity(&mut world, Direction::Inbound, stream())?,
    ];
    let mean = (costs[0] + costs[1]) / 2.0;
    let flow = |direction, cost: f64| Flow::new(direction, stream(), cost * 2.0 / LOAD);
    let mut flows = [flow(Direction::Outbound, costs[0]), flow(Direction::Inbound, costs[1])];
    let (mut quiet, mut churned) = (Outcome::default(), Outcome::default());
    let mut spares = Spares { next: 0, up: VecDeque::new(), spis: &mut tunnels.spis };
    let mut added = 0;
    let packets = plan.packets.div_ceil(SLICES);
    for _ in 0..SLICES {
        quiet.merge(&simulation::run(&mut world, &mut flows, packets, mean, &AtomicU64::new(0))?);
        let (time, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let (updates, events) = (world.gateway.updates(), world.gateway.events());
        let control = Control { plan, crypto, updates, events, time: &time, done: &done };
        let (outcome, steps) = std::thread::scope(|scope| {
            let control = scope.spawn(|| control.run(&mut spares));
            let outcome = simulation::run(&mut world, &mut flows, packets, mean, &time);
            done.store(true, Ordering::Release);
            let steps = control.join().unwrap_or_else(|_| bail!("the control thread panicked"));
            anyhow::Ok((outcome?, steps?))
        })?;
        churned.merge(&outcome);
        added += steps * ADDS_A_STEP;
        // What still waits is no part of the next slice.
        world.gateway.apply(std::iter::empty())?;
    }
    let rate = added as f64 * SECOND as f64 / churned.span;
    for (rate, outcome) in [(0.0, &quiet), (rate, &churned)] {
        let labels = vec![
            ("suite", plan.suite.to_string()),
            ("bytes", "64".to_owned()),
            ("SAs", LIVE.to_string()),
            ("load", format!("{:.0} %", LOAD * 100.0)),
            ("SA adds and removes a second", format!("{rate:.0}")),
            ("engine", engine.to_owned()),
        ];
        report.rows.push(Row::new(labels, figures(outcome)));
    }
    let mut find = |what: &str, value: f64, unit, goal| {
        let what = format!("{}, {engine}, {rate:.0} SA adds and removes a second: {what}", plan.suite);
        report.findings.push(Finding::exact(what, value, unit, goal));
    };
    find("packets lost", churned.lost as f64, "packets", Some(Goal::AtMost(0.0)));
    find("longest stall", churned.longest_poll as f64 / 1e3, "us", None);
    find("longest stall without them", quiet.longest_poll as f64 / 1e3, "us", None);
    report.notes.push(simulation::machine_noise(Duration::from_millis(300))?);
    Ok(())
}

impl Control<'_> {
    /// Makes SAs and sends updates at the rate, and frees the SAs that come back, until the slice is done. Returns the
    /// steps that it made.
    fn run(self, spares: &mut Spares<'_>) -> anyhow::Result<u64> {
        let (mut start, mut steps) = (0, 0);
        while !self.done.load(Ordering::Acquire) {
            let now = self.time.load(Ordering::Relaxed);
            start = if start == 0 { now } else { start };
            let due = (now - start) as f64 * self.plan.rate as f64 / SECOND as f64 / ADDS_A_STEP as f64;
            while steps < due as u64 {
                self.step(spares)?;
                steps += 1;
            }
            for event in self.events.try_iter() {
                match event {
                    Event::Retired(Retired::Inbound(sa), _) => spares.spis.release(sa.spi),
                    Event::Refused(_) => bail!("the worker refused an update"),
                    _ => {}
                }
            }
            std::thread::yield_now();
        }
        Ok(steps)
    }

    /// Replaces the outbound SA of a live tunnel, sets a spare tunnel up, and tears the oldest one down.
    fn step(&self, spares: &mut Spares<'_>) -> anyhow::Result<()> {
        let suite = self.plan.suite;
        let step = spares.next;
        spares.next += 1;
        let live = (step % LIVE as u64) as usize;
        let rekeyed = tunnels::outbound_sa(self.crypto, suite, live, 0x9000_0000 | step as u32)?;
        self.send([Update::Sa(SaUpdate::SetOutbound(rekeyed, tunnels::endpoints(live)))])?;
        let spare = LIVE + (step % SPARE as u64) as usize;
        let spi = spares.spis.allocate().context("no SPI left")?;
        let outbound = tunnels::outbound_sa(self.crypto, suite, spare, spi)?;
        self.send(tunnels::set_up(spare, outbound, tunnels::inbound_sa(self.crypto, suite, spare, spi)?))?;
        spares.up.push_back((spare, spi));
        if spares.up.len() > SPARE / 2
            && let Some((spare, spi)) = spares.up.pop_front()
        {
            self.send(tunnels::tear_down(spare, spi))?;
        }
        Ok(())
    }

    fn send<const N: usize>(&self, updates: [Update; N]) -> anyhow::Result<()> {
        updates
            .into_iter()
            .try_for_each(|update| self.updates.send(update).ok().context("the worker is gone"))
    }
}
