//! Vectors of one block: AES-NI and PCLMULQDQ, in the three-operand form of AVX.

use std::arch::x86_64::*;

use super::ghash::expand_powers;
use super::isa::{COUNTER, Isa, ONES_THEN_ZEROS, REVERSE, cpu};
use crate::crypto::vaes::detect;
use crate::crypto::vaes::frame::BLOCK;
use crate::crypto::vaes::schedule::{self, ROUND_KEYS, Rounds};

/// AES-NI and PCLMULQDQ with AVX.
#[derive(Clone, Copy, Debug)]
pub struct AesNi(());

impl AesNi {
    /// The proof, or what the CPU misses.
    pub(in crate::crypto::vaes) fn detect() -> Result<Self, String> {
        detect!(Self(()); "avx", "aes", "pclmulqdq")
    }

    /// Expands a key of 16, 24 or 32 bytes into `keys`.
    pub(in crate::crypto) fn expand_key(
        self,
        key: &[u8],
        rounds: Rounds,
        keys: &mut [[u8; BLOCK]; ROUND_KEYS],
    ) {
        #[target_feature(enable = "avx,aes,pclmulqdq")]
        fn inner(key: &[u8], rounds: Rounds, keys: &mut [[u8; BLOCK]; ROUND_KEYS]) {
            let sub_word =
                |word| _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(word as i32))) as u32;
            schedule::expand(sub_word, key, rounds, keys);
        }
        // SAFETY: an `AesNi` exists only when the CPU has all the features.
        unsafe { inner(key, rounds, keys) }
    }

    /// Fills `powers` with the powers of H, the highest first, and `high` with every fourth one above them.
    pub(in crate::crypto::vaes) fn expand_powers(
        self,
        rounds: Rounds,
        keys: &[[u8; BLOCK]; ROUND_KEYS],
        powers: &mut [[u8; BLOCK]],
        high: &mut [[u8; BLOCK]],
    ) {
        #[target_feature(enable = "avx,aes,pclmulqdq")]
        fn inner(
            isa: AesNi,
            rounds: Rounds,
            keys: &[[u8; BLOCK]; ROUND_KEYS],
            powers: &mut [[u8; BLOCK]],
            high: &mut [[u8; BLOCK]],
        ) {
            let mut hash_key = isa.load(&keys[0]);
            for key in &keys[1..rounds.count()] {
                hash_key = isa.round(hash_key, isa.load(key));
            }
            hash_key = isa.last_round(hash_key, isa.load(&keys[rounds.count()]));
            expand_powers(isa, hash_key, powers, high);
        }
        // SAFETY: an `AesNi` exists only when the CPU has all the features.
        unsafe { inner(self, rounds, keys, powers, high) }
    }

    /// Whether the first `bytes` bytes of two blocks are the same. All are compared at once.
    #[inline(always)]
    pub(super) fn equal(self, a: __m128i, b: __m128i, bytes: usize) -> bool {
        let difference = self.and(self.xor(a, b), self.mask(bytes));
        cpu!(_mm_testz_si128(difference, difference)) == 1
    }

    /// Up to 16 bytes, zeros behind.
    #[inline(always)]
    pub(super) fn load_start(self, bytes: &[u8]) -> __m128i {
        match bytes.first_chunk() {
            Some(whole) => self.load(whole),
            None => {
                let mut buffer = [0; BLOCK];
                buffer[..bytes.len()].copy_from_slice(bytes);
                self.load(&buffer)
            }
        }
    }

    /// Writes as many bytes of `block` as the slice has, 16 at most.
    #[inline(always)]
    pub(super) fn store_start(self, bytes: &mut [u8], block: __m128i) {
        match bytes.first_chunk_mut() {
            Some(whole) => self.store(whole, block),
            None => {
                let mut buffer = [0; BLOCK];
                self.store(&mut buffer, block);
                let len = bytes.len();
                bytes.copy_from_slice(&buffer[..len]);
            }
        }
    }

    /// The halves of a block.
    #[inline(always)]
    pub(super) fn halves(self, block: __m128i) -> [u64; 2] {
        let mut bytes = [0; BLOCK];
        self.store(&mut bytes, block);
        let value = u128::from_le_bytes(bytes);
        [value as u64, (value >> 64) as u64]
    }

    /// A block of its halves.
    #[inline(always)]
    pub(super) fn block(self, halves: &[u64; 2]) -> __m128i {
        cpu!(_mm_loadu_si128(halves.as_ptr().cast()))
    }
}

impl Isa for AesNi {
    type Vector = __m128i;
    type Bytes = [u8; BLOCK];
    type Head = [u8; 0];
    const LANES: usize = 1;

    #[inline(always)]
    fn least(self) -> AesNi {
        self
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
    fn load(self, bytes: &Self::Bytes) -> __m128i {
        cpu!(_mm_loadu_si128(bytes.as_ptr().cast()))
    }
    #[inline(always)]
    fn store(self, bytes: &mut Self::Bytes, vector: __m128i) {
        cpu!(_mm_storeu_si128(bytes.as_mut_ptr().cast(), vector))
    }
    #[inline(always)]
    fn with_head(self, first: __m128i, _: &Self::Head) -> __m128i {
        first
    }
    #[inline(always)]
    fn store_head(self, _: &mut Self::Head, _: __m128i) {}
    #[inline(always)]
    fn broadcast(self, block: &[u8; BLOCK]) -> __m128i {
        self.load(block)
    }
    #[inline(always)]
    fn mask(self, bytes: usize) -> __m128i {
        let at = 32 - bytes.min(BLOCK);
        ONES_THEN_ZEROS[at..].first_chunk().map_or(self.zero(), |bytes| self.load(bytes))
    }
    #[inline(always)]
    fn counters(self, block: usize) -> __m128i {
        let big_endian = self.load(&COUNTER);
        cpu!(_mm_shuffle_epi8(_mm_cvtsi32_si128(block as i32 + 1), big_endian))
    }
    #[inline(always)]
    fn zero(self) -> __m128i {
        cpu!(_mm_setzero_si128())
    }
    #[inline(always)]
    fn first(self, block: __m128i) -> __m128i {
        block
    }
    #[inline(always)]
    fn with_first(self, _: __m128i, block: __m128i) -> __m128i {
        block
    }
    #[inline(always)]
    fn with_second(self, vector: __m128i, _: __m128i) -> __m128i {
        vector
    }
    #[inline(always)]
    fn lane(self, vector: __m128i) -> __m128i {
        vector
    }
    #[inline(always)]
    fn second(self, vector: __m128i) -> __m128i {
        vector
    }
    #[inline(always)]
    fn fold(self, vector: __m128i) -> __m128i {
        vector
    }
    #[inline(always)]
    fn gather(self, a: __m128i, _: __m128i) -> __m128i {
        a
    }
    #[inline(always)]
    fn xor(self, a: __m128i, b: __m128i) -> __m128i {
        cpu!(_mm_xor_si128(a, b))
    }
    #[inline(always)]
    fn and(self, a: __m128i, b: __m128i) -> __m128i {
        cpu!(_mm_and_si128(a, b))
    }
    #[inline(always)]
    fn reflect(self, vector: __m128i) -> __m128i {
        let reverse = self.load(&REVERSE);
        cpu!(_mm_shuffle_epi8(vector, reverse))
    }
    #[inline(always)]
    fn swap(self, vector: __m128i) -> __m128i {
        cpu!(_mm_shuffle_epi32::<0b01_00_11_10>(vector))
    }
    #[inline(always)]
    fn round(self, state: __m128i, key: __m128i) -> __m128i {
        cpu!(_mm_aesenc_si128(state, key))
    }
    #[inline(always)]
    fn last_round(self, state: __m128i, key: __m128i) -> __m128i {
        cpu!(_mm_aesenclast_si128(state, key))
    }
    #[inline(always)]
    fn multiply_low(self, a: __m128i, b: __m128i) -> __m128i {
        cpu!(_mm_clmulepi64_si128::<0x00>(a, b))
    }
    #[inline(always)]
    fn multiply_high(self, a: __m128i, b: __m128i) -> __m128i {
        cpu!(_mm_clmulepi64_si128::<0x11>(a, b))
    }
}
