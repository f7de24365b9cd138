//! AES-GCM for ESP (RFC 4106, RFC 8750) by the vector instructions of the CPU, a burst at a time.
//!
//! Three tiers, by what the CPU has; [`Fastest`] picks one:
//!
//! | tier | instructions | blocks a vector | CPUs |
//! |---|---|---|---|
//! | [`Avx512`], `vaes-avx512` | AVX-512, VAES, VPCLMULQDQ | 4 | Zen 4 and later, Ice Lake and later servers |
//! | [`Avx2`], `vaes-avx2` | AVX2, VAES, VPCLMULQDQ | 2 | Zen 3, Alder Lake and later clients |
//! | [`AesNi`], `aes-ni` | AVX, AES-NI, PCLMULQDQ | 1 | nearly all others of the last twelve years |
//!
//! What makes them fast, and so decides their shape:
//!
//! - **One pass over lanes that line up** (`frame`): the header is block 0 of the stream, so counter 1, whose
//!   keystream masks the ICV, and the AAD have a lane of the first vector, the length block one of the last.
//! - **One key block** (`key`): 640 bytes without a pointer, of which a short packet touches five cache lines; all
//!   keys of a burst are asked for before the first is used. It is the same for all tiers.
//! - **Few multiplications**: one reduction for eight vectors, one for several short packets; Karatsuba in `narrow`.
//! - **Short packets side by side**: a packet of two vectors waits for its own rounds, so four go through AES at once.
//! - **Nothing between the last batch of a packet and the next packet**: its hash is done beside the AES of the next (`avx512`).
//! - **Instructions in an order that suits the core**: it looks ahead over a few hundred
//!   instructions, and schedules some hundred. So AES and GHASH of a long packet are interleaved by hand, and
//!   whatever a packet needs of memory is worked out for the whole burst first.
//! - **Little `unsafe`**: kernels see arrays, slices, and values that prove what the CPU has.
//!
//! The kernels of AVX-512 (`avx512`) have 32 registers and masks for every load and store, and are written for that. Those of the
//! other two (`narrow`) have 16 registers and no masks, and are one code over vectors of one or two blocks.
//!
//! Constant time: there is no table, and no branch or address depends on a key, a text or a hash. Lengths, key
//! sizes and whether an ICV was good are public.

// Arrays of vectors are walked in step, and only a plain index is sure to be unrolled into registers.
#![allow(unsafe_code, clippy::needless_range_loop)]

use std::fmt::Debug;

use arrayvec::ArrayVec;

use super::engine::Engine;
use super::suite::{Encryption, Suite};
use super::{EngineKey, Job, KeyError, KeyMaterial};

mod avx512;
mod counters;
mod fastest;
mod frame;
mod key;
mod narrow;
pub(super) mod schedule;
mod self_test;
#[cfg(test)]
mod tests;

pub use avx512::Avx512;
pub use fastest::Fastest;
pub use key::VaesKey;
pub use narrow::{AesNi, Avx2};

use frame::Frame;

/// The engine of one tier. Exists only when the CPU has what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Vaes<T>(T);

/// The instructions of a tier. A value is proof that the CPU has them.
pub trait Tier: Copy + Debug {
    /// Name of the engine.
    const NAME: &'static str;

    /// The proof.
    ///
    /// # Errors
    /// What the CPU misses, or the operating system did not turn on.
    fn detect() -> Result<Self, String>;

    /// What keys are made with: every tier has the instructions of the least.
    fn least(self) -> AesNi;

    /// Seals every packet. Sets [`Job::ok`].
    fn seal(self, jobs: &mut [Job<'_>]);

    /// Opens every packet. Sets [`Job::ok`].
    fn open(self, jobs: &mut [Job<'_>]);
}

impl<T: Tier> Vaes<T> {
    /// The engine.
    ///
    /// # Errors
    /// What the CPU misses, or the operating system did not turn on.
    pub fn new() -> Result<Self, String> {
        T::detect().map(Self)
    }
}

impl<T: Tier> Engine for Vaes<T> {
    const NAME: &'static str = T::NAME;

    fn supports(&self, suite: Suite) -> bool {
        matches!(suite.encryption(), Some(Encryption::AesGcm(..) | Encryption::AesGcmImplicitIv(_)))
    }

    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        if !self.supports(suite) {
            return Err(KeyError::Rejected { suite });
        }
        VaesKey::new(self.0.least(), material.expose(), suite.icv_len(), suite.implicit_iv(), esn)
            .map(EngineKey::Vaes)
            .ok_or(KeyError::Rejected { suite })
    }

    #[inline]
    fn seal(&self, jobs: &mut [Job<'_>]) {
        self.0.seal(jobs);
    }

    #[inline]
    fn open(&self, jobs: &mut [Job<'_>]) {
        self.0.open(jobs);
    }
}

/// `Ok` of a proof if the CPU has all these features, else what it misses.
macro_rules! detect {
    ($proof:expr; $($feature:tt),*) => {{
        let features = [$(($feature, is_x86_feature_detected!($feature))),*];
        let missing: Vec<_> =
            features.into_iter().filter(|(_, found)| !found).map(|(name, _)| name).collect();
        if missing.is_empty() { Ok($proof) } else { Err(format!("the CPU has no {}", missing.join(", "))) }
    }};
}
pub(super) use detect;

/// Whether an ICV was good: from here on everybody may know. Said to memcheck where a test has it follow the secrets.
#[inline(always)]
fn outcome(ok: bool) -> bool {
    #[cfg(test)]
    let ok = super::constant_time::valgrind::outcome(ok);
    ok
}

/// Jobs that are split before the first of them goes through AES.
const SPLIT: usize = 64;

/// Splits a burst and hands the packets to `kernel`. To be inlined where the kernel's instructions are enabled.
#[inline(always)]
fn burst<'p, const SEAL: bool>(jobs: &'p mut [Job<'_>], mut kernel: impl FnMut(&'_ mut [Frame<'p>])) {
    for jobs in jobs.chunks_mut(SPLIT) {
        prefetch(jobs);
        let mut frames = ArrayVec::<Frame<'p>, SPLIT>::new();
        for job in jobs {
            if let Some(frame) = Frame::split::<SEAL>(job) {
                frames.push(frame);
            }
        }
        kernel(&mut frames);
    }
    wipe_stack();
}

/// Overwrites what the kernels left on the stack: the compiler may have put round keys there.
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
