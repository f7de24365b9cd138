//! Open.
//!
//! Packets are decrypted as they are hashed, since AES and GHASH of one pass run in parallel and those of two would not. They are
//! wiped before anybody else can see them when the ICV is bad.

use std::arch::x86_64::*;

use super::aes::{last_keys, rounds};
use super::ghash::{fold_lanes, reflect, reflect_block, with_first};
use super::hash::{self, Hashed, Running, first_of, icvs, next_of};
use super::lanes::{BATCH, BLOCK, Text, VECTOR, broadcast, equal, load_block, load_words};
use super::stream::{Counters, Ending, SHORT, alike, short_ones, side_by_side};
use crate::crypto::vaes::frame::{Block, Frame};
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::schedule::Rounds;

/// Opens packets. Where the ICV is wrong the payload is wiped.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn open(frames: &mut [Frame<'_>]) {
    let mut rest = frames;
    while let [first, ..] = rest {
        let count = if first.vectors() > SHORT {
            *first.ok = decrypt_long(first);
            1
        } else {
            let count = short_ones(rest);
            open_short(&mut rest[..count]);
            count
        };
        let (done, behind) = std::mem::take(&mut rest).split_at_mut(count);
        rest = behind;
        for frame in done {
            if !*frame.ok {
                frame.payload().fill(0);
            }
        }
    }
}

/// Up to four packets.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn open_short(frames: &mut [Frame<'_>]) {
    let slots = side_by_side!(decrypt, frames);
    let done = [slots[0].done, slots[1].done, slots[2].done, slots[3].done];
    for (frame, (difference, done)) in frames.iter_mut().zip(icvs(slots).into_iter().zip(done)) {
        *frame.ok = done & equal(difference, _mm_setzero_si128(), frame.key.icv_len());
    }
}

/// Decrypts Q packets of N vectors, whose keys have as many rounds, side by side. Their masks have the ICVs in them that came, so
/// that where one is right nothing is left of it.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn decrypt<const N: usize, const Q: usize>(frames: [&mut Frame<'_>; Q]) -> [Hashed; Q] {
    let keys: [&VaesKey; Q] = std::array::from_fn(|q| frames[q].key);
    let mut opened = [Hashed::nothing(); Q];
    let mut states = [[_mm512_setzero_si512(); N]; Q];
    for q in 0..Q {
        states[q] = Counters::new(keys[q], &frames[q].nonce()).batch::<N>(0);
    }
    // Written out, since the compiler leaves a loop of so much a loop, and vectors in memory.
    macro_rules! hash {
        ($q:literal) => {
            if $q < Q {
                let frame = &mut *frames[$q];
                let (ending, lengths, aad) = (Ending::of(frame), frame.key.lengths(frame.len), frame.aad);
                if let Some(text) = Text::<N, BLOCK>::new(frame.payload()) {
                    let mut data = [_mm512_setzero_si512(); N];
                    for n in 0..N {
                        data[n] = for_hash(&text, n, (n == 0).then_some(&aad));
                    }
                    opened[$q].products = hash::short(keys[$q], data, ending, &lengths);
                    // Before what stands beside it is written.
                    opened[$q].mask = load_block(frame.icv());
                }
            }
        };
    }
    macro_rules! step {
        ($step:literal) => {
            match $step {
                2 => hash!(0),
                4 => hash!(1),
                6 => hash!(2),
                8 => hash!(3),
                _ => {}
            }
        };
    }
    let last_keys = rounds!(keys, states, step);
    macro_rules! finish {
        ($($q:literal)*) => {$(
            if $q < Q && let Some(mut text) = Text::<N, BLOCK>::new(frames[$q].payload()) {
                let mask = finish_unit(&mut text, states[$q], last_keys[$q]);
                opened[$q].mask = _mm_xor_si128(opened[$q].mask, mask);
                opened[$q].done = true;
            }
        )*};
    }
    finish!(0 1 2 3);
    opened
}

/// What goes into the hash of vector `n`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn for_hash<const N: usize, const LEAD: usize>(
    text: &Text<'_, N, LEAD>,
    n: usize,
    aad: Option<&Block>,
) -> __m512i {
    let vector = text.load(n);
    match aad {
        Some(aad) => reflect(with_first(vector, load_words(aad))),
        None => reflect(vector),
    }
}

/// The last round. Gives the first lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn finish_unit<const N: usize, const LEAD: usize>(
    text: &mut Text<'_, N, LEAD>,
    states: [__m512i; N],
    last_key: __m512i,
) -> __m128i {
    let mut first = _mm_setzero_si128();
    for n in 0..N {
        let opened = _mm512_aesenclast_epi128(states[n], _mm512_xor_si512(last_key, text.load(n)));
        text.store(n, opened);
        if n == 0 {
            first = _mm512_castsi512_si128(opened);
        }
    }
    first
}

/// A packet of more than four vectors; whether its ICV is good.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn decrypt_long(frame: &mut Frame<'_>) -> bool {
    // Batches are counted from the end, so that only the first may have fewer vectors, or one more.
    let vectors = (frame.vectors() - 2) % BATCH + 2;
    let ending = Ending::of(frame);
    let counters = Counters::new(frame.key, &frame.nonce());
    // Before what stands beside it is written.
    let icv = load_block(frame.icv());
    let lengths = frame.key.lengths(frame.len);
    let payload = &mut frame.bytes[..frame.len];
    let (head, rest) = payload.split_at_mut((vectors * VECTOR - BLOCK).min(frame.len));
    let first = First { key: frame.key, counters, aad: &frame.aad };
    let begun = match vectors {
        2 => first.decrypt::<2>(head),
        3 => first.decrypt::<3>(head),
        4 => first.decrypt::<4>(head),
        5 => first.decrypt::<5>(head),
        6 => first.decrypt::<6>(head),
        7 => first.decrypt::<7>(head),
        8 => first.decrypt::<8>(head),
        _ => first.decrypt::<9>(head),
    };
    let Some((mask, mut sum, mut last)) = begun else { return false };
    let mut vector = vectors;
    for bytes in rest.chunks_mut(BATCH * VECTOR) {
        let Some(mut text) = Text::<BATCH, 0>::new(bytes) else { return false };
        let mut vectors = [_mm512_setzero_si512(); BATCH];
        for n in 0..BATCH {
            vectors[n] = for_hash(&text, n, None);
        }
        let data;
        (data, last) = next_of(last, vectors);
        let mut states = [counters.batch::<BATCH>(vector)];
        let mut running = Running::new(sum);
        macro_rules! step {
            ($step:literal) => {
                running.step(frame.key, &data, 0, $step)
            };
        }
        let [last_key] = rounds!([frame.key], states, step);
        finish_unit(&mut text, states[0], last_key);
        sum = running.sum;
        vector += BATCH;
    }
    let Some(sum) = sum else { return false };
    let products = hash::long(frame.key, sum, last, ending, &lengths);
    let right = _mm_xor_si128(mask, reflect_block(fold_lanes(products.reduce())));
    equal(right, icv, frame.key.icv_len())
}

/// The first batch of a longer packet.
struct First<'p> {
    key: &'p VaesKey,
    counters: Counters,
    aad: &'p Block,
}

impl First<'_> {
    /// Decrypts its N vectors. Gives the mask of the ICV, the sum of the hash, and the vector that is not yet in it.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn decrypt<const N: usize>(self, head: &mut [u8]) -> Option<(__m128i, Option<__m512i>, __m512i)> {
        let mut text = Text::<N, BLOCK>::new(head)?;
        let mut vectors = [_mm512_setzero_si512(); N];
        for n in 0..N {
            vectors[n] = for_hash(&text, n, (n == 0).then_some(self.aad));
        }
        let (data, last) = first_of(vectors);
        let mut states = [self.counters.batch::<N>(0)];
        let mut running = Running::new(None);
        macro_rules! step {
            ($step:literal) => {
                running.step(self.key, &data, BATCH + 1 - N, $step)
            };
        }
        let [last_key] = rounds!([self.key], states, step);
        Some((finish_unit(&mut text, states[0], last_key), running.sum, last))
    }
}
