//! Vectors of two blocks: AVX2, VAES, VPCLMULQDQ.

use std::arch::x86_64::*;

use super::AesNi;
use super::isa::{COUNTER, Isa, ONES_THEN_ZEROS, REVERSE, cpu};
use crate::crypto::vaes::detect;
use crate::crypto::vaes::frame::BLOCK;

/// AVX2 with VAES and VPCLMULQDQ.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(AesNi);

impl Avx2 {
    /// The proof, or what the CPU misses.
    pub(super) fn detect() -> Result<Self, String> {
        let least = AesNi::detect()?;
        detect!(Self(least); "avx2", "bmi2", "vaes", "vpclmulqdq")
    }
}

impl Isa for Avx2 {
    type Vector = __m256i;
    type Bytes = [u8; 2 * BLOCK];
    type Head = [u8; BLOCK];
    const LANES: usize = 2;

    #[inline(always)]
    fn least(self) -> AesNi {
        self.0
    }
    #[inline(always)]
    fn vectors(bytes: &[u8]) -> &[Self::Bytes] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn vectors_mut(bytes: &mut [u8]) -> &mut [Self::Bytes] {
        bytes.as_chunks_mut().0
    }
    #[inline(always)]
    fn head(bytes: &mut [u8]) -> Option<&mut Self::Head> {
        bytes.first_chunk_mut()
    }
    #[inline(always)]
    fn load(self, bytes: &Self::Bytes) -> __m256i {
        cpu!(_mm256_loadu_si256(bytes.as_ptr().cast()))
    }
    #[inline(always)]
    fn store(self, bytes: &mut Self::Bytes, vector: __m256i) {
        cpu!(_mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector))
    }
    #[inline(always)]
    fn with_head(self, first: __m128i, head: &Self::Head) -> __m256i {
        let second = self.0.load(head);
        cpu!(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second))
    }
    #[inline(always)]
    fn store_head(self, head: &mut Self::Head, vector: __m256i) {
        self.0.store(head, cpu!(_mm256_extracti128_si256::<1>(vector)));
    }
    #[inline(always)]
    fn broadcast(self, block: &[u8; BLOCK]) -> __m256i {
        let block = self.0.load(block);
        cpu!(_mm256_broadcastsi128_si256(block))
    }
    #[inline(always)]
    fn mask(self, bytes: usize) -> __m256i {
        let at = 32 - bytes.min(32);
        ONES_THEN_ZEROS[at..].first_chunk().map_or(self.zero(), |bytes| self.load(bytes))
    }
    #[inline(always)]
    fn counters(self, block: usize) -> __m256i {
        let words = cpu!({
            let lanes = _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 1);
            _mm256_add_epi32(lanes, _mm256_set1_epi32(block as i32))
        });
        let big_endian = self.broadcast(&COUNTER);
        cpu!(_mm256_shuffle_epi8(words, big_endian))
    }
    #[inline(always)]
    fn zero(self) -> __m256i {
        cpu!(_mm256_setzero_si256())
    }
    #[inline(always)]
    fn first(self, block: __m128i) -> __m256i {
        cpu!(_mm256_zextsi128_si256(block))
    }
    #[inline(always)]
    fn with_first(self, vector: __m256i, block: __m128i) -> __m256i {
        cpu!(_mm256_blend_epi32::<0b0000_1111>(vector, _mm256_castsi128_si256(block)))
    }
    #[inline(always)]
    fn with_second(self, vector: __m256i, block: __m128i) -> __m256i {
        cpu!(_mm256_inserti128_si256::<1>(vector, block))
    }
    #[inline(always)]
    fn lane(self, vector: __m256i) -> __m128i {
        cpu!(_mm256_castsi256_si128(vector))
    }
    #[inline(always)]
    fn second(self, vector: __m256i) -> __m128i {
        cpu!(_mm256_extracti128_si256::<1>(vector))
    }
    #[inline(always)]
    fn fold(self, vector: __m256i) -> __m128i {
        cpu!(_mm_xor_si128(_mm256_castsi256_si128(vector), _mm256_extracti128_si256::<1>(vector)))
    }
    #[inline(always)]
    fn gather(self, a: __m256i, b: __m256i) -> __m256i {
        cpu!({
            _mm256_xor_si256(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
        })
    }
    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        cpu!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        cpu!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn reflect(self, vector: __m256i) -> __m256i {
        let reverse = self.broadcast(&REVERSE);
        cpu!(_mm256_shuffle_epi8(vector, reverse))
    }
    #[inline(always)]
    fn swap(self, vector: __m256i) -> __m256i {
        cpu!(_mm256_shuffle_epi32::<0b01_00_11_10>(vector))
    }
    #[inline(always)]
    fn round(self, state: __m256i, key: __m256i) -> __m256i {
        cpu!(_mm256_aesenc_epi128(state, key))
    }
    #[inline(always)]
    fn last_round(self, state: __m256i, key: __m256i) -> __m256i {
        cpu!(_mm256_aesenclast_epi128(state, key))
    }
    #[inline(always)]
    fn multiply_low(self, a: __m256i, b: __m256i) -> __m256i {
        cpu!(_mm256_clmulepi64_epi128::<0x00>(a, b))
    }
    #[inline(always)]
    fn multiply_high(self, a: __m256i, b: __m256i) -> __m256i {
        cpu!(_mm256_clmulepi64_epi128::<0x11>(a, b))
    }
}
