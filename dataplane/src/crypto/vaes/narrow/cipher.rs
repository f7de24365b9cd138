//! Counter mode, beside a hash.

use super::isa::Isa;
use crate::crypto::vaes::counters::COUNTERS;
use crate::crypto::vaes::frame::{BLOCK, Block};
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::schedule::Rounds;

/// The counter blocks of a packet, after the first key addition.
#[derive(Clone, Copy)]
pub struct Counters<V> {
    base: V,
}

impl<V: Copy> Counters<V> {
    /// For a [`Frame::nonce`](crate::crypto::vaes::frame::Frame::nonce).
    #[inline(always)]
    pub fn new<I: Isa<Vector = V>>(isa: I, key: &VaesKey, nonce: &Block) -> Self {
        let mut bytes = [0; BLOCK];
        isa.least().store(&mut bytes, isa.least().block(nonce));
        Self { base: isa.xor(isa.broadcast(&key.round_keys()[0]), isa.broadcast(&bytes)) }
    }

    /// Vectors `first` to `first + N - 1` of the stream.
    #[inline(always)]
    pub fn batch<I: Isa<Vector = V>, const N: usize>(self, isa: I, first: usize) -> [V; N] {
        let mut states = [self.base; N];
        match I::vectors(COUNTERS.0.as_flattened()).get(first..).and_then(<[_]>::first_chunk::<N>) {
            Some(rows) => {
                for n in 0..N {
                    states[n] = isa.xor(self.base, isa.load(&rows[n]));
                }
            }
            None => {
                for n in 0..N {
                    states[n] = isa.xor(self.base, isa.counters((first + n) * I::LANES));
                }
            }
        }
        states
    }
}

/// Work that is done between the rounds of AES. In this order the core sees instructions that can run while others
/// wait. Rounds in a row fill its schedulers with what waits, and the work behind them does not get in.
pub trait Beside {
    /// Step 1 to 9. To be always inlined.
    fn step(&mut self, step: usize);
}

/// No work.
pub struct Nothing;

impl Beside for Nothing {
    #[inline(always)]
    fn step(&mut self, _: usize) {}
}

/// All rounds but the last on N vectors, after the first key addition. Returns the key of the last round.
#[inline(always)]
pub fn rounds<I: Isa, const N: usize>(
    isa: I,
    key: &VaesKey,
    states: &mut [I::Vector; N],
    beside: &mut impl Beside,
) -> I::Vector {
    let keys = key.round_keys();
    macro_rules! round {
        ($($round:literal)*) => {$(
            let key = isa.broadcast(&keys[$round]);
            for n in 0..N {
                states[n] = isa.round(states[n], key);
            }
            if $round < 10 {
                beside.step($round);
            }
        )*};
    }
    round!(1 2 3 4 5 6 7 8 9);
    match key.rounds() {
        Rounds::Ten => {}
        Rounds::Twelve => {
            round!(10 11);
        }
        Rounds::Fourteen => {
            round!(10 11 12 13);
        }
    }
    isa.broadcast(&keys[key.rounds().count()])
}

/// The same for two packets at once whose keys have as many rounds. A round of one runs while the other waits for its own.
#[inline(always)]
pub fn rounds_of_two<I: Isa, const N: usize>(
    isa: I,
    keys: [&VaesKey; 2],
    states: &mut [[I::Vector; N]; 2],
) -> [I::Vector; 2] {
    let [a, b] = keys.map(VaesKey::round_keys);
    macro_rules! round {
        ($($round:literal)*) => {$(
            let (of_a, of_b) = (isa.broadcast(&a[$round]), isa.broadcast(&b[$round]));
            for n in 0..N {
                states[0][n] = isa.round(states[0][n], of_a);
                states[1][n] = isa.round(states[1][n], of_b);
            }
        )*};
    }
    round!(1 2 3 4 5 6 7 8 9);
    match keys[0].rounds() {
        Rounds::Ten => {}
        Rounds::Twelve => {
            round!(10 11);
        }
        Rounds::Fourteen => {
            round!(10 11 12 13);
        }
    }
    let last = keys[0].rounds().count();
    [isa.broadcast(&a[last]), isa.broadcast(&b[last])]
}
