//! A packet as a stream of vectors: its parts, its counter blocks, its length block.

use std::arch::x86_64::*;

use super::lanes::{BLOCK, load, load_words};
use crate::crypto::vaes::counters::COUNTERS;
use crate::crypto::vaes::frame::{self, Block, Body};
use crate::crypto::vaes::key::VaesKey;

/// A packet for these kernels.
pub type Frame<'p> = frame::Frame<'p, Parts<'p>>;

/// Payload and ICV apart. Masks keep loads and stores from crossing between them.
pub struct Parts<'p> {
    /// Plaintext or ciphertext.
    pub payload: &'p mut [u8],
    /// As long as the key says.
    pub icv: &'p mut [u8],
}

impl<'p> Body<'p> for Parts<'p> {
    #[inline(always)]
    fn new(rest: &'p mut [u8], icv_len: usize) -> Option<Self> {
        let (payload, icv) = rest.split_at_mut_checked(rest.len().checked_sub(icv_len)?)?;
        Some(Self { payload, icv })
    }

    #[inline(always)]
    fn payload_len(&self) -> usize {
        self.payload.len()
    }
}

impl Frame<'_> {
    /// Blocks of the stream: header, payload, length block.
    #[inline]
    pub fn blocks(&self) -> usize {
        (self.body.payload.len() + 15) / BLOCK + 2
    }
}

/// Puts the length block into vector `index` if its lane is there: it is the last of a stream of `blocks`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn with_lengths(vector: __m512i, index: usize, blocks: usize, lengths: &Block) -> __m512i {
    let halves = 0b11u64 << (2 * (blocks - 1));
    _mm512_mask_broadcast_i64x2(vector, (halves >> (8 * index)) as u8, load_words(lengths))
}

/// The counter blocks of a packet, after the first key addition.
#[derive(Clone, Copy)]
pub struct Counters {
    base: __m512i,
}

impl Counters {
    /// For a [`Frame::nonce`].
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(key: &VaesKey, nonce: &Block) -> Self {
        Self { base: _mm512_xor_si512(key.whitening(), _mm512_broadcast_i32x4(load_words(nonce))) }
    }

    /// Vectors `first` to `first + N - 1` of the stream; `first` is a multiple of eight.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn batch<const N: usize>(self, first: usize) -> [__m512i; N] {
        let mut states = [self.base; N];
        match COUNTERS.0.get(first..).and_then(<[_]>::first_chunk::<N>) {
            Some(rows) => {
                for n in 0..N {
                    states[n] = _mm512_xor_si512(self.base, load(&rows[n]));
                }
            }
            None => {
                for n in 0..N {
                    states[n] = _mm512_xor_si512(self.base, computed(first + n));
                }
            }
        }
        states
    }
}

/// Counters of a longer packet.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn computed(vector: usize) -> __m512i {
    let first = (vector * 4) as u32;
    let lanes = _mm512_set_epi32(4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0);
    let counters = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
    // Word 3 big-endian, the others zero.
    let word_3 = _mm_set_epi8(12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    _mm512_shuffle_epi8(counters, _mm512_broadcast_i32x4(word_3))
}
