//! Where the time of the whole path goes: `spillway-bench esp --stages`.

use std::fs;

use anyhow::Context;
use dataplane::buffer::BURST;
use dataplane::worker::stages::Stage;

use crate::report::{Report, Row};
use crate::traffic::Stream;
use crate::tunnels::Direction;
use crate::world::{Shape, World};

/// Takes the times of the stages over some rounds of full bursts, and adds a row for each stage that the packets passed.
/// These rounds are no part of the other figures: the time stamps have a cost, though it is taken off.
///
/// # Errors
/// When a packet is lost.
pub fn run(
    world: &mut World,
    direction: Direction,
    stream: &mut Stream,
    rounds: usize,
    labels: &[(&'static str, String)],
    report: &mut Report,
) -> anyhow::Result<()> {
    let ahead = 4 * BURST;
    let warm = Shape { ahead, times: 1, warm: stream.lap().div_ceil(ahead) };
    world.round(direction, stream, warm)?;
    world.gateway.worker().watch_stages();
    for _ in 0..rounds {
        world.round(direction, stream, Shape { ahead, times: 4, warm: 0 })?;
    }
    let stages = world.gateway.worker().stages().context("the worker took no times")?;
    let times: Vec<(Stage, f64)> = Stage::ALL
        .into_iter()
        .filter_map(|stage| Some((stage, stages.median(stage)? as f64 / BURST as f64)))
        .collect();
    let whole: f64 = times.iter().map(|(_, ns)| ns).sum();
    let per_ns = cycles_per_ns();
    let lines = times.iter().map(|(stage, ns)| (stage.name(), *ns)).chain([("all", whole)]);
    for (name, ns) in lines {
        let mut labels = labels.to_vec();
        labels.push(("stage", name.to_owned()));
        let share = if whole > 0.0 { 100.0 * ns / whole } else { 0.0 };
        report.rows.push(Row::new(labels, vec![("ns", ns), ("cycles", ns * per_ns), ("share", share)]));
    }
    Ok(())
}

/// Of the time stamp counter, as the kernel measured it.
fn cycles_per_ns() -> f64 {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let megahertz = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':')?.1.trim().parse::<f64>().ok());
    megahertz.unwrap_or(0.0) / 1e3
}
