//! The command line.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::appliance;
use crate::config::{self, CONTROL_SOCKET, LoadError, Loaded};
use crate::control::client::ClientError;
use crate::control::{Client, Request, Target, What};
use crate::demo;
use crate::host::Host;
use crate::summary::Summary;
use crate::{logging, run, show};

/// IPsec VPN concentrator: poll-mode ESP data plane, one YAML file.
#[derive(Debug, Parser)]
#[command(name = "spillway", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Run(ConfigFile),
    /// Read a configuration and say everything that is wrong with it.
    Check(ConfigFile),
    /// Ask the running gateway.
    Show(Show),
    /// Set up a connection, or one of its children.
    Initiate(Operate),
    /// Take down a connection, or one of its children.
    Terminate(Operate),
    /// Replace the keys of a connection's IKE SA, or of one of its children.
    Rekey(Operate),
    /// See it work: a tunnel between two gateways, and attacks on it, in namespaces of its own. Needs no root.
    Demo(demo::Options),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/spillway/gateway.yaml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Show {
    /// What to show.
    #[arg(value_enum)]
    what: What,
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
    /// The gateway's control socket.
    #[arg(long, value_name = "PATH", default_value = CONTROL_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct Operate {
    /// What: CONNECTION or CONNECTION/CHILD.
    #[arg(value_name = "CONNECTION[/CHILD]")]
    target: Target,
    /// The gateway's control socket.
    #[arg(long, value_name = "PATH", default_value = CONTROL_SOCKET)]
    socket: PathBuf,
}

impl Cli {
    /// Does what the command line says. 0 is success, 1 a failure that was told on standard error.
    pub fn execute(self) -> ExitCode {
        let done = match self.command {
            Command::Run(file) => {
                dataplane::heap::use_huge_pages();
                run_gateway(&file)
            }
            Command::Check(file) => check(&file),
            Command::Show(show) => ask(&show),
            Command::Initiate(what) => operate(what, Request::Initiate),
            Command::Terminate(what) => operate(what, Request::Terminate),
            Command::Rekey(what) => operate(what, Request::Rekey),
            Command::Demo(options) => return demo::run(options),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => {
                // A configuration's problems come with the name of their file in each line.
                match error.downcast_ref::<LoadError>() {
                    Some(LoadError::Invalid(problems)) => eprintln!("{problems}"),
                    _ => eprintln!("spillway: {error:#}"),
                }
                ExitCode::FAILURE
            }
        }
    }
}

fn run_gateway(file: &ConfigFile) -> Result<()> {
    let Loaded { config, warnings } = config::load(&file.config, &Host::detect())?;
    logging::start(&config.log).context("logging")?;
    for warning in warnings.lines() {
        tracing::warn!("{warning}");
    }
    run::run(&config)
}

fn check(file: &ConfigFile) -> Result<()> {
    let Loaded { config, warnings } = config::load(&file.config, &Host::detect())?;
    if !warnings.is_empty() {
        eprintln!("{warnings}");
    }
    let problems = appliance::probe(&config);
    if !problems.is_empty() {
        bail!("{}: good, but DPDK does not start here: {}", file.config.display(), problems.join("; "));
    }
    appliance::check(&config).with_context(|| file.config.display().to_string())?;
    print(&format!("{}: good\n{}", file.config.display(), Summary(&config)))
}

fn ask(Show { what, json, socket }: &Show) -> Result<()> {
    let answer = Client::connect(socket)?.show(*what)?;
    if *json {
        return print(&serde_json::to_string_pretty(&answer)?);
    }
    print(&show::render(*what, answer).context("this gateway is of another version; try --json")?)
}

fn operate(Operate { target, socket }: Operate, request: fn(Target) -> Request) -> Result<()> {
    match Client::connect(&socket)?.ask(&request(target)) {
        Ok(serde_json::Value::String(done)) => print(&done),
        Ok(other) => print(&other.to_string()),
        // The reason is all that is to be said.
        Err(ClientError::Refused(why)) => bail!(why),
        Err(error) => Err(error.into()),
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// `spillway show sas | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_can_be_shown() {
        for what in [
            "status",
            "tunnels",
            "connections",
            "sas",
            "policies",
            "ports",
            "workers",
            "drops",
            "routes",
            "neighbours",
        ] {
            assert!(Cli::try_parse_from(["spillway", "show", what, "--json"]).is_ok(), "{what}");
        }
        assert!(Cli::try_parse_from(["spillway", "show", "secrets"]).is_err());
        for verb in ["initiate", "terminate", "rekey"] {
            assert!(Cli::try_parse_from(["spillway", verb, "branch/lan"]).is_ok(), "{verb}");
            assert!(Cli::try_parse_from(["spillway", verb, "branch/"]).is_err(), "{verb}");
        }
    }
}
