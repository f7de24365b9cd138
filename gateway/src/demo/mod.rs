//! `spillway demo`: two gateways, two hosts and an attacker, in namespaces that it makes and that go with it.
//!
//! ```text
//! host left ---- gateway left ---- attacker ---- gateway right ---- host right
//! 10.1.0.2       198.51.100.1                    198.51.100.2       10.2.0.2
//! ```
//!
//! The gateways are `spillway run` with a configuration like any other: AF_PACKET ports, and a connection that
//! negotiates a tunnel with AES-128-GCM and ESN by X25519, ML-KEM-768 and certificates made on the spot. The hosts are the kernel's network stack. All gateway traffic goes through the
//! attacker. The demo shows:
//!
//! 1. pings through the tunnel, from both sides;
//! 2. UDP in both directions as fast as it goes, with a table of throughput, loss, latency, and drops by name;
//! 3. rekeys of the Child SA and of the IKE SA, from both sides, while packets go through, without losing one;
//! 4. that all frames between the gateways were ESP with negotiated SPIs (and IKE, ARP or ND), and that what the
//!    hosts sent cannot be read in any of them, while the same search finds it behind the gateway;
//! 5. that a packet with one bit flipped is dropped as `icv_bad`, that the genuine one is still accepted after it,
//!    and that the same packet once more is dropped as `replay_duplicate`, each counted exactly once.
//!
//! It needs neither root nor any other program; where the kernel forbids user namespaces it says what forbids them.
//! The exit code is 0 only if all of this held, 128 and the signal's number after Ctrl-C.
//!
//! `outside` makes the namespaces and waits; `inside` plays. The parts: `plan` (who is where), `netns` and `netlink`
//! (cables and addresses), `authority` (certificates), `gateway`, `ping` and `traffic` (the hosts), `wiretap` and `census` (the attacker),
//! `report` and `console`.

mod authority;
mod census;
mod console;
mod forbidden;
mod gateway;
mod inside;
mod netlink;
mod netns;
mod outside;
mod ping;
mod plan;
mod report;
mod traffic;
mod wiretap;

use std::process::ExitCode;

use clap::Args;

use console::Console;
use outside::End;
use report::Report;

/// What the demo is to do.
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Length of the throughput run.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// One JSON object at the end, and nothing else.
    #[arg(long)]
    json: bool,
    /// The process in the namespaces, which the demo starts itself.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs the demo. The process must not have started any thread.
pub fn run(options: Options) -> ExitCode {
    let done = if options.inside { inside::run(&options) } else { outside(&options) };
    done.unwrap_or_else(|error| {
        eprintln!("spillway: demo: {error:#}");
        ExitCode::FAILURE
    })
}

fn outside(options: &Options) -> anyhow::Result<ExitCode> {
    match outside::run(options) {
        Ok(End::Status(status)) => Ok(outside::exit_code(status)?.into()),
        Ok(End::Interrupted(signal)) => {
            eprintln!("\nspillway: demo: interrupted; everything that it made is gone");
            // As shells report a process that a signal ended.
            Ok(u8::try_from(128 + signal).unwrap_or(1).into())
        }
        Err(error) => {
            if options.json {
                let report = Report::failed(format!("{error:#}"));
                Console::Text.say(&serde_json::to_string_pretty(&report)?)?;
            }
            Err(error)
        }
    }
}
