//! `spillway-bench fixed`: so many packets through the worker and no clock, so that a tool that counts instructions finds
//! the same number every time. `bench/instructions.sh` runs it under callgrind.

use std::sync::Arc;

use clap::Args;
use dataplane::crypto::{Crypto, EngineChoice, Suite};

use crate::gateway::Pools;
use crate::report::{Report, Row};
use crate::traffic::{Order, Size, Stream};
use crate::tunnels::Direction;
use crate::world::{Shape, World};

/// What to carry.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Suite, by its keyword.
    #[arg(long, default_value = "aes128gcm16")]
    suite: Suite,
    /// Bytes of the inner IP packet, or imix.
    #[arg(long, default_value = "64")]
    size: Size,
    /// How many tunnels, used at random.
    #[arg(long, default_value_t = 1)]
    sas: usize,
    /// Which way.
    #[arg(long, default_value = "outbound")]
    direction: Direction,
    /// Engine. The default is the portable one, which every machine has.
    #[arg(long, default_value = "aws-lc")]
    engine: EngineChoice,
    /// Packets, in bursts of 64; a part of a burst is left out.
    #[arg(long, default_value_t = 6_400)]
    packets: usize,
}

/// Carries the packets.
///
/// # Errors
/// When the engine cannot run here, or a packet is lost.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    const AHEAD: usize = 64;
    let crypto = Arc::new(Crypto::new(options.engine)?);
    let mut world = World::new(&crypto, options.suite, options.sas, Pools::new()?)?;
    let mut stream = Stream::new(options.size, options.sas, Order::Random);
    for _ in 0..options.packets / AHEAD {
        world.round(options.direction, &mut stream, Shape { ahead: AHEAD, times: 1, warm: 0 })?;
    }
    let mut report = Report::new("fixed");
    let labels = vec![
        ("suite", options.suite.to_string()),
        ("bytes", options.size.to_string()),
        ("SAs", options.sas.to_string()),
        ("what", options.direction.name().to_owned()),
        ("engine", crypto.engine_name(options.suite).to_owned()),
        ("packets", (options.packets / AHEAD * AHEAD).to_string()),
    ];
    report.rows.push(Row::new(labels, Vec::new()));
    Ok(report)
}
