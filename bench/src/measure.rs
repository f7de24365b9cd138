//! Interleaved rounds and robust statistics.

use std::time::Duration;

use anyhow::ensure;

/// Something to measure: runs once and says how long it took for how many packets.
pub struct Case<'a> {
    /// Runs one round.
    pub run: Box<dyn FnMut() -> anyhow::Result<Round> + 'a>,
}

/// One round's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Time spent on the packets alone.
    pub time: Duration,
    /// How many there were.
    pub packets: u64,
}

/// Nanoseconds a packet, or another figure, over many rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// The middle one.
    pub median: f64,
    /// A tenth of the rounds were lower.
    pub p10: f64,
    /// A tenth of the rounds were higher.
    pub p90: f64,
}

/// One figure a round, in the order of the rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples(Vec<f64>);

/// Runs all cases in turns: each round every case once, in an order that rotates. Returns nanoseconds a packet.
///
/// # Errors
/// That of a case, or that it carried no packet.
pub fn interleave(cases: &mut [Case<'_>], rounds: usize) -> anyhow::Result<Vec<Samples>> {
    let mut samples = vec![Samples(Vec::with_capacity(rounds)); cases.len()];
    // The first round warms caches and is not counted.
    for round in 0..=rounds {
        for offset in 0..cases.len() {
            let at = (round + offset) % cases.len();
            let (Some(case), Some(kept)) = (cases.get_mut(at), samples.get_mut(at)) else { continue };
            let Round { time, packets } = (case.run)()?;
            ensure!(packets > 0, "a round carried no packet");
            if round > 0 {
                kept.0.push(time.as_nanos() as f64 / packets as f64);
            }
        }
    }
    Ok(samples)
}

impl Samples {
    /// The middle and the spread.
    pub fn stats(&self) -> Stats {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let index = (quantile * sorted.len().saturating_sub(1) as f64).round() as usize;
            sorted.get(index).copied().unwrap_or(f64::NAN)
        };
        Stats { median: at(0.5), p10: at(0.1), p90: at(0.9) }
    }

    /// This over the other, round by round: what slowed the machine down in a round slowed both.
    pub fn over(&self, other: &Self) -> Self {
        self.paired(other, |mine, theirs| mine / theirs)
    }

    /// This minus the other, round by round.
    pub fn minus(&self, other: &Self) -> Self {
        self.paired(other, |mine, theirs| mine - theirs)
    }

    /// This and the other together, round by round.
    #[cfg(feature = "dpdk")]
    pub fn plus(&self, other: &Self) -> Self {
        self.paired(other, |mine, theirs| mine + theirs)
    }

    /// Another figure of each round.
    pub fn map(&self, figure: impl Fn(f64) -> f64) -> Self {
        self.0.iter().map(|&sample| figure(sample)).collect()
    }

    fn paired(&self, other: &Self, figure: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(&mine, &theirs)| figure(mine, theirs)).collect())
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

impl Stats {
    /// Millions of packets a second, of nanoseconds a packet.
    pub fn mpps(&self) -> f64 {
        1_000.0 / self.median
    }

    /// Gigabits a second of packets of `bytes` bytes, of nanoseconds a packet.
    pub fn gbits(&self, bytes: f64) -> f64 {
        bytes * 8.0 / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn every_case_runs_in_every_round_and_the_first_is_not_counted() {
        let counts = [std::cell::Cell::new(0), std::cell::Cell::new(0)];
        let mut cases: Vec<Case<'_>> = counts
            .iter()
            .map(|count| Case {
                run: Box::new(|| {
                    count.set(count.get() + 1);
                    let nanos = if count.get() == 1 { 9_000 } else { 100 * count.get() };
                    Ok(Round { time: Duration::from_nanos(nanos), packets: 10 })
                }),
            })
            .collect();
        let all = interleave(&mut cases, 3).unwrap();
        drop(cases);
        assert_eq!(counts.each_ref().map(std::cell::Cell::get), [4, 4]);
        assert_eq!(all[0], samples(&[20.0, 30.0, 40.0]));
    }

    #[test]
    fn a_round_without_packets_or_with_an_error_ends_the_run() {
        let empty = Case { run: Box::new(|| Ok(Round::default())) };
        assert!(interleave(&mut [empty], 1).is_err());
        let failing = Case { run: Box::new(|| anyhow::bail!("lost a packet")) };
        assert_eq!(interleave(&mut [failing], 1).unwrap_err().to_string(), "lost a packet");
    }

    #[test]
    fn statistics_are_order_statistics_in_any_order() {
        let shuffled: Vec<f64> = (0..=100).map(|i| f64::from(i * 37 % 101)).collect();
        assert_eq!(samples(&shuffled).stats(), Stats { median: 50.0, p10: 10.0, p90: 90.0 });
        assert_eq!(samples(&[7.0]).stats(), Stats { median: 7.0, p10: 7.0, p90: 7.0 });
        assert!(samples(&[]).stats().median.is_nan());
    }

    #[test]
    fn comparisons_are_made_within_a_round() {
        // The machine was ten times slower in the second round; the ratio does not show it.
        let (a, b) = (samples(&[20.0, 200.0, 22.0]), samples(&[10.0, 100.0, 10.0]));
        assert_eq!(a.over(&b), samples(&[2.0, 2.0, 2.2]));
        assert_eq!(a.minus(&b), samples(&[10.0, 100.0, 12.0]));
        assert_eq!(a.over(&b).stats().median, 2.0);
    }

    #[test]
    fn rates_follow_from_the_median() {
        let stats = Stats { median: 100.0, p10: 90.0, p90: 110.0 };
        assert!((stats.mpps() - 10.0).abs() < 1e-9);
        assert!((stats.gbits(1_250.0) - 100.0).abs() < 1e-9);
    }
}
