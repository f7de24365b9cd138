//! Many tunnels that are up at once.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::unistd::{SysconfVar, sysconf};

use super::case::{Kind, Plan};
use super::pair::{Gateway, handshake};
use crate::report::{Finding, Goal, Report, Row};

/// What a tunnel may take in the control plane.
const GOAL: f64 = 8_000.0;
/// Handshakes before memory is counted, for what is allocated once.
const WARM_UP: usize = 64;

/// Sets up so many tunnels with preshared keys, in a gateway that answers and in one that initiates.
pub fn run(ike: &str, tunnels: usize, report: &mut Report) -> anyhow::Result<()> {
    let plan = Plan::new(Kind::Psk, ike)?;
    // Each peer is gone after its handshake, so that only the gateway's memory is left.
    let answers = Gateway::new(Arc::new(plan.responder()?));
    let responder = establish(answers, tunnels, |gateway, peer| {
        let mut initiator = Gateway::new(Arc::new(plan.initiator(peer..peer + 1, true)?));
        handshake(&mut initiator, gateway, peer)
    })?;
    let begins = Gateway::new(Arc::new(plan.initiator(0..tunnels + WARM_UP, true)?));
    let initiator = establish(begins, tunnels, |gateway, peer| {
        let mut responder = Gateway::new(Arc::new(plan.responder()?));
        handshake(gateway, &mut responder, peer)
    })?;
    for (side, Established { memory, cpu, elapsed }) in [("responder", responder), ("initiator", initiator)] {
        let bytes = memory as f64 / tunnels as f64;
        let labels = vec![("established", tunnels.to_string()), ("side", side.to_owned())];
        let figures =
            vec![("bytes", bytes), ("all_up_cpu_s", cpu.as_secs_f64()), ("all_up_s", elapsed.as_secs_f64())];
        report.rows.push(Row::new(labels, figures));
        let what = format!("{side}, memory of a tunnel, {tunnels} of them");
        report.findings.push(Finding::exact(what, bytes.round(), "bytes", Some(Goal::AtMost(GOAL))));
    }
    let note = "The time until all are up includes that of the peers, on the same core.";
    report.notes.push(note.into());
    Ok(())
}

struct Established {
    /// Bytes that the process has more.
    memory: u64,
    /// CPU time of the gateway.
    cpu: Duration,
    elapsed: Duration,
}

fn establish(
    mut gateway: Gateway,
    tunnels: usize,
    set_up: impl Fn(&mut Gateway, usize) -> anyhow::Result<()>,
) -> anyhow::Result<Established> {
    (tunnels..tunnels + WARM_UP).try_for_each(|peer| set_up(&mut gateway, peer))?;
    (gateway.cpu, gateway.up) = (Duration::ZERO, 0);
    let (before, start) = (resident()?, Instant::now());
    (0..tunnels).try_for_each(|peer| set_up(&mut gateway, peer))?;
    let elapsed = start.elapsed();
    let memory = resident()?.saturating_sub(before);
    ensure!(gateway.up == tunnels, "{} of {tunnels} tunnels are up", gateway.up);
    Ok(Established { memory, cpu: gateway.cpu, elapsed })
}

/// Bytes of memory that the process has.
pub(super) fn resident() -> anyhow::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages =
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).context("/proc/self/statm")?;
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("the system has no page size")?;
    Ok(pages * size as u64)
}
