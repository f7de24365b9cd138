//! Interleaved rounds and robust statistics.

use std::time::Duration;

use serde::Serialize;

/// Something to measure: runs once and says how long it took for how many packets.
pub struct Case<'a> {
    /// Runs one round.
    pub run: Box<dyn FnMut() -> Round + 'a>,
}

/// One round's time.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Time spent on the packets alone.
    pub time: Duration,
    /// How many there were.
    pub packets: u64,
}

/// Nanoseconds a packet over many rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// The middle one.
    pub median: f64,
    /// A tenth of the rounds were faster.
    pub p10: f64,
    /// A tenth of the rounds were slower.
    pub p90: f64,
    /// How many rounds there were.
    pub rounds: usize,
}

/// Runs all cases in turns: each round every case once, in an order that rotates.
pub fn interleave(cases: &mut [Case<'_>], rounds: usize) -> Vec<Stats> {
    let mut samples = vec![Vec::with_capacity(rounds); cases.len()];
    // The first round warms caches and is not counted.
    for round in 0..=rounds {
        for offset in 0..cases.len() {
            let at = (round + offset) % cases.len();
            let (Some(case), Some(kept)) = (cases.get_mut(at), samples.get_mut(at)) else { continue };
            let Round { time, packets } = (case.run)();
            if round > 0 && packets > 0 {
                kept.push(time.as_nanos() as f64 / packets as f64);
            }
        }
    }
    samples.into_iter().map(Stats::of).collect()
}

impl Stats {
    /// Of nanoseconds a packet, in any order.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let index = (quantile * samples.len().saturating_sub(1) as f64).round() as usize;
            samples.get(index).copied().unwrap_or(f64::NAN)
        };
        Self { median: at(0.5), p10: at(0.1), p90: at(0.9), rounds: samples.len() }
    }

    /// Millions of packets a second.
    pub fn mpps(&self) -> f64 {
        1_000.0 / self.median
    }

    /// Gigabits a second of packets of `bytes` bytes.
    pub fn gbits(&self, bytes: f64) -> f64 {
        bytes * 8.0 / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_in_every_round_and_the_first_is_not_counted() {
        let counts = [std::cell::Cell::new(0), std::cell::Cell::new(0)];
        let mut cases: Vec<Case<'_>> = counts
            .iter()
            .map(|count| Case {
                run: Box::new(|| {
                    count.set(count.get() + 1);
                    let nanos = if count.get() == 1 { 9_000 } else { 100 * count.get() };
                    Round { time: Duration::from_nanos(nanos), packets: 10 }
                }),
            })
            .collect();
        let stats = interleave(&mut cases, 3);
        drop(cases);
        assert_eq!(counts.each_ref().map(std::cell::Cell::get), [4, 4]);
        assert_eq!(stats[0], Stats { median: 30.0, p10: 20.0, p90: 40.0, rounds: 3 });
    }

    #[test]
    fn rates_follow_from_the_median() {
        let stats = Stats { median: 100.0, p10: 90.0, p90: 110.0, rounds: 1 };
        assert!((stats.mpps() - 10.0).abs() < 1e-9);
        assert!((stats.gbits(1_250.0) - 100.0).abs() < 1e-9);
    }
}
