//! Checked loads and stores of 512-bit vectors, four AES blocks each.
//!
//! All memory that the kernels touch goes through here, as arrays of the right size or as slices with a mask
//! made from their length, so the kernels themselves need no `unsafe`.

use std::arch::x86_64::*;

pub use crate::crypto::vaes::frame::BLOCK;

/// Bytes of a vector: four lanes of a block.
pub const VECTOR: usize = 64;
/// Vectors of a batch: as many AES chains as fill the pipes.
pub const BATCH: usize = 8;
/// Bytes of a batch.
pub const BATCH_BYTES: usize = BATCH * VECTOR;

/// One block in every lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn broadcast(block: &[u8; BLOCK]) -> __m512i {
    // SAFETY: `block` is 16 readable bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
}

/// A block from its words.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn load_words(block: &[u64; 2]) -> __m128i {
    // SAFETY: `block` is 16 readable bytes.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

/// 8 bytes in every half lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn broadcast_half(half: &[u8; 8]) -> __m512i {
    _mm512_set1_epi64(i64::from_le_bytes(*half))
}

/// 64 bytes, at any alignment.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn load(bytes: &[u8; VECTOR]) -> __m512i {
    // SAFETY: `bytes` is 64 readable bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Writes 64 bytes, at any alignment.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn store(bytes: &mut [u8; VECTOR], vector: __m512i) {
    // SAFETY: `bytes` is 64 writable bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}

/// A payload as vectors of a stream. What is outside of the payload reads as zero and is never written, so a
/// packet may end at the last byte of mapped memory.
pub struct Text<'p> {
    payload: &'p mut [u8],
    /// Bytes of the first vector that lie before the payload: 16 where its lane 0 belongs to the header, or 0.
    lead: usize,
}

impl<'p> Text<'p> {
    /// The payload of a whole packet: lane 0 of vector 0 is the header's.
    #[inline]
    pub fn whole(payload: &'p mut [u8]) -> Self {
        Self { payload, lead: BLOCK }
    }

    /// The rest of a payload.
    #[inline]
    pub fn rest(payload: &'p mut [u8]) -> Self {
        Self { payload, lead: 0 }
    }

    /// Vector `index`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn load(&self, index: usize) -> __m512i {
        let at = self.payload.as_ptr().wrapping_add(index * VECTOR).wrapping_sub(self.lead);
        // SAFETY: only bytes of the mask are read, and those are bytes of the payload. The address itself may lie
        // outside, which `wrapping_add` and `wrapping_sub` allow.
        unsafe { _mm512_maskz_loadu_epi8(self.mask(index), at.cast()) }
    }

    /// Writes vector `index`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn store(&mut self, index: usize, vector: __m512i) {
        let at = self.payload.as_mut_ptr().wrapping_add(index * VECTOR).wrapping_sub(self.lead);
        // SAFETY: as in `load`, only bytes of the payload are written.
        unsafe { _mm512_mask_storeu_epi8(at.cast(), self.mask(index), vector) }
    }

    /// `vector`, zero where vector `index` is outside of the payload.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn clip(&self, index: usize, vector: __m512i) -> __m512i {
        _mm512_maskz_mov_epi8(self.mask(index), vector)
    }

    /// The bytes of vector `index` that are bytes of the payload.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn mask(&self, index: usize) -> __mmask64 {
        let bytes = (self.lead + self.payload.len()).saturating_sub(index * VECTOR).min(VECTOR);
        let mask = low_bits(bytes);
        if index == 0 { mask & (u64::MAX << self.lead) } else { mask }
    }
}

/// Up to 16 bytes, the others zero.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn load_block(bytes: &[u8]) -> __m128i {
    // SAFETY: the mask has one bit for each byte of the slice, and 16 at most.
    unsafe { _mm_maskz_loadu_epi8(block_mask(bytes), bytes.as_ptr().cast()) }
}

/// Writes as many bytes of `block` as the slice has, 16 at most.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn store_block(bytes: &mut [u8], block: __m128i) {
    let mask = block_mask(bytes);
    // SAFETY: the mask has one bit for each byte of the slice, and 16 at most.
    unsafe { _mm_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask, block) }
}

/// Whether a slice of up to 16 bytes is the start of `block`. All bytes are compared at once.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn verify_block(bytes: &[u8], block: __m128i) -> bool {
    _mm_mask_cmpneq_epi8_mask(block_mask(bytes), block, load_block(bytes)) == 0
}

/// One bit for each of the first 16 bytes of a slice.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn block_mask(bytes: &[u8]) -> __mmask16 {
    low_bits(bytes.len().min(BLOCK)) as __mmask16
}

/// Bits 0 to `count - 1`; `count` is 64 at most.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn low_bits(count: usize) -> u64 {
    _bzhi_u64(u64::MAX, count as u32)
}
