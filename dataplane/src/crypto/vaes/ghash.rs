//! GHASH (NIST SP 800-38D s6.4) on bit-reflected blocks, four lanes at a time, with one reduction for many
//! products.
//!
//! A block is reflected by reversing its bytes, and a power of H is kept multiplied by x, so that the product of
//! the two comes out of carry-less multiplication in place (Gueron and Kounavis). Products are by Karatsuba: PCLMULQDQ is what
//! binds a packet (one in two cycles at every width on Zen 4 and 5), shuffles and XORs run beside it.

use std::arch::x86_64::*;

use super::lanes::BLOCK;

/// The field's polynomial x^128 + x^7 + x^2 + x + 1, reflected, without its ends.
const POLYNOMIAL: i64 = 0xc200_0000_0000_0000_u64 as i64;

/// Swaps the halves of each lane.
const SWAP: i32 = 0b01_00_11_10;

/// Reverses the bytes of each lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn reflect(vector: __m512i) -> __m512i {
    _mm512_shuffle_epi8(vector, byte_reverse())
}

/// [`reflect`], with lane 0 replaced by `block`, which is reflected already.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn reflect_with_first(vector: __m512i, block: __m128i) -> __m512i {
    _mm512_mask_shuffle_epi8(_mm512_zextsi128_si512(block), !0xffff, vector, byte_reverse())
}

/// Reverses the bytes of a block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn reflect_block(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, _mm512_castsi512_si128(byte_reverse()))
}

/// A sum of products, not yet reduced: four lanes of 256 bits each, in three overlapping parts.
#[derive(Clone, Copy)]
pub struct Products {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Products {
    /// Lane by lane, `data` times `powers`, by Karatsuba's three multiplications.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn of(data: __m512i, powers: __m512i) -> Self {
        let (d, p) = (fold_halves(data), fold_halves(powers));
        let low = _mm512_clmulepi64_epi128::<0x00>(data, powers);
        let high = _mm512_clmulepi64_epi128::<0x11>(data, powers);
        let middle = _mm512_clmulepi64_epi128::<0x00>(d, p);
        Self { low, middle: _mm512_xor_si512(middle, _mm512_xor_si512(low, high)), high }
    }

    /// The sum of no products.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn none() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

    /// The sum of two.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn plus(self, other: Self) -> Self {
        Self {
            low: _mm512_xor_si512(self.low, other.low),
            middle: _mm512_xor_si512(self.middle, other.middle),
            high: _mm512_xor_si512(self.high, other.high),
        }
    }

    /// Each lane modulo the polynomial.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn reduce(self) -> __m512i {
        let polynomial = _mm512_set1_epi64(POLYNOMIAL);
        let fold = |part: __m512i, into: __m512i| {
            let product = _mm512_clmulepi64_epi128::<0x00>(part, polynomial);
            _mm512_xor_si512(_mm512_xor_si512(into, product), _mm512_shuffle_epi32::<SWAP>(part))
        };
        fold(fold(self.low, self.middle), self.high)
    }
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn fold_lanes(lanes: __m512i) -> __m128i {
    let pair = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
    _mm_xor_si128(_mm256_castsi256_si128(pair), _mm256_extracti128_si256::<1>(pair))
}

/// Fills `powers` with the powers of H, the highest first, so that H^1 stands next to what follows.
/// `hash_key` is H as it comes out of AES.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn expand_powers(hash_key: __m128i, powers: &mut [[u8; BLOCK]]) {
    let first = times_x(reflect_block(hash_key));
    let mut power = first;
    for bytes in powers.iter_mut().rev() {
        super::lanes::store_block(bytes, power);
        let lanes = _mm512_zextsi128_si512;
        power = _mm512_castsi512_si128(Products::of(lanes(power), lanes(first)).reduce());
    }
}

/// Both halves of each lane become their sum.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn fold_halves(vector: __m512i) -> __m512i {
    _mm512_xor_si512(vector, _mm512_shuffle_epi32::<SWAP>(vector))
}

/// Multiplies a reflected block by x: a shift to the left by one, and the polynomial if a one fell out.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn times_x(block: __m128i) -> __m128i {
    let (high, low) = (_mm_extract_epi64::<1>(block) as u64, _mm_cvtsi128_si64(block) as u64);
    let carry = (high >> 63).wrapping_neg();
    let high = (high << 1 | low >> 63) ^ (carry & POLYNOMIAL as u64);
    let low = low << 1 | carry & 1;
    _mm_set_epi64x(high as i64, low as i64)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn byte_reverse() -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
}
