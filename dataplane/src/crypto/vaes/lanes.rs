//! Checked loads and stores of 512-bit vectors, four AES blocks each.
//!
//! All memory that the kernels touch goes through here, as arrays of the right size or as slices with a mask
//! made from their length, so the kernels themselves need no `unsafe`.

use std::arch::x86_64::*;

/// Bytes of a block of AES and GHASH.
pub const BLOCK: usize = 16;
/// Bytes of a vector: four lanes of a block.
pub const VECTOR: usize = 64;
/// Bytes that the long loop takes at once: four vectors, with one reduction of GHASH.
pub const CHUNK: usize = 4 * VECTOR;

/// One block in every lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn broadcast(block: &[u8; BLOCK]) -> __m512i {
    // SAFETY: `block` is 16 readable bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
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

/// The part of a payload that one vector covers, where that may be less than 64 bytes. What is outside reads
/// as zero and is never written, so a packet may end at the last byte of mapped memory.
pub struct Window<'p> {
    bytes: &'p mut [u8],
    mask: __mmask64,
    shift: usize,
}

impl<'p> Window<'p> {
    /// Takes up to 48 bytes from the front of `payload`, for lanes 1 to 3: lane 0 belongs to the header.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn first(payload: &mut &'p mut [u8]) -> Self {
        let bytes = split_front(payload, VECTOR - BLOCK);
        let mask = low_bits(bytes.len()) << BLOCK;
        Self { bytes, mask, shift: BLOCK }
    }

    /// Takes up to 64 bytes from the front of `payload`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn next(payload: &mut &'p mut [u8]) -> Self {
        let bytes = split_front(payload, VECTOR);
        let mask = low_bits(bytes.len());
        Self { bytes, mask, shift: 0 }
    }

    /// Zeroes what lies outside.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn clip(&self, vector: __m512i) -> __m512i {
        _mm512_maskz_mov_epi8(self.mask, vector)
    }

    /// The bytes inside, zero elsewhere.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn load(&self) -> __m512i {
        // SAFETY: the mask has the bits `shift..shift + bytes.len()` alone, so only `bytes` is read. The address
        // may lie before it, which `wrapping_sub` allows.
        unsafe { _mm512_maskz_loadu_epi8(self.mask, self.bytes.as_ptr().wrapping_sub(self.shift).cast()) }
    }

    /// Writes the bytes inside.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn store(&mut self, vector: __m512i) {
        let at = self.bytes.as_mut_ptr().wrapping_sub(self.shift);
        // SAFETY: as in `load`, only `bytes` is written.
        unsafe { _mm512_mask_storeu_epi8(at.cast(), self.mask, vector) }
    }
}

/// Up to 16 bytes, the others zero.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn load_block(bytes: &[u8]) -> __m128i {
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

/// One bit for each of the first 16 bytes of a slice.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn block_mask(bytes: &[u8]) -> __mmask16 {
    low_bits(bytes.len().min(BLOCK)) as __mmask16
}

/// Bits 0 to `count - 1`; `count` is 64 at most.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn low_bits(count: usize) -> u64 {
    _bzhi_u64(u64::MAX, count as u32)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn split_front<'p>(rest: &mut &'p mut [u8], at_most: usize) -> &'p mut [u8] {
    let all = std::mem::take(rest);
    let (front, back) = all.split_at_mut(all.len().min(at_most));
    *rest = back;
    front
}
