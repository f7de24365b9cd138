//! `spillway-bench`: benches of the crypto engines and of the packet path.
//!
//! Every figure is a median over many short rounds in which the variants take turns, so that what disturbs the
//! machine disturbs all of them alike. What counts is the ratio between variants of one run.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod crypto;
mod machine;
mod measure;
mod report;

#[derive(Parser)]
#[command(name = "spillway-bench", version, about = "Benches of Spillway's crypto engines and packet path")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// The crypto engines alone, beside the bare AEAD call of aws-lc-rs.
    Crypto(crypto::Options),
}

#[derive(Args)]
struct Output {
    /// Also write the results to this file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let report = match &cli.command {
        Command::Crypto(options) => crypto::run(options)?,
    };
    print!("{report}");
    if let Some(path) = &cli.output.json {
        report.write_json(path)?;
    }
    Ok(())
}
