//! One SA on two workers at once, each on a core of its own, beside one worker and two workers with an SA each.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dataplane::buffer::BURST;
use dataplane::crypto::{Crypto, Suite};
use dataplane::drops::DropReason;

use super::barrier::{Barrier, Ended, Member};
use super::checker::Seen;
use crate::frames::{self, Frames};
use crate::gateway::{Gateway, Pools};
use crate::measure::Samples;
use crate::report::{Finding, Goal, Report, Row};
use crate::traffic::{Pick, Size};
use crate::tunnels::{Direction, Tunnels};
use crate::world::World;

/// Workers, and threads.
const WORKERS: usize = 2;
/// Packets that a worker takes between two meetings. All of them together are far less than a replay window, so that a
/// worker which is late loses nothing.
const AHEAD: usize = 256;

/// What runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Algorithms.
    pub suite: Suite,
    /// Length of the packets.
    pub length: usize,
    /// Rounds of each case.
    pub rounds: usize,
    /// Meetings in a round.
    pub times: usize,
}

/// Who carries what in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// The first worker alone, one SA.
    One,
    /// Both, one SA each.
    Apart,
    /// Both, the same SA; consecutive numbers arrive at one worker by turns.
    Packets,
    /// Both, the same SA; runs of 64 consecutive numbers arrive at one worker.
    Bursts,
}

impl Case {
    fn name(self, direction: Direction) -> &'static str {
        match self {
            Self::One => "1 worker, 1 SA",
            Self::Apart => "2 workers, 2 SAs",
            _ if direction == Direction::Outbound => "2 workers, 1 SA",
            Self::Packets => "2 workers, 1 SA, packets by turns",
            Self::Bursts => "2 workers, 1 SA, bursts by turns",
        }
    }

    fn workers(self) -> usize {
        if self == Self::One { 1 } else { WORKERS }
    }

    /// The tunnel that a worker uses. The one that is shared has no other use, so that its numbers are complete.
    fn tunnel(self, worker: usize) -> usize {
        match self {
            Self::One => 0,
            Self::Apart => worker,
            Self::Packets | Self::Bursts => WORKERS,
        }
    }

    /// The numbers of a worker's packets, relative to the first of all workers' in this meeting.
    fn numbers(self, worker: usize) -> impl Iterator<Item = u64> {
        (0..AHEAD as u64).map(move |at| match self {
            Self::One | Self::Apart => at,
            Self::Packets => at * WORKERS as u64 + worker as u64,
            Self::Bursts => {
                let burst = BURST as u64;
                (at / burst * WORKERS as u64 + worker as u64) * burst + at % burst
            }
        })
    }
}

/// Cases that are timed; outbound the workers take the numbers as they come.
const OUTBOUND: [Case; 3] = [Case::One, Case::Apart, Case::Packets];
const INBOUND: [Case; 4] = [Case::One, Case::Apart, Case::Packets, Case::Bursts];

fn cases(direction: Direction) -> &'static [Case] {
    match direction {
        Direction::Outbound => &OUTBOUND,
        Direction::Inbound => &INBOUND,
    }
}

/// What one worker found.
#[derive(Default)]
struct Found {
    /// Packets a nanosecond by direction, case and round; `None` when it had no part.
    rates: Vec<(Direction, Case, Vec<Option<f64>>)>,
    /// Numbers of the shared SA that it sent and accepted.
    sent: Seen,
    accepted: Seen,
    /// Numbers that it accepted when every packet went to both workers, and how many it refused as replays.
    raced: Seen,
    refused: u64,
    /// The number after the last one that was sent to one worker, and to both.
    ends: [u64; 2],
}

/// Runs the cases and adds rows and findings.
///
/// # Errors
/// When a number was used twice, or one got lost.
pub fn run(
    plan: &Plan,
    engine: &'static str,
    crypto: &Arc<Crypto>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.len() < WORKERS {
        report.notes.push(format!("SKIPPED: one SA on {WORKERS} workers, since there is only one core"));
        return Ok(());
    }
    let tunnels = Tunnels::new(crypto, plan.suite, WORKERS + 1, 0)?;
    let barrier = Barrier::new(WORKERS);
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .take(WORKERS)
            .enumerate()
            .map(|(worker, &core)| {
                let (tunnels, member) = (&tunnels, barrier.join());
                scope.spawn(move || {
                    core_affinity::set_for_current(core);
                    work(plan, crypto, tunnels, worker, member)
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        let joined = results.into_iter().map(|result| result.unwrap_or_else(|_| bail!("a worker panicked")));
        first_cause(joined.collect())
    })?;
    rows(plan, engine, &found, report);
    check(plan, engine, &tunnels, &found, report)
}

/// All results, or the error that made the other workers end.
fn first_cause(results: Vec<anyhow::Result<Found>>) -> anyhow::Result<Vec<Found>> {
    let (found, mut errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    errors.sort_by_key(|result| result.as_ref().is_err_and(|error| error.is::<Ended>()));
    errors.into_iter().chain(found).collect()
}

/// One thread: its gateway takes its part in every round.
fn work(
    plan: &Plan,
    crypto: &Arc<Crypto>,
    tunnels: &Tunnels,
    index: usize,
    member: Member<'_>,
) -> anyhow::Result<Found> {
    let mut world = World::over(crypto, plan.suite, tunnels, 0, index, Pools::new()?)?;
    // The first packets each way, by tunnels that nobody shares, resolve the neighbours.
    world.prove(index)?;
    let mut found = Found::default();
    let mut worker = Worker { plan, index, world, member, next: [FIRST; WORKERS + 1] };
    for direction in [Direction::Outbound, Direction::Inbound] {
        for &case in cases(direction) {
            found.rates.push((direction, case, Vec::with_capacity(plan.rounds)));
        }
    }
    for round in 0..=plan.rounds {
        for entry in 0..found.rates.len() {
            let at = (entry + round) % found.rates.len();
            let Some(&(direction, case, _)) = found.rates.get(at) else { continue };
            let rate = worker.round(direction, case, &mut found)?;
            // The first round warms caches.
            if round > 0
                && let Some((.., rates)) = found.rates.get_mut(at)
            {
                rates.push(rate);
            }
        }
    }
    worker.race(&mut found)?;
    worker.member.leave();
    Ok(found)
}

/// The first number of what peers send; the numbers before are those of the first packets.
const FIRST: u64 = 16;

struct Worker<'p> {
    plan: &'p Plan,
    index: usize,
    world: World,
    member: Member<'p>,
    /// The next number that the peer of each tunnel uses; both workers count alike.
    next: [u64; WORKERS + 1],
}

impl Worker<'_> {
    /// One round of a case. Returns the packets a nanosecond, if it had a part in it.
    fn round(&mut self, direction: Direction, case: Case, found: &mut Found) -> anyhow::Result<Option<f64>> {
        let takes_part = self.index < case.workers();
        let tunnel = case.tunnel(self.index);
        let mut time = Duration::ZERO;
        for _ in 0..self.plan.times {
            if takes_part {
                let frames = self.frames(direction, case)?;
                self.world.gateway.arrive(direction, frames.iter())?;
            }
            if direction == Direction::Inbound {
                self.advance(case);
            }
            if !takes_part {
                continue;
            }
            if case.workers() > 1 {
                self.member.wait()?;
            }
            time += self.world.gateway.work(AHEAD)?;
            let shared = tunnel == WORKERS;
            let mut note = |direction, packet: &[u8]| match direction {
                Direction::Outbound if shared => found.sent.note(sequence(packet)),
                Direction::Inbound if shared => found.accepted.note(frames::mark(packet).unwrap_or_default()),
                _ => {}
            };
            let sent = self.world.gateway.collect(&mut note)?;
            if sent != AHEAD {
                bail!("{AHEAD} packets went in, {sent} came out; dropped: {}", self.world.gateway.drops()?);
            }
        }
        // Whoever had no part leaves the core, and what the cores share, to the other.
        if takes_part {
            self.member.wait()?
        } else {
            self.member.rest()?
        }
        let packets = (AHEAD * self.plan.times) as f64;
        Ok(takes_part.then(|| packets / time.as_nanos().max(1) as f64))
    }

    /// Every packet goes to both workers at the same time; each must be accepted by one of them.
    fn race(&mut self, found: &mut Found) -> anyhow::Result<()> {
        let refused = |world: &mut World| -> anyhow::Result<u64> {
            let drops = world.gateway.drop_counters()?;
            Ok(drops.get(DropReason::ReplayDuplicate) + drops.get(DropReason::ReplayTooOld))
        };
        let before = refused(&mut self.world)?;
        let tunnel = WORKERS;
        let first_end = self.next[tunnel];
        for _ in 0..self.plan.times * self.plan.rounds.min(50) {
            let first = self.next[tunnel];
            let work: Vec<_> =
                (first..first + AHEAD as u64).map(|number| (self.pick(tunnel), number)).collect();
            let mut frames = Frames::default();
            self.world.seal_numbered(&work, &mut frames)?;
            self.world.gateway.arrive(Direction::Inbound, frames.iter())?;
            self.next[tunnel] += AHEAD as u64;
            self.member.wait()?;
            self.world.gateway.work(AHEAD)?;
            let mut note = |_, packet: &[u8]| found.raced.note(frames::mark(packet).unwrap_or_default());
            self.world.gateway.collect(&mut note)?;
        }
        found.refused = refused(&mut self.world)? - before;
        found.ends = [first_end, self.next[tunnel]];
        Ok(())
    }

    fn frames(&self, direction: Direction, case: Case) -> anyhow::Result<Frames> {
        let mut frames = Frames::default();
        let tunnel = case.tunnel(self.index);
        let pick = self.pick(tunnel);
        match direction {
            Direction::Outbound => {
                frames::from_host(std::iter::repeat_n(pick, AHEAD), Gateway::mac(direction), 0, &mut frames);
            }
            Direction::Inbound => {
                let first = self.next.get(tunnel).context("no such tunnel")?;
                let work: Vec<_> = case.numbers(self.index).map(|number| (pick, first + number)).collect();
                self.world.seal_numbered(&work, &mut frames)?;
            }
        }
        Ok(frames)
    }

    fn pick(&self, tunnel: usize) -> Pick {
        Pick { tunnel, length: self.plan.length }
    }

    /// Counts the numbers of all workers, so that both know where the next meeting starts.
    fn advance(&mut self, case: Case) {
        for worker in 0..case.workers() {
            if let Some(next) = self.next.get_mut(case.tunnel(worker)) {
                *next += AHEAD as u64;
            }
        }
    }
}

/// The sequence number that an ESP packet over IPv4 shows.
fn sequence(packet: &[u8]) -> u64 {
    packet
        .get(24..28)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, |bytes| u64::from(u32::from_be_bytes(bytes)))
}

/// Nanoseconds a packet of all workers together, round by round.
fn together(found: &[Found], direction: Direction, case: Case) -> Samples {
    let of = |found: &Found| {
        found.rates.iter().find(|(d, c, _)| (*d, *c) == (direction, case)).map(|(.., rates)| rates.clone())
    };
    let workers: Vec<Vec<Option<f64>>> = found.iter().filter_map(of).collect();
    let rounds = workers.iter().map(Vec::len).min().unwrap_or_default();
    let rate = |round: usize| workers.iter().filter_map(|rates| *rates.get(round)?).sum::<f64>();
    (0..rounds).map(|round| 1.0 / rate(round)).collect()
}

fn rows(plan: &Plan, engine: &'static str, found: &[Found], report: &mut Report) {
    let Plan { suite, length, .. } = *plan;
    for direction in [Direction::Outbound, Direction::Inbound] {
        let one = together(found, direction, Case::One);
        for &case in cases(direction) {
            let labels = vec![
                ("suite", suite.to_string()),
                ("bytes", length.to_string()),
                ("case", case.name(direction).to_owned()),
                ("what", direction.name().to_owned()),
                ("engine", engine.to_owned()),
            ];
            let samples = together(found, direction, case);
            report.rows.push(Row::throughput(labels, Size::Fixed(length).mean(), &samples));
            let goal = match case {
                Case::One => continue,
                Case::Apart => None,
                Case::Packets | Case::Bursts => Some(Goal::AtLeast(1.85)),
            };
            let what =
                format!("{suite}, {length} B, {engine}, {}: {}", direction.name(), case.name(direction));
            report.findings.push(Finding::new(what, &one.over(&samples), "x", goal));
        }
    }
}

/// That no number of the shared SA was used twice or lost.
fn check(
    plan: &Plan,
    engine: &'static str,
    tunnels: &Tunnels,
    found: &[Found],
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut sent, mut accepted, mut raced, mut refused) =
        (Seen::default(), Seen::default(), Seen::default(), 0);
    for worker in found {
        sent.merge(&worker.sent);
        accepted.merge(&worker.accepted);
        raced.merge(&worker.raced);
        refused += worker.refused;
    }
    let end = tunnels.outbound.get(WORKERS).map_or(0, |sa| sa.sequence.peek());
    let [end_of_one, end_of_both] = found.first().map_or([FIRST; 2], |worker| worker.ends);
    let results = [
        ("sequence numbers sent twice", sent.repeated()),
        ("sequence numbers not sent", sent.missing(1, end)),
        ("packets accepted twice", accepted.repeated()),
        ("packets lost", accepted.missing(FIRST, end_of_one)),
        ("packets accepted twice when both workers got each at once", raced.repeated()),
        ("packets lost when both workers got each at once", raced.missing(end_of_one, end_of_both)),
        ("copies neither accepted nor refused as replays", (end_of_both - end_of_one).abs_diff(refused)),
    ];
    for (what, count) in results {
        let what = format!("{}, {engine}, one SA on {WORKERS} workers: {what}", plan.suite);
        ensure!(count == 0, "{what}: {count}");
        report.findings.push(Finding::exact(what, count as f64, "packets", Some(Goal::AtMost(0.0))));
    }
    report.notes.push(format!(
        "Checked on the shared SA of {}: {} numbers sent, {} packets accepted, {} more that both workers got at once.",
        plan.suite,
        sent.len(),
        accepted.len(),
        raced.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_workers_are_all_numbers_once() {
        for case in [Case::Packets, Case::Bursts] {
            let mut all: Vec<u64> = (0..WORKERS).flat_map(|worker| case.numbers(worker)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..(WORKERS * AHEAD) as u64).collect::<Vec<_>>(), "{case:?}");
        }
        assert_eq!(Case::Packets.numbers(1).take(3).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(Case::Bursts.numbers(1).nth(64), Some(192));
    }
}
