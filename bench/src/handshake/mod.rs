//! `spillway-bench handshake`: what it costs to set a tunnel up, and how much memory one takes.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::case::Kind;
use self::pair::Side;
use crate::measure::{self, Case, Round, Samples};
use crate::report::{Finding, Goal, Report, Row};

mod case;
mod established;
mod flood;
mod live;
mod pair;

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Memory of a gateway with many tunnels, and the time until all of them are up.
    Tunnels,
    /// First requests of strangers who never go on: CPU time and memory.
    Flood,
    /// Handshakes a second.
    Rate,
    /// Handshakes a second with a peer on the network, from `--local` to `--peer`.
    Live,
}

/// What to measure.
///
/// Two IKEv2 endpoints on one thread hand each other datagrams: fresh key exchange, fresh IKE SA, one Child SA. What each
/// side spends is counted apart, in CPU time of the thread; sockets and the data plane are left out. tunnels: a gateway
/// that answers, whose peers each live for one handshake; then a gateway that sets up as many connections of its own, one
/// after the other. Memory is what the process has more than before, so it includes what the allocator wastes.
///
/// live: the same connections over UDP with whatever implementation answers at `--peer`, each taken down as soon as it is up;
/// for psk and hybrid. The peer needs a connection from any address with: its identity gateway.example.net, ours
/// *.branches.example.net, the preshared key "a preshared key that everybody knows" for both, and a child from 10.0.0.0/16
/// to 10.128.0.0/9 with aes128gcm16.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Parts.
    #[arg(long, value_delimiter = ',', default_value = "tunnels,flood,rate")]
    parts: Vec<Part>,
    /// How the peers authenticate, and what the key exchange is.
    #[arg(long, value_delimiter = ',', default_value = "psk,ecdsa,rsa,hybrid")]
    kinds: Vec<Kind>,
    /// Encryption and PRF of the IKE SA.
    #[arg(long, default_value = "aes256gcm16-prfsha384")]
    ike: String,
    /// Rounds of each case.
    #[arg(long, default_value_t = 51)]
    rounds: usize,
    /// Handshakes of a round.
    #[arg(long, default_value_t = 20)]
    handshakes: usize,
    /// Established tunnels.
    #[arg(long, default_value_t = 50_000)]
    tunnels: usize,
    /// First requests of strangers.
    #[arg(long, default_value_t = 100_000)]
    strangers: u32,
    /// Address of the peer, for live.
    #[arg(long)]
    peer: Option<IpAddr>,
    /// Our address, whose ports 500 and 4500 are free, for live.
    #[arg(long)]
    local: Option<IpAddr>,
    /// Handshakes under way at once, for live.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
}

/// Runs the bench.
///
/// # Errors
/// When an option makes no sense, or a tunnel does not come up.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.handshakes > 0, "--handshakes: at least 1");
    ensure!((1..=1_000_000).contains(&options.tunnels), "--tunnels: from 1 to 1000000");
    ensure!((1..=1_000_000).contains(&options.strangers), "--strangers: from 1 to 1000000");
    let mut report = Report::new("handshake");
    // First, while the allocator has no memory to give away that others have used before.
    if options.parts.contains(&Part::Tunnels) {
        established::run(&options.ike, options.tunnels, &mut report)?;
    }
    if options.parts.contains(&Part::Flood) {
        flood::run(&options.ike, options.strangers, &mut report)?;
    }
    if options.parts.contains(&Part::Rate) {
        rate(options, &mut report)?;
    }
    if options.parts.contains(&Part::Live) {
        live(options, &mut report)?;
    }
    Ok(report)
}

/// Handshakes with a live peer: what the clock on the wall says.
fn live(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let ends = live::ends(options.local, options.peer)?;
    ensure!(options.in_flight > 0, "--in-flight: at least 1");
    for &kind in options.kinds.iter().filter(|kind| matches!(kind, Kind::Psk | Kind::Hybrid)) {
        let plan = case::Plan::new(kind, &options.ike)?;
        let name = name_of(kind);
        let mut live = live::Live::new(&plan, ends, options.handshakes, options.in_flight)?;
        let mut rounds = Vec::with_capacity(options.rounds);
        for _ in 0..options.rounds {
            let Round { time, packets } =
                live.round().with_context(|| format!("{name} with {}", ends.peer))?;
            rounds.push(packets as f64 / time.as_secs_f64());
        }
        let labels = vec![
            ("kind", name),
            ("IKE", plan.keywords.clone()),
            ("peer", ends.peer.to_string()),
            ("at once", options.in_flight.to_string()),
        ];
        let rates: Samples = rounds.into_iter().collect();
        report.rows.push(live.row(labels, &rates));
    }
    Ok(())
}

/// As on the command line.
fn name_of(kind: Kind) -> String {
    kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Handshakes of every kind in turns, the responder's and the initiator's share apart.
fn rate(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let plans = options.kinds.iter().map(|&kind| case::Plan::new(kind, &options.ike));
    let plans = plans.collect::<anyhow::Result<Vec<_>>>()?;
    let cases = || plans.iter().flat_map(|plan| [(plan, Side::Responder), (plan, Side::Initiator)]);
    let mut runs: Vec<_> = cases()
        .map(|(plan, side)| Case {
            run: Box::new(move || pair::round(plan, options.handshakes).map(|times| times[side as usize])),
        })
        .collect();
    let samples = measure::interleave(&mut runs, options.rounds)?;
    drop(runs);
    for ((plan, side), samples) in cases().zip(&samples) {
        let name = name_of(plan.kind);
        let stats = samples.stats();
        let labels = vec![("kind", name.clone()), ("IKE", plan.keywords.clone()), ("side", side.to_string())];
        let figures = vec![
            ("cpu_us", stats.median / 1e3),
            ("cpu_us_p10", stats.p10 / 1e3),
            ("cpu_us_p90", stats.p90 / 1e3),
            ("handshakes", 1e9 / stats.median),
        ];
        report.rows.push(Row::new(labels, figures));
        if side == Side::Responder
            && let Some(goal) = plan.kind.goal()
        {
            let rates: Samples = samples.map(|nanos| 1e9 / nanos);
            let what = format!("{name}, handshakes a second of the responder's CPU");
            report.findings.push(Finding::new(what, &rates, "/s", Some(Goal::AtLeast(goal))));
        }
    }
    Ok(())
}
