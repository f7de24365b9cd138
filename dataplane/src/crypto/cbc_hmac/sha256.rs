//! The compression function of SHA-256 (FIPS 180-4 s6.2.2) by the CPU's instructions, several hashes side by side.
//!
//! An instruction does two rounds and the next two wait for it: one hash keeps a fraction of the unit busy. Hashes of
//! different packets do not wait for each other.

use std::arch::x86_64::*;

/// Bytes of a block.
pub const BLOCK: usize = 64;
/// Bytes of a hash.
pub const DIGEST: usize = 32;
/// Hashes side by side. Four keep the unit busy, though not all they need fits in sixteen registers.
pub const LANES: usize = 4;

/// A hash between two blocks: words A, B, E, F and C, D, G, H, as the instructions want them.
#[derive(Clone, Copy)]
pub struct State([__m128i; 2]);

/// A state in memory: words A to H.
pub type Words = [u32; 8];

/// The state before the first block (FIPS 180-4 s5.3.3).
pub const INITIAL: Words =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

impl State {
    /// From memory.
    #[inline]
    #[target_feature(enable = "avx,aes,sha")]
    pub fn load(words: &Words) -> Self {
        let [a, b, c, d, e, f, g, h] = words.map(|word| word as i32);
        Self([_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h)])
    }

    /// To memory.
    #[inline]
    #[target_feature(enable = "avx,aes,sha")]
    pub fn words(self) -> Words {
        let Self([abef, cdgh]) = self;
        let [a, b] = [_mm_extract_epi32::<3>(abef), _mm_extract_epi32::<2>(abef)];
        let [e, f] = [_mm_extract_epi32::<1>(abef), _mm_extract_epi32::<0>(abef)];
        let [c, d] = [_mm_extract_epi32::<3>(cdgh), _mm_extract_epi32::<2>(cdgh)];
        let [g, h] = [_mm_extract_epi32::<1>(cdgh), _mm_extract_epi32::<0>(cdgh)];
        [a, b, c, d, e, f, g, h].map(|word| word as u32)
    }
}

/// Takes one block into each hash.
#[inline]
#[target_feature(enable = "avx,aes,sha")]
pub fn compress<const L: usize>(states: &mut [State; L], blocks: [&[u8; BLOCK]; L]) {
    let big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let before = *states;
    let mut words = [[_mm_setzero_si128(); 4]; L];
    for lane in 0..L {
        let quarters: &[[u8; 16]] = blocks[lane].as_chunks().0;
        for n in 0..4 {
            words[lane][n] = _mm_shuffle_epi8(load(&quarters[n]), big_endian);
        }
    }
    macro_rules! rounds {
        ($($four:literal)*) => {$(
            for lane in 0..L {
                let w = &mut words[lane];
                if $four >= 4 {
                    let [w0, w1, w2, w3] =
                        [w[$four % 4], w[($four + 1) % 4], w[($four + 2) % 4], w[($four + 3) % 4]];
                    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
                    w[$four % 4] = _mm_sha256msg2_epu32(sum, w3);
                }
                let State([abef, cdgh]) = &mut states[lane];
                let first = _mm_add_epi32(w[$four % 4], load_words(&ROUND_CONSTANTS[$four]));
                *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, first);
                let second = _mm_shuffle_epi32::<0b00_00_11_10>(first);
                *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, second);
            }
        )*};
    }
    rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    for lane in 0..L {
        for half in 0..2 {
            states[lane].0[half] = _mm_add_epi32(states[lane].0[half], before[lane].0[half]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx,aes,sha")]
fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: `bytes` is 16 readable bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx,aes,sha")]
fn load_words(words: &[u32; 4]) -> __m128i {
    // SAFETY: `words` is 16 readable bytes.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// FIPS 180-4 s4.2.2, those of four rounds to a row.
static ROUND_CONSTANTS: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];
