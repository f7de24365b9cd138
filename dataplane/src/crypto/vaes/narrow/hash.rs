//! GHASH of packets, from vectors of reflected blocks.

use std::arch::x86_64::__m128i;

use super::cipher::Beside;
use super::ghash::{Powers, Products, last_power};
use super::{BATCH, Isa};
use crate::crypto::vaes::frame::Block;
use crate::crypto::vaes::key::VaesKey;

/// The hash of a batch, step by step beside the rounds of AES.
pub struct BatchHash<'p, I: Isa> {
    isa: I,
    powers: Powers<'p>,
    /// Vector 0, reflected, with the sum of what came before added.
    first: I::Vector,
    /// The other vectors, in memory.
    others: &'p [I::Bytes],
    products: Products<I::Vector>,
    /// In the first lane, after step 9.
    sum: I::Vector,
}

impl<'p, I: Isa> BatchHash<'p, I> {
    /// Of vector 0, reflected, and the others of a batch; `sum` is what the batches before came to.
    #[inline(always)]
    pub fn new(isa: I, key: &'p VaesKey, sum: I::Vector, first: I::Vector, others: &'p [I::Bytes]) -> Self {
        let others = &others[..BATCH - 1];
        let powers = Powers::new(key, BATCH * I::LANES);
        let first = isa.xor(first, sum);
        Self { isa, powers, first, others, products: Products::none(isa), sum: isa.zero() }
    }

    /// What the batches so far came to, in the first lane.
    #[inline(always)]
    pub fn sum(&self) -> I::Vector {
        self.sum
    }
}

impl<I: Isa> Beside for BatchHash<'_, I> {
    #[inline(always)]
    fn step(&mut self, step: usize) {
        let isa = self.isa;
        match step {
            // Vector 0 waits for the sum, so it comes last.
            ..8 => {
                let data = isa.reflect(isa.load(&self.others[step - 1]));
                self.products.add(isa, data, self.powers.of(isa, step));
            }
            8 => self.products.add(isa, self.first, self.powers.of(isa, 0)),
            _ => self.sum = isa.first(isa.fold(self.products.reduce(isa))),
        }
    }
}

/// The end of a hash: up to a batch of vectors and the length block.
pub struct End<V, const N: usize> {
    /// Reflected; what is behind the payload is zero.
    pub data: [V; N],
    /// Whether the length block has a lane of its own in the last vector.
    pub room: bool,
}

impl<V: Copy, const N: usize> End<V, N> {
    /// The hash, to be reduced and its lanes added.
    #[inline(always)]
    pub fn products<I: Isa<Vector = V>>(mut self, isa: I, key: &VaesKey, lengths: &Block) -> Products<V> {
        let lengths: __m128i = isa.least().block(lengths);
        let mut products = Products::none(isa);
        if self.room {
            self.data[N - 1] = isa.with_second(self.data[N - 1], lengths);
        } else {
            products.add(isa, isa.first(lengths), last_power(isa, key));
        }
        let powers = Powers::new(key, N * I::LANES + usize::from(!self.room));
        for n in 0..N {
            products.add(isa, self.data[n], powers.of(isa, n));
        }
        products
    }
}
