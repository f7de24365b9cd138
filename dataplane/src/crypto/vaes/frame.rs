//! An ESP packet as AES-GCM sees it (RFC 4106, RFC 8750).
//!
//! Header, payload and length block are one stream of blocks, four to a vector. The header is block 0: its lane
//! of the counter vector is counter 1, whose keystream masks the ICV, and its lane of GHASH is the AAD, so that
//! payload and counters line up lane for lane. The length block follows the payload.

use std::arch::x86_64::*;

use super::key::VaesKey;
use super::lanes::{BLOCK, VECTOR, load, load_words};
use crate::crypto::{EngineKey, Job};

/// A packet, split, with the blocks that AES-GCM adds to it.
pub struct Frame<'p> {
    /// Of its SA.
    pub key: &'p VaesKey,
    /// Plaintext or ciphertext.
    pub payload: &'p mut [u8],
    /// As long as the key says.
    pub icv: &'p mut [u8],
    /// `0 | IV | 0`, to be added to salt and counter.
    pub nonce: Block,
    /// SPI and sequence number, the block before the payload.
    pub aad: Block,
    /// The block behind the payload, reflected.
    pub lengths: Block,
    /// [`Job::ok`].
    pub ok: &'p mut bool,
}

/// A block as two little-endian words.
pub type Block = [u64; 2];

/// Length of SPI and sequence number.
const HEADER: usize = 8;

impl<'p> Frame<'p> {
    /// Splits a packet. `None`, and the job is not ok, when it is too short or the key is of another engine.
    ///
    /// To seal, writes the IV: the sequence number (RFC 4106 s3.1, RFC 8750 s4). A burst is split before the first of it is
    /// encrypted, since a load that spans bytes just written waits until they are in the cache.
    #[inline]
    pub fn split<const SEAL: bool>(job: &'p mut Job<'_>) -> Option<Self> {
        job.ok = false;
        let EngineKey::Vaes(key) = job.key.engine() else { return None };
        let (header, rest) = job.packet.split_first_chunk_mut::<HEADER>()?;
        let (iv_slot, rest) = rest.split_at_mut_checked(key.iv_len())?;
        let (payload, icv) = rest.split_at_mut_checked(rest.len().checked_sub(key.icv_len())?)?;
        let mut iv = u64::from_le_bytes(job.seq.to_be_bytes());
        if let Ok(slot) = <&mut [u8; 8]>::try_from(iv_slot) {
            if SEAL {
                *slot = iv.to_le_bytes();
            } else {
                iv = u64::from_le_bytes(*slot);
            }
        }
        let header = u64::from_le_bytes(*header);
        // RFC 4106 s5: `SPI | sequence`, with ESN its upper half between them.
        let aad = if key.esn() {
            let upper = u64::from(((job.seq >> 32) as u32).swap_bytes());
            [header & 0xffff_ffff | upper << 32, header >> 32]
        } else {
            [header, 0]
        };
        let nonce = [iv << 32, iv >> 32];
        let lengths = [payload.len() as u64 * 8, key.aad_bits()];
        Some(Self { key, payload, icv, nonce, aad, lengths, ok: &mut job.ok })
    }

    /// Blocks of the stream: header, payload, length block.
    #[inline]
    pub fn blocks(&self) -> usize {
        (self.payload.len() + 15) / BLOCK + 2
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
