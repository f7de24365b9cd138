//! GHASH (NIST SP 800-38D s6.4) on bit-reflected blocks, four lanes at a time, with one reduction for many
//! products.
//!
//! A block is reflected by reversing its bytes, and a power of H is kept multiplied by x, so that the product of
//! the two comes out of carry-less multiplication in place (Gueron and Kounavis). Products are by Karatsuba's three
//! multiplications: PCLMULQDQ is what binds (one in two cycles at every width on Zen 4 and 5).

use std::arch::x86_64::*;

use super::lanes::{BLOCK, VECTOR, broadcast, broadcast_half, load};

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

/// `vector` with lane 0 replaced.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn with_first(vector: __m512i, block: __m128i) -> __m512i {
    _mm512_mask_mov_epi64(vector, 0b11, _mm512_zextsi128_si512(block))
}

/// Reverses the bytes of a block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn reflect_block(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, _mm512_castsi512_si128(byte_reverse()))
}

/// Powers of H, one to a lane.
#[derive(Clone, Copy)]
pub struct Power {
    whole: __m512i,
    /// Both halves added, in the lower half; what the upper half holds is not used.
    folded: __m512i,
}

impl Power {
    /// One power in every lane.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn everywhere(block: &[u8; BLOCK]) -> Self {
        let whole = broadcast(block);
        let upper = block.last_chunk().map_or(_mm512_setzero_si512(), |half| broadcast_half(half));
        Self { whole, folded: _mm512_xor_si512(whole, upper) }
    }

    /// Four powers in a row. The upper halves are brought down by loading once more, eight bytes on.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn lanes(bytes: &[u8; VECTOR + 8]) -> Self {
        let zero = _mm512_setzero_si512();
        let whole = bytes.first_chunk().map_or(zero, |bytes| load(bytes));
        let upper = bytes.last_chunk().map_or(zero, |bytes| load(bytes));
        Self { whole, folded: _mm512_xor_si512(whole, upper) }
    }
}

/// A sum of products, not yet reduced: four lanes of 256 bits each, in three overlapping parts.
#[derive(Clone, Copy)]
pub struct Products {
    low: __m512i,
    /// Less the other two, until it is reduced.
    middle: __m512i,
    high: __m512i,
}

impl Products {
    /// The sum of no products.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn none() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

    /// Lane by lane, `data` times `power`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn of(data: __m512i, power: Power) -> Self {
        let folded = _mm512_xor_si512(data, _mm512_shuffle_epi32::<SWAP>(data));
        Self {
            low: _mm512_clmulepi64_epi128::<0x00>(data, power.whole),
            middle: _mm512_clmulepi64_epi128::<0x00>(folded, power.folded),
            high: _mm512_clmulepi64_epi128::<0x11>(data, power.whole),
        }
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
        let middle = _mm512_xor_si512(self.middle, _mm512_xor_si512(self.low, self.high));
        fold(fold(self.low, middle), self.high)
    }
}

/// The sums of the lanes of four, reduced, one to a lane: so four packets share one reduction.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn reduce_four([a, b, c, d]: &[Products; 4]) -> __m512i {
    let low = gather(a.low, b.low, c.low, d.low);
    let middle = gather(a.middle, b.middle, c.middle, d.middle);
    let high = gather(a.high, b.high, c.high, d.high);
    Products { low, middle, high }.reduce()
}

/// Lane i is the sum of the lanes of argument i.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn gather(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    let halves = |a, b| {
        let lower = _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b);
        _mm512_xor_si512(lower, _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b))
    };
    let (ab, cd) = (halves(a, b), halves(c, d));
    let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(ab, cd);
    _mm512_xor_si512(even, _mm512_shuffle_i64x2::<0b11_01_11_01>(ab, cd))
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn fold_lanes(lanes: __m512i) -> __m128i {
    let pair = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
    _mm_xor_si128(_mm256_castsi256_si128(pair), _mm256_extracti128_si256::<1>(pair))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn byte_reverse() -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
}
