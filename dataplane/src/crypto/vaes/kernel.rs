//! Seal and open of one packet.
//!
//! Up to 17 blocks are one straight run of code for each number of vectors. Longer packets go 16 blocks at a
//! time; while a chunk goes through AES, the one before it goes through GHASH.
//!
//! Open writes the plaintext of a short packet, and of the end of a long one, only when the ICV is good. Whole
//! chunks are decrypted as they are hashed, since a second pass would cost what the first does, and are wiped
//! before anybody else can see them when the ICV is bad.

use std::arch::x86_64::*;

use super::aes::{Rounds, cipher};
use super::frame::{Counters, Frame, with_lengths};
use super::ghash::{Products, reflect, reflect_block, reflect_with_first};
use super::key::VaesKey;
use super::lanes::{BLOCK, CHUNK, VECTOR, Window, block_mask, load, load_block, store, store_block};

/// Seals one packet. False when it is too short for header, IV and ICV.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn seal(key: &VaesKey, packet: &mut [u8], seq: u64) -> bool {
    Frame::to_seal(key, packet, seq).is_some_and(|frame| by_rounds::<true>(key, frame))
}

/// Opens one packet. False, and its payload is wiped, when the ICV is wrong; false when it is too short.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn open(key: &VaesKey, packet: &mut [u8], seq: u64) -> bool {
    Frame::to_open(key, packet, seq).is_some_and(|frame| by_rounds::<false>(key, frame))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn by_rounds<const SEAL: bool>(key: &VaesKey, frame: Frame<'_>) -> bool {
    match key.rounds() {
        Rounds::Ten => run::<10, SEAL>(key, frame),
        Rounds::Twelve => run::<12, SEAL>(key, frame),
        Rounds::Fourteen => run::<14, SEAL>(key, frame),
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn run<const R: usize, const SEAL: bool>(key: &VaesKey, mut frame: Frame<'_>) -> bool {
    let counters = Counters::new(key, frame.iv);
    let ok = if frame.payload.len() < CHUNK - BLOCK {
        match frame.blocks() {
            ..=4 => short::<R, 1, SEAL>(key, &counters, &mut frame),
            ..=8 => short::<R, 2, SEAL>(key, &counters, &mut frame),
            ..=12 => short::<R, 3, SEAL>(key, &counters, &mut frame),
            _ => short::<R, 4, SEAL>(key, &counters, &mut frame),
        }
    } else {
        long::<R, SEAL>(key, &counters, &mut frame)
    };
    if !ok {
        frame.payload.fill(0);
    }
    ok
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn short<const R: usize, const N: usize, const SEAL: bool>(
    key: &VaesKey,
    counters: &Counters,
    frame: &mut Frame<'_>,
) -> bool {
    let blocks = frame.blocks();
    let mut payload = &mut *frame.payload;
    let mut windows: [Window<'_>; N] =
        std::array::from_fn(
            |i| if i == 0 { Window::first(&mut payload) } else { Window::next(&mut payload) },
        );
    let input: [__m512i; N] = std::array::from_fn(|i| windows[i].load());
    let out = cipher::<R, N>(key.round_keys(), counters.chunk(0), input);
    let data: [__m512i; N] = std::array::from_fn(|i| {
        let text = if SEAL { windows[i].clip(out[i]) } else { input[i] };
        if i == 0 { reflect_with_first(text, frame.aad) } else { reflect(text) }
    });
    let icv = tag(hash_end(key, None, data, blocks, frame.lengths), out[0]);
    finish::<N, SEAL>(&mut windows, out, frame.icv, icv)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn long<const R: usize, const SEAL: bool>(key: &VaesKey, counters: &Counters, frame: &mut Frame<'_>) -> bool {
    let (mut head, rest) = frame.payload.split_at_mut(CHUNK - BLOCK);
    let mut first = Window::first(&mut head);
    let others = head.as_chunks_mut::<VECTOR>().0;
    let input: [__m512i; 4] =
        std::array::from_fn(|i| if i == 0 { first.load() } else { load(&others[i - 1]) });
    let out = cipher::<R, 4>(key.round_keys(), counters.chunk(0), input);
    first.store(out[0]);
    for (vector, out) in others.iter_mut().zip(&out[1..]) {
        store(vector, *out);
    }
    let mask = out[0];
    let text = if SEAL { out } else { input };
    let mut data =
        std::array::from_fn(
            |i| {
                if i == 0 { reflect_with_first(text[i], frame.aad) } else { reflect(text[i]) }
            },
        );

    let (chunks, mut rest) = rest.as_chunks_mut::<CHUNK>();
    for (index, chunk) in chunks.iter_mut().enumerate() {
        let vectors = chunk.as_chunks_mut::<VECTOR>().0;
        let input: [__m512i; 4] = std::array::from_fn(|i| load(&vectors[i]));
        let sum = hash(key, data, 16);
        let out = cipher::<R, 4>(key.round_keys(), counters.chunk(index + 1), input);
        for (vector, out) in vectors.iter_mut().zip(out) {
            store(vector, out);
        }
        data = add(if SEAL { out } else { input }.map(|text| reflect(text)), sum);
    }
    let sum = hash(key, data, 16);

    let end = End { key, counters, chunk: chunks.len() + 1, sum, mask, lengths: frame.lengths };
    match rest.len().div_ceil(BLOCK) + 1 {
        ..=4 => end.run::<R, 1, SEAL>(&mut rest, frame.icv),
        ..=8 => end.run::<R, 2, SEAL>(&mut rest, frame.icv),
        ..=12 => end.run::<R, 3, SEAL>(&mut rest, frame.icv),
        _ => end.run::<R, 4, SEAL>(&mut rest, frame.icv),
    }
}

/// Where a long packet stands when less than a chunk is left.
struct End<'k> {
    key: &'k VaesKey,
    counters: &'k Counters,
    chunk: usize,
    sum: __m128i,
    mask: __m512i,
    lengths: __m128i,
}

impl End<'_> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn run<const R: usize, const N: usize, const SEAL: bool>(
        self,
        rest: &mut &mut [u8],
        icv: &mut [u8],
    ) -> bool {
        let blocks = rest.len().div_ceil(BLOCK) + 1;
        let mut windows: [Window<'_>; N] = std::array::from_fn(|_| Window::next(rest));
        let input: [__m512i; N] = std::array::from_fn(|i| windows[i].load());
        let out = cipher::<R, N>(self.key.round_keys(), self.counters.chunk(self.chunk), input);
        let data: [__m512i; N] =
            std::array::from_fn(|i| reflect(if SEAL { windows[i].clip(out[i]) } else { input[i] }));
        let sum = hash_end(self.key, Some(self.sum), data, blocks, self.lengths);
        finish::<N, SEAL>(&mut windows, out, icv, tag(sum, self.mask))
    }
}

/// Adds the hash so far to the first block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn add<const N: usize>(mut data: [__m512i; N], sum: __m128i) -> [__m512i; N] {
    data[0] = _mm512_xor_si512(data[0], _mm512_zextsi128_si512(sum));
    data
}

/// Hashes vectors of `blocks` blocks in all, 16 at most.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn hash<const N: usize>(key: &VaesKey, data: [__m512i; N], blocks: usize) -> __m128i {
    let mut sum = Products::of(data[0], key.powers(blocks, 0));
    for (index, data) in data.iter().enumerate().skip(1) {
        sum = sum.plus(Products::of(*data, key.powers(blocks, index)));
    }
    sum.reduce()
}

/// Hashes the last vectors, which with the length block are `blocks` blocks, 17 at most. `sum` is the hash so
/// far; the first chunk of a packet has none.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn hash_end<const N: usize>(
    key: &VaesKey,
    sum: Option<__m128i>,
    mut data: [__m512i; N],
    blocks: usize,
    lengths: __m128i,
) -> __m128i {
    let fits = blocks <= 4 * N;
    if fits {
        data[N - 1] = with_lengths(data[N - 1], blocks, lengths);
    }
    if let Some(sum) = sum {
        data = add(data, sum);
    }
    if fits {
        return hash(key, data, blocks);
    }
    // The length block has no lane left, and there is no 17th power of H.
    let sum = _mm_xor_si128(hash(key, data, 4 * N), lengths);
    hash(key, [_mm512_zextsi128_si512(sum)], 1)
}

/// The ICV: the hash, masked with the keystream of counter 1, which is lane 0 of the first vector.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn tag(sum: __m128i, mask: __m512i) -> __m128i {
    _mm_xor_si128(reflect_block(sum), _mm512_castsi512_si128(mask))
}

/// Seal: writes text and ICV. Open: compares the ICV, all of it at once, and only then writes the text.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn finish<const N: usize, const SEAL: bool>(
    windows: &mut [Window<'_>; N],
    out: [__m512i; N],
    icv: &mut [u8],
    tag: __m128i,
) -> bool {
    let ok = if SEAL {
        store_block(icv, tag);
        true
    } else {
        _mm_mask_cmpneq_epi8_mask(block_mask(icv), tag, load_block(icv)) == 0
    };
    if ok {
        for (window, out) in windows.iter_mut().zip(out) {
            window.store(out);
        }
    }
    ok
}
