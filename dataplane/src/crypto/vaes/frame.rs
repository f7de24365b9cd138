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
    /// Plaintext or ciphertext.
    pub payload: &'p mut [u8],
    /// As long as the key says.
    pub icv: &'p mut [u8],
    /// The IV as it is in memory.
    pub iv: u64,
    /// SPI and sequence number, reflected.
    pub aad: __m128i,
    /// Length block, reflected.
    pub lengths: __m128i,
}

/// Length of SPI and sequence number.
const HEADER: usize = 8;

impl<'p> Frame<'p> {
    /// Splits a packet to seal, and writes its IV: the sequence number, which is never used twice with a key
    /// (RFC 4106 s3.1, RFC 8750 s4). `None` when it is too short.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn to_seal(key: &VaesKey, packet: &'p mut [u8], seq: u64) -> Option<Self> {
        let (frame, iv) = Self::split(key, packet, seq)?;
        if let Some(iv) = iv {
            *iv = seq.to_be_bytes();
        }
        Some(frame)
    }

    /// Splits a packet to open. `None` when it is too short.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn to_open(key: &VaesKey, packet: &'p mut [u8], seq: u64) -> Option<Self> {
        let (mut frame, iv) = Self::split(key, packet, seq)?;
        if let Some(iv) = iv {
            frame.iv = u64::from_ne_bytes(*iv);
        }
        Some(frame)
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn split(key: &VaesKey, packet: &'p mut [u8], seq: u64) -> Option<(Self, Option<&'p mut [u8; 8]>)> {
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
        let frame = Self { payload, icv, iv: u64::from_ne_bytes(seq.to_be_bytes()), aad, lengths };
        Some((frame, iv.try_into().ok()))
    }

    /// Blocks of the stream: header, payload, length block.
    #[inline]
    pub fn blocks(&self) -> usize {
        self.payload.len().div_ceil(BLOCK) + 2
    }
}

/// Puts the length block into its lane of the last vector: the last of a stream of `blocks`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn with_lengths(vector: __m512i, blocks: usize, lengths: __m128i) -> __m512i {
    let lane = 0b11u8 << (2 * ((blocks - 1) % (VECTOR / BLOCK)));
    _mm512_mask_broadcast_i64x2(vector, lane, lengths)
}

/// The counter blocks of a packet after the first key addition.
pub struct Counters {
    base: __m512i,
}

impl Counters {
    /// For an IV as it is in memory.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(key: &VaesKey, iv: u64) -> Self {
        // Nonce and counter are `salt | IV | counter`: the IV is words 1 and 2, so its halves swap.
        let iv = _mm512_set1_epi64(iv.rotate_left(32) as i64);
        Self { base: _mm512_xor_si512(key.whitening(), _mm512_maskz_mov_epi32(IV_WORDS, iv)) }
    }

    /// Vectors `4 * chunk` to `4 * chunk + N - 1` of the stream.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn chunk<const N: usize>(&self, chunk: usize) -> [__m512i; N] {
        let counters: [__m512i; N] = match COUNTERS.0.get(chunk) {
            // Nonces are added rather than written, so a table of counters serves all: one operation a vector.
            Some(rows) => std::array::from_fn(|i| load(&rows[i])),
            None => std::array::from_fn(|i| computed(chunk, i)),
        };
        counters.map(|counter| _mm512_xor_si512(self.base, counter))
    }
}

/// Words 1 and 2 of each lane.
const IV_WORDS: __mmask16 = 0b0110_0110_0110_0110;

/// Counters for the first 4 KB of a packet, as they stand in memory.
#[repr(align(64))]
struct CounterTable([[[u8; VECTOR]; 4]; 16]);

static COUNTERS: CounterTable = CounterTable({
    let mut table = [[[0; VECTOR]; 4]; 16];
    let mut block = 0;
    while block < 256 {
        let bytes = (block as u32 + 1).to_be_bytes();
        let mut byte = 0;
        while byte < 4 {
            table[block / 16][block / 4 % 4][block % 4 * BLOCK + 12 + byte] = bytes[byte];
            byte += 1;
        }
        block += 1;
    }
    table
});

/// Counters of a longer packet.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn computed(chunk: usize, index: usize) -> __m512i {
    let first = (chunk * 16 + index * 4) as u32;
    let lanes = _mm512_set_epi32(4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0);
    let counters = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
    // Word 3 big-endian, the others zero.
    let word_3 = _mm_set_epi8(12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    _mm512_shuffle_epi8(counters, _mm512_broadcast_i32x4(word_3))
}
