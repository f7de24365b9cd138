//! Where random bytes come from.

/// A source of random bytes, handed in so that a simulation can replay a run from its seed.
///
/// Nonces, SPIs, CBC IVs and challenges are drawn from it. Private keys are not: they always come from AWS-LC's
/// own generator, and their values have no influence on the course of a negotiation.
pub trait Random {
    /// Overwrites all of `out`.
    fn fill(&mut self, out: &mut [u8]);
}

/// AWS-LC's generator: the only one that an appliance uses.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out)
            .expect("AWS-LC ends the process when the system has no randomness to give");
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod testing {
    use super::Random;

    /// A repeatable source for tests: splitmix64.
    pub(crate) struct Seeded(pub(crate) u64);

    impl Random for Seeded {
        fn fill(&mut self, out: &mut [u8]) {
            for chunk in out.chunks_mut(8) {
                self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = self.0;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^= mixed >> 31;
                chunk.copy_from_slice(&mixed.to_be_bytes()[..chunk.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_random_fills_everything() {
        let (mut first, mut second) = ([0u8; 32], [0u8; 32]);
        SystemRandom.fill(&mut first);
        SystemRandom.fill(&mut second);
        assert_ne!(first, second);
        assert_ne!(first[24..], [0; 8]);
    }
}
