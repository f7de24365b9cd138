//! `spillway-bench dpdk`: the packet path over DPDK ports that are in memory, beside memory ports and dpdk-testpmd.
//!
//! EAL starts once in a process, so each round of a gateway over DPDK is a process of its own ([`forward`]).

mod forward;
mod testpmd;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use dataplane::crypto::Suite;

pub use self::forward::Options as ForwardOptions;
pub use self::forward::run as forward;
use self::forward::{Drops, Outcome};
use self::testpmd::{Generator, IoForward};
use crate::frames::{self, Frames};
use crate::gateway::Gateway;
use crate::measure::Samples;
use crate::report::{FIGURES, Finding, Goal, Report, Row};
use crate::traffic::{Order, Size, Stream};
use crate::tunnels::Direction;

/// What carries the traffic from a generator.
const GOAL_OF_TESTPMD: f64 = 0.6;
/// What DPDK ports may cost beside memory ports.
const GOAL_OF_MEMORY: f64 = 0.85;

/// Where packets go.
const WAN: &str = "net_null0,no-rx=1";
/// What is done with them when it is not a gateway.
const TESTPMD: &str = "testpmd io-forward";

/// Packets of the generator that nobody took.
const UNSENT: &str = "unsent";
/// Where packets may be lost: figures of a row.
const DROPS: [&str; 6] = ["tx_full", "tx_errors", "rx_missed", "rx_errors", "rx_no_buffer", UNSENT];
/// What was lost elsewhere.
const OTHERS: &str = "other_drops";

/// What to measure.
///
/// `path`: a capture in memory (net_pcap, infinite_rx) through one SA to net_null, beside the same worker on memory
/// ports, measured in the same process on the same core right before and after, and beside testpmd forwarding the capture. Nanoseconds
/// a packet are the worker thread's time on its core, over everything that it does. net_pcap takes each packet off a ring, copies it,
/// and puts it back; a NIC does none of it.
///
/// `memif`: dpdk-testpmd sends 64-byte frames by net_memif as fast as it can; another testpmd forwards them to net_null,
/// and then a gateway protects them and sends them to net_null. Each has one core.
///
/// Packets that are lost are told by where: `tx_full` and every other reason of the gateway's, the counters of its ports, what
/// testpmd says of itself. The generator sends faster than anybody takes it, so most of what it sends stays `unsent`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Suite, by its keyword.
    #[arg(long, default_value = "aes128gcm16")]
    suite: Suite,
    /// Bytes of the inner IP packet, for `path`.
    #[arg(long, value_delimiter = ',', default_value = "64,1420")]
    sizes: Vec<Size>,
    /// Rounds, in which the variants take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Core of the generator, and of all that does not forward.
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
    /// Core of what is measured.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Leave out what needs dpdk-testpmd.
    #[arg(long)]
    path_only: bool,
    /// Frames in the capture that `path` receives over and over: as few as stay in the cache.
    #[arg(long, default_value_t = 64)]
    captured: usize,
    /// Take huge pages, as a gateway does: 256 MB must be free.
    #[arg(long)]
    huge_pages: bool,
}

/// Runs the bench.
///
/// # Errors
/// When DPDK does not start, or nothing is forwarded.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.rounds > 0 && options.seconds > 0.0, "--rounds and --seconds: more than 0");
    let mut report = Report::new("dpdk");
    let directory = tempfile::tempdir()?;
    for &size in &options.sizes {
        path(options, size, directory.path(), &mut report)?;
    }
    if !options.path_only {
        memif(options, directory.path(), &mut report)?;
    }
    Ok(report)
}

/// DPDK ports beside memory ports, and beside what the devices cost without a gateway.
fn path(options: &Options, size: Size, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let capture = directory.join("in.pcap");
    write_capture(&capture, size, options.captured)?;
    let lan = format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display());
    let (mut memory, mut dpdk, mut devices) = (Vec::new(), Vec::new(), Vec::new());
    let (mut drops, mut device_drops) = (Drops::default(), Drops::default());
    for _ in 0..options.rounds {
        let outcome = round(options, &lan, Some(size))?;
        memory.push(outcome.beside.context("no figure of memory ports")?);
        dpdk.push(outcome.nanoseconds());
        drops.merge(&outcome.drops);
        if !options.path_only {
            let forwarded = io_forward(options, &lan)?;
            devices.push(1e9 / forwarded.rate);
            device_drops.merge(&forwarded.drops);
        }
    }
    let [memory, dpdk, devices] = [memory, dpdk, devices].map(|each| each.into_iter().collect::<Samples>());
    let bytes = (size.to_string(), size.mean());
    let mut row = |ports, what, samples, drops| row(options, &bytes, ports, what, samples, drops, report);
    row("memory", "outbound", &memory, None);
    row("net_pcap to net_null", "outbound", &dpdk, Some(&drops));
    let what = format!("{size} B: rate over DPDK ports, of that over memory ports");
    let goal = Some(Goal::AtLeast(GOAL_OF_MEMORY));
    let mut findings = vec![Finding::new(what, &memory.over(&dpdk), "times", goal)];
    if !options.path_only {
        row("net_pcap to net_null", TESTPMD, &devices, Some(&device_drops));
        let what =
            format!("{size} B: the same, with what testpmd pays for the devices added to memory ports");
        findings.push(Finding::new(what, &memory.plus(&devices).over(&dpdk), "times", None));
    }
    report.findings.extend(findings);
    Ok(())
}

/// Protecting what testpmd sends, beside testpmd forwarding it.
fn memif(options: &Options, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let (mut io, mut gateway) = (Vec::new(), Vec::new());
    let (mut io_drops, mut gateway_drops) = (Drops::default(), Drops::default());
    let client =
        |socket: &Path| format!("net_memif0,role=client,socket-abstract=no,socket={}", socket.display());
    for round_number in 0..options.rounds {
        let socket = directory.join(format!("io{round_number}"));
        let generator = Generator::start(&socket, options.generator_core, Gateway::mac(Direction::Outbound))?;
        let forwarded = io_forward(options, &client(&socket))?;
        io.push(forwarded.rate);
        io_drops.merge(&forwarded.drops);
        finish(generator, &mut io_drops, report)?;

        let socket = directory.join(format!("esp{round_number}"));
        let generator = Generator::start(&socket, options.generator_core, Gateway::mac(Direction::Outbound))?;
        let outcome = round(options, &client(&socket), None)?;
        gateway.push(outcome.packets_per_second());
        gateway_drops.merge(&outcome.drops);
        finish(generator, &mut gateway_drops, report)?;
    }
    let nanoseconds = |rates: &[f64]| rates.iter().map(|rate| 1e9 / rate).collect::<Samples>();
    let (io, gateway) = (nanoseconds(&io), nanoseconds(&gateway));
    let bytes = ("50".to_owned(), 50.0);
    for (what, samples, drops) in [(TESTPMD, &io, &io_drops), ("gateway, outbound", &gateway, &gateway_drops)]
    {
        row(options, &bytes, "net_memif to net_null", what, samples, Some(drops), report);
    }
    let what = "64-byte frames by memif: rate of the gateway, of testpmd's".to_owned();
    report.findings.push(Finding::new(
        what,
        &io.over(&gateway),
        "times",
        Some(Goal::AtLeast(GOAL_OF_TESTPMD)),
    ));
    Ok(())
}

fn io_forward(options: &Options, lan: &str) -> anyhow::Result<IoForward> {
    let span = Duration::from_secs_f64(options.seconds);
    IoForward::measure(lan, options.core, options.generator_core, span)
}

/// Ends a generator, and enters what it says that it could not hand over.
fn finish(generator: Generator, drops: &mut Drops, report: &mut Report) -> anyhow::Result<()> {
    match generator.finish()? {
        Some(packets) => drops.add(UNSENT, packets),
        None => {
            report.notes.push(format!("a generator crashed at its end: its packets are not in `{UNSENT}`"))
        }
    }
    Ok(())
}

/// Enters a row. `bytes` is the size of the packets, as it is told and as it counts for the bit rate.
fn row(
    options: &Options,
    (size, mean): &(String, f64),
    ports: &str,
    what: &str,
    samples: &Samples,
    drops: Option<&Drops>,
    report: &mut Report,
) {
    let labels = vec![
        ("suite", options.suite.to_string()),
        ("bytes", size.clone()),
        ("ports", ports.to_owned()),
        ("what", what.to_owned()),
    ];
    let row = Row::throughput(labels, *mean, samples);
    let row = match drops {
        Some(drops) => with_drops(row, drops, report),
        None => row,
    };
    report.rows.push(row);
}

/// A row that tells what was lost. What has no figure of its own, because it should not be, is in `other_drops` and a note.
fn with_drops(mut row: Row, drops: &Drops, report: &mut Report) -> Row {
    let own = |name: &str| {
        FIGURES.iter().map(|&(known, ..)| known).find(|known| DROPS.contains(known) && *known == name)
    };
    let mut others = 0;
    for (name, packets) in drops.iter() {
        match own(name) {
            Some(figure) => row.figures.push((figure, packets as f64)),
            None => {
                others += packets;
                if packets > 0 {
                    let what = row.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>();
                    report
                        .notes
                        .push(format!("{}: {packets} packets were dropped as {name}", what.join(", ")));
                }
            }
        }
    }
    row.figures.push((OTHERS, others as f64));
    row
}

/// One round of a gateway over DPDK, in a process of its own.
fn round(options: &Options, lan: &str, beside_memory: Option<Size>) -> anyhow::Result<Outcome> {
    let output = Command::new(std::env::current_exe()?)
        .args(["dpdk-forward", "--wan", WAN, "--lan", lan])
        .args(["--suite", &options.suite.to_string(), "--seconds", &options.seconds.to_string()])
        .args(["--core", &options.core.to_string(), "--control-core", &options.generator_core.to_string()])
        .args(options.huge_pages.then_some("--huge-pages"))
        .args(beside_memory.map(|size| format!("--beside-memory={size}")))
        .output()?;
    if !output.status.success() {
        bail!("a gateway over {lan}: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("a gateway's figures")
}

/// A capture of the host's packets of one tunnel.
fn write_capture(path: &Path, size: Size, frames: usize) -> anyhow::Result<()> {
    let mut all = Frames::default();
    let picks = Stream::new(size, 1, Order::Random).take(frames);
    frames::from_host(picks, Gateway::mac(Direction::Outbound), 0, &mut all);
    let mut file: Vec<u8> = Vec::new();
    // The head of a capture of Ethernet frames with microseconds: magic, version 2.4, zone, accuracy, length, link.
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in all.iter() {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).with_context(|| path.display().to_string())
}
