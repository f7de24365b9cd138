//! AES: key schedule (FIPS 197 s5.2) and rounds, by the CPU's instructions alone. No table, so no index that
//! depends on a secret.

use std::arch::x86_64::*;

use zeroize::Zeroize;

use super::lanes::{BLOCK, broadcast};

/// Number of rounds, which the key length decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// AES-128.
    Ten,
    /// AES-192.
    Twelve,
    /// AES-256.
    Fourteen,
}

impl Rounds {
    /// For a key of this many bytes.
    pub const fn of_key_len(bytes: usize) -> Option<Self> {
        match bytes {
            16 => Some(Self::Ten),
            24 => Some(Self::Twelve),
            32 => Some(Self::Fourteen),
            _ => None,
        }
    }

    /// As a number.
    pub const fn count(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Twelve => 12,
            Self::Fourteen => 14,
        }
    }
}

/// Round keys of the longest schedule. A shorter one leaves the last ones zero.
pub const ROUND_KEYS: usize = Rounds::Fourteen.count() + 1;

/// Expands a key of 16, 24 or 32 bytes into `keys`, word by word as FIPS 197 s5.2 has it.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn expand_key(key: &[u8], rounds: Rounds, keys: &mut [[u8; BLOCK]; ROUND_KEYS]) {
    let mut words = [0u32; 4 * ROUND_KEYS];
    let key_words = key.len() / 4;
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let mut round_constant = 1u32;
    for i in key_words..4 * (rounds.count() + 1) {
        let mut word = words[i - 1];
        if i % key_words == 0 {
            // RotWord of FIPS 197 moves bytes to the left; words are little-endian here.
            word = sub_word(word).rotate_right(8) ^ round_constant;
            round_constant = (round_constant << 1) ^ ((round_constant >> 7) * 0x11b);
        } else if key_words > 6 && i % key_words == 4 {
            word = sub_word(word);
        }
        words[i] = words[i - key_words] ^ word;
    }
    for (block, words) in keys.iter_mut().zip(words.as_chunks::<4>().0) {
        for (bytes, word) in block.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }
    words.zeroize();
}

/// The S-box on each byte of a word.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn sub_word(word: u32) -> u32 {
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(word as i32))) as u32
}

/// All rounds after the first key addition, on the vectors `states` of packets with `keys`. The last round key is
/// added to `inputs`, what the keystream is to be added to.
///
/// `step`, when given, is the name of a macro that does step 1 to 9 of a hash: they are done between the rounds. In this
/// order the core sees instructions that can run while others wait. Rounds in a row fill its schedulers with what
/// waits, and the work behind them does not get in.
///
/// A macro, since nothing less makes the compiler keep all of it in registers.
macro_rules! cipher {
    ($rounds:ident, $keys:expr, $states:ident, $inputs:expr $(, $step:ident)?) => {{
        let (keys, inputs) = ($keys, $inputs);
        cipher!(@rounds keys, $states, ($($step)?), 1 2 3 4 5 6 7 8 9);
        for extra in 10..$rounds {
            cipher!(@round keys, $states, extra);
        }
        for q in 0..keys.len() {
            let key = broadcast(&keys[q].round_keys()[$rounds]);
            for n in 0..$states[q].len() {
                let last = _mm512_xor_si512(key, inputs[q][n]);
                $states[q][n] = _mm512_aesenclast_epi128($states[q][n], last);
            }
        }
    }};
    (@rounds $keys:ident, $states:ident, $step:tt, $($round:literal)*) => {
        $(
            cipher!(@round $keys, $states, $round);
            cipher!(@step $step, $round);
        )*
    };
    (@round $keys:ident, $states:ident, $round:expr) => {
        for q in 0..$keys.len() {
            let key = broadcast(&$keys[q].round_keys()[$round]);
            for state in &mut $states[q] {
                *state = _mm512_aesenc_epi128(*state, key);
            }
        }
    };
    (@step ($step:ident), $round:literal) => {
        $step!($round)
    };
    (@step (), $round:literal) => {};
}
pub(super) use cipher;

/// One block, for the key of GHASH.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn encrypt_zero_block(rounds: Rounds, keys: &[[u8; BLOCK]; ROUND_KEYS]) -> __m128i {
    let key = |i: usize| _mm512_castsi512_si128(broadcast(&keys[i]));
    let mut state = key(0);
    for round in 1..rounds.count() {
        state = _mm_aesenc_si128(state, key(round));
    }
    _mm_aesenclast_si128(state, key(rounds.count()))
}
