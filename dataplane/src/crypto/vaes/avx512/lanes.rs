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

/// 64 bytes, at any alignment.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn load(bytes: &[u8; VECTOR]) -> __m512i {
    // SAFETY: `bytes` is 64 readable bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Bytes of a packet as N vectors of its stream, of which only the last may not be whole. What is outside reads as zero and is never
/// written, so a packet may end at the last byte of mapped memory.
pub struct Text<'p, const N: usize, const LEAD: usize> {
    bytes: &'p mut [u8],
    last: __mmask64,
}

impl<'p, const N: usize, const LEAD: usize> Text<'p, N, LEAD> {
    /// `LEAD` is what the first vector has before these bytes: 16 where its lane 0 belongs to the header, or 0. `None` when
    /// the bytes are not so many that they begin the last vector and end in it.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(bytes: &'p mut [u8]) -> Option<Self> {
        let last = (LEAD + bytes.len()).checked_sub((N - 1) * VECTOR)?;
        (last <= VECTOR).then(|| Self { bytes, last: low_bits(last) })
    }

    /// Vector `index`, less than N.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn load(&self, index: usize) -> __m512i {
        let at = self.bytes.as_ptr().wrapping_add(index * VECTOR).wrapping_sub(LEAD);
        if index > 0 && index + 1 < N {
            // SAFETY: `new` saw that all vectors before the last are whole.
            unsafe { _mm512_loadu_si512(at.cast()) }
        } else {
            // SAFETY: only bytes of the mask are read, and those are in `bytes`. The address itself may lie outside, which
            // `wrapping_add` and `wrapping_sub` allow.
            unsafe { _mm512_maskz_loadu_epi8(self.mask(index), at.cast()) }
        }
    }

    /// Writes vector `index`, less than N.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn store(&mut self, index: usize, vector: __m512i) {
        let at = self.bytes.as_mut_ptr().wrapping_add(index * VECTOR).wrapping_sub(LEAD);
        if index > 0 && index + 1 < N {
            // SAFETY: as in `load`.
            unsafe { _mm512_storeu_si512(at.cast(), vector) }
        } else {
            // SAFETY: as in `load`, only bytes of the mask are written.
            unsafe { _mm512_mask_storeu_epi8(at.cast(), self.mask(index), vector) }
        }
    }

    /// `vector`, zero where vector `index` has nothing of these bytes; its lead is left.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn clip(&self, index: usize, vector: __m512i) -> __m512i {
        if index + 1 == N { _mm512_maskz_mov_epi8(self.last, vector) } else { vector }
    }

    /// The bytes of vector `index` that are in `bytes`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn mask(&self, index: usize) -> __mmask64 {
        let end = match index + 1 {
            next if next < N => u64::MAX,
            next if next == N => self.last,
            _ => 0,
        };
        if index == 0 { end & (u64::MAX << LEAD) } else { end }
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
    if let Ok(whole) = <&mut [u8; BLOCK]>::try_from(&mut *bytes) {
        // SAFETY: `whole` is 16 writable bytes.
        return unsafe { _mm_storeu_si128(whole.as_mut_ptr().cast(), block) };
    }
    let mask = block_mask(bytes);
    // SAFETY: the mask has one bit for each byte of the slice, and 16 at most.
    unsafe { _mm_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask, block) }
}

/// Whether the first `len` bytes, 16 at most, of two blocks are equal. All bytes are compared at once.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn equal(a: __m128i, b: __m128i, len: usize) -> bool {
    _mm_mask_cmpneq_epi8_mask(low_bits(len.min(BLOCK)) as __mmask16, a, b) == 0
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
