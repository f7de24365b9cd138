//! SAs that come and go while packets are forwarded: loss and the longest stall, beside the same load without.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
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
/// SAs that are added in one step: one outbound by a rekey, two by a set-up. Once half of the spare tunnels are up, as
/// many are removed.
const ADDS_A_STEP: u64 = 3;
/// Steps that are prepared together, long before they are sent, so that nothing of theirs is in the nearest cache.
const STOCK: usize = 64;

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

/// The control side.
struct Control<'c> {
    plan: &'c Plan,
    crypto: &'c Crypto,
    spis: &'c mut SpiAllocator,
    /// Steps that were prepared.
    prepared: u64,
    /// Those that were not sent yet.
    stock: VecDeque<Vec<Update>>,
    /// Spare tunnels that are up.
    up: VecDeque<(usize, Spi)>,
    /// Steps that were sent in this slice, and in all.
    sent: u64,
    total: u64,
    /// SAs that the worker gave back.
    freed: u64,
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
    let mut tunnels = Tunnels::new(crypto, plan.suite, LIVE, 4 * SPARE)?;
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
    let mut control = Control::new(plan, crypto, &mut tunnels.spis);
    control.fill(&mut world)?;
    let (mut quiet, mut churned) = (Outcome::default(), Outcome::default());
    let packets = simulation::slice_packets(mean / LOAD);
    while churned.offered < plan.packets {
        quiet.merge(&simulation::undisturbed(|| {
            simulation::run(&mut world, &mut flows, packets, mean, &mut |_, _| Ok(()))
        })?);
        churned.merge(&simulation::undisturbed(|| {
            control.prepare()?;
            let mut control = |time, world: &mut World| control.work(time, world);
            simulation::run(&mut world, &mut flows, packets, mean, &mut control)
        })?);
        // What still waits is no part of the next slice.
        world.gateway.apply(std::iter::empty())?;
    }
    let (added, freed) = (control.total * ADDS_A_STEP, control.freed);
    for (rate, outcome) in [(0, &quiet), (plan.rate, &churned)] {
        let labels = vec![
            ("suite", plan.suite.to_string()),
            ("bytes", "64".to_owned()),
            ("SAs", LIVE.to_string()),
            ("load", format!("{:.0} %", LOAD * 100.0)),
            ("SA adds and removes a second", rate.to_string()),
            ("engine", engine.to_owned()),
        ];
        report.rows.push(Row::new(labels, figures(outcome)));
    }
    let mut find = |what: &str, value: f64, unit, goal| {
        let what = format!("{}, {engine}, {} SA adds and removes a second: {what}", plan.suite, plan.rate);
        report.findings.push(Finding::exact(what, value, unit, goal));
    };
    find("packets lost", churned.lost as f64, "packets", Some(Goal::AtMost(0.0)));
    find("longest stall", churned.longest_poll as f64 / 1e3, "us", None);
    find("longest stall without them", quiet.longest_poll as f64 / 1e3, "us", None);
    report.notes.push(format!("{added} SAs were added while packets were forwarded, and {freed} came back."));
    report.notes.push(simulation::machine_noise(Duration::from_millis(300))?);
    Ok(())
}

impl<'c> Control<'c> {
    fn new(plan: &'c Plan, crypto: &'c Crypto, spis: &'c mut SpiAllocator) -> Self {
        let (stock, up) = (VecDeque::new(), VecDeque::new());
        Self { plan, crypto, spis, prepared: 0, stock, up, sent: 0, total: 0, freed: 0 }
    }

    /// Sets spare tunnels up until each further one makes the oldest go.
    fn fill(&mut self, world: &mut World) -> anyhow::Result<()> {
        while self.up.len() < SPARE / 2 {
            let step = self.step()?;
            world.gateway.apply(step.into_iter())?;
        }
        Ok(())
    }

    /// Makes SAs for the next slice.
    fn prepare(&mut self) -> anyhow::Result<()> {
        self.sent = 0;
        while self.stock.len() < STOCK {
            let step = self.step()?;
            self.stock.push_back(step);
        }
        Ok(())
    }

    /// Sends the steps that are due after `time` nanoseconds of a slice, and frees the SAs that come back.
    fn work(&mut self, time: f64, world: &mut World) -> anyhow::Result<()> {
        let due = time * self.plan.rate as f64 / SECOND as f64 / ADDS_A_STEP as f64;
        while self.sent < due as u64 {
            let step = match self.stock.pop_front() {
                Some(step) => step,
                None => self.step()?,
            };
            for update in step {
                world.gateway.updates().send(update).ok().context("the worker is gone")?;
            }
            self.sent += 1;
            self.total += 1;
        }
        for event in world.gateway.events().try_iter() {
            match event {
                Event::Retired { sa: retired, .. } => {
                    self.freed += 1;
                    if let Retired::Inbound(sa) = retired {
                        self.spis.release(sa.spi);
                    }
                }
                Event::Refused(_) => bail!("the worker refused an update"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Replaces the outbound SA of a live tunnel, sets a spare tunnel up, and tears the oldest one down.
    fn step(&mut self) -> anyhow::Result<Vec<Update>> {
        let suite = self.plan.suite;
        let (live, spare) = (self.prepared as usize % LIVE, LIVE + self.prepared as usize % SPARE);
        let rekeyed = tunnels::outbound_sa(self.crypto, suite, live, 0x9000_0000 | self.prepared as u32)?;
        self.prepared += 1;
        let spi = self.spis.allocate().context("no SPI left")?;
        let outbound = tunnels::outbound_sa(self.crypto, suite, spare, spi)?;
        let inbound = tunnels::inbound_sa(self.crypto, suite, spare, spi)?;
        let mut updates = vec![Update::Sa(SaUpdate::SetOutbound(rekeyed, tunnels::endpoints(live)))];
        updates.extend(tunnels::set_up(spare, outbound, inbound));
        self.up.push_back((spare, spi));
        if self.up.len() > SPARE / 2
            && let Some((spare, spi)) = self.up.pop_front()
        {
            updates.extend(tunnels::tear_down(spare, spi));
        }
        Ok(updates)
    }
}
