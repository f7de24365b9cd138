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

/// A short packet that went through AES, with its hash.
#[derive(Clone, Copy)]
pub struct Hashed {
    /// The hash, not yet reduced.
    pub products: Products,
    /// What the ICV is masked with.
    pub mask: __m128i,
    /// Whether it did.
    pub done: bool,
}

impl Hashed {
    /// No packet, or one that did not.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn nothing() -> Self {
        Self { products: Products::none(), mask: _mm_setzero_si128(), done: false }
    }
}

/// The ICVs of four packets.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn icvs([a, b, c, d]: [Hashed; 4]) -> [__m128i; 4] {
    let hashes = reflect(reduce_four(&[a.products, b.products, c.products, d.products]));
    [
        _mm_xor_si128(_mm512_castsi512_si128(hashes), a.mask),
        _mm_xor_si128(_mm512_extracti32x4_epi32::<1>(hashes), b.mask),
        _mm_xor_si128(_mm512_extracti32x4_epi32::<2>(hashes), c.mask),
        _mm_xor_si128(_mm512_extracti32x4_epi32::<3>(hashes), d.mask),
    ]
}

/// The hash of a longer packet, batch by batch.
#[derive(Clone, Copy)]
pub struct Running {
    /// What the batches so far came to, if there were any.
    pub sum: Option<__m512i>,
    /// Of the steps of the batch so far.
    products: Products,
}

impl Running {
    /// Before a batch.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(sum: Option<__m512i>) -> Self {
        Self { sum, products: Products::none() }
    }

    /// Step 1, 2 to 8 or 9 of adding a batch. `data` are eight vectors, of which the first `empty` are zero.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn step(&mut self, key: &VaesKey, data: &[__m512i; BATCH], empty: usize, step: usize) {
        match step {
            1 => {
                if let Some(sum) = self.sum {
                    self.products = Products::of(sum, key.fourth(8));
                }
            }
            9 => self.sum = Some(_mm512_xor_si512(self.products.reduce(), data[7])),
            _ => {
                if step - 2 >= empty {
                    self.products = self.products.plus(Products::of(data[step - 2], key.fourth(9 - step)));
                }
            }
        }
    }
}

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
