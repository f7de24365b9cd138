//! Four hashes side by side by the CPU's SHA extensions.
//!
//! An instruction does two rounds and the next two wait for it: one hash keeps a fraction of the unit busy. Four keep it busy,
//! though not all they need fits in sixteen registers.

use std::arch::x86_64::*;

use super::{BLOCK, ROUND_CONSTANTS, Runs, Sha256, Words, ZEROS};
use crate::crypto::vaes::detect;

/// Proof that the CPU has AVX and the SHA extensions.
#[derive(Clone, Copy, Debug)]
pub struct ShaNi(());

const LANES: usize = 4;

impl ShaNi {
    /// The proof, or what the CPU misses.
    pub fn detect() -> Result<Self, String> {
        detect!(Self(()); "avx", "sha")
    }
}

impl Sha256<LANES> for ShaNi {
    type States = [Words; LANES];

    #[inline]
    fn states(self) -> Self::States {
        [[0; 8]; LANES]
    }

    #[inline]
    fn words(states: &Self::States, lane: usize) -> Words {
        states[lane]
    }

    #[inline]
    fn set_words(states: &mut Self::States, lane: usize, words: Words) {
        states[lane] = words;
    }

    #[inline]
    fn compress(self, states: &mut Self::States, runs: Runs<'_, LANES>, steps: usize) {
        // SAFETY: a `ShaNi` exists only when the CPU has all the features.
        unsafe { compress(states, runs, steps) }
    }
}

#[target_feature(enable = "avx,sha")]
fn compress(states: &mut [Words; LANES], runs: Runs<'_, LANES>, steps: usize) {
    let mut registers = states.each_ref().map(|words| State::load(words));
    for step in 0..steps {
        compress_blocks(&mut registers, runs.map(|run| run.get(step).unwrap_or(&ZEROS)));
    }
    *states = registers.map(|state| state.words());
}

/// A hash between two blocks: words A, B, E, F and C, D, G, H, as the instructions want them.
#[derive(Clone, Copy)]
struct State([__m128i; 2]);

impl State {
    /// From memory.
    #[inline]
    #[target_feature(enable = "avx,sha")]
    fn load(words: &Words) -> Self {
        let [abcd, efgh] = [words.as_chunks().0[0], words.as_chunks().0[1]]
            .map(|half| _mm_shuffle_epi32::<0b10_11_00_01>(load_words(&half)));
        Self([_mm_unpacklo_epi64(efgh, abcd), _mm_unpackhi_epi64(efgh, abcd)])
    }

    /// To memory.
    #[inline]
    #[target_feature(enable = "avx,sha")]
    fn words(self) -> Words {
        let Self([abef, cdgh]) = self;
        let abcd = _mm_shuffle_epi32::<0b10_11_00_01>(_mm_unpackhi_epi64(abef, cdgh));
        let efgh = _mm_shuffle_epi32::<0b10_11_00_01>(_mm_unpacklo_epi64(abef, cdgh));
        let mut words = [0; 8];
        for (half, vector) in words.as_chunks_mut::<4>().0.iter_mut().zip([abcd, efgh]) {
            // SAFETY: `half` is 16 writable bytes.
            unsafe { _mm_storeu_si128(half.as_mut_ptr().cast(), vector) }
        }
        words
    }
}

/// Takes one block into each hash.
#[inline]
#[target_feature(enable = "avx,sha")]
fn compress_blocks<const L: usize>(states: &mut [State; L], blocks: [&[u8; BLOCK]; L]) {
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
#[target_feature(enable = "avx,sha")]
fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: `bytes` is 16 readable bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx,sha")]
fn load_words(words: &[u32; 4]) -> __m128i {
    // SAFETY: `words` is 16 readable bytes.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}
