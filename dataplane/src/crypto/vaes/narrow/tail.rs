//! The last vector of a payload, which may not be whole.
//!
//! It is loaded and stored in whole blocks, since the ICV of 16 bytes stands behind it: what is not payload is masked, and
//! written back as it was. Where that would reach past the packet, it goes through a buffer.

use super::isa::Isa;
use super::vector_len;
use crate::crypto::vaes::frame::BLOCK;

/// The last vector.
pub struct Tail<'p, V> {
    /// From where the vector begins to the end of the packet.
    bytes: &'p mut [u8],
    /// Bytes of payload: 1 to a vector.
    len: usize,
    /// What is in memory, with some of the ICV.
    raw: V,
    /// The bytes that are payload.
    mask: V,
}

impl<'p, V: Copy> Tail<'p, V> {
    /// `bytes` is what is left of the payload, `len` bytes, and the ICV.
    #[inline(always)]
    pub fn new<I: Isa<Vector = V>>(isa: I, bytes: &'p mut [u8], len: usize) -> Self {
        let raw = if len > BLOCK
            && let [whole, ..] = I::vectors(bytes)
        {
            isa.load(whole)
        } else if len <= BLOCK
            && let Some(block) = bytes.first_chunk()
        {
            isa.first(isa.least().load(block))
        } else {
            let mut buffer = [0; 2 * BLOCK];
            buffer[..len].copy_from_slice(&bytes[..len]);
            match I::vectors(&buffer) {
                [whole, ..] => isa.load(whole),
                [] => isa.zero(),
            }
        };
        Self { bytes, len, raw, mask: isa.mask(len) }
    }

    /// Whether a lane is free behind the payload, for the length block.
    #[inline(always)]
    pub fn has_room<I: Isa<Vector = V>>(&self) -> bool {
        self.len + BLOCK <= vector_len::<I>()
    }

    /// The payload, zeros behind it.
    #[inline(always)]
    pub fn payload<I: Isa<Vector = V>>(&self, isa: I) -> V {
        isa.and(self.raw, self.mask)
    }

    /// The payload with a keystream added; zeros behind it.
    #[inline(always)]
    pub fn with_keystream<I: Isa<Vector = V>>(&self, isa: I, keystream: V) -> V {
        isa.and(isa.xor(self.raw, keystream), self.mask)
    }

    /// Adds a keystream to the payload in memory.
    #[inline(always)]
    pub fn add_keystream<I: Isa<Vector = V>>(&mut self, isa: I, keystream: V) {
        let vector = isa.xor(self.raw, isa.and(keystream, self.mask));
        if self.len > BLOCK
            && let [whole, ..] = I::vectors_mut(self.bytes)
        {
            isa.store(whole, vector);
        } else if self.len <= BLOCK
            && let Some(block) = self.bytes.first_chunk_mut()
        {
            isa.least().store(block, isa.lane(vector));
        } else {
            let mut buffer = [0; 2 * BLOCK];
            if let [whole, ..] = I::vectors_mut(&mut buffer) {
                isa.store(whole, vector);
            }
            self.bytes[..self.len].copy_from_slice(&buffer[..self.len]);
        }
    }
}

/// A payload that fits vector 0, behind the lane of the header, with zeros around it.
#[inline(always)]
pub fn load_tiny<I: Isa>(isa: I, payload: &[u8]) -> I::Vector {
    let mut buffer = [0; 2 * BLOCK];
    buffer[BLOCK..BLOCK + payload.len()].copy_from_slice(payload);
    match I::vectors(&buffer) {
        [whole, ..] => isa.load(whole),
        [] => isa.zero(),
    }
}

/// The other way round.
#[inline(always)]
pub fn store_tiny<I: Isa>(isa: I, payload: &mut [u8], vector: I::Vector) {
    let mut buffer = [0; 2 * BLOCK];
    if let [whole, ..] = I::vectors_mut(&mut buffer) {
        isa.store(whole, vector);
    }
    payload.copy_from_slice(&buffer[BLOCK..BLOCK + payload.len()]);
}
