//! A token bucket.

use super::SECOND;

/// Lets through `rate` events a second on average and `burst` at once.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Nanoseconds that one event costs.
    cost: u64,
    /// Nanoseconds that the bucket holds when full.
    full: u64,
    /// Nanoseconds in the bucket at `updated`.
    level: u64,
    updated: u64,
}

impl TokenBucket {
    /// A full bucket. A rate or burst of 0 lets nothing through.
    pub fn new(rate: u32, burst: u32) -> Self {
        let cost = SECOND.checked_div(u64::from(rate)).unwrap_or(0).max(1);
        let full = if rate == 0 { 0 } else { cost * u64::from(burst) };
        Self { cost, full, level: full, updated: 0 }
    }

    /// Takes one event's worth; false when there is not enough.
    #[inline]
    pub fn take(&mut self, now: u64) -> bool {
        let gained = now.saturating_sub(self.updated);
        self.level = self.level.saturating_add(gained).min(self.full);
        self.updated = self.updated.max(now);
        match self.level.checked_sub(self.cost) {
            Some(level) => {
                self.level = level;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, 5 * SECOND), 3);
        assert_eq!(taken(&mut bucket, 5 * SECOND + SECOND / 10 - 1), 0);
        assert_eq!(taken(&mut bucket, 5 * SECOND + SECOND / 10), 1);
        assert_eq!(taken(&mut bucket, 60 * SECOND), 3);
        assert_eq!(taken(&mut bucket, 59 * SECOND), 0, "time that goes back brings nothing");
        assert_eq!(taken(&mut bucket, 60 * SECOND), 0);
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(!TokenBucket::new(0, 10).take(SECOND));
        assert!(!TokenBucket::new(10, 0).take(u64::MAX));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 1u32..5000, burst in 0u32..100, steps in prop::collection::vec(0u64..SECOND / 10, 1..300),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now, mut taken) = (0, 0);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(now));
                // A cost is rounded down to whole nanoseconds.
                let allowed = u64::from(burst) + now / (SECOND / u64::from(rate));
                prop_assert!(taken <= allowed);
            }
        }
    }
}
