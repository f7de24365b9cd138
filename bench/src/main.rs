//! `spillway-bench`: benches of the crypto engines, of the packet path, and of IKEv2.
//!
//! Every figure is a median over many short rounds in which the variants take turns, so that what disturbs the
//! machine disturbs all of them alike. What counts is the ratio between variants of one run, taken round by round.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use dataplane::heap;

mod crypto;
#[cfg(feature = "dpdk")]
mod dpdk;
mod engine_case;
mod engines;
mod esp;
mod fixed;
mod frames;
mod gateway;
mod handshake;
mod html;
mod ipsec_mb;
mod latency;
mod machine;
mod measure;
mod random;
mod report;
mod scale;
mod simulation;
mod stages;
mod traffic;
mod tsc;
mod tunnels;
mod world;

#[derive(Parser)]
#[command(
    name = "spillway-bench",
    version,
    about = "Benches of Spillway's crypto engines, packet path and IKEv2"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// The crypto engines alone, beside the bare AEAD call of aws-lc-rs
    Crypto(crypto::Options),
    /// The whole worker path over memory ports, outbound and inbound
    Esp(esp::Options),
    /// One SA on several cores, many SAs on one, SAs that come and go
    Scale(scale::Options),
    /// Latency through the worker at shares of its capacity
    Latency(latency::Options),
    /// IKEv2: handshakes a second, and the memory of tunnels that are up
    Handshake(handshake::Options),
    /// The packet path over DPDK ports in memory, beside memory ports and dpdk-testpmd
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Options),
    #[cfg(feature = "dpdk")]
    #[command(hide = true)]
    DpdkForward(dpdk::ForwardOptions),
    /// A fixed number of packets and no clock, to count instructions by; see bench/instructions.sh
    Fixed(fixed::Options),
}

#[derive(Args)]
struct Output {
    /// Also write the results to this file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the results to this file as one HTML page with plots.
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    heap::use_huge_pages();
    let cli = Cli::parse();
    let report = match &cli.command {
        Command::Crypto(options) => crypto::run(options)?,
        Command::Esp(options) => esp::run(options)?,
        Command::Scale(options) => scale::run(options)?,
        Command::Latency(options) => latency::run(options)?,
        Command::Handshake(options) => handshake::run(options)?,
        #[cfg(feature = "dpdk")]
        Command::Dpdk(options) => dpdk::run(options)?,
        #[cfg(feature = "dpdk")]
        Command::DpdkForward(options) => return dpdk::forward(options),
        Command::Fixed(options) => fixed::run(options)?,
    };
    print!("{report}");
    if let Some(path) = &cli.output.json {
        report.write_json(path)?;
    }
    if let Some(path) = &cli.output.html {
        let page = html::page(&report)?;
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
