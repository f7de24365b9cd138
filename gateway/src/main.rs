//! `spillway`: the command line of the appliance.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    gateway::cli::Cli::parse().execute()
}
