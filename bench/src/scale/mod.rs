//! `spillway-bench scale`: one SA on several cores, many SAs on one, and SAs that come and go.

use std::fs;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use dataplane::crypto::{EngineChoice, Suite};

use crate::engines;
use crate::esp;
use crate::frames::MARKED;
use crate::report::Report;
use crate::traffic::{Order, Size};
use crate::tunnels::Direction;

mod barrier;
mod checker;
mod churn;
mod cores;

/// Memory that a tunnel takes with the peer's side and all tables, in bytes, rounded up.
const TUNNEL_MEMORY: u64 = 10_000;

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One SA on one and on two workers, with a check of every sequence number.
    Cores,
    /// 1 to 1,000,000 SAs on one worker.
    Sas,
    /// SA adds and removes during forwarding.
    Churn,
}

/// What to measure.
///
/// cores: two threads on two cores, each with a worker and ports of its own, poll at the same time; the SA is shared.
/// Beside it runs the same with an SA for each, which shows what the machine itself lets two cores do. Every sequence
/// number that is sent or accepted is checked: none twice, none missing; at the end every packet goes to both workers at
/// once. sas: as `esp`, with 64-byte packets. churn: as `latency` at 50 % load on 1,000 tunnels, while their outbound SAs
/// are replaced, and other tunnels are set up and torn down with their policies. Making the SAs takes no time of the
/// worker's, as if another core did it; to apply the updates does.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Parts.
    #[arg(long, value_delimiter = ',', default_value = "cores,sas,churn")]
    parts: Vec<Part>,
    /// Suite, by its keyword.
    #[arg(long, default_value = "aes128gcm16")]
    suite: Suite,
    /// Bytes of the inner IP packet, for cores.
    #[arg(long, value_delimiter = ',', default_value = "64,1420")]
    sizes: Vec<usize>,
    /// How many SAs, for sas. Numbers that the memory does not allow are left out.
    #[arg(long, value_delimiter = ',', default_value = "1,10,1000,10000,100000,1000000")]
    sas: Vec<usize>,
    /// SAs that are added in a second, for churn; as many are removed.
    #[arg(long, default_value_t = 10_000)]
    churn: u64,
    /// Engines; without this, all that run here.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<EngineChoice>,
    /// Rounds of each case.
    #[arg(long, default_value_t = 101)]
    rounds: usize,
    /// Packets of each case of churn.
    #[arg(long, default_value_t = 300_000)]
    packets: u64,
}

/// Runs the bench.
///
/// # Errors
/// When an option makes no sense, a packet is lost, or a sequence number is used twice.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let suite = options.suite;
    if suite.is_ah() {
        bail!("--suite: {suite} is one of AH");
    }
    let mut report = Report::new("scale");
    let engines = engines::start(&options.engines)?;
    for &part in &options.parts {
        if part == Part::Sas {
            let options = many(options, &mut report);
            esp::bench(&options, &engines, &mut report)?;
            continue;
        }
        for (engine, crypto) in engines::of_suite(&engines, suite) {
            if part == Part::Churn {
                let plan = churn::Plan { suite, rate: options.churn, packets: options.packets };
                churn::run(&plan, engine, &crypto, &mut report)?;
                continue;
            }
            for &length in &options.sizes {
                ensure!((MARKED..=1420).contains(&length), "--sizes: from 36 to 1420 bytes");
                let plan = cores::Plan { suite, length, rounds: options.rounds, times: 4 };
                cores::run(&plan, engine, &crypto, &mut report)?;
            }
        }
    }
    Ok(report)
}

/// The options of `esp` for many SAs, as many as there is memory for.
fn many(options: &Options, report: &mut Report) -> esp::Options {
    let room = available_memory() / TUNNEL_MEMORY;
    let (sas, too_many): (Vec<usize>, Vec<usize>) = options.sas.iter().partition(|&&sas| sas as u64 <= room);
    for sas in too_many {
        report.notes.push(format!("SKIPPED: {sas} SAs, since there is memory for {room}"));
    }
    esp::Options {
        suites: vec![options.suite],
        sizes: vec![Size::Fixed(64)],
        sas,
        order: vec![Order::Random, Order::RoundRobin],
        directions: vec![Direction::Outbound, Direction::Inbound],
        path_only: true,
        stages: false,
        vs: None,
        engines: options.engines.clone(),
        rounds: options.rounds,
        ahead: 256,
        times: 2,
    }
}

/// Bytes of memory that are free or can be made so; all that can be when nobody says.
fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_memory_does_not_hold_is_left_out_and_said() {
        let available = available_memory();
        assert!(available > 1 << 20, "{available}");
        let most = (available / TUNNEL_MEMORY) as usize;
        let options = Options {
            parts: vec![],
            suite: "aes128gcm16".parse().unwrap(),
            sizes: vec![],
            sas: vec![1, 2 * most],
            churn: 0,
            engines: vec![],
            rounds: 1,
            packets: 1,
        };
        let mut report = Report::new("scale");
        assert_eq!(many(&options, &mut report).sas, [1]);
        assert!(report.notes[0].starts_with(&format!("SKIPPED: {} SAs", 2 * most)), "{:?}", report.notes);
    }
}
