//! Where the time of the whole path goes: `spillway-bench esp --stages`.

use anyhow::Context;
use dataplane::buffer::BURST;
use dataplane::worker::stages::Stage;

use crate::report::{Report, Row};
use crate::traffic::Stream;
use crate::tsc;
use crate::tunnels::Direction;
use crate::world::{Shape, World};

/// Takes the times of the stages over some rounds of full bursts, and adds a row for each stage that the packets passed.
/// These rounds are no part of the other figures: the time stamps have a cost, though it is taken off. Cycles are those of the time
/// stamp counter.
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
    let lines = times.iter().map(|(stage, ns)| (stage.name(), *ns)).chain([("all", whole)]);
    for (name, ns) in lines {
        let mut labels = labels.to_vec();
        labels.push(("stage", name.to_owned()));
        let share = if whole > 0.0 { 100.0 * ns / whole } else { 0.0 };
        let mut figures = vec![("ns", ns), ("share", share)];
        figures.extend(tsc::cycles_per_ns().map(|rate| ("cycles", ns * rate)));
        report.rows.push(Row::new(labels, figures));
    }
    Ok(())
}
