//! GHASH of packets, from vectors of reflected blocks.
//!
//! Until its last four vectors a packet is a polynomial in H^4, one in each lane, so that whole batches need one
//! power for all lanes. The last vectors get powers lane by lane, down to H^1 for the length block.

use std::arch::x86_64::*;

use super::ghash::Products;
use super::lanes::load_words;
use super::stream::with_lengths;
use crate::crypto::vaes::frame::Block;
use crate::crypto::vaes::key::VaesKey;

/// Adds up to seven vectors to a sum.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn absorb(key: &VaesKey, sum: Option<__m512i>, data: &[__m512i]) -> Option<__m512i> {
    let [first @ .., last] = data else { return sum };
    let mut products = sum.map_or(Products::none(), |sum| Products::of(sum, key.fourth(data.len())));
    for (n, vector) in first.iter().enumerate() {
        products = products.plus(Products::of(*vector, key.fourth(first.len() - n)));
    }
    Some(_mm512_xor_si512(products.reduce(), *last))
}

/// The hash of a packet, to be reduced and its lanes added. `data` are its last vectors, eight at most, which with the
/// length block have `blocks` blocks; `sum` is what the vectors before came to. `slack` is how many vectors more
/// than needed there may be.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn finish<const N: usize>(
    key: &VaesKey,
    sum: Option<__m512i>,
    data: &[__m512i; N],
    blocks: usize,
    slack: usize,
    lengths: &Block,
) -> Products {
    if blocks > 4 * N {
        // The length block has no lane left.
        let sum = absorb(key, sum, data).unwrap_or(_mm512_setzero_si512());
        let last = Products::of(_mm512_zextsi128_si512(load_words(lengths)), key.consecutive(1, 0));
        return Products::of(sum, key.consecutive(5, 0)).plus(last);
    }
    let (early, data) = data.split_at(N.saturating_sub(4));
    let sum = absorb(key, sum, early);
    let blocks = blocks - 4 * early.len();
    let (total, index) = if sum.is_some() { (blocks + 4, 1) } else { (blocks, 0) };
    let mut products = sum.map_or(Products::none(), |sum| Products::of(sum, key.consecutive(total, 0)));
    for (n, vector) in data.iter().enumerate() {
        let may_hold = n + 1 + slack >= data.len();
        let vector = if may_hold { with_lengths(*vector, n, blocks, lengths) } else { *vector };
        products = products.plus(Products::of(vector, key.consecutive(total, index + n)));
    }
    products
}

/// The hash of a batch of eight vectors, in nine steps to be done beside the rounds of AES.
pub struct Batch {
    /// What the batches before came to; after the last step, with this one.
    pub sum: Option<__m512i>,
    /// Of the steps so far.
    pub products: Products,
}

impl Batch {
    /// To add to a sum.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(sum: Option<__m512i>) -> Self {
        Self { sum, products: Products::none() }
    }
}

/// A step, 1 to 9, of a [`Batch`] of `data`.
macro_rules! batch_step {
    ($batch:ident, $key:expr, $data:expr, $step:literal) => {
        match $step {
            1 => {
                if let Some(sum) = $batch.sum {
                    $batch.products = Products::of(sum, $key.fourth(8));
                }
            }
            9 => $batch.sum = Some(_mm512_xor_si512($batch.products.reduce(), $data[7])),
            _ => {
                let product = Products::of($data[$step - 2], $key.fourth(9 - $step));
                $batch.products = $batch.products.plus(product);
            }
        }
    };
}
pub(super) use batch_step;
