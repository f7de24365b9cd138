//! Open.
//!
//! The plaintext of a short packet, and of the end of a long one, is written only when the ICV is good. Whole batches are
//! decrypted as they are hashed, since AES and GHASH of one pass run in parallel and those of two would not; they are wiped
//! before anybody else can see them when the ICV is bad.

use std::arch::x86_64::*;

use super::aes::cipher;
use super::ghash::{Products, fold_lanes, reflect, reflect_block, with_first};
use super::hash::{Batch, batch_step, finish};
use super::lanes::{
    BATCH, BATCH_BYTES, BLOCK, Text, VECTOR, broadcast, load, load_words, store, verify_block,
};
use super::stream::{Counters, Frame};
use crate::crypto::vaes::frame::Block;
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::schedule::Rounds;

/// Opens packets. Where the ICV is wrong the payload is wiped.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn open(frames: &mut [Frame<'_>]) {
    for frame in frames {
        *frame.ok = match frame.key.rounds() {
            Rounds::Ten => decrypt::<10>(frame),
            Rounds::Twelve => decrypt::<12>(frame),
            Rounds::Fourteen => decrypt::<14>(frame),
        };
        if !*frame.ok {
            frame.body.payload.fill(0);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn decrypt<const R: usize>(frame: &mut Frame<'_>) -> bool {
    match frame.blocks() {
        0..=4 => decrypt_short::<R, 1>(frame, 0),
        5..=8 => decrypt_short::<R, 2>(frame, 0),
        9..=12 => decrypt_short::<R, 3>(frame, 0),
        13..=16 => decrypt_short::<R, 4>(frame, 0),
        17..=24 => decrypt_short::<R, 6>(frame, 1),
        _ if frame.body.payload.len() < BATCH_BYTES - BLOCK => decrypt_short::<R, 8>(frame, 1),
        _ => decrypt_long::<R>(frame),
    }
}

/// A packet of N vectors.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn decrypt_short<const R: usize, const N: usize>(frame: &mut Frame<'_>, slack: usize) -> bool {
    let blocks = frame.blocks();
    let mut text = Text::whole(frame.body.payload);
    let mut states = [Counters::new(frame.key, &frame.nonce).batch::<N>(0)];
    let mut input = [[_mm512_setzero_si512(); N]];
    let mut data = input[0];
    for n in 0..N {
        input[0][n] = text.load(n);
        data[n] = reflect(if n == 0 { with_first(input[0][0], load_words(&frame.aad)) } else { input[0][n] });
    }
    cipher!(R, [frame.key], states, &input);
    let products = finish(frame.key, None, &data, blocks, slack, &frame.lengths);
    let ok = verify(frame.body.icv, products, _mm512_castsi512_si128(states[0][0]));
    if ok {
        for n in 0..N {
            text.store(n, states[0][n]);
        }
    }
    ok
}

/// A packet of a batch and more.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn decrypt_long<const R: usize>(frame: &mut Frame<'_>) -> bool {
    let key = frame.key;
    let counters = Counters::new(key, &frame.nonce);
    let (head, rest) = frame.body.payload.split_at_mut(BATCH_BYTES - BLOCK);
    let mut text = Text::whole(head);
    let mut input = [[_mm512_setzero_si512(); BATCH]];
    let mut data = input[0];
    for n in 0..BATCH {
        input[0][n] = text.load(n);
        data[n] = reflect(if n == 0 { with_first(input[0][0], load_words(&frame.aad)) } else { input[0][n] });
    }
    let mut states = [counters.batch::<BATCH>(0)];
    let mut hash = Batch::new(None);
    macro_rules! step {
        ($step:literal) => {
            batch_step!(hash, key, data, $step)
        };
    }
    cipher!(R, [key], states, &input, step);
    for n in 0..BATCH {
        text.store(n, states[0][n]);
    }
    let mask = _mm512_castsi512_si128(states[0][0]);

    let mut vector = BATCH;
    let (batches, rest) = rest.as_chunks_mut::<BATCH_BYTES>();
    for batch in batches {
        let vectors = batch.as_chunks_mut::<VECTOR>().0;
        for n in 0..BATCH {
            input[0][n] = load(&vectors[n]);
            data[n] = reflect(input[0][n]);
        }
        let mut states = [counters.batch::<BATCH>(vector)];
        hash = Batch::new(hash.sum);
        macro_rules! step {
            ($step:literal) => {
                batch_step!(hash, key, data, $step)
            };
        }
        cipher!(R, [key], states, &input, step);
        for n in 0..BATCH {
            store(&mut vectors[n], states[0][n]);
        }
        vector += BATCH;
    }

    let blocks = rest.len().div_ceil(BLOCK) + 1;
    let end = End { key, counters, vector, sum: hash.sum, mask, lengths: &frame.lengths };
    match blocks {
        0..=8 => end.decrypt::<R, 2>(rest, frame.body.icv, blocks),
        9..=16 => end.decrypt::<R, 4>(rest, frame.body.icv, blocks),
        17..=24 => end.decrypt::<R, 6>(rest, frame.body.icv, blocks),
        _ => end.decrypt::<R, 8>(rest, frame.body.icv, blocks),
    }
}

/// Where a long packet stands when less than a batch is left.
struct End<'k> {
    key: &'k VaesKey,
    counters: Counters,
    vector: usize,
    sum: Option<__m512i>,
    mask: __m128i,
    lengths: &'k Block,
}

impl End<'_> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn decrypt<const R: usize, const N: usize>(self, rest: &mut [u8], icv: &[u8], blocks: usize) -> bool {
        let mut text = Text::rest(rest);
        let mut states = [self.counters.batch::<N>(self.vector)];
        let mut input = [[_mm512_setzero_si512(); N]];
        let mut data = input[0];
        for n in 0..N {
            input[0][n] = text.load(n);
            data[n] = reflect(input[0][n]);
        }
        cipher!(R, [self.key], states, &input);
        let ok = verify(icv, finish(self.key, self.sum, &data, blocks, 1, self.lengths), self.mask);
        if ok {
            for n in 0..N {
                text.store(n, states[0][n]);
            }
        }
        ok
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn verify(icv: &[u8], products: Products, mask: __m128i) -> bool {
    verify_block(icv, _mm_xor_si128(mask, reflect_block(fold_lanes(products.reduce()))))
}
