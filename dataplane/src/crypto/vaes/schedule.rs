//! AES key schedule (FIPS 197 s5.2), by the CPU's instructions alone. No table, so no index that depends on a secret.

use zeroize::Zeroize;

use super::frame::BLOCK;

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

/// Expands a key of 16, 24 or 32 bytes into `keys`, word by word as FIPS 197 s5.2 has it. `sub_word` is the S-box on
/// each byte of a word.
#[inline(always)]
pub fn expand(
    sub_word: impl Fn(u32) -> u32,
    key: &[u8],
    rounds: Rounds,
    keys: &mut [[u8; BLOCK]; ROUND_KEYS],
) {
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
