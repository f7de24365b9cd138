//! `spillway-bench crypto`: the engines alone, a burst at a time, beside the bare AEAD call of aws-lc-rs.

use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use dataplane::buffer::BURST;
use dataplane::crypto::{Crypto, EngineChoice, Suite};

use crate::engine_case::{self, Operation, Work};
use crate::engines;
use crate::esp::Peer;
use crate::ipsec_mb;
use crate::measure::interleave;
use crate::report::{Finding, Goal, Report, Row};
use crate::traffic::{Order, Size};

/// What to measure.
///
/// Packets, keys (unless there are many) and code are warm: it is the cost of the instructions, not of memory.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Suites, by their keywords.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "aes128gcm16,aes256gcm16,chacha20poly1305,aes128-sha256"
    )]
    suites: Vec<Suite>,
    /// Bytes of plaintext with its trailer, which are padded to what the suite needs; or imix: 7:4:1 of 64, 594 and 1420.
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024,1420,imix")]
    sizes: Vec<Size>,
    /// Different keys, used at random.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    keys: Vec<usize>,
    /// Also measure the bare call of another library, in the same rounds.
    #[arg(long)]
    vs: Option<Peer>,
    /// Engines; without this, all that run here.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<EngineChoice>,
    /// Rounds of each case.
    #[arg(long, default_value_t = 101)]
    rounds: usize,
    /// Bursts of 64 packets in a round.
    #[arg(long, default_value_t = 40)]
    bursts: usize,
}

/// Runs the bench.
///
/// # Errors
/// When an option makes no sense, or an engine refuses a packet.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("crypto");
    let engines =
        if options.engines.is_empty() { engines::all()? } else { engines::start(&options.engines)? };
    for &suite in &options.suites {
        if suite.is_ah() {
            bail!("--suites: {suite} is one of AH");
        }
        for &size in &options.sizes {
            let pad = |length: usize| length.next_multiple_of(suite.pad_align());
            let bodies: Vec<_> = size.cycle().into_iter().map(pad).collect();
            for &keys in &options.keys {
                let work = Work { suite, bodies: bodies.clone(), keys: keys.max(1), bursts: options.bursts };
                bench(&engines::of_suite(&engines, suite), &work, size, options, &mut report)?;
            }
        }
    }
    Ok(report)
}

fn bench(
    engines: &[(&'static str, Arc<Crypto>)],
    work: &Work,
    size: Size,
    options: &Options,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Work { suite, keys, .. } = *work;
    // A burst takes them in turn from the first, and so does every burst: what it holds is their share.
    let burst = work.bodies.iter().cycle().take(BURST);
    let bytes = burst.sum::<usize>() as f64 / BURST as f64;
    let (mut cases, mut names) = (Vec::new(), Vec::new());
    for operation in [Operation::Seal, Operation::Open] {
        for (name, crypto) in engines {
            names.push((operation, *name));
            cases.push(engine_case::engine(Arc::clone(crypto), work, operation)?);
        }
    }
    if let Some(case) = engine_case::bare(work)? {
        names.push((Operation::Seal, "bare call"));
        cases.push(case);
    }
    if options.vs == Some(Peer::IpsecMb)
        && let Some(case) = ipsec_mb::bare(work, Order::Random)?
    {
        names.push((Operation::Seal, ipsec_mb::NAME));
        cases.push(case);
    }
    let samples = interleave(&mut cases, options.rounds)?;
    for (&(operation, name), samples) in names.iter().zip(&samples) {
        let labels = vec![
            ("suite", suite.to_string()),
            ("bytes", size.to_string()),
            ("keys", keys.to_string()),
            ("operation", operation.name().to_owned()),
            ("engine", name.to_owned()),
        ];
        report.rows.push(Row::throughput(labels, bytes, samples));
    }
    let named = |operation, name| {
        names.iter().position(|&known| known == (operation, name)).and_then(|at| samples.get(at))
    };
    // Against the bare call, which everybody pays who calls aws-lc-rs for each packet; where there is none, and to open,
    // against our engine around it.
    let judges = [
        (Operation::Seal, "bare call"),
        (Operation::Seal, ipsec_mb::NAME),
        (Operation::Seal, "aws-lc"),
        (Operation::Open, "aws-lc"),
    ];
    for (operation, judge) in judges {
        for (name, _) in engines.iter().filter(|(name, _)| *name != "aws-lc") {
            let (Some(ours), Some(theirs)) = (named(operation, name), named(operation, judge)) else {
                continue;
            };
            let goal = goal(suite, name, judge, size);
            let what = format!(
                "{suite}, {size}{}, {keys} keys, {}: {name} against {}",
                if size == Size::Imix { "" } else { " B" },
                operation.name(),
                if judge == "bare call" { "the bare call of aws-lc-rs" } else { judge }
            );
            report.findings.push(Finding::new(what, &theirs.over(ours), "x", goal));
        }
    }
    Ok(())
}

/// How many times as fast as aws-lc-rs an engine is to be.
fn goal(suite: Suite, engine: &str, judge: &str, size: Size) -> Option<Goal> {
    let Size::Fixed(length) = size else { return None };
    match (engine, judge, length) {
        ("vaes-avx512" | "vaes-avx2", "bare call", 64) => Some(Goal::AtLeast(5.0)),
        ("vaes-avx512" | "vaes-avx2", "bare call", 1420..=1424) => Some(Goal::AtLeast(2.0)),
        (_, "aws-lc", 1420..=1424) if !suite.is_aead() => Some(Goal::AtLeast(3.0)),
        _ => None,
    }
}
