//! Seal.
//!
//! Two packets at a time: short ones go through AES side by side, and where a vector has two lanes the last steps from products
//! of GHASH to ICVs are done for both at once.

use std::arch::x86_64::__m128i;

use super::cipher::{Counters, Nothing, rounds, rounds_of_two};
use super::ghash::{Products, reduce_two};
use super::hash::{BatchHash, End};
use super::tail::{self, Tail};
use super::{BATCH, Frame, Isa, behind, behind_of_two, head_len, vector_len};
use crate::crypto::vaes::frame::{BLOCK, Block};
use crate::crypto::vaes::key::VaesKey;

/// Seals packets.
#[inline(always)]
pub fn seal<I: Isa>(isa: I, frames: &mut [Frame<'_>]) {
    for two in frames.chunks_mut(I::LANES) {
        let nothing = Sealed { products: Products::none(isa), mask: isa.least().zero() };
        let mut slots = [nothing; 2];
        if let [a, b] = &mut *two
            && let Some(behind) = behind_of_two::<I>(a, b)
        {
            slots = encrypt_two(isa, behind, a, b);
        } else {
            // In one place: it is inlined, and it is large.
            for (frame, slot) in two.iter_mut().zip(&mut slots) {
                *slot = encrypt(isa, frame);
            }
        }
        two.iter_mut().for_each(|frame| *frame.ok = true);
        write_icvs(isa, two, &slots);
    }
}

/// A packet that went through AES and waits for its ICV.
#[derive(Clone, Copy)]
struct Sealed<V> {
    /// The hash, not yet reduced.
    products: Products<V>,
    /// What it is masked with.
    mask: __m128i,
}

/// Writes the ICVs of one or two packets.
#[inline(always)]
fn write_icvs<I: Isa>(isa: I, frames: &mut [Frame<'_>], slots: &[Sealed<I::Vector>; 2]) {
    let [a, b] = slots;
    let hashes = reduce_two(isa, a.products, b.products);
    for (frame, (slot, hash)) in frames.iter_mut().zip(slots.iter().zip(hashes)) {
        isa.least().store_start(&mut frame.bytes[frame.len..], isa.least().xor(hash, slot.mask));
    }
}

/// Encrypts two packets with so many vectors behind vector 0.
#[inline(always)]
fn encrypt_two<I: Isa>(
    isa: I,
    behind: usize,
    a: &mut Frame<'_>,
    b: &mut Frame<'_>,
) -> [Sealed<I::Vector>; 2] {
    match behind {
        1 => encrypt_two_short::<I, 2>(isa, a, b),
        2 => encrypt_two_short::<I, 3>(isa, a, b),
        _ => encrypt_two_short::<I, 4>(isa, a, b),
    }
}

/// Encrypts two packets of N vectors.
#[inline(always)]
fn encrypt_two_short<I: Isa, const N: usize>(
    isa: I,
    a: &mut Frame<'_>,
    b: &mut Frame<'_>,
) -> [Sealed<I::Vector>; 2] {
    let counters = |frame: &Frame<'_>| Counters::new(isa, frame.key, &frame.nonce()).batch::<I, N>(isa, 0);
    let mut states = [counters(a), counters(b)];
    let last_keys = rounds_of_two(isa, [a.key, b.key], &mut states);
    [finish_short(isa, a, states[0], last_keys[0]), finish_short(isa, b, states[1], last_keys[1])]
}

/// Encrypts a packet.
#[inline(always)]
fn encrypt<I: Isa>(isa: I, frame: &mut Frame<'_>) -> Sealed<I::Vector> {
    match behind::<I>(frame) {
        0 => encrypt_tiny(isa, frame),
        1 => encrypt_short::<I, 2>(isa, frame),
        2 => encrypt_short::<I, 3>(isa, frame),
        3 => encrypt_short::<I, 4>(isa, frame),
        4 => encrypt_short::<I, 5>(isa, frame),
        5 => encrypt_short::<I, 6>(isa, frame),
        6 => encrypt_short::<I, 7>(isa, frame),
        7 => encrypt_short::<I, 8>(isa, frame),
        _ => encrypt_long(isa, frame),
    }
}

/// A packet whose payload fits vector 0: a dummy packet or nearly one. It goes through a buffer.
#[inline(always)]
fn encrypt_tiny<I: Isa>(isa: I, frame: &mut Frame<'_>) -> Sealed<I::Vector> {
    let (least, key, len) = (isa.least(), frame.key, frame.len);
    let mut states = Counters::new(isa, key, &frame.nonce()).batch::<I, 1>(isa, 0);
    let last_key = rounds(isa, key, &mut states, &mut Nothing);
    let keystream = isa.last_round(states[0], last_key);
    let payload = &mut frame.bytes[..len];
    let sealed = isa.and(isa.xor(tail::load_tiny(isa, payload), keystream), isa.mask(BLOCK + len));
    tail::store_tiny(isa, payload, sealed);
    let data = isa.reflect(isa.with_first(sealed, least.block(&frame.aad)));
    let end = End { data: [data], room: len + BLOCK <= head_len::<I>() };
    Sealed { products: end.products(isa, key, &frame.key.lengths(frame.len)), mask: isa.lane(keystream) }
}

/// A packet of N vectors.
#[inline(always)]
fn encrypt_short<I: Isa, const N: usize>(isa: I, frame: &mut Frame<'_>) -> Sealed<I::Vector> {
    let mut states = Counters::new(isa, frame.key, &frame.nonce()).batch::<I, N>(isa, 0);
    let last_key = rounds(isa, frame.key, &mut states, &mut Nothing);
    finish_short(isa, frame, states, last_key)
}

/// From the last round of AES on.
#[inline(always)]
fn finish_short<I: Isa, const N: usize>(
    isa: I,
    frame: &mut Frame<'_>,
    states: [I::Vector; N],
    last_key: I::Vector,
) -> Sealed<I::Vector> {
    let (least, key) = (isa.least(), frame.key);
    let (head, rest) = frame.bytes.split_at_mut(head_len::<I>());
    let (whole, rest) = rest.split_at_mut((N - 2) * vector_len::<I>());
    let tail_len = frame.len - head_len::<I>() - (N - 2) * vector_len::<I>();

    let mut data = states;
    let first = encrypt_head(isa, head, states[0], last_key);
    data[0] = isa.reflect(isa.with_first(first, least.block(&frame.aad)));
    let whole = I::vectors_mut(whole);
    for n in 1..N - 1 {
        let sealed = isa.last_round(states[n], isa.xor(last_key, isa.load(&whole[n - 1])));
        isa.store(&mut whole[n - 1], sealed);
        data[n] = isa.reflect(sealed);
    }
    let mut tail = Tail::new(isa, rest, tail_len);
    let keystream = isa.last_round(states[N - 1], last_key);
    tail.add_keystream(isa, keystream);
    data[N - 1] = isa.reflect(tail.with_keystream(isa, keystream));

    let end = End { data, room: tail.has_room::<I>() };
    Sealed { products: end.products(isa, key, &frame.key.lengths(frame.len)), mask: isa.lane(first) }
}

/// Encrypts what vector 0 has of the payload. The first lane of the result is the mask of the ICV.
#[inline(always)]
fn encrypt_head<I: Isa>(isa: I, head: &mut [u8], state: I::Vector, last_key: I::Vector) -> I::Vector {
    match I::head(head) {
        Some(head) => {
            let input = isa.with_head(isa.least().zero(), head);
            let sealed = isa.last_round(state, isa.xor(last_key, input));
            isa.store_head(head, sealed);
            sealed
        }
        None => isa.zero(),
    }
}

/// A packet of more than a batch. Beside a batch goes the hash of the one before.
#[inline(always)]
fn encrypt_long<I: Isa>(isa: I, frame: &mut Frame<'_>) -> Sealed<I::Vector> {
    let (least, key) = (isa.least(), frame.key);
    let counters = Counters::new(isa, key, &frame.nonce());
    let mut left = frame.len - head_len::<I>() - (BATCH - 1) * vector_len::<I>();
    let (head, rest) = frame.bytes.split_at_mut(head_len::<I>());
    let (others, rest) = rest.split_at_mut((BATCH - 1) * vector_len::<I>());

    let mut states = counters.batch::<I, BATCH>(isa, 0);
    let last_key = rounds(isa, key, &mut states, &mut Nothing);
    let sealed = encrypt_head(isa, head, states[0], last_key);
    let mask = isa.lane(sealed);
    let mut first = isa.reflect(isa.with_first(sealed, least.block(&frame.aad)));
    let others = I::vectors_mut(others);
    for n in 1..BATCH {
        let sealed = isa.last_round(states[n], isa.xor(last_key, isa.load(&others[n - 1])));
        isa.store(&mut others[n - 1], sealed);
    }

    let mut others: &[I::Bytes] = others;
    let mut sum = isa.zero();
    let mut vector = BATCH;
    // The last batch is left to the tail, even when it is whole: so the length block never stands alone.
    let batches = (left - 1) / (BATCH * vector_len::<I>());
    let (batches, rest) = rest.split_at_mut(batches * BATCH * vector_len::<I>());
    for batch in I::vectors_mut(batches).as_chunks_mut::<BATCH>().0 {
        let mut states = counters.batch::<I, BATCH>(isa, vector);
        let mut hash = BatchHash::new(isa, key, sum, first, others);
        let last_key = rounds(isa, key, &mut states, &mut hash);
        sum = hash.sum();
        for n in 0..BATCH {
            let sealed = isa.last_round(states[n], isa.xor(last_key, isa.load(&batch[n])));
            isa.store(&mut batch[n], sealed);
            if n == 0 {
                first = isa.reflect(sealed);
            }
        }
        others = &batch[1..];
        vector += BATCH;
        left -= BATCH * vector_len::<I>();
    }

    let last =
        Last { key, counters, vector, sum, first, others, mask, lengths: frame.key.lengths(frame.len) };
    match left.div_ceil(vector_len::<I>()) {
        0 | 1 => last.encrypt::<1>(isa, rest, left),
        2 => last.encrypt::<2>(isa, rest, left),
        3 => last.encrypt::<3>(isa, rest, left),
        4 => last.encrypt::<4>(isa, rest, left),
        5 => last.encrypt::<5>(isa, rest, left),
        6 => last.encrypt::<6>(isa, rest, left),
        7 => last.encrypt::<7>(isa, rest, left),
        _ => last.encrypt::<8>(isa, rest, left),
    }
}

/// Where a long packet stands when a batch or less is left.
struct Last<'p, I: Isa> {
    key: &'p VaesKey,
    counters: Counters<I::Vector>,
    vector: usize,
    sum: I::Vector,
    /// Vector 0 of the last batch, which is not yet in the sum, and the others.
    first: I::Vector,
    others: &'p [I::Bytes],
    mask: __m128i,
    lengths: Block,
}

impl<I: Isa> Last<'_, I> {
    /// Encrypts the last N vectors: `left` bytes, behind which stands the ICV.
    #[inline(always)]
    fn encrypt<const N: usize>(self, isa: I, rest: &mut [u8], left: usize) -> Sealed<I::Vector> {
        let mut states = self.counters.batch::<I, N>(isa, self.vector);
        let mut hash = BatchHash::new(isa, self.key, self.sum, self.first, self.others);
        let last_key = rounds(isa, self.key, &mut states, &mut hash);
        let (whole, rest) = rest.split_at_mut((N - 1) * vector_len::<I>());
        let mut data = states;
        let whole = I::vectors_mut(whole);
        for n in 0..N - 1 {
            let sealed = isa.last_round(states[n], isa.xor(last_key, isa.load(&whole[n])));
            isa.store(&mut whole[n], sealed);
            data[n] = isa.reflect(sealed);
        }
        let mut tail = Tail::new(isa, rest, left - (N - 1) * vector_len::<I>());
        let keystream = isa.last_round(states[N - 1], last_key);
        tail.add_keystream(isa, keystream);
        data[N - 1] = isa.reflect(tail.with_keystream(isa, keystream));
        data[0] = isa.xor(data[0], hash.sum());
        let end = End { data, room: tail.has_room::<I>() };
        Sealed { products: end.products(isa, self.key, &self.lengths), mask: self.mask }
    }
}
