//! AES-CBC (RFC 3602, SP 800-38A s6.2).
//!
//! To encrypt, a block waits for the one before it, so that one packet keeps an eighth of the AES units busy: eight packets go
//! side by side. To decrypt, blocks of one packet go side by side.

use std::arch::x86_64::*;

use super::key::CbcHmacKey;
use crate::crypto::vaes::schedule::{ROUND_KEYS, Rounds};

/// Bytes of a block.
pub const BLOCK: usize = 16;
/// Packets, or blocks of one, side by side: as many as fill the units.
const LANES: usize = 8;

/// What to encrypt in place: a nonce, which becomes the IV, and the payload.
pub struct Chain<'p> {
    /// Of its SA.
    pub key: &'p CbcHmacKey,
    /// Whole blocks.
    pub blocks: &'p mut [[u8; BLOCK]],
}

/// Encrypts all chains, from an IV of zero.
#[target_feature(enable = "avx,aes")]
pub fn encrypt(chains: &mut [Chain<'_>]) {
    for rounds in [Rounds::Ten, Rounds::Twelve, Rounds::Fourteen] {
        encrypt_with(rounds, chains);
    }
}

/// Encrypts those chains whose key has so many rounds. When one is done the next takes its lane.
#[inline]
#[target_feature(enable = "avx,aes")]
fn encrypt_with(rounds: Rounds, chains: &mut [Chain<'_>]) {
    let mut waiting = chains.iter_mut().filter(|chain| chain.key.rounds() == Some(rounds));
    let Some(first) = waiting.next() else { return };
    let idle = first.key.round_keys();
    let mut lanes: [Lane<'_>; LANES] = std::array::from_fn(|_| Lane {
        keys: idle,
        blocks: Default::default(),
        busy: false,
        state: _mm_setzero_si128(),
    });
    lanes[0] = Lane::new(first);
    loop {
        for lane in &mut lanes {
            while lane.blocks.is_empty() {
                lane.busy = false;
                let Some(chain) = waiting.next() else { break };
                *lane = Lane::new(chain);
            }
        }
        let Some(steps) = lanes.iter().filter(|lane| lane.busy).map(|lane| lane.blocks.len()).min() else {
            return;
        };
        let keys = lanes.each_ref().map(|lane| lane.keys);
        let mut states = lanes.each_ref().map(|lane| lane.state);
        // An idle lane works on its spare block again and again.
        let mut spares = [[[0; BLOCK]; 1]; LANES];
        let mut runs = spares.each_mut().map(|spare| spare.as_mut_slice());
        let last = lanes.each_ref().map(|lane| if lane.busy { usize::MAX } else { 0 });
        for (lane, run) in lanes.iter_mut().zip(&mut runs).filter(|(lane, _)| lane.busy) {
            (*run, lane.blocks) = std::mem::take(&mut lane.blocks).split_at_mut(steps);
        }
        for step in 0..steps {
            for n in 0..LANES {
                let block = _mm_xor_si128(load(&runs[n][step & last[n]]), load(&keys[n][0]));
                states[n] = _mm_xor_si128(states[n], block);
            }
            for round in 1..rounds.count() {
                for n in 0..LANES {
                    states[n] = _mm_aesenc_si128(states[n], load(&keys[n][round]));
                }
            }
            for n in 0..LANES {
                states[n] = _mm_aesenclast_si128(states[n], load(&keys[n][rounds.count()]));
                store(&mut runs[n][step & last[n]], states[n]);
            }
        }
        for (lane, state) in lanes.iter_mut().zip(states) {
            lane.state = state;
        }
    }
}

/// A packet on its way, or nothing.
struct Lane<'p> {
    keys: &'p [[u8; BLOCK]; ROUND_KEYS],
    blocks: &'p mut [[u8; BLOCK]],
    busy: bool,
    state: __m128i,
}

impl<'p> Lane<'p> {
    #[inline]
    #[target_feature(enable = "avx,aes")]
    fn new(chain: &'p mut Chain<'_>) -> Self {
        Self { keys: chain.key.round_keys(), blocks: chain.blocks, busy: true, state: _mm_setzero_si128() }
    }
}

/// Decrypts the blocks behind the IV, which is the first, in place.
#[target_feature(enable = "avx,aes")]
pub fn decrypt(key: &CbcHmacKey, blocks: &mut [[u8; BLOCK]]) {
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
