//! AES-GCM for ESP (RFC 4106, RFC 8750) in AVX-512, VAES and VPCLMULQDQ instructions, a burst at a time.
//!
//! What makes it fast, and so decides its shape:
//!
//! - **One pass over lanes that line up** (`frame`): the header is block 0 of the stream, so counter 1, whose
//!   keystream masks the ICV, and the AAD have a lane of the first vector, the length block one of the last.
//! - **One key block** (`key`): 640 bytes without a pointer, of which a short packet touches five cache lines; all
//!   keys of a burst are asked for before the first is used.
//! - **Few multiplications** (`ghash`): Karatsuba, one reduction for eight vectors, one for four short packets.
//! - **Instructions in an order that suits the core** (`aes::cipher`): it looks ahead over a few hundred
//!   instructions, and schedules some hundred. So AES and GHASH of a long packet are interleaved by hand, and
//!   whatever a packet needs of memory is worked out for the whole burst first.
//! - **No `unsafe` outside of `lanes`, `key` and the two calls below**: kernels see arrays and masked
//!   slices.
//!
//! Constant time: there is no table, and no branch or address depends on a key, a text or a hash. Lengths, key
//! sizes and whether an ICV was good are public.

// Arrays of vectors are walked in step, and only a plain index is sure to be unrolled into registers.
#![allow(unsafe_code, clippy::needless_range_loop)]

use arrayvec::ArrayVec;

use super::engine::Engine;
use super::suite::{Encryption, Suite};
use super::{EngineKey, Job, KeyError, KeyMaterial};

mod aes;
#[cfg(test)]
mod constant_time;
mod frame;
mod ghash;
mod hash;
mod key;
mod lanes;
mod open;
mod seal;
mod self_test;
#[cfg(test)]
mod tests;

use frame::Frame;
pub use key::VaesKey;

/// The engine. Exists only when the CPU has what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Vaes(());

/// Names of CPU features that are not there.
macro_rules! missing {
    ($($feature:tt),*) => {{
        let features = [$(($feature, is_x86_feature_detected!($feature))),*];
        features.into_iter().filter(|(_, found)| !found).map(|(name, _)| name).collect::<Vec<_>>()
    }};
}

impl Vaes {
    /// The engine.
    ///
    /// # Errors
    /// What the CPU misses, or the operating system did not turn on.
    pub fn new() -> Result<Self, String> {
        let missing = missing!(
            "aes",
            "pclmulqdq",
            "bmi2",
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "vaes",
            "vpclmulqdq"
        );
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
        unsafe { burst::<true>(jobs) }
    }

    #[inline]
    fn open(&self, jobs: &mut [Job<'_>]) {
        // SAFETY: as in `seal`.
        unsafe { burst::<false>(jobs) }
    }
}

/// Jobs that are split before the first of them goes through AES.
const SPLIT: usize = 64;

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn burst<const SEAL: bool>(jobs: &mut [Job<'_>]) {
    for jobs in jobs.chunks_mut(SPLIT) {
        prefetch(jobs);
        let mut frames = ArrayVec::<Frame<'_>, SPLIT>::new();
        for job in jobs {
            if let Some(frame) = Frame::split::<SEAL>(job) {
                frames.push(frame);
            }
        }
        if SEAL {
            seal::seal(&mut frames);
        } else {
            open::open(&mut frames);
        }
    }
    wipe_stack();
}

/// Overwrites what [`seal::seal`] and [`open::open`] left on the stack: the compiler may have put round keys there.
#[inline(never)]
fn wipe_stack() {
    std::hint::black_box(&mut [0u8; 4096]);
}

/// Asks for all keys. With many SAs most are not in the cache, and all of them are on their way when the first is needed.
#[inline]
fn prefetch(jobs: &[Job<'_>]) {
    let mut last = std::ptr::null();
    for job in jobs {
        if !std::ptr::eq(job.key, last) {
            last = job.key;
            key::prefetch(job.key.engine(), job.packet.len());
        }
    }
}
