//! Strangers who begin and never go on: what a first request costs, and how much memory many of them take.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use controlplane::config::FloodLimits;
use dataplane::message::Datagram;

use super::case::{Kind, Plan};
use super::established::resident;
use super::pair::Gateway;
use crate::report::{Finding, Goal, Report, Row};

/// First requests that one core has to bear in a second.
const GOAL_RATE: f64 = 100_000.0;
/// What so many spoofed ones may leave in memory.
const GOAL_MEMORY: f64 = 4e6;

/// Sends so many first requests, each from an address of its own: spoofed, so that nobody hears the answers; and then from
/// as many who return the cookie that they are asked for.
pub fn run(ike: &str, requests: u32, report: &mut Report) -> anyhow::Result<()> {
    let plan = Plan::new(Kind::Psk, ike)?;
    for returned in [false, true] {
        let Flood { memory, cpu, half_open } = flood(&plan, requests, returned)?;
        let who = if returned { "with cookie" } else { "spoofed" };
        let rate = f64::from(requests) / cpu.as_secs_f64();
        let labels = vec![("flood", requests.to_string()), ("requests", who.to_owned())];
        let figures =
            vec![("half_open", half_open as f64), ("flood_bytes", memory as f64), ("request_us", 1e6 / rate)];
        report.rows.push(Row::new(labels, figures));
        if !returned {
            let what = format!("{requests} spoofed first requests, answered in a second of CPU");
            report.findings.push(Finding::exact(what, rate.round(), "/s", Some(Goal::AtLeast(GOAL_RATE))));
            let what = format!("{requests} spoofed first requests, memory that they leave");
            report.findings.push(Finding::exact(
                what,
                memory as f64,
                "bytes",
                Some(Goal::AtMost(GOAL_MEMORY)),
            ));
        }
    }
    let solved = requests.min(PUZZLES);
    let Puzzles { gateway, stranger } = puzzles(&plan, solved)?;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(solved);
    let labels = vec![("flood", solved.to_string()), ("requests", "with a puzzle solved".to_owned())];
    let figures = vec![("request_us", each(gateway)), ("puzzle_us", each(stranger))];
    report.rows.push(Row::new(labels, figures));
    Ok(())
}

/// So many puzzles are solved: each takes a tenth of a second.
const PUZZLES: u32 = 20;

/// CPU time that the two ends spend on puzzles.
struct Puzzles {
    gateway: Duration,
    stranger: Duration,
}

/// Strangers who solve the puzzles of a gateway under attack (RFC 8019), to the answer of IKE_SA_INIT.
fn puzzles(plan: &Plan, requests: u32) -> anyhow::Result<Puzzles> {
    let mut config = plan.responder()?;
    let limits = &mut config.limits;
    (limits.cookie_threshold, limits.puzzle_threshold) = (0, Some(0));
    limits.puzzle_difficulty_max = limits.puzzle_difficulty;
    limits.puzzle_unsolved_per_second = 0;
    let mut gateway = Gateway::new(Arc::new(config));
    let stranger = Arc::new(plan.initiator(0..1, true)?);
    let mut spent = Duration::ZERO;
    let turned = |Datagram { local, remote, payload }| Datagram { local: remote, remote: local, payload };
    for _ in 0..requests {
        // A new one each time: nobody answers it, so it would repeat itself beside the next.
        let mut stranger = Gateway::new(Arc::clone(&stranger));
        let request = stranger.begin(0)?.context("nothing was sent")?;
        let puzzle = gateway.answer(turned(request))?.context("no puzzle was given")?;
        let start = stranger.cpu;
        stranger.answer(turned(puzzle))?;
        let solved = stranger.wait()?.context("the puzzle was not solved")?;
        spent += stranger.cpu - start;
        gateway.answer(turned(solved))?;
    }
    let half_open = gateway.half_open();
    ensure!(half_open == requests as usize, "{half_open} of {requests} solutions were accepted");
    Ok(Puzzles { gateway: gateway.cpu, stranger: spent })
}

struct Flood {
    /// Bytes that the process has more.
    memory: u64,
    /// CPU time of the gateway.
    cpu: Duration,
    half_open: usize,
}

fn flood(plan: &Plan, requests: u32, returned: bool) -> anyhow::Result<Flood> {
    let mut gateway = Gateway::new(Arc::new(plan.responder()?));
    let first = first_request(plan)?;
    let limits = FloodLimits::default();
    let before = resident()?;
    for number in 1..=requests {
        let mut request = first.clone();
        request.payload.get_mut(..4).context("a request without SPI")?.copy_from_slice(&number.to_be_bytes());
        request.remote.set_ip(std::net::Ipv4Addr::from_bits(0x0a00_0000 | number).into());
        let answer = gateway.answer(request.clone())?;
        if let Some(with_cookie) = answer.filter(|_| returned).and_then(|answer| repeat(&request, &answer)) {
            gateway.answer(with_cookie)?;
        }
    }
    let memory = resident()?.saturating_sub(before);
    let half_open = gateway.half_open();
    let most = if returned { limits.half_open } else { limits.cookie_threshold };
    ensure!(half_open <= most, "{half_open} half-open IKE SAs, expected {most} at most");
    ensure!(returned || half_open == most.min(requests as usize), "{half_open} half-open IKE SAs");
    Ok(Flood { memory, cpu: gateway.cpu, half_open })
}

/// The first datagram of an attempt, as the responder gets it.
fn first_request(plan: &Plan) -> anyhow::Result<Datagram> {
    let mut initiator = Gateway::new(Arc::new(plan.initiator(0..1, true)?));
    let Datagram { local, remote, payload } = initiator.begin(0)?.context("nothing was sent")?;
    Ok(Datagram { local: remote, remote: local, payload })
}

/// Payload type of a notify, and the type of the one with a cookie.
const NOTIFY: u8 = 41;
const COOKIE: [u8; 2] = 16_390_u16.to_be_bytes();

/// The request once more, with the cookie of the answer in front (RFC 7296 s2.6); `None` when there is none.
fn repeat(request: &Datagram, answer: &Datagram) -> Option<Datagram> {
    let (header, body) = request.payload.split_at_checked(28)?;
    let (says, notify) = answer.payload.split_at_checked(28)?;
    if says.get(16) != Some(&NOTIFY) || notify.get(6..8)? != COOKIE {
        return None;
    }
    let mut payload = [header, notify, body].concat();
    *payload.get_mut(28)? = *header.get(16)?;
    *payload.get_mut(16)? = NOTIFY;
    let length = u32::try_from(payload.len()).ok()?;
    payload.get_mut(24..28)?.copy_from_slice(&length.to_be_bytes());
    Some(Datagram { payload, ..request.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_asked_for_a_cookie_and_who_returns_it_is_let_in() {
        let plan = Plan::new(Kind::Psk, "aes256gcm16-prfsha384").unwrap();
        assert_eq!(flood(&plan, 500, false).unwrap().half_open, FloodLimits::default().cookie_threshold);
        assert_eq!(flood(&plan, 500, true).unwrap().half_open, 500);
    }

    #[test]
    fn who_solves_the_puzzle_is_let_in() {
        puzzles(&Plan::new(Kind::Psk, "aes256gcm16-prfsha384").unwrap(), 1).unwrap();
    }
}
