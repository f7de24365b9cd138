//! GHASH of packets, from vectors of reflected blocks.
//!
//! A short packet is a sum of products with powers of H lane by lane, down to H^1 for the length block. A longer one is, but for its
//! last vector, a polynomial in H^4, one in each lane, so that whole batches need one power for all lanes; then its sum and the last
//! vector get powers lane by lane.

use std::arch::x86_64::*;

use super::ghash::{Products, reduce_four, reflect};
use super::lanes::{BATCH, load_words};
use super::stream::Ending;
use crate::crypto::vaes::frame::Block;
use crate::crypto::vaes::key::VaesKey;

/// The hash of a packet of N vectors, four at most, to be reduced and its lanes added.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn short<const N: usize>(
    key: &VaesKey,
    mut data: [__m512i; N],
    ending: Ending,
    lengths: &Block,
) -> Products {
    data[N - 1] = ending.with_lengths(data[N - 1], lengths);
    let blocks = 4 * (N - 1) + ending.blocks();
    let mut products = Products::of(data[0], key.consecutive(blocks, 0));
    for n in 1..N {
        products = products.plus(Products::of(data[n], key.consecutive(blocks, n)));
    }
    with_lone_lengths(key, products, ending, lengths)
}

/// The hash of a packet from its polynomial in H^4 and its last vector.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn long(key: &VaesKey, sum: __m512i, last: __m512i, ending: Ending, lengths: &Block) -> Products {
    let last = ending.with_lengths(last, lengths);
    let blocks = ending.blocks() + 4;
    let products = Products::of(sum, key.consecutive(blocks, 0));
    let products = products.plus(Products::of(last, key.consecutive(blocks, 1)));
    with_lone_lengths(key, products, ending, lengths)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn with_lone_lengths(key: &VaesKey, products: Products, ending: Ending, lengths: &Block) -> Products {
    if ending.has_room() {
        return products;
    }
    products.plus(Products::of(_mm512_zextsi128_si512(load_words(lengths)), key.consecutive(1, 0)))
}

/// The ICVs of four packets, from their hashes and what those are masked with.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn icvs([a, b, c, d]: &[(Products, __m128i); 4]) -> [__m128i; 4] {
    let hashes = reflect(reduce_four(&[a.0, b.0, c.0, d.0]));
    [
        _mm_xor_si128(_mm512_castsi512_si128(hashes), a.1),
        _mm_xor_si128(_mm512_extracti32x4_epi32::<1>(hashes), b.1),
        _mm_xor_si128(_mm512_extracti32x4_epi32::<2>(hashes), c.1),
        _mm_xor_si128(_mm512_extracti32x4_epi32::<3>(hashes), d.1),
    ]
}

/// The hash of a longer packet, batch by batch.
#[derive(Clone, Copy)]
pub struct Running {
    /// What the batches so far came to, if there were any.
    pub sum: Option<__m512i>,
    /// Of the steps of the batch so far.
    pub products: Products,
}

impl Running {
    /// Before a batch.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(sum: Option<__m512i>) -> Self {
        Self { sum, products: Products::none() }
    }
}

/// A step, 1 to 9, of adding a batch to a [`Running`] hash, to be done beside the rounds of AES. `data` are eight vectors, of which
/// the first `empty` are zero.
macro_rules! batch_step {
    ($running:ident, $key:expr, $data:expr, $empty:expr, $step:literal) => {
        match $step {
            1 => {
                if let Some(sum) = $running.sum {
                    $running.products = Products::of(sum, $key.fourth(8));
                }
            }
            9 => $running.sum = Some(_mm512_xor_si512($running.products.reduce(), $data[7])),
            _ => {
                if $step - 2 >= $empty {
                    let product = Products::of($data[$step - 2], $key.fourth(9 - $step));
                    $running.products = $running.products.plus(product);
                }
            }
        }
    };
}
pub(super) use batch_step;

/// The vectors of a packet's first batch that are to be hashed with it, zeros before them, and the one that is left to the next.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn first_of<const N: usize>(vectors: [__m512i; N]) -> ([__m512i; BATCH], __m512i) {
    let mut data = [_mm512_setzero_si512(); BATCH];
    for n in 1..N {
        data[BATCH + n - N] = vectors[n - 1];
    }
    (data, vectors[N - 1])
}

/// The same for a later batch, before which `left` was left.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn next_of(left: __m512i, vectors: [__m512i; BATCH]) -> ([__m512i; BATCH], __m512i) {
    let mut data = [left; BATCH];
    data[1..].copy_from_slice(&vectors[..BATCH - 1]);
    (data, vectors[BATCH - 1])
}
