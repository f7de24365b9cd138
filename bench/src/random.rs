//! Cheap, repeatable randomness for traffic. Not for keys.

/// A sequence without a pattern that a prefetcher knows (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }

    /// Time to the next event of a Poisson process whose events are `mean` apart.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        // In (0, 1], so that its logarithm exists.
        let uniform = ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -uniform.ln() * mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_in_range_and_all_of_them_come() {
        let mut random = Random::default();
        let mut seen = [0; 7];
        for _ in 0..7_000 {
            seen[random.below(7)] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn gaps_of_a_poisson_process_have_its_mean_and_are_often_short() {
        let mut random = Random::default();
        let gaps: Vec<f64> = (0..100_000).map(|_| random.exponential(50.0)).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let below_mean = gaps.iter().filter(|&&gap| gap < 50.0).count();
        assert!((49.0..51.0).contains(&mean), "{mean}");
        // 1 - 1/e of them.
        assert!((62_000..64_500).contains(&below_mean), "{below_mean}");
        assert!(gaps.iter().all(|&gap| gap >= 0.0));
    }
}
