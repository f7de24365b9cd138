//! The kernels of AVX-512: vectors of four blocks, with masks.

use super::{AesNi, Tier, burst, detect};
use crate::crypto::Job;

mod aes;
mod ghash;
mod hash;
mod lanes;
mod open;
mod powers;
mod seal;
mod stream;

/// AVX-512 with VAES and VPCLMULQDQ.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(AesNi);

impl Tier for Avx512 {
    const NAME: &'static str = "vaes-avx512";

    fn detect() -> Result<Self, String> {
        let least = AesNi::detect()?;
        detect!(
            Self(least);
            "aes", "pclmulqdq", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "vaes", "vpclmulqdq"
        )
    }

    fn least(self) -> AesNi {
        self.0
    }

    #[inline]
    fn seal(self, jobs: &mut [Job<'_>]) {
        // SAFETY: an `Avx512` exists only when the CPU has all the features.
        unsafe { seal_burst(jobs) }
    }

    #[inline]
    fn open(self, jobs: &mut [Job<'_>]) {
        // SAFETY: as in `seal`.
        unsafe { open_burst(jobs) }
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn seal_burst(jobs: &mut [Job<'_>]) {
    burst::<true>(jobs, |frames| seal::seal(frames));
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn open_burst(jobs: &mut [Job<'_>]) {
    burst::<false>(jobs, |frames| open::open(frames));
}
