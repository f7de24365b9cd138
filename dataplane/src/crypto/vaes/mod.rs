//! AES-GCM for ESP (RFC 4106, RFC 8750) in AVX-512, VAES and VPCLMULQDQ instructions, a burst at a time.
#![allow(unsafe_code)]

use super::engine::Engine;
use super::suite::{Encryption, Suite};
use super::{EngineKey, Job, Key, KeyError, KeyMaterial};

mod aes;
mod frame;
mod ghash;
mod hash;
mod kernel;
mod key;
mod lanes;
mod self_test;
#[cfg(test)]
mod tests;

pub use key::VaesKey;

/// The engine. Exists only when the CPU has what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Vaes(());

/// Jobs between the one whose key is asked for and the one that is worked on.
const PREFETCH_AHEAD: usize = 16;

macro_rules! missing {
    ($($feature:tt),*) => {
        [$(($feature, is_x86_feature_detected!($feature))),*].into_iter().filter(|&(_, found)| !found).map(|(name, _)| name)
    };
}

impl Vaes {
    /// The engine, or what the CPU misses.
    ///
    /// # Errors
    /// The names of the missing CPU features.
    pub fn new() -> Result<Self, String> {
        let missing: Vec<_> =
            missing!("avx512f", "avx512bw", "avx512dq", "avx512vl", "vaes", "vpclmulqdq", "bmi2").collect();
        if missing.is_empty() { Ok(Self(())) } else { Err(format!("the CPU has no {}", missing.join(", "))) }
    }
}

impl Engine for Vaes {
    const NAME: &'static str = "vaes";

    fn supports(&self, suite: Suite) -> bool {
        matches!(suite.encryption(), Some(Encryption::AesGcm(..) | Encryption::AesGcmImplicitIv(_)))
    }

    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        if !self.supports(suite) {
            return Err(KeyError::Rejected { suite });
        }
        VaesKey::new(self, material.expose(), suite.icv_len(), suite.implicit_iv(), esn)
            .map(EngineKey::Vaes)
            .ok_or(KeyError::Rejected { suite })
    }

    #[inline]
    fn seal(&self, jobs: &mut [Job<'_>]) {
        // SAFETY: a `Vaes` exists only when the CPU has all the features.
        unsafe { seal_burst(jobs) }
    }

    #[inline]
    fn open(&self, jobs: &mut [Job<'_>]) {
        // SAFETY: as in `seal`.
        unsafe { open_burst(jobs) }
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn seal_burst(jobs: &mut [Job<'_>]) {
    each(jobs, |key, packet, seq| kernel::seal(key, packet, seq));
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn open_burst(jobs: &mut [Job<'_>]) {
    each(jobs, |key, packet, seq| kernel::open(key, packet, seq));
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn each(jobs: &mut [Job<'_>], work: impl Fn(&VaesKey, &mut [u8], u64) -> bool) {
    let mut last = std::ptr::null();
    for index in 0..PREFETCH_AHEAD.min(jobs.len()) {
        prefetch(&jobs[index], &mut last);
    }
    for index in 0..jobs.len() {
        if let Some(job) = jobs.get(index + PREFETCH_AHEAD) {
            prefetch(job, &mut last);
        }
        let job = &mut jobs[index];
        job.ok = match job.key.engine() {
            EngineKey::Vaes(key) => work(key, job.packet, job.seq),
            _ => false,
        };
    }
}

/// Asks for the lines of a job's key, unless it is the key of the job before.
#[inline]
fn prefetch(job: &Job<'_>, last: &mut *const Key) {
    if std::ptr::eq(job.key, *last) {
        return;
    }
    *last = job.key;
    if let EngineKey::Vaes(key) = job.key.engine() {
        key.prefetch(job.packet.len());
    }
}
