//! Seal and open of one packet.
//!
//! Up to 33 blocks, header and length block among them, are one straight run of code for each number of vectors.
//! Longer packets go eight vectors at a time; while a batch goes through AES, the one before it goes through GHASH.
//!
//! Open writes the plaintext of a short packet, and of the end of a long one, only when the ICV is good. Whole
//! batches are decrypted as they are hashed, since AES and GHASH of one pass overlap and those of two passes would not, and
//! are wiped before anybody else can see them when the ICV is bad.

use std::arch::x86_64::*;

use super::aes::{Rounds, cipher};
use super::frame::{Counters, Frame};
use super::ghash::{reflect, reflect_block, reflect_with_first};
use super::hash::{absorb, finish};
use super::key::VaesKey;
use super::lanes::{BLOCK, Text, VECTOR, block_mask, load, load_block, store, store_block};

/// Vectors of a batch: as many AES chains as fill the pipes.
const BATCH: usize = 8;
const BATCH_BYTES: usize = BATCH * VECTOR;

/// Seals one packet. False when it is too short for header, IV and ICV.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn seal(key: &VaesKey, packet: &mut [u8], seq: u64) -> bool {
    by_rounds::<true>(key, packet, seq)
}

/// Opens one packet. False, and its payload is wiped, when the ICV is wrong; false when it is too short.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn open(key: &VaesKey, packet: &mut [u8], seq: u64) -> bool {
    by_rounds::<false>(key, packet, seq)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn by_rounds<const SEAL: bool>(key: &VaesKey, packet: &mut [u8], seq: u64) -> bool {
    let Some(frame) = Frame::split(key, packet, seq) else { return false };
    match key.rounds() {
        Rounds::Ten => run::<10, SEAL>(key, frame),
        Rounds::Twelve => run::<12, SEAL>(key, frame),
        Rounds::Fourteen => run::<14, SEAL>(key, frame),
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn run<const R: usize, const SEAL: bool>(key: &VaesKey, frame: Frame<'_>) -> bool {
    let Frame { iv, payload, icv, nonce_iv, aad, lengths } = frame;
    let counters = match &iv {
        Some(received) if !SEAL => Counters::new(key, u64::from_ne_bytes(**received)),
        _ => Counters::new(key, nonce_iv),
    };
    let blocks = payload.len().div_ceil(BLOCK) + 2;
    let packet = Packet { key, counters, vector: 0, sum: None, mask: aad, lengths };
    let ok = if payload.len() >= BATCH_BYTES - BLOCK {
        packet.long::<R, SEAL>(payload, icv)
    } else {
        match blocks {
            ..=4 => packet.end::<R, 1, SEAL, true>(payload, icv, blocks),
            ..=8 => packet.end::<R, 2, SEAL, true>(payload, icv, blocks),
            ..=12 => packet.end::<R, 3, SEAL, true>(payload, icv, blocks),
            ..=16 => packet.end::<R, 4, SEAL, true>(payload, icv, blocks),
            ..=24 => packet.end::<R, 6, SEAL, true>(payload, icv, blocks),
            _ => packet.end::<R, 8, SEAL, true>(payload, icv, blocks),
        }
    };
    if !ok {
        payload.fill(0);
    }
    // Not sooner: a load that spans bytes just written waits until they are in the cache.
    if SEAL && let Some(iv) = iv {
        *iv = nonce_iv.to_ne_bytes();
    }
    ok
}

/// A packet on its way.
struct Packet<'k> {
    key: &'k VaesKey,
    counters: Counters,
    /// The next vector.
    vector: usize,
    /// What the vectors before came to.
    sum: Option<__m512i>,
    /// Before the first vector the AAD, reflected; then what the hash is masked with to make the ICV.
    mask: __m128i,
    lengths: __m128i,
}

impl Packet<'_> {
    /// The last N vectors, which with the length block have `blocks` blocks. `FIRST`: they are the first too.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn end<const R: usize, const N: usize, const SEAL: bool, const FIRST: bool>(
        mut self,
        payload: &mut [u8],
        icv: &mut [u8],
        blocks: usize,
    ) -> bool {
        let mut text = if FIRST { Text::whole(payload) } else { Text::rest(payload) };
        let mut input = [_mm512_setzero_si512(); N];
        for n in 0..N {
            input[n] = text.load(n);
        }
        let [out] = cipher::<R, N, 1>([self.key], [self.counters.batch(self.vector)], [input]);
        let mut data = input;
        for n in 0..N {
            let cipher_text = if SEAL { text.clip(n, out[n]) } else { input[n] };
            data[n] = if FIRST && n == 0 {
                reflect_with_first(cipher_text, self.mask)
            } else {
                reflect(cipher_text)
            };
        }
        if FIRST {
            self.mask = _mm512_castsi512_si128(out[0]);
        }
        let hash = finish(self.key, self.sum, data, blocks, self.lengths);
        let tag = _mm_xor_si128(reflect_block(hash), self.mask);
        let ok = SEAL || _mm_mask_cmpneq_epi8_mask(block_mask(icv), tag, load_block(icv)) == 0;
        if ok {
            for n in 0..N {
                text.store(n, out[n]);
            }
        }
        if SEAL {
            store_block(icv, tag);
        }
        ok
    }

    /// A packet of more than a batch.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn long<const R: usize, const SEAL: bool>(mut self, payload: &mut [u8], icv: &mut [u8]) -> bool {
        let (head, rest) = payload.split_at_mut(BATCH_BYTES - BLOCK);
        let mut text = Text::whole(head);
        let mut input = [_mm512_setzero_si512(); BATCH];
        for n in 0..BATCH {
            input[n] = text.load(n);
        }
        let [out] = cipher::<R, BATCH, 1>([self.key], [self.counters.batch(0)], [input]);
        let mut data = if SEAL { out } else { input };
        for n in 0..BATCH {
            text.store(n, out[n]);
            data[n] = if n == 0 { reflect_with_first(data[n], self.mask) } else { reflect(data[n]) };
        }
        self.mask = _mm512_castsi512_si128(out[0]);
        self.vector = BATCH;

        let (batches, rest) = rest.as_chunks_mut::<BATCH_BYTES>();
        for batch in batches {
            let vectors = batch.as_chunks_mut::<VECTOR>().0;
            for n in 0..BATCH {
                input[n] = load(&vectors[n]);
            }
            let [out] = cipher::<R, BATCH, 1>([self.key], [self.counters.batch(self.vector)], [input]);
            self.absorb(&data);
            data = if SEAL { out } else { input };
            for n in 0..BATCH {
                store(&mut vectors[n], out[n]);
                data[n] = reflect(data[n]);
            }
            self.vector += BATCH;
        }
        self.absorb(&data);

        let blocks = rest.len().div_ceil(BLOCK) + 1;
        match blocks {
            ..=8 => self.end::<R, 2, SEAL, false>(rest, icv, blocks),
            ..=16 => self.end::<R, 4, SEAL, false>(rest, icv, blocks),
            ..=24 => self.end::<R, 6, SEAL, false>(rest, icv, blocks),
            _ => self.end::<R, 8, SEAL, false>(rest, icv, blocks),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn absorb(&mut self, data: &[__m512i; BATCH]) {
        let [a, b, c, d, e, f, g, h] = *data;
        let sum = absorb(self.key, self.sum, &[a, b, c, d]);
        self.sum = Some(absorb(self.key, Some(sum), &[e, f, g, h]));
    }
}
