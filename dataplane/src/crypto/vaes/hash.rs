//! GHASH of packets, from vectors of reflected blocks.

use std::arch::x86_64::*;

use super::frame::with_lengths;
use super::ghash::{Products, fold_lanes};
use super::key::VaesKey;

/// Adds four vectors to a sum of four lanes, each lane a polynomial in H^4.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn absorb(key: &VaesKey, sum: Option<__m512i>, data: &[__m512i; 4]) -> __m512i {
    let mut products = Products::of(data[0], key.power(12));
    products = products.plus(Products::of(data[1], key.power(8)));
    products = products.plus(Products::of(data[2], key.power(4)));
    if let Some(sum) = sum {
        products = products.plus(Products::of(sum, key.power(16)));
    }
    _mm512_xor_si512(products.reduce(), data[3])
}

/// Adds two vectors.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn absorb_two(key: &VaesKey, sum: Option<__m512i>, data: [__m512i; 2]) -> __m512i {
    let mut products = Products::of(data[0], key.power(4));
    if let Some(sum) = sum {
        products = products.plus(Products::of(sum, key.power(8)));
    }
    _mm512_xor_si512(products.reduce(), data[1])
}

/// The hash of a packet, reflected. `data` are its last vectors, which with the length block have `blocks` blocks;
/// `sum` is what the vectors before came to.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn finish<const N: usize>(
    key: &VaesKey,
    mut sum: Option<__m512i>,
    data: [__m512i; N],
    mut blocks: usize,
    lengths: __m128i,
) -> __m128i {
    let mut data = data.as_slice();
    if let [a, b, c, d, rest @ ..] = data
        && N > 4
    {
        sum = Some(absorb(key, sum, &[*a, *b, *c, *d]));
        (data, blocks) = (rest, blocks - 16);
    }
    // A sum counts as one more vector, and so does a length block that finds no lane left. There are 16 powers: what
    // would need more is shortened.
    if let [a, b, rest @ ..] = data
        && data.len() == 4
        && (sum.is_some() || blocks > 16)
    {
        sum = Some(absorb_two(key, sum, [*a, *b]));
        (data, blocks) = (rest, blocks - 8);
    }
    let (total, index) = if sum.is_some() { (blocks + 4, 1) } else { (blocks, 0) };
    let mut products = sum.map_or(Products::none(), |sum| Products::of(sum, key.powers(total, 0)));
    for (n, vector) in data.iter().enumerate() {
        // The length block is in the last vector or, where their number was rounded up, in the one before.
        let may_hold = n + 1 + usize::from(N > 4 || index == 1) >= data.len();
        let vector = if may_hold { with_lengths(*vector, n, blocks, lengths) } else { *vector };
        products = products.plus(Products::of(vector, key.powers(total, index + n)));
    }
    if blocks > 4 * data.len() {
        products = products.plus(Products::of(_mm512_zextsi128_si512(lengths), key.powers(1, 0)));
    }
    fold_lanes(products.reduce())
}
