//! Seal.
//!
//! The last steps from products of GHASH to ICVs are done for four packets at once: they share a reduction, and the chain of
//! instructions that wait for each other gets shorter for each. That chain is what binds short packets, since a core looks
//! ahead over two or three of them and no further.

use std::arch::x86_64::*;

use super::aes::cipher;
use super::ghash::{Products, reduce_four, reflect, with_first};
use super::hash::{Batch, batch_step, finish};
use super::lanes::{
    BATCH, BATCH_BYTES, BLOCK, Text, VECTOR, broadcast, load, load_words, store, store_block,
};
use super::stream::{Counters, Frame};
use crate::crypto::vaes::frame::Block;
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::schedule::Rounds;

/// Seals packets.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn seal(frames: &mut [Frame<'_>]) {
    let mut slots = [Sealed { products: Products::none(), mask: _mm_setzero_si128() }; 4];
    for four in frames.chunks_mut(4) {
        for (frame, slot) in four.iter_mut().zip(&mut slots) {
            match frame.key.rounds() {
                Rounds::Ten => encrypt::<10>(frame, slot),
                Rounds::Twelve => encrypt::<12>(frame, slot),
                Rounds::Fourteen => encrypt::<14>(frame, slot),
            }
            *frame.ok = true;
        }
        write_icvs(four, &slots);
    }
}

/// A packet that went through AES and waits for its ICV.
#[derive(Clone, Copy)]
struct Sealed {
    /// The hash, not yet reduced.
    products: Products,
    /// What it is masked with.
    mask: __m128i,
}

/// Writes the ICVs of up to four packets.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn write_icvs(frames: &mut [Frame<'_>], slots: &[Sealed; 4]) {
    let [a, b, c, d] = slots;
    let hashes = reflect(reduce_four(&[a.products, b.products, c.products, d.products]));
    let hashes = [
        _mm512_castsi512_si128(hashes),
        _mm512_extracti32x4_epi32::<1>(hashes),
        _mm512_extracti32x4_epi32::<2>(hashes),
        _mm512_extracti32x4_epi32::<3>(hashes),
    ];
    for (frame, (hash, slot)) in frames.iter_mut().zip(hashes.into_iter().zip(slots)) {
        store_block(frame.body.icv, _mm_xor_si128(hash, slot.mask));
    }
}

/// Encrypts a packet.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt<const R: usize>(frame: &mut Frame<'_>, slot: &mut Sealed) {
    let blocks = frame.blocks();
    match blocks {
        0..=4 => encrypt_short::<R, 1>(frame, blocks, 0, slot),
        5..=8 => encrypt_short::<R, 2>(frame, blocks, 0, slot),
        9..=12 => encrypt_short::<R, 3>(frame, blocks, 0, slot),
        13..=16 => encrypt_short::<R, 4>(frame, blocks, 0, slot),
        17..=24 => encrypt_short::<R, 6>(frame, blocks, 1, slot),
        _ if frame.body.payload.len() < BATCH_BYTES - BLOCK => encrypt_short::<R, 8>(frame, blocks, 1, slot),
        _ => encrypt_long::<R>(frame, slot),
    }
}

/// A packet of N vectors.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt_short<const R: usize, const N: usize>(
    frame: &mut Frame<'_>,
    blocks: usize,
    slack: usize,
    slot: &mut Sealed,
) {
    let mut text = Text::whole(frame.body.payload);
    let mut states = [Counters::new(frame.key, &frame.nonce).batch::<N>(0)];
    let mut input = [[_mm512_setzero_si512(); N]];
    for n in 0..N {
        input[0][n] = text.load(n);
    }
    cipher!(R, [frame.key], states, &input);
    let mut data = states[0];
    for n in 0..N {
        text.store(n, states[0][n]);
        let clipped = text.clip(n, states[0][n]);
        data[n] = reflect(if n == 0 { with_first(clipped, load_words(&frame.aad)) } else { clipped });
    }
    slot.mask = _mm512_castsi512_si128(states[0][0]);
    slot.products = finish(frame.key, None, &data, blocks, slack, &frame.lengths);
}

/// A packet of a batch and more. Beside a batch goes the hash of the one before.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt_long<const R: usize>(frame: &mut Frame<'_>, slot: &mut Sealed) {
    let key = frame.key;
    let counters = Counters::new(key, &frame.nonce);
    let (head, rest) = frame.body.payload.split_at_mut(BATCH_BYTES - BLOCK);
    let mut text = Text::whole(head);
    let mut input = [[_mm512_setzero_si512(); BATCH]];
    for n in 0..BATCH {
        input[0][n] = text.load(n);
    }
    let mut states = [counters.batch::<BATCH>(0)];
    cipher!(R, [key], states, &input);
    slot.mask = _mm512_castsi512_si128(states[0][0]);
    let mut data = states[0];
    for n in 0..BATCH {
        text.store(n, states[0][n]);
        data[n] = reflect(if n == 0 { with_first(data[0], load_words(&frame.aad)) } else { data[n] });
    }

    let mut sum = None;
    let mut vector = BATCH;
    let (batches, rest) = rest.as_chunks_mut::<BATCH_BYTES>();
    for batch in batches {
        let vectors = batch.as_chunks_mut::<VECTOR>().0;
        for n in 0..BATCH {
            input[0][n] = load(&vectors[n]);
        }
        let mut states = [counters.batch::<BATCH>(vector)];
        let mut hash = Batch::new(sum);
        macro_rules! step {
            ($step:literal) => {
                batch_step!(hash, key, data, $step)
            };
        }
        cipher!(R, [key], states, &input, step);
        sum = hash.sum;
        for n in 0..BATCH {
            store(&mut vectors[n], states[0][n]);
            data[n] = reflect(states[0][n]);
        }
        vector += BATCH;
    }

    let blocks = rest.len().div_ceil(BLOCK) + 1;
    let end = End { key, counters, vector, sum, data, lengths: &frame.lengths };
    match blocks {
        0..=8 => end.encrypt::<R, 2>(rest, blocks, slot),
        9..=16 => end.encrypt::<R, 4>(rest, blocks, slot),
        17..=24 => end.encrypt::<R, 6>(rest, blocks, slot),
        _ => end.encrypt::<R, 8>(rest, blocks, slot),
    }
}

/// Where a long packet stands when less than a batch is left.
struct End<'k> {
    key: &'k VaesKey,
    counters: Counters,
    vector: usize,
    sum: Option<__m512i>,
    /// The last batch, not yet in the sum.
    data: [__m512i; BATCH],
    lengths: &'k Block,
}

impl End<'_> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn encrypt<const R: usize, const N: usize>(self, rest: &mut [u8], blocks: usize, slot: &mut Sealed) {
        let mut text = Text::rest(rest);
        let mut states = [self.counters.batch::<N>(self.vector)];
        let mut input = [[_mm512_setzero_si512(); N]];
        for n in 0..N {
            input[0][n] = text.load(n);
        }
        let mut hash = Batch::new(self.sum);
        macro_rules! step {
            ($step:literal) => {
                batch_step!(hash, self.key, self.data, $step)
            };
        }
        cipher!(R, [self.key], states, &input, step);
        let mut data = states[0];
        for n in 0..N {
            text.store(n, states[0][n]);
            data[n] = reflect(text.clip(n, states[0][n]));
        }
        slot.products = finish(self.key, hash.sum, &data, blocks, 1, self.lengths);
    }
}
