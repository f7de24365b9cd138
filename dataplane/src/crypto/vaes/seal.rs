//! Seal.
//!
//! A packet's ICV is made while the next packet goes through AES: from first counter to ICV it is one chain of
//! instructions that wait for each other, and a core that had to see it through would look ahead over two or three short packets
//! and no further.

use std::arch::x86_64::*;

use super::aes::{Rounds, cipher};
use super::frame::{Block, Counters, Frame};
use super::ghash::{Products, fold_lanes, reflect, reflect_block, with_first};
use super::hash::{Batch, batch_step, finish};
use super::key::VaesKey;
use super::lanes::{
    BATCH, BATCH_BYTES, BLOCK, Text, VECTOR, broadcast, load, load_words, store, store_block,
};

/// Seals packets.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn seal(frames: &mut [Frame<'_>]) {
    let Some(key) = frames.first().map(|frame| frame.key) else { return };
    let mut spare = [[0; BLOCK]; 2];
    let [a, b] = &mut spare;
    let (mut a, mut b) = (Sealed::nothing(key, a), Sealed::nothing(key, b));
    let (mut now, mut before) = (&mut a, &mut b);
    for frame in frames {
        match frame.key.rounds() {
            Rounds::Ten => encrypt::<10>(frame, now),
            Rounds::Twelve => encrypt::<12>(frame, now),
            Rounds::Fourteen => encrypt::<14>(frame, now),
        }
        *frame.ok = true;
        now.icv = frame.icv;
        before.write_icv();
        std::mem::swap(&mut now, &mut before);
    }
    before.write_icv();
}

/// A packet that went through AES and waits for its ICV.
struct Sealed<'p> {
    key: &'p VaesKey,
    icv: &'p mut [u8],
    /// What the hash is masked with.
    mask: __m128i,
    /// What the vectors before the last came to.
    sum: Option<__m512i>,
    /// The last vectors.
    data: [__m512i; BATCH],
    /// How many there are, up to one more than needed.
    vectors: usize,
    /// Their blocks, with the length block.
    blocks: usize,
    lengths: Block,
}

impl<'p> Sealed<'p> {
    /// No packet.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn nothing(key: &'p VaesKey, icv: &'p mut [u8]) -> Self {
        let data = [_mm512_setzero_si512(); BATCH];
        Self { key, icv, mask: _mm_setzero_si128(), sum: None, data, vectors: 1, blocks: 1, lengths: [0; 2] }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn write_icv(&mut self) {
        let products = match (self.vectors, self.sum) {
            (1, None) => self.finish::<1>(None, 0),
            (2, None) => self.finish::<2>(None, 0),
            (3, None) => self.finish::<3>(None, 0),
            (4, None) => self.finish::<4>(None, 0),
            (6, None) => self.finish::<6>(None, 1),
            (2, sum) => self.finish::<2>(sum, 1),
            (4, sum) => self.finish::<4>(sum, 1),
            (6, sum) => self.finish::<6>(sum, 1),
            (_, sum) => self.finish::<8>(sum, 1),
        };
        let hash = fold_lanes(products.reduce());
        store_block(self.icv, _mm_xor_si128(self.mask, reflect_block(hash)));
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn finish<const N: usize>(&self, sum: Option<__m512i>, slack: usize) -> Products {
        let data = self.data.first_chunk::<N>();
        data.map_or(Products::none(), |data| finish(self.key, sum, data, self.blocks, slack, &self.lengths))
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt<'s, 'k: 's, const R: usize>(frame: &mut Frame<'k>, sealed: &mut Sealed<'s>) {
    let blocks = frame.blocks();
    sealed.key = frame.key;
    sealed.lengths = frame.lengths;
    sealed.blocks = blocks;
    sealed.sum = None;
    match blocks {
        0..=4 => encrypt_short::<R, 1>(frame, sealed),
        5..=8 => encrypt_short::<R, 2>(frame, sealed),
        9..=12 => encrypt_short::<R, 3>(frame, sealed),
        13..=16 => encrypt_short::<R, 4>(frame, sealed),
        17..=24 => encrypt_short::<R, 6>(frame, sealed),
        _ if frame.payload.len() < BATCH_BYTES - BLOCK => encrypt_short::<R, 8>(frame, sealed),
        _ => encrypt_long::<R>(frame, sealed),
    }
}

/// A packet of N vectors.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt_short<const R: usize, const N: usize>(frame: &mut Frame<'_>, sealed: &mut Sealed<'_>) {
    let mut text = Text::whole(frame.payload);
    let mut states = [Counters::new(frame.key, &frame.nonce).batch::<N>(0)];
    let mut input = [[_mm512_setzero_si512(); N]];
    for n in 0..N {
        input[0][n] = text.load(n);
    }
    cipher!(R, [frame.key], states, &input);
    sealed.mask = _mm512_castsi512_si128(states[0][0]);
    sealed.vectors = N;
    for n in 0..N {
        let clipped = text.clip(n, states[0][n]);
        sealed.data[n] = reflect(if n == 0 { with_first(clipped, load_words(&frame.aad)) } else { clipped });
        text.store(n, states[0][n]);
    }
}

/// A packet of a batch and more. Beside a batch goes the hash of the one before.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt_long<const R: usize>(frame: &mut Frame<'_>, sealed: &mut Sealed<'_>) {
    let key = frame.key;
    let counters = Counters::new(key, &frame.nonce);
    let (head, rest) = frame.payload.split_at_mut(BATCH_BYTES - BLOCK);
    let mut text = Text::whole(head);
    let mut input = [[_mm512_setzero_si512(); BATCH]];
    for n in 0..BATCH {
        input[0][n] = text.load(n);
    }
    let mut states = [counters.batch::<BATCH>(0)];
    cipher!(R, [key], states, &input);
    sealed.mask = _mm512_castsi512_si128(states[0][0]);
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

    sealed.blocks = rest.len().div_ceil(BLOCK) + 1;
    let mut hash = Batch::new(sum);
    match sealed.blocks {
        0..=8 => encrypt_end::<R, 2>(key, &counters, vector, rest, &data, &mut hash, sealed),
        9..=16 => encrypt_end::<R, 4>(key, &counters, vector, rest, &data, &mut hash, sealed),
        17..=24 => encrypt_end::<R, 6>(key, &counters, vector, rest, &data, &mut hash, sealed),
        _ => encrypt_end::<R, 8>(key, &counters, vector, rest, &data, &mut hash, sealed),
    }
}

/// Less than a batch at the end of a long packet, beside the hash of its last batch.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt_end<const R: usize, const N: usize>(
    key: &VaesKey,
    counters: &Counters,
    vector: usize,
    rest: &mut [u8],
    data: &[__m512i; BATCH],
    hash: &mut Batch,
    sealed: &mut Sealed<'_>,
) {
    let mut text = Text::rest(rest);
    let mut states = [counters.batch::<N>(vector)];
    let mut input = [[_mm512_setzero_si512(); N]];
    for n in 0..N {
        input[0][n] = text.load(n);
    }
    macro_rules! step {
        ($step:literal) => {
            batch_step!(hash, key, data, $step)
        };
    }
    cipher!(R, [key], states, &input, step);
    sealed.sum = hash.sum;
    sealed.vectors = N;
    for n in 0..N {
        sealed.data[n] = reflect(text.clip(n, states[0][n]));
        text.store(n, states[0][n]);
    }
}
