//! Seal.
//!
//! Of short packets the last steps from products of GHASH to ICVs are done for four at once: they share a reduction, and the
//! chain of instructions that wait for each other gets shorter for each. Of longer ones a batch is hashed beside the next batch that
//! goes through AES, and the last one beside the first of the next packet.

use std::arch::x86_64::*;

use super::aes::{last_keys, rounds};
use super::ghash::{fold_lanes, reflect, reflect_block, with_first};
use super::hash::{self, Hashed, Running, first_of, icvs, next_of};
use super::lanes::{BATCH, BLOCK, Text, VECTOR, broadcast, load_words, store_block};
use super::stream::{Counters, Ending, SHORT, alike, short_ones, side_by_side};
use crate::crypto::vaes::frame::{Block, Frame};
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::schedule::Rounds;

/// Seals packets.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn seal(frames: &mut [Frame<'_>]) {
    let mut waiting = Waiting::nothing();
    let mut rest = frames;
    while let [first, ..] = rest {
        if first.vectors() > SHORT {
            let Some((first, behind)) = std::mem::take(&mut rest).split_first_mut() else { return };
            rest = behind;
            encrypt_long(first, &mut waiting);
        } else {
            let count = short_ones(rest);
            let (four, behind) = std::mem::take(&mut rest).split_at_mut(count);
            rest = behind;
            seal_short(four);
        }
    }
    waiting.finish_alone();
}

/// Seals up to four packets.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn seal_short(frames: &mut [Frame<'_>]) {
    let slots = side_by_side!(encrypt, frames);
    let done = [slots[0].done, slots[1].done, slots[2].done, slots[3].done];
    for (frame, (icv, done)) in frames.iter_mut().zip(icvs(slots).into_iter().zip(done)) {
        store_block(frame.icv(), icv);
        *frame.ok = done;
    }
}

/// Encrypts Q packets of N vectors, whose keys have as many rounds, side by side.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt<const N: usize, const Q: usize>(frames: [&mut Frame<'_>; Q]) -> [Hashed; Q] {
    let keys: [&VaesKey; Q] = std::array::from_fn(|q| frames[q].key);
    let mut states = [[_mm512_setzero_si512(); N]; Q];
    for q in 0..Q {
        states[q] = Counters::new(keys[q], &frames[q].nonce()).batch::<N>(0);
    }
    let last_keys = rounds!(keys, states);
    let mut sealed = [Hashed::nothing(); Q];
    // Written out, since the compiler leaves a loop of so much a loop, and vectors in memory.
    macro_rules! finish {
        ($($q:literal)*) => {$(
            if $q < Q {
                let frame = &mut *frames[$q];
                let (ending, lengths, aad) = (Ending::of(frame), frame.key.lengths(frame.len), frame.aad);
                if let Some(mut text) = Text::<N, BLOCK>::new(frame.payload()) {
                    let (mask, data) = finish_unit(&mut text, states[$q], last_keys[$q], Some(&aad));
                    let products = hash::short(keys[$q], data, ending, &lengths);
                    sealed[$q] = Hashed { products, mask, done: true };
                }
            }
        )*};
    }
    finish!(0 1 2 3);
    sealed
}

/// The last round, and what goes into the hash. With an AAD it is the first of a packet, and its first lane the mask of the ICV.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn finish_unit<const N: usize, const LEAD: usize>(
    text: &mut Text<'_, N, LEAD>,
    states: [__m512i; N],
    last_key: __m512i,
    aad: Option<&Block>,
) -> (__m128i, [__m512i; N]) {
    let mut data = states;
    let mut mask = _mm_setzero_si128();
    for n in 0..N {
        let sealed = _mm512_aesenclast_epi128(states[n], _mm512_xor_si512(last_key, text.load(n)));
        text.store(n, sealed);
        let clipped = text.clip(n, sealed);
        data[n] = reflect(match aad {
            Some(aad) if n == 0 => {
                mask = _mm512_castsi512_si128(sealed);
                with_first(clipped, load_words(aad))
            }
            _ => clipped,
        });
    }
    (mask, data)
}

/// A longer packet that went through AES, whose last batch waits to be hashed.
struct Waiting<'p> {
    /// What it is of, if there is one.
    of: Option<(&'p VaesKey, Block)>,
    data: [__m512i; BATCH],
    /// How many vectors before them are zero.
    empty: usize,
    sum: Option<__m512i>,
    /// The last vector, behind the batch.
    last: __m512i,
    ending: Ending,
    mask: __m128i,
    icv: &'p mut [u8],
}

impl Waiting<'_> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn nothing() -> Self {
        let zero = _mm512_setzero_si512();
        let (data, ending) = ([zero; BATCH], Ending::default());
        Self {
            of: None,
            data,
            empty: 0,
            sum: None,
            last: zero,
            ending,
            mask: _mm_setzero_si128(),
            icv: &mut [],
        }
    }

    /// Writes the ICV, from the sum of all batches.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn finish(&mut self, key: &VaesKey, lengths: Block, sum: Option<__m512i>) {
        let sum = sum.unwrap_or(self.last);
        let products = hash::long(key, sum, self.last, self.ending, &lengths);
        let hash = reflect_block(fold_lanes(products.reduce()));
        store_block(self.icv, _mm_xor_si128(hash, self.mask));
    }

    /// Hashes the last batch, with nothing beside it.
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn finish_alone(mut self) {
        let Some((key, lengths)) = self.of else { return };
        let mut running = Running::new(self.sum);
        for step in 1..=9 {
            running.step(key, &self.data, self.empty, step);
        }
        self.finish(key, lengths, running.sum);
    }
}

/// Encrypts a packet of more than four vectors, and hashes the last batch of the one before.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encrypt_long<'p>(frame: &'p mut Frame<'_>, waiting: &mut Waiting<'p>) {
    // Batches are counted from the end, so that only the first may have fewer vectors, or one more.
    let vectors = (frame.vectors() - 2) % BATCH + 2;
    let ending = Ending::of(frame);
    let key = frame.key;
    let counters = Counters::new(key, &frame.nonce());
    let lengths = frame.key.lengths(frame.len);
    let (payload, icv) = frame.bytes.split_at_mut(frame.len);
    let (head, rest) = payload.split_at_mut((vectors * VECTOR - BLOCK).min(frame.len));
    let first = First { key, counters, aad: &frame.aad };
    let begun = match vectors {
        2 => first.encrypt::<2>(head, waiting),
        3 => first.encrypt::<3>(head, waiting),
        4 => first.encrypt::<4>(head, waiting),
        5 => first.encrypt::<5>(head, waiting),
        6 => first.encrypt::<6>(head, waiting),
        7 => first.encrypt::<7>(head, waiting),
        8 => first.encrypt::<8>(head, waiting),
        _ => first.encrypt::<9>(head, waiting),
    };
    let Some((mask, (mut data, mut last))) = begun else { return };
    let mut sum = None;
    let mut empty = BATCH + 1 - vectors;
    let mut vector = vectors;
    macro_rules! batch {
        ($bytes:ident, $empty:expr) => {{
            let Some(mut text) = Text::<BATCH, 0>::new($bytes) else { return };
            let mut states = [counters.batch::<BATCH>(vector)];
            let mut running = Running::new(sum);
            macro_rules! step {
                ($step:literal) => {
                    running.step(key, &data, $empty, $step)
                };
            }
            let [last_key] = rounds!([key], states, step);
            let (_, vectors) = finish_unit(&mut text, states[0], last_key, None);
            sum = running.sum;
            (data, last) = next_of(last, vectors);
            vector += BATCH;
        }};
    }
    let mut batches = rest.chunks_mut(BATCH * VECTOR);
    if let Some(bytes) = batches.next() {
        batch!(bytes, empty);
        empty = 0;
    }
    for bytes in batches {
        batch!(bytes, 0);
    }
    waiting.of = Some((key, lengths));
    waiting.data = data;
    waiting.empty = empty;
    waiting.sum = sum;
    waiting.last = last;
    waiting.ending = ending;
    waiting.mask = mask;
    waiting.icv = icv;
    *frame.ok = true;
}

/// The first batch of a longer packet.
struct First<'p> {
    key: &'p VaesKey,
    counters: Counters,
    aad: &'p Block,
}

impl First<'_> {
    /// Encrypts its N vectors, and hashes the last batch of the packet before. Gives the mask of the ICV and what goes
    /// into the hash.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn encrypt<const N: usize>(
        self,
        head: &mut [u8],
        waiting: &mut Waiting<'_>,
    ) -> Option<(__m128i, ([__m512i; BATCH], __m512i))> {
        let mut text = Text::<N, BLOCK>::new(head)?;
        let mut states = [self.counters.batch::<N>(0)];
        let last_key = if let Some((key, lengths)) = waiting.of {
            let mut running = Running::new(waiting.sum);
            macro_rules! step {
                ($step:literal) => {
                    running.step(key, &waiting.data, waiting.empty, $step)
                };
            }
            let [last_key] = rounds!([self.key], states, step);
            waiting.finish(key, lengths, running.sum);
            last_key
        } else {
            let [last_key] = rounds!([self.key], states);
            last_key
        };
        let (mask, vectors) = finish_unit(&mut text, states[0], last_key, Some(self.aad));
        Some((mask, first_of(vectors)))
    }
}
