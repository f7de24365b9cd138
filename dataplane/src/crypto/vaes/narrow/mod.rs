//! The kernels for vectors of one or two blocks: sixteen registers and no masks.
//!
//! One code for both widths, generic over [`Isa`]. Its values prove what the CPU has, and its methods are always inlined, so that
//! they end up in the two functions below for which the instructions are enabled.

use super::{Tier, burst, frame};
use crate::crypto::Job;

mod aes_ni;
mod avx2;
mod cipher;
mod ghash;
mod hash;
mod isa;
mod open;
mod seal;
mod tail;

pub use aes_ni::AesNi;
pub use avx2::Avx2;

use isa::Isa;

/// A packet for these kernels.
type Frame<'p> = frame::Frame<'p, Rest<'p>>;

/// Payload and ICV in one slice. The ICV behind the payload is what lets a kernel load and store whole blocks at its end.
struct Rest<'p> {
    bytes: &'p mut [u8],
    /// Bytes of payload.
    len: usize,
}

impl<'p> frame::Body<'p> for Rest<'p> {
    #[inline(always)]
    fn new(rest: &'p mut [u8], icv_len: usize) -> Option<Self> {
        let len = rest.len().checked_sub(icv_len)?;
        Some(Self { bytes: rest, len })
    }

    #[inline(always)]
    fn payload_len(&self) -> usize {
        self.len
    }
}

/// Bytes of payload in vector 0, whose first lane is the header's.
const fn head_len<I: Isa>() -> usize {
    (I::LANES - 1) * frame::BLOCK
}

/// Bytes of a vector.
const fn vector_len<I: Isa>() -> usize {
    I::LANES * frame::BLOCK
}

/// Vectors of a batch: as many AES chains as fill the pipes and leave registers for GHASH.
const BATCH: usize = 8;

impl Tier for Avx2 {
    const NAME: &'static str = "vaes-avx2";

    fn detect() -> Result<Self, String> {
        Self::detect()
    }

    fn least(self) -> AesNi {
        Isa::least(self)
    }

    #[inline]
    fn seal(self, jobs: &mut [Job<'_>]) {
        #[target_feature(enable = "avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq")]
        fn inner(isa: Avx2, jobs: &mut [Job<'_>]) {
            burst::<true, Rest<'_>>(jobs, |frames| seal::seal(isa, frames));
        }
        // SAFETY: an `Avx2` exists only when the CPU has all the features.
        unsafe { inner(self, jobs) }
    }

    #[inline]
    fn open(self, jobs: &mut [Job<'_>]) {
        #[target_feature(enable = "avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq")]
        fn inner(isa: Avx2, jobs: &mut [Job<'_>]) {
            burst::<false, Rest<'_>>(jobs, |frames| open::open(isa, frames));
        }
        // SAFETY: as in `seal`.
        unsafe { inner(self, jobs) }
    }
}

impl Tier for AesNi {
    const NAME: &'static str = "aes-ni";

    fn detect() -> Result<Self, String> {
        Self::detect()
    }

    fn least(self) -> AesNi {
        self
    }

    #[inline]
    fn seal(self, jobs: &mut [Job<'_>]) {
        #[target_feature(enable = "avx,aes,pclmulqdq")]
        fn inner(isa: AesNi, jobs: &mut [Job<'_>]) {
            burst::<true, Rest<'_>>(jobs, |frames| seal::seal(isa, frames));
        }
        // SAFETY: an `AesNi` exists only when the CPU has all the features.
        unsafe { inner(self, jobs) }
    }

    #[inline]
    fn open(self, jobs: &mut [Job<'_>]) {
        #[target_feature(enable = "avx,aes,pclmulqdq")]
        fn inner(isa: AesNi, jobs: &mut [Job<'_>]) {
            burst::<false, Rest<'_>>(jobs, |frames| open::open(isa, frames));
        }
        // SAFETY: as in `seal`.
        unsafe { inner(self, jobs) }
    }
}
