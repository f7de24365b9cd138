//! `spillway-bench latency`: how long packets take through the worker at some loads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use dataplane::crypto::{Crypto, EngineChoice, Suite};

use crate::engines;
use crate::gateway::Pools;
use crate::measure::Samples;
use crate::report::{Report, Row};
use crate::simulation::{self, Flow, Outcome};
use crate::traffic::{Order, Size, Stream};
use crate::tunnels::Direction;
use crate::world::{Shape, World};

/// Rounds by which the capacity is found.
const CAPACITY_ROUNDS: usize = 51;

/// What to measure.
///
/// Packets arrive as a Poisson process at shares of the capacity, which is measured just before with full bursts. They
/// keep arriving whatever the worker does, so no latency is hidden by coordinated omission. Latency is the time from a
/// packet's arrival in the receive queue (1,024 packets) to the end of the poll that sent it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Suites, by their keywords.
    #[arg(long, value_delimiter = ',', default_value = "aes128gcm16")]
    suites: Vec<Suite>,
    /// Bytes of the inner IP packet, or imix.
    #[arg(long, value_delimiter = ',', default_value = "64,imix")]
    sizes: Vec<Size>,
    /// Percent of the capacity.
    #[arg(long, value_delimiter = ',', default_value = "10,50,90")]
    loads: Vec<u32>,
    /// How many tunnels, used at random.
    #[arg(long, default_value_t = 1)]
    sas: usize,
    /// Which ways.
    #[arg(long, value_delimiter = ',', default_value = "outbound,inbound")]
    directions: Vec<Direction>,
    /// Engines; without this, all that run here.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<EngineChoice>,
    /// Packets at each load.
    #[arg(long, default_value_t = 200_000)]
    packets: u64,
}

/// Runs the bench.
///
/// # Errors
/// When an option makes no sense, or the worker drops a packet.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    for load in &options.loads {
        ensure!((1..100).contains(load), "--loads: from 1 to 99 percent, not {load}");
    }
    let mut report = Report::new("latency");
    let pools = Pools::new()?;
    let engines = engines::start(&options.engines)?;
    for &suite in &options.suites {
        if suite.is_ah() {
            bail!("--suites: {suite} is one of AH");
        }
        for (engine, crypto) in engines::of_suite(&engines, suite) {
            bench(options, suite, engine, &crypto, pools, &mut report)?;
        }
    }
    report.notes.push(simulation::machine_noise(Duration::from_millis(300))?);
    Ok(report)
}

fn bench(
    options: &Options,
    suite: Suite,
    engine: &'static str,
    crypto: &Arc<Crypto>,
    pools: Pools,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut world = World::new(crypto, suite, options.sas, pools)?;
    for &size in &options.sizes {
        for &direction in &options.directions {
            let stream = || Stream::new(size, options.sas, Order::Random);
            let cost = capacity(&mut world, direction, stream())?;
            for (&load, outcome) in
                options.loads.iter().zip(loads(options, &mut world, direction, stream, cost)?)
            {
                let labels = vec![
                    ("suite", suite.to_string()),
                    ("bytes", size.to_string()),
                    ("SAs", options.sas.to_string()),
                    ("what", direction.name().to_owned()),
                    ("engine", engine.to_owned()),
                    ("load", format!("{load} %")),
                ];
                report.rows.push(Row::new(labels, figures(&outcome)));
            }
        }
    }
    let drops = world.gateway.drops()?;
    ensure!(drops.is_empty(), "{suite}: dropped {drops}");
    Ok(())
}

/// Every load, in slices that take turns.
fn loads(
    options: &Options,
    world: &mut World,
    direction: Direction,
    stream: impl Fn() -> Stream,
    cost: f64,
) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes: Vec<Outcome> = options.loads.iter().map(|_| Outcome::default()).collect();
    let mut flows: Vec<(Flow, u64)> = options
        .loads
        .iter()
        .map(|&load| {
            let interval = cost * 100.0 / f64::from(load);
            (Flow::new(direction, stream(), interval), simulation::slice_packets(interval))
        })
        .collect();
    while outcomes.iter().any(|outcome| outcome.offered < options.packets) {
        for ((flow, packets), outcome) in flows.iter_mut().zip(&mut outcomes) {
            if outcome.offered >= options.packets {
                continue;
            }
            let packets = (*packets).min(options.packets - outcome.offered);
            let flow = std::slice::from_mut(flow);
            outcome.merge(&simulation::undisturbed(|| {
                simulation::run(world, flow, packets, cost, &mut |_, _| Ok(()))
            })?);
        }
    }
    Ok(outcomes)
}

/// Nanoseconds that a packet costs when there are always more.
pub fn capacity(world: &mut World, direction: Direction, mut stream: Stream) -> anyhow::Result<f64> {
    let shape = Shape { ahead: 256, times: 1, warm: stream.lap().div_ceil(256) };
    let rounds = (0..CAPACITY_ROUNDS)
        .map(|_| {
            let round = world.round(direction, &mut stream, shape)?;
            Ok(round.time.as_nanos() as f64 / round.packets as f64)
        })
        .collect::<anyhow::Result<Samples>>()?;
    Ok(rounds.stats().median)
}

/// Figures of a run, as they go into a row.
pub fn figures(outcome: &Outcome) -> Vec<(&'static str, f64)> {
    vec![
        ("offered_mpps", outcome.offered as f64 * 1e3 / outcome.span),
        ("p50_us", outcome.percentile(0.5)),
        ("p99_us", outcome.percentile(0.99)),
        ("p999_us", outcome.percentile(0.999)),
        ("max_us", outcome.longest()),
        ("longest_poll_us", outcome.longest_poll as f64 / 1e3),
        ("lost", outcome.lost as f64),
        ("disturbed", outcome.disturbed as f64),
    ]
}
