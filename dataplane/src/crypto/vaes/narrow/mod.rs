//! The kernels for vectors of one or two blocks: sixteen registers and no masks.
//!
//! One code for both widths, generic over [`Isa`]. Its values prove what the CPU has, and its methods are always inlined, so that
//! they end up in the two functions below for which the instructions are enabled.

use super::frame::{self, Frame};
use super::{Tier, burst};
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

/// Bytes of payload in vector 0, whose first lane is the header's.
const fn head_len<I: Isa>() -> usize {
    (I::LANES - 1) * frame::BLOCK
}

/// Bytes of a vector.
const fn vector_len<I: Isa>() -> usize {
    I::LANES * frame::BLOCK
}

/// Vectors of a packet behind vector 0, which has the header.
#[inline(always)]
fn behind<I: Isa>(frame: &Frame<'_>) -> usize {
    frame.len.saturating_sub(head_len::<I>()).div_ceil(vector_len::<I>())
}

/// [`behind`] of two packets to seal that go through AES side by side: short ones that have as many vectors and rounds. Of longer ones,
/// and in vectors of one block, one fills the units.
#[inline(always)]
fn behind_of_two<I: Isa>(a: &Frame<'_>, b: &Frame<'_>) -> Option<usize> {
    let count = behind::<I>(a);
    let alike = count == behind::<I>(b) && a.key.rounds() == b.key.rounds();
    (I::LANES > 1 && alike && (1..=3).contains(&count)).then_some(count)
}

/// Vectors of a batch: as many AES chains as fill the pipes and leave registers for GHASH.
const BATCH: usize = 8;

/// Makes a tier of an [`Isa`]: all that is inlined into the functions here is compiled with these instructions.
macro_rules! tier {
    ($isa:ident, $name:literal, $features:literal) => {
        impl Tier for $isa {
            const NAME: &'static str = $name;

            fn detect() -> Result<Self, String> {
                Self::detect()
            }

            fn least(self) -> AesNi {
                Isa::least(self)
            }

            #[inline]
            fn seal(self, jobs: &mut [Job<'_>]) {
                #[target_feature(enable = $features)]
                fn inner(isa: $isa, jobs: &mut [Job<'_>]) {
                    burst::<true>(jobs, |frames| seal::seal(isa, frames));
                }
                // SAFETY: a value of this type exists only when the CPU has all the features.
                unsafe { inner(self, jobs) }
            }

            #[inline]
            fn open(self, jobs: &mut [Job<'_>]) {
                #[target_feature(enable = $features)]
                fn inner(isa: $isa, jobs: &mut [Job<'_>]) {
                    burst::<false>(jobs, |frames| open::open(isa, frames));
                }
                // SAFETY: as in `seal`.
                unsafe { inner(self, jobs) }
            }
        }
    };
}

tier!(Avx2, "vaes-avx2", "avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq");
tier!(AesNi, "aes-ni", "avx,aes,pclmulqdq");
