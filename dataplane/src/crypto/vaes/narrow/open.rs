//! Open.
//!
//! The plaintext of a short packet, and of the end of a long one, is written only when the ICV is good. Whole batches are
//! decrypted as they are hashed, since AES and GHASH of one pass run in parallel and those of two would not; they are wiped
//! before anybody else can see them when the ICV is bad.

use std::arch::x86_64::__m128i;

use super::cipher::{Counters, Nothing, rounds};
use super::ghash::Products;
use super::hash::{BatchHash, End};
use super::tail::{self, Tail};
use super::{BATCH, Frame, Isa, head_len, vector_len};
use crate::crypto::vaes::frame::{BLOCK, Block};
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::outcome;

/// Opens packets. Where the ICV is wrong the payload is wiped.
#[inline(always)]
pub fn open<I: Isa>(isa: I, frames: &mut [Frame<'_>]) {
    for frame in frames {
        *frame.ok = decrypt(isa, frame);
        if !*frame.ok {
            frame.bytes[..frame.len].fill(0);
        }
    }
}

#[inline(always)]
fn decrypt<I: Isa>(isa: I, frame: &mut Frame<'_>) -> bool {
    // Vectors behind vector 0, which has the header.
    let behind = frame.len.saturating_sub(head_len::<I>()).div_ceil(vector_len::<I>());
    match behind {
        0 => decrypt_tiny(isa, frame),
        1 => decrypt_short::<I, 2>(isa, frame),
        2 => decrypt_short::<I, 3>(isa, frame),
        3 => decrypt_short::<I, 4>(isa, frame),
        4 => decrypt_short::<I, 5>(isa, frame),
        5 => decrypt_short::<I, 6>(isa, frame),
        6 => decrypt_short::<I, 7>(isa, frame),
        7 => decrypt_short::<I, 8>(isa, frame),
        _ => decrypt_long(isa, frame),
    }
}

/// A packet whose payload fits vector 0: a dummy packet or nearly one. It goes through a buffer.
#[inline(always)]
fn decrypt_tiny<I: Isa>(isa: I, frame: &mut Frame<'_>) -> bool {
    let (key, len) = (frame.key, frame.len);
    let mut states = Counters::new(isa, key, &frame.nonce()).batch::<I, 1>(isa, 0);
    let last_key = rounds(isa, key, &mut states, &mut Nothing);
    let keystream = isa.last_round(states[0], last_key);
    let (payload, icv) = frame.bytes.split_at_mut(len);
    let sealed = tail::load_tiny(isa, payload);
    let data = isa.reflect(isa.with_first(sealed, isa.least().block(&frame.aad)));
    let end = End { data: [data], room: len + BLOCK <= head_len::<I>() };
    let icv = Icv::new(isa, icv, icv.len());
    let ok = icv.verify(isa, end.products(isa, key, &frame.key.lengths(frame.len)), isa.lane(keystream));
    if ok {
        tail::store_tiny(isa, payload, isa.xor(sealed, keystream));
    }
    ok
}

/// A packet of N vectors.
#[inline(always)]
fn decrypt_short<I: Isa, const N: usize>(isa: I, frame: &mut Frame<'_>) -> bool {
    let (least, key) = (isa.least(), frame.key);
    let mut states = Counters::new(isa, key, &frame.nonce()).batch::<I, N>(isa, 0);
    let last_key = rounds(isa, key, &mut states, &mut Nothing);

    let icv_len = frame.bytes.len() - frame.len;
    let icv = Icv::new(isa, frame.bytes, icv_len);
    let (head, rest) = frame.bytes.split_at_mut(head_len::<I>());
    let (whole, rest) = rest.split_at_mut((N - 2) * vector_len::<I>());
    let tail_len = frame.len - head_len::<I>() - (N - 2) * vector_len::<I>();
    let whole = I::vectors_mut(whole);
    let Some(head) = I::head(head) else { return false };

    let mut data = states;
    data[0] = isa.reflect(isa.with_head(least.block(&frame.aad), head));
    for n in 1..N - 1 {
        data[n] = isa.reflect(isa.load(&whole[n - 1]));
    }
    let mut tail = Tail::new(isa, rest, tail_len);
    data[N - 1] = isa.reflect(tail.payload(isa));
    let end = End { data, room: tail.has_room::<I>() };
    let products = end.products(isa, key, &frame.key.lengths(frame.len));

    let first = isa.last_round(states[0], isa.xor(last_key, isa.with_head(least.zero(), head)));
    let ok = icv.verify(isa, products, isa.lane(first));
    if ok {
        isa.store_head(head, first);
        for n in 1..N - 1 {
            let opened = isa.last_round(states[n], isa.xor(last_key, isa.load(&whole[n - 1])));
            isa.store(&mut whole[n - 1], opened);
        }
        tail.add_keystream(isa, isa.last_round(states[N - 1], last_key));
    }
    ok
}

/// A packet of more than a batch.
#[inline(always)]
fn decrypt_long<I: Isa>(isa: I, frame: &mut Frame<'_>) -> bool {
    let (least, key) = (isa.least(), frame.key);
    let counters = Counters::new(isa, key, &frame.nonce());
    let icv_len = frame.bytes.len() - frame.len;
    let mut left = frame.len - head_len::<I>() - (BATCH - 1) * vector_len::<I>();
    let (head, rest) = frame.bytes.split_at_mut(head_len::<I>());
    let (others, rest) = rest.split_at_mut((BATCH - 1) * vector_len::<I>());
    let others = I::vectors_mut(others);
    let Some(head) = I::head(head) else { return false };

    let mut states = counters.batch::<I, BATCH>(isa, 0);
    let first = isa.reflect(isa.with_head(least.block(&frame.aad), head));
    let mut hash = BatchHash::new(isa, key, isa.zero(), first, others);
    let last_key = rounds(isa, key, &mut states, &mut hash);
    let mut sum = hash.sum();
    let opened = isa.last_round(states[0], isa.xor(last_key, isa.with_head(least.zero(), head)));
    isa.store_head(head, opened);
    let mask = isa.lane(opened);
    for n in 1..BATCH {
        let opened = isa.last_round(states[n], isa.xor(last_key, isa.load(&others[n - 1])));
        isa.store(&mut others[n - 1], opened);
    }

    let mut vector = BATCH;
    // The last batch is left to the tail, even when it is whole: so the length block never stands alone.
    let batches = (left - 1) / (BATCH * vector_len::<I>());
    let (batches, rest) = rest.split_at_mut(batches * BATCH * vector_len::<I>());
    for batch in I::vectors_mut(batches).as_chunks_mut::<BATCH>().0 {
        let mut states = counters.batch::<I, BATCH>(isa, vector);
        let first = isa.reflect(isa.load(&batch[0]));
        let mut hash = BatchHash::new(isa, key, sum, first, &batch[1..]);
        let last_key = rounds(isa, key, &mut states, &mut hash);
        sum = hash.sum();
        for n in 0..BATCH {
            let opened = isa.last_round(states[n], isa.xor(last_key, isa.load(&batch[n])));
            isa.store(&mut batch[n], opened);
        }
        vector += BATCH;
        left -= BATCH * vector_len::<I>();
    }

    let last = Last { key, counters, vector, sum, mask, lengths: frame.key.lengths(frame.len), icv_len };
    match left.div_ceil(vector_len::<I>()) {
        0 | 1 => last.decrypt::<1>(isa, rest, left),
        2 => last.decrypt::<2>(isa, rest, left),
        3 => last.decrypt::<3>(isa, rest, left),
        4 => last.decrypt::<4>(isa, rest, left),
        5 => last.decrypt::<5>(isa, rest, left),
        6 => last.decrypt::<6>(isa, rest, left),
        7 => last.decrypt::<7>(isa, rest, left),
        _ => last.decrypt::<8>(isa, rest, left),
    }
}

/// Where a long packet stands when a batch or less is left.
struct Last<'p, I: Isa> {
    key: &'p VaesKey,
    counters: Counters<I::Vector>,
    vector: usize,
    sum: I::Vector,
    mask: __m128i,
    lengths: Block,
    icv_len: usize,
}

impl<I: Isa> Last<'_, I> {
    /// Decrypts the last N vectors: `left` bytes, behind which stands the ICV.
    #[inline(always)]
    fn decrypt<const N: usize>(self, isa: I, rest: &mut [u8], left: usize) -> bool {
        let mut states = self.counters.batch::<I, N>(isa, self.vector);
        let last_key = rounds(isa, self.key, &mut states, &mut Nothing);
        let icv = Icv::new(isa, rest, self.icv_len);
        let (whole, rest) = rest.split_at_mut((N - 1) * vector_len::<I>());
        let whole = I::vectors_mut(whole);
        let mut data = states;
        for n in 0..N - 1 {
            data[n] = isa.reflect(isa.load(&whole[n]));
        }
        let mut tail = Tail::new(isa, rest, left - (N - 1) * vector_len::<I>());
        data[N - 1] = isa.reflect(tail.payload(isa));
        data[0] = isa.xor(data[0], self.sum);
        let end = End { data, room: tail.has_room::<I>() };
        let ok = icv.verify(isa, end.products(isa, self.key, &self.lengths), self.mask);
        if ok {
            for n in 0..N - 1 {
                let opened = isa.last_round(states[n], isa.xor(last_key, isa.load(&whole[n])));
                isa.store(&mut whole[n], opened);
            }
            tail.add_keystream(isa, isa.last_round(states[N - 1], last_key));
        }
        ok
    }
}

/// An ICV as received.
struct Icv {
    block: __m128i,
    len: usize,
}

impl Icv {
    /// The last `len` bytes of a packet.
    #[inline(always)]
    fn new<I: Isa>(isa: I, bytes: &[u8], len: usize) -> Self {
        Self { block: isa.least().load_start(&bytes[bytes.len() - len..]), len }
    }

    /// Whether it is right. All bytes are compared at once.
    #[inline(always)]
    fn verify<I: Isa>(self, isa: I, products: Products<I::Vector>, mask: __m128i) -> bool {
        let hash = isa.least().reflect(isa.fold(products.reduce(isa)));
        outcome(isa.least().equal(self.block, isa.least().xor(hash, mask), self.len))
    }
}
