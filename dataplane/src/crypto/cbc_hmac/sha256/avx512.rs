//! Sixteen hashes side by side in vectors of AVX-512: a word of each to a vector, so that a round is written as FIPS 180-4 has it.
//!
//! A rotation is one instruction, and so is any function of three words. A step, one block to each lane, is some 1,900
//! instructions, however many of the lanes have work.

use std::arch::x86_64::*;

use super::{BLOCK, ROUND_CONSTANTS, Runs, Sha256, Words, ZEROS};
use crate::crypto::vaes::detect;

/// Proof that the CPU has AVX-512F and AVX-512BW.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

const LANES: usize = 16;

/// Word A of all hashes, then word B, up to H.
type States = [[u32; LANES]; 8];

impl Avx512 {
    /// The proof, or what the CPU misses.
    pub fn detect() -> Result<Self, String> {
        detect!(Self(()); "avx512f", "avx512bw")
    }
}

impl Sha256<LANES> for Avx512 {
    type States = States;

    #[inline]
    fn states(self) -> States {
        [[0; LANES]; 8]
    }

    #[inline]
    fn words(states: &States, lane: usize) -> Words {
        states.each_ref().map(|word| word[lane])
    }

    #[inline]
    fn set_words(states: &mut States, lane: usize, words: Words) {
        for (to, word) in states.iter_mut().zip(words) {
            to[lane] = word;
        }
    }

    #[inline]
    fn compress(self, states: &mut States, runs: Runs<'_, LANES>, steps: usize) {
        // SAFETY: an `Avx512` exists only when the CPU has all the features.
        unsafe { compress(states, runs, steps) }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn compress(states: &mut States, runs: Runs<'_, LANES>, steps: usize) {
    let mut state = [_mm512_setzero_si512(); 8];
    for n in 0..8 {
        state[n] = load_words(&states[n]);
    }
    for step in 0..steps {
        let before = state;
        let mut words = transposed(runs.map(|run| run.get(step).unwrap_or(&ZEROS)));
        macro_rules! sixteen_rounds {
            ($constants:expr, $schedule:expr; $($n:literal)*) => {$(
                if $schedule {
                    schedule::<$n>(&mut words);
                }
                round::<$n>(&mut state, words[$n], $constants[$n / 4][$n % 4]);
            )*};
        }
        let [first, others @ ..] = ROUND_CONSTANTS.as_chunks::<4>().0 else { return };
        sixteen_rounds!(first, false; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for constants in others {
            sixteen_rounds!(constants, true; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        for n in 0..8 {
            state[n] = add(state[n], before[n]);
        }
    }
    for n in 0..8 {
        store_words(&mut states[n], state[n]);
    }
}

/// A round. The names of the words go round and not the words: which of the vectors is A moves by one with each round, and
/// after eight it is the same again.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round<const N: usize>(state: &mut [__m512i; 8], word: __m512i, constant: u32) {
    let place = |name: usize| (name + 16 - N) % 8;
    let [a, b, c, d] = [state[place(0)], state[place(1)], state[place(2)], state[place(3)]];
    let [e, f, g, h] = [state[place(4)], state[place(5)], state[place(6)], state[place(7)]];
    let choice = _mm512_ternarylogic_epi32::<CHOICE>(e, f, g);
    let majority = _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c);
    let sum_e = xor(_mm512_ror_epi32::<6>(e), _mm512_ror_epi32::<11>(e), _mm512_ror_epi32::<25>(e));
    let sum_a = xor(_mm512_ror_epi32::<2>(a), _mm512_ror_epi32::<13>(a), _mm512_ror_epi32::<22>(a));
    let input = add(add(h, word), _mm512_set1_epi32(constant as i32));
    let first = add(add(input, choice), sum_e);
    state[place(3)] = add(d, first);
    state[place(7)] = add(add(first, majority), sum_a);
}

/// The message schedule: word N of the next sixteen in the place of word N of these.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn schedule<const N: usize>(words: &mut [__m512i; 16]) {
    let [early, late] = [words[(N + 1) % 16], words[(N + 14) % 16]];
    let sum_early =
        xor(_mm512_ror_epi32::<7>(early), _mm512_ror_epi32::<18>(early), _mm512_srli_epi32::<3>(early));
    let sum_late =
        xor(_mm512_ror_epi32::<17>(late), _mm512_ror_epi32::<19>(late), _mm512_srli_epi32::<10>(late));
    words[N] = add(add(words[N], words[(N + 9) % 16]), add(sum_early, sum_late));
}

/// Word 0 of all blocks, then word 1, up to word 15.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transposed(blocks: [&[u8; BLOCK]; LANES]) -> [__m512i; 16] {
    let big_endian =
        _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
    let mut rows = [_mm512_setzero_si512(); 16];
    for n in 0..16 {
        rows[n] = _mm512_shuffle_epi8(load(blocks[n]), big_endian);
    }
    // Words of two lanes side by side, then of four: quarter q of row 4 i + j has word 4 q + j of lanes 4 i to 4 i + 3.
    let mut pairs = rows;
    for n in 0..8 {
        pairs[2 * n] = _mm512_unpacklo_epi32(rows[2 * n], rows[2 * n + 1]);
        pairs[2 * n + 1] = _mm512_unpackhi_epi32(rows[2 * n], rows[2 * n + 1]);
    }
    for n in 0..4 {
        let [a, b, c, d] = [pairs[4 * n], pairs[4 * n + 1], pairs[4 * n + 2], pairs[4 * n + 3]];
        rows[4 * n] = _mm512_unpacklo_epi64(a, c);
        rows[4 * n + 1] = _mm512_unpackhi_epi64(a, c);
        rows[4 * n + 2] = _mm512_unpacklo_epi64(b, d);
        rows[4 * n + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Then those quarters of all lanes.
    let mut words = rows;
    for n in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(rows[n], rows[n + 4]);
        let high = _mm512_shuffle_i32x4::<0b11_10_11_10>(rows[n], rows[n + 4]);
        let low_2 = _mm512_shuffle_i32x4::<0b01_00_01_00>(rows[n + 8], rows[n + 12]);
        let high_2 = _mm512_shuffle_i32x4::<0b11_10_11_10>(rows[n + 8], rows[n + 12]);
        words[n] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_2);
        words[n + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_2);
        words[n + 8] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_2);
        words[n + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_2);
    }
    words
}

/// Truth tables of the functions of FIPS 180-4 s4.1.2: bit `4 x + 2 y + z` is what comes of x, y and z.
const CHOICE: i32 = 0b1100_1010;
const MAJORITY: i32 = 0b1110_1000;
const PARITY: i32 = 0b1001_0110;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<PARITY>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(block: &[u8; BLOCK]) -> __m512i {
    // SAFETY: `block` is 64 readable bytes.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_words(words: &[u32; LANES]) -> __m512i {
    // SAFETY: `words` is 64 readable bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_words(words: &mut [u32; LANES], vector: __m512i) {
    // SAFETY: `words` is 64 writable bytes.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
}
