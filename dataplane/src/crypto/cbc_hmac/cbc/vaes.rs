//! Two blocks to a vector by AVX2 and VAES: sixteen chains of one key, or sixteen blocks of one packet, side by side.
//!
//! With a key to each chain every round of every vector would load its own, and on Zen 3 the loads would take longer (65 cycles
//! for a step of eight vectors) than the rounds (40).

use std::arch::x86_64::*;

use super::{BLOCK, Block, Cipher, GROUP, RoundKeys, Runs};
use crate::crypto::cbc_hmac::key::CbcHmacKey;
use crate::crypto::vaes::detect;
use crate::crypto::vaes::schedule::{ROUND_KEYS, Rounds};

/// Proof that the CPU has AVX2 and VAES.
#[derive(Clone, Copy, Debug)]
pub struct Vaes(());

const LANES: usize = 16;
const VECTORS: usize = LANES / 2;

type Pair = [Block; 2];

impl Vaes {
    /// The proof, or what the CPU misses.
    pub fn detect() -> Result<Self, String> {
        detect!(Self(()); "avx2", "aes", "vaes")
    }
}

impl Cipher<LANES> for Vaes {
    /// Of all lanes.
    type Keys<'k> = &'k RoundKeys;

    #[inline]
    fn go_together(a: &CbcHmacKey, b: &CbcHmacKey) -> bool {
        std::ptr::eq(a, b)
    }

    #[inline]
    fn keys<'k>(self) -> &'k RoundKeys {
        &[[0; BLOCK]; ROUND_KEYS]
    }

    #[inline]
    fn set_key<'k>(keys: &mut &'k RoundKeys, _: usize, key: &'k RoundKeys) {
        *keys = key;
    }

    #[inline]
    fn encrypt(
        self,
        rounds: Rounds,
        keys: &&RoundKeys,
        last: &mut [Block; LANES],
        runs: &mut Runs<'_, LANES>,
        steps: usize,
    ) {
        // SAFETY: a `Vaes` exists only when the CPU has all the features.
        unsafe { encrypt(rounds, keys, last, runs, steps) }
    }

    #[inline]
    fn decrypt(self, key: &CbcHmacKey, blocks: &mut [Block]) {
        // SAFETY: as in `encrypt`.
        unsafe { decrypt(key, blocks) }
    }
}

#[target_feature(enable = "avx2,aes,vaes")]
fn encrypt(
    rounds: Rounds,
    keys: &RoundKeys,
    last: &mut [Block; LANES],
    runs: &mut Runs<'_, LANES>,
    steps: usize,
) {
    let [first, middle @ ..] = &keys[..=rounds.count()] else { return };
    let [middle @ .., end] = middle else { return };
    let keys = (first, middle, end);
    let (pairs, _) = last.as_chunks_mut::<2>();
    let mut states = [_mm256_setzero_si256(); VECTORS];
    for (state, pair) in states.iter_mut().zip(&*pairs) {
        *state = load(pair);
    }
    for n in 0..steps / GROUP {
        advance(keys, &mut states, runs.each_mut().map(|run| run.group(n)));
    }
    for n in 0..steps % GROUP {
        advance(keys, &mut states, runs.each_mut().map(|run| run.single(n)));
    }
    for (state, pair) in states.into_iter().zip(pairs) {
        *pair = stored(state);
    }
}

/// Encrypts N blocks of each lane, with the first round key, those between, and the last.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn advance<const N: usize>(
    (first, middle, last): (&Block, &[Block], &Block),
    states: &mut [__m256i; VECTORS],
    blocks: [&mut [Block; N]; LANES],
) {
    for step in 0..N {
        let key = broadcast(first);
        for n in 0..VECTORS {
            let input = _mm256_xor_si256(load_two(&blocks[2 * n][step], &blocks[2 * n + 1][step]), key);
            states[n] = _mm256_xor_si256(states[n], input);
        }
        for key in middle {
            let key = broadcast(key);
            for n in 0..VECTORS {
                states[n] = _mm256_aesenc_epi128(states[n], key);
            }
        }
        let key = broadcast(last);
        for n in 0..VECTORS {
            states[n] = _mm256_aesenclast_epi128(states[n], key);
            let [one, other] = stored(states[n]);
            blocks[2 * n][step] = one;
            blocks[2 * n + 1][step] = other;
        }
    }
}

/// Vectors of a batch.
const BATCH: usize = 8;

#[target_feature(enable = "avx2,aes,vaes")]
fn decrypt(key: &CbcHmacKey, blocks: &mut [Block]) {
    let (Some(rounds), Some((iv, blocks))) = (key.rounds(), blocks.split_first_mut()) else { return };
    let keys = inverse_keys(rounds, key.round_keys());
    let [first, middle @ ..] = &keys[..=rounds.count()] else { return };
    let [middle @ .., last] = middle else { return };
    let keys = (first, middle, last);
    let mut before = *iv;
    let (pairs, rest) = blocks.as_chunks_mut::<2>();
    let (batches, pairs) = pairs.as_chunks_mut::<BATCH>();
    for batch in batches {
        before = decrypt_batch(keys, before, batch);
    }
    let (halves, pairs) = pairs.as_chunks_mut::<{ BATCH / 2 }>();
    for half in halves {
        before = decrypt_batch(keys, before, half);
    }
    for pair in pairs.as_chunks_mut::<1>().0 {
        before = decrypt_batch(keys, before, pair);
    }
    for block in rest {
        let mut pair = [[*block, [0; BLOCK]]];
        decrypt_batch(keys, before, &mut pair);
        *block = pair[0][0];
    }
}

/// Decrypts N pairs of blocks; returns the last one's ciphertext.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn decrypt_batch<const N: usize>(
    (first, middle, last): (&__m256i, &[__m256i], &__m256i),
    before: Block,
    pairs: &mut [Pair; N],
) -> Block {
    let mut states = [*first; N];
    for n in 0..N {
        states[n] = _mm256_xor_si256(states[n], load(&pairs[n]));
    }
    for key in middle {
        for n in 0..N {
            states[n] = _mm256_aesdec_epi128(states[n], *key);
        }
    }
    let after = pairs[N - 1][1];
    // From the end, so that the block before is still what it was.
    for n in (0..N).rev() {
        let before = if n == 0 { before } else { pairs[n - 1][1] };
        let key = _mm256_xor_si256(*last, load_two(&before, &pairs[n][0]));
        pairs[n] = stored(_mm256_aesdeclast_epi128(states[n], key));
    }
    after
}

/// The round keys of the inverse cipher (FIPS 197 s5.3.5), in both halves. To make them takes less time than to fetch them would.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn inverse_keys(rounds: Rounds, keys: &RoundKeys) -> [__m256i; ROUND_KEYS] {
    let last = rounds.count();
    let mut inverse = [_mm256_setzero_si256(); ROUND_KEYS];
    for round in 0..=last {
        let key = broadcast(&keys[last - round]);
        let inner = round != 0 && round != last;
        inverse[round] = if inner {
            _mm256_broadcastsi128_si256(_mm_aesimc_si128(_mm256_castsi256_si128(key)))
        } else {
            key
        };
    }
    inverse
}

/// A block in both halves.
#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn broadcast(block: &Block) -> __m256i {
    // SAFETY: `block` is 16 readable bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn load(pair: &Pair) -> __m256i {
    // SAFETY: `pair` is 32 readable bytes.
    unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn load_two(one: &Block, other: &Block) -> __m256i {
    // SAFETY: `one` and `other` are 16 readable bytes each.
    unsafe { _mm256_loadu2_m128i(other.as_ptr().cast(), one.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,aes,vaes")]
fn stored(vector: __m256i) -> Pair {
    let mut pair = [[0; BLOCK]; 2];
    // SAFETY: `pair` is 32 writable bytes.
    unsafe { _mm256_storeu_si256(pair.as_mut_ptr().cast(), vector) }
    pair
}
