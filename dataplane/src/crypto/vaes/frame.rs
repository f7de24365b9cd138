//! An ESP packet as AES-GCM sees it (RFC 4106, RFC 8750).
//!
//! Header, payload and length block are one stream of blocks, four to a vector. The header is block 0: its lane
//! of the counter vector is counter 1, whose keystream masks the ICV, and its lane of GHASH is the AAD, so that
//! payload and counters line up lane for lane. The length block follows the payload.

use std::arch::x86_64::*;

use super::key::VaesKey;
use super::lanes::{BLOCK, VECTOR, load};

/// A packet, split.
pub struct Frame<'p> {
    /// Absent when implicit.
    pub iv: Option<&'p mut [u8; 8]>,
    /// Plaintext or ciphertext.
    pub payload: &'p mut [u8],
    /// As long as the key says.
    pub icv: &'p mut [u8],
    /// What the nonce has as IV when it is the sequence number (RFC 4106 s3.1, RFC 8750 s4), as it is in memory.
    pub nonce_iv: u64,
    /// SPI and sequence number, reflected.
    pub aad: __m128i,
    /// Length block, reflected.
    pub lengths: __m128i,
}

/// Length of SPI and sequence number.
const HEADER: usize = 8;

impl<'p> Frame<'p> {
    /// Splits a packet. `None` when it is too short.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn split(key: &VaesKey, packet: &'p mut [u8], seq: u64) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk_mut::<HEADER>()?;
        let (iv, rest) = rest.split_at_mut_checked(key.iv_len())?;
        let (payload, icv) = rest.split_at_mut_checked(rest.len().checked_sub(key.icv_len())?)?;
        let header = u64::from_be_bytes(*header);
        // RFC 4106 s5: `SPI | sequence`, with ESN its upper half between them.
        let aad = if key.esn() {
            let (spi, low) = (header >> 32 << 32, header << 32);
            _mm_set_epi64x((spi | seq >> 32) as i64, low as i64)
        } else {
            _mm_set_epi64x(header as i64, 0)
        };
        let lengths = _mm_set_epi64x(key.aad_bits() as i64, payload.len() as i64 * 8);
        let nonce_iv = u64::from_ne_bytes(seq.to_be_bytes());
        Some(Self { iv: iv.try_into().ok(), payload, icv, nonce_iv, aad, lengths })
    }
}

/// Puts the length block into vector `index` if its lane is there: it is the last of a stream of `blocks`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn with_lengths(vector: __m512i, index: usize, blocks: usize, lengths: __m128i) -> __m512i {
    let halves = 0b11u64 << (2 * (blocks - 1));
    _mm512_mask_broadcast_i64x2(vector, (halves >> (8 * index)) as u8, lengths)
}

/// The counter blocks of a packet, after the first key addition.
#[derive(Clone, Copy)]
pub struct Counters {
    base: __m512i,
}

impl Counters {
    /// For an IV as it is in memory.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(key: &VaesKey, iv: u64) -> Self {
        // Nonce and counter are `salt | IV | counter`: the IV is words 1 and 2, so its halves swap.
        let iv = _mm512_maskz_mov_epi32(IV_WORDS, _mm512_set1_epi64(iv.rotate_left(32) as i64));
        Self { base: _mm512_xor_si512(key.whitening(), iv) }
    }

    /// Vectors `first` to `first + N - 1` of the stream; `first` is a multiple of eight.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn batch<const N: usize>(self, first: usize) -> [__m512i; N] {
        let mut states = [self.base; N];
        match COUNTERS.0.get(first..).and_then(<[_]>::first_chunk::<N>) {
            // Counters are added to the nonce rather than written, so one table serves all: one operation a vector.
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

/// Words 1 and 2 of each lane.
const IV_WORDS: __mmask16 = 0b0110_0110_0110_0110;

/// Counters for the first 4 KB of a packet, as they stand in memory.
#[repr(align(64))]
struct CounterTable([[u8; VECTOR]; 64]);

static COUNTERS: CounterTable = CounterTable({
    let mut table = [[0; VECTOR]; 64];
    let mut block = 0;
    while block < 256 {
        let bytes = (block as u32 + 1).to_be_bytes();
        let mut byte = 0;
        while byte < 4 {
            table[block / 4][block % 4 * BLOCK + 12 + byte] = bytes[byte];
            byte += 1;
        }
        block += 1;
    }
    table
});

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
