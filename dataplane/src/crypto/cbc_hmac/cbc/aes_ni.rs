//! A block to a vector by AVX and AES-NI: eight chains, or eight blocks of one packet, side by side.

use std::arch::x86_64::*;

use super::{BLOCK, Block, Cipher, GROUP, RoundKeys, Runs};
use crate::crypto::cbc_hmac::key::CbcHmacKey;
use crate::crypto::vaes::AesNi;
use crate::crypto::vaes::schedule::{ROUND_KEYS, Rounds};

const LANES: usize = 8;

/// Round keys of each lane beside those of the others: to reach them takes one register. None lies in two cache lines.
#[repr(align(64))]
pub struct Keys([[Block; LANES]; ROUND_KEYS]);

impl Cipher<LANES> for AesNi {
    type Keys<'k> = Keys;

    #[inline]
    fn go_together(a: &CbcHmacKey, b: &CbcHmacKey) -> bool {
        a.rounds() == b.rounds()
    }

    #[inline]
    fn keys<'k>(self) -> Self::Keys<'k> {
        Keys([[[0; BLOCK]; LANES]; ROUND_KEYS])
    }

    #[inline]
    fn set_key(keys: &mut Keys, lane: usize, key: &RoundKeys) {
        for (keys, key) in keys.0.iter_mut().zip(key) {
            keys[lane] = *key;
        }
    }

    #[inline]
    fn encrypt(
        self,
        rounds: Rounds,
        keys: &Keys,
        last: &mut [Block; LANES],
        runs: &mut Runs<'_, LANES>,
        steps: usize,
    ) {
        // SAFETY: an `AesNi` exists only when the CPU has all the features.
        unsafe { encrypt(rounds, keys, last, runs, steps) }
    }

    #[inline]
    fn decrypt(self, key: &CbcHmacKey, blocks: &mut [Block]) {
        // SAFETY: as in `encrypt`.
        unsafe { decrypt(key, blocks) }
    }
}

#[target_feature(enable = "avx,aes")]
fn encrypt(rounds: Rounds, keys: &Keys, last: &mut [Block; LANES], runs: &mut Runs<'_, LANES>, steps: usize) {
    let [first, middle @ ..] = &keys.0[..=rounds.count()] else { return };
    let [middle @ .., end] = middle else { return };
    let keys = (first, middle, end);
    let mut states = last.each_ref().map(|block| load(block));
    for n in 0..steps / GROUP {
        advance(keys, &mut states, runs.each_mut().map(|run| run.group(n)));
    }
    for n in 0..steps % GROUP {
        advance(keys, &mut states, runs.each_mut().map(|run| run.single(n)));
    }
    for (last, state) in last.iter_mut().zip(states) {
        store(last, state);
    }
}

/// The first round keys, those between, and the last.
type Parted<'k> = (&'k [Block; LANES], &'k [[Block; LANES]], &'k [Block; LANES]);

/// Encrypts N blocks of each lane.
#[inline]
#[target_feature(enable = "avx,aes")]
fn advance<const N: usize>(
    (first, middle, last): Parted<'_>,
    states: &mut [__m128i; LANES],
    blocks: [&mut [Block; N]; LANES],
) {
    for step in 0..N {
        for n in 0..LANES {
            let input = _mm_xor_si128(load(&blocks[n][step]), load(&first[n]));
            states[n] = _mm_xor_si128(states[n], input);
        }
        for keys in middle {
            for n in 0..LANES {
                states[n] = _mm_aesenc_si128(states[n], load(&keys[n]));
            }
        }
        for n in 0..LANES {
            states[n] = _mm_aesenclast_si128(states[n], load(&last[n]));
            store(&mut blocks[n][step], states[n]);
        }
    }
}

#[target_feature(enable = "avx,aes")]
fn decrypt(key: &CbcHmacKey, blocks: &mut [[u8; BLOCK]]) {
    let (Some(rounds), Some((iv, blocks))) = (key.rounds(), blocks.split_first_mut()) else { return };
    let keys = inverse_keys(rounds, key.round_keys());
    let mut before = load(iv);
    let (batches, rest) = blocks.as_chunks_mut::<LANES>();
    for batch in batches {
        before = decrypt_batch(rounds, &keys, before, batch);
    }
    for block in rest.as_chunks_mut::<1>().0 {
        before = decrypt_batch(rounds, &keys, before, block);
    }
}

/// Decrypts N blocks; returns the last one's ciphertext.
#[inline]
#[target_feature(enable = "avx,aes")]
fn decrypt_batch<const N: usize>(
    rounds: Rounds,
    keys: &[__m128i; ROUND_KEYS],
    mut before: __m128i,
    blocks: &mut [[u8; BLOCK]; N],
) -> __m128i {
    let mut states = [before; N];
    for n in 0..N {
        states[n] = _mm_xor_si128(load(&blocks[n]), keys[0]);
    }
    for key in &keys[1..rounds.count()] {
        for n in 0..N {
            states[n] = _mm_aesdec_si128(states[n], *key);
        }
    }
    for n in 0..N {
        let last = _mm_xor_si128(keys[rounds.count()], before);
        before = load(&blocks[n]);
        store(&mut blocks[n], _mm_aesdeclast_si128(states[n], last));
    }
    before
}

/// The round keys of the inverse cipher (FIPS 197 s5.3.5). To make them takes less time than to fetch them would.
#[inline]
#[target_feature(enable = "avx,aes")]
fn inverse_keys(rounds: Rounds, keys: &[[u8; BLOCK]; ROUND_KEYS]) -> [__m128i; ROUND_KEYS] {
    let last = rounds.count();
    let mut inverse = [_mm_setzero_si128(); ROUND_KEYS];
    for round in 0..=last {
        let key = load(&keys[last - round]);
        inverse[round] = if round == 0 || round == last { key } else { _mm_aesimc_si128(key) };
    }
    inverse
}

#[inline]
#[target_feature(enable = "avx,aes")]
fn load(block: &[u8; BLOCK]) -> __m128i {
    // SAFETY: `block` is 16 readable bytes.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx,aes")]
fn store(block: &mut [u8; BLOCK], value: __m128i) {
    // SAFETY: `block` is 16 writable bytes.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}
