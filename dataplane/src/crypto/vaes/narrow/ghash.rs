//! GHASH (NIST SP 800-38D s6.4) on bit-reflected blocks, with one reduction for many products.
//!
//! A block is reflected by reversing its bytes, and a power of H is kept multiplied by x, so that the product of
//! the two comes out of carry-less multiplication in place (Gueron and Kounavis). Products are by Karatsuba's three
//! multiplications: PCLMULQDQ is what binds. On Zen 3 one costs as much as five rounds of AES, at either width.

use std::arch::x86_64::__m128i;

use super::{AesNi, BATCH, Isa, vector_len};
use crate::crypto::vaes::frame::BLOCK;
use crate::crypto::vaes::key::{FIRST_POWER, KEY_LEN, POWERS, VaesKey};

/// The field's polynomial x^128 + x^7 + x^2 + x + 1, reflected, without its ends; in both halves.
static POLYNOMIAL: [u8; BLOCK] = [0, 0, 0, 0, 0, 0, 0, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0xc2];

/// A sum of products, not yet reduced: lanes of 256 bits each, in three overlapping parts.
#[derive(Clone, Copy)]
pub struct Products<V> {
    low: V,
    /// Less the other two, until it is reduced.
    middle: V,
    high: V,
}

impl<V: Copy> Products<V> {
    /// The sum of no products.
    #[inline(always)]
    pub fn none<I: Isa<Vector = V>>(isa: I) -> Self {
        Self { low: isa.zero(), middle: isa.zero(), high: isa.zero() }
    }

    /// Adds, lane by lane, `data` times `power`.
    #[inline(always)]
    pub fn add<I: Isa<Vector = V>>(&mut self, isa: I, data: V, power: Power<V>) {
        let folded = isa.xor(data, isa.swap(data));
        self.low = isa.xor(self.low, isa.multiply_low(data, power.whole));
        self.high = isa.xor(self.high, isa.multiply_high(data, power.whole));
        self.middle = isa.xor(self.middle, isa.multiply_low(folded, power.folded));
    }

    /// Each lane modulo the polynomial.
    #[inline(always)]
    pub fn reduce<I: Isa<Vector = V>>(self, isa: I) -> V {
        let polynomial = isa.broadcast(&POLYNOMIAL);
        let fold = |part: V, into: V| {
            let product = isa.multiply_low(part, polynomial);
            isa.xor(isa.xor(into, product), isa.swap(part))
        };
        let middle = isa.xor(self.middle, isa.xor(self.low, self.high));
        fold(fold(self.low, middle), self.high)
    }

    /// The sums of the lanes of two, one to a lane; with one lane only that of `self`.
    #[inline(always)]
    pub fn gather<I: Isa<Vector = V>>(self, isa: I, other: Self) -> Self {
        Self {
            low: isa.gather(self.low, other.low),
            middle: isa.gather(self.middle, other.middle),
            high: isa.gather(self.high, other.high),
        }
    }
}

/// The hashes of two packets, reduced together where there is a lane for each.
#[inline(always)]
pub fn reduce_two<I: Isa>(isa: I, a: Products<I::Vector>, b: Products<I::Vector>) -> [__m128i; 2] {
    if I::LANES == 1 {
        [a, b].map(|products| isa.lane(isa.reflect(products.reduce(isa))))
    } else {
        let both = isa.reflect(a.gather(isa, b).reduce(isa));
        [isa.lane(both), isa.second(both)]
    }
}

/// Powers of H, one to a lane.
#[derive(Clone, Copy)]
pub struct Power<V> {
    whole: V,
    /// Both halves added, in the lower half; what the upper half holds is not used.
    folded: V,
}

/// Consecutive powers of H that end with H^1, for as many vectors as a batch has.
pub struct Powers<'k>(&'k [u8; WINDOW]);

/// Vectors of two blocks, and a load eight bytes on.
const WINDOW: usize = BATCH * 2 * BLOCK + 8;
/// No run of powers is shorter: a block of payload and the length block.
const LEAST: usize = 2;
const _: () = assert!(FIRST_POWER + (POWERS - LEAST) * BLOCK + WINDOW <= KEY_LEN);

impl<'k> Powers<'k> {
    /// For a run of `blocks` blocks, 2 to 20. Lanes behind H^1 hold something else; the data there must be zero.
    #[inline(always)]
    pub fn new(key: &'k VaesKey, blocks: usize) -> Self {
        let at = FIRST_POWER + (POWERS - blocks.clamp(LEAST, POWERS)) * BLOCK;
        match key.bytes()[at..].first_chunk() {
            Some(window) => Self(window),
            // Cannot be, by the assertion above.
            None => Self(&[0; WINDOW]),
        }
    }

    /// For vector `index` of the run. The upper halves are brought down by loading once more, eight bytes on.
    #[inline(always)]
    pub fn of<I: Isa>(&self, isa: I, index: usize) -> Power<I::Vector> {
        let at = |offset| match I::vectors(&self.0[index * vector_len::<I>() + offset..]) {
            [bytes, ..] => isa.load(bytes),
            [] => isa.zero(),
        };
        let whole = at(0);
        Power { whole, folded: isa.xor(whole, at(8)) }
    }
}

/// H^1 in the first lane, zeros in the others.
#[inline(always)]
pub fn last_power<I: Isa>(isa: I, key: &VaesKey) -> Power<I::Vector> {
    let whole = isa.least().load(&key.powers()[POWERS - 1]);
    let folded = isa.least().xor(whole, isa.least().swap(whole));
    Power { whole: isa.first(whole), folded: isa.first(folded) }
}

/// Fills `powers` with the powers of H, the highest first, so that H^1 stands next to what follows, and `high` with
/// every fourth one above them. `hash_key` is H as it comes out of AES.
#[inline(always)]
pub fn expand_powers(isa: AesNi, hash_key: __m128i, powers: &mut [[u8; BLOCK]], high: &mut [[u8; BLOCK]]) {
    let first = times_x(isa, isa.reflect(hash_key));
    let (mut power, mut fourth) = (first, first);
    for (exponent, bytes) in (1..).zip(powers.iter_mut().rev()) {
        if exponent > 1 {
            power = times(isa, power, first);
        }
        if exponent == 4 {
            fourth = power;
        }
        isa.store(bytes, power);
    }
    for bytes in high.iter_mut().rev() {
        power = times(isa, power, fourth);
        isa.store(bytes, power);
    }
}

/// The product of two powers.
#[inline(always)]
fn times(isa: AesNi, a: __m128i, b: __m128i) -> __m128i {
    let mut product = Products::none(isa);
    product.add(isa, a, Power { whole: b, folded: isa.xor(b, isa.swap(b)) });
    product.reduce(isa)
}

/// Multiplies a reflected block by x: a shift to the left by one, and the polynomial if a one fell out.
#[inline(always)]
fn times_x(isa: AesNi, block: __m128i) -> __m128i {
    let [low, high] = isa.halves(block);
    let carry = (high >> 63).wrapping_neg();
    let high = (high << 1 | low >> 63) ^ (carry & 0xc200_0000_0000_0000);
    let low = low << 1 | carry & 1;
    isa.block(&[low, high])
}
