//! What the kernels read of a key, in vectors.

use std::arch::x86_64::*;

use super::lanes::{BLOCK, VECTOR, broadcast, load};
use crate::crypto::vaes::key::{FIRST_POWER, POWERS, VaesKey};

impl VaesKey {
    /// In every lane, the salt added to the first round key: what AES starts from, but for IV and counter.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn whitening(&self) -> __m512i {
        broadcast(&self.round_keys()[0])
    }

    /// H^(4 `fourths`) in every lane, for `fourths` of 1 to 8.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn fourth(&self, fourths: usize) -> __m512i {
        broadcast(match fourths {
            6..=8 => &self.high_powers()[8 - fourths],
            _ => &self.powers()[POWERS - 4 * fourths.clamp(1, 5)],
        })
    }

    /// The four powers of H for vector `index` of a run of `blocks` blocks, 1 to 20, that ends with H^1. Lanes behind H^1
    /// hold something else; the data there must be zero.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn consecutive(&self, blocks: usize, index: usize) -> __m512i {
        let at = FIRST_POWER + (POWERS - blocks.min(POWERS)) * BLOCK + index.min(4) * VECTOR;
        let bytes = self.bytes().get(at..).and_then(<[u8]>::first_chunk);
        debug_assert!(bytes.is_some());
        load(bytes.unwrap_or(&[0; VECTOR]))
    }
}
